//! Which work directory this is, so that a copy of it on the same machine is told apart.
//!
//! The lock's file says it: its device and inode are this directory's alone as long as it exists, and a random
//! number in it tells it from a later file that was given the same inode. A copy has the number, and another inode.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

/// A work directory on this machine. The default is one that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// 0: it could not be written.
    pub(super) nonce: u64,
}

/// The value of [`RUNNER_VARIABLE`](super::protocol::RUNNER_VARIABLE).
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:016x}", self.device, self.inode, self.nonce)
    }
}

impl Place {
    /// Of the directory whose lock this is; the number is made if there is none. Only for who holds the lock.
    pub(super) fn of(lock: &File) -> io::Result<Self> {
        let metadata = lock.metadata()?;
        let mut bytes = [0; 8];
        let nonce = match lock.read_exact_at(&mut bytes, 0) {
            Ok(()) => u64::from_le_bytes(bytes),
            // None yet. Without randomness or on a full disk the inode has to do.
            Err(_) => getrandom::u64()
                .ok()
                .filter(|nonce| lock.write_all_at(&nonce.to_le_bytes(), 0).is_ok())
                .unwrap_or(0),
        };
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), nonce })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path) -> File {
        File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    }

    #[test]
    fn a_directory_stays_the_same_and_a_copy_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("lock"), dir.path().join("copy"));
        let place = Place::of(&open(&path)).unwrap();
        assert_eq!(Place::of(&open(&path)).unwrap(), place);
        std::fs::copy(&path, &copy).unwrap();
        let copied = Place::of(&open(&copy)).unwrap();
        assert_eq!(copied.nonce, place.nonce);
        assert_ne!(copied.to_string(), place.to_string());
    }
}
