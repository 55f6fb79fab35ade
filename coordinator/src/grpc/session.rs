//! Attach: one worker's session, pumped both ways between its stream and the engine.
//!
//! Decides nothing about attempts. A worker that talks nonsense or falls silent loses its session, and only
//! that; whatever ends it, the engine is told.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use muster_proto::{AttemptId, v1};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    core::{
        event::{FromWorker, Hello, SessionId},
        model::InstanceId,
    },
    engine::handle::{self, Handle, SessionMessage},
};

use super::{
    context::Context,
    convert::attach::{self, HEARTBEAT_MS, SILENCE_MS},
    push_logs, status,
};

/// A worker that has connected says hello within this.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Messages between the session and its stream; more wait in the engine's own queue.
const WAITING_MESSAGES: usize = 64;
/// How long the last words of a session may wait for a worker that does not read.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

type Sender = mpsc::Sender<Result<v1::AttachResponse, Status>>;

/// Opens a session with the first message and serves it in a task of its own.
pub(crate) async fn attach(
    context: Context,
    mut incoming: Streaming<v1::AttachRequest>,
) -> Result<ReceiverStream<Result<v1::AttachResponse, Status>>, Status> {
    let first = tokio::select! {
        () = context.stopping.cancelled() => return Err(status::shutting_down()),
        first = time::timeout(HELLO_WITHIN, incoming.message()) => first,
    };
    let Ok(first) = first else {
        return Err(status::invalid("hello", "did not come within 10 s; it must be the first message"));
    };
    let hello = match first?.and_then(|request| request.message) {
        Some(v1::attach_request::Message::Hello(hello)) => attach::hello(hello)?,
        Some(_) | None => return Err(status::invalid("hello", "must be the first message")),
    };
    let (sender, messages) = mpsc::channel(WAITING_MESSAGES);
    let (attached, answer) = oneshot::channel();
    // A task of its own, so that a session that the engine has opened is never left behind by its handler.
    tokio::spawn(serve(context, hello, incoming, sender, attached));
    match answer.await {
        Ok(Ok(())) => Ok(ReceiverStream::new(messages)),
        Ok(Err(error)) => Err(status::engine(&error)),
        Err(error) => Err(status::internal("a session could not be opened", &error)),
    }
}

async fn serve(
    context: Context,
    hello: Hello,
    mut incoming: Streaming<v1::AttachRequest>,
    sender: Sender,
    attached: oneshot::Sender<Result<(), handle::Error>>,
) {
    let (name, instance) = (hello.worker.name.clone(), hello.worker.instance.clone());
    let handle::Session { id, mut messages } = match context.engine.attach(hello).await {
        Ok(session) => session,
        Err(error) => {
            // A handler that has gone needs no answer.
            let _ = attached.send(Err(error));
            return;
        }
    };
    let detach = Detach { engine: context.engine.clone(), session: Some(id) };
    let offered = Offered::default();
    if attached.send(Ok(())).is_ok() {
        tracing::info!(worker = %name, session = id.0, "worker attached");
        let end = tokio::select! {
            () = sender.closed() => Status::cancelled("the worker has gone"),
            () = context.stopping.cancelled() => {
                let goodbye = SessionMessage::Goodbye("the coordinator is shutting down".to_owned());
                last_words(&sender, Ok(attach::to_worker(goodbye, context.life))).await;
                status::shutting_down()
            }
            end = speak(&context, &offered, &mut messages, &sender) => end,
            end = listen(&context, id, (&instance, &offered), &mut incoming) => end,
        };
        tracing::info!(worker = %name, session = id.0, why = end.message(), "worker's session ended");
        last_words(&sender, Err(end)).await;
    }
    detach.now().await;
}

/// Attempts that this session has offered and whose end it has not heard: theirs is the output that rides in a result,
/// which needs no look into the store then. As many as the worker runs at most.
#[derive(Default)]
struct Offered(Mutex<HashSet<AttemptId>>);

impl Offered {
    fn add(&self, attempt: AttemptId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(attempt);
    }

