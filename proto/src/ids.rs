//! Ids as types: what names a batch, a task, an attempt and a life of the store.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::v1;

/// Crockford's base 32, lower case: no i, l, o, u.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 13 characters of 5 bits hold 64 bits.
const TEXT_LEN: usize = 13;

/// Names a batch: milliseconds since 1970 (44 bits), then 19 random bits, so that ids sort by age and fit a
/// positive signed 64-bit integer. Written as 13 characters of Crockford's base 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BatchId(u64);

impl BatchId {
    /// Bits below the time.
    pub const RANDOM_BITS: u32 = 19;

    /// From a time in Unix milliseconds and any random number.
    pub fn new(unix_ms: u64, random: u64) -> Self {
        let time = unix_ms & ((1 << 44) - 1);
        Self(time << Self::RANDOM_BITS | random & ((1 << Self::RANDOM_BITS) - 1))
    }

    /// As a number, for a store's key or a message between machines.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// From a number; `None` beyond 63 bits.
    pub const fn from_u64(value: u64) -> Option<Self> {
        if value >> 63 == 0 { Some(Self(value)) } else { None }
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_base32(f, self.0)
    }
}

impl fmt::Debug for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BatchId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        read_base32(text).and_then(Self::from_u64).ok_or(ParseIdError { what: "batch id" })
    }
}

/// Names one life of a store: made with it, and anew when a backup is restored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LifeId(pub u64);

impl fmt::Display for LifeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_base32(f, self.0)
    }
}

impl fmt::Debug for LifeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LifeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        read_base32(text).map(Self).ok_or(ParseIdError { what: "life id" })
    }
}

/// A task of a batch, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskIndex(pub u32);

impl fmt::Display for TaskIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An attempt of a task, counted from 1; 0 stands for "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptNo(pub u32);

impl fmt::Display for AttemptNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one attempt of a task for ever: the unit of running. Goes on every message about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The life of the store under which it was numbered.
    pub life: LifeId,
    /// Its batch.
    pub batch: BatchId,
    /// Its task.
    pub task: TaskIndex,
    /// Its number.
    pub attempt: AttemptNo,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.batch, self.task, self.attempt)
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<AttemptId> for v1::Attempt {
    fn from(id: AttemptId) -> Self {
        Self { life: id.life.0, batch: id.batch.0, task: id.task.0, attempt: id.attempt.0 }
    }
}

impl TryFrom<v1::Attempt> for AttemptId {
    type Error = ParseIdError;

    fn try_from(wire: v1::Attempt) -> Result<Self, ParseIdError> {
        let batch = BatchId::from_u64(wire.batch).ok_or(ParseIdError { what: "attempt" })?;
        if wire.task == 0 || wire.attempt == 0 {
            return Err(ParseIdError { what: "attempt" });
        }
        Ok(Self {
            life: LifeId(wire.life),
            batch,
            task: TaskIndex(wire.task),
            attempt: AttemptNo(wire.attempt),
        })
    }
}

/// A text or message that names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a {what}")]
pub struct ParseIdError {
    what: &'static str,
}

fn write_base32(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let mut text = String::with_capacity(TEXT_LEN);
    for place in (0..TEXT_LEN as u32).rev() {
        let digit = (u128::from(value) >> (5 * place)) & 31;
        text.push(char::from(ALPHABET[digit as usize]));
    }
    f.pad(&text)
}

fn read_base32(text: &str) -> Option<u64> {
    if text.len() != TEXT_LEN {
        return None;
    }
    let mut value: u128 = 0;
    for byte in text.bytes() {
        let digit = ALPHABET.iter().position(|&letter| letter == byte.to_ascii_lowercase())?;
        value = value << 5 | digit as u128;
    }
    u64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_a_round_trip_and_sort_by_age() {
        let old = BatchId::new(1_700_000_000_000, u64::MAX);
        let new = BatchId::new(1_700_000_000_001, 0);
        assert!(old < new && old.to_string() < new.to_string());
        assert_eq!(old.to_string().parse(), Ok(old));
        assert_eq!(BatchId::from_u64(old.get()), Some(old));
        assert_eq!(LifeId(u64::MAX).to_string().parse(), Ok(LifeId(u64::MAX)));
    }

    #[test]
    fn texts_that_name_nothing_are_refused() {
        for text in ["", "x", "000000000000u", "zzzzzzzzzzzzz", "00000000000000", "é00000000000"] {
            assert!(text.parse::<BatchId>().is_err(), "{text}");
        }
    }
}
