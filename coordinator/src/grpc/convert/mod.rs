//! Between protobuf and the core's types, both ways: the only place that knows both.
//!
//! Pure. What comes in is checked for form here (ranges, oneofs, ids); whether it makes sense is the core's
//! to decide.

pub(crate) mod attach;
pub(crate) mod batch;
pub(crate) mod explain;
pub(crate) mod options;
pub(crate) mod submit;
pub(crate) mod task;
pub(crate) mod worker;

use prost_types::Timestamp;

use crate::core::model::UnixMs;

/// Longest text that is not a payload (a reason, a request id is shorter), in characters.
pub(crate) const MAX_REASON_CHARS: usize = 1_024;
/// Longest request id, in characters.
pub(crate) const MAX_REQUEST_ID_CHARS: usize = 128;
/// Longest API key, in bytes.
pub(crate) const MAX_API_KEY_BYTES: usize = 4_096;

/// What is wrong with a message, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The field's path.
    pub(crate) field: String,
    /// To be read after the field.
    pub(crate) description: String,
}

impl Violation {
    pub(crate) fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

pub(crate) fn timestamp(ms: UnixMs) -> Timestamp {
    // A remainder of 1,000 always fits.
    let nanos = i32::try_from(ms.rem_euclid(1_000)).unwrap_or(0) * 1_000_000;
    Timestamp { seconds: ms.div_euclid(1_000), nanos }
}

/// The millisecond that a time is in; what no number holds is the first or the last.
pub(crate) fn unix_ms(time: Timestamp) -> Result<UnixMs, &'static str> {
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err("is no time; its nanos are to be from 0 to 999999999");
    }
    let ms = time.seconds.saturating_mul(1_000);
    Ok(ms.saturating_add(i64::from(time.nanos / 1_000_000)))
}

/// Counts are shown as int32 so that JSON has numbers; what is beyond shows as the largest.
pub(crate) fn count(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

pub(crate) fn bytes(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_positive_nanoseconds() {
        assert_eq!(timestamp(1_500), Timestamp { seconds: 1, nanos: 500_000_000 });
        assert_eq!(timestamp(-1), Timestamp { seconds: -1, nanos: 999_000_000 });
    }

    #[test]
    fn times_come_back_and_what_is_none_is_refused() {
        for ms in [1_500, -1, 0] {
            assert_eq!(unix_ms(timestamp(ms)), Ok(ms));
        }
        assert_eq!(unix_ms(Timestamp { seconds: i64::MAX, nanos: 0 }), Ok(i64::MAX));
        for nanos in [-1, 1_000_000_000] {
            assert!(unix_ms(Timestamp { seconds: 1, nanos }).is_err());
        }
    }

    #[test]
    fn what_does_not_fit_is_shown_as_the_largest() {
        assert_eq!((count(7), count(u32::MAX)), (7, i32::MAX));
        assert_eq!((bytes(7), bytes(u64::MAX)), (7, i64::MAX));
    }
}
