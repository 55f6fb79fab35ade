//! What leaves the engine after a commit: answers, messages to workers, news for watchers.
//!
//! Owns the reply channels and the sessions' outboxes; a full outbox cuts its session off.

use std::collections::{BTreeMap, HashMap};

use muster_proto::{AttemptId, BatchId};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use super::{
    LogOffsets, Unseal,
    handle::{Input, Offer, SessionMessage},
};
use crate::{
    core::{
        event::{Change, Event, Output, Reply, ReplyId, SessionId, Terms, ToWorker},
        model::{FailureReason, TaskKey},
        plan::TaskSpec,
    },
    secrets::Secret,
    store::{self, Store},
    watch::Hub,
};

/// An offer that could not be sent for the task's own sake.
pub(super) type Unsendable = (AttemptId, FailureReason, String);

pub(super) struct Outputs {
    hub: Hub,
    logs: Box<dyn LogOffsets>,
    keys: Box<dyn Unseal>,
    log_limit: u64,
    replies: HashMap<ReplyId, oneshot::Sender<Reply>>,
    next_reply: u64,
    sessions: HashMap<SessionId, mpsc::Sender<SessionMessage>>,
}

impl Outputs {
    pub(super) fn new(hub: Hub, logs: Box<dyn LogOffsets>, keys: Box<dyn Unseal>, log_limit: u64) -> Self {
        Self { hub, logs, keys, log_limit, replies: HashMap::new(), next_reply: 0, sessions: HashMap::new() }
    }

    /// Turns an input into an event, keeping where its answer goes. `None`: shut down.
    pub(super) fn admit(&mut self, input: Input) -> Option<Event> {
        Some(match input {
            Input::Submit(submit, reply) => Event::Submit(self.expect(reply), submit),
            Input::Cancel(cancel, reply) => Event::Cancel(self.expect(reply), cancel),
            Input::Release(release, reply) => Event::Release(self.expect(reply), release),
            Input::Retry(retry, reply) => Event::Retry(self.expect(reply), retry),
            Input::Steer(worker, steer, reply) => Event::Steer(self.expect(reply), worker, steer),
            Input::Workers(reply) => Event::Workers(self.expect(reply)),
            Input::Explain(batch, task, reply) => Event::Explain(self.expect(reply), batch, task),
            Input::Hello(session, hello, outbox, reply) => {
                self.sessions.insert(session, outbox);
                Event::Hello(self.expect(reply), session, hello)
            }
            Input::Worker(session, said) => Event::Worker(session, said),
            Input::Gone(session) => {
                self.sessions.remove(&session);
                Event::Gone(session)
            }
            Input::LogStored(attempt, offset) => Event::LogStored(attempt, offset),
            // The engine has taken the removals out.
            Input::Remove(..) | Input::ForgetRequests(..) | Input::Shutdown => return None,
        })
    }

    pub(super) fn log_stored(&self, attempt: AttemptId) -> u64 {
        self.logs.stored(attempt)
    }

    /// Releases what follows from a committed group.
    pub(super) fn release(
        &mut self,
        store: &mut dyn Store,
        changes: &[Change],
        outputs: Vec<Output>,
    ) -> Result<Vec<Unsendable>, store::Error> {
        for change in changes {
            match change {
                Change::NewBatch { head, state, .. } => self.hub.publish(head.id, state.revision),
                Change::Batch(batch, state) => self.hub.publish(*batch, state.revision),
                _ => {}
            }
        }
        let loads = Loads::read(store, &outputs, self.keys.as_ref())?;
        let mut unsendable = Vec::new();
        for output in outputs {
            match output {
                Output::Reply(id, reply) => {
                    if let Some(sender) = self.replies.remove(&id) {
                        // The caller may have gone; what it asked for is done all the same.
                        let _ = sender.send(reply);
                    }
                }
                Output::Send(session, message) => match self.load(message, &loads) {
                    Ok(message) => self.send(session, message),
                    Err(failed) => unsendable.push(failed),
                },
                Output::Close(session, reason) => self.close(session, &reason),
            }
        }
        Ok(unsendable)
    }

