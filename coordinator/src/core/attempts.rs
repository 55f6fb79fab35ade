//! What workers say of attempts: accepted, returned, started, ended; and when an end counts.
//!
//! An attempt ends only when its result is in and its output is stored. What is not about the current attempt
//! is recorded as late and changes nothing.

use muster_proto::AttemptId;

use super::{
    event::{Change, Ended, Facts, FromWorker, Outcome, Output, SessionId, Started, ToWorker},
    live::{Active, Live},
    machine::{Machine, Turn},
    model::{AttemptRow, BatchState, FailureReason, InstanceId, TaskState, TaskStatus},
    outcome::{self, Verdict},
    timers::Timer,
    waiting::{self, Failed, WaitingEnd},
};

/// Late results that may wait for their output at once; a worker sends again what was not taken in.
const MAX_LATE: usize = 10_000;

/// A result that came after its attempt had been given up, and whose output is not all stored.
#[derive(Debug)]
pub(super) struct Late {
    session: SessionId,
    ended: Ended,
}

impl Machine {
    pub(super) fn on_worker(&mut self, turn: &mut Turn, session: SessionId, said: FromWorker, facts: Facts) {
        let Some(worker) = self.fleet.by_session(session) else { return };
        let instance = worker.who.instance.clone();
        self.fleet.change(&instance, |worker| worker.last_seen_ms = Some(turn.now.unix_ms));
        match said {
            FromWorker::Heartbeat(_) => {}
            FromWorker::Accepted(id) => self.on_running(turn, session, &instance, id, None),
            FromWorker::Started(id, started) => {
                self.on_running(turn, session, &instance, id, Some(started));
            }
            FromWorker::Returned(id) => self.on_returned(turn, &instance, id),
            FromWorker::Ended(id, ended) => self.on_ended(turn, session, &instance, id, *ended, facts),
            FromWorker::Draining => {
                self.fleet.change(&instance, |worker| worker.leaving = true);
            }
            FromWorker::Leaving => {
                // It holds nothing and reads nothing more: an offer that was on its way is never started.
                for (id, _) in self.held_by(&instance) {
                    if self.is_unanswered(id) {
                        self.give_back(turn, id, String::new());
                    }
                }
                if self.fleet.get(&instance).is_some_and(|worker| worker.held.is_empty()) {
                    self.fleet.forget(&instance);
                    turn.change(Change::ForgetWorker(instance));
                    self.end_hopeless(turn);
                }
                turn.output(Output::Close(session, "the worker leaves".into()));
            }
        }
    }

    /// The attempt was accepted, or runs.
    pub(super) fn on_running(
        &mut self,
        turn: &mut Turn,
        session: SessionId,
        instance: &InstanceId,
        id: AttemptId,
        started: Option<Started>,
    ) {
        if id.life != self.life {
            // Its verdict was given with the welcome.
            return;
        }
        let grace_ms =
            self.batches.get(&id.batch).map_or(super::DEFAULT_GRACE_MS, |live| live.head.options.grace_ms());
        let Some(live) = self.current(id, instance) else {
            return turn.send(session, ToWorker::Stop { attempt: id, grace_ms });
        };
        let newly = live.start(id.task, id.attempt, turn.now.unix_ms);
        let mut changed = newly;
        if let (Some(started), Some(active)) = (started, live.active_mut(id.task, id.attempt)) {
            if active.pid != started.pid {
                active.pid = started.pid;
                changed = true;
            }
            // A worker that was started anew knows no path of what ran before; the one we have stands.
            if !started.output_path.is_empty() && active.output_path != started.output_path {
                active.output_path = started.output_path;
                changed = true;
            }
        }
        if changed {
            turn.touch(live);
            if let Some(row) = live.active_row(id.task, id.attempt) {
                turn.change(Change::Task(id.batch, id.task, Box::new(row)));
            }
        }
    }

