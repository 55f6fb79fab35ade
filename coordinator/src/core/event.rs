//! Everything that can happen to the coordinator, and everything that it may do about it.
//!
//! `Machine::handle(now, event, facts) -> Effects`: the changes are committed together, and only then do the
//! outputs leave.

use std::collections::BTreeMap;

use muster_proto::{AttemptId, BatchId, TaskIndex};

use super::{
    explain::Explanation,
    model::{
        AttemptRow, BatchHead, BatchState, FailureReason, InstanceId, LoadedBatch, RequestRecord, Revision,
        TaskKey, TaskState, UnixMs, WorkerRef, WorkerRow,
    },
    plan::TaskSpec,
};

/// The time of an event: both clocks, read at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the coordinator started, less every stall: what timers count.
    pub mono_ms: u64,
    /// Wall clock, for what is recorded.
    pub unix_ms: UnixMs,
}

/// Where a reply goes; made by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyId(pub u64);

/// One Attach stream; made by the engine, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A planned and admitted batch is to be stored.
    Submit(ReplyId, Box<Submit>),
    /// Tasks are to be ended.
    Cancel(ReplyId, Cancel),
    /// Ended tasks are to run again.
    Retry(ReplyId, Box<Retry>),
    /// A batch that is on hold may go on.
    Release(ReplyId, Release),
    /// An operator drains or resumes a worker, by name.
    Steer(ReplyId, String, Steer),
    /// The workers are asked for.
    Workers(ReplyId),
    /// Why tasks of a batch do not run is asked; `None`: of the batch as a whole.
    Explain(ReplyId, BatchId, Option<TaskIndex>),
    /// A worker dials in.
    Hello(ReplyId, SessionId, Box<Hello>),
    /// A worker says something.
    Worker(SessionId, FromWorker),
    /// A worker's stream has ended.
    Gone(SessionId),
    /// Output up to this offset is synced.
    LogStored(AttemptId, u64),
    /// A stored offer could not be sent, for the task's own sake.
    Unsendable(AttemptId, FailureReason, String),
    /// A timer may be due.
    Tick,
}

/// A batch to be stored.
#[derive(Debug)]
pub struct Submit {
    /// The fixed part; `create_ms` and the id are the edge's.
    pub head: BatchHead,
    /// Task 1 first.
    pub specs: Vec<TaskSpec>,
    /// The encrypted key.
    pub secret: Option<Vec<u8>>,
    /// Makes the call safe to repeat.
    pub request: Option<Request>,
}

/// A caller's `request_id` with the digest of its call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The id.
    pub id: String,
    /// Digest of the call's name and content.
    pub digest: [u8; 32],
}

/// Tasks to be ended.
#[derive(Debug)]
pub struct Cancel {
    /// The batch.
    pub batch: BatchId,
    /// Empty: all.
    pub tasks: Vec<TaskIndex>,
    /// For the record.
    pub reason: String,
    /// KILL at once.
    pub immediate: bool,
    /// Makes the call safe to repeat.
    pub request: Option<Request>,
}

/// A batch that may go on.
#[derive(Debug)]
pub struct Release {
    /// The batch.
    pub batch: BatchId,
    /// Makes the call safe to repeat.
    pub request: Option<Request>,
}

/// Ended tasks to be run again.
#[derive(Debug)]
pub struct Retry {
    /// The batch.
    pub batch: BatchId,
    /// Empty: all failed or cancelled ones.
    pub tasks: Vec<TaskIndex>,
    /// A new encrypted key.
    pub secret: Option<Vec<u8>>,
    /// Limits in force, and what was approved.
    pub limits: RetryLimits,
    /// Makes the call safe to repeat.
    pub request: Option<Request>,
}

/// What a retry is held against.
#[derive(Clone, Copy, Debug)]
pub struct RetryLimits {
    /// The policy now.
    pub policy: super::policy::Policy,
    /// What was approved.
    pub approvals: super::admission::Approvals,
}

/// What an operator does to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// Nothing new.
    Drain,
    /// Ends a drain and a setting aside.
    Resume,
}

/// A worker's first words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who.
    pub worker: WorkerRef,
    /// The boot of its machine.
    pub boot_id: String,
    /// How many tasks it runs at once.
    pub slots: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its version.
    pub version: String,
    /// What it holds.
    pub held: Vec<(AttemptId, HeldPhase)>,
    /// It wants nothing new.
    pub draining: bool,
    /// Grows with every connection of this instance in this boot.
    pub connection: u64,
}

/// How far a held attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldPhase {
    /// Accepted, not started.
    Accepted,
    /// Runs.
    Running,
    /// Ended; its result waits to be acknowledged.
    Ended,
}

