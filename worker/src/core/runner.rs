//! The dispatcher's side of the runner: starting, output, ends, and what the runner holds.

use std::collections::HashSet;

use muster_proto::AttemptId;

use super::attempt::{Attempt, Phase};
use super::event::{Effect, Note, Outcome, Report};
use super::gone::Fate;
use super::start::{from_key, to_key};
use super::{Dispatcher, Now, PUSH_AT_ONCE, PUSH_DELAY_MS, RunnerLink};
use crate::runner::protocol::{Ended, FromRunner, Held, ToRunner};

impl Dispatcher {
    pub(super) fn handle_runner(&mut self, now: Now, message: FromRunner) {
        let key = match &message {
            FromRunner::Hello { .. } | FromRunner::Pong => None,
            FromRunner::Started { attempt, .. }
            | FromRunner::StartFailed { attempt, .. }
            | FromRunner::Refused { attempt }
            | FromRunner::Output { attempt, .. }
            | FromRunner::Ended(Ended { attempt, .. }) => Some(*attempt),
        };
        // What no coordinator has numbered is not ours.
        let id = key.and_then(from_key);
        match (message, id) {
            (FromRunner::Hello { version, held, .. }, _) => {
                self.runner_version = version;
                self.handle_runner_hello(now, held);
            }
            (FromRunner::Started { pid, .. }, Some(id)) => self.handle_started(id, pid),
            (FromRunner::StartFailed { errno, message, for_task, .. }, Some(id)) => {
                self.handle_start_failed(now, id, Outcome::LaunchFailed { errno, message, for_task });
            }
            (FromRunner::Refused { .. }, Some(id)) => {
                let phase = self.attempts.get(&id).map(|attempt| &attempt.phase);
                if matches!(phase, Some(Phase::Accepted(_) | Phase::Starting { .. } | Phase::Refusing { .. }))
                {
                    self.give_back(id, "the runner refuses it");
                }
            }
            (FromRunner::Output { size, .. }, Some(id)) => self.handle_output(now, id, size),
            (FromRunner::Ended(ended), Some(id)) => self.handle_ended(id, ended),
            (FromRunner::Pong, _) | (_, None) => {}
        }
    }

    /// Sends an accepted attempt to the runner, if it is there.
    pub(super) fn start(&mut self, id: AttemptId) {
        if !self.is_runner_connected() {
            return;
        }
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if let Phase::Accepted(launch) = &attempt.phase {
            let launch = launch.clone();
            self.effects.push(Effect::Runner(ToRunner::Start(launch.start.clone())));
            attempt.phase = Phase::Starting { launch, stop: None };
        }
    }

    /// Keeps how an attempt ended until that is acknowledged.
    pub(super) fn finish(&mut self, mut report: Report) {
        let id = report.attempt;
        let mut attempt = self.remove(id).unwrap_or_else(|| Attempt::new(Phase::Refusing { grace_ms: 0 }));
        if attempt.log.unreadable {
            report.log_discarded += report.log_size.saturating_sub(attempt.log.size);
            report.log_size = report.log_size.min(attempt.log.size);
            if report.output_failed.is_empty() {
                report.output_failed = "the output could not be read from the spool".into();
            }
        }
        attempt.log.size = report.log_size;
        attempt.log.due = None;
        report.output_path.clone_from(&attempt.output_path);
        self.note(id, Note::Ended(report.outcome.clone()));
        let unwanted = attempt.unwanted;
        attempt.phase = Phase::Ended(report);
        self.insert(id, attempt);
        if unwanted {
            self.forget(id);
        } else {
            self.report(id);
        }
    }

    /// The coordinator has, or wants, nothing more of an attempt that has ended.
    pub(super) fn forget(&mut self, id: AttemptId) {
        let Some(attempt) = self.remove(id) else { return };
        self.gone.insert(id, Fate::Stored);
        if attempt.log.announced.is_some() {
            self.effects.push(Effect::StopPushing(id));
        }
        if self.is_runner_connected() {
            self.tell_runner(ToRunner::Forget { attempt: to_key(id) });
        } else {
            self.unforgotten.insert(id);
        }
    }

