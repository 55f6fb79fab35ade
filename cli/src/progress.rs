//! Turns the messages of a watch into lines for people: one per change of a task, and a summary. Pure.

use std::collections::BTreeMap;

use muster_proto::v1::{Batch, SchedulerStatus, Task, TaskStatus, WatchBatchResponse};

use crate::{
    follow::has_ended,
    live::model::name,
    output::words::{describe_failure, duration_between, scheduler_word},
    sanitize::one_line,
};

/// The most failures that a summary names.
const MAX_NAMED: usize = 20;

/// What is known of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    status: i32,
    attempt: i32,
    cancel_requested: bool,
}

/// What to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Data: a change of a task.
    Change(String),
    /// Data: a change of a task that a live view does not show by itself.
    Outcome(Outcome),
    /// Talk: what frames the changes.
    Talk(String),
}

/// How an attempt came out: the task has ended, or is queued again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// In words.
    pub text: String,
    /// What people know the task by, on one line.
    pub label: String,
    /// The task did not complete.
    pub bad: bool,
}

/// The batch as far as it has been watched.
pub struct Progress {
    url: String,
    hint_at_workers: bool,
    batch: Option<Batch>,
    tasks: BTreeMap<i32, Known>,
    failures: BTreeMap<i32, String>,
    waiting_for_worker: bool,
}

impl Progress {
    /// For one batch on the coordinator at `url`. `hint_at_workers`: say how to start one when there is none.
    pub fn new(url: &str, hint_at_workers: bool) -> Self {
        Self {
            url: url.to_owned(),
            hint_at_workers,
            batch: None,
            tasks: BTreeMap::new(),
            failures: BTreeMap::new(),
            waiting_for_worker: false,
        }
    }

    /// Takes a message and says what is new in it.
    pub fn observe(&mut self, message: &WatchBatchResponse) -> Vec<Line> {
        let mut lines = Vec::new();
        if let Some(batch) = &message.batch {
            if self.batch.is_none() {
                lines.push(Line::Talk(headline(batch)));
            }
            self.batch = Some(Batch { tasks: Vec::new(), ..batch.clone() });
        }
        for task in &message.tasks {
            let now =
                Known { status: task.status, attempt: task.attempt, cancel_requested: task.cancel_requested };
            let before = self.tasks.insert(task.index, now);
            if before == Some(now) {
                continue;
            }
            match failure_text(task) {
                Some(text) => self.failures.insert(task.index, text),
                None => self.failures.remove(&task.index),
            };
            let Some(text) = change(task, before) else { continue };
            lines.push(match task.status() {
                TaskStatus::Unspecified | TaskStatus::Running => Line::Change(text),
                TaskStatus::Queued | TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Cancelled => {
                    let bad = task.status() != TaskStatus::Completed;
                    Line::Outcome(Outcome { text, label: name(task), bad })
                }
            });
        }
        if let Some(batch) = &self.batch
            && self.hint_at_workers
        {
            let hint = no_worker_hint(batch, &self.url);
            let waiting = hint.is_some();
            if let Some(hint) = hint.filter(|_| !self.waiting_for_worker) {
                lines.push(Line::Talk(hint));
            }
            self.waiting_for_worker = waiting;
        }
        lines
    }

    /// The batch as last seen, without tasks.
    pub fn batch(&self) -> Option<&Batch> {
        self.batch.as_ref()
    }

    /// Whether every task has completed.
    pub fn all_completed(&self) -> bool {
        self.batch.as_ref().is_some_and(all_completed)
    }

    /// The first task that did not complete and was started, so that it has a log.
    pub fn first_log(&self) -> Option<i32> {
        let has_log = |index: &&i32| self.tasks.get(index).is_some_and(|known| known.attempt > 0);
        self.failures.keys().find(has_log).copied()
    }

    /// How it came out: the counts, the failures by name, and the command that shows their output.
    pub fn summary(&self, logs_command: bool) -> Vec<String> {
        let Some(batch) = &self.batch else { return Vec::new() };
        let counts = batch.counts.unwrap_or_default();
        let mut text = format!("{} of {} tasks completed", counts.completed, batch.task_count);
        for (count, word) in [
            (counts.failed, "failed"),
            (counts.cancelled, "cancelled"),
            (counts.running, "running"),
            (counts.queued, "queued"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} {word}"));
            }
        }
        if batch.scheduler_status() == SchedulerStatus::Failed {
            text.push_str("; the batch was given up");
            if !batch.status_message.is_empty() {
                text.push_str(&format!(" ({})", one_line(&batch.status_message)));
            }
        }
        let mut lines = vec![text];
        for (index, failure) in self.failures.iter().take(MAX_NAMED) {
            lines.push(format!("  task {index} {failure}"));
            if logs_command {
                lines
                    .push(format!("    {}", command(&self.url, &format!("logs {} {index}", batch.batch_id))));
            }
        }
        if self.failures.len() > MAX_NAMED {
            let more = self.failures.len() - MAX_NAMED;
            let command = command(&self.url, &format!("status {}", batch.batch_id));
            lines.push(format!("  and {more} more: {command}"));
        }
        lines
    }
}

