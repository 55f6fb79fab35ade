//! The lines that show a batch on a terminal of a size. Pure; no line is ever wider than the terminal, none holds
//! a control character, and they are never more than fit.

use muster_proto::v1::SchedulerStatus;

use super::{
    model::{Model, Running},
    screen::Size,
    width::{clamp, columns, fit, pad, pad_left},
};
use crate::follow::has_ended;

/// Lines for tasks, however high the terminal is.
const MAX_TASK_LINES: usize = 200;
/// Rows that are left for what scrolls by, where there are enough.
const SCROLL_ROWS: usize = 4;
/// A terminal with fewer rows than this has one row for what scrolls by.
const FEW_ROWS: usize = 12;
/// The widest and the narrowest bar, without its brackets.
const BAR: std::ops::RangeInclusive<usize> = 8..=40;
/// A terminal narrower than this shows no bar.
const MIN_FOR_BAR: usize = 30;
/// The widest label, and the least that is left of it.
const LABEL: std::ops::RangeInclusive<usize> = 6..=32;
/// The widest worker's name.
const MAX_WORKER: usize = 16;
/// A terminal narrower than this shows no worker.
const MIN_FOR_WORKER: usize = 50;
/// Less than this of a line of output says nothing.
const MIN_FOR_OUTPUT: usize = 8;
/// Columns of an elapsed time.
const ELAPSED: usize = 6;
/// Between two columns.
const GAP: &str = "  ";

/// What to show at `now_ms`; nothing before the batch is known.
pub fn render(model: &Model, size: Size, now_ms: i64) -> Vec<String> {
    let Some(batch) = model.batch() else { return Vec::new() };
    if size.columns == 0 || size.rows < 2 || has_ended(batch.scheduler_status()) {
        return Vec::new();
    }
    let mut lines = vec![overview(model, size.columns, now_ms)];
    let rows = rows_of_view(size);
    if rows > 1 {
        lines.push(counts(model, size.columns));
    }
    let left = rows.saturating_sub(lines.len()).min(MAX_TASK_LINES);
    let total = model.running().len();
    // The last line tells of those without one.
    let shown = if total > left { left.saturating_sub(1) } else { total };
    let table = Table::new(model, shown, size.columns);
    lines.extend(model.running().take(shown).map(|task| table.line(task, now_ms)));
    if total > shown && left > 0 {
        let what = if shown == 0 { "running" } else { "more running" };
        lines.push(fit(&format!("and {} {what}", total - shown), size.columns));
    }
    lines.into_iter().map(|line| clamp(line.trim_end().to_owned(), size.columns)).collect()
}

/// How many running tasks have a line on a terminal of this size.
pub fn task_rows(size: Size) -> usize {
    rows_of_view(size).saturating_sub(2).min(MAX_TASK_LINES)
}

fn rows_of_view(size: Size) -> usize {
    size.rows.saturating_sub(if size.rows < FEW_ROWS { 1 } else { SCROLL_ROWS })
}

/// A bar, how many have ended of how many, how fast, and how long it will take.
fn overview(model: &Model, width: usize, now_ms: i64) -> String {
    let counts = model.counts();
    let total = model.batch().map_or(0, |batch| batch.task_count).max(1);
    let ended = counts.completed + counts.failed + counts.cancelled;
    let pace = model.pace(now_ms);
    let parts = [
        (0, format!("{ended}/{total}")),
        (3, format!("{}%", i64::from(ended) * 100 / i64::from(total))),
        (2, pace.map(|pace| rate(pace.per_hour)).unwrap_or_default()),
        (1, pace.and_then(|pace| pace.left_ms).map(left).unwrap_or_default()),
    ];
    let bar_room = if width < MIN_FOR_BAR { 0 } else { BAR.start() + 2 + GAP.len() };
    let text = choose(&parts, width - bar_room);
    if bar_room == 0 {
        return fit(&text, width);
    }
    let bar = width.saturating_sub(columns(&text) + 2 + GAP.len()).min(*BAR.end());
    let share = |count: i32| bar * usize::try_from(count).unwrap_or(0) / usize::try_from(total).unwrap_or(1);
    let (good, bad) = (share(counts.completed), share(ended) - share(counts.completed));
    let running = share(ended + counts.running).min(bar) - share(ended);
    let rest = bar.saturating_sub(good + bad + running);
    format!("[{}{}{}{}]{GAP}{text}", "=".repeat(good), "x".repeat(bad), "-".repeat(running), " ".repeat(rest))
}

