//! Log lines for operators about what was committed: batches and ends of tasks at `info`, the steps between at
//! `debug`. Says ids, never parameters.

use crate::core::{
    event::Change,
    model::{FailureReason, TaskStatus},
};

/// Logs a committed change.
pub(super) fn record(change: &Change) {
    match change {
        Change::NewBatch { head, .. } => tracing::info!(
            batch = %head.id,
            tasks = head.task_count,
            concurrency = head.effective_concurrency,
            "batch stored"
        ),
        Change::Batch(batch, state) if state.status.is_ended() => tracing::info!(
            batch = %batch,
            status = ?state.status,
            completed = state.counts.completed,
            failed = state.counts.failed,
            cancelled = state.counts.cancelled,
            "batch ended"
        ),
        Change::Task(batch, task, state) => {
            let worker = state.worker.as_ref().map_or("", |worker| &worker.name);
            let attempt = state.attempt.0;
            match state.status {
                TaskStatus::Queued if state.offered => {
                    tracing::debug!(%batch, %task, attempt, worker, "task offered");
                }
                TaskStatus::Queued => tracing::info!(%batch, %task, attempt, "task queued again"),
                TaskStatus::Running => {
                    tracing::debug!(%batch, %task, attempt, worker, pid = state.pid, "task runs");
                }
                TaskStatus::Completed => tracing::info!(%batch, %task, attempt, worker, "task completed"),
                TaskStatus::Failed => tracing::info!(
                    %batch,
                    %task,
                    attempt,
                    worker,
                    reason = state.failure.map(FailureReason::as_str),
                    exit_code = state.exit_code,
                    signal = state.signal,
                    "task failed"
                ),
                TaskStatus::Cancelled => tracing::info!(%batch, %task, attempt, worker, "task cancelled"),
            }
        }
        Change::Attempt(row) if row.late => {
            tracing::info!(attempt = %row.id, worker = row.worker, "late result kept");
        }
        Change::Worker(row) => tracing::info!(
            worker = row.worker.name,
            slots = row.slots,
            draining = row.draining,
            set_aside = row.set_aside,
            "worker stored"
        ),
        Change::Batch(..)
        | Change::Attempt(_)
        | Change::Exclude(..)
        | Change::ForgetExclusions(..)
        | Change::Secret(..)
        | Change::Request(_)
        | Change::ForgetWorker(_) => {}
    }
}