    /// Lets the pusher send everything that there is. Without a session it waits for the welcome, which says
    /// what is stored already.
    pub(super) fn announce(&mut self, id: AttemptId) {
        let is_up = self.is_session_up();
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        let log = &mut attempt.log;
        log.due = None;
        if is_up && log.size > log.announced.unwrap_or(0) {
            log.announced = Some(log.size);
            let size = log.size;
            self.effects.push(Effect::Push { attempt: id, from: None, size });
        }
    }

    /// Announces the output whose wait is over.
    pub(super) fn announce_due(&mut self, now: Now) {
        while let Some((due, id)) = self.due.front().copied() {
            if due > now.ms {
                return;
            }
            self.due.pop_front();
            if self.attempts.get(&id).is_some_and(|attempt| attempt.log.due == Some(due)) {
                self.announce(id);
            }
        }
    }

    pub(super) fn handle_unreadable(&mut self, id: AttemptId, from: u64, message: String) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        attempt.log.unreadable = true;
        attempt.log.size = attempt.log.size.min(from);
        attempt.log.announced = Some(attempt.log.size);
        if let Phase::Ended(report) = &mut attempt.phase {
            report.log_discarded += report.log_size.saturating_sub(from);
            report.log_size = report.log_size.min(from);
            report.output_failed = message;
            self.report(id);
        }
    }

    pub(super) fn insert(&mut self, id: AttemptId, attempt: Attempt) {
        self.remove(id);
        self.busy += u32::from(attempt.is_busy());
        self.attempts.insert(id, attempt);
    }

    pub(super) fn remove(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&id)?;
        self.busy -= u32::from(attempt.is_busy());
        Some(attempt)
    }

    /// The runner is there: bring what it holds and what we hold together.
    fn handle_runner_hello(&mut self, now: Now, held: Vec<Held>) {
        self.runner = RunnerLink::Up;
        let unforgotten = std::mem::take(&mut self.unforgotten);
        let mut listed = HashSet::new();
        for held in held {
            let Some(id) = from_key(held.attempt()) else { continue };
            listed.insert(id);
            match held {
                Held::Ended(_) if unforgotten.contains(&id) => {
                    self.tell_runner(ToRunner::Forget { attempt: to_key(id) });
                }
                Held::Ended(ended) => self.handle_ended(id, ended),
                Held::Running { pid, size, .. } => {
                    self.handle_started(id, pid);
                    self.handle_output(now, id, size);
                }
            }
        }
        let attempts: Vec<_> = self.attempts.keys().copied().collect();
        for id in attempts {
            self.reconcile(now, id, listed.contains(&id));
        }
    }

    /// Says again what the runner may not have read, and ends what it does not know any more.
    fn reconcile(&mut self, now: Now, id: AttemptId, listed: bool) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        match &attempt.phase {
            Phase::Accepted(_) => self.start(id),
            Phase::Starting { stop: Some(grace_ms), .. } => {
                let grace_ms = *grace_ms;
                self.insert(id, Attempt::new(Phase::Refusing { grace_ms }));
                self.tell_runner(ToRunner::Refuse { attempt: to_key(id) });
            }
            Phase::Starting { launch, stop: None } => {
                attempt.phase = Phase::Accepted(launch.clone());
                self.start(id);
            }
            Phase::Refusing { .. } => self.tell_runner(ToRunner::Refuse { attempt: to_key(id) }),
            Phase::Stopping { grace_ms, .. } if listed => {
                let grace_ms = *grace_ms;
                let stop = self.stop_message(id, grace_ms);
                self.tell_runner(stop);
            }
            Phase::Running { pid } | Phase::Stopping { pid, .. } if !listed => {
                let (pid, size) = (*pid, attempt.log.size);
                let outcome = Outcome::Crashed("the runner does not know the task any more".into());
                self.finish(Report { log_size: size, pid, ..Report::unstarted(id, outcome, now.unix_ms) });
            }
            Phase::Running { .. } | Phase::Stopping { .. } | Phase::Ended(_) => {}
        }
    }

    fn handle_started(&mut self, id: AttemptId, pid: i32) {
        let Some(attempt) = self.attempts.get_mut(&id) else {
            // A former process of this worker started it.
            self.insert(id, Attempt::new(Phase::Running { pid }));
            self.report(id);
            return;
        };
        match attempt.phase {
            Phase::Accepted(_) | Phase::Starting { stop: None, .. } => {
                attempt.phase = Phase::Running { pid };
            }
            Phase::Starting { stop: Some(grace_ms), .. } => {
                // The stop follows the start on its way to the runner.
                attempt.phase = Phase::Stopping { pid, grace_ms };
            }
            Phase::Refusing { grace_ms } => {
                // It was started after all.
                self.insert(id, Attempt::new(Phase::Stopping { pid, grace_ms }));
                let stop = self.stop_message(id, grace_ms);
                self.tell_runner(stop);
            }
            Phase::Running { .. } | Phase::Stopping { .. } | Phase::Ended(_) => return,
        }
        self.note(id, Note::Started(pid));
        self.report(id);
    }

    fn handle_start_failed(&mut self, now: Now, id: AttemptId, outcome: Outcome) {
        match self.attempts.get(&id).map(|attempt| &attempt.phase) {
            Some(Phase::Accepted(_) | Phase::Starting { .. }) => {
                self.finish(Report::unstarted(id, outcome, now.unix_ms));
            }
            Some(Phase::Refusing { .. }) => self.give_back(id, "it could not be started"),
            Some(Phase::Running { .. } | Phase::Stopping { .. } | Phase::Ended(_)) | None => {}
        }
    }

    fn handle_output(&mut self, now: Now, id: AttemptId, size: u64) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        let log = &mut attempt.log;
        if log.unreadable || size <= log.size || matches!(attempt.phase, Phase::Ended(_)) {
            return;
        }
        log.size = size;
        // While all of it would fit into the result, even much of it waits: the task may end at once.
        let at_once = match log.announced {
            Some(announced) => size - announced.min(size) >= PUSH_AT_ONCE,
            None => size > super::INLINE_MAX,
        };
        if at_once {
            self.announce(id);
        } else if log.due.is_none() {
            let due = now.ms + PUSH_DELAY_MS;
            log.due = Some(due);
            self.due.push_back((due, id));
        }
    }

    fn handle_ended(&mut self, id: AttemptId, ended: Ended) {
        let (mut pid, mut known) = (0, false);
        if let Some(attempt) = self.attempts.get(&id) {
            if matches!(attempt.phase, Phase::Ended(_)) {
                return;
            }
            (pid, known) = (attempt.pid(), true);
        }
        if !known && self.gone.fate(id) == Some(Fate::Stored) {
            self.tell_runner(ToRunner::Forget { attempt: to_key(id) });
            return;
        }
        let outcome = match (ended.lost, ended.exit_code, ended.signal) {
            (false, Some(code), _) => Outcome::Exit(code),
            (false, None, Some(signal)) => Outcome::Signal(signal),
            (true, ..) => Outcome::Crashed("the runner died; what was left of the task was killed".into()),
            (false, None, None) => Outcome::Crashed("how the task ended is not known".into()),
        };
        self.finish(Report {
            attempt: id,
            outcome,
            stop_sent: ended.stop_sent,
            stop_cause: ended.stop_cause,
            log_size: ended.size,
            log_discarded: ended.discarded,
            output_failed: ended.output_failed.unwrap_or_default(),
            end_ms: ended.end_ms,
            output_path: String::new(),
            pid,
        });
    }
}
