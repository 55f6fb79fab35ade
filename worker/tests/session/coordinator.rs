//! A coordinator that a test plays: it gets every session and says what it likes. Output is stored in memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_proto::v1;
use muster_proto::v1::attach_request::Message as FromWorker;
use muster_proto::v1::attach_response::Message as ToWorker;
use muster_proto::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// How long anything may take before a test gives up. Never waited for in a test that passes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const LIFE: u64 = 3;
const BATCH: u64 = 1 << 20;

pub(crate) fn attempt(task: u32) -> v1::Attempt {
    v1::Attempt { life: LIFE, batch: BATCH, task, attempt: 1 }
}

/// What the worker says that it holds.
pub(crate) fn held(task: u32, phase: v1::HeldPhase) -> v1::Held {
    v1::Held { attempt: Some(attempt(task)), phase: phase.into() }
}

/// A coordinator. Dropping it ends every connection.
pub(crate) struct Coordinator {
    pub(crate) address: SocketAddr,
    sessions: mpsc::Receiver<Session>,
    stored: Stored,
    server: JoinHandle<()>,
}

type Stored = Arc<Mutex<BTreeMap<u32, Vec<u8>>>>;

/// One Attach call.
pub(crate) struct Session {
    inbound: Streaming<v1::AttachRequest>,
    outbound: mpsc::Sender<Result<v1::AttachResponse, Status>>,
}

