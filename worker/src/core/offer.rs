//! Offers: which are taken, which go back, and which wait a moment for the runner.

use muster_proto::AttemptId;

use super::attempt::{Attempt, Phase};
use super::event::{Note, Offer, Outcome, Report, ToCoordinator};
use super::gone::Fate;
use super::{Dispatcher, Leaving, MAX_HELD, Now, PARK_MS, RunnerLink};
use crate::runner::protocol::PINGS_SINCE;

/// An offer that waits for the runner. It is neither taken nor held: whatever happens meanwhile, it can go back.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) until: u64,
    pub(super) offer: Offer,
}

impl Dispatcher {
    pub(super) fn handle_offer(&mut self, now: Now, offer: Offer) {
        let id = offer.attempt;
        if let Some(attempt) = self.attempts.get(&id) {
            match attempt.phase {
                // The answer of the runner says which it is.
                Phase::Refusing { .. } => {}
                Phase::Ended(_) => self.report(id),
                _ => {
                    self.tell(ToCoordinator::Accepted(id));
                    self.report(id);
                }
            }
            return;
        }
        let is_limited = offer.time_limit_ms.is_some() || offer.stop_after_cut_off_ms.is_some();
        let refusal = match self.gone.fate(id) {
            Some(Fate::Stored) => return,
            Some(Fate::Refused) => Some("it was refused before"),
            None if self.leaving != Leaving::No => Some("the worker is draining"),
            None if self.runner != RunnerLink::Up => {
                return self.park(now, offer);
            }
            None if is_limited && self.runner_version < PINGS_SINCE => {
                Some("the runner is of an older release, which knows no limits of time")
            }
            None if self.busy >= self.slots => Some("no slot is free"),
            None if self.attempts.len() >= MAX_HELD => {
                Some("too many results wait for their acknowledgement")
            }
            None => None,
        };
        if let Some(why) = refusal {
            self.return_offer(id, why);
            return;
        }
        self.tell(ToCoordinator::Accepted(id));
        self.note(id, Note::Accepted);
        match self.plan.launch(offer) {
            Ok(launch) => {
                let mut attempt = Attempt::new(Phase::Accepted(Box::new(launch.clone())));
                attempt.output_path = launch.output_path;
                self.insert(id, attempt);
                self.start(id);
            }
            Err(refused) => {
                self.finish(Report::unstarted(id, Outcome::OutputRefused(refused.0), now.unix_ms));
            }
        }
    }

    /// Keeps an offer while the runner is away or silent, which may be over at once: after a replacement, say.
    fn park(&mut self, now: Now, offer: Offer) {
        let id = offer.attempt;
        if self.parked.len() >= MAX_HELD {
            self.return_offer(id, "too many offers wait for the runner");
        } else if !self.is_parked(id) {
            self.parked.push_back(Parked { until: now.ms + PARK_MS, offer });
        }
    }

    fn is_parked(&self, id: AttemptId) -> bool {
        self.parked.iter().any(|parked| parked.offer.attempt == id)
    }

    /// Takes or returns the offers whose wait is over.
    pub(super) fn settle_parked(&mut self, now: Now) {
        if self.parked.is_empty() {
            return;
        }
        if !self.is_session_up() {
            // Not held: the next hello says so.
            self.parked.clear();
        } else if self.runner == RunnerLink::Up || self.leaving != Leaving::No {
            for parked in std::mem::take(&mut self.parked) {
                self.handle_offer(now, parked.offer);
            }
        } else {
            // It could run elsewhere.
            while self.parked.front().is_some_and(|parked| parked.until <= now.ms)
                && let Some(parked) = self.parked.pop_front()
            {
                let silent = self.runner == RunnerLink::Silent;
                let why = if silent { "the runner does not answer" } else { "the runner is not connected" };
                self.return_offer(parked.offer.attempt, why);
            }
        }
    }

    /// Gives up an offer that waits, since it is to be stopped. Whether that is all there is to stop: the runner may
    /// have said meanwhile that it knows the attempt.
    pub(super) fn unpark(&mut self, id: AttemptId) -> bool {
        if !self.is_parked(id) {
            return false;
        }
        self.parked.retain(|parked| parked.offer.attempt != id);
        if self.attempts.contains_key(&id) {
            return false;
        }
        self.gone.insert(id, Fate::Refused);
        self.return_offer(id, "it was stopped");
        true
    }

    fn return_offer(&mut self, id: AttemptId, why: &'static str) {
        self.note(id, Note::Returned(why));
        self.tell(ToCoordinator::Returned(id));
    }
}
