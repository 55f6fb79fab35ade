//! Transcripts in the documentation, replayed: what a newcomer is shown is what a newcomer gets.
//!
//! A transcript is a `text` block with lines `$ command`, each followed by what it printed. `…` stands for lines that
//! are left out, `BATCH` or an id in a command for the newest batch, `^C` for an interrupt once the line before it
//! is printed. `$ cat FILE` shows a file that the newcomer has written; here it is written as shown. Compared are
//! lines, in any order where tasks run beside one another, after these rules: ids of batches, names of machines,
//! times and durations are each replaced by a word; the newcomer's folder is `/srv/muster`, the coordinator's
//! port 7070; and a batch that is queued counts as one that runs.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use muster_tests::{bin, kill_processes_of};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpSocket,
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::LATER;

/// Where the documentation's newcomer works.
const SHOWN_FOLDER: &str = "/srv/muster";
/// Where the documentation's coordinator listens.
const SHOWN_ADDRESS: &str = "127.0.0.1:7070";
const INTERRUPT: &str = "^C";

/// A fenced block of a page.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) lines: Vec<String>,
}

/// The blocks of a section.
pub(crate) fn blocks(page: &str, section: &str) -> Vec<Block> {
    let heading = format!("\n## {section}\n");
    let from = page.find(&heading).unwrap_or_else(|| panic!("no section {section}")) + 4;
    let to = page[from..].find("\n## ").map_or(page.len(), |end| from + end);
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for line in page[from..to].lines() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some("")) => found.extend(open.take()),
            (Some(block), _) => block.lines.push(line.to_owned()),
            (None, Some(language)) => open = Some(Block { language: language.to_owned(), lines: Vec::new() }),
            (None, None) => {}
        }
    }
    found
}

/// A command, and what it is said to print.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) command: String,
    pub(crate) shown: Vec<String>,
}

/// The steps of a section's transcripts, in order.
pub(crate) fn steps<'a>(blocks: impl IntoIterator<Item = &'a Block>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in blocks.into_iter().filter(|block| block.language == "text") {
        assert!(block.lines[0].starts_with("$ "), "a transcript begins with a command: {block:?}");
        for line in &block.lines {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step { command: command.to_owned(), shown: Vec::new() }),
                (None, Some(step)) => step.shown.push(line.clone()),
                (None, None) => {}
            }
        }
    }
    steps
}

/// Somebody at a shell in a new folder, with our programs in the path and no settings but the coordinator's port,
/// which is a free one. Dropping it ends every process that came of it.
pub(crate) struct Newcomer {
    home: TempDir,
    address: String,
    /// The newest batch, by what the commands printed.
    pub(crate) batch: String,
    /// Keeps the port while no coordinator listens on it.
    _port: Option<TcpSocket>,
}

impl Newcomer {
    /// With the example files, and nothing listening.
    pub(crate) fn new() -> Self {
        let home = TempDir::with_prefix("muster-e2e-").unwrap();
        let port = TcpSocket::new_v4().unwrap();
        port.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = port.local_addr().unwrap().to_string();
        let newcomer = Self { home, address, batch: String::new(), _port: Some(port) };
        let examples = newcomer.folder().join("examples");
        fs::create_dir_all(&examples).unwrap();
        for name in ["batch.json", "dispatch"] {
            fs::copy(muster_tests::examples_dir().join(name), examples.join(name)).unwrap();
        }
        newcomer
    }

    /// The folder that commands are given in.
    pub(crate) fn folder(&self) -> PathBuf {
        self.home.path().join("muster")
    }

