//! Whether there is room for more: below a low-water mark no new work is taken, so that what runs can still be
//! recorded. The coordinator would stop otherwise, in the middle of everything.
//!
//! Looks at most once a second. Does not free anything, and does not stop what runs.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::sys::statvfs::statvfs;

/// So long what was found is good.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Less is free than has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the coordinator's disk has {free} bytes free, and new work is taken from {limit} on; free some space, remove \
     ended batches (--retain-days, --retain-batches, --retain-bytes), or lower --min-free-bytes; what runs goes on"
)]
pub(crate) struct DiskLow {
    /// Bytes that are free.
    pub(crate) free: u64,
    /// Bytes that have to be.
    pub(crate) limit: u64,
}

/// The disk that the data is on.
#[derive(Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
    limit: u64,
    seen: Mutex<Option<(Instant, u64)>>,
}

impl Disk {
    /// The disk of a folder. A limit of 0: there is always room.
    pub(crate) const fn new(dir: PathBuf, limit: u64) -> Self {
        Self { dir, limit, seen: Mutex::new(None) }
    }

    /// Whether new work may be taken. Where the system does not tell, it may.
    pub(crate) fn check(&self) -> Result<(), DiskLow> {
        if self.limit == 0 {
            return Ok(());
        }
        match self.free() {
            Some(free) if free < self.limit => Err(DiskLow { free, limit: self.limit }),
            _ => Ok(()),
        }
    }

    fn free(&self) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, free)) = seen.filter(|(at, _)| at.elapsed() < LOOK_EVERY) {
            return Some(free);
        }
        let found = match statvfs(&self.dir) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "how much of the disk is free cannot be told");
                return None;
            }
        };
        #[allow(clippy::useless_conversion, reason = "their width differs between systems")]
        let free = u64::from(found.blocks_available()).saturating_mul(u64::from(found.fragment_size()));
        *seen = Some((Instant::now(), free));
        Some(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_mark_nothing_new_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let disk = |limit| Disk::new(dir.path().to_owned(), limit);
        assert_eq!(disk(0).check(), Ok(()));
        assert_eq!(disk(1).check(), Ok(()));
        let low = disk(u64::MAX).check().unwrap_err();
        assert!(low.free > 0 && low.limit == u64::MAX, "{low:?}");
        assert!(low.to_string().contains(&format!("{} bytes free", low.free)), "{low}");
        let gone = Disk::new(dir.path().join("gone"), u64::MAX);
        assert_eq!(gone.check(), Ok(()), "what cannot be told does not keep work out");
    }
}
