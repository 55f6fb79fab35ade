//! The live view of large batches: what the screen shows, how often it is painted, and what memory it takes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use muster_proto::v1::{Batch, SchedulerStatus, TaskCounts, TaskStatus};

use crate::{
    live::muster,
    support::{Fake, batch, change, gate, task},
    terminal::{Running, Terminal},
};

/// Tasks of the large batch, and of one message.
const LARGE: i32 = 100_000;
const PAGE: i32 = 1_000;
/// As many end before the test looks again.
const PART: i32 = 10_000;
/// What the view may take for it, MiB: the program with what it needs in a debug build, and a few dozen bytes a task.
const MAX_MEMORY_MIB: u64 = 96;
/// Between two paintings.
const FRAME: Duration = Duration::from_millis(100);
/// Paintings besides the regular ones: the first, and the clearing at the end.
const OTHER_PAINTINGS: u128 = 2;

fn batch_of(counts: TaskCounts) -> Batch {
    let count = counts.queued + counts.running + counts.completed;
    let ended = counts.completed == count;
    let status = if ended { SchedulerStatus::Completed } else { SchedulerStatus::Running };
    Batch { scheduler_status: status.into(), counts: Some(counts), ..batch(count, 0, 0) }
}

/// No more paintings than there was time for since `begun`, however long anything took.
fn assert_painted_at_most_ten_times_a_second(terminal: &Terminal, begun: Instant) {
    let paintings = terminal.paintings() as u128;
    let time_for = begun.elapsed().as_millis() / FRAME.as_millis() + OTHER_PAINTINGS;
    assert!(paintings <= time_for, "{paintings} paintings where there was time for {time_for}");
}

fn assert_memory_is_bounded(watch: &Running) {
    let peak = watch.peak_memory_mib();
    assert!(peak < MAX_MEMORY_MIB, "{peak} MiB");
}

fn bars(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with('[')).count()
}

#[test]
fn a_batch_of_100_000_tasks_is_a_bar_and_counts_painted_now_and_then_in_little_memory() {
    let fake = Fake::start();
    let mut steps = Vec::new();
    for first in (1..=LARGE).step_by(PAGE as usize) {
        let tasks = (first..first + PAGE).map(|index| task(index, TaskStatus::Queued)).collect();
        steps.push(change("l", 1, batch_of(TaskCounts { queued: LARGE, ..TaskCounts::default() }), tasks));
    }
    // Let go on one after the other, so that no single wait is for all of it. The last page has one of its own.
    let mut gates = VecDeque::new();
    for first in (1..=LARGE).step_by(PAGE as usize) {
        let completed = first + PAGE - 1;
        if first % PART == 1 || completed == LARGE {
            let (open, wait) = gate();
            gates.push_back(open);
            steps.push(wait);
        }
        let counts = TaskCounts { queued: LARGE - completed, completed, ..TaskCounts::default() };
        let tasks = (first..first + PAGE).map(|index| task(index, TaskStatus::Completed)).collect();
        steps.push(change("l", i64::from(1 + completed), batch_of(counts), tasks));
    }
    fake.state.watches.lock().unwrap().push_back(steps);
    let terminal = Terminal::new(24, 80);
    let begun = Instant::now();
    let mut watch = terminal.spawn(&mut muster(&fake.url(), &["watch", "b1"]));
    let text = terminal.wait_for_text("100000 queued");
    assert!(text.contains("batch b1: 100000 tasks") && bars(&text) == 1, "{text}");
    for completed in (PART..LARGE).step_by(PART as usize) {
        drop(gates.pop_front());
        terminal.wait_for_text(&format!(" {completed}/100000"));
    }
    drop(gates.pop_front());
    let text = terminal.wait_for_text(" 99000/100000");
    assert_eq!(bars(&text), 1, "{text}");
    assert!(text.contains("1000 queued"), "{text}");
    assert_painted_at_most_ten_times_a_second(&terminal, begun);
    assert_memory_is_bounded(&watch);
    drop(gates);
    assert_eq!(watch.code(), Some(0));
    let text = terminal.wait_for_text("100000 of 100000 tasks completed");
    assert_eq!(bars(&text), 0, "nothing of the view is left: {text}");
    let history = terminal.history();
    assert!(history.contains("task 1 completed") && history.contains("more tasks that ended"), "{text}");
    assert_painted_at_most_ten_times_a_second(&terminal, begun);
}

#[test]
fn of_1_000_running_tasks_that_end_one_by_one_the_screen_shows_those_that_are_left() {
    let fake = Fake::start();
    let (start, started) = gate();
    let (end, ending) = gate();
    let counts = |completed| TaskCounts { running: PAGE - completed, completed, ..TaskCounts::default() };
    let tasks = (1..=PAGE).map(|index| task(index, TaskStatus::Running)).collect();
    let mut steps = vec![change("l", 1, batch_of(counts(0)), tasks), started];
    let mut ending = Some(ending);
    for index in 1..=PAGE {
        if index == PAGE - 2 {
            steps.extend(ending.take());
        }
        let done = task(index, TaskStatus::Completed);
        steps.push(change("l", i64::from(1 + index), batch_of(counts(index)), vec![done]));
    }
    fake.state.watches.lock().unwrap().push_back(steps);
    let terminal = Terminal::new(24, 80);
    let begun = Instant::now();
    let mut watch = terminal.spawn(&mut muster(&fake.url(), &["watch", "b1"]));
    let text = terminal.wait_for_text("1000 running");
    assert!(text.contains("more running") && bars(&text) == 1, "{text}");
    drop(start);
    let text = terminal.wait_for_text("997/1000");
    assert_eq!(bars(&text), 1, "{text}");
    assert!(text.contains("3 running") && !text.contains("more running"), "{text}");
    for index in 998..=1_000 {
        let shown = text.lines().filter(|line| line.trim_start().starts_with(&format!("{index} ")));
        assert_eq!(shown.count(), 1, "task {index}, once: {text}");
    }
    assert_painted_at_most_ten_times_a_second(&terminal, begun);
    assert_memory_is_bounded(&watch);
    drop(end);
    assert_eq!(watch.code(), Some(0));
    let text = terminal.wait_for_text("1000 of 1000 tasks completed");
    assert_eq!(bars(&text), 0, "nothing of the view is left: {text}");
    assert_painted_at_most_ten_times_a_second(&terminal, begun);
}