    fn shell(&self, command: &str) -> Command {
        let command = command.replace(SHOWN_ADDRESS, &self.address);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).current_dir(self.folder()).stdin(Stdio::null()).kill_on_drop(true);
        let programs = bin("muster").parent().unwrap().display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env_clear().env("PATH", format!("{programs}:{path}")).env("HOME", self.home.path());
        shell.env("MUSTER_COORDINATOR", format!("http://{}", self.address));
        shell.env("MUSTER_LISTEN", "127.0.0.1:0");
        shell
    }

    /// Starts a coordinator or a worker by a line of the page, and waits until it says that it is ready. A
    /// coordinator's port is the one from then on.
    pub(crate) async fn start(&mut self, line: &str) -> Child {
        let mut shell = self.shell(&format!("exec {line}"));
        let log = fs::File::create(self.home.path().join("log")).unwrap();
        let mut child = shell.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let said = timeout(LATER, ready(stdout)).await.expect("it gets ready").unwrap_or_else(|| {
            panic!("{line}: {}", fs::read_to_string(self.home.path().join("log")).unwrap())
        });
        if let Some(address) = said.strip_prefix("muster-coordinator listening on ") {
            self.address = address.to_owned();
            self._port = None;
        }
        child
    }

    /// Gives a command; its exit code, and what it printed, data and talk, as it would be on the page.
    pub(crate) async fn give(&mut self, command: &str) -> (Option<i32>, String) {
        self.give_and_interrupt(command, None).await
    }

    async fn give_and_interrupt(&mut self, command: &str, after: Option<&str>) -> (Option<i32>, String) {
        let command = self.with_batch(command);
        let mut child =
            self.shell(&format!("exec 2>&1; exec {command}")).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut printed = String::new();
        let all = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if after == Some(normal(&self.as_shown(&line)).as_str()) {
                    let pid = i32::try_from(child.id().unwrap()).unwrap();
                    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
                }
                printed.push_str(&(line + "\n"));
            }
        };
        let all = timeout(LATER, all).await;
        assert!(all.is_ok(), "{command} does not end: {printed}");
        let status = child.wait().await.unwrap();
        let printed = self.as_shown(&printed);
        let mut words = printed.split(|c: char| !c.is_ascii_alphanumeric());
        if let Some(batch) = words.find(|word| is_batch_id(word)) {
            self.batch = batch.to_owned();
        }
        (status.code(), printed)
    }

    /// Goes through a step of the page: what is shown is what is printed. The exit code.
    pub(crate) async fn replay(&mut self, step: &Step) -> Option<i32> {
        if let Some(file) = step.command.strip_prefix("cat ") {
            self.write(file, &(step.shown.join("\n") + "\n"));
            return Some(0);
        }
        let interrupt = step.shown.iter().position(|line| line == INTERRUPT);
        let after = interrupt.map(|at| normal(&step.shown[at - 1]));
        let (code, printed) = self.give_and_interrupt(&step.command, after.as_deref()).await;
        let shown: Vec<_> = step.shown.iter().filter(|line| *line != INTERRUPT).cloned().collect();
        compare(&step.command, &shown, &printed);
        code
    }

    /// Writes a file into the newcomer's folder; what begins like a script can be run.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.folder().join(file);
        fs::write(&path, text).unwrap();
        if text.starts_with("#!") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn with_batch(&self, command: &str) -> String {
        let words = command.split(' ');
        let newest = |word| if word == "BATCH" || is_batch_id(word) { self.batch.as_str() } else { word };
        words.map(newest).collect::<Vec<_>>().join(" ")
    }

    fn as_shown(&self, printed: &str) -> String {
        let (_, port) = self.address.rsplit_once(':').unwrap();
        let (_, shown_port) = SHOWN_ADDRESS.rsplit_once(':').unwrap();
        printed
            .replace(&self.address, SHOWN_ADDRESS)
            .replace(&format!("port {port}"), &format!("port {shown_port}"))
            // Named only where it is not the usual one.
            .replace(&format!("muster --coordinator http://{SHOWN_ADDRESS} "), "muster ")
            .replace(&self.folder().display().to_string(), SHOWN_FOLDER)
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        // Everything has it in its environment.
        kill_processes_of(self.home.path());
    }
}

/// The line by which a program says that it is ready. The rest is read and forgotten, so that the pipe never fills.
async fn ready(mut stdout: BufReader<ChildStdout>) -> Option<String> {
    let mut line = String::new();
    let is_ready = |line: &str| line.contains(" listening on ") || line.contains(" connected to ");
    while !is_ready(&line) {
        line.clear();
        if stdout.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
    }
    tokio::spawn(async move { tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await });
    Some(line.trim_end().to_owned())
}

/// Looks again and again whether what a command prints has a text.
pub(crate) async fn until_printed(newcomer: &mut Newcomer, command: &str, text: &str) {
    let looking = async {
        while !newcomer.give(command).await.1.contains(text) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LATER, looking).await.unwrap_or_else(|_| panic!("{command} never prints {text}"));
}

fn is_batch_id(word: &str) -> bool {
    word.len() == 13
        && word.starts_with('0')
        && word.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase())
}

