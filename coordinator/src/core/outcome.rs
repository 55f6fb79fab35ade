//! The one table from how an attempt ended to what becomes of its task.

use super::{
    event::{Ended, Outcome, StopCause},
    model::{FailureReason, TaskStatus},
    options::spell,
};

/// What becomes of a task whose attempt has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The task has ended.
    Ends {
        /// Completed, failed or cancelled.
        status: TaskStatus,
        /// Set where it failed.
        failure: Option<FailureReason>,
        /// More on that, in words.
        message: String,
    },
    /// The machine could not start the program: the task goes to another one, uncounted.
    Elsewhere(
        /// The system's words.
        String,
    ),
}

/// Decides. A cancellation wins only where it did something: if the program had ended before it was told to,
/// its own outcome stands, and so does a time-out that came first.
///
/// What a worker ended for a reason of its own fails whatever the exit code was: nobody knows what is left of its
/// work. `time_limit_ms` is the task's, for the words.
pub(super) fn decide(ended: &Ended, cancel_requested: bool, time_limit_ms: Option<u64>) -> Verdict {
    let ran = matches!(ended.outcome, Outcome::Exited(_) | Outcome::Signalled(_));
    let cause = ended.stop_cause.filter(|_| ran && ended.stop_sent);
    if cancel_requested && (ended.stop_sent || !ran) && cause != Some(StopCause::TimeLimit) {
        return Verdict::Ends { status: TaskStatus::Cancelled, failure: None, message: String::new() };
    }
    let own_reason = match cause {
        Some(StopCause::TimeLimit) => {
            let limit = time_limit_ms
                .map_or_else(|| "its time limit".to_owned(), |ms| format!("its time limit of {}", spell(ms)));
            Some((FailureReason::TimedOut, format!("it ran longer than {limit} and was ended")))
        }
        Some(StopCause::CutOff) => {
            let message = "its worker was cut off from the coordinator and ended it (on_disconnect: stop)";
            Some((FailureReason::WorkerCrashed, message.to_owned()))
        }
        Some(StopCause::WorkerStopped) => {
            Some((FailureReason::WorkerCrashed, "its worker was told to end its tasks".to_owned()))
        }
        Some(StopCause::Requested) | None => None,
    };
    if let Some((failure, message)) = own_reason {
        return Verdict::Ends { status: TaskStatus::Failed, failure: Some(failure), message };
    }
    let (failure, message) = match &ended.outcome {
        Outcome::LaunchFailed { task_fault: false, message } => return Verdict::Elsewhere(message.clone()),
        Outcome::LaunchFailed { task_fault: true, message } => {
            (FailureReason::WorkerLaunchFailed, message.clone())
        }
        Outcome::Crashed(message) => (FailureReason::WorkerCrashed, message.clone()),
        Outcome::OutputRefused(message) => (FailureReason::OutputRefused, message.clone()),
        Outcome::Exited(_) | Outcome::Signalled(_) if ended.output_failed.is_some() => {
            (FailureReason::OutputFailed, ended.output_failed.clone().unwrap_or_default())
        }
        Outcome::Exited(0) => {
            return Verdict::Ends { status: TaskStatus::Completed, failure: None, message: String::new() };
        }
        Outcome::Exited(code) => (FailureReason::ExitCode, format!("the program exited with code {code}")),
        Outcome::Signalled(signal) => {
            (FailureReason::Signal, format!("the program was ended by signal {signal}"))
        }
    };
    Verdict::Ends { status: TaskStatus::Failed, failure: Some(failure), message }
}

