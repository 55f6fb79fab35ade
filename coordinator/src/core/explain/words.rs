//! The sentences of an explanation, each with its way out. Names of workers are letters, digits, dots, dashes and
//! underscores, so they can stand in a command as they are.

use muster_proto::{BatchId, TaskIndex};

use super::{
    super::{
        event::{WorkerStatus, WorkerView},
        live::Live,
        machine::Config,
        model::{BatchState, BatchStatus, Counts, TaskState, TaskStatus},
    },
    Cause, Reason,
};

/// Names that one sentence spells out.
const MAX_NAMES: usize = 3;
/// How a worker is started.
const START: &str = "muster-worker --coordinator http://HOST:PORT --dispatch 'CMD'";

pub(super) fn no_worker(mut cause: Cause) -> Cause {
    cause.message = "no worker is connected".to_owned();
    if cause.worker_count > 0 {
        cause.message += &format!(" ({} away too long)", are(&cause));
    }
    cause.way_out = format!("start one with: {START}");
    cause
}

pub(super) fn on_hold(tasks: u32, live: &Live) -> Cause {
    let mut cause = Cause::new(Reason::OnHold, tasks);
    cause.message = "the batch is on hold".to_owned();
    if !live.state.message.is_empty() {
        cause.message += &format!(": {}", live.state.message);
    }
    cause.way_out = format!(
        "see what became of it, then let it go on: muster release {0}; or end it: muster cancel {0}",
        live.head.id
    );
    cause
}

pub(super) fn backing_off(tasks: u32, batch: BatchId) -> Cause {
    let mut cause = Cause::new(Reason::RetryBackoff, tasks);
    cause.message = format!(
        "{} failed and {} run again when the wait of the retries is over",
        have(tasks),
        if tasks == 1 { "is" } else { "are" }
    );
    cause.way_out =
        format!("wait; `muster status {batch}` shows what failed and when the next attempt may start");
    cause
}

pub(super) fn busy(mut cause: Cause, slots: u64) -> Cause {
    let batches = many(cause.batch_count.into(), "batch");
    cause.message = match slots {
        0 => format!("{} connected and has no places for tasks", are(&cause)),
        1 => format!("the one place of {} is taken by a task", names(&cause)),
        _ => format!("all {slots} places of {} are taken, by tasks of {batches}", names(&cause)),
    };
    cause.way_out = format!("wait for a place, or add more: {START}");
    cause
}

pub(super) fn paused(mut cause: Cause, config: Config) -> Cause {
    cause.message = format!(
        "{} gave a task back without starting it and gets nothing for {} ms",
        names(&cause),
        config.pause_ms
    );
    cause
}

pub(super) fn scheduling(tasks: u32) -> Cause {
    let mut cause = Cause::new(Reason::Scheduling, tasks);
    cause.message = "nothing stands in the way: being handed out now".to_owned();
    cause
}

/// Workers that are there and take no tasks. `leaving` of them said so themselves.
pub(super) fn idle(mut cause: Cause, leaving: usize) -> Cause {
    let who = are(&cause);
    let resume = commands("muster resume", &cause);
    (cause.message, cause.way_out) = match cause.reason {
        Reason::WorkersSetAside => {
            let reason = cause.workers.first().map(|worker| worker.message.as_str()).unwrap_or_default();
            (
                format!("{who} set aside, because programs could not be started there: {reason}"),
                format!("mend the program that it dispatches, then: {resume}"),
            )
        }
        Reason::WorkersDisconnected => (
            format!("{who} disconnected"),
            format!("see that its machine is up and reaches the coordinator, or start another: {START}"),
        ),
        _ if leaving as u64 == u64::from(cause.worker_count) => (
            format!("{who} about to leave and {} nothing new", if leaving == 1 { "takes" } else { "take" }),
            format!("start another: {START}"),
        ),
        _ => (format!("{who} draining: what runs there goes on, nothing new starts"), resume),
    };
    cause
}

pub(super) fn batch_limit(tasks: u32, live: &Live) -> Cause {
    let mut cause = Cause::new(Reason::BatchLimit, tasks);
    cause.message = format!(
        "{} of the batch {} handed out, as many as its concurrency allows",
        many(live.handed_out().into(), "task"),
        if live.handed_out() == 1 { "is" } else { "are" }
    );
    cause.way_out =
        "the next starts when one ends; a batch submitted with a higher --concurrency runs more at once"
            .into();
    cause
}

pub(super) fn excluded(mut cause: Cause, batch: BatchId, others: bool) -> Cause {
    let failed = names(&cause);
    cause.message =
        format!("the program could not be started on {failed}, and no other worker takes tasks now");
    let instead = if others { "bring back another worker" } else { "start another worker" };
    cause.way_out = format!("{instead}; `muster status {batch}` shows what the system said");
    cause
}

