//! WatchBatch: a cursor over committed changes.
//!
//! One loop serves the snapshot and what follows: it reads what changed after the cursor, in the order of the
//! changes, and a snapshot is what changed since nothing. However many changes a slow client misses, the next
//! read has each task once. The revision that goes with a message is always one to go on from: while more
//! pages of a read are to come, it is the one before the last task's.

use std::time::Duration;

use muster_proto::{BatchId, v1};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{
    core::model::Revision,
    store::{Page, PageBounds},
};

use super::{context::Context, status};

/// Messages that wait for a client that is slow to read.
const WAITING_MESSAGES: usize = 4;
/// Tasks and bytes of specs in one message; as sent, a task has its parameters twice.
const BOUNDS: PageBounds = PageBounds { tasks: 1_000, bytes: 512 * 1_024 };
/// A watcher that is behind waits so long before it reads again, so that one read has more in it.
pub(crate) const BEHIND_PAUSE: Duration = Duration::from_millis(5);
/// Beyond the index of every task: a cursor after all of a revision.
const ALL: u32 = u32::MAX;

type Sender = mpsc::Sender<Result<v1::WatchBatchResponse, Status>>;

/// Checks the request, then follows the batch in a task of its own.
pub(crate) async fn watch_batch(
    context: Context,
    request: v1::WatchBatchRequest,
) -> Result<ReceiverStream<Result<v1::WatchBatchResponse, Status>>, Status> {
    let id = status::batch_id(&request.batch_id)?;
    if request.after_revision.is_some_and(|after| after < 0) {
        return Err(status::invalid(
            "after_revision",
            "is negative; give a revision that came with a message",
        ));
    }
    // Subscribed before the first read, so that no change falls between.
    let changes = context.hub.subscribe(id);
    let view = context.read(move |reader| reader.batch(id)).await?;
    let view = view.ok_or_else(|| status::unknown_batch(id))?;
    let mut sent = 0;
    if let Some(after) = request.after_revision {
        let life = context.life.to_string();
        if !request.life_id.is_empty() && !request.life_id.eq_ignore_ascii_case(&life) {
            return Err(status::other_life(&request.life_id, context.life));
        }
        if after > view.state.revision {
            let description =
                format!("is {after}, and the batch is at {}; watch again without it", view.state.revision);
            return Err(status::out_of_range("REVISION_UNKNOWN", "after_revision", &description));
        }
        sent = after;
    }
    let (sender, messages) = mpsc::channel(WAITING_MESSAGES);
    tokio::spawn(async move {
        let stopping = context.stopping.clone();
        let end = tokio::select! {
            () = sender.closed() => return,
            () = stopping.cancelled() => Err(status::shutting_down()),
            end = follow(&context, id, sent, changes, &sender) => end,
        };
        if let Err(end) = end {
            // A client that has gone wants no reason.
            let _ = sender.send(Err(end)).await;
        }
    });
    Ok(ReceiverStream::new(messages))
}

/// Sends what changed after `sent` until the batch has ended.
async fn follow(
    context: &Context,
    id: BatchId,
    mut sent: Revision,
    mut changes: watch::Receiver<Revision>,
    sender: &Sender,
) -> Result<(), Status> {
    let mut cursor = (sent, ALL);
    loop {
        // Seen before it is read: what is published from here on wakes us again.
        changes.borrow_and_update();
        let page = context.read(move |reader| reader.changed(id, cursor, BOUNDS)).await?;
        let page = page.ok_or_else(|| status::unknown_batch(id))?;
        let now = page.batch.state.revision;
        let ended = page.batch.state.status.is_ended() && !page.more;
        let last = page.tasks.last().map(|task| (task.state.revision, task.index.0));
        if now > sent || ended {
            sent = match last {
                Some((revision, _)) if page.more => sent.max(revision - 1),
                _ => now,
            };
            if sender.send(Ok(message(context, &page, sent))).await.is_err() {
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
        match last {
            Some(last) if page.more => cursor = last,
            _ => {
                cursor = (now, ALL);
                if changes.has_changed().unwrap_or(false) {
                    tokio::time::sleep(BEHIND_PAUSE).await;
                }
                // The sender lives in the hub as long as a receiver does.
                changes.changed().await.map_err(|_| status::shutting_down())?;
            }
        }
    }
}

fn message(context: &Context, page: &Page, revision: Revision) -> v1::WatchBatchResponse {
    v1::WatchBatchResponse {
        life_id: context.life.to_string(),
        revision,
        batch: Some(context.batch(&page.batch)),
        tasks: page.tasks.iter().map(|task| context.task(&page.batch, task)).collect(),
    }
}
