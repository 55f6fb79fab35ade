//! When a task is to be ended without anybody asking: at its time limit, or when the worker was cut off from the
//! coordinator for too long; and why it was ended. Pure: the time is handed in, and nothing is signalled here.

use std::time::{Duration, Instant};

use super::protocol::{MIN_CUT_OFF_MS, Start, StopCause};

/// What a start says of how long its task may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    started: Instant,
    time_limit: Option<Duration>,
    cut_off: Option<Duration>,
    grace: Duration,
    /// Why it was told to end, once it was.
    cause: Option<StopCause>,
}

impl Limits {
    pub(super) fn new(start: &Start, now: Instant) -> Self {
        Self {
            started: now,
            time_limit: start.time_limit_ms.map(Duration::from_millis),
            cut_off: start.stop_after_cut_off_ms.map(|ms| Duration::from_millis(ms.max(MIN_CUT_OFF_MS))),
            grace: Duration::from_millis(start.grace_ms.into()),
            cause: None,
        }
    }

    /// When the next one is reached, given when a half was last in session. None once it was told to end.
    pub(super) fn deadline(&self, in_session_at: Instant) -> Option<Instant> {
        let time_limit = self.time_limit_at();
        time_limit.into_iter().chain(self.cut_off_at(in_session_at)).filter(|_| self.cause.is_none()).min()
    }

    /// The one that is reached, and from TERM to KILL. `heard_until`: whatever a half had said by then is known, so
    /// that its silence until then is one; none where something of it waits to be read.
    pub(super) fn reached(
        &self,
        now: Instant,
        in_session_at: Instant,
        heard_until: Option<Instant>,
    ) -> Option<(StopCause, Duration)> {
        let is_past = |at: Option<Instant>, now: Instant| at.is_some_and(|at| at <= now);
        let cause = if self.cause.is_some() {
            return None;
        } else if is_past(self.time_limit_at(), now) {
            StopCause::TimeLimit
        } else if heard_until.is_some_and(|heard| is_past(self.cut_off_at(in_session_at), heard)) {
            StopCause::CutOff
        } else {
            return None;
        };
        Some((cause, self.grace))
    }

    /// It was told to end; the first cause stands.
    pub(super) fn stopped(&mut self, cause: StopCause) {
        self.cause.get_or_insert(cause);
    }

    /// Why it was told to end.
    pub(super) fn cause(&self) -> Option<StopCause> {
        self.cause
    }

    fn time_limit_at(&self) -> Option<Instant> {
        // What a clock cannot count to is never reached.
        self.started.checked_add(self.time_limit?)
    }

    fn cut_off_at(&self, in_session_at: Instant) -> Option<Instant> {
        // What was started was started in a session.
        in_session_at.max(self.started).checked_add(self.cut_off?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::protocol::{AttemptKey, Env, Raw};

    fn start(time_limit_ms: Option<u64>, stop_after_cut_off_ms: Option<u64>) -> Start {
        Start {
            attempt: AttemptKey { life: 1, batch: 2, task: 3, attempt: 4 },
            program: Raw::default(),
            args: Vec::new(),
            env: Env::default(),
            cwd: Raw::default(),
            output_limit: 0,
            time_limit_ms,
            grace_ms: 500,
            stop_after_cut_off_ms,
        }
    }

    const GRACE: Duration = Duration::from_millis(500);

    #[test]
    fn a_task_may_run_for_as_long_as_its_limit_says() {
        let t0 = Instant::now();
        let after = |seconds| t0 + Duration::from_secs(seconds);
        let mut limits = Limits::new(&start(Some(60_000), None), t0);
        assert_eq!(limits.deadline(t0), Some(after(60)));
        assert_eq!(limits.reached(after(59), t0, Some(after(59))), None);
        assert_eq!(limits.reached(after(60), after(60), None), Some((StopCause::TimeLimit, GRACE)));
        limits.stopped(StopCause::TimeLimit);
        limits.stopped(StopCause::Requested);
        assert_eq!((limits.deadline(t0), limits.reached(after(99), t0, Some(after(99)))), (None, None));
        assert_eq!(limits.cause(), Some(StopCause::TimeLimit), "the first one stands");
    }

    #[test]
    fn silence_counts_from_the_last_word_or_from_the_start() {
        let t0 = Instant::now();
        let after = |seconds| t0 + Duration::from_secs(seconds);
        let limits = Limits::new(&start(None, Some(30_000)), after(100));
        assert_eq!(limits.deadline(t0), Some(after(130)));
        assert_eq!(limits.deadline(after(110)), Some(after(140)));
        assert_eq!(limits.reached(after(139), after(110), Some(after(139))), None);
        assert_eq!(limits.reached(after(140), after(110), None), None, "there is something to be read");
        assert_eq!(
            limits.reached(after(999), after(110), Some(after(139))),
            None,
            "who was held up heard nothing"
        );
        assert_eq!(
            limits.reached(after(140), after(110), Some(after(140))),
            Some((StopCause::CutOff, GRACE))
        );
    }

    #[test]
    fn no_limit_is_none_and_a_tiny_one_is_not_taken_literally() {
        let t0 = Instant::now();
        assert_eq!(Limits::new(&start(None, None), t0).deadline(t0), None);
        let century = Duration::from_secs(100 * 365 * 86_400);
        let endless = Limits::new(&start(Some(u64::MAX), Some(u64::MAX)), t0);
        assert_eq!(endless.reached(t0 + century, t0, Some(t0 + century)), None);
        let tiny = Limits::new(&start(None, Some(0)), t0);
        assert_eq!(tiny.deadline(t0), Some(t0 + Duration::from_millis(MIN_CUT_OFF_MS)));
    }
}
