//! Reads the output of one attempt by offset, through restarts of the coordinator, and finds where its last lines
//! begin. Shows nothing itself.

use std::time::Duration;

use muster_proto::v1::{TailLogsRequest, TailLogsResponse, tail_logs_response::Content};
use tonic::{Code, Streaming};

use crate::{
    backoff::Outage,
    client::{Client, may_come_back},
    error::Error,
};

/// A piece of output, in order and without repetition.
#[derive(Debug)]
pub struct Piece {
    /// The attempt that printed it.
    pub attempt: i32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Bytes past the limit that were thrown away; known at the end.
    pub discarded: i64,
}

/// How long the end of a stream may take behind the end of its log.
const STREAM_END_TIME: Duration = Duration::from_secs(1);

/// One output stream.
pub struct Tail {
    client: Client,
    request: TailLogsRequest,
    stream: Option<Streaming<TailLogsResponse>>,
    outage: Outage,
    known: bool,
    over: bool,
}

impl Tail {
    /// Reads what `request` names, as raw bytes.
    pub fn new(client: &Client, request: TailLogsRequest) -> Self {
        Self {
            client: client.clone(),
            request: TailLogsRequest { raw: true, ..request },
            stream: None,
            outage: Outage::default(),
            known: false,
            over: false,
        }
    }

    /// The next piece; `None` at the end of the output (or, without follow, of what there is).
    pub async fn next(&mut self) -> Result<Option<Piece>, Error> {
        while !self.over {
            let failure = match self.receive().await {
                Ok(Some(message)) => {
                    let piece = self.accept(message);
                    if self.over {
                        self.read_out().await;
                    }
                    return Ok(Some(piece));
                }
                Ok(None) if !self.request.follow => {
                    self.over = true;
                    continue;
                }
                Ok(None) => "the stream ended".to_owned(),
                Err(status) if self.known && may_come_back(&status) => self.client.error(&status).to_string(),
                Err(status) => return Err(self.client.error(&status)),
            };
            self.stream = None;
            self.outage.wait(self.client.context(), &failure).await?;
        }
        Ok(None)
    }

    async fn receive(&mut self) -> Result<Option<TailLogsResponse>, tonic::Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = self.client.batches().tail_logs(self.request.clone()).await?.into_inner();
                // It has answered, so it is worth waiting for, also before the first output.
                self.known = true;
                self.outage.over(self.client.context());
                self.stream.insert(stream)
            }
        };
        stream.message().await
    }

    /// Reads the stream's own end behind the end of the log. A stream that is dropped before it is reset, and a
    /// connection that resets thousands of them, as for the logs of a large batch, is taken for an attack.
    async fn read_out(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            // What comes is the end; a coordinator that does not send it is not waited for.
            let _ = tokio::time::timeout(STREAM_END_TIME, stream.message()).await;
        }
    }

    /// Takes over a message: from here on the attempt is fixed and the offset is behind its bytes.
    fn accept(&mut self, message: TailLogsResponse) -> Piece {
        let mut bytes = match message.content {
            Some(Content::Text(text)) => text.into_bytes(),
            Some(Content::Data(data)) => data.into(),
            None => Vec::new(),
        };
        let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        // What was shown already is not shown again.
        let known = self.request.offset.saturating_sub(message.offset).clamp(0, length);
        bytes.drain(..usize::try_from(known).unwrap_or(0));
        self.request.offset = self.request.offset.max(message.offset.saturating_add(length));
        if message.attempt > 0 {
            self.request.attempt = message.attempt;
        }
        self.over = message.end_of_log;
        Piece { attempt: message.attempt, bytes, discarded: message.discarded_bytes }
    }
}

/// What is read at once when last lines are looked for, in bytes.
const WINDOW: i64 = 256 << 10;

