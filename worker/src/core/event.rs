//! What the dispatcher is told and what it wants done: the vocabulary of the worker's core.

use muster_proto::AttemptId;

use crate::runner::protocol::{FromRunner, StopCause, ToRunner};

/// A session with the coordinator, counted from 1 in this process. What an older one still delivers is dropped.
pub type SessionNo = u64;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The runner's connection fell. That it stands is told by its hello, as [`Event::Runner`].
    RunnerDown,
    /// The runner is connected and does not answer.
    RunnerSilent,
    /// It does again.
    RunnerAnswers,
    /// A message of the runner.
    Runner(FromRunner),
    /// A connection to the coordinator stands and waits for its hello.
    Dialed(SessionNo),
    /// A message of the coordinator.
    Coordinator(SessionNo, FromCoordinator),
    /// The session is over.
    SessionEnded(SessionNo),
    /// Output of an attempt cannot be read from the spool beyond `from`.
    OutputUnreadable {
        /// Which one.
        attempt: AttemptId,
        /// Where reading failed, bytes.
        from: u64,
        /// Why, for people.
        message: String,
    },
    /// Take nothing new, and exit when nothing is held.
    Drain,
    /// End what runs, then as after [`Event::Drain`].
    Stop,
    /// Leave everything to the runner and go, for another process to take over.
    Leave,
    /// Time has passed; see [`super::Dispatcher::next_deadline`].
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send to the runner, if it is connected.
    Runner(ToRunner),
    /// Send on the current session.
    Send(ToCoordinator),
    /// End the current session; another one is dialed.
    CloseSession(&'static str),
    /// The output before `size` may be pushed. With `from`, everything before it is stored, and pushing starts
    /// there again.
    Push {
        /// Which one.
        attempt: AttemptId,
        /// Where to start again, bytes.
        from: Option<u64>,
        /// How much output there is, bytes.
        size: u64,
    },
    /// Push nothing more of this attempt.
    StopPushing(AttemptId),
    /// The coordinator has welcomed the worker.
    Welcomed,
    /// For people; nothing depends on it.
    Note(AttemptId, Note),
    /// End the process's work.
    Exit(Exit),
}

/// What happened to an attempt, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// It was taken.
    Accepted,
    /// It was not started and never will be.
    Returned(&'static str),
    /// Its program runs.
    Started(i32),
    /// A stop was passed on.
    Stopping,
    /// It ended.
    Ended(Outcome),
    /// The coordinator has its result.
    Acknowledged,
}

/// Why the worker ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything is acknowledged.
    Done,
    /// It was to stop, and the coordinator did not take every result in time. The runner's journal keeps them
    /// for the next worker of this work directory.
    Unreported(usize),
    /// It was to go; the runner has what was held.
    Left,
    /// The coordinator wants it to stay away, with its reason.
    SentAway(String),
}

/// From the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromCoordinator {
    /// The session stands.
    Welcome {
        /// Heartbeats at least so often, milliseconds.
        heartbeat_ms: u64,
        /// The session is dead after so long without a word, milliseconds.
        silence_ms: u64,
        /// What becomes of each attempt of the hello.
        verdicts: Vec<HeldVerdict>,
    },
    /// It is alive.
    Heartbeat,
    /// Something to run.
    Offer(Offer),
    /// End the attempt.
    Stop {
        /// Which one.
        attempt: AttemptId,
        /// From TERM to KILL, milliseconds.
        grace_ms: u32,
    },
    /// The result is stored for good.
    Acknowledged(AttemptId),
    /// The session ends.
    Goodbye {
        /// Why, for people.
        reason: String,
        /// Do not reconnect.
        stay_away: bool,
    },
}

/// What becomes of a held attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldVerdict {
    /// Which one.
    pub attempt: AttemptId,
    /// What.
    pub verdict: Verdict,
    /// Output stored for good, bytes.
    pub log_offset: u64,
}

