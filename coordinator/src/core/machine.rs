//! The coordinator's brain: an event goes in, exact effects come out.
//!
//! Holds unfinished batches and known workers, nothing else; facts about others are read first (`needs`) and
//! handed in. The calls of users are here; `sessions` has the coming and going of workers, `attempts` what
//! they say of attempts, `schedule` who gets what.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::{AttemptId, BatchId, LifeId, TaskIndex};

use super::{
    admission,
    event::{
        Cancel, Change, Effects, Event, Facts, FromWorker, Needs, Now, Output, Refused, Release, Reply,
        ReplyId, Request, Retry, SessionId, Submit, ToWorker,
    },
    fleet::Fleet,
    live::{Live, Slot},
    model::{BatchState, BatchStatus, Counts, LoadedBatch, RequestRecord, TaskState, TaskStatus, WorkerRow},
    timers::{Timer, Timers},
    waiting::{self, WaitingEnd},
};

/// Numbers of the protocol; the defaults are the documented ones.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// An offer is answered within this, or the session is ended: 10 s.
    pub offer_timeout_ms: u64,
    /// A worker may be away for so long before its tasks are given up: 1 h.
    pub lost_after_ms: u64,
    /// After a start nothing is given up before this is over: 60 s.
    pub recovery_ms: u64,
    /// A lost worker is shown for so long: 24 h.
    pub forget_after_ms: u64,
    /// A worker that gives an offer back unasked gets nothing for so long: 1 s.
    pub pause_ms: u64,
    /// A worker whose session is replaced `max_replacements` times within this is refused for as long: 60 s.
    pub contention_ms: u64,
    /// See above: 3.
    pub max_replacements: usize,
    /// Launches in a row that fail for the machine's sake before a worker is set aside: 3.
    pub max_launch_failures: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            offer_timeout_ms: 10_000,
            lost_after_ms: 3_600_000,
            recovery_ms: 60_000,
            forget_after_ms: 86_400_000,
            pause_ms: 1_000,
            contention_ms: 60_000,
            max_replacements: 3,
            max_launch_failures: 3,
        }
    }
}

/// The machine. One owner, one loop.
#[derive(Debug)]
pub struct Machine {
    pub(super) config: Config,
    pub(super) life: LifeId,
    pub(super) batches: BTreeMap<BatchId, Live>,
    /// Batches that may get an offer now, oldest first.
    pub(super) ready: BTreeSet<BatchId>,
    pub(super) fleet: Fleet,
    pub(super) timers: Timers,
    /// Late results that wait for the rest of their output.
    pub(super) late: BTreeMap<AttemptId, super::attempts::Late>,
    /// The last turn ended before every possible offer was made.
    pub(super) offers_left: bool,
}

/// What one event does, while it is being handled.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) now: Now,
    pub(super) effects: Effects,
    /// Batches that changed: each got one new revision.
    pub(super) touched: BTreeSet<BatchId>,
}

impl Turn {
    pub(super) fn change(&mut self, change: Change) {
        self.effects.changes.push(change);
    }

    pub(super) fn output(&mut self, output: Output) {
        self.effects.outputs.push(output);
    }

    pub(super) fn send(&mut self, session: SessionId, message: ToWorker) {
        self.output(Output::Send(session, message));
    }

    pub(super) fn reply(&mut self, reply_id: ReplyId, reply: Reply) {
        self.output(Output::Reply(reply_id, reply));
    }

    /// Gives a batch its new revision, once a turn.
    pub(super) fn touch(&mut self, live: &mut Live) {
        if self.touched.insert(live.head.id) {
            live.state.revision += 1;
        }
    }
}

