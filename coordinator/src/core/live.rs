//! An unfinished batch in memory: each task in exactly one slot, counts kept, the queue in index order.
//!
//! Knows nothing of workers' health, and of time only what it is told: when a retry's wait is over, when tasks have
//! waited too long. What happens when is decided by its callers.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::{AttemptNo, TaskIndex};

use super::{
    event::{Ended, Now, Terms},
    model::{
        BatchHead, BatchState, BatchStatus, FailureReason, InstanceId, LoadedBatch, TaskState, TaskStatus,
        UnixMs, WorkerRef,
    },
    options::{OnDisconnect, OwnIndex},
};

/// Between the end of what a cut-off worker runs and its being given up: each side may be late in seeing that they
/// are parted.
const CUT_OFF_MARGIN_MS: u64 = 60_000;

/// Where a task is. A waiting one costs 16 bytes.
#[derive(Debug)]
pub(super) enum Slot {
    /// In the queue. `attempts` so far.
    Waiting { attempts: u32 },
    /// Offered, running, or ended and waiting for its output.
    Active(Box<Active>),
    /// Done, unless a retry reopens it.
    Ended { status: TaskStatus, attempts: u32 },
}

/// An attempt that a worker has, or may have.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) attempt: AttemptNo,
    pub(super) worker: WorkerRef,
    /// When it was accepted; `None` while it is only offered.
    pub(super) start_ms: Option<UnixMs>,
    pub(super) pid: i32,
    pub(super) output_path: String,
    /// Cancellation was asked for, with this grace.
    pub(super) cancel_grace_ms: Option<u32>,
    /// Its result, once in.
    pub(super) result: Option<Ended>,
    /// Output stored for good.
    pub(super) log_stored: u64,
}

/// An unfinished batch.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) head: BatchHead,
    pub(super) state: BatchState,
    slots: Vec<Slot>,
    /// Every waiting task from here on is in the queue.
    cursor: u32,
    /// Waiting tasks before the cursor: those that came back.
    returned: BTreeSet<u32>,
    active: u32,
    /// Machines that could not start a task's program. Few: an entry goes when its task ends.
    excluded: BTreeMap<u32, BTreeSet<InstanceId>>,
    own: OwnIndex,
    /// How many attempts do not count against a task's retries, where there are such.
    uncounted: BTreeMap<u32, u32>,
    /// Waiting tasks that wait for their retry, and until when (`Now::mono_ms`).
    backing_off: BTreeMap<u32, u64>,
    /// What has not started by then (`Now::mono_ms`) has waited too long.
    queue_deadline_ms: Option<u64>,
    /// How many tasks had failed when it was last asked whether that is too many.
    noticed_failures: u32,
}

impl Live {
    /// A batch that was just submitted.
    pub(super) fn new(head: BatchHead, state: BatchState, now: Now) -> Self {
        let slots = (0..head.task_count).map(|_| Slot::Waiting { attempts: 0 }).collect();
        let queue_deadline_ms = head.options.queue_time_limit_ms.map(|limit_ms| now.mono_ms + limit_ms);
        Self {
            own: OwnIndex::of(&head.options),
            noticed_failures: state.counts.failed,
            head,
            state,
            slots,
            cursor: 1,
            returned: BTreeSet::new(),
            active: 0,
            excluded: BTreeMap::new(),
            uncounted: BTreeMap::new(),
            backing_off: BTreeMap::new(),
            queue_deadline_ms,
        }
    }