/// How many tasks are in which state, and what holds them up.
fn counts(model: &Model, width: usize) -> String {
    let counts = model.counts();
    let batch = model.batch();
    let no_worker = counts.queued > 0 && batch.is_some_and(|batch| batch.available_workers == 0);
    let waiting = batch.is_some_and(|batch| batch.scheduler_status() == SchedulerStatus::Queued);
    let say = |count: i32, word: &str| if count > 0 { format!("{count} {word}") } else { String::new() };
    choose(
        &[
            (4, say(counts.completed, "completed")),
            (1, say(counts.failed, "failed")),
            (5, say(counts.cancelled, "cancelled")),
            (2, say(counts.running, "running")),
            (3, say(counts.queued, "queued")),
            (0, if no_worker { "no worker is free".to_owned() } else { String::new() }),
            (6, if waiting && !no_worker { "waiting to begin".to_owned() } else { String::new() }),
        ],
        width,
    )
}

/// As many of the parts as fit, the lowest numbers first, in the order in which they stand.
fn choose(parts: &[(u8, String)], width: usize) -> String {
    let mut by_weight: Vec<&(u8, String)> = parts.iter().filter(|(_, text)| !text.is_empty()).collect();
    by_weight.sort_by_key(|(weight, _)| *weight);
    let mut used = 0;
    let mut last = None;
    for (weight, text) in by_weight {
        let more = columns(text) + if last.is_some() { GAP.len() } else { 0 };
        if last.is_some() && used + more > width {
            break;
        }
        used += more;
        last = Some(*weight);
    }
    let chosen: Vec<&str> = parts
        .iter()
        .filter(|(weight, text)| !text.is_empty() && last.is_some_and(|last| *weight <= last))
        .map(|(_, text)| text.as_str())
        .collect();
    fit(&chosen.join(GAP), width)
}

/// The columns of the running tasks.
struct Table {
    index: usize,
    label: usize,
    worker: usize,
    width: usize,
}

impl Table {
    /// For the first `shown` on a terminal `width` wide.
    fn new(model: &Model, shown: usize, width: usize) -> Self {
        let widest = |text: fn(&Running) -> &str| {
            model.running().take(shown).map(|task| columns(text(task))).max().unwrap_or(0)
        };
        let total = model.batch().map_or(0, |batch| batch.task_count);
        let index = total.max(1).ilog10() as usize + 1;
        let worker = if width < MIN_FOR_WORKER { 0 } else { widest(|task| &task.worker).min(MAX_WORKER) };
        // Where there is no worker's name the label may have its place.
        let most = if width < MIN_FOR_WORKER { width / 2 } else { width / 3 };
        let label = widest(|task| &task.label).min(most.clamp(*LABEL.start(), *LABEL.end()));
        Self { index, label, worker, width }
    }

    fn line(&self, task: &Running, now_ms: i64) -> String {
        let mut line = pad_left(&task.index.to_string(), self.index);
        let elapsed = pad_left(&elapsed(now_ms.saturating_sub(task.since_ms)), ELAPSED);
        let rest = self.width.saturating_sub(self.index + ELAPSED + 1);
        // On a narrow terminal the label gets what the time leaves.
        let label = self.label.min(rest.saturating_sub(1));
        if label > 0 {
            line.push(' ');
            line.push_str(&pad(&task.label, label));
        }
        if self.worker > 0 {
            line.push_str(GAP);
            line.push_str(&pad(&task.worker, self.worker));
        }
        line.push(' ');
        line.push_str(&elapsed);
        let room = self.width.saturating_sub(columns(&line) + GAP.len());
        let text = if task.cancel_requested { "is being cancelled" } else { task.last_line() };
        if room >= MIN_FOR_OUTPUT && !text.is_empty() {
            line.push_str(GAP);
            line.push_str(&fit(text, room));
        }
        line
    }
}

