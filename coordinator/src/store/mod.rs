//! The store in domain verbs: load what is unfinished, read facts, commit a group of changes, page through
//! the rest.
//!
//! It decides nothing and knows no rules; the machine's changes are written as they are.

pub mod sqlite;

use std::collections::HashSet;

use muster_proto::{AttemptId, AttemptNo, BatchId, LifeId, TaskIndex};

use crate::core::{
    event::Change,
    model::{
        AttemptRow, BatchHead, BatchState, LoadedBatch, RequestRecord, Revision, TaskKey, TaskState, UnixMs,
        WorkerRow,
    },
    plan::TaskSpec,
    retention::Ended,
};

/// What went wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk or the database failed. Nothing that followed the last commit is durable: stop.
    #[error("the store failed: {0}")]
    Failed(String),
    /// What is stored cannot be understood.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// There is no data where some was expected.
    #[error("{0} holds no data of muster-coordinator")]
    NoData(String),
    /// Another coordinator uses the data.
    #[error("{0} is in use by another coordinator; stop it, or give this one a --data-dir of its own")]
    InUse(String),
    /// The data was written by a newer version.
    #[error(
        "the data is of schema {found}, newer than this program's {known}; use a newer muster-coordinator"
    )]
    TooNew {
        /// What the data says.
        found: i64,
        /// What this program knows.
        known: i64,
    },
    /// The data would lie where locks and shared memory cannot be relied on.
    #[error(
        "{0} is on a network file system, where acknowledged work is not safe; choose a --data-dir on a local disk"
    )]
    Network(String),
    /// The database library lacks a fix that durability depends on.
    #[error("the bundled SQLite {0} is too old to be trusted with acknowledged work (3.51.3 at least)")]
    OldLibrary(String),
}

/// The writing side. Owned by the engine, used from its thread only.
pub trait Store: Send {
    /// The life of this store.
    fn life(&self) -> LifeId;
    /// Every batch that has not ended, oldest first.
    fn load_unfinished(&mut self) -> Result<Vec<LoadedBatch>, Error>;
    /// The workers that are remembered.
    fn load_workers(&mut self) -> Result<Vec<WorkerRow>, Error>;
    /// One batch, ended or not.
    fn load_batch(&mut self, batch: BatchId) -> Result<Option<LoadedBatch>, Error>;
    /// One task with the state of its batch. `None`: no such batch or task.
    fn load_task(&mut self, key: TaskKey) -> Result<Option<(BatchState, TaskState)>, Error>;
    /// What is remembered of a request id.
    fn find_request(&mut self, id: &str) -> Result<Option<RequestRecord>, Error>;
    /// The row of an ended attempt.
    fn find_attempt(&mut self, attempt: AttemptId) -> Result<Option<AttemptRow>, Error>;
    /// The specs of tasks, in the order asked for; a missing one is `Corrupt`.
    fn specs(&mut self, keys: &[TaskKey]) -> Result<Vec<TaskSpec>, Error>;
    /// The encrypted key of a batch.
    fn secret(&mut self, batch: BatchId) -> Result<Option<Vec<u8>>, Error>;
    /// Writes the changes in one transaction; durable when it returns.
    fn commit(&mut self, changes: &[Change]) -> Result<(), Error>;
    /// Removes a slice of an ended batch in one transaction; readers no longer see the batch afterwards. True once
    /// nothing of it is left. A batch that is not there, or has not ended, is left alone.
    fn remove(&mut self, batch: BatchId) -> Result<bool, Error>;
    /// Forgets a slice of the requests that came before `before_ms` and whose batch is gone; true once none is left.
    fn forget_requests(&mut self, before_ms: UnixMs) -> Result<bool, Error>;
}

/// A batch as readers get it.
#[derive(Clone, Debug)]
pub struct BatchView {
    /// The fixed part.
    pub head: BatchHead,
    /// The part that changes.
    pub state: BatchState,
}

