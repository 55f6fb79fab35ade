//! The runner's connections: accepting them, cutting lines, and sending without ever blocking.
//!
//! At most one is active, the one that said hello last. Everything is bounded: connections, the line being
//! received, and what waits to be sent. Does not interpret any message but the hello's place.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use zeroize::Zeroize;

use super::log;
use super::protocol::{self, FromRunner, LineError, MAX_LINE, ToRunner};

/// The most connections at once. One is enough, but several may try to be it, and a runner that is too many looks
/// whether we answer.
const MAX_CLIENTS: usize = 16;
/// Bytes read at once.
const READ_SIZE: usize = 256 * 1024;
/// More than this waiting to be sent, and notices of output are held back.
const BUSY: usize = 256 * 1024;
/// More than this waiting to be sent, and the connection is closed; the half learns everything at its next
/// hello.
const MAX_UNSENT: usize = 16 * 1024 * 1024;
/// How long to wait after an accept that failed, as it does without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long a last write may take when the runner exits.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Names a connection, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientId(u64);

/// Received bytes, cut into lines. What was taken is wiped, since a start may hold secrets.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    start: usize,
    /// No newline before here.
    scanned: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            let len = self.bytes.len() - self.start;
            self.bytes.copy_within(self.start.., 0);
            self.bytes[len..].zeroize();
            self.bytes.truncate(len);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Where the next line ends.
    fn end(&mut self) -> Option<usize> {
        let found = self.bytes[self.scanned..].iter().position(|byte| *byte == b'\n');
        match found {
            Some(at) => {
                self.scanned += at;
                Some(self.scanned)
            }
            None => {
                self.scanned = self.bytes.len();
                None
            }
        }
    }

    fn take<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let end = self.end()?;
        let line = &mut self.bytes[self.start..end];
        let result = read(line);
        line.zeroize();
        self.start = end + 1;
        self.scanned = end + 1;
        Some(result)
    }

    fn pending(&self) -> usize {
        self.bytes.len() - self.start
    }
}

#[derive(Debug)]
struct Client {
    id: ClientId,
    stream: UnixStream,
    lines: Lines,
    unsent: Vec<u8>,
    sent: usize,
    /// Close it once everything is sent.
    closing: bool,
}

