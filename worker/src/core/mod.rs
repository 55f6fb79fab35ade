//! The worker's decisions, pure: no clock, no input or output, no async, no randomness.
//!
//! [`Dispatcher::handle`] takes one [`Event`] and returns the [`Effect`]s to perform, in order. It knows which
//! attempts are held and how far each is, takes or returns offers, says what a hello lists, follows verdicts,
//! sends results again after a reconnect, and decides what a task may write to and when the worker is done.
//! Everything that it sends is made from what it holds, so that a message that was lost with a session or with
//! the runner's connection is simply made again.
//!
//! It does *not* start processes (the runner does), read output (the log pusher does) or retry connections (the
//! session does).

mod attempt;
mod coordinator;
mod event;
mod gone;
mod offer;
mod output;
mod runner;
mod start;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use muster_proto::AttemptId;

use crate::runner::protocol::ToRunner;

use attempt::Attempt;
use coordinator::Session;
use gone::Gone;
use offer::Parked;

pub use event::{
    Effect, Event, Exit, FromCoordinator, Held, HeldPhase, HeldVerdict, Note, Offer, Outcome, Report,
    SessionNo, ToCoordinator, Verdict,
};
pub use output::{OutputPolicy, OutputRefused, Placement};
pub use start::{Launch, LaunchPlan};

/// The most attempts that are held, running and unacknowledged together; what the runner lists in one hello.
pub const MAX_HELD: usize = crate::runner::protocol::MAX_HELD;
/// Output up to this size rides in the result, if nothing of it was pushed before. Bytes.
pub const INLINE_MAX: u64 = 64 * 1024;
/// New output under this size waits [`PUSH_DELAY_MS`] for more, bytes.
pub const PUSH_AT_ONCE: u64 = 4 * 1024;
/// How long new output waits to be pushed with what follows it, milliseconds.
pub const PUSH_DELAY_MS: u64 = 50;
/// From TERM to KILL where the coordinator does not say, milliseconds.
pub const GRACE_MS: u32 = crate::runner::protocol::DEFAULT_GRACE_MS;
/// How long a stopping worker waits, after the grace, for its results to be acknowledged, milliseconds.
pub const STOP_REPORT_MS: u64 = 10_000;
/// How long an offer waits for a runner that is away or silent, before it goes back, milliseconds: less than a coordinator
/// waits for the answer to an offer (10 s), and more than it takes to start a runner.
pub const PARK_MS: u64 = 4_000;
/// How long a session waits for its welcome, milliseconds.
pub const WELCOME_MS: u64 = 15_000;

/// The time, as told by who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// On a clock that never goes back, milliseconds.
    pub ms: u64,
    /// Unix milliseconds, for people; nothing is decided by it.
    pub unix_ms: u64,
}

/// Which attempts this worker holds, and what it does about them.
#[derive(Debug)]
pub struct Dispatcher {
    plan: LaunchPlan,
    slots: u32,
    attempts: BTreeMap<AttemptId, Attempt>,
    /// How many of them take a slot.
    busy: u32,
    runner: RunnerLink,
    /// Which version of the protocol is spoken with it.
    runner_version: u32,
    session: Session,
    leaving: Leaving,
    /// Attempts that were here lately.
    gone: Gone,
    /// Acknowledged while the runner was not connected: to be forgotten when it lists them.
    unforgotten: BTreeSet<AttemptId>,
    /// When output is to be announced, the earliest first (every wait is equally long).
    due: VecDeque<(u64, AttemptId)>,
    /// Offers that wait for the runner, the earliest first (every wait is equally long).
    parked: VecDeque<Parked>,
    effects: Vec<Effect>,
}

/// Whether the runner can be told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunnerLink {
    /// What it holds is not known yet, so that nothing can be said to the coordinator either.
    NeverUp,
    Up,
    /// It is connected and does not answer: nothing new is taken.
    Silent,
    Down,
}

/// Whether the worker is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    Drain,
    Stop {
        deadline: u64,
    },
    /// Said so; every further event is ignored.
    Left,
}

impl Dispatcher {
    /// One that holds nothing yet.
    pub fn new(plan: LaunchPlan, slots: u32) -> Self {
        Self {
            plan,
            slots,
            attempts: BTreeMap::new(),
            busy: 0,
            runner: RunnerLink::NeverUp,
            runner_version: 0,
            session: Session::Down,
            leaving: Leaving::No,
            gone: Gone::default(),
            unforgotten: BTreeSet::new(),
            due: VecDeque::new(),
            parked: VecDeque::new(),
            effects: Vec::new(),
        }
    }

