//! How many files the runner may have open, and how many tasks that is enough for.
//!
//! Only the soft limit is ever changed, and only upwards. What the hard one does not allow is refused before any
//! task is taken: a task that could not be started for want of a pipe would be sent from worker to worker.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a running task needs: the pipe that its output comes through, and its spool file.
const FILES_A_TASK: u64 = 2;
/// For the rest: standard streams, journal, lock, sockets, connections, and what is open only for a moment.
const RESERVE: u64 = 64;
/// What the soft limit is raised to, at most: enough for every number of slots that a worker may have. Not simply
/// all that is allowed, since tasks inherit it, and programs that close every file that could be open take minutes
/// over a billion.
const FILES: u64 = 4096;

/// The limit of open files is too low for so many tasks at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--slots {slots} needs {needed} open files, and the system allows this process {allowed}: raise the hard limit \
     (`ulimit -Hn`, LimitNOFILE= of systemd) or give --slots {fit} or less"
)]
pub struct TooManySlots {
    /// What was asked for.
    pub slots: u32,
    /// The files that takes.
    pub needed: u64,
    /// The hard limit.
    pub allowed: u64,
    /// The slots that it is enough for.
    pub fit: u64,
}

/// Whether a runner started by this process has enough files for so many tasks at once. Where the limit cannot be
/// read there is no reason to refuse.
///
/// # Errors
/// It has not, whatever it does.
pub fn check_slots(slots: u32) -> Result<(), TooManySlots> {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(Ok(()), |(_, hard)| check(slots, hard))
}

fn check(slots: u32, allowed: u64) -> Result<(), TooManySlots> {
    let needed = RESERVE + FILES_A_TASK * u64::from(slots);
    if needed <= allowed {
        return Ok(());
    }
    Err(TooManySlots { slots, needed, allowed, fit: allowed.saturating_sub(RESERVE) / FILES_A_TASK })
}

/// Raises the soft limit, within reason: the usual one of 1024, which a session starts with, would make tasks fail.
pub(super) fn raise_limit() -> Result<(), Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    match FILES.min(hard) {
        files if files > soft => setrlimit(Resource::RLIMIT_NOFILE, files, hard),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_SLOTS;

    #[test]
    fn slots_that_cannot_have_their_files_are_refused_with_how_many_can() {
        assert_eq!(check(500, 1064), Ok(()));
        let refused = check(501, 1064).unwrap_err();
        assert_eq!((refused.needed, refused.fit), (1066, 500));
        assert!(refused.to_string().contains("--slots 500 or less"), "{refused}");
        assert_eq!(check(1, 10).unwrap_err().fit, 0);
    }

    #[test]
    fn what_the_limit_is_raised_to_is_enough_for_every_number_of_slots() {
        assert_eq!(check(MAX_SLOTS, FILES), Ok(()));
    }
}
