//! What is recorded of batches, tasks, attempts and workers: the rows that the machine writes and readers read.
//!
//! Plain data. How one becomes the next is decided in `machine`.

use muster_proto::{AttemptId, AttemptNo, BatchId, TaskIndex};
use serde::{Deserialize, Serialize};

/// Unix milliseconds.
pub type UnixMs = i64;

/// Grows with every change of a batch; 1 when the batch is made.
pub type Revision = i64;

/// The fixed part of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// Its id.
    pub id: BatchId,
    /// When it was stored.
    pub create_ms: UnixMs,
    /// How many tasks it has, 1 or more.
    pub task_count: u32,
    /// The concurrency that was asked for.
    pub requested_concurrency: u32,
    /// At most so many of its tasks run at any moment.
    pub effective_concurrency: u32,
    /// The configured limits when it was submitted.
    pub configured_max_concurrency: u32,
    /// See above.
    pub configured_max_tasks: u32,
    /// How it is carried out.
    pub options: super::options::BatchOptions,
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchStatus {
    /// No task has started.
    Queued,
    /// A task has started and not all have ended.
    Running,
    /// Every task has ended.
    Completed,
    /// Every task has ended after the whole batch was cancelled.
    Cancelled,
    /// It was given up, since too many of its tasks had failed, and every task has ended.
    Failed,
}

impl BatchStatus {
    /// Every task has ended; only a retry reopens it.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Failed)
    }
}

/// How many tasks are in each state; they add up to the task count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting, or offered.
    pub queued: u32,
    /// Accepted and not ended.
    pub running: u32,
    /// Exit code 0.
    pub completed: u32,
    /// Ended otherwise.
    pub failed: u32,
    /// Ended by a cancellation.
    pub cancelled: u32,
}

impl Counts {
    /// The counter of one status.
    pub const fn of(&mut self, status: TaskStatus) -> &mut u32 {
        match status {
            TaskStatus::Queued => &mut self.queued,
            TaskStatus::Running => &mut self.running,
            TaskStatus::Completed => &mut self.completed,
            TaskStatus::Failed => &mut self.failed,
            TaskStatus::Cancelled => &mut self.cancelled,
        }
    }

    /// Tasks that have not ended.
    pub const fn unfinished(&self) -> u32 {
        self.queued + self.running
    }
}

/// The part of a batch that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchState {
    /// Revision of the newest change of the batch or of any of its tasks.
    pub revision: Revision,
    /// Where it stands.
    pub status: BatchStatus,
    /// Kept, never recounted.
    pub counts: Counts,
    /// When its first task started.
    pub start_ms: Option<UnixMs>,
    /// When its last task ended.
    pub end_ms: Option<UnixMs>,
    /// Given with the cancellation of the whole batch; `None` while there is none.
    pub cancel_reason: Option<String>,
    /// Its tasks run with an API key, which is kept (encrypted) until the batch has ended.
    pub uses_key: bool,
    /// Nothing of it is handed out until it is released: it comes from a backup.
    pub on_hold: bool,
    /// Why it failed or is on hold, in words; empty otherwise.
    pub message: String,
    /// Since when its tasks wait for their first start, where that is limited and not since the submission.
    pub queued_since_ms: Option<UnixMs>,
}

/// Where a task stands, as users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskStatus {
    /// Waiting, or offered to a worker that has not answered.
    Queued,
    /// Accepted by a worker.
    Running,
    /// Exit code 0.
    Completed,
    /// Ended otherwise.
    Failed,
    /// Ended by a cancellation.
    Cancelled,
}

impl TaskStatus {
    /// Has ended; only a retry reopens it.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Why a task failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureReason {
    /// An exit code other than 0.
    ExitCode,
    /// Ended by a signal.
    Signal,
    /// Ran longer than it may.
    TimedOut,
    /// Could not be started.
    WorkerLaunchFailed,
    /// Its worker was lost while it ran.
    WorkerCrashed,
    /// Its output could not be kept.
    OutputFailed,
    /// Its output path is not allowed.
    OutputRefused,
    /// Its key can no longer be read.
    SecretUnavailable,
    /// Waited longer for its first start than it may.
    QueueTimedOut,
}

impl FailureReason {
    /// The word that users know it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExitCode => "exit_code",
            Self::Signal => "signal",
            Self::TimedOut => "timed_out",
            Self::WorkerLaunchFailed => "worker_launch_failed",
            Self::WorkerCrashed => "worker_crashed",
            Self::OutputFailed => "output_failed",
            Self::OutputRefused => "output_refused",
            Self::SecretUnavailable => "secret_unavailable",
            Self::QueueTimedOut => "queue_timed_out",
        }
    }
}

