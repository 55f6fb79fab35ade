//! One `key: value` of a card.

use crate::core::card::keys::Key;

/// A fact as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Key,
    /// The key as it was written, cleaned.
    pub(super) name: String,
    /// Of the whole text, from 1.
    pub(super) line: usize,
    /// Trimmed, with the lines that go on with it.
    pub(super) value: String,
}
