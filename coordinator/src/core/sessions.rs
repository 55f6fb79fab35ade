//! Workers' coming and going: who is let in, what each held attempt becomes, when a worker is given up.
//!
//! An offer goes back, uncounted, only on proof: a later hello from the same work directory in the same boot
//! that does not list it. Silence, another instance or another boot prove nothing.

use std::collections::BTreeMap;

use muster_proto::AttemptId;

use super::{
    event::{
        Change, Facts, HeldPhase, Hello, Output, Refused, Reply, ReplyId, SessionId, Steer, ToWorker, Verdict,
    },
    fleet::Link,
    machine::{Machine, Turn},
    model::{AttemptRow, InstanceId},
    timers::Timer,
};

impl Machine {
    pub(super) fn on_hello(
        &mut self,
        turn: &mut Turn,
        reply: ReplyId,
        session: SessionId,
        hello: &Hello,
        facts: &Facts,
    ) {
        if let Some(refused) = self.refuses(hello).or_else(|| self.contends(turn, hello)) {
            let reason = refused.to_string();
            turn.reply(reply, Reply::Refused(refused));
            // So that nothing is kept for a session that never was.
            return turn.output(Output::Close(session, reason));
        }
        let instance = &hello.worker.instance;
        let known = self.fleet.get(instance);
        if let Some(old) = known.and_then(super::fleet::Worker::session) {
            turn.output(Output::Close(old, "the worker has connected anew".into()));
        }
        // An unknown boot (only a task remembers the worker) proves nothing.
        let same_boot = known.is_some_and(|worker| worker.boot_id == hello.boot_id);
        self.fleet.connect(hello, session, turn.now.unix_ms);
        if let Some(worker) = self.fleet.get(instance) {
            turn.change(Change::Worker(worker.row()));
        }
        turn.reply(reply, Reply::Attached);

        let held: BTreeMap<AttemptId, HeldPhase> = hello.held.iter().copied().collect();
        let ours = self.held_by(instance);
        for (id, _) in ours.iter().filter(|(id, _)| !held.contains_key(id)) {
            if same_boot {
                self.never_started(turn, *id);
            } else {
                self.give_up(turn, *id, "its worker's machine was restarted while it may have run");
            }
        }
        let current: BTreeMap<AttemptId, Option<u32>> = ours.into_iter().collect();
        let mut stops = Vec::new();
        let verdicts = held
            .iter()
            .map(|(id, phase)| {
                // Of another life, and of a task that is known here: of the data that this is a copy of.
                let related = id.life != self.life && facts.tasks.contains_key(&(id.batch, id.task));
                let verdict = match (current.get(id), phase) {
                    (Some(_), HeldPhase::Ended) => Verdict::Report,
                    // It may not have begun yet, and need not.
                    (Some(Some(_)), HeldPhase::Accepted) => Verdict::Stop,
                    (Some(cancel), HeldPhase::Accepted | HeldPhase::Running) => {
                        stops.extend(cancel.map(|grace_ms| (*id, grace_ms)));
                        Verdict::GoOn
                    }
                    (None, HeldPhase::Ended)
                        if facts.attempts.get(id).map_or(related, AttemptRow::is_given_up) =>
                    {
                        Verdict::Report
                    }
                    (None, HeldPhase::Ended) => Verdict::Forget,
                    // It has cost money, and may be wanted where it was handed out.
                    (None, HeldPhase::Running) if related => Verdict::GoOn,
                    (None, HeldPhase::Accepted | HeldPhase::Running) => Verdict::Stop,
                };
                (*id, verdict)
            })
            .collect();
        turn.send(session, ToWorker::Welcome(verdicts));
        for (attempt, grace_ms) in stops {
            turn.send(session, ToWorker::Stop { attempt, grace_ms });
        }
        for (id, _) in held.iter().filter(|(id, _)| current.contains_key(id)) {
            self.on_running(turn, session, instance, *id, None);
        }
    }

    fn refuses(&self, hello: &Hello) -> Option<Refused> {
        let namesake = self.fleet.connected_as(&hello.worker.name);
        if namesake.is_some_and(|worker| worker.who.instance != hello.worker.instance) {
            return Some(Refused::NameInUse(hello.worker.name.clone()));
        }
        let known = self.fleet.get(&hello.worker.instance)?;
        if known.boot_id == hello.boot_id {
            // It was written before what the newer session brought, so it proves nothing about that. The same
            // number is the same hello once more; 0 is that of workers which do not count.
            let newer = hello.connection > known.connection || (hello.connection, known.connection) == (0, 0);
            return (!newer).then_some(Refused::Outdated);
        }
        known.session().is_some().then_some(Refused::Clone)
    }

