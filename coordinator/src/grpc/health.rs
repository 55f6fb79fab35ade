//! `grpc.health.v1`: whether the services can be used.
//!
//! All of them can, or none: they share the engine and the store. Watches end when the coordinator stops, so
//! that a health checker does not hold up the stop.

use muster_proto::v1::{
    batch_service_server::SERVICE_NAME as BATCH_SERVICE, fleet_service_server::SERVICE_NAME as FLEET_SERVICE,
    worker_service_server::SERVICE_NAME as WORKER_SERVICE,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server,
};

use super::status;

/// Says whether the services can be used; not yet, until it is told. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Health {
    serving: watch::Sender<bool>,
    stopping: CancellationToken,
}

impl Health {
    pub(crate) fn new(stopping: CancellationToken) -> Self {
        Self { serving: watch::Sender::new(false), stopping }
    }

    /// Sets the status of all services, and of the server as a whole (the empty name).
    pub(crate) fn set(&self, serving: bool) {
        self.serving.send_replace(serving);
    }
}

/// Whether there is such a service; the empty name is the whole server's.
fn known(service: &str) -> bool {
    ["", BATCH_SERVICE, FLEET_SERVICE, WORKER_SERVICE].contains(&service)
}

fn response(known: bool, serving: bool) -> HealthCheckResponse {
    let status = match (known, serving) {
        (false, _) => ServingStatus::ServiceUnknown,
        (true, false) => ServingStatus::NotServing,
        (true, true) => ServingStatus::Serving,
    };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !known(&request.get_ref().service) {
            return Err(Status::not_found("there is no such service here"));
        }
        Ok(Response::new(response(true, *self.serving.borrow())))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = known(&request.get_ref().service);
        let mut serving = self.serving.subscribe();
        let stopping = self.stopping.clone();
        let (sender, messages) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let now = response(known, *serving.borrow_and_update());
                if sender.send(Ok(now)).await.is_err() {
                    return;
                }
                tokio::select! {
                    biased;
                    changed = serving.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                    () = stopping.cancelled() => {
                        // To a client that has gone nothing can be said.
                        let _ = sender.send(Err(status::shutting_down())).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}
