//! Why tasks do not run: a question to the machine that changes nothing.
//!
//! Bounded whatever the fleet holds: counters where there are any, one look at each known worker, and for
//! everything else (attempts, places in the queue, older batches, excluded tasks) a walk of at most
//! [`MAX_STEPS`], after which the answer says "at least". What has ended is told from its row, by [`ended_batch`]
//! and [`ended_task`]. The sentences are made in `words`; nothing is decided here.

mod words;

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::{AttemptId, AttemptNo, BatchId, TaskIndex};

use super::{
    event::{Refused, WorkerView},
    fleet::{Link, Worker},
    live::{Active, Live, Slot},
    machine::Machine,
    model::{BatchHead, BatchState, BatchStatus, Counts, InstanceId, TaskState, UnixMs},
};

/// Attempts, places, batches or tasks that one walk looks at, at most.
pub const MAX_STEPS: usize = 20_000;
/// Workers that one cause names.
pub const MAX_WORKERS_NAMED: usize = 20;
/// Batches that one cause names.
pub const MAX_BATCHES_NAMED: usize = 10;

/// Why the tasks of a batch, or one of them, do not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Where the batch stands.
    pub status: BatchStatus,
    /// How many of its tasks are in each state.
    pub counts: Counts,
    /// At most so many of its tasks run at any moment.
    pub effective_concurrency: u32,
    /// What waits, then what runs, then what has ended.
    pub causes: Vec<Cause>,
    /// Of the task asked about while it is in the queue, else of the batch's next task; `None` where none is.
    pub place: Option<Place>,
}

/// A task's place in the queue of the whole fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The task.
    pub task: TaskIndex,
    /// Waiting tasks before it: all of older batches, and those of its own that are handed out first.
    pub ahead: u32,
    /// Not all of them were counted.
    pub at_least: bool,
}

/// What a task waits for, or why it does not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Nothing of the batch starts before it is released.
    OnHold,
    /// No worker is there.
    NoWorker,
    /// Every place of those that take tasks is taken.
    WorkersBusy,
    /// They get nothing new.
    WorkersDraining,
    /// Programs could not be started on them.
    WorkersSetAside,
    /// Their streams are down.
    WorkersDisconnected,
    /// They gave an offer back unasked.
    WorkersPaused,
    /// The batch's own limit is reached.
    BatchLimit,
    /// No worker that takes tasks now could start the program.
    Excluded,
    /// An attempt has failed, and the wait before the next one is not over.
    RetryBackoff,
    /// It is being handed out.
    Scheduling,
    /// Handed to a worker that has not accepted it.
    Offered,
    /// It runs.
    Running,
    /// Ended, and the rest of its output is on its way.
    StoringOutput,
    /// Cancelled, and not confirmed.
    CancelRequested,
    /// It has ended.
    Ended,
}

impl Reason {
    /// The task is in the queue, and this keeps it there.
    pub const fn is_waiting(self) -> bool {
        match self {
            Self::OnHold
            | Self::RetryBackoff
            | Self::NoWorker
            | Self::WorkersBusy
            | Self::WorkersDraining
            | Self::WorkersSetAside
            | Self::WorkersDisconnected
            | Self::WorkersPaused
            | Self::BatchLimit
            | Self::Excluded
            | Self::Scheduling => true,
            Self::Offered | Self::Running | Self::StoringOutput | Self::CancelRequested | Self::Ended => {
                false
            }
        }
    }
}

/// One cause, with everything that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The cause.
    pub reason: Reason,
    /// In a sentence.
    pub message: String,
    /// What can be done about it; empty where there is nothing to do but wait.
    pub way_out: String,
    /// How many of the tasks asked about it concerns.
    pub tasks: u32,
    /// Not everything was counted.
    pub at_least: bool,
    /// By name, at most [`MAX_WORKERS_NAMED`].
    pub workers: Vec<WorkerView>,
    /// How many workers it is about.
    pub worker_count: u32,
    /// Who holds the places of busy workers, and how many; most first, at most [`MAX_BATCHES_NAMED`].
    pub batches: Vec<(BatchId, u32)>,
    /// How many batches hold places.
    pub batch_count: u32,
    /// Since when, where that is known.
    pub since_ms: Option<UnixMs>,
}

