//! Where the output of each attempt lies. Pure: knows segments by number, opens none.
//!
//! Of a sealed segment it holds one piece (32 bytes) for each attempt that has output there, which names the
//! attempt's lines in the segment's index file; of the active one each record (16 bytes).

use std::collections::{HashMap, HashSet};

use muster_proto::{AttemptId, BatchId};

use super::record::{Extent, HEADER};

/// An attempt's part of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Offset of its first byte there.
    pub(super) start: u64,
    /// Offset after its last byte there.
    pub(super) end: u64,
    /// The segment.
    pub(super) segment: u32,
    /// Its first line in the segment's index file.
    pub(super) first: u32,
    /// How many lines follow each other there, by offset.
    pub(super) count: u32,
}

/// Where to find a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In this record of the active segment.
    Active(Extent),
    /// In this part of a sealed segment, if it has no hole there.
    Sealed(Piece),
    /// Nowhere: damaged. What there is goes on here.
    Hole(u64),
    /// Not stored yet.
    End,
    /// Nothing is known of the attempt, though its output is read in the middle: it was removed.
    Removed,
}

#[derive(Default)]
struct Log {
    /// Offset up to which output is stored or on its way.
    queued: u64,
    /// Offset up to which it is stored.
    stored: u64,
    sealed: Vec<Piece>,
}

/// Where everything lies.
#[derive(Default)]
pub(super) struct Index {
    logs: HashMap<AttemptId, Log>,
    active: HashMap<AttemptId, Vec<Extent>>,
}

impl Index {
    /// Offset up to which output is stored.
    pub(super) fn stored(&self, attempt: AttemptId) -> u64 {
        self.logs.get(&attempt).map_or(0, |log| log.stored)
    }

    /// Offset up to which output is stored or on its way.
    pub(super) fn queued(&self, attempt: AttemptId) -> u64 {
        self.logs.get(&attempt).map_or(0, |log| log.queued)
    }

    /// Output up to this offset is on its way.
    pub(super) fn set_queued(&mut self, attempt: AttemptId, end: u64) {
        self.logs.entry(attempt).or_default().queued = end;
    }

    /// A record of the active segment is stored. Returns the offset up to which output is stored now.
    pub(super) fn add(&mut self, attempt: AttemptId, extent: Extent) -> u64 {
        self.active.entry(attempt).or_default().push(extent);
        self.reach(attempt, extent.end())
    }

    /// A part of a sealed segment; segments come in order.
    pub(super) fn add_sealed(&mut self, attempt: AttemptId, piece: Piece) {
        self.logs.entry(attempt).or_default().sealed.push(piece);
        self.reach(attempt, piece.end);
    }

    fn reach(&mut self, attempt: AttemptId, end: u64) -> u64 {
        let log = self.logs.entry(attempt).or_default();
        log.stored = log.stored.max(end);
        log.queued = log.queued.max(log.stored);
        log.stored
    }

    /// The lines of the active segment's index file.
    pub(super) fn lines(&self) -> Vec<(AttemptId, Extent)> {
        let mut lines: Vec<_> = self
            .active
            .iter()
            .flat_map(|(attempt, extents)| extents.iter().map(|extent| (*attempt, *extent)))
            .collect();
        sort(&mut lines);
        lines
    }

    /// The active segment is sealed with these lines; another one begins.
    pub(super) fn seal(&mut self, segment: u32, lines: &[(AttemptId, Extent)]) {
        let active = std::mem::take(&mut self.active);
        // What was removed since the lines were taken stays so.
        for (attempt, piece) in pieces(segment, lines).filter(|(attempt, _)| active.contains_key(attempt)) {
            self.add_sealed(attempt, piece);
        }
    }

    /// The batches that have output.
    pub(super) fn batches(&self) -> HashSet<BatchId> {
        self.logs.keys().map(|attempt| attempt.batch).collect()
    }

    /// Forgets the output of these batches. Returns how many attempts had any.
    pub(super) fn remove(&mut self, batches: &HashSet<BatchId>) -> usize {
        let before = self.logs.len();
        self.logs.retain(|attempt, _| !batches.contains(&attempt.batch));
        self.logs.shrink_to_fit();
        self.active.retain(|attempt, _| !batches.contains(&attempt.batch));
        self.active.shrink_to_fit();
        before - self.logs.len()
    }

    /// Bytes of records in each sealed segment that has any: rather too many, where records are damaged or old.
    pub(super) fn live_bytes(&self) -> HashMap<u32, u64> {
        let mut live = HashMap::new();
        for piece in self.logs.values().flat_map(|log| &log.sealed) {
            let bytes = (piece.end - piece.start) + u64::from(piece.count) * HEADER as u64;
            *live.entry(piece.segment).or_default() += bytes;
        }
        live
    }

    /// The attempts with output in a sealed segment.
    pub(super) fn attempts_in(&self, segment: u32) -> HashSet<AttemptId> {
        let is_there = |log: &Log| log.sealed.iter().any(|piece| piece.segment == segment);
        self.logs.iter().filter(|(_, log)| is_there(log)).map(|(attempt, _)| *attempt).collect()
    }