/// What to do with a held attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Run on, or start, and report.
    GoOn,
    /// Send what is missing of the output, and the result.
    Report,
    /// End it, then report.
    Stop,
    /// Nothing more is wanted of it.
    Forget,
}

/// Something to run.
#[derive(Clone, PartialEq, Eq)]
pub struct Offer {
    /// For which attempt.
    pub attempt: AttemptId,
    /// The batch's id as users write it.
    pub batch_id: String,
    /// The arguments before `--output`.
    pub args_before: Vec<String>,
    /// The task's own output path; empty: one is assigned.
    pub output: String,
    /// The arguments after the output path.
    pub args_after: Vec<String>,
    /// Added to the environment; values may be secrets.
    pub env: Vec<(String, String)>,
    /// Output kept at most, bytes.
    pub log_limit: u64,
    /// How long it may run, milliseconds.
    pub time_limit_ms: Option<u64>,
    /// From TERM to KILL at a limit, milliseconds.
    pub grace_ms: u32,
    /// It is ended when the worker is cut off from the coordinator for so long, milliseconds.
    pub stop_after_cut_off_ms: Option<u64>,
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offer").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// To the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToCoordinator {
    /// The first message of a session; what does not change is added on the way.
    Hello {
        /// Everything held.
        held: Vec<Held>,
        /// Nothing new is wanted.
        draining: bool,
    },
    /// Alive.
    Heartbeat(Vec<Held>),
    /// The offer is taken.
    Accepted(AttemptId),
    /// Not started, and never will be.
    Returned(AttemptId),
    /// The program runs.
    Started {
        /// Which one.
        attempt: AttemptId,
        /// Its process.
        pid: i32,
        /// The output path it was given; empty where this worker process does not know it.
        output_path: String,
    },
    /// It has ended. With `inline` the whole output rides along.
    Ended {
        /// How.
        report: Report,
        /// Whether to put the output into the message.
        inline: bool,
    },
    /// Nothing new is wanted.
    Draining,
    /// Gone for good, holding nothing.
    Leaving,
}

/// An attempt that is held, and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which one.
    pub attempt: AttemptId,
    /// How far.
    pub phase: HeldPhase,
}

/// How far a held attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldPhase {
    /// Accepted, not started as far as is known.
    Accepted,
    /// The program runs.
    Running,
    /// It has ended, and the result is not acknowledged.
    Ended,
}

/// How an attempt ended, kept until it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which one.
    pub attempt: AttemptId,
    /// How.
    pub outcome: Outcome,
    /// TERM or KILL had been sent before it ended.
    pub stop_sent: bool,
    /// Why, where that is known.
    pub stop_cause: Option<StopCause>,
    /// Output kept, bytes.
    pub log_size: u64,
    /// Output thrown away, bytes.
    pub log_discarded: u64,
    /// Why output could not be kept; empty when it was.
    pub output_failed: String,
    /// When, Unix milliseconds on this machine.
    pub end_ms: u64,
    /// The output path it was given.
    pub output_path: String,
    /// Its process, 0 where it never ran.
    pub pid: i32,
}

impl Report {
    /// Of an attempt that never ran, as far as is known: no process, no output.
    pub(super) const fn unstarted(attempt: AttemptId, outcome: Outcome, end_ms: u64) -> Self {
        Self {
            attempt,
            outcome,
            stop_sent: false,
            stop_cause: None,
            log_size: 0,
            log_discarded: 0,
            output_failed: String::new(),
            end_ms,
            output_path: String::new(),
            pid: 0,
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with this code.
    Exit(i32),
    /// This signal ended it.
    Signal(i32),
    /// It could not be started.
    LaunchFailed {
        /// The system's error number.
        errno: i32,
        /// The system's words.
        message: String,
        /// For the task's sake, not the machine's.
        for_task: bool,
    },
    /// The runner died under it.
    Crashed(String),
    /// Its output path is not allowed; nothing was started.
    OutputRefused(String),
}
