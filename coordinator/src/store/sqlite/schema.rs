//! Opening the database: who may, how each connection is set, and what the tables are.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use muster_proto::LifeId;
use nix::sys::statfs::{FsType, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, statfs};
use rusqlite::{Connection, OpenFlags, TransactionBehavior, types::FromSql};

use super::{super::Error, life};

const DATABASE: &str = "muster.db";
const LOCK: &str = "coordinator.lock";

/// "must" in ASCII: tells our files from other programs' databases.
const APPLICATION_ID: i64 = 0x6d75_7374;
/// The schema that this program writes.
pub(super) const VERSION: i64 = 4;
/// Earlier releases can lose commits when a checkpoint meets a write ("WAL-reset bug").
const OLDEST_LIBRARY: i32 = 3_051_003;

/// How long a statement waits for a lock that another connection holds.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages in the WAL at which a commit checkpoints: 16 MiB, so that hot pages are written back seldom.
const AUTOCHECKPOINT_PAGES: i64 = 4_096;
/// A WAL that has grown beyond this is cut back to it after a checkpoint, in bytes.
pub(super) const WAL_LIMIT: i64 = 64 << 20;
/// More than there are statements in this module, so that each is prepared once.
const STATEMENTS: usize = 64;

const CIFS_SUPER_MAGIC: FsType = FsType(0xff53_4d42);
const SMB2_SUPER_MAGIC: FsType = FsType(0xfe53_4d42);

