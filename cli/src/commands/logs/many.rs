//! Several tasks' output: without following, one task after the other (lines keep no times of their own by which
//! they could be put between those of others), with a bounded number read ahead; with following, line by line as they
//! come. The lines of one task are always in their order.

use std::collections::{HashMap, HashSet, VecDeque};

use muster_proto::v1::{Batch, Task, TaskStatus};
use tokio::sync::mpsc;

use crate::{
    client::{Client, TaskPages},
    commands::logs::{Job, LogsArgs, MAX_OPEN, discarded, format::Formatter, named},
    error::{Error, Exit},
    follow::Follower,
    io::Io,
};

/// Running tasks that are followed at once, beside [`MAX_OPEN`] tails of tasks that have ended.
pub(super) const MAX_FOLLOWED: usize = 64;
/// Messages that wait to be printed: of each task that is read ahead, or of all that are followed.
const WAITING: usize = 8;
/// Output is formatted in parts of so many bytes, since prefixes make much of many short lines.
const PART: usize = 4 << 10;

/// What a reader has to say about its task.
enum Event {
    /// Lines, ready to be printed.
    Text(String),
    /// Bytes past the limit were thrown away.
    Discarded(i64),
    /// There is no more.
    End(Result<(), Error>),
}

/// From the reader of a task.
struct Message {
    index: i32,
    ended_before: bool,
    event: Event,
}

/// Reads one task in the background; the reader ends early where nobody takes its messages.
fn spawn(client: &Client, args: &Reading, job: Job, ended_before: bool, sender: mpsc::Sender<Message>) {
    let (client, args) = (client.clone(), args.clone());
    tokio::spawn(async move {
        let index = job.index;
        let message = |event| Message { index, ended_before, event };
        let outcome = read_one(&client, &args.0, &job, |event| sender.send(message(event))).await;
        // Nobody is left to tell.
        let _ = sender.send(message(Event::End(outcome))).await;
    });
}

/// The arguments, shared by the readers.
#[derive(Clone)]
struct Reading(std::sync::Arc<LogsArgs>);

async fn read_one<F>(
    client: &Client,
    args: &LogsArgs,
    job: &Job,
    send: impl Fn(Event) -> F,
) -> Result<(), Error>
where
    F: Future<Output = Result<(), mpsc::error::SendError<Message>>>,
{
    let mut tail = job.open(client, args).await?;
    let mut formatter = Formatter::new(job.style(client, args, true).with_own_lines());
    while let Some(piece) = tail.next().await? {
        for part in piece.bytes.chunks(PART) {
            let text = formatter.push(part);
            if !text.is_empty() && send(Event::Text(text)).await.is_err() {
                return Ok(());
            }
        }
        if piece.discarded > 0 && send(Event::Discarded(piece.discarded)).await.is_err() {
            return Ok(());
        }
    }
    let rest = formatter.finish();
    if !rest.is_empty() {
        // The end is told next, to whoever is there.
        let _ = send(Event::Text(rest)).await;
    }
    Ok(())
}

/// Prints what there is, task by task.
pub(super) async fn read(client: &Client, args: &LogsArgs, batch: &Batch) -> Result<Exit, Error> {
    let io = &client.context().io;
    let reading = Reading(std::sync::Arc::new(args.clone()));
    let mut jobs = Jobs::new(client, args, batch);
    let mut ahead: VecDeque<mpsc::Receiver<Message>> = VecDeque::new();
    let mut outcome = Outcome::default();
    loop {
        while ahead.len() < MAX_OPEN
            && let Some(job) = jobs.next().await?
        {
            let (sender, receiver) = mpsc::channel(WAITING);
            spawn(client, &reading, job, true, sender);
            ahead.push_back(receiver);
        }
        let Some(mut first) = ahead.pop_front() else { break };
        while let Some(message) = first.recv().await {
            outcome.take(io, message)?;
        }
    }
    Ok(outcome.exit())
}

