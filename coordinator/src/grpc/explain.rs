//! ExplainBatch: what waits is told by the engine, what has ended by the store.

use muster_proto::{BatchId, TaskIndex, v1};
use tonic::Status;

use crate::core::explain::{self, Explanation, Reason};

use super::{
    context::Context,
    convert::{Violation, explain::explanation},
    status,
};

/// Looks at the store and then at the engine, so often: a batch may end (or be reopened) between the two.
const TRIES: u32 = 4;

pub(super) async fn explain_batch(
    context: &Context,
    request: &v1::ExplainBatchRequest,
) -> Result<v1::ExplainBatchResponse, Status> {
    let batch = status::batch_id(&request.batch_id)?;
    let task = match u32::try_from(request.task_index) {
        Ok(0) => None,
        Ok(index) => Some(TaskIndex(index)),
        Err(_) => {
            let description = format!("is {}; tasks are counted from 1", request.task_index);
            return Err(Violation::new("task_index", description).into());
        }
    };
    for _ in 0..TRIES {
        let view = context.read(move |reader| reader.batch(batch)).await?;
        let view = view.ok_or_else(|| status::unknown_batch(batch))?;
        if let Some(task) = task.filter(|task| task.0 > view.head.task_count) {
            return Err(status::unknown_task("task_index", task.0, view.head.task_count));
        }
        let mut found = if view.state.status.is_ended() {
            explain::ended_batch(&view.head, &view.state)
        } else {
            let answer = context.engine.explain(batch, task).await;
            match answer.map_err(|error| status::engine(&error))? {
                Some(found) => found,
                None => continue,
            }
        };
        if let Some(task) = task {
            tell_end(context, batch, task, &mut found).await?;
        }
        return Ok(explanation(batch, task, found));
    }
    Err(status::changing(batch))
}

/// How a task ended is in its row only.
async fn tell_end(
    context: &Context,
    batch: BatchId,
    task: TaskIndex,
    found: &mut Explanation,
) -> Result<(), Status> {
    if found.causes.iter().all(|cause| cause.reason != Reason::Ended) {
        return Ok(());
    }
    let row = context.read(move |reader| reader.task(batch, task)).await?;
    // A retry may have reopened it since; then the slot's own word stands.
    if let Some(row) = row.filter(|row| row.state.status.is_ended()) {
        found.causes = vec![explain::ended_task(batch, task, &row.state)];
    }
    Ok(())
}
