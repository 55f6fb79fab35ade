//! Changes as statements, all of a group in one transaction.

use std::collections::HashSet;

use muster_proto::{BatchId, TaskIndex};
use rusqlite::{Connection, TransactionBehavior, params};

use super::{super::Error, rows};
use crate::core::{
    event::Change,
    model::{AttemptRow, BatchHead, BatchState, RequestRecord, TaskState, WorkerRow},
    plan::TaskSpec,
};

/// Writes the changes, or none of them.
pub(super) fn commit(connection: &mut Connection, changes: &[Change]) -> Result<(), Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    apply(&transaction, changes)?;
    Ok(transaction.commit()?)
}

/// Writes the changes as a part of a transaction.
pub(super) fn apply(transaction: &Connection, changes: &[Change]) -> Result<(), Error> {
    let superseded = superseded(changes);
    for (place, change) in changes.iter().enumerate() {
        match change {
            Change::NewBatch { head, state, specs } => new_batch(transaction, head, state, specs)?,
            Change::Batch(..) if superseded.contains(&place) => {}
            Change::Batch(id, state) => batch(transaction, *id, state)?,
            Change::Task(id, index, state) => task(transaction, *id, *index, state)?,
            Change::Attempt(row) => attempt(transaction, row)?,
            Change::Exclude(id, index, instance) => {
                let sql = "INSERT OR IGNORE INTO exclusions (batch, idx, instance) VALUES (?1, ?2, ?3)";
                let values = params![rows::batch_key(*id), index.0, instance.0];
                transaction.prepare_cached(sql)?.execute(values)?;
            }
            Change::ForgetExclusions(id, index) => {
                let sql = "DELETE FROM exclusions WHERE batch = ?1 AND idx = ?2";
                transaction.prepare_cached(sql)?.execute(params![rows::batch_key(*id), index.0])?;
            }
            Change::Secret(id, sealed) => secret(transaction, *id, sealed.as_deref())?,
            Change::Request(record) => request(transaction, record)?,
            Change::Worker(row) => worker(transaction, row)?,
            Change::ForgetWorker(instance) => {
                let sql = "DELETE FROM workers WHERE instance = ?1";
                transaction.prepare_cached(sql)?.execute([&instance.0])?;
            }
        }
    }
    Ok(())
}

/// Places of batch changes that a later one of the same batch overwrites: a group has one for each of its
/// events, and only the last matters.
fn superseded(changes: &[Change]) -> HashSet<usize> {
    let mut seen = HashSet::new();
    let batch = |change: &Change| if let Change::Batch(id, _) = change { Some(*id) } else { None };
    changes
        .iter()
        .enumerate()
        .rev()
        .filter_map(|(place, change)| Some((place, batch(change)?)))
        .filter(|(_, id)| !seen.insert(*id))
        .map(|(place, _)| place)
        .collect()
}

fn new_batch(
    connection: &Connection,
    head: &BatchHead,
    state: &BatchState,
    specs: &[TaskSpec],
) -> Result<(), Error> {
    if usize::try_from(head.task_count) != Ok(specs.len()) {
        return Err(Error::Failed(format!(
            "batch {} has {} tasks, not {}",
            head.id,
            specs.len(),
            head.task_count
        )));
    }
    let sql = "INSERT INTO batches (id, create_ms, task_count, requested_concurrency, effective_concurrency, \
               configured_max_concurrency, configured_max_tasks, revision, status, queued, running, completed, \
               failed, cancelled, start_ms, end_ms, cancel_reason, uses_key, options, on_hold, message, \
               queued_since_ms) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, \
               ?20, ?21, ?22)";
    let options = serde_json::to_string(&head.options)
        .map_err(|error| Error::Failed(format!("the options of batch {}: {error}", head.id)))?;
    connection.prepare_cached(sql)?.execute(params![
        rows::batch_key(head.id),
        head.create_ms,
        head.task_count,
        head.requested_concurrency,
        head.effective_concurrency,
        head.configured_max_concurrency,
        head.configured_max_tasks,
        state.revision,
        rows::batch_status_code(state.status),
        state.counts.queued,
        state.counts.running,
        state.counts.completed,
        state.counts.failed,
        state.counts.cancelled,
        state.start_ms,
        state.end_ms,
        state.cancel_reason,
        state.uses_key,
        options,
        state.on_hold,
        state.message,
        state.queued_since_ms,
    ])?;
    let mut insert_spec =
        connection.prepare_cached("INSERT INTO specs (batch, idx, spec) VALUES (?1, ?2, ?3)")?;
    let mut insert_task = connection.prepare_cached(
        "INSERT INTO tasks (idx, revision, status, attempt, instance, worker, offered, output_path, pid, \
         exit_code, signal, failure, failure_message, start_ms, end_ms, log_bytes, log_discarded, \
         cancel_requested, end_confirmed, cancel_grace_ms, uncounted, not_before_ms, batch) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, \
         ?22, ?23)",
    )?;
    let fresh = TaskState { revision: state.revision, ..TaskState::default() };
    for (index, spec) in (1..=head.task_count).map(TaskIndex).zip(specs) {
        let text = serde_json::to_string(spec).map_err(|error| {
            Error::Failed(format!("the parameters of task {index} of batch {}: {error}", head.id))
        })?;
        insert_spec.execute(params![rows::batch_key(head.id), index.0, text])?;
        rows::with_task(head.id, index, &fresh, |values| insert_task.execute(values))?;
    }
    Ok(())
}