impl Coordinator {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, sessions) = mpsc::channel(16);
        let stored = Stored::default();
        let fake = Fake { sessions: sender, stored: Arc::clone(&stored) };
        let server = tonic::transport::Server::builder().add_service(WorkerServiceServer::new(fake));
        let server = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { address, sessions, stored, server }
    }

    /// The next session, after its hello.
    pub(crate) async fn session(&mut self) -> (Session, v1::Hello) {
        let session =
            tokio::time::timeout(PATIENCE, self.sessions.recv()).await.expect("no session").unwrap();
        let mut session = session;
        let FromWorker::Hello(hello) = session.next().await else { panic!("no hello") };
        (session, hello)
    }

    /// A session of a worker that holds nothing, welcomed.
    pub(crate) async fn welcome(&mut self) -> Session {
        let (session, hello) = self.session().await;
        assert_eq!(hello.held, []);
        session.welcome(&[]).await;
        session
    }

    /// Whether a session waits to be taken.
    pub(crate) fn has_session(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// Waits until so much output of a task is stored.
    pub(crate) async fn stored(&self, task: u32, size: usize) -> Vec<u8> {
        let wait = async {
            loop {
                let stored = self.stored.lock().unwrap().get(&task).cloned().unwrap_or_default();
                if stored.len() >= size {
                    return stored;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("output is missing")
    }

    /// The whole output of a task that has ended: what a slow machine has pushed does not ride in the result.
    pub(crate) async fn output(&self, ended: &v1::Ended) -> Vec<u8> {
        if ended.inline_log.is_empty() {
            let task = ended.attempt.unwrap().task;
            return self.stored(task, usize::try_from(ended.log_size).unwrap()).await;
        }
        assert_eq!(ended.inline_log.len() as u64, ended.log_size);
        ended.inline_log.to_vec()
    }

    /// Forgets output from `size` on, as a coordinator does that crashed before it was on disk.
    pub(crate) fn lose(&self, task: u32, size: usize) {
        self.stored.lock().unwrap().entry(task).or_default().truncate(size);
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Session {
    pub(crate) async fn welcome(&self, verdicts: &[(u32, v1::Verdict, u64)]) {
        let verdict = |(task, verdict, log_offset): &(u32, v1::Verdict, u64)| v1::HeldVerdict {
            attempt: Some(attempt(*task)),
            verdict: (*verdict).into(),
            log_offset: *log_offset,
        };
        let verdicts = verdicts.iter().map(verdict).collect();
        let welcome = v1::Welcome { life: LIFE, heartbeat_ms: 200, silence_ms: 60_000, verdicts };
        self.say(ToWorker::Welcome(welcome)).await;
    }

    pub(crate) async fn say(&self, message: ToWorker) {
        self.outbound.send(Ok(v1::AttachResponse { message: Some(message) })).await.unwrap();
    }

    pub(crate) async fn fail(self, status: Status) {
        self.outbound.send(Err(status)).await.unwrap();
    }

    /// Offers a shell script as a task; `$2` is its output path.
    pub(crate) async fn offer(&self, task: u32, script: &str) {
        let offer = v1::Offer {
            attempt: Some(attempt(task)),
            args_before: ["-c", script, "sh"].map(String::from).into(),
            output: String::new(),
            args_after: vec!["--prompt".into(), "a cat".into()],
            env: [("BIZYAIR_API_KEY".to_owned(), "secret".to_owned())].into(),
            log_limit: 1 << 20,
            batch_id: "b1".into(),
            ..v1::Offer::default()
        };
        self.say(ToWorker::Offer(offer)).await;
    }

    pub(crate) async fn acknowledge(&self, task: u32) {
        self.say(ToWorker::Acknowledged(v1::Acknowledged { attempt: Some(attempt(task)) })).await;
    }

    /// The worker's next message that is not a heartbeat.
    pub(crate) async fn next(&mut self) -> FromWorker {
        let wait = async {
            loop {
                match self.inbound.message().await.unwrap().expect("the session ended").message.unwrap() {
                    FromWorker::Heartbeat(_) => {}
                    message => return message,
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the worker says nothing")
    }

    pub(crate) async fn heartbeat(&mut self) -> v1::WorkerHeartbeat {
        let message = tokio::time::timeout(PATIENCE, self.inbound.message()).await.expect("no heartbeat");
        let FromWorker::Heartbeat(beat) = message.unwrap().unwrap().message.unwrap() else {
            panic!("not a beat")
        };
        beat
    }

    /// Accepted, then started.
    pub(crate) async fn started(&mut self, task: u32) -> v1::Started {
        let accepted = FromWorker::Accepted(v1::Accepted { attempt: Some(attempt(task)) });
        assert_eq!(self.next().await, accepted);
        let FromWorker::Started(started) = self.next().await else { panic!("not started") };
        assert_eq!(started.attempt, Some(attempt(task)));
        started
    }

    pub(crate) async fn ended(&mut self, task: u32) -> v1::Ended {
        let FromWorker::Ended(ended) = self.next().await else { panic!("not ended") };
        assert_eq!(ended.attempt, Some(attempt(task)));
        ended
    }

    /// The worker leaves, and the session ends with it.
    pub(crate) async fn leaves(mut self) {
        assert_eq!(self.next().await, FromWorker::Leaving(v1::Leaving {}));
        let end = tokio::time::timeout(PATIENCE, self.inbound.message()).await.expect("it does not end");
        assert_eq!(end.unwrap(), None);
    }
}

impl Session {
    /// The session ends, and neither draining nor leaving is said before.
    pub(crate) async fn ends_without_a_word(mut self) {
        let wait = async {
            while let Some(message) = self.inbound.message().await.unwrap() {
                assert!(matches!(message.message, Some(FromWorker::Heartbeat(_))), "{message:?}");
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it does not end");
    }
}

struct Fake {
    sessions: mpsc::Sender<Session>,
    stored: Stored,
}

#[tonic::async_trait]
impl WorkerService for Fake {
    type AttachStream = ReceiverStream<Result<v1::AttachResponse, Status>>;
    type PushLogsStream = ReceiverStream<Result<v1::PushLogsResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (outbound, queue) = mpsc::channel(16);
        let session = Session { inbound: request.into_inner(), outbound };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(queue)))
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<v1::PushLogsRequest>>,
    ) -> Result<Response<Self::PushLogsStream>, Status> {
        let (outbound, queue) = mpsc::channel(16);
        let stored = Arc::clone(&self.stored);
        let mut inbound = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(chunk)) = inbound.message().await {
                let task = chunk.attempt.unwrap().task;
                let answer = {
                    let mut stored = stored.lock().unwrap();
                    let log = stored.entry(task).or_default();
                    let offset = usize::try_from(chunk.offset).unwrap();
                    if offset > log.len() {
                        Err(Status::out_of_range("a gap"))
                    } else {
                        let known = (log.len() - offset).min(chunk.data.len());
                        log.extend_from_slice(&chunk.data[known..]);
                        Ok(v1::PushLogsResponse { attempt: chunk.attempt, stored: log.len() as u64 })
                    }
                };
                if outbound.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

/// A one-time signal, for tests that wait for a callback.
pub(crate) async fn soon<T>(receiver: oneshot::Receiver<T>) -> T {
    tokio::time::timeout(PATIENCE, receiver).await.expect("it does not happen").unwrap()
}
