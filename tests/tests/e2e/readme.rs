//! The README's transcripts, replayed: what a newcomer is shown is what a newcomer gets.
//!
//! A transcript is a `text` block with lines `$ command`, each followed by what it printed; the first command's
//! block in "Try it" stands after its `sh` block instead. `…` stands for lines that are left out, and `BATCH` in a
//! command for the id that the first one printed. Compared are lines, in any order where tasks run beside one
//! another, after these rules: ids of batches, names of machines, times, durations, folders of outputs and the
//! coordinator's address are each replaced by a word, and a batch that is queued counts as one that runs.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio};

use muster_tests::{Cluster, WorkerOptions, examples_dir};

use crate::{LATER, command::text};

struct Step {
    command: String,
    shown: Vec<String>,
}

/// The fenced blocks of a section: language and lines.
fn blocks(readme: &str, section: &str) -> Vec<(String, Vec<String>)> {
    let from = readme.find(&format!("\n## {section}\n")).expect("the section is there") + 4;
    let to = readme[from..].find("\n## ").map_or(readme.len(), |end| from + end);
    let mut found = Vec::new();
    let mut open: Option<(String, Vec<String>)> = None;
    for line in readme[from..to].lines() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some("")) => found.extend(open.take()),
            (Some((_, lines)), _) => lines.push(line.to_owned()),
            (None, Some(language)) => open = Some((language.to_owned(), Vec::new())),
            (None, None) => {}
        }
    }
    found
}

fn steps(lines: &[String]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in lines {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.to_owned(), shown: Vec::new() }),
            (None, Some(step)) => step.shown.push(line.clone()),
            (None, None) => panic!("a transcript begins with a command: {line}"),
        }
    }
    steps
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
        } else if trimmed.starts_with("127.0.0.1:") {
            "ADDRESS"
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
    // The worker of a transcript has its machine's name.
    let mut words: Vec<&str> = out.split_whitespace().collect();
    for word in &mut words {
        // Where outputs are kept is the worker's affair.
        *word = word.find("outputs/").map_or(*word, |at| &word[at..]);
    }
    for place in 1..words.len() {
        if words[place] == "s" {
            words[place - 1] = "DURATION";
        }
        if words[place - 1] == "on" && words[place] != "this" {
            words[place] = "MACHINE";
        }
    }
    let line = words.join(" ");
    // Whether a task has started by the time of the first line is a race.
    match line.strip_prefix("batch BATCH: ").and(line.rsplit_once(", ")) {
        Some((line, "queued" | "running")) => format!("{line}, UNDER WAY"),
        _ => line,
    }
}

/// Every line that is shown was printed, as often; and nothing else was, unless the transcript leaves lines out.
fn compare(command: &str, shown: &[String], printed: &str) {
    let is_cut = |line: &str| line.trim() == "…";
    let mut left: BTreeMap<String, i32> = BTreeMap::new();
    for line in printed.lines().filter(|line| !line.trim().is_empty()) {
        *left.entry(normal(line)).or_default() += 1;
    }
    for line in shown.iter().filter(|line| !line.trim().is_empty() && !is_cut(line)) {
        let line = normal(line);
        let count = left.entry(line.clone()).or_default();
        *count -= 1;
        assert!(*count >= 0, "{command} did not print {line:?}, but:\n{printed}");
    }
    if !shown.iter().any(|line| is_cut(line)) {
        left.retain(|_, count| *count > 0);
        assert!(left.is_empty(), "{command} also printed {left:?}, which the README does not show");
    }
}

/// What a command prints, data and talk, in the order of writing.
async fn printed(cluster: &Cluster, folder: &Path, command: &str) -> String {
    let mut shell = tokio::process::Command::new("sh");
    shell.arg("-c").arg(format!("exec 2>&1; {command}")).current_dir(folder).stdin(Stdio::null());
    let bins = muster_tests::bin("muster");
    let path = std::env::var("PATH").unwrap_or_default();
    shell.env("PATH", format!("{}:{path}", bins.parent().unwrap().display()));
    shell.env("MUSTER_COORDINATOR", format!("http://{}", cluster.address())).kill_on_drop(true);
    let output = tokio::time::timeout(LATER, shell.output()).await.expect("the command ends").unwrap();
    text(&output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_five_minutes_go_as_the_readme_shows() {
    let readme = fs::read_to_string(examples_dir().parent().unwrap().join("README.md")).unwrap();
    let cluster = Cluster::start().await;
    let folder = cluster.dir().join("newcomer");
    fs::create_dir_all(folder.join("examples")).unwrap();
    for name in ["batch.json", "dispatch"] {
        fs::copy(examples_dir().join(name), folder.join("examples").join(name)).unwrap();
    }

    let blocks_of_try = blocks(&readme, "Try it");
    let [(_, commands), (_, shown)] = &blocks_of_try[..] else { panic!("{blocks_of_try:?}") };
    // The programs are built; cargo has nothing to add.
    let first = commands[0].replace("cargo run --bin muster -- ", "muster ");
    assert!(first.starts_with("muster run "), "{first}");
    compare(&first, shown, &printed(&cluster, &folder, &first).await);

    let dispatch = folder.join("examples/dispatch").display().to_string();
    let options = WorkerOptions { dispatch: Some(dispatch), ..WorkerOptions::new("painter", 2) };
    let _worker = cluster.worker(options).await;
    let minutes = blocks(&readme, "The first five minutes");
    let transcript =
        minutes.iter().find(|(language, lines)| language == "text" && lines[0].starts_with("$ "));
    let steps = steps(&transcript.expect("a transcript").1);
    assert!(steps.len() >= 5, "five minutes have some commands");
    let mut batch = String::new();
    for step in steps {
        let out = printed(&cluster, &folder, &step.command.replace("BATCH", &batch)).await;
        if batch.is_empty() {
            let mut words = out.split(|c: char| !c.is_ascii_alphanumeric());
            batch = words.find(|word| is_batch_id(word)).expect("the first command names a batch").to_owned();
        }
        compare(&step.command, &step.shown, &out);
    }
}

#[test]
fn what_differs_from_run_to_run_is_replaced_and_nothing_else() {
    for (line, expected) in [
        ("task 1 running on vm-8c02 (attempt 1)", "task 1 running on MACHINE (attempt 1)"),
        ("task 5 completed in 2.5 s", "task 5 completed in DURATION s"),
        ("data in muster-runs/0t432vrf9aeye", "data in muster-runs/BATCH"),
        ("batch 0t432vrf9aeye: 5 tasks", "batch BATCH: 5 tasks"),
        ("a  2026-11-24T10:01:02.741Z  0.1.0", "a TIME 0.1.0"),
        ("[2] progress 20%", "[2] progress 20%"),
        ("wrote /srv/w/outputs/0t432vrf9aeye/task-04-output.svg", "wrote outputs/BATCH/task-04-output.svg"),
    ] {
        assert_eq!(normal(line), expected);
    }
}
