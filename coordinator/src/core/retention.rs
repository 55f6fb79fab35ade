//! Which ended batches are removed: whole ones, those that ended first before the others.
//!
//! Unfinished batches are never looked at. Removing is not done here.

use muster_proto::BatchId;

use super::model::UnixMs;

/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// What of ended batches is kept. Nothing is removed for a bound that is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Batches that ended in so many days.
    pub days: Option<u32>,
    /// So many batches, those that ended last.
    pub batches: Option<u64>,
    /// So many bytes of them, about: output, and the rows.
    pub bytes: Option<u64>,
}

impl Retention {
    /// Everything is kept.
    pub const fn keeps_all(&self) -> bool {
        self.days.is_none() && self.batches.is_none() && self.bytes.is_none()
    }

    /// The bounds in words, for people who look for a batch that is gone.
    pub fn in_words(&self) -> String {
        let days = self.days.map(|days| format!("{days} days"));
        let batches = self.batches.map(|batches| format!("{batches} batches"));
        let bytes = self.bytes.map(|bytes| format!("{bytes} bytes"));
        days.into_iter().chain(batches).chain(bytes).collect::<Vec<_>>().join(", ")
    }
}

/// An ended batch as this module looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub id: BatchId,
    /// When it ended.
    pub end_ms: UnixMs,
    /// Bytes of its output and rows, about.
    pub bytes: u64,
}

/// The batches to be removed, oldest end first.
pub fn surplus(retention: &Retention, now_ms: UnixMs, ended: &[Ended]) -> Vec<BatchId> {
    let mut oldest_first = ended.to_vec();
    oldest_first.sort_by_key(|batch| (batch.end_ms, batch.id));
    let oldest = retention.days.map(|days| now_ms.saturating_sub(i64::from(days).saturating_mul(DAY_MS)));
    let mut count = u64::try_from(ended.len()).unwrap_or(u64::MAX);
    let mut bytes = ended.iter().fold(0_u64, |sum, batch| sum.saturating_add(batch.bytes));
    let mut surplus = Vec::new();
    for batch in oldest_first {
        let too_old = oldest.is_some_and(|oldest| batch.end_ms < oldest);
        let too_many = retention.batches.is_some_and(|most| count > most);
        let too_large = retention.bytes.is_some_and(|most| bytes > most);
        if !(too_old || too_many || too_large) {
            break;
        }
        count -= 1;
        bytes = bytes.saturating_sub(batch.bytes);
        surplus.push(batch.id);
    }
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(id: u64, end_ms: UnixMs, bytes: u64) -> Ended {
        Ended { id: BatchId::new(id, 0), end_ms, bytes }
    }

    #[test]
    fn nothing_goes_without_a_bound() {
        let all = [ended(1, 0, u64::MAX), ended(2, 0, u64::MAX)];
        assert!(surplus(&Retention::default(), i64::MAX, &all).is_empty());
        assert!(Retention::default().keeps_all());
    }

    #[test]
    fn what_ended_first_goes_first_until_every_bound_is_kept() {
        let id = |n| BatchId::new(n, 0);
        // The younger batch ended before the older one.
        let all = [ended(1, 30 * DAY_MS, 10), ended(2, 10 * DAY_MS, 10), ended(3, 39 * DAY_MS, 10)];
        let now = 40 * DAY_MS;
        let with = |days, batches, bytes| surplus(&Retention { days, batches, bytes }, now, &all);
        assert_eq!(with(Some(20), None, None), [id(2)]);
        assert_eq!(with(Some(5), None, None), [id(2), id(1)]);
        assert_eq!(
            with(Some(10), None, None),
            [id(2)],
            "a batch that ended ten days ago is kept for all of ten"
        );
        assert_eq!(with(None, Some(1), None), [id(2), id(1)]);
        assert_eq!(with(None, Some(0), None).len(), 3);
        assert_eq!(with(None, None, Some(29)), [id(2)]);
        assert_eq!(with(None, None, Some(30)), []);
        assert_eq!(with(Some(20), Some(3), Some(15)), [id(2), id(1)]);
    }

    #[test]
    fn a_clock_that_was_set_wrong_removes_nothing_before_its_time() {
        let all = [ended(1, 50 * DAY_MS, 10)];
        let retention = Retention { days: Some(1), ..Retention::default() };
        assert!(surplus(&retention, 40 * DAY_MS, &all).is_empty());
        assert!(surplus(&retention, i64::MIN, &all).is_empty());
    }
}