    /// A batch as the store has it. What waits goes on waiting for what is left of its time by the wall clock.
    pub(super) fn from_loaded(loaded: LoadedBatch, now: Now) -> Self {
        let LoadedBatch { head, state, tasks, excluded } = loaded;
        let mut active = 0;
        let mut uncounted = BTreeMap::new();
        let mut backing_off = BTreeMap::new();
        let own = OwnIndex::of(&head.options);
        let queued_since_ms = state.queued_since_ms.unwrap_or(head.create_ms);
        for (index, task) in (1..).zip(&tasks) {
            if task.uncounted > 0 {
                uncounted.insert(index, task.uncounted);
            }
            let Some(not_before_ms) = task.not_before_ms.filter(|_| !task.status.is_ended()) else {
                continue;
            };
            if let Some(policy) = own.retry(&head.options, TaskIndex(index)) {
                let left_ms = u64::try_from(not_before_ms.saturating_sub(now.unix_ms)).unwrap_or(0);
                if left_ms > 0 {
                    // However the wall clock was set.
                    backing_off.insert(index, now.mono_ms + left_ms.min(policy.max_backoff_ms));
                }
            }
        }
        let queue_deadline_ms = head.options.queue_time_limit_ms.map(|limit_ms| {
            let waited_ms = u64::try_from(now.unix_ms.saturating_sub(queued_since_ms)).unwrap_or(0);
            now.mono_ms + limit_ms.saturating_sub(waited_ms)
        });
        let slots = tasks
            .into_iter()
            .map(|task| match (task.status, task.worker) {
                (TaskStatus::Queued, Some(worker)) if task.offered => {
                    active += 1;
                    Slot::Active(Box::new(Active {
                        attempt: task.attempt,
                        worker,
                        start_ms: None,
                        pid: 0,
                        output_path: task.output_path,
                        cancel_grace_ms: cancel_grace(task.cancel_requested, task.cancel_grace_ms),
                        result: None,
                        log_stored: 0,
                    }))
                }
                (TaskStatus::Running, Some(worker)) => {
                    active += 1;
                    Slot::Active(Box::new(Active {
                        attempt: task.attempt,
                        worker,
                        start_ms: Some(task.start_ms.unwrap_or(head.create_ms)),
                        pid: task.pid,
                        output_path: task.output_path,
                        cancel_grace_ms: cancel_grace(task.cancel_requested, task.cancel_grace_ms),
                        result: None,
                        log_stored: 0,
                    }))
                }
                (TaskStatus::Queued | TaskStatus::Running, _) => Slot::Waiting { attempts: task.attempt.0 },
                (status, _) => Slot::Ended { status, attempts: task.attempt.0 },
            })
            .collect();
        let mut live = Self {
            noticed_failures: state.counts.failed,
            head,
            state,
            slots,
            cursor: 1,
            returned: BTreeSet::new(),
            active,
            excluded: BTreeMap::new(),
            own,
            uncounted,
            backing_off,
            queue_deadline_ms,
        };
        for (task, machine) in excluded {
            live.exclude(task, machine);
        }
        live
    }

    pub(super) fn slot(&self, task: TaskIndex) -> Option<&Slot> {
        self.slots.get((task.0 as usize).checked_sub(1)?)
    }

    pub(super) fn active(&self, task: TaskIndex, attempt: AttemptNo) -> Option<&Active> {
        match self.slot(task) {
            Some(Slot::Active(active)) if active.attempt == attempt => Some(active),
            _ => None,
        }
    }

    pub(super) fn active_mut(&mut self, task: TaskIndex, attempt: AttemptNo) -> Option<&mut Active> {
        match self.slots.get_mut((task.0 as usize).checked_sub(1)?) {
            Some(Slot::Active(active)) if active.attempt == attempt => Some(active),
            _ => None,
        }
    }

    /// All active attempts, by task.
    pub(super) fn actives(&self) -> impl Iterator<Item = (TaskIndex, &Active)> {
        self.slots.iter().zip(1..).filter_map(|(slot, index)| match slot {
            Slot::Active(active) => Some((TaskIndex(index), &**active)),
            _ => None,
        })
    }

    /// A task may be offered now: nothing holds the batch, one waits, and the limit leaves room.
    pub(super) fn is_ready(&self) -> bool {
        !self.state.on_hold && self.active < self.head.effective_concurrency && self.in_queue() > 0
    }

