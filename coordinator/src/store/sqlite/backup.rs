//! A copy of the database while a coordinator writes it: one snapshot, which no commit waits for.
//!
//! The copy remembers no file that it was used in, so that whoever starts on it begins a new life.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rusqlite::{Connection, OpenFlags};

use super::{super::Error, life, schema};

/// Copies the database of a folder into a new file, which is synced when this returns.
pub fn backup(data_dir: &Path, to: &Path) -> Result<(), Error> {
    let failed = |error: io::Error| Error::Failed(format!("{}: {error}", to.display()));
    let from = schema::source(data_dir)?;
    // Made here, so that it is private from the beginning.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?;
    let name = to.to_str().ok_or_else(|| Error::Failed(format!("{} is not UTF-8", to.display())))?;
    from.execute("VACUUM INTO ?1", [name])?;
    drop(from);
    let copy = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    copy.execute("UPDATE meta SET home = ?1", [life::NO_HOME])?;
    copy.close().map_err(|(_, error)| error)?;
    File::open(to).and_then(|file| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::store::{Store, sqlite::SqliteStore};

    #[test]
    fn a_copy_is_whole_private_and_begins_a_new_life() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        assert!(matches!(backup(&from, &to), Err(Error::NoData(_))), "and nothing is made");
        assert!(!from.exists() && !to.exists());
        let life = SqliteStore::open(&from).unwrap().0.life();
        let (running, _) = SqliteStore::open(&from).unwrap();
        assert_eq!(running.life(), life, "a restart is no new life");
        fs::create_dir(&to).unwrap();
        backup(&from, &to.join("muster.db")).unwrap();
        assert_eq!(fs::metadata(to.join("muster.db")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(backup(&from, &to.join("muster.db")).is_err(), "never over another one");
        let copy = SqliteStore::open(&to).unwrap().0.life();
        assert_ne!(copy, life);
        assert_eq!(SqliteStore::open(&to).unwrap().0.life(), copy, "one new life, not one a start");
        drop(running);
        assert_eq!(SqliteStore::open(&from).unwrap().0.life(), life, "the original is as it was");
    }
}
