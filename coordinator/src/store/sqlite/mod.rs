//! The embedded store: one SQLite database, written by one connection and read by a few others.
//!
//! A commit is one transaction that is synced to the disk before it returns. The writing connection is the
//! only one that checkpoints. Log bytes are not kept here.

mod backup;
pub mod check;
mod life;
mod read;
mod remove;
mod rows;
mod schema;
mod write;

use std::{fs, path::Path, time::Duration};

use muster_proto::{AttemptId, BatchId, LifeId, TaskIndex};
use rusqlite::{Connection, OptionalExtension, params};

pub use self::{
    backup::backup,
    read::{READ_CONNECTIONS, SqliteReader},
    schema::database,
};
use self::{
    read::{collect, read_attempt, read_batch, read_request},
    schema::Folder,
};
use super::{BatchView, Error, Store};
use crate::core::{
    event::Change,
    model::{
        AttemptRow, BatchState, InstanceId, LoadedBatch, RequestRecord, TaskKey, TaskState, UnixMs, WorkerRow,
    },
    plan::TaskSpec,
};

/// How long a commit may be held up to start the WAL anew once it has grown too long.
const RESTART_WAIT: Duration = Duration::from_millis(250);

/// The writing side.
pub struct SqliteStore {
    connection: Connection,
    life: LifeId,
    /// The length of the WAL, in bytes, at which readers are waited for to start it anew.
    restart_at: u64,
    /// A commit has failed: what the machine holds is no longer what is stored.
    failed: bool,
    /// Dropped last: the lock outlives the connection.
    folder: Folder,
}

impl SqliteStore {
    /// Opens the data of this folder, or makes it, and keeps every other coordinator out for as long as the
    /// store lives.
    pub fn open(data_dir: &Path) -> Result<(Self, SqliteReader), Error> {
        let folder = Folder::lock(data_dir)?;
        let (connection, life) = folder.writer()?;
        let reader = SqliteReader::open(&folder, life)?;
        let restart_at = schema::WAL_LIMIT.cast_unsigned();
        Ok((Self { connection, life, restart_at, failed: false, folder }, reader))
    }

    /// Runs a transaction. Whatever goes wrong, damage included, it was not stored as a whole: one answer, stop.
    fn write<T>(&mut self, work: impl FnOnce(&mut Connection) -> Result<T, Error>) -> Result<T, Error> {
        if self.failed {
            return Err(Error::Failed("an earlier commit failed".to_owned()));
        }
        let done = work(&mut self.connection).and_then(|done| self.bound_wal().map(|()| done));
        done.map_err(|error| {
            self.failed = true;
            Error::Failed(format!("a commit failed: {error}"))
        })
    }

    /// Readings that overlap without end keep the WAL from being started anew, and it grows. Then the next
    /// ones are made to read the database alone by waiting for those that go on now.
    fn bound_wal(&mut self) -> Result<(), Error> {
        let limit = schema::WAL_LIMIT.cast_unsigned();
        // Without a WAL there is nothing to bound.
        let length = fs::metadata(self.folder.wal()).map_or(0, |wal| wal.len());
        if length < self.restart_at {
            return Ok(());
        }
        self.connection.busy_timeout(RESTART_WAIT)?;
        let busy: bool =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        self.connection.busy_timeout(schema::BUSY_TIMEOUT)?;
        self.restart_at = if busy { length.saturating_add(limit / 4) } else { limit };
        Ok(())
    }
}

impl Store for SqliteStore {
    fn life(&self) -> LifeId {
        self.life
    }

    fn load_unfinished(&mut self) -> Result<Vec<LoadedBatch>, Error> {
        load_unfinished(&self.connection)
    }

    fn load_workers(&mut self) -> Result<Vec<WorkerRow>, Error> {
        let sql = "SELECT instance, name, boot_id, connection, slots, draining, set_aside FROM workers \
                   ORDER BY instance";
        collect(&mut self.connection.prepare_cached(sql)?, [], rows::worker)
    }

    fn load_batch(&mut self, batch: BatchId) -> Result<Option<LoadedBatch>, Error> {
        read_batch(&self.connection, batch)?.map(|view| complete(&self.connection, view)).transpose()
    }

    fn load_task(&mut self, (batch, index): TaskKey) -> Result<Option<(BatchState, TaskState)>, Error> {
        let sql = format!("SELECT {} FROM tasks WHERE batch = ?1 AND idx = ?2", rows::TASK);
        let key = params![rows::batch_key(batch), index.0];
        let task =
            collect(&mut self.connection.prepare_cached(&sql)?, key, |row| rows::task(batch, row))?.pop();
        let view = read_batch(&self.connection, batch)?;
        Ok(view.zip(task).map(|(view, (_, task))| (view.state, task)))
    }

    fn find_request(&mut self, id: &str) -> Result<Option<RequestRecord>, Error> {
        read_request(&self.connection, id)
    }

    fn find_attempt(&mut self, attempt: AttemptId) -> Result<Option<AttemptRow>, Error> {
        read_attempt(&self.connection, attempt)
    }

    fn specs(&mut self, keys: &[TaskKey]) -> Result<Vec<TaskSpec>, Error> {
        let sql = "SELECT spec FROM specs WHERE batch = ?1 AND idx = ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut specs = Vec::with_capacity(keys.len());
        for &(batch, index) in keys {
            let mut results = statement.query(params![rows::batch_key(batch), index.0])?;
            let Some(row) = results.next()? else {
                return Err(Error::Corrupt(format!(
                    "the parameters of task {index} of batch {batch} are missing"
                )));
            };
            let text = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
            specs.push(rows::spec(batch, index, text)?);
        }
        Ok(specs)
    }

