//! What the network half and the runner say to each other: one JSON object a line, on a Unix socket.
//!
//! The half opens with [`ToRunner::Hello`]; the runner answers with [`FromRunner::Hello`], which lists every
//! attempt that it holds, so that nothing that happened while no half was connected is missed. From then on both
//! sides send what happens as it happens. An attempt stays held, and is listed again at every hello, until the
//! half sends [`ToRunner::Forget`].
//!
//! Versions: a runner of version n serves halves of n and of n - 1. It answers a hello in the half's version if it
//! serves that, and else in its own and closes; a half that is one newer than the runner says hello once more, in
//! the runner's version. Within two neighbouring versions messages only gain fields that may be missing, and a
//! message that is new is sent only to who speaks the version that has it ([`PINGS_SINCE`]).
//!
//! This module holds the messages and their lines only; it opens no socket.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroize;

/// The version of this protocol.
pub const VERSION: u32 = 2;

/// The oldest version that this one still speaks.
pub const OLDEST: u32 = VERSION - 1;

/// From this version on [`ToRunner::Ping`], [`ToRunner::InSession`] and the limits of a [`Start`] are understood.
pub const PINGS_SINCE: u32 = 2;

/// The release that this binary belongs to: a runner of another one is replaced once it is idle.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The longest line, newline included. A longer one cannot be sent ([`LineError::TooLong`]), and who sends one
/// nevertheless is cut off.
pub const MAX_LINE: usize = 4 * 1024 * 1024;

/// The most attempts that a runner holds, running and ended together: what still fits into one hello.
pub const MAX_HELD: usize = 8192;

/// The variable by which a process is known to belong to an attempt, whatever session or group it moved to.
pub const ATTEMPT_VARIABLE: &str = "MUSTER_ATTEMPT_KEY";

/// The variable by which a process is known to belong to a runner of one certain work directory, which a copy of
/// that directory is not.
pub const RUNNER_VARIABLE: &str = "MUSTER_RUNNER_KEY";

/// Which attempt: the store's life, the batch, the task's index in it and the number of the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptKey {
    /// Which life of the coordinator's store numbered it.
    pub life: u64,
    /// The batch.
    pub batch: u64,
    /// The task's index in its batch.
    pub task: u32,
    /// The attempt's number within its task.
    pub attempt: u32,
}

/// The form used in file names and in [`ATTEMPT_VARIABLE`]: `life-batch-task-attempt`, the first two in
/// hexadecimal.
impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{}-{}", self.life, self.batch, self.task, self.attempt)
    }
}

/// The text is not an attempt's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an attempt's name: expected life-batch-task-attempt")]
pub struct ParseKeyError;

impl FromStr for AttemptKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let mut parts = text.split('-');
        let mut next = || parts.next().ok_or(ParseKeyError);
        let key = Self {
            life: u64::from_str_radix(next()?, 16).map_err(|_| ParseKeyError)?,
            batch: u64::from_str_radix(next()?, 16).map_err(|_| ParseKeyError)?,
            task: next()?.parse().map_err(|_| ParseKeyError)?,
            attempt: next()?.parse().map_err(|_| ParseKeyError)?,
        };
        // One spelling only: what was parsed must print as it was written.
        if key.to_string() == text { Ok(key) } else { Err(ParseKeyError) }
    }
}

/// Bytes that are nearly always text: a string where they are UTF-8, a list of numbers where they are not.
/// Arguments and paths on Unix are such bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// As the path that it names.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl From<&str> for Raw {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for Raw {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<&Path> for Raw {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_seq(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Bytes(Vec<u8>),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Text(text) => Self(text.into_bytes()),
            Either::Bytes(bytes) => Self(bytes),
        })
    }
}

/// Variables for a task's environment. Values may be secrets: they are wiped when dropped, and `Debug` prints
/// the names only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Env(Vec<(String, String)>);

impl Env {
    /// The variables in the order given; of two with one name the last wins.
    pub fn new(variables: Vec<(String, String)>) -> Self {
        Self(variables)
    }

    /// Name and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        for (_, value) in &mut self.0 {
            value.zeroize();
        }
    }
}

/// What to start for an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// For which attempt. One that the runner has seen before is refused.
    pub attempt: AttemptKey,
    /// The program: a path (relative to `cwd`), or a bare name to be found in the task's `PATH`.
    pub program: Raw,
    /// Its arguments, without the program's name.
    pub args: Vec<Raw>,
    /// Added to the environment that the runner was started with.
    pub env: Env,
    /// The working directory; made if it is missing.
    pub cwd: Raw,
    /// How many bytes of output are kept. What is past it is read, counted and dropped.
    pub output_limit: u64,
    /// It is ended when it has run for so long, milliseconds on a clock that only grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_ms: Option<u64>,
    /// From TERM to KILL where nobody says otherwise: at the time limit and after a cut-off. Milliseconds.
    #[serde(default = "default_grace_ms")]
    pub grace_ms: u32,
    /// It is ended when no half has said [`ToRunner::InSession`] for so long, milliseconds. Less than
    /// [`MIN_CUT_OFF_MS`] counts as that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after_cut_off_ms: Option<u64>,
}

