//! Reading stored output: by offset, and where a time begins. Blocks. Changes nothing.

use bytes::{Buf, BytesMut};
use muster_proto::AttemptId;
use std::sync::{Arc, PoisonError};

use super::{
    Error, Piece, Shared,
    index::Place,
    record::Extent,
    segment::{self, Output, Sealed},
};

/// What is stored at an offset.
enum Found {
    /// This record, whole.
    Record(Extent, Output),
    /// Damage, from the offset up to here.
    Damage(u64),
    /// Nothing yet.
    End,
}

impl Shared {
    /// Output from an offset on, at most `max` bytes, of records that are no more than `within_ms` younger than the
    /// first.
    pub(super) fn read(
        &self,
        attempt: AttemptId,
        offset: u64,
        max: usize,
        within_ms: u64,
    ) -> Result<Piece, Error> {
        let mut bytes = BytesMut::new();
        let mut time = None;
        let mut sealed = None;
        while bytes.len() < max {
            let at = offset + bytes.len() as u64;
            let (extent, mut output) = match self.find(attempt, at, &mut sealed) {
                Ok(Found::Record(extent, output)) => (extent, output),
                Ok(Found::End) => break,
                // What precedes it first.
                Ok(Found::Damage(_)) | Err(_) if !bytes.is_empty() => break,
                Ok(Found::Damage(to)) => return Err(Error::Damaged { from: at, to }),
                Err(error) => return Err(error),
            };
            if bytes.is_empty() {
                time = output.time;
            } else if within_ms < u64::MAX && !is_within(time, output.time, within_ms) {
                break;
            }
            output.bytes.advance((at - extent.offset) as usize);
            let take = output.bytes.len().min(max - bytes.len());
            bytes.extend_from_slice(&output.bytes[..take]);
        }
        Ok(Piece { bytes: bytes.freeze(), time })
    }

    /// Where the first record begins that is no older than this: looked for by halving, since times only grow.
    pub(super) fn since(&self, attempt: AttemptId, time: u64) -> Result<u64, Error> {
        let mut sealed = None;
        let (mut low, mut high) = (0, self.state().index.stored(attempt));
        while low < high {
            let middle = low + (high - low) / 2;
            let mut at = middle;
            let found = loop {
                match self.find(attempt, at, &mut sealed)? {
                    Found::Record(extent, output) => break Some((extent, output.time)),
                    Found::Damage(to) if to < high => at = to,
                    Found::Damage(_) | Found::End => break None,
                }
            };
            match found {
                Some((extent, stored)) if stored.is_none_or(|stored| stored < time) => low = extent.end(),
                // Damage before the record is not passed over with what is older.
                Some((extent, _)) => high = extent.offset.clamp(low, middle),
                None => high = middle,
            }
        }
        Ok(low)
    }

    /// The record with the byte at this offset. A segment that was opened is kept in `opened` for the next call.
    fn find(&self, attempt: AttemptId, offset: u64, opened: &mut Option<Sealed>) -> Result<Found, Error> {
        // Files are opened as they are when their place is looked up; what becomes of them then is no matter.
        let changes = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let (place, active) = {
            let state = self.state();
            (state.index.find(attempt, offset), Arc::clone(&state.active))
        };
        let failed = |source| Error::Io { path: self.dir.clone(), source };
        let (extent, output) = match place {
            Place::End => return Ok(Found::End),
            Place::Removed => return Err(Error::Removed),
            Place::Hole(to) => return Ok(Found::Damage(to)),
            Place::Active(extent) => (extent, segment::read_record(&active, attempt, &extent)),
            Place::Sealed(piece) => {
                if opened.as_ref().is_none_or(|sealed| !sealed.is(piece.segment, *changes)) {
                    *opened = Some(Sealed::open(&self.dir, piece.segment, *changes)?);
                }
                drop(changes);
                let Some(sealed) = opened else { return Ok(Found::End) };
                match sealed.find(attempt, &piece, offset).map_err(failed)? {
                    Ok(extent) => (extent, segment::read_record(&sealed.log, attempt, &extent)),
                    Err(to) => return Ok(Found::Damage(to)),
                }
            }
        };
        Ok(match output.map_err(failed)? {
            Some(output) => Found::Record(extent, output),
            None => Found::Damage(extent.end()),
        })
    }
}

fn is_within(first: Option<u64>, next: Option<u64>, within_ms: u64) -> bool {
    match (first, next) {
        (Some(first), Some(next)) => next.saturating_sub(first) <= within_ms,
        (None, None) => true,
        _ => false,
    }
}
