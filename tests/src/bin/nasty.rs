//! Children that misbehave with processes and output. It stands in for `dispatch`: what it does is its `--prompt`,
//! one of
//!
//! | prompt | what it does |
//! |---|---|
//! | `daemon` | forks twice, the second in a session of its own, which keeps the output open; exits 0 |
//! | `orphan` | as `daemon`, with its environment cleared too |
//! | `held N` | leaves a child in its group that keeps the output open; exits N |
//! | `chatter N` | leaves a child that prints without end; exits N while it does |
//! | `deaf` | never hears SIGTERM, nor does its child, which is in a session of its own |
//! | `bomb N` | N children, every other in a session of its own, each of which forks once more at SIGTERM |
//! | `flood N` | N bytes as fast as it can, in numbered blocks |
//! | `dribble N` | N bytes, each by a write of its own |
//! | `mute NAME` | closes its output and waits until there is a file NAME |
//! | `bad-text` | prints what is no UTF-8, in every way that there is |
//! | `sh SCRIPT` | becomes `/bin/sh -c SCRIPT` |
//!
//! Every process writes its number into the file `pids` of the probe folder, and every one that would go on for ever
//! ends by itself after some minutes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    env,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio, exit},
    thread::sleep,
    time::{Duration, Instant},
};

use muster_tests::{
    nasty::{BAD_TEXT, DRIBBLE, FLOOD_BLOCK},
    probe::{DIR_VARIABLE, GATE_PATIENCE},
};
use nix::{
    sys::signal::{SigSet, Signal},
    unistd::{close, setsid},
};

/// How long a process lives that nobody ends.
const FOR_EVER: Duration = Duration::from_secs(300);
/// A first argument that makes this program one of the children.
const CHILD: &str = "--child";

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [first, dir, words @ ..] = &args[..]
        && first == CHILD
    {
        let me = Nasty { dir: dir.into() };
        me.record();
        me.child(&words.iter().map(String::as_str).collect::<Vec<_>>());
        return;
    }
    let me = Nasty { dir: env::var_os(DIR_VARIABLE).expect("MUSTER_PROBE_DIR is set").into() };
    me.record();
    let prompt = flag(&args, "--prompt").expect("--prompt");
    let (name, rest) = prompt.split_once(' ').unwrap_or((&prompt, ""));
    me.leader(name, rest);
}

fn flag(args: &[String], name: &str) -> Option<String> {
    let at = args.iter().position(|arg| arg == name || arg.starts_with(&format!("{name}=")))?;
    match args[at].split_once('=') {
        Some((flag, value)) if flag == name => Some(value.to_owned()),
        _ => args.get(at + 1).cloned(),
    }
}

struct Nasty {
    dir: PathBuf,
}

impl Nasty {
    /// One line, in one write, so that lines of several processes do not mix.
    fn record(&self) {
        let mut file =
            OpenOptions::new().create(true).append(true).open(self.dir.join("pids")).expect("pids");
        file.write_all(format!("{}\n", std::process::id()).as_bytes()).expect("pids");
    }

    fn recorded(&self) -> usize {
        std::fs::read_to_string(self.dir.join("pids")).map_or(0, |text| text.lines().count())
    }

    fn wait_for_recorded(&self, count: usize) {
        let deadline = Instant::now() + GATE_PATIENCE;
        while self.recorded() < count {
            assert!(Instant::now() < deadline, "only {} of {count} processes", self.recorded());
            sleep(Duration::from_millis(2));
        }
    }

    fn spawn(&self, words: &[&str], environment: bool) {
        let mut command = Command::new(env::current_exe().expect("own path"));
        command.arg(CHILD).arg(&self.dir).args(words).stdin(Stdio::null());
        if !environment {
            command.env_clear();
        }
        // Not waited for: leaving it is the point.
        drop(command.spawn().expect("a child"));
    }

    fn leader(&self, name: &str, rest: &str) {
        match name {
            "daemon" | "orphan" => {
                let with = if name == "daemon" { "marked" } else { "unmarked" };
                self.spawn(&["middle", with], true);
                self.wait_for_recorded(3);
                println!("left");
            }
            "held" => {
                self.spawn(&["hold"], true);
                self.wait_for_recorded(2);
                println!("left");
                exit(number(rest));
            }
            "chatter" => {
                self.spawn(&["chatter"], true);
                self.wait_for_recorded(2);
                exit(number(rest));
            }
            "deaf" => {
                self.spawn(&["deaf"], true);
                self.wait_for_recorded(2);
                ignore_term();
                println!("deaf");
                sleep(FOR_EVER);
            }
            "bomb" => {
                ignore_term();
                let count: usize = number(rest);
                for index in 0..count {
                    self.spawn(&["bomb", if index % 2 == 0 { "group" } else { "session" }], true);
                }
                self.wait_for_recorded(count + 1);
                println!("armed");
                sleep(FOR_EVER);
            }
            "flood" => flood(number(rest)),
            "dribble" => {
                let mut out = io::stdout().lock();
                for index in 0..number::<u64>(rest) {
                    out.write_all(&[dribble(index)]).and_then(|()| out.flush()).expect("standard output");
                }
            }
            "mute" => {
                println!("nothing more");
                io::stdout().flush().expect("standard output");
                close(1).and_then(|()| close(2)).expect("ours to close");
                let gate = self.dir.join(rest);
                let deadline = Instant::now() + GATE_PATIENCE;
                while !gate.exists() && Instant::now() < deadline {
                    sleep(Duration::from_millis(2));
                }
                exit(6);
            }
            "bad-text" => io::stdout().write_all(BAD_TEXT).expect("standard output"),
            "sh" => panic!("{}", Command::new("/bin/sh").args(["-c", rest]).exec()),
            _ => panic!("nasty: no such prompt: {name:?}"),
        }
    }

    fn child(&self, words: &[&str]) {
        match words {
            ["middle", with] => {
                setsid().expect("a new session");
                self.spawn(&["hold"], *with == "marked");
            }
            ["hold"] => sleep(FOR_EVER),
            ["chatter"] => {
                let (mut out, end) = (io::stdout().lock(), Instant::now() + FOR_EVER);
                while Instant::now() < end && out.write_all(b"chatter\n").is_ok() {}
            }
            ["deaf"] => {
                setsid().expect("a new session");
                ignore_term();
                sleep(FOR_EVER);
            }
            ["bomb", place] => {
                if *place == "session" {
                    setsid().expect("a new session");
                }
                let mut term = SigSet::empty();
                term.add(Signal::SIGTERM);
                term.thread_block().expect("the only thread's mask");
                term.wait().expect("a signal");
                self.spawn(&["bomb", place], true);
                sleep(FOR_EVER);
            }
            _ => panic!("nasty: no such child: {words:?}"),
        }
    }
}

fn ignore_term() {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.thread_block().expect("the only thread's mask");
}

fn flood(bytes: u64) {
    let mut out = io::stdout().lock();
    let (mut block, mut left) = (FLOOD_BLOCK.to_vec(), bytes);
    for number in 0u64.. {
        // Nothing else changes from block to block, so that it is as fast as it can be.
        block[..8].copy_from_slice(&number.to_be_bytes());
        let len = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        out.write_all(&block[..len]).expect("standard output");
        left -= len as u64;
        if left == 0 {
            break;
        }
    }
    out.flush().expect("standard output");
}

fn dribble(index: u64) -> u8 {
    DRIBBLE[index as usize % DRIBBLE.len()]
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.trim().parse().unwrap_or_else(|_| panic!("nasty: not a number: {text:?}"))
}
