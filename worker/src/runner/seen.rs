//! Which attempts the runner has seen, so that none is started twice.
//!
//! Attempts of a task are numbered upwards, so one number a task is enough: whatever is not higher was seen, or
//! is older than what was seen. What is kept is bounded; the batches first seen longest ago go first.

use std::collections::{HashMap, VecDeque};

use super::protocol::AttemptKey;

/// The most tasks remembered: 8 bytes each.
pub(super) const MAX_TASKS: usize = 1_000_000;
/// The most batches remembered: about 100 bytes each.
pub(super) const MAX_BATCHES: usize = 100_000;

/// The set of attempts seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Per life and batch: the tasks, ascending, with the highest attempt seen of each.
    batches: HashMap<(u64, u64), Vec<(u32, u32)>>,
    /// The batches as they were first seen.
    order: VecDeque<(u64, u64)>,
    tasks: usize,
}

impl Seen {
    /// Whether this attempt, or a later one of its task, was seen.
    pub(super) fn contains(&self, key: AttemptKey) -> bool {
        self.batches.get(&(key.life, key.batch)).is_some_and(|tasks| {
            tasks
                .binary_search_by_key(&key.task, |(task, _)| *task)
                .is_ok_and(|at| tasks[at].1 >= key.attempt)
        })
    }

    /// Remembers an attempt.
    pub(super) fn insert(&mut self, key: AttemptKey) {
        let batch = (key.life, key.batch);
        let tasks = self.batches.entry(batch).or_insert_with(|| {
            self.order.push_back(batch);
            Vec::new()
        });
        match tasks.binary_search_by_key(&key.task, |(task, _)| *task) {
            Ok(at) => tasks[at].1 = tasks[at].1.max(key.attempt),
            Err(at) => {
                tasks.insert(at, (key.task, key.attempt));
                self.tasks += 1;
            }
        }
        self.evict(batch);
    }

    fn evict(&mut self, keep: (u64, u64)) {
        while self.tasks > MAX_TASKS || self.order.len() > MAX_BATCHES {
            let Some(oldest) = self.order.pop_front() else { return };
            if oldest == keep {
                self.order.push_front(oldest);
                if self.order.len() > 1 {
                    self.order.swap(0, 1);
                    continue;
                }
                // One batch alone is over the limit: its lowest tasks go, since tasks are handed out in order.
                // A tenth at a time, since what is left is moved.
                if let Some(tasks) = self.batches.get_mut(&keep) {
                    let over = MAX_TASKS / 10;
                    tasks.drain(..over);
                    self.tasks -= over;
                }
                return;
            }
            if let Some(tasks) = self.batches.remove(&oldest) {
                self.tasks -= tasks.len();
            }
        }
    }

    /// The highest attempt seen of every task, the oldest batch first.
    pub(super) fn iter(&self) -> impl Iterator<Item = AttemptKey> {
        self.order.iter().flat_map(|&(life, batch)| {
            let tasks = self.batches.get(&(life, batch)).map(Vec::as_slice).unwrap_or_default();
            tasks.iter().map(move |&(task, attempt)| AttemptKey { life, batch, task, attempt })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(batch: u64, task: u32, attempt: u32) -> AttemptKey {
        AttemptKey { life: 1, batch, task, attempt }
    }

    #[test]
    fn an_attempt_and_those_before_it_are_seen() {
        let mut seen = Seen::default();
        seen.insert(key(1, 5, 2));
        seen.insert(key(1, 3, 1));
        assert!(seen.contains(key(1, 5, 2)) && seen.contains(key(1, 5, 1)) && seen.contains(key(1, 3, 1)));
        assert!(!seen.contains(key(1, 5, 3)) && !seen.contains(key(1, 4, 1)) && !seen.contains(key(2, 5, 2)));
        seen.insert(key(1, 5, 1));
        assert!(seen.contains(key(1, 5, 2)), "an older one does not take back a newer one");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes() {
        let mut seen = Seen::default();
        for batch in 0..=MAX_BATCHES as u64 {
            seen.insert(key(batch, 0, 1));
        }
        assert!(!seen.contains(key(0, 0, 1)) && seen.contains(key(1, 0, 1)));
        assert_eq!(seen.iter().count(), MAX_BATCHES);
        for task in 0..MAX_TASKS as u32 + 10 {
            seen.insert(key(1, task, 1));
        }
        assert!(!seen.contains(key(1, 0, 1)) && seen.contains(key(1, MAX_TASKS as u32 + 9, 1)));
        assert!(seen.iter().count() <= MAX_TASKS);
    }
}