/// Something that a worker has; `task` where one task was asked about.
pub(super) fn handed(mut cause: Cause, live: &Live, task: Option<TaskIndex>, config: Config) -> Cause {
    let batch = live.head.id;
    let who = names(&cause);
    let them = match (task, cause.tasks) {
        (Some(task), _) => format!("task {task}"),
        (None, tasks) => many(tasks.into(), "task"),
    };
    let one = task.is_some() || cause.tasks == 1;
    let (is, has, runs) = if one { ("is", "has", "runs") } else { ("are", "have", "run") };
    cause.message = match cause.reason {
        Reason::Offered => format!("{them} {is} handed to {who}, not accepted yet"),
        Reason::StoringOutput => {
            format!("{them} {has} ended on {who}; the rest of the output is being stored")
        }
        Reason::CancelRequested => {
            format!("{them} {is} being cancelled; waiting for {who} to confirm the end")
        }
        _ => format!("{them} {runs} on {who}"),
    };
    let which = task.map_or_else(|| batch.to_string(), |task| format!("{batch} {task}"));
    cause.way_out = match cause.reason {
        // Without a task's number it would end the whole batch, which nobody may have asked for.
        Reason::CancelRequested if task.is_none() && live.state.cancel_reason.is_none() => {
            format!("end one at once with: muster cancel {which} TASK --now")
        }
        Reason::CancelRequested => format!("end it at once with: muster cancel {which} --now"),
        Reason::Offered => {
            format!("a worker that does not answer within {} s is cut off", config.offer_timeout_ms / 1_000)
        }
        Reason::Running => format!("see what it prints: muster logs {which} --follow"),
        _ => String::new(),
    };
    let away = |worker: &&WorkerView| matches!(worker.status, WorkerStatus::Disconnected);
    if let Some(worker) = cause.workers.iter().find(away) {
        cause.message += &format!(
            " ({} is disconnected: what it runs goes on, and is given up after {} s)",
            worker.name,
            config.lost_after_ms / 1_000
        );
        cause.way_out = "see that its machine is up and reaches the coordinator".to_owned();
    }
    cause
}

/// Those tasks of an unfinished batch that have ended.
pub(super) fn ended_part(state: &BatchState, ended: u32) -> Cause {
    let mut cause = Cause::new(Reason::Ended, ended);
    cause.message = format!("{} ended: {}", have(ended), outcomes(state.counts));
    cause
}

/// An ended batch.
pub(super) fn ended_batch(batch: BatchId, state: &BatchState) -> Cause {
    let counts = state.counts;
    let mut cause = Cause::new(Reason::Ended, counts.completed + counts.failed + counts.cancelled);
    let word = match state.status {
        BatchStatus::Cancelled => "was cancelled",
        BatchStatus::Failed => "was given up",
        BatchStatus::Queued | BatchStatus::Running | BatchStatus::Completed => "has ended",
    };
    cause.message = format!("the batch {word}: {}", outcomes(counts));
    if !state.message.is_empty() {
        cause.message += &format!("; {}", state.message);
    }
    if counts.failed + counts.cancelled > 0 {
        cause.way_out = format!("run what failed or was cancelled again with: muster retry {batch}");
    }
    cause.since_ms = state.end_ms;
    cause
}

/// A task of which only its slot is known: its row says more.
pub(super) fn ended_slot(status: TaskStatus) -> Cause {
    let mut cause = Cause::new(Reason::Ended, 1);
    cause.message = format!("it has {}", ended_word(status));
    cause
}

/// An ended task.
pub(super) fn ended_task(batch: BatchId, task: TaskIndex, state: &TaskState) -> Cause {
    let mut cause = Cause::new(Reason::Ended, 1);
    cause.message = format!("task {task} {}", ended_word(state.status));
    if let Some(failure) = state.failure {
        cause.message += &format!(" ({})", failure.as_str());
    }
    if !state.failure_message.is_empty() {
        cause.message += &format!(": {}", state.failure_message);
    }
    if matches!(state.status, TaskStatus::Failed | TaskStatus::Cancelled) {
        // One that was never tried has printed nothing.
        if state.attempt.0 > 0 {
            cause.way_out = format!("see what it printed: muster logs {batch} {task}; ");
        }
        cause.way_out += &format!("run it again: muster retry {batch} {task}");
    }
    cause.since_ms = state.end_ms;
    cause
}

const fn ended_word(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Queued | TaskStatus::Running => "ended",
        TaskStatus::Completed => "completed",
        TaskStatus::Failed => "failed",
        TaskStatus::Cancelled => "was cancelled",
    }
}

fn outcomes(counts: Counts) -> String {
    let parts = [(counts.completed, "completed"), (counts.failed, "failed"), (counts.cancelled, "cancelled")];
    let parts = parts.iter().filter(|(number, _)| *number > 0);
    parts.map(|(number, word)| format!("{number} {word}")).collect::<Vec<_>>().join(", ")
}

fn have(tasks: u32) -> String {
    format!("{} {}", many(tasks.into(), "task"), if tasks == 1 { "has" } else { "have" })
}

fn many(number: u64, noun: &str) -> String {
    match (number, noun) {
        (1, noun) => format!("1 {noun}"),
        (number, "batch") => format!("{number} batches"),
        (number, noun) => format!("{number} {noun}s"),
    }
}

/// The workers by name, the first few.
fn names(cause: &Cause) -> String {
    let named: Vec<&str> = cause.workers.iter().take(MAX_NAMES).map(|worker| worker.name.as_str()).collect();
    let more = (cause.worker_count as usize).saturating_sub(named.len());
    match (named.split_last(), more) {
        (None, _) => "its worker".to_owned(),
        (Some((last, [])), 0) => (*last).to_owned(),
        (Some((last, first)), 0) => format!("{} and {last}", first.join(", ")),
        _ => format!("{} and {more} more", named.join(", ")),
    }
}

/// The same with their verb.
fn are(cause: &Cause) -> String {
    format!("{} {}", names(cause), if cause.worker_count == 1 { "is" } else { "are" })
}

/// One command for each of the first few workers.
fn commands(command: &str, cause: &Cause) -> String {
    let workers = cause.workers.iter().take(MAX_NAMES);
    workers.map(|worker| format!("{command} {}", worker.name)).collect::<Vec<_>>().join("; ")
}
