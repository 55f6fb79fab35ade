//! Approvals: what happens when a batch is over a configured limit that a word of the user lifts.
//!
//! On a terminal the user sees what would run and is asked; elsewhere the refusal says the exact command to repeat.
//! Nothing is ever approved from the environment, by silence, or for more than the limit that was asked about.

use std::io::BufRead;

use muster_proto::v1::{Batch, SubmitBatchRequest};
use nix::sys::termios::{FlushArg, tcflush};
use tokio::sync::mpsc;

use crate::{
    client::{Client, new_request_id},
    commands::submit::submit,
    error::{Error, Rejection},
    input::{origin::Origin, snippet::Style},
    io::Io,
    progress::headline,
    sanitize::one_line,
    shell::with_option,
};

/// Tasks that are shown; of the others how many there are.
const MAX_TASKS_SHOWN: usize = 10;
/// Characters of a label, a model or a prompt that are shown.
const MAX_WORD: usize = 60;
/// The most that is read as an answer.
const MAX_ANSWER_BYTES: u64 = 1024;

/// A limit that an approval lifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// How many tasks a batch may have.
    TaskCount,
    /// How many may run at once.
    Concurrency,
}

impl Limit {
    /// The limit that a refusal is about, if it is about one of these.
    pub fn of(rejection: &Rejection) -> Option<Self> {
        match rejection.reason.as_str() {
            "BATCH_TASK_COUNT_REQUIRES_APPROVAL" => Some(Self::TaskCount),
            "BATCH_CONCURRENCY_REQUIRES_APPROVAL" => Some(Self::Concurrency),
            _ => None,
        }
    }

    /// The option that approves.
    pub const fn option(self) -> &'static str {
        match self {
            Self::TaskCount => "--task-count-approved",
            Self::Concurrency => "--concurrency-approved",
        }
    }

    /// How far over it a batch is, and what is asked.
    fn question(self, rejection: &Rejection) -> String {
        let (asked, limit, what) = match self {
            Self::TaskCount => ("task_count", "configured_max_tasks", "tasks"),
            Self::Concurrency => ("requested_concurrency", "configured_max_concurrency", "tasks at once"),
        };
        let (asked, limit) = (rejection.figure(asked), rejection.figure(limit));
        let over = match (asked.parse::<i64>(), limit.parse::<i64>()) {
            (Ok(asked), Ok(limit)) => format!("{} more than", asked.saturating_sub(limit)),
            _ => "more than".to_owned(),
        };
        one_line(&format!(
            "{asked} {what} are {over} the {limit} allowed without approval; approve them? [y/N] "
        ))
    }
}

/// Where a request came from: what is needed to point at a place in it, and to have it repeated.
#[derive(Debug, Default)]
pub struct Provenance {
    /// Where its batch stands.
    pub origin: Origin,
    /// How to draw it.
    pub style: Style,
    /// What was read from standard input, and is not there a second time.
    pub from_standard_input: Option<&'static str>,
}

impl Provenance {
    /// An error with everything that is known here: places in the text that was handed in, and the command that
    /// repeats it with approval.
    pub fn explain(&self, error: Error, io: &Io) -> Error {
        let Error::Rejected(mut rejection) = error else { return error };
        rejection.locate(&self.origin, self.style);
        let words = &io.surroundings().command_line;
        if let (Some(limit), false) = (Limit::of(&rejection), words.is_empty()) {
            let again = self
                .from_standard_input
                .map(|what| format!(" (standard input was read: give {what} there again)"))
                .unwrap_or_default();
            let command = with_option(words, limit.option());
            rejection.repeat = Some(format!("to approve, repeat it{again}: {command}"));
        }
        Error::Rejected(rejection)
    }
}

/// Asks for approvals while one command is carried out: for each limit at most once.
pub struct Approvals<'a> {
    client: &'a Client,
    provenance: &'a Provenance,
    /// Ctrl-C as messages, for a command that does not end by it.
    interrupts: Option<&'a mut mpsc::Receiver<()>>,
    asked: Vec<Limit>,
}

impl<'a> Approvals<'a> {
    /// For requests to one coordinator.
    pub fn new(
        client: &'a Client,
        provenance: &'a Provenance,
        interrupts: Option<&'a mut mpsc::Receiver<()>>,
    ) -> Self {
        Self { client, provenance, interrupts, asked: Vec::new() }
    }

    /// The limit that the user approves to lift after a call failed; else the error to end with. `batch` is what
    /// the call asked for, where it is a new batch, so that it can be shown.
    pub async fn after(&mut self, error: Error, batch: Option<&SubmitBatchRequest>) -> Result<Limit, Error> {
        let io = &self.client.context().io;
        let (limit, question) = match &error {
            Error::Rejected(rejection) => match Limit::of(rejection) {
                Some(limit) if io.surroundings().can_ask && !self.asked.contains(&limit) => {
                    (limit, limit.question(rejection))
                }
                _ => return Err(self.provenance.explain(error, io)),
            },
            _ => return Err(error),
        };
        if let (true, Some(batch)) = (self.asked.is_empty(), batch) {
            self.show(batch).await?;
        }
        self.asked.push(limit);
        forget_what_was_typed();
        io.prompt(&question);
        if self.answer().await? { Ok(limit) } else { Err(Error::NotApproved) }
    }

