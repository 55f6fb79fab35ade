//! FleetService: the workers, as the engine sees them.

use muster_proto::v1;
use tonic::{Request, Response, Status};

use crate::core::event::Steer;

use super::{
    context::Context,
    convert::{attach::MAX_NAME_CHARS, worker::worker},
    status,
};

/// FleetService.
pub(crate) struct Fleet {
    context: Context,
}

impl Fleet {
    pub(crate) const fn new(context: Context) -> Self {
        Self { context }
    }

    async fn steer(&self, name: String, steer: Steer) -> Result<v1::Worker, Status> {
        if name.is_empty() || name.len() > MAX_NAME_CHARS {
            return Err(status::invalid("worker_id", "is not a worker's name; `muster workers` shows them"));
        }
        let view = self.context.engine.steer(name, steer).await;
        view.map(worker).map_err(|error| status::engine(&error))
    }
}

#[tonic::async_trait]
impl v1::fleet_service_server::FleetService for Fleet {
    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let views = self.context.engine.workers().await.map_err(|error| status::engine(&error))?;
        let workers = views.into_iter().map(worker).collect();
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::DrainWorkerResponse>, Status> {
        let worker = self.steer(request.into_inner().worker_id, Steer::Drain).await?;
        Ok(Response::new(v1::DrainWorkerResponse { worker: Some(worker) }))
    }

    async fn resume_worker(
        &self,
        request: Request<v1::ResumeWorkerRequest>,
    ) -> Result<Response<v1::ResumeWorkerResponse>, Status> {
        let worker = self.steer(request.into_inner().worker_id, Steer::Resume).await?;
        Ok(Response::new(v1::ResumeWorkerResponse { worker: Some(worker) }))
    }
}
