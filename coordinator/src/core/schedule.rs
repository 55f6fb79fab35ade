//! Who gets what: the oldest batch first, its tasks in index order, the worker with the most free places.
//!
//! An offer is committed before it is sent.

use std::ops::Bound;

use muster_proto::AttemptId;

use super::{
    event::{Change, ToWorker},
    machine::{Machine, Turn},
    timers::Timer,
};

/// Offers made in one turn, so that a turn stays short; a `Tick` goes on with the rest.
const MAX_OFFERS_A_TURN: usize = 1_000;

impl Machine {
    pub(super) fn schedule(&mut self, turn: &mut Turn) {
        for batch in &turn.touched {
            self.note_ready(*batch);
        }
        let mut left = MAX_OFFERS_A_TURN;
        self.offers_left = false;
        let mut next = self.ready.first().copied();
        while let Some(batch) = next {
            if self.fleet.freest().next().is_none() {
                return;
            }
            while left > 0 && self.offer_one(turn, batch) {
                left -= 1;
            }
            self.note_ready(batch);
            self.offers_left = left == 0;
            if left == 0 {
                return;
            }
            next = self.ready.range((Bound::Excluded(batch), Bound::Unbounded)).next().copied();
        }
    }

    /// Offers the batch's next task to the freest worker that it fits.
    fn offer_one(&mut self, turn: &mut Turn, batch: muster_proto::BatchId) -> bool {
        let Some(live) = self.batches.get_mut(&batch) else { return false };
        if !live.is_ready() {
            return false;
        }
        let found = self
            .fleet
            .freest()
            .find_map(|instance| live.next_for(instance).map(|task| (instance.clone(), task)));
        let Some((instance, task)) = found else { return false };
        let Some((who, session)) =
            self.fleet.get(&instance).and_then(|worker| Some((worker.who.clone(), worker.session()?)))
        else {
            return false;
        };
        turn.touch(live);
        let Some(attempt) = live.offer(task, who) else { return false };
        let id = AttemptId { life: self.life, batch, task, attempt };
        if let Some(row) = live.active_row(task, attempt) {
            turn.change(Change::Task(batch, task, Box::new(row)));
        }
        self.fleet.change(&instance, |worker| worker.held.insert(id));
        self.timers.set(turn.now.mono_ms + self.config.offer_timeout_ms, Timer::Offer(id));
        let terms = live.terms(task, self.config.lost_after_ms);
        turn.send(session, ToWorker::Offer(id, terms));
        true
    }
}
