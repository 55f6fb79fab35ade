//! Removing output of batches that are no more: from memory at once, from the disk by segments.
//!
//! A sealed segment that holds nothing else is deleted. One that is removed output for more than a half is written
//! anew without it, so that the files never have much more than twice the bytes that are kept, beside the segment
//! that is written to, which waits until it is sealed. Nothing says on the disk what was removed: a start is told
//! again which batches there are.
//!
//! A crash leaves the old file, the new one, or a new one beside an index file that does not fit it and is made again;
//! what was being written is thrown away at the start. Does not decide what is removed.

use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
};

use muster_proto::BatchId;

use super::{Error, Removed, Shared, segment};

/// What becomes of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Deleted,
    Rewritten,
}

impl Shared {
    pub(super) fn retain(&self, keep: impl Fn(BatchId) -> bool) -> Result<Removed, Error> {
        let _alone = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked without the lock, since it may take its time.
        let mut gone = self.state().index.batches();
        gone.retain(|batch| !keep(*batch));
        let (attempts, before, fates) = {
            let state = &mut *self.state();
            let attempts = state.index.remove(&gone);
            state.subscribers.retain(|attempt, _| !gone.contains(&attempt.batch));
            let live = state.index.live_bytes();
            let fates: Vec<_> =
                state.sizes.sealed().filter_map(|(number, length)| fate(number, length, &live)).collect();
            (attempts, state.sizes.total(), fates)
        };
        for &(number, fate) in &fates {
            match fate {
                Fate::Deleted => self.delete(number)?,
                Fate::Rewritten => self.rewrite(number)?,
            }
        }
        if !fates.is_empty() {
            segment::sync_dir(&self.dir)?;
        }
        let removed = Removed { attempts, bytes: before.saturating_sub(self.state().sizes.total()) };
        if attempts > 0 || removed.bytes > 0 {
            tracing::info!(batches = gone.len(), attempts, bytes = removed.bytes, "removed stored output");
        }
        Ok(removed)
    }

    fn delete(&self, number: u32) -> Result<(), Error> {
        let mut changes = self.files.write().unwrap_or_else(PoisonError::into_inner);
        *changes += 1;
        segment::delete(&self.dir, number)?;
        self.state().sizes.remove(number);
        Ok(())
    }

    fn rewrite(&self, number: u32) -> Result<(), Error> {
        let kept: HashSet<_> = self.state().index.attempts_in(number);
        let mut lines = segment::lines(&self.dir, number)?;
        lines.retain(|(attempt, _)| kept.contains(attempt));
        // Whole before anything is renamed, so that nobody waits for it.
        let Some(copy) = segment::copy(&self.dir, number, lines)? else {
            tracing::warn!(
                segment = number,
                "not written anew without removed output, since what is kept is damaged"
            );
            return Ok(());
        };
        let mut changes = self.files.write().unwrap_or_else(PoisonError::into_inner);
        *changes += 1;
        copy.replace(&self.dir)?;
        let state = &mut *self.state();
        state.index.replace(number, &copy.lines);
        state.sizes.set(number, copy.size);
        Ok(())
    }
}

/// `None`: it stays as it is.
fn fate(number: u32, length: u64, live: &HashMap<u32, u64>) -> Option<(u32, Fate)> {
    match live.get(&number) {
        None => Some((number, Fate::Deleted)),
        Some(live) if live.saturating_mul(2) < length => Some((number, Fate::Rewritten)),
        Some(_) => None,
    }
}
