//! How a batch is carried out: limits of time, retries, when to give up. Plain data with its bounds; what follows
//! from it is decided in `machine` and, for what a worker has to do, carried in its offers.
//!
//! The serialized form is what the store keeps: a field that is unset is left out, so that later versions can
//! add more. `given` holds what was asked for to its bounds.

mod given;

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::TaskIndex;

use serde::{Deserialize, Serialize};

use super::model::FailureReason;
pub use given::{GivenOptions, GivenRetry, read_time};
pub(super) use given::{spell, time_limit};

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
    /// What single tasks have of their own, so that it need not be read from their parameters. Each task in one
    /// entry at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<OwnOptions>,
}

/// What some tasks have of their own; it stands in place of the batch's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnOptions {
    /// Those tasks: first and last of each run, in order.
    pub tasks: Vec<(u32, u32)>,
    /// Their limit of time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit_ms: Option<u64>,
    /// Their retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
}

impl BatchOptions {
    /// The same, with everything that is unset taken from `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            time_limit_ms: self.time_limit_ms.or(others.time_limit_ms),
            queue_time_limit_ms: self.queue_time_limit_ms.or(others.queue_time_limit_ms),
            cancel_grace_ms: self.cancel_grace_ms.or(others.cancel_grace_ms),
            retry: self.retry.or(others.retry),
            max_failures: self.max_failures.or(others.max_failures),
            on_disconnect: self.on_disconnect.or(others.on_disconnect),
            own: if self.own.is_empty() { others.own } else { self.own },
        }
    }

    /// Between TERM and KILL.
    pub fn grace_ms(&self) -> u32 {
        self.cancel_grace_ms.unwrap_or(super::DEFAULT_GRACE_MS)
    }

    /// Nothing was asked for that is about the whole batch.
    pub fn is_plain(&self) -> bool {
        Self { own: Vec::new(), ..self.clone() } == Self::default()
    }
}

/// Gathers what the tasks of a batch have of their own, task 1 first.
pub fn own_options<'a>(
    tasks: impl Iterator<Item = (Option<u64>, Option<&'a RetryPolicy>)>,
) -> Vec<OwnOptions> {
    let mut places = BTreeMap::new();
    let mut found: Vec<OwnOptions> = Vec::new();
    for (task, own) in (1..).zip(tasks) {
        if own == (None, None) {
            continue;
        }
        let place = *places.entry(own).or_insert_with(|| {
            let (time_limit_ms, retry) = (own.0, own.1.cloned());
            found.push(OwnOptions { tasks: Vec::new(), time_limit_ms, retry });
            found.len() - 1
        });
        let Some(group) = found.get_mut(place) else { continue };
        match group.tasks.last_mut() {
            Some((_, last)) if *last + 1 == task => *last = task,
            _ => group.tasks.push((task, task)),
        }
    }
    found
}

/// Where a task's own options are among [`BatchOptions::own`]: 12 bytes for each run of tasks that have some.
#[derive(Debug, Default)]
pub(super) struct OwnIndex(Vec<(u32, u32, u32)>);

impl OwnIndex {
    pub(super) fn of(options: &BatchOptions) -> Self {
        let runs = (0..)
            .zip(&options.own)
            .flat_map(|(place, own)| own.tasks.iter().map(move |(first, last)| (*first, *last, place)));
        let mut runs: Vec<_> = runs.collect();
        runs.sort_unstable();
        Self(runs)
    }

    fn get<'a>(&self, options: &'a BatchOptions, task: TaskIndex) -> Option<&'a OwnOptions> {
        let after = self.0.partition_point(|(first, ..)| *first <= task.0);
        let (_, last, place) = self.0.get(after.checked_sub(1)?)?;
        if *last < task.0 { None } else { options.own.get(*place as usize) }
    }

    /// How long a task may run.
    pub(super) fn time_limit_ms(&self, options: &BatchOptions, task: TaskIndex) -> Option<u64> {
        let own = self.get(options, task).and_then(|own| own.time_limit_ms);
        own.or(options.time_limit_ms)
    }

    /// When a task's failed attempts are run again.
    pub(super) fn retry<'a>(&self, options: &'a BatchOptions, task: TaskIndex) -> Option<&'a RetryPolicy> {
        let own = self.get(options, task).and_then(|own| own.retry.as_ref());
        own.or(options.retry.as_ref())
    }
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; what could not be started does not count.
    pub max_attempts: u32,
    /// The ends that are retried; not empty where there is more than one attempt.
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
    fn a_task_finds_its_own_options_and_else_its_batchs() {
        let (often, never) = (policy(&[RetryOn::Signal]), RetryPolicy { max_attempts: 1, ..policy(&[]) });
        let tasks = [
            (Some(5_000), None),
            (Some(5_000), None),
            (None, None),
            (None, Some(&never)),
            (Some(5_000), None),
            (Some(7_000), Some(&never)),
        ];
        let options = BatchOptions {
            time_limit_ms: Some(60_000),
            retry: Some(often.clone()),
            own: own_options(tasks.into_iter()),
            ..BatchOptions::default()
        };
        assert_eq!(options.own.len(), 3);
        assert_eq!(options.own[0].tasks, [(1, 2), (5, 5)]);
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<BatchOptions>(&text).unwrap(), options);
        let index = OwnIndex::of(&options);
        for (place, (time_limit_ms, retry)) in (1..).zip(tasks).chain([(7, (None, None))]) {
            let task = TaskIndex(place);
            assert_eq!(index.time_limit_ms(&options, task), time_limit_ms.or(Some(60_000)), "{place}");
            assert_eq!(index.retry(&options, task), Some(retry.unwrap_or(&often)), "{place}");
        }
        let plain = BatchOptions { own: options.own.clone(), ..BatchOptions::default() };
        assert!(plain.is_plain() && !options.is_plain());
    }

    #[test]
    fn what_a_request_says_wins_field_by_field() {
        let request = BatchOptions { time_limit_ms: Some(1_000), ..BatchOptions::default() };
        let payload =
            BatchOptions { time_limit_ms: Some(2_000), max_failures: Some(3), ..BatchOptions::default() };
        let both = request.or(payload);
        assert_eq!((both.time_limit_ms, both.max_failures), (Some(1_000), Some(3)));
    }

    #[test]
    fn what_is_unset_is_not_stored() {
        assert_eq!(serde_json::to_string(&BatchOptions::default()).unwrap(), "{}");
        let some = BatchOptions { retry: Some(policy(&[RetryOn::Code(7)])), ..BatchOptions::default() };
        let text = serde_json::to_string(&some).unwrap();
        assert_eq!(serde_json::from_str::<BatchOptions>(&text).unwrap(), some);
    }
}
