//! What the coordinator is meant to do, written down a second time and as simply as can be: lists that are walked
//! from end to end, nothing kept that could be counted. The machine is held against it (`model_random`).
//!
//! Each decision names the row of the tables in `docs/protocol.md` and `docs/lifecycle.md` that it follows; which
//! rows were reached is recorded. What is *not* here: texts for people, causes (`explain`), groups, and the limits
//! that hold back millions.

use std::collections::{BTreeMap, BTreeSet};

use muster_coordinator::core::{event::*, model::*, options::BatchOptions};
use muster_proto::{AttemptId, AttemptNo, BatchId, TaskIndex};

use crate::{
    model_ends::Fate,
    world::{LIFE, config},
};

/// Said and done after an event, in the order in which it leaves.
#[derive(Debug, PartialEq)]
pub(crate) enum Out {
    Reply(Reply),
    Send(u64, ToWorker),
    Close(u64),
}

/// One run of a task, from its offer on.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) worker: WorkerRef,
    /// Accepted then; `None` while it is only offered.
    pub(crate) start_ms: Option<i64>,
    /// Its offer is to be answered by then; `None` where nobody waits for that any more.
    pub(crate) answer_by: Option<u64>,
    pub(crate) pid: i32,
    pub(crate) path: String,
    pub(crate) grace_ms: Option<u32>,
    /// Reported, and not settled yet.
    pub(crate) result: Option<Ended>,
    /// Of its output the machine knows this much to be stored.
    pub(crate) stored: u64,
    /// It is over: what is recorded of it, if anything.
    pub(crate) over: bool,
    pub(crate) row: Option<AttemptRow>,
    /// Its worker said that its program runs.
    pub(crate) ran: bool,
    /// It was never started, or not on that machine: it does not count.
    pub(crate) given_back: bool,
}

/// A task with all its runs.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// Number 1 first.
    pub(crate) attempts: Vec<Attempt>,
    /// Its row, once it has ended.
    pub(crate) end: Option<TaskState>,
    /// Machines that could not start it.
    pub(crate) excluded: BTreeSet<InstanceId>,
    /// Of its newest change.
    pub(crate) revision: i64,
    /// How many attempts there were when it was last retried on purpose.
    pub(crate) retried_at: usize,
    /// How many there were when it was last put back for a retry of its own.
    pub(crate) again_at: usize,
    /// What is shown of it while it waits.
    pub(crate) shown: TaskState,
    /// It waits for its retry until then.
    pub(crate) ready_at: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) limit: u32,
    pub(crate) tasks: Vec<Task>,
    pub(crate) revision: i64,
    pub(crate) ended: Option<BatchStatus>,
    /// A retry has opened it again.
    pub(crate) reopened: bool,
    pub(crate) start_ms: Option<i64>,
    pub(crate) end_ms: Option<i64>,
    pub(crate) cancel_reason: Option<String>,
    pub(crate) uses_key: bool,
    pub(crate) has_secret: bool,
    pub(crate) on_hold: bool,
    pub(crate) options: BatchOptions,
    /// What has not started by then has waited too long.
    pub(crate) start_by: Option<u64>,
    /// Its time counts since then, where not since the submission.
    pub(crate) queued_since: Option<u64>,
    /// The event at hand has failed a task of it for good.
    pub(crate) fails: bool,
    /// As many tasks have failed as may.
    pub(crate) given_up: bool,
    /// It says why it stands as it does.
    pub(crate) says: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Up(u64),
    /// Given up then.
    Down(u64),
    /// Forgotten then.
    Lost(u64),
}

