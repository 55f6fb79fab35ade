//! Which life the data is in. It remembers the file that it was last used in; found in another one it is a copy
//! (a restored backup, a cloned disk's folder), and begins a life of its own in the same transaction that puts
//! its unfinished batches on hold.
//!
//! A copy cannot be told where it has replaced the content of the very same file (`cp` over the old data), or
//! where the whole disk was set back: restore into an empty folder.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use muster_proto::LifeId;
use nix::sys::{
    statfs::{BTRFS_SUPER_MAGIC, FsType, statfs},
    statvfs::statvfs,
};
use rusqlite::{Connection, TransactionBehavior, params};

use super::{super::Error, load_unfinished, write};
use crate::core::renewal;

/// What a backup has in the place of its file: no file is it.
pub(super) const NO_HOME: i64 = 0;

/// The life of this data, which is a new one where the data is a copy.
pub(super) fn settle(connection: &mut Connection, database: &Path) -> Result<LifeId, Error> {
    let here = home(database)?;
    let (life, home) = connection
        .query_row("SELECT life_id, home FROM meta", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?))
        })
        .map_err(|error| Error::Corrupt(format!("its life id: {error}")))?;
    let old = LifeId(life.cast_unsigned());
    if home == Some(here) {
        return Ok(old);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Older data does not know its file: it is taken to be where it was.
    let life = if home.is_none() { old } else { draw()? };
    if home.is_some() {
        let batches = load_unfinished(&transaction)?;
        tracing::warn!(
            old = %old, new = %life, unfinished = batches.len(),
            "this data is a copy: it begins a new life, and its unfinished batches wait to be released"
        );
        write::apply(&transaction, &renewal::renew(batches, old, now_ms()))?;
    }
    transaction.execute("UPDATE meta SET life_id = ?1, home = ?2", params![life.0.cast_signed(), here])?;
    transaction.commit()?;
    Ok(life)
}

/// A new life's id.
pub(super) fn draw() -> Result<LifeId, Error> {
    let mut life = [0; 8];
    getrandom::fill(&mut life).map_err(|error| Error::Failed(format!("no random bytes: {error}")))?;
    Ok(LifeId(u64::from_le_bytes(life)))
}

/// File systems whose snapshots can be written to, and whose files there have the numbers and times of the originals.
/// They give each volume an id that stays.
const WITH_SNAPSHOTS: [FsType; 2] = [BTRFS_SUPER_MAGIC, FsType(0x2fc1_2fc1)];

/// A number for a file that no copy of it shares: where it lies and when it was made. Numbers of files are
/// used again, often at once, so that the time is needed where the file system tells it; and a snapshot's files are told
/// from the originals by their volume only. Elsewhere the id of a file system may be another one after a restart.
fn home(database: &Path) -> Result<i64, Error> {
    let failed = |error| Error::Failed(format!("{}: {error}", database.display()));
    let found = fs::metadata(database).map_err(failed)?;
    let made = found.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let nanos = u64::try_from(made.as_nanos()).unwrap_or(u64::MAX);
    Ok(number(found.ino(), nanos, volume(database).map_err(|error| failed(error.into()))?))
}

/// The id of the volume that a file lies on, where one can have a file's number and time twice; else 0.
fn volume(file: &Path) -> nix::Result<u64> {
    if !WITH_SNAPSHOTS.contains(&statfs(file)?.filesystem_type()) {
        return Ok(0);
    }
    #[allow(clippy::useless_conversion, reason = "its width differs between systems")]
    Ok(u64::from(statvfs(file)?.filesystem_id()))
}

fn number(ino: u64, made_nanos: u64, volume: u64) -> i64 {
    // Spread, so that two volumes of ids near each other do not make up for near files.
    let home = ino.rotate_left(40) ^ made_nanos ^ volume.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    if home == 0 { 1 } else { home.cast_signed() }
}

fn now_ms() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshots_file_differs_by_its_volume_alone() {
        assert_ne!(number(257, 1_700_000_000_000_000_000, 1), number(257, 1_700_000_000_000_000_000, 2));
        assert_eq!(
            number(257, 5, 0),
            (257_u64.rotate_left(40) ^ 5).cast_signed(),
            "no volume, no difference"
        );
        assert_ne!(number(0, 0, 0), NO_HOME);
    }

    #[test]
    fn a_file_keeps_its_number_and_a_copy_has_another() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::write(&one, "x").unwrap();
        let number = home(&one).unwrap();
        fs::write(&one, "more").unwrap();
        assert_eq!(home(&one).unwrap(), number);
        fs::rename(&one, dir.path().join("moved")).unwrap();
        assert_eq!(home(&dir.path().join("moved")).unwrap(), number, "moved, it is still the same");
        fs::copy(dir.path().join("moved"), &two).unwrap();
        assert_ne!(home(&two).unwrap(), number);
    }
}
