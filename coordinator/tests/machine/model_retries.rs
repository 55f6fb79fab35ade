//! The model: what waits, and what ends it: retries, too long a wait, a batch that is given up.

use muster_coordinator::core::{event::*, model::*, options::*};
use muster_proto::{AttemptId, BatchId};

use crate::{
    model::{Batch, Model, Task, id_of},
    model_ends::Fate,
};

impl Batch {
    /// The part of a task's own that stands in place of the batch's.
    fn own<T>(&self, task: u32, part: impl Fn(&OwnOptions) -> Option<T>, all: Option<T>) -> Option<T> {
        let mut own = self.options.own.iter();
        own.find(|own| own.tasks.iter().any(|(first, last)| (*first..=*last).contains(&task)))
            .and_then(part)
            .or(all)
    }

    /// From now on its time counts.
    pub(crate) fn begins_to_wait(&mut self, now: u64) {
        let limit = self.options.queue_time_limit_ms;
        (self.start_by, self.queued_since) = (limit.map(|limit| now + limit), limit.map(|_| now));
    }

    fn retry_of(&self, task: u32) -> Option<RetryPolicy> {
        self.own(task, |own| own.retry.clone(), self.options.retry.clone())
    }
}

/// Whether the reason is named, and the code, where codes are.
fn covers(policy: &RetryPolicy, reason: FailureReason, exit_code: Option<i32>) -> bool {
    policy.on.iter().any(|on| match on {
        RetryOn::ExitCode => reason == FailureReason::ExitCode,
        RetryOn::Code(code) => reason == FailureReason::ExitCode && exit_code == Some(*code),
        RetryOn::Signal => reason == FailureReason::Signal,
        RetryOn::TimedOut => reason == FailureReason::TimedOut,
        RetryOn::WorkerCrashed => reason == FailureReason::WorkerCrashed,
    })
}

/// After the first attempt the backoff, and after each further one twice as much.
fn wait_ms(policy: &RetryPolicy, attempts: u32) -> u64 {
    let mut wait = policy.backoff_ms;
    for _ in 1..attempts {
        wait *= 2;
    }
    wait.min(policy.max_backoff_ms)
}

impl Model {
    pub(crate) fn grace_of(&self, batch: BatchId) -> u32 {
        let batch = self.batches.get(&batch).filter(|batch| batch.ended.is_none());
        batch.and_then(|batch| batch.options.cancel_grace_ms).unwrap_or(10_000)
    }

    pub(crate) fn terms(&self, id: AttemptId) -> Terms {
        let limit =
            |batch: &Batch| batch.own(id.task.0, |own| own.time_limit_ms, batch.options.time_limit_ms);
        let time_limit_ms = self.batches.get(&id.batch).and_then(limit);
        Terms { time_limit_ms, grace_ms: self.grace_of(id.batch), stop_after_cut_off_ms: None }
    }

    /// A failed attempt whose task is to try again goes back into the queue, and is kept as failed.
    pub(crate) fn runs_again(&mut self, id: AttemptId, result: Option<&Ended>, fate: &Fate) -> bool {
        let (Some(failure), now) = (fate.failure, self.now) else { return false };
        let Some(batch) = self.batches.get(&id.batch) else { return false };
        let Some(policy) =
            batch.retry_of(id.task.0).filter(|_| batch.cancel_reason.is_none() && !batch.given_up)
        else {
            return false;
        };
        let counted = batch.tasks[id.task.0 as usize - 1].counted();
        let Some(attempt) = self.live(id) else { return false };
        let (mut exit_code, mut signal) = (None, None);
        match result.map(|result| &result.outcome) {
            Some(Outcome::Exited(code)) => exit_code = Some(*code),
            Some(Outcome::Signalled(by)) => signal = Some(*by),
            _ => {}
        }
        if attempt.grace_ms.is_some()
            || counted >= policy.max_attempts
            || !covers(&policy, failure, exit_code)
        {
            return false;
        }
        let row = AttemptRow {
            id,
            worker: attempt.worker.name.clone(),
            exit_code,
            signal,
            failure: Some(failure),
            end_ms: now as i64,
            log_bytes: result.map_or(attempt.stored, |result| result.log_size),
            log_discarded: result.map_or(0, |result| result.log_discarded),
            late: false,
        };
        let shown = TaskState {
            worker: Some(attempt.worker.clone()),
            exit_code,
            signal,
            failure: Some(failure),
            log_bytes: row.log_bytes,
            log_discarded: row.log_discarded,
            not_before_ms: Some((now + wait_ms(&policy, counted)) as i64),
            ..TaskState::default()
        };
        let running = attempt.start_ms.is_some();
        (attempt.over, attempt.row) = (true, Some(row));
        if let Some(task) = self.task(id) {
            (task.shown, task.ready_at) = (shown, now + wait_ms(&policy, counted));
            task.again_at = task.attempts.len();
        }
        if running {
            self.at("T14");
        }
        self.touch_task(id);
        true
    }

    /// Ends a task that waits.
    fn end_waiting(
        &mut self,
        batch: BatchId,
        index: usize,
        status: TaskStatus,
        failure: Option<FailureReason>,
    ) {
        let end_ms = Some(self.now as i64);
        let Some(of) = self.batches.get_mut(&batch) else { return };
        of.fails |= failure.is_some();
        let task: &mut Task = &mut of.tasks[index];
        let no = task.attempts.len();
        let attempt = muster_proto::AttemptNo(no as u32);
        task.end = Some(TaskState { status, attempt, failure, end_ms, ..TaskState::default() });
        task.excluded.clear();
        self.touch_task(id_of(batch, index, no));
    }

    /// What waits of a batch that was given up is cancelled; what has waited too long for its first start fails.
    pub(crate) fn wait_too_long_or_for_nothing(&mut self, id: BatchId, moment: u64) {
        let Some(batch) = self.batches.get(&id).filter(|batch| batch.ended.is_none()).cloned() else {
            return;
        };
        let late = !batch.on_hold && batch.start_by.is_some_and(|by| by <= moment);
        for (index, task) in batch.tasks.iter().enumerate().filter(|(_, task)| task.is_waiting()) {
            if batch.given_up {
                self.at("T11");
                self.end_waiting(id, index, TaskStatus::Cancelled, None);
            } else if late && task.counted() == 0 {
                self.at("T10");
                self.end_waiting(id, index, TaskStatus::Failed, Some(FailureReason::QueueTimedOut));
            }
        }
    }

    pub(crate) fn waits_end(&mut self, moment: u64) {
        let ids: Vec<_> = self.batches.keys().copied().collect();
        ids.into_iter().for_each(|id| self.wait_too_long_or_for_nothing(id, moment));
    }

    /// As many tasks of a batch have failed as may, and one of them just now.
    pub(crate) fn give_batches_up(&mut self) {
        for batch in self.batches.values_mut().filter(|batch| batch.ended.is_none()) {
            let fails = std::mem::take(&mut batch.fails);
            let most = batch.options.max_failures;
            if fails && most.is_some_and(|most| batch.counts().failed >= most) {
                (batch.given_up, batch.says) = (true, true);
            }
        }
        self.waits_end(self.now);
    }
}
