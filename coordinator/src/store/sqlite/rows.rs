//! How rows become the core's types and back: columns by place, enums as small numbers that never change
//! their meaning.
//!
//! Unsigned 64-bit numbers are stored with the same bits as signed ones, which loses nothing.

use muster_proto::{AttemptId, AttemptNo, BatchId, LifeId, TaskIndex};
use rusqlite::{Row, ToSql, params};

use super::super::{BatchView, Error};
use crate::core::{
    model::{
        AttemptRow, BatchHead, BatchState, BatchStatus, Counts, FailureReason, InstanceId, RequestRecord,
        TaskState, TaskStatus, WorkerRef, WorkerRow,
    },
    plan::TaskSpec,
};

/// The columns that `batch` reads.
pub(super) const BATCH: &str = "id, create_ms, task_count, requested_concurrency, effective_concurrency, \
     configured_max_concurrency, configured_max_tasks, revision, status, queued, running, completed, failed, \
     cancelled, start_ms, end_ms, cancel_reason, uses_key, options, on_hold, message, queued_since_ms";

/// The columns that `task` reads.
pub(super) const TASK: &str = "idx, revision, status, attempt, instance, worker, offered, output_path, pid, \
     exit_code, signal, failure, failure_message, start_ms, end_ms, log_bytes, log_discarded, \
     cancel_requested, end_confirmed, cancel_grace_ms, uncounted, not_before_ms";

/// How many columns `TASK` has: what comes after them starts here.
pub(super) const TASK_COLUMNS: usize = 22;

/// The columns that `attempt` reads.
pub(super) const ATTEMPT: &str = "batch, idx, attempt, life, worker, exit_code, signal, failure, end_ms, \
     log_bytes, log_discarded, late";

/// In the place of a status: the batch is being removed, and there is none for readers any more.
pub(super) const REMOVED: u8 = 5;

/// A batch id as its key.
pub(super) const fn batch_key(id: BatchId) -> i64 {
    id.get().cast_signed()
}

pub(super) fn batch_id(key: i64) -> Result<BatchId, Error> {
    BatchId::from_u64(key.cast_unsigned()).ok_or_else(|| Error::Corrupt(format!("{key} is no batch id")))
}

pub(super) fn batch(row: &Row<'_>) -> Result<BatchView, Error> {
    let id = batch_id(row.get(0)?)?;
    let head = BatchHead {
        id,
        create_ms: row.get(1)?,
        task_count: row.get(2)?,
        requested_concurrency: row.get(3)?,
        effective_concurrency: row.get(4)?,
        configured_max_concurrency: row.get(5)?,
        configured_max_tasks: row.get(6)?,
        options: serde_json::from_str(row.get_ref(18)?.as_str().map_err(rusqlite::Error::from)?)
            .map_err(|error| Error::Corrupt(format!("the options of batch {id}: {error}")))?,
    };
    let state = BatchState {
        revision: row.get(7)?,
        status: batch_status(row.get(8)?)
            .ok_or_else(|| Error::Corrupt(format!("the status of batch {id}")))?,
        counts: Counts {
            queued: row.get(9)?,
            running: row.get(10)?,
            completed: row.get(11)?,
            failed: row.get(12)?,
            cancelled: row.get(13)?,
        },
        start_ms: row.get(14)?,
        end_ms: row.get(15)?,
        cancel_reason: row.get(16)?,
        uses_key: row.get(17)?,
        on_hold: row.get(19)?,
        message: row.get(20)?,
        queued_since_ms: row.get(21)?,
    };
    Ok(BatchView { head, state })
}

pub(super) fn task(batch: BatchId, row: &Row<'_>) -> Result<(TaskIndex, TaskState), Error> {
    let index = TaskIndex(row.get(0)?);
    let damaged = |what| Error::Corrupt(format!("the {what} of task {index} of batch {batch}"));
    let worker = match (row.get::<_, Option<String>>(4)?, row.get::<_, Option<String>>(5)?) {
        (Some(instance), Some(name)) => Some(WorkerRef { instance: InstanceId(instance), name }),
        (None, None) => None,
        _ => return Err(damaged("worker")),
    };
    let state = TaskState {
        revision: row.get(1)?,
        status: task_status(row.get(2)?).ok_or_else(|| damaged("status"))?,
        attempt: AttemptNo(row.get(3)?),
        worker,
        offered: row.get(6)?,
        output_path: row.get(7)?,
        pid: row.get(8)?,
        exit_code: row.get(9)?,
        signal: row.get(10)?,
        failure: failure(row.get(11)?).ok_or_else(|| damaged("failure"))?,
        failure_message: row.get(12)?,
        start_ms: row.get(13)?,
        end_ms: row.get(14)?,
        log_bytes: row.get::<_, i64>(15)?.cast_unsigned(),
        log_discarded: row.get::<_, i64>(16)?.cast_unsigned(),
        cancel_requested: row.get(17)?,
        end_confirmed: row.get(18)?,
        cancel_grace_ms: row.get(19)?,
        uncounted: row.get(20)?,
        not_before_ms: row.get(21)?,
    };
    Ok((index, state))
}

pub(super) fn attempt(row: &Row<'_>) -> Result<AttemptRow, Error> {
    let id = AttemptId {
        batch: batch_id(row.get(0)?)?,
        task: TaskIndex(row.get(1)?),
        attempt: AttemptNo(row.get(2)?),
        life: LifeId(row.get::<_, i64>(3)?.cast_unsigned()),
    };
    Ok(AttemptRow {
        id,
        worker: row.get(4)?,
        exit_code: row.get(5)?,
        signal: row.get(6)?,
        failure: failure(row.get(7)?)
            .ok_or_else(|| Error::Corrupt(format!("the failure of attempt {id}")))?,
        end_ms: row.get(8)?,
        log_bytes: row.get::<_, i64>(9)?.cast_unsigned(),
        log_discarded: row.get::<_, i64>(10)?.cast_unsigned(),
        late: row.get(11)?,
    })
}

