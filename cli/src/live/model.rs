//! What is known of a batch that is being watched: its counts, what runs and the last line each has printed, and
//! how fast tasks end. Fed by watch messages, pieces of output and a clock value. Pure; shows nothing.

use std::collections::{BTreeMap, HashMap};

use muster_proto::v1::{Batch, Task, TaskCounts, TaskStatus, WatchBatchResponse};
use prost_types::Timestamp;

use crate::sanitize::{Colour, Sanitizer, one_line};

/// Characters of a label, a worker's name or a line of output that are kept; no terminal shows more of them.
const MAX_TEXT: usize = 400;
/// The newest ends that the rate is made of.
const ENDS_KEPT: usize = 64;

/// A running task.
#[derive(Debug)]
pub struct Running {
    /// Counted from 1.
    pub index: i32,
    /// The attempt that runs.
    pub attempt: i32,
    /// Its name for people, on one line; the model's where it has none.
    pub label: String,
    /// Where it runs.
    pub worker: String,
    /// When it began, in milliseconds of the local clock.
    pub since_ms: i64,
    /// Its end was asked for.
    pub cancel_requested: bool,
    /// How much of its output was stored when it was last heard of.
    pub log_bytes: i64,
    output: LastLine,
}

impl Running {
    /// The last line that it has printed, or what there is of it; empty before the first.
    pub fn last_line(&self) -> &str {
        self.output.text()
    }
}

/// How fast the batch goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Tasks that end in an hour.
    pub per_hour: f64,
    /// Until the last one ends, in milliseconds; `None` where nothing is left or the estimate has run out.
    pub left_ms: Option<i64>,
}

/// An attempt whose output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The task.
    pub index: i32,
    /// Its attempt.
    pub attempt: i32,
    /// How much output was stored when it was last heard of.
    pub log_bytes: i64,
}

/// The batch as far as it has been watched.
#[derive(Debug, Default)]
pub struct Model {
    batch: Option<Batch>,
    first_revision: Option<i64>,
    /// By the time they began, so that lines keep their places.
    running: BTreeMap<(i64, i32), Running>,
    since: HashMap<i32, i64>,
    /// The newest ends, and how long each took, in the coordinator's milliseconds.
    ends: BTreeMap<(i64, i32), i64>,
    last_end_seen_ms: i64,
}

impl Model {
    /// Takes a message that came at `now_ms`.
    pub fn observe(&mut self, message: &WatchBatchResponse, now_ms: i64) {
        if let Some(batch) = &message.batch {
            self.batch = Some(Batch { tasks: Vec::new(), ..batch.clone() });
        }
        let first = *self.first_revision.get_or_insert(message.revision) == message.revision;
        for task in &message.tasks {
            match task.status() {
                TaskStatus::Running => self.runs(task, now_ms, first),
                TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Cancelled => {
                    self.forget(task.index);
                    self.ended(task, now_ms);
                }
                TaskStatus::Unspecified | TaskStatus::Queued => self.forget(task.index),
            }
        }
    }

    /// Takes output of an attempt. What does not run any more is passed over.
    pub fn output(&mut self, index: i32, attempt: i32, bytes: &[u8]) {
        let Some(since) = self.since.get(&index) else { return };
        if let Some(task) = self.running.get_mut(&(*since, index))
            && task.attempt == attempt
        {
            task.output.push(bytes);
        }
    }

    /// The batch as last seen, without tasks.
    pub fn batch(&self) -> Option<&Batch> {
        self.batch.as_ref()
    }

    /// Its counts.
    pub fn counts(&self) -> TaskCounts {
        self.batch.as_ref().and_then(|batch| batch.counts).unwrap_or_default()
    }

    /// What runs, the longest first.
    pub fn running(&self) -> impl ExactSizeIterator<Item = &Running> {
        self.running.values()
    }

