//! How a batch is to be carried out as it was asked for, held to its bounds.
//!
//! Knows the two forms that a value can have, text and number, and nothing of JSON or protobuf. What the options
//! lead to is decided elsewhere.

use super::{
    BatchOptions, DEFAULT_BACKOFF_MS, DEFAULT_MAX_BACKOFF_MS, MAX_ATTEMPTS, MAX_BACKOFF_MS, MAX_GRACE_MS,
    OnDisconnect, RetryOn, RetryPolicy, TIME_LIMIT_MS,
};
use crate::core::payload::Violations;

/// Digits that a time may have on one side of its point; more is beyond every bound.
const MAX_DIGITS: usize = 15;
/// Exit codes that a program can have and that are failures.
const EXIT_CODES: std::ops::RangeInclusive<i32> = 1..=255;
/// Entries that `on` may have: every code and every word.
const MAX_REASONS: usize = 300;

/// The options of a batch; `None` is not given. Times are milliseconds, of any size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenOptions {
    /// How long a task may run.
    pub time_limit: Option<i128>,
    /// How long a task may wait for its first start.
    pub queue_time_limit: Option<i128>,
    /// Between TERM and KILL.
    pub cancel_grace: Option<i128>,
    /// When failed attempts are run again.
    pub retry: Option<GivenRetry>,
    /// So many failures end the batch.
    pub max_failures: Option<i64>,
    /// What a worker does that is cut off.
    pub on_disconnect: Option<OnDisconnect>,
}

/// A retry policy; `None` is not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenRetry {
    /// Attempts in all.
    pub max_attempts: Option<i64>,
    /// The ends that are retried, as words or numbers.
    pub on: Vec<String>,
    /// Before the second attempt.
    pub backoff: Option<i128>,
    /// The longest wait.
    pub max_backoff: Option<i128>,
}

impl GivenOptions {
    /// Holds everything to its bounds; `at` stands before the field's name (`options.`). What is wrong is reported
    /// and left out.
    pub(in crate::core) fn check(self, at: &str, violations: &mut Violations) -> BatchOptions {
        let field = |name: &str| format!("{at}{name}");
        let max_failures = self.max_failures.and_then(|given| {
            let count = u32::try_from(given).ok().filter(|count| (1..=MAX_COUNT).contains(count));
            if count.is_none() {
                violations.add(
                    field("max_failures"),
                    format!("is {given}; give 1 or more, or leave it out for no such limit"),
                );
            }
            count
        });
        BatchOptions {
            time_limit_ms: self
                .time_limit
                .and_then(|given| time_limit(given, &field("time_limit"), violations)),
            queue_time_limit_ms: self
                .queue_time_limit
                .and_then(|given| time_limit(given, &field("queue_time_limit"), violations)),
            cancel_grace_ms: self.cancel_grace.and_then(|given| {
                let ms = within(given, 0..=MAX_GRACE_MS, &field("cancel_grace"), violations)?;
                u32::try_from(ms).ok()
            }),
            retry: self.retry.and_then(|retry| retry.check(&field("retry"), violations)),
            max_failures,
            on_disconnect: self.on_disconnect,
            own: Vec::new(),
        }
    }
}

/// Counts are int32 on the wire.
const MAX_COUNT: u32 = i32::MAX.unsigned_abs();

