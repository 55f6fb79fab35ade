//! The dispatcher's side of a session with the coordinator: hello, welcome, heartbeats, offers, stops.

use std::collections::HashMap;

use muster_proto::AttemptId;

use super::attempt::{Attempt, Phase};
use super::event::{Effect, Exit, FromCoordinator, HeldVerdict, Note, SessionNo, ToCoordinator, Verdict};
use super::gone::Fate;
use super::start::to_key;
use super::{Dispatcher, GRACE_MS, Leaving, MAX_HELD, Now, RunnerLink, WELCOME_MS};
use crate::runner::protocol::{StopCause, ToRunner};

/// Heartbeats are never further apart or nearer together than this, whatever the coordinator says, milliseconds.
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 50..=60_000;

/// How far the session is.
#[derive(Clone, Debug)]
pub(super) enum Session {
    /// There is none; everything that would be said is said at the next welcome.
    Down,
    /// The hello is sent. Nothing else is, until the welcome.
    Greeting {
        no: SessionNo,
        deadline: u64,
        /// The hello said that the worker is draining.
        draining_told: bool,
        /// The hello listed them, and they were refused since.
        returned: Vec<AttemptId>,
    },
    /// The welcome came.
    Up { no: SessionNo, heartbeat_ms: u64, silence_ms: u64, heard: u64, next_beat: u64, draining_told: bool },
}

impl Session {
    pub(super) fn deadline(&self) -> Option<u64> {
        match self {
            Self::Down => None,
            Self::Greeting { deadline, .. } => Some(*deadline),
            Self::Up { silence_ms, heard, next_beat, .. } => Some((*next_beat).min(heard + silence_ms)),
        }
    }

    fn number(&self) -> Option<SessionNo> {
        match self {
            Self::Down => None,
            Self::Greeting { no, .. } | Self::Up { no, .. } => Some(*no),
        }
    }
}

impl Dispatcher {
    /// A connection stands: say who we are and what we hold.
    pub(super) fn handle_dialed(&mut self, now: Now, session: SessionNo) {
        if self.runner == RunnerLink::NeverUp {
            // A hello that lists nothing would be taken as proof that nothing was started.
            self.effects.push(Effect::CloseSession("what the runner holds is not known yet"));
            return;
        }
        let draining = self.leaving != Leaving::No;
        self.session = Session::Greeting {
            no: session,
            deadline: now.ms + WELCOME_MS,
            draining_told: draining,
            returned: Vec::new(),
        };
        let held = self.held();
        self.effects.push(Effect::Send(ToCoordinator::Hello { held, draining }));
    }

    pub(super) fn handle_session_ended(&mut self, session: SessionNo) {
        if self.session.number() == Some(session) {
            self.session = Session::Down;
        }
    }

    pub(super) fn handle_coordinator(&mut self, now: Now, session: SessionNo, message: FromCoordinator) {
        if self.session.number() != Some(session) {
            return;
        }
        if let Session::Up { heard, .. } = &mut self.session {
            *heard = now.ms;
        }
        match (message, matches!(self.session, Session::Up { .. })) {
            (FromCoordinator::Goodbye { reason, stay_away: true }, _) => self.exit(Exit::SentAway(reason)),
            (FromCoordinator::Goodbye { .. }, _) => self.close("the coordinator said goodbye"),
            (FromCoordinator::Welcome { heartbeat_ms, silence_ms, verdicts }, false) => {
                self.handle_welcome(now, heartbeat_ms, silence_ms, &verdicts);
            }
            (FromCoordinator::Welcome { .. }, true) => self.close("the coordinator sent a second welcome"),
            (_, false) => self.close("the coordinator did not begin with a welcome"),
            (FromCoordinator::Heartbeat, true) => {}
            (FromCoordinator::Offer(offer), true) => self.handle_offer(now, offer),
            (FromCoordinator::Stop { attempt, grace_ms }, true) => {
                if self.unpark(attempt) {
                    // Nothing of it has gone any further.
                } else if self.attempts.len() >= 2 * MAX_HELD && !self.attempts.contains_key(&attempt) {
                    self.close("the coordinator stops more attempts than there can be");
                } else {
                    self.stop(attempt, grace_ms);
                }
            }
            (FromCoordinator::Acknowledged(attempt), true) => {
                if matches!(self.attempts.get(&attempt), Some(Attempt { phase: Phase::Ended(_), .. })) {
                    self.note(attempt, Note::Acknowledged);
                    self.forget(attempt);
                }
            }
        }
    }

