//! Tells watchers that a batch has changed; what changed they read from the store.
//!
//! Holds a revision for each batch that is watched now, and nothing else: however many changes a slow
//! watcher misses, it costs no memory, and they are merged per task when it reads.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use muster_proto::BatchId;
use tokio::sync::watch;

use crate::core::model::Revision;

/// Where the engine publishes committed revisions. Cheap to clone.
#[derive(Clone, Default)]
pub struct Hub {
    batches: Arc<Mutex<HashMap<BatchId, watch::Sender<Revision>>>>,
}

impl Hub {
    /// Subscribes to a batch. Subscribe first, then read the snapshot: no change falls between.
    pub fn subscribe(&self, batch: BatchId) -> watch::Receiver<Revision> {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        // Those whose last watcher has gone are dropped here, so the map is bounded by the live watchers.
        batches.retain(|_, sender| sender.receiver_count() > 0);
        batches.entry(batch).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Says that a revision of a batch is committed. Called by the engine only, after the commit.
    pub fn publish(&self, batch: BatchId, revision: Revision) {
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = batches.get(&batch) {
            sender.send_if_modified(|seen| {
                let newer = revision > *seen;
                *seen = revision.max(*seen);
                newer
            });
        }
    }
}