    /// The worker proved that it never started the attempt and never will.
    fn on_returned(&mut self, turn: &mut Turn, instance: &InstanceId, id: AttemptId) {
        if self.current(id, instance).is_none() {
            return;
        }
        let until = turn.now.mono_ms + self.config.pause_ms;
        self.fleet.change(instance, |worker| {
            if !worker.leaving {
                worker.paused_until_mono_ms = Some(until);
            }
        });
        self.timers.set(until, Timer::Unpause(instance.clone()));
        self.never_started(turn, id);
    }

    /// A worker says, or shows by its hello, that it never started the attempt. That is proof unless it said
    /// before that the program runs: then the program did run once (the hello is an old one that the network
    /// held up, say), and must not again.
    pub(super) fn never_started(&mut self, turn: &mut Turn, id: AttemptId) {
        let active = self.batches.get(&id.batch).and_then(|live| live.active(id.task, id.attempt));
        if active.is_some_and(|active| active.pid != 0 || active.result.is_some()) {
            return self.give_up(turn, id, "its worker started it and knows no more of it");
        }
        self.give_back(turn, id, String::new());
    }

    /// Puts an attempt's task back into the queue, uncounted, or ends it where a cancellation waits.
    pub(super) fn give_back(&mut self, turn: &mut Turn, id: AttemptId, message: String) {
        let Some(live) = self.batches.get_mut(&id.batch) else { return };
        let Some(active) = live.active(id.task, id.attempt) else { return };
        if active.cancel_grace_ms.is_some() {
            return self.end_task(turn, id, None, TaskStatus::Cancelled, None, String::new(), true);
        }
        turn.touch(live);
        if let Some(active) = live.requeue(id.task, id.attempt) {
            if live.is_abandoned() {
                waiting::end_waiting(turn, live, id.task, waiting::not_wanted());
            } else if live.is_overdue(turn.now.mono_ms) && live.never_started(id.task) {
                let end = waiting::queue_timed_out(live);
                waiting::end_waiting(turn, live, id.task, end);
            } else {
                let state = TaskState {
                    revision: live.state.revision,
                    attempt: id.attempt,
                    failure_message: message,
                    uncounted: live.uncounted(id.task),
                    ..TaskState::default()
                };
                turn.change(Change::Task(id.batch, id.task, Box::new(state)));
            }
            self.release(&active.worker.instance, id);
        }
    }

    fn on_ended(
        &mut self,
        turn: &mut Turn,
        session: SessionId,
        instance: &InstanceId,
        id: AttemptId,
        ended: Ended,
        facts: Facts,
    ) {
        let stored = facts.log_stored;
        let Some(live) = self.current(id, instance) else {
            return self.on_late(turn, session, instance, id, ended, &facts);
        };
        if let Some(active) = live.active_mut(id.task, id.attempt) {
            active.log_stored = active.log_stored.max(stored);
            active.result = Some(ended);
        }
        self.settle(turn, id);
    }

    pub(super) fn on_log_stored(&mut self, turn: &mut Turn, id: AttemptId, offset: u64, facts: Facts) {
        if let Some(late) = self.late.remove(&id) {
            let facts = Facts { log_stored: offset, ..facts };
            let Some(instance) =
                self.fleet.by_session(late.session).map(|worker| worker.who.instance.clone())
            else {
                return;
            };
            return self.on_late(turn, late.session, &instance, id, late.ended, &facts);
        }
        if id.life != self.life {
            // Another attempt's output, though the numbers are those of one of ours.
            return;
        }
        let Some(live) = self.batches.get_mut(&id.batch) else { return };
        let Some(active) = live.active_mut(id.task, id.attempt) else { return };
        active.log_stored = active.log_stored.max(offset);
        self.settle(turn, id);
    }

    /// The key of an offer could not be read, say: it was never sent.
    pub(super) fn on_unsendable(
        &mut self,
        turn: &mut Turn,
        id: AttemptId,
        reason: FailureReason,
        message: String,
    ) {
        self.end_task(turn, id, None, TaskStatus::Failed, Some(reason), message, true);
    }