impl Machine {
    /// A machine over what the store had: unfinished batches and remembered workers, all of them away.
    pub fn new(
        config: Config,
        life: LifeId,
        now: Now,
        batches: Vec<LoadedBatch>,
        workers: Vec<WorkerRow>,
    ) -> Self {
        let mut machine = Self {
            config,
            life,
            batches: BTreeMap::new(),
            ready: BTreeSet::new(),
            fleet: Fleet::default(),
            timers: Timers::default(),
            late: BTreeMap::new(),
            offers_left: false,
        };
        for row in workers {
            machine.fleet.remember(row, now.mono_ms);
        }
        for loaded in batches {
            let mut live = Live::from_loaded(loaded, now);
            for (task, until_ms) in live.waits() {
                machine.timers.set(until_ms, Timer::Retry(live.head.id, task));
            }
            if let Some(at_ms) = live.extend_queue_time(now.mono_ms + config.recovery_ms) {
                machine.timers.set(at_ms, Timer::Queue(live.head.id));
            }
            for (task, active) in live.actives() {
                let attempt = AttemptId { life, batch: live.head.id, task, attempt: active.attempt };
                machine.fleet.remember_ref(&active.worker, now.mono_ms);
                machine.fleet.change(&active.worker.instance, |worker| worker.held.insert(attempt));
            }
            if live.is_ready() {
                machine.ready.insert(live.head.id);
            }
            machine.batches.insert(live.head.id, live);
        }
        let patience = config.lost_after_ms.max(config.recovery_ms);
        let away: Vec<_> = machine.fleet.iter().map(|worker| worker.who.instance.clone()).collect();
        for instance in away {
            machine.timers.set(now.mono_ms + patience, Timer::Away(instance));
        }
        machine
    }

    /// The batch is in memory: it has not ended.
    pub fn is_unfinished(&self, batch: BatchId) -> bool {
        self.batches.contains_key(&batch)
    }

