//! The one misbehaving child program. It stands in for `dispatch`: what it does is the script in its
//! `--prompt`, commands with `;` between them:
//!
//! | command | what it does |
//! |---|---|
//! | `print N` / `flood N` | N bytes of [`muster_tests::probe::flood`] to standard output |
//! | `stream NAME` | numbered lines of 1,000 bytes, one every few milliseconds, until NAME is in the probe folder; then leaves their number in `STEM.pieces` |
//! | `say TEXT` / `err TEXT` | a line to standard output / standard error |
//! | `sleep MS` | sleeps |
//! | `touch NAME` / `wait NAME` | makes a file in the probe folder / waits until it is there |
//! | `exit N` / `exitif A N` | exits (when this is attempt A) |
//! | `signal N` | sends itself a signal |
//! | `utf8bad` | prints invalid UTF-8 |
//! | `devstd` | writes to /dev/stdout and /dev/stderr by name |
//! | `grandchild S` / `setsid S` | leaves a process behind that keeps the output open for S seconds, in the same group / in a session of its own |
//! | `ignoreterm` | never sees SIGTERM again |
//! | `env` / `args` / `cwd` | prints the environment that the worker promises / the arguments / the folder |
//! | `key` | writes BIZYAIR_API_KEY to `STEM.key` in the probe folder |
//! | `result TEXT` | writes a file at `--output` |
//!
//! Before the script it records when it started (a file that must not exist yet: a second run of one attempt
//! exits 99 and leaves a record), and before it exits, when. Its output depends on nothing but the script (a `stream`'s length apart).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio, exit},
    thread::sleep,
    time::{Duration, Instant},
};

use muster_tests::probe::{
    BAD_UTF8, DIR_VARIABLE, GATE_PATIENCE, RAN_TWICE, flood, now_ns, stamp_stem, stream_piece, write_whole,
};
use nix::{
    sys::signal::{SigSet, Signal, raise},
    unistd::setsid,
};

/// Between two pieces of a `stream`.
const STREAM_PAUSE: Duration = Duration::from_millis(8);
/// Environment variables that `env` prints, besides the key (of which it prints only the length).
const PROMISED: [&str; 5] = [
    "BIZYAIR_DISABLE_RUNTIME_STATE",
    "MUSTER_ATTEMPT",
    "MUSTER_BATCH_ID",
    "MUSTER_OUTPUT_DIR",
    "MUSTER_TASK_INDEX",
];

fn main() {
    let start = now_ns();
    let args: Vec<String> = env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--hold") {
        hold(&args);
        return;
    }
    let probe = Probe::start(start, args);
    let script = probe.flag("--prompt").unwrap_or_default();
    for command in script.split(';').map(str::trim).filter(|command| !command.is_empty()) {
        let (name, rest) = command.split_once(' ').unwrap_or((command, ""));
        probe.run(name, rest.trim());
    }
    probe.end(0)
}

struct Probe {
    args: Vec<String>,
    dir: PathBuf,
    stem: String,
    attempt: i32,
}

impl Probe {
    fn start(start: u64, args: Vec<String>) -> Self {
        let dir = PathBuf::from(env::var_os(DIR_VARIABLE).expect("MUSTER_PROBE_DIR is set"));
        let attempt = number(&env::var("MUSTER_ATTEMPT").unwrap_or_else(|_| "1".into()));
        let task = number(&env::var("MUSTER_TASK_INDEX").unwrap_or_else(|_| "1".into()));
        let batch = env::var("MUSTER_BATCH_ID").unwrap_or_else(|_| "bare".into());
        let stem = stamp_stem(&batch, task, attempt);
        let record = format!("{start} {}\n", std::process::id());
        let path = dir.join(&stem).with_extension("start");
        let draft = dir.join(format!("{stem}.{}.draft", std::process::id()));
        fs::write(&draft, &record).expect("the probe folder can be written");
        // A hard link fails where the name exists, and appears with its content.
        let first = fs::hard_link(&draft, &path);
        fs::remove_file(&draft).expect("the probe folder can be written");
        if first.is_err() {
            let again = dir.join(&stem).with_extension("again");
            let mut file = OpenOptions::new().create(true).append(true).open(again).expect("again");
            file.write_all(record.as_bytes()).expect("again");
            exit(RAN_TWICE);
        }
        Self { args, dir, stem, attempt }
    }

    fn end(&self, code: i32) -> ! {
        io::stdout().flush().expect("standard output");
        write_whole(&self.file("end"), &now_ns().to_string());
        exit(code)
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.dir.join(&self.stem).with_extension(extension)
    }

    /// A flag's value, in either of its two forms.
    fn flag(&self, name: &str) -> Option<String> {
        let at = self.args.iter().position(|arg| arg == name || arg.starts_with(&format!("{name}=")))?;
        match self.args[at].split_once('=') {
            Some((flag, value)) if flag == name => Some(value.to_owned()),
            _ => self.args.get(at + 1).cloned(),
        }
    }