impl Cause {
    fn new(reason: Reason, tasks: u32) -> Self {
        Self {
            reason,
            message: String::new(),
            way_out: String::new(),
            tasks,
            at_least: false,
            workers: Vec::new(),
            worker_count: 0,
            batches: Vec::new(),
            batch_count: 0,
            since_ms: None,
        }
    }

    fn about(mut self, mut workers: Vec<&Worker>) -> Self {
        workers.sort_by(|a, b| a.who.name.cmp(&b.who.name));
        self.worker_count = count(workers.len());
        self.workers = workers.into_iter().take(MAX_WORKERS_NAMED).map(Worker::view).collect();
        self
    }
}

/// Why nothing of an ended batch runs, told from its row.
pub fn ended_batch(head: &BatchHead, state: &BatchState) -> Explanation {
    Explanation {
        status: state.status,
        counts: state.counts,
        effective_concurrency: head.effective_concurrency,
        causes: vec![words::ended_batch(head.id, state)],
        place: None,
    }
}

/// Why an ended task does not run, told from its row.
pub fn ended_task(batch: BatchId, task: TaskIndex, state: &TaskState) -> Cause {
    words::ended_task(batch, task, state)
}

/// The workers, each in the one group that says why it takes no task.
#[derive(Default)]
struct Groups<'a> {
    free: Vec<&'a Worker>,
    busy: Vec<&'a Worker>,
    paused: Vec<&'a Worker>,
    draining: Vec<&'a Worker>,
    set_aside: Vec<&'a Worker>,
    disconnected: Vec<&'a Worker>,
    lost: Vec<&'a Worker>,
}

impl<'a> Groups<'a> {
    fn of(workers: impl Iterator<Item = &'a Worker>) -> Self {
        let mut groups = Self::default();
        for worker in workers {
            let group = match worker.link {
                Link::Lost { .. } => &mut groups.lost,
                Link::Down { .. } => &mut groups.disconnected,
                Link::Up(_) if worker.set_aside.is_some() => &mut groups.set_aside,
                Link::Up(_) if !worker.is_available() => &mut groups.draining,
                Link::Up(_) if worker.held.len() >= worker.slots as usize => &mut groups.busy,
                Link::Up(_) if worker.paused_until_mono_ms.is_some() => &mut groups.paused,
                Link::Up(_) => &mut groups.free,
            };
            group.push(worker);
        }
        groups
    }

    /// Takes no tasks, but could.
    fn idle(&self) -> bool {
        self.draining.len() + self.set_aside.len() + self.disconnected.len() > 0
    }
}

/// Attempts in the same state.
#[derive(Default)]
struct Handed<'a> {
    tasks: u32,
    workers: BTreeMap<&'a InstanceId, &'a Worker>,
    since_ms: Option<UnixMs>,
}

impl Machine {
    /// Why the tasks of a batch (or one of them) do not run. `None`: the batch is not in memory.
    ///
    /// # Errors
    /// The batch has no such task.
    pub fn explain(&self, batch: BatchId, task: Option<TaskIndex>) -> Result<Option<Explanation>, Refused> {
        let Some(live) = self.batches.get(&batch) else { return Ok(None) };
        let causes = match task {
            None => self.batch_causes(live),
            Some(task) => match live.slot(task) {
                Some(slot) => self.task_causes(live, task, slot),
                None => return Err(Refused::UnknownTask { index: task.0, count: live.head.task_count }),
            },
        };
        Ok(Some(Explanation {
            status: live.state.status,
            counts: live.state.counts,
            effective_concurrency: live.head.effective_concurrency,
            causes,
            place: self.place(live, task),
        }))
    }

    fn batch_causes(&self, live: &Live) -> Vec<Cause> {
        let mut causes = Vec::new();
        let waiting = live.waiting();
        if waiting > 0 && live.state.on_hold {
            causes.push(words::on_hold(waiting, live));
        } else if waiting > 0 {
            let queued = live.in_queue();
            if queued > 0 {
                let excluded = self.excluded_everywhere(live);
                self.waiting_causes(live, queued, &excluded, &mut causes);
            }
            if live.backing_off() > 0 {
                causes.push(words::backing_off(live.backing_off(), live.head.id));
            }
        }
        causes.extend(self.handed_causes(live));
        let ended = live.head.task_count.saturating_sub(live.state.counts.unfinished());
        if ended > 0 {
            causes.push(words::ended_part(&live.state, ended));
        }
        causes
    }

