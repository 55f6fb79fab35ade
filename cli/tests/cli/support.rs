//! A coordinator that says what a test tells it to, and a command that runs against it.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Write},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use muster_cli::{Context, args::Cli, backoff::Patience, io::Io};
use muster_proto::v1::{
    self, Batch, SchedulerStatus, TailLogsResponse, Task, TaskCounts, TaskStatus, WatchBatchResponse, Worker,
    batch_service_server::{BatchService, BatchServiceServer},
    fleet_service_server::{FleetService, FleetServiceServer},
    tail_logs_response::Content,
};
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, body::Body, codegen::http};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

/// Long enough that a test that waits for it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// One step of a stream.
pub(crate) enum Step<T> {
    Send(T),
    Fail(Status),
    /// Waits until the test lets it go on, by dropping the other half.
    Gate(tokio::sync::oneshot::Receiver<()>),
    /// Nothing more, and no end.
    Hang,
}

type Script<T> = Mutex<VecDeque<Vec<Step<T>>>>;

/// What the fake answers, and what it was asked.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) submits: Mutex<VecDeque<Result<Batch, Status>>>,
    pub(crate) retries: Mutex<VecDeque<Result<Batch, Status>>>,
    pub(crate) prefills: Mutex<VecDeque<Result<v1::PrefillBatchResponse, Status>>>,
    pub(crate) batch: Mutex<Batch>,
    pub(crate) pages: Mutex<Vec<Vec<Task>>>,
    pub(crate) watches: Script<WatchBatchResponse>,
    pub(crate) tails: Script<TailLogsResponse>,
    /// Whole logs by task, each of an attempt that has ended; what is here needs no script.
    pub(crate) logs: Mutex<BTreeMap<i32, Vec<u8>>>,
    pub(crate) workers: Mutex<Vec<Worker>>,
    pub(crate) explanations: Mutex<VecDeque<Result<v1::ExplainBatchResponse, Status>>>,
    /// What GetInfo answers; of this moment and version where nothing is scripted.
    pub(crate) infos: Mutex<VecDeque<Result<v1::GetInfoResponse, Status>>>,
    pub(crate) not_serving: AtomicBool,
    pub(crate) seen_explains: Mutex<Vec<v1::ExplainBatchRequest>>,
    pub(crate) seen_submits: Mutex<Vec<v1::SubmitBatchRequest>>,
    pub(crate) seen_prefills: Mutex<Vec<v1::PrefillBatchRequest>>,
    pub(crate) seen_watches: Mutex<Vec<v1::WatchBatchRequest>>,
    pub(crate) seen_tails: Mutex<Vec<v1::TailLogsRequest>>,
    pub(crate) seen_cancels: Mutex<Vec<v1::CancelBatchRequest>>,
    pub(crate) seen_retries: Mutex<Vec<v1::RetryBatchRequest>>,
}

struct Service(Arc<State>);

type Reply<T> = Result<Response<T>, Status>;
type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn play<T: Send + 'static>(script: &Script<T>) -> Result<Streaming<T>, Status> {
    let steps = script.lock().unwrap().pop_front().ok_or_else(|| Status::not_found("nothing scripted"))?;
    if let [Step::Fail(status)] = &steps[..] {
        return Err(status.clone());
    }
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for step in steps {
            match step {
                Step::Send(message) => drop(sender.send(Ok(message)).await),
                Step::Fail(status) => drop(sender.send(Err(status)).await),
                Step::Gate(opened) => tokio::select! {
                    _ = opened => {}
                    // Who holds the gate sees that nobody is there any more.
                    () = sender.closed() => return,
                },
                Step::Hang => sender.closed().await,
            }
        }
    });
    Ok(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver)))
}

/// A log from an offset on, in small pieces, as the coordinator sends it.
fn serve(log: &[u8], request: &v1::TailLogsRequest) -> Result<Streaming<TailLogsResponse>, Status> {
    const PIECE: usize = 50_000;
    let offset = usize::try_from(request.offset).unwrap();
    let rest = log.get(offset..).ok_or_else(|| Status::out_of_range("beyond the end"))?;
    let attempt = request.attempt.max(1);
    let mut at = request.offset;
    let mut pieces = Vec::new();
    for data in rest.chunks(PIECE) {
        let content = Some(Content::Data(data.to_vec().into()));
        pieces.push(Ok(TailLogsResponse { attempt, offset: at, content, ..TailLogsResponse::default() }));
        at += i64::try_from(data.len()).unwrap();
    }
    pieces.push(Ok(TailLogsResponse {
        attempt,
        offset: at,
        end_of_log: true,
        ..TailLogsResponse::default()
    }));
    Ok(Box::pin(tokio_stream::iter(pieces)))
}

