//! The model: what workers say, when they are given up, and who gets what.

use std::collections::BTreeMap;

use muster_coordinator::core::{event::*, model::*};
use muster_proto::{AttemptId, AttemptNo, BatchId};

use crate::{
    model::{Attempt, Link, Model, Out, Worker, id_of},
    model_ends::Fate,
    world::{LIFE, config},
};

/// Of a batch without options.
pub(crate) const TERMS: Terms = Terms { time_limit_ms: None, grace_ms: 10_000, stop_after_cut_off_ms: None };

impl Model {
    pub(crate) fn hello(&mut self, session: u64, hello: &Hello) {
        if let Some(refused) = self.refuses(hello).or_else(|| self.contends(hello)) {
            self.refuse(refused);
            return self.outs.push(Out::Close(session));
        }
        let instance = &hello.worker.instance;
        let old = self.workers.get(instance).cloned();
        let same_boot = old.as_ref().is_some_and(|old| old.boot == hello.boot_id);
        match old.as_ref().and_then(Worker::session) {
            Some(session) => {
                self.at("S1a");
                self.outs.push(Out::Close(session));
            }
            None if same_boot => self.at("S1b"),
            None if old.is_some() => self.at("S3b"),
            None => {}
        }
        let worker = Worker {
            who: hello.worker.clone(),
            boot: hello.boot_id.clone(),
            connection: hello.connection,
            slots: hello.slots,
            link: Link::Up(session),
            leaving: hello.draining,
            draining: old.as_ref().is_some_and(|old| old.draining),
            set_aside: old.as_ref().is_some_and(|old| old.set_aside),
            launch_failures: old.as_ref().map_or(0, |old| old.launch_failures),
            paused_until: 0,
            last_seen: Some(self.unix()),
            replaced: old.as_ref().map_or(Vec::new(), |old| old.replaced.clone()),
            contended_until: 0,
            stored: true,
        };
        self.workers.insert(instance.clone(), worker);
        self.outs.push(Out::Reply(Reply::Attached));

        let listed: BTreeMap<AttemptId, HeldPhase> = hello.held.iter().copied().collect();
        let ours = self.held_by(instance);
        for id in ours.iter().filter(|id| !listed.contains_key(id)) {
            self.not_listed(*id, same_boot);
        }
        let mut verdicts = Vec::new();
        let mut stops = Vec::new();
        for (id, phase) in &listed {
            let row = self.row_of(*id);
            let related = id.life != LIFE && self.task(*id).is_some();
            let grace = ours.contains(id).then(|| self.live(*id).and_then(|attempt| attempt.grace_ms));
            let (rows, verdict) = match (grace, phase) {
                (Some(_), HeldPhase::Ended) => (["H4a", "H4b"], Verdict::Report),
                (Some(Some(_)), HeldPhase::Accepted) => (["H2a", "H2b"], Verdict::Stop),
                (Some(Some(grace_ms)), HeldPhase::Running) => {
                    stops.push((*id, grace_ms));
                    (["H3a", "H3b"], Verdict::GoOn)
                }
                (Some(None), _) => (["H1a", "H1b"], Verdict::GoOn),
                (None, HeldPhase::Accepted) if related => (["L1", "L1"], Verdict::Stop),
                (None, HeldPhase::Running) if related => (["L2", "L2"], Verdict::GoOn),
                (None, HeldPhase::Ended) if related && row.is_none() => (["L3", "L3"], Verdict::Report),
                (None, HeldPhase::Accepted | HeldPhase::Running) => (["N1", "N1"], Verdict::Stop),
                (None, HeldPhase::Ended) if row.is_some_and(|row| row.is_given_up()) => {
                    (["N2", "N2"], Verdict::Report)
                }
                (None, HeldPhase::Ended) => (["N3", "N3"], Verdict::Forget),
            };
            self.at(rows[usize::from(!same_boot)]);
            verdicts.push((*id, verdict));
        }
        self.send(session, ToWorker::Welcome(verdicts));
        for (attempt, grace_ms) in stops {
            self.send(session, ToWorker::Stop { attempt, grace_ms });
        }
        for id in listed.keys().filter(|id| ours.contains(id)) {
            self.runs(*id, instance, None);
        }
    }

