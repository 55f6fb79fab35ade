//! How connections to the coordinator are made.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint, Error};

/// A connection that is not made by then is not made.
const CONNECT: Duration = Duration::from_secs(5);
/// Pings, also without a call in flight: a router that forgot the connection is noticed.
const PING_EVERY: Duration = Duration::from_secs(10);
/// A ping that is not answered by then ends the connection.
const PING_ANSWER: Duration = Duration::from_secs(5);
/// Some routers need more than pings inside the connection.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Bytes on their way to us on one stream.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Bytes on their way to us on one connection.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// The longest message from the coordinator: an offer with its arguments and environment, or a welcome.
pub(crate) const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Dials the coordinator.
pub(crate) async fn dial(url: &str) -> Result<Channel, Error> {
    endpoint(url)?.connect().await
}

fn endpoint(url: &str) -> Result<Endpoint, Error> {
    Ok(Endpoint::from_shared(url.to_owned())?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(TCP_KEEPALIVE))
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}