/// What a worker says in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromWorker {
    /// It is alive, and holds this.
    Heartbeat(Vec<(AttemptId, HeldPhase)>),
    /// The offer is taken.
    Accepted(AttemptId),
    /// The attempt was not started and never will be.
    Returned(AttemptId),
    /// The program runs.
    Started(AttemptId, Started),
    /// The attempt has ended.
    Ended(AttemptId, Box<Ended>),
    /// It wants nothing new.
    Draining,
    /// It holds nothing and goes for good.
    Leaving,
}

/// A program that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Its process id.
    pub pid: i32,
    /// The output path it was given.
    pub output_path: String,
}

/// An attempt that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// TERM had been sent before the end.
    pub stop_sent: bool,
    /// Why, where the worker says so.
    pub stop_cause: Option<StopCause>,
    /// Bytes of output kept; the end is recorded once so many are stored.
    pub log_size: u64,
    /// Bytes thrown away past the limit.
    pub log_discarded: u64,
    /// Why output could not be kept.
    pub output_failed: Option<String>,
    /// The output path it was given, empty where none.
    pub output_path: String,
    /// Its process id, 0 where it never ran.
    pub pid: i32,
}

/// Why a worker ended a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// The coordinator asked for it.
    Requested,
    /// It ran longer than it may.
    TimeLimit,
    /// The worker was cut off for longer than the batch allows.
    CutOff,
    /// The worker was told to end its tasks and go.
    WorkerStopped,
}

/// How an attempt ended on its worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exited with this code.
    Exited(i32),
    /// Ended by this signal.
    Signalled(i32),
    /// Could not be started.
    LaunchFailed {
        /// The task's own fault, not the machine's.
        task_fault: bool,
        /// The system's words.
        message: String,
    },
    /// The worker's runner died.
    Crashed(String),
    /// The output path is not allowed.
    OutputRefused(String),
}

/// What the machine cannot know of itself: read from the store before the event is handled.
#[derive(Debug, Default)]
pub struct Facts {
    /// For each batch that `Machine::needs` named: what the store has, or `None`.
    pub batches: BTreeMap<BatchId, Option<LoadedBatch>>,
    /// For the event's request id: what the store has.
    pub request: Option<RequestRecord>,
    /// For each attempt that `Machine::needs` named: its row, if it has ended.
    pub attempts: BTreeMap<AttemptId, AttemptRow>,
    /// For each task that `Machine::needs` named: its batch and itself as they are stored, if there are.
    pub tasks: BTreeMap<TaskKey, (BatchState, TaskState)>,
    /// For an `Ended`: output of the attempt that is stored for good.
    pub log_stored: u64,
}

/// What `Machine::needs` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// These batches are not in memory.
    pub batches: Vec<BatchId>,
    /// This request id.
    pub request: Option<String>,
    /// Whether and how these attempts have ended.
    pub attempts: Vec<AttemptId>,
    /// These tasks as they are stored.
    pub tasks: Vec<TaskKey>,
}

impl Needs {
    /// Nothing to read.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.request.is_none() && self.attempts.is_empty() && self.tasks.is_empty()
    }
}

/// What follows from an event.
#[derive(Debug, Default)]
pub struct Effects {
    /// Committed together, in order.
    pub changes: Vec<Change>,
    /// Released after the commit, in order.
    pub outputs: Vec<Output>,
}

/// A change to the store.
#[derive(Debug)]
pub enum Change {
    /// A new batch with its tasks (all of them queued, at `state.revision`).
    NewBatch {
        /// The fixed part.
        head: BatchHead,
        /// The part that changes.
        state: BatchState,
        /// Task 1 first.
        specs: Vec<TaskSpec>,
    },
    /// The part of a batch that changes.
    Batch(BatchId, BatchState),
    /// The part of a task that changes.
    Task(BatchId, TaskIndex, Box<TaskState>),
    /// A machine could not start a task's program, and is not to be asked again.
    Exclude(BatchId, TaskIndex, InstanceId),
    /// Which machines could not start a task's program is of no use any more.
    ForgetExclusions(BatchId, TaskIndex),
    /// An attempt has ended; overwrites an earlier row of the same attempt.
    Attempt(AttemptRow),
    /// The encrypted key of a batch; `None` deletes it.
    Secret(BatchId, Option<Vec<u8>>),
    /// A call that must not be carried out twice.
    Request(RequestRecord),
    /// A worker to remember.
    Worker(WorkerRow),
    /// A worker to forget.
    ForgetWorker(InstanceId),
}

