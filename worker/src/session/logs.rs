//! The log pusher: sends output from the spool on a connection of its own, so that no flood of output delays a
//! heartbeat or a result.
//!
//! What may be sent is written into the [`Ledger`] by the driver, which never waits for the pusher. An attempt
//! has at most [`MAX_IN_FLIGHT`] bytes on the way that are not stored for good; attempts take turns, a chunk each.
//! When the connection breaks, sending goes on from what is stored. The pusher decides nothing else: when output
//! is complete is the coordinator's word.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_proto::{AttemptId, v1};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use v1::worker_service_client::WorkerServiceClient;

use super::backoff::Backoff;
use super::endpoint::dial;
use super::{chain, convert, read_spool};

/// Bytes of one message.
const CHUNK: u64 = 256 * 1024;
/// Bytes of one attempt that are sent and not stored.
const MAX_IN_FLIGHT: u64 = 1024 * 1024;
/// Messages that wait for the connection.
const QUEUE: usize = 4;
/// How long the coordinator may take to answer the call.
const CALL: Duration = Duration::from_secs(10);
/// With bytes in flight and no answer for so long, the connection is made anew.
const STALL: Duration = Duration::from_secs(60);

/// An attempt's output cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) attempt: AttemptId,
    pub(crate) from: u64,
    pub(crate) message: String,
}

/// What output there is to send. One entry for each held attempt whose output is pushed.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Mutex<Entries>,
    changed: Notify,
    /// A session stands again: there is no reason to wait for the next try.
    hurry: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    of: BTreeMap<AttemptId, Entry>,
    /// Those that have something to send now.
    ready: BTreeSet<AttemptId>,
    /// Whose turn was last.
    last: Option<AttemptId>,
}

/// Offsets, bytes: `stored <= sent <= size`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    size: u64,
    sent: u64,
    stored: u64,
}

impl Ledger {
    /// There is output up to `size`. With `from`, everything before it is stored and the rest is to be sent.
    pub(crate) fn push(&self, attempt: AttemptId, from: Option<u64>, size: u64) {
        let mut entries = self.lock();
        let entry = entries.of.entry(attempt).or_default();
        entry.size = size;
        if let Some(from) = from {
            (entry.sent, entry.stored) = (from, from);
        }
        entries.refresh(attempt);
        drop(entries);
        self.changed.notify_one();
    }

    /// The coordinator is there: what waits for the next try need not wait.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Nothing more of it is wanted.
    pub(crate) fn stop(&self, attempt: AttemptId) {
        let mut entries = self.lock();
        entries.of.remove(&attempt);
        entries.ready.remove(&attempt);
    }

    /// From `end` on it cannot be read. What comes before may have to be sent again.
    fn cut(&self, attempt: AttemptId, end: u64) {
        let mut entries = self.lock();
        if let Some(entry) = entries.of.get_mut(&attempt) {
            entry.size = entry.size.min(end);
            entry.sent = entry.sent.min(end);
        }
        entries.refresh(attempt);
    }

    /// The next chunk: attempt, offset, length. It counts as sent.
    fn take(&self) -> Option<(AttemptId, u64, u64)> {
        let mut entries = self.lock();
        let after = entries.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = entries.ready.range((after, Bound::Unbounded)).next().or_else(|| entries.ready.first());
        let attempt = *next?;
        entries.last = Some(attempt);
        let entry = entries.of.get_mut(&attempt)?;
        let (offset, room) = (entry.sent, entry.room());
        let len = room.min(CHUNK);
        entry.sent += len;
        entries.refresh(attempt);
        Some((attempt, offset, len))
    }

    /// The coordinator has stored everything before `stored`.
    fn stored(&self, attempt: AttemptId, stored: u64) {
        let mut entries = self.lock();
        let Some(entry) = entries.of.get_mut(&attempt) else { return };
        let stored = stored.min(entry.size);
        // Less than it said before: it lost the end of what was not stored for good, and wants it again.
        entry.sent = if stored < entry.stored { stored } else { entry.sent.max(stored) };
        entry.stored = stored;
        entries.refresh(attempt);
    }

    /// What was on the way is lost: begin where storing ended.
    fn rewind(&self) {
        let mut entries = self.lock();
        for entry in entries.of.values_mut() {
            entry.sent = entry.stored;
        }
        entries.ready = entries.of.iter().filter(|(_, entry)| entry.room() > 0).map(|(id, _)| *id).collect();
    }

    fn has_ready(&self) -> bool {
        !self.lock().ready.is_empty()
    }

    fn is_in_flight(&self) -> bool {
        self.lock().of.values().any(|entry| entry.sent > entry.stored)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // No code panics while it holds the lock; if some did, offsets would still be offsets.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn refresh(&mut self, attempt: AttemptId) {
        if self.of.get(&attempt).is_some_and(|entry| entry.room() > 0) {
            self.ready.insert(attempt);
        } else {
            self.ready.remove(&attempt);
        }
    }
}

impl Entry {
    /// How many bytes may be sent now.
    fn room(&self) -> u64 {
        let window = MAX_IN_FLIGHT.saturating_sub(self.sent - self.stored);
        self.size.saturating_sub(self.sent).min(window)
    }
}

/// Sends what is in the ledger.
#[derive(Debug)]
pub(crate) struct Pusher {
    pub(crate) url: String,
    pub(crate) instance_id: String,
    pub(crate) work_dir: PathBuf,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) unreadable: mpsc::Sender<Unreadable>,
}