    /// Ends an attempt whose result is in and whose output is stored.
    fn settle(&mut self, turn: &mut Turn, id: AttemptId) {
        let Some(live) = self.batches.get_mut(&id.batch) else { return };
        let Some(active) = live.active_mut(id.task, id.attempt) else { return };
        if active.result.as_ref().is_none_or(|result| active.log_stored < result.log_size) {
            return;
        }
        let Some(result) = active.result.take() else { return };
        let who = active.worker.clone();
        let (cancel, started) = (active.cancel_grace_ms.is_some(), active.pid != 0);
        let launched = !matches!(result.outcome, Outcome::LaunchFailed { task_fault: false, .. });
        if launched {
            self.fleet.change(&who.instance, |worker| worker.launch_failures = 0);
        }
        match outcome::decide(&result, cancel, live.time_limit_ms(id.task)) {
            Verdict::Ends { status, failure, message } => {
                self.end_task(turn, id, Some(&result), status, failure, message, true);
            }
            // As with `never_started`: what was said to run did run.
            Verdict::Elsewhere(message) if started => {
                let message = format!("its worker started it, and then said that it could not: {message}");
                let failure = Some(FailureReason::WorkerCrashed);
                self.end_task(turn, id, Some(&result), TaskStatus::Failed, failure, message, true);
            }
            Verdict::Elsewhere(message) => self.send_elsewhere(turn, id, &result, &who.instance, message),
        }
        if let Some(session) = self.fleet.get(&who.instance).and_then(super::fleet::Worker::session) {
            turn.send(session, ToWorker::Acknowledged(id));
        }
    }

    /// A machine could not start the program: another one may; after some in a row it is set aside.
    fn send_elsewhere(
        &mut self,
        turn: &mut Turn,
        id: AttemptId,
        result: &Ended,
        instance: &InstanceId,
        message: String,
    ) {
        let limit = self.config.max_launch_failures;
        let row = self.fleet.change(instance, |worker| {
            worker.launch_failures += 1;
            if worker.launch_failures < limit || worker.set_aside.is_some() {
                return None;
            }
            worker.set_aside = Some(format!("{limit} launches in a row failed: {message}"));
            Some(worker.row())
        });
        if let Some(row) = row.flatten() {
            turn.change(Change::Worker(row));
        }
        let name = self.fleet.get(instance).map(|worker| worker.who.name.clone()).unwrap_or_default();
        let message = format!("could not be started on {name}: {message}");
        let Some(live) = self.batches.get_mut(&id.batch) else { return };
        live.exclude(id.task, instance.clone());
        turn.change(Change::Exclude(id.batch, id.task, instance.clone()));
        // While none is connected it waits like all others.
        let hopeless = self.fleet.connected().next().is_some()
            && self.fleet.connected().all(|worker| live.is_excluded(id.task, &worker.who.instance));
        if hopeless {
            let failure = Some(FailureReason::WorkerLaunchFailed);
            return self.end_task(turn, id, Some(result), TaskStatus::Failed, failure, message, true);
        }
        if let Some(active) = live.active(id.task, id.attempt) {
            let failure = Some(FailureReason::WorkerLaunchFailed);
            turn.change(Change::Attempt(attempt_row(turn, id, active, Some(result), failure)));
        }
        self.give_back(turn, id, message);
    }

    /// A worker is gone for good: ends waiting tasks that every worker which is left has failed to start. While
    /// none is connected they wait like all others.
    pub(super) fn end_hopeless(&mut self, turn: &mut Turn) {
        let connected: Vec<_> = self.fleet.connected().map(|worker| worker.who.instance.clone()).collect();
        if connected.is_empty() {
            return;
        }
        for live in self.batches.values_mut() {
            for task in live.hopeless(&connected) {
                turn.touch(live);
                let end = WaitingEnd {
                    status: TaskStatus::Failed,
                    failure: Some(FailureReason::WorkerLaunchFailed),
                    message: "could not be started on any connected worker".into(),
                    cancel_requested: false,
                };
                waiting::end_waiting(turn, live, task, end);
            }
        }
    }

