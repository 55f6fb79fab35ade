//! `muster watch`: follows a batch until it has ended.

use clap::Args;
use muster_proto::v1::WatchBatchResponse;

use crate::{
    Context,
    args::OutputArgs,
    client::Client,
    error::{Error, Exit},
    follow::Follower,
    io::Io,
    live::{Live, next_message},
    output::{Format, json, print_batch, print_line},
    progress::{Line, Progress, command},
};

/// What `watch` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "On a terminal: a bar, what runs with its last line of output, and a line per task that ended.
Else (and with TERM=dumb): one line per change of a task. A summary at the end. Goes on by itself
when the coordinator is restarted; gives up after a minute without it (exit code 3). Interrupting
ends the watching, not the batch.

With --output jsonl each change is one line of JSON; with json or seed-json the lines go to standard
error and the batch, once it has ended, to standard output.

Examples:
  muster watch BATCH
  muster watch BATCH --output jsonl | jq -c '.tasks[]'

Exit codes: 0 all tasks completed; 1 some did not."
)]
pub struct WatchArgs {
    /// The batch
    pub batch: String,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Follows the batch.
pub async fn run(args: WatchArgs, context: &Context) -> Result<Exit, Error> {
    let client = Client::new(context)?;
    watch(&client, &args.batch, args.output.format(), false).await
}

/// Follows a batch to its end. `known`: the coordinator has just answered, so it is worth waiting for.
pub async fn watch(client: &Client, batch_id: &str, format: Format, known: bool) -> Result<Exit, Error> {
    let context = client.context();
    let later = command(&context.url, &format!("watch {batch_id}"));
    context.io.set_interrupt_hint(Some(format!("the batch goes on; watch it again with: {later}")));
    match watch_to_end(client, batch_id, format, known).await {
        // Exit code 0 would claim that all tasks have completed.
        Err(Error::ClosedPipe) => Ok(Exit::NotAllCompleted),
        outcome => outcome,
    }
}

async fn watch_to_end(client: &Client, batch_id: &str, format: Format, known: bool) -> Result<Exit, Error> {
    let context = client.context();
    let mut follower = Follower::new(client, batch_id, known);
    let mut progress = Progress::new(&context.url, true);
    let mut live = Live::start(client, batch_id)?;
    while let Some(message) = next_message(&mut follower, &mut live).await? {
        print_changes(&context.io, &mut progress, &message, format, &mut live)?;
    }
    if let Some(rest) = live.as_mut().and_then(Live::outcomes_left) {
        scroll(&context.io, &[rest], format)?;
    }
    drop(live);
    for line in progress.summary(true) {
        match format {
            Format::Table => context.io.line(&line)?,
            Format::Json | Format::Jsonl | Format::SeedJson => context.io.say(&line),
        }
    }
    if matches!(format, Format::Json | Format::SeedJson) {
        let batch = client.batch(batch_id).await?;
        print_batch(client, &batch, format).await?;
    }
    Ok(if progress.all_completed() { Exit::Completed } else { Exit::NotAllCompleted })
}

/// Prints what is new. On a live view only outcomes scroll by; data that goes elsewhere stays as it is without one.
fn print_changes(
    io: &Io,
    progress: &mut Progress,
    message: &WatchBatchResponse,
    format: Format,
    live: &mut Option<Live>,
) -> Result<(), Error> {
    let lines = progress.observe(message);
    let mut outcomes = Vec::new();
    let mut changes = String::new();
    for line in lines {
        let text = match line {
            Line::Talk(text) => {
                io.say(&text);
                continue;
            }
            Line::Change(text) => text,
            Line::Outcome(outcome) => {
                let text = outcome.text.clone();
                outcomes.push(outcome);
                text
            }
        };
        match format {
            Format::Table if !(live.is_some() && io.out_is_terminal()) => changes.push_str(&(text + "\n")),
            Format::Json | Format::SeedJson if live.is_none() => io.say(&text),
            Format::Table | Format::Json | Format::Jsonl | Format::SeedJson => {}
        }
    }
    if let Some(live) = live {
        scroll(io, &live.outcome_lines(&outcomes), format)?;
    }
    if format == Format::Jsonl {
        return print_line(io, &json::watch(message));
    }
    if changes.is_empty() { Ok(()) } else { io.write(changes.as_bytes()) }
}

/// Lets outcomes scroll by: as data where that goes to the terminal, unless it says the same already.
fn scroll(io: &Io, lines: &[String], format: Format) -> Result<(), Error> {
    match format {
        Format::Jsonl if io.out_is_terminal() => Ok(()),
        Format::Table if io.out_is_terminal() => lines.iter().try_for_each(|line| io.line(line)),
        Format::Table | Format::Json | Format::Jsonl | Format::SeedJson => {
            lines.iter().for_each(|line| io.say(line));
            Ok(())
        }
    }
}
