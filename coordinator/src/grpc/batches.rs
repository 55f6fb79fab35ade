//! The calls of users about batches: parse and plan here, decide in the engine, read from the store.
//!
//! What streams (WatchBatch, TailLogs) lives in modules of its own. Nothing here logs a request's content.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use muster_proto::{BatchId, v1};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use crate::{
    core::{
        admission::Approvals,
        event::{self, Refused, RetryLimits},
        model::{BatchHead, BatchState, BatchStatus, Counts, TaskState, UnixMs},
        options::own_options,
        plan::{Planned, TaskSpec, plan_batch},
    },
    engine::handle,
    store::{BatchView, PageBounds, TaskView},
};

use super::{
    context::Context,
    convert::{
        self, Violation,
        submit::{self, Payload},
    },
    explain,
    page_token::PageToken,
    prefill, status, tail, watch,
};

/// Most tasks inline in a batch or in a page.
pub(crate) const MAX_TASKS: usize = 1_000;
/// Most bytes of tasks inline in a batch or in a page, as they are sent: clients take 4 MiB by default.
pub(crate) const MAX_TASKS_BYTES: usize = 3 * 1_024 * 1_024;
/// Specs read for a page. A task as it is sent has its parameters twice, once as its command.
const PAGE_SPEC_BYTES: usize = MAX_TASKS_BYTES / 2;
/// Tasks of a page that says nothing.
const DEFAULT_TASKS: usize = 100;
/// Batches of a page that says nothing, and most of a page.
const DEFAULT_BATCHES: usize = 50;
const MAX_BATCHES: usize = 1_000;
/// Batch ids made for one submission before it is given up: two in one millisecond have to draw the same of
/// half a million numbers, each time.
const BATCH_IDS: u32 = 4;

/// BatchService.
pub(crate) struct Batches {
    context: Context,
}

