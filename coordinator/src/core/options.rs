//! How a batch is carried out: limits of time, retries, when to give up. Plain data with its bounds; what follows
//! from it is decided in `machine` and, for what a worker has to do, carried in its offers.
//!
//! The serialized form is what the store keeps: a field that is unset is left out, so that later versions can
//! add more.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::model::FailureReason;

/// The shortest and longest limit of time that a task may have: 1 s to 30 days.
pub const TIME_LIMIT_MS: std::ops::RangeInclusive<u64> = 1_000..=30 * 86_400_000;
/// The longest grace: 10 minutes. A worker that shuts down waits for it.
pub const MAX_GRACE_MS: u64 = 600_000;
/// The longest wait before a retry: 1 day.
pub const MAX_BACKOFF_MS: u64 = 86_400_000;
/// The most attempts that a task may get by itself.
pub const MAX_ATTEMPTS: u32 = 100;
/// The first wait before a retry where none is given: 10 s.
pub const DEFAULT_BACKOFF_MS: u64 = 10_000;
/// The longest wait before a retry where none is given: 10 minutes.
pub const DEFAULT_MAX_BACKOFF_MS: u64 = 600_000;

/// How a batch is carried out. The default: no limits of time, nothing runs again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchOptions {
    /// A task that runs longer is ended and fails with `timed_out`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit_ms: Option<u64>,
    /// A task that has waited longer for its first start fails with `queue_timed_out`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_time_limit_ms: Option<u64>,
    /// Between TERM and KILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_grace_ms: Option<u32>,
    /// When failed attempts are run again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Once so many tasks have failed for good, the rest is given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
    /// What a worker does with the tasks when it is cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_disconnect: Option<OnDisconnect>,
}

/// What a worker does with its tasks when it is cut off from the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// They run on.
    Continue,
    /// It ends them before the coordinator gives them up.
    Stop,
}

/// When a failed attempt is run again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; what could not be started does not count.
    pub max_attempts: u32,
    /// The ends that are retried; never empty.
    pub on: BTreeSet<RetryOn>,
    /// Waits before the second attempt; each later wait is twice the one before.
    pub backoff_ms: u64,
    /// The longest wait.
    pub max_backoff_ms: u64,
}

/// An end that is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// Any exit code but 0.
    ExitCode,
    /// This exit code.
    Code(i32),
    /// A signal that nobody here sent.
    Signal,
    /// It ran longer than it may.
    TimedOut,
    /// Its worker was lost while it ran.
    WorkerCrashed,
}

impl RetryPolicy {
    /// Whether an attempt that ended so is run again, as far as the reason goes.
    pub fn covers(&self, failure: FailureReason, exit_code: Option<i32>) -> bool {
        match failure {
            FailureReason::ExitCode => {
                self.on.contains(&RetryOn::ExitCode)
                    || exit_code.is_some_and(|code| self.on.contains(&RetryOn::Code(code)))
            }
            FailureReason::Signal => self.on.contains(&RetryOn::Signal),
            FailureReason::TimedOut => self.on.contains(&RetryOn::TimedOut),
            FailureReason::WorkerCrashed => self.on.contains(&RetryOn::WorkerCrashed),
            FailureReason::WorkerLaunchFailed
            | FailureReason::OutputFailed
            | FailureReason::OutputRefused
            | FailureReason::SecretUnavailable
            | FailureReason::QueueTimedOut => false,
        }
    }

    /// How long to wait after so many counted attempts, 1 or more.
    pub fn wait_ms(&self, attempts: u32) -> u64 {
        let doublings = attempts.saturating_sub(1).min(62);
        self.backoff_ms.saturating_mul(1 << doublings).min(self.max_backoff_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on: &[RetryOn]) -> RetryPolicy {
        RetryPolicy {
            max_attempts: 3,
            on: on.iter().copied().collect(),
            backoff_ms: 10_000,
            max_backoff_ms: 60_000,
        }
    }

    #[test]
    fn only_a_named_reason_is_retried() {
        let codes = policy(&[RetryOn::Code(75)]);
        assert!(codes.covers(FailureReason::ExitCode, Some(75)));
        assert!(!codes.covers(FailureReason::ExitCode, Some(1)));
        assert!(!codes.covers(FailureReason::Signal, None));
        let any = policy(&[RetryOn::ExitCode, RetryOn::WorkerCrashed]);
        assert!(any.covers(FailureReason::ExitCode, Some(1)));
        assert!(any.covers(FailureReason::WorkerCrashed, None));
        assert!(!any.covers(FailureReason::TimedOut, None));
        assert!(!any.covers(FailureReason::OutputRefused, None));
    }

    #[test]
    fn waits_double_up_to_their_bound() {
        let waits: Vec<_> = [1, 2, 3, 4, 5, u32::MAX].map(|n| policy(&[]).wait_ms(n)).into();
        assert_eq!(waits, [10_000, 20_000, 40_000, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn what_is_unset_is_not_stored() {
        assert_eq!(serde_json::to_string(&BatchOptions::default()).unwrap(), "{}");
        let some = BatchOptions { retry: Some(policy(&[RetryOn::Code(7)])), ..BatchOptions::default() };
        let text = serde_json::to_string(&some).unwrap();
        assert_eq!(serde_json::from_str::<BatchOptions>(&text).unwrap(), some);
    }
}
