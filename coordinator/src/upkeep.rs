//! Removes ended batches that are not to be kept any longer: their rows through the engine, a slice between two
//! groups, then their output.
//!
//! Which ones is decided in `core::retention`. While a backup is made, nothing is removed.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use muster_proto::BatchId;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::{
    core::retention::{Retention, surplus},
    engine::handle::{Handle, Stopped},
    logs::Logs,
    store::{self, Reader},
};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A request id is remembered for so long at least, also where its batch was removed.
const REQUESTS_KEPT_MS: i64 = 24 * 60 * 60 * 1_000;
/// Held by whoever copies the data, and by us while we remove from it.
const LOCK: &str = "backup.lock";

/// Why a look did not come to its end. The next one tries again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("{0}")]
    Other(String),
}

/// What removes.
pub(crate) struct Upkeep {
    pub(crate) data_dir: PathBuf,
    pub(crate) retention: Retention,
    pub(crate) engine: Handle,
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) logs: Logs,
}

/// The lock that backups and removals share. Waits for it where `wait`; `None`: another one has it.
pub(crate) fn lock(data_dir: &Path, wait: bool) -> std::io::Result<Option<File>> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(data_dir.join(LOCK))?;
    if wait {
        file.lock()?;
        return Ok(Some(file));
    }
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

impl Upkeep {
    /// Looks now and then, until the coordinator stops.
    pub(crate) async fn run(self, stopping: CancellationToken) {
        loop {
            match self.look().await {
                Ok(()) => {}
                Err(Error::Stopped(_)) => return,
                Err(error) => tracing::warn!(%error, "old batches could not be removed; trying again later"),
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn look(&self) -> Result<(), Error> {
        let data_dir = self.data_dir.clone();
        let locked =
            blocking(move || lock(&data_dir, false).map_err(|error| Error::Other(error.to_string())));
        let Some(_lock) = locked.await? else {
            tracing::info!("a backup is being made; nothing is removed meanwhile");
            return Ok(());
        };
        let (reader, retention) = (Arc::clone(&self.reader), self.retention);
        let due = blocking(move || {
            let mut due = reader.half_removed()?;
            if !retention.keeps_all() {
                due.extend(surplus(&retention, now_ms(), &reader.ended(retention.bytes.is_some())?));
            }
            Ok(due)
        })
        .await?;
        self.remove(due).await
    }

    async fn remove(&self, due: Vec<BatchId>) -> Result<(), Error> {
        if due.is_empty() {
            return Ok(());
        }
        for &batch in &due {
            while !self.engine.remove(batch).await? {}
        }
        // One that was reopened since it was chosen is still there, and so must be its output. What is gone does not
        // come back.
        let reader = Arc::clone(&self.reader);
        let gone = blocking(move || {
            let there = reader.batch_ids()?;
            Ok(due.into_iter().filter(|batch| !there.contains(batch)).collect::<HashSet<_>>())
        })
        .await?;
        for batch in &gone {
            tracing::info!(%batch, "batch removed");
        }
        let before_ms = now_ms() - REQUESTS_KEPT_MS;
        while !self.engine.forget_requests(before_ms).await? {}
        self.free(gone).await
    }

    /// Their output goes once their rows are gone; what a crash leaves is found at the next start.
    async fn free(&self, gone: HashSet<BatchId>) -> Result<(), Error> {
        let logs = self.logs.clone();
        blocking(move || logs.remove(&gone).map(drop).map_err(|error| Error::Other(error.to_string()))).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work).await.map_err(|error| Error::Other(error.to_string()))?
}

fn now_ms() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use muster_proto::{AttemptId, AttemptNo, TaskIndex};

    use super::*;
    use crate::{
        core::{machine, model::BatchStatus},
        engine::{self, LogOffsets, Unseal},
        logs,
        secrets::Secret,
        store::{Store as _, sample_batch, sqlite::SqliteStore},
        watch::Hub,
    };

    struct Offsets(Logs);

    impl LogOffsets for Offsets {
        fn stored(&self, attempt: AttemptId) -> u64 {
            self.0.stored(attempt)
        }
    }

    struct NoKeys;

    impl Unseal for NoKeys {
        fn unseal(&self, _: BatchId, _: &[u8]) -> Result<Secret, String> {
            Err("there is none".into())
        }
    }

    #[tokio::test]
    async fn a_batch_that_was_reopened_after_it_was_chosen_keeps_its_output() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, reader) = SqliteStore::open(dir.path()).unwrap();
        let (ended, reopened) = (BatchId::new(1, 0), BatchId::new(2, 0));
        store
            .commit(&[
                sample_batch(ended, 1, BatchStatus::Completed),
                sample_batch(reopened, 1, BatchStatus::Running),
            ])
            .unwrap();
        let life = store.life();
        let logs = Logs::open(&dir.path().join("logs"), logs::Options::default(), |_, _| ()).unwrap();
        let first = |batch| AttemptId { life, batch, task: TaskIndex(1), attempt: AttemptNo(1) };
        for batch in [ended, reopened] {
            let mut stored = logs.subscribe(first(batch));
            logs.append(first(batch), 0, Bytes::from_static(b"paid for")).await.unwrap();
            stored.wait_for(|stored| *stored == 8).await.unwrap();
        }
        let (handle, inbox) = engine::channel();
        let parts = engine::Parts {
            store: Box::new(store),
            logs: Box::new(Offsets(logs.clone())),
            keys: Box::new(NoKeys),
            hub: Hub::default(),
            log_limit: 100,
            machine: machine::Config::default(),
        };
        let stopped = engine::spawn(inbox, parts).unwrap();
        let upkeep = Upkeep {
            data_dir: dir.path().to_owned(),
            retention: Retention::default(),
            engine: handle.clone(),
            reader: Arc::new(reader),
            logs: logs.clone(),
        };
        upkeep.remove(vec![ended, reopened]).await.unwrap();
        assert!(upkeep.reader.batch(ended).unwrap().is_none());
        assert!(upkeep.reader.batch(reopened).unwrap().is_some());
        assert_eq!((logs.stored(first(ended)), logs.stored(first(reopened))), (0, 8));
        handle.shut_down().await;
        stopped.await.unwrap().unwrap();
    }
}
