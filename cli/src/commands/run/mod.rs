//! `muster run`: a batch from beginning to end on this machine, with nothing else to start.

pub mod data_dir;
pub mod drive;
pub mod embed;
pub mod outputs;
pub mod printer;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueHint};
use muster_proto::v1::{Batch, ReleaseBatchRequest, SubmitBatchRequest, TaskStatus};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    Context,
    approval::{Approvals, Provenance},
    args::OutputArgs,
    client::{Client, new_request_id},
    commands::{list::Batches, release::release, submit::submit_approved},
    error::{Error, Exit},
    follow::{Follower, has_ended},
    output::{Format, print_batch},
    payload::SubmissionArgs,
    sanitize::one_line,
    shell::quote,
};
use drive::{Outcome, cancel_all, drive};
use embed::{CoordinatorOptions, Embedded, WorkerOptions};
use printer::Printer;

/// How long an abandoned batch may take to end before the new one is submitted anyway.
const ABANDON_TIME: Duration = Duration::from_secs(30);
/// After an interrupt the summary has so long to be printed.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Interrupts that wait; further ones say nothing new.
const QUEUED_INTERRUPTS: usize = 4;

/// What `run` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "On a terminal: a bar, what runs with its last line of output, and a line per task that ended, with
the last lines of those that failed. Else: all output, each line with the number of its task.
The data (and the outputs, under worker/outputs) stay in ./muster-runs/<batch>.
Ctrl-C cancels the batch and lets tasks finish cleanly; a second one ends them at once.

Examples:
  muster run batch.json --dispatch ./dispatch
  muster run -m bpro-t2i 'a white cat' 'a black dog' --dispatch ./dispatch --concurrency 2
  muster run --each-line prompts.txt --dispatch ./dispatch
  muster run --cards cards.md --dispatch ./dispatch
  muster run --data-dir run-1 --resume --dispatch ./dispatch      go on after a crash