#[tonic::async_trait]
impl BatchService for Service {
    type WatchBatchStream = Streaming<WatchBatchResponse>;
    type TailLogsStream = Streaming<TailLogsResponse>;

    async fn submit_batch(&self, request: Request<v1::SubmitBatchRequest>) -> Reply<v1::SubmitBatchResponse> {
        self.0.seen_submits.lock().unwrap().push(request.into_inner());
        let next = self.0.submits.lock().unwrap().pop_front();
        let batch = next.unwrap_or_else(|| Err(Status::internal("nothing scripted")))?;
        Ok(Response::new(v1::SubmitBatchResponse { batch: Some(batch) }))
    }

    async fn prefill_batch(
        &self,
        request: Request<v1::PrefillBatchRequest>,
    ) -> Reply<v1::PrefillBatchResponse> {
        self.0.seen_prefills.lock().unwrap().push(request.into_inner());
        let next = self.0.prefills.lock().unwrap().pop_front();
        next.unwrap_or_else(|| Err(Status::internal("nothing scripted"))).map(Response::new)
    }

    async fn get_batch(&self, request: Request<v1::GetBatchRequest>) -> Reply<v1::GetBatchResponse> {
        let batch = self.0.batch.lock().unwrap().clone();
        if batch.batch_id != request.into_inner().batch_id {
            return Err(Status::not_found("no such batch"));
        }
        Ok(Response::new(v1::GetBatchResponse { batch: Some(batch) }))
    }

    async fn list_batches(&self, _: Request<v1::ListBatchesRequest>) -> Reply<v1::ListBatchesResponse> {
        let batch = self.0.batch.lock().unwrap().clone();
        Ok(Response::new(v1::ListBatchesResponse { batches: vec![batch], next_page_token: String::new() }))
    }

    async fn list_tasks(&self, request: Request<v1::ListTasksRequest>) -> Reply<v1::ListTasksResponse> {
        let token = request.into_inner().page_token;
        let page: usize = if token.is_empty() { 0 } else { token.parse().unwrap() };
        let pages = self.0.pages.lock().unwrap();
        let next = if page + 1 < pages.len() { (page + 1).to_string() } else { String::new() };
        Ok(Response::new(v1::ListTasksResponse { tasks: pages[page].clone(), next_page_token: next }))
    }

    async fn watch_batch(&self, request: Request<v1::WatchBatchRequest>) -> Reply<Self::WatchBatchStream> {
        self.0.seen_watches.lock().unwrap().push(request.into_inner());
        play(&self.0.watches).map(Response::new)
    }

    async fn tail_logs(&self, request: Request<v1::TailLogsRequest>) -> Reply<Self::TailLogsStream> {
        let request = request.into_inner();
        self.0.seen_tails.lock().unwrap().push(request.clone());
        match self.0.logs.lock().unwrap().get(&request.task_index) {
            Some(log) => serve(log, &request).map(Response::new),
            None => play(&self.0.tails).map(Response::new),
        }
    }

    async fn cancel_batch(&self, request: Request<v1::CancelBatchRequest>) -> Reply<v1::CancelBatchResponse> {
        self.0.seen_cancels.lock().unwrap().push(request.into_inner());
        let batch = self.0.batch.lock().unwrap().clone();
        Ok(Response::new(v1::CancelBatchResponse { batch: Some(batch) }))
    }

    async fn retry_batch(&self, request: Request<v1::RetryBatchRequest>) -> Reply<v1::RetryBatchResponse> {
        self.0.seen_retries.lock().unwrap().push(request.into_inner());
        let scripted = self.0.retries.lock().unwrap().pop_front();
        let batch = scripted.unwrap_or_else(|| Ok(self.0.batch.lock().unwrap().clone()))?;
        Ok(Response::new(v1::RetryBatchResponse { batch: Some(batch) }))
    }

