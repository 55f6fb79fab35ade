//! The spool: the output of attempts whose result is not acknowledged, one file an attempt in `spool/` of the
//! work directory, made at the first byte.
//!
//! The runner writes it and deletes it; the network half reads it, here, by offset. The spool knows nothing of
//! the limit: how much is kept is the runner's business.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::runner::protocol::AttemptKey;

/// The directory of spool files.
pub fn dir(work_dir: &Path) -> PathBuf {
    work_dir.join("spool")
}

/// An attempt's spool file, whether it exists or not.
pub fn path(work_dir: &Path, attempt: AttemptKey) -> PathBuf {
    dir(work_dir).join(attempt.to_string())
}

/// At most `max` bytes of an attempt's output from `offset`. Fewer only where the spool ends for now, and none
/// where there is no file: an attempt that printed nothing, or one that was forgotten.
///
/// # Errors
/// The spool cannot be read; the output from there on is not to be had.
pub fn read_at(work_dir: &Path, attempt: AttemptKey, offset: u64, max: usize) -> io::Result<Vec<u8>> {
    let file = match File::open(path(work_dir, attempt)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // Not more memory than there is to read, whatever the caller asks for.
    let there = usize::try_from(file.metadata()?.len().saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; max.min(there)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Makes the directory of spool files, for the owner only.
pub(crate) fn prepare(work_dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir(work_dir))
}

/// How many bytes are in an attempt's spool.
pub(crate) fn size(work_dir: &Path, attempt: AttemptKey) -> u64 {
    fs::metadata(path(work_dir, attempt)).map_or(0, |metadata| metadata.len())
}

/// Deletes an attempt's spool file, if there is one.
pub(crate) fn remove(work_dir: &Path, attempt: AttemptKey) -> io::Result<()> {
    match fs::remove_file(path(work_dir, attempt)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Deletes the spool files of attempts that nobody holds.
pub(crate) fn remove_others(work_dir: &Path, is_held: impl Fn(AttemptKey) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(dir(work_dir))? {
        let name = entry?.file_name();
        // What is not named like an attempt is not ours to delete.
        if let Some(Ok(key)) = name.to_str().map(str::parse)
            && !is_held(key)
        {
            remove(work_dir, key)?;
        }
    }
    Ok(())
}

/// Appends one attempt's output, up to a limit, counting what is kept and what is not.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    file: Option<File>,
    limit: u64,
    size: u64,
    discarded: u64,
    failed: Option<i32>,
}

impl Writer {
    pub(crate) fn new(work_dir: &Path, attempt: AttemptKey, limit: u64) -> Self {
        Self { path: path(work_dir, attempt), file: None, limit, size: 0, discarded: 0, failed: None }
    }

    /// Keeps what fits under the limit and counts the rest. After a failed write nothing is kept any more.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        let room = usize::try_from(self.limit - self.size).unwrap_or(usize::MAX);
        let mut keep = if self.failed.is_some() { &[][..] } else { &bytes[..bytes.len().min(room)] };
        let mut kept = 0;
        while !keep.is_empty() {
            match self.write(keep) {
                Ok(count) => {
                    kept += count;
                    keep = &keep[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = Some(error.raw_os_error().unwrap_or(nix::libc::EIO));
                    break;
                }
            }
        }
        self.size += kept as u64;
        self.discarded += (bytes.len() - kept) as u64;
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            empty => {
                let mut options = OpenOptions::new();
                let file = options.write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
                empty.insert(file)
            }
        };
        match file.write(bytes)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            count => Ok(count),
        }
    }

    /// Bytes in the spool.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that were dropped.
    pub(crate) fn discarded(&self) -> u64 {
        self.discarded
    }

    /// The error of the write that failed, if one did.
    pub(crate) fn failed(&self) -> Option<i32> {
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: AttemptKey = AttemptKey { life: 1, batch: 2, task: 3, attempt: 4 };

    #[test]
    fn output_is_read_by_offset_and_bounded() {
        let work = tempfile::tempdir().unwrap();
        prepare(work.path()).unwrap();
        let mut writer = Writer::new(work.path(), KEY, 7);
        assert_eq!(read_at(work.path(), KEY, 0, 10).unwrap(), b"");
        writer.append(b"");
        assert!(!path(work.path(), KEY).exists(), "no file before the first byte");
        writer.append(b"hello ");
        writer.append(b"world");
        assert_eq!((writer.size(), writer.discarded(), writer.failed()), (7, 4, None));
        assert_eq!(read_at(work.path(), KEY, 0, usize::MAX).unwrap(), b"hello w");
        assert_eq!(read_at(work.path(), KEY, 4, 2).unwrap(), b"o ");
        assert_eq!(read_at(work.path(), KEY, 8, 2).unwrap(), b"");
        remove_others(work.path(), |_| false).unwrap();
        assert_eq!(size(work.path(), KEY), 0);
    }

    #[test]
    fn a_spool_that_cannot_be_written_counts_everything() {
        let work = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(work.path(), KEY, 100);
        writer.append(b"hello");
        writer.append(b"world");
        assert_eq!((writer.size(), writer.discarded()), (0, 10));
        assert_eq!(writer.failed(), Some(nix::libc::ENOENT));
    }
}