Exit codes: 0 all tasks completed; 1 some did not; 2 rejected; 3 could not be started; 130
interrupted."
)]
pub struct RunArgs {
    #[command(flatten)]
    /// The batch.
    pub submission: SubmissionArgs,
    /// Program that runs a task, split into words as a shell would (no shell runs)
    #[arg(long, env = "MUSTER_DISPATCH", value_name = "CMD", default_value = "dispatch", value_hint = ValueHint::AnyPath)]
    pub dispatch: String,
    /// How many tasks this machine runs at once [default: the cores]
    #[arg(long, env = "MUSTER_SLOTS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: Option<u32>,
    /// Where to keep the data [default: a new folder in ./muster-runs]
    #[arg(long, env = "MUSTER_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Go on with the unfinished batch in --data-dir instead of submitting
    #[arg(long, requires = "data_dir", conflicts_with = "abandon")]
    pub resume: bool,
    /// Cancel the unfinished batch in --data-dir, then submit
    #[arg(long, requires = "data_dir")]
    pub abandon: bool,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Runs the batch.
pub async fn run(args: RunArgs, context: &Context) -> Result<Exit, Error> {
    // Everything that can be refused without starting anything comes first.
    embed::check_dispatch(&args.dispatch)?;
    let request = if args.resume { None } else { Some(args.submission.request(&context.io)?) };
    let mut interrupts = interrupts()?;
    let (data_dir, first_batch) = match &args.data_dir {
        Some(path) => (data_dir::given(path)?, None),
        None => data_dir::new_run().map(|(path, id)| (path, Some(id)))?,
    };
    let mut folder = Folder { path: data_dir.clone(), is_new: first_batch.is_some(), is_used: false };
    let mut embedded =
        Embedded::start(CoordinatorOptions { data_dir: data_dir.clone(), first_batch }).await?;
    let context = Context { url: embedded.url().to_owned(), ..context.clone() };
    let worker = WorkerOptions {
        dispatch: args.dispatch.clone(),
        slots: args.slots,
        work_dir: data_dir.join("worker"),
    };
    let outcome =
        run_with(&args, request, &context, &mut embedded, worker, &mut folder, &mut interrupts).await;
    embedded.shutdown().await;
    // Where it is not known whether the batch was stored, the folder stays.
    // An interrupt is an error only where an approval was asked for.
    let was_refused =
        matches!(&outcome, Ok(_) | Err(Error::Rejected(_) | Error::NotApproved | Error::Interrupted));
    if folder.is_new && !folder.is_used && was_refused {
        data_dir::remove_unused(&data_dir);
    }
    if let Err(Error::Embedded(_) | Error::GaveUp { .. } | Error::Unreachable { .. }) = &outcome {
        context.io.say(&format!("what was stored is kept; go on with: {}", resume_command(&args, &data_dir)));
    }
    let Ended { exit, look } = outcome?;
    if let (Exit::NotAllCompleted, Some(look)) = (exit, look) {
        let folder = word_from_here(&data_dir);
        context.io.say(&format!(
            "all output is kept; to see it, start: muster-coordinator --data-dir {folder}; and beside it: muster {look}"
        ));
    }
    Ok(exit)
}

/// How the run came out.
struct Ended {
    exit: Exit,
    /// The words after `muster` that show more of what did not complete.
    look: Option<String>,
}

impl Ended {
    const COMPLETED: Self = Self { exit: Exit::Completed, look: None };
}

/// The command that goes on with this run.
fn resume_command(args: &RunArgs, data_dir: &Path) -> String {
    let mut command = format!("muster run --data-dir {} --resume", word_from_here(data_dir));
    command.push_str(&format!(" --dispatch {}", quote(OsStr::new(&args.dispatch))));
    if let Some(slots) = args.slots {
        command.push_str(&format!(" --slots {slots}"));
    }
    command
}

/// Where the run keeps its data.
struct Folder {
    path: PathBuf,
    /// Made for this run.
    is_new: bool,
    /// A batch was stored in it.
    is_used: bool,
}

impl Folder {
    fn use_for(&mut self, context: &Context) {
        self.is_used = true;
        context.io.say(&format!("data in {}", from_here(&self.path)));
    }
}

async fn run_with(
    args: &RunArgs,
    request: Option<(SubmitBatchRequest, Provenance)>,
    context: &Context,
    embedded: &mut Embedded,
    worker: WorkerOptions,
    folder: &mut Folder,
    interrupts: &mut mpsc::Receiver<()>,
) -> Result<Ended, Error> {
    let client = Client::new(context)?;
    let unfinished = unfinished(&client).await?;
    decide(args, &unfinished)?;
    let Some((request, provenance)) = request else {
        for batch in unfinished.iter().filter(|batch| batch.on_hold) {
            // The folder is a copy. To go on with it is what was asked for.
            context.io.say(&format!(
                "batch {} comes from a copy of its folder; what was queued in it runs here now, whether or not it \
                 has run elsewhere",
                one_line(&batch.batch_id)
            ));
            let request =
                ReleaseBatchRequest { batch_id: batch.batch_id.clone(), request_id: new_request_id()? };
            release(&client, &request).await?;
        }
        embedded.start_worker(worker).await?;
        let mut all = Ended::COMPLETED;
        for (place, batch) in unfinished.iter().enumerate() {
            let this = follow_to_end(args, &client, &batch.batch_id, embedded, interrupts).await?;
            if this.exit == Exit::Interrupted && all.exit != Exit::Interrupted {
                // Those that follow run already, and are meant too.
                for other in unfinished.iter().skip(place + 1) {
                    cancel_all(&client, &other.batch_id, false).await?;
                }
            }
            if all.exit == Exit::Completed || this.exit == Exit::Interrupted {
                all = this;
            }
        }
        return Ok(all);
    };
    if request.validate_only {
        let batch =
            submit_approved(&client, request, Approvals::new(&client, &provenance, Some(interrupts))).await?;
        context.io.say("the batch is valid; nothing was run");
        print_batch(&client, &batch, args.output.format()).await?;
        return Ok(Ended::COMPLETED);
    }
    if unfinished.is_empty() {
        // Refusals come before a worker is started.
        let batch =
            submit_approved(&client, request, Approvals::new(&client, &provenance, Some(interrupts))).await?;
        folder.use_for(context);
        embedded.start_worker(worker).await?;
        return follow_to_end(args, &client, &batch.batch_id, embedded, interrupts).await;
    }
    // What the worker still holds of the abandoned batch is ended by it.
    for batch in &unfinished {
        cancel_all(&client, &batch.batch_id, true).await?;
    }
    embedded.start_worker(worker).await?;
    for batch in &unfinished {
        wait_for_end(&client, &batch.batch_id).await?;
    }
    let batch =
        submit_approved(&client, request, Approvals::new(&client, &provenance, Some(interrupts))).await?;
    folder.use_for(context);
    follow_to_end(args, &client, &batch.batch_id, embedded, interrupts).await
}

/// Nothing spends money unasked: an unfinished batch in the folder needs a word from the user.
fn decide(args: &RunArgs, unfinished: &[Batch]) -> Result<(), Error> {
    let folder = args.data_dir.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    match unfinished.first() {
        Some(batch) if !args.resume && !args.abandon => Err(Error::Usage(format!(
            "{folder} holds the unfinished batch {}; add --resume to go on with it, or --abandon to cancel it first",
            batch.batch_id
        ))),
        None if args.resume => Err(Error::Usage(format!(
            "{folder} holds no unfinished batch to resume; leave --resume out to submit a new one"
        ))),
        Some(_) | None => Ok(()),
    }
}

async fn unfinished(client: &Client) -> Result<Vec<Batch>, Error> {
    let mut found = Vec::new();
    let mut batches = Batches::new(client, 0);
    while let Some(page) = batches.next().await? {
        found.extend(page.into_iter().filter(|batch| !has_ended(batch.scheduler_status())));
    }
    // Oldest first, as they were submitted.
    found.reverse();
    Ok(found)
}

async fn wait_for_end(client: &Client, batch_id: &str) -> Result<(), Error> {
    let mut follower = Follower::new(client, batch_id, true);
    let end = async {
        while follower.next().await?.is_some() {}
        Ok(())
    };
    match tokio::time::timeout(ABANDON_TIME, end).await {
        Ok(outcome) => outcome,
        Err(_) => {
            client.context().io.say(&format!("batch {} is still ending", one_line(batch_id)));
            Ok(())
        }
    }
}

async fn follow_to_end(
    args: &RunArgs,
    client: &Client,
    batch_id: &str,
    embedded: &mut Embedded,
    interrupts: &mut mpsc::Receiver<()>,
) -> Result<Ended, Error> {
    let io = &client.context().io;
    let format = args.output.format();
    let printer = Printer::start(io.clone());
    let print = printer.sender();
    let outcome = tokio::select! {
        outcome = drive(client, batch_id, &print, interrupts, format == Format::Table) => outcome,
        error = embedded.worker_failed() => Err(error),
    };
    drop(print);
    // Standard output may be stuck; the batch came out as it did, and another Ctrl-C ends the waiting.
    let printed = tokio::select! {
        printed = printer.finish() => printed,
        Some(()) = interrupts.recv() => false,
    };
    let Outcome { exit, summary, first_log } = outcome?;
    let look = match first_log {
        Some(index) => format!("logs {} {index}", one_line(batch_id)),
        None => format!("status {}", one_line(batch_id)),
    };
    let ended = Ended { exit, look: Some(look) };
    if !printed {
        return Ok(ended);
    }
    let (client, batch_id) = (client.clone(), batch_id.to_owned());
    // On a thread of its own, so that it is left behind where it is stuck: a thread of the runtime would hold up
    // what waits for its turn on it, such as the coordinator's connections.
    let runtime = tokio::runtime::Handle::current();
    let finishing =
        tokio::task::spawn_blocking(move || runtime.block_on(finish(&client, &batch_id, format, &summary)));
    tokio::select! {
        written = finishing => match written {
            // The reader went away.
            Ok(Ok(()) | Err(Error::ClosedPipe)) => Ok(ended),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(Error::Embedded(error.to_string())),
        },
        Some(()) = interrupts.recv() => Ok(ended),
        () = tokio::time::sleep(LAST_WORDS), if exit == Exit::Interrupted => Ok(ended),
    }
}

/// The summary, and the output files that exist.
async fn finish(client: &Client, batch_id: &str, format: Format, summary: &[String]) -> Result<(), Error> {
    let io = &client.context().io;
    let batch = client.batch(batch_id).await?;
    if format != Format::Table {
        summary.iter().for_each(|line| io.say(line));
        return print_batch(client, &batch, format).await;
    }
    summary.iter().try_for_each(|line| io.line(line))?;
    let mut pages = client.tasks_of(&batch);
    while let Some(tasks) = pages.next().await? {
        for task in tasks.iter().filter(|task| task.status() == TaskStatus::Completed) {
            for path in outputs::existing(&task.output_path) {
                io.line(&format!("  task {} output: {}", task.index, from_here(&path)))?;
            }
        }
    }
    Ok(())
}

/// A path as one reads it in the current folder, where it lies below it.
fn from_here(path: &Path) -> String {
    one_line(&below_here(path).display().to_string())
}

/// The same as a word of a command line.
fn word_from_here(path: &Path) -> String {
    quote(below_here(path).as_os_str())
}

fn below_here(path: &Path) -> &Path {
    let here = std::env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path)
}