    /// When the next timer is due, in `Now::mono_ms`.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.offers_left { Some(0) } else { self.timers.next() }
    }

    /// Workers that can take tasks now.
    pub fn available_workers(&self) -> u32 {
        self.fleet.available()
    }

    /// What has to be read from the store (with everything before committed) to handle the event.
    pub fn needs(&self, event: &Event) -> Needs {
        let mut needs = Needs::default();
        let mut batch_and_request = |batch: BatchId, request: &Option<Request>| {
            needs.request = request.as_ref().map(|request| request.id.clone());
            if !self.batches.contains_key(&batch) {
                needs.batches.push(batch);
            }
        };
        match event {
            Event::Submit(_, submit) => batch_and_request(submit.head.id, &submit.request),
            Event::Cancel(_, cancel) => batch_and_request(cancel.batch, &cancel.request),
            Event::Retry(_, retry) => batch_and_request(retry.batch, &retry.request),
            Event::Release(_, release) => batch_and_request(release.batch, &release.request),
            Event::Hello(_, _, hello) => {
                let held = hello.held.iter().map(|(id, _)| *id);
                needs.attempts = held.clone().filter(|id| self.is_past(*id)).collect();
                // Whether an attempt of another life is of a task that is known here.
                needs.tasks = held.filter(|id| id.life != self.life).map(|id| (id.batch, id.task)).collect();
            }
            Event::Worker(_, FromWorker::Ended(id, _)) if self.is_past(*id) => {
                needs.attempts.push(*id);
                // A late result touches the task's row as it is committed.
                needs.tasks.push((id.batch, id.task));
            }
            Event::LogStored(id, _) if self.late.contains_key(id) => {
                needs.attempts.push(*id);
                needs.tasks.push((id.batch, id.task));
            }
            Event::Worker(..)
            | Event::Steer(..)
            | Event::Workers(_)
            | Event::Explain(..)
            | Event::Gone(_)
            | Event::LogStored(..)
            | Event::Unsendable(..)
            | Event::Tick => {}
        }
        needs
    }

    /// Handles an event. The changes are to be committed together before any output leaves.
    pub fn handle(&mut self, now: Now, event: Event, facts: Facts) -> Effects {
        let mut turn = Turn { now, effects: Effects::default(), touched: BTreeSet::new() };
        match event {
            Event::Submit(reply, submit) => self.on_submit(&mut turn, reply, *submit, &facts),
            Event::Cancel(reply, cancel) => self.on_cancel(&mut turn, reply, cancel, &facts),
            Event::Retry(reply, retry) => self.on_retry(&mut turn, reply, *retry, facts),
            Event::Release(reply, release) => self.on_release(&mut turn, reply, release, &facts),
            Event::Steer(reply, worker, steer) => self.on_steer(&mut turn, reply, worker, steer),
            Event::Workers(reply) => {
                let mut views: Vec<_> = self.fleet.iter().map(super::fleet::Worker::view).collect();
                views.sort_by(|a, b| a.name.cmp(&b.name));
                turn.reply(reply, Reply::Workers(views));
            }
            Event::Explain(reply, batch, task) => {
                let answer = match self.explain(batch, task) {
                    Ok(explanation) => Reply::Explained(explanation.map(Box::new)),
                    Err(refused) => Reply::Refused(refused),
                };
                turn.reply(reply, answer);
            }
            Event::Hello(reply, session, hello) => self.on_hello(&mut turn, reply, session, &hello, &facts),
            Event::Worker(session, said) => self.on_worker(&mut turn, session, said, facts),
            Event::Gone(session) => self.on_gone(&mut turn, session),
            Event::LogStored(attempt, offset) => self.on_log_stored(&mut turn, attempt, offset, facts),
            Event::Unsendable(attempt, reason, message) => {
                self.on_unsendable(&mut turn, attempt, reason, message);
            }
            Event::Tick => {}
        }
        while let Some(timer) = self.timers.pop_due(now.mono_ms) {
            self.on_timer(&mut turn, timer);
        }
        self.abandon_batches(&mut turn);
        self.schedule(&mut turn);
        self.close(turn)
    }

    /// Ends the turn: batches that have ended are settled and leave memory, rows of touched ones are written.
    fn close(&mut self, mut turn: Turn) -> Effects {
        for batch in std::mem::take(&mut turn.touched) {
            let Some(live) = self.batches.get_mut(&batch) else { continue };
            if live.state.counts.unfinished() == 0 && !live.state.status.is_ended() {
                waiting::end_batch(&live.head, &mut live.state, turn.now.unix_ms);
                if live.state.uses_key {
                    turn.change(Change::Secret(batch, None));
                }
            }
            turn.change(Change::Batch(batch, live.state.clone()));
            if live.state.status.is_ended() {
                self.batches.remove(&batch);
                self.ready.remove(&batch);
            } else {
                self.note_ready(batch);
            }
        }
        turn.effects
    }

    /// Keeps the set of ready batches true for one batch.
    pub(super) fn note_ready(&mut self, batch: BatchId) {
        if self.batches.get(&batch).is_some_and(Live::is_ready) {
            self.ready.insert(batch);
        } else {
            self.ready.remove(&batch);
        }
    }

    /// The attempt is not one that runs or may run.
    fn is_past(&self, id: AttemptId) -> bool {
        id.life != self.life
            || self.batches.get(&id.batch).is_none_or(|live| live.active(id.task, id.attempt).is_none())
    }

    fn on_submit(&mut self, turn: &mut Turn, reply: ReplyId, submit: Submit, facts: &Facts) {
        if let Some(answer) = replay(submit.request.as_ref(), facts) {
            return turn.reply(reply, answer);
        }
        let id = submit.head.id;
        if self.batches.contains_key(&id) || matches!(facts.batches.get(&id), Some(Some(_))) {
            return turn.reply(reply, Reply::Refused(Refused::BatchIdTaken));
        }
        let state = BatchState {
            revision: 1,
            status: BatchStatus::Queued,
            counts: Counts { queued: submit.head.task_count, ..Counts::default() },
            start_ms: None,
            end_ms: None,
            cancel_reason: None,
            uses_key: submit.secret.is_some(),
            on_hold: false,
            message: String::new(),
            queued_since_ms: None,
        };
        let live = Live::new(submit.head.clone(), state.clone(), turn.now);
        if let Some(at_ms) = live.queue_deadline() {
            self.timers.set(at_ms, Timer::Queue(id));
        }
        self.batches.insert(id, live);
        turn.change(Change::NewBatch { head: submit.head, state, specs: submit.specs });
        if submit.secret.is_some() {
            turn.change(Change::Secret(id, submit.secret));
        }
        remember(turn, submit.request, id);
        turn.reply(reply, Reply::Batch(id, 1));
        // Untouched, so the turn does not do it: its first revision is written already.
        self.note_ready(id);
    }

    fn on_cancel(&mut self, turn: &mut Turn, reply: ReplyId, cancel: Cancel, facts: &Facts) {
        if let Some(answer) = replay(cancel.request.as_ref(), facts) {
            return turn.reply(reply, answer);
        }
        let id = cancel.batch;
        let Some(live) = self.batches.get_mut(&id) else {
            let Some(Some(loaded)) = facts.batches.get(&id) else {
                return turn.reply(reply, Reply::Refused(Refused::UnknownBatch(id)));
            };
            if let Some(refused) = first_beyond(&cancel.tasks, loaded.head.task_count) {
                return turn.reply(reply, Reply::Refused(refused));
            }
            // Every task of an ended batch has ended: there is nothing to cancel, which is what was asked for. The
            // same call once more is not about what is retried in between.
            remember(turn, cancel.request, id);
            return turn.reply(reply, Reply::Batch(id, loaded.state.revision));
        };
        if let Some(refused) = first_beyond(&cancel.tasks, live.head.task_count) {
            return turn.reply(reply, Reply::Refused(refused));
        }
        turn.touch(live);
        let tasks = if cancel.tasks.is_empty() {
            live.state.cancel_reason.get_or_insert(cancel.reason);
            live.slots()
                .filter(|(_, slot)| !matches!(slot, Slot::Ended { .. }))
                .map(|(task, _)| task)
                .collect()
        } else {
            cancel.tasks
        };
        let grace_ms = if cancel.immediate { 0 } else { live.head.options.grace_ms() };
        for task in tasks {
            self.cancel_task(turn, id, task, grace_ms);
        }
        remember(turn, cancel.request, id);
        let revision = self.batches.get(&id).map_or(0, |live| live.state.revision);
        turn.reply(reply, Reply::Batch(id, revision));
    }

    fn cancel_task(&mut self, turn: &mut Turn, batch: BatchId, task: TaskIndex, grace_ms: u32) {
        let Some(live) = self.batches.get_mut(&batch) else { return };
        if matches!(live.slot(task), Some(Slot::Waiting { .. })) {
            let end = WaitingEnd {
                status: TaskStatus::Cancelled,
                failure: None,
                message: String::new(),
                cancel_requested: true,
            };
            return waiting::end_waiting(turn, live, task, end);
        }
        let Some(Slot::Active(active)) = live.slot(task) else { return };
        let (attempt, instance) = (active.attempt, active.worker.instance.clone());
        let Some(active) = live.active_mut(task, attempt) else { return };
        // A later and milder cancellation does not take back an earlier one.
        let grace_ms = active.cancel_grace_ms.map_or(grace_ms, |old| old.min(grace_ms));
        active.cancel_grace_ms = Some(grace_ms);
        if let Some(row) = live.active_row(task, attempt) {
            turn.change(Change::Task(batch, task, Box::new(row)));
        }
        // A worker that is away is told when it is back.
        if let Some(session) = self.fleet.get(&instance).and_then(super::fleet::Worker::session) {
            let attempt = AttemptId { life: self.life, batch, task, attempt };
            turn.send(session, ToWorker::Stop { attempt, grace_ms });
        }
    }

    /// A batch that is not on hold stays as it is, which is what was asked for.
    fn on_release(&mut self, turn: &mut Turn, reply: ReplyId, release: Release, facts: &Facts) {
        if let Some(answer) = replay(release.request.as_ref(), facts) {
            return turn.reply(reply, answer);
        }
        let id = release.batch;
        let Some(live) = self.batches.get_mut(&id) else {
            let Some(Some(loaded)) = facts.batches.get(&id) else {
                return turn.reply(reply, Reply::Refused(Refused::UnknownBatch(id)));
            };
            remember(turn, release.request, id);
            return turn.reply(reply, Reply::Batch(id, loaded.state.revision));
        };
        if live.state.on_hold {
            turn.touch(live);
            live.state.on_hold = false;
            live.state.message = String::new();
            // Nothing could start before.
            if let Some(at_ms) = live.begin_queue_time(turn.now) {
                self.timers.set(at_ms, Timer::Queue(id));
            }
        }
        let revision = live.state.revision;
        remember(turn, release.request, id);
        turn.reply(reply, Reply::Batch(id, revision));
    }

    fn on_retry(&mut self, turn: &mut Turn, reply: ReplyId, retry: Retry, mut facts: Facts) {
        if let Some(answer) = replay(retry.request.as_ref(), &facts) {
            return turn.reply(reply, answer);
        }
        let id = retry.batch;
        let loaded = facts.batches.remove(&id).flatten();
        let mut from_store = loaded.map(|loaded| Live::from_loaded(loaded, turn.now));
        let Some(live) = from_store.as_mut().or(self.batches.get_mut(&id)) else {
            return turn.reply(reply, Reply::Refused(Refused::UnknownBatch(id)));
        };
        let tasks = match retriable(live, &retry.tasks) {
            Ok(tasks) => tasks,
            Err(refused) => return turn.reply(reply, Reply::Refused(refused)),
        };
        let count = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        let limits = retry.limits;
        if let Err(refusal) =
            admission::admit_retry(&limits.policy, count, live.head.requested_concurrency, limits.approvals)
        {
            return turn.reply(reply, Reply::Refused(Refused::Limit(refusal)));
        }
        if live.state.status.is_ended() && live.state.uses_key && retry.secret.is_none() {
            return turn.reply(reply, Reply::Refused(Refused::NoApiKey));
        }
        turn.touch(live);
        if retry.secret.is_some() {
            live.state.uses_key = true;
            turn.change(Change::Secret(id, retry.secret));
        }
        if live.state.status.is_ended() {
            live.state.status = BatchStatus::Running;
        }
        live.state.end_ms = None;
        live.state.cancel_reason = None;
        if !live.state.on_hold {
            live.state.message = String::new();
        }
        if let Some(at_ms) = live.begin_queue_time(turn.now) {
            self.timers.set(at_ms, Timer::Queue(id));
        }
        for task in tasks {
            if let Some(attempt) = live.reopen(task) {
                let state = TaskState {
                    revision: live.state.revision,
                    attempt,
                    uncounted: live.uncounted(task),
                    ..TaskState::default()
                };
                turn.change(Change::Task(id, task, Box::new(state)));
            }
        }
        let revision = live.state.revision;
        if let Some(live) = from_store {
            self.batches.insert(id, live);
        }
        remember(turn, retry.request, id);
        turn.reply(reply, Reply::Batch(id, revision));
    }
}

