//! Both clocks of an event. A gap between two turns that is longer than any wait is a stall (a pause, a slow
//! disk): it does not count, so that no lease runs out in it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::core::event::Now;

/// A longer gap is a stall; ten times the longest wait between turns.
const STALL: Duration = Duration::from_secs(10);

pub(super) struct Clock {
    start: Instant,
    last_turn: Instant,
    stalled: Duration,
}

impl Clock {
    pub(super) fn start() -> Self {
        let now = Instant::now();
        Self { start: now, last_turn: now, stalled: Duration::ZERO }
    }

    /// To be called before every event.
    pub(super) fn turn(&mut self) {
        let now = Instant::now();
        let gap = now - self.last_turn;
        if gap > STALL {
            self.stalled += gap;
            tracing::warn!(gap_ms = gap.as_millis(), "stalled; leases are extended by the gap");
        }
        self.last_turn = now;
    }

    pub(super) fn now(&self) -> Now {
        let mono = self.start.elapsed().saturating_sub(self.stalled);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            mono_ms: u64::try_from(mono.as_millis()).unwrap_or(u64::MAX),
            unix_ms: i64::try_from(unix.as_millis()).unwrap_or(i64::MAX),
        }
    }
}