    /// Offered tasks are queued to users.
    fn offered_count(&self) -> u32 {
        self.active.saturating_sub(self.state.counts.running)
    }

    /// As many attempts are handed out as the limit allows.
    pub(super) const fn is_full(&self) -> bool {
        self.active >= self.head.effective_concurrency
    }

    /// Attempts that are handed out: offered, running, or ended and waiting for their output.
    pub(super) const fn handed_out(&self) -> u32 {
        self.active
    }

    /// Tasks that are not handed out; offered ones are.
    pub(super) fn waiting(&self) -> u32 {
        self.state.counts.queued.saturating_sub(self.offered_count())
    }

    /// Waiting tasks that wait for their retry.
    pub(super) fn backing_off(&self) -> u32 {
        u32::try_from(self.backing_off.len()).unwrap_or(u32::MAX)
    }

    /// Tasks that could be handed out.
    pub(super) fn in_queue(&self) -> u32 {
        self.waiting().saturating_sub(self.backing_off())
    }

    /// The task waits for its retry.
    pub(super) fn backs_off(&self, task: TaskIndex) -> bool {
        self.backing_off.contains_key(&task.0)
    }

    /// Waits for a retry, with their ends (`Now::mono_ms`).
    pub(super) fn waits(&self) -> impl Iterator<Item = (TaskIndex, u64)> {
        self.backing_off.iter().map(|(task, until_ms)| (TaskIndex(*task), *until_ms))
    }

    /// The queue in the order in which it is handed out, one item for each slot that is looked at (`None` where
    /// none waits there), so that a caller can bound its walk.
    pub(super) fn queue(&self) -> impl Iterator<Item = Option<TaskIndex>> {
        let rest = self.slots.get(self.cursor as usize - 1..).unwrap_or_default();
        let rest = rest.iter().zip(self.cursor..).map(|(slot, index)| {
            let waits = matches!(slot, Slot::Waiting { .. })
                && !self.returned.contains(&index)
                && !self.backing_off.contains_key(&index);
            waits.then_some(TaskIndex(index))
        });
        self.returned.iter().map(|index| Some(TaskIndex(*index))).chain(rest)
    }

    /// Tasks that some machine could not start, with those machines; also such as are handed out again.
    pub(super) fn excluded(&self) -> impl Iterator<Item = (TaskIndex, &BTreeSet<InstanceId>)> {
        self.excluded.iter().map(|(task, machines)| (TaskIndex(*task), machines))
    }

    /// The first waiting task by index that `worker` has not failed to start.
    pub(super) fn next_for(&mut self, worker: &InstanceId) -> Option<TaskIndex> {
        let excluded = &self.excluded;
        let fits = |index: &u32| !excluded.get(index).is_some_and(|workers| workers.contains(worker));
        if let Some(&index) = self.returned.iter().find(|index| fits(index)) {
            return Some(TaskIndex(index));
        }
        while let Some(slot) = self.slots.get(self.cursor as usize - 1) {
            // What backs off is put among the returned when its wait is over.
            let waiting =
                matches!(slot, Slot::Waiting { .. }) && !self.backing_off.contains_key(&self.cursor);
            if waiting && !self.returned.contains(&self.cursor) {
                if fits(&self.cursor) {
                    return Some(TaskIndex(self.cursor));
                }
                self.returned.insert(self.cursor);
            }
            self.cursor += 1;
        }
        None
    }

    /// Moves a waiting task to an offered attempt, and says its number.
    pub(super) fn offer(&mut self, task: TaskIndex, worker: WorkerRef) -> Option<AttemptNo> {
        let slot = self.slots.get_mut((task.0 as usize).checked_sub(1)?)?;
        let Slot::Waiting { attempts } = *slot else { return None };
        if self.backing_off.contains_key(&task.0) {
            return None;
        }
        let attempt = AttemptNo(attempts + 1);
        *slot = Slot::Active(Box::new(Active {
            attempt,
            worker,
            start_ms: None,
            pid: 0,
            output_path: String::new(),
            cancel_grace_ms: None,
            result: None,
            log_stored: 0,
        }));
        self.returned.remove(&task.0);
        self.active += 1;
        Some(attempt)
    }