/// Whether every task of the batch has completed.
pub fn all_completed(batch: &Batch) -> bool {
    batch.counts.is_some_and(|counts| counts.completed == batch.task_count)
        && has_ended(batch.scheduler_status())
}

/// A `muster` command line for the same coordinator.
pub fn command(url: &str, rest: &str) -> String {
    if url == crate::args::DEFAULT_COORDINATOR {
        format!("muster {rest}")
    } else {
        format!("muster --coordinator {} {rest}", one_line(url))
    }
}

/// What a batch is, in one line.
pub fn headline(batch: &Batch) -> String {
    let name = if batch.batch_id.is_empty() {
        "batch".to_owned()
    } else {
        format!("batch {}", one_line(&batch.batch_id))
    };
    let tasks =
        if batch.task_count == 1 { "1 task".to_owned() } else { format!("{} tasks", batch.task_count) };
    let mut text = format!(
        "{name}: {tasks}, at most {} at once, {}",
        batch.effective_concurrency,
        scheduler_word(batch.scheduler_status())
    );
    // That of a batch on hold names its command, which has a line of its own.
    if !batch.status_message.is_empty() && !batch.on_hold {
        text.push_str(&format!(" ({})", one_line(&batch.status_message)));
    }
    text
}

/// What to say where nothing will start: the batch is on hold, or no worker is there.
pub fn no_worker_hint(batch: &Batch, url: &str) -> Option<String> {
    let queued = batch.counts.is_some_and(|counts| counts.queued > 0);
    if batch.on_hold {
        return Some(format!(
            "the batch is on hold: it comes from a copy of the data, and its queued tasks may have run since that \
             was taken; let them run with: {}",
            command(url, &format!("release {}", one_line(&batch.batch_id)))
        ));
    }
    let waits = batch.available_workers == 0 && queued && !has_ended(batch.scheduler_status());
    waits.then(|| {
        format!(
            "no worker is connected, so nothing will start; start one with: muster-worker --coordinator {} --dispatch 'CMD'",
            one_line(url)
        )
    })
}

fn change(task: &Task, before: Option<Known>) -> Option<String> {
    let index = task.index;
    Some(match task.status() {
        TaskStatus::Unspecified => return None,
        TaskStatus::Queued => match before {
            Some(known) if known.status != task.status => format!("task {index} queued again"),
            Some(_) | None => return None,
        },
        TaskStatus::Running => {
            let was_running =
                before.is_some_and(|known| known.status == task.status && known.attempt == task.attempt);
            if was_running && task.cancel_requested {
                format!("task {index} is being cancelled")
            } else if was_running {
                return None;
            } else {
                let place = if task.worker_id.is_empty() {
                    String::new()
                } else {
                    format!(" on {}", one_line(&task.worker_id))
                };
                format!("task {index} running{place} (attempt {})", task.attempt)
            }
        }
        TaskStatus::Completed => match duration_between(task.start_time.as_ref(), task.end_time.as_ref()) {
            Some(duration) => format!("task {index} completed in {duration}"),
            None => format!("task {index} completed"),
        },
        TaskStatus::Failed | TaskStatus::Cancelled => format!("task {index} {}", failure_text(task)?),
    })
}

