//! The reading side: a few connections of their own, each page in one snapshot.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use muster_proto::{AttemptId, AttemptNo, BatchId, LifeId, TaskIndex};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row, params};

use super::{
    super::{BatchView, Error, Page, PageBounds, Reader, TaskView},
    remove, rows,
    schema::Folder,
};
use crate::core::{
    model::{AttemptRow, RequestRecord, Revision, TaskKey},
    retention::Ended,
};

/// Readings that go on at the same time; further ones wait. Each has a page cache of about 2 MiB.
pub const READ_CONNECTIONS: usize = 4;

/// Reads what is committed. Cheap to clone; the clones share their connections.
#[derive(Clone)]
pub struct SqliteReader {
    life: LifeId,
    pool: Arc<Pool>,
}

struct Pool {
    idle: Mutex<Vec<Connection>>,
    returned: Condvar,
}

impl SqliteReader {
    pub(super) fn open(folder: &Folder, life: LifeId) -> Result<Self, Error> {
        let idle = (0..READ_CONNECTIONS).map(|_| folder.reader()).collect::<Result<_, _>>()?;
        Ok(Self { life, pool: Arc::new(Pool { idle: Mutex::new(idle), returned: Condvar::new() }) })
    }

    /// Runs a reading in one read transaction.
    fn snapshot<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let mut borrowed = Borrowed::take(&self.pool);
        // Always there: it is taken out on drop only.
        let Some(connection) = &mut borrowed.connection else {
            return Err(Error::Failed("no connection to read with".to_owned()));
        };
        let transaction = connection.transaction()?;
        let found = read(&transaction)?;
        transaction.finish()?;
        Ok(found)
    }
}

/// A connection that goes back to the pool whatever happens.
struct Borrowed<'pool> {
    pool: &'pool Pool,
    connection: Option<Connection>,
}

impl<'pool> Borrowed<'pool> {
    fn take(pool: &'pool Pool) -> Self {
        let idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut idle =
            pool.returned.wait_while(idle, |idle| idle.is_empty()).unwrap_or_else(PoisonError::into_inner);
        Self { pool, connection: idle.pop() }
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(self.connection.take());
        self.pool.returned.notify_one();
    }
}

impl Reader for SqliteReader {
    fn life(&self) -> LifeId {
        self.life
    }

    fn batch(&self, batch: BatchId) -> Result<Option<BatchView>, Error> {
        self.snapshot(|connection| read_batch(connection, batch))
    }

    fn batches(&self, before: Option<BatchId>, limit: usize) -> Result<Vec<BatchView>, Error> {
        self.snapshot(|connection| {
            let sql = format!(
                "SELECT {} FROM batches WHERE id < ?1 AND status <> ?3 ORDER BY id DESC LIMIT ?2",
                rows::BATCH
            );
            // No id is the greatest number: it has 63 bits, and its time leaves the upper ones unset for ages.
            let before = before.map_or(i64::MAX, rows::batch_key);
            let values = params![before, bounded(limit), rows::REMOVED];
            collect(&mut connection.prepare_cached(&sql)?, values, rows::batch)
        })
    }

    fn tasks(&self, batch: BatchId, after: u32, bounds: PageBounds) -> Result<Option<Page>, Error> {
        self.snapshot(|connection| {
            let sql = format!("{} WHERE batch = ?1 AND idx > ?2 ORDER BY idx LIMIT ?3", select_tasks());
            page(connection, batch, bounds, &sql, |limit| {
                vec![rows::batch_key(batch), i64::from(after), limit]
            })
        })
    }

    fn changed(
        &self,
        batch: BatchId,
        after: (Revision, u32),
        bounds: PageBounds,
    ) -> Result<Option<Page>, Error> {
        self.snapshot(|connection| {
            let sql = format!(
                "{} WHERE batch = ?1 AND (revision, idx) > (?2, ?3) ORDER BY revision, idx LIMIT ?4",
                select_tasks()
            );
            page(connection, batch, bounds, &sql, |limit| {
                vec![rows::batch_key(batch), after.0, i64::from(after.1), limit]
            })
        })
    }

    fn task(&self, batch: BatchId, index: TaskIndex) -> Result<Option<TaskView>, Error> {
        self.snapshot(|connection| {
            if read_batch(connection, batch)?.is_none() {
                return Ok(None);
            }
            let sql = format!("{} WHERE batch = ?1 AND idx = ?2", select_tasks());
            let mut tasks = collect(
                &mut connection.prepare_cached(&sql)?,
                params![rows::batch_key(batch), index.0],
                |row| read_task(batch, row),
            )?;
            add_late(connection, batch, &mut tasks)?;
            Ok(tasks.pop())
        })
    }

    fn ended(&self, with_bytes: bool) -> Result<Vec<Ended>, Error> {
        self.snapshot(|connection| remove::ended(connection, with_bytes))
    }

    fn half_removed(&self) -> Result<Vec<BatchId>, Error> {
        self.snapshot(remove::half_removed)
    }

    fn batch_ids(&self) -> Result<HashSet<BatchId>, Error> {
        self.snapshot(|connection| Ok(remove::all(connection)?.into_iter().collect()))
    }

    fn attempt_life(&self, (batch, task): TaskKey, attempt: AttemptNo) -> Result<Option<LifeId>, Error> {
        self.snapshot(|connection| {
            let sql = "SELECT life FROM attempts WHERE batch = ?1 AND idx = ?2 AND attempt = ?3 \
                       ORDER BY life = ?4 DESC, late LIMIT 1";
            let key = params![rows::batch_key(batch), task.0, attempt.0, self.life.0.cast_signed()];
            let mut statement = connection.prepare_cached(sql)?;
            let life = statement.query_row(key, |row| row.get::<_, i64>(0)).optional()?;
            Ok(life.map(|life| LifeId(life.cast_unsigned())))
        })
    }

