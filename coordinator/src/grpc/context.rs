//! What every service works with, and the one way of reading the store from async code.

use std::sync::{Arc, Mutex, PoisonError};

use muster_proto::{AttemptId, BatchId, LifeId, v1};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    core::{catalog::Catalog, model::TaskStatus},
    disk::Disk,
    engine::handle::Handle,
    logs::Logs,
    policy_file::PolicyFile,
    prefill::Models,
    secrets::Keyring,
    store::{self, BatchView, Reader, TaskView},
    watch::Hub,
};

use super::{convert, feed::Feeds, status};

/// Reads of the store at once; more wait in line, so that watchers cannot take every blocking thread. Twice
/// what the store carries out at once, so that it never waits for the next.
const READS_AT_ONCE: usize = 8;
/// Plannings of a submitted batch at once: each may hold a few times the largest request.
const PLANS_AT_ONCE: usize = 4;

/// What every service works with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) engine: Handle,
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) logs: Logs,
    pub(crate) hub: Hub,
    /// What watchers of the same batch share.
    pub(super) feeds: Feeds,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) policy: Arc<PolicyFile>,
    pub(crate) models: Arc<Models>,
    pub(crate) disk: Arc<Disk>,
    /// Cancelled when the coordinator begins to stop: streams end themselves.
    pub(crate) stopping: CancellationToken,
    pub(crate) life: LifeId,
    /// The id that the first batch to be stored is to have.
    first_batch: Arc<Mutex<Option<BatchId>>>,
    reads: Arc<Semaphore>,
    plans: Arc<Semaphore>,
}

/// What a [`Context`] is made of.
pub(crate) struct Parts {
    pub(crate) engine: Handle,
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) logs: Logs,
    pub(crate) hub: Hub,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) policy: Arc<PolicyFile>,
    pub(crate) models: Arc<Models>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) stopping: CancellationToken,
    pub(crate) first_batch: Option<BatchId>,
}

impl Context {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            engine,
            reader,
            logs,
            hub,
            keyring,
            catalog,
            policy,
            models,
            disk,
            stopping,
            first_batch,
        } = parts;
        let life = reader.life();
        Self {
            engine,
            reader,
            logs,
            hub,
            feeds: Feeds::default(),
            keyring,
            catalog,
            policy,
            models,
            disk,
            stopping,
            life,
            first_batch: Arc::new(Mutex::new(first_batch)),
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
            plans: Arc::new(Semaphore::new(PLANS_AT_ONCE)),
        }
    }

    /// The id that was set aside for the first batch, until a batch is stored under it.
    pub(crate) fn first_batch(&self) -> Option<BatchId> {
        *self.first_batch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch has this id now.
    pub(crate) fn note_taken(&self, id: BatchId) {
        let mut first = self.first_batch.lock().unwrap_or_else(PoisonError::into_inner);
        if *first == Some(id) {
            *first = None;
        }
    }

    /// Refuses new work while the disk is nearly full, unless it is a repeated call: that one has been carried out.
    pub(crate) async fn room_for(&self, request_id: &str) -> Result<(), Status> {
        let disk = Arc::clone(&self.disk);
        let Err(low) = self.compute(move || disk.check()).await? else { return Ok(()) };
        let id = request_id.to_owned();
        if !id.is_empty() && self.read(move |reader| reader.request(&id)).await?.is_some() {
            return Ok(());
        }
        Err(status::disk_low(low))
    }

    /// Reads the store on a blocking thread.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Status> {
        let reader = Arc::clone(&self.reader);
        blocking(&self.reads, move || read(reader.as_ref())).await?.map_err(|error| status::store(&error))
    }

    /// Does what takes long to compute on a blocking thread.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        blocking(&self.plans, work).await
    }

    /// A batch as users see it, without tasks.
    pub(crate) fn batch(&self, view: &BatchView) -> v1::Batch {
        convert::batch::batch(view, self.engine.available_workers())
    }

    /// A task as users see it. Of one that runs, the row does not know how much output is stored by now.
    pub(crate) fn task(&self, batch: &BatchView, view: &TaskView) -> v1::Task {
        let mut task = convert::task::task(view);
        if view.state.status == TaskStatus::Running {
            let attempt = AttemptId {
                life: self.life,
                batch: batch.head.id,
                task: view.index,
                attempt: view.state.attempt,
            };
            task.log_bytes = convert::bytes(self.logs.stored(attempt));
        }
        task
    }
}

async fn blocking<T: Send + 'static>(
    places: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    // The semaphore is never closed; if it were, there would be no bound to keep.
    let place = Arc::clone(places).acquire_owned().await.ok();
    let done = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    done.await.map_err(|error| status::internal("a request could not be worked on", &error))
}
