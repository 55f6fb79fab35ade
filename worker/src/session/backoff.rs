//! How long to wait before the next try: doubling, capped, and jittered so that a fleet does not come back in
//! step. Pure: the random number is handed in.

use std::time::Duration;

/// The wait before the second try, at most.
pub(crate) const FIRST: Duration = Duration::from_millis(100);
/// No wait is longer.
pub(crate) const CAP: Duration = Duration::from_secs(30);

/// Counts failed tries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It worked: begin anew.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// It failed: how long to wait, between half and all of the step.
    pub(crate) fn next(&mut self, random: u32) -> Duration {
        let step = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(CAP);
        self.failures = self.failures.saturating_add(1);
        step / 2 + (step / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// As [`Backoff::next`], with a random number of the system's.
    pub(crate) fn wait(&mut self) -> Duration {
        // Without randomness the step is still a good wait.
        self.next(getrandom::u32().unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_begin_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..40).map(|_| backoff.next(u32::MAX)).collect();
        assert_eq!(waits[..4], [100, 200, 400, 800].map(Duration::from_millis));
        assert_eq!(waits[39], CAP);
        backoff.reset();
        assert_eq!(backoff.next(u32::MAX), FIRST);
        backoff.reset();
        assert_eq!(backoff.next(0), FIRST / 2, "the jitter takes away at most half");
    }
}