    fn refuses(&mut self, hello: &Hello) -> Option<Refused> {
        let (instance, name) = (&hello.worker.instance, &hello.worker.name);
        let others = self.workers.values().filter(|worker| worker.who.instance != *instance);
        let namesakes: Vec<_> = others.filter(|worker| worker.who.name == *name).collect();
        let used = namesakes.iter().any(|worker| worker.session().is_some());
        if !namesakes.is_empty() {
            self.at(if used { "S4a" } else { "S4b" });
        }
        if used {
            return Some(Refused::NameInUse(name.clone()));
        }
        let known = self.workers.get(instance)?;
        let (newest, up) = (known.connection, known.session().is_some());
        if known.boot == hello.boot_id {
            let counts = (newest, hello.connection) != (0, 0);
            if counts && hello.connection <= newest {
                self.at(if up { "S2a" } else { "S2b" });
                return Some(Refused::Outdated);
            }
        } else if up {
            self.at("S3a");
            return Some(Refused::Clone);
        }
        None
    }

    /// Two processes replace each other's session over and over.
    fn contends(&mut self, hello: &Hello) -> Option<Refused> {
        let (now, config) = (self.now, config());
        let worker = self.workers.get_mut(&hello.worker.instance)?;
        if now < worker.contended_until {
            self.at("S5b");
            return Some(Refused::Contended);
        }
        let session = worker.session()?;
        worker.replaced.push(now);
        worker.replaced.retain(|at| at + config.contention_ms > now);
        if worker.replaced.len() < config.max_replacements {
            return None;
        }
        worker.replaced.clear();
        worker.contended_until = now + config.contention_ms;
        self.at("S5a");
        self.outs.push(Out::Close(session));
        self.gone(session);
        Some(Refused::Contended)
    }

    /// A hello does not list an attempt that its worker has, or may have.
    fn not_listed(&mut self, id: AttemptId, same_boot: bool) {
        let Some(attempt) = self.live(id) else { return };
        let rows = if attempt.result.is_some() {
            ["H7a", "H7b"]
        } else if attempt.pid != 0 {
            ["H6a", "H6b"]
        } else {
            ["H5a", "H5b"]
        };
        let running = attempt.start_ms.is_some();
        self.at(rows[usize::from(!same_boot)]);
        if rows[0] == "H5a" && same_boot {
            if running {
                self.at("T6");
            }
            self.give_back(id);
        } else {
            self.give_up(id);
        }
    }

    fn row_of(&mut self, id: AttemptId) -> Option<AttemptRow> {
        if id.life != LIFE {
            return self.foreign.get(&id).cloned();
        }
        self.task(id)?.attempts.get((id.attempt.0 as usize).checked_sub(1)?)?.row.clone()
    }

    pub(crate) fn says(&mut self, session: u64, said: &FromWorker) {
        let Some(instance) = self.by_session(session) else { return };
        let unix = self.unix();
        if let Some(worker) = self.workers.get_mut(&instance) {
            worker.last_seen = Some(unix);
        }
        match said {
            FromWorker::Heartbeat(_) => {}
            FromWorker::Accepted(id) | FromWorker::Started(id, _) => {
                let started = if let FromWorker::Started(_, started) = said { Some(started) } else { None };
                // What becomes of those of another life was said with the welcome.
                if id.life == LIFE && self.live_on(*id, &instance).is_none() {
                    self.at("A12");
                    let grace_ms = self.grace_of(id.batch);
                    self.send(session, ToWorker::Stop { attempt: *id, grace_ms });
                }
                self.runs(*id, &instance, started);
            }
            FromWorker::Returned(id) => self.returned(*id, &instance),
            FromWorker::Ended(id, ended) => self.ended(session, &instance, *id, ended),
            FromWorker::Draining => {
                if let Some(worker) = self.workers.get_mut(&instance) {
                    worker.leaving = true;
                }
            }
            FromWorker::Leaving => {
                for id in self.held_by(&instance) {
                    if self
                        .live(id)
                        .is_some_and(|attempt| attempt.start_ms.is_none() && attempt.result.is_none())
                    {
                        self.at("A4");
                        self.give_back(id);
                    }
                }
                self.forget_if_idle(&instance);
                self.outs.push(Out::Close(session));
            }
        }
    }

    /// Accepted, or started, or listed by a hello.
    fn runs(&mut self, id: AttemptId, instance: &InstanceId, started: Option<&Started>) {
        let unix = self.unix();
        let Some(attempt) = self.live_on(id, instance) else { return };
        let mut changed = false;
        let newly = attempt.start_ms.is_none();
        if newly {
            attempt.start_ms = Some(unix);
            changed = true;
        }
        if let Some(Started { pid, output_path }) = started {
            attempt.ran |= *pid != 0;
            changed |= attempt.pid != *pid;
            attempt.pid = *pid;
            if !output_path.is_empty() && attempt.path != *output_path {
                attempt.path.clone_from(output_path);
                changed = true;
            }
        }
        if newly {
            self.at("A1");
            self.at("T1");
            if let Some(batch) = self.batches.get_mut(&id.batch) {
                batch.start_ms.get_or_insert(unix);
            }
        }
        if changed {
            self.touch_task(id);
        }
    }

