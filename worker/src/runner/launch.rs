//! For the network half: reach the runner of a work directory, starting one if there is none.
//!
//! Blocks, for at most ten seconds; an async caller does it on a thread for blocking work. Says nothing on the
//! connection: the hello is the caller's.

use std::env;
use std::ffi::{CString, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::paths::{SocketAddress, log_path};
use super::spawn::{Group, errno_of, spawn_clean};

/// How long a runner may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_millis(5);
/// A log longer than this is begun anew when a runner is started.
const MAX_LOG: u64 = 1024 * 1024;
/// How much of the log an error quotes.
const LOG_TAIL: u64 = 1024;

/// No runner could be reached.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The work directory cannot be used: look at its permissions and the disk.
    #[error("cannot use the work directory: {0}")]
    WorkDir(#[source] io::Error),
    /// The runner's binary could not be started.
    #[error("cannot start the runner: {0}")]
    Spawn(#[source] io::Error),
    /// The runner ended at once. The end of its log says why.
    #[error("the runner ended at once: {log}")]
    Exited {
        /// The end of its log.
        log: String,
    },
    /// No answer in time. The end of its log may say why.
    #[error("the runner does not answer: {log}")]
    TimedOut {
        /// The end of its log.
        log: String,
    },
}

/// A connection to the runner, if one is there.
///
/// # Errors
/// As `connect(2)`: not found or refused means that there is none.
pub fn connect(work_dir: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(SocketAddress::new(work_dir)?.path())
}

/// A connection to the runner of this work directory; if there is none, `exe` is started with `args` (from
/// [`RunnerOptions::to_args`](super::RunnerOptions::to_args)) to become it.
///
/// # Errors
/// [`LaunchError`] says what was in the way.
pub fn ensure_running(work_dir: &Path, exe: &Path, args: &[OsString]) -> Result<UnixStream, LaunchError> {
    if let Ok(stream) = connect(work_dir) {
        return Ok(stream);
    }
    DirBuilder::new().recursive(true).mode(0o700).create(work_dir).map_err(LaunchError::WorkDir)?;
    let (mut log, log_start) = open_log(work_dir).map_err(LaunchError::WorkDir)?;
    let pid = spawn(exe, args, &log).map_err(|errno| LaunchError::Spawn(errno.into()))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(stream) = connect(work_dir) {
            reap_in_background(pid);
            return Ok(stream);
        }
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
            // It may have ended because another one was faster.
            _ => {
                return connect(work_dir).map_err(|_| LaunchError::Exited { log: tail(&mut log, log_start) });
            }
        }
        if Instant::now() > deadline {
            reap_in_background(pid);
            return Err(LaunchError::TimedOut { log: tail(&mut log, log_start) });
        }
        thread::sleep(EVERY);
    }
}

/// The log, and where what is written from now on begins.
fn open_log(work_dir: &Path) -> io::Result<(File, u64)> {
    let path = log_path(work_dir);
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG) {
        fs::remove_file(&path)?;
    }
    let log = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let start = log.metadata()?.len();
    Ok((log, start))
}

fn tail(log: &mut File, start: u64) -> String {
    let end = log.metadata().map_or(start, |metadata| metadata.len());
    let mut bytes = Vec::new();
    if log.seek(SeekFrom::Start(start.max(end.saturating_sub(LOG_TAIL)))).is_ok() {
        let _ = log.take(LOG_TAIL).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// Starts the runner with no signal blocked or ignored, whatever was handed down to us.
fn spawn(exe: &Path, args: &[OsString], log: &File) -> Result<Pid, Errno> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::EINVAL);
    let mut argv = vec![text(exe.as_os_str().as_bytes())?];
    for arg in args {
        argv.push(text(arg.as_bytes())?);
    }
    let variables = env::vars_os().filter_map(|(name, value)| {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        CString::new(variable.as_bytes()).ok()
    });
    let envp: Vec<CString> = variables.collect();
    let null = File::open("/dev/null").map_err(|error| errno_of(&error))?;
    spawn_clean(exe, &argv, &envp, [null.as_raw_fd(), log.as_raw_fd()], Group::Parents)
}

/// The runner is our child as long as we live: without this it would stay a zombie after it exits.
fn reap_in_background(pid: Pid) {
    let reaper = thread::Builder::new().name("runner-reaper".into());
    let _ = reaper.spawn(move || while waitpid(pid, None) == Err(Errno::EINTR) {});
}
