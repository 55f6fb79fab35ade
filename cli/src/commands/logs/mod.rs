//! `muster logs`: shows what tasks print, or saves it.
//!
//! Bytes are made safe to show (see [`crate::lines`]) unless `--raw` asks for them as they are and standard output
//! is no terminal. One task is shown as it is; several carry a prefix, and never more than a bounded number of
//! them is read at once.

pub mod files;
pub mod format;
mod many;
mod one;
mod since;

use std::path::PathBuf;

use clap::{Args, ValueEnum, builder::FalseyValueParser};
use muster_proto::v1::{Batch, TailLogsRequest, Task, TaskStatus};

use crate::{
    Context,
    client::Client,
    commands::task_index,
    error::{Error, Exit},
    progress::command,
    sanitize::one_line,
    tail::{Tail, last_lines},
};
use format::Style;
use since::Since;

/// Tails that are open at once, beside those that follow running tasks.
pub const MAX_OPEN: usize = 16;
/// The most lines that `--tail` takes.
const MAX_TAIL: u64 = 1_000_000;

/// What `logs` takes.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Without TASK, all tasks: one after the other, or with --follow line by line as they print. A line
that is drawn again and again (a progress bar) is shown as it was last.

Examples:
  muster logs BATCH
  muster logs BATCH 3 --follow
  muster logs BATCH 3 7 --tail 20 --grep error
  muster logs BATCH --since 10m --follow
  muster logs BATCH 3 --attempt 1 --raw > task-3.log
  muster logs BATCH --output-dir logs"
)]
pub struct LogsArgs {
    /// The batch
    pub batch: String,
    /// The tasks, counted from 1 [default: all]
    #[arg(value_name = "TASK", value_parser = task_index())]
    pub tasks: Vec<i32>,
    /// Wait for more until the tasks have ended
    #[arg(long, short, env = "MUSTER_FOLLOW", value_parser = FalseyValueParser::new())]
    pub follow: bool,
    /// Only the last N lines of each task (with --follow, and what comes)
    #[arg(long, env = "MUSTER_TAIL", value_name = "N", value_parser = clap::value_parser!(u64).range(..=MAX_TAIL))]
    pub tail: Option<u64>,
    /// Only what was printed since then, about: what came in together is shown whole. So long ago (90s, 10m, 2h, 1d)
    /// or a time (2026-11-24T10:00:00Z); with --tail, the last lines of that
    #[arg(long, env = "MUSTER_SINCE", value_name = "DURATION|TIME")]
    pub since: Option<Since>,
    /// Put the task's number and label before each line; auto: where there are several tasks
    #[arg(long, env = "MUSTER_PREFIX", value_enum, value_name = "WHEN", default_value_t = Prefix::Auto)]
    pub prefix: Prefix,
    /// Only lines with this text in them (not a pattern; upper and lower case differ); with --tail, of those lines
    #[arg(long, env = "MUSTER_GREP", value_name = "TEXT")]
    pub grep: Option<String>,
    /// The attempt, counted from 1; needs one TASK [default: the newest]
    #[arg(long, value_name = "N", value_parser = task_index())]
    pub attempt: Option<i32>,
    /// Start at this byte; needs one TASK
    #[arg(long, env = "MUSTER_OFFSET", value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    #[arg(conflicts_with = "tail")]
    pub offset: Option<i64>,
    /// The exact bytes of one task; not to a terminal
    #[arg(long, env = "MUSTER_RAW", value_parser = FalseyValueParser::new(), conflicts_with = "grep")]
    pub raw: bool,
    /// Save exact bytes, a file a task, in this folder instead of showing them
    #[arg(long, value_name = "DIR", conflicts_with_all = ["grep", "tail", "since", "offset", "raw"])]
    pub output_dir: Option<PathBuf>,
}

impl LogsArgs {
    /// From when on output is wanted, once that is known.
    fn since_time(&self) -> Option<prost_types::Timestamp> {
        let Some(Since::At(time)) = self.since else { return None };
        // Of a time before 1970 both parts are negative; no output is as old.
        let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond().max(0));
        Some(prost_types::Timestamp { seconds, nanos })
    }
}

/// When lines carry the task's number and label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Prefix {
    /// Where there are several tasks.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Shows the output.