impl GivenRetry {
    /// Holds a policy to its bounds. `None`: something was wrong, and reported.
    pub(in crate::core) fn check(self, at: &str, violations: &mut Violations) -> Option<RetryPolicy> {
        let most = i64::from(MAX_ATTEMPTS);
        let max_attempts = match self.max_attempts {
            Some(given) if (1..=most).contains(&given) => u32::try_from(given).ok(),
            Some(given) => {
                violations.add(
                    format!("{at}.max_attempts"),
                    format!("is {given}; give 1 to {most}, the first attempt included"),
                );
                None
            }
            None => {
                violations.add(
                    format!("{at}.max_attempts"),
                    format!("is missing; give 1 to {most}, the first attempt included"),
                );
                None
            }
        };
        if self.on.len() > MAX_REASONS {
            violations.add(
                format!("{at}.on"),
                format!("has {} entries; at most {MAX_REASONS} are taken", self.on.len()),
            );
            return None;
        }
        if self.on.is_empty() && max_attempts.is_some_and(|attempts| attempts > 1) {
            let way_out = "is empty; name each end that is to run again (each run may cost money): exit_code, an \
                           exit code, signal, timed_out or worker_crashed";
            violations.add(format!("{at}.on"), way_out);
            return None;
        }
        let mut on = std::collections::BTreeSet::new();
        let mut complete = true;
        for (place, given) in (1_usize..).zip(&self.on) {
            match reason(given) {
                Some(reason) => drop(on.insert(reason)),
                None => {
                    complete = false;
                    let shown: String = given.chars().take(40).collect();
                    violations.add(
                        format!("{at}.on[{place}]"),
                        format!(
                            "is {shown:?}; give exit_code, an exit code from 1 to 255, signal, timed_out or \
                             worker_crashed"
                        ),
                    );
                }
            }
        }
        let mut wait = |given: Option<i128>, name: &str, default: u64| match given {
            Some(given) => within(given, 0..=MAX_BACKOFF_MS, &format!("{at}.{name}"), violations),
            None => Some(default),
        };
        let backoff_ms = wait(self.backoff, "backoff", DEFAULT_BACKOFF_MS);
        // A longer first wait is wanted as it is.
        let longest = DEFAULT_MAX_BACKOFF_MS.max(backoff_ms.unwrap_or_default());
        let max_backoff_ms = wait(self.max_backoff, "max_backoff", longest);
        let policy = RetryPolicy {
            max_attempts: max_attempts?,
            on,
            backoff_ms: backoff_ms?,
            max_backoff_ms: max_backoff_ms?,
        };
        complete.then_some(policy)
    }
}

/// A limit of time within its bounds.
pub(in crate::core) fn time_limit(given: i128, field: &str, violations: &mut Violations) -> Option<u64> {
    within(given, TIME_LIMIT_MS, field, violations)
}

fn within(
    given: i128,
    bounds: std::ops::RangeInclusive<u64>,
    field: &str,
    violations: &mut Violations,
) -> Option<u64> {
    let ms = u64::try_from(given).ok().filter(|ms| bounds.contains(ms));
    if ms.is_none() {
        let least = if *bounds.start() == 0 { "0 s".to_owned() } else { spell(*bounds.start()) };
        let shown = u64::try_from(given).map_or_else(|_| format!("{} s", given / 1_000), spell);
        violations.add(field, format!("is {shown}; give {least} to {}", spell(*bounds.end())));
    }
    ms
}

fn reason(text: &str) -> Option<RetryOn> {
    Some(match text {
        "exit_code" => RetryOn::ExitCode,
        "signal" => RetryOn::Signal,
        "timed_out" => RetryOn::TimedOut,
        "worker_crashed" => RetryOn::WorkerCrashed,
        code => RetryOn::Code(code.parse().ok().filter(|code| EXIT_CODES.contains(code))?),
    })
}

/// Reads a time: `90s`, `1.5s`, `500ms`, `5m`, `2h`, `1d`, or a plain number of seconds. Milliseconds; what is finer
/// is cut off. `None`: it is no time.
pub fn read_time(text: &str) -> Option<i128> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit_ms: i128 = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || fraction.contains('.') {
        return None;
    }
    // What is too long is a time all the same, and beyond every bound.
    let whole: i128 = if whole.len() > MAX_DIGITS { i128::from(u64::MAX) } else { whole.parse().ok()? };
    let fraction = fraction.get(..fraction.len().min(MAX_DIGITS))?;
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    Some(whole * unit_ms + part * unit_ms / scale)
}

