//! Finding and killing what attempts left behind: of a runner that died, and of tasks that ended while
//! processes of theirs had moved out of their group.
//!
//! Kills only what is known to belong to an attempt: by pid and start time, by being adopted, or by the marker
//! in its environment.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::journal::Unended;
use super::log;
use super::procfs;
use super::protocol::AttemptKey;

/// How long a starting runner looks for what is left: new processes may appear while others are killed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks.
const EVERY: Duration = Duration::from_millis(5);

/// Kills what is left of attempts whose runner died.
pub(super) fn leftovers(unended: &BTreeMap<AttemptKey, Unended>, boot: u128) {
    if unended.is_empty() {
        return;
    }
    for (key, Unended { process, boot: started_in }) in unended {
        // A pid means nothing in another boot.
        if let &Some((pid, start_ticks)) = process
            && *started_in == boot
            && procfs::stat(Pid::from_raw(pid)).is_some_and(|stat| stat.start_ticks == start_ticks)
        {
            log::line(format_args!("attempt {key} outlived its runner: its group {pid} is killed"));
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut found = 0;
        for pid in procfs::processes() {
            if pid != Pid::this() && procfs::attempt_of(pid).is_some_and(|key| unended.contains_key(&key)) {
                found += 1;
                let _ = kill(pid, Signal::SIGKILL);
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
