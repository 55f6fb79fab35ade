//! A task as users see it.

use muster_proto::v1;

use crate::{
    core::{
        args::redact,
        model::{AttemptRow, FailureReason, TaskStatus},
    },
    store::TaskView,
};

use super::{bytes, count, timestamp};

/// Stands for an output path that no worker has assigned yet.
const OUTPUT_PLACEHOLDER: &str = "{output}";

/// A task with its parameters.
pub(crate) fn task(view: &TaskView) -> v1::Task {
    let TaskView { index, spec, state, late } = view;
    // The end of an attempt that was given up stands, whatever comes later; but then there is output to read.
    let later = late.iter().find(|row| row.id.attempt == state.attempt && state.status.is_ended());
    let (log_bytes, log_discarded) =
        later.map_or((state.log_bytes, state.log_discarded), |row| (row.log_bytes, row.log_discarded));
    let command = if state.output_path.is_empty() {
        spec.command(OUTPUT_PLACEHOLDER)
    } else {
        spec.arg_list().with_output(&state.output_path)
    };
    v1::Task {
        index: count(index.0),
        label: spec.label.clone(),
        model: spec.model.clone(),
        display_name: spec.display_name.clone(),
        status: status(state.status).into(),
        log_path: String::new(),
        output_path: state.output_path.clone(),
        prompt: spec.prompt.clone(),
        image: spec.image.clone(),
        audio: spec.audio.clone(),
        video: spec.video.clone(),
        aspect_ratio: spec.aspect_ratio.clone(),
        resolution: spec.resolution.clone(),
        steps: spec.steps.clone(),
        duration: spec.duration.clone(),
        seed: spec.seed.clone(),
        random_seed: spec.random_seed,
        model_name: spec.model_name.clone(),
        width: spec.width.clone(),
        height: spec.height.clone(),
        param: spec.param.clone(),
        sync: spec.sync,
        run_mode: spec.run_mode.as_str().to_owned(),
        command_preview: redact(&command),
        exit_code: state.exit_code,
        failure_reason: state.failure.map_or(v1::FailureReason::Unspecified, failure).into(),
        failure_message: state.failure_message.clone(),
        pid: state.pid,
        attempt: count(state.attempt.0),
        worker_id: state.worker.as_ref().map(|worker| worker.name.clone()).unwrap_or_default(),
        signal: state.signal.unwrap_or(0),
        start_time: state.start_ms.map(timestamp),
        end_time: state.end_ms.map(timestamp),
        log_bytes: bytes(log_bytes),
        cancel_requested: state.cancel_requested,
        revision: state.revision,
        end_confirmed: state.end_confirmed,
        discarded_log_bytes: bytes(log_discarded),
        late_results: late.iter().map(late_result).collect(),
        time_limit: spec.time_limit_ms.map(super::options::duration),
        retry: spec.retry.as_ref().map(super::options::retry),
        next_attempt_time: state.not_before_ms.map(timestamp),
        shell_code: shell_code(state.exit_code, state.signal),
    }
}

/// What a shell would show: 128 and the signal where one ended the program.
fn shell_code(exit_code: Option<i32>, signal: Option<i32>) -> Option<i32> {
    exit_code.or_else(|| signal.map(|signal| signal.saturating_add(128)))
}

fn late_result(row: &AttemptRow) -> v1::LateResult {
    v1::LateResult {
        attempt: count(row.id.attempt.0),
        exit_code: row.exit_code,
        signal: row.signal.unwrap_or(0),
        receive_time: Some(timestamp(row.end_ms)),
    }
}

const fn status(status: TaskStatus) -> v1::TaskStatus {
    match status {
        TaskStatus::Queued => v1::TaskStatus::Queued,
        TaskStatus::Running => v1::TaskStatus::Running,
        TaskStatus::Completed => v1::TaskStatus::Completed,
        TaskStatus::Failed => v1::TaskStatus::Failed,
        TaskStatus::Cancelled => v1::TaskStatus::Cancelled,
    }
}

