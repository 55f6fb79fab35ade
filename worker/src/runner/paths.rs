//! Where things are in a work directory. Opens a directory at most, nothing else.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The longest path that a Unix socket's address takes.
const MAX_SOCKET_PATH: usize = 107;

const SOCKET: &str = "runner.sock";

/// The runner's journal.
pub fn journal_path(work_dir: &Path) -> PathBuf {
    work_dir.join("journal")
}

/// Locked by the runner as long as it lives.
pub(super) fn lock_path(work_dir: &Path) -> PathBuf {
    work_dir.join("runner.lock")
}

/// What the runner and its start say.
pub(super) fn log_path(work_dir: &Path) -> PathBuf {
    work_dir.join("runner.log")
}

/// The runner's socket, by an address that is short enough whatever the work directory is called.
#[derive(Debug)]
pub(super) struct SocketAddress {
    path: PathBuf,
    /// Keeps `/proc/self/fd/N` in `path` true.
    _dir: Option<File>,
}

impl SocketAddress {
    pub(super) fn new(work_dir: &Path) -> io::Result<Self> {
        let path = work_dir.join(SOCKET);
        if path.as_os_str().as_bytes().len() <= MAX_SOCKET_PATH {
            return Ok(Self { path, _dir: None });
        }
        let dir = File::open(work_dir)?;
        let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(SOCKET);
        Ok(Self { path, _dir: Some(dir) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