    /// Says goodbye to every session.
    pub(super) fn close_all(&mut self, reason: &str) {
        let sessions: Vec<_> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.close(session, reason);
        }
    }

    fn expect(&mut self, reply: oneshot::Sender<Reply>) -> ReplyId {
        self.next_reply += 1;
        let id = ReplyId(self.next_reply);
        self.replies.insert(id, reply);
        id
    }

    fn load(&self, message: ToWorker, loads: &Loads) -> Result<SessionMessage, Unsendable> {
        Ok(match message {
            ToWorker::Welcome(verdicts) => SessionMessage::Welcome(
                verdicts.into_iter().map(|(id, verdict)| (id, verdict, self.logs.stored(id))).collect(),
            ),
            ToWorker::Offer(attempt, terms) => {
                SessionMessage::Offer(Box::new(loads.offer(attempt, terms, self.log_limit)?))
            }
            ToWorker::Stop { attempt, grace_ms } => SessionMessage::Stop { attempt, grace_ms },
            ToWorker::Acknowledged(attempt) => SessionMessage::Acknowledged(attempt),
        })
    }

    fn send(&mut self, session: SessionId, message: SessionMessage) {
        let Some(outbox) = self.sessions.get(&session) else { return };
        match outbox.try_send(message) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => {
                tracing::warn!(?session, "a worker reads too slowly; its session ends")
            }
            Err(TrySendError::Closed(_)) => tracing::debug!(?session, "a session has ended"),
        }
        self.sessions.remove(&session);
    }

    fn close(&mut self, session: SessionId, reason: &str) {
        self.send(session, SessionMessage::Goodbye(reason.into()));
        self.sessions.remove(&session);
    }
}

/// What the offers of one group need from the store, read in bulk.
struct Loads {
    specs: HashMap<TaskKey, TaskSpec>,
    keys: BTreeMap<BatchId, Result<Option<Secret>, String>>,
}

impl Loads {
    fn read(store: &mut dyn Store, outputs: &[Output], unseal: &dyn Unseal) -> Result<Self, store::Error> {
        let wanted: Vec<TaskKey> = outputs
            .iter()
            .filter_map(|output| match output {
                Output::Send(_, ToWorker::Offer(id, _)) => Some((id.batch, id.task)),
                _ => None,
            })
            .collect();
        let mut keys = BTreeMap::new();
        for (batch, _) in &wanted {
            if !keys.contains_key(batch) {
                let sealed = store.secret(*batch)?;
                let key = sealed.map(|sealed| unseal.unseal(*batch, &sealed)).transpose();
                keys.insert(*batch, key);
            }
        }
        let specs = if wanted.is_empty() { Vec::new() } else { store.specs(&wanted)? };
        Ok(Self { specs: wanted.into_iter().zip(specs).collect(), keys })
    }

    fn offer(&self, attempt: AttemptId, terms: Terms, log_limit: u64) -> Result<Offer, Unsendable> {
        let api_key = match self.keys.get(&attempt.batch) {
            None | Some(Ok(None)) => None,
            Some(Ok(Some(key))) => Some(Secret::new(key.expose().to_owned())),
            Some(Err(why)) => {
                let message = format!("its API key can no longer be read: {why}");
                return Err((attempt, FailureReason::SecretUnavailable, message));
            }
        };
        // Not taken out: where a worker dials in anew, a task can be offered twice in a group.
        match self.specs.get(&(attempt.batch, attempt.task)).cloned() {
            Some(spec) => Ok(Offer { attempt, spec, log_limit, api_key, terms }),
            // Every offer's spec was read above.
            None => Err((attempt, FailureReason::WorkerCrashed, "its parameters could not be read".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::{AttemptNo, LifeId, TaskIndex};

    use super::*;

    #[test]
    fn a_task_can_be_offered_twice_in_a_group() {
        let batch = BatchId::new(1, 0);
        let loads = Loads {
            specs: HashMap::from([((batch, TaskIndex(1)), TaskSpec::default())]),
            keys: BTreeMap::from([(batch, Ok(None))]),
        };
        for attempt in [1, 2].map(AttemptNo) {
            let id = AttemptId { life: LifeId(1), batch, task: TaskIndex(1), attempt };
            let terms = Terms { time_limit_ms: None, grace_ms: 0, stop_after_cut_off_ms: None };
            assert!(
                loads.offer(id, terms, 1).is_ok(),
                "the first went to a session that was replaced meanwhile"
            );
        }
    }
}
