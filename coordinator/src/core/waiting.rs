//! Tasks that wait: for their retry, longer than they may, or for nothing any more because their batch was given
//! up.
//!
//! Who gets what once it is ready is decided in `schedule`; what a worker says of an attempt in `attempts`.

use muster_proto::{AttemptId, BatchId, TaskIndex};

use super::{
    attempts::attempt_row,
    event::{Change, Ended, Now},
    live::{Live, Slot},
    machine::{Machine, Turn},
    model::{BatchHead, BatchState, BatchStatus, FailureReason, TaskState, TaskStatus, UnixMs},
    options::spell,
    timers::Timer,
};

/// How a waiting task ends, as its row says it.
#[derive(Debug)]
pub(super) struct WaitingEnd {
    pub(super) status: TaskStatus,
    pub(super) failure: Option<FailureReason>,
    pub(super) message: String,
    pub(super) cancel_requested: bool,
}

/// What a retry follows on.
pub(super) struct Failed<'a> {
    pub(super) result: Option<&'a Ended>,
    pub(super) failure: FailureReason,
    pub(super) message: &'a str,
}

/// Ends a task that waits; a task that does not is left alone. The batch's revision must be this turn's already.
pub(super) fn end_waiting(turn: &mut Turn, live: &mut Live, task: TaskIndex, end: WaitingEnd) {
    forget_exclusions(turn, live, task);
    let Some(attempt) = live.end_waiting(task, end.status) else { return };
    let state = TaskState {
        revision: live.state.revision,
        status: end.status,
        attempt,
        failure: end.failure,
        failure_message: end.message,
        cancel_requested: end.cancel_requested,
        end_ms: Some(turn.now.unix_ms),
        uncounted: live.uncounted(task),
        ..TaskState::default()
    };
    turn.change(Change::Task(live.head.id, task, Box::new(state)));
}

/// A task ends: which machines could not start it is of no use any more.
pub(super) fn forget_exclusions(turn: &mut Turn, live: &Live, task: TaskIndex) {
    if live.is_excluded_somewhere(task) {
        turn.change(Change::ForgetExclusions(live.head.id, task));
    }
}

impl Machine {
    /// Puts the task of a failed attempt back into the queue, where its retries cover the failure. False: they do
    /// not, and nothing was changed.
    pub(super) fn retry_later(&mut self, turn: &mut Turn, id: AttemptId, failed: Failed<'_>) -> bool {
        let Some(live) = self.batches.get_mut(&id.batch) else { return false };
        let exit_code = failed.result.and_then(|result| super::outcome::code_and_signal(&result.outcome).0);
        let Some((wait_ms, counted, max_attempts)) =
            live.next_attempt(id.task, id.attempt, failed.failure, exit_code)
        else {
            return false;
        };
        turn.touch(live);
        let until_ms = turn.now.mono_ms + wait_ms;
        let Some(active) = live.back_off(id.task, id.attempt, until_ms) else { return false };
        let row = attempt_row(turn, id, &active, failed.result, Some(failed.failure));
        let state = TaskState {
            revision: live.state.revision,
            attempt: id.attempt,
            worker: Some(active.worker.clone()),
            exit_code: row.exit_code,
            signal: row.signal,
            failure: Some(failed.failure),
            failure_message: format!(
                "attempt {counted} of {max_attempts}: {}; the next one starts after {}",
                failed.message,
                spell(wait_ms)
            ),
            log_bytes: row.log_bytes,
            log_discarded: row.log_discarded,
            uncounted: live.uncounted(id.task),
            not_before_ms: Some(turn.now.unix_ms.saturating_add_unsigned(wait_ms)),
            ..TaskState::default()
        };
        turn.change(Change::Task(id.batch, id.task, Box::new(state)));
        turn.change(Change::Attempt(row));
        self.timers.set(until_ms, Timer::Retry(id.batch, id.task));
        self.release(&active.worker.instance, id);
        true
    }