    /// Moves an offered attempt to running.
    pub(super) fn start(&mut self, task: TaskIndex, attempt: AttemptNo, now_ms: UnixMs) -> bool {
        let Some(active) = self.active_mut(task, attempt) else { return false };
        if active.start_ms.is_some() {
            return false;
        }
        active.start_ms = Some(now_ms);
        self.state.counts.queued -= 1;
        self.state.counts.running += 1;
        if self.state.status == BatchStatus::Queued {
            self.state.status = BatchStatus::Running;
        }
        self.state.start_ms.get_or_insert(now_ms);
        true
    }

    /// Moves an active attempt back to the queue, uncounted, and gives what it was.
    pub(super) fn requeue(&mut self, task: TaskIndex, attempt: AttemptNo) -> Option<Active> {
        let active = self.take_back(task, attempt)?;
        *self.uncounted.entry(task.0).or_default() += 1;
        self.wait_again(task);
        Some(active)
    }

    /// Moves an active attempt, which counts, to those that wait for their retry, and gives what it was.
    pub(super) fn back_off(
        &mut self,
        task: TaskIndex,
        attempt: AttemptNo,
        until_mono_ms: u64,
    ) -> Option<Active> {
        let active = self.take_back(task, attempt)?;
        self.backing_off.insert(task.0, until_mono_ms);
        Some(active)
    }

    fn take_back(&mut self, task: TaskIndex, attempt: AttemptNo) -> Option<Active> {
        let active = self.take(task, attempt, Slot::Waiting { attempts: attempt.0 })?;
        let old = if active.start_ms.is_some() { TaskStatus::Running } else { TaskStatus::Queued };
        *self.state.counts.of(old) -= 1;
        self.state.counts.queued += 1;
        Some(active)
    }

    /// Puts a task into the queue whose wait for its retry is over.
    pub(super) fn wake(&mut self, task: TaskIndex, now_mono_ms: u64) -> bool {
        if self.backing_off.get(&task.0).is_none_or(|until_ms| *until_ms > now_mono_ms) {
            return false;
        }
        self.backing_off.remove(&task.0);
        self.wait_again(task);
        true
    }

    /// The wait before a task's next attempt where its retries cover this end, with the number of attempts that
    /// count and how many there may be.
    pub(super) fn next_attempt(
        &self,
        task: TaskIndex,
        attempt: AttemptNo,
        failure: FailureReason,
        exit_code: Option<i32>,
    ) -> Option<(u64, u32, u32)> {
        if self.active(task, attempt)?.cancel_grace_ms.is_some()
            || self.state.cancel_reason.is_some()
            || self.is_abandoned()
        {
            return None;
        }
        let policy = self.own.retry(&self.head.options, task)?;
        let counted = attempt.0.saturating_sub(self.uncounted(task));
        (policy.covers(failure, exit_code) && counted < policy.max_attempts)
            .then(|| (policy.wait_ms(counted), counted, policy.max_attempts))
    }

    /// How many of a task's attempts do not count against its retries.
    pub(super) fn uncounted(&self, task: TaskIndex) -> u32 {
        self.uncounted.get(&task.0).copied().unwrap_or(0)
    }

    /// No attempt that counts was made since the task was submitted or reopened.
    pub(super) fn never_started(&self, task: TaskIndex) -> bool {
        match self.slot(task) {
            Some(Slot::Waiting { attempts }) => *attempts <= self.uncounted(task),
            _ => false,
        }
    }

    /// When tasks have waited too long for their first start, if ever.
    pub(super) const fn queue_deadline(&self) -> Option<u64> {
        self.queue_deadline_ms
    }

