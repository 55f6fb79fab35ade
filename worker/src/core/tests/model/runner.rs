//! The model: what the runner says.

use super::*;

impl Model {
    pub(super) fn hears_runner(&mut self, message: &FromRunner) {
        match message {
            FromRunner::Pong => {}
            FromRunner::Hello { version, held, .. } => {
                self.version = *version;
                self.runner_is_back(held);
            }
            FromRunner::Started { attempt, pid, .. } => {
                if let Some(id) = from_key(*attempt) {
                    self.started(id, *pid);
                }
            }
            FromRunner::StartFailed { attempt, errno, message, for_task } => {
                let Some(id) = from_key(*attempt) else { return };
                let (errno, message, for_task) = (*errno, message.clone(), *for_task);
                match self.is(id) {
                    Some(Is::Starting(..)) => {
                        self.at("D24");
                        self.end(id, Outcome::LaunchFailed { errno, message, for_task }, 77, |_| {});
                    }
                    Some(Is::Refusing(_)) => {
                        self.at("D26");
                        self.give_back(id);
                    }
                    _ => {}
                }
            }
            FromRunner::Refused { attempt } => {
                let Some(id) = from_key(*attempt) else { return };
                if let Some(Is::Starting(..) | Is::Refusing(_)) = self.is(id) {
                    self.at("D25");
                    self.give_back(id);
                }
            }
            FromRunner::Output { attempt, size } => {
                if let Some(id) = from_key(*attempt) {
                    self.prints(id, *size);
                }
            }
            FromRunner::Ended(ended) => {
                if let Some(id) = from_key(ended.attempt) {
                    self.ends(id, ended);
                }
            }
        }
    }

    fn started(&mut self, id: AttemptId, pid: i32) {
        let is = match self.is(id) {
            None | Some(Is::Refused | Is::Stored) => {
                self.at("D23");
                self.all.insert(id, One::new(Is::Running));
                Is::Running
            }
            Some(Is::Starting(_, None)) => {
                self.at("D21");
                Is::Running
            }
            Some(Is::Starting(_, Some(grace))) => {
                let grace = *grace;
                self.at("D21");
                Is::Stopping(grace)
            }
            Some(Is::Refusing(grace)) => {
                let grace = *grace;
                self.at("D22");
                self.all.insert(id, One::new(Is::Refusing(grace)));
                self.order(self.stop_order(id, grace));
                Is::Stopping(grace)
            }
            Some(Is::Running | Is::Stopping(_) | Is::Ended(_)) => return,
        };
        if let Some(one) = self.all.get_mut(&id) {
            (one.is, one.pid) = (is, pid);
        }
        self.report(id);
    }

    fn prints(&mut self, id: AttemptId, size: u64) {
        let now = self.now;
        let Some(one) = self.all.get_mut(&id).filter(|one| one.is_here()) else { return };
        if one.unreadable || size <= one.size || matches!(one.is, Is::Ended(_)) {
            return;
        }
        one.size = size;
        let much = match one.given {
            Some(given) => size.saturating_sub(given) >= PUSH_AT_ONCE,
            None => size > INLINE_MAX,
        };
        if much {
            self.give(id);
        } else {
            one.give_at.get_or_insert(now + PUSH_DELAY_MS);
        }
    }

    fn ends(&mut self, id: AttemptId, ended: &protocol::Ended) {
        let pid = match self.is(id) {
            Some(Is::Ended(_)) => return,
            Some(Is::Stored) => {
                self.at("D29");
                return self.order(ToRunner::Forget { attempt: to_key(id) });
            }
            Some(Is::Running | Is::Stopping(_)) => self.all[&id].pid,
            _ => 0,
        };
        let outcome = match (ended.exit_code, ended.signal) {
            _ if ended.lost => {
                Outcome::Crashed("the runner died; what was left of the task was killed".into())
            }
            (Some(code), _) => Outcome::Exit(code),
            (None, Some(signal)) => Outcome::Signal(signal),
            (None, None) => Outcome::Crashed("how the task ended is not known".into()),
        };
        self.at("D27");
        self.end(id, outcome, ended.end_ms, |report| {
            (report.stop_sent, report.stop_cause) = (ended.stop_sent, ended.stop_cause);
            report.log_size = ended.size;
            report.log_discarded = ended.discarded;
            report.output_failed = ended.output_failed.clone().unwrap_or_default();
            report.pid = pid;
        });
    }

    fn runner_is_back(&mut self, held: &[protocol::Held]) {
        self.runner = Runs::Up;
        let owed = std::mem::take(&mut self.owed);
        let mut listed = BTreeSet::new();
        for one in held {
            let Some(id) = from_key(one.attempt()) else { continue };
            listed.insert(id);
            match one {
                protocol::Held::Ended(_) if owed.contains(&id) => {
                    self.at("D29");
                    self.order(ToRunner::Forget { attempt: to_key(id) });
                }
                protocol::Held::Ended(ended) => self.ends(id, ended),
                protocol::Held::Running { pid, size, .. } => {
                    self.started(id, *pid);
                    self.prints(id, *size);
                }
            }
        }
        for id in self.here() {
            self.compare_with_runner(id, listed.contains(&id));
        }
    }

    fn compare_with_runner(&mut self, id: AttemptId, listed: bool) {
        let Some(one) = self.all.get(&id).cloned() else { return };
        match one.is {
            Is::Starting(start, None) => {
                self.at("D31");
                self.order(ToRunner::Start(*start));
            }
            Is::Starting(_, Some(grace)) => {
                self.at("D32");
                self.refuse(id, grace);
            }
            Is::Refusing(_) => {
                self.at("D32");
                self.order(ToRunner::Refuse { attempt: to_key(id) });
            }
            Is::Stopping(grace) if listed => {
                self.at("D33");
                self.order(self.stop_order(id, grace));
            }
            Is::Running | Is::Stopping(_) if !listed => {
                self.at("D30");
                let outcome = Outcome::Crashed("the runner does not know the task any more".into());
                self.end(id, outcome, 77, |report| (report.log_size, report.pid) = (one.size, one.pid));
            }
            _ => {}
        }
    }
}