/// Columns `id, digest, batch, time_ms`.
pub(super) fn request(row: &Row<'_>) -> Result<RequestRecord, Error> {
    Ok(RequestRecord {
        id: row.get(0)?,
        digest: row.get(1)?,
        batch: batch_id(row.get(2)?)?,
        time_ms: row.get(3)?,
    })
}

/// Columns `instance, name, boot_id, connection, slots, draining, set_aside`.
pub(super) fn worker(row: &Row<'_>) -> Result<WorkerRow, Error> {
    Ok(WorkerRow {
        worker: WorkerRef { instance: InstanceId(row.get(0)?), name: row.get(1)? },
        boot_id: row.get(2)?,
        connection: row.get::<_, i64>(3)?.cast_unsigned(),
        slots: row.get(4)?,
        draining: row.get(5)?,
        set_aside: row.get(6)?,
    })
}

/// The parameters of a task from their text.
pub(super) fn spec(batch: BatchId, index: TaskIndex, text: &str) -> Result<TaskSpec, Error> {
    serde_json::from_str(text).map_err(|error| {
        Error::Corrupt(format!("the parameters of task {index} of batch {batch} cannot be read: {error}"))
    })
}

/// Calls `run` with the values of `TaskState` in the order of `TASK`, then the batch as the last one.
pub(super) fn with_task<T>(
    batch: BatchId,
    index: TaskIndex,
    state: &TaskState,
    run: impl FnOnce(&[&dyn ToSql]) -> T,
) -> T {
    run(params![
        index.0,
        state.revision,
        task_status_code(state.status),
        state.attempt.0,
        state.worker.as_ref().map(|worker| &worker.instance.0),
        state.worker.as_ref().map(|worker| &worker.name),
        state.offered,
        state.output_path,
        state.pid,
        state.exit_code,
        state.signal,
        state.failure.map(failure_code),
        state.failure_message,
        state.start_ms,
        state.end_ms,
        state.log_bytes.cast_signed(),
        state.log_discarded.cast_signed(),
        state.cancel_requested,
        state.end_confirmed,
        state.cancel_grace_ms,
        state.uncounted,
        state.not_before_ms,
        batch_key(batch),
    ])
}

pub(super) const fn batch_status_code(status: BatchStatus) -> u8 {
    // 0 and 1 are those that `batches_unfinished` holds.
    match status {
        BatchStatus::Queued => 0,
        BatchStatus::Running => 1,
        BatchStatus::Completed => 2,
        BatchStatus::Cancelled => 3,
        BatchStatus::Failed => 4,
    }
}

const fn batch_status(code: u8) -> Option<BatchStatus> {
    Some(match code {
        0 => BatchStatus::Queued,
        1 => BatchStatus::Running,
        2 => BatchStatus::Completed,
        3 => BatchStatus::Cancelled,
        4 => BatchStatus::Failed,
        _ => return None,
    })
}

const fn task_status_code(status: TaskStatus) -> u8 {
    match status {
        TaskStatus::Queued => 0,
        TaskStatus::Running => 1,
        TaskStatus::Completed => 2,
        TaskStatus::Failed => 3,
        TaskStatus::Cancelled => 4,
    }
}

const fn task_status(code: u8) -> Option<TaskStatus> {
    Some(match code {
        0 => TaskStatus::Queued,
        1 => TaskStatus::Running,
        2 => TaskStatus::Completed,
        3 => TaskStatus::Failed,
        4 => TaskStatus::Cancelled,
        _ => return None,
    })
}

pub(super) const fn failure_code(failure: FailureReason) -> u8 {
    match failure {
        FailureReason::ExitCode => 1,
        FailureReason::Signal => 2,
        FailureReason::TimedOut => 3,
        FailureReason::WorkerLaunchFailed => 4,
        FailureReason::WorkerCrashed => 5,
        FailureReason::OutputFailed => 6,
        FailureReason::OutputRefused => 7,
        FailureReason::SecretUnavailable => 8,
        FailureReason::QueueTimedOut => 9,
    }
}

/// The outer `None`: a number that stands for nothing.
#[expect(clippy::option_option, reason = "the column may be null, and a number unknown")]
const fn failure(code: Option<u8>) -> Option<Option<FailureReason>> {
    let Some(code) = code else { return Some(None) };
    Some(Some(match code {
        1 => FailureReason::ExitCode,
        2 => FailureReason::Signal,
        3 => FailureReason::TimedOut,
        4 => FailureReason::WorkerLaunchFailed,
        5 => FailureReason::WorkerCrashed,
        6 => FailureReason::OutputFailed,
        7 => FailureReason::OutputRefused,
        8 => FailureReason::SecretUnavailable,
        9 => FailureReason::QueueTimedOut,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_stands_for_one_thing() {
        for code in 0..=u8::MAX {
            assert!(batch_status(code).is_none_or(|status| batch_status_code(status) == code));
            assert!(task_status(code).is_none_or(|status| task_status_code(status) == code));
            assert!(failure(Some(code)).is_none_or(|found| found.map(failure_code) == Some(code)));
            assert_eq!(batch_status(code).is_some_and(|status| !status.is_ended()), code <= 1);
        }
        assert_eq!(failure(None), Some(None));
    }
}
