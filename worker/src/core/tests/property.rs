//! What must hold whatever happens, against a runner that behaves as its protocol says.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::start::from_key;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Offer(u32),
    Stop(u32),
    Acknowledge(u32),
    Dial,
    Drop,
    Welcome(u8),
    Goodbye,
    RunnerReads,
    RunnerAnswers,
    RunnerRestarts,
    RunnerHangs(bool),
    TaskEnds(u32),
    TaskPrints(u32, u64),
    Unreadable(u32, u64),
    Wait(u64),
    Drain,
    StopAll,
}

fn step() -> impl Strategy<Value = Step> {
    let task = 1..5_u32;
    prop_oneof![
        30 => task.clone().prop_map(Step::Offer),
        6 => task.clone().prop_map(Step::Stop),
        16 => task.clone().prop_map(Step::Acknowledge),
        10 => Just(Step::Dial),
        2 => Just(Step::Drop),
        20 => any::<u8>().prop_map(Step::Welcome),
        1 => Just(Step::Goodbye),
        30 => Just(Step::RunnerReads),
        30 => Just(Step::RunnerAnswers),
        6 => Just(Step::RunnerRestarts),
        4 => any::<bool>().prop_map(Step::RunnerHangs),
        12 => task.clone().prop_map(Step::TaskEnds),
        8 => (task.clone(), 0..200_000_u64).prop_map(|(task, bytes)| Step::TaskPrints(task, bytes)),
        1 => (task, 0..9_u64).prop_map(|(task, from)| Step::Unreadable(task, from)),
        8 => prop_oneof![0..100_u64, 0..20_000_u64].prop_map(Step::Wait),
        1 => Just(Step::Drain),
        1 => Just(Step::StopAll),
    ]
}

/// The runner, its socket, and what was promised.
#[derive(Default)]
struct World {
    to_runner: VecDeque<ToRunner>,
    from_runner: VecDeque<FromRunner>,
    seen: BTreeSet<AttemptId>,
    running: BTreeMap<AttemptId, u64>,
    ended: BTreeMap<AttemptId, u64>,
    spawned: BTreeMap<AttemptId, u32>,
    /// The coordinator said that it has the result, or wants none.
    may_forget: BTreeSet<AttemptId>,
    returned: BTreeSet<AttemptId>,
    ended_for_coordinator: BTreeSet<AttemptId>,
    hello_sent: bool,
}

impl World {
    fn read(&mut self) {
        let Some(message) = self.to_runner.pop_front() else { return };
        match message {
            ToRunner::Start(start) => {
                let id = from_key(start.attempt).unwrap();
                if self.seen.insert(id) {
                    *self.spawned.entry(id).or_default() += 1;
                    self.running.insert(id, 0);
                    self.from_runner.push_back(FromRunner::Started {
                        attempt: start.attempt,
                        pid: 5,
                        start_ms: 1,
                    });
                } else {
                    self.from_runner.push_back(FromRunner::Refused { attempt: start.attempt });
                }
            }
            ToRunner::Refuse { attempt } => {
                let id = from_key(attempt).unwrap();
                if let Some(size) = self.ended.get(&id) {
                    self.from_runner.push_back(FromRunner::Ended(runner_ended(id.task.0, *size)));
                } else if self.running.contains_key(&id) {
                    self.from_runner.push_back(FromRunner::Started { attempt, pid: 5, start_ms: 1 });
                } else {
                    self.seen.insert(id);
                    self.from_runner.push_back(FromRunner::Refused { attempt });
                }
            }
            ToRunner::Stop { attempt, .. } => self.end(from_key(attempt).unwrap()),
            ToRunner::Forget { attempt } => {
                self.ended.remove(&from_key(attempt).unwrap());
            }
            ToRunner::Hello { .. }
            | ToRunner::Shutdown { .. }
            | ToRunner::ShutdownWhenIdle
            | ToRunner::Ping
            | ToRunner::InSession => {}
        }
    }

    fn end(&mut self, id: AttemptId) {
        if let Some(size) = self.running.remove(&id) {
            self.ended.insert(id, size);
            self.from_runner.push_back(FromRunner::Ended(runner_ended(id.task.0, size)));
        }
    }

    fn listed(&self) -> Vec<protocol::Held> {
        let running = self.running.iter().map(|(id, size)| protocol::Held::Running {
            attempt: to_key(*id),
            pid: 5,
            start_ms: 1,
            size: *size,
        });
        let ended = self.ended.iter().map(|(id, size)| protocol::Held::Ended(runner_ended(id.task.0, *size)));
        running.chain(ended).collect()
    }