/// The offset at which the last `lines` lines of an attempt begin: read backwards in windows, so that neither
/// memory nor, but for the lines themselves, time depends on the length of the log. `size`: the bytes stored, where
/// they are known; looked for otherwise.
pub async fn last_lines(
    client: &Client,
    request: &TailLogsRequest,
    lines: u64,
    size: Option<i64>,
) -> Result<i64, Error> {
    let mut end = match size {
        Some(size) => size,
        None => some_offset_near_the_end(client, request).await?,
    };
    if size.is_none() {
        // What is stored from there on, if it does not grow faster than it is read.
        end += read(client, request, end, end.saturating_add(2 * WINDOW)).await?.len() as i64;
    }
    let mut backwards = Backwards { end, wanted: lines };
    if lines == 0 {
        return Ok(end);
    }
    let mut to = end;
    while to > 0 {
        let from = (to - WINDOW).max(0);
        let bytes = read(client, request, from, to).await?;
        if let Some(start) = backwards.window(from, &bytes) {
            return Ok(start);
        }
        to = from;
    }
    Ok(0)
}

/// Counts line ends from the end of a log on. Pure.
struct Backwards {
    end: i64,
    /// Line ends still to be found.
    wanted: u64,
}

impl Backwards {
    /// Takes the window that ends where the one before began; the offset behind the last line end that was wanted.
    fn window(&mut self, from: i64, bytes: &[u8]) -> Option<i64> {
        for (place, _) in bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let behind = from + place as i64 + 1;
            // The line end at the very end begins no line.
            if behind == self.end {
                continue;
            }
            self.wanted = self.wanted.saturating_sub(1);
            if self.wanted == 0 {
                return Some(behind);
            }
        }
        None
    }
}

/// The bytes from one offset to another, or to the end of what is stored.
async fn read(client: &Client, request: &TailLogsRequest, from: i64, to: i64) -> Result<Vec<u8>, Error> {
    let length = usize::try_from(to - from).unwrap_or(0);
    let mut bytes = Vec::new();
    let mut tail = Tail::new(client, TailLogsRequest { offset: from, follow: false, ..request.clone() });
    while bytes.len() < length {
        let Some(piece) = tail.next().await? else { break };
        bytes.extend_from_slice(&piece.bytes);
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// An offset that is stored, at most a window before the end: the coordinator refuses offsets beyond the end, which
/// finds it in a few dozen calls whatever the size.
async fn some_offset_near_the_end(client: &Client, request: &TailLogsRequest) -> Result<i64, Error> {
    let (mut stored, mut beyond) = (0, WINDOW);
    while is_stored(client, request, beyond).await? {
        stored = beyond;
        beyond = beyond.saturating_mul(2);
        if beyond == i64::MAX {
            return Ok(stored);
        }
    }
    while beyond - stored > WINDOW {
        let middle = stored + (beyond - stored) / 2;
        if is_stored(client, request, middle).await? {
            stored = middle;
        } else {
            beyond = middle;
        }
    }
    Ok(stored)
}

async fn is_stored(client: &Client, request: &TailLogsRequest, offset: i64) -> Result<bool, Error> {
    let request = TailLogsRequest { offset, follow: false, raw: true, ..request.clone() };
    let mut outage = Outage::default();
    loop {
        match client.batches().tail_logs(request.clone()).await {
            Ok(_) => return Ok(true),
            Err(status) if status.code() == Code::OutOfRange => return Ok(false),
            Err(status) if may_come_back(&status) => {
                outage.wait(client.context(), &client.error(&status).to_string()).await?;
            }
            Err(status) => return Err(client.error(&status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the last lines begin, looked for in windows of a size.
    fn start(log: &[u8], lines: u64, window: usize) -> usize {
        let mut backwards = Backwards { end: log.len() as i64, wanted: lines };
        let mut to = log.len();
        while to > 0 {
            let from = to.saturating_sub(window);
            if let Some(start) = backwards.window(from as i64, &log[from..to]) {
                return usize::try_from(start).unwrap();
            }
            to = from;
        }
        0
    }

    #[test]
    fn the_last_lines_are_found_whatever_the_windows() {
        for window in 1..12 {
            assert_eq!(start(b"one\ntwo\nthree\n", 1, window), 8);
            assert_eq!(start(b"one\ntwo\nthree\n", 2, window), 4);
            assert_eq!(start(b"one\ntwo\nthree", 2, window), 4);
            assert_eq!(start(b"one\n\n\n", 2, window), 4);
            assert_eq!(start(b"one\n\n\n", 3, window), 0);
            assert_eq!(start(b"one\ntwo", 9, window), 0);
            assert_eq!(start(b"", 1, window), 0);
        }
    }
}
