//! Why tasks do not run, as users see it.

use muster_proto::{BatchId, TaskIndex, v1};

use crate::core::explain::{Cause, Explanation, Place, Reason};

use super::{batch, count, timestamp, worker::worker};

/// The answer to ExplainBatch.
pub(crate) fn explanation(
    id: BatchId,
    task: Option<TaskIndex>,
    explanation: Explanation,
) -> v1::ExplainBatchResponse {
    let Explanation { status, counts, effective_concurrency, causes, place } = explanation;
    let place = place.unwrap_or(Place { task: TaskIndex(0), ahead: 0, at_least: false });
    v1::ExplainBatchResponse {
        batch_id: id.to_string(),
        task_index: task.map_or(0, |task| count(task.0)),
        scheduler_status: batch::status(status).into(),
        counts: Some(batch::counts(counts)),
        effective_concurrency: count(effective_concurrency),
        causes: causes.into_iter().map(cause).collect(),
        next_task_index: count(place.task.0),
        tasks_ahead: count(place.ahead),
        tasks_ahead_at_least: place.at_least,
    }
}

fn cause(cause: Cause) -> v1::WaitCause {
    v1::WaitCause {
        reason: reason(cause.reason).into(),
        message: cause.message,
        way_out: cause.way_out,
        task_count: count(cause.tasks),
        at_least: cause.at_least,
        workers: cause.workers.into_iter().map(worker).collect(),
        worker_count: count(cause.worker_count),
        batches: cause
            .batches
            .into_iter()
            .map(|(id, places)| v1::BatchPlaces { batch_id: id.to_string(), places: count(places) })
            .collect(),
        batch_count: count(cause.batch_count),
        since_time: cause.since_ms.map(timestamp),
    }
}

const fn reason(reason: Reason) -> v1::WaitReason {
    match reason {
        Reason::NoWorker => v1::WaitReason::NoWorker,
        Reason::WorkersBusy => v1::WaitReason::WorkersBusy,
        Reason::WorkersDraining => v1::WaitReason::WorkersDraining,
        Reason::WorkersSetAside => v1::WaitReason::WorkersSetAside,
        Reason::WorkersDisconnected => v1::WaitReason::WorkersDisconnected,
        Reason::WorkersPaused => v1::WaitReason::WorkersPaused,
        Reason::BatchLimit => v1::WaitReason::BatchLimit,
        Reason::Excluded => v1::WaitReason::Excluded,
        Reason::Scheduling => v1::WaitReason::Scheduling,
        Reason::Offered => v1::WaitReason::Offered,
        Reason::Running => v1::WaitReason::Running,
        Reason::StoringOutput => v1::WaitReason::StoringOutput,
        Reason::CancelRequested => v1::WaitReason::CancelRequested,
        Reason::Ended => v1::WaitReason::Ended,
        Reason::RetryBackoff => v1::WaitReason::RetryBackoff,
        Reason::OnHold => v1::WaitReason::OnHold,
    }
}
