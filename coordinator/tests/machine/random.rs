//! Generated event sequences against workers that behave and links that do not: whatever happens, no attempt
//! is started twice, limits hold, ends are final (all checked by the world after every event), and once
//! everything is healthy every task ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use muster_coordinator::core::{event::*, options::*};
use muster_proto::{AttemptId, TaskIndex};
use proptest::prelude::*;

use crate::world::*;

const WORKERS: u32 = 3;
/// Every program prints so many bytes.
const LOG_SIZE: u64 = 3;

#[derive(Clone, Debug)]
enum Step {
    Submit {
        tasks: u32,
        limit: u32,
        carried: Carried,
    },
    Cancel {
        batch: u64,
        task: u32,
        immediate: bool,
    },
    Retry {
        batch: u64,
        task: u32,
    },
    Connect(u32),
    Cut(u32),
    /// The stream is dead, and only the worker knows: what either says is lost until it dials in anew.
    Vanish(u32),
    /// Dials in anew on a stream that both take for good.
    Replace(u32),
    /// Words of a stream that was replaced come late.
    Stale(u32),
    /// A hello is held up in the network, and its worker gives the stream up.
    HoldUp(u32),
    /// The one that was held up first arrives after all.
    Arrive(u32),
    /// The machine restarts; everything on it is gone.
    Reboot(u32),
    /// The machine cannot start a program.
    FailLaunch(u32),
    /// All results that are not acknowledged are sent again.
    Again(u32),
    Deliver(u32),
    Run(u32),
    Finish {
        worker: u32,
        code: i32,
    },
    Store {
        worker: u32,
        bytes: u64,
    },
    Pass(u64),
    Restart,
    Drain(u32, bool),
}

/// Which of its options a batch has.
#[derive(Clone, Copy, Debug)]
struct Carried {
    retries: bool,
    gives_up: bool,
    queue_time: bool,
}

/// Attempts of a task that has retries.
const MAX_ATTEMPTS: u32 = 2;

impl Carried {
    fn options(self) -> BatchOptions {
        let on = [RetryOn::ExitCode, RetryOn::Signal, RetryOn::WorkerCrashed];
        BatchOptions {
            retry: self.retries.then(|| RetryPolicy {
                max_attempts: MAX_ATTEMPTS,
                on: on.into_iter().collect(),
                backoff_ms: 5_000,
                max_backoff_ms: 20_000,
            }),
            max_failures: self.gives_up.then_some(2),
            queue_time_limit_ms: self.queue_time.then_some(90_000),
            ..BatchOptions::default()
        }
    }
}