/// Parameters and state of a task are kept apart: a transition rewrites some fifty bytes on a page shared
/// with its neighbours, not the prompt.
const SCHEMA: &str = "
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    life_id INTEGER NOT NULL,
    home INTEGER
) STRICT;
CREATE TABLE batches (
    id INTEGER PRIMARY KEY,
    create_ms INTEGER NOT NULL,
    task_count INTEGER NOT NULL,
    requested_concurrency INTEGER NOT NULL,
    effective_concurrency INTEGER NOT NULL,
    configured_max_concurrency INTEGER NOT NULL,
    configured_max_tasks INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    status INTEGER NOT NULL,
    queued INTEGER NOT NULL,
    running INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    start_ms INTEGER,
    end_ms INTEGER,
    cancel_reason TEXT,
    uses_key INTEGER NOT NULL,
    options TEXT NOT NULL DEFAULT '{}',
    on_hold INTEGER NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '',
    queued_since_ms INTEGER
) STRICT;
CREATE INDEX batches_unfinished ON batches (id) WHERE status IN (0, 1);
CREATE TABLE specs (
    batch INTEGER NOT NULL REFERENCES batches (id),
    idx INTEGER NOT NULL,
    spec TEXT NOT NULL,
    PRIMARY KEY (batch, idx)
) STRICT, WITHOUT ROWID;
CREATE TABLE tasks (
    batch INTEGER NOT NULL REFERENCES batches (id),
    idx INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    status INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    instance TEXT,
    worker TEXT,
    offered INTEGER NOT NULL,
    output_path TEXT NOT NULL,
    pid INTEGER NOT NULL,
    exit_code INTEGER,
    signal INTEGER,
    failure INTEGER,
    failure_message TEXT NOT NULL,
    start_ms INTEGER,
    end_ms INTEGER,
    log_bytes INTEGER NOT NULL,
    log_discarded INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL,
    end_confirmed INTEGER NOT NULL,
    cancel_grace_ms INTEGER,
    uncounted INTEGER NOT NULL DEFAULT 0,
    not_before_ms INTEGER,
    PRIMARY KEY (batch, idx)
) STRICT, WITHOUT ROWID;
CREATE INDEX tasks_changed ON tasks (batch, revision, idx);
CREATE TABLE attempts (
    batch INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    life INTEGER NOT NULL,
    worker TEXT NOT NULL,
    exit_code INTEGER,
    signal INTEGER,
    failure INTEGER,
    end_ms INTEGER NOT NULL,
    log_bytes INTEGER NOT NULL,
    log_discarded INTEGER NOT NULL,
    late INTEGER NOT NULL,
    PRIMARY KEY (batch, idx, attempt, life)
) STRICT, WITHOUT ROWID;
CREATE INDEX attempts_late ON attempts (batch, idx) WHERE late = 1;
CREATE TABLE secrets (
    batch INTEGER PRIMARY KEY REFERENCES batches (id),
    sealed BLOB NOT NULL
) STRICT;
CREATE TABLE requests (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    batch INTEGER NOT NULL,
    time_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE workers (
    instance TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    slots INTEGER NOT NULL,
    draining INTEGER NOT NULL,
    set_aside TEXT,
    connection INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE exclusions (
    batch INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    instance TEXT NOT NULL,
    PRIMARY KEY (batch, idx, instance)
) STRICT, WITHOUT ROWID;
";

/// What makes a schema out of the one before it: the first entry makes version 2 of version 1.
const STEPS: [&str; 3] = [
    "ALTER TABLE workers ADD COLUMN connection INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE meta ADD COLUMN home INTEGER;
     ALTER TABLE batches ADD COLUMN options TEXT NOT NULL DEFAULT '{}';
     ALTER TABLE batches ADD COLUMN on_hold INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE batches ADD COLUMN message TEXT NOT NULL DEFAULT '';
     ALTER TABLE tasks ADD COLUMN cancel_grace_ms INTEGER;
     ALTER TABLE tasks ADD COLUMN uncounted INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE tasks ADD COLUMN not_before_ms INTEGER;
     CREATE TABLE exclusions (
         batch INTEGER NOT NULL,
         idx INTEGER NOT NULL,
         instance TEXT NOT NULL,
         PRIMARY KEY (batch, idx, instance)
     ) STRICT, WITHOUT ROWID;",
    "ALTER TABLE batches ADD COLUMN queued_since_ms INTEGER",
];

/// The data folder, held against every other coordinator for as long as this lives.
pub(super) struct Folder {
    database: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder where there is none, and takes its lock.
    pub(super) fn lock(path: &Path) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::Failed(format!("{}: {error}", path.display()));
        keep_private(path).map_err(failed)?;
        refuse_network(path)?;
        let lock = Self::take(path)?;
        let database = path.join(DATABASE);
        // SQLite gives its other files the mode of this one. It is never opened here once it has content:
        // closing it would drop the locks that SQLite holds in this process.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&database) {
            Ok(_) => File::open(path).and_then(|folder| folder.sync_all()).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::set_permissions(&database, fs::Permissions::from_mode(0o600)).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(Self { database, _lock: lock })
    }

    /// The folder of data that is there, with its lock; nothing is made.
    pub(super) fn existing(path: &Path) -> Result<Self, Error> {
        let database = database::path(path)?;
        Ok(Self { database, _lock: Self::take(path)? })
    }

    fn take(path: &Path) -> Result<File, Error> {
        let failed = |error: io::Error| Error::Failed(format!("{}: {error}", path.display()));
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(path.display().to_string())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// The schema of the data, which this program has to know.
    pub(super) fn version(&self, connection: &Connection) -> Result<i64, Error> {
        check_version(connection, &self.database)?.ok_or_else(|| no_data(&self.database))
    }

    /// The write-ahead log's file.
    pub(super) fn wal(&self) -> PathBuf {
        let mut path = self.database.as_os_str().to_owned();
        path.push("-wal");
        PathBuf::from(path)
    }

    /// The one connection that writes and checkpoints; the schema is there afterwards.
    pub(super) fn writer(&self) -> Result<(Connection, LifeId), Error> {
        check_library(rusqlite::version_number(), rusqlite::version())?;
        let mut connection = Connection::open_with_flags(
            &self.database,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        // Before anything is written: a newer or a foreign file is left as it is.
        let found = check_version(&connection, &self.database)?;
        set(&connection, "journal_mode", "wal", "wal".to_owned())?;
        set(&connection, "synchronous", "full", 2)?;
        set(&connection, "secure_delete", "on", 1)?;
        set(&connection, "journal_size_limit", WAL_LIMIT, WAL_LIMIT)?;
        set(&connection, "wal_autocheckpoint", AUTOCHECKPOINT_PAGES, AUTOCHECKPOINT_PAGES)?;
        harden(&connection)?;
        match found {
            None => create(&mut connection)?,
            Some(version) => upgrade(&mut connection, version)?,
        }
        let life = life::settle(&mut connection, &self.database)?;
        Ok((connection, life))
    }

    /// A connection that can only read.
    pub(super) fn reader(&self) -> Result<Connection, Error> {
        let connection = Connection::open_with_flags(
            &self.database,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        harden(&connection)?;
        set(&connection, "query_only", "on", 1)?;
        Ok(connection)
    }
}

/// Where the database of a folder is.
pub mod database {
    use std::path::{Path, PathBuf};

    use super::{DATABASE, Error, no_data};

    /// The file, which is there.
    pub fn path(data_dir: &Path) -> Result<PathBuf, Error> {
        let path = data_dir.join(DATABASE);
        if path.is_file() { Ok(path) } else { Err(no_data(data_dir)) }
    }
}

fn no_data(path: &Path) -> Error {
    Error::NoData(path.display().to_string())
}

/// A connection to copy the database of a folder from, whoever else uses it.
pub(super) fn source(data_dir: &Path) -> Result<Connection, Error> {
    let database = database::path(data_dir)?;
    check_library(rusqlite::version_number(), rusqlite::version())?;
    let connection = Connection::open_with_flags(
        &database,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if check_version(&connection, &database)?.is_none() {
        return Err(no_data(data_dir));
    }
    Ok(connection)
}

/// The folder's mode becomes 0700, unless it was there before and holds other things as well.
fn keep_private(path: &Path) -> io::Result<()> {
    if !path.try_exists()? {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        return Ok(());
    }
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    if path.join(DATABASE).try_exists()? || fs::read_dir(path)?.next().is_none() {
        return fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    }
    tracing::warn!(path = %path.display(), "the data folder is open to other users and holds other files");
    Ok(())
}

/// The WAL's index is memory shared by processes, and locks must hold: both need a local disk.
fn refuse_network(path: &Path) -> Result<(), Error> {
    let kind = match statfs(path) {
        Ok(found) => found.filesystem_type(),
        Err(error) => return Err(Error::Failed(format!("{}: {error}", path.display()))),
    };
    let network = [NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, CIFS_SUPER_MAGIC, SMB2_SUPER_MAGIC];
    if network.contains(&kind) {
        return Err(Error::Network(path.display().to_string()));
    }
    Ok(())
}

fn check_library(number: i32, name: &str) -> Result<(), Error> {
    if number < OLDEST_LIBRARY { Err(Error::OldLibrary(name.to_owned())) } else { Ok(()) }
}

/// The version of its schema; `None` where the database is empty and ours to make.
fn check_version(connection: &Connection, path: &Path) -> Result<Option<i64>, Error> {
    let ask = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (application, found) = (ask("application_id")?, ask("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, found) {
        (0, 0) if tables == 0 => Ok(None),
        (APPLICATION_ID, found @ 1..=VERSION) => Ok(Some(found)),
        (APPLICATION_ID, found) if found > VERSION => Err(Error::TooNew { found, known: VERSION }),
        _ => Err(Error::Corrupt(format!("{} is not a database of muster-coordinator", path.display()))),
    }
}

/// What every connection is set to.
fn harden(connection: &Connection) -> Result<(), Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    set(connection, "foreign_keys", "on", 1)?;
    set(connection, "trusted_schema", "off", 0)?;
    set(connection, "cell_size_check", "on", 1)
}

/// Sets a pragma and reads it back: SQLite ignores what it does not know or cannot do.
fn set<V: FromSql + PartialEq>(
    connection: &Connection,
    pragma: &str,
    value: impl rusqlite::ToSql,
    expected: V,
) -> Result<(), Error> {
    connection.pragma_update(None, pragma, value)?;
    let found: V = connection.pragma_query_value(None, pragma, |row| row.get(0))?;
    if found == expected {
        Ok(())
    } else {
        Err(Error::Failed(format!("SQLite does not take the setting {pragma} here")))
    }
}

/// All or nothing: a crash leaves an empty database, which is made anew.
fn create(connection: &mut Connection) -> Result<(), Error> {
    let life = life::draw()?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute("INSERT INTO meta (one, life_id) VALUES (1, ?1)", [life.0.cast_signed()])?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}

/// All or nothing, as `create` is. Readers are opened afterwards.
fn upgrade(connection: &mut Connection, found: i64) -> Result<(), Error> {
    // One is the first version, so that there are as many steps behind us.
    let steps = STEPS.get(usize::try_from(found - 1).unwrap_or(STEPS.len())..).unwrap_or_default();
    if steps.is_empty() {
        return Ok(());
    }
    tracing::info!(from = found, to = VERSION, "the data is brought to a newer schema");
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_library_keeps_what_it_commits() {
        check_library(rusqlite::version_number(), rusqlite::version()).unwrap();
        assert!(
            matches!(check_library(3_051_002, "3.51.2"), Err(Error::OldLibrary(name)) if name == "3.51.2")
        );
    }

    #[test]
    fn a_newer_or_foreign_database_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join(DATABASE);
        drop(Folder::lock(dir.path()).unwrap().writer().unwrap());
        let raw = Connection::open(&database).unwrap();
        raw.pragma_update(None, "user_version", VERSION + 1).unwrap();
        drop(raw);
        let before = fs::read(&database).unwrap();
        let error = Folder::lock(dir.path()).unwrap().writer().unwrap_err();
        assert!(matches!(error, Error::TooNew { found: 5, known: 4 }), "{error}");
        assert_eq!(fs::read(&database).unwrap(), before);

        let dir = tempfile::tempdir().unwrap();
        Connection::open(dir.path().join(DATABASE))
            .unwrap()
            .execute_batch("CREATE TABLE theirs (a)")
            .unwrap();
        let error = Folder::lock(dir.path()).unwrap().writer().unwrap_err();
        assert!(matches!(error, Error::Corrupt(_)) && error.to_string().contains(DATABASE), "{error}");
    }

    #[test]
    fn data_of_the_version_before_is_kept_and_brought_up_to_date() {
        let columns = |connection: &Connection| -> Vec<String> {
            let sql = "SELECT s.name || '.' || c.name FROM sqlite_schema s, pragma_table_info(s.name) c
                       WHERE s.type = 'table' ORDER BY 1";
            let mut statement = connection.prepare(sql).unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        let dir = tempfile::tempdir().unwrap();
        let (writer, life) = Folder::lock(dir.path()).unwrap().writer().unwrap();
        let fresh = columns(&writer);
        writer
            .execute_batch(
                "INSERT INTO workers (instance, name, boot_id, slots, draining) VALUES ('i', 'w', 'b', 1, 0);
                 ALTER TABLE workers DROP COLUMN connection;
                 ALTER TABLE meta DROP COLUMN home;
                 ALTER TABLE batches DROP COLUMN options;
                 ALTER TABLE batches DROP COLUMN on_hold;
                 ALTER TABLE batches DROP COLUMN message;
                 ALTER TABLE batches DROP COLUMN queued_since_ms;
                 ALTER TABLE tasks DROP COLUMN cancel_grace_ms;
                 ALTER TABLE tasks DROP COLUMN uncounted;
                 ALTER TABLE tasks DROP COLUMN not_before_ms;
                 DROP TABLE exclusions;
                 PRAGMA user_version = 1;",
            )
            .unwrap();
        drop(writer);
        for _ in 0..2 {
            let (writer, same) = Folder::lock(dir.path()).unwrap().writer().unwrap();
            assert_eq!((same, columns(&writer)), (life, fresh.clone()));
            let kept: (String, i64) = writer
                .query_row("SELECT name, connection FROM workers", [], |r| Ok((r.get(0)?, r.get(1)?)))
                .unwrap();
            assert_eq!(kept, ("w".to_owned(), 0));
        }
    }

    #[test]
    fn everything_in_the_folder_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/data");
        let folder = Folder::lock(&path).unwrap();
        let writer = folder.writer().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        let files: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.contains(&folder.wal()), "{files:?}");
        assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
        drop(writer);

        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        drop(Folder::lock(&open).unwrap());
        assert_eq!(mode(&open), 0o700);
    }

    #[test]
    fn a_reader_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::lock(dir.path()).unwrap();
        let _writer = folder.writer().unwrap();
        let reader = folder.reader().unwrap();
        assert!(reader.execute("DELETE FROM meta", []).is_err());
    }
}
