//! Words for statuses, failures, times. Pure.

use muster_proto::v1::{FailureReason, SchedulerStatus, Task, TaskStatus, WorkerStatus};
use prost_types::Timestamp;

use crate::sanitize::one_line;

/// The seed's word for a batch's status; empty for none.
pub fn scheduler_word(status: SchedulerStatus) -> &'static str {
    match status {
        SchedulerStatus::Unspecified => "",
        SchedulerStatus::Queued => "queued",
        SchedulerStatus::Running => "running",
        SchedulerStatus::Completed => "completed",
        SchedulerStatus::Cancelled => "cancelled",
        SchedulerStatus::Failed => "failed",
    }
}

/// The seed's word for a task's status; empty for none.
pub fn task_word(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Unspecified => "",
        TaskStatus::Queued => "queued",
        TaskStatus::Running => "running",
        TaskStatus::Completed => "completed",
        TaskStatus::Failed => "failed",
        TaskStatus::Cancelled => "cancelled",
    }
}

/// A failure reason in the seed's way of writing; `None` for none.
pub fn reason_word(reason: FailureReason) -> Option<&'static str> {
    Some(match reason {
        FailureReason::Unspecified => return None,
        FailureReason::ExitCode => "exit_code",
        FailureReason::Signal => "signal",
        FailureReason::TimedOut => "timed_out",
        FailureReason::WorkerLaunchFailed => "worker_launch_failed",
        FailureReason::WorkerCrashed => "worker_crashed",
        FailureReason::OutputFailed => "output_failed",
        FailureReason::OutputRefused => "output_refused",
        FailureReason::SecretUnavailable => "secret_unavailable",
        FailureReason::QueueTimedOut => "queue_timed_out",
    })
}

/// A worker's status.
pub fn worker_word(status: WorkerStatus) -> &'static str {
    match status {
        WorkerStatus::Unspecified => "",
        WorkerStatus::Connected => "connected",
        WorkerStatus::Draining => "draining",
        WorkerStatus::Disconnected => "disconnected",
        WorkerStatus::Lost => "lost",
        WorkerStatus::SetAside => "set aside",
    }
}

/// Why a task failed, for people, on one line.
pub fn describe_failure(task: &Task) -> String {
    let text = match task.failure_reason() {
        FailureReason::Unspecified => "no reason given".to_owned(),
        FailureReason::ExitCode => match task.exit_code {
            Some(code) => format!("exit code {code}"),
            None => "an exit code other than 0".to_owned(),
        },
        FailureReason::Signal => match signal_name(task.signal) {
            Some(name) => format!("ended by signal {} ({name})", task.signal),
            None => format!("ended by signal {}", task.signal),
        },
        FailureReason::TimedOut => "it ran longer than it may".to_owned(),
        FailureReason::WorkerLaunchFailed => "the program could not be started".to_owned(),
        FailureReason::WorkerCrashed => {
            "its worker was lost while it ran; how it ended is not known".to_owned()
        }
        FailureReason::OutputFailed => "its output could not be kept".to_owned(),
        FailureReason::OutputRefused => "the worker does not allow its output path".to_owned(),
        FailureReason::SecretUnavailable => "the key that it needs can no longer be read".to_owned(),
        FailureReason::QueueTimedOut => "it waited longer for its start than it may".to_owned(),
    };
    // What the coordinator says of these has nothing but the number.
    let said = matches!(task.failure_reason(), FailureReason::ExitCode | FailureReason::Signal)
        && task.failure_message.starts_with("the program ");
    if task.failure_message.is_empty() || said {
        text
    } else {
        format!("{text}: {}", one_line(&task.failure_message))
    }
}

/// A signal with its name, and with the exit code that a shell makes of it.
pub fn describe_signal(signal: i32) -> String {
    let shell = SHELL_SIGNAL.saturating_add(signal);
    match signal_name(signal) {
        Some(name) => format!("{signal} ({name}; a shell shows {shell})"),
        None => format!("{signal} (a shell shows {shell})"),
    }
}

/// An exit code, and what a shell means by it: it is the program's own all the same.
pub fn describe_exit_code(code: i32) -> String {
    let name = signal_name(code.saturating_sub(SHELL_SIGNAL));
    match (code, name) {
        (126, _) => "126 (a shell's word for a command that it cannot run)".to_owned(),
        (127, _) => "127 (a shell's word for a command that it cannot find)".to_owned(),
        (_, Some(name)) => format!("{code} (a shell's word for {name})"),
        (_, None) => code.to_string(),
    }
}

/// A shell whose command was killed by a signal exits with this and the signal's number.
const SHELL_SIGNAL: i32 = 128;

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// RFC 3339 in UTC; `None` for a time that no calendar has.
pub fn rfc3339(time: &Timestamp) -> Option<String> {
    jiff::Timestamp::new(time.seconds, time.nanos).ok().map(|time| time.to_string())
}

/// From one time to another, for people; `None` where either is missing or they run backwards.
pub fn duration_between(start: Option<&Timestamp>, end: Option<&Timestamp>) -> Option<String> {
    let milliseconds =
        |time: &Timestamp| i128::from(time.seconds) * 1000 + i128::from(time.nanos / 1_000_000);
    let elapsed = u64::try_from(milliseconds(end?) - milliseconds(start?)).ok()?;
    Some(duration(elapsed))
}

fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..60 => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(0), "0.0 s");
        assert_eq!(duration(4_250), "4.2 s");
        assert_eq!(duration(61_000), "1 min 01 s");
        assert_eq!(duration(7_500_000), "2 h 05 min");
    }

    #[test]
    fn a_clock_that_ran_backwards_gives_no_duration() {
        let (early, late) = (Timestamp { seconds: 1, nanos: 0 }, Timestamp { seconds: 2, nanos: 5 });
        assert_eq!(duration_between(Some(&late), Some(&early)), None);
        assert_eq!(duration_between(Some(&early), Some(&late)).as_deref(), Some("1.0 s"));
    }

    #[test]
    fn times_are_rfc_3339() {
        let time = Timestamp { seconds: 1_700_000_000, nanos: 500_000_000 };
        assert_eq!(rfc3339(&time).as_deref(), Some("2023-11-14T22:13:20.5Z"));
        assert_eq!(rfc3339(&Timestamp { seconds: i64::MAX, nanos: 0 }), None);
    }
}