    /// Takes one event; what is returned is to be performed in order.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Effect> {
        if self.leaving == Leaving::Left {
            return Vec::new();
        }
        match event {
            Event::RunnerDown => {
                if self.is_runner_connected() {
                    self.runner = RunnerLink::Down;
                }
            }
            Event::RunnerSilent => {
                if self.runner == RunnerLink::Up {
                    self.runner = RunnerLink::Silent;
                }
            }
            Event::RunnerAnswers => {
                if self.runner == RunnerLink::Silent {
                    self.runner = RunnerLink::Up;
                }
            }
            Event::Runner(message) => self.handle_runner(now, message),
            Event::Dialed(session) => self.handle_dialed(now, session),
            Event::Coordinator(session, message) => self.handle_coordinator(now, session, message),
            Event::SessionEnded(session) => self.handle_session_ended(session),
            Event::OutputUnreadable { attempt, from, message } => {
                self.handle_unreadable(attempt, from, message);
            }
            Event::Drain => {
                if self.leaving == Leaving::No {
                    self.leaving = Leaving::Drain;
                    self.tell_draining();
                }
            }
            Event::Stop => self.handle_stop_all(now),
            // What is held is the runner's to keep, and the next process's to report.
            Event::Leave => self.exit(Exit::Left),
            Event::Tick => {}
        }
        if self.leaving == Leaving::Left {
            return std::mem::take(&mut self.effects);
        }
        self.keep_session_alive(now);
        self.settle_parked(now);
        self.announce_due(now);
        self.leave_if_done(now);
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::Tick`] is due at the latest, on the clock of [`Now::ms`].
    pub fn next_deadline(&self) -> Option<u64> {
        let stop = if let Leaving::Stop { deadline } = self.leaving { Some(deadline) } else { None };
        let push = self.due.front().map(|(due, _)| *due);
        let parked = self.parked.front().map(|parked| parked.until);
        [stop, push, parked, self.session.deadline()].into_iter().flatten().min()
    }

    /// How many attempts are held.
    pub fn held_count(&self) -> usize {
        self.attempts.len()
    }

    fn held(&self) -> Vec<Held> {
        self.attempts.iter().filter_map(|(id, attempt)| attempt.held(*id)).collect()
    }

    fn handle_stop_all(&mut self, now: Now) {
        if matches!(self.leaving, Leaving::Stop { .. }) {
            return;
        }
        self.leaving = Leaving::Stop { deadline: now.ms + u64::from(GRACE_MS) + STOP_REPORT_MS };
        self.tell_draining();
        let attempts: Vec<_> = self.attempts.keys().copied().collect();
        for attempt in attempts {
            self.stop(attempt, GRACE_MS);
        }
    }

    fn leave_if_done(&mut self, now: Now) {
        let overdue = match self.leaving {
            Leaving::No | Leaving::Left => return,
            Leaving::Drain => false,
            Leaving::Stop { deadline } => now.ms >= deadline,
        };
        // Before the runner's first hello it is not known whether something is held.
        let settled = self.runner != RunnerLink::NeverUp
            && self.attempts.is_empty()
            && !matches!(self.session, Session::Greeting { .. });
        if settled {
            if matches!(self.session, Session::Up { .. }) {
                self.effects.push(Effect::Send(ToCoordinator::Leaving));
            }
            self.effects.push(Effect::Runner(ToRunner::ShutdownWhenIdle));
            self.exit(Exit::Done);
        } else if overdue && self.attempts.is_empty() && self.runner != RunnerLink::NeverUp {
            self.effects.push(Effect::Runner(ToRunner::ShutdownWhenIdle));
            self.exit(Exit::Done);
        } else if overdue {
            self.effects.push(Effect::Runner(ToRunner::Shutdown { grace_ms: 0 }));
            self.exit(Exit::Unreported(self.attempts.len()));
        }
    }

    fn exit(&mut self, exit: Exit) {
        self.leaving = Leaving::Left;
        self.effects.push(Effect::Exit(exit));
    }

    fn is_runner_connected(&self) -> bool {
        matches!(self.runner, RunnerLink::Up | RunnerLink::Silent)
    }

    fn tell_runner(&mut self, message: ToRunner) {
        if self.is_runner_connected() {
            self.effects.push(Effect::Runner(message));
        }
    }

    fn note(&mut self, attempt: AttemptId, note: Note) {
        self.effects.push(Effect::Note(attempt, note));
    }
}