    async fn release_batch(&self, _: Request<v1::ReleaseBatchRequest>) -> Reply<v1::ReleaseBatchResponse> {
        let mut batch = self.0.batch.lock().unwrap();
        batch.on_hold = false;
        Ok(Response::new(v1::ReleaseBatchResponse { batch: Some(batch.clone()) }))
    }

    async fn explain_batch(
        &self,
        request: Request<v1::ExplainBatchRequest>,
    ) -> Reply<v1::ExplainBatchResponse> {
        self.0.seen_explains.lock().unwrap().push(request.into_inner());
        let next = self.0.explanations.lock().unwrap().pop_front();
        next.unwrap_or_else(|| Err(Status::internal("nothing scripted"))).map(Response::new)
    }

    async fn get_info(&self, _: Request<v1::GetInfoRequest>) -> Reply<v1::GetInfoResponse> {
        let next = self.0.infos.lock().unwrap().pop_front();
        next.unwrap_or_else(|| Ok(info(0))).map(Response::new)
    }

    async fn get_policy(&self, _: Request<v1::GetPolicyRequest>) -> Reply<v1::GetPolicyResponse> {
        Ok(Response::new(v1::GetPolicyResponse {
            max_concurrency: 3,
            max_tasks: 5,
            system_max_concurrency: 6,
            system_max_tasks: 10,
        }))
    }
}