/// A line with everything replaced that differs from run to run, and with single spaces.
fn normal(line: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in line.chars().chain(['\n']) {
        if c.is_alphanumeric() || "-_.:+".contains(c) {
            word.push(c);
            continue;
        }
        let trimmed = word.trim_end_matches([':', '.']);
        let rest = &word[trimmed.len()..];
        let known = if is_batch_id(trimmed) || trimmed == "BATCH" {
            "BATCH"
        } else if trimmed.len() >= 20 && trimmed.starts_with("20") && trimmed.contains('T') {
            "TIME"
        } else {
            trimmed
        };
        out.push_str(known);
        out.push_str(rest);
        word.clear();
        if c != '\n' {
            out.push(c);
        }
    }
    let mut words: Vec<&str> = out.split_whitespace().collect();
    for place in 1..words.len() {
        if words[place] == "s" {
            words[place - 1] = "DURATION";
        }
        // A worker without a name has its machine's.
        let is_machine = place >= 3 && words[place - 1] == "on" && words[place - 2] == "running";
        if is_machine && words[place].contains('-') {
            words[place] = "MACHINE";
        }
    }
    let line = words.join(" ");
    // What the system says of a name that is not found is its own affair.
    let line = match line.split_once("failed to lookup address information: ") {
        Some((before, after)) => format!("{before}NOT FOUND{}", &after[after.find(')').unwrap_or(0)..]),
        None => line,
    };
    // Whether a task has started by the time of the first line is a race.
    match line.strip_prefix("batch BATCH: ").and(line.rsplit_once(", ")) {
        Some((line, "queued" | "running")) => format!("{line}, UNDER WAY"),
        _ => line,
    }
}

/// Every line that is shown was printed, as often; and nothing else was, unless the transcript leaves lines out.
pub(crate) fn compare(command: &str, shown: &[String], printed: &str) {
    let is_cut = |line: &str| line.trim() == "…";
    // Of a task that ends at once a watch may tell the end alone.
    let is_passing = |line: &str| line.starts_with("task ") && line.contains(" running on ");
    let counts = |line: &&str| !line.trim().is_empty() && !is_passing(line);
    let mut left: BTreeMap<String, i32> = BTreeMap::new();
    for line in printed.lines().filter(counts) {
        *left.entry(normal(line)).or_default() += 1;
    }
    for line in shown.iter().map(String::as_str).filter(counts).filter(|line| !is_cut(line)) {
        let line = normal(line);
        let count = left.entry(line.clone()).or_default();
        *count -= 1;
        assert!(*count >= 0, "{command} did not print {line:?}, but:\n{printed}");
    }
    if !shown.iter().any(|line| is_cut(line)) {
        left.retain(|_, count| *count > 0);
        assert!(left.is_empty(), "{command} also printed {left:?}, which the page does not show");
    }
}

/// A page of the repository.
pub(crate) fn page(name: &str) -> String {
    let root = muster_tests::examples_dir();
    let path: &Path = root.parent().unwrap();
    fs::read_to_string(path.join(name)).unwrap()
}

#[test]
fn what_differs_from_run_to_run_is_replaced_and_nothing_else() {
    for (line, expected) in [
        ("task 1 running on vm-8c02 (attempt 1)", "task 1 running on MACHINE (attempt 1)"),
        ("task 1 running on painter (attempt 1)", "task 1 running on painter (attempt 1)"),
        ("task 5 completed in 2.5 s", "task 5 completed in DURATION s"),
        ("data in muster-runs/0t432vrf9aeye", "data in muster-runs/BATCH"),
        ("batch 0t432vrf9aeye: 5 tasks", "batch BATCH: 5 tasks"),
        (
            "batch 0t432vrf9aeye: 5 tasks, at most 3 at once, queued",
            "batch BATCH: 5 tasks, at most 3 at once, UNDER WAY",
        ),
        ("a  2026-11-24T10:01:02.741Z  0.1.0", "a TIME 0.1.0"),
        ("[2] progress 20%", "[2] progress 20%"),
        (
            "wrote /srv/w/outputs/0t432vrf9aeye/task-04-output.svg",
            "wrote /srv/w/outputs/BATCH/task-04-output.svg",
        ),
        ("(failed to lookup address information: no such); start", "(NOT FOUND); start"),
    ] {
        assert_eq!(normal(line), expected);
    }
}