    fn attempt(&self, attempt: AttemptId) -> Result<Option<AttemptRow>, Error> {
        self.snapshot(|connection| read_attempt(connection, attempt))
    }

    fn request(&self, id: &str) -> Result<Option<RequestRecord>, Error> {
        self.snapshot(|connection| read_request(connection, id))
    }
}

/// The row of an attempt, or none.
pub(super) fn read_attempt(connection: &Connection, attempt: AttemptId) -> Result<Option<AttemptRow>, Error> {
    let sql = format!(
        "SELECT {} FROM attempts WHERE batch = ?1 AND idx = ?2 AND attempt = ?3 AND life = ?4",
        rows::ATTEMPT
    );
    let key = params![
        rows::batch_key(attempt.batch),
        attempt.task.0,
        attempt.attempt.0,
        attempt.life.0.cast_signed()
    ];
    Ok(collect(&mut connection.prepare_cached(&sql)?, key, rows::attempt)?.pop())
}

/// What is remembered of a request id.
pub(super) fn read_request(connection: &Connection, id: &str) -> Result<Option<RequestRecord>, Error> {
    let sql = "SELECT id, digest, batch, time_ms FROM requests WHERE id = ?1";
    Ok(collect(&mut connection.prepare_cached(sql)?, [id], rows::request)?.pop())
}

/// One batch, or none.
pub(super) fn read_batch(connection: &Connection, batch: BatchId) -> Result<Option<BatchView>, Error> {
    let sql = format!("SELECT {} FROM batches WHERE id = ?1 AND status <> ?2", rows::BATCH);
    let key = params![rows::batch_key(batch), rows::REMOVED];
    Ok(collect(&mut connection.prepare_cached(&sql)?, key, rows::batch)?.pop())
}

/// All rows of a query.
pub(super) fn collect<T>(
    statement: &mut CachedStatement<'_>,
    values: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let mut found = Vec::new();
    let mut results = statement.query(values)?;
    while let Some(row) = results.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The spec follows the columns of the task.
fn select_tasks() -> String {
    format!(
        "SELECT {}, (SELECT spec FROM specs WHERE specs.batch = tasks.batch AND specs.idx = tasks.idx) FROM tasks",
        rows::TASK
    )
}

fn read_task(batch: BatchId, row: &Row<'_>) -> Result<TaskView, Error> {
    let (index, state) = rows::task(batch, row)?;
    let text = row.get_ref(rows::TASK_COLUMNS)?.as_str_or_null().map_err(rusqlite::Error::from)?;
    let text = text.ok_or_else(|| {
        Error::Corrupt(format!("the parameters of task {index} of batch {batch} are missing"))
    })?;
    Ok(TaskView { index, spec: rows::spec(batch, index, text)?, state, late: Vec::new() })
}

fn page(
    connection: &Connection,
    batch: BatchId,
    bounds: PageBounds,
    sql: &str,
    values: impl FnOnce(i64) -> Vec<i64>,
) -> Result<Option<Page>, Error> {
    let Some(view) = read_batch(connection, batch)? else { return Ok(None) };
    let limit = bounds.tasks.max(1);
    let mut tasks = Vec::new();
    let mut more = false;
    let mut bytes = 0_usize;
    let mut statement = connection.prepare_cached(sql)?;
    // One more than asked for tells whether there are more.
    let values = values(bounded(limit.saturating_add(1)));
    let mut results = statement.query(rusqlite::params_from_iter(values))?;
    while let Some(row) = results.next()? {
        bytes = bytes.saturating_add(spec_bytes(row)?);
        if tasks.len() == limit || (!tasks.is_empty() && bytes > bounds.bytes) {
            more = true;
            break;
        }
        tasks.push(read_task(batch, row)?);
    }
    add_late(connection, batch, &mut tasks)?;
    Ok(Some(Page { batch: view, tasks, more }))
}

fn spec_bytes(row: &Row<'_>) -> Result<usize, Error> {
    let text = row.get_ref(rows::TASK_COLUMNS)?.as_bytes_or_null().map_err(rusqlite::Error::from)?;
    Ok(text.map_or(0, <[u8]>::len))
}

/// Adds the late results of the tasks. There are hardly ever any, so they are looked for by range.
fn add_late(connection: &Connection, batch: BatchId, tasks: &mut [TaskView]) -> Result<(), Error> {
    let indexes = || tasks.iter().map(|task| task.index.0);
    let (Some(first), Some(last)) = (indexes().min(), indexes().max()) else { return Ok(()) };
    let some = "SELECT 1 FROM attempts WHERE late = 1 AND batch = ?1 AND idx BETWEEN ?2 AND ?3 LIMIT 1";
    let range = params![rows::batch_key(batch), first, last];
    if connection.prepare_cached(some)?.query_row(range, |_| Ok(())).optional()?.is_none() {
        return Ok(());
    }
    let places: HashMap<_, _> = tasks.iter().enumerate().map(|(place, task)| (task.index, place)).collect();
    let sql = format!(
        "SELECT {} FROM attempts WHERE late = 1 AND batch = ?1 AND idx BETWEEN ?2 AND ?3 \
         ORDER BY batch, idx, attempt, life",
        rows::ATTEMPT
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut results = statement.query(range)?;
    while let Some(row) = results.next()? {
        let attempt = rows::attempt(row)?;
        let place = places.get(&attempt.id.task).copied();
        if let Some(task) = place.and_then(|place| tasks.get_mut(place)) {
            task.late.push(attempt);
        }
    }
    Ok(())
}

fn bounded(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
