//! The thread that writes: takes what waits, writes it as one group, syncs once, and only then tells.

use std::{os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use muster_proto::AttemptId;
use tokio::sync::mpsc;

use super::{
    Error, Shared,
    record::{self, Extent, HEADER, MAX_OUTPUT},
    segment::{self, failed},
    sizes::Size,
};

/// Output that waits to be written.
pub(super) struct Chunk {
    pub(super) attempt: AttemptId,
    pub(super) offset: u64,
    pub(super) data: Bytes,
    /// Room in the queue that it takes.
    pub(super) room: u32,
}

/// What the thread owns.
pub(super) struct Writer<F, C> {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: mpsc::UnboundedReceiver<Chunk>,
    pub(super) number: u32,
    pub(super) length: u64,
    pub(super) on_stored: F,
    /// Milliseconds since 1970.
    pub(super) clock: C,
    /// The time of the last record: times never go back, so that they can be searched.
    pub(super) latest: u64,
    /// Ended as it should.
    pub(super) done: bool,
}

impl<F: Fn(AttemptId, u64), C: Fn() -> u64> Writer<F, C> {
    /// Runs until the queue is closed and empty, or writing fails.
    pub(super) fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            if let Err(error) = self.write(first) {
                tracing::error!(%error, "output cannot be stored");
                self.shared.fail(error.to_string());
                break;
            }
        }
        self.done = true;
    }

    fn write(&mut self, first: Chunk) -> Result<(), Error> {
        let mut group = vec![first];
        let mut bytes = group[0].data.len();
        let mut room = group[0].room as usize;
        while bytes < self.shared.options.group_bytes {
            let Ok(chunk) = self.queue.try_recv() else { break };
            bytes += chunk.data.len();
            room += chunk.room as usize;
            group.push(chunk);
        }
        // Stable: the chunks of an attempt stay in order, and become few records.
        group.sort_by_key(|chunk| chunk.attempt);
        if self.length >= self.shared.options.segment_bytes {
            self.rotate()?;
        }
        self.latest = self.latest.max((self.clock)());
        let (buffer, records) = encode(group, self.length, self.latest);
        let active = self.shared.active_file();
        let written = active.write_all_at(&buffer, self.length).and_then(|()| active.sync_data());
        written.map_err(failed(&segment::log_path(&self.shared.dir, self.number)))?;
        self.length += buffer.len() as u64;
        drop(buffer);
        let stored = self.shared.publish(&records, self.length);
        self.shared.room.add_permits(room);
        for (attempt, offset) in stored {
            (self.on_stored)(attempt, offset);
        }
        Ok(())
    }

    /// Everything in the old segment is synced already.
    fn rotate(&mut self) -> Result<(), Error> {
        let lines = self.shared.lines();
        let index = segment::write_index(&self.shared.dir, self.number, self.length, &lines)?;
        let next = segment::create(&self.shared.dir, self.number + 1)?;
        let sealed = (self.number, Size { log: self.length, index });
        (self.number, self.length) = (next.number, next.length);
        self.shared.seal(sealed, &lines, next);
        Ok(())
    }
}

impl<F, C> Drop for Writer<F, C> {
    fn drop(&mut self) {
        if !self.done {
            self.shared.fail("the thread that writes output has died".to_owned());
        }
    }
}

/// The records of a group that is sorted by attempt, to be written at this place and time.
fn encode(group: Vec<Chunk>, length: u64, time: u64) -> (Vec<u8>, Vec<(AttemptId, Extent)>) {
    let bytes: usize = group.iter().map(|chunk| chunk.data.len()).sum();
    let mut buffer = Vec::with_capacity(bytes + (group.len() + bytes / MAX_OUTPUT) * HEADER);
    let mut records = Vec::new();
    let mut open: Option<Open> = None;
    for Chunk { attempt, mut offset, mut data, .. } in group {
        while !data.is_empty() {
            let fits =
                |open: &Open| open.attempt == attempt && open.end() == offset && open.length < MAX_OUTPUT;
            if let Some(full) = open.take_if(|open| !fits(open)) {
                full.finish(&mut buffer, length, time, &mut records);
            }
            let record = open.get_or_insert_with(|| Open { attempt, offset, pieces: Vec::new(), length: 0 });
            let piece = data.split_to(data.len().min(MAX_OUTPUT - record.length));
            offset += piece.len() as u64;
            record.length += piece.len();
            record.pieces.push(piece);
        }
    }
    if let Some(last) = open {
        last.finish(&mut buffer, length, time, &mut records);
    }
    (buffer, records)
}

/// A record that is being put together.
struct Open {
    attempt: AttemptId,
    offset: u64,
    pieces: Vec<Bytes>,
    length: usize,
}

impl Open {
    const fn end(&self) -> u64 {
        self.offset + self.length as u64
    }

    fn finish(self, buffer: &mut Vec<u8>, base: u64, time: u64, records: &mut Vec<(AttemptId, Extent)>) {
        let position = base + buffer.len() as u64;
        let extent = Extent { offset: self.offset, position: position as u32, length: self.length as u32 };
        record::encode(buffer, self.attempt, self.offset, base as u32, time, &self.pieces);
        records.push((self.attempt, extent));
    }
}