fn failure_text(task: &Task) -> Option<String> {
    match task.status() {
        TaskStatus::Failed => Some(format!("failed: {}", describe_failure(task))),
        TaskStatus::Cancelled if task.attempt > 0 && !task.end_confirmed => {
            Some("cancelled; its worker was lost before it confirmed the end".to_owned())
        }
        TaskStatus::Cancelled => Some("cancelled".to_owned()),
        TaskStatus::Unspecified | TaskStatus::Queued | TaskStatus::Running | TaskStatus::Completed => None,
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{FailureReason, TaskCounts};
    use prost_types::Timestamp;

    use super::*;

    const URL: &str = "http://127.0.0.1:7070";

    fn batch(counts: TaskCounts, workers: i32, status: SchedulerStatus) -> Batch {
        Batch {
            batch_id: "b1".to_owned(),
            task_count: 3,
            effective_concurrency: 2,
            scheduler_status: status.into(),
            counts: Some(counts),
            available_workers: workers,
            ..Batch::default()
        }
    }

    fn message(batch: Batch, tasks: Vec<Task>) -> WatchBatchResponse {
        WatchBatchResponse { life_id: "l".to_owned(), revision: 1, batch: Some(batch), tasks }
    }

    fn task(index: i32, status: TaskStatus) -> Task {
        let attempt = i32::from(status != TaskStatus::Queued);
        Task { index, status: status.into(), attempt, end_confirmed: true, ..Task::default() }
    }

    fn changes(lines: Vec<Line>) -> Vec<String> {
        lines
            .into_iter()
            .filter_map(|line| match line {
                Line::Change(text) | Line::Outcome(Outcome { text, .. }) => Some(text),
                Line::Talk(_) => None,
            })
            .collect()
    }

    #[test]
    fn one_line_a_change_and_none_for_what_is_known() {
        let mut progress = Progress::new(URL, true);
        let counts = TaskCounts { queued: 2, running: 1, ..TaskCounts::default() };
        let running = Task { worker_id: "worker-a".to_owned(), ..task(3, TaskStatus::Running) };
        let first = message(
            batch(counts, 1, SchedulerStatus::Running),
            vec![task(1, TaskStatus::Queued), task(2, TaskStatus::Queued), running.clone()],
        );
        assert_eq!(changes(progress.observe(&first)), ["task 3 running on worker-a (attempt 1)"]);
        assert_eq!(progress.observe(&first), []);
        let done = Task {
            start_time: Some(Timestamp { seconds: 10, nanos: 0 }),
            end_time: Some(Timestamp { seconds: 14, nanos: 200_000_000 }),
            status: TaskStatus::Completed.into(),
            ..running
        };
        let failed = Task {
            exit_code: Some(3),
            failure_reason: FailureReason::ExitCode.into(),
            ..task(1, TaskStatus::Failed)
        };
        let second = message(batch(counts, 1, SchedulerStatus::Running), vec![done, failed]);
        assert_eq!(
            changes(progress.observe(&second)),
            ["task 3 completed in 4.2 s", "task 1 failed: exit code 3"]
        );
    }

    #[test]
    fn without_a_worker_the_command_that_starts_one_is_named_once() {
        let mut progress = Progress::new(URL, true);
        let counts = TaskCounts { queued: 3, ..TaskCounts::default() };
        let waiting = message(batch(counts, 0, SchedulerStatus::Queued), vec![]);
        let lines = progress.observe(&waiting);
        assert!(
            matches!(&lines[..], [Line::Talk(_), Line::Talk(hint)]
                if hint.contains("muster-worker --coordinator http://127.0.0.1:7070 --dispatch 'CMD'")),
            "{lines:?}"
        );
        assert_eq!(progress.observe(&waiting), []);
    }

    #[test]
    fn the_summary_names_failures_and_the_command_for_their_output() {
        let mut progress = Progress::new("http://other:1", true);
        let counts = TaskCounts { completed: 1, failed: 1, cancelled: 1, ..TaskCounts::default() };
        let failed =
            Task { signal: 9, failure_reason: FailureReason::Signal.into(), ..task(2, TaskStatus::Failed) };
        progress.observe(&message(
            batch(counts, 1, SchedulerStatus::Completed),
            vec![task(1, TaskStatus::Completed), failed, task(3, TaskStatus::Cancelled)],
        ));
        assert!(!progress.all_completed());
        let summary = progress.summary(true).join("\n");
        assert!(summary.starts_with("1 of 3 tasks completed, 1 failed, 1 cancelled"), "{summary}");
        assert!(summary.contains("task 2 failed: ended by signal 9 (SIGKILL)"), "{summary}");
        assert!(summary.contains("muster --coordinator http://other:1 logs b1 2"), "{summary}");
        assert!(summary.contains("task 3 cancelled"), "{summary}");
        assert_eq!(progress.first_log(), Some(2));
    }

    #[test]
    fn a_retry_queues_the_task_again_and_forgets_the_failure() {
        let mut progress = Progress::new(URL, true);
        let counts = TaskCounts { queued: 1, ..TaskCounts::default() };
        let running = batch(counts, 1, SchedulerStatus::Running);
        progress.observe(&message(running.clone(), vec![task(1, TaskStatus::Failed)]));
        let again = Task { attempt: 1, ..task(1, TaskStatus::Queued) };
        assert_eq!(changes(progress.observe(&message(running, vec![again]))), ["task 1 queued again"]);
        assert_eq!(progress.summary(true).len(), 1);
    }
}
