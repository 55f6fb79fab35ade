//! Follows a batch of `muster run` to its end: progress lines, the tasks' output, cancellation by Ctrl-C.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use muster_proto::v1::{CancelBatchRequest, SchedulerStatus, TailLogsRequest, Task, TaskStatus};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::printer::{Prefixer, PrintSender};
use crate::{
    client::{Client, new_request_id},
    commands::cancel::cancel,
    error::{Error, Exit},
    follow::Follower,
    live::{Live, next_message, outputs::last_lines},
    progress::{Line, Progress},
    sanitize::Colour,
    tail::Tail,
};

/// Outputs that are read at the same time.
const MAX_TAILS: usize = 64;
/// Failed tasks whose last lines are shown on a live view; the summary names as many.
const MAX_FAILURES: usize = 20;
/// How long output may still come after the batch has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(10);

/// How the batch came out.
pub struct Outcome {
    /// The exit code.
    pub exit: Exit,
    /// The summary.
    pub summary: Vec<String>,
    /// The first task that did not complete and has a log.
    pub first_log: Option<i32>,
}

/// Follows the batch to its end. Each message on `interrupts` is a Ctrl-C: the first cancels the batch, further
/// ones end its tasks at once.
pub async fn drive(
    client: &Client,
    batch_id: &str,
    print: &PrintSender,
    interrupts: &mut mpsc::Receiver<()>,
    changes_are_data: bool,
) -> Result<Outcome, Error> {
    let mut interrupted = 0;
    // Beside the following, which may wait for a reader of what it prints.
    let following = follow(client, batch_id, print, changes_are_data);
    tokio::pin!(following);
    let progress = loop {
        tokio::select! {
            progress = &mut following => break progress?,
            Some(()) = interrupts.recv() => {
                interrupted += 1;
                print.hurry(interrupt_text(interrupted));
                cancel_all(client, batch_id, interrupted > 1).await?;
            }
        }
    };
    let exit = match (interrupted, progress.all_completed()) {
        (0, true) => Exit::Completed,
        (0, false) => Exit::NotAllCompleted,
        _ => Exit::Interrupted,
    };
    let cancelled =
        progress.batch().is_some_and(|batch| batch.scheduler_status() == SchedulerStatus::Cancelled);
    let mut summary = progress.summary(false);
    if cancelled && interrupted == 0 {
        summary.push("the batch was cancelled".to_owned());
    }
    Ok(Outcome { exit, summary, first_log: progress.first_log() })
}

/// Prints what happens until the batch has ended and its output is printed. With a live view, outcomes scroll by
/// with the last lines of what failed; data that goes elsewhere than to the terminal is the same with and without.
async fn follow(
    client: &Client,
    batch_id: &str,
    print: &PrintSender,
    changes_are_data: bool,
) -> Result<Progress, Error> {
    let mut follower = Follower::new(client, batch_id, true);
    let mut progress = Progress::new(&client.context().url, false);
    let mut tails = Tails::new(client, batch_id, print);
    let mut live = Live::start(client, batch_id)?;
    // Lines as without a view, and lines on it.
    let plain = live.is_none() || !client.context().io.out_is_terminal();
    let mut failures = Failures::new(client, batch_id, print, changes_are_data && !plain);
    while let Some(message) = next_message(&mut follower, &mut live).await? {
        let mut outcomes = Vec::new();
        for line in progress.observe(&message) {
            let text = match line {
                Line::Talk(text) => {
                    print.talk(text).await;
                    continue;
                }
                Line::Change(text) => text,
                Line::Outcome(outcome) => {
                    let text = outcome.text.clone();
                    outcomes.push(outcome);
                    text
                }
            };
            match (changes_are_data, live.is_some()) {
                (true, _) if plain => print.data(text + "\n").await,
                (false, false) => print.talk(text).await,
                (true | false, _) => {}
            }
        }
        if let Some(live) = &mut live {
            failures.scroll(live.outcome_lines(&outcomes)).await;
            message.tasks.iter().for_each(|task| failures.show(task));
        }
        if changes_are_data && plain {
            message.tasks.iter().for_each(|task| tails.follow(task));
        }
    }
    failures.scroll(live.as_mut().and_then(Live::outcomes_left).into_iter().collect()).await;
    failures.finish().await;
    tails.finish().await;
    Ok(progress)
}

/// What scrolls by on a live view: outcomes, and the last lines of tasks that failed.
struct Failures {
    client: Client,
    batch_id: String,
    print: PrintSender,
    as_data: bool,
    shown: HashSet<i32>,
    reading: JoinSet<()>,
}

