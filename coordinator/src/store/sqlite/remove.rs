//! Removing ended batches, a few rows a commit: invisible from the first commit on, gone with the last.
//!
//! Which ones is not decided here. A removal that a crash has cut short goes on at the next start.

use muster_proto::BatchId;
use rusqlite::{Connection, TransactionBehavior, params};

use super::{super::Error, read::collect, rows};
use crate::core::{model::UnixMs, retention::Ended};

/// Rows that one commit deletes at most.
const SLICE_ROWS: usize = 2_000;
/// What a task takes besides its output, about: parameters, state, an attempt, their places in indexes.
const TASK_BYTES: i64 = 1_500;

/// Deletes a slice of an ended batch; true once nothing of it is left. A batch that is not there or has not
/// ended is left as it is.
pub(super) fn remove(connection: &mut Connection, batch: BatchId) -> Result<bool, Error> {
    let key = rows::batch_key(batch);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let hide = "UPDATE batches SET status = ?2 WHERE id = ?1 AND status NOT IN (0, 1, ?2)";
    let hidden = transaction.prepare_cached(hide)?.execute(params![key, rows::REMOVED])? == 1
        || is_removed(&transaction, key)?;
    if !hidden {
        return Ok(true);
    }
    let mut left = SLICE_ROWS;
    for sql in [
        "DELETE FROM secrets WHERE batch = ?1 AND ?2 > 0",
        "DELETE FROM specs WHERE batch = ?1 AND idx IN \
         (SELECT idx FROM specs WHERE batch = ?1 ORDER BY idx LIMIT ?2)",
        "DELETE FROM tasks WHERE batch = ?1 AND idx IN \
         (SELECT idx FROM tasks WHERE batch = ?1 ORDER BY idx LIMIT ?2)",
        "DELETE FROM attempts WHERE batch = ?1 AND (idx, attempt, life) IN \
         (SELECT idx, attempt, life FROM attempts WHERE batch = ?1 ORDER BY idx, attempt, life LIMIT ?2)",
        "DELETE FROM exclusions WHERE batch = ?1 AND (idx, instance) IN \
         (SELECT idx, instance FROM exclusions WHERE batch = ?1 ORDER BY idx, instance LIMIT ?2)",
    ] {
        let limit = i64::try_from(left).unwrap_or(i64::MAX);
        left = left.saturating_sub(transaction.prepare_cached(sql)?.execute(params![key, limit])?);
    }
    let done = left > 0;
    if done {
        transaction.prepare_cached("DELETE FROM batches WHERE id = ?1")?.execute([key])?;
    }
    transaction.commit()?;
    Ok(done)
}

/// Forgets a slice of the requests made before `before_ms` whose batch is gone; true once none is left.
pub(super) fn forget_requests(connection: &mut Connection, before_ms: UnixMs) -> Result<bool, Error> {
    let sql = "DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE time_ms < ?1 AND NOT EXISTS \
               (SELECT 1 FROM batches WHERE batches.id = requests.batch) LIMIT ?2)";
    let limit = i64::try_from(SLICE_ROWS).unwrap_or(i64::MAX);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let deleted = transaction.prepare_cached(sql)?.execute(params![before_ms, limit])?;
    transaction.commit()?;
    Ok(deleted < SLICE_ROWS)
}

/// The batches that have ended. Bytes are counted only where they are asked for, since that reads every attempt.
pub(super) fn ended(connection: &Connection, with_bytes: bool) -> Result<Vec<Ended>, Error> {
    let bytes = if with_bytes {
        "(SELECT coalesce(sum(log_bytes), 0) FROM attempts WHERE attempts.batch = batches.id)"
    } else {
        "0"
    };
    let sql = format!(
        "SELECT id, coalesce(end_ms, 0), {bytes} + task_count * {TASK_BYTES} FROM batches \
         WHERE status NOT IN (0, 1, {})",
        rows::REMOVED
    );
    collect(&mut connection.prepare_cached(&sql)?, [], |row| {
        Ok(Ended {
            id: rows::batch_id(row.get(0)?)?,
            end_ms: row.get(1)?,
            bytes: row.get::<_, i64>(2)?.cast_unsigned(),
        })
    })
}

/// Batches whose removal was begun and not ended.
pub(super) fn half_removed(connection: &Connection) -> Result<Vec<BatchId>, Error> {
    let sql = format!("SELECT id FROM batches WHERE status = {}", rows::REMOVED);
    collect(&mut connection.prepare_cached(&sql)?, [], |row| rows::batch_id(row.get(0)?))
}

