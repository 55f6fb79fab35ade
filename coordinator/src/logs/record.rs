//! The bytes of a segment: a mark at the start, then checksummed records, each with output of one attempt.
//!
//! Pure: bytes in, bytes out. All numbers are little-endian.
//!
//! ```text
//! mark 4 | crc32 4 | life 8 | batch 8 | task 4 | attempt 4 | offset 8 | length 4 | synced 4 | time 8 | output
//!                    ╰─────────────────────────── under the checksum ─────────────────────────────────────╯
//! ```
//!
//! `time` is when the record was written, in milliseconds since 1970. Version 1 had no times; its records have a mark
//! of their own, so that they are read wherever they stand. A segment that version 1 began and this one goes on
//! with has the mark of this one at its start, so that version 1 leaves it alone.
//!
//! `synced` is where the record's group begins: all before it was synced before the group was written. So what
//! a crash may have torn can be told from what broke later.

use std::ops::Range;

use bytes::Bytes;
use muster_proto::{AttemptId, AttemptNo, BatchId, LifeId, TaskIndex};

/// The first bytes of a segment; the last of them counts the versions.
pub(super) const FILE_MARK: &[u8; 8] = b"MUSTLOG2";
/// The same of version 1.
const FILE_MARK_1: &[u8; 8] = b"MUSTLOG1";
/// Bytes of a record before its output.
pub(super) const HEADER: usize = 56;
/// The same of version 1, which ended before the time.
const HEADER_1: usize = 48;
/// Output in one record at most. A reader takes whole records, so that it can verify them.
pub(super) const MAX_OUTPUT: usize = 64 << 10;

const MARK: &[u8; 4] = b"\xffMLT";
const MARK_1: &[u8; 4] = b"\xffMLR";
/// What all marks begin with.
const MARK_FAMILY: &[u8; 3] = b"\xffML";
/// Where what is under the checksum begins.
const CHECKED: usize = 8;

/// What a record holds, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Offset of its first byte in the attempt's output.
    pub(super) offset: u64,
    /// Where the record starts in its segment.
    pub(super) position: u32,
    /// Bytes of output.
    pub(super) length: u32,
}

impl Extent {
    /// Offset after its last byte.
    pub(super) const fn end(&self) -> u64 {
        self.offset.saturating_add(self.length as u64)
    }

    /// Bytes of the whole record in the segment; one of version 1 has a few less.
    pub(super) const fn most_bytes(&self) -> usize {
        HEADER + self.length as usize
    }
}

/// A record as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'bytes> {
    pub(super) attempt: AttemptId,
    pub(super) offset: u64,
    pub(super) synced: u32,
    /// When it was written, in milliseconds since 1970; `None` in version 1.
    pub(super) time: Option<u64>,
    pub(super) output: &'bytes [u8],
}

impl Record<'_> {
    /// Bytes before the output.
    pub(super) const fn header(&self) -> usize {
        if self.time.is_some() { HEADER } else { HEADER_1 }
    }
}

/// Appends a record with at most `MAX_OUTPUT` bytes, which come in pieces.
pub(super) fn encode(
    into: &mut Vec<u8>,
    attempt: AttemptId,
    offset: u64,
    synced: u32,
    time: u64,
    pieces: &[Bytes],
) {
    let start = into.len();
    let length: usize = pieces.iter().map(Bytes::len).sum();
    into.extend_from_slice(MARK);
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&encode_attempt(attempt));
    into.extend_from_slice(&offset.to_le_bytes());
    into.extend_from_slice(&(length as u32).to_le_bytes());
    into.extend_from_slice(&synced.to_le_bytes());
    into.extend_from_slice(&time.to_le_bytes());
    for piece in pieces {
        into.extend_from_slice(piece);
    }
    let sum = crc32fast::hash(&into[start + CHECKED..]);
    into[start + 4..start + CHECKED].copy_from_slice(&sum.to_le_bytes());
}