/// The answer to a call that was carried out before, or whose request id was used for another.
fn replay(request: Option<&Request>, facts: &Facts) -> Option<Reply> {
    let (request, record) = (request?, facts.request.as_ref()?);
    Some(if request.digest == record.digest {
        Reply::Batch(record.batch, 0)
    } else {
        Reply::Refused(Refused::RequestIdReused(request.id.clone()))
    })
}

fn remember(turn: &mut Turn, request: Option<Request>, batch: BatchId) {
    if let Some(Request { id, digest }) = request {
        let time_ms = turn.now.unix_ms;
        turn.change(Change::Request(RequestRecord { id, digest, batch, time_ms }));
    }
}

fn first_beyond(tasks: &[TaskIndex], count: u32) -> Option<Refused> {
    let beyond = tasks.iter().find(|task| task.0 == 0 || task.0 > count)?;
    Some(Refused::UnknownTask { index: beyond.0, count })
}

fn retriable(live: &Live, asked: &[TaskIndex]) -> Result<Vec<TaskIndex>, Refused> {
    let failed =
        |slot: &Slot| matches!(slot, Slot::Ended { status: TaskStatus::Failed | TaskStatus::Cancelled, .. });
    if asked.is_empty() {
        let all: Vec<_> = live.slots().filter(|(_, slot)| failed(slot)).map(|(task, _)| task).collect();
        return if all.is_empty() { Err(Refused::NothingToRetry) } else { Ok(all) };
    }
    if let Some(refused) = first_beyond(asked, live.head.task_count) {
        return Err(refused);
    }
    let asked: BTreeSet<_> = asked.iter().copied().collect();
    match asked.iter().find(|task| !live.slot(**task).is_some_and(failed)) {
        Some(task) => Err(Refused::NotRetriable(*task)),
        None => Ok(asked.into_iter().collect()),
    }
}
