//! Sessions with the coordinator: dials, opens the Attach stream, passes messages both ways, and dials again
//! when the session is over.
//!
//! What is said is decided by the [dispatcher](crate::core); the first message of every session is the hello
//! that it makes when it hears that a connection stands. Output travels on a connection of its own ([`logs`]).

mod backoff;
mod convert;
mod endpoint;
pub(crate) mod logs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use muster_proto::{AttemptId, v1};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use v1::worker_service_client::WorkerServiceClient;

use crate::core::{FromCoordinator, MAX_HELD, SessionNo, ToCoordinator};
use crate::runner::protocol::AttemptKey;
use crate::spool;

use backoff::Backoff;
use endpoint::{MAX_MESSAGE, dial};

/// The version of the protocol.
pub(crate) const PROTOCOL: u32 = 1;
/// Messages that wait to be sent: several for each attempt that can be held. Results carry no output here.
const OUTGOING: usize = 4 * MAX_HELD;

/// Who this worker is, for the hello.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) instance_id: String,
    /// The boot of the machine, and which directory on it this is.
    pub(crate) boot_id: String,
    pub(crate) slots: u32,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) work_dir: PathBuf,
}

/// What the driver hears.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// A connection stands: send the hello first. Cancelling `close` ends the session.
    Dialed { session: SessionNo, outgoing: mpsc::Sender<ToCoordinator>, close: CancellationToken },
    /// A message.
    Message(SessionNo, FromCoordinator),
    /// The session is over, or never came to be.
    Ended { session: SessionNo, why: Why },
}

/// Why a session is over.
#[derive(Debug)]
pub(crate) enum Why {
    /// It can be tried again.
    Failed(String),
    /// The coordinator does not want this worker as it is.
    Refused(String),
    /// As it is now: after a fast reboot the session from before it is still held for alive for a while.
    NotNow(String),
}

/// Dials for ever, until `stop`.
pub(crate) async fn run(
    url: String,
    who: Arc<Identity>,
    events: mpsc::Sender<SessionEvent>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::default();
    let mut session = 0;
    while !stop.is_cancelled() {
        session += 1;
        let why = tokio::select! {
            why = run_one(&url, &who, &events, session, &mut backoff) => why,
            () = stop.cancelled() => return,
        };
        if events.send(SessionEvent::Ended { session, why }).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.wait()) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// One session, from the dial to its end.
async fn run_one(
    url: &str,
    who: &Arc<Identity>,
    events: &mpsc::Sender<SessionEvent>,
    session: SessionNo,
    backoff: &mut Backoff,
) -> Why {
    let gone = || Why::Failed("the worker is ending".into());
    let channel = match dial(url).await {
        Ok(channel) => channel,
        Err(error) => return Why::Failed(chain(&error)),
    };
    let mut client = WorkerServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    // A queue of its own, dropped with the session: nothing of an older session is sent on a newer one.
    let (outgoing, queue) = mpsc::channel(OUTGOING);
    let close = CancellationToken::new();
    // Taken before the hello's content is, and after the session before this one was given up: whatever is sent
    // when, a higher number means a newer content.
    let connection = convert::since_boot_ns();
    if events.send(SessionEvent::Dialed { session, outgoing, close: close.clone() }).await.is_err() {
        return gone();
    }
    let writer = Arc::clone(who);
    let requests =
        ReceiverStream::new(queue).then(move |message| encode(message, Arc::clone(&writer), connection));
    let attached = tokio::select! {
        attached = client.attach(requests) => attached,
        () = close.cancelled() => return Why::Failed("given up".into()),
    };
    let mut messages = match attached {
        Ok(response) => response.into_inner(),
        Err(status) => return refused_or_failed(&status),
    };
    loop {
        let message = tokio::select! {
            message = messages.message() => message,
            () = close.cancelled() => return Why::Failed("given up".into()),
        };
        let message = match message {
            Ok(Some(message)) => convert::from_wire(message),
            Ok(None) => return Why::Failed("the coordinator ended the session".into()),
            Err(status) => return refused_or_failed(&status),
        };
        let message = match message {
            Ok(message) => message,
            Err(error) => return Why::Failed(error.to_string()),
        };
        if matches!(message, FromCoordinator::Welcome { .. }) {
            backoff.reset();
        }
        if events.send(SessionEvent::Message(session, message)).await.is_err() {
            return gone();
        }
    }
}

/// Puts a message into the wire's form, with the output that rides in a result.
async fn encode(mut message: ToCoordinator, who: Arc<Identity>, connection: u64) -> v1::AttachRequest {
    let mut inline_log = Bytes::new();
    if let ToCoordinator::Ended { report, inline: true } = &mut message {
        let size = report.log_size;
        match read_spool(&who.work_dir, report.attempt, 0, size).await {
            Ok(bytes) => inline_log = bytes,
            Err(error) => {
                tracing::error!(attempt = %report.attempt, %error, "cannot read the output of a task");
                report.output_failed = error;
                report.log_discarded += size;
                report.log_size = 0;
            }
        }
    }
    convert::to_wire(message, &who, connection, inline_log)
}

/// Exactly `len` bytes of an attempt's output; the error is for people.
async fn read_spool(work_dir: &Path, attempt: AttemptId, offset: u64, len: u64) -> Result<Bytes, String> {
    let work_dir = work_dir.to_owned();
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let key = key(attempt);
    let read = tokio::task::spawn_blocking(move || spool::read_at(&work_dir, key, offset, len)).await;
    match read {
        Ok(Ok(bytes)) if bytes.len() == len => Ok(bytes.into()),
        Ok(Ok(bytes)) => {
            Err(format!("the spool ends at {} bytes, before the output does", offset + bytes.len() as u64))
        }
        Ok(Err(error)) => Err(format!("the spool cannot be read: {error}")),
        Err(error) => Err(format!("the spool cannot be read: {error}")),
    }
}

fn key(id: AttemptId) -> AttemptKey {
    AttemptKey { life: id.life.0, batch: id.batch.get(), task: id.task.0, attempt: id.attempt.0 }
}

fn refused_or_failed(status: &Status) -> Why {
    match status.code() {
        Code::AlreadyExists | Code::InvalidArgument | Code::Unimplemented => {
            Why::Refused(status.message().to_owned())
        }
        Code::FailedPrecondition => Why::NotNow(status.message().to_owned()),
        code => Why::Failed(format!("{code:?}: {}", status.message())),
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