    fn perform(&mut self, effects: Vec<Effect>) -> Result<(), TestCaseError> {
        for effect in effects {
            match effect {
                Effect::Runner(message) => {
                    if let ToRunner::Forget { attempt } = &message {
                        let id = from_key(*attempt).unwrap();
                        prop_assert!(self.may_forget.contains(&id), "{id} is forgotten without leave");
                    }
                    self.to_runner.push_back(message);
                }
                Effect::Send(message) => {
                    let is_hello = matches!(message, ToCoordinator::Hello { .. });
                    prop_assert_eq!(is_hello, !self.hello_sent, "the hello is first, and once");
                    self.hello_sent = true;
                    match message {
                        ToCoordinator::Returned(id) => {
                            self.returned.insert(id);
                        }
                        // Given back for want of a slot, and offered again.
                        ToCoordinator::Accepted(id) if !self.seen.contains(&id) => {
                            self.returned.remove(&id);
                        }
                        ToCoordinator::Ended { report, inline } => {
                            prop_assert!(!inline || report.log_size <= INLINE_MAX);
                            self.ended_for_coordinator.insert(report.attempt);
                        }
                        _ => {}
                    }
                }
                Effect::Push { from, size, .. } => prop_assert!(from.unwrap_or(0) <= size),
                _ => {}
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens(steps in prop::collection::vec(step(), 1..200)) {
        let mut script = Script { dispatcher: Dispatcher::new(plan(), 2), ms: 0, session: 0 };
        let mut world = World::default();
        let effects = script.runner_hello(Vec::new());
        world.perform(effects)?;
        for step in steps {
            let effects = match step {
                Step::Offer(task) => script.offer(task),
                Step::Stop(task) => script.stop(task, 100),
                Step::Acknowledge(task) => {
                    // A coordinator acknowledges what it was told.
                    if !world.ended_for_coordinator.contains(&id(task)) { continue }
                    world.may_forget.insert(id(task));
                    script.acknowledge(task)
                }
                Step::Dial => {
                    world.hello_sent = false;
                    script.dial()
                }
                Step::Drop => script.event(Event::SessionEnded(script.session)),
                // A second welcome ends the session, which would leave little to see.
                Step::Welcome(_) if !matches!(script.dispatcher.session, Session::Greeting { .. }) => continue,
                Step::Welcome(bits) => {
                    let verdict = |task: u32| match bits >> (2 * (task - 1)) & 3 {
                        0 => Verdict::GoOn,
                        1 => Verdict::Report,
                        2 => Verdict::Stop,
                        _ => Verdict::Forget,
                    };
                    let verdicts: Vec<_> = (1..5).map(|task| (task, verdict(task), u64::from(bits))).collect();
                    for (task, verdict, _) in &verdicts {
                        if *verdict == Verdict::Forget { world.may_forget.insert(id(*task)); }
                    }
                    script.welcome(&verdicts)
                }
                Step::Goodbye => script.say(FromCoordinator::Goodbye { reason: String::new(), stay_away: false }),
                Step::RunnerReads => { world.read(); continue }
                Step::RunnerAnswers => {
                    let Some(message) = world.from_runner.pop_front() else { continue };
                    script.event(Event::Runner(message))
                }
                Step::RunnerRestarts => {
                    // What was on the way is lost, both ways.
                    let mut effects = script.event(Event::RunnerDown);
                    world.to_runner.clear();
                    world.from_runner.clear();
                    effects.extend(script.runner_hello(world.listed()));
                    effects
                }
                Step::RunnerHangs(true) => script.event(Event::RunnerSilent),
                Step::RunnerHangs(false) => script.event(Event::RunnerAnswers),
                Step::TaskEnds(task) => { world.end(id(task)); continue }
                Step::TaskPrints(task, bytes) => {
                    let Some(size) = world.running.get_mut(&id(task)) else { continue };
                    *size += bytes;
                    let (attempt, size) = (to_key(id(task)), *size);
                    world.from_runner.push_back(FromRunner::Output { attempt, size });
                    continue
                }
                Step::Unreadable(task, from) => {
                    script.event(Event::OutputUnreadable { attempt: id(task), from, message: "no".into() })
                }
                Step::Wait(ms) => { script.ms += ms; script.event(Event::Tick) }
                Step::Drain => script.event(Event::Drain),
                Step::StopAll => script.event(Event::Stop),
            };
            world.perform(effects)?;
            let busy = script.dispatcher.attempts.values().filter(|attempt| attempt.is_busy()).count();
            prop_assert_eq!(busy, script.dispatcher.busy as usize, "slots are counted right");
            for (id, times) in &world.spawned {
                prop_assert_eq!(*times, 1, "{} is started at most once", id);
            }
            for id in world.running.keys() {
                prop_assert!(!world.returned.contains(id), "{} runs and was given back", id);
            }
        }
    }
}
