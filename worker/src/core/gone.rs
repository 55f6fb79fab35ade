//! Attempts that were here lately, so that a late or repeated message about one is answered rightly. Bounded:
//! the runner's journal is what never forgets.

use std::collections::{HashMap, VecDeque};

use muster_proto::AttemptId;

/// How many are remembered.
const MAX_GONE: usize = 4096;

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was never started and is refused.
    Refused,
    /// It had ended, and its result is stored.
    Stored,
}

/// The attempts that went last.
#[derive(Debug, Default)]
pub(super) struct Gone {
    fates: HashMap<AttemptId, Fate>,
    order: VecDeque<AttemptId>,
}

impl Gone {
    pub(super) fn insert(&mut self, attempt: AttemptId, fate: Fate) {
        if self.fates.insert(attempt, fate).is_some() {
            return;
        }
        self.order.push_back(attempt);
        if self.order.len() > MAX_GONE
            && let Some(oldest) = self.order.pop_front()
        {
            self.fates.remove(&oldest);
        }
    }

    pub(super) fn fate(&self, attempt: AttemptId) -> Option<Fate> {
        self.fates.get(&attempt).copied()
    }
}