    /// Whether it was one of them.
    fn take(&self, attempt: AttemptId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&attempt)
    }
}

/// Sends what the engine says, and a heartbeat at least every interval.
async fn speak(
    context: &Context,
    offered: &Offered,
    messages: &mut mpsc::Receiver<SessionMessage>,
    sender: &Sender,
) -> Status {
    let mut heartbeat = time::interval(Duration::from_millis(u64::from(HEARTBEAT_MS)));
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once, and the first message is to be the welcome.
    heartbeat.tick().await;
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            _ = heartbeat.tick() => Some(SessionMessage::Heartbeat),
        };
        let Some(message) = message else {
            return status::session_closed("the coordinator has closed the session; connect again");
        };
        let goodbye = match &message {
            SessionMessage::Goodbye(reason) => Some(reason.clone()),
            SessionMessage::Offer(offer) => {
                offered.add(offer.attempt);
                None
            }
            _ => None,
        };
        // A worker that talks and does not read would keep what is offered to it for ever.
        let sent = sender.send(Ok(attach::to_worker(message, context.life)));
        match time::timeout(Duration::from_millis(u64::from(SILENCE_MS)), sent).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Status::cancelled("the worker has gone"),
            Err(_) => {
                return status::session_closed("the worker does not read what it is told; connect again");
            }
        }
        if let Some(reason) = goodbye {
            return status::session_closed(&reason);
        }
    }
}

/// Hands in what the worker says, until it stops making sense or stops.
async fn listen(
    context: &Context,
    session: SessionId,
    (instance, offered): (&InstanceId, &Offered),
    incoming: &mut Streaming<v1::AttachRequest>,
) -> Status {
    let silence = Duration::from_millis(u64::from(SILENCE_MS));
    loop {
        let request = match time::timeout(silence, incoming.message()).await {
            Ok(Ok(Some(request))) => request,
            Ok(Ok(None)) => return Status::ok("the worker has closed the stream"),
            Ok(Err(status)) => return status,
            Err(_) => return status::worker_silent(SILENCE_MS),
        };
        let (said, log) = match attach::from_worker(request, context.life) {
            Ok(said) => said,
            Err(violation) => return violation.into(),
        };
        let its_own = match &said {
            FromWorker::Ended(attempt, _) | FromWorker::Returned(attempt) => offered.take(*attempt),
            _ => false,
        };
        if let Some(log) = log
            && let Err(status) = store_inline(context, (instance, its_own), &said, log).await
        {
            return status;
        }
        if context.engine.worker_says(session, said).await.is_err() {
            return status::shutting_down();
        }
    }
}

/// Output that rides in a result is stored before the result is handed in.
async fn store_inline(
    context: &Context,
    (instance, its_own): (&InstanceId, bool),
    said: &FromWorker,
    log: Bytes,
) -> Result<(), Status> {
    let FromWorker::Ended(attempt, _) = said else { return Ok(()) };
    if !its_own && !push_logs::is_wanted(context, *attempt, instance).await? {
        // Nobody could ever ask for it, or it is for another worker to say.
        return Ok(());
    }
    let appended = context.logs.append(*attempt, 0, log).await;
    appended.map_err(|error| status::append(&error))
}

async fn last_words(sender: &Sender, words: Result<v1::AttachResponse, Status>) {
    if words.as_ref().is_err_and(|status| status.code() == tonic::Code::Ok) {
        return;
    }
    // To a worker that has gone, or does not read, nothing can be said.
    let _ = time::timeout(LAST_WORDS_WITHIN, sender.send(words)).await;
}

/// Tells the engine that a session has ended, even where its task is dropped.
struct Detach {
    engine: Handle,
    session: Option<SessionId>,
}

impl Detach {
    async fn now(mut self) {
        if let Some(session) = self.session.take() {
            // An engine that has stopped has no sessions.
            let _ = self.engine.detach(session).await;
        }
    }
}

impl Drop for Detach {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let engine = self.engine.clone();
        // Outside of a runtime the process is ending, and its sessions with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = engine.detach(session).await;
            });
        }
    }
}