/// Since when something runs, in at most [`ELAPSED`] columns.
fn elapsed(milliseconds: i64) -> String {
    let seconds = milliseconds.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Tasks in a time that gives a number one can read.
fn rate(per_hour: f64) -> String {
    if per_hour >= 7_200.0 {
        format!("{:.1}/s", per_hour / 3_600.0)
    } else if per_hour >= 60.0 {
        format!("{:.1}/min", per_hour / 60.0)
    } else {
        format!("{per_hour:.1}/h")
    }
}

/// An estimate: not more exact than it can be.
fn left(milliseconds: i64) -> String {
    let seconds = milliseconds.max(0) / 1000;
    match seconds {
        0..60 => format!("about {} s left", seconds.max(1)),
        60..3_600 => format!("about {} min left", (seconds + 30) / 60),
        3_600..86_400 => format!("about {} h {:02} min left", seconds / 3_600, seconds / 60 % 60),
        _ => format!("about {} days left", (seconds + 43_200) / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{Task, TaskCounts, TaskStatus};
    use proptest::prelude::*;

    use super::*;
    use crate::live::model::tests::{at, message, task};

    const SIZE: Size = Size { columns: 80, rows: 24 };

    fn running(index: i32, label: &str) -> Task {
        Task { label: label.to_owned(), worker_id: "studio-1".to_owned(), ..task(index, TaskStatus::Running) }
    }

    fn batch(running_tasks: &[Task]) -> Model {
        let mut model = Model::default();
        let running = i32::try_from(running_tasks.len()).unwrap();
        let before = TaskCounts { queued: 580, running, completed: 398, failed: 12, ..TaskCounts::default() };
        model.observe(&message(before, 1, running_tasks.to_vec()), 0);
        let done: Vec<Task> = (901..=902)
            .map(|n| Task { end_time: at(1_000 + i64::from(n)), ..task(n, TaskStatus::Completed) })
            .collect();
        let counts = TaskCounts { completed: 400, ..before };
        model.observe(&message(counts, 2, done), 0);
        model
    }

    #[test]
    fn a_batch_at_80_columns() {
        let mut model = batch(&[running(7, "a cat on the moon"), running(12, "一只猫在月亮上")]);
        model.output(7, 1, b"step 3 of 20\n");
        let lines = render(&model, SIZE, 65_000);
        assert_eq!(
            lines,
            [
                "[==============                      ]  412/994  41%  60.0/min  about 9 min left",
                "400 completed  12 failed  2 running  580 queued",
                "  7 a cat on the moon  studio-1  1m05s  step 3 of 20",
                " 12 一只猫在月亮上     studio-1  1m05s",
            ]
        );
    }

    #[test]
    fn at_20_columns_what_matters_most_is_there() {
        let model = batch(&[running(7, "a cat on the moon"), running(12, "一只猫在月亮上")]);
        let lines = render(&model, Size { columns: 20, rows: 24 }, 65_000);
        assert_eq!(
            lines,
            ["412/994", "12 failed  2 running", "  7 a cat...   1m05s", " 12 一只猫...  1m05s"]
        );
    }

    #[test]
    fn a_thousand_running_take_as_many_lines_as_fit() {
        let tasks: Vec<Task> = (1..=1_000).map(|n| running(2_000 + n, "x")).collect();
        let lines = render(&batch(&tasks), SIZE, 0);
        assert_eq!(lines.len(), 20);
        assert_eq!(lines.last().unwrap(), "and 983 more running");
        let few = render(&batch(&tasks), Size { columns: 80, rows: 4 }, 0);
        assert_eq!(few.last().unwrap(), "and 1000 running");
        assert_eq!(few.len(), 3);
        assert_eq!(render(&batch(&tasks), Size { columns: 80, rows: 2 }, 0).len(), 1);
        assert!(render(&batch(&tasks), Size { columns: 80, rows: 1 }, 0).is_empty());
    }

    #[test]
    fn an_end_that_was_asked_for_and_a_missing_worker_are_said() {
        let cancelled = Task { cancel_requested: true, ..running(1, "x") };
        let mut model = Model::default();
        let mut first =
            message(TaskCounts { queued: 2, running: 1, ..TaskCounts::default() }, 1, vec![cancelled]);
        first.batch.as_mut().unwrap().available_workers = 0;
        model.observe(&first, 0);
        let text = render(&model, SIZE, 0).join("\n");
        assert!(text.contains("is being cancelled") && text.contains("no worker is free"), "{text}");
        assert!(!text.contains("left"), "no estimate before the first end: {text}");
    }

    #[test]
    fn a_batch_that_has_ended_shows_nothing_more() {
        let mut model = batch(&[]);
        let mut last = message(TaskCounts::default(), 3, vec![]);
        last.batch.as_mut().unwrap().scheduler_status = SchedulerStatus::Completed.into();
        model.observe(&last, 0);
        assert!(render(&model, SIZE, 0).is_empty());
    }

    #[test]
    fn times_and_rates_read_well() {
        assert_eq!(
            ["0s", "1m00s", "1h00m", "3d01h"],
            [0, 60_000, 3_600_000, 263_000_000].map(elapsed).each_ref().map(String::as_str)
        );
        assert_eq!([rate(9_000.0), rate(90.0), rate(3.0)], ["2.5/s", "1.5/min", "3.0/h"]);
        assert_eq!(left(7_500_000), "about 2 h 05 min left");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal_and_none_holds_a_control_character(
            labels in prop::collection::vec(any::<String>(), 0..30),
            worker in any::<String>(),
            output in any::<Vec<u8>>(),
            width in 0usize..130,
            rows in 0usize..40,
            counts in prop::array::uniform5(0i32..100_000),
        ) {
            let mut model = Model::default();
            let tasks = labels.iter().zip(1..).map(|(label, n)| Task { worker_id: worker.clone(), ..running(n, label) });
            let [queued, running, completed, failed, cancelled] = counts;
            let counts = TaskCounts { queued, running, completed, failed, cancelled };
            model.observe(&message(counts, 1, tasks.collect()), 0);
            model.output(1, 1, &output);
            let size = Size { columns: width, rows };
            let lines = render(&model, size, 1_000_000);
            prop_assert!(lines.len() < rows.max(1));
            for line in lines {
                prop_assert!(columns(&line) <= width, "{line:?}");
                prop_assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
    }
}