/// The grace of a start that does not say, milliseconds.
pub const DEFAULT_GRACE_MS: u32 = 10_000;

/// A cut-off is noticed after this long at the earliest, milliseconds: several times [`IN_SESSION_EVERY_MS`].
pub const MIN_CUT_OFF_MS: u64 = 10_000;

/// A half in session says so this often, milliseconds.
pub const IN_SESSION_EVERY_MS: u64 = 3_000;

fn default_grace_ms() -> u32 {
    DEFAULT_GRACE_MS
}

/// Why a task was ended before it ended by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// The coordinator asked for it.
    #[default]
    Requested,
    /// It ran for as long as it may.
    TimeLimit,
    /// The worker was out of touch with its coordinator for as long as it may.
    CutOff,
    /// The worker was told to end, or the runner was.
    WorkerStopped,
}

/// From the network half to the runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToRunner {
    /// The first message of a connection. Makes it the active one; an older one is closed, and what it had sent
    /// that the runner did not read yet is dropped.
    Hello {
        /// The half's [`VERSION`], or the one that it has learnt the runner to speak.
        version: u32,
    },
    /// Start a task. Answered with started, start failed, or refused.
    Start(Start),
    /// TERM to the attempt's process group, and KILL to all of it after the grace. A grace of 0 is KILL now. A
    /// second stop can only shorten what remains of the grace. No answer but the end; nothing if not running.
    Stop {
        /// Which one.
        attempt: AttemptKey,
        /// Milliseconds from TERM to KILL.
        grace_ms: u64,
        /// Why. The first one that took effect is told with the end.
        #[serde(default)]
        cause: StopCause,
    },
    /// Never start this attempt. Answered with refused once that is journalled, or, when the attempt is held,
    /// with what it is: started or ended.
    Refuse {
        /// Which one.
        attempt: AttemptKey,
    },
    /// The attempt's result and output are acknowledged: it is not held any longer and its spool file is deleted.
    /// Ignored while it runs.
    Forget {
        /// Which one.
        attempt: AttemptKey,
    },
    /// Start nothing more, end every task with this grace, then exit. Results that are still held are listed by
    /// the next runner of this work directory.
    Shutdown {
        /// Milliseconds from TERM to KILL.
        grace_ms: u64,
    },
    /// Start nothing more, and exit once no task runs and no result is held.
    ShutdownWhenIdle,
    /// Answered with a pong, at once.
    Ping,
    /// The half is in touch with its coordinator. Silence is taken for the opposite.
    InSession,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which one.
    pub attempt: AttemptKey,
    /// The exit code, if it exited.
    pub exit_code: Option<i32>,
    /// The signal, if one killed it.
    pub signal: Option<i32>,
    /// Whether the runner had sent TERM or KILL *before* it ended. When not, its own outcome stands, even if a
    /// stop is on its way.
    pub stop_sent: bool,
    /// Bytes of output in the spool.
    pub size: u64,
    /// Bytes of output that were dropped: past the limit, or after the spool could not be written.
    pub discarded: u64,
    /// When, in milliseconds since 1970. For a lost attempt: when that was found.
    pub end_ms: u64,
    /// Why the output could not be kept, if it could not; the task was stopped for it.
    pub output_failed: Option<String>,
    /// The runner that owned it died, so how it ended is not known; what was left of it has been killed.
    pub lost: bool,
    /// Why it was stopped, where `stop_sent` and it is known. Older runners do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_cause: Option<StopCause>,
}

/// What a held attempt is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Held {
    /// Its process has not ended.
    Running {
        /// Which one.
        attempt: AttemptKey,
        /// The process and its group.
        pid: i32,
        /// When it was started, in milliseconds since 1970.
        start_ms: u64,
        /// Bytes of output in the spool.
        size: u64,
    },
    /// It has ended and its result is not acknowledged yet.
    Ended(Ended),
}

impl Held {
    /// Which attempt.
    pub fn attempt(&self) -> AttemptKey {
        match self {
            Self::Running { attempt, .. } => *attempt,
            Self::Ended(ended) => ended.attempt,
        }
    }
}

/// From the runner to the network half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromRunner {
    /// The answer to the half's hello, and the first message after it.
    Hello {
        /// The version that this connection speaks: the half's. When it is another one, the runner does not serve
        /// the half's: this is its own, and it closes the connection after this.
        version: u32,
        /// The runner's own [`VERSION`]; 0 from one of version 1, which does not say.
        #[serde(default)]
        speaks: u32,
        /// The [`RELEASE`] that the runner is of; empty from one of version 1.
        #[serde(default)]
        release: String,
        /// The runner's process.
        pid: i32,
        /// The boot of the machine.
        boot_id: String,
        /// Every attempt that the runner holds, at most [`MAX_HELD`].
        held: Vec<Held>,
    },
    /// The task runs.
    Started {
        /// Which one.
        attempt: AttemptKey,
        /// The process and its group.
        pid: i32,
        /// When, in milliseconds since 1970.
        start_ms: u64,
    },
    /// Nothing was started for this attempt, nor ever will be.
    StartFailed {
        /// Which one.
        attempt: AttemptKey,
        /// The error of the operating system.
        errno: i32,
        /// What failed, for people.
        message: String,
        /// Whether it failed for the task's sake (its arguments are too long or not allowed) rather than the
        /// machine's.
        for_task: bool,
    },
    /// This attempt, seen before or told to refuse, will not be started.
    Refused {
        /// Which one.
        attempt: AttemptKey,
    },
    /// There is more in the spool. Not sent for every write: sizes only grow, and the last one is in the end.
    Output {
        /// Which one.
        attempt: AttemptKey,
        /// Bytes of output in the spool.
        size: u64,
    },
    /// The task has ended; every byte that is kept of its output is in the spool.
    Ended(Ended),
    /// The answer to a ping.
    Pong,
}

