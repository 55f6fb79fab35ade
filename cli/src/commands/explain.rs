//! `muster explain`: why tasks do not run, and what can be done about it.

use clap::Args;
use muster_proto::v1::{ExplainBatchRequest, ExplainBatchResponse, WaitCause, WaitReason};

use crate::{
    Context,
    args::OutputArgs,
    client::Client,
    error::{Error, Exit},
    output::{
        Format, json, print_document, print_line,
        words::{rfc3339, scheduler_word},
    },
    progress::command,
    sanitize::one_line,
};

/// What the coordinator writes in commands where its own address stands, which it does not know.
const ADDRESS: &str = "http://HOST:PORT";

/// What `explain` takes.
#[derive(Debug, Args)]
#[command(after_help = "Formats: sentences; json (the API's answer); jsonl (one cause a line).

Examples:
  muster explain BATCH                 what its tasks wait for, and the way out
  muster explain BATCH 3               the same of one task, with its place in the queue
  muster explain BATCH --output json | jq -r '.causes[].reason'")]
pub struct ExplainArgs {
    /// The batch
    pub batch: String,
    /// The task, counted from 1 [default: the batch as a whole]
    #[arg(value_parser = super::task_index())]
    pub task: Option<i32>,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Says why. Exit code 0 whatever the reason: the question was answered.
pub async fn run(args: ExplainArgs, context: &Context) -> Result<Exit, Error> {
    let format = args.output.format().without_seed("why tasks wait")?;
    let client = Client::new(context)?;
    let request = ExplainBatchRequest { batch_id: args.batch, task_index: args.task.unwrap_or(0) };
    let mut reply = client.call(client.batches().explain_batch(request)).await?;
    for cause in &mut reply.causes {
        // Nor does it know that ours is another than the usual one.
        let way_out = cause.way_out.replace("muster ", &command(&context.url, ""));
        cause.way_out = way_out.replace(ADDRESS, &context.url);
    }
    match format {
        Format::Json => print_document(&context.io, &json::explanation(&reply))?,
        Format::Jsonl => {
            reply.causes.iter().try_for_each(|cause| print_line(&context.io, &json::cause(cause)))?
        }
        Format::Table | Format::SeedJson => {
            for line in lines(&reply) {
                context.io.line(&one_line(&line))?;
            }
        }
    }
    Ok(Exit::Completed)
}

/// The answer in sentences, the way out under each. Not cleaned yet.
fn lines(reply: &ExplainBatchResponse) -> Vec<String> {
    let task = (reply.task_index > 0).then_some(reply.task_index);
    let mut lines = vec![headline(reply)];
    for cause in &reply.causes {
        lines.push(sentence(cause, task));
        if !cause.batches.is_empty() {
            let held = cause.batches.iter().map(|batch| format!("{} ({})", batch.batch_id, batch.places));
            let more = usize::try_from(cause.batch_count).unwrap_or(0).saturating_sub(cause.batches.len());
            let more = if more > 0 { format!(" and {more} more batches") } else { String::new() };
            lines.push(format!("  held by: {}{more}", held.collect::<Vec<_>>().join(", ")));
        }
        // The first one's reason stands in the sentence.
        for worker in cause.workers.iter().skip(1).filter(|worker| !worker.status_message.is_empty()) {
            lines.push(format!("  {}: {}", worker.worker_id, worker.status_message));
        }
        if !cause.way_out.is_empty() {
            lines.push(format!("  next: {}", cause.way_out));
        }
    }
    lines.extend(place(reply, task));
    lines
}

fn headline(reply: &ExplainBatchResponse) -> String {
    let counts = reply.counts.unwrap_or_default();
    let numbers = [
        (counts.completed, "completed"),
        (counts.failed, "failed"),
        (counts.cancelled, "cancelled"),
        (counts.running, "running"),
        (counts.queued, "queued"),
    ];
    let numbers: Vec<String> = numbers
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{number} {word}"))
        .collect();
    let (id, word) = (&reply.batch_id, scheduler_word(reply.scheduler_status()));
    let limit = if counts.queued + counts.running > 0 {
        format!(", at most {} at once", reply.effective_concurrency)
    } else {
        String::new()
    };
    format!("batch {id} {word}: {}{limit}", numbers.join(", "))
}

fn sentence(cause: &WaitCause, task: Option<i32>) -> String {
    use WaitReason as R;
    let at_least = if cause.at_least { "at least " } else { "" };
    let message = &cause.message;
    let text = match (cause.reason(), task) {
        // What has left the queue says itself what it is about.
        (R::Offered | R::Running | R::StoringOutput | R::CancelRequested | R::Ended, _) => {
            format!("{at_least}{message}")
        }
        (_, Some(task)) => format!("task {task} waits: {message}"),
        (_, None) if cause.task_count == 1 => format!("{at_least}1 task waits: {message}"),
        (_, None) => format!("{at_least}{} tasks wait: {message}", cause.task_count),
    };
    match cause.since_time.as_ref().and_then(rfc3339) {
        Some(end) if cause.reason() == R::Ended => format!("{text}, at {end}"),
        Some(since) => format!("{text}, since {since}"),
        None => text,
    }
}

fn place(reply: &ExplainBatchResponse, task: Option<i32>) -> Option<String> {
    let next = (reply.next_task_index > 0).then_some(reply.next_task_index)?;
    let at_least = if reply.tasks_ahead_at_least { "at least " } else { "" };
    let ahead = match reply.tasks_ahead {
        0 if !reply.tasks_ahead_at_least => "first in the queue of the fleet".to_owned(),
        1 => format!("after {at_least}1 other waiting task of the fleet"),
        ahead => format!("after {at_least}{ahead} other waiting tasks of the fleet"),
    };
    Some(if task.is_some() {
        format!("task {next} is {ahead}")
    } else {
        format!("next is task {next}, {ahead}")
    })
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{BatchPlaces, SchedulerStatus, TaskCounts, Worker};

    use super::*;

    fn reply() -> ExplainBatchResponse {
        ExplainBatchResponse {
            batch_id: "b1".to_owned(),
            scheduler_status: SchedulerStatus::Running.into(),
            counts: Some(TaskCounts { queued: 5, running: 1, ..TaskCounts::default() }),
            effective_concurrency: 2,
            next_task_index: 2,
            tasks_ahead: 7,
            causes: vec![
                WaitCause {
                    reason: WaitReason::WorkersBusy.into(),
                    message: "all 3 places are taken".to_owned(),
                    way_out: "add more".to_owned(),
                    task_count: 5,
                    batches: vec![BatchPlaces { batch_id: "b0".to_owned(), places: 3 }],
                    batch_count: 4,
                    ..WaitCause::default()
                },
                WaitCause {
                    reason: WaitReason::Running.into(),
                    message: "1 task runs on w1".to_owned(),
                    task_count: 1,
                    since_time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
                    ..WaitCause::default()
                },
            ],
            ..ExplainBatchResponse::default()
        }
    }

    #[test]
    fn sentences_say_cause_way_out_and_place() {
        assert_eq!(
            lines(&reply()),
            [
                "batch b1 running: 1 running, 5 queued, at most 2 at once",
                "5 tasks wait: all 3 places are taken",
                "  held by: b0 (3) and 3 more batches",
                "  next: add more",
                "1 task runs on w1, since 2023-11-14T22:13:20Z",
                "next is task 2, after 7 other waiting tasks of the fleet",
            ]
        );
    }

    #[test]
    fn one_task_is_named_and_what_was_not_counted_is_at_least_that() {
        let mut reply = ExplainBatchResponse { task_index: 4, next_task_index: 4, ..reply() };
        reply.tasks_ahead_at_least = true;
        reply.causes[0].at_least = true;
        reply.causes[0].workers = ["w1", "w2"]
            .map(|name| Worker { worker_id: name.into(), status_message: "no".into(), ..Worker::default() })
            .into();
        let lines = lines(&reply);
        assert_eq!(lines[1], "task 4 waits: all 3 places are taken");
        assert!(lines.contains(&"  w2: no".to_owned()), "{lines:?}");
        assert_eq!(lines.last().unwrap(), "task 4 is after at least 7 other waiting tasks of the fleet");
        reply.tasks_ahead = 0;
        reply.tasks_ahead_at_least = false;
        assert_eq!(place(&reply, None).unwrap(), "next is task 4, first in the queue of the fleet");
    }
}
