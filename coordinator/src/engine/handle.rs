//! The way into the engine: a cheap clone that hides its channel.
//!
//! Every call waits for the commit; dropping the returned future drops the answer, never the change.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use muster_proto::{AttemptId, BatchId, TaskIndex};
use tokio::sync::{mpsc, oneshot};

use crate::{
    core::{
        event::{
            Cancel, FromWorker, Hello, Refused, Release, Reply, Retry, SessionId, Steer, Submit, Terms,
            Verdict, WorkerView,
        },
        explain::Explanation,
        model::{Revision, UnixMs},
        plan::TaskSpec,
    },
    secrets::Secret,
};

/// Inputs that wait for the engine. A full queue makes callers wait, which is the back-pressure.
pub const INPUT_CAPACITY: usize = 16_384;

/// Messages that wait for one worker's stream. One that falls this far behind is cut off and reconnects.
pub const SESSION_CAPACITY: usize = 8_192;

/// The engine has stopped; nothing more is accepted, and what was not answered was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator is shutting down; try again when it is back")]
pub struct Stopped;

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The machine refused it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The engine has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// What the engine is given.
pub(super) enum Input {
    Submit(Box<Submit>, oneshot::Sender<Reply>),
    Cancel(Cancel, oneshot::Sender<Reply>),
    Release(Release, oneshot::Sender<Reply>),
    Retry(Box<Retry>, oneshot::Sender<Reply>),
    Steer(String, Steer, oneshot::Sender<Reply>),
    Workers(oneshot::Sender<Reply>),
    Explain(BatchId, Option<TaskIndex>, oneshot::Sender<Reply>),
    Hello(SessionId, Box<Hello>, mpsc::Sender<SessionMessage>, oneshot::Sender<Reply>),
    Worker(SessionId, FromWorker),
    Gone(SessionId),
    LogStored(AttemptId, u64),
    Remove(BatchId, oneshot::Sender<bool>),
    ForgetRequests(UnixMs, oneshot::Sender<bool>),
    Shutdown,
}

/// What a session sends to its worker; an offer carries everything that it needs.
#[derive(Debug)]
pub enum SessionMessage {
    /// The session stands: attempts, what becomes of them, and how much of their output is stored.
    Welcome(Vec<(AttemptId, Verdict, u64)>),
    /// The coordinator is alive.
    Heartbeat,
    /// Something to run.
    Offer(Box<Offer>),
    /// End the attempt.
    Stop {
        /// Which.
        attempt: AttemptId,
        /// Between TERM and KILL; 0: KILL at once.
        grace_ms: u32,
    },
    /// Result and output are stored.
    Acknowledged(AttemptId),
    /// The session ends. The last message.
    Goodbye(String),
}

/// Something to run.
#[derive(Debug)]
pub struct Offer {
    /// Which attempt.
    pub attempt: AttemptId,
    /// What to run.
    pub spec: TaskSpec,
    /// Output past so many bytes is thrown away and counted.
    pub log_limit: u64,
    /// The key of its batch, in the clear.
    pub api_key: Option<Secret>,
    /// What the worker does to it by itself.
    pub terms: Terms,
}

/// A worker's session: what the Attach stream is to send.
pub struct Session {
    /// Goes with everything that the worker says.
    pub id: SessionId,
    /// To be sent, in order. Ends when the engine closes the session.
    pub messages: mpsc::Receiver<SessionMessage>,
}

/// The way into the engine.
#[derive(Clone)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    next_session: Arc<AtomicU64>,
    available_workers: Arc<AtomicU32>,
}

impl Handle {
    pub(super) fn new(inputs: mpsc::Sender<Input>, available_workers: Arc<AtomicU32>) -> Self {
        Self { inputs, next_session: Arc::new(AtomicU64::new(1)), available_workers }
    }

    /// Stores a batch. The answer names the batch (an older one where the request id says so).
    pub async fn submit(&self, submit: Submit) -> Result<(BatchId, Revision), Error> {
        self.batch(|reply| Input::Submit(Box::new(submit), reply)).await
    }

    /// Lets a batch that is on hold go on.
    pub async fn release(&self, release: Release) -> Result<(BatchId, Revision), Error> {
        self.batch(|reply| Input::Release(release, reply)).await
    }

    /// Ends tasks.
    pub async fn cancel(&self, cancel: Cancel) -> Result<(BatchId, Revision), Error> {
        self.batch(|reply| Input::Cancel(cancel, reply)).await
    }

    /// Runs ended tasks again.
    pub async fn retry(&self, retry: Retry) -> Result<(BatchId, Revision), Error> {
        self.batch(|reply| Input::Retry(Box::new(retry), reply)).await
    }

    /// Drains or resumes a worker, by name.
    pub async fn steer(&self, worker: String, steer: Steer) -> Result<WorkerView, Error> {
        match self.call(|reply| Input::Steer(worker, steer, reply)).await? {
            Reply::Worker(view) => Ok(*view),
            Reply::Refused(refused) => Err(refused.into()),
            _ => Err(Stopped.into()),
        }
    }

