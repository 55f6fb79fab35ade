//! Follows a batch of `muster run` to its end: progress lines, the tasks' output, cancellation by Ctrl-C.

use std::{collections::HashMap, sync::Arc, time::Duration};

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
    progress::{Line, Progress},
    sanitize::Colour,
    tail::Tail,
};

/// Outputs that are read at the same time.
const MAX_TAILS: usize = 64;
/// How long output may still come after the batch has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(10);

/// How the batch came out.
pub struct Outcome {
    /// The exit code.
    pub exit: Exit,
    /// The summary.
    pub summary: Vec<String>,
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
    Ok(Outcome { exit, summary })
}

/// Prints what happens until the batch has ended and its output is printed.
async fn follow(
    client: &Client,
    batch_id: &str,
    print: &PrintSender,
    changes_are_data: bool,
) -> Result<Progress, Error> {
    let mut follower = Follower::new(client, batch_id, true);
    let mut progress = Progress::new(&client.context().url, false);
    let mut tails = Tails::new(client, batch_id, print);
    while let Some(message) = follower.next().await? {
        for line in progress.observe(&message) {
            match line {
                Line::Change(text) if changes_are_data => print.data(text + "\n").await,
                Line::Change(text) | Line::Talk(text) => print.talk(text).await,
            }
        }
        if changes_are_data {
            message.tasks.iter().for_each(|task| tails.follow(task));
        }
    }
    tails.finish().await;
    Ok(progress)
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
        let terminal = client.context().io.out_is_terminal();
        Self {
            client: client.clone(),
            batch_id: batch_id.to_owned(),
            print: print.clone(),
            colour: if terminal { Colour::Keep } else { Colour::Strip },
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