    /// A task has waited for its retry.
    pub(super) fn on_retry_timer(&mut self, now: Now, batch: BatchId, task: TaskIndex) {
        if self.batches.get_mut(&batch).is_some_and(|live| live.wake(task, now.mono_ms)) {
            self.note_ready(batch);
        }
    }

    /// Tasks of a batch may have waited too long for their first start.
    pub(super) fn on_queue_timer(&mut self, turn: &mut Turn, batch: BatchId) {
        let Some(live) = self.batches.get_mut(&batch) else { return };
        if !live.is_overdue(turn.now.mono_ms) {
            return;
        }
        let late: Vec<_> = live
            .slots()
            .filter(|(task, slot)| matches!(slot, Slot::Waiting { .. }) && live.never_started(*task))
            .map(|(task, _)| task)
            .collect();
        if late.is_empty() {
            return;
        }
        turn.touch(live);
        for task in late {
            let end = queue_timed_out(live);
            end_waiting(turn, live, task, end);
        }
    }

    /// Gives up every batch of which enough tasks have failed by now: what waits is cancelled, what runs goes on.
    pub(super) fn abandon_batches(&mut self, turn: &mut Turn) {
        let touched: Vec<_> = turn.touched.iter().copied().collect();
        for batch in touched {
            let Some(live) = self.batches.get_mut(&batch) else { continue };
            if !live.notice_failures() {
                continue;
            }
            live.state.message = abandoned(&live.head, &live.state);
            let waiting: Vec<_> = live
                .slots()
                .filter(|(_, slot)| matches!(slot, Slot::Waiting { .. }))
                .map(|(task, _)| task)
                .collect();
            for task in waiting {
                end_waiting(turn, live, task, not_wanted());
            }
        }
    }
}

/// As many tasks of a batch have failed as may.
pub(super) fn has_failed(head: &BatchHead, state: &BatchState) -> bool {
    head.options.max_failures.is_some_and(|most| state.counts.failed >= most)
}

/// Ends a batch whose tasks have all ended. A cancellation that cancelled nothing leaves no trace.
pub(super) fn end_batch(head: &BatchHead, state: &mut BatchState, now_ms: UnixMs) {
    let cancelled = state.cancel_reason.is_some() && state.counts.cancelled > 0;
    state.status = match has_failed(head, state) {
        _ if cancelled => BatchStatus::Cancelled,
        true => BatchStatus::Failed,
        false => BatchStatus::Completed,
    };
    if state.status == BatchStatus::Failed && state.message.is_empty() {
        state.message = abandoned(head, state);
    }
    state.end_ms = Some(now_ms);
}

/// Why a batch was given up.
fn abandoned(head: &BatchHead, state: &BatchState) -> String {
    let failed = state.counts.failed;
    let most = head.options.max_failures.unwrap_or_default();
    let tasks = if failed == 1 { "1 task has".to_owned() } else { format!("{failed} tasks have") };
    format!("{tasks} failed and max_failures is {most}: what had not started was cancelled")
}

/// The end of a task whose batch was given up before it started.
pub(super) fn not_wanted() -> WaitingEnd {
    WaitingEnd {
        status: TaskStatus::Cancelled,
        failure: None,
        message: NOT_WANTED.to_owned(),
        cancel_requested: false,
    }
}

/// Said of tasks that were cancelled because others failed.
pub(super) const NOT_WANTED: &str = "not started: too many tasks of the batch had failed (max_failures)";

/// The end of a task that has waited too long.
pub(super) fn queue_timed_out(live: &Live) -> WaitingEnd {
    let limit = spell(live.head.options.queue_time_limit_ms.unwrap_or_default());
    WaitingEnd {
        status: TaskStatus::Failed,
        failure: Some(FailureReason::QueueTimedOut),
        message: format!("waited longer than its queue_time_limit of {limit} for its first start"),
        cancel_requested: false,
    }
}