/// The part of a task that changes. A fresh one is `TaskState::default()` with its revision set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskState {
    /// Revision of its last change.
    pub revision: Revision,
    /// Where it stands.
    pub status: TaskStatus,
    /// The newest attempt, 0 before the first.
    pub attempt: AttemptNo,
    /// The worker that the newest attempt was offered to.
    pub worker: Option<WorkerRef>,
    /// Queued, and the newest attempt is offered and not answered.
    pub offered: bool,
    /// The path given to the program, once known.
    pub output_path: String,
    /// Process id, 0 before it is known.
    pub pid: i32,
    /// Where the program exited.
    pub exit_code: Option<i32>,
    /// Where a signal ended it.
    pub signal: Option<i32>,
    /// Why it failed.
    pub failure: Option<FailureReason>,
    /// More on that, in words.
    pub failure_message: String,
    /// When the newest attempt was accepted.
    pub start_ms: Option<UnixMs>,
    /// When it ended.
    pub end_ms: Option<UnixMs>,
    /// Bytes of output stored, set at the end.
    pub log_bytes: u64,
    /// Bytes of output thrown away past the limit.
    pub log_discarded: u64,
    /// Cancellation was asked for.
    pub cancel_requested: bool,
    /// False where it is cancelled and its worker was lost before it confirmed.
    pub end_confirmed: bool,
    /// Between TERM and KILL, where cancellation was asked for.
    pub cancel_grace_ms: Option<u32>,
    /// Of `attempt`, so many do not count against its retries: what was never started, and what an operator has
    /// run again.
    pub uncounted: u32,
    /// The next attempt is not offered before this (wall clock), where a retry waits.
    pub not_before_ms: Option<UnixMs>,
}

impl Default for TaskState {
    fn default() -> Self {
        Self {
            revision: 0,
            status: TaskStatus::Queued,
            attempt: AttemptNo(0),
            worker: None,
            offered: false,
            output_path: String::new(),
            pid: 0,
            exit_code: None,
            signal: None,
            failure: None,
            failure_message: String::new(),
            start_ms: None,
            end_ms: None,
            log_bytes: 0,
            log_discarded: 0,
            cancel_requested: false,
            end_confirmed: true,
            cancel_grace_ms: None,
            uncounted: 0,
            not_before_ms: None,
        }
    }
}

/// Names a worker's work directory for ever: 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId(pub String);

/// A worker as a task remembers it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkerRef {
    /// Its work directory.
    pub instance: InstanceId,
    /// Its name, which users see as `worker_id`.
    pub name: String,
}

/// One ended attempt, kept for good (a task's row tells of its newest attempt only).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// The attempt.
    pub id: AttemptId,
    /// The worker's name.
    pub worker: String,
    /// Where the program exited.
    pub exit_code: Option<i32>,
    /// Where a signal ended it.
    pub signal: Option<i32>,
    /// Why it failed.
    pub failure: Option<FailureReason>,
    /// When it ended, or when a late result came.
    pub end_ms: UnixMs,
    /// Bytes of output stored.
    pub log_bytes: u64,
    /// Bytes of output thrown away.
    pub log_discarded: u64,
    /// It came after the task had been settled otherwise, and changed nothing.
    pub late: bool,
}

impl AttemptRow {
    /// It was ended without knowing how the program ended: a late result is still wanted.
    pub const fn is_given_up(&self) -> bool {
        !self.late
            && self.exit_code.is_none()
            && self.signal.is_none()
            && matches!(self.failure, None | Some(FailureReason::WorkerCrashed))
    }
}

/// What is remembered of a worker over a restart of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerRow {
    /// Which one.
    pub worker: WorkerRef,
    /// The boot of its machine at its last hello.
    pub boot_id: String,
    /// The number of its last hello, so that an older one is known for one after a restart too.
    pub connection: u64,
    /// How many tasks it runs at once.
    pub slots: u32,
    /// An operator drains it.
    pub draining: bool,
    /// Why it was set aside.
    pub set_aside: Option<String>,
}

/// A batch as it is read back: its head, its state and all its tasks' states by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedBatch {
    /// The fixed part.
    pub head: BatchHead,
    /// The part that changes.
    pub state: BatchState,
    /// Task 1 first; exactly `head.task_count` of them.
    pub tasks: Vec<TaskState>,
    /// Machines that could not start a task's program.
    pub excluded: Vec<(TaskIndex, InstanceId)>,
}

/// A call that must not be carried out twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// The caller's `request_id`.
    pub id: String,
    /// Digest of the call's name and content.
    pub digest: [u8; 32],
    /// The batch that it made or changed.
    pub batch: BatchId,
    /// When it came.
    pub time_ms: UnixMs,
}

/// A place in a batch.
pub type TaskKey = (BatchId, TaskIndex);