/// A time for people: in the largest unit that shows it whole.
pub(in crate::core) fn spell(ms: u64) -> String {
    let plural = |number: u64, unit: &str| format!("{number} {unit}{}", if number == 1 { "" } else { "s" });
    match ms {
        0 => "0 s".to_owned(),
        ms if ms % 86_400_000 == 0 => plural(ms / 86_400_000, "day"),
        ms if ms % 3_600_000 == 0 => plural(ms / 3_600_000, "hour"),
        ms if ms % 60_000 == 0 => plural(ms / 60_000, "minute"),
        ms if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        ms => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(given: GivenOptions) -> Vec<String> {
        let mut violations = Violations::default();
        given.check("options.", &mut violations);
        let wrong = violations.into_result(()).err().unwrap_or_default();
        wrong.into_iter().map(|violation| violation.to_string()).collect()
    }

    fn retry(max_attempts: i64, on: &[&str]) -> GivenRetry {
        GivenRetry {
            max_attempts: Some(max_attempts),
            on: on.iter().map(|on| (*on).to_owned()).collect(),
            ..GivenRetry::default()
        }
    }

    #[test]
    fn times_are_read_in_every_unit() {
        for (text, ms) in [
            ("90s", Some(90_000)),
            ("1.5s", Some(1_500)),
            ("0.0015s", Some(1)),
            ("500ms", Some(500)),
            ("5m", Some(300_000)),
            ("2h", Some(7_200_000)),
            ("1.5h", Some(5_400_000)),
            ("1d", Some(86_400_000)),
            (" 30 ", Some(30_000)),
            ("0", Some(0)),
            ("999999999999999999999s", Some(i128::from(u64::MAX) * 1_000)),
            ("", None),
            ("s", None),
            ("-5s", None),
            ("5 s", None),
            ("1.s", None),
            ("1.2.3s", None),
            ("1e3", None),
            ("5min", None),
            ("５s", None),
        ] {
            assert_eq!(read_time(text), ms, "{text:?}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_names_its_field_and_the_bounds() {
        for (given, said) in [
            (
                GivenOptions { time_limit: Some(999), ..Default::default() },
                "options.time_limit is 999 ms; give 1 s to 30 days",
            ),
            (
                GivenOptions { queue_time_limit: Some(-5_000), ..Default::default() },
                "options.queue_time_limit is -5 s; give 1 s to 30 days",
            ),
            (
                GivenOptions { cancel_grace: Some(660_000), ..Default::default() },
                "options.cancel_grace is 11 minutes; give 0 s to 10 minutes",
            ),
            (
                GivenOptions { max_failures: Some(0), ..Default::default() },
                "options.max_failures is 0; give 1 or more, or leave it out for no such limit",
            ),
        ] {
            assert_eq!(wrong(given), [said]);
        }
        let backoff = GivenRetry { backoff: Some(86_400_001), ..retry(2, &["signal"]) };
        for (given, said) in [
            (retry(0, &["signal"]), "options.retry.max_attempts is 0; give 1 to 100"),
            (retry(101, &["signal"]), "options.retry.max_attempts is 101; give 1 to 100"),
            (GivenRetry::default(), "options.retry.max_attempts is missing"),
            (retry(2, &[]), "options.retry.on is empty"),
            (retry(2, &["75", "sigterm"]), "options.retry.on[2] is \"sigterm\""),
            (retry(2, &["0"]), "options.retry.on[1] is \"0\""),
            (retry(2, &["256"]), "options.retry.on[1] is \"256\""),
            (backoff, "options.retry.backoff is 86400001 ms; give 0 s to 1 day"),
        ] {
            let said_of = wrong(GivenOptions { retry: Some(given), ..Default::default() });
            assert_eq!(said_of.len(), 1, "{said_of:?}");
            assert!(said_of[0].starts_with(said), "{said_of:?}");
        }
    }

    #[test]
    fn a_policy_has_its_defaults() {
        let mut violations = Violations::default();
        let policy = retry(3, &["75", "signal", "75"]).check("retry", &mut violations).unwrap();
        assert_eq!((policy.backoff_ms, policy.max_backoff_ms), (10_000, 600_000));
        assert_eq!(policy.on.len(), 2);
        let slow = GivenRetry { backoff: Some(3_600_000), ..retry(2, &["signal"]) };
        let policy = slow.check("retry", &mut violations).unwrap();
        assert_eq!((policy.backoff_ms, policy.max_backoff_ms), (3_600_000, 3_600_000));
        // One attempt: nothing to name. A task takes itself out of its batch's retries so.
        assert!(retry(1, &[]).check("retry", &mut violations).is_some());
        assert!(violations.into_result(()).is_ok());
    }
}
