//! How many bytes the files have, counted as they change. Pure.

use std::collections::BTreeMap;

/// Bytes of a sealed segment's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) log: u64,
    pub(super) index: u64,
}

/// Bytes of all files.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    sealed: BTreeMap<u32, Size>,
    active: u64,
    total: u64,
}

impl Sizes {
    /// Of all files together.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// The active segment has this length now.
    pub(super) const fn set_active(&mut self, length: u64) {
        self.total = self.total - self.active + length;
        self.active = length;
    }

    /// The files of a sealed segment, new or changed.
    pub(super) fn set(&mut self, number: u32, size: Size) {
        self.remove(number);
        self.total += size.log + size.index;
        self.sealed.insert(number, size);
    }

    /// The files of a sealed segment are gone.
    pub(super) fn remove(&mut self, number: u32) {
        if let Some(Size { log, index }) = self.sealed.remove(&number) {
            self.total -= log + index;
        }
    }

    /// The lengths of the sealed segments, in order.
    pub(super) fn sealed(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.sealed.iter().map(|(number, size)| (*number, size.log))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_follows_every_change() {
        let mut sizes = Sizes::default();
        sizes.set_active(10);
        sizes.set(1, Size { log: 100, index: 20 });
        sizes.set(2, Size { log: 200, index: 0 });
        sizes.set_active(8);
        assert_eq!(sizes.total(), 328);
        sizes.set(1, Size { log: 50, index: 10 });
        sizes.remove(2);
        sizes.remove(3);
        assert_eq!((sizes.total(), sizes.sealed().collect::<Vec<_>>()), (68, vec![(1, 50)]));
    }
}