    fn returned(&mut self, id: AttemptId, instance: &InstanceId) {
        let until = self.now + config().pause_ms;
        let Some(attempt) = self.live_on(id, instance) else { return };
        let (proof, running) = (attempt.pid == 0 && attempt.result.is_none(), attempt.start_ms.is_some());
        if let Some(worker) = self.workers.get_mut(instance).filter(|worker| !worker.leaving) {
            worker.paused_until = until;
        }
        if proof {
            self.at("A2");
            if running {
                self.at("T6");
            }
            self.give_back(id);
        } else {
            self.at("A3");
            self.give_up(id);
        }
    }

    fn ended(&mut self, session: u64, instance: &InstanceId, id: AttemptId, ended: &Ended) {
        let stored = self.logs.get(&id).copied().unwrap_or(0);
        let Some(attempt) = self.live_on(id, instance) else { return self.late(session, id, ended, stored) };
        attempt.stored = attempt.stored.max(stored);
        attempt.result = Some(ended.clone());
        self.settle(id);
    }

    pub(crate) fn log_stored(&mut self, id: AttemptId, offset: u64) {
        if let Some((session, ended)) = self.late.remove(&id) {
            if self.by_session(session).is_some() {
                self.late(session, id, &ended, offset);
            }
            return;
        }
        let Some(attempt) = self.live(id) else { return };
        attempt.stored = attempt.stored.max(offset);
        if attempt.result.is_some() {
            self.settle(id);
        }
    }

    /// Ends an attempt that has its result and whose output is stored.
    fn settle(&mut self, id: AttemptId) {
        let Some(attempt) = self.live(id) else { return };
        let Some(result) = attempt.result.clone() else { return };
        if attempt.stored < result.log_size {
            return self.at("A8");
        }
        attempt.result = None;
        let (instance, cancelled) = (attempt.worker.instance.clone(), attempt.grace_ms.is_some());
        let (started, running) = (attempt.pid != 0, attempt.start_ms.is_some());
        let machine_failed = matches!(result.outcome, Outcome::LaunchFailed { task_fault: false, .. });
        if let Some(worker) = self.workers.get_mut(&instance).filter(|_| !machine_failed) {
            worker.launch_failures = 0;
        }
        self.at("A9");
        let mut rows = Vec::new();
        let fate = Fate::of(&result, cancelled, |row| rows.push(row));
        match fate {
            Some(fate) => {
                self.end(id, Some(&result), &fate);
                let again = self.task(id).is_some_and(|task| task.end.is_none());
                match fate.status {
                    TaskStatus::Completed if running => rows.push("T3"),
                    TaskStatus::Cancelled if running => rows.push("T5"),
                    TaskStatus::Failed if running && !again => rows.push("T4"),
                    _ => {}
                }
                // These are of what ran and is over.
                rows.retain(|row| running && !again || !["T12", "T13"].contains(row));
            }
            None if started => self.end(id, Some(&result), &Fate::crashed()),
            None => {
                if running {
                    rows.push("T7");
                }
                self.elsewhere(id, &result, &instance);
            }
        }
        if machine_failed && started {
            rows[0] = if cancelled { "P9a" } else { "P9b" };
        }
        rows.into_iter().for_each(|row| self.at(row));
        if let Some(session) = self.workers.get(&instance).and_then(Worker::session) {
            self.send(session, ToWorker::Acknowledged(id));
        }
    }

    /// A machine could not start the program.
    fn elsewhere(&mut self, id: AttemptId, result: &Ended, instance: &InstanceId) {
        if let Some(worker) = self.workers.get_mut(instance) {
            worker.launch_failures += 1;
            if worker.launch_failures >= config().max_launch_failures && !worker.set_aside {
                worker.set_aside = true;
                worker.stored = true;
            }
        }
        let connected = self.connected();
        let Some(task) = self.task(id) else { return };
        task.excluded.insert(instance.clone());
        if !connected.is_empty() && connected.iter().all(|other| task.excluded.contains(other)) {
            return self.end(id, Some(result), &Fate::launch_failed());
        }
        let unix = self.unix();
        if let Some(attempt) = self.live(id) {
            attempt.row = Some(AttemptRow {
                id,
                worker: attempt.worker.name.clone(),
                exit_code: None,
                signal: None,
                failure: Some(FailureReason::WorkerLaunchFailed),
                end_ms: unix,
                log_bytes: result.log_size,
                log_discarded: result.log_discarded,
                late: false,
            });
        }
        self.give_back(id);
    }