    /// The first `count` that run.
    pub fn wanted(&self, count: usize) -> Vec<Wanted> {
        self.running()
            .take(count)
            .map(|task| Wanted { index: task.index, attempt: task.attempt, log_bytes: task.log_bytes })
            .collect()
    }

    /// How fast tasks have ended, and when the last will if it goes on so; `None` before the first end: what is
    /// not known is not guessed.
    pub fn pace(&self, now_ms: i64) -> Option<Pace> {
        let counts = self.counts();
        let ended = counts.completed + counts.failed + counts.cancelled;
        let (first, last) = (self.ends.first_key_value()?.0.0, self.ends.last_key_value()?.0.0);
        let known = i32::try_from(self.ends.len()).unwrap_or(i32::MAX);
        let start = self.batch.as_ref().and_then(|batch| batch.start_time.as_ref()).map(milliseconds);
        let (count, begun) = match start {
            Some(start) if ended <= known => (known, start),
            Some(_) | None => (known - 1, first),
        };
        let span = last.saturating_sub(begun);
        if count < 1 || span < 1 {
            return None;
        }
        let each = span as f64 / f64::from(count);
        let remaining = counts.queued + counts.running;
        let silent = now_ms.saturating_sub(self.last_end_seen_ms).max(0);
        // What runs will hardly take less than others took, however fast they ended side by side.
        let usual = self.ends.values().sum::<i64>() / i64::from(known);
        let youngest = self.running.last_key_value().map_or(now_ms, |((since, _), _)| *since);
        let last_one = if counts.queued > 0 { usual } else { usual - now_ms.saturating_sub(youngest) };
        let left = ((each * f64::from(remaining)) as i64 - silent).max(last_one);
        Some(Pace { per_hour: 3_600_000.0 / each, left_ms: (remaining > 0 && left > 0).then_some(left) })
    }

    fn runs(&mut self, task: &Task, now_ms: i64, in_snapshot: bool) {
        if let Some(since) = self.since.get(&task.index)
            && let Some(known) = self.running.get_mut(&(*since, task.index))
            && known.attempt == task.attempt
        {
            known.cancel_requested = task.cancel_requested;
            known.log_bytes = task.log_bytes;
            return;
        }
        self.forget(task.index);
        // The coordinator's clock may differ from this one, so it counts only where nothing better is known.
        let started = task.start_time.as_ref().map(milliseconds).filter(|_| in_snapshot);
        let since_ms = started.map_or(now_ms, |start| start.min(now_ms));
        let running = Running {
            index: task.index,
            attempt: task.attempt,
            label: name(task),
            worker: bounded(&task.worker_id),
            since_ms,
            cancel_requested: task.cancel_requested,
            log_bytes: task.log_bytes,
            output: LastLine::new(),
        };
        self.running.insert((since_ms, task.index), running);
        self.since.insert(task.index, since_ms);
    }

    fn forget(&mut self, index: i32) {
        if let Some(since) = self.since.remove(&index) {
            self.running.remove(&(since, index));
        }
    }

    fn ended(&mut self, task: &Task, now_ms: i64) {
        // What never ran says nothing about how long the others take.
        if task.attempt == 0 {
            return;
        }
        let end = task.end_time.as_ref().map_or(now_ms, milliseconds);
        let took = task.start_time.as_ref().map_or(0, |start| end.saturating_sub(milliseconds(start)).max(0));
        if self.ends.insert((end, task.index), took).is_none() {
            self.last_end_seen_ms = now_ms;
        }
        while self.ends.len() > ENDS_KEPT {
            self.ends.pop_first();
        }
    }
}

fn milliseconds(time: &Timestamp) -> i64 {
    time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000))
}

/// What people know a task by: its label, unless that only repeats its number, else its prompt. On one line and
/// bounded.
pub fn name(task: &Task) -> String {
    let repeats = task.label == format!("Task {}", task.index) && !task.prompt.is_empty();
    let label = if repeats { "" } else { &task.label };
    let name =
        [label, &task.prompt, &task.display_name, &task.model].into_iter().find(|text| !text.is_empty());
    name.map(bounded).unwrap_or_default()
}

