//! `muster logs`: shows what tasks print.
//!
//! Bytes are made safe to show (see [`crate::sanitize`]) unless `--raw` asks for them as they are and standard
//! output is no terminal.

use clap::{Args, builder::FalseyValueParser};
use muster_proto::v1::{TailLogsRequest, Task, TaskStatus};

use crate::{
    Context,
    client::Client,
    commands::task_index,
    error::{Error, Exit},
    follow::Follower,
    sanitize::{Colour, Sanitizer, one_line},
    tail::Tail,
};

/// What `logs` takes.
#[derive(Debug, Args)]
#[command(after_help = "Without TASK, all tasks in order, each under a line that names it.

Examples:
  muster logs BATCH
  muster logs BATCH 3 --follow
  muster logs BATCH 3 --attempt 1 --raw > task-3.log")]
pub struct LogsArgs {
    /// The batch
    pub batch: String,
    /// The task, counted from 1
    #[arg(value_parser = task_index())]
    pub task: Option<i32>,
    /// Wait for more until the task has ended
    #[arg(long, env = "MUSTER_FOLLOW", value_parser = FalseyValueParser::new())]
    pub follow: bool,
    /// The attempt, counted from 1 [default: the newest]
    #[arg(long, value_name = "N", requires = "task", value_parser = task_index())]
    pub attempt: Option<i32>,
    /// Start at this byte
    #[arg(long, env = "MUSTER_OFFSET", value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    pub offset: i64,
    /// Bytes as they were printed, without the lines between tasks; not to a terminal
    #[arg(long, env = "MUSTER_RAW", value_parser = FalseyValueParser::new())]
    pub raw: bool,
}

/// Shows the output.
pub async fn run(args: LogsArgs, context: &Context) -> Result<Exit, Error> {
    let client = Client::new(context)?;
    let raw = args.raw && !context.io.out_is_terminal();
    if args.raw && !raw {
        context.io.say("--raw is not for terminals: control characters are shown as signs");
    }
    if let Some(task) = args.task {
        show(&client, &args, task, raw).await?;
        return Ok(Exit::Completed);
    }
    let batch = client.batch(&args.batch).await?;
    let mut pages = client.tasks_of(&batch);
    while let Some(tasks) = pages.next().await? {
        for task in &tasks {
            if args.follow && task.attempt == 0 {
                wait_for_start(&client, &args.batch, task).await?;
            }
            if !raw {
                context.io.line(&header(task))?;
            }
            if args.follow || task.attempt > 0 {
                show(&client, &args, task.index, raw).await?;
            }
        }
    }
    Ok(Exit::Completed)
}

fn header(task: &Task) -> String {
    format!("==> task {}: {} <==", task.index, one_line(&task.label))
}

async fn show(client: &Client, args: &LogsArgs, task_index: i32, raw: bool) -> Result<(), Error> {
    let io = &client.context().io;
    let request = TailLogsRequest {
        batch_id: args.batch.clone(),
        task_index,
        attempt: args.attempt.unwrap_or_default(),
        offset: args.offset,
        follow: args.follow,
        ..TailLogsRequest::default()
    };
    let colour = if io.out_is_terminal() { Colour::Keep } else { Colour::Strip };
    let mut sanitizer = Sanitizer::new(colour);
    let mut tail = Tail::new(client, request);
    let mut text = String::new();
    let mut ends_line = true;
    while let Some(piece) = tail.next().await? {
        if raw {
            io.write(&piece.bytes)?;
        } else {
            text.clear();
            sanitizer.push(&piece.bytes, &mut text);
            ends_line = text.chars().next_back().map_or(ends_line, |last| last == '\n');
            io.write(text.as_bytes())?;
        }
        if piece.discarded > 0 {
            io.say(&format!("task {task_index}: {} bytes past the limit were thrown away", piece.discarded));
        }
    }
    if !raw {
        text.clear();
        sanitizer.finish(&mut text);
        ends_line = text.chars().next_back().map_or(ends_line, |last| last == '\n');
        // The next task's header begins a line of its own.
        if !ends_line && args.task.is_none() {
            text.push('\n');
        }
        io.write(text.as_bytes())?;
    }
    Ok(())
}

/// Waits until the task has an attempt, or will never have one.
async fn wait_for_start(client: &Client, batch_id: &str, task: &Task) -> Result<(), Error> {
    let mut follower = Follower::new(client, batch_id, true);
    while let Some(message) = follower.next().await? {
        let found = message.tasks.iter().find(|other| other.index == task.index);
        if found.is_some_and(|task| task.attempt > 0 || task.status() != TaskStatus::Queued) {
            break;
        }
    }
    Ok(())
}