    /// Ends a task with its current attempt; a failed one whose retries cover that goes back into the queue.
    #[expect(clippy::too_many_arguments, reason = "the columns of the row that is written")]
    pub(super) fn end_task(
        &mut self,
        turn: &mut Turn,
        id: AttemptId,
        result: Option<&Ended>,
        status: TaskStatus,
        failure: Option<FailureReason>,
        message: String,
        end_confirmed: bool,
    ) {
        let Some(live) = self.batches.get_mut(&id.batch) else { return };
        if live.active(id.task, id.attempt).is_none() {
            return;
        }
        if let Some(failure) = failure.filter(|_| status == TaskStatus::Failed)
            && self.retry_later(turn, id, Failed { result, failure, message: &message })
        {
            return;
        }
        let Some(live) = self.batches.get_mut(&id.batch) else { return };
        turn.touch(live);
        waiting::forget_exclusions(turn, live, id.task);
        let Some(active) = live.end_active(id.task, id.attempt, status) else { return };
        let row = attempt_row(turn, id, &active, result, failure);
        let state = TaskState {
            revision: live.state.revision,
            status,
            attempt: id.attempt,
            offered: false,
            output_path: match result {
                Some(result) if !result.output_path.is_empty() => result.output_path.clone(),
                _ => active.output_path,
            },
            pid: result.map_or(active.pid, |result| if result.pid > 0 { result.pid } else { active.pid }),
            exit_code: row.exit_code,
            signal: row.signal,
            failure,
            failure_message: message,
            start_ms: active.start_ms,
            end_ms: Some(turn.now.unix_ms),
            log_bytes: row.log_bytes,
            log_discarded: row.log_discarded,
            cancel_requested: active.cancel_grace_ms.is_some(),
            end_confirmed,
            cancel_grace_ms: active.cancel_grace_ms,
            uncounted: live.uncounted(id.task),
            not_before_ms: None,
            worker: Some(active.worker.clone()),
        };
        turn.change(Change::Task(id.batch, id.task, Box::new(state)));
        turn.change(Change::Attempt(row));
        self.release(&active.worker.instance, id);
    }

    /// A result that is not about the current attempt.
    fn on_late(
        &mut self,
        turn: &mut Turn,
        session: SessionId,
        instance: &InstanceId,
        id: AttemptId,
        ended: Ended,
        facts: &Facts,
    ) {
        let row = facts.attempts.get(&id);
        // Given up without knowing how it ended: that is the only row which a late result adds to. One of another
        // life need not have a row: it was handed out after the copy was taken that this data began as.
        let given_up = row.map_or(id.life != self.life, AttemptRow::is_given_up);
        let (true, Some(stored)) = (given_up, facts.tasks.get(&(id.batch, id.task))) else {
            // Recorded before (its acknowledgement was lost), or about nothing that was ever handed out.
            return turn.send(session, ToWorker::Acknowledged(id));
        };
        let worker = self.fleet.get(instance).map(|worker| worker.who.name.clone()).unwrap_or_default();
        if facts.log_stored < ended.log_size {
            if self.late.len() >= MAX_LATE {
                // Workers whose sessions have ended send again in their next ones.
                let fleet = &self.fleet;
                self.late.retain(|_, late| fleet.by_session(late.session).is_some());
            }
            if self.late.len() < MAX_LATE {
                self.late.insert(id, Late { session, ended });
            }
            return;
        }
        let (exit_code, signal) = outcome::code_and_signal(&ended.outcome);
        if row.is_some_and(|row| {
            (exit_code, signal, ended.log_size, ended.log_discarded)
                == (row.exit_code, row.signal, row.log_bytes, row.log_discarded)
        }) {
            // Some ends have no exit code even where they were reported in time: this is the same once more.
            return turn.send(session, ToWorker::Acknowledged(id));
        }
        turn.change(Change::Attempt(AttemptRow {
            id,
            worker,
            exit_code,
            signal,
            failure: row.and_then(|row| row.failure),
            end_ms: turn.now.unix_ms,
            log_bytes: ended.log_size,
            log_discarded: ended.log_discarded,
            late: true,
        }));
        self.touch_task(turn, id, stored.clone());
        turn.send(session, ToWorker::Acknowledged(id));
    }