impl Failures {
    /// `as_data`: it goes to standard output.
    fn new(client: &Client, batch_id: &str, print: &PrintSender, as_data: bool) -> Self {
        Self {
            client: client.clone(),
            batch_id: batch_id.to_owned(),
            print: print.clone(),
            as_data,
            shown: HashSet::new(),
            reading: JoinSet::new(),
        }
    }

    async fn scroll(&self, lines: Vec<String>) {
        scroll(&self.print, lines, self.as_data).await;
    }

    /// Reads and prints the last lines of the task, if it has failed and they are not shown yet.
    fn show(&mut self, task: &Task) {
        if task.status() != TaskStatus::Failed
            || self.shown.len() >= MAX_FAILURES
            || !self.shown.insert(task.index)
        {
            return;
        }
        let (client, batch_id, task) = (self.client.clone(), self.batch_id.clone(), task.clone());
        let (print, as_data) = (self.print.clone(), self.as_data);
        self.reading.spawn(async move {
            let lines = last_lines(&client, &batch_id, &task).await;
            scroll(&print, lines, as_data).await;
        });
    }

    /// Each has a time of its own, so this is bounded too.
    async fn finish(mut self) {
        while self.reading.join_next().await.is_some() {}
    }
}

/// Prints lines as one piece.
async fn scroll(print: &PrintSender, lines: Vec<String>, as_data: bool) {
    if lines.is_empty() {
        return;
    }
    if as_data {
        print.data(lines.join("\n") + "\n").await;
    } else {
        print.talk(lines.join("\n")).await;
    }
}

fn interrupt_text(count: u32) -> &'static str {
    if count > 1 {
        "interrupted again: ending the tasks at once"
    } else {
        "interrupted: cancelling the batch, its tasks may finish cleanly (interrupt again to end them at once)"
    }
}

/// Asks for the end of every task.
pub async fn cancel_all(client: &Client, batch_id: &str, immediate: bool) -> Result<(), Error> {
    let request = CancelBatchRequest {
        batch_id: batch_id.to_owned(),
        reason: "interrupted".to_owned(),
        request_id: new_request_id()?,
        immediate,
        ..CancelBatchRequest::default()
    };
    match cancel(client, &request).await {
        // It has ended in the same moment: the watch says so next.
        Ok(_) | Err(Error::Rejected(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The outputs of the tasks that have started, each read by a task of the runtime.
struct Tails {
    client: Client,
    batch_id: String,
    print: PrintSender,
    colour: Colour,
    attempts: HashMap<i32, i32>,
    places: Arc<Semaphore>,
    running: JoinSet<()>,
}

impl Tails {
    fn new(client: &Client, batch_id: &str, print: &PrintSender) -> Self {
        Self {
            client: client.clone(),
            batch_id: batch_id.to_owned(),
            print: print.clone(),
            colour: client.context().io.colour(),
            attempts: HashMap::new(),
            places: Arc::new(Semaphore::new(MAX_TAILS)),
            running: JoinSet::new(),
        }
    }

    /// Reads the output of the task's attempt, if it is a new one.
    fn follow(&mut self, task: &Task) {
        let started = task.attempt > 0 && task.status() != TaskStatus::Queued;
        if !started || self.attempts.insert(task.index, task.attempt) == Some(task.attempt) {
            return;
        }
        let request = TailLogsRequest {
            batch_id: self.batch_id.clone(),
            task_index: task.index,
            attempt: task.attempt,
            follow: true,
            ..TailLogsRequest::default()
        };
        let mut tail = Tail::new(&self.client, request);
        let mut prefixer = Prefixer::new(task.index, self.colour);
        let (print, index, places) = (self.print.clone(), task.index, Arc::clone(&self.places));
        self.running.spawn(async move {
            let _place = places.acquire().await;
            loop {
                match tail.next().await {
                    Ok(Some(piece)) => {
                        print.data(prefixer.push(&piece.bytes)).await;
                        if piece.discarded > 0 {
                            let count = piece.discarded;
                            print
                                .talk(format!("task {index}: {count} bytes past the limit were thrown away"))
                                .await;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        print.talk(format!("the output of task {index} cannot be shown: {error}")).await;
                        break;
                    }
                }
            }
            print.data(prefixer.finish()).await;
        });
        // Forgets those that have ended, so that a long batch does not gather them.
        while self.running.try_join_next().is_some() {}
    }

    async fn finish(mut self) {
        let all = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_OUTPUT, all).await.is_err() {
            self.print.talk("some output did not arrive in time".to_owned()).await;
        }
    }
}