    /// Sends a heartbeat or gives the session up, when it is time.
    pub(super) fn keep_session_alive(&mut self, now: Now) {
        match &mut self.session {
            Session::Down => {}
            Session::Greeting { deadline, .. } => {
                if now.ms >= *deadline {
                    self.close("the coordinator did not answer the hello");
                }
            }
            Session::Up { heartbeat_ms, silence_ms, heard, next_beat, .. } => {
                if now.ms >= *heard + *silence_ms {
                    self.close("the coordinator is silent");
                } else if now.ms >= *next_beat {
                    *next_beat = now.ms + *heartbeat_ms;
                    let held = self.held();
                    self.effects.push(Effect::Send(ToCoordinator::Heartbeat(held)));
                }
            }
        }
    }

    /// Says once a session that nothing new is wanted.
    pub(super) fn tell_draining(&mut self) {
        if let Session::Up { draining_told, .. } = &mut self.session
            && !*draining_told
        {
            *draining_told = true;
            self.effects.push(Effect::Send(ToCoordinator::Draining));
        }
    }

    /// Sends if the session stands. What is not sent is made again from what is held, at the next welcome.
    pub(super) fn tell(&mut self, message: ToCoordinator) {
        if self.is_session_up() {
            self.effects.push(Effect::Send(message));
        }
    }

    pub(super) fn is_session_up(&self) -> bool {
        matches!(self.session, Session::Up { .. })
    }

    /// The attempt was not started and never will be.
    pub(super) fn give_back(&mut self, attempt: AttemptId, why: &'static str) {
        self.remove(attempt);
        self.gone.insert(attempt, Fate::Refused);
        self.note(attempt, Note::Returned(why));
        if let Session::Greeting { returned, .. } = &mut self.session {
            // Where no hello listed it, the next hello says the same by leaving it out.
            returned.push(attempt);
        }
        self.tell(ToCoordinator::Returned(attempt));
    }

    /// Says how far a running or ended attempt is, and has its output pushed.
    pub(super) fn report(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.get(&id) else { return };
        let message = match &attempt.phase {
            Phase::Running { pid } | Phase::Stopping { pid, .. } => {
                ToCoordinator::Started { attempt: id, pid: *pid, output_path: attempt.output_path.clone() }
            }
            Phase::Ended(report) => {
                let log = attempt.log;
                let inline = log.announced.is_none() && (1..=super::INLINE_MAX).contains(&log.size);
                ToCoordinator::Ended { report: report.clone(), inline }
            }
            Phase::Accepted(_) | Phase::Starting { .. } | Phase::Refusing { .. } => return,
        };
        if !self.is_session_up() {
            return;
        }
        let push = !matches!(message, ToCoordinator::Ended { inline: true, .. });
        self.effects.push(Effect::Send(message));
        if push {
            self.announce(id);
        }
    }