/// Text from elsewhere on one line, and not more of it than is ever shown.
fn bounded(text: &str) -> String {
    let start: String = text.chars().take(MAX_TEXT).collect();
    one_line(&start)
}

/// The last line of a stream of output, bounded.
#[derive(Debug)]
struct LastLine {
    sanitizer: Sanitizer,
    current: String,
    length: usize,
    /// The last line that is complete and says something.
    complete: String,
}

impl LastLine {
    fn new() -> Self {
        Self {
            sanitizer: Sanitizer::new(Colour::Strip),
            current: String::new(),
            length: 0,
            complete: String::new(),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let mut text = String::new();
        self.sanitizer.push(bytes, &mut text);
        for character in text.chars() {
            if character == '\n' {
                if !self.current.trim().is_empty() {
                    self.complete.clone_from(&self.current);
                }
                self.current.clear();
                self.length = 0;
            } else if self.length < MAX_TEXT {
                self.current.push(if character == '\t' { ' ' } else { character });
                self.length += 1;
            }
        }
    }

    fn text(&self) -> &str {
        let current = self.current.trim();
        if current.is_empty() { self.complete.trim() } else { current }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use muster_proto::v1::SchedulerStatus;

    use super::*;

    pub(in crate::live) fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    pub(in crate::live) fn message(
        counts: TaskCounts,
        revision: i64,
        tasks: Vec<Task>,
    ) -> WatchBatchResponse {
        let batch = Batch {
            batch_id: "b1".to_owned(),
            task_count: counts.queued + counts.running + counts.completed + counts.failed + counts.cancelled,
            scheduler_status: SchedulerStatus::Running.into(),
            start_time: at(1_000),
            counts: Some(counts),
            available_workers: 1,
            ..Batch::default()
        };
        WatchBatchResponse { life_id: "l".to_owned(), revision, batch: Some(batch), tasks }
    }

    pub(in crate::live) fn task(index: i32, status: TaskStatus) -> Task {
        Task { index, status: status.into(), attempt: 1, label: format!("Task {index}"), ..Task::default() }
    }

    fn ended(index: i32, end: i64) -> Task {
        Task { end_time: at(end), ..task(index, TaskStatus::Completed) }
    }

    #[test]
    fn there_is_no_estimate_before_the_first_end_and_then_one_from_what_has_ended() {
        let mut model = Model::default();
        let counts = TaskCounts { queued: 9, running: 1, ..TaskCounts::default() };
        model.observe(&message(counts, 1, vec![task(1, TaskStatus::Running)]), 0);
        assert_eq!(model.pace(0), None);
        let counts = TaskCounts { queued: 7, running: 1, completed: 2, ..TaskCounts::default() };
        // Two in 20 s, by the coordinator's clock.
        model.observe(&message(counts, 2, vec![ended(1, 1_010), ended(2, 1_020)]), 500);
        let pace = model.pace(500).unwrap();
        assert_eq!((pace.per_hour, pace.left_ms), (360.0, Some(80_000)));
        assert_eq!(model.pace(30_500).unwrap().left_ms, Some(50_000));
        assert_eq!(model.pace(90_500).unwrap().left_ms, None, "it has run out: no guess");
    }

    #[test]
    fn what_has_just_begun_takes_as_long_as_others_took() {
        let mut model = Model::default();
        // Three side by side, each 30 s.
        let ended: Vec<Task> = (1..=3).map(|n| Task { start_time: at(1_000), ..ended(n, 1_030) }).collect();
        let counts = TaskCounts { running: 2, completed: 3, ..TaskCounts::default() };
        model.observe(&message(counts, 1, ended), 0);
        model.observe(&message(counts, 2, vec![task(4, TaskStatus::Running)]), 5_000);
        model.observe(&message(counts, 3, vec![task(5, TaskStatus::Running)]), 10_000);
        assert_eq!(model.pace(20_000).unwrap().left_ms, Some(20_000));
    }

    #[test]
    fn a_label_that_says_nothing_gives_way_to_the_prompt() {
        let plain = Task { prompt: "a cat\nasleep".to_owned(), ..task(3, TaskStatus::Running) };
        assert_eq!(name(&plain), "a cat␊asleep");
        assert_eq!(name(&Task { label: "Poster".to_owned(), ..plain }), "Poster");
        assert_eq!(name(&task(3, TaskStatus::Running)), "Task 3");
    }

    #[test]
    fn the_pace_is_that_of_the_newest_ends() {
        let mut model = Model::default();
        let counts = TaskCounts { queued: 10, completed: 200, ..TaskCounts::default() };
        // One in 100 s at first, then one a second.
        let tasks =
            (1..=200).map(|n| ended(n, if n <= 100 { 100 * i64::from(n) } else { 20_000 + i64::from(n) }));
        model.observe(&message(counts, 1, tasks.collect()), 0);
        assert_eq!(model.pace(0).unwrap().per_hour, 3_600.0);
        assert_eq!(model.ends.len(), ENDS_KEPT);
    }

    #[test]
    fn tasks_that_never_ran_make_no_pace() {
        let mut model = Model::default();
        let counts = TaskCounts { queued: 1, cancelled: 1, ..TaskCounts::default() };
        let cancelled = Task { attempt: 0, ..task(1, TaskStatus::Cancelled) };
        model.observe(&message(counts, 1, vec![cancelled]), 0);
        assert_eq!(model.pace(0), None);
    }

    #[test]
    fn what_runs_is_known_by_its_age_and_keeps_its_last_line() {
        let mut model = Model::default();
        let old = Task { start_time: at(5), ..task(7, TaskStatus::Running) };
        let from_the_future = Task { start_time: at(999), ..task(8, TaskStatus::Running) };
        model.observe(&message(TaskCounts::default(), 1, vec![from_the_future, old]), 60_000);
        let fresh = Task { start_time: at(5), ..task(3, TaskStatus::Running) };
        model.observe(&message(TaskCounts::default(), 2, vec![fresh]), 61_000);
        let seen: Vec<_> = model.running().map(|task| (task.index, task.since_ms)).collect();
        assert_eq!(seen, [(7, 5_000), (8, 60_000), (3, 61_000)]);
        model.output(7, 1, b"loading\n\n10%\r20");
        assert_eq!(model.running().next().unwrap().last_line(), "20");
        model.output(7, 1, b"%\n\x1b[2J  \n");
        assert_eq!(model.running().next().unwrap().last_line(), "20%");
        model.output(7, 2, b"another attempt\n");
        model.output(99, 1, b"unknown\n");
        assert_eq!(model.running().next().unwrap().last_line(), "20%");
        model.observe(&message(TaskCounts::default(), 3, vec![ended(7, 70)]), 62_000);
        assert_eq!(model.running().len(), 2);
        assert_eq!(model.wanted(1), [Wanted { index: 8, attempt: 1, log_bytes: 0 }]);
    }

    #[test]
    fn a_new_attempt_begins_anew() {
        let mut model = Model::default();
        model.observe(&message(TaskCounts::default(), 1, vec![task(1, TaskStatus::Running)]), 1_000);
        model.output(1, 1, b"first\n");
        let again = Task { attempt: 2, ..task(1, TaskStatus::Running) };
        model.observe(&message(TaskCounts::default(), 2, vec![again]), 9_000);
        let task = model.running().next().unwrap();
        assert_eq!((task.attempt, task.since_ms, task.last_line()), (2, 9_000, ""));
    }

    #[test]
    fn one_line_of_output_is_bounded() {
        let mut line = LastLine::new();
        line.push(&vec![b'x'; 1 << 20]);
        assert_eq!(line.text().len(), MAX_TEXT);
    }
}