pub async fn run(mut args: LogsArgs, context: &Context) -> Result<Exit, Error> {
    check(&args, context)?;
    let mut seen = std::collections::HashSet::new();
    args.tasks.retain(|index| seen.insert(*index));
    let client = Client::new(context)?;
    if let Some(since) = &mut args.since {
        *since = Since::At(since.time(&client).await?);
    }
    if args.follow {
        let tasks: String = args.tasks.iter().map(|index| format!(" {index}")).collect();
        let again = command(&context.url, &format!("logs {}{tasks} --follow", one_line(&args.batch)));
        context.io.set_interrupt_hint(Some(format!("the batch goes on; follow it again with: {again}")));
    }
    if let Some(folder) = &args.output_dir {
        return files::save_all(&client, &args, folder).await;
    }
    // One task needs no look at its batch, unless something about it is of use.
    let bare = args.tail.is_none() && args.prefix != Prefix::Always;
    if let ([index], true) = (args.tasks.as_slice(), bare) {
        one::show(&client, &args, &Job::unknown(*index, args.attempt)).await?;
        return Ok(Exit::Completed);
    }
    let batch = client.batch(&args.batch).await?;
    let single = match args.tasks.as_slice() {
        [index] => Some(*index),
        [] if batch.task_count == 1 => Some(1),
        _ => None,
    };
    if let Some(index) = single {
        let job = batch.tasks.iter().find(|task| task.index == index);
        let job = job.map_or_else(|| Job::unknown(index, args.attempt), |task| Job::of(task, args.attempt));
        one::show(&client, &args, &job).await?;
        return Ok(Exit::Completed);
    }
    if args.raw {
        return Err(Error::Usage(format!(
            "--raw gives the exact bytes of one task, and these are {}; name one, or save all with: --output-dir DIR",
            if args.tasks.is_empty() { batch.task_count } else { args.tasks.len() as i32 }
        )));
    }
    if args.follow {
        many::follow(&client, &args, &batch).await
    } else {
        many::read(&client, &args, &batch).await
    }
}

/// What cannot be asked for, before anything is asked.
fn check(args: &LogsArgs, context: &Context) -> Result<(), Error> {
    let refuse = |text: &str| Err(Error::Usage(text.to_owned()));
    if args.raw && context.io.out_is_terminal() {
        return refuse(
            "--raw is not for terminals: what a task printed could steer yours; send it to a file or a pipe, or \
             leave --raw out",
        );
    }
    if args.tasks.len() != 1 && args.attempt.is_some() {
        return refuse("--attempt needs one task: muster logs BATCH TASK --attempt N");
    }
    if args.tasks.len() != 1 && args.offset.is_some_and(|offset| offset > 0) {
        return refuse("--offset needs one task: muster logs BATCH TASK --offset N");
    }
    Ok(())
}

/// One attempt's output, to be read.
#[derive(Clone, Debug)]
struct Job {
    index: i32,
    label: String,
    /// 0: the newest.
    attempt: i32,
    /// Bytes stored, where they are known.
    size: Option<i64>,
    /// Nothing of it is stored yet: whatever comes is wanted from the start.
    fresh: bool,
}

impl Job {
    /// A task of which only the number is known.
    fn unknown(index: i32, attempt: Option<i32>) -> Self {
        let attempt = attempt.unwrap_or(0);
        Self { index, label: String::new(), attempt, size: None, fresh: false }
    }

    /// A task that was looked at.
    fn of(task: &Task, attempt: Option<i32>) -> Self {
        let newest = attempt.is_none_or(|attempt| attempt == task.attempt);
        let waits = task.status() == TaskStatus::Queued;
        // One that runs may have printed more since it was looked at.
        let settled = newest && files::is_over(task);
        Self {
            index: task.index,
            label: task.label.clone(),
            attempt: attempt.unwrap_or(0),
            size: settled.then_some(task.log_bytes),
            fresh: newest && waits && attempt.is_none(),
        }
    }

    /// Opens its output where it is wanted from.
    async fn open(&self, client: &Client, args: &LogsArgs) -> Result<Tail, Error> {
        let mut request = TailLogsRequest {
            batch_id: args.batch.clone(),
            task_index: self.index,
            attempt: self.attempt,
            offset: args.offset.unwrap_or(0),
            follow: args.follow,
            ..TailLogsRequest::default()
        };
        // A task that is to run is followed from the start of its next attempt; else its last attempt is meant.
        if let Some(lines) = args.tail
            && !(self.fresh && args.follow)
        {
            request.offset = last_lines(client, &request, lines, self.size).await?;
        }
        request.since = args.since_time();
        Ok(Tail::new(client, request))
    }

    /// How its lines are shown.
    fn style(&self, client: &Client, args: &LogsArgs, several: bool) -> Style {
        let prefixed = args.prefix == Prefix::Always || (args.prefix == Prefix::Auto && several);
        // What is looked for is text, and colours would stand between its letters.
        let plain = args.grep.is_some();
        Style::new(client.context().io.colour(), prefixed.then_some((self.index, &self.label)), plain)
            .with_grep(args.grep.clone())
    }
}

/// The tasks of a batch that were asked for, as far as the batch brought them; those that it left out are known by
/// number alone.
fn named(args: &LogsArgs, batch: &Batch) -> Vec<Job> {
    let find = |index: i32| batch.tasks.iter().find(|task| task.index == index);
    let job =
        |&index: &i32| find(index).map_or_else(|| Job::unknown(index, None), |task| Job::of(task, None));
    args.tasks.iter().map(job).collect()
}

fn discarded(index: i32, bytes: i64) -> String {
    format!("task {index}: {bytes} bytes past the limit were thrown away")
}