    fn secret(&mut self, batch: BatchId) -> Result<Option<Vec<u8>>, Error> {
        let mut statement = self.connection.prepare_cached("SELECT sealed FROM secrets WHERE batch = ?1")?;
        Ok(statement.query_row([rows::batch_key(batch)], |row| row.get(0)).optional()?)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        self.write(|connection| write::commit(connection, changes))
    }

    fn remove(&mut self, batch: BatchId) -> Result<bool, Error> {
        self.write(|connection| remove::remove(connection, batch))
    }

    fn forget_requests(&mut self, before_ms: UnixMs) -> Result<bool, Error> {
        self.write(|connection| remove::forget_requests(connection, before_ms))
    }
}

/// Every batch that has not ended, oldest first.
fn load_unfinished(connection: &Connection) -> Result<Vec<LoadedBatch>, Error> {
    let sql = format!("SELECT {} FROM batches WHERE status IN (0, 1) ORDER BY id", rows::BATCH);
    let views = collect(&mut connection.prepare_cached(&sql)?, [], rows::batch)?;
    views.into_iter().map(|view| complete(connection, view)).collect()
}

fn complete(connection: &Connection, view: BatchView) -> Result<LoadedBatch, Error> {
    let BatchView { head, state } = view;
    let sql = format!("SELECT {} FROM tasks WHERE batch = ?1 ORDER BY idx", rows::TASK);
    let key = params![rows::batch_key(head.id)];
    let tasks = collect(&mut connection.prepare_cached(&sql)?, key, |row| rows::task(head.id, row))?;
    let in_place = tasks.iter().zip(1..=head.task_count).all(|((index, _), expected)| index.0 == expected);
    if !in_place || usize::try_from(head.task_count) != Ok(tasks.len()) {
        return Err(Error::Corrupt(format!("tasks of batch {} are missing", head.id)));
    }
    let sql = "SELECT idx, instance FROM exclusions WHERE batch = ?1 ORDER BY idx, instance";
    let mut statement = connection.prepare_cached(sql)?;
    let excluded = collect(&mut statement, params![rows::batch_key(head.id)], |row| {
        Ok((TaskIndex(row.get(0)?), InstanceId(row.get(1)?)))
    })?;
    let tasks = tasks.into_iter().map(|(_, task)| task).collect();
    Ok(LoadedBatch { head, state, tasks, excluded })
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::{Error as Sql, ErrorCode};
        match error {
            Sql::FromSqlConversionFailure(..)
            | Sql::IntegralValueOutOfRange(..)
            | Sql::InvalidColumnType(..)
            | Sql::Utf8Error(..) => Self::Corrupt(error.to_string()),
            _ => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                    Self::Corrupt(error.to_string())
                }
                _ => Self::Failed(error.to_string()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str) -> Result<Change, Error> {
        Ok(Change::Request(RequestRecord {
            id: id.into(),
            digest: [0; 32],
            batch: rows::batch_id(1)?,
            time_ms: 0,
        }))
    }

    #[test]
    fn a_long_wal_is_started_anew_once_its_readers_let_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::open(dir.path()).unwrap().0;
        let length = |store: &SqliteStore| fs::metadata(store.folder.wal()).unwrap().len();
        store.restart_at = 1;
        let mut reader = store.folder.reader().unwrap();
        let reading = reader.transaction().unwrap();
        reading.query_row("SELECT count(*) FROM requests", [], |_| Ok(())).unwrap();
        store.commit(&[request("a").unwrap()]).unwrap();
        assert!(length(&store) > 0, "a reading is not disturbed");
        assert!(store.restart_at > length(&store), "and commits do not wait for it again at once");
        reading.finish().unwrap();
        store.restart_at = 1;
        store.commit(&[request("b").unwrap()]).unwrap();
        assert_eq!(length(&store), 0);
        assert!(store.find_request("a").unwrap().is_some() && store.find_request("b").unwrap().is_some());
    }

    #[test]
    fn no_lookup_goes_through_a_whole_table() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap().0;
        for (query, index) in [
            ("SELECT * FROM batches WHERE status IN (0, 1) ORDER BY id", "batches_unfinished"),
            ("SELECT * FROM batches WHERE id < 9 ORDER BY id DESC", "PRIMARY KEY"),
            ("SELECT * FROM tasks WHERE batch = 1 AND idx > 2 ORDER BY idx", "PRIMARY KEY"),
            (
                "SELECT * FROM tasks WHERE batch = 1 AND (revision, idx) > (2, 3) ORDER BY revision, idx",
                "tasks_changed (batch=? AND (revision,idx)>(?,?))",
            ),
            ("SELECT 1 FROM attempts WHERE late = 1 AND batch = 1 AND idx BETWEEN 1 AND 2", "attempts_late"),
        ] {
            let plan: Vec<String> = store
                .connection
                .prepare(&format!("EXPLAIN QUERY PLAN {query}"))
                .unwrap()
                .query_map([], |row| row.get(3))
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            assert!(plan.len() == 1 && plan[0].contains(index), "{query}: {plan:?}");
        }
    }
}