/// A line that cannot be sent or understood.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Over [`MAX_LINE`]: of a start it means that the command is too long to be run.
    #[error("a message of {0} bytes is over the limit of {MAX_LINE}")]
    TooLong(usize),
    /// Not a message of this protocol: close the connection. The text is not quoted, since it may hold secrets.
    #[error("not a message of this protocol (line {line}, column {column})")]
    Invalid {
        /// As serde_json counts it.
        line: usize,
        /// As serde_json counts it.
        column: usize,
    },
}

impl From<serde_json::Error> for LineError {
    fn from(error: serde_json::Error) -> Self {
        Self::Invalid { line: error.line(), column: error.column() }
    }
}

/// A message as a line, newline included.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, LineError> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    if line.len() > MAX_LINE { Err(LineError::TooLong(line.len())) } else { Ok(line) }
}

/// A line, with or without its newline, as a message.
pub fn decode<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, LineError> {
    Ok(serde_json::from_slice(line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> AttemptKey {
        AttemptKey { life: u64::MAX, batch: 0xab, task: 7, attempt: 2 }
    }

    #[test]
    fn a_key_has_one_spelling() {
        assert_eq!(key().to_string(), "ffffffffffffffff-ab-7-2");
        assert_eq!("ffffffffffffffff-ab-7-2".parse(), Ok(key()));
        for bad in ["", "1-2-3", "1-2-3-4-5", "1-2-3-+4", "01-2-3-4", "AB-2-3-4", "../x"] {
            assert_eq!(bad.parse::<AttemptKey>(), Err(ParseKeyError), "{bad}");
        }
    }

    #[test]
    fn a_start_survives_the_line_and_hides_its_values() {
        let start = ToRunner::Start(Start {
            attempt: key(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), Raw(vec![0xff, 0x00, b'x']), "new\nline".into()],
            env: Env::new(vec![("KEY".into(), "hunter2".into())]),
            cwd: Path::new("/tmp").into(),
            output_limit: u64::MAX,
            time_limit_ms: Some(5),
            grace_ms: 7,
            stop_after_cut_off_ms: None,
        });
        let line = encode(&start).unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(decode::<ToRunner>(&line).unwrap(), start);
        let shown = format!("{start:?}");
        assert!(shown.contains("KEY") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_bad_line_is_not_quoted() {
        let error = decode::<ToRunner>(br#"{"type":"hunter2"}"#).unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn a_full_hello_fits_into_a_line() {
        let ended = Ended {
            attempt: AttemptKey { life: u64::MAX, batch: u64::MAX, task: u32::MAX, attempt: u32::MAX },
            exit_code: None,
            signal: Some(9),
            stop_sent: true,
            size: u64::MAX,
            discarded: u64::MAX,
            end_ms: u64::MAX,
            output_failed: Some("No space left on device (os error 28), for a spool that is full".into()),
            lost: false,
            stop_cause: Some(StopCause::WorkerStopped),
        };
        let held = vec![Held::Ended(ended); MAX_HELD];
        let (pid, boot_id, release) = (i32::MAX, "x".repeat(36), "10.20.30-rc.1".to_owned());
        let hello = FromRunner::Hello { version: VERSION, speaks: VERSION, release, pid, boot_id, held };
        assert!(encode(&hello).is_ok());
    }

    #[test]
    fn what_version_1_says_is_understood() {
        let stop = br#"{"type":"stop","attempt":{"life":1,"batch":2,"task":3,"attempt":4},"grace_ms":5}"#;
        assert!(
            matches!(decode(stop), Ok(ToRunner::Stop { grace_ms: 5, cause: StopCause::Requested, .. })),
            "a stop without its cause"
        );
        let hello = br#"{"type":"hello","version":1,"pid":7,"boot_id":"b","held":[]}"#;
        assert!(matches!(decode(hello), Ok(FromRunner::Hello { version: 1, speaks: 0, pid: 7, .. })));
        let start = br#"{"type":"start","attempt":{"life":1,"batch":2,"task":3,"attempt":4},"program":"x",
            "args":[],"env":[],"cwd":"/","output_limit":1}"#;
        let Ok(ToRunner::Start(start)) = decode(start) else { panic!("not a start") };
        assert_eq!((start.time_limit_ms, start.grace_ms, start.stop_after_cut_off_ms), (None, 10_000, None));
    }
}