/// Exit code and signal, where the program ran.
pub(super) const fn code_and_signal(outcome: &Outcome) -> (Option<i32>, Option<i32>) {
    match outcome {
        Outcome::Exited(code) => (Some(*code), None),
        Outcome::Signalled(signal) => (None, Some(*signal)),
        Outcome::LaunchFailed { .. } | Outcome::Crashed(_) | Outcome::OutputRefused(_) => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(outcome: Outcome, stop_sent: bool) -> Ended {
        Ended {
            outcome,
            stop_sent,
            stop_cause: None,
            log_size: 0,
            log_discarded: 0,
            output_failed: None,
            output_path: String::new(),
            pid: 0,
        }
    }

    fn status(outcome: Outcome, stop_sent: bool, cancel: bool) -> (TaskStatus, Option<FailureReason>) {
        match decide(&ended(outcome, stop_sent), cancel, None) {
            Verdict::Ends { status, failure, .. } => (status, failure),
            Verdict::Elsewhere(_) => (TaskStatus::Queued, None),
        }
    }

    #[test]
    fn every_row_of_the_table() {
        use FailureReason as F;
        use Outcome as O;
        use TaskStatus as T;
        let machine = || O::LaunchFailed { task_fault: false, message: "no".into() };
        let task = || O::LaunchFailed { task_fault: true, message: "no".into() };
        for (outcome, stop_sent, cancel, expected) in [
            (O::Exited(0), false, false, (T::Completed, None)),
            (O::Exited(0), true, false, (T::Completed, None)),
            // It had ended before TERM was sent: a paid picture is not thrown away.
            (O::Exited(0), false, true, (T::Completed, None)),
            (O::Exited(0), true, true, (T::Cancelled, None)),
            (O::Exited(3), false, false, (T::Failed, Some(F::ExitCode))),
            (O::Exited(3), false, true, (T::Failed, Some(F::ExitCode))),
            (O::Signalled(15), true, true, (T::Cancelled, None)),
            (O::Signalled(9), false, false, (T::Failed, Some(F::Signal))),
            (machine(), false, false, (T::Queued, None)),
            (machine(), false, true, (T::Cancelled, None)),
            (task(), false, false, (T::Failed, Some(F::WorkerLaunchFailed))),
            (task(), false, true, (T::Cancelled, None)),
            (O::Crashed("x".into()), false, false, (T::Failed, Some(F::WorkerCrashed))),
            (O::Crashed("x".into()), false, true, (T::Cancelled, None)),
            (O::OutputRefused("x".into()), false, false, (T::Failed, Some(F::OutputRefused))),
            (O::OutputRefused("x".into()), false, true, (T::Cancelled, None)),
        ] {
            assert_eq!(
                status(outcome.clone(), stop_sent, cancel),
                expected,
                "{outcome:?} {stop_sent} {cancel}"
            );
        }
    }

    #[test]
    fn what_a_worker_ended_by_itself_fails_whatever_the_exit_code() {
        use FailureReason as F;
        use StopCause as C;
        use TaskStatus as T;
        for (cause, cancel, expected, said) in [
            (C::TimeLimit, false, (T::Failed, Some(F::TimedOut)), "its time limit of 90 s"),
            // The limit came first.
            (C::TimeLimit, true, (T::Failed, Some(F::TimedOut)), "its time limit of 90 s"),
            (C::CutOff, false, (T::Failed, Some(F::WorkerCrashed)), "cut off"),
            (C::CutOff, true, (T::Cancelled, None), ""),
            (C::WorkerStopped, false, (T::Failed, Some(F::WorkerCrashed)), "told to end its tasks"),
            (C::WorkerStopped, true, (T::Cancelled, None), ""),
            (C::Requested, true, (T::Cancelled, None), ""),
        ] {
            for outcome in [Outcome::Exited(0), Outcome::Exited(9), Outcome::Signalled(15)] {
                let ended = Ended { stop_cause: Some(cause), ..ended(outcome, true) };
                let Verdict::Ends { status, failure, message } = decide(&ended, cancel, Some(90_000)) else {
                    panic!("it ends")
                };
                assert_eq!((status, failure), expected, "{cause:?} {cancel}");
                assert!(message.contains(said), "{message}");
            }
        }
        // It had ended before: nothing was stopped.
        let ended = Ended { stop_cause: Some(C::TimeLimit), ..ended(Outcome::Exited(0), false) };
        assert!(matches!(decide(&ended, false, None), Verdict::Ends { status: T::Completed, .. }));
    }

    #[test]
    fn output_that_could_not_be_kept_fails_a_task_that_exited_well() {
        let mut ended = ended(Outcome::Exited(0), false);
        ended.output_failed = Some("no space left on device".into());
        let Verdict::Ends { status, failure, message } = decide(&ended, false, None) else {
            panic!("it ends")
        };
        assert_eq!((status, failure), (TaskStatus::Failed, Some(FailureReason::OutputFailed)));
        assert_eq!(message, "no space left on device");
    }
}