impl Client {
    fn unsent(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Sends what it can. An error ends the connection.
    fn flush(&mut self) -> io::Result<()> {
        while self.unsent() > 0 {
            match self.stream.write(&self.unsent[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent.drain(..self.sent);
                    self.sent = 0;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unsent.clear();
        self.sent = 0;
        Ok(())
    }
}

/// The listening socket and its connections.
#[derive(Debug)]
pub(super) struct Clients {
    listener: UnixListener,
    clients: Vec<Client>,
    active: Option<ClientId>,
    next: u64,
    /// After an accept that failed: when to try again. Without it the waiting connection would keep us awake.
    accept_again_at: Option<Instant>,
    buffer: Vec<u8>,
}

impl Clients {
    pub(super) fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let buffer = vec![0; READ_SIZE];
        Ok(Self { listener, clients: Vec::new(), active: None, next: 0, accept_again_at: None, buffer })
    }

    /// Whether a half has said hello and is still there.
    pub(super) fn has_active(&self) -> bool {
        self.active.is_some()
    }

    /// Whether nobody is connected, greeted or not.
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Whether notices should wait for what is being sent.
    pub(super) fn is_busy(&self) -> bool {
        self.active().is_some_and(|client| client.unsent() > BUSY)
    }

    fn active(&self) -> Option<&Client> {
        self.clients.iter().find(|client| Some(client.id) == self.active)
    }

    /// Where new connections come in, unless accepting has just failed.
    pub(super) fn listener(&self, now: Instant) -> Option<BorrowedFd<'_>> {
        self.accept_again_at.is_none_or(|at| at <= now).then(|| self.listener.as_fd())
    }

    /// When to look at the listener again, if it is not being looked at.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.accept_again_at.filter(|at| *at > now)
    }

    /// Each connection, and whether there is something to send on it.
    pub(super) fn streams(&self) -> impl Iterator<Item = (ClientId, BorrowedFd<'_>, bool)> {
        self.clients.iter().map(|client| (client.id, client.stream.as_fd(), client.unsent() > 0))
    }

    /// Whether a whole line waits to be taken.
    pub(super) fn has_lines(&mut self) -> bool {
        self.clients.iter_mut().any(|client| !client.closing && client.lines.end().is_some())
    }

    /// The connections, to ask each for its messages.
    pub(super) fn ids(&self) -> Vec<ClientId> {
        self.clients.iter().map(|client| client.id).collect()
    }

    /// Takes one new connection. Over the limit, the oldest that is not active goes.
    pub(super) fn accept(&mut self) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    log::line(format_args!("a connection cannot be accepted: {error}"));
                    self.accept_again_at = Some(Instant::now() + ACCEPT_PAUSE);
                }
                return;
            }
        };
        self.accept_again_at = None;
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        if self.clients.len() >= MAX_CLIENTS
            && let Some(at) = self.clients.iter().position(|client| Some(client.id) != self.active)
        {
            self.clients.remove(at);
        }
        self.next += 1;
        let (lines, unsent) = (Lines::default(), Vec::new());
        self.clients.push(Client { id: ClientId(self.next), stream, lines, unsent, sent: 0, closing: false });
    }

    /// Reads once, unless a line waits already: who sends faster than we work has to wait.
    pub(super) fn read(&mut self, id: ClientId) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
        if !client.closing && client.lines.end().is_some() {
            return;
        }
        match client.stream.read(&mut self.buffer) {
            // Nothing that it says counts any more; only its end does.
            Ok(count) if count > 0 && client.closing => {}
            Ok(count) if count > 0 => {
                client.lines.push(&self.buffer[..count]);
                self.buffer[..count].zeroize();
                if client.lines.end().is_none() && client.lines.pending() > MAX_LINE {
                    log::line(format_args!("a connection sent more than {MAX_LINE} bytes without a newline"));
                    self.close(id);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            _ => self.close(id),
        }
    }

    /// The next whole message of a connection. A line that is none closes it.
    pub(super) fn take(&mut self, id: ClientId) -> Option<ToRunner> {
        let client = self.clients.iter_mut().find(|client| client.id == id && !client.closing)?;
        let line = client.lines.take(|line| {
            if line.len() < MAX_LINE { protocol::decode(line) } else { Err(LineError::TooLong(line.len())) }
        })?;
        let message =
            line.inspect_err(|error| log::line(format_args!("a connection is closed: {error}"))).ok();
        let greets = matches!(message, Some(ToRunner::Hello { .. }));
        if message.is_none() || (!greets && self.active != Some(id)) {
            self.close(id);
            return None;
        }
        message
    }

    /// Makes a connection the active one and closes the one before.
    pub(super) fn activate(&mut self, id: ClientId) {
        let before = self.active.replace(id);
        if before != Some(id) {
            self.clients.retain(|client| Some(client.id) != before);
        }
    }

    /// Closes the connection once what waits is sent.
    pub(super) fn close_after_sending(&mut self, id: ClientId) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.closing = true;
        }
        self.flush(id);
    }

    /// Closes the connection.
    pub(super) fn close(&mut self, id: ClientId) {
        self.clients.retain(|client| client.id != id);
        if self.active == Some(id) {
            self.active = None;
        }
    }

    /// Sends to the active half, if there is one; what cannot be sent now is sent when it can.
    pub(super) fn tell(&mut self, message: &FromRunner) {
        if let Some(id) = self.active {
            self.send(id, message);
        }
    }

    /// Sends to one connection.
    pub(super) fn send(&mut self, id: ClientId, message: &FromRunner) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
        match protocol::encode(message) {
            Ok(line) => client.unsent.extend_from_slice(&line),
            Err(error) => log::line(format_args!("a message is not sent: {error}")),
        }
        if client.unsent() > MAX_UNSENT {
            log::line(format_args!("a half that does not read is cut off"));
            self.close(id);
        }
    }

    /// Sends what waits on every connection, as far as it goes.
    pub(super) fn flush_all(&mut self) {
        for id in self.ids() {
            self.flush(id);
        }
    }

    fn flush(&mut self, id: ClientId) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
        if client.flush().is_err() || (client.closing && client.unsent() == 0) {
            self.close(id);
        }
    }

    /// Sends what waits to the active half, waiting a bounded time for it.
    pub(super) fn finish(mut self) {
        let active = self.active;
        let Some(client) = self.clients.iter_mut().find(|client| Some(client.id) == active) else { return };
        let unblocked = client.stream.set_nonblocking(false);
        if unblocked.and_then(|()| client.stream.set_write_timeout(Some(LAST_WRITE))).is_ok() {
            let _ = client.stream.write_all(&client.unsent[client.sent..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_the_reads_were() {
        let mut lines = Lines::default();
        let mut taken = Vec::new();
        for chunk in [&b"a"[..], b"b\nc", b"\n\n", b"d"] {
            lines.push(chunk);
            while let Some(line) = lines.take(<[u8]>::to_vec) {
                taken.push(line);
            }
        }
        assert_eq!(taken, [&b"ab"[..], b"c", b""]);
        assert_eq!(lines.pending(), 1);
    }

    #[test]
    fn what_was_taken_is_wiped() {
        let mut lines = Lines::default();
        lines.push(b"secret\nnext");
        assert_eq!(lines.take(|line| line == b"secret"), Some(true));
        assert!(!lines.bytes.windows(6).any(|bytes| bytes == b"secret"));
    }
}