/// The whole and undamaged record that the bytes begin with, if they do.
pub(super) fn decode(bytes: &[u8]) -> Option<Record<'_>> {
    let timed = bytes.starts_with(MARK);
    if !timed && !bytes.starts_with(MARK_1) {
        return None;
    }
    let (header, rest) = bytes.split_at_checked(if timed { HEADER } else { HEADER_1 })?;
    let length = usize::try_from(u32_at(header, 40)?).ok().filter(|length| *length <= MAX_OUTPUT)?;
    let output = rest.get(..length)?;
    if crc32fast::hash(bytes.get(CHECKED..header.len() + length)?) != u32_at(header, 4)? {
        return None;
    }
    Some(Record {
        attempt: decode_attempt(header.get(CHECKED..)?)?,
        offset: u64_at(header, 32)?,
        synced: u32_at(header, 44)?,
        time: if timed { Some(u64_at(header, HEADER_1)?) } else { None },
        output,
    })
}

/// Whether these are the first bytes of a segment of a version that is not known here.
pub(super) fn is_newer(segment: &[u8]) -> bool {
    let family = FILE_MARK.len() - 1;
    segment.len() > family
        && segment.starts_with(&FILE_MARK[..family])
        && ![FILE_MARK, FILE_MARK_1].iter().any(|mark| segment.starts_with(*mark))
}

/// An attempt's id in 24 bytes.
pub(super) fn encode_attempt(attempt: AttemptId) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&attempt.life.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&attempt.batch.get().to_le_bytes());
    bytes[16..20].copy_from_slice(&attempt.task.0.to_le_bytes());
    bytes[20..].copy_from_slice(&attempt.attempt.0.to_le_bytes());
    bytes
}

/// The id that the bytes begin with.
pub(super) fn decode_attempt(bytes: &[u8]) -> Option<AttemptId> {
    Some(AttemptId {
        life: LifeId(u64_at(bytes, 0)?),
        batch: BatchId::from_u64(u64_at(bytes, 8)?)?,
        task: TaskIndex(u32_at(bytes, 16)?),
        attempt: AttemptNo(u32_at(bytes, 20)?),
    })
}

pub(super) fn u32_at(bytes: &[u8], place: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(place..)?.first_chunk()?))
}

pub(super) fn u64_at(bytes: &[u8], place: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(place..)?.first_chunk()?))
}

/// What a segment holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Every good record, in order.
    pub(super) records: Vec<(AttemptId, Extent)>,
    /// What lies between good records, or after the last, and is none.
    pub(super) damaged: Vec<Range<usize>>,
    /// Everything before this place was synced, as the records tell.
    pub(super) synced: usize,
    /// The latest time in a record.
    pub(super) latest: u64,
}

impl Scan {
    /// Where the last segment ends that a crash has torn; `None`: it ends with its last record. What a crash left of
    /// the last group can be anything, so whatever follows its first gap was never told to be stored. What is damaged
    /// before it was synced, and broke later.
    pub(super) fn torn_from(&self) -> Option<usize> {
        self.damaged.iter().find(|range| range.start >= self.synced).map(|range| range.start)
    }
}

/// Reads all records of a segment of less than 4 GiB. After damage it goes on at the next good record.
pub(super) fn scan(segment: &[u8]) -> Scan {
    let mut found = Scan::default();
    let marked = segment.starts_with(FILE_MARK) || segment.starts_with(FILE_MARK_1);
    let mut at = if marked { FILE_MARK.len() } else { 0 };
    let mut damaged_from = None;
    while at < segment.len() {
        let Some(record) = decode(&segment[at..]) else {
            damaged_from.get_or_insert(at);
            let next = segment[at + 1..].windows(MARK_FAMILY.len()).position(|window| window == MARK_FAMILY);
            at = next.map_or(segment.len(), |next| at + 1 + next);
            continue;
        };
        if let Some(from) = damaged_from.take() {
            found.damaged.push(from..at);
        }
        found.synced = found.synced.max(record.synced as usize);
        found.latest = found.latest.max(record.time.unwrap_or(0));
        let extent =
            Extent { offset: record.offset, position: at as u32, length: record.output.len() as u32 };
        found.records.push((record.attempt, extent));
        at += record.header() + record.output.len();
    }
    if let Some(from) = damaged_from {
        found.damaged.push(from..segment.len());
    }
    found
}