#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) who: WorkerRef,
    pub(crate) boot: String,
    pub(crate) connection: u64,
    pub(crate) slots: u32,
    pub(crate) link: Link,
    pub(crate) leaving: bool,
    pub(crate) draining: bool,
    pub(crate) set_aside: bool,
    pub(crate) launch_failures: u32,
    pub(crate) paused_until: u64,
    pub(crate) last_seen: Option<i64>,
    /// When its session was replaced while it was up.
    pub(crate) replaced: Vec<u64>,
    pub(crate) contended_until: u64,
    /// Its row is stored.
    pub(crate) stored: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) now: u64,
    pub(crate) batches: BTreeMap<BatchId, Batch>,
    pub(crate) workers: BTreeMap<InstanceId, Worker>,
    pub(crate) requests: BTreeMap<String, ([u8; 32], BatchId)>,
    /// Results of attempts that were given up, which wait for their output.
    pub(crate) late: BTreeMap<AttemptId, (u64, Ended)>,
    /// What is kept of attempts of another life.
    pub(crate) foreign: BTreeMap<AttemptId, AttemptRow>,
    /// What the log store has.
    pub(crate) logs: BTreeMap<AttemptId, u64>,
    /// Batches that the event at hand has changed.
    pub(crate) touched: BTreeSet<BatchId>,
    pub(crate) outs: Vec<Out>,
    /// Rows of the tables, each with its column where there are two.
    pub(crate) reached: BTreeSet<&'static str>,
}

impl Task {
    pub(crate) fn active(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|attempt| !attempt.over)
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.end.is_none() && self.active().is_none()
    }

    /// How many of its attempts do not count.
    pub(crate) fn uncounted(&self) -> u32 {
        let since = self.attempts.iter().skip(self.retried_at);
        (self.retried_at + since.filter(|attempt| attempt.given_back).count()) as u32
    }

    /// How many do.
    pub(crate) fn counted(&self) -> u32 {
        self.attempts.len() as u32 - self.uncounted()
    }

    pub(crate) fn status(&self) -> TaskStatus {
        match (&self.end, self.active()) {
            (Some(end), _) => end.status,
            (None, Some(attempt)) if attempt.start_ms.is_some() => TaskStatus::Running,
            _ => TaskStatus::Queued,
        }
    }

    /// Its row, but for what is said to people.
    pub(crate) fn row(&self) -> TaskState {
        let (revision, uncounted) = (self.revision, self.uncounted());
        if let Some(end) = &self.end {
            return TaskState { revision, uncounted, ..end.clone() };
        }
        let attempt = AttemptNo(self.attempts.len() as u32);
        let blank = TaskState { revision, attempt, uncounted, ..TaskState::default() };
        let Some(active) = self.active() else {
            return TaskState { revision, attempt, uncounted, ..self.shown.clone() };
        };
        TaskState {
            status: self.status(),
            worker: Some(active.worker.clone()),
            offered: active.start_ms.is_none(),
            output_path: active.path.clone(),
            pid: active.pid,
            start_ms: active.start_ms,
            cancel_requested: active.grace_ms.is_some(),
            cancel_grace_ms: active.grace_ms,
            ..blank
        }
    }
}

impl Batch {
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for task in &self.tasks {
            *counts.of(task.status()) += 1;
        }
        counts
    }

    pub(crate) fn active(&self) -> usize {
        self.tasks.iter().filter(|task| task.active().is_some()).count()
    }

    pub(crate) fn status(&self) -> BatchStatus {
        match self.ended {
            Some(status) => status,
            None if self.reopened || self.start_ms.is_some() => BatchStatus::Running,
            None => BatchStatus::Queued,
        }
    }

    pub(crate) fn state(&self) -> BatchState {
        BatchState {
            revision: self.revision,
            status: self.status(),
            counts: self.counts(),
            start_ms: self.start_ms,
            end_ms: self.end_ms,
            cancel_reason: self.cancel_reason.clone(),
            uses_key: self.uses_key,
            on_hold: self.on_hold,
            message: if self.says { "so".into() } else { String::new() },
            queued_since_ms: self.queued_since.map(|at| at as i64),
        }
    }
}

impl Worker {
    pub(crate) fn session(&self) -> Option<u64> {
        if let Link::Up(session) = self.link { Some(session) } else { None }
    }

    pub(crate) fn takes_tasks(&self) -> bool {
        self.session().is_some() && !self.leaving && !self.draining && !self.set_aside
    }