/// Every batch that there is, to readers.
pub(super) fn all(connection: &Connection) -> Result<Vec<BatchId>, Error> {
    let sql = format!("SELECT id FROM batches WHERE status <> {}", rows::REMOVED);
    collect(&mut connection.prepare_cached(&sql)?, [], |row| rows::batch_id(row.get(0)?))
}

fn is_removed(connection: &Connection, key: i64) -> Result<bool, Error> {
    let sql = "SELECT count(*) FROM batches WHERE id = ?1 AND status = ?2";
    let found: i64 =
        connection.prepare_cached(sql)?.query_row(params![key, rows::REMOVED], |row| row.get(0))?;
    Ok(found == 1)
}

#[cfg(test)]
mod tests {
    use muster_proto::{AttemptId, AttemptNo, TaskIndex};

    use super::*;
    use crate::{
        core::{
            event::Change,
            model::{AttemptRow, BatchStatus, RequestRecord},
        },
        store::{PageBounds, Reader, Store, sample_batch, sqlite::SqliteStore},
    };

    fn attempt(batch: BatchId, log_bytes: u64) -> Change {
        let id =
            AttemptId { life: muster_proto::LifeId(1), batch, task: TaskIndex(1), attempt: AttemptNo(1) };
        Change::Attempt(AttemptRow {
            id,
            worker: "w".into(),
            exit_code: Some(0),
            signal: None,
            failure: None,
            end_ms: 7,
            log_bytes,
            log_discarded: 0,
            late: false,
        })
    }

    #[test]
    fn a_batch_is_gone_with_the_first_slice_and_its_rows_with_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, reader) = SqliteStore::open(dir.path()).unwrap();
        let (large, small, running) = (BatchId::new(1, 0), BatchId::new(2, 0), BatchId::new(3, 0));
        let request = |id: &str, batch, time_ms| {
            Change::Request(RequestRecord { id: id.into(), digest: [0; 32], batch, time_ms })
        };
        store
            .commit(&[
                sample_batch(large, 1_500, BatchStatus::Completed),
                attempt(large, 1_000_000),
                sample_batch(small, 2, BatchStatus::Cancelled),
                sample_batch(running, 2, BatchStatus::Running),
                request("old", large, 10),
                request("new", large, 30),
                request("other", small, 10),
            ])
            .unwrap();
        let found = reader.ended(true).unwrap();
        assert_eq!(found.iter().map(|batch| batch.id).collect::<Vec<_>>(), [large, small]);
        assert!(found[0].bytes > 1_000_000 && found[1].bytes < 10_000 && found[0].end_ms == 7, "{found:?}");

        assert!(store.remove(running).unwrap(), "not ended: nothing to do");
        assert!(!store.remove(large).unwrap(), "3,001 rows are more than a slice");
        let bounds = PageBounds { tasks: 10, bytes: 10_000 };
        assert!(
            reader.batch(large).unwrap().is_none() && reader.task(large, TaskIndex(9)).unwrap().is_none()
        );
        assert!(
            reader.tasks(large, 0, bounds).unwrap().is_none() && store.load_batch(large).unwrap().is_none()
        );
        assert_eq!(reader.batches(None, 10).unwrap().len(), 2);
        assert!(!reader.batch_ids().unwrap().contains(&large));

        // A crash, and the rest.
        drop((store, reader));
        let (mut store, reader) = SqliteStore::open(dir.path()).unwrap();
        assert_eq!(reader.half_removed().unwrap(), [large]);
        while !store.remove(large).unwrap() {}
        assert!(reader.half_removed().unwrap().is_empty());
        assert!(store.remove(large).unwrap(), "it is not there");
        assert!(store.forget_requests(20).unwrap());
        let known = |id| reader.request(id).unwrap().is_some();
        assert_eq!((known("old"), known("new"), known("other")), (false, true, true));
        let left: i64 = store
            .connection
            .query_row(
                "SELECT (SELECT count(*) FROM specs) + (SELECT count(*) FROM tasks) + (SELECT count(*) FROM attempts)",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(left, 8, "two batches of two tasks are whole");
        assert_eq!(reader.batch(running).unwrap().unwrap().state.status, BatchStatus::Running);
    }
}
