//! Saves output as files: exact bytes, under a temporary name until they are whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use muster_proto::v1::{TailLogsRequest, Task, TaskStatus};
use tokio::task::JoinSet;

use crate::{
    client::Client,
    commands::logs::{LogsArgs, MAX_OPEN, discarded},
    error::{Error, Exit},
    follow::has_ended,
    sanitize::one_line,
    tail::Tail,
};

/// Whether a task has ended, so that its log is whole.
pub fn is_over(task: &Task) -> bool {
    match task.status() {
        TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Cancelled => true,
        TaskStatus::Unspecified | TaskStatus::Queued | TaskStatus::Running => false,
    }
}

/// The name of a log: `task-03.log`, `task-03.attempt-2.log`.
pub fn file_name(index: i32, attempt: i32) -> String {
    if attempt > 1 {
        format!("task-{index:02}.attempt-{attempt}.log")
    } else {
        format!("task-{index:02}.log")
    }
}

/// One log to be saved.
#[derive(Clone, Debug)]
pub struct LogFile {
    /// Which output.
    pub request: TailLogsRequest,
    /// Where to.
    pub path: PathBuf,
    /// Its length once it is whole: a file that has it already is left as it is.
    pub length: Option<i64>,
    /// There may be such a file.
    pub may_be_there: bool,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// Written; so many bytes of the output were thrown away before they could be stored.
    Written {
        /// Bytes thrown away by the coordinator.
        discarded: i64,
    },
    /// It was there.
    Kept,
}

/// Saves one log.
pub async fn save(client: &Client, log: &LogFile) -> Result<Saved, Error> {
    let there = log.may_be_there.then(|| fs::symlink_metadata(&log.path).ok()).flatten();
    let there = there.filter(fs::Metadata::is_file);
    if let (Some(there), Some(length)) = (there, log.length)
        && i64::try_from(there.len()) == Ok(length)
    {
        return Ok(Saved::Kept);
    }
    let mut file = Partial::create(&log.path)?;
    if log.length == Some(0) {
        // Nothing was printed, so there is nothing to ask for.
        file.finish()?;
        return Ok(Saved::Written { discarded: 0 });
    }
    let mut tail = Tail::new(client, log.request.clone());
    let mut discarded = 0;
    while let Some(piece) = tail.next().await? {
        file.write(&piece.bytes)?;
        discarded = piece.discarded;
    }
    file.finish()?;
    Ok(Saved::Written { discarded })
}

/// A file that is not there until it is whole; dropped before that, it leaves nothing.
pub struct Partial {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    whole: bool,
}