    pub(crate) fn status(&self) -> WorkerStatus {
        match self.link {
            Link::Down(_) => WorkerStatus::Disconnected,
            Link::Lost(_) => WorkerStatus::Lost,
            Link::Up(_) if self.set_aside => WorkerStatus::SetAside,
            Link::Up(_) if self.draining || self.leaving => WorkerStatus::Draining,
            Link::Up(_) => WorkerStatus::Connected,
        }
    }
}

pub(crate) fn id_of(batch: BatchId, task: usize, attempt: usize) -> AttemptId {
    AttemptId { life: LIFE, batch, task: TaskIndex(task as u32 + 1), attempt: AttemptNo(attempt as u32) }
}

impl Model {
    pub(crate) fn at(&mut self, row: &'static str) {
        self.reached.insert(row);
    }

    pub(crate) fn unix(&self) -> i64 {
        self.now as i64
    }

    pub(crate) fn send(&mut self, session: u64, message: ToWorker) {
        self.outs.push(Out::Send(session, message));
    }

    /// Every attempt that is offered or runs.
    pub(crate) fn active(&self) -> Vec<(AttemptId, &Attempt)> {
        let mut found = Vec::new();
        for (id, batch) in &self.batches {
            for (index, task) in batch.tasks.iter().enumerate() {
                if let Some(active) = task.active() {
                    found.push((id_of(*id, index, task.attempts.len()), active));
                }
            }
        }
        found
    }

    pub(crate) fn held_by(&self, instance: &InstanceId) -> Vec<AttemptId> {
        let mine =
            |(id, attempt): (AttemptId, &Attempt)| (attempt.worker.instance == *instance).then_some(id);
        self.active().into_iter().filter_map(mine).collect()
    }

    /// The attempt, where it is offered or runs.
    pub(crate) fn live(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        if id.life != LIFE {
            return None;
        }
        let task = self.batches.get_mut(&id.batch)?.tasks.get_mut((id.task.0 as usize).checked_sub(1)?)?;
        let newest = task.attempts.len();
        task.attempts.last_mut().filter(|attempt| !attempt.over && id.attempt.0 as usize == newest)
    }

    /// The attempt, where it is offered to this worker or runs on it.
    pub(crate) fn live_on(&mut self, id: AttemptId, instance: &InstanceId) -> Option<&mut Attempt> {
        self.live(id).filter(|attempt| attempt.worker.instance == *instance)
    }

    pub(crate) fn task(&mut self, id: AttemptId) -> Option<&mut Task> {
        self.batches.get_mut(&id.batch)?.tasks.get_mut((id.task.0 as usize).checked_sub(1)?)
    }

    pub(crate) fn by_session(&self, session: u64) -> Option<InstanceId> {
        let found = self.workers.values().find(|worker| worker.session() == Some(session))?;
        Some(found.who.instance.clone())
    }

    /// A batch has changed: one revision more, however much an event changes.
    pub(crate) fn touch(&mut self, id: BatchId) -> i64 {
        let Some(batch) = self.batches.get_mut(&id) else { return 0 };
        if self.touched.insert(id) {
            batch.revision += 1;
        }
        batch.revision
    }

    pub(crate) fn touch_task(&mut self, id: AttemptId) {
        let revision = self.touch(id.batch);
        if let Some(task) = self.task(id) {
            task.revision = revision;
        }
    }

