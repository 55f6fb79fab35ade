//! What commands print: tables for people, JSON for programs.

pub mod details;
pub mod document;
pub mod json;
pub mod seed;
pub mod table;
pub mod words;

use clap::ValueEnum;
use muster_proto::v1::{Batch, Task, Worker};
use serde_json::{Value, json};

use crate::{
    client::Client,
    error::Error,
    io::Io,
    output::{
        document::Document,
        table::Table,
        words::{describe_failure, duration_between, rfc3339, scheduler_word, task_word, worker_word},
    },
    progress::headline,
};

/// How to print what is listed or shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// One JSON document: the API's messages, field names as in the API.
    Json,
    /// One line of JSON an item: a task, a batch, a worker, a card.
    Jsonl,
    /// The status document of the original batch runner, with its keys.
    SeedJson,
}

impl Format {
    /// Refuses the seed's document for what the seed does not have.
    pub fn without_seed(self, what: &str) -> Result<Self, Error> {
        match self {
            Self::SeedJson => Err(Error::Usage(format!(
                "--output seed-json describes batches, not {what}; use --output json"
            ))),
            Self::Table | Self::Json | Self::Jsonl => Ok(self),
        }
    }
}

/// Prints a document over several lines.
pub fn print_document(io: &Io, value: &Value) -> Result<(), Error> {
    io.line(&json::safe(&format!("{value:#}")))
}

/// Prints a document on one line.
pub fn print_line(io: &Io, value: &Value) -> Result<(), Error> {
    io.line(&json::safe(&value.to_string()))
}

/// Prints one batch and all its tasks, which are paged where the batch did not bring them.
pub async fn print_batch(client: &Client, batch: &Batch, format: Format) -> Result<(), Error> {
    print_tasks_of(client, batch, format, |_| true).await
}

/// Prints one batch and those of its tasks that are wanted. Memory holds one page of them.
pub async fn print_tasks_of(
    client: &Client,
    batch: &Batch,
    format: Format,
    wanted: impl Fn(&Task) -> bool,
) -> Result<(), Error> {
    let io = &client.context().io;
    let mut pages = client.tasks_of(batch);
    let mut table = task_table().counting_to(batch.task_count);
    let alone = Batch { tasks: Vec::new(), tasks_omitted: false, ..batch.clone() };
    let (task_value, document): (fn(&Task) -> Value, _) = match format {
        Format::SeedJson => (seed::task, Some(seed::batch(&alone))),
        Format::Json => (json::task, Some(json::batch(&alone))),
        Format::Table | Format::Jsonl => (json::task, None),
    };
    let mut document = match document {
        Some(value) => {
            let (head, document) = Document::open(&value, "tasks");
            io.write(json::safe(&head).as_bytes())?;
            Some(document)
        }
        None => None,
    };
    if format == Format::Table {
        io.line(&headline(batch))?;
    }
    let mut printed = false;
    while let Some(mut tasks) = pages.next().await? {
        tasks.retain(&wanted);
        let text = match (&mut document, format) {
            (Some(document), _) => {
                json::safe(&tasks.iter().map(|task| document.item(&task_value(task))).collect::<String>())
            }
            (None, Format::Jsonl) => {
                let line = |task| json::safe(&json::task(task).to_string()) + "\n";
                tasks.iter().map(line).collect()
            }
            // The first rows set the widths of the columns.
            (None, _) if tasks.is_empty() => String::new(),
            (None, _) => table.rows(tasks.iter().map(task_row).collect()),
        };
        printed |= !text.is_empty();
        if !text.is_empty() {
            io.write(text.as_bytes())?;
        }
    }
    if format == Format::Table && !printed {
        io.write(table.rows(Vec::new()).as_bytes())?;
    }
    match document {
        Some(document) => io.write(json::safe(&document.close()).as_bytes()),
        None => Ok(()),
    }
}

/// Prints a batch alone, for calls that change something: the table form is one line.
pub fn print_batch_alone(io: &Io, batch: &Batch, format: Format) -> Result<(), Error> {
    match format {
        Format::Table => io.line(&headline(batch)),
        Format::Json => print_document(io, &json::batch(batch)),
        Format::Jsonl => print_line(io, &json::batch(batch)),
        Format::SeedJson => print_document(io, &seed::batch(batch)),
    }
}

/// Prints workers.
pub fn print_workers(io: &Io, workers: &[Worker], format: Format) -> Result<(), Error> {
    match format.without_seed("workers")? {
        Format::Json => {
            let workers: Vec<Value> = workers.iter().map(json::worker).collect();
            print_document(io, &json!({ "workers": workers }))
        }
        Format::Jsonl => workers.iter().try_for_each(|worker| print_line(io, &json::worker(worker))),
        Format::Table | Format::SeedJson => {
            let mut table =
                Table::new(&["WORKER", "STATUS", "TASKS", "SLOTS", "LAST SEEN", "VERSION", "NOTE"]);
            io.write(table.rows(workers.iter().map(worker_row).collect()).as_bytes())
        }
    }
}

/// The columns of [`batch_row`].
pub fn batch_table() -> Table {
    Table::new(&["BATCH", "STATUS", "TASKS", "COMPLETED", "FAILED", "CANCELLED", "CREATED"])
}

/// One batch in a list.
pub fn batch_row(batch: &Batch) -> Vec<String> {
    let counts = batch.counts.unwrap_or_default();
    vec![
        batch.batch_id.clone(),
        scheduler_word(batch.scheduler_status()).to_owned(),
        batch.task_count.to_string(),
        counts.completed.to_string(),
        counts.failed.to_string(),
        counts.cancelled.to_string(),
        batch.create_time.as_ref().and_then(rfc3339).unwrap_or_default(),
    ]
}

fn task_table() -> Table {
    Table::new(&["TASK", "STATUS", "MODEL", "WORKER", "TRY", "TIME", "LABEL", "NOTE"])
}

fn task_row(task: &Task) -> Vec<String> {
    use muster_proto::v1::TaskStatus;
    let note = match task.status() {
        TaskStatus::Failed => describe_failure(task),
        TaskStatus::Completed => task.output_path.clone(),
        TaskStatus::Running if task.cancel_requested => "being cancelled".to_owned(),
        TaskStatus::Cancelled if task.attempt > 0 && !task.end_confirmed => "end not confirmed".to_owned(),
        // Why it is run again, or why it was not wanted any more.
        TaskStatus::Queued | TaskStatus::Cancelled => task.failure_message.clone(),
        TaskStatus::Unspecified | TaskStatus::Running => String::new(),
    };
    vec![
        task.index.to_string(),
        task_word(task.status()).to_owned(),
        task.model.clone(),
        task.worker_id.clone(),
        if task.attempt > 0 { task.attempt.to_string() } else { String::new() },
        duration_between(task.start_time.as_ref(), task.end_time.as_ref()).unwrap_or_default(),
        task.label.clone(),
        note,
    ]
}

fn worker_row(worker: &Worker) -> Vec<String> {
    let mut labels: Vec<String> = worker.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort();
    let note: Vec<String> = labels
        .into_iter()
        .chain(Some(worker.status_message.clone()).filter(|text| !text.is_empty()))
        .collect();
    vec![
        worker.worker_id.clone(),
        worker_word(worker.status()).to_owned(),
        worker.held.to_string(),
        worker.slots.to_string(),
        worker.last_seen_time.as_ref().and_then(rfc3339).unwrap_or_default(),
        worker.version.clone(),
        note.join(" "),
    ]
}