#[tonic::async_trait]
impl FleetService for Service {
    async fn list_workers(&self, _: Request<v1::ListWorkersRequest>) -> Reply<v1::ListWorkersResponse> {
        let workers = self.0.workers.lock().unwrap().clone();
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn drain_worker(&self, request: Request<v1::DrainWorkerRequest>) -> Reply<v1::DrainWorkerResponse> {
        let worker_id = request.into_inner().worker_id;
        let status = v1::WorkerStatus::Draining.into();
        Ok(Response::new(v1::DrainWorkerResponse {
            worker: Some(Worker { worker_id, status, ..Worker::default() }),
        }))
    }

    async fn resume_worker(&self, _: Request<v1::ResumeWorkerRequest>) -> Reply<v1::ResumeWorkerResponse> {
        Err(Status::not_found("no such worker"))
    }
}

#[tonic::async_trait]
impl Health for Service {
    type WatchStream = Streaming<HealthCheckResponse>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Reply<HealthCheckResponse> {
        let serving = !self.0.not_serving.load(Ordering::Relaxed);
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Reply<Self::WatchStream> {
        Err(Status::unimplemented("nobody here watches"))
    }
}

/// All services on one port, chosen by path.
#[derive(Clone)]
struct Both {
    batches: BatchServiceServer<Service>,
    fleet: FleetServiceServer<Service>,
    health: HealthServer<Service>,
}

impl tonic::codegen::Service<http::Request<Body>> for Both {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = tonic::codegen::BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path().starts_with("/muster.v1.FleetService/") {
            self.fleet.call(request)
        } else if request.uri().path().starts_with("/grpc.health.v1.Health/") {
            self.health.call(request)
        } else {
            self.batches.call(request)
        }
    }
}

/// A running fake on a runtime of its own, so that it can vanish with all its connections.
pub(crate) struct Fake {
    pub(crate) state: Arc<State>,
    pub(crate) address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), State::default())
    }

    /// On a port that another fake may just have left. `state` is there before the first call is: a client may have
    /// been waiting for the port.
    pub(crate) fn start_at(address: SocketAddr, state: State) -> Self {
        let begun = Instant::now();
        let listener = loop {
            match std::net::TcpListener::bind(address) {
                Ok(listener) => break listener,
                // The old sockets may take a moment to go.
                Err(error) => assert!(begun.elapsed() < DEADLINE, "{error}"),
            }
            std::thread::yield_now();
        };
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let state = Arc::new(state);
        let (batches, fleet, health) =
            (Service(state.clone()), Service(state.clone()), Service(state.clone()));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let both = Both {
                batches: BatchServiceServer::new(batches),
                fleet: FleetServiceServer::new(fleet),
                health: HealthServer::new(health),
            };
            tonic::transport::Server::builder()
                .serve_with_incoming(both, TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self { state, address, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Runs one command line against this fake.
    pub(crate) async fn muster(&self, line: &[&str]) -> Printed {
        muster(&self.url(), line).await
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A writer whose text can be read afterwards.
#[derive(Clone, Default)]
pub(crate) struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A writer whose reader went away.
pub(crate) struct ClosedPipe;

impl Write for ClosedPipe {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A context that prints into buffers and waits in milliseconds.
pub(crate) fn context(url: &str, out: Box<dyn Write + Send>, err: &Buffer) -> Context {
    let patience =
        Patience { first: Duration::from_millis(5), longest: Duration::from_millis(50), give_up: DEADLINE };
    Context { io: Io::new(out, Box::new(err.clone()), false), url: url.to_owned(), patience }
}

/// Runs one command line against any address.
pub(crate) async fn muster(url: &str, line: &[&str]) -> Printed {
    let (out, err) = (Buffer::default(), Buffer::default());
    let code = execute(line, context(url, Box::new(out.clone()), &err)).await;
    Printed { code, out: out.text(), err: err.text() }
}

/// Runs one command line in a context.
pub(crate) async fn execute(line: &[&str], context: Context) -> u8 {
    let words = ["muster", "--coordinator", &context.url].into_iter().chain(line.iter().copied());
    let cli = Cli::try_parse_from(words).unwrap();
    let run = muster_cli::execute(cli, context.clone());
    tokio::time::timeout(DEADLINE, run).await.expect("the command ends").code()
}

/// A batch of `count` tasks in which so many are completed and failed, the others queued.
pub(crate) fn batch(count: i32, completed: i32, failed: i32) -> Batch {
    let ended = completed + failed == count;
    let status = if ended { SchedulerStatus::Completed } else { SchedulerStatus::Running };
    let queued = count - completed - failed;
    Batch {
        batch_id: "b1".to_owned(),
        mode: "batch_run".to_owned(),
        version: 2,
        task_count: count,
        effective_concurrency: 2,
        scheduler_status: status.into(),
        counts: Some(TaskCounts { queued, completed, failed, ..TaskCounts::default() }),
        available_workers: 1,
        ..Batch::default()
    }
}

/// A task in a state.
pub(crate) fn task(index: i32, status: TaskStatus) -> Task {
    let attempt = i32::from(status != TaskStatus::Queued);
    Task {
        index,
        label: format!("Task {index}"),
        model: "bpro-t2i".to_owned(),
        status: status.into(),
        attempt,
        worker_id: "worker-a".to_owned(),
        ..Task::default()
    }
}

/// A task that failed with an exit code.
pub(crate) fn failed(index: i32, code: i32) -> Task {
    Task {
        exit_code: Some(code),
        failure_reason: v1::FailureReason::ExitCode.into(),
        ..task(index, TaskStatus::Failed)
    }
}

/// A message of a watch.
pub(crate) fn change(life: &str, revision: i64, batch: Batch, tasks: Vec<Task>) -> Step<WatchBatchResponse> {
    Step::Send(WatchBatchResponse { life_id: life.to_owned(), revision, batch: Some(batch), tasks })
}

/// A step that waits, and what opens it when dropped.
pub(crate) fn gate<T>() -> (tokio::sync::oneshot::Sender<()>, Step<T>) {
    let (open, opened) = tokio::sync::oneshot::channel();
    (open, Step::Gate(opened))
}

/// A piece of output.
pub(crate) fn piece(offset: i64, data: &[u8], end_of_log: bool) -> Step<TailLogsResponse> {
    Step::Send(TailLogsResponse {
        attempt: 1,
        offset,
        content: Some(Content::Data(data.to_vec().into())),
        end_of_log,
        discarded_bytes: 0,
        time: None,
    })
}

/// What a coordinator of this version says whose clock is so many seconds ahead.
pub(crate) fn info(ahead: i64) -> v1::GetInfoResponse {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seconds = i64::try_from(now.as_secs()).unwrap() + ahead;
    let nanos = i32::try_from(now.subsec_nanos()).unwrap();
    v1::GetInfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        server_time: Some(prost_types::Timestamp { seconds, nanos }),
        life_id: "life1".to_owned(),
    }
}