    fn connected(&self) -> Vec<InstanceId> {
        let up = self.workers.values().filter(|worker| worker.session().is_some());
        up.map(|worker| worker.who.instance.clone()).collect()
    }

    /// Waiting tasks that every connected worker has failed to start fail.
    fn end_hopeless(&mut self) {
        let (connected, now) = (self.connected(), self.now as i64);
        if connected.is_empty() {
            return;
        }
        let ids: Vec<_> = self.batches.keys().copied().collect();
        for id in ids {
            for index in 0..self.batches.get(&id).map_or(0, |batch| batch.tasks.len()) {
                let Some(task) = self.batches.get_mut(&id).and_then(|batch| batch.tasks.get_mut(index))
                else {
                    continue;
                };
                if !task.is_waiting() || !connected.iter().all(|worker| task.excluded.contains(worker)) {
                    continue;
                }
                let attempt = AttemptNo(task.attempts.len() as u32);
                task.end = Some(TaskState {
                    status: TaskStatus::Failed,
                    attempt,
                    failure: Some(FailureReason::WorkerLaunchFailed),
                    end_ms: Some(now),
                    ..TaskState::default()
                });
                task.excluded.clear();
                if let Some(batch) = self.batches.get_mut(&id) {
                    batch.fails = true;
                }
                self.touch_task(id_of(id, index, attempt.0 as usize));
            }
        }
    }

    /// A result of an attempt that is over, or that never was.
    fn late(&mut self, session: u64, id: AttemptId, ended: &Ended, stored: u64) {
        let reporter = self.by_session(session).and_then(|instance| self.workers.get(&instance));
        let name = reporter.map(|worker| worker.who.name.clone()).unwrap_or_default();
        let unheard = AttemptRow {
            id,
            worker: String::new(),
            exit_code: None,
            signal: None,
            failure: None,
            end_ms: 0,
            log_bytes: 0,
            log_discarded: 0,
            late: false,
        };
        let foreign = id.life != LIFE;
        let mut row = match self.row_of(id) {
            Some(row) if row.is_given_up() => row,
            None if foreign && self.task(id).is_some() => unheard,
            row => {
                if row.is_some() {
                    self.at("A11");
                }
                return self.send(session, ToWorker::Acknowledged(id));
            }
        };
        if stored < ended.log_size {
            self.late.insert(id, (session, ended.clone()));
            return;
        }
        let (mut exit_code, mut signal) = (None, None);
        match ended.outcome {
            Outcome::Exited(code) => exit_code = Some(code),
            Outcome::Signalled(by) => signal = Some(by),
            _ => {}
        }
        let news = (exit_code, signal, ended.log_size, ended.log_discarded);
        if !foreign && news == (row.exit_code, row.signal, row.log_bytes, row.log_discarded) {
            // The same once more.
            self.at("A11");
        } else {
            self.at(if foreign { "L3" } else { "A14" });
            (row.exit_code, row.signal, row.log_bytes, row.log_discarded) = news;
            (row.worker, row.end_ms, row.late) = (name, self.unix(), true);
            let no = id.attempt.0 as usize;
            if foreign {
                self.foreign.insert(id, row);
            } else if let Some(attempt) = self.task(id).and_then(|task| task.attempts.get_mut(no - 1)) {
                attempt.row = Some(row);
            }
            self.touch_task(id);
        }
        self.send(session, ToWorker::Acknowledged(id));
    }

    pub(crate) fn unsendable(&mut self, id: AttemptId, reason: FailureReason) {
        if self.live(id).is_some() {
            self.at("A7");
            self.end(id, None, &Fate::failed(reason));
        }
    }

    pub(crate) fn gone(&mut self, session: u64) {
        let Some(instance) = self.by_session(session) else { return };
        let back_by = self.now + config().lost_after_ms;
        let Some(worker) = self.workers.get_mut(&instance) else { return };
        if worker.leaving && self.forget_if_idle(&instance) {
            return;
        }
        if let Some(worker) = self.workers.get_mut(&instance) {
            worker.link = Link::Down(back_by);
        }
    }

    /// A worker that leaves and holds nothing is forgotten.
    fn forget_if_idle(&mut self, instance: &InstanceId) -> bool {
        let idle = self.held_by(instance).is_empty();
        if idle {
            self.workers.remove(instance);
            self.end_hopeless();
        }
        idle
    }

