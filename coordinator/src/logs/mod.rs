//! Output of tasks: append-only segments that many attempts share, written and synced by a thread of their
//! own, never inside a commit of the store.
//!
//! What is queued is bounded in bytes, and a caller waits while there is no room. A group is written with one
//! sync; then the durable offsets grow, subscribers see it, and `on_stored` is called once for each attempt in
//! the group. A segment is sealed at 64 MiB; a crash can tear the end of the last one only, which is cut at
//! the next start.
//!
//! Every record carries a checksum that is verified at each reading, and for the last segment at the start
//! as well. What is found damaged is never returned and hides nothing else: a reader is told where output
//! goes on (`Error::Damaged`), and the durable offset stays behind the last good record.
//!
//! Memory: about 130 bytes for each attempt that ever had output, 32 more for each sealed segment in which it
//! has some, 16 for each record of the active segment (a record has up to 64 KiB, a trickle fewer); at most
//! 16 MiB in the queue and a group of 4 MiB. A start reads the sealed segments' index files and the last
//! segment. One file is open besides those being read.
//!
//! Every record has the time at which it was written. Times never go back within an attempt's output: a clock that
//! was set back stands still here until it has caught up.
//!
//! What this does not do: limit how much an attempt may store, decide when a task has ended, or which output is removed.

pub mod check;
mod index;
mod read;
mod record;
mod remove;
mod segment;
mod sizes;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    thread::{self, JoinHandle},
    time::SystemTime,
};

use bytes::{Buf, Bytes};
use muster_proto::{AttemptId, BatchId};
use tokio::sync::{Semaphore, mpsc, watch};

use self::{
    index::{Index, Place},
    record::Extent,
    segment::{Active, Opened},
    sizes::{Size, Sizes},
    writer::{Chunk, Writer},
};

/// One reading returns so many bytes at most, whatever is asked for.
pub const MAX_READ: usize = 1 << 20;

/// A [`Piece`] was stored within so many milliseconds.
pub const PIECE_MS: u64 = 1_000;

/// What a chunk takes of the queue besides its bytes, so that tiny ones are bounded too.
const CHUNK_ROOM: usize = 128;
/// So many subscriptions are held before the first look for dead ones.
const SWEEP_AT: usize = 64;

/// Sizes. The defaults are meant for every deployment; tests use smaller ones.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A segment of this length is sealed; at most 1 GiB.
    pub segment_bytes: u64,
    /// Bytes that wait to be written at most.
    pub queue_bytes: usize,
    /// A group is closed once it has so many bytes.
    pub group_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, queue_bytes: 16 << 20, group_bytes: 4 << 20 }
    }
}

impl Options {
    fn clamped(self) -> Self {
        Self {
            segment_bytes: self.segment_bytes.clamp(1, 1 << 30),
            queue_bytes: self.queue_bytes.clamp(2 * CHUNK_ROOM, 1 << 28),
            group_bytes: self.group_bytes.clamp(1, 1 << 28),
        }
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Output before this chunk is missing: send it again from `expected`.
    #[error("output is missing before this chunk; send from offset {expected}")]
    Gap {
        /// Offset up to which output is stored or on its way.
        expected: u64,
    },
    /// These bytes of an attempt's output were stored, and the disk no longer has them. Read on from `to`.
    #[error("the stored output is damaged from byte {from} to byte {to}")]
    Damaged {
        /// The first byte that is lost.
        from: u64,
        /// The first byte that is not.
        to: u64,
    },
    /// The output was removed with its batch.
    #[error("the output is no longer kept; it was removed with its batch")]
    Removed,
    /// The coordinator is stopping.
    #[error("output is no longer taken; the coordinator is stopping")]
    Closed,
    /// Output could not be stored. Nothing further is: stop the coordinator.
    #[error("output could not be stored: {0}")]
    Failed(String),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Written by a newer version.
    #[error("{0} was written by a newer version; use a newer muster-coordinator")]
    Newer(PathBuf),
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Attempts that had output.
    pub attempts: usize,
    /// Bytes by which the files became less; other output may have come meanwhile, and count against it.
    pub bytes: u64,
}

/// A part of a segment that holds no records any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which segment.
    pub segment: PathBuf,
    /// Its first damaged byte.
    pub from: u64,
    /// The first byte after the damage.
    pub to: u64,
}

/// Output that was stored at about the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// What was printed; empty where nothing more is stored.
    pub bytes: Bytes,
    /// When the first of the bytes was stored, in milliseconds since 1970; `None` where it was stored by a version
    /// that kept no times.
    pub time: Option<u64>,
}

/// The output of all attempts. Cheap to clone; dropping the last clone writes what is queued and waits for it.
#[derive(Clone)]
pub struct Logs {
    shared: Arc<Shared>,
    thread: Arc<WriterThread>,
}

impl Logs {
    /// Opens the folder, or makes it. `on_stored` is called by the writing thread after each sync, once for
    /// each attempt in the group, with the offset up to which its output is durable; it may block (which makes
    /// groups bigger), but must not own a clone of this.
    pub fn open(
        dir: &Path,
        options: Options,
        on_stored: impl Fn(AttemptId, u64) + Send + 'static,
    ) -> Result<Self, Error> {
        Self::open_at(dir, options, unix_ms, on_stored)
    }

