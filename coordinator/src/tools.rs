//! What is done to a data directory from the command line beside a coordinator: checking it, and copying it.
//!
//! Neither changes it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    coordinator::LOGS_DIR,
    logs,
    store::{
        self,
        sqlite::{check, database},
    },
    upkeep,
};

/// A copy that is not whole has its database under this name.
const PART: &str = "muster.db.part";

/// Why nothing could be checked or copied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data cannot be used.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Its output cannot be read.
    #[error("the stored output: {0}")]
    Logs(#[from] logs::Error),
    /// There is something already where the copy was to be.
    #[error("{0} is not empty; give a folder that is, or one that is not there")]
    NotEmpty(PathBuf),
    /// A file or folder cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What there is, in a line.
    pub summary: String,
    /// What the next start sets right.
    pub notes: Vec<String>,
    /// What is wrong with it; nothing where all is well.
    pub problems: Vec<String>,
}

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of the database.
    pub database_bytes: u64,
    /// Bytes of output, with its indexes.
    pub log_bytes: u64,
}

/// Checks a data directory, every byte of output included. Refused while a coordinator uses it. Blocks.
pub fn check(data_dir: &Path) -> Result<Checked, Error> {
    let mut report = check::check(data_dir)?;
    let output = logs::check::check(&data_dir.join(LOGS_DIR), |batch| report.batch_ids.contains(&batch))?;
    let mut problems = std::mem::take(&mut report.problems);
    let (lost, notes): (Vec<_>, Vec<_>) = output.findings.iter().partition(|finding| finding.is_loss());
    problems.extend(lost.iter().map(ToString::to_string));
    if output.more_findings > 0 {
        problems.push(format!("{} more places of the output", output.more_findings));
    }
    for &(attempt, size) in &report.attempts {
        let stored = output.stored.get(&attempt).copied().unwrap_or(0);
        if stored < size {
            problems.push(format!("the output of {attempt} ends after {stored} of {size} bytes"));
        }
    }
    if problems.len() > check::MAX_PROBLEMS {
        let more = problems.len() - check::MAX_PROBLEMS;
        problems.truncate(check::MAX_PROBLEMS);
        problems.push(format!("{more} more"));
    }
    let mut notes: Vec<_> = notes.iter().take(check::MAX_PROBLEMS).map(ToString::to_string).collect();
    if let Some(torn) = &output.torn {
        notes.push(format!(
            "{}: cut at the next start from byte {}, which nobody was told to be stored",
            torn.segment.display(),
            torn.from
        ));
    }
    let summary = format!(
        "schema {}, life {}: {} batches ({} unfinished), {} tasks; {} segments of output, {} bytes",
        report.schema,
        report.life,
        report.batch_ids.len(),
        report.unfinished,
        report.tasks,
        output.segments,
        output.bytes
    );
    Ok(Checked { summary, notes, problems })
}

/// Copies a data directory, whether or not a coordinator uses it, into a folder that is empty or not there. What
/// was acknowledged before the call is in the copy. Blocks.
pub fn backup(data_dir: &Path, to: &Path) -> Result<Copied, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    // Before anything is made: is there something to copy?
    let from = database::path(data_dir)?;
    let is_new = !to.try_exists().map_err(failed(to))?;
    if is_new {
        DirBuilder::new().recursive(true).mode(0o700).create(to).map_err(failed(to))?;
    } else if fs::read_dir(to).map_err(failed(to))?.next().is_some() {
        return Err(Error::NotEmpty(to.to_owned()));
    }
    // Nothing is removed meanwhile: what the database tells of is there when its output is copied.
    let _lock = upkeep::lock(data_dir, true).map_err(failed(data_dir))?;
    let name: &Path = from.file_name().unwrap_or_default().as_ref();
    let copied = copy(data_dir, to, name);
    if copied.is_err() {
        // What is not whole must not be taken for a backup: its database goes first, and has its name as the last.
        let _ = fs::remove_file(to.join(name));
        let _ = fs::remove_file(to.join(PART));
        let _ = fs::remove_dir_all(to.join(LOGS_DIR));
        if is_new {
            let _ = fs::remove_dir(to);
        }
    }
    copied
}

fn copy(data_dir: &Path, to: &Path, name: &Path) -> Result<Copied, Error> {
    let part = to.join(PART);
    store::sqlite::backup(data_dir, &part)?;
    // Then the output: what had ended by the snapshot was stored before it.
    let log_bytes = copy_logs(&data_dir.join(LOGS_DIR), &to.join(LOGS_DIR))?;
    let named = || -> io::Result<u64> {
        let length = fs::metadata(&part)?.len();
        fs::rename(&part, to.join(name))?;
        File::open(to)?.sync_all()?;
        if let Some(parent) = to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(length)
    };
    let database_bytes = named().map_err(|source| Error::File { path: to.to_owned(), source })?;
    Ok(Copied { database_bytes, log_bytes })
}

/// Segments are only appended to, and the last of them only: the others are whole once they are listed.
fn copy_logs(from: &Path, to: &Path) -> Result<u64, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    DirBuilder::new().mode(0o700).create(to).map_err(failed(to))?;
    let mut names = Vec::new();
    let entries = match fs::read_dir(from) {
        // A start that was cut short has not made it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(failed(from))?,
    };
    for entry in entries {
        let name = entry.map_err(failed(from))?.file_name();
        let is_ours = name.to_str().is_some_and(|name| {
            name.starts_with("segment-") && (name.ends_with(".log") || name.ends_with(".index"))
        });
        names.extend(is_ours.then_some(name));
    }
    names.sort();
    let mut bytes = 0;
    for name in names {
        let (source, target) = (from.join(&name), to.join(&name));
        bytes += copy_file(&source, &target).map_err(failed(&source))?;
    }
    File::open(to).and_then(|folder| folder.sync_all()).map_err(failed(to))?;
    Ok(bytes)
}

/// Copies a file up to the length that it has now.
fn copy_file(from: &Path, to: &Path) -> io::Result<u64> {
    let source = File::open(from)?;
    let length = source.metadata()?.len();
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let copied = io::copy(&mut source.take(length), &mut target)?;
    target.sync_all()?;
    Ok(copied)
}
