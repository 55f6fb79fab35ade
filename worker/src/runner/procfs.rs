//! What the runner reads from `/proc`. Every answer is of the moment, and "not there" is a normal one.

use std::fs::{self, File};
use std::io::Read;

use nix::unistd::Pid;

use super::protocol::{ATTEMPT_VARIABLE, AttemptKey};

/// From a process's `stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// One letter; `Z` is ended and not yet reaped.
    pub(super) state: u8,
    /// Its process group.
    pub(super) group: i32,
    /// Its threads, those that have ended and wait for the others included.
    pub(super) threads: u64,
    /// When it started, in clock ticks since the boot: with the pid, this names one process of a boot.
    pub(super) start_ticks: u64,
    /// As waitpid gives it; meaningful once it has ended.
    pub(super) wait_status: i32,
}

impl Stat {
    /// Whether it has ended: reaped or not, it does nothing any more. The state is the first thread's, which may
    /// have ended before the others.
    pub(super) fn has_ended(self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }
}

/// What the process is now, if there is one.
pub(super) fn stat(pid: Pid) -> Option<Stat> {
    parse_stat(&read(&format!("/proc/{pid}/stat"))?)
}

fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The command's name is in parentheses and may hold anything, so fields are counted from the last one.
    let after = text.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(text.get(after..)?).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // The state is field 3, the group 5, the threads 20, the start time 22, the wait status 52.
    let group = fields.nth(1)?.parse().ok()?;
    let threads = fields.nth(14)?.parse().ok()?;
    let start_ticks = fields.nth(1)?.parse().ok()?;
    let wait_status = fields.nth(29).and_then(|field| field.parse().ok()).unwrap_or(0);
    Some(Stat { state, group, threads, start_ticks, wait_status })
}

/// The attempt that a process belongs to, by its environment at the time it was executed.
pub(super) fn attempt_of(pid: Pid) -> Option<AttemptKey> {
    marker(&read(&format!("/proc/{pid}/environ"))?)
}

/// Whether a process was executed with this in its environment: `NAME=value`.
pub(super) fn has_variable(pid: Pid, variable: &[u8]) -> bool {
    let environ = read(&format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|byte| *byte == 0).any(|found| found == variable)
}

fn marker(environ: &[u8]) -> Option<AttemptKey> {
    let value = environ.split(|byte| *byte == 0).find_map(|variable| {
        variable.strip_prefix(ATTEMPT_VARIABLE.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
    })?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Our children, adopted ones included.
pub(super) fn children() -> Vec<Pid> {
    // The runner has one thread, so its children are all of ours.
    pids(&read("/proc/thread-self/children").unwrap_or_default())
}

/// The children of a process, whichever of its threads made them.
pub(super) fn children_of(pid: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let paths =
        threads.flatten().filter_map(|thread| Some(thread.path().join("children").to_str()?.to_owned()));
    paths.flat_map(|path| pids(&read(&path).unwrap_or_default())).collect()
}

fn pids(text: &[u8]) -> Vec<Pid> {
    let words = text.split(u8::is_ascii_whitespace);
    words.filter_map(|pid| std::str::from_utf8(pid).ok()?.parse().ok()).map(Pid::from_raw).collect()
}

/// A whole file of `/proc`, which has no size to go by: most fit into the first read.
fn read(path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    File::open(path).ok()?.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Every process on the machine that we can see.
pub(super) fn processes() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).map(Pid::from_raw).collect()
}

/// The boot of the machine, as the kernel names it; empty if it does not.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_nasty_name() {
        let mut text = b"42 (a) R 1 (b)) S".to_vec();
        for field in 4..=52 {
            text.extend(format!(" {field}").bytes());
        }
        let stat = Stat { state: b'S', group: 5, threads: 20, start_ticks: 22, wait_status: 52 };
        assert_eq!(parse_stat(&text), Some(stat));
        assert_eq!(parse_stat(b"42 (a"), None);
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_goes_on() {
        let stat = Stat { state: b'Z', group: 5, threads: 2, start_ticks: 22, wait_status: 0 };
        assert!(!stat.has_ended());
        assert!(Stat { threads: 1, ..stat }.has_ended());
    }

    #[test]
    fn our_own_stat_can_be_read() {
        assert!(stat(Pid::this()).is_some_and(|stat| stat.start_ticks > 0 && stat.state != b'Z'));
    }

    #[test]
    fn children_are_found_from_any_process() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert!(children_of(Pid::this()).contains(&pid));
        assert!(children_of(pid).is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_marker_is_a_whole_variable() {
        let key = AttemptKey { life: 1, batch: 2, task: 3, attempt: 4 };
        assert_eq!(marker(b"A=1\0MUSTER_ATTEMPT_KEY=1-2-3-4\0B=2\0"), Some(key));
        assert_eq!(marker(b"X_MUSTER_ATTEMPT_KEY=1-2-3-4\0MUSTER_ATTEMPT_KEYS=1-2-3-4\0"), None);
    }
}
