//! WorkerService: hands each stream to the module that serves it.

use muster_proto::v1;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{context::Context, push_logs, session};

/// WorkerService.
pub(crate) struct Workers {
    context: Context,
}

impl Workers {
    pub(crate) const fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl v1::worker_service_server::WorkerService for Workers {
    type AttachStream = ReceiverStream<Result<v1::AttachResponse, Status>>;
    type PushLogsStream = ReceiverStream<Result<v1::PushLogsResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        session::attach(self.context.clone(), request.into_inner()).await.map(Response::new)
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<v1::PushLogsRequest>>,
    ) -> Result<Response<Self::PushLogsStream>, Status> {
        Ok(Response::new(push_logs::push_logs(self.context.clone(), request.into_inner())))
    }
}