/// Ctrl-C and SIGTERM as messages.
fn interrupts() -> Result<mpsc::Receiver<()>, Error> {
    let failed = |source| Error::Write { what: "signal handler".to_owned(), source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let (sender, receiver) = mpsc::channel(QUEUED_INTERRUPTS);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = interrupt.recv() => {}
                Some(()) = terminate.recv() => {}
                else => return,
            }
            // A full queue says the same already.
            let _ = sender.try_send(());
        }
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(line: &[&str]) -> Result<RunArgs, clap::Error> {
        let words = ["muster", "run"].iter().chain(line);
        match Cli::try_parse_from(words)?.command {
            Command::Run(args) => Ok(args),
            _ => panic!("run"),
        }
    }

    #[test]
    fn an_unfinished_batch_needs_a_word() {
        let left = [Batch { batch_id: "b1".to_owned(), ..Batch::default() }];
        let args = parse(&["f", "--data-dir", "d"]).unwrap();
        let Err(Error::Usage(text)) = decide(&args, &left) else { panic!("refused") };
        assert!(text.contains("--resume") && text.contains("--abandon") && text.contains("b1"), "{text}");
        assert!(decide(&args, &[]).is_ok());
        for flag in ["--resume", "--abandon"] {
            assert!(decide(&parse(&["f", "--data-dir", "d", flag]).unwrap(), &left).is_ok());
        }
        let resume = parse(&["--data-dir", "d", "--resume"]).unwrap();
        assert!(matches!(decide(&resume, &[]), Err(Error::Usage(_))));
    }

    #[test]
    fn the_command_that_goes_on_can_be_pasted() {
        let args = parse(&["f", "--dispatch", "./my dispatch --fast", "--slots", "2"]).unwrap();
        let expected = "muster run --data-dir '/a run' --resume --dispatch './my dispatch --fast' --slots 2";
        assert_eq!(resume_command(&args, Path::new("/a run")), expected);
    }

    #[test]
    fn resume_and_abandon_need_a_folder_and_exclude_each_other() {
        assert!(parse(&["f", "--resume"]).is_err());
        assert!(parse(&["f", "--abandon"]).is_err());
        assert!(parse(&["f", "--data-dir", "d", "--resume", "--abandon"]).is_err());
    }

    #[test]
    fn a_batch_must_be_named_unless_one_is_resumed() {
        let io = crate::io::Io::new(Box::new(std::io::sink()), Box::new(std::io::sink()), false);
        let none = parse(&[]).unwrap().submission.request(&io);
        assert!(matches!(none, Err(Error::Usage(text)) if text.contains("--cards")));
        assert!(parse(&["--data-dir", "d", "--resume"]).is_ok());
    }
}