impl Batches {
    pub(crate) const fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl v1::batch_service_server::BatchService for Batches {
    type WatchBatchStream = ReceiverStream<Result<v1::WatchBatchResponse, Status>>;
    type TailLogsStream = ReceiverStream<Result<v1::TailLogsResponse, Status>>;

    async fn submit_batch(
        &self,
        request: Request<v1::SubmitBatchRequest>,
    ) -> Result<Response<v1::SubmitBatchResponse>, Status> {
        let context = self.context.clone();
        let batch = apart(async move { submit_batch(&context, request.into_inner()).await }).await?;
        Ok(Response::new(v1::SubmitBatchResponse { batch: Some(batch) }))
    }

    async fn prefill_batch(
        &self,
        request: Request<v1::PrefillBatchRequest>,
    ) -> Result<Response<v1::PrefillBatchResponse>, Status> {
        prefill::prefill_batch(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn get_batch(
        &self,
        request: Request<v1::GetBatchRequest>,
    ) -> Result<Response<v1::GetBatchResponse>, Status> {
        let batch = status::batch_id(&request.get_ref().batch_id)?;
        let batch = Some(batch_with_tasks(&self.context, batch).await?);
        Ok(Response::new(v1::GetBatchResponse { batch }))
    }

    async fn list_batches(
        &self,
        request: Request<v1::ListBatchesRequest>,
    ) -> Result<Response<v1::ListBatchesResponse>, Status> {
        let v1::ListBatchesRequest { page_size, page_token } = request.into_inner();
        let size = page_size_within(page_size, DEFAULT_BATCHES, MAX_BATCHES)?;
        let before = PageToken::batches(&page_token, self.context.life)?;
        // One more than the page tells whether there is another.
        let mut views = self.context.read(move |reader| reader.batches(before, size + 1)).await?;
        let more = views.len() > size;
        views.truncate(size);
        let next = views.last().filter(|_| more).map(|last| PageToken::Batches(last.head.id));
        Ok(Response::new(v1::ListBatchesResponse {
            batches: views.iter().map(|view| self.context.batch(view)).collect(),
            next_page_token: next.map(|token| token.write(self.context.life)).unwrap_or_default(),
        }))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let v1::ListTasksRequest { batch_id, page_size, page_token } = request.into_inner();
        let batch = status::batch_id(&batch_id)?;
        let size = page_size_within(page_size, DEFAULT_TASKS, MAX_TASKS)?;
        let after = PageToken::tasks(&page_token, self.context.life, batch)?;
        let bounds = PageBounds { tasks: size, bytes: PAGE_SPEC_BYTES };
        let page = self.context.read(move |reader| reader.tasks(batch, after, bounds)).await?;
        let page = page.ok_or_else(|| status::unknown_batch(batch))?;
        let tasks =
            within(page.tasks.iter().map(|view| self.context.task(&page.batch, view)), MAX_TASKS_BYTES);
        let more = page.more || tasks.len() < page.tasks.len();
        let last = tasks.last().and_then(|task| u32::try_from(task.index).ok()).filter(|_| more);
        let next = last.map(|index| PageToken::Tasks(batch, index).write(self.context.life));
        Ok(Response::new(v1::ListTasksResponse { tasks, next_page_token: next.unwrap_or_default() }))
    }

    async fn watch_batch(
        &self,
        request: Request<v1::WatchBatchRequest>,
    ) -> Result<Response<Self::WatchBatchStream>, Status> {
        watch::watch_batch(self.context.clone(), request.into_inner()).await.map(Response::new)
    }

    async fn tail_logs(
        &self,
        request: Request<v1::TailLogsRequest>,
    ) -> Result<Response<Self::TailLogsStream>, Status> {
        tail::tail_logs(self.context.clone(), request.into_inner()).await.map(Response::new)
    }

    async fn cancel_batch(
        &self,
        request: Request<v1::CancelBatchRequest>,
    ) -> Result<Response<v1::CancelBatchResponse>, Status> {
        let context = self.context.clone();
        let batch = apart(async move { cancel_batch(&context, request.into_inner()).await }).await?;
        Ok(Response::new(v1::CancelBatchResponse { batch: Some(batch) }))
    }

    async fn retry_batch(
        &self,
        request: Request<v1::RetryBatchRequest>,
    ) -> Result<Response<v1::RetryBatchResponse>, Status> {
        let context = self.context.clone();
        let batch = apart(async move { retry_batch(&context, request.into_inner()).await }).await?;
        Ok(Response::new(v1::RetryBatchResponse { batch: Some(batch) }))
    }

    async fn release_batch(
        &self,
        request: Request<v1::ReleaseBatchRequest>,
    ) -> Result<Response<v1::ReleaseBatchResponse>, Status> {
        let context = self.context.clone();
        let batch = apart(async move { release_batch(&context, request.into_inner()).await }).await?;
        Ok(Response::new(v1::ReleaseBatchResponse { batch: Some(batch) }))
    }

    async fn explain_batch(
        &self,
        request: Request<v1::ExplainBatchRequest>,
    ) -> Result<Response<v1::ExplainBatchResponse>, Status> {
        explain::explain_batch(&self.context, &request.into_inner()).await.map(Response::new)
    }

    async fn get_policy(
        &self,
        _: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let policy = Arc::clone(&self.context.policy);
        let policy = self.context.compute(move || policy.read()).await?;
        Ok(Response::new(v1::GetPolicyResponse {
            max_concurrency: convert::count(policy.max_concurrency),
            max_tasks: convert::count(policy.max_tasks),
            system_max_concurrency: convert::count(policy.system.max_concurrency),
            system_max_tasks: convert::count(policy.system.max_tasks),
        }))
    }

    async fn get_info(
        &self,
        _: Request<v1::GetInfoRequest>,
    ) -> Result<Response<v1::GetInfoResponse>, Status> {
        Ok(Response::new(v1::GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            server_time: Some(convert::timestamp(unix_ms())),
            life_id: self.context.life.to_string(),
        }))
    }
}

/// Carries work out in a task of its own: a client that goes away ends its handler, never the work.
async fn apart<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(status::internal("a call could not be carried out", &error)),
    }
}

