//! A TCP proxy on loopback that cuts, holds and restores connections. It looks at no byte.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// Bytes that one direction of a connection has read and not written.
const PIECE: usize = 16 * 1024;

/// One of the two ways through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who dials to the target.
    ToTarget,
    /// From the target to who has dialled.
    FromTarget,
}

/// Listens on a port of its own and passes connections on, while it is up.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    passed: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    down: bool,
    to_target_held: bool,
    from_target_held: bool,
}

impl State {
    fn held(self, direction: Direction) -> bool {
        match direction {
            Direction::ToTarget => self.to_target_held,
            Direction::FromTarget => self.from_target_held,
        }
    }
}

impl Proxy {
    /// Starts passing connections on to `target`.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (state, seen) = watch::channel(State::default());
        let passed = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(listener, target, seen, Arc::clone(&passed)));
        Self { address, state, passed, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection at once and refuses new ones. What was held is lost.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.down = true);
    }

    /// Stops one direction of every connection, new ones too, and leaves them open: whoever waits for what comes
    /// that way hears nothing, not even an end. The bytes wait.
    pub fn hold(&self, direction: Direction) {
        self.state.send_modify(|state| match direction {
            Direction::ToTarget => state.to_target_held = true,
            Direction::FromTarget => state.from_target_held = true,
        });
    }

    /// Passes new connections on again, and both directions of those that were held.
    pub fn restore(&self) {
        self.state.send_replace(State::default());
    }

    /// How many connections were passed on so far.
    pub fn passed(&self) -> usize {
        self.passed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    state: watch::Receiver<State>,
    passed: Arc<AtomicUsize>,
) {
    while let Ok((near, _)) = listener.accept().await {
        if state.borrow().down {
            continue;
        }
        let mut state = state.clone();
        let passed = Arc::clone(&passed);
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(target).await else { return };
            // Small messages both ways: waiting to fill a packet would only add delay.
            let _ = near.set_nodelay(true);
            let _ = far.set_nodelay(true);
            passed.fetch_add(1, Ordering::SeqCst);
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            let there = pump(near_read, far_write, state.clone(), Direction::ToTarget);
            let back = pump(far_read, near_write, state.clone(), Direction::FromTarget);
            tokio::select! {
                _ = async { tokio::try_join!(there, back) } => {}
                _ = state.wait_for(|state| state.down) => {}
            }
        });
    }
}

/// Moves the bytes of one direction until its source ends, and not while it is held.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    direction: Direction,
) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::NotConnected);
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await?;
        // Read before the hold or not: nothing passes during one, not even an end.
        state.wait_for(|state| !state.held(direction)).await.map_err(gone)?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_cut_ends_connections_and_a_restore_lets_new_ones_through() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap()).await;
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = server.accept().await {
                let _ = socket.write_all(b"hello").await;
                // Open until the other side goes.
                let _ = socket.read_to_end(&mut Vec::new()).await;
            }
        });
        let mut bytes = Vec::new();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
        proxy.cut();
        assert!(matches!(client.read_to_end(&mut bytes).await, Ok(0) | Err(_)), "the connection has ended");
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(matches!(refused.read_to_end(&mut bytes).await, Ok(0) | Err(_)), "nothing comes through");
        proxy.restore();
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        again.read_exact(&mut [0; 5]).await.unwrap();
        assert_eq!(proxy.passed(), 2);
    }
    #[tokio::test]
    async fn a_held_direction_passes_nothing_until_it_is_restored() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap()).await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        proxy.hold(Direction::FromTarget);
        served.write_all(b"held").await.unwrap();
        client.write_all(b"there").await.unwrap();
        let mut bytes = [0; 5];
        served.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"there", "the other direction is as it was");
        assert_eq!(client.try_read(&mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        proxy.restore();
        client.read_exact(&mut bytes[..4]).await.unwrap();
        assert_eq!(&bytes[..4], b"held");
    }
}
