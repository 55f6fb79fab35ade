//! PushLogs: output bytes from a worker, acknowledged by offset once they are stored for good.
//!
//! Knows no sessions: the stream is a connection of its own, and a byte's place is named by its attempt and
//! offset. What was stored before is passed over, so that sending again does no harm. Attempts that nobody
//! could ask for (of a task that is not known here, never handed out) are passed over without an acknowledgement: a
//! worker that holds such a one is told to forget it in its session. So is the newest attempt of a task where it was
//! offered to another worker. Who pushes output of an older one is not looked at: it has ended, and is only late.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use muster_proto::{AttemptId, v1};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{config::MAX_LOG_LIMIT, core::model::InstanceId, logs};

use super::{context::Context, convert::attach, status};

/// Most bytes in one message.
const MAX_CHUNK_BYTES: usize = 256 * 1_024;
/// Attempts whose output is on its way on one stream: twice the most slots that a worker may have.
const MAX_ATTEMPTS: usize = 2 * 1_024;
/// Attempts passed over that are remembered, so that each is looked up once only.
const MAX_PASSED_OVER: usize = 1_024;
/// Acknowledgements that wait for a worker that is slow to read.
const WAITING_ACKS: usize = 256;
/// Acknowledgements of one attempt are this far apart at least, so that they are merged.
const ACK_PAUSE: Duration = Duration::from_millis(5);
/// How long the last words of a stream may wait for a worker that does not read.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

type Sender = mpsc::Sender<Result<v1::PushLogsResponse, Status>>;

/// Takes output in a task of its own, until the worker or the coordinator stops.
pub(crate) fn push_logs(
    context: Context,
    mut incoming: Streaming<v1::PushLogsRequest>,
) -> ReceiverStream<Result<v1::PushLogsResponse, Status>> {
    let (sender, acks) = mpsc::channel(WAITING_ACKS);
    tokio::spawn(async move {
        let stopping = context.stopping.clone();
        let mut pushes =
            Pushes { context, instance: None, attempts: HashMap::new(), passed_over: HashSet::new() };
        let end = tokio::select! {
            () = sender.closed() => return,
            () = stopping.cancelled() => status::shutting_down(),
            end = pushes.take(&mut incoming, &sender) => end,
        };
        if end.code() != tonic::Code::Ok {
            // To a worker that has gone, or does not read, nothing can be said.
            let _ = tokio::time::timeout(LAST_WORDS_WITHIN, sender.send(Err(end))).await;
        } else {
            pushes.finish(&sender).await;
        }
    });
    ReceiverStream::new(acks)
}

/// One attempt whose output comes on this stream.
struct Push {
    /// End of what was handed to the log so far.
    end: u64,
    /// Sends acknowledgements.
    task: JoinHandle<()>,
}

impl Drop for Push {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Pushes {
    context: Context,
    /// Whose stream it is, once a message has come.
    instance: Option<InstanceId>,
    attempts: HashMap<AttemptId, Push>,
    passed_over: HashSet<AttemptId>,
}

impl Pushes {
    async fn take(&mut self, incoming: &mut Streaming<v1::PushLogsRequest>, sender: &Sender) -> Status {
        loop {
            let taken = match incoming.message().await {
                Ok(Some(request)) => self.append(request, sender).await,
                Ok(None) => return Status::ok("the worker has closed the stream"),
                Err(status) => return status,
            };
            if let Err(status) = taken {
                return status;
            }
        }
    }

