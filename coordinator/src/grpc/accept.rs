//! Accepts connections: a bounded number, with keepalive, and without spinning when the system has no more
//! file descriptors.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Connections at once; more wait in the system's queue. 10,000 workers have two each.
const MAX_CONNECTIONS: usize = 32_768;
/// Connections that are accepted and not served yet.
const WAITING_CONNECTIONS: usize = 64;
/// After a failure to accept, so that one without end takes no processor.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Failures to accept are logged this far apart.
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);
/// A connection says something within this of being accepted.
const FIRST_BYTE_WITHIN: Duration = Duration::from_secs(10);
/// An idle connection is probed by the system after this, so often, this far apart.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Accepts until `stopping` is cancelled; the listener is closed then.
pub(crate) fn incoming(
    listener: TcpListener,
    stopping: CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, connections) = mpsc::channel(WAITING_CONNECTIONS);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::spawn(async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = accept(&listener, &places, &sender) => {}
        }
    });
    ReceiverStream::new(connections)
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    sender: &mpsc::Sender<io::Result<Connection>>,
) {
    let mut complain_at = Instant::now();
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // The peer was gone before it was let in.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                if Instant::now() >= complain_at {
                    tracing::warn!(%error, "connections cannot be accepted");
                    complain_at = Instant::now() + COMPLAIN_EVERY;
                }
                sleep(BACK_OFF).await;
                continue;
            }
        };
        if let Err(error) = tune(&stream) {
            // It still works, only less well.
            tracing::debug!(%error, "a connection could not be tuned");
        }
        if sender.send(Ok(Connection::new(stream, place))).await.is_err() {
            return;
        }
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// A connection that holds its place until it is closed, and is closed when it says nothing at first.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Until the first byte has come.
    first_byte: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit) -> Self {
        let deadline = Instant::now() + FIRST_BYTE_WITHIN;
        Self { stream, first_byte: Some(Box::pin(sleep_until(deadline))), _place: place }
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.first_byte = None;
        } else if let Some(deadline) = &mut self.first_byte
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Listens with an address that can be used again at once after a restart.
pub(crate) async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    // tokio sets SO_REUSEADDR on Unix, which allows that and no second listener.
    TcpListener::bind(address).await
}