    fn task_causes(&self, live: &Live, task: TaskIndex, slot: &Slot) -> Vec<Cause> {
        match slot {
            Slot::Waiting { .. } if live.state.on_hold => vec![words::on_hold(1, live)],
            Slot::Waiting { .. } if live.backs_off(task) => vec![words::backing_off(1, live.head.id)],
            Slot::Waiting { .. } => {
                let mut excluded = self.excluded_everywhere(live);
                excluded.tasks.retain(|other| *other == task);
                excluded.at_least = false;
                let mut causes = Vec::new();
                self.waiting_causes(live, 1, &excluded, &mut causes);
                causes
            }
            Slot::Active(active) => {
                let workers: Vec<_> = self.fleet.get(&active.worker.instance).into_iter().collect();
                let mut cause = Cause::new(reason_of(active), 1).about(workers);
                cause.since_ms = active.start_ms;
                vec![words::handed(cause, live, Some(task), self.config)]
            }
            Slot::Ended { status, .. } => vec![words::ended_slot(*status)],
        }
    }

    /// What keeps waiting tasks in the queue.
    fn waiting_causes(&self, live: &Live, waiting: u32, excluded: &Excluded, causes: &mut Vec<Cause>) {
        let groups = Groups::of(self.fleet.iter());
        if live.is_full() {
            causes.push(words::batch_limit(waiting, live));
            if self.fleet.available() == 0 {
                Self::idle_causes(&groups, waiting, causes);
            }
            return;
        }
        let held_back = count(excluded.tasks.len()).min(waiting);
        let others = waiting - held_back;
        if others > 0 {
            if self.fleet.available() > 0 {
                self.busy_causes(&groups, others, causes);
            }
            Self::idle_causes(&groups, others, causes);
        }
        if held_back > 0 {
            let machines = excluded.machines.iter().filter_map(|machine| self.fleet.get(machine));
            let failed: Vec<_> = machines.filter(|worker| worker.is_available()).collect();
            let mut cause = Cause::new(Reason::Excluded, held_back).about(failed);
            cause.at_least = excluded.at_least;
            causes.push(words::excluded(cause, live.head.id, groups.idle()));
            if others == 0 {
                Self::idle_causes(&groups, held_back, causes);
            }
        }
    }

    /// Workers take tasks, and this one waits all the same.
    fn busy_causes(&self, groups: &Groups<'_>, tasks: u32, causes: &mut Vec<Cause>) {
        let handing_out = self.offers_left && !groups.free.is_empty();
        if handing_out || (groups.busy.is_empty() && groups.paused.is_empty()) {
            causes.push(words::scheduling(tasks));
            return;
        }
        if !groups.busy.is_empty() {
            let mut cause = Cause::new(Reason::WorkersBusy, tasks).about(groups.busy.clone());
            let mut places: BTreeMap<BatchId, u32> = BTreeMap::new();
            let mut held = groups.busy.iter().flat_map(|worker| &worker.held);
            for id in held.by_ref().take(MAX_STEPS) {
                *places.entry(id.batch).or_default() += 1;
            }
            cause.at_least = held.next().is_some();
            cause.batch_count = count(places.len());
            cause.batches = places.into_iter().collect();
            // Stable, so the older ones are first among equals.
            cause.batches.sort_by_key(|(_, places)| std::cmp::Reverse(*places));
            cause.batches.truncate(MAX_BATCHES_NAMED);
            let slots = groups.busy.iter().map(|worker| u64::from(worker.slots)).sum();
            causes.push(words::busy(cause, slots));
        }
        if !groups.paused.is_empty() {
            let cause = Cause::new(Reason::WorkersPaused, tasks).about(groups.paused.clone());
            causes.push(words::paused(cause, self.config));
        }
    }

    /// Workers that take no tasks now; where there are none at all, that.
    fn idle_causes(groups: &Groups<'_>, tasks: u32, causes: &mut Vec<Cause>) {
        let takers = groups.free.len() + groups.busy.len() + groups.paused.len();
        if takers == 0 && !groups.idle() {
            let cause = Cause::new(Reason::NoWorker, tasks).about(groups.lost.clone());
            return causes.push(words::no_worker(cause));
        }
        for (reason, group) in [
            (Reason::WorkersSetAside, &groups.set_aside),
            (Reason::WorkersDraining, &groups.draining),
            (Reason::WorkersDisconnected, &groups.disconnected),
        ] {
            if !group.is_empty() {
                let leaving = group.iter().filter(|worker| worker.leaving).count();
                causes.push(words::idle(Cause::new(reason, tasks).about(group.clone()), leaving));
            }
        }
    }

