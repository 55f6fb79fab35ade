//! Timers as data: what is due when. A timer that no longer applies is ignored when it fires.

use std::collections::BTreeSet;

use muster_proto::{AttemptId, BatchId, TaskIndex};

use super::model::InstanceId;

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// An offer was to be answered by now.
    Offer(AttemptId),
    /// A worker that is away was to be back by now.
    Away(InstanceId),
    /// A worker that gave an offer back may get tasks again.
    Unpause(InstanceId),
    /// A task may have waited long enough for its retry.
    Retry(BatchId, TaskIndex),
    /// Tasks of a batch may have waited too long for their first start.
    Queue(BatchId),
}

/// All timers.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(u64, Timer)>);

impl Timers {
    pub(super) fn set(&mut self, at_mono_ms: u64, timer: Timer) {
        self.0.insert((at_mono_ms, timer));
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<u64> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes the next one that is due.
    pub(super) fn pop_due(&mut self, now_mono_ms: u64) -> Option<Timer> {
        if self.next()? > now_mono_ms {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}