    fn run(&self, name: &str, rest: &str) {
        let mut out = io::stdout().lock();
        match name {
            "print" | "flood" => out.write_all(&flood(number(rest))).expect("standard output"),
            "stream" => self.stream(&mut out, &self.dir.join(rest)),
            "say" => writeln!(out, "{rest}").expect("standard output"),
            "err" => writeln!(io::stderr(), "{rest}").expect("standard error"),
            "sleep" => sleep(Duration::from_millis(number(rest))),
            "touch" => write_whole(&self.dir.join(rest), ""),
            "wait" => wait_for_file(&self.dir.join(rest)),
            "exit" => self.end(number(rest)),
            "exitif" => {
                let (attempt, code) = rest.split_once(' ').expect("exitif ATTEMPT CODE");
                if number::<i32>(attempt) == self.attempt {
                    self.end(number(code));
                }
            }
            "signal" => {
                out.flush().expect("standard output");
                write_whole(&self.file("end"), &now_ns().to_string());
                raise(Signal::try_from(number::<i32>(rest)).expect("a signal")).expect("raise");
            }
            "utf8bad" => out.write_all(BAD_UTF8).expect("standard output"),
            "devstd" => dev_std(&mut out),
            "grandchild" => self.leave_behind(rest, false),
            "setsid" => self.leave_behind(rest, true),
            "ignoreterm" => {
                let mut set = SigSet::empty();
                set.add(Signal::SIGTERM);
                set.thread_block().expect("the only thread's mask");
            }
            "env" => print_environment(&mut out),
            "args" => self.args.iter().for_each(|arg| writeln!(out, "{arg}").expect("standard output")),
            "cwd" => {
                writeln!(out, "{}", env::current_dir().expect("cwd").display()).expect("standard output")
            }
            "key" => write_whole(&self.file("key"), &env::var("BIZYAIR_API_KEY").unwrap_or_default()),
            "result" => fs::write(self.flag("--output").expect("--output"), rest).expect("the output path"),
            _ => panic!("probe: no command {name:?}"),
        }
        out.flush().expect("standard output");
    }

    fn stream(&self, out: &mut impl Write, until: &Path) {
        let deadline = Instant::now() + GATE_PATIENCE;
        let mut pieces = 0;
        while !until.exists() && Instant::now() < deadline {
            out.write_all(&stream_piece(pieces)).expect("standard output");
            out.flush().expect("standard output");
            pieces += 1;
            sleep(STREAM_PAUSE);
        }
        write_whole(&self.file("pieces"), &pieces.to_string());
    }

    /// Leaves a process that keeps standard output and error open; returns once it is there.
    fn leave_behind(&self, seconds: &str, own_session: bool) {
        let ready = self.file("grandchild");
        let session = if own_session { "setsid" } else { "group" };
        let program = env::current_exe().expect("own path");
        let mut command = Command::new(program);
        command.arg("--hold").arg(seconds).arg(session).arg(&ready).stdin(Stdio::null());
        // Not waited for: leaving it is the point.
        drop(command.spawn().expect("a grandchild"));
        wait_for_file(&ready);
    }
}

fn hold(args: &[String]) {
    if args[2] == "setsid" {
        setsid().expect("a new session");
    }
    write_whole(Path::new(&args[3]), &std::process::id().to_string());
    sleep(Duration::from_secs(number(&args[1])));
}

/// Programs do this, and with a file behind the name it would cut what was written before.
fn dev_std(out: &mut impl Write) {
    out.write_all(b"before\n").expect("standard output");
    out.flush().expect("standard output");
    for name in ["/dev/stdout", "/dev/stderr"] {
        let mut file = File::create(name).expect("a device by name");
        file.write_all(format!("by {name}\n").as_bytes()).expect("a device by name");
    }
    out.write_all(b"after\n").expect("standard output");
}

fn print_environment(out: &mut impl Write) {
    for name in PROMISED {
        let value = env::var(name).unwrap_or_else(|_| "(not set)".into());
        writeln!(out, "{name}={value}").expect("standard output");
    }
    let key =
        env::var("BIZYAIR_API_KEY").map_or_else(|_| "(not set)".into(), |key| format!("{} bytes", key.len()));
    writeln!(out, "BIZYAIR_API_KEY: {key}").expect("standard output");
}

fn wait_for_file(path: &Path) {
    let deadline = Instant::now() + GATE_PATIENCE;
    while !path.exists() {
        if Instant::now() > deadline {
            exit(98);
        }
        sleep(Duration::from_millis(2));
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.trim().parse().unwrap_or_else(|_| panic!("probe: not a number: {text:?}"))
}
