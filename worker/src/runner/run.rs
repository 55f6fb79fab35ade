//! What the re-executed binary does: become the one runner of a work directory, put in order what a runner
//! before it left, and serve.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{close, getppid, setsid};

use super::cgroup::{self, Cgroups};
use super::journal::{Journal, Outcome, Record, Replay};
use super::launch::connect;
use super::options::{RUNNER_ARG, RunnerOptions};
use super::paths::{SocketAddress, journal_path, lock_path};
use super::place::Place;
use super::protocol::RUNNER_VARIABLE;
use super::server::{Parts, Server, boot_number, now_ms};
use super::spawn::Spawner;
use super::{files, log, procfs, sweep};
use crate::spool;

/// The exit code when another runner has the work directory.
const LOCKED: u8 = 3;
/// How long to wait for a runner that is about to exit.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_EVERY: Duration = Duration::from_millis(20);

/// Runs the runner if these arguments, the program's name first, ask for it. To be called first thing by every
/// binary that starts a runner, while the process has one thread.
pub fn reexec(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter().skip(1);
    if args.next()? != RUNNER_ARG {
        return None;
    }
    Some(match RunnerOptions::from_args(args) {
        Ok((work_dir, options)) => main(&work_dir, options),
        Err(error) => {
            log::line(format_args!("{error}"));
            ExitCode::from(2)
        }
    })
}

/// Is the runner of this work directory until it is told to exit, is idle for long enough, or another runner
/// turns out to be there. The process must have one thread.
pub fn main(work_dir: &Path, options: RunnerOptions) -> ExitCode {
    match serve(work_dir, options) {
        Ok(code) => code,
        Err(error) => {
            log::line(format_args!("the runner ends: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(work_dir: &Path, options: RunnerOptions) -> io::Result<ExitCode> {
    let parent = getppid();
    // Our own session: neither the terminal's signals nor its hang-up are for us. Fails only if we lead one.
    let _ = setsid();
    close_inherited();
    if let Err(errno) = files::raise_limit() {
        log::line(format_args!("the limit of open files cannot be raised: {errno}"));
    }
    let signals = take_signals()?;
    set_child_subreaper(true)?;
    DirBuilder::new().recursive(true).mode(0o700).create(work_dir)?;
    let work_dir = fs::canonicalize(work_dir)?;

    let Some(lock) = lock(&work_dir)? else {
        log::line(format_args!("another runner has this work directory"));
        return Ok(ExitCode::from(LOCKED));
    };
    let boot_id = procfs::boot_id();
    let (boot, place) = (boot_number(&boot_id), Place::of(&lock)?);
    // First of all, whatever the disk says to the rest: what nobody owns is not to go on.
    let opened = Journal::open(&journal_path(&work_dir));
    cgroup::end_leftovers(&work_dir, boot, place);
    sweep::leftovers(opened.as_ref().map_or(&BTreeMap::new(), |(_, replay)| &replay.unended), boot, place);
    let (mut journal, mut replay) = opened?;
    spool::prepare(&work_dir)?;
    put_in_order(&work_dir, &mut journal, &mut replay, boot, place);
    let cgroups = Cgroups::set_up(&work_dir, boot, place);
    let cgroups = cgroups.inspect_err(|why| log::line(format_args!("tasks have no cgroups: {why}"))).ok();

    let address = SocketAddress::new(&work_dir)?;
    match fs::remove_file(address.path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(address.path())?;
    fs::set_permissions(address.path(), Permissions::from_mode(0o600))?;
    // Of two variables with one name, the last wins in nobody's eyes: the one that was handed down goes.
    let inherited = std::env::vars_os().filter(|(name, _)| name != RUNNER_VARIABLE);
    let marker = (RUNNER_VARIABLE.into(), place.to_string().into());
    let spawner = Spawner::new(inherited.chain([marker]))?;
    let server = Server::new(Parts {
        work_dir,
        options,
        boot_id,
        place,
        signals,
        spawner,
        cgroups,
        journal,
        replay,
        listener,
        parent,
    })?;
    let why = server.run()?;
    let _ = fs::remove_file(address.path());
    log::line(format_args!("the runner exits: {why}"));
    Ok(ExitCode::SUCCESS)
}

/// Closes what was handed down to us beyond the standard streams, so that neither we nor a task keeps somebody's
/// pipe or lock. Nothing of our own is open yet.
fn close_inherited() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<RawFd> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        let _ = close(fd);
    }
}

/// Blocks the signals that are events to us, and returns where they are read. Nothing that we spawn inherits
/// this.
fn take_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        mask.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// The lock that makes us the only runner here; none if another runner is there and answers, or keeps it.
fn lock(work_dir: &Path) -> io::Result<Option<Flock<File>>> {
    let path = lock_path(work_dir);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                if connect(work_dir).is_ok() {
                    return Ok(None);
                }
                file = back;
                thread::sleep(LOCK_EVERY);
            }
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

/// Journals what a runner before us left unended as lost, and deletes spools that nobody holds. What cannot be
/// written now is written later: until then nothing new is started.
fn put_in_order(work_dir: &Path, journal: &mut Journal, replay: &mut Replay, boot: u128, place: Place) {
    if replay.torn > 0 || replay.damaged > 0 {
        let Replay { torn, damaged, .. } = replay;
        log::line(format_args!("the journal had {torn} torn bytes and {damaged} damaged records"));
    }
    let mut keep = |record| {
        if let Err(error) = journal.append_or_keep(record) {
            log::line(format_args!("the journal cannot be written yet: {error}"));
        }
    };
    keep(Record::Boot(boot, place));
    // In a copy of a directory too, where they may run on: never to be taken for what was not started.
    for key in std::mem::take(&mut replay.unended).into_keys() {
        log::line(format_args!("attempt {key} is lost: its runner died"));
        let size = spool::size(work_dir, key);
        let outcome = Outcome { lost: true, size, end_ms: now_ms(), ..Outcome::default() };
        keep(Record::Ended { key, outcome });
        replay.ended.insert(key, outcome);
    }
    if let Err(error) = spool::remove_others(work_dir, |key| replay.ended.contains_key(&key)) {
        log::line(format_args!("old output cannot be deleted: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::journal::Unended;
    use crate::runner::protocol::AttemptKey;

    #[test]
    fn on_a_full_disk_what_is_lost_is_known_and_written_later() {
        let work = tempfile::tempdir().unwrap();
        spool::prepare(work.path()).unwrap();
        let key = AttemptKey { life: 1, batch: 2, task: 3, attempt: 4 };
        let place = Place { device: 1, inode: 2, nonce: 3 };
        let mut replay = Replay::default();
        replay.unended.insert(key, Unended { boot: 7, place, process: None });
        let mut journal = Journal::full().unwrap();
        put_in_order(work.path(), &mut journal, &mut replay, 7, place);
        assert!(replay.unended.is_empty() && replay.ended[&key].lost);
        assert!(journal.is_behind() && journal.flush().is_err(), "nothing is forgotten");
        assert!(journal.append(&Record::Seen(key)).is_err(), "and nothing is started before it is written");
    }
}