    /// A sealed segment has these lines now.
    pub(super) fn replace(&mut self, segment: u32, lines: &[(AttemptId, Extent)]) {
        for (attempt, piece) in pieces(segment, lines) {
            let sealed = self.logs.get_mut(&attempt).map(|log| log.sealed.iter_mut());
            if let Some(place) = sealed.into_iter().flatten().find(|piece| piece.segment == segment) {
                *place = piece;
            }
        }
    }

    /// Where the byte at this offset lies.
    pub(super) fn find(&self, attempt: AttemptId, offset: u64) -> Place {
        let Some(log) = self.logs.get(&attempt) else {
            return if offset == 0 { Place::End } else { Place::Removed };
        };
        if offset >= log.stored {
            return Place::End;
        }
        let after = log.sealed.partition_point(|piece| piece.start <= offset);
        if let Some(piece) = log.sealed[..after].last().filter(|piece| offset < piece.end) {
            return Place::Sealed(*piece);
        }
        if let Some(piece) = log.sealed.get(after) {
            return Place::Hole(piece.start);
        }
        let extents = self.active.get(&attempt).map_or(&[][..], Vec::as_slice);
        let after = extents.partition_point(|extent| extent.offset <= offset);
        if let Some(extent) = extents[..after].last().filter(|extent| offset < extent.end()) {
            return Place::Active(*extent);
        }
        extents.get(after).map_or(Place::End, |extent| Place::Hole(extent.offset))
    }
}

/// Puts lines in the order of an index file.
pub(super) fn sort(lines: &mut [(AttemptId, Extent)]) {
    lines.sort_unstable_by_key(|(attempt, extent)| (*attempt, extent.offset, extent.position));
}

/// The pieces that sorted lines make up.
pub(super) fn pieces(
    segment: u32,
    lines: &[(AttemptId, Extent)],
) -> impl Iterator<Item = (AttemptId, Piece)> + '_ {
    let mut first = 0;
    lines.chunk_by(|left, right| left.0 == right.0).filter_map(move |chunk| {
        let count = chunk.len() as u32;
        let (attempt, start) = chunk.first().map(|(attempt, extent)| (*attempt, extent.offset))?;
        let end = chunk.iter().map(|(_, extent)| extent.end()).max()?;
        let piece = Piece { start, end, segment, first, count };
        first += count;
        Some((attempt, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::{super::record::attempt, *};

    fn extent(offset: u64, length: u32) -> Extent {
        Extent { offset, position: 8 + offset as u32, length }
    }

    #[test]
    fn bytes_are_found_over_segments_and_holes_are_named() {
        let mut index = Index::default();
        index.add(attempt(1), extent(0, 10));
        index.add(attempt(2), extent(0, 5));
        index.add(attempt(1), extent(10, 10));
        let lines = index.lines();
        index.seal(1, &lines);
        index.add(attempt(1), extent(30, 5));
        let piece = Piece { start: 0, end: 20, segment: 1, first: 0, count: 2 };
        assert_eq!(index.find(attempt(1), 0), Place::Sealed(piece));
        assert_eq!(index.find(attempt(1), 19), Place::Sealed(piece));
        assert_eq!(index.find(attempt(1), 20), Place::Hole(30));
        assert_eq!(index.find(attempt(1), 34), Place::Active(extent(30, 5)));
        assert_eq!(index.find(attempt(1), 35), Place::End);
        assert_eq!(index.find(attempt(2), 5), Place::End);
        assert_eq!((index.find(attempt(3), 0), index.find(attempt(3), 1)), (Place::End, Place::Removed));
        assert_eq!((index.stored(attempt(1)), index.queued(attempt(1))), (35, 35));
        assert_eq!((index.stored(attempt(2)), index.stored(attempt(3))), (5, 0));
    }

    #[test]
    fn removed_output_stays_removed_though_its_segment_is_just_being_sealed() {
        let other = BatchId::new(1, 1);
        let of_other = AttemptId { batch: other, ..attempt(2) };
        let mut index = Index::default();
        index.add(attempt(1), extent(0, 10));
        index.add(of_other, extent(0, 5));
        let lines = index.lines();
        assert_eq!(index.batches().len(), 2);
        assert_eq!(index.remove(&HashSet::from([other])), 1);
        index.seal(1, &lines);
        assert_eq!((index.stored(of_other), index.find(of_other, 1)), (0, Place::Removed));
        assert_eq!(index.live_bytes(), HashMap::from([(1, 10 + HEADER as u64)]));
        // Its lines in the index file, which came first, are passed over.
        let piece = Piece { start: 0, end: 10, segment: 1, first: 1, count: 1 };
        assert_eq!(index.find(attempt(1), 0), Place::Sealed(piece));
        assert_eq!(index.attempts_in(1), HashSet::from([attempt(1)]));
        index.replace(1, &lines[1..]);
        assert_eq!(index.find(attempt(1), 0), Place::Sealed(Piece { first: 0, ..piece }));
    }
}