    /// The same with another clock.
    fn open_at(
        dir: &Path,
        options: Options,
        clock: impl Fn() -> u64 + Send + 'static,
        on_stored: impl Fn(AttemptId, u64) + Send + 'static,
    ) -> Result<Self, Error> {
        let options = options.clamped();
        let Opened { index, sizes, active, damage } = segment::open(dir)?;
        let (sender, queue) = mpsc::unbounded_channel();
        let state = State {
            index,
            subscribers: HashMap::new(),
            sweep_at: SWEEP_AT,
            // Unbounded in number, and bounded by `room`.
            queue: Some(sender),
            active: Arc::new(active.file),
            sizes,
        };
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            options,
            damage,
            room: Semaphore::new(options.queue_bytes),
            failed: watch::Sender::new(None),
            state: Mutex::new(state),
            files: RwLock::new(0),
            removing: Mutex::new(()),
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            queue,
            number: active.number,
            length: active.length,
            on_stored,
            clock,
            latest: active.latest,
            done: false,
        };
        let handle = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(segment::failed(dir))?;
        let thread = WriterThread { shared: Arc::clone(&shared), handle: Mutex::new(Some(handle)) };
        Ok(Self { shared, thread: Arc::new(thread) })
    }

    /// Queues output of an attempt that begins at `offset`; waits while the queue is full. What is stored or
    /// queued already is passed over, so sending again is harmless. It is durable once `stored` has reached its
    /// end. Chunks of one attempt must be handed in one after the other. A call that is dropped has queued a
    /// beginning of the chunk, or nothing.
    pub async fn append(&self, attempt: AttemptId, offset: u64, data: Bytes) -> Result<(), Error> {
        let (mut offset, mut data) = (offset, data);
        loop {
            let piece = data.split_to(data.len().min(self.shared.options.queue_bytes - CHUNK_ROOM));
            let end = offset.saturating_add(piece.len() as u64);
            self.append_piece(attempt, offset, piece).await?;
            if data.is_empty() {
                return Ok(());
            }
            offset = end;
        }
    }

    async fn append_piece(&self, attempt: AttemptId, offset: u64, data: Bytes) -> Result<(), Error> {
        let room = (data.len() + CHUNK_ROOM) as u32;
        let permit = self.shared.room.acquire_many(room).await.map_err(|_| self.shared.why_closed())?;
        let mut data = data;
        let mut state = self.shared.state();
        let expected = state.index.queued(attempt);
        let Some(known) = expected.checked_sub(offset) else { return Err(Error::Gap { expected }) };
        data.advance(usize::try_from(known).map_or(data.len(), |known| known.min(data.len())));
        if data.is_empty() {
            return Ok(());
        }
        let end = expected + data.len() as u64;
        let chunk = Chunk { attempt, offset: expected, data, room };
        if state.queue.as_ref().is_some_and(|queue| queue.send(chunk).is_ok()) {
            state.index.set_queued(attempt, end);
            // Given back by the writer.
            permit.forget();
            return Ok(());
        }
        drop(state);
        Err(self.shared.why_closed())
    }

    /// Offset up to which an attempt's output is durable; 0 when nothing is known of it.
    pub fn stored(&self, attempt: AttemptId) -> u64 {
        self.shared.state().index.stored(attempt)
    }

    /// Follows the durable offset of an attempt, which need not have any output yet. Ends (`changed` fails) when
    /// the logs are closed or have failed.
    pub fn subscribe(&self, attempt: AttemptId) -> watch::Receiver<u64> {
        let state = &mut *self.shared.state();
        let stored = state.index.stored(attempt);
        if state.queue.is_none() {
            return watch::Sender::new(stored).subscribe();
        }
        if state.subscribers.len() >= state.sweep_at {
            state.subscribers.retain(|_, sender| sender.receiver_count() > 0);
            state.sweep_at = SWEEP_AT.max(2 * state.subscribers.len());
        }
        state.subscribers.entry(attempt).or_insert_with(|| watch::Sender::new(stored)).subscribe()
    }

    /// Durable output of an attempt from `offset` on: at most `max` bytes and `MAX_READ`, empty at the end.
    /// What precedes damage is returned first; then the call that begins there says where output goes on.
    pub async fn read(&self, attempt: AttemptId, offset: u64, max: usize) -> Result<Bytes, Error> {
        if max == 0 || self.shared.state().index.find(attempt, offset) == Place::End {
            return Ok(Bytes::new());
        }
        Ok(self.on_disk(move |shared| shared.read(attempt, offset, max.min(MAX_READ), u64::MAX)).await?.bytes)
    }

    /// The same, but only what was stored within [`PIECE_MS`] of its first byte; there may be more then, though this is
    /// shorter than `max`.
    pub async fn read_piece(&self, attempt: AttemptId, offset: u64, max: usize) -> Result<Piece, Error> {
        if max == 0 || self.shared.state().index.find(attempt, offset) == Place::End {
            return Ok(Piece::default());
        }
        self.on_disk(move |shared| shared.read(attempt, offset, max.min(MAX_READ), PIECE_MS)).await
    }

    /// Where the first record begins that was stored at this time (milliseconds since 1970) or later; the end of what
    /// is stored where none was. Records without a time are older than any. Nothing is passed over for damage: what
    /// is damaged counts with what follows it.
    pub async fn since(&self, attempt: AttemptId, time: u64) -> Result<u64, Error> {
        self.on_disk(move |shared| shared.since(attempt, time)).await
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared)).await.map_err(|_| Error::Closed)?
    }

    /// Removes the output of all batches but those to keep: nobody can read it any more, and the disk has room again
    /// (see [`Self::bytes`]) as far as whole segments, or the bigger part of one, are removed output. Doing it again
    /// changes nothing. After a start it must be done again, for a part of what was removed may still be on the disk.
    /// An error leaves everything that is kept readable, or tells which file is to blame. Blocks.
    ///
    /// Nothing may be appended any more to what is removed: that would be kept until the next time.
    pub fn retain(&self, keep: impl Fn(BatchId) -> bool) -> Result<Removed, Error> {
        self.shared.retain(keep)
    }

    /// Removes the output of these batches, like [`Self::retain`]. Blocks.
    pub fn remove(&self, batches: &HashSet<BatchId>) -> Result<Removed, Error> {
        self.retain(|batch| !batches.contains(&batch))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.shared.state().sizes.total()
    }

    /// What was found damaged when the folder was opened.
    pub fn damage(&self) -> &[Damage] {
        &self.shared.damage
    }

    /// Returns once output can no longer be stored, saying why: the coordinator must stop then. Never returns
    /// otherwise.
    pub async fn failed(&self) -> String {
        let mut failed = self.shared.failed.subscribe();
        let why = failed.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        match why {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    /// Takes nothing more, writes and syncs what is queued, and waits for that. Blocks.
    pub fn close(&self) {
        self.thread.join();
    }
}

struct Shared {
    dir: PathBuf,
    options: Options,
    damage: Vec<Damage>,
    /// Bytes that may still be queued.
    room: Semaphore,
    failed: watch::Sender<Option<String>>,
    state: Mutex<State>,
    /// How often files of sealed segments were replaced or deleted; locked while they are, and while they are opened.
    /// Before `state`, where both are locked.
    files: RwLock<u64>,
    /// Held by the one that removes output.
    removing: Mutex<()>,
}

struct State {
    index: Index,
    subscribers: HashMap<AttemptId, watch::Sender<u64>>,
    sweep_at: usize,
    /// `None` once nothing more is taken.
    queue: Option<mpsc::UnboundedSender<Chunk>>,
    active: Arc<File>,
    sizes: Sizes,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn active_file(&self) -> Arc<File> {
        Arc::clone(&self.state().active)
    }

    fn lines(&self) -> Vec<(AttemptId, Extent)> {
        self.state().index.lines()
    }

    /// From now on the segment is read through its index file, and this file is the active one.
    fn seal(&self, (number, size): (u32, Size), lines: &[(AttemptId, Extent)], next: Active) {
        let state = &mut *self.state();
        state.index.seal(number, lines);
        state.active = Arc::new(next.file);
        state.sizes.set(number, size);
        state.sizes.set_active(next.length);
    }

    /// These records are durable, and the active segment has this length. Returns the new offset of each attempt.
    fn publish(&self, records: &[(AttemptId, Extent)], length: u64) -> Vec<(AttemptId, u64)> {
        let state = &mut *self.state();
        state.sizes.set_active(length);
        let mut stored = Vec::new();
        for group in records.chunk_by(|left, right| left.0 == right.0) {
            for &(attempt, extent) in group {
                let offset = state.index.add(attempt, extent);
                match stored.last_mut() {
                    Some((last, end)) if *last == attempt => *end = offset,
                    _ => stored.push((attempt, offset)),
                }
            }
        }
        for &(attempt, offset) in &stored {
            if let Some(sender) = state.subscribers.get(&attempt) {
                if sender.receiver_count() == 0 {
                    state.subscribers.remove(&attempt);
                } else {
                    sender.send_replace(offset);
                }
            }
        }
        stored
    }

    fn fail(&self, why: String) {
        self.failed.send_replace(Some(why));
        self.stop_taking();
        self.state().subscribers.clear();
    }

    fn stop_taking(&self) {
        self.state().queue = None;
        self.room.close();
    }

    fn why_closed(&self) -> Error {
        self.failed.borrow().clone().map_or(Error::Closed, Error::Failed)
    }
}

fn unix_ms() -> u64 {
    // A clock before 1970 has no milliseconds since.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Ends the thread when the last clone is dropped.
struct WriterThread {
    shared: Arc<Shared>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl WriterThread {
    fn join(&self) {
        self.shared.stop_taking();
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle {
            // Its panic has been told as a failure already.
            let _ = handle.join();
        }
        self.shared.state().subscribers.clear();
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.join();
    }
}