/// Prints what there is and what comes, until every task has ended.
pub(super) async fn follow(client: &Client, args: &LogsArgs, batch: &Batch) -> Result<Exit, Error> {
    let io = &client.context().io;
    let reading = Reading(std::sync::Arc::new(args.clone()));
    let (sender, mut messages) = mpsc::channel(WAITING * MAX_OPEN);
    let mut outcome = Outcome::default();
    let mut tasks = Tasks::default();
    // Tasks that were named wait for their own start; all of them are known from the watch.
    let mut changes = if args.tasks.is_empty() {
        Some(watch(client, &batch.batch_id))
    } else {
        tasks.running.extend(named(args, batch));
        None
    };
    let mut said = false;
    loop {
        while let Some((job, ended)) = tasks.next_to_open() {
            spawn(client, &reading, job, ended, sender.clone());
        }
        if !tasks.running.is_empty() && !std::mem::replace(&mut said, true) {
            io.say(&format!(
                "{} more tasks run than are followed at once ({MAX_FOLLOWED}); each is shown from its start as soon \
                 as another has ended",
                tasks.running.len()
            ));
        }
        if changes.is_none() && tasks.all_read() {
            return Ok(outcome.exit());
        }
        tokio::select! {
            change = next_change(&mut changes) => match change? {
                Some(changed) => changed.iter().for_each(|task| tasks.observe(task)),
                None => changes = None,
            },
            Some(message) = messages.recv() => {
                if matches!(message.event, Event::End(_)) {
                    tasks.ended(message.index, message.ended_before);
                }
                outcome.take(io, message)?;
            }
        }
    }
}

/// The tasks that changed, until the batch has ended.
type Changes = mpsc::Receiver<Result<Vec<Task>, Error>>;

/// Watches a batch in the background, so that its output, however much comes, never cuts the watch's calls short.
fn watch(client: &Client, batch_id: &str) -> Changes {
    let (sender, changes) = mpsc::channel(1);
    let mut follower = Follower::new(client, batch_id, true);
    tokio::spawn(async move {
        loop {
            let news = tokio::select! {
                () = sender.closed() => return,
                news = follower.next() => news,
            };
            let Some(news) = news.map(|news| news.map(|message| message.tasks)).transpose() else { return };
            let failed = news.is_err();
            if sender.send(news).await.is_err() || failed {
                return;
            }
        }
    });
    changes
}

/// The tasks that changed; `None` once the batch has ended; never where nothing is watched.
async fn next_change(changes: &mut Option<Changes>) -> Result<Option<Vec<Task>>, Error> {
    match changes {
        Some(changes) => changes.recv().await.transpose(),
        None => std::future::pending().await,
    }
}

/// How the reading went.
#[derive(Default)]
struct Outcome {
    some_failed: bool,
}

impl Outcome {
    /// Prints a message. One log that cannot be read does not keep the others from being shown.
    fn take(&mut self, io: &Io, message: Message) -> Result<(), Error> {
        match message.event {
            Event::Text(text) => io.write(text.as_bytes()),
            Event::Discarded(bytes) => {
                io.say(&discarded(message.index, bytes));
                Ok(())
            }
            Event::End(Err(error @ Error::CoordinatorFailed { .. })) => {
                self.some_failed = true;
                io.say(&format!("task {}: {}", message.index, error.text().unwrap_or_default()));
                Ok(())
            }
            Event::End(outcome) => outcome,
        }
    }

    fn exit(&self) -> Exit {
        if self.some_failed { Exit::NotAllCompleted } else { Exit::Completed }
    }
}

/// The tasks whose output is to be read, in order: those named, or all that have an attempt, page by page.
struct Jobs {
    named: Option<VecDeque<Job>>,
    pages: TaskPages,
    page: VecDeque<Job>,
}

impl Jobs {
    fn new(client: &Client, args: &LogsArgs, batch: &Batch) -> Self {
        let named = (!args.tasks.is_empty()).then(|| named(args, batch).into());
        Self { named, pages: client.tasks_of(batch), page: VecDeque::new() }
    }

    async fn next(&mut self) -> Result<Option<Job>, Error> {
        if let Some(named) = &mut self.named {
            return Ok(named.pop_front());
        }
        while self.page.is_empty() {
            let Some(tasks) = self.pages.next().await? else { return Ok(None) };
            self.page =
                tasks.iter().filter(|task| task.attempt > 0).map(|task| Job::of(task, None)).collect();
        }
        Ok(self.page.pop_front())
    }
}

/// Which attempts of the tasks of a batch are read, and which wait for their turn. Pure.
#[derive(Default)]
struct Tasks {
    known: HashMap<i32, Known>,
    /// Seen before they had started: all that they print is news.
    waiting: HashSet<i32>,
    running: VecDeque<Job>,
    over: VecDeque<Job>,
    running_open: usize,
    over_open: usize,
}

/// Attempts of one task.
#[derive(Default)]
struct Known {
    label: String,
    /// The last attempt that is read, or waits to be.
    taken: i32,
    newest: i32,
    /// One is read, or waits to be: the next begins after it.
    busy: bool,
}

