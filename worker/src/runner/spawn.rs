//! Starting a process: posix_spawn with its own process group, a clean signal mask and default dispositions.
//!
//! Not `std::process::Command`: it hands down the caller's signal mask, and the runner blocks the signals that it
//! reads as events, so a task would never hear TERM. posix_spawn rather than fork, since it costs the same
//! whatever the size of the parent. Knows nothing of attempts beyond the marker that their children carry.

use std::ffi::{CStr, CString, OsString};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{AccessFlags, Pid, access, chdir};
use zeroize::Zeroizing;

use super::protocol::{ATTEMPT_VARIABLE, Start};

/// Where programs are looked for when no `PATH` says so.
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";

/// A process that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {}", errno.desc())]
pub(super) struct SpawnError {
    pub(super) errno: Errno,
    what: String,
}

impl SpawnError {
    pub(super) fn new(errno: Errno, what: impl Into<String>) -> Self {
        Self { errno, what: what.into() }
    }

    /// Whether another machine would fail just the same.
    pub(super) fn is_for_task(&self) -> bool {
        matches!(self.errno, Errno::E2BIG | Errno::ENAMETOOLONG | Errno::EINVAL)
    }
}

/// Spawns tasks in the environment that the runner was started with.
#[derive(Debug)]
pub(super) struct Spawner {
    /// `NAME=value` of each inherited variable, and the length of its name.
    inherited: Vec<(CString, usize)>,
    /// `/dev/null`, every task's standard input.
    null: File,
}

impl Spawner {
    pub(super) fn new(environment: impl Iterator<Item = (OsString, OsString)>) -> io::Result<Self> {
        let inherited = environment.filter_map(|(name, value)| {
            let mut variable = name.clone().into_vec();
            variable.push(b'=');
            variable.extend(value.as_bytes());
            Some((CString::new(variable).ok()?, name.len()))
        });
        Ok(Self { inherited: inherited.collect(), null: File::open("/dev/null")? })
    }

    /// Starts the program with both standard output and standard error on `output`. The caller must have no other
    /// thread: the working directory is set on the way.
    pub(super) fn spawn(&self, start: &Start, output: RawFd) -> Result<Pid, SpawnError> {
        let own = own_variables(start)?;
        let names: Vec<&[u8]> = own.iter().map(|variable| name_of(variable)).collect();
        let mut envp: Vec<&CStr> = Vec::with_capacity(self.inherited.len() + own.len());
        let inherited =
            self.inherited.iter().filter(|(text, len)| !names.contains(&&text.as_bytes()[..*len]));
        envp.extend(inherited.map(|(variable, _)| variable.as_c_str()));
        for (at, variable) in own.iter().enumerate() {
            // Of two with one name the last wins.
            if !names[at + 1..].contains(&names[at]) {
                envp.push(CStr::from_bytes_with_nul(variable).map_err(|_| nul("a variable"))?);
            }
        }

        let mut argv = vec![CString::new(start.program.0.clone()).map_err(|_| nul("the program's name"))?];
        for arg in &start.args {
            argv.push(CString::new(arg.0.clone()).map_err(|_| nul("an argument"))?);
        }

        enter(start.cwd.as_path())?;
        let path_variable = envp.iter().find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="));
        let result =
            find(start.program.as_path(), path_variable.unwrap_or(DEFAULT_PATH)).and_then(|program| {
                spawn_clean(&program, &argv, &envp, [self.null.as_raw_fd(), output], Group::Own)
            });
        // Not to keep a task's directory busy.
        let _ = chdir("/");
        result.map_err(|errno| {
            SpawnError::new(errno, format!("cannot start {}", start.program.as_path().display()))
        })
    }
}

fn nul(what: &str) -> SpawnError {
    SpawnError::new(Errno::EINVAL, format!("{what} holds a NUL byte"))
}