fn batch(connection: &Connection, id: BatchId, state: &BatchState) -> Result<(), Error> {
    let sql = "UPDATE batches SET revision = ?2, status = ?3, queued = ?4, running = ?5, completed = ?6, \
               failed = ?7, cancelled = ?8, start_ms = ?9, end_ms = ?10, cancel_reason = ?11, \
               uses_key = ?12, on_hold = ?13, message = ?14, queued_since_ms = ?15 WHERE id = ?1";
    let changed = connection.prepare_cached(sql)?.execute(params![
        rows::batch_key(id),
        state.revision,
        rows::batch_status_code(state.status),
        state.counts.queued,
        state.counts.running,
        state.counts.completed,
        state.counts.failed,
        state.counts.cancelled,
        state.start_ms,
        state.end_ms,
        state.cancel_reason,
        state.uses_key,
        state.on_hold,
        state.message,
        state.queued_since_ms,
    ])?;
    one(changed, || format!("there is no batch {id} to change"))
}

fn task(connection: &Connection, id: BatchId, index: TaskIndex, state: &TaskState) -> Result<(), Error> {
    let sql = "UPDATE tasks SET revision = ?2, status = ?3, attempt = ?4, instance = ?5, worker = ?6, \
               offered = ?7, output_path = ?8, pid = ?9, exit_code = ?10, signal = ?11, failure = ?12, \
               failure_message = ?13, start_ms = ?14, end_ms = ?15, log_bytes = ?16, log_discarded = ?17, \
               cancel_requested = ?18, end_confirmed = ?19, cancel_grace_ms = ?20, uncounted = ?21, \
               not_before_ms = ?22 WHERE batch = ?23 AND idx = ?1";
    let mut update = connection.prepare_cached(sql)?;
    let changed = rows::with_task(id, index, state, |values| update.execute(values))?;
    one(changed, || format!("there is no task {index} of batch {id} to change"))
}

fn attempt(connection: &Connection, row: &AttemptRow) -> Result<(), Error> {
    let sql = "INSERT OR REPLACE INTO attempts (batch, idx, attempt, life, worker, exit_code, signal, failure, \
               end_ms, log_bytes, log_discarded, late) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    connection.prepare_cached(sql)?.execute(params![
        rows::batch_key(row.id.batch),
        row.id.task.0,
        row.id.attempt.0,
        row.id.life.0.cast_signed(),
        row.worker,
        row.exit_code,
        row.signal,
        row.failure.map(rows::failure_code),
        row.end_ms,
        row.log_bytes.cast_signed(),
        row.log_discarded.cast_signed(),
        row.late,
    ])?;
    Ok(())
}

fn secret(connection: &Connection, id: BatchId, sealed: Option<&[u8]>) -> Result<(), Error> {
    if let Some(sealed) = sealed {
        let sql = "INSERT OR REPLACE INTO secrets (batch, sealed) VALUES (?1, ?2)";
        connection.prepare_cached(sql)?.execute(params![rows::batch_key(id), sealed])?;
    } else {
        connection.prepare_cached("DELETE FROM secrets WHERE batch = ?1")?.execute([rows::batch_key(id)])?;
    }
    Ok(())
}

fn request(connection: &Connection, record: &RequestRecord) -> Result<(), Error> {
    let sql = "INSERT OR REPLACE INTO requests (id, digest, batch, time_ms) VALUES (?1, ?2, ?3, ?4)";
    connection.prepare_cached(sql)?.execute(params![
        record.id,
        record.digest,
        rows::batch_key(record.batch),
        record.time_ms
    ])?;
    Ok(())
}

fn worker(connection: &Connection, row: &WorkerRow) -> Result<(), Error> {
    let sql = "INSERT OR REPLACE INTO workers (instance, name, boot_id, connection, slots, draining, set_aside) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    connection.prepare_cached(sql)?.execute(params![
        row.worker.instance.0,
        row.worker.name,
        row.boot_id,
        row.connection.cast_signed(),
        row.slots,
        row.draining,
        row.set_aside,
    ])?;
    Ok(())
}

/// A change to what is not there means that memory and store have parted: nothing may be built on either.
fn one(changed: usize, what: impl FnOnce() -> String) -> Result<(), Error> {
    if changed == 1 { Ok(()) } else { Err(Error::Failed(what())) }
}
