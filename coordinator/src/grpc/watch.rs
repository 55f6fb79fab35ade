//! WatchBatch: a cursor over committed changes.
//!
//! One loop serves the snapshot and what follows: it reads what changed after the cursor, in the order of the
//! changes, and a snapshot is what changed since nothing. However many changes a slow client misses, the next
//! read has each task once. The revision that goes with a message is always one to go on from: while more
//! pages of a read are to come, it is the one before the last task's. What many watchers of a batch read is read
//! once for all of them, by [`super::feed`].

use std::time::Duration;

use muster_proto::v1;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::core::model::Revision;

use super::{
    context::Context,
    feed::{ALL, Cursor, Watcher},
    status,
};

/// Messages that wait for a client that is slow to read.
const WAITING_MESSAGES: usize = 1;
/// A watcher that is behind waits so long before it reads again, so that one read has more in it.
pub(crate) const BEHIND_PAUSE: Duration = Duration::from_millis(5);
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
    let watcher = context.feeds.join(id);
    let view = context.read(move |reader| reader.batch(id)).await?;
    let view = view.ok_or_else(|| status::unknown_batch(id))?;
    let known = view.state.revision;
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
    let mut following = Following { watcher, changes, known, seen: sent, sent, cursor: (sent, ALL) };
    tokio::spawn(async move {
        let stopping = context.stopping.clone();
        let end = tokio::select! {
            () = sender.closed() => return,
            () = stopping.cancelled() => Err(status::shutting_down()),
            end = following.until_the_end(&context, &sender) => end,
        };
        if let Err(end) = end {
            // A client that has gone wants no reason.
            let _ = sender.send(Err(end)).await;
        }
    });
    Ok(ReceiverStream::new(messages))
}

/// A watch that is under way.
struct Following {
    watcher: Watcher,
    changes: watch::Receiver<Revision>,
    /// The batch has this revision at least.
    known: Revision,
    /// The batch was shown with this revision.
    seen: Revision,
    /// A revision up to which everything has been sent.
    sent: Revision,
    /// What has been sent.
    cursor: Cursor,
}

impl Following {
    /// Sends what changed until the batch has ended.
    async fn until_the_end(&mut self, context: &Context, sender: &Sender) -> Result<(), Status> {
        loop {
            // Seen before it is read: what is published from here on wakes us again.
            self.known = self.known.max(*self.changes.borrow_and_update());
            let page = self.watcher.next(context, self.cursor, self.known, self.seen).await?;
            self.seen = self.seen.max(page.now);
            let read = Instant::now();
            if page.now > self.sent || page.ended {
                let message = page.message(self.cursor, self.sent);
                self.sent = message.revision;
                if sender.send(Ok(message)).await.is_err() {
                    return Ok(());
                }
            }
            if page.ended {
                return Ok(());
            }
            self.cursor = page.to;
            if page.more || page.now < self.known {
                continue;
            }
            let pause = self.watcher.pause();
            if pause > BEHIND_PAUSE || self.changes.has_changed().unwrap_or(false) {
                sleep_until(read + pause).await;
            }
            // The sender lives in the hub as long as a receiver does.
            self.changes.changed().await.map_err(|_| status::shutting_down())?;
        }
    }
}