async fn submit_batch(context: &Context, mut request: v1::SubmitBatchRequest) -> Result<v1::Batch, Status> {
    let request_id = std::mem::take(&mut request.request_id);
    submit::request_id(&request_id)?;
    submit::api_key(&request.api_key)?;
    let request = Arc::new(request);
    if request.validate_only {
        let planned = plan(context, Arc::clone(&request), BatchId::new(0, 0), "").await?;
        return Ok(preview(context, planned));
    }
    context.room_for(&request_id).await?;
    for _ in 0..BATCH_IDS {
        // Planned anew for each id: that is once in all but one of half a million calls.
        let id = match context.first_batch() {
            Some(id) => id,
            None => new_batch_id()?,
        };
        let submit = match plan(context, Arc::clone(&request), id, &request_id).await {
            Ok(submit) => submit,
            Err(refused) => {
                let batch = carried_out(context, &request, request_id).await?.ok_or(refused)?;
                return batch_with_tasks(context, batch).await;
            }
        };
        match context.engine.submit(submit).await {
            Ok((batch, _)) => {
                context.note_taken(batch);
                return batch_with_tasks(context, batch).await;
            }
            Err(handle::Error::Refused(Refused::BatchIdTaken)) => context.note_taken(id),
            Err(error) => return Err(status::engine(&error)),
        }
    }
    Err(status::refused(&Refused::BatchIdTaken))
}

/// The batch of a call that is repeated and would be refused today: it met the limits of its own day.
async fn carried_out(
    context: &Context,
    request: &Arc<v1::SubmitBatchRequest>,
    id: String,
) -> Result<Option<BatchId>, Status> {
    let request = Arc::clone(request);
    let once = context.compute(move || once("SubmitBatch", id, request.as_ref())).await?;
    let Some(event::Request { id, digest }) = once else { return Ok(None) };
    let record = context.read(move |reader| reader.request(&id)).await?;
    Ok(record.filter(|record| record.digest == digest).map(|record| record.batch))
}

/// Everything about a submission that takes computing or reading files, on a blocking thread.
async fn plan(
    context: &Context,
    request: Arc<v1::SubmitBatchRequest>,
    id: BatchId,
    request_id: &str,
) -> Result<event::Submit, Status> {
    let (policy, catalog) = (Arc::clone(&context.policy), Arc::clone(&context.catalog));
    let keyring = Arc::clone(&context.keyring);
    let request_id = request_id.to_owned();
    let work = move || {
        let mut payload = submit::payload(
            Payload {
                batch_json: &request.batch_json,
                tasks: &request.tasks,
                cards: &request.cards_markdown,
                defaults: request.defaults.as_ref(),
            },
            &catalog,
        )?;
        let mut options = submit::options(request.options.as_ref(), std::mem::take(&mut payload.options))?;
        let policy = policy.read();
        let approvals =
            Approvals { concurrency: request.concurrency_approved, task_count: request.task_count_approved };
        let Planned { admitted, tasks } =
            plan_batch(&payload, request.concurrency, approvals, &policy, &catalog)
                .map_err(|refusal| status::refusal(&refusal))?;
        // A payload's tasks were counted against a limit of 32 bits.
        let task_count = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        options.own = own_options(tasks.iter().map(|task| (task.time_limit_ms, task.retry.as_ref())));
        let key = submit::api_key(&request.api_key)?;
        let secret = key.filter(|_| !request.validate_only).map(|key| keyring.seal(id, key)).transpose();
        let secret = secret.map_err(|error| status::seal(&error))?;
        let head = BatchHead {
            id,
            create_ms: unix_ms(),
            task_count,
            requested_concurrency: admitted.requested_concurrency,
            effective_concurrency: admitted.effective_concurrency,
            configured_max_concurrency: admitted.configured_max_concurrency,
            configured_max_tasks: admitted.configured_max_tasks,
            options,
        };
        let request = once("SubmitBatch", request_id, request.as_ref());
        Ok(event::Submit { head, specs: tasks, secret, request })
    };
    context.compute(work).await?
}