    /// All workers that are known, by name.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, Error> {
        match self.call(Input::Workers).await? {
            Reply::Workers(views) => Ok(views),
            _ => Err(Stopped.into()),
        }
    }

    /// Why tasks of a batch (or one of them) do not run. `None`: the batch has ended by now, or there is none;
    /// what is so is in the store.
    pub async fn explain(
        &self,
        batch: BatchId,
        task: Option<TaskIndex>,
    ) -> Result<Option<Explanation>, Error> {
        match self.call(|reply| Input::Explain(batch, task, reply)).await? {
            Reply::Explained(explanation) => Ok(explanation.map(|explanation| *explanation)),
            Reply::Refused(refused) => Err(refused.into()),
            _ => Err(Stopped.into()),
        }
    }

    /// Workers that can take tasks now.
    pub fn available_workers(&self) -> u32 {
        self.available_workers.load(Ordering::Relaxed)
    }

    /// Opens a session. `detach` must follow, unless it is refused.
    pub async fn attach(&self, hello: Hello) -> Result<Session, Error> {
        let id = SessionId(self.next_session.fetch_add(1, Ordering::Relaxed));
        let (sender, messages) = mpsc::channel(SESSION_CAPACITY);
        match self.call(|reply| Input::Hello(id, Box::new(hello), sender, reply)).await? {
            Reply::Attached => Ok(Session { id, messages }),
            refused => {
                // The engine has the session's outbox and lets go of it.
                self.detach(id).await?;
                Err(match refused {
                    Reply::Refused(refused) => refused.into(),
                    _ => Stopped.into(),
                })
            }
        }
    }

    /// Hands in what a worker said; waits while the engine is behind.
    pub async fn worker_says(&self, session: SessionId, said: FromWorker) -> Result<(), Stopped> {
        self.inputs.send(Input::Worker(session, said)).await.map_err(|_| Stopped)
    }

    /// Says that a session's stream has ended.
    pub async fn detach(&self, session: SessionId) -> Result<(), Stopped> {
        self.inputs.send(Input::Gone(session)).await.map_err(|_| Stopped)
    }

    /// Says that output is synced up to an offset. Called by the log writer's thread.
    pub fn log_stored_blocking(&self, attempt: AttemptId, offset: u64) -> Result<(), Stopped> {
        self.inputs.blocking_send(Input::LogStored(attempt, offset)).map_err(|_| Stopped)
    }

    /// Removes a slice of an ended batch from the store; true once nothing of it is left. One that has not ended
    /// (it was retried meanwhile) is left alone, which is true at once.
    pub async fn remove(&self, batch: BatchId) -> Result<bool, Stopped> {
        let (sender, receiver) = oneshot::channel();
        self.inputs.send(Input::Remove(batch, sender)).await.map_err(|_| Stopped)?;
        receiver.await.map_err(|_| Stopped)
    }

    /// Forgets a slice of the requests that came before `before_ms` and whose batch is gone; true once none is left.
    pub async fn forget_requests(&self, before_ms: UnixMs) -> Result<bool, Stopped> {
        let (sender, receiver) = oneshot::channel();
        self.inputs.send(Input::ForgetRequests(before_ms, sender)).await.map_err(|_| Stopped)?;
        receiver.await.map_err(|_| Stopped)
    }

    /// Asks the engine to stop after the group in flight. Sessions get a goodbye.
    pub async fn shut_down(&self) {
        // It may have stopped by itself, which is as good.
        let _ = self.inputs.send(Input::Shutdown).await;
    }

    async fn batch(
        &self,
        input: impl FnOnce(oneshot::Sender<Reply>) -> Input,
    ) -> Result<(BatchId, Revision), Error> {
        match self.call(input).await? {
            Reply::Batch(batch, revision) => Ok((batch, revision)),
            Reply::Refused(refused) => Err(refused.into()),
            _ => Err(Stopped.into()),
        }
    }

    async fn call(&self, input: impl FnOnce(oneshot::Sender<Reply>) -> Input) -> Result<Reply, Stopped> {
        let (sender, receiver) = oneshot::channel();
        self.inputs.send(input(sender)).await.map_err(|_| Stopped)?;
        receiver.await.map_err(|_| Stopped)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::core::model::{InstanceId, WorkerRef};

    #[tokio::test]
    async fn a_session_that_is_refused_is_let_go_of() {
        let (sender, mut inputs) = mpsc::channel(2);
        let handle = Handle::new(sender, Arc::default());
        let hello = Hello {
            worker: WorkerRef { instance: InstanceId("0".repeat(32)), name: "w".into() },
            boot_id: "boot".into(),
            slots: 1,
            labels: BTreeMap::new(),
            version: "1".into(),
            held: vec![],
            draining: false,
            connection: 1,
        };
        let engine = async {
            let Some(Input::Hello(session, _, _outbox, reply)) = inputs.recv().await else { return false };
            reply.send(Reply::Refused(Refused::Clone)).unwrap();
            matches!(inputs.recv().await, Some(Input::Gone(gone)) if gone == session)
        };
        let (attached, let_go) = tokio::join!(handle.attach(hello), engine);
        assert_eq!(attached.err(), Some(Error::Refused(Refused::Clone)));
        assert!(let_go);
    }
}
