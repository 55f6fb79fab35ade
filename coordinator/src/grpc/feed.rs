//! Reads what changed in a batch once for all its watchers.
//!
//! Holds the newest pages of changes of each batch that is watched now. A watcher whose cursor is in them gets its
//! page from here; one that is behind them reads the store itself until it has caught up. So watchers of one batch
//! cost one reading a change, however many they are.
//!
//! Memory: for each watched batch the newest page, and older ones as long as all together have at most
//! [`KEPT_TASKS`] tasks. Nothing for a batch with a single watcher.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use muster_proto::{BatchId, v1};
use tonic::Status;

use crate::{
    core::model::Revision,
    store::{Page, PageBounds},
};

use super::{context::Context, status, watch::BEHIND_PAUSE};

/// Tasks and bytes of specs in one message; as sent, a task has its parameters twice. Small, because each of a
/// thousand watchers that are slow to read may have a few such messages waiting.
const BOUNDS: PageBounds = PageBounds { tasks: 250, bytes: 128 * 1_024 };
/// Older pages are kept while all of a batch have so many tasks at most.
const KEPT_TASKS: usize = 2_000;
/// What one more watcher adds to the least time between two messages, so that however many there are, most of the
/// machine is left for other work.
const PAUSE_EACH: Duration = Duration::from_micros(100);
/// And no watcher waits for longer.
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// A place in the order of changes: behind this task's change of this revision.
pub(super) type Cursor = (Revision, u32);
/// Beyond the index of every task: a cursor after all of a revision.
pub(super) const ALL: u32 = u32::MAX;

/// The feeds of the batches that are watched. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Feeds {
    batches: Arc<Mutex<HashMap<BatchId, Weak<Feed>>>>,
    /// Counted by its clones.
    watchers: Arc<()>,
}

/// One watcher's hold on the feed of its batch.
pub(super) struct Watcher {
    id: BatchId,
    feed: Arc<Feed>,
    watchers: Arc<()>,
}

/// The newest changes of one batch.
#[derive(Default)]
struct Feed {
    /// Held while the next page is read: who wants the same one waits for it.
    pages: tokio::sync::Mutex<Pages>,
}

/// A page of changes, as it is sent.
#[derive(Debug)]
pub(super) struct Changes {
    after: Cursor,
    /// Where to go on.
    pub(super) to: Cursor,
    /// The batch's revision when this was read.
    pub(super) now: Revision,
    /// There was more when this was read.
    pub(super) more: bool,
    /// The batch has ended, and this is the last.
    pub(super) ended: bool,
    message: v1::WatchBatchResponse,
}

impl Feeds {
    /// Joins the watchers of a batch.
    pub(super) fn join(&self, id: BatchId) -> Watcher {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        // Those whose last watcher has gone are dropped here, so the map is bounded by the live watchers.
        batches.retain(|_, feed| feed.strong_count() > 0);
        let feed = batches.get(&id).and_then(Weak::upgrade).unwrap_or_else(|| {
            let feed = Arc::new(Feed::default());
            batches.insert(id, Arc::downgrade(&feed));
            feed
        });
        Watcher { id, feed, watchers: Arc::clone(&self.watchers) }
    }
}

impl Watcher {
    /// The changes after a cursor, perhaps none. `published`: the revision that the batch is known to have; a
    /// snapshot is never older. `seen`: the one that the watcher was shown; it is never shown an older one.
    pub(super) async fn next(
        &self,
        context: &Context,
        cursor: Cursor,
        published: Revision,
        seen: Revision,
    ) -> Result<Arc<Changes>, Status> {
        if Arc::strong_count(&self.feed) == 1 {
            return self.read(context, cursor).await;
        }
        let mut pages = self.feed.pages.lock().await;
        if let Some(found) = pages.find(cursor, published, seen) {
            return Ok(found);
        }
        if !pages.continues(cursor) {
            drop(pages);
            return self.read(context, cursor).await;
        }
        let changes = self.read(context, cursor).await?;
        pages.push(Arc::clone(&changes));
        Ok(changes)
    }

    /// The least time from one message to the next.
    pub(super) fn pause(&self) -> Duration {
        // The feeds have one themselves.
        let watchers = u32::try_from(Arc::strong_count(&self.watchers).saturating_sub(1)).unwrap_or(u32::MAX);
        PAUSE_EACH.saturating_mul(watchers).clamp(BEHIND_PAUSE, MAX_PAUSE)
    }

    async fn read(&self, context: &Context, cursor: Cursor) -> Result<Arc<Changes>, Status> {
        let id = self.id;
        let page = context.read(move |reader| reader.changed(id, cursor, BOUNDS)).await?;
        let page = page.ok_or_else(|| status::unknown_batch(id))?;
        Ok(Arc::new(Changes::new(context, cursor, &page)))
    }
}

