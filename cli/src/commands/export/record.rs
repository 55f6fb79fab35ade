//! What happened in a batch, a line each, in the words of the original batch runner: `[2026-01-31 12:00:00] …`, in
//! UTC. As far as the batch itself tells: of a task's attempts only the newest has a start and an end. Pure.

use muster_proto::v1::{Batch, Task};
use prost_types::Timestamp;

use crate::{
    commands::logs::files::is_over,
    error::Error,
    output::words::{reason_word, task_word},
    sanitize::one_line,
};

/// A label is cut after so many characters: the record of a large batch is held in memory until it is sorted.
const MAX_LABEL: usize = 80;

/// Lines are handed on in pieces of about so many bytes.
const PIECE: usize = 64 << 10;

/// The lines so far, in no order. Takes about 200 bytes a task.
pub(super) struct Record {
    events: Vec<Event>,
    /// The texts of all, one after the other: a string each would take more than it holds.
    texts: String,
}

/// Ordered by time; at the same time, a batch begins before its tasks and ends after them.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    seconds: i64,
    nanos: i32,
    rank: u8,
    index: i32,
    /// Where its text begins, and how long it is.
    at: usize,
    length: u32,
}

impl Record {
    /// With what happened to the batch as a whole.
    pub(super) fn new(batch: &Batch) -> Self {
        let mut record = Self { events: Vec::new(), texts: String::new() };
        let id = one_line(&batch.batch_id);
        record.push(batch.create_time.as_ref(), 0, 0, || format!("batch {id} created"));
        record.push(batch.start_time.as_ref(), 1, 0, || {
            let (tasks, at_once) = (batch.task_count, batch.effective_concurrency);
            format!("worker started with {tasks} task(s), concurrency={at_once}")
        });
        record.push(batch.end_time.as_ref(), 5, 0, || "worker finished".to_owned());
        record
    }

    /// With what happened to a task.
    pub(super) fn task(&mut self, task: &Task) {
        let index = task.index;
        let pid = if task.pid == 0 { String::new() } else { format!(" pid={}", task.pid) };
        self.push(task.start_time.as_ref(), 2, index, || {
            let label: String = one_line(&task.label).chars().take(MAX_LABEL).collect();
            format!("launched task#{index}{pid} label={label}")
        });
        if is_over(task) {
            self.push(task.end_time.as_ref(), 3, index, || {
                let mut text = format!("task#{index}{pid} finished status={}", task_word(task.status()));
                let code = if task.signal == 0 { task.exit_code } else { Some(task.signal.saturating_neg()) };
                let code = code.map(|code| format!(" exit_code={code}"));
                let reason = reason_word(task.failure_reason()).map(|reason| format!(" reason={reason}"));
                text.extend(code.into_iter().chain(reason));
                if !task.worker_id.is_empty() {
                    text.push_str(&format!(" worker={}", one_line(&task.worker_id)));
                }
                if task.attempt > 1 {
                    text.push_str(&format!(" attempt={}", task.attempt));
                }
                text
            });
        }
        for late in &task.late_results {
            self.push(late.receive_time.as_ref(), 4, index, || {
                let code = if late.signal == 0 { late.exit_code } else { Some(late.signal.saturating_neg()) };
                let code = code.map(|code| format!(" exit_code={code}")).unwrap_or_default();
                format!("task#{index} late result of attempt={}{code}", late.attempt)
            });
        }
    }

    /// Hands on the lines in the order of time, some at once.
    pub(super) fn write(mut self, mut some: impl FnMut(&str) -> Result<(), Error>) -> Result<(), Error> {
        self.events.sort_unstable();
        let mut lines = String::new();
        for event in &self.events {
            let text = self.texts.get(event.at..event.at + event.length as usize).unwrap_or_default();
            // Checked when it was taken.
            let Ok(time) = jiff::Timestamp::new(event.seconds, event.nanos) else { continue };
            lines.push_str(&format!("[{}] {text}\n", time.strftime("%Y-%m-%d %H:%M:%S")));
            if lines.len() > PIECE {
                some(&lines)?;
                lines.clear();
            }
        }
        some(&lines)
    }

    /// What has no time, or one that no calendar has, did not happen yet.
    fn push(&mut self, time: Option<&Timestamp>, rank: u8, index: i32, text: impl FnOnce() -> String) {
        let Some(&Timestamp { seconds, nanos }) = time else { return };
        if jiff::Timestamp::new(seconds, nanos).is_err() {
            return;
        }
        let (text, at) = (text(), self.texts.len());
        self.texts.push_str(&text);
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.events.push(Event { seconds, nanos, rank, index, at, length });
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{FailureReason, LateResult, TaskStatus};

    use super::*;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds: 1_700_000_000 + seconds, nanos: 0 })
    }

    #[test]
    fn what_happened_stands_in_the_order_of_time() {
        let mut record = Record::new(&Batch {
            batch_id: "b1".to_owned(),
            task_count: 4,
            effective_concurrency: 2,
            create_time: at(0),
            start_time: at(1),
            end_time: at(9),
            ..Batch::default()
        });
        let ended = |index, status: TaskStatus, start, end| Task {
            index,
            label: format!("Task {index}"),
            status: status.into(),
            attempt: 1,
            pid: 100 + index,
            worker_id: "w".to_owned(),
            start_time: start,
            end_time: end,
            ..Task::default()
        };
        record.task(&Task {
            signal: 9,
            failure_reason: FailureReason::Signal.into(),
            attempt: 2,
            late_results: vec![LateResult { attempt: 1, exit_code: Some(0), signal: 0, receive_time: at(5) }],
            ..ended(2, TaskStatus::Failed, at(1), at(4))
        });
        record.task(&Task { exit_code: Some(0), ..ended(1, TaskStatus::Completed, at(1), at(9)) });
        record.task(&Task {
            pid: 0,
            worker_id: String::new(),
            ..ended(3, TaskStatus::Cancelled, None, at(8))
        });
        record.task(&Task {
            label: "evil\n[now] forged".to_owned(),
            ..ended(4, TaskStatus::Running, at(2), None)
        });
        let mut text = String::new();
        record
            .write(|line| {
                text.push_str(line);
                Ok(())
            })
            .unwrap();
        insta::assert_snapshot!(text, @r"
        [2023-11-14 22:13:20] batch b1 created
        [2023-11-14 22:13:21] worker started with 4 task(s), concurrency=2
        [2023-11-14 22:13:21] launched task#1 pid=101 label=Task 1
        [2023-11-14 22:13:21] launched task#2 pid=102 label=Task 2
        [2023-11-14 22:13:22] launched task#4 pid=104 label=evil␊[now] forged
        [2023-11-14 22:13:24] task#2 pid=102 finished status=failed exit_code=-9 reason=signal worker=w attempt=2
        [2023-11-14 22:13:25] task#2 late result of attempt=1 exit_code=0
        [2023-11-14 22:13:28] task#3 finished status=cancelled
        [2023-11-14 22:13:29] task#1 pid=101 finished status=completed exit_code=0 worker=w
        [2023-11-14 22:13:29] worker finished
        ");
    }
}
