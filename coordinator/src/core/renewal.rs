//! What becomes of unfinished batches where the data turns out to be a copy: it goes on under a life of its own.
//!
//! The copy does not know what happened after it was taken, so that nothing of it starts until somebody says so,
//! and an attempt that was handed out is given up: its worker reports to the coordinator that it knows. What
//! such a worker reports here all the same is kept as a late result.
//!
//! Decides what is written; finding out that the data is a copy, and writing, is the store's.

use muster_proto::{AttemptId, LifeId, TaskIndex};

use super::{
    event::Change,
    model::{AttemptRow, FailureReason, LoadedBatch, TaskState, TaskStatus, UnixMs},
    waiting,
};

/// Why an attempt was given up.
const GIVEN_UP: &str = "was running when the copy that this data was restored from was taken; how it ended is \
                        not known here";

/// The changes that put what is unfinished on hold. Attempts of `life`, the life of the original, are given up.
pub fn renew(batches: Vec<LoadedBatch>, life: LifeId, now_ms: UnixMs) -> Vec<Change> {
    batches.into_iter().flat_map(|batch| renew_batch(batch, life, now_ms)).collect()
}

fn renew_batch(loaded: LoadedBatch, life: LifeId, now_ms: UnixMs) -> Vec<Change> {
    let LoadedBatch { head, mut state, tasks, excluded } = loaded;
    let mut changes = Vec::new();
    state.revision += 1;
    for (mut task, index) in tasks.into_iter().zip(1..).filter(|(task, _)| is_handed_out(task)) {
        let index = TaskIndex(index);
        let before = task.status;
        let (status, failure) = if task.cancel_requested {
            (TaskStatus::Cancelled, None)
        } else {
            (TaskStatus::Failed, Some(FailureReason::WorkerCrashed))
        };
        changes.push(Change::Attempt(AttemptRow {
            id: AttemptId { life, batch: head.id, task: index, attempt: task.attempt },
            worker: task.worker.as_ref().map(|worker| worker.name.clone()).unwrap_or_default(),
            exit_code: None,
            signal: None,
            failure,
            end_ms: now_ms,
            log_bytes: 0,
            log_discarded: 0,
            late: false,
        }));
        task.revision = state.revision;
        task.status = status;
        task.offered = false;
        task.failure = failure;
        task.failure_message = GIVEN_UP.to_owned();
        task.end_ms = Some(now_ms);
        task.end_confirmed = !task.cancel_requested;
        task.not_before_ms = None;
        let count = state.counts.of(before);
        *count = count.saturating_sub(1);
        *state.counts.of(status) += 1;
        changes.push(Change::Task(head.id, index, Box::new(task)));
        if excluded.iter().any(|(task, _)| *task == index) {
            changes.push(Change::ForgetExclusions(head.id, index));
        }
    }
    if state.counts.unfinished() == 0 {
        waiting::end_batch(&head, &mut state, now_ms);
        if state.uses_key {
            changes.push(Change::Secret(head.id, None));
        }
    } else {
        state.on_hold = true;
        state.message = format!(
            "restored from a copy of the data; it may have run on since that was taken, so nothing of it starts \
             until it is released: muster release {}",
            head.id
        );
    }
    changes.push(Change::Batch(head.id, state));
    changes
}

/// Offered or running: some worker has it, or may have it.
fn is_handed_out(task: &TaskState) -> bool {
    task.status == TaskStatus::Running || (task.status == TaskStatus::Queued && task.offered)
}

#[cfg(test)]
mod tests {
    use muster_proto::{AttemptNo, BatchId};

    use super::*;
    use crate::core::{
        model::{BatchHead, BatchState, BatchStatus, Counts},
        options::BatchOptions,
    };

    fn batch(tasks: Vec<TaskState>) -> LoadedBatch {
        let mut counts = Counts::default();
        for task in &tasks {
            *counts.of(task.status) += 1;
        }
        LoadedBatch {
            head: BatchHead {
                id: BatchId::new(1, 1),
                create_ms: 1,
                task_count: u32::try_from(tasks.len()).unwrap(),
                requested_concurrency: 1,
                effective_concurrency: 1,
                configured_max_concurrency: 1,
                configured_max_tasks: 1,
                options: BatchOptions::default(),
            },
            state: BatchState {
                revision: 7,
                status: BatchStatus::Running,
                counts,
                start_ms: Some(2),
                end_ms: None,
                cancel_reason: None,
                uses_key: true,
                on_hold: false,
                message: String::new(),
                queued_since_ms: None,
            },
            tasks,
            excluded: Vec::new(),
        }
    }

    fn task(status: TaskStatus, offered: bool) -> TaskState {
        TaskState { revision: 3, status, offered, attempt: AttemptNo(1), ..TaskState::default() }
    }

    #[test]
    fn what_waits_is_held_and_what_was_handed_out_is_given_up() {
        let tasks = vec![
            task(TaskStatus::Completed, false),
            task(TaskStatus::Running, false),
            task(TaskStatus::Queued, true),
            TaskState { cancel_requested: true, ..task(TaskStatus::Running, false) },
            task(TaskStatus::Queued, false),
        ];
        let changes = renew(vec![batch(tasks)], LifeId(5), 100);
        let Some(Change::Batch(id, state)) = changes.last() else { panic!("{changes:?}") };
        assert_eq!((state.revision, state.status, state.on_hold), (8, BatchStatus::Running, true));
        assert!(state.message.contains(&format!("muster release {id}")), "{}", state.message);
        let expected = Counts { queued: 1, running: 0, completed: 1, failed: 2, cancelled: 1 };
        assert_eq!(state.counts, expected);
        let ended: Vec<_> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Task(_, index, state) => Some((index.0, state.status, state.failure, state.revision)),
                _ => None,
            })
            .collect();
        let crashed = Some(FailureReason::WorkerCrashed);
        assert_eq!(
            ended,
            [
                (2, TaskStatus::Failed, crashed, 8),
                (3, TaskStatus::Failed, crashed, 8),
                (4, TaskStatus::Cancelled, None, 8)
            ]
        );
        let rows = changes.iter().filter_map(|change| match change {
            Change::Attempt(row) => Some(row),
            _ => None,
        });
        assert!(rows.clone().all(|row| row.is_given_up() && row.id.life == LifeId(5)));
        assert_eq!(rows.count(), 3, "a late result of each is still wanted");
    }

    #[test]
    fn a_batch_with_nothing_left_to_start_ends_and_its_key_goes() {
        let changes = renew(vec![batch(vec![task(TaskStatus::Running, false)])], LifeId(5), 100);
        let Some(Change::Batch(_, state)) = changes.last() else { panic!("{changes:?}") };
        assert_eq!((state.status, state.end_ms, state.on_hold), (BatchStatus::Completed, Some(100), false));
        assert!(changes.iter().any(|change| matches!(change, Change::Secret(_, None))));
    }

    #[test]
    fn a_batch_of_which_too_many_have_failed_ends_as_failed_and_says_so() {
        let mut loaded = batch(vec![task(TaskStatus::Completed, false), task(TaskStatus::Running, false)]);
        loaded.head.options.max_failures = Some(1);
        let changes = renew(vec![loaded], LifeId(5), 100);
        let Some(Change::Batch(_, state)) = changes.last() else { panic!("{changes:?}") };
        assert_eq!((state.status, state.on_hold), (BatchStatus::Failed, false));
        assert!(state.message.contains("max_failures is 1"), "{}", state.message);
    }
}