    /// Waiting tasks that every worker which takes tasks now has failed to start.
    fn excluded_everywhere(&self, live: &Live) -> Excluded {
        let mut found = Excluded::default();
        if self.fleet.available() == 0 {
            return found;
        }
        let mut steps = 0;
        for (task, machines) in live.excluded() {
            steps += 1 + machines.len();
            if steps > MAX_STEPS {
                found.at_least = true;
                break;
            }
            let failed =
                machines.iter().filter(|machine| self.fleet.get(machine).is_some_and(Worker::is_available));
            if matches!(live.slot(task), Some(Slot::Waiting { .. }))
                && !live.backs_off(task)
                && count(failed.count()) == self.fleet.available()
            {
                found.tasks.insert(task);
                found.machines.extend(machines.iter().cloned());
            }
        }
        found
    }

    /// What is handed out, by what it does. Found over the workers that hold it, so that a batch of a million
    /// tasks is not walked through.
    fn handed_causes(&self, live: &Live) -> Vec<Cause> {
        let batch = live.head.id;
        let first = AttemptId { life: self.life, batch, task: TaskIndex(0), attempt: AttemptNo(0) };
        let mut groups: BTreeMap<Reason, Handed<'_>> = BTreeMap::new();
        let mut seen = 0;
        for worker in self.fleet.iter() {
            for id in worker.held.range(first..).take_while(|id| id.batch == batch) {
                let Some(active) = live.active(id.task, id.attempt) else { continue };
                if seen == MAX_STEPS {
                    break;
                }
                seen += 1;
                let group = groups.entry(reason_of(active)).or_default();
                group.tasks += 1;
                group.workers.insert(&worker.who.instance, worker);
                group.since_ms = match (group.since_ms, active.start_ms) {
                    (Some(old), Some(new)) => Some(old.min(new)),
                    (old, new) => old.or(new),
                };
            }
        }
        let at_least = count(seen) < live.handed_out();
        let causes = groups.into_iter().map(|(reason, group)| {
            let mut cause = Cause::new(reason, group.tasks).about(group.workers.into_values().collect());
            (cause.at_least, cause.since_ms) = (at_least, group.since_ms);
            words::handed(cause, live, None, self.config)
        });
        causes.collect()
    }

    /// The place of a task while it is in the queue, or of the batch's next.
    fn place(&self, live: &Live, task: Option<TaskIndex>) -> Option<Place> {
        let queued = |task| matches!(live.slot(task), Some(Slot::Waiting { .. })) && !live.backs_off(task);
        if task.is_some_and(|task| !queued(task)) {
            return None;
        }
        let (mut ahead, mut at_least, mut found) = (0_u32, false, task);
        for (step, waiting) in live.queue().enumerate() {
            if step == MAX_STEPS {
                at_least = true;
                break;
            }
            match (waiting, task) {
                (None, _) => {}
                (Some(next), None) => {
                    found = Some(next);
                    break;
                }
                (Some(next), Some(task)) if next == task => break,
                (Some(_), Some(_)) => ahead += 1,
            }
        }
        let mut older = self.batches.range(..live.head.id);
        for (_, older) in older.by_ref().take(MAX_STEPS) {
            ahead = ahead.saturating_add(older.in_queue());
        }
        at_least |= older.next().is_some();
        found.map(|task| Place { task, ahead, at_least })
    }
}

/// Waiting tasks that no worker which takes tasks could start.
#[derive(Default)]
struct Excluded {
    tasks: BTreeSet<TaskIndex>,
    machines: BTreeSet<InstanceId>,
    at_least: bool,
}

const fn reason_of(active: &Active) -> Reason {
    match active {
        // Its end is known, whatever was asked for.
        Active { result: Some(_), .. } => Reason::StoringOutput,
        Active { cancel_grace_ms: Some(_), .. } => Reason::CancelRequested,
        Active { start_ms: None, .. } => Reason::Offered,
        Active { .. } => Reason::Running,
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
