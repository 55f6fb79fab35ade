//! The model: from how a program ended to what becomes of its task (rows P1 to P8, T12, T13).

use muster_coordinator::core::{
    event::{Ended, Outcome, StopCause},
    model::{FailureReason, TaskStatus},
};

/// What becomes of a task.
#[derive(Debug)]
pub(crate) struct Fate {
    pub(crate) status: TaskStatus,
    pub(crate) failure: Option<FailureReason>,
    /// Its worker said so.
    pub(crate) confirmed: bool,
}

impl Fate {
    pub(crate) fn cancelled(confirmed: bool) -> Self {
        Self { status: TaskStatus::Cancelled, failure: None, confirmed }
    }

    pub(crate) fn failed(reason: FailureReason) -> Self {
        Self { status: TaskStatus::Failed, failure: Some(reason), confirmed: true }
    }

    pub(crate) fn crashed() -> Self {
        Self::failed(FailureReason::WorkerCrashed)
    }

    pub(crate) fn launch_failed() -> Self {
        Self::failed(FailureReason::WorkerLaunchFailed)
    }

    /// `None`: another machine is to try it.
    pub(crate) fn of(result: &Ended, cancelled: bool, mut at: impl FnMut(&'static str)) -> Option<Self> {
        use Outcome::*;
        let ran = matches!(result.outcome, Exited(_) | Signalled(_));
        let [to_cancel, otherwise] = match &result.outcome {
            Exited(_) | Signalled(_) if result.output_failed.is_some() => ["P4a", "P4b"],
            Exited(0) => ["P1a", "P1b"],
            Exited(_) => ["P2a", "P2b"],
            Signalled(_) => ["P3a", "P3b"],
            LaunchFailed { task_fault: true, .. } => ["P5a", "P5b"],
            LaunchFailed { task_fault: false, .. } => ["P6a", "P6b"],
            Crashed(_) => ["P7a", "P7b"],
            OutputRefused(_) => ["P8a", "P8b"],
        };
        let cause = result.stop_cause.filter(|_| ran && result.stop_sent);
        if cause == Some(StopCause::TimeLimit) {
            // It came first.
            at("T12");
            return Some(Self::failed(FailureReason::TimedOut));
        }
        if cancelled && (result.stop_sent || !ran) {
            at(to_cancel);
            return Some(Self::cancelled(true));
        }
        if matches!(cause, Some(StopCause::CutOff | StopCause::WorkerStopped)) {
            at("T13");
            return Some(Self::crashed());
        }
        at(otherwise);
        Some(match otherwise {
            "P1b" => Self { status: TaskStatus::Completed, failure: None, confirmed: true },
            "P2b" => Self::failed(FailureReason::ExitCode),
            "P3b" => Self::failed(FailureReason::Signal),
            "P4b" => Self::failed(FailureReason::OutputFailed),
            "P5b" => Self::launch_failed(),
            "P7b" => Self::crashed(),
            "P8b" => Self::failed(FailureReason::OutputRefused),
            _ => return None,
        })
    }
}
