//! A TCP proxy on loopback that cuts and restores connections. It looks at no byte.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Listens on a port of its own and passes connections on, while it is up.
pub struct Proxy {
    address: SocketAddr,
    up: watch::Sender<bool>,
    passed: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts passing connections on to `target`.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (up, state) = watch::channel(true);
        let passed = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(listener, target, state, Arc::clone(&passed)));
        Self { address, up, passed, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection at once and refuses new ones.
    pub fn cut(&self) {
        self.up.send_replace(false);
    }

    /// Passes new connections on again.
    pub fn restore(&self) {
        self.up.send_replace(true);
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
    up: watch::Receiver<bool>,
    passed: Arc<AtomicUsize>,
) {
    while let Ok((mut near, _)) = listener.accept().await {
        if !*up.borrow() {
            continue;
        }
        let mut up = up.clone();
        let passed = Arc::clone(&passed);
        tokio::spawn(async move {
            let Ok(mut far) = TcpStream::connect(target).await else { return };
            // Small messages both ways: waiting to fill a packet would only add delay.
            let _ = near.set_nodelay(true);
            let _ = far.set_nodelay(true);
            passed.fetch_add(1, Ordering::SeqCst);
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                _ = up.wait_for(|up| !up) => {}
            }
        });
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
}