impl Changes {
    fn new(context: &Context, after: Cursor, page: &Page) -> Self {
        let now = page.batch.state.revision;
        let last = page.tasks.last().map(|task| (task.state.revision, task.index.0));
        let (to, revision) = match last {
            // While more is to come, the revision to go on from is the one before the last task's.
            Some(last) if page.more => (last, last.0 - 1),
            _ => ((now, ALL), now),
        };
        let message = v1::WatchBatchResponse {
            life_id: context.life.to_string(),
            revision,
            batch: Some(context.batch(&page.batch)),
            tasks: page.tasks.iter().map(|task| context.task(&page.batch, task)).collect(),
        };
        let ended = page.batch.state.status.is_ended() && !page.more;
        Self { after, to, now, more: page.more, ended, message }
    }

    /// The message for a watcher that has seen everything up to its cursor, and `sent` to go on from.
    pub(super) fn message(&self, cursor: Cursor, sent: Revision) -> v1::WatchBatchResponse {
        let mut message = self.message.clone();
        if cursor > self.after {
            message.tasks.retain(|task| (task.revision, u32::try_from(task.index).unwrap_or(ALL)) > cursor);
        }
        message.revision = message.revision.max(sent);
        message
    }
}

/// Pages in order, each beginning where the one before ended. Pure.
#[derive(Default)]
struct Pages(VecDeque<Arc<Changes>>);

impl Pages {
    /// The page with what follows a cursor.
    fn find(&self, cursor: Cursor, published: Revision, seen: Revision) -> Option<Arc<Changes>> {
        let found = self.0.iter().find(|page| page.after <= cursor && cursor < page.to)?;
        // A snapshot is what is, not what was, and an end that a retry has undone is none.
        let outdated = found.now < seen || (found.now < published && (cursor.0 == 0 || found.ended));
        (!outdated).then(|| Arc::clone(found))
    }

    /// Whether what follows a cursor belongs here: it is where the pages end or, a part left out, later.
    fn continues(&self, cursor: Cursor) -> bool {
        self.0.back().is_none_or(|last| cursor >= last.to)
    }

    fn push(&mut self, changes: Arc<Changes>) {
        if changes.to <= changes.after {
            return;
        }
        if self.0.back().is_some_and(|last| last.to != changes.after) {
            self.0.clear();
        }
        self.0.push_back(changes);
        let mut tasks: usize = self.0.iter().map(|page| page.message.tasks.len()).sum();
        while tasks > KEPT_TASKS && self.0.len() > 1 {
            tasks -= self.0.pop_front().map_or(0, |page| page.message.tasks.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(after: Cursor, tasks: &[(Revision, i32)], now: Revision, ended: bool) -> Arc<Changes> {
        let tasks =
            tasks.iter().map(|&(revision, index)| v1::Task { revision, index, ..v1::Task::default() });
        let message = v1::WatchBatchResponse { revision: now, tasks: tasks.collect(), ..Default::default() };
        Arc::new(Changes { after, to: (now, ALL), now, more: false, ended, message })
    }

    #[test]
    fn watchers_at_the_same_place_share_a_page_and_one_in_its_middle_gets_the_rest() {
        let mut pages = Pages::default();
        assert!(pages.continues((0, ALL)));
        pages.push(page((3, ALL), &[(4, 1), (6, 2)], 6, false));
        assert!(pages.find((3, ALL), 6, 0).is_some());
        let found = pages.find((4, ALL), 6, 0).unwrap();
        let message = found.message((4, ALL), 4);
        assert_eq!(message.tasks.iter().map(|task| task.index).collect::<Vec<_>>(), [2]);
        assert_eq!(message.revision, 6);
        assert!(pages.find((6, ALL), 6, 0).is_none() && pages.continues((6, ALL)));
        assert!(pages.find((2, ALL), 6, 0).is_none() && !pages.continues((2, ALL)), "it reads for itself");
    }

    #[test]
    fn neither_a_snapshot_nor_an_end_is_older_than_what_is_known() {
        let mut pages = Pages::default();
        pages.push(page((0, ALL), &[(1, 1)], 1, false));
        assert!(pages.find((0, ALL), 1, 0).is_some());
        assert!(pages.find((0, ALL), 2, 0).is_none());
        pages.push(page((1, ALL), &[(2, 1)], 2, true));
        assert!(pages.find((1, ALL), 2, 0).is_some());
        assert!(pages.find((1, ALL), 3, 0).is_none(), "it was reopened");
    }

    #[test]
    fn a_watcher_never_sees_the_batch_as_it_was_before() {
        let mut pages = Pages::default();
        pages.push(page((5, 7), &[(6, 1)], 12, false));
        assert!(pages.find((5, 9), 20, 12).is_some());
        assert!(pages.find((5, 9), 20, 20).is_none(), "its last message was of revision 20");
    }

    #[test]
    fn what_is_kept_is_bounded_and_has_no_gap() {
        let mut pages = Pages::default();
        let tasks: Vec<(Revision, i32)> = (1..=600).map(|index| (1, index)).collect();
        for revision in 0..20 {
            pages.push(page((revision, ALL), &tasks, revision + 1, false));
        }
        assert_eq!(pages.0.len(), KEPT_TASKS / tasks.len());
        pages.push(page((20, ALL), &[], 20, false));
        assert_eq!(pages.0.len(), KEPT_TASKS / tasks.len(), "nothing new is no page");
        pages.push(page((25, ALL), &[], 26, false));
        assert_eq!(pages.0.len(), 1);
    }
}