    /// Shows watchers a task again whose row has not changed.
    fn touch_task(&mut self, turn: &mut Turn, id: AttemptId, stored: (BatchState, TaskState)) {
        let (mut state, mut task) = stored;
        if let Some(live) = self.batches.get_mut(&id.batch) {
            turn.touch(live);
            task.revision = live.state.revision;
        } else {
            // Not in memory, so the end of the turn will not write it.
            state.revision += 1;
            task.revision = state.revision;
            turn.change(Change::Batch(id.batch, state));
        }
        turn.change(Change::Task(id.batch, id.task, Box::new(task)));
    }

    /// The batch, where `id` is its task's current attempt and `instance` has it.
    fn current(&mut self, id: AttemptId, instance: &InstanceId) -> Option<&mut Live> {
        if id.life != self.life {
            return None;
        }
        let live = self.batches.get_mut(&id.batch)?;
        let holder = live.active(id.task, id.attempt).map(|active| &active.worker.instance);
        if holder == Some(instance) { Some(live) } else { None }
    }

    /// Whether the attempt was offered, and nothing was heard of it.
    fn is_unanswered(&self, id: AttemptId) -> bool {
        let active = self.batches.get(&id.batch).and_then(|live| live.active(id.task, id.attempt));
        active.is_some_and(|active| active.start_ms.is_none() && active.result.is_none())
    }

    pub(super) fn release(&mut self, instance: &InstanceId, id: AttemptId) {
        self.fleet.change(instance, |worker| worker.held.remove(&id));
    }

    /// The active attempts of a worker, with what a cancellation asked for.
    pub(super) fn held_by(&self, instance: &InstanceId) -> Vec<(AttemptId, Option<u32>)> {
        let Some(worker) = self.fleet.get(instance) else { return Vec::new() };
        let cancel =
            |id: &AttemptId| self.batches.get(&id.batch)?.active(id.task, id.attempt)?.cancel_grace_ms;
        worker.held.iter().map(|id| (*id, cancel(id))).collect()
    }

    /// Ends an attempt whose worker will not tell any more how it ended.
    pub(super) fn give_up(&mut self, turn: &mut Turn, id: AttemptId, message: &str) {
        let Some(live) = self.batches.get_mut(&id.batch) else { return };
        let time_limit_ms = live.time_limit_ms(id.task);
        let Some(active) = live.active_mut(id.task, id.attempt) else { return };
        let (cancelled, stored) = (active.cancel_grace_ms.is_some(), active.log_stored);
        match active.result.take() {
            // How it ended is known, only the rest of its output is lost.
            Some(mut result) => {
                result.log_discarded += result.log_size.saturating_sub(stored);
                result.log_size = stored.min(result.log_size);
                let (status, failure, text) = match outcome::decide(&result, cancelled, time_limit_ms) {
                    Verdict::Ends { status, failure, message } => (status, failure, message),
                    Verdict::Elsewhere(text) => {
                        (TaskStatus::Failed, Some(FailureReason::WorkerLaunchFailed), text)
                    }
                };
                self.end_task(turn, id, Some(&result), status, failure, text, true);
            }
            None if cancelled => {
                let message = format!("{message}; whether its program has ended is not known");
                self.end_task(turn, id, None, TaskStatus::Cancelled, None, message, false);
            }
            None => {
                let failure = Some(FailureReason::WorkerCrashed);
                self.end_task(turn, id, None, TaskStatus::Failed, failure, message.into(), true);
            }
        }
    }
}

/// What is kept of an ended attempt.
pub(super) fn attempt_row(
    turn: &Turn,
    id: AttemptId,
    active: &Active,
    result: Option<&Ended>,
    failure: Option<FailureReason>,
) -> AttemptRow {
    let (exit_code, signal) = result.map_or((None, None), |result| outcome::code_and_signal(&result.outcome));
    AttemptRow {
        id,
        worker: active.worker.name.clone(),
        exit_code,
        signal,
        failure,
        end_ms: turn.now.unix_ms,
        log_bytes: result.map_or(active.log_stored, |result| result.log_size),
        log_discarded: result.map_or(0, |result| result.log_discarded),
        late: false,
    }
}