    /// Ends an attempt, or sees to it that it is never started.
    pub(super) fn stop(&mut self, id: AttemptId, grace_ms: u32) {
        let message = self.stop_message(id, grace_ms);
        let Some(attempt) = self.attempts.get_mut(&id) else {
            match self.gone.fate(id) {
                Some(Fate::Stored) => {}
                Some(Fate::Refused) => self.tell(ToCoordinator::Returned(id)),
                None => self.refuse(id, grace_ms),
            }
            return;
        };
        match &mut attempt.phase {
            Phase::Accepted(_) => self.refuse(id, grace_ms),
            Phase::Starting { stop, .. } => {
                *stop = Some(stop.map_or(grace_ms, |before| before.min(grace_ms)));
                self.tell_runner(message);
            }
            Phase::Refusing { grace_ms: before } => *before = (*before).min(grace_ms),
            Phase::Running { pid } => {
                let pid = *pid;
                attempt.phase = Phase::Stopping { pid, grace_ms };
                self.note(id, Note::Stopping);
                self.tell_runner(message);
            }
            Phase::Stopping { grace_ms: before, .. } => {
                *before = (*before).min(grace_ms);
                self.tell_runner(message);
            }
            Phase::Ended(_) => {}
        }
    }

    /// A stop for the runner, with its cause.
    pub(super) fn stop_message(&self, id: AttemptId, grace_ms: u32) -> ToRunner {
        let stopping = matches!(self.leaving, Leaving::Stop { .. });
        let cause = if stopping { StopCause::WorkerStopped } else { StopCause::Requested };
        ToRunner::Stop { attempt: to_key(id), grace_ms: grace_ms.into(), cause }
    }

    fn refuse(&mut self, id: AttemptId, grace_ms: u32) {
        self.insert(id, Attempt::new(Phase::Refusing { grace_ms }));
        self.tell_runner(ToRunner::Refuse { attempt: to_key(id) });
    }

    fn close(&mut self, why: &'static str) {
        self.session = Session::Down;
        self.effects.push(Effect::CloseSession(why));
    }

    fn handle_welcome(&mut self, now: Now, heartbeat_ms: u64, silence_ms: u64, verdicts: &[HeldVerdict]) {
        let Session::Greeting { no, draining_told, .. } = self.session else { return };
        let heartbeat_ms = heartbeat_ms.clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end());
        let up = Session::Up {
            no,
            heartbeat_ms,
            silence_ms: silence_ms.max(2 * heartbeat_ms),
            heard: now.ms,
            next_beat: now.ms + heartbeat_ms,
            draining_told,
        };
        let before = std::mem::replace(&mut self.session, up);
        self.effects.push(Effect::Welcomed);
        if self.leaving != Leaving::No {
            self.tell_draining();
        }
        if let Session::Greeting { returned, .. } = before {
            for attempt in returned {
                self.tell(ToCoordinator::Returned(attempt));
            }
        }
        let verdicts: HashMap<_, _> = verdicts.iter().map(|verdict| (verdict.attempt, verdict)).collect();
        let attempts: Vec<_> = self.attempts.keys().copied().collect();
        for attempt in attempts {
            match verdicts.get(&attempt) {
                Some(verdict) => self.follow(verdict),
                // Not in the hello, or not in the answer: say how far it is, and an answer follows.
                None => self.report(attempt),
            }
        }
    }

    fn follow(&mut self, verdict: &HeldVerdict) {
        let id = verdict.attempt;
        match verdict.verdict {
            Verdict::GoOn | Verdict::Report => self.resume(id, verdict.log_offset),
            Verdict::Stop => {
                self.resume(id, verdict.log_offset);
                self.stop(id, GRACE_MS);
            }
            Verdict::Forget => {
                let Some(attempt) = self.attempts.get_mut(&id) else { return };
                if matches!(attempt.phase, Phase::Ended(_)) {
                    self.forget(id);
                } else {
                    // It would cost money for nothing.
                    attempt.unwanted = true;
                    self.stop(id, GRACE_MS);
                }
            }
        }
    }

    /// Says how far the attempt is, and pushes its output from where the coordinator has it.
    fn resume(&mut self, id: AttemptId, stored: u64) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        let log = &mut attempt.log;
        if log.announced.is_some() || stored > 0 {
            log.announced = Some(log.size);
            log.due = None;
            let size = log.size;
            self.effects.push(Effect::Push { attempt: id, from: Some(stored.min(size)), size });
        }
        self.report(id);
    }
}