const fn failure(reason: FailureReason) -> v1::FailureReason {
    match reason {
        FailureReason::ExitCode => v1::FailureReason::ExitCode,
        FailureReason::Signal => v1::FailureReason::Signal,
        FailureReason::TimedOut => v1::FailureReason::TimedOut,
        FailureReason::WorkerLaunchFailed => v1::FailureReason::WorkerLaunchFailed,
        FailureReason::WorkerCrashed => v1::FailureReason::WorkerCrashed,
        FailureReason::OutputFailed => v1::FailureReason::OutputFailed,
        FailureReason::OutputRefused => v1::FailureReason::OutputRefused,
        FailureReason::SecretUnavailable => v1::FailureReason::SecretUnavailable,
        FailureReason::QueueTimedOut => v1::FailureReason::QueueTimedOut,
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::{AttemptId, AttemptNo, BatchId, LifeId, TaskIndex};

    use super::*;
    use crate::core::{model::TaskState, plan::TaskSpec};

    fn view(state: TaskState, output: &str) -> TaskView {
        let spec = TaskSpec {
            label: "a label".into(),
            model: "m".into(),
            param: vec!["--api-key".into(), "k=v".into()],
            output: output.into(),
            ..TaskSpec::default()
        };
        TaskView { index: TaskIndex(2), spec, state, late: Vec::new() }
    }

    #[test]
    fn the_output_of_a_late_result_is_counted_where_there_is_no_later_attempt() {
        let shown = |attempt| {
            let state =
                TaskState { status: TaskStatus::Failed, attempt: AttemptNo(2), ..TaskState::default() };
            let mut view = view(state, "");
            view.late.push(AttemptRow {
                id: AttemptId {
                    life: LifeId(1),
                    batch: BatchId::new(1, 1),
                    task: TaskIndex(2),
                    attempt: AttemptNo(attempt),
                },
                worker: "w".into(),
                exit_code: Some(0),
                signal: None,
                failure: Some(FailureReason::WorkerCrashed),
                end_ms: 1,
                log_bytes: 7,
                log_discarded: 1,
                late: true,
            });
            let shown = task(&view);
            (shown.status(), shown.log_bytes, shown.discarded_log_bytes)
        };
        assert_eq!(shown(2), (v1::TaskStatus::Failed, 7, 1));
        assert_eq!(shown(1), (v1::TaskStatus::Failed, 0, 0));
    }

    #[test]
    fn a_task_without_a_worker_shows_a_placeholder_for_its_output() {
        let shown = task(&view(TaskState::default(), ""));
        assert!(shown.command_preview.windows(2).any(|pair| pair == ["--output", "{output}"]));
        assert_eq!((shown.index, shown.status()), (2, v1::TaskStatus::Queued));
        assert_eq!((shown.output_path.as_str(), shown.exit_code, shown.attempt), ("", None, 0));
    }

    #[test]
    fn its_own_output_and_then_the_given_one_are_shown() {
        let own = task(&view(TaskState::default(), "/own"));
        assert!(own.command_preview.contains(&"/own".to_owned()));
        let state = TaskState { output_path: "/given".into(), attempt: AttemptNo(1), ..TaskState::default() };
        let given = task(&view(state, "/own"));
        assert!(given.command_preview.contains(&"/given".to_owned()));
        assert!(!given.command_preview.contains(&"/own".to_owned()));
    }

    #[test]
    fn an_ended_task_says_how() {
        let state = TaskState {
            status: TaskStatus::Failed,
            signal: Some(9),
            failure: Some(FailureReason::Signal),
            log_bytes: 5,
            ..TaskState::default()
        };
        let shown = task(&view(state, ""));
        assert_eq!((shown.status(), shown.signal, shown.exit_code), (v1::TaskStatus::Failed, 9, None));
        assert_eq!((shown.failure_reason(), shown.log_bytes), (v1::FailureReason::Signal, 5));
    }
}