impl Partial {
    /// A new file beside `path`.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".partial");
        let temporary = path.with_file_name(name);
        let open = || OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left by a command that was ended; never written through, whatever it is.
                fs::remove_file(&temporary).and_then(|()| open())
            }
            outcome => outcome,
        };
        let file = file.map_err(|error| write_error(&temporary, error))?;
        Ok(Self { file, temporary, path: path.to_owned(), whole: false })
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| write_error(&self.temporary, error))
    }

    /// The file is whole: gives it its name.
    pub fn finish(mut self) -> Result<(), Error> {
        fs::rename(&self.temporary, &self.path).map_err(|error| write_error(&self.path, error))?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.whole {
            // If this fails too, the next command removes it.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A file or folder that cannot be written.
pub fn write_error(path: &Path, source: io::Error) -> Error {
    Error::Write { what: path.display().to_string(), source }
}

/// Saves logs, a bounded number at once, and counts.
pub struct Saver {
    client: Client,
    running: JoinSet<(i32, Result<Saved, Error>)>,
    /// Files written.
    pub written: usize,
    /// Files that were there.
    pub kept: usize,
    /// Logs that could not be read.
    pub failed: usize,
}

impl Saver {
    /// None yet.
    pub fn new(client: &Client) -> Self {
        Self { client: client.clone(), running: JoinSet::new(), written: 0, kept: 0, failed: 0 }
    }

    /// Saves the log of a task, once there is a place.
    pub async fn save(&mut self, index: i32, log: LogFile) -> Result<(), Error> {
        while self.running.len() >= MAX_OPEN {
            self.wait_for_one().await?;
        }
        let client = self.client.clone();
        self.running.spawn(async move { (index, save(&client, &log).await) });
        Ok(())
    }

    /// Waits for those that are being saved.
    pub async fn finish(&mut self) -> Result<(), Error> {
        while !self.running.is_empty() {
            self.wait_for_one().await?;
        }
        Ok(())
    }

    /// One log that cannot be read does not keep the others from being saved.
    async fn wait_for_one(&mut self) -> Result<(), Error> {
        let io = &self.client.context().io;
        match self.running.join_next().await {
            Some(Ok((index, Ok(Saved::Written { discarded: bytes })))) => {
                self.written += 1;
                if bytes > 0 {
                    io.say(&discarded(index, bytes));
                }
            }
            Some(Ok((_, Ok(Saved::Kept)))) => self.kept += 1,
            Some(Ok((index, Err(error @ Error::CoordinatorFailed { .. })))) => {
                self.failed += 1;
                io.say(&format!("task {index}: {}", error.text().unwrap_or_default()));
            }
            Some(Ok((_, Err(error)))) => return Err(error),
            Some(Err(error)) => return Err(Error::Embedded(error.to_string())),
            None => {}
        }
        Ok(())
    }
}

/// `--output-dir`: a file a task.
pub async fn save_all(client: &Client, args: &LogsArgs, folder: &Path) -> Result<Exit, Error> {
    let io = &client.context().io;
    let batch = client.batch(&args.batch).await?;
    if let Some(beyond) = args.tasks.iter().find(|index| **index > batch.task_count) {
        return Err(Error::Usage(no_such_task(&batch, *beyond)));
    }
    fs::create_dir_all(folder).map_err(|error| write_error(folder, error))?;
    let folder: Arc<Path> = folder.into();
    let mut saver = Saver::new(client);
    let mut pages = client.tasks_of(&batch);
    let (mut not_started, mut unfinished) = (0_usize, 0_usize);
    let mut left = args.tasks.len();
    while let Some(tasks) = pages.next().await? {
        for task in tasks {
            if !args.tasks.is_empty() && !args.tasks.contains(&task.index) {
                continue;
            }
            left = left.saturating_sub(1);
            if task.attempt == 0 && !args.follow {
                not_started += 1;
                continue;
            }
            let attempt = args.attempt.unwrap_or(task.attempt);
            let whole = is_over(&task) && attempt == task.attempt;
            unfinished += usize::from(!is_over(&task) && attempt == task.attempt && !args.follow);
            // Before it has started, a task's first attempt is the one to come.
            let path = folder.join(file_name(task.index, attempt.max(1)));
            let request = TailLogsRequest {
                batch_id: args.batch.clone(),
                task_index: task.index,
                attempt,
                follow: args.follow,
                ..TailLogsRequest::default()
            };
            let length = whole.then_some(task.log_bytes);
            saver.save(task.index, LogFile { request, path, length, may_be_there: true }).await?;
        }
        if !args.tasks.is_empty() && left == 0 {
            break;
        }
    }
    saver.finish().await?;
    let mut text =
        format!("saved in {}: {} written, {} there already", shown(&folder), saver.written, saver.kept);
    for (count, what) in [
        (not_started, "without output: not started"),
        (unfinished, "not ended: saved is what there was so far"),
        (saver.failed, "could not be read"),
    ] {
        if count > 0 {
            text.push_str(&format!("; {count} {what}"));
        }
    }
    if !has_ended(batch.scheduler_status()) && unfinished + not_started > 0 {
        text.push_str("; the same command again fetches what is missing");
    }
    io.say(&text);
    Ok(if saver.failed > 0 { Exit::NotAllCompleted } else { Exit::Completed })
}

/// A task that the batch does not have.
pub fn no_such_task(batch: &muster_proto::v1::Batch, index: i32) -> String {
    let count = batch.task_count;
    let tasks = if count == 1 { "1 task".to_owned() } else { format!("tasks 1 to {count}") };
    format!("batch {} has {tasks}, so there is no task {index}", batch.batch_id)
}

/// A folder, for people.
pub fn shown(folder: &Path) -> String {
    one_line(&folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_seeds_and_later_attempts_have_their_own() {
        assert_eq!(file_name(3, 1), "task-03.log");
        assert_eq!(file_name(3, 2), "task-03.attempt-2.log");
        assert_eq!(file_name(1234, 1), "task-1234.log");
    }

    #[test]
    fn a_file_is_there_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let names =
            || fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        let mut half = Partial::create(&path).unwrap();
        half.write(b"half").unwrap();
        assert_eq!(names(), [".a.log.partial"]);
        drop(half);
        assert!(names().is_empty());
        let target = folder.path().join("elsewhere");
        fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, folder.path().join(".a.log.partial")).unwrap();
        let mut whole = Partial::create(&path).unwrap();
        whole.write(b"whole").unwrap();
        whole.finish().unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), fs::read(&target).unwrap()),
            (b"whole".to_vec(), b"kept".to_vec())
        );
    }
}
