//! Looks whether a store is whole. Reads only, and needs the coordinator not to run.

use std::{collections::HashSet, path::Path};

use muster_proto::{AttemptId, BatchId, LifeId};
use rusqlite::Connection;

use super::{super::Error, read::collect, remove, rows, schema::Folder};

/// Problems that are told, at most; damage tends to come in heaps.
pub const MAX_PROBLEMS: usize = 100;

/// What was found. The data is held against coordinators until this is dropped.
pub struct Report {
    /// Its schema.
    pub schema: i64,
    /// Its life.
    pub life: LifeId,
    /// The batches that there are.
    pub batch_ids: HashSet<BatchId>,
    /// Of them, those that have not ended.
    pub unfinished: u64,
    /// How many tasks they have.
    pub tasks: u64,
    /// Ended attempts, with the bytes of output that were stored for good when they ended.
    pub attempts: Vec<(AttemptId, u64)>,
    /// What is not as it has to be.
    pub problems: Vec<String>,
    _folder: Folder,
}

/// Checks the database of a folder.
pub fn check(data_dir: &Path) -> Result<Report, Error> {
    let folder = Folder::existing(data_dir)?;
    let connection = folder.reader()?;
    let schema = folder.version(&connection)?;
    let mut problems = integrity(&connection)?;
    // What is torn inside cannot be counted.
    if problems.is_empty() {
        problems.extend(references(&connection)?);
        problems.extend(counts(&connection)?);
    }
    let one = |sql: &str| -> Result<u64, Error> {
        Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?.cast_unsigned())
    };
    let life = LifeId(one("SELECT life_id FROM meta")?);
    let report = Report {
        schema,
        life,
        batch_ids: remove::all(&connection)?.into_iter().collect(),
        unfinished: one("SELECT count(*) FROM batches WHERE status IN (0, 1)")?,
        tasks: one("SELECT count(*) FROM tasks")?,
        attempts: attempts(&connection)?,
        problems,
        _folder: folder,
    };
    Ok(report)
}

fn integrity(connection: &Connection) -> Result<Vec<String>, Error> {
    let sql = format!("PRAGMA integrity_check({MAX_PROBLEMS})");
    let lines = texts(connection, &sql)?;
    Ok(lines.into_iter().filter(|line| line != "ok").map(|line| format!("the database: {line}")).collect())
}

fn references(connection: &Connection) -> Result<Vec<String>, Error> {
    let sql = format!(
        "SELECT \"table\" || ' refers to ' || parent FROM pragma_foreign_key_check LIMIT {MAX_PROBLEMS}"
    );
    let lines = texts(connection, &sql)?;
    Ok(lines.into_iter().map(|line| format!("a row of {line}, where there is no such row")).collect())
}

/// Batches whose counters, rows or revisions do not fit each other.
fn counts(connection: &Connection) -> Result<Vec<String>, Error> {
    let sql = format!(
        "SELECT b.id,
                b.task_count <> coalesce(t.n, 0) OR b.task_count <> coalesce(s.n, 0),
                b.queued <> coalesce(t.queued, 0) OR b.running <> coalesce(t.running, 0)
                    OR b.completed <> coalesce(t.completed, 0) OR b.failed <> coalesce(t.failed, 0)
                    OR b.cancelled <> coalesce(t.cancelled, 0),
                b.revision < coalesce(t.revision, 0),
                (b.status NOT IN (0, 1)) <> (b.queued + b.running = 0)
         FROM batches b
         LEFT JOIN (SELECT batch, count(*) AS n, sum(status = 0) AS queued, sum(status = 1) AS running,
                           sum(status = 2) AS completed, sum(status = 3) AS failed, sum(status = 4) AS cancelled,
                           max(revision) AS revision
                    FROM tasks GROUP BY batch) t ON t.batch = b.id
         LEFT JOIN (SELECT batch, count(*) AS n FROM specs GROUP BY batch) s ON s.batch = b.id
         WHERE b.status <> {}
         ORDER BY b.id",
        rows::REMOVED
    );
    let found = collect(&mut connection.prepare_cached(&sql)?, [], |row| {
        let wrong = [
            (row.get(1)?, "has not as many tasks as it says"),
            (row.get(2)?, "has counters that are not those of its tasks"),
            (row.get(3)?, "has a task that is newer than itself"),
            (row.get(4)?, "has ended with tasks unfinished, or has not ended without"),
        ];
        let id = rows::batch_id(row.get(0)?)?;
        Ok(wrong.into_iter().filter(|(is, _)| *is).map(move |(_, what)| format!("batch {id} {what}")))
    })?;
    Ok(found.into_iter().flatten().take(MAX_PROBLEMS).collect())
}

fn attempts(connection: &Connection) -> Result<Vec<(AttemptId, u64)>, Error> {
    // Output of a batch whose removal was begun may be gone before its rows are.
    let sql = format!(
        "SELECT {} FROM attempts WHERE log_bytes <> 0 AND batch NOT IN (SELECT id FROM batches WHERE status = {})",
        rows::ATTEMPT,
        rows::REMOVED
    );
    collect(&mut connection.prepare_cached(&sql)?, [], |row| {
        rows::attempt(row).map(|attempt| (attempt.id, attempt.log_bytes))
    })
}

fn texts(connection: &Connection, sql: &str) -> Result<Vec<String>, Error> {
    collect(&mut connection.prepare_cached(sql)?, [], |row| Ok(row.get(0)?))
}

#[cfg(test)]
mod tests {
    use muster_proto::{AttemptNo, TaskIndex};

    use super::*;
    use crate::{
        core::{
            event::Change,
            model::{AttemptRow, BatchStatus},
        },
        store::{Store as _, sample_batch, sqlite::SqliteStore},
    };

    #[test]
    fn nothing_is_missed_of_a_batch_that_is_half_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, reader) = SqliteStore::open(dir.path()).unwrap();
        // More rows than go at once; those of attempts go last.
        let (id, tasks) = (BatchId::new(1, 0), 1_500);
        let attempt = AttemptId { life: store.life(), batch: id, task: TaskIndex(1), attempt: AttemptNo(1) };
        let row = AttemptRow {
            id: attempt,
            worker: "w".into(),
            exit_code: Some(0),
            signal: None,
            failure: None,
            end_ms: 7,
            log_bytes: 10,
            log_discarded: 0,
            late: false,
        };
        let batch = sample_batch(id, tasks, BatchStatus::Completed);
        store.commit(&[batch, Change::Attempt(row)]).unwrap();
        assert!(!store.remove(id).unwrap());
        drop((store, reader));
        // A start may have removed its output already.
        let report = check(dir.path()).unwrap();
        assert_eq!((report.attempts, report.problems), (vec![], vec![]));
    }
}