/// What would be stored, as it would look; without an id, since nothing is.
fn preview(context: &Context, submit: event::Submit) -> v1::Batch {
    let event::Submit { head, specs, secret, request: _ } = submit;
    let counts = Counts { queued: head.task_count, ..Counts::default() };
    let view = BatchView {
        head,
        state: BatchState {
            revision: 0,
            status: BatchStatus::Queued,
            counts,
            start_ms: None,
            end_ms: None,
            cancel_reason: None,
            uses_key: secret.is_some(),
            on_hold: false,
            message: String::new(),
            queued_since_ms: None,
        },
    };
    let task = |(index, spec): (u32, TaskSpec)| {
        let index = muster_proto::TaskIndex(index);
        let view_of = TaskView { index, spec, state: TaskState::default(), late: Vec::new() };
        context.task(&view, &view_of)
    };
    let count = specs.len();
    let tasks = (count <= MAX_TASKS)
        .then(|| within((1..).zip(specs).map(task), MAX_TASKS_BYTES))
        .filter(|tasks| tasks.len() == count);
    let mut batch = context.batch(&view);
    batch.batch_id = String::new();
    batch.create_time = None;
    batch.reply_markdown = format!(
        "**The batch is valid**: {}, at most {} at once. Nothing was stored.",
        convert::batch::tasks(view.head.task_count),
        view.head.effective_concurrency
    );
    batch.tasks_omitted = tasks.is_none();
    batch.tasks = tasks.unwrap_or_default();
    batch
}

async fn cancel_batch(context: &Context, mut request: v1::CancelBatchRequest) -> Result<v1::Batch, Status> {
    let request_id = std::mem::take(&mut request.request_id);
    submit::request_id(&request_id)?;
    let batch = status::batch_id(&request.batch_id)?;
    let tasks = submit::task_indexes(&request.task_indexes)?;
    submit::reason(&request.reason)?;
    let once = once("CancelBatch", request_id, &request);
    let v1::CancelBatchRequest { reason, immediate, .. } = request;
    let cancel = event::Cancel { batch, tasks, reason, immediate, request: once };
    let (batch, _) = context.engine.cancel(cancel).await.map_err(|error| status::engine(&error))?;
    batch_alone(context, batch).await
}

async fn retry_batch(context: &Context, mut request: v1::RetryBatchRequest) -> Result<v1::Batch, Status> {
    let request_id = std::mem::take(&mut request.request_id);
    submit::request_id(&request_id)?;
    let batch = status::batch_id(&request.batch_id)?;
    let tasks = submit::task_indexes(&request.task_indexes)?;
    let secret = submit::api_key(&request.api_key)?.map(|key| context.keyring.seal(batch, key)).transpose();
    let secret = secret.map_err(|error| status::seal(&error))?;
    let approvals =
        Approvals { concurrency: request.concurrency_approved, task_count: request.task_count_approved };
    let policy = Arc::clone(&context.policy);
    let policy = context.compute(move || policy.read()).await?;
    let limits = RetryLimits { policy, approvals };
    context.room_for(&request_id).await?;
    let request = once("RetryBatch", request_id, &request);
    let retry = event::Retry { batch, tasks, secret, limits, request };
    let (batch, _) = context.engine.retry(retry).await.map_err(|error| status::engine(&error))?;
    batch_alone(context, batch).await
}

async fn release_batch(context: &Context, mut request: v1::ReleaseBatchRequest) -> Result<v1::Batch, Status> {
    let request_id = std::mem::take(&mut request.request_id);
    submit::request_id(&request_id)?;
    let batch = status::batch_id(&request.batch_id)?;
    let release = event::Release { batch, request: once("ReleaseBatch", request_id, &request) };
    let (batch, _) = context.engine.release(release).await.map_err(|error| status::engine(&error))?;
    batch_alone(context, batch).await
}

async fn batch_alone(context: &Context, id: BatchId) -> Result<v1::Batch, Status> {
    let view = context.read(move |reader| reader.batch(id)).await?;
    view.map(|view| context.batch(&view)).ok_or_else(|| status::unknown_batch(id))
}