fn carried() -> impl Strategy<Value = Carried> {
    any::<(bool, bool, bool)>().prop_map(|(retries, gives_up, queue_time)| Carried {
        retries,
        gives_up,
        queue_time,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let worker = 0..WORKERS;
    prop_oneof![
        2 => (1..6u32, 1..4u32, carried())
            .prop_map(|(tasks, limit, carried)| Step::Submit { tasks, limit, carried }),
        1 => (1..5u64, 0..6u32, any::<bool>())
            .prop_map(|(batch, task, immediate)| Step::Cancel { batch, task, immediate }),
        1 => (1..5u64, 0..6u32).prop_map(|(batch, task)| Step::Retry { batch, task }),
        4 => worker.clone().prop_map(Step::Connect),
        1 => worker.clone().prop_map(Step::Cut),
        1 => worker.clone().prop_map(Step::Vanish),
        1 => worker.clone().prop_map(Step::Replace),
        1 => worker.clone().prop_map(Step::Stale),
        1 => worker.clone().prop_map(Step::HoldUp),
        2 => worker.clone().prop_map(Step::Arrive),
        1 => worker.clone().prop_map(Step::FailLaunch),
        1 => worker.clone().prop_map(Step::Again),
        1 => worker.clone().prop_map(Step::Reboot),
        6 => worker.clone().prop_map(Step::Deliver),
        4 => worker.clone().prop_map(Step::Run),
        4 => (worker.clone(), -1..3i32).prop_map(|(worker, code)| Step::Finish { worker, code }),
        4 => (worker.clone(), 1..=LOG_SIZE).prop_map(|(worker, bytes)| Step::Store { worker, bytes }),
        1 => (1..120_000u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
        1 => (worker, any::<bool>()).prop_map(|(worker, on)| Step::Drain(worker, on)),
    ]
}

/// A worker as the protocol wants it: accepts before it starts, forgets only what is acknowledged.
#[derive(Default)]
struct Sim {
    session: Option<u64>,
    /// Sessions that the coordinator may still take for good.
    old: Vec<u64>,
    boots: u32,
    /// Numbers its hellos.
    connections: u64,
    held_up: VecDeque<Box<Hello>>,
    inbox: Vec<ToWorker>,
    held: BTreeMap<AttemptId, Held>,
    refused: BTreeSet<AttemptId>,
}

#[derive(Clone)]
struct Held {
    phase: HeldPhase,
    stopped: bool,
    result: Option<Box<Ended>>,
}

#[derive(Default)]
struct Fleet {
    workers: Vec<Sim>,
    sessions: u64,
    batches: u64,
    started: BTreeMap<AttemptId, u32>,
}

impl Fleet {
    fn take(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(session, message) => {
                    if let Some(sim) = self.by_session(session.0) {
                        sim.inbox.push(message);
                    }
                }
                Output::Close(session, _) => {
                    if let Some(sim) = self.by_session(session.0) {
                        sim.old.extend(sim.session.take());
                    }
                }
                Output::Reply(..) => {}
            }
        }
    }

    fn by_session(&mut self, session: u64) -> Option<&mut Sim> {
        self.workers.iter_mut().find(|sim| sim.session == Some(session))
    }

    fn says(&mut self, world: &mut World, worker: u32, said: FromWorker) {
        if let Some(session) = self.workers[worker as usize].session {
            let outputs = world.says(session, said);
            self.take(outputs);
        }
    }

    fn apply(&mut self, world: &mut World, step: Step) {
        match step {
            Step::Submit { tasks, limit, carried } => {
                self.batches += 1;
                let outputs = world.submit_with(self.batches, tasks, limit.min(tasks), carried.options());
                self.take(outputs);
            }
            Step::Cancel { batch: number, task, immediate } => {
                let tasks = if task == 0 { vec![] } else { vec![TaskIndex(task)] };
                let cancel =
                    Cancel { batch: batch(number), tasks, reason: "so".into(), immediate, request: None };
                let event = Event::Cancel(world.reply_id(), cancel);
                let outputs = world.send(event);
                self.take(outputs);
            }
            Step::Retry { batch, task } => {
                let tasks = if task == 0 { vec![] } else { vec![task] };
                let outputs = world.retry(batch, &tasks, None);
                self.take(outputs);
            }
            Step::Connect(worker) => self.connect(world, worker),
            Step::Cut(worker) => {
                if let Some(session) = self.workers[worker as usize].session.take() {
                    let outputs = world.send(Event::Gone(SessionId(session)));
                    self.take(outputs);
                }
            }
            Step::Deliver(worker) => self.deliver(world, worker),
            Step::Run(worker) => self.run(world, worker),
            Step::Finish { worker, code } => self.finish(world, worker, code),
            Step::Vanish(worker) => {
                let sim = &mut self.workers[worker as usize];
                sim.old.extend(sim.session.take());
            }
            Step::Replace(worker) => {
                self.apply(world, Step::Vanish(worker));
                self.connect(world, worker);
            }
            Step::Stale(worker) => self.stale(world, worker),
            Step::HoldUp(worker) => {
                self.apply(world, Step::Vanish(worker));
                let hello = self.hello(worker);
                self.workers[worker as usize].held_up.push_back(hello);
            }
            Step::Arrive(worker) => {
                let Some(hello) = self.workers[worker as usize].held_up.pop_front() else { return };
                self.sessions += 1;
                let outputs = world.connect(self.sessions, hello);
                // Nobody is at the other end.
                self.workers[worker as usize].old.push(self.sessions);
                self.take(outputs);
            }
            Step::Reboot(worker) => {
                self.apply(world, Step::Vanish(worker));
                let sim = &mut self.workers[worker as usize];
                sim.held.clear();
                sim.held_up.clear();
                sim.boots += 1;
                for session in std::mem::take(&mut sim.old) {
                    let outputs = world.send(Event::Gone(SessionId(session)));
                    self.take(outputs);
                }
            }
            Step::FailLaunch(worker) => {
                let outcome = Outcome::LaunchFailed { task_fault: false, message: "no".into() };
                self.end(world, worker, HeldPhase::Accepted, Ended { pid: 0, ..*ended(outcome) });
            }
            Step::Again(worker) => {
                let held: Vec<_> = self.workers[worker as usize].held.keys().copied().collect();
                for id in held {
                    self.report(world, worker, id);
                }
            }
            Step::Store { worker, bytes } => {
                let ran: Vec<_> = self.workers[worker as usize]
                    .held
                    .iter()
                    .filter(|(_, held)| held.phase != HeldPhase::Accepted)
                    .map(|(id, _)| *id)
                    .collect();
                for id in ran {
                    let stored = world.log_stored.entry(id).or_default();
                    *stored = bytes.max(*stored);
                    let event = Event::LogStored(id, *stored);
                    let outputs = world.send(event);
                    self.take(outputs);
                }
            }
            Step::Pass(ms) => {
                let outputs = world.pass(ms);
                self.take(outputs);
            }
            Step::Restart => {
                world.restart();
                for sim in &mut self.workers {
                    sim.session = None;
                    sim.old.clear();
                }
            }
            Step::Drain(worker, on) => {
                let steer = if on { Steer::Drain } else { Steer::Resume };
                let outputs = world.send(Event::Steer(ReplyId(0), format!("w{worker}"), steer));
                self.take(outputs);
            }
        }
    }

    /// Whatever comes on a stream that was replaced changes nothing.
    fn stale(&mut self, world: &mut World, worker: u32) {
        let sim = &self.workers[worker as usize];
        if sim.session.is_none() {
            return;
        }
        let held: Vec<_> = sim.held.keys().copied().collect();
        for session in sim.old.clone() {
            let before = world.store.clone();
            for id in &held {
                for said in [
                    FromWorker::Returned(*id),
                    FromWorker::Ended(*id, exited(9)),
                    FromWorker::Started(*id, Started { pid: 99, output_path: "/stale".into() }),
                ] {
                    assert!(world.says(session, said).is_empty());
                }
            }
            assert!(world.says(session, FromWorker::Leaving).is_empty());
            assert!(world.send(Event::Gone(SessionId(session))).is_empty());
            assert_eq!(format!("{before:?}"), format!("{:?}", world.store));
        }
    }

    fn connect(&mut self, world: &mut World, worker: u32) {
        let sim = &mut self.workers[worker as usize];
        if sim.session.is_some() {
            return;
        }
        self.sessions += 1;
        sim.session = Some(self.sessions);
        let hello = self.hello(worker);
        let outputs = world.connect(self.sessions, hello);
        match reply(&outputs) {
            Reply::Attached => self.take(outputs),
            // Its old stream was up each of the last times; a minute later it is let in.
            Reply::Refused(Refused::Contended) => {
                self.workers[worker as usize].session = None;
                self.take(outputs);
                let outputs = world.pass(60_000);
                self.take(outputs);
                self.connect(world, worker);
            }
            other => panic!("{other:?}"),
        }
    }

    fn hello(&mut self, worker: u32) -> Box<Hello> {
        let sim = &mut self.workers[worker as usize];
        // What an older session brought and was not answered is dropped before a hello is written.
        sim.inbox.clear();
        sim.connections += 1;
        let held: Vec<_> = sim.held.iter().map(|(id, held)| (*id, held.phase)).collect();
        let boot_id = format!("boot {}", sim.boots);
        Box::new(Hello { boot_id, connection: sim.connections, ..*hello(worker, 2, &held) })
    }

    fn deliver(&mut self, world: &mut World, worker: u32) {
        let sim = &mut self.workers[worker as usize];
        // What came before a stream died is still read, and the answers are lost.
        if sim.inbox.is_empty() {
            return;
        }
        match sim.inbox.remove(0) {
            ToWorker::Welcome(verdicts) => {
                for (id, verdict) in verdicts {
                    match verdict {
                        Verdict::GoOn => {}
                        Verdict::Report => self.report(world, worker, id),
                        Verdict::Stop => self.stop(world, worker, id),
                        Verdict::Forget => drop(self.workers[worker as usize].held.remove(&id)),
                    }
                }
            }
            ToWorker::Offer(id, _) => {
                let held = Held { phase: HeldPhase::Accepted, stopped: false, result: None };
                assert!(sim.held.insert(id, held).is_none(), "offered twice");
                self.says(world, worker, FromWorker::Accepted(id));
            }
            ToWorker::Stop { attempt, .. } => self.stop(world, worker, attempt),
            ToWorker::Acknowledged(id) => drop(sim.held.remove(&id)),
        }
    }

    fn run(&mut self, world: &mut World, worker: u32) {
        let sim = &mut self.workers[worker as usize];
        let next = sim.held.iter_mut().find(|(_, held)| held.phase == HeldPhase::Accepted);
        let Some((id, held)) = next else { return };
        let id = *id;
        assert!(!sim.refused.contains(&id));
        held.phase = HeldPhase::Running;
        *self.started.entry(id).or_default() += 1;
        self.says(world, worker, FromWorker::Started(id, Started { pid: 1, output_path: "/o".into() }));
    }

    fn finish(&mut self, world: &mut World, worker: u32, code: i32) {
        let outcome = if code < 0 { Outcome::Signalled(-code) } else { Outcome::Exited(code) };
        let result = Ended { log_size: LOG_SIZE, ..*ended(outcome) };
        self.end(world, worker, HeldPhase::Running, result);
    }

    fn end(&mut self, world: &mut World, worker: u32, phase: HeldPhase, result: Ended) {
        let sim = &mut self.workers[worker as usize];
        let next = sim.held.iter_mut().find(|(_, held)| held.phase == phase);
        let Some((id, held)) = next else { return };
        let id = *id;
        held.phase = HeldPhase::Ended;
        held.result = Some(Box::new(Ended { stop_sent: held.stopped, ..result }));
        self.report(world, worker, id);
    }

    fn report(&mut self, world: &mut World, worker: u32, id: AttemptId) {
        let result = self.workers[worker as usize].held.get(&id).and_then(|held| held.result.clone());
        if let Some(result) = result {
            self.says(world, worker, FromWorker::Ended(id, result));
        }
    }

    fn stop(&mut self, world: &mut World, worker: u32, id: AttemptId) {
        let sim = &mut self.workers[worker as usize];
        match sim.held.get_mut(&id).map(|held| (held.phase, held)) {
            None | Some((HeldPhase::Accepted, _)) => {
                sim.held.remove(&id);
                sim.refused.insert(id);
                self.says(world, worker, FromWorker::Returned(id));
            }
            Some((HeldPhase::Running, held)) => held.stopped = true,
            Some((HeldPhase::Ended, _)) => {}
        }
    }

    /// Everything is healthy from here on: whatever is unfinished must end.
    fn heal(&mut self, world: &mut World) {
        for _ in 0..400 {
            for worker in 0..WORKERS {
                self.apply(world, Step::Drain(worker, false));
                self.connect(world, worker);
                while self.workers[worker as usize].session.is_some()
                    && !self.workers[worker as usize].inbox.is_empty()
                {
                    self.deliver(world, worker);
                }
                self.run(world, worker);
                self.finish(world, worker, 0);
                self.apply(world, Step::Store { worker, bytes: LOG_SIZE });
            }
            self.apply(world, Step::Pass(1_000));
            if world.store.batches.values().all(|batch| batch.state.status.is_ended()) {
                return;
            }
        }
        panic!("not every batch ended: {:#?}", world.store.batches);
    }
}

fn check(steps: Vec<Step>) {
    let mut world = World::new();
    let mut fleet = Fleet { workers: (0..WORKERS).map(|_| Sim::default()).collect(), ..Fleet::default() };
    for step in steps {
        fleet.apply(&mut world, step);
        assert!(fleet.started.values().all(|starts| *starts == 1), "an attempt was started twice");
    }
    fleet.heal(&mut world);
    assert_eq!(world.store.batches.len() as u64, fleet.batches, "no acknowledged batch is lost");
    // Without a retry, a task has at most one attempt that was started.
    for (id, loaded) in &world.store.batches {
        for (row, task) in loaded.tasks.iter().zip(1..) {
            let starts = fleet.started.keys().filter(|key| key.batch == *id && key.task.0 == task).count();
            assert!(starts <= row.attempt.0 as usize);
        }
    }
}

/// 300 cases, or as many as `PROPTEST_CASES` says.
fn cases() -> ProptestConfig {
    let asked = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() { asked } else { ProptestConfig { cases: 300, ..asked } }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn whatever_happens_the_promises_hold(steps in prop::collection::vec(step(), 50..120)) {
        check(steps);
    }

    #[test]
    fn no_task_is_started_more_often_than_asked_for(
        steps in prop::collection::vec(
            step().prop_filter("retries run a task again", |step| !matches!(step, Step::Retry { .. })),
            50..120,
        )
    ) {
        let mut world = World::new();
        let mut fleet =
            Fleet { workers: (0..WORKERS).map(|_| Sim::default()).collect(), ..Fleet::default() };
        for step in steps {
            fleet.apply(&mut world, step);
        }
        fleet.heal(&mut world);
        let mut starts = BTreeMap::new();
        for id in fleet.started.keys() {
            let started = starts.entry((id.batch, id.task)).or_insert(0);
            *started += 1;
            let retry = &world.store.batches[&id.batch].head.options.retry;
            let most = retry.as_ref().map_or(1, |policy| policy.max_attempts);
            prop_assert!(*started <= most, "{id} is start {started} of its task");
        }
    }
}