    /// The same work directory in the same boot replaces its old stream, but not over and over: then two processes
    /// hold it, and neither can be believed.
    fn contends(&mut self, turn: &mut Turn, hello: &Hello) -> Option<Refused> {
        let (now, config) = (turn.now.mono_ms, self.config);
        let (contended, old) = self.fleet.change(&hello.worker.instance, |worker| {
            if worker.contended_until_mono_ms.is_some_and(|until| now < until) {
                return (true, None);
            }
            worker.contended_until_mono_ms = None;
            let Some(session) = worker.session() else { return (false, None) };
            worker.replaced_mono_ms.retain(|at| now < at + config.contention_ms);
            worker.replaced_mono_ms.push(now);
            if worker.replaced_mono_ms.len() < config.max_replacements {
                return (false, None);
            }
            worker.replaced_mono_ms.clear();
            worker.contended_until_mono_ms = Some(now + config.contention_ms);
            (true, Some(session))
        })?;
        if let Some(session) = old {
            turn.output(Output::Close(session, Refused::Contended.to_string()));
            self.on_gone(turn, session);
        }
        contended.then_some(Refused::Contended)
    }

    pub(super) fn on_gone(&mut self, turn: &mut Turn, session: SessionId) {
        let Some(worker) = self.fleet.by_session(session) else { return };
        let instance = worker.who.instance.clone();
        if worker.leaving && worker.held.is_empty() {
            self.fleet.forget(&instance);
            turn.change(Change::ForgetWorker(instance));
            return self.end_hopeless(turn);
        }
        let now = turn.now.mono_ms;
        self.fleet.change(&instance, |worker| worker.link = Link::Down { since_mono_ms: now });
        self.timers.set(now + self.config.lost_after_ms, Timer::Away(instance));
    }

    pub(super) fn on_steer(&mut self, turn: &mut Turn, reply: ReplyId, name: String, steer: Steer) {
        let Some(worker) = self.fleet.by_name(&name) else {
            return turn.reply(reply, Reply::Refused(Refused::UnknownWorker(name)));
        };
        let instance = worker.who.instance.clone();
        let changed = self.fleet.change(&instance, |worker| {
            match steer {
                Steer::Drain => worker.draining = true,
                Steer::Resume => {
                    worker.draining = false;
                    worker.set_aside = None;
                    worker.launch_failures = 0;
                }
            }
            (worker.row(), worker.view())
        });
        if let Some((row, view)) = changed {
            turn.change(Change::Worker(row));
            turn.reply(reply, Reply::Worker(Box::new(view)));
        }
    }

    pub(super) fn on_timer(&mut self, turn: &mut Turn, timer: Timer) {
        match timer {
            Timer::Offer(id) => self.on_offer_timer(turn, id),
            Timer::Away(instance) => self.on_away_timer(turn, &instance),
            Timer::Retry(batch, task) => self.on_retry_timer(turn.now, batch, task),
            Timer::Queue(batch) => self.on_queue_timer(turn, batch),
            Timer::Unpause(instance) => {
                let now = turn.now.mono_ms;
                self.fleet.change(&instance, |worker| {
                    if worker.paused_until_mono_ms.is_some_and(|until| until <= now) {
                        worker.paused_until_mono_ms = None;
                    }
                });
            }
        }
    }

    /// A worker that leaves an offer unanswered while it is connected does not work as it should: its next
    /// hello tells what became of the offer.
    fn on_offer_timer(&mut self, turn: &mut Turn, id: AttemptId) {
        let Some(active) = self.batches.get(&id.batch).and_then(|live| live.active(id.task, id.attempt))
        else {
            return;
        };
        if active.start_ms.is_some() || active.result.is_some() {
            return;
        }
        let worker = self.fleet.get(&active.worker.instance);
        if let Some(session) = worker.and_then(super::fleet::Worker::session) {
            turn.output(Output::Close(session, format!("the offer of {id} was not answered in time")));
        }
    }

    fn on_away_timer(&mut self, turn: &mut Turn, instance: &InstanceId) {
        let Some(worker) = self.fleet.get(instance) else { return };
        let now = turn.now.mono_ms;
        match worker.link {
            Link::Up(_) => {}
            Link::Down { since_mono_ms } => {
                let patience = self.config.lost_after_ms;
                if now < since_mono_ms + patience {
                    return;
                }
                let message = format!("worker {} was away for {} s", worker.who.name, patience / 1000);
                for (id, _) in self.held_by(instance) {
                    self.give_up(turn, id, &message);
                }
                self.fleet.change(instance, |worker| {
                    worker.link = Link::Lost { since_mono_ms: now };
                });
                turn.change(Change::ForgetWorker(instance.clone()));
                self.timers.set(now + self.config.forget_after_ms, Timer::Away(instance.clone()));
                self.end_hopeless(turn);
            }
            Link::Lost { since_mono_ms } => {
                if now >= since_mono_ms + self.config.forget_after_ms {
                    self.fleet.forget(instance);
                }
            }
        }
    }
}