    /// From now on tasks wait for their first start, which is kept in the batch's row; gives when they have waited
    /// too long, if ever.
    pub(super) fn begin_queue_time(&mut self, now: Now) -> Option<u64> {
        let limit_ms = self.head.options.queue_time_limit_ms;
        self.state.queued_since_ms = limit_ms.map(|_| now.unix_ms);
        self.queue_deadline_ms = limit_ms.map(|limit_ms| now.mono_ms + limit_ms);
        self.queue_deadline_ms
    }

    /// Tasks have waited too long at the earliest then; gives when, if ever.
    pub(super) fn extend_queue_time(&mut self, until_mono_ms: u64) -> Option<u64> {
        self.queue_deadline_ms = self.queue_deadline_ms.map(|at_ms| at_ms.max(until_mono_ms));
        self.queue_deadline_ms
    }

    /// What has not started has waited too long. Never while the batch is on hold.
    pub(super) fn is_overdue(&self, now_mono_ms: u64) -> bool {
        !self.state.on_hold && self.queue_deadline_ms.is_some_and(|at_ms| at_ms <= now_mono_ms)
    }

    /// As many tasks have failed as may.
    pub(super) fn has_failed(&self) -> bool {
        super::waiting::has_failed(&self.head, &self.state)
    }

    /// It was given up: nothing of it starts any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.head.options.max_failures.is_some() && !self.state.on_hold && !self.state.message.is_empty()
    }

    /// Whether failures since this was last asked are the ones too many.
    pub(super) fn notice_failures(&mut self) -> bool {
        let failed = self.state.counts.failed;
        let grown = failed > std::mem::replace(&mut self.noticed_failures, failed);
        grown && self.has_failed() && !self.is_abandoned()
    }

    /// How long a task may run.
    pub(super) fn time_limit_ms(&self, task: TaskIndex) -> Option<u64> {
        self.own.time_limit_ms(&self.head.options, task)
    }

    /// What a worker does by itself to an attempt of this task. `lost_after_ms`: when it is given up.
    pub(super) fn terms(&self, task: TaskIndex, lost_after_ms: u64) -> Terms {
        let grace_ms = self.head.options.grace_ms();
        let time_limit_ms = self.time_limit_ms(task);
        if self.head.options.on_disconnect != Some(OnDisconnect::Stop) {
            return Terms { time_limit_ms, grace_ms, stop_after_cut_off_ms: None };
        }
        // It has to be over before the task may run elsewhere, also where that comes soon.
        let grace_ms = grace_ms.min(u32::try_from(lost_after_ms / 4).unwrap_or(u32::MAX));
        let late = lost_after_ms.saturating_sub(grace_ms.into()).saturating_sub(CUT_OFF_MARGIN_MS);
        let stop_after_cut_off_ms = Some(late.max(lost_after_ms / 2).max(1));
        Terms { time_limit_ms, grace_ms, stop_after_cut_off_ms }
    }

    /// Ends an active attempt's task, and gives what the attempt was.
    pub(super) fn end_active(
        &mut self,
        task: TaskIndex,
        attempt: AttemptNo,
        status: TaskStatus,
    ) -> Option<Active> {
        let active = self.take(task, attempt, Slot::Ended { status, attempts: attempt.0 })?;
        let old = if active.start_ms.is_some() { TaskStatus::Running } else { TaskStatus::Queued };
        *self.state.counts.of(old) -= 1;
        *self.state.counts.of(status) += 1;
        self.excluded.remove(&task.0);
        Some(active)
    }

    /// Ends a waiting task.
    pub(super) fn end_waiting(&mut self, task: TaskIndex, status: TaskStatus) -> Option<AttemptNo> {
        let slot = self.slots.get_mut((task.0 as usize).checked_sub(1)?)?;
        let Slot::Waiting { attempts } = *slot else { return None };
        *slot = Slot::Ended { status, attempts };
        self.returned.remove(&task.0);
        self.backing_off.remove(&task.0);
        self.excluded.remove(&task.0);
        self.state.counts.queued -= 1;
        *self.state.counts.of(status) += 1;
        Some(AttemptNo(attempts))
    }

    /// Puts an ended task back into the queue; none of its attempts counts from now on.
    pub(super) fn reopen(&mut self, task: TaskIndex) -> Option<AttemptNo> {
        let slot = self.slots.get_mut((task.0 as usize).checked_sub(1)?)?;
        let Slot::Ended { status, attempts } = *slot else { return None };
        *slot = Slot::Waiting { attempts };
        *self.state.counts.of(status) -= 1;
        self.state.counts.queued += 1;
        self.wait_again(task);
        if attempts > 0 {
            self.uncounted.insert(task.0, attempts);
        }
        Some(AttemptNo(attempts))
    }

    /// Remembers that a machine could not start a task's program.
    pub(super) fn exclude(&mut self, task: TaskIndex, worker: InstanceId) {
        self.excluded.entry(task.0).or_default().insert(worker);
    }

    /// Whether a machine could not start a task's program.
    pub(super) fn is_excluded(&self, task: TaskIndex, worker: &InstanceId) -> bool {
        self.excluded.get(&task.0).is_some_and(|workers| workers.contains(worker))
    }

    /// Some machine could not start a task's program.
    pub(super) fn is_excluded_somewhere(&self, task: TaskIndex) -> bool {
        self.excluded.contains_key(&task.0)
    }

    /// Waiting tasks that none of these machines could start.
    pub(super) fn hopeless(&self, machines: &[InstanceId]) -> Vec<TaskIndex> {
        self.excluded
            .iter()
            .filter(|(_, excluded)| machines.iter().all(|machine| excluded.contains(machine)))
            .map(|(task, _)| TaskIndex(*task))
            .filter(|task| matches!(self.slot(*task), Some(Slot::Waiting { .. })))
            .collect()
    }

    /// Tasks by slot, 1 first.
    pub(super) fn slots(&self) -> impl Iterator<Item = (TaskIndex, &Slot)> {
        self.slots.iter().zip(1..).map(|(slot, index)| (TaskIndex(index), slot))
    }

    /// The row of an active attempt.
    pub(super) fn active_row(&self, task: TaskIndex, attempt: AttemptNo) -> Option<TaskState> {
        let active = self.active(task, attempt)?;
        Some(TaskState {
            revision: self.state.revision,
            status: if active.start_ms.is_some() { TaskStatus::Running } else { TaskStatus::Queued },
            attempt,
            worker: Some(active.worker.clone()),
            offered: active.start_ms.is_none(),
            output_path: active.output_path.clone(),
            pid: active.pid,
            start_ms: active.start_ms,
            cancel_requested: active.cancel_grace_ms.is_some(),
            cancel_grace_ms: active.cancel_grace_ms,
            uncounted: self.uncounted(task),
            ..TaskState::default()
        })
    }

    /// From the cursor on (a restart sets it back), waiting is being in the queue.
    fn wait_again(&mut self, task: TaskIndex) {
        if task.0 < self.cursor {
            self.returned.insert(task.0);
        }
    }

    fn take(&mut self, task: TaskIndex, attempt: AttemptNo, next: Slot) -> Option<Active> {
        let slot = self.slots.get_mut((task.0 as usize).checked_sub(1)?)?;
        match slot {
            Slot::Active(active) if active.attempt == attempt => {}
            _ => return None,
        }
        self.active -= 1;
        match std::mem::replace(slot, next) {
            Slot::Active(active) => Some(*active),
            Slot::Waiting { .. } | Slot::Ended { .. } => None,
        }
    }
}

/// The grace that was asked for with a cancellation; data of older versions does not have it.
fn cancel_grace(requested: bool, grace_ms: Option<u32>) -> Option<u32> {
    requested.then(|| grace_ms.unwrap_or(super::DEFAULT_GRACE_MS))
}
