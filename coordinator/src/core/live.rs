//! An unfinished batch in memory: each task in exactly one slot, counts kept, the queue in index order.
//!
//! Knows nothing of workers' health or of time; what happens when is decided by its callers.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::{AttemptNo, TaskIndex};

use super::{
    event::Ended,
    model::{
        BatchHead, BatchState, BatchStatus, InstanceId, LoadedBatch, TaskState, TaskStatus, UnixMs, WorkerRef,
    },
};

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
}

impl Live {
    /// A batch that was just submitted.
    pub(super) fn new(head: BatchHead, state: BatchState) -> Self {
        let slots = (0..head.task_count).map(|_| Slot::Waiting { attempts: 0 }).collect();
        Self {
            head,
            state,
            slots,
            cursor: 1,
            returned: BTreeSet::new(),
            active: 0,
            excluded: BTreeMap::new(),
        }
    }

    /// A batch as the store has it.
    pub(super) fn from_loaded(loaded: LoadedBatch) -> Self {
        let LoadedBatch { head, state, tasks } = loaded;
        let mut active = 0;
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
        Self { head, state, slots, cursor: 1, returned: BTreeSet::new(), active, excluded: BTreeMap::new() }
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
        !self.state.on_hold
            && self.active < self.head.effective_concurrency
            && self.state.counts.queued > self.offered_count()
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

    /// Tasks in the queue; offered ones have left it.
    pub(super) fn waiting(&self) -> u32 {
        self.state.counts.queued.saturating_sub(self.offered_count())
    }

    /// The queue in the order in which it is handed out, one item for each slot that is looked at (`None` where
    /// none waits there), so that a caller can bound its walk.
    pub(super) fn queue(&self) -> impl Iterator<Item = Option<TaskIndex>> {
        let rest = self.slots.get(self.cursor as usize - 1..).unwrap_or_default();
        let rest = rest.iter().zip(self.cursor..).map(|(slot, index)| {
            let waits = matches!(slot, Slot::Waiting { .. }) && !self.returned.contains(&index);
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
            let waiting = matches!(slot, Slot::Waiting { .. });
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

    /// Moves an active attempt back to the queue, and gives what it was.
    pub(super) fn requeue(&mut self, task: TaskIndex, attempt: AttemptNo) -> Option<Active> {
        let active = self.take(task, attempt, Slot::Waiting { attempts: attempt.0 })?;
        let old = if active.start_ms.is_some() { TaskStatus::Running } else { TaskStatus::Queued };
        *self.state.counts.of(old) -= 1;
        self.state.counts.queued += 1;
        self.wait_again(task);
        Some(active)
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
        self.excluded.remove(&task.0);
        self.state.counts.queued -= 1;
        *self.state.counts.of(status) += 1;
        Some(AttemptNo(attempts))
    }

    /// Puts an ended task back into the queue.
    pub(super) fn reopen(&mut self, task: TaskIndex) -> Option<AttemptNo> {
        let slot = self.slots.get_mut((task.0 as usize).checked_sub(1)?)?;
        let Slot::Ended { status, attempts } = *slot else { return None };
        *slot = Slot::Waiting { attempts };
        *self.state.counts.of(status) -= 1;
        self.state.counts.queued += 1;
        self.wait_again(task);
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

    /// Ends waiting tasks that none of these machines could start, as failed.
    pub(super) fn end_excluded(&mut self, machines: &[InstanceId]) -> Vec<(TaskIndex, AttemptNo)> {
        let hopeless: Vec<_> = self
            .excluded
            .iter()
            .filter(|(_, excluded)| machines.iter().all(|machine| excluded.contains(machine)))
            .map(|(task, _)| TaskIndex(*task))
            .collect();
        let mut end = |task| Some((task, self.end_waiting(task, TaskStatus::Failed)?));
        hopeless.into_iter().filter_map(&mut end).collect()
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