    pub(crate) fn time_passes(&mut self) {
        let now = self.now;
        let due = |attempt: &Attempt| attempt.answer_by.is_some_and(|by| by <= now);
        let overdue: Vec<_> =
            self.active().into_iter().filter(|(_, attempt)| due(attempt)).map(|(id, _)| id).collect();
        for id in overdue {
            let Some(attempt) = self.live(id) else { continue };
            attempt.answer_by = None;
            let unanswered = attempt.start_ms.is_none() && attempt.result.is_none();
            let instance = attempt.worker.instance.clone();
            if let (true, Some(session)) = (unanswered, self.workers.get(&instance).and_then(Worker::session))
            {
                self.at("A5");
                self.outs.push(Out::Close(session));
            }
        }
        // What is due first comes first, though both are seen to now.
        let links = self.workers.values().filter_map(|worker| match worker.link {
            Link::Down(by) | Link::Lost(by) => Some(by),
            Link::Up(_) => None,
        });
        let mut moments: Vec<_> =
            links.chain(self.batches.values().filter_map(|batch| batch.start_by)).collect();
        moments.retain(|moment| *moment <= now);
        moments.sort_unstable();
        for moment in moments {
            self.waits_end(moment);
            let all: Vec<_> = self.workers.keys().cloned().collect();
            all.iter().for_each(|instance| self.worker_ages(instance, moment));
        }
    }

    fn worker_ages(&mut self, instance: &InstanceId, moment: u64) {
        let now = self.now;
        match self.workers.get(instance).map(|worker| worker.link) {
            Some(Link::Down(by)) if by <= moment => {
                for id in self.held_by(instance) {
                    let has_result = self.live(id).is_some_and(|attempt| attempt.result.is_some());
                    let running = self.live(id).is_some_and(|attempt| attempt.start_ms.is_some());
                    self.at(if has_result { "A13" } else { "A10" });
                    if running && !has_result {
                        self.at("T8");
                    }
                    self.give_up(id);
                }
                if let Some(worker) = self.workers.get_mut(instance) {
                    worker.link = Link::Lost(now + config().forget_after_ms);
                    worker.stored = false;
                }
                self.end_hopeless();
            }
            Some(Link::Lost(by)) if by <= moment => drop(self.workers.remove(instance)),
            _ => {}
        }
    }

    /// The oldest batch first, its tasks in index order, to the worker with the most free places.
    pub(crate) fn hand_out(&mut self) {
        let ids: Vec<_> = self.batches.keys().copied().collect();
        for id in ids {
            while self.offer_one(id) {}
        }
    }

    fn offer_one(&mut self, id: BatchId) -> bool {
        let Some(batch) = self.batches.get(&id) else { return false };
        if batch.ended.is_some() || batch.on_hold || batch.active() >= batch.limit as usize {
            return false;
        }
        let mut free: Vec<_> = self
            .workers
            .values()
            .filter(|worker| worker.takes_tasks() && worker.paused_until <= self.now)
            .map(|worker| {
                let held = self.held_by(&worker.who.instance).len();
                (worker.slots as usize - held.min(worker.slots as usize), worker.who.clone())
            })
            .filter(|(free, _)| *free > 0)
            .collect();
        free.sort_by(|a, b| (b.0, &b.1.instance).cmp(&(a.0, &a.1.instance)));
        let fits = |who: &WorkerRef| {
            batch.tasks.iter().position(|task| {
                task.is_waiting() && task.ready_at <= self.now && !task.excluded.contains(&who.instance)
            })
        };
        let Some((who, index)) = free.into_iter().find_map(|(_, who)| fits(&who).map(|index| (who, index)))
        else {
            return false;
        };
        let answer_by = Some(self.now + config().offer_timeout_ms);
        let Some(session) = self.workers.get(&who.instance).and_then(Worker::session) else { return false };
        let Some(task) = self.batches.get_mut(&id).and_then(|batch| batch.tasks.get_mut(index)) else {
            return false;
        };
        task.attempts.push(Attempt {
            worker: who,
            start_ms: None,
            answer_by,
            pid: 0,
            path: String::new(),
            grace_ms: None,
            result: None,
            stored: 0,
            over: false,
            row: None,
            ran: false,
            given_back: false,
        });
        let offered = id_of(id, index, task.attempts.len());
        self.touch_task(offered);
        self.send(session, ToWorker::Offer(offered, self.terms(offered)));
        true
    }
}