impl Tasks {
    /// A task as it is now.
    fn observe(&mut self, task: &Task) {
        let waits = matches!(task.status(), TaskStatus::Queued | TaskStatus::Unspecified);
        if waits || task.attempt == 0 {
            self.waiting.insert(task.index);
            return;
        }
        let known = self.known.entry(task.index).or_insert_with(|| Known {
            label: task.label.clone(),
            taken: task.attempt - 1,
            ..Known::default()
        });
        known.newest = known.newest.max(task.attempt);
        if known.busy || known.taken >= known.newest {
            return;
        }
        let first = known.taken + 1 == task.attempt;
        known.taken += 1;
        known.busy = true;
        let mut job = Job::of(task, Some(known.taken));
        job.size = job.size.filter(|_| first);
        job.fresh = self.waiting.remove(&task.index);
        if task.status() == TaskStatus::Running {
            self.running.push_back(job);
        } else {
            self.over.push_back(job);
        }
    }

    /// The next one that may be opened, and whether it had ended before.
    fn next_to_open(&mut self) -> Option<(Job, bool)> {
        if self.running_open < MAX_FOLLOWED
            && let Some(job) = self.running.pop_front()
        {
            self.running_open += 1;
            return Some((job, false));
        }
        if self.over_open < MAX_OPEN
            && let Some(job) = self.over.pop_front()
        {
            self.over_open += 1;
            return Some((job, true));
        }
        None
    }

    /// A reader has come to its end.
    fn ended(&mut self, index: i32, ended_before: bool) {
        if ended_before {
            self.over_open -= 1;
        } else {
            self.running_open -= 1;
        }
        let Some(known) = self.known.get_mut(&index) else { return };
        known.busy = known.taken < known.newest;
        if known.busy {
            known.taken += 1;
            self.running
                .push_back(Job { label: known.label.clone(), ..Job::unknown(index, Some(known.taken)) });
        }
    }

    fn all_read(&self) -> bool {
        self.running.is_empty() && self.over.is_empty() && self.running_open + self.over_open == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(index: i32, attempt: i32, status: TaskStatus) -> Task {
        Task { index, attempt, status: status.into(), ..Task::default() }
    }

    fn open(tasks: &mut Tasks) -> Vec<(i32, i32)> {
        std::iter::from_fn(|| tasks.next_to_open()).map(|(job, _)| (job.index, job.attempt)).collect()
    }

    #[test]
    fn attempts_of_a_task_are_read_one_after_the_other_and_once() {
        let mut tasks = Tasks::default();
        tasks.observe(&task(1, 0, TaskStatus::Queued));
        tasks.observe(&task(2, 1, TaskStatus::Queued));
        assert_eq!(open(&mut tasks), []);
        tasks.observe(&task(1, 1, TaskStatus::Running));
        let (job, _) = tasks.next_to_open().unwrap();
        assert!((job.index, job.attempt, job.fresh) == (1, 1, true), "all of it is news");
        tasks.observe(&task(1, 1, TaskStatus::Completed));
        // Two attempts between two messages.
        tasks.observe(&task(1, 3, TaskStatus::Running));
        assert_eq!(open(&mut tasks), []);
        tasks.ended(1, false);
        assert_eq!(open(&mut tasks), [(1, 2)]);
        tasks.ended(1, false);
        assert_eq!(open(&mut tasks), [(1, 3)]);
        tasks.observe(&task(1, 3, TaskStatus::Failed));
        tasks.ended(1, false);
        assert!(open(&mut tasks).is_empty() && tasks.all_read());
    }

    #[test]
    fn running_tasks_do_not_wait_for_the_logs_of_those_that_ended() {
        let mut tasks = Tasks::default();
        for index in 1..=500 {
            tasks.observe(&task(index, 1, TaskStatus::Completed));
        }
        for index in 501..=600 {
            tasks.observe(&task(index, 1, TaskStatus::Running));
        }
        let opened = open(&mut tasks);
        assert_eq!(opened.len(), MAX_FOLLOWED + MAX_OPEN);
        assert!(opened[..MAX_FOLLOWED].iter().all(|(index, _)| *index > 500));
        tasks.ended(1, true);
        assert_eq!(open(&mut tasks), [(17, 1)]);
        tasks.ended(501, false);
        assert_eq!(open(&mut tasks), [(565, 1)]);
    }
}