    /// Ends a task with its newest attempt.
    pub(crate) fn end(&mut self, id: AttemptId, result: Option<&Ended>, fate: &Fate) {
        let (now, unix) = (self.now as i64, self.unix());
        if self.runs_again(id, result, fate) {
            return;
        }
        let Some(attempt) = self.live(id) else { return };
        let mut row = AttemptRow {
            id,
            worker: attempt.worker.name.clone(),
            exit_code: None,
            signal: None,
            failure: fate.failure,
            end_ms: unix,
            log_bytes: attempt.stored,
            log_discarded: 0,
            late: false,
        };
        let (mut path, mut pid) = (attempt.path.clone(), attempt.pid);
        if let Some(result) = result {
            match result.outcome {
                Outcome::Exited(code) => row.exit_code = Some(code),
                Outcome::Signalled(signal) => row.signal = Some(signal),
                _ => {}
            }
            (row.log_bytes, row.log_discarded) = (result.log_size, result.log_discarded);
            if !result.output_path.is_empty() {
                path.clone_from(&result.output_path);
            }
            if result.pid > 0 {
                pid = result.pid;
            }
        }
        let end = TaskState {
            status: fate.status,
            attempt: id.attempt,
            worker: Some(attempt.worker.clone()),
            output_path: path,
            pid,
            exit_code: row.exit_code,
            signal: row.signal,
            failure: fate.failure,
            start_ms: attempt.start_ms,
            end_ms: Some(now),
            log_bytes: row.log_bytes,
            log_discarded: row.log_discarded,
            cancel_requested: attempt.grace_ms.is_some(),
            end_confirmed: fate.confirmed,
            cancel_grace_ms: attempt.grace_ms,
            ..TaskState::default()
        };
        attempt.over = true;
        attempt.row = Some(row);
        if let Some(batch) = self.batches.get_mut(&id.batch) {
            batch.fails |= fate.status == TaskStatus::Failed;
        }
        if let Some(task) = self.task(id) {
            task.end = Some(end);
            task.excluded.clear();
        }
        self.touch_task(id);
    }

    /// Puts a task back into the queue, or ends it where it was to be cancelled.
    pub(crate) fn give_back(&mut self, id: AttemptId) {
        let Some(attempt) = self.live(id) else { return };
        if attempt.grace_ms.is_some() {
            return self.end(id, None, &Fate::cancelled(true));
        }
        (attempt.over, attempt.given_back) = (true, true);
        if let Some(task) = self.task(id) {
            task.shown = TaskState::default();
        }
        self.touch_task(id);
        self.wait_too_long_or_for_nothing(id.batch, self.now);
    }

    /// Ends an attempt whose worker will not tell any more how it ended.
    pub(crate) fn give_up(&mut self, id: AttemptId) {
        let Some(attempt) = self.live(id) else { return };
        let (cancelled, stored) = (attempt.grace_ms.is_some(), attempt.stored);
        match attempt.result.take() {
            Some(mut result) => {
                let lost = result.log_size.saturating_sub(stored);
                result.log_size -= lost;
                result.log_discarded += lost;
                let fate = Fate::of(&result, cancelled, |_| {}).unwrap_or_else(Fate::launch_failed);
                self.end(id, Some(&result), &fate);
            }
            None if cancelled => self.end(id, None, &Fate::cancelled(false)),
            None => self.end(id, None, &Fate::crashed()),
        }
    }

    /// The coordinator is killed and started again: what was only in memory is gone.
    pub(crate) fn restart(&mut self, patience: u64, hold: bool) {
        let back_by = self.now + patience;
        self.late.clear();
        self.workers.retain(|_, worker| worker.stored);
        for worker in self.workers.values_mut() {
            worker.link = Link::Down(back_by);
            (worker.leaving, worker.launch_failures, worker.paused_until) = (false, 0, 0);
            worker.last_seen = None;
            (worker.replaced, worker.contended_until) = (Vec::new(), 0);
        }
        for batch in self.batches.values_mut().filter(|batch| batch.ended.is_none()) {
            if hold && batch.active() == 0 {
                (batch.on_hold, batch.says) = (true, true);
            }
            // Time enough for workers to come back.
            batch.start_by = batch.start_by.map(|by| by.max(self.now + config().recovery_ms));
            for task in &mut batch.tasks {
                let Some(attempt) = task.attempts.last_mut().filter(|attempt| !attempt.over) else {
                    continue;
                };
                (attempt.result, attempt.stored, attempt.answer_by) = (None, 0, None);
                let who = &attempt.worker;
                self.workers.entry(who.instance.clone()).or_insert_with(|| Worker {
                    who: who.clone(),
                    boot: String::new(),
                    connection: 0,
                    slots: 1,
                    link: Link::Down(back_by),
                    leaving: false,
                    draining: false,
                    set_aside: false,
                    launch_failures: 0,
                    paused_until: 0,
                    last_seen: None,
                    replaced: Vec::new(),
                    contended_until: 0,
                    stored: false,
                });
            }
        }
    }
}