impl Pusher {
    /// Until `stop`. Connects only once there is something to send.
    pub(crate) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = self.push() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn push(&self) {
        let mut backoff = Backoff::default();
        loop {
            while !self.ledger.has_ready() {
                self.ledger.changed.notified().await;
            }
            if let Err(error) = self.push_on_one_connection(&mut backoff).await {
                tracing::warn!(%error, "the connection for output is broken; it is tried again");
            }
            self.ledger.rewind();
            tokio::select! {
                () = tokio::time::sleep(backoff.wait()) => {}
                () = self.ledger.hurry.notified() => backoff.reset(),
            }
        }
    }

    async fn push_on_one_connection(&self, backoff: &mut Backoff) -> Result<(), String> {
        let channel = dial(&self.url).await.map_err(|error| chain(&error))?;
        let mut client = WorkerServiceClient::new(channel);
        let (outgoing, queue) = mpsc::channel(QUEUE);
        // The first message goes ahead of the call: a server may answer only when it has read one.
        let Some(first) = self.next_message().await else { return Ok(()) };
        outgoing.try_send(first).map_err(|error| error.to_string())?;
        let call = tokio::time::timeout(CALL, client.push_logs(ReceiverStream::new(queue))).await;
        let mut answers = match call {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(status.to_string()),
            Err(_) => return Err("the coordinator does not answer".into()),
        };
        let mut heard = Instant::now();
        let mut pending = None;
        loop {
            if !self.ledger.is_in_flight() {
                // Nothing is waited for, so that the wait begins with what is sent next.
                heard = Instant::now();
            }
            if pending.is_none() {
                pending = self.next_message().await;
            }
            tokio::select! {
                permit = outgoing.reserve(), if pending.is_some() => {
                    let permit = permit.map_err(|_| "the coordinator takes no more")?;
                    if let Some(message) = pending.take() {
                        permit.send(message);
                    }
                }
                answer = answers.message() => {
                    let answer = answer.map_err(|status| status.to_string())?;
                    let answer = answer.ok_or("the coordinator ended the call")?;
                    let attempt = convert::attempt(answer.attempt).map_err(|error| error.to_string())?;
                    self.ledger.stored(attempt, answer.stored);
                    heard = Instant::now();
                    backoff.reset();
                }
                () = self.ledger.changed.notified(), if pending.is_none() => {}
                () = tokio::time::sleep_until(heard + STALL) => {
                    if self.ledger.is_in_flight() {
                        return Err("the coordinator stores nothing".into());
                    }
                    heard = Instant::now();
                }
            }
        }
    }

    /// The next message, if there is something to send.
    async fn next_message(&self) -> Option<v1::PushLogsRequest> {
        loop {
            let (attempt, offset, len) = self.ledger.take()?;
            match read_spool(&self.work_dir, attempt, offset, len).await {
                Ok(data) => {
                    let (attempt, instance_id) = (Some(attempt.into()), self.instance_id.clone());
                    return Some(v1::PushLogsRequest { attempt, offset, data, instance_id });
                }
                Err(message) => {
                    self.ledger.cut(attempt, offset);
                    // The driver is there as long as we are.
                    let _ = self.unreadable.send(Unreadable { attempt, from: offset, message }).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::{AttemptNo, BatchId, LifeId, TaskIndex};

    fn id(task: u32) -> AttemptId {
        let batch = BatchId::from_u64(7).unwrap();
        AttemptId { life: LifeId(1), batch, task: TaskIndex(task), attempt: AttemptNo(1) }
    }

    #[test]
    fn attempts_take_turns_and_stay_within_their_window() {
        let ledger = Ledger::default();
        ledger.push(id(1), None, 10 * MAX_IN_FLIGHT);
        ledger.push(id(2), None, 5);
        assert_eq!(ledger.take(), Some((id(1), 0, CHUNK)));
        assert_eq!(ledger.take(), Some((id(2), 0, 5)));
        for turn in 1..MAX_IN_FLIGHT / CHUNK {
            assert_eq!(ledger.take(), Some((id(1), turn * CHUNK, CHUNK)));
        }
        assert_eq!(ledger.take(), None, "the window is full");
        ledger.stored(id(1), 10);
        assert_eq!(ledger.take(), Some((id(1), MAX_IN_FLIGHT, 10)));
    }

    #[test]
    fn what_was_on_the_way_is_sent_again() {
        let ledger = Ledger::default();
        ledger.push(id(1), None, 100);
        assert_eq!(ledger.take(), Some((id(1), 0, 100)));
        ledger.stored(id(1), 40);
        ledger.rewind();
        assert_eq!(ledger.take(), Some((id(1), 40, 60)));
        ledger.stored(id(1), 100);
        assert!(!ledger.is_in_flight());
        ledger.push(id(1), Some(20), 120);
        assert_eq!(ledger.take(), Some((id(1), 20, 100)), "the coordinator's offset wins");
        ledger.stored(id(1), 10);
        assert_eq!(ledger.take(), Some((id(1), 10, 110)), "also when it is told on this connection");
        ledger.stop(id(1));
        ledger.rewind();
        assert_eq!(ledger.take(), None);
    }

    #[test]
    fn what_comes_before_unreadable_output_is_still_sent_again() {
        let ledger = Ledger::default();
        ledger.push(id(1), None, 2 * CHUNK);
        assert_eq!(ledger.take(), Some((id(1), 0, CHUNK)));
        assert_eq!(ledger.take(), Some((id(1), CHUNK, CHUNK)));
        ledger.cut(id(1), CHUNK);
        assert!(ledger.is_in_flight());
        ledger.rewind();
        assert_eq!(ledger.take(), Some((id(1), 0, CHUNK)));
        assert_eq!(ledger.take(), None);
    }
}
