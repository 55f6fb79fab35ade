//! Finding and killing what attempts left behind: of a runner that died, and of tasks that ended while
//! processes of theirs had moved out of their group.
//!
//! Kills only what is known to belong to a runner of this very work directory: by pid and start time as the
//! journal has them, by the marker of the directory in its environment, by descending from one of these, or by
//! being adopted. The tasks of a
//! directory that this one is a copy of are not ours to end.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::journal::Unended;
use super::log;
use super::place::Place;
use super::procfs;
use super::protocol::{AttemptKey, RUNNER_VARIABLE};
use super::tree::{self, Member};

/// How long a starting runner looks for what is left: new processes may appear while others are killed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a runner that exits looks for it.
const EXIT_PATIENCE: Duration = Duration::from_millis(500);
/// How often it looks.
const EVERY: Duration = Duration::from_millis(5);

/// Kills what runners before us left running. Only for who holds the directory's lock: then nothing that belongs
/// here has an owner.
pub(super) fn leftovers(unended: &BTreeMap<AttemptKey, Unended>, boot: u128, place: Place) {
    let mut elsewhere = 0;
    for (key, Unended { process, boot: started_in, place: started_at }) in unended {
        // A pid means nothing in another boot.
        let Some((pid, start_ticks)) = process.filter(|_| *started_in == boot) else { continue };
        let pid = Pid::from_raw(pid);
        if procfs::stat(pid).is_none_or(|stat| stat.start_ticks != start_ticks) {
            continue;
        }
        if *started_at == place {
            log::line(format_args!("attempt {key} outlived its runner: its group {pid} is killed"));
            let kin = tree::descendants(pid);
            let _ = killpg(pid, Signal::SIGKILL);
            kill_all(&kin);
        } else {
            elsewhere += 1;
        }
    }
    if elsewhere > 0 {
        log::line(format_args!(
            "{elsewhere} tasks of the journal run that are not certainly of this work directory (it is a copy, or an \
             older release started them): they are left alone"
        ));
    }
    let marker = [RUNNER_VARIABLE.as_bytes(), b"=", place.to_string().as_bytes()].concat();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut found = 0;
        for pid in procfs::processes() {
            if pid != Pid::this() && procfs::has_variable(pid, &marker) {
                found += 1;
                kill_all(&tree::descendants(pid));
            }
        }
        if found == 0 {
            return;
        }
        if Instant::now() > deadline {
            log::line(format_args!("{found} processes of lost attempts do not go away"));
            return;
        }
        thread::sleep(EVERY);
    }
}

/// Kills a process and what descends from it, which may carry no marker, and be known by its parents only.
fn kill_all(processes: &[Member]) {
    for process in processes.iter().filter(|process| process.pid != Pid::this()) {
        let _ = kill(process.pid, Signal::SIGKILL);
    }
}

/// Kills all our children and what we adopt from them, and waits for a bounded time until they are gone. For a runner
/// that exits: nobody would know whose they were.
pub(super) fn children() {
    let deadline = Instant::now() + EXIT_PATIENCE;
    loop {
        let children = procfs::children();
        for pid in &children {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        if children.is_empty() || Instant::now() >= deadline {
            return;
        }
        thread::sleep(EVERY);
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
        {
        }
    }
}

/// Kills the adopted children that belong to no running task. `is_leader` names the tasks' own processes;
/// those that carry no marker go only when nothing runs, since one cannot tell whose they are.
pub(super) fn adopted(
    is_leader: impl Fn(Pid) -> bool,
    is_running: impl Fn(AttemptKey) -> bool,
    nothing_runs: bool,
) {
    for pid in procfs::children() {
        if is_leader(pid) {
            continue;
        }
        let goes = match procfs::attempt_of(pid) {
            Some(key) => !is_running(key),
            None => nothing_runs,
        };
        if goes {
            // Our child and not reaped: the pid is still its own.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}
