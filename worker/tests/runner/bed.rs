//! A work directory with a real runner on it, and a half that talks to it.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use muster_worker::runner::protocol::{
    AttemptKey, Ended, Env, FromRunner, Held, Start, StopCause, ToRunner, VERSION, decode, encode,
};
use muster_worker::runner::{RunnerOptions, ensure_running};
use muster_worker::spool;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take before a test gives up. Never waited for in a test that passes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Removes the directory and ends the runner at its end.
pub(crate) struct Bed {
    pub(crate) dir: TempDir,
    pub(crate) options: RunnerOptions,
    life: u64,
    tasks: u32,
    runner: Option<Pid>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(RunnerOptions::default())
    }

    pub(crate) fn with(options: RunnerOptions) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let life = (since.as_nanos() as u64) ^ (u64::from(std::process::id()) << 40);
        let life = life.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        Self { dir: tempfile::tempdir().unwrap(), options, life, tasks: 0, runner: None }
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// Connects, starting a runner if there is none.
    pub(crate) fn half(&mut self) -> Half {
        let half = Half::connect(&self.work(), &self.options);
        self.runner = Some(half.runner);
        half
    }

    pub(crate) fn next_key(&mut self) -> AttemptKey {
        self.tasks += 1;
        AttemptKey { life: self.life, batch: 1, task: self.tasks - 1, attempt: 1 }
    }

    /// A start of a shell script, in a directory that does not exist yet.
    pub(crate) fn sh(&mut self, script: &str) -> Start {
        let attempt = self.next_key();
        self.sh_for(attempt, script)
    }

    /// As [`Bed::sh`], for this attempt.
    pub(crate) fn sh_for(&self, attempt: AttemptKey, script: &str) -> Start {
        Start {
            attempt,
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: Env::default(),
            cwd: self.cwd().as_path().into(),
            output_limit: 64 * 1024 * 1024,
            time_limit_ms: None,
            grace_ms: 100,
            stop_after_cut_off_ms: None,
        }
    }

    pub(crate) fn cwd(&self) -> PathBuf {
        self.dir.path().join("outputs/batch")
    }

    pub(crate) fn output(&self, attempt: AttemptKey) -> Vec<u8> {
        spool::read_at(&self.work(), attempt, 0, usize::MAX).unwrap()
    }

    pub(crate) fn text(&self, attempt: AttemptKey) -> String {
        String::from_utf8(self.output(attempt)).unwrap()
    }

    /// Kills the runner and waits until it is gone.
    pub(crate) fn kill_runner(&mut self) {
        let pid = self.runner.take().unwrap();
        kill(pid, Signal::SIGKILL).unwrap();
        gone(pid.as_raw());
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(pid) = self.runner {
            // TERM with no patience for tasks: none of them is to outlive its test.
            if let Ok(stream) = muster_worker::runner::connect(&self.work()) {
                let hello = ToRunner::Hello { version: VERSION };
                let end = ToRunner::Shutdown { grace_ms: 0 };
                let _ = (&stream).write_all(&[encode(&hello).unwrap(), encode(&end).unwrap()].concat());
            }
            if !std::thread::panicking() {
                gone(pid.as_raw());
            }
        }
    }
}

/// One connection, after its hello.
pub(crate) struct Half {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    /// What was received while waiting for something else.
    early: VecDeque<FromRunner>,
    pub(crate) runner: Pid,
    pub(crate) held: Vec<Held>,
}

impl Half {
    pub(crate) fn connect(work: &Path, options: &RunnerOptions) -> Self {
        let exe = Path::new(env!("CARGO_BIN_EXE_muster-worker"));
        let stream = ensure_running(work, exe, &options.to_args(work)).unwrap();
        Self::greet(stream)
    }

    pub(crate) fn greet(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        let (early, runner, held) = (VecDeque::new(), Pid::from_raw(0), Vec::new());
        let mut half = Self { stream, reader, early, runner, held };
        half.send(&ToRunner::Hello { version: VERSION });
        let Some(FromRunner::Hello { version: VERSION, pid, boot_id, held, .. }) = half.receive() else {
            panic!("the first message is a hello")
        };
        assert!(!boot_id.is_empty());
        half.runner = Pid::from_raw(pid);
        half.held = held;
        half
    }

    pub(crate) fn send(&self, message: &ToRunner) {
        (&self.stream).write_all(&encode(message).unwrap()).unwrap();
    }

    /// The next message; none at the end of the connection.
    pub(crate) fn receive(&mut self) -> Option<FromRunner> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(decode(&line).unwrap()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The first message, past or to come, that this makes something of.
    pub(crate) fn wait<T>(&mut self, mut pick: impl FnMut(&FromRunner) -> Option<T>) -> T {
        if let Some(at) = self.early.iter().position(|message| pick(message).is_some()) {
            let message = self.early.remove(at).unwrap();
            return pick(&message).unwrap();
        }
        loop {
            let message = self.receive().expect("the runner closed the connection");
            if let Some(found) = pick(&message) {
                return found;
            }
            self.early.push_back(message);
        }
    }

    /// Sends a start and expects it to succeed.
    pub(crate) fn start(&mut self, start: Start) -> AttemptKey {
        let key = start.attempt;
        self.send(&ToRunner::Start(start));
        self.wait(|message| match message {
            FromRunner::Started { attempt, pid, start_ms } if *attempt == key => Some((*pid, *start_ms)),
            FromRunner::StartFailed { attempt, message, .. } if *attempt == key => panic!("{message}"),
            _ => None,
        });
        key
    }

    /// Sends a start and expects it to fail: errno and whether the task is to blame.
    pub(crate) fn start_failed(&mut self, start: Start) -> (i32, bool) {
        let key = start.attempt;
        self.send(&ToRunner::Start(start));
        self.wait(|message| match message {
            FromRunner::StartFailed { attempt, errno, for_task, .. } if *attempt == key => {
                Some((*errno, *for_task))
            }
            FromRunner::Started { attempt, .. } if *attempt == key => panic!("it was started"),
            _ => None,
        })
    }

    pub(crate) fn ended(&mut self, key: AttemptKey) -> Ended {
        self.wait(|message| match message {
            FromRunner::Ended(ended) if ended.attempt == key => Some(ended.clone()),
            _ => None,
        })
    }

    pub(crate) fn run(&mut self, start: Start) -> Ended {
        let key = self.start(start);
        self.ended(key)
    }

    /// Waits until at least this much output is announced.
    pub(crate) fn output(&mut self, key: AttemptKey, at_least: u64) -> u64 {
        self.wait(|message| match message {
            FromRunner::Output { attempt, size } if *attempt == key && *size >= at_least => Some(*size),
            _ => None,
        })
    }

    pub(crate) fn refused(&mut self, key: AttemptKey) {
        self.wait(|message| (*message == FromRunner::Refused { attempt: key }).then_some(()));
    }

    pub(crate) fn stop(&self, attempt: AttemptKey, grace_ms: u64) {
        self.send(&ToRunner::Stop { attempt, grace_ms, cause: StopCause::Requested });
    }

    /// Expects the runner to close the connection.
    pub(crate) fn closed(&mut self) {
        while self.receive().is_some() {}
    }
}

/// Waits until something is so.
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a process is gone, or is only waiting to be reaped by somebody else.
pub(crate) fn gone(pid: i32) {
    eventually(&format!("process {pid} is gone"), || {
        state(pid).is_none_or(|state| state == 'Z').then_some(())
    });
}

/// The state of a process, as `/proc` says it.
pub(crate) fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}
