//! A batch as users see it, with its text for people.

use std::fmt::Write as _;

use muster_proto::v1;

use crate::{
    core::model::{BatchHead, BatchState, BatchStatus, Counts},
    store::BatchView,
};

use super::{count, timestamp};

/// What every batch is; the seed's word.
const MODE: &str = "batch_run";
/// Version of the status document.
const VERSION: i32 = 2;

/// A batch without its tasks. `available_workers` is of now, not of the batch's revision.
pub(crate) fn batch(view: &BatchView, available_workers: u32) -> v1::Batch {
    let BatchView { head, state } = view;
    v1::Batch {
        batch_id: head.id.to_string(),
        mode: MODE.to_owned(),
        version: VERSION,
        task_count: count(head.task_count),
        requested_concurrency: count(head.requested_concurrency),
        effective_concurrency: count(head.effective_concurrency),
        configured_max_concurrency: count(head.configured_max_concurrency),
        configured_max_tasks: count(head.configured_max_tasks),
        scheduler_status: status(state.status).into(),
        create_time: Some(timestamp(head.create_ms)),
        start_time: state.start_ms.map(timestamp),
        end_time: state.end_ms.map(timestamp),
        reply_markdown: reply_markdown(head, state),
        revision: state.revision,
        counts: Some(counts(state.counts)),
        tasks: Vec::new(),
        tasks_omitted: false,
        available_workers: count(available_workers),
        cancel_requested: state.cancel_reason.is_some(),
        cancel_reason: state.cancel_reason.clone().unwrap_or_default(),
        // Unset where nothing was asked for, as it was submitted.
        options: (!head.options.is_plain()).then(|| super::options::batch(&head.options)),
        on_hold: state.on_hold,
        status_message: state.message.clone(),
    }
}

pub(super) const fn status(status: BatchStatus) -> v1::SchedulerStatus {
    match status {
        BatchStatus::Queued => v1::SchedulerStatus::Queued,
        BatchStatus::Running => v1::SchedulerStatus::Running,
        BatchStatus::Completed => v1::SchedulerStatus::Completed,
        BatchStatus::Cancelled => v1::SchedulerStatus::Cancelled,
        BatchStatus::Failed => v1::SchedulerStatus::Failed,
    }
}

pub(super) fn counts(counts: Counts) -> v1::TaskCounts {
    let Counts { queued, running, completed, failed, cancelled } = counts;
    v1::TaskCounts {
        queued: count(queued),
        running: count(running),
        completed: count(completed),
        failed: count(failed),
        cancelled: count(cancelled),
    }
}

/// Says in Markdown where the batch stands and what can be done about it. Made from the row alone, so that it
/// is the same wherever the batch is shown.
fn reply_markdown(head: &BatchHead, state: &BatchState) -> String {
    let id = head.id;
    let tasks = tasks(head.task_count);
    let cancelling = state.cancel_reason.is_some() && !state.status.is_ended();
    let word = match state.status {
        _ if cancelling => "is being cancelled",
        BatchStatus::Queued => "is queued",
        BatchStatus::Running => "is running",
        BatchStatus::Completed if state.counts.completed == head.task_count => "has completed",
        BatchStatus::Completed => "has ended",
        BatchStatus::Cancelled => "was cancelled",
        BatchStatus::Failed => "was given up",
    };
    let mut text = format!("**Batch `{id}` {word}**: {tasks}");
    if !state.status.is_ended() {
        // A String takes everything that is written to it.
        let _ = write!(text, ", at most {} at once", head.effective_concurrency);
    }
    text.push('.');
    if !state.message.is_empty() {
        let _ = write!(text, " Why: {}.", state.message);
    }
    text.push_str("\n\n");
    let Counts { queued, running, completed, failed, cancelled } = state.counts;
    for (word, number) in [
        ("completed", completed),
        ("failed", failed),
        ("cancelled", cancelled),
        ("running", running),
        ("queued", queued),
    ] {
        if number > 0 {
            let _ = writeln!(text, "- {number} {word}");
        }
    }
    let again = failed + cancelled > 0;
    let next = match state.status {
        status if !status.is_ended() => format!("Follow it with `muster watch {id}`."),
        _ if again => format!("Run what failed or was cancelled again with `muster retry {id}`."),
        _ => format!("See its tasks with `muster status {id}`."),
    };
    text.push('\n');
    text.push_str(&next);
    text
}

/// A number of tasks in words.
pub(crate) fn tasks(count: u32) -> String {
    if count == 1 { "1 task".to_owned() } else { format!("{count} tasks") }
}

#[cfg(test)]
pub(crate) mod tests {
    use muster_proto::BatchId;

    use super::*;

    pub(crate) fn view(status: BatchStatus, counts: Counts) -> BatchView {
        BatchView {
            head: BatchHead {
                id: BatchId::new(1_700_000_000_000, 7),
                create_ms: 1_700_000_000_000,
                task_count: counts.queued
                    + counts.running
                    + counts.completed
                    + counts.failed
                    + counts.cancelled,
                requested_concurrency: 3,
                effective_concurrency: 2,
                configured_max_concurrency: 3,
                configured_max_tasks: 5,
                options: crate::core::options::BatchOptions::default(),
            },
            state: BatchState {
                revision: 9,
                status,
                counts,
                start_ms: None,
                end_ms: None,
                cancel_reason: None,
                uses_key: false,
                on_hold: false,
                message: String::new(),
                queued_since_ms: None,
            },
        }
    }

    #[test]
    fn a_batch_keeps_its_figures() {
        let shown =
            batch(&view(BatchStatus::Running, Counts { queued: 1, running: 1, ..Counts::default() }), 4);
        assert_eq!((shown.mode.as_str(), shown.version, shown.task_count), ("batch_run", 2, 2));
        assert_eq!((shown.requested_concurrency, shown.effective_concurrency), (3, 2));
        assert_eq!(shown.scheduler_status(), v1::SchedulerStatus::Running);
        assert_eq!((shown.revision, shown.available_workers), (9, 4));
        assert_eq!(shown.counts.map(|counts| (counts.queued, counts.running)), Some((1, 1)));
        assert!(shown.start_time.is_none() && !shown.cancel_requested);
    }

    #[test]
    fn the_text_says_where_it_stands_and_what_can_be_done() {
        let text = |status, counts| reply_markdown(&view(status, counts).head, &view(status, counts).state);
        let waiting = text(BatchStatus::Queued, Counts { queued: 1, ..Counts::default() });
        assert!(waiting.contains("is queued") && waiting.contains("1 task,"), "{waiting}");
        assert!(waiting.contains("muster watch"), "{waiting}");
        let mixed = text(BatchStatus::Completed, Counts { completed: 1, failed: 2, ..Counts::default() });
        assert!(mixed.contains("- 2 failed") && mixed.contains("muster retry"), "{mixed}");
        assert!(!mixed.contains("running"), "{mixed}");
        let good = text(BatchStatus::Completed, Counts { completed: 2, ..Counts::default() });
        assert!(good.contains("has completed") && !good.contains("retry"), "{good}");
    }
}
