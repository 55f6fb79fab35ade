//! What a worker is meant to do, written down a second time and as simply as can be: one list of attempts that is
//! walked from end to end, and nothing kept that can be counted. The dispatcher is held against it (`agree`).
//!
//! Each decision names the row of the worker's table in `docs/protocol.md` that it follows; which rows were reached
//! is recorded. What is *not* here: what a program is started with, and the limits that hold back thousands.

mod runner;

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::AttemptId;

use super::super::start::{from_key, to_key};
use super::super::*;
use crate::runner::protocol::{self, FromRunner, PINGS_SINCE, Start, StopCause, ToRunner};

/// How far an attempt is, by the words of the table.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Is {
    Starting(Box<Start>, Option<u32>),
    Refusing(u32),
    Running,
    Stopping(u32),
    Ended(Report),
    Refused,
    Stored,
}

/// An attempt that was ever heard of.
#[derive(Clone, Debug)]
pub(super) struct One {
    pub(super) is: Is,
    pid: i32,
    path: String,
    /// Output in the spool; of which the pusher was given so much, if any.
    size: u64,
    given: Option<u64>,
    give_at: Option<u64>,
    unreadable: bool,
    unwanted: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Talk {
    Down,
    Greeting { by: u64, told: bool, returned: Vec<AttemptId> },
    Up { beat: u64, silence: u64, heard: u64, next: u64, told: bool },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Runs {
    Unknown,
    Up,
    Silent,
    Down,
}

pub(super) struct Model {
    plan: LaunchPlan,
    slots: usize,
    pub(super) all: BTreeMap<AttemptId, One>,
    /// To be forgotten once the runner is back and lists them.
    owed: BTreeSet<AttemptId>,
    session: u64,
    talk: Talk,
    runner: Runs,
    version: u32,
    /// Offers that wait for the runner, and until when.
    waiting: Vec<(u64, Offer)>,
    draining: bool,
    stop_by: Option<u64>,
    left: bool,
    now: u64,
    pub(super) out: Vec<Effect>,
    pub(super) reached: BTreeSet<&'static str>,
}

impl One {
    fn new(is: Is) -> Self {
        Self {
            is,
            pid: 0,
            path: String::new(),
            size: 0,
            given: None,
            give_at: None,
            unreadable: false,
            unwanted: false,
        }
    }

    fn takes_slot(&self) -> bool {
        matches!(self.is, Is::Starting(..) | Is::Running | Is::Stopping(_))
    }

    /// The worker has something to do with it.
    pub(super) fn is_here(&self) -> bool {
        !matches!(self.is, Is::Refused | Is::Stored)
    }
}

impl Model {
    pub(super) fn new(plan: LaunchPlan, slots: usize) -> Self {
        Self {
            plan,
            slots,
            all: BTreeMap::new(),
            owed: BTreeSet::new(),
            session: 0,
            talk: Talk::Down,
            runner: Runs::Unknown,
            version: 0,
            waiting: Vec::new(),
            draining: false,
            stop_by: None,
            left: false,
            now: 0,
            out: Vec::new(),
            reached: BTreeSet::new(),
        }
    }

    fn at(&mut self, row: &'static str) {
        self.reached.insert(row);
    }

    fn is_up(&self) -> bool {
        matches!(self.talk, Talk::Up { .. })
    }

    pub(super) fn is(&self, id: AttemptId) -> Option<&Is> {
        self.all.get(&id).map(|one| &one.is)
    }

    fn here(&self) -> Vec<AttemptId> {
        self.all.iter().filter(|(_, one)| one.is_here()).map(|(id, _)| *id).collect()
    }

    fn held(&self) -> Vec<Held> {
        let mut held = Vec::new();
        for (id, one) in &self.all {
            let phase = match one.is {
                Is::Starting(..) => HeldPhase::Accepted,
                Is::Running | Is::Stopping(_) => HeldPhase::Running,
                Is::Ended(_) => HeldPhase::Ended,
                Is::Refusing(_) | Is::Refused | Is::Stored => continue,
            };
            held.push(Held { attempt: *id, phase });
        }
        held
    }

    fn tell(&mut self, message: ToCoordinator) {
        if self.is_up() {
            self.out.push(Effect::Send(message));
        }
    }

    fn is_connected(&self) -> bool {
        matches!(self.runner, Runs::Up | Runs::Silent)
    }

    fn stop_order(&self, id: AttemptId, grace: u32) -> ToRunner {
        let cause = if self.stop_by.is_some() { StopCause::WorkerStopped } else { StopCause::Requested };
        ToRunner::Stop { attempt: to_key(id), grace_ms: grace.into(), cause }
    }

    fn order(&mut self, message: ToRunner) {
        if self.is_connected() {
            self.out.push(Effect::Runner(message));
        }
    }

    fn close(&mut self, why: &'static str) {
        self.talk = Talk::Down;
        self.out.push(Effect::CloseSession(why));
    }

    /// One event from its beginning to its end.
    pub(super) fn handle(&mut self, now: Now, event: &Event) {
        self.out.clear();
        if self.left {
            return;
        }
        self.now = now.ms;
        match event {
            Event::RunnerDown => {
                if self.is_connected() {
                    self.runner = Runs::Down;
                    self.goes_away();
                }
            }
            Event::RunnerSilent if self.runner == Runs::Up => self.runner = Runs::Silent,
            Event::RunnerAnswers if self.runner == Runs::Silent => self.runner = Runs::Up,
            Event::RunnerSilent | Event::RunnerAnswers => {}
            Event::Leave => self.exit(Exit::Left),
            Event::Runner(message) => self.hears_runner(message),
            Event::Dialed(_) if self.runner == Runs::Unknown => {
                self.out.push(Effect::CloseSession("what the runner holds is not known yet"));
            }
            Event::Dialed(session) => {
                self.session = *session;
                let draining = self.draining;
                self.talk =
                    Talk::Greeting { by: self.now + WELCOME_MS, told: draining, returned: Vec::new() };
                let held = self.held();
                self.out.push(Effect::Send(ToCoordinator::Hello { held, draining }));
            }
            Event::Coordinator(session, message) => {
                if *session == self.session && self.talk != Talk::Down {
                    self.hears(message);
                }
            }
            Event::SessionEnded(session) => {
                if *session == self.session {
                    self.talk = Talk::Down;
                    self.goes_away();
                }
            }
            Event::OutputUnreadable { attempt, from, message } => self.unreadable(*attempt, *from, message),
            Event::Drain => {
                self.draining = true;
                self.say_draining();
            }
            Event::Stop => {
                if self.stop_by.is_none() {
                    self.draining = true;
                    self.stop_by = Some(self.now + u64::from(GRACE_MS) + STOP_REPORT_MS);
                    self.say_draining();
                    for id in self.here() {
                        self.stop(id, GRACE_MS);
                    }
                }
            }
            Event::Tick => {}
        }
        if !self.left {
            self.time_passes();
            self.leave();
        }
    }

    fn goes_away(&mut self) {
        if !self.held().is_empty() {
            self.at("D34");
        }
    }

    fn time_passes(&mut self) {
        let now = self.now;
        match &mut self.talk {
            Talk::Down => {}
            Talk::Greeting { by, .. } if *by <= now => self.close("the coordinator did not answer the hello"),
            Talk::Greeting { .. } => {}
            Talk::Up { silence, heard, .. } if *heard + *silence <= now => {
                self.close("the coordinator is silent")
            }
            Talk::Up { beat, next, .. } => {
                if *next <= now {
                    *next = now + *beat;
                    let held = self.held();
                    self.out.push(Effect::Send(ToCoordinator::Heartbeat(held)));
                }
            }
        }
        self.settle_waiting();
        // The longest waiting first.
        let mut due: Vec<_> = self.all.iter().filter_map(|(id, one)| Some((one.give_at?, *id))).collect();
        due.retain(|(at, _)| *at <= now);
        due.sort_unstable();
        for (_, id) in due {
            self.give(id);
        }
    }

    fn settle_waiting(&mut self) {
        for (until, offer) in std::mem::take(&mut self.waiting) {
            let id = offer.attempt;
            if !self.is_up() {
                self.at("D38");
            } else if self.draining {
                self.at("D36");
                self.offered(&offer);
            } else if self.runner == Runs::Up {
                self.at("D35");
                self.offered(&offer);
            } else if until <= self.now {
                self.at("D36");
                self.tell(ToCoordinator::Returned(id));
            } else {
                self.waiting.push((until, offer));
            }
        }
    }

    fn leave(&mut self) {
        if !self.draining {
            return;
        }
        let here = self.here().len();
        if self.runner != Runs::Unknown && here == 0 && !matches!(self.talk, Talk::Greeting { .. }) {
            self.tell(ToCoordinator::Leaving);
            self.out.push(Effect::Runner(ToRunner::ShutdownWhenIdle));
            self.exit(Exit::Done);
        } else if self.stop_by.is_some_and(|by| by <= self.now) && self.runner != Runs::Unknown && here == 0 {
            self.out.push(Effect::Runner(ToRunner::ShutdownWhenIdle));
            self.exit(Exit::Done);
        } else if self.stop_by.is_some_and(|by| by <= self.now) {
            self.out.push(Effect::Runner(ToRunner::Shutdown { grace_ms: 0 }));
            self.exit(Exit::Unreported(here));
        }
    }

    fn exit(&mut self, exit: Exit) {
        self.left = true;
        self.out.push(Effect::Exit(exit));
    }

    fn say_draining(&mut self) {
        if let Talk::Up { told, .. } = &mut self.talk
            && !std::mem::replace(told, true)
        {
            self.out.push(Effect::Send(ToCoordinator::Draining));
        }
    }

    fn hears(&mut self, message: &FromCoordinator) {
        let (now, up) = (self.now, self.is_up());
        if let Talk::Up { heard, .. } = &mut self.talk {
            *heard = now;
        }
        match message {
            FromCoordinator::Goodbye { reason, stay_away: true } => self.exit(Exit::SentAway(reason.clone())),
            FromCoordinator::Goodbye { .. } => self.close("the coordinator said goodbye"),
            FromCoordinator::Welcome { .. } if up => self.close("the coordinator sent a second welcome"),
            FromCoordinator::Welcome { heartbeat_ms, silence_ms, verdicts } => {
                self.welcomed((*heartbeat_ms).clamp(50, 60_000), *silence_ms, verdicts);
            }
            _ if !up => self.close("the coordinator did not begin with a welcome"),
            FromCoordinator::Heartbeat => {}
            FromCoordinator::Offer(offer) => self.offered(offer),
            FromCoordinator::Stop { attempt, grace_ms } => {
                let waited = self.waiting.iter().any(|(_, offer)| offer.attempt == *attempt);
                self.waiting.retain(|(_, offer)| offer.attempt != *attempt);
                if waited && self.is(*attempt).is_none() {
                    self.at("D37");
                    self.all.insert(*attempt, One::new(Is::Refused));
                    self.tell(ToCoordinator::Returned(*attempt));
                } else {
                    self.stop(*attempt, *grace_ms);
                }
            }
            FromCoordinator::Acknowledged(id) => {
                if matches!(self.is(*id), Some(Is::Ended(_))) {
                    self.at("D14");
                    self.forget(*id);
                } else {
                    self.at("D15");
                }
            }
        }
    }

    fn welcomed(&mut self, beat: u64, silence: u64, verdicts: &[HeldVerdict]) {
        let Talk::Greeting { told, returned, .. } = self.talk.clone() else { return };
        let (heard, next) = (self.now, self.now + beat);
        self.talk = Talk::Up { beat, silence: silence.max(2 * beat), heard, next, told };
        self.out.push(Effect::Welcomed);
        if self.draining {
            self.say_draining();
        }
        for id in returned {
            self.tell(ToCoordinator::Returned(id));
        }
        for id in self.here() {
            let Some(HeldVerdict { verdict, log_offset, .. }) =
                verdicts.iter().rev().find(|v| v.attempt == id)
            else {
                self.at("D20");
                self.report(id);
                continue;
            };
            let ended = matches!(self.is(id), Some(Is::Ended(_)));
            match verdict {
                Verdict::GoOn | Verdict::Report => {
                    self.at("D16");
                    self.again_from(id, *log_offset);
                }
                Verdict::Stop => {
                    self.at("D17");
                    self.again_from(id, *log_offset);
                    self.stop(id, GRACE_MS);
                }
                Verdict::Forget if ended => {
                    self.at("D18");
                    self.forget(id);
                }
                Verdict::Forget => {
                    self.at("D19");
                    if let Some(one) = self.all.get_mut(&id) {
                        one.unwanted = true;
                    }
                    self.stop(id, GRACE_MS);
                }
            }
        }
    }

    /// Output is pushed again from where the coordinator has it.
    fn again_from(&mut self, id: AttemptId, stored: u64) {
        let Some(one) = self.all.get_mut(&id) else { return };
        if one.given.is_some() || stored > 0 {
            (one.given, one.give_at) = (Some(one.size), None);
            let size = one.size;
            self.out.push(Effect::Push { attempt: id, from: Some(stored.min(size)), size });
        }
        self.report(id);
    }

    fn offered(&mut self, offer: &Offer) {
        let id = offer.attempt;
        match self.is(id).cloned() {
            Some(Is::Starting(..) | Is::Running | Is::Stopping(_)) => {
                self.at("D5");
                self.tell(ToCoordinator::Accepted(id));
                return self.report(id);
            }
            Some(Is::Refusing(_)) => return self.at("D6"),
            Some(Is::Ended(_)) => {
                self.at("D7");
                return self.report(id);
            }
            Some(Is::Refused) => {
                self.at("D8");
                return self.tell(ToCoordinator::Returned(id));
            }
            Some(Is::Stored) => return self.at("D9"),
            None => {}
        }
        if !self.draining && self.runner != Runs::Up {
            self.at("D2");
            if !self.waiting.iter().any(|(_, waiting)| waiting.attempt == id) {
                self.waiting.push((self.now + PARK_MS, offer.clone()));
            }
            return;
        }
        let limited = offer.time_limit_ms.or(offer.stop_after_cut_off_ms).is_some();
        let unknown = limited && self.version < PINGS_SINCE;
        let taken = self.all.values().filter(|one| one.takes_slot()).count();
        if self.draining || unknown || taken >= self.slots {
            self.at("D3");
            return self.tell(ToCoordinator::Returned(id));
        }
        self.tell(ToCoordinator::Accepted(id));
        match self.plan.launch(offer.clone()) {
            Err(refused) => {
                self.at("D4");
                self.end(id, Outcome::OutputRefused(refused.0), 77, |_| {});
            }
            Ok(launch) => {
                self.at("D1");
                let is = Is::Starting(Box::new(launch.start.clone()), None);
                self.all.insert(id, One { path: launch.output_path, ..One::new(is) });
                self.order(ToRunner::Start(launch.start));
            }
        }
    }

    fn stop(&mut self, id: AttemptId, grace: u32) {
        let message = self.stop_order(id, grace);
        let is = self.is(id).cloned();
        match &is {
            None => {
                self.at("D10");
                self.refuse(id, grace);
            }
            Some(Is::Refused) => {
                self.at("D8");
                self.tell(ToCoordinator::Returned(id));
            }
            Some(Is::Stored) => self.at("D9"),
            Some(Is::Ended(_)) => self.at("D13"),
            Some(Is::Refusing(before)) => {
                self.at("D13");
                self.now_is(id, Is::Refusing(grace.min(*before)));
            }
            Some(Is::Starting(start, before)) => {
                self.at("D11");
                self.now_is(id, Is::Starting(start.clone(), Some(before.unwrap_or(grace).min(grace))));
                self.order(message);
            }
            Some(Is::Running) => {
                self.at("D12");
                self.now_is(id, Is::Stopping(grace));
                self.order(message);
            }
            Some(Is::Stopping(before)) => {
                self.at("D12");
                self.now_is(id, Is::Stopping(grace.min(*before)));
                self.order(message);
            }
        }
    }

    fn now_is(&mut self, id: AttemptId, is: Is) {
        if let Some(one) = self.all.get_mut(&id) {
            one.is = is;
        }
    }

    fn refuse(&mut self, id: AttemptId, grace: u32) {
        self.all.insert(id, One::new(Is::Refusing(grace)));
        self.order(ToRunner::Refuse { attempt: to_key(id) });
    }

    /// Not started, and never will be.
    fn give_back(&mut self, id: AttemptId) {
        self.all.insert(id, One::new(Is::Refused));
        if let Talk::Greeting { returned, .. } = &mut self.talk {
            returned.push(id);
        }
        self.tell(ToCoordinator::Returned(id));
    }

    fn forget(&mut self, id: AttemptId) {
        let Some(one) = self.all.insert(id, One::new(Is::Stored)) else { return };
        if one.given.is_some() {
            self.out.push(Effect::StopPushing(id));
        }
        if self.is_connected() {
            self.order(ToRunner::Forget { attempt: to_key(id) });
        } else {
            self.owed.insert(id);
        }
    }

    /// Says how far one is that runs or has ended.
    fn report(&mut self, id: AttemptId) {
        if !self.is_up() {
            return;
        }
        let Some(one) = self.all.get(&id).cloned() else { return };
        match one.is {
            Is::Running | Is::Stopping(_) => {
                self.tell(ToCoordinator::Started { attempt: id, pid: one.pid, output_path: one.path });
                self.give(id);
            }
            Is::Ended(report) => {
                let inline = one.given.is_none() && one.size > 0 && one.size <= INLINE_MAX;
                self.tell(ToCoordinator::Ended { report, inline });
                if !inline {
                    self.give(id);
                }
            }
            _ => {}
        }
    }

    /// Gives the pusher all there is.
    fn give(&mut self, id: AttemptId) {
        let up = self.is_up();
        let Some(one) = self.all.get_mut(&id) else { return };
        one.give_at = None;
        if up && one.size > one.given.unwrap_or(0) {
            one.given = Some(one.size);
            let size = one.size;
            self.out.push(Effect::Push { attempt: id, from: None, size });
        }
    }

    fn end(&mut self, id: AttemptId, outcome: Outcome, end_ms: u64, more: impl FnOnce(&mut Report)) {
        let mut one = self.all.get(&id).filter(|one| one.is_here()).cloned().unwrap_or(One::new(Is::Refused));
        let mut report = Report {
            attempt: id,
            outcome,
            stop_sent: false,
            stop_cause: None,
            log_size: 0,
            log_discarded: 0,
            output_failed: String::new(),
            end_ms,
            output_path: one.path.clone(),
            pid: 0,
        };
        more(&mut report);
        if one.unreadable {
            report.log_discarded += report.log_size.saturating_sub(one.size);
            report.log_size = report.log_size.min(one.size);
            if report.output_failed.is_empty() {
                report.output_failed = "the output could not be read from the spool".into();
            }
        }
        (one.size, one.give_at) = (report.log_size, None);
        let unwanted = one.unwanted;
        one.is = Is::Ended(report);
        self.all.insert(id, one);
        if unwanted {
            self.at("D28");
            self.forget(id);
        } else {
            self.report(id);
        }
    }

    fn unreadable(&mut self, id: AttemptId, from: u64, message: &str) {
        let Some(one) = self.all.get_mut(&id).filter(|one| one.is_here()) else { return };
        one.unreadable = true;
        one.size = one.size.min(from);
        one.given = Some(one.size);
        if let Is::Ended(report) = &mut one.is {
            report.log_discarded += report.log_size.saturating_sub(from);
            report.log_size = report.log_size.min(from);
            report.output_failed = message.into();
            self.report(id);
        }
    }
}