/// A batch with its tasks, or without them where they are too many or too large.
async fn batch_with_tasks(context: &Context, id: BatchId) -> Result<v1::Batch, Status> {
    let bounds = PageBounds { tasks: MAX_TASKS, bytes: PAGE_SPEC_BYTES };
    let page = context.read(move |reader| {
        // Reading a thousand tasks to leave them out again would be a waste.
        match reader.batch(id)? {
            Some(view) if view.head.task_count as usize > MAX_TASKS => Ok(Some((view, None))),
            Some(_) => Ok(reader.tasks(id, 0, bounds)?.map(|page| {
                let tasks = (!page.more).then_some(page.tasks);
                (page.batch, tasks)
            })),
            None => Ok(None),
        }
    });
    let (view, tasks) = page.await?.ok_or_else(|| status::unknown_batch(id))?;
    let mut batch = context.batch(&view);
    let tasks = tasks.and_then(|tasks| {
        let shown = within(tasks.iter().map(|task| context.task(&view, task)), MAX_TASKS_BYTES);
        (shown.len() == tasks.len()).then_some(shown)
    });
    batch.tasks_omitted = tasks.is_none();
    batch.tasks = tasks.unwrap_or_default();
    Ok(batch)
}

/// As many messages as fit, and one at least.
fn within(tasks: impl Iterator<Item = v1::Task>, max_bytes: usize) -> Vec<v1::Task> {
    let mut kept: Vec<v1::Task> = Vec::new();
    let mut bytes = 0;
    for task in tasks {
        bytes += task.encoded_len();
        if bytes > max_bytes && !kept.is_empty() {
            break;
        }
        kept.push(task);
    }
    kept
}

fn page_size_within(asked: i32, default: usize, max: usize) -> Result<usize, Violation> {
    match usize::try_from(asked) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(max)),
        Err(_) => Err(Violation::new("page_size", format!("is {asked}; give 0 for the default, or more"))),
    }
}

/// The request's id with a digest of everything else in it; none where it has no id.
fn once(method: &str, id: String, request: &impl prost::Message) -> Option<event::Request> {
    if id.is_empty() {
        return None;
    }
    // It may hold a key, so its bytes are wiped.
    let encoded = Zeroizing::new(request.encode_to_vec());
    let digest = Sha256::new().chain_update(method).chain_update([0]).chain_update(encoded.as_slice());
    Some(event::Request { id, digest: digest.finalize().into() })
}

fn new_batch_id() -> Result<BatchId, Status> {
    let random =
        getrandom::u64().map_err(|error| status::internal("the system gave no random number", &error))?;
    // A clock before 1970 has no milliseconds since.
    Ok(BatchId::new(u64::try_from(unix_ms()).unwrap_or(0), random))
}

fn unix_ms() -> UnixMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixMs::try_from(since.as_millis()).unwrap_or(UnixMs::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(bytes: usize) -> v1::Task {
        v1::Task { prompt: "x".repeat(bytes), ..v1::Task::default() }
    }

    #[test]
    fn a_page_keeps_its_bound_and_one_task_at_least() {
        assert_eq!(within([task(10), task(10)].into_iter(), 100).len(), 2);
        assert_eq!(within([task(60), task(60)].into_iter(), 100).len(), 1);
        assert_eq!(within([task(200), task(1)].into_iter(), 100).len(), 1);
        assert!(within([].into_iter(), 100).is_empty());
    }

    #[test]
    fn a_page_size_is_coerced_and_a_negative_one_is_refused() {
        assert_eq!(page_size_within(0, 50, 1_000), Ok(50));
        assert_eq!(page_size_within(i32::MAX, 50, 1_000), Ok(1_000));
        assert_eq!(page_size_within(-1, 50, 1_000).unwrap_err().field, "page_size");
    }

    #[test]
    fn the_digest_tells_calls_apart_by_method_and_content() {
        let digest = |method, reason: &str| {
            let request = v1::CancelBatchRequest { reason: reason.into(), ..Default::default() };
            once(method, "id".into(), &request).map(|request| request.digest)
        };
        assert_eq!(digest("CancelBatch", "a"), digest("CancelBatch", "a"));
        assert_ne!(digest("CancelBatch", "a"), digest("CancelBatch", "b"));
        assert_ne!(digest("CancelBatch", "a"), digest("RetryBatch", "a"));
        assert!(once("CancelBatch", String::new(), &v1::CancelBatchRequest::default()).is_none());
    }
}