    async fn append(&mut self, request: v1::PushLogsRequest, sender: &Sender) -> Result<(), Status> {
        let attempt = attach::attempt("push_logs", request.attempt)?;
        let length = request.data.len();
        if length == 0 || length > MAX_CHUNK_BYTES {
            let description = format!("has {length} bytes; a message takes 1 to {MAX_CHUNK_BYTES}");
            return Err(status::invalid("data", &description));
        }
        let end = request.offset.saturating_add(length as u64);
        // The last chunk may reach over the limit; the worker counts what it throws away.
        if end > MAX_LOG_LIMIT + MAX_CHUNK_BYTES as u64 {
            let description = format!("reaches byte {end}; at most {MAX_LOG_LIMIT} of an attempt are kept");
            return Err(status::invalid("offset", &description));
        }
        let instance = attach::instance("instance_id", &request.instance_id)?;
        if *self.instance.get_or_insert_with(|| instance.clone()) != instance {
            return Err(status::invalid("instance_id", "has changed; a stream is one worker's"));
        }
        if !self.attempts.contains_key(&attempt) && !self.begin(attempt, &instance, sender).await? {
            return Ok(());
        }
        match self.context.logs.append(attempt, request.offset, request.data).await {
            Ok(()) => {
                let stored = self.context.logs.stored(attempt);
                if let Some(push) = self.attempts.get_mut(&attempt) {
                    push.end = push.end.max(end);
                }
                if end <= stored {
                    // All of it was there already, so that nothing will change that could be acknowledged.
                    acknowledge(sender, attempt, stored).await;
                }
                Ok(())
            }
            Err(logs::Error::Gap { expected }) => {
                if expected == 0 {
                    // It may have been removed with its batch: looked up anew before more of it is taken.
                    self.attempts.remove(&attempt);
                }
                // The worker goes on from what is stored; what is on its way is passed over then.
                acknowledge(sender, attempt, self.context.logs.stored(attempt)).await;
                Ok(())
            }
            Err(error) => Err(status::append(&error)),
        }
    }

    /// Prepares for an attempt's first chunk; false where its output is not wanted.
    async fn begin(
        &mut self,
        attempt: AttemptId,
        instance: &InstanceId,
        sender: &Sender,
    ) -> Result<bool, Status> {
        if self.passed_over.contains(&attempt) {
            return Ok(false);
        }
        if !is_wanted(&self.context, attempt, instance).await? {
            tracing::warn!(
                %attempt, life = %attempt.life, instance = instance.0,
                "output of an attempt that is not known here, or is another worker's, is passed over"
            );
            if self.passed_over.len() >= MAX_PASSED_OVER {
                self.passed_over.clear();
            }
            self.passed_over.insert(attempt);
            return Ok(false);
        }
        if self.attempts.len() >= MAX_ATTEMPTS {
            let logs = &self.context.logs;
            self.attempts.retain(|attempt, push| logs.stored(*attempt) < push.end);
            if self.attempts.len() >= MAX_ATTEMPTS {
                return Err(status::too_many_pushes(MAX_ATTEMPTS));
            }
        }
        let stored = self.context.logs.subscribe(attempt);
        let task = tokio::spawn(acknowledge_stored(attempt, stored, sender.clone()));
        self.attempts.insert(attempt, Push { end: 0, task });
        Ok(true)
    }

    /// The worker sends no more: what it sent is acknowledged still.
    async fn finish(&mut self, sender: &Sender) {
        for (attempt, push) in &self.attempts {
            let mut stored = self.context.logs.subscribe(*attempt);
            let end = push.end;
            tokio::select! {
                () = sender.closed() => return,
                () = self.context.stopping.cancelled() => return,
                _ = stored.wait_for(|stored| *stored >= end) => {}
            }
            acknowledge(sender, *attempt, self.context.logs.stored(*attempt)).await;
        }
    }
}

/// Whether the attempt was ever handed out, and to this worker if it is its task's newest; or handed out, for all that
/// is known, by the coordinator whose data this is a copy of. An offer is stored before it is sent, so whoever may have
/// output of it is known by then.
pub(super) async fn is_wanted(
    context: &Context,
    attempt: AttemptId,
    instance: &InstanceId,
) -> Result<bool, Status> {
    let foreign = attempt.life != context.life;
    let task = context.read(move |reader| reader.task(attempt.batch, attempt.task)).await?;
    Ok(task.is_some_and(|task| match task.state.worker {
        _ if foreign => true,
        Some(holder) if attempt.attempt == task.state.attempt => holder.instance == *instance,
        Some(_) | None => attempt.attempt <= task.state.attempt,
    }))
}

/// Acknowledges an attempt's output as it is stored, until the stream ends.
async fn acknowledge_stored(
    attempt: AttemptId,
    mut stored: tokio::sync::watch::Receiver<u64>,
    sender: Sender,
) {
    let mut told = 0;
    loop {
        let now = *stored.borrow_and_update();
        if now > told {
            if !acknowledge(&sender, attempt, now).await {
                return;
            }
            told = now;
            tokio::time::sleep(ACK_PAUSE).await;
        }
        if stored.changed().await.is_err() {
            return;
        }
    }
}

/// False once the worker has gone.
async fn acknowledge(sender: &Sender, attempt: AttemptId, stored: u64) -> bool {
    let response = v1::PushLogsResponse { attempt: Some(attempt.into()), stored };
    sender.send(Ok(response)).await.is_ok()
}