    /// Shows what would run, as the coordinator plans it. A batch that would be refused anyway is, without asking.
    async fn show(&self, batch: &SubmitBatchRequest) -> Result<(), Error> {
        let io = &self.client.context().io;
        let look = SubmitBatchRequest {
            // Nothing is stored or run by this: it is the plan that cannot be seen without.
            validate_only: true,
            task_count_approved: true,
            concurrency_approved: true,
            request_id: new_request_id()?,
            ..batch.clone()
        };
        let planned = submit(self.client, &look).await.map_err(|error| self.provenance.explain(error, io))?;
        plan(&planned).iter().for_each(|line| io.say(line));
        Ok(())
    }

    async fn answer(&mut self) -> Result<bool, Error> {
        let io = &self.client.context().io;
        let reading = tokio::task::spawn_blocking(|| line(std::io::stdin().lock()));
        let interrupted = async {
            match &mut self.interrupts {
                Some(interrupts) => interrupts.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            line = reading => match line.ok().flatten() {
                Some(line) => Ok(is_yes(&line)),
                None => {
                    // The question's line is still open.
                    io.prompt("\n");
                    Ok(false)
                }
            },
            Some(()) = interrupted => {
                io.prompt("\n");
                Err(Error::Interrupted)
            }
        }
    }
}

/// What would run: the batch in one line, then its first tasks with label and model.
fn plan(batch: &Batch) -> Vec<String> {
    let mut lines = vec![headline_of(batch)];
    let shown: Vec<_> = batch.tasks.iter().take(MAX_TASKS_SHOWN).collect();
    for task in &shown {
        let prompt =
            if task.prompt.is_empty() { String::new() } else { format!(": {}", shorten(&task.prompt)) };
        let (label, model) = (shorten(&task.label), shorten(&task.model));
        lines.push(format!("  {}. {label} ({model}){prompt}", task.index));
    }
    let more = usize::try_from(batch.task_count).unwrap_or_default().saturating_sub(shown.len());
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines
}

fn headline_of(batch: &Batch) -> String {
    // Its state says nothing yet.
    let line = headline(batch);
    let line = line.rsplit_once(", ").map_or(line.as_str(), |(line, _)| line);
    format!("this would run: {line}")
}

fn shorten(text: &str) -> String {
    let mut short = one_line(text);
    if let Some((end, _)) = short.char_indices().nth(MAX_WORD) {
        short.truncate(end);
        short.push_str("...");
    }
    short
}

/// Keys that were hit before the question was there are no answer to it.
fn forget_what_was_typed() {
    // Without a terminal nobody is asked.
    let _ = tcflush(std::io::stdin(), FlushArg::TCIFLUSH);
}

/// The next line without its end; `None` where it does not end: nobody sent it off.
fn line(input: impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    input.take(MAX_ANSWER_BYTES).read_until(b'\n', &mut line).ok()?;
    (line.pop() == Some(b'\n')).then_some(line)
}

/// Whether an answer is a yes; anything else is a no.
fn is_yes(answer: &[u8]) -> bool {
    let word = answer.trim_ascii();
    word.eq_ignore_ascii_case(b"y") || word.eq_ignore_ascii_case(b"yes")
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::Task;

    use super::*;

    fn says_yes(input: &str) -> bool {
        line(input.as_bytes()).is_some_and(|line| is_yes(&line))
    }

    #[test]
    fn only_a_whole_line_that_says_yes_is_a_yes() {
        for yes in ["y\n", "Y\r\n", " yes \n", "y\nn\n"] {
            assert!(says_yes(yes), "{yes:?}");
        }
        for no in ["", "y", "\n", "n\n", "yy\n", "yes please\n", "\u{feff}y\n", "ok\n"] {
            assert!(!says_yes(no), "{no:?}");
        }
        let long = format!("{}y\n", " ".repeat(5000));
        assert!(!says_yes(&long));
    }

    #[test]
    fn a_plan_has_at_most_ten_tasks_and_cannot_move_the_cursor() {
        let task = |index| Task {
            index,
            label: format!("\u{1b}[2JTask {index}{}", "x".repeat(100)),
            model: "m\n".to_owned(),
            prompt: "猫".repeat(5000),
            ..Task::default()
        };
        let batch = Batch {
            task_count: 2000,
            effective_concurrency: 3,
            tasks: (1..=1000).map(task).collect(),
            ..Batch::default()
        };
        let lines = plan(&batch);
        assert_eq!(lines.len(), 12);
        assert_eq!(lines[0], "this would run: batch: 2000 tasks, at most 3 at once");
        assert_eq!(lines[11], "  and 1990 more");
        assert!(lines.iter().all(|line| !line.contains(char::is_control) && line.chars().count() < 160));
    }
}
