//! Follows one batch over the watch stream, through restarts of the coordinator.
//!
//! [`Cursor`] decides from where to go on and is pure; [`Follower`] does the calls.

use std::{collections::HashSet, pin::Pin};

use muster_proto::v1::{SchedulerStatus, WatchBatchRequest, WatchBatchResponse};
use tonic::{Code, Streaming};

use crate::{
    backoff::Outage,
    client::{Client, may_come_back},
    error::Error,
};

/// Whether a batch in this state has ended.
pub fn has_ended(status: SchedulerStatus) -> bool {
    match status {
        SchedulerStatus::Completed | SchedulerStatus::Cancelled | SchedulerStatus::Failed => true,
        SchedulerStatus::Unspecified | SchedulerStatus::Queued | SchedulerStatus::Running => false,
    }
}

/// How far a watch has come.
#[derive(Debug, Default)]
pub struct Cursor {
    life_id: String,
    /// The newest revision of which something has arrived.
    revision: Option<i64>,
    /// The newest revision of which everything has arrived. A snapshot, and a catch-up too, may take several
    /// messages of one revision, so the newest one counts only when a later one, or every task, has been seen.
    complete: Option<i64>,
    /// Tasks seen in the snapshot that is being received; empty once it is complete.
    seen: HashSet<i32>,
    ended: bool,
}

impl Cursor {
    /// Takes note of a message.
    pub fn observe(&mut self, message: &WatchBatchResponse) {
        if self.life_id != message.life_id {
            *self = Self { life_id: message.life_id.clone(), ..Self::default() };
        }
        if self.revision.is_some_and(|revision| revision < message.revision) {
            self.complete = self.revision;
            self.seen = HashSet::new();
        }
        self.revision = Some(message.revision);
        if self.complete.is_none() {
            self.seen.extend(message.tasks.iter().map(|task| task.index));
            let task_count = message.batch.as_ref().map_or(i32::MAX, |batch| batch.task_count);
            if self.seen.len() as i64 >= i64::from(task_count) {
                self.complete = self.revision;
                self.seen = HashSet::new();
            }
        }
        if let Some(batch) = &message.batch {
            self.ended = has_ended(batch.scheduler_status());
        }
    }

    /// Whether the last message said that the batch has ended.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Whether there is nothing more to come, even though the stream was cut.
    fn nothing_missing(&self) -> bool {
        self.ended && self.complete.is_some() && self.complete == self.revision
    }

    /// From where to go on: revision and life; `None` for a snapshot.
    pub fn position(&self) -> Option<(i64, &str)> {
        self.complete.map(|revision| (revision, self.life_id.as_str()))
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<WatchBatchResponse>, tonic::Status>> + Send>>;

/// The changes of one batch, until it has ended.
pub struct Follower {
    client: Client,
    batch_id: String,
    cursor: Cursor,
    stream: Option<Streaming<WatchBatchResponse>>,
    /// A call on its way: kept when [`Self::next`] is cancelled, not made again.
    opening: Option<Opening>,
    /// Why a pause is being made: the same.
    failure: Option<String>,
    outage: Outage,
    /// The coordinator has answered before, so it is worth waiting for.
    known: bool,
}

impl Follower {
    /// Follows `batch_id` from a snapshot. `known`: the coordinator has just answered.
    pub fn new(client: &Client, batch_id: &str, known: bool) -> Self {
        Self {
            client: client.clone(),
            batch_id: batch_id.to_owned(),
            cursor: Cursor::default(),
            stream: None,
            opening: None,
            failure: None,
            outage: Outage::default(),
            known,
        }
    }

    /// The next message; `None` once the batch has ended. May be cancelled and called again.
    pub async fn next(&mut self) -> Result<Option<WatchBatchResponse>, Error> {
        loop {
            if let Some(failure) = &self.failure {
                self.outage.wait(self.client.context(), failure).await?;
                self.failure = None;
            }
            let failure = match self.receive().await {
                Ok(Some(message)) => {
                    self.cursor.observe(&message);
                    return Ok(Some(message));
                }
                Ok(None) if self.cursor.ended() => return Ok(None),
                // A coordinator that shuts down ends its streams; only an ended batch ends them for good.
                Ok(None) => "the stream ended".to_owned(),
                Err(_) if self.cursor.nothing_missing() => return Ok(None),
                Err(status) if status.code() == Code::OutOfRange && self.cursor.position().is_some() => {
                    self.client
                        .context()
                        .io
                        .say("the store has begun a new life; starting again from a snapshot");
                    self.cursor = Cursor::default();
                    self.stream = None;
                    continue;
                }
                Err(status) if self.known && may_come_back(&status) => match self.client.error(&status) {
                    Error::Unreachable { detail, .. } => detail,
                    other => other.to_string(),
                },
                Err(status) => return Err(self.client.error(&status)),
            };
            self.stream = None;
            self.failure = Some(failure);
        }
    }

    async fn receive(&mut self) -> Result<Option<WatchBatchResponse>, tonic::Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let opening = match &mut self.opening {
                    Some(opening) => opening,
                    None => {
                        let position = self.cursor.position();
                        let request = WatchBatchRequest {
                            batch_id: self.batch_id.clone(),
                            after_revision: position.map(|(revision, _)| revision),
                            life_id: position.map(|(_, life)| life.to_owned()).unwrap_or_default(),
                        };
                        let mut batches = self.client.batches();
                        self.opening.insert(Box::pin(async move {
                            batches.watch_batch(request).await.map(tonic::Response::into_inner)
                        }))
                    }
                };
                let opened = opening.await;
                self.opening = None;
                let stream = opened?;
                // It has answered; the next message may be long in coming.
                self.known = true;
                self.outage.over(self.client.context());
                self.stream.insert(stream)
            }
        };
        stream.message().await
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{Batch, Task};

    use super::*;

    fn message(life: &str, revision: i64, tasks: &[i32], status: SchedulerStatus) -> WatchBatchResponse {
        WatchBatchResponse {
            life_id: life.to_owned(),
            revision,
            batch: Some(Batch { task_count: 3, scheduler_status: status.into(), ..Batch::default() }),
            tasks: tasks.iter().map(|&index| Task { index, ..Task::default() }).collect(),
        }
    }

    #[test]
    fn half_a_snapshot_is_asked_for_again() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.position(), None);
        cursor.observe(&message("a", 7, &[1, 2], SchedulerStatus::Running));
        assert_eq!(cursor.position(), None);
        cursor.observe(&message("a", 7, &[3], SchedulerStatus::Running));
        assert_eq!(cursor.position(), Some((7, "a")));
    }

    #[test]
    fn the_newest_revision_counts_once_a_later_one_is_there() {
        let mut cursor = Cursor::default();
        cursor.observe(&message("a", 7, &[1, 2, 3], SchedulerStatus::Running));
        cursor.observe(&message("a", 9, &[1], SchedulerStatus::Running));
        assert_eq!(cursor.position(), Some((7, "a")));
        cursor.observe(&message("a", 9, &[2], SchedulerStatus::Running));
        cursor.observe(&message("a", 10, &[2], SchedulerStatus::Completed));
        assert_eq!(cursor.position(), Some((9, "a")));
        assert!(cursor.ended());
    }

    #[test]
    fn another_life_starts_over() {
        let mut cursor = Cursor::default();
        cursor.observe(&message("a", 7, &[1, 2, 3], SchedulerStatus::Running));
        cursor.observe(&message("b", 2, &[1], SchedulerStatus::Running));
        assert_eq!(cursor.position(), None);
    }
}