#[cfg(test)]
pub(super) fn attempt(task: u32) -> AttemptId {
    AttemptId {
        life: LifeId(u64::MAX),
        batch: BatchId::new(1_700_000_000_000, 5),
        task: TaskIndex(task),
        attempt: AttemptNo(1),
    }
}

/// Makes the record at the end of `bytes`, which has this many bytes of output, one of version 1.
#[cfg(test)]
pub(super) fn make_old(bytes: &mut Vec<u8>, length: usize) {
    let start = bytes.len() - length - HEADER;
    bytes.drain(start + HEADER_1..start + HEADER);
    bytes[start..start + 4].copy_from_slice(MARK_1);
    let sum = crc32fast::hash(&bytes[start + CHECKED..]);
    bytes[start + 4..start + CHECKED].copy_from_slice(&sum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> (Vec<u8>, Vec<usize>) {
        let mut segment = FILE_MARK.to_vec();
        let mut starts = Vec::new();
        for (task, text) in [(1, &b"first"[..]), (2, b""), (1, b" last")] {
            starts.push(segment.len());
            let (head, tail) = text.split_at(text.len() / 2);
            let pieces = [Bytes::copy_from_slice(head), Bytes::copy_from_slice(tail)];
            encode(&mut segment, attempt(task), 7, 8 * task, 1_000 * u64::from(task), &pieces);
        }
        (segment, starts)
    }

    #[test]
    fn records_are_read_back() {
        let (segment, starts) = three();
        let first = decode(&segment[starts[0]..]).unwrap();
        let expected =
            Record { attempt: attempt(1), offset: 7, synced: 8, time: Some(1_000), output: b"first" };
        assert_eq!(first, expected);
        let scan = scan(&segment);
        assert_eq!((scan.synced, scan.latest, scan.damaged.len()), (16, 2_000, 0));
        let found: Vec<_> = scan.records.iter().map(|(id, extent)| (*id, extent.position as usize)).collect();
        assert_eq!(found, [(attempt(1), starts[0]), (attempt(2), starts[1]), (attempt(1), starts[2])]);
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed_and_costs_one_record() {
        let (segment, starts) = three();
        for end in starts[2] + 1..segment.len() {
            let scan = scan(&segment[..end]);
            assert_eq!(
                (scan.records.len(), scan.damaged.as_slice()),
                (2, std::slice::from_ref(&(starts[2]..end)))
            );
        }
        for place in starts[0]..starts[1] {
            for bit in 0..8 {
                let mut damaged = segment.clone();
                damaged[place] ^= 1 << bit;
                let scan = scan(&damaged);
                assert_eq!(
                    (scan.records.len(), scan.damaged.as_slice()),
                    (2, std::slice::from_ref(&(starts[0]..starts[1])))
                );
            }
        }
    }

    #[test]
    fn records_of_version_1_are_read_beside_others_and_have_no_time() {
        let mut segment = FILE_MARK_1.to_vec();
        encode(&mut segment, attempt(1), 0, 8, 5, &[Bytes::from_static(b"old")]);
        make_old(&mut segment, 3);
        let border = segment.len();
        encode(&mut segment, attempt(1), 3, 8, 6, &[Bytes::from_static(b"new")]);
        let old = decode(&segment[8..]).unwrap();
        assert_eq!(old, Record { attempt: attempt(1), offset: 0, synced: 8, time: None, output: b"old" });
        assert_eq!(decode(&segment[border..]).unwrap().time, Some(6));
        let scan = scan(&segment);
        assert_eq!((scan.records.len(), scan.damaged.len()), (2, 0));
        assert!(!is_newer(&segment) && !is_newer(b"MUSTLOG") && is_newer(b"MUSTLOG3"));
    }

    #[test]
    fn bytes_that_were_never_a_segment_hold_nothing() {
        for bytes in [&b""[..], b"x", &[0; 100], &[0xff; 100], MARK] {
            assert!(scan(bytes).records.is_empty());
        }
    }
}