/// A task as readers get it.
#[derive(Clone, Debug)]
pub struct TaskView {
    /// Which.
    pub index: TaskIndex,
    /// Its parameters.
    pub spec: TaskSpec,
    /// Where it stands.
    pub state: TaskState,
    /// Results of earlier attempts that came late.
    pub late: Vec<AttemptRow>,
}

/// A piece of a batch's tasks, read in one snapshot with the batch itself.
#[derive(Clone, Debug)]
pub struct Page {
    /// The batch in the same snapshot.
    pub batch: BatchView,
    /// The tasks of this page.
    pub tasks: Vec<TaskView>,
    /// There are more after the last of them.
    pub more: bool,
}

/// Bounds of a page: it ends at whichever comes first (but has one task at least, if there is one).
#[derive(Clone, Copy, Debug)]
pub struct PageBounds {
    /// So many tasks.
    pub tasks: usize,
    /// So many bytes of specs, about.
    pub bytes: usize,
}

/// The reading side: sees what is committed, never the machine's memory. Blocking; shared by threads.
pub trait Reader: Send + Sync {
    /// The life of this store.
    fn life(&self) -> LifeId;
    /// One batch.
    fn batch(&self, batch: BatchId) -> Result<Option<BatchView>, Error>;
    /// Batches older than `before` (all when `None`), newest first.
    fn batches(&self, before: Option<BatchId>, limit: usize) -> Result<Vec<BatchView>, Error>;
    /// Tasks after index `after` (0: from the first), by index. `None`: no such batch.
    fn tasks(&self, batch: BatchId, after: u32, bounds: PageBounds) -> Result<Option<Page>, Error>;
    /// Tasks whose last change is newer than `after` and that come after `cursor` in the order of
    /// (revision, index), in that order. `None`: no such batch.
    fn changed(
        &self,
        batch: BatchId,
        after: (Revision, u32),
        bounds: PageBounds,
    ) -> Result<Option<Page>, Error>;
    /// One task. `None`: no such batch or task.
    fn task(&self, batch: BatchId, index: TaskIndex) -> Result<Option<TaskView>, Error>;
    /// The batches that have ended; with the bytes that each takes, about, where they are asked for (which reads
    /// every attempt).
    fn ended(&self, with_bytes: bool) -> Result<Vec<Ended>, Error>;
    /// Batches whose removal was begun and cut short by a crash; other readings do not see them.
    fn half_removed(&self) -> Result<Vec<BatchId>, Error>;
    /// Every batch.
    fn batch_ids(&self) -> Result<HashSet<BatchId>, Error>;
    /// The life in which the attempt of this number has ended: this store's where it has a row of its own, else
    /// the one that the data had before. `None`: there is no row.
    fn attempt_life(&self, task: TaskKey, attempt: AttemptNo) -> Result<Option<LifeId>, Error>;
    /// The row of an ended attempt.
    fn attempt(&self, attempt: AttemptId) -> Result<Option<AttemptRow>, Error>;
    /// What is remembered of a request id.
    fn request(&self, id: &str) -> Result<Option<RequestRecord>, Error>;
}

/// A batch as it is first stored, for tests of what becomes of it.
#[cfg(test)]
pub(crate) fn sample_batch(id: BatchId, tasks: u32, status: crate::core::model::BatchStatus) -> Change {
    use crate::core::{model::Counts, options::BatchOptions};

    let head = BatchHead {
        id,
        create_ms: 1,
        task_count: tasks,
        requested_concurrency: 1,
        effective_concurrency: 1,
        configured_max_concurrency: 1,
        configured_max_tasks: tasks,
        options: BatchOptions::default(),
    };
    let state = BatchState {
        revision: 1,
        status,
        counts: Counts { queued: tasks, ..Counts::default() },
        start_ms: None,
        end_ms: status.is_ended().then_some(7),
        cancel_reason: None,
        uses_key: false,
        on_hold: false,
        message: String::new(),
        queued_since_ms: None,
    };
    Change::NewBatch { head, state, specs: vec![TaskSpec::default(); tasks as usize] }
}