/// The variables of this task as `NAME=value\0`, the marker last.
fn own_variables(start: &Start) -> Result<Vec<Zeroizing<Vec<u8>>>, SpawnError> {
    let mut own = Vec::new();
    let marker = start.attempt.to_string();
    for (name, value) in start.env.iter().chain([(ATTEMPT_VARIABLE, marker.as_str())]) {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(SpawnError::new(
                Errno::EINVAL,
                "a variable cannot be set: its name or value is not allowed",
            ));
        }
        let mut variable = Zeroizing::new(Vec::with_capacity(name.len() + value.len() + 2));
        for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            variable.extend_from_slice(part);
        }
        own.push(variable);
    }
    Ok(own)
}

fn name_of(variable: &[u8]) -> &[u8] {
    variable.split(|byte| *byte == b'=').next().unwrap_or_default()
}

/// Changes into the working directory, making it if it is missing.
fn enter(cwd: &Path) -> Result<(), SpawnError> {
    let result = match chdir(cwd) {
        Err(Errno::ENOENT) => DirBuilder::new()
            .recursive(true)
            .mode(0o777)
            .create(cwd)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))
            .and_then(|()| chdir(cwd)),
        other => other,
    };
    result.map_err(|errno| SpawnError::new(errno, format!("cannot enter {}", cwd.display())))
}

/// A bare name is looked for in `PATH`, as a shell would; a path is what it says.
fn find(program: &Path, path: &[u8]) -> Result<PathBuf, Errno> {
    if program.as_os_str().is_empty() || program.as_os_str().as_bytes().contains(&b'/') {
        return Ok(program.to_owned());
    }
    let mut error = Errno::ENOENT;
    for dir in path.split(|byte| *byte == b':') {
        let dir = if dir.is_empty() { b"." } else { dir };
        let candidate = Path::new(std::ffi::OsStr::from_bytes(dir)).join(program);
        match access(&candidate, AccessFlags::X_OK) {
            Ok(()) if fs::metadata(&candidate).is_ok_and(|metadata| metadata.is_file()) => {
                return Ok(candidate);
            }
            Err(Errno::EACCES) => error = Errno::EACCES,
            _ => {}
        }
    }
    Err(error)
}

/// Which process group a process is started in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// A new one, of which it is the leader.
    Own,
    /// Its parent's.
    Parents,
}

/// posix_spawn with standard input from `input`, standard output and error on `output`, no signal blocked and every
/// signal at its default.
pub(super) fn spawn_clean<A: AsRef<CStr>, E: AsRef<CStr>>(
    program: &Path,
    argv: &[A],
    envp: &[E],
    [input, output]: [RawFd; 2],
    group: Group,
) -> Result<Pid, Errno> {
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_dup2(input, 0)?;
    actions.add_dup2(output, 1)?;
    actions.add_dup2(output, 2)?;
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_pgroup(Pid::from_raw(0))?;
    attributes.set_sigmask(&SigSet::empty())?;
    let mut defaults = SigSet::all();
    defaults.remove(Signal::SIGKILL);
    defaults.remove(Signal::SIGSTOP);
    attributes.set_sigdefault(&defaults)?;
    let mut flags = PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
    if group == Group::Own {
        flags |= PosixSpawnFlags::POSIX_SPAWN_SETPGROUP;
    }
    attributes.set_flags(flags)?;
    posix_spawn(program, &actions, &attributes, argv, envp)
}

/// As an error of the operating system.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_found_where_path_says() {
        assert_eq!(find(Path::new("sh"), b"/nowhere:/bin"), Ok("/bin/sh".into()));
        assert_eq!(find(Path::new("sh"), b"/nowhere"), Err(Errno::ENOENT));
        assert_eq!(find(Path::new("./sh"), b"/bin"), Ok("./sh".into()));
    }

    #[test]
    fn only_the_task_is_to_blame_for_its_arguments() {
        for errno in [Errno::E2BIG, Errno::ENAMETOOLONG, Errno::EINVAL] {
            assert!(SpawnError::new(errno, "x").is_for_task());
        }
        for errno in [Errno::ENOENT, Errno::EACCES, Errno::ENOEXEC, Errno::EAGAIN, Errno::EMFILE] {
            assert!(!SpawnError::new(errno, "x").is_for_task());
        }
    }
}
