//! `muster export`: saves a batch as the original batch runner laid it out: `batch-status.json`, `task-NN.log`
//! each, `batch-supervisor.log`. What the tasks made stays on the machines where it was made.
//!
//! Goes through the tasks once, page by page. An export that was broken off, or made before the batch had ended, is
//! brought up to date by the next one.

mod record;

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use clap::Args;
use muster_proto::v1::{Batch, TailLogsRequest, Task};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    Context,
    client::{Client, TaskPages},
    commands::logs::files::{LogFile, Partial, Saver, file_name, is_over, shown, write_error},
    error::{Error, Exit},
    follow::has_ended,
    output::{document::Document, json, seed},
    sanitize::one_line,
};
use record::Record;

/// Says whose export a folder is.
const MARKER: &str = ".muster-export";
/// A marker is not longer than this, in bytes.
const MAX_MARKER: u64 = 256;
const STATUS: &str = "batch-status.json";
const SUPERVISOR_LOG: &str = "batch-supervisor.log";

/// What `export` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Writes batch-status.json (the status document of the original batch runner), task-NN.log for each
task that has started (its newest attempt) and batch-supervisor.log (what happened when, in UTC).
DIR must be new, empty, or an earlier export of the same batch, which is brought up to date.

Examples:
  muster export BATCH exports/BATCH"
)]
pub struct ExportArgs {
    /// The batch
    pub batch: String,
    /// The folder
    pub dir: PathBuf,
}

/// Saves the batch.
pub async fn run(args: ExportArgs, context: &Context) -> Result<Exit, Error> {
    let client = Client::new(context)?;
    let batch = client.batch(&args.batch).await?;
    let folder = Folder::take(&args.dir, &batch.batch_id)?;
    let mut saver = Saver::new(&client);
    let mut record = Record::new(&batch);
    let (head, mut document) = Document::open(&folder.batch_value(&batch), "tasks");
    let mut status = Partial::create(&folder.status())?;
    status.write(json::safe(&head).as_bytes())?;
    let mut pages = fetch_ahead(client.tasks_of(&batch));
    while let Some(tasks) = pages.recv().await {
        let mut text = String::new();
        for task in &tasks? {
            record.task(task);
            text.push_str(&json::safe(&document.item(&folder.task_value(task))));
            if task.attempt > 0 {
                saver.save(task.index, folder.log_file(&batch.batch_id, task)).await?;
            }
        }
        status.write(text.as_bytes())?;
    }
    saver.finish().await?;
    let mut supervisor = Partial::create(&folder.supervisor_log())?;
    record.write(|lines| supervisor.write(lines.as_bytes()))?;
    supervisor.finish()?;
    status.write(json::safe(&document.close()).as_bytes())?;
    status.finish()?;
    let mut text = format!(
        "batch {} is in {}: {} tasks, {} logs written, {} there already",
        one_line(&batch.batch_id),
        shown(&folder.path),
        batch.task_count,
        saver.written,
        saver.kept
    );
    if saver.failed > 0 {
        text.push_str(&format!("; {} logs could not be read", saver.failed));
    }
    if !has_ended(batch.scheduler_status()) {
        text.push_str("; it has not ended: the same command again brings this up to date");
    }
    context.io.say(&text);
    Ok(if saver.failed > 0 { Exit::NotAllCompleted } else { Exit::Completed })
}

/// Asks for the next page of tasks while the logs of this one are being saved: at most two wait.
fn fetch_ahead(mut pages: TaskPages) -> mpsc::Receiver<Result<Vec<Task>, Error>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(page) = pages.next().await.transpose() {
            let failed = page.is_err();
            if sender.send(page).await.is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Where an export goes.
struct Folder {
    /// Absolute.
    path: PathBuf,
    /// It held an export before, so logs may be there.
    known: bool,
}

impl Folder {
    /// Takes a folder for this batch: a new or empty one, or one that holds an export of it.
    fn take(path: &Path, batch_id: &str) -> Result<Self, Error> {
        let path = std::path::absolute(path).map_err(|error| write_error(path, error))?;
        fs::create_dir_all(&path).map_err(|error| write_error(&path, error))?;
        let marker = path.join(MARKER);
        match marked_for(&marker) {
            Ok(owner) if owner == batch_id => return Ok(Self { path, known: true }),
            Ok(owner) => {
                return Err(Error::Usage(format!(
                    "{} holds an export of batch {owner}; name another folder",
                    path.display()
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(write_error(&marker, error)),
        }
        let mut entries = fs::read_dir(&path).map_err(|error| write_error(&path, error))?;
        if entries.next().is_some() {
            return Err(Error::Usage(format!(
                "{} is not empty and not an export of this batch; name a new folder",
                path.display()
            )));
        }
        let mut file = Partial::create(&marker)?;
        file.write(format!("{batch_id}\n").as_bytes())?;
        file.finish()?;
        Ok(Self { path, known: false })
    }

    fn status(&self) -> PathBuf {
        self.path.join(STATUS)
    }

    fn supervisor_log(&self) -> PathBuf {
        self.path.join(SUPERVISOR_LOG)
    }

    /// The log of the newest attempt: the seed knows one run of a task.
    fn log(&self, task: &Task) -> PathBuf {
        self.path.join(file_name(task.index, 1))
    }

    fn log_file(&self, batch_id: &str, task: &Task) -> LogFile {
        let request = TailLogsRequest {
            batch_id: batch_id.to_owned(),
            task_index: task.index,
            attempt: task.attempt,
            ..TailLogsRequest::default()
        };
        // A file of a later attempt may be an earlier one's that happens to be as long.
        let sure = is_over(task) && task.attempt == 1;
        LogFile {
            request,
            path: self.log(task),
            length: sure.then_some(task.log_bytes),
            may_be_there: self.known,
        }
    }

    /// The status document, its tasks still to come.
    fn batch_value(&self, batch: &Batch) -> Value {
        let mut value = seed::batch(&Batch { tasks: Vec::new(), ..batch.clone() });
        if let Some(fields) = value.as_object_mut() {
            for (key, path) in [
                ("batch_dir", self.path.clone()),
                ("status_path", self.status()),
                ("supervisor_log", self.supervisor_log()),
            ] {
                fields.insert(key.to_owned(), json!(path.to_string_lossy()));
            }
        }
        value
    }

    fn task_value(&self, task: &Task) -> Value {
        let mut value = seed::task(task);
        if let Some(fields) = value.as_object_mut()
            && task.attempt > 0
        {
            fields.insert("log_path".to_owned(), json!(self.log(task).to_string_lossy()));
        }
        value
    }
}

fn marked_for(marker: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(marker)?.take(MAX_MARKER).read_to_string(&mut text)?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_anything_else_in_it_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/export");
        Folder::take(&path, "b1").unwrap();
        fs::write(path.join("task-01.log"), "x").unwrap();
        Folder::take(&path, "b1").unwrap();
        let Err(Error::Usage(text)) = Folder::take(&path, "b2") else { panic!("another batch's") };
        assert!(text.contains("batch b1"), "{text}");
        let Err(Error::Usage(text)) = Folder::take(folder.path(), "b1") else { panic!("not empty") };
        assert!(text.contains("not empty"), "{text}");
        assert!(matches!(Folder::take(&path.join("task-01.log"), "b1"), Err(Error::Write { .. })));
    }
}