/// Something to do after the commit.
#[derive(Debug)]
pub enum Output {
    /// Answer a call.
    Reply(ReplyId, Reply),
    /// Say something to a worker.
    Send(SessionId, ToWorker),
    /// End a session, saying why.
    Close(SessionId, String),
}

/// What is said to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToWorker {
    /// The session stands. Attempts with what becomes of them; the engine adds the stored log offsets.
    Welcome(Vec<(AttemptId, Verdict)>),
    /// Something to run; the engine adds what and with which key.
    Offer(AttemptId, Terms),
    /// End the attempt.
    Stop {
        /// Which.
        attempt: AttemptId,
        /// Between TERM and KILL; 0: KILL at once.
        grace_ms: u32,
    },
    /// Result and output are stored.
    Acknowledged(AttemptId),
}

/// What a worker does by itself to an attempt that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Ends it when it has run for so long.
    pub time_limit_ms: Option<u64>,
    /// Between TERM and KILL then.
    pub grace_ms: u32,
    /// Ends it when it has been cut off from the coordinator for so long.
    pub stop_after_cut_off_ms: Option<u64>,
}

/// What becomes of a held attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Run on, or start.
    GoOn,
    /// Send output and result.
    Report,
    /// End it, then report.
    Stop,
    /// Nothing more is wanted of it.
    Forget,
}

/// An answer to a call.
#[derive(Debug, PartialEq)]
pub enum Reply {
    /// A batch was stored, changed, or found unchanged; read it from the store.
    Batch(BatchId, Revision),
    /// A worker was steered.
    Worker(Box<WorkerView>),
    /// All workers, by name.
    Workers(Vec<WorkerView>),
    /// Why tasks do not run; `None` where the batch is not in memory: it has ended, or there is none.
    Explained(Option<Box<Explanation>>),
    /// The session stands; `Welcome` is on its way.
    Attached,
    /// The call was refused; nothing was changed.
    Refused(Refused),
}

/// Why a call was refused. The message says the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The batch id that the edge made is taken: make another.
    #[error("the batch id is taken")]
    BatchIdTaken,
    /// The same request id came with other content.
    #[error("request_id {0:?} was used before with other content; use a new one")]
    RequestIdReused(String),
    /// No such batch.
    #[error(
        "there is no batch {0}; `muster list` shows those that there are, and ended ones may have been removed by \
         the coordinator's retention"
    )]
    UnknownBatch(BatchId),
    /// No such task.
    #[error("task_indexes: the batch has tasks 1 to {count}, not {index}")]
    UnknownTask {
        /// What was asked for.
        index: u32,
        /// How many there are.
        count: u32,
    },
    /// The task is not failed or cancelled.
    #[error("task {0} has not failed and was not cancelled; only such tasks can be retried")]
    NotRetriable(TaskIndex),
    /// Nothing to retry.
    #[error("the batch has no failed or cancelled task to retry")]
    NothingToRetry,
    /// The key is gone.
    #[error("the batch ran with an API key, which was deleted when it ended; give the key again")]
    NoApiKey,
    /// A limit.
    #[error(transparent)]
    Limit(super::refusal::Refusal),
    /// No such worker.
    #[error("there is no worker {0:?}; `muster workers` shows those that there are")]
    UnknownWorker(String),
    /// Another worker has the name.
    #[error("a worker named {0:?} is connected already; start this one with another --name")]
    NameInUse(String),
    /// The same work directory on another boot or elsewhere, while its old session still answers.
    #[error(
        "another worker is connected with a copy of this one's work directory (a copied disk or image?); \
         give this one a --work-dir of its own"
    )]
    Clone,
    /// Two processes dial in as the same worker by turns.
    #[error(
        "two processes dial in as this worker by turns (a machine that was copied while it ran?): both are refused \
         for a minute; stop one of them, or give it a --work-dir of its own"
    )]
    Contended,
    /// A hello that was held up and comes after a newer one of the same worker.
    #[error(
        "this connection is older than the newest one of this worker; if its machine was set back to a snapshot, \
         reboot it"
    )]
    Outdated,
}

/// A worker as users see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub status: WorkerStatus,
    /// Why it was set aside.
    pub message: String,
    /// How many tasks it runs at once.
    pub slots: u32,
    /// How many attempts it holds.
    pub held: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its version.
    pub version: String,
    /// When it was last heard of; `None` since the coordinator started.
    pub last_seen_ms: Option<UnixMs>,
}

/// Where a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerStatus {
    /// Its stream is up.
    Connected,
    /// Up, nothing new.
    Draining,
    /// Up, but programs could not be started on it.
    SetAside,
    /// Its stream is down.
    Disconnected,
    /// Away too long.
    Lost,
}
