//! The edge to clients and workers: gRPC services over the engine, the store and the logs.
//!
//! Handlers parse, turn requests into events and await replies, or read what is committed; they decide
//! nothing. Requests' content is never logged. Everything that can grow has a bound, named where it is used.

pub(crate) mod accept;
mod batches;
pub(crate) mod context;
mod convert;
mod explain;
mod feed;
mod fleet;
mod front;
mod health;
mod page_token;
mod prefill;
mod push_logs;
mod session;
mod status;
mod tail;
mod watch;
mod workers;

use std::time::Duration;

use muster_proto::v1::{
    batch_service_server::BatchServiceServer, fleet_service_server::FleetServiceServer,
    worker_service_server::WorkerServiceServer,
};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;

use context::Context;
use front::{Front, Services};
pub(crate) use health::Health;

/// Streams of one connection at once. A worker has one on each of its two.
const MAX_STREAMS: u32 = 128;
/// Streams of a connection that were reset for the peer's own errors, over its life, before it is closed.
const MAX_LOCAL_RESETS: usize = 1_024;
/// Streams that the peer reset before they were looked at; peers that cancel a lot need more than 20.
const MAX_PENDING_RESETS: usize = 100;
/// Unread bytes of one stream, and of a connection: one that is not read must not hold up the others.
const STREAM_WINDOW: u32 = 1_024 * 1_024;
const CONNECTION_WINDOW: u32 = 16 * 1_024 * 1_024;
/// A silent peer is asked after this, and given up when it does not answer within that.
const PING_AFTER: Duration = Duration::from_secs(15);
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// Headers of one call, in bytes.
const MAX_HEADERS: u32 = 16 * 1_024;
/// Largest message from a worker: a hello with everything that it may hold.
const MAX_WORKER_MESSAGE: usize = 2 * 1_024 * 1_024;
/// Largest message of FleetService: a name.
const MAX_FLEET_MESSAGE: usize = 64 * 1_024;
/// Largest message that is sent: clients take 4 MiB by default, and lists of workers may be longer.
const MAX_SENT_MESSAGE: usize = 64 * 1_024 * 1_024;

/// What a server cannot do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptions that clients ask for do not fit together.
    #[error("the reflection service could not be built: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// It could not go on serving.
    #[error("the server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// A server with all services, ready to serve.
pub(crate) struct Edge {
    front: Front,
    context: Context,
    /// Says whether it can be used; not yet, until it is told.
    pub(crate) health: Health,
}

impl Edge {
    pub(crate) fn new(context: Context) -> Result<Self, Error> {
        let health = Health::new(context.stopping.clone());
        let batches = BatchServiceServer::new(batches::Batches::new(context.clone()))
            .max_decoding_message_size(front::MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_SENT_MESSAGE);
        let fleet = FleetServiceServer::new(fleet::Fleet::new(context.clone()))
            .max_decoding_message_size(MAX_FLEET_MESSAGE)
            .max_encoding_message_size(MAX_SENT_MESSAGE);
        let workers = WorkerServiceServer::new(workers::Workers::new(context.clone()))
            .max_decoding_message_size(MAX_WORKER_MESSAGE)
            .max_encoding_message_size(MAX_SENT_MESSAGE);
        // Older clients ask for v1alpha only.
        let services = Services::default()
            .with(batches)
            .with(fleet)
            .with(workers)
            .with(HealthServer::new(health.clone()))
            .with(descriptions().build_v1()?)
            .with(descriptions().build_v1alpha()?);
        Ok(Self { front: Front::new(services), context, health })
    }

    /// Serves until the coordinator stops and every connection has ended; how long that takes is the peers'
    /// affair, so the caller bounds it.
    pub(crate) async fn serve(self, listener: TcpListener) -> Result<(), Error> {
        let stopping = self.context.stopping.clone();
        let incoming = accept::incoming(listener, stopping.clone());
        Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keepalive_interval(Some(PING_AFTER))
            .http2_keepalive_timeout(Some(PONG_WITHIN))
            .http2_max_header_list_size(MAX_HEADERS)
            .serve_with_incoming_shutdown(self.front, incoming, stopping.cancelled())
            .await?;
        Ok(())
    }
}

/// What reflection tells of: our services, health, reflection itself, and the types of error details, so that clients can print
/// them.
fn descriptions() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(muster_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
