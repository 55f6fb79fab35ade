//! `muster status`: shows a batch and its tasks, or one task in full.

use clap::{Args, ValueEnum};
use muster_proto::v1::{Batch, Task, TaskStatus};

use crate::{
    Context,
    args::OutputArgs,
    client::Client,
    commands::{logs::files::no_such_task, task_index},
    error::{Error, Exit},
    output::{Format, details::task_details, json, print_document, print_line, print_tasks_of, seed},
    progress::no_worker_hint,
};

/// What `status` takes.
#[derive(Debug, Args)]
#[command(after_help = "Formats: table; json (the batch with its tasks); jsonl (one task a line);
seed-json (the status document of the original batch runner).

Examples:
  muster status BATCH
  muster status BATCH 3
  muster status BATCH --status failed,cancelled
  muster status BATCH --status failed --output jsonl | jq -r .index")]
pub struct StatusArgs {
    /// The batch
    pub batch: String,
    /// One task in full, counted from 1
    #[arg(value_parser = task_index())]
    pub task: Option<i32>,
    /// Only tasks in these states (not with TASK)
    #[arg(long, env = "MUSTER_STATUS", value_enum, value_delimiter = ',', value_name = "STATUS")]
    pub status: Vec<State>,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Where a task stands, as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Waiting.
    Queued,
    /// Running.
    Running,
    /// Ended with exit code 0.
    Completed,
    /// Ended otherwise.
    Failed,
    /// Cancelled.
    Cancelled,
}

impl State {
    const fn status(self) -> TaskStatus {
        match self {
            Self::Queued => TaskStatus::Queued,
            Self::Running => TaskStatus::Running,
            Self::Completed => TaskStatus::Completed,
            Self::Failed => TaskStatus::Failed,
            Self::Cancelled => TaskStatus::Cancelled,
        }
    }
}

/// Shows the batch. Exit code 0 whatever its state: the question was answered.
pub async fn run(args: StatusArgs, context: &Context) -> Result<Exit, Error> {
    let client = Client::new(context)?;
    let batch = client.batch(&args.batch).await?;
    let format = args.output.format();
    if let Some(index) = args.task {
        let task = find(&client, &batch, index).await?;
        print_task(context, &batch, &task, format)?;
        return Ok(Exit::Completed);
    }
    let wanted: Vec<TaskStatus> = args.status.iter().map(|state| state.status()).collect();
    let wanted = |task: &Task| wanted.is_empty() || wanted.contains(&task.status());
    print_tasks_of(&client, &batch, format, wanted).await?;
    if let Some(hint) = no_worker_hint(&batch, &context.url) {
        context.io.say(&hint);
    }
    Ok(Exit::Completed)
}

fn print_task(context: &Context, batch: &Batch, task: &Task, format: Format) -> Result<(), Error> {
    let io = &context.io;
    match format {
        Format::Table => io.write(task_details(task, &context.url, &batch.batch_id).as_bytes()),
        Format::Json => print_document(io, &json::task(task)),
        Format::Jsonl => print_line(io, &json::task(task)),
        Format::SeedJson => print_document(io, &seed::task(task)),
    }
}

/// One task of a batch, which the API has by pages.
async fn find(client: &Client, batch: &Batch, index: i32) -> Result<Task, Error> {
    let mut pages = client.tasks_of(batch);
    // No need to look for what cannot be there.
    if index <= batch.task_count {
        while let Some(tasks) = pages.next().await? {
            if let Some(task) = tasks.into_iter().find(|task| task.index == index) {
                return Ok(task);
            }
        }
    }
    Err(Error::Usage(no_such_task(batch, index)))
}
