//! The dispatcher as scripts: event in, exact effects out. Notes are left out: nothing depends on them.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::{AttemptId, AttemptNo, BatchId, LifeId, TaskIndex};
use proptest::prelude::*;

use super::start::{from_key, to_key};
use super::*;
use crate::runner::protocol::{self, FromRunner, Raw};

const HEARTBEAT: u64 = 5_000;
const SILENCE: u64 = 15_000;

fn id(task: u32) -> AttemptId {
    let batch = BatchId::from_u64(1 << 20).unwrap();
    AttemptId { life: LifeId(9), batch, task: TaskIndex(task), attempt: AttemptNo(1) }
}

fn plan() -> LaunchPlan {
    LaunchPlan {
        program: Raw::from("gen"),
        args: vec!["--fast".into()],
        output: OutputPolicy { outputs_dir: "/w/outputs".into(), roots: Vec::new(), allow_any: false },
    }
}

fn offer(task: u32, output: &str) -> Offer {
    Offer {
        attempt: id(task),
        batch_id: "b1".into(),
        args_before: vec!["--model".into(), "m".into()],
        output: output.into(),
        args_after: vec!["--prompt".into(), "x y".into()],
        env: vec![("BIZYAIR_API_KEY".into(), "k".into()), ("LD_PRELOAD".into(), "/evil.so".into())],
        log_limit: 1000,
    }
}

fn start(task: u32) -> Effect {
    Effect::Runner(ToRunner::Start(plan().launch(offer(task, "")).unwrap().start))
}

fn path(task: u32) -> String {
    format!("/w/outputs/b1/task-{task:02}-output")
}

fn runner_ended(task: u32, size: u64) -> protocol::Ended {
    protocol::Ended {
        attempt: to_key(id(task)),
        exit_code: Some(0),
        signal: None,
        stop_sent: false,
        size,
        discarded: 0,
        end_ms: 77,
        output_failed: None,
        lost: false,
    }
}

fn report(task: u32, pid: i32, size: u64) -> Report {
    Report {
        attempt: id(task),
        outcome: Outcome::Exit(0),
        stop_sent: false,
        log_size: size,
        log_discarded: 0,
        output_failed: String::new(),
        end_ms: 77,
        output_path: path(task),
        pid,
    }
}

fn sent_end(task: u32, pid: i32, size: u64, inline: bool) -> Effect {
    Effect::Send(ToCoordinator::Ended { report: report(task, pid, size), inline })
}

fn sent_start(task: u32, pid: i32) -> Effect {
    Effect::Send(ToCoordinator::Started { attempt: id(task), pid, output_path: path(task) })
}

fn held(list: &[(u32, HeldPhase)]) -> Vec<Held> {
    list.iter().map(|(task, phase)| Held { attempt: id(*task), phase: *phase }).collect()
}

fn hello(list: &[(u32, HeldPhase)]) -> Effect {
    Effect::Send(ToCoordinator::Hello { held: held(list), draining: false })
}

fn forget(task: u32) -> Effect {
    Effect::Runner(ToRunner::Forget { attempt: to_key(id(task)) })
}

fn stop(task: u32, grace_ms: u64) -> Effect {
    Effect::Runner(ToRunner::Stop { attempt: to_key(id(task)), grace_ms })
}

fn refuse(task: u32) -> Effect {
    Effect::Runner(ToRunner::Refuse { attempt: to_key(id(task)) })
}

fn returned(task: u32) -> Effect {
    Effect::Send(ToCoordinator::Returned(id(task)))
}

fn accepted(task: u32) -> Effect {
    Effect::Send(ToCoordinator::Accepted(id(task)))
}

/// A dispatcher, its time and its session.
struct Script {
    dispatcher: Dispatcher,
    ms: u64,
    session: SessionNo,
}

impl Script {
    /// Welcomed, with two slots, holding nothing.
    fn new() -> Self {
        let mut script = Self { dispatcher: Dispatcher::new(plan(), 2), ms: 0, session: 0 };
        assert_eq!(script.runner_hello(Vec::new()), []);
        assert_eq!(script.dial(), [hello(&[])]);
        assert_eq!(script.welcome(&[]), [Effect::Welcomed]);
        script
    }

    fn event(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.dispatcher.handle(Now { ms: self.ms, unix_ms: 77 }, event);
        let notes = |effect: &Effect| !matches!(effect, Effect::Note(..));
        effects.into_iter().filter(notes).collect()
    }

    fn dial(&mut self) -> Vec<Effect> {
        self.session += 1;
        self.event(Event::Dialed(self.session))
    }

    fn say(&mut self, message: FromCoordinator) -> Vec<Effect> {
        self.event(Event::Coordinator(self.session, message))
    }

    fn welcome(&mut self, verdicts: &[(u32, Verdict, u64)]) -> Vec<Effect> {
        let verdict = |(task, verdict, log_offset): &(u32, _, _)| HeldVerdict {
            attempt: id(*task),
            verdict: *verdict,
            log_offset: *log_offset,
        };
        self.say(FromCoordinator::Welcome {
            heartbeat_ms: HEARTBEAT,
            silence_ms: SILENCE,
            verdicts: verdicts.iter().map(verdict).collect(),
        })
    }

    fn offer(&mut self, task: u32) -> Vec<Effect> {
        self.say(FromCoordinator::Offer(offer(task, "")))
    }

    fn acknowledge(&mut self, task: u32) -> Vec<Effect> {
        self.say(FromCoordinator::Acknowledged(id(task)))
    }

    fn stop(&mut self, task: u32, grace_ms: u32) -> Vec<Effect> {
        self.say(FromCoordinator::Stop { attempt: id(task), grace_ms })
    }

    fn runner_hello(&mut self, held: Vec<protocol::Held>) -> Vec<Effect> {
        self.event(Event::Runner(FromRunner::Hello { version: 1, pid: 1, boot_id: "b".into(), held }))
    }

    fn started(&mut self, task: u32, pid: i32) -> Vec<Effect> {
        self.event(Event::Runner(FromRunner::Started { attempt: to_key(id(task)), pid, start_ms: 1 }))
    }

    fn output(&mut self, task: u32, size: u64) -> Vec<Effect> {
        self.event(Event::Runner(FromRunner::Output { attempt: to_key(id(task)), size }))
    }

    fn ended(&mut self, task: u32, size: u64) -> Vec<Effect> {
        self.event(Event::Runner(FromRunner::Ended(runner_ended(task, size))))
    }

    fn refused(&mut self, task: u32) -> Vec<Effect> {
        self.event(Event::Runner(FromRunner::Refused { attempt: to_key(id(task)) }))
    }

    /// Offered, accepted and started.
    fn running(task: u32) -> Self {
        let mut script = Self::new();
        assert_eq!(script.offer(task), [accepted(task), start(task)]);
        assert_eq!(script.started(task, 40), [sent_start(task, 40)]);
        script
    }
}

#[test]
fn a_task_goes_from_offer_to_acknowledgement() {
    let mut script = Script::running(1);
    assert_eq!(script.ended(1, 10), [sent_end(1, 40, 10, true)], "small output rides along");
    assert_eq!(script.acknowledge(1), [forget(1)]);
    assert_eq!(script.dispatcher.held_count(), 0);
    assert_eq!(script.offer(1), [], "what is done is not done again");
}

#[test]
fn a_program_gets_its_arguments_and_its_environment() {
    let Effect::Runner(ToRunner::Start(start)) = start(7) else { panic!("not a start") };
    let args: Vec<_> = start.args.iter().map(|arg| arg.as_path().to_str().unwrap()).collect();
    assert_eq!(args, ["--fast", "--model", "m", "--output", &path(7), "--prompt", "x y"]);
    assert_eq!(start.cwd, Raw::from("/w/outputs/b1"));
    let env: BTreeMap<_, _> = start.env.iter().collect();
    assert_eq!(
        env,
        BTreeMap::from([
            ("BIZYAIR_API_KEY", "k"),
            ("BIZYAIR_DISABLE_RUNTIME_STATE", "1"),
            ("MUSTER_ATTEMPT", "1"),
            ("MUSTER_BATCH_ID", "b1"),
            ("MUSTER_OUTPUT_DIR", "/w/outputs/b1"),
            ("MUSTER_TASK_INDEX", "7"),
        ]),
        "an offer cannot choose what code is loaded"
    );
}

#[test]
fn an_output_path_outside_is_refused_and_nothing_is_started() {
    let mut script = Script::new();
    let effects = script.say(FromCoordinator::Offer(offer(1, "../x")));
    assert_eq!(effects[0], accepted(1));
    let Effect::Send(ToCoordinator::Ended { report, inline: false }) = &effects[1] else {
        panic!("{effects:?}")
    };
    assert!(matches!(report.outcome, Outcome::OutputRefused(_)) && report.pid == 0);
    assert_eq!(effects.len(), 2);
    assert_eq!(script.acknowledge(1), [forget(1)]);
}

#[test]
fn offers_beyond_the_slots_and_to_a_draining_worker_go_back() {
    let mut script = Script::running(1);
    assert_eq!(script.offer(2), [accepted(2), start(2)]);
    assert_eq!(script.offer(3), [returned(3)]);
    assert_eq!(script.ended(1, 0), [sent_end(1, 40, 0, false)]);
    assert_eq!(script.offer(3), [accepted(3), start(3)], "an ended task frees its slot");
    assert_eq!(script.ended(3, 0), [sent_end(3, 0, 0, false)]);
    assert_eq!(script.event(Event::Drain), [Effect::Send(ToCoordinator::Draining)]);
    assert_eq!(script.offer(4), [returned(4)]);
}

#[test]
fn a_repeated_offer_is_answered_and_not_started_again() {
    let mut script = Script::new();
    assert_eq!(script.offer(1), [accepted(1), start(1)]);
    assert_eq!(script.offer(1), [accepted(1)]);
    script.started(1, 40);
    assert_eq!(script.offer(1), [accepted(1), sent_start(1, 40)]);
    script.ended(1, 0);
    assert_eq!(script.offer(1), [sent_end(1, 40, 0, false)]);
}

#[test]
fn what_cannot_be_started_is_reported() {
    let mut script = Script::new();
    script.offer(1);
    let effects = script.event(Event::Runner(FromRunner::StartFailed {
        attempt: to_key(id(1)),
        errno: 2,
        message: "no such file".into(),
        for_task: false,
    }));
    let outcome = Outcome::LaunchFailed { errno: 2, message: "no such file".into(), for_task: false };
    let report = Report { outcome, ..report(1, 0, 0) };
    assert_eq!(effects, [Effect::Send(ToCoordinator::Ended { report, inline: false })]);
}

#[test]
fn a_stop_ends_what_runs_and_refuses_what_does_not() {
    let mut script = Script::running(1);
    assert_eq!(script.stop(1, 3_000), [stop(1, 3_000)]);
    assert_eq!(script.ended(1, 0), [sent_end(1, 40, 0, false)]);
    assert_eq!(script.stop(1, 3_000), [], "its result is on the way");

    assert_eq!(script.stop(2, 3_000), [refuse(2)], "an attempt that never came");
    assert_eq!(script.offer(2), [], "the answer of the runner is waited for");
    assert_eq!(script.refused(2), [returned(2)]);
    assert_eq!(script.offer(2), [returned(2)]);
    assert_eq!(script.stop(2, 0), [returned(2)]);
}

#[test]
fn a_stop_that_meets_a_start_follows_it() {
    let mut script = Script::new();
    script.offer(1);
    assert_eq!(script.stop(1, 3_000), [stop(1, 3_000)]);
    assert_eq!(script.started(1, 40), [sent_start(1, 40)]);
    assert_eq!(script.ended(1, 0), [sent_end(1, 40, 0, false)]);
}

#[test]
fn an_attempt_that_the_runner_refuses_goes_back() {
    let mut script = Script::new();
    script.offer(1);
    assert_eq!(script.refused(1), [returned(1)]);
    assert_eq!(script.dispatcher.held_count(), 0);
}

#[test]
fn output_is_pushed_after_a_while_and_what_follows_at_once_when_it_is_much() {
    let mut script = Script::running(1);
    let push = |size| Effect::Push { attempt: id(1), from: None, size };
    assert_eq!(script.output(1, 10), []);
    assert_eq!(script.dispatcher.next_deadline(), Some(PUSH_DELAY_MS));
    assert_eq!(script.output(1, 20), []);
    script.ms = PUSH_DELAY_MS;
    assert_eq!(script.event(Event::Tick), [push(20)]);
    assert_eq!(script.output(1, 21), []);
    assert_eq!(script.output(1, 20 + PUSH_AT_ONCE), [push(20 + PUSH_AT_ONCE)]);
    let size = 25 + PUSH_AT_ONCE;
    assert_eq!(script.ended(1, size), [sent_end(1, 40, size, false), push(size)]);
    assert_eq!(script.acknowledge(1), [Effect::StopPushing(id(1)), forget(1)]);
}

#[test]
fn large_output_of_a_short_task_is_pushed_beside_its_result() {
    let mut script = Script::running(1);
    let size = INLINE_MAX + 1;
    assert_eq!(
        script.ended(1, size),
        [sent_end(1, 40, size, false), Effect::Push { attempt: id(1), from: None, size }]
    );
}

#[test]
fn output_that_cannot_be_read_fails_openly() {
    let mut script = Script::running(1);
    let size = INLINE_MAX + 1;
    script.ended(1, size);
    let effects = script.event(Event::OutputUnreadable {
        attempt: id(1),
        from: 100,
        message: "input/output error".into(),
    });
    let report = Report {
        log_size: 100,
        log_discarded: size - 100,
        output_failed: "input/output error".into(),
        ..report(1, 40, 0)
    };
    assert_eq!(effects, [Effect::Send(ToCoordinator::Ended { report, inline: false })]);
}

#[test]
fn a_reconnect_lists_what_is_held_and_goes_on_where_the_coordinator_is() {
    let mut script = Script::running(1);
    script.offer(2);
    script.output(1, INLINE_MAX + 1);
    let old = script.session;
    script.event(Event::SessionEnded(old));
    assert_eq!(script.started(2, 41), [], "nobody to tell");
    assert_eq!(script.ended(2, 5), []);
    assert_eq!(script.dial(), [hello(&[(1, HeldPhase::Running), (2, HeldPhase::Ended)])]);
    assert_eq!(
        script.event(Event::Coordinator(old, FromCoordinator::Offer(offer(3, "")))),
        [],
        "what an older session sent is dropped"
    );
    let size = INLINE_MAX + 1;
    assert_eq!(
        script.welcome(&[(1, Verdict::GoOn, 400), (2, Verdict::Report, 0)]),
        [
            Effect::Welcomed,
            Effect::Push { attempt: id(1), from: Some(400), size },
            sent_start(1, 40),
            sent_end(2, 41, 5, true),
        ]
    );
    script.event(Event::SessionEnded(script.session));
    script.dial();
    assert_eq!(
        script.welcome(&[(1, Verdict::Stop, 500), (2, Verdict::Forget, 0)]),
        [
            Effect::Welcomed,
            Effect::Push { attempt: id(1), from: Some(500), size },
            sent_start(1, 40),
            stop(1, GRACE_MS.into()),
            forget(2),
        ],
        "a verdict is followed"
    );
}

#[test]
fn what_happens_before_the_welcome_is_said_after_it() {
    let mut script = Script::new();
    script.offer(1);
    script.offer(2);
    script.event(Event::SessionEnded(script.session));
    assert_eq!(script.dial(), [hello(&[(1, HeldPhase::Accepted), (2, HeldPhase::Accepted)])]);
    assert_eq!(script.refused(1), []);
    assert_eq!(script.started(2, 41), []);
    assert_eq!(
        script.welcome(&[(1, Verdict::GoOn, 0), (2, Verdict::GoOn, 0)]),
        [Effect::Welcomed, returned(1), sent_start(2, 41)]
    );
}

#[test]
fn what_is_not_wanted_any_more_is_ended_and_forgotten() {
    let mut script = Script::running(1);
    script.event(Event::SessionEnded(script.session));
    script.dial();
    assert_eq!(script.welcome(&[(1, Verdict::Forget, 0)]), [Effect::Welcomed, stop(1, GRACE_MS.into())]);
    assert_eq!(script.ended(1, 5), [forget(1)]);
}

#[test]
fn heartbeats_are_sent_and_silence_ends_the_session() {
    let mut script = Script::running(1);
    script.ms = HEARTBEAT;
    let beat = Effect::Send(ToCoordinator::Heartbeat(held(&[(1, HeldPhase::Running)])));
    assert_eq!(script.dispatcher.next_deadline(), Some(HEARTBEAT));
    assert_eq!(script.event(Event::Tick), std::slice::from_ref(&beat));
    assert_eq!(script.say(FromCoordinator::Heartbeat), []);
    script.ms = 2 * HEARTBEAT;
    assert_eq!(script.event(Event::Tick), [beat]);
    script.ms = HEARTBEAT + SILENCE;
    assert_eq!(script.event(Event::Tick), [Effect::CloseSession("the coordinator is silent")]);
    assert_eq!(script.dispatcher.next_deadline(), None);
    script.dial();
    script.ms += WELCOME_MS;
    assert_eq!(script.event(Event::Tick), [Effect::CloseSession("the coordinator did not answer the hello")]);
}

#[test]
fn nothing_is_said_before_it_is_known_what_the_runner_holds() {
    let mut script = Script { dispatcher: Dispatcher::new(plan(), 2), ms: 0, session: 0 };
    assert!(matches!(script.dial()[..], [Effect::CloseSession(_)]));
    let running = protocol::Held::Running { attempt: to_key(id(1)), pid: 40, start_ms: 1, size: 0 };
    let ended = protocol::Held::Ended(runner_ended(2, 3));
    assert_eq!(script.runner_hello(vec![running, ended]), []);
    assert_eq!(script.output(1, 8), []);
    assert_eq!(script.dial(), [hello(&[(1, HeldPhase::Running), (2, HeldPhase::Ended)])]);
    script.ms = PUSH_DELAY_MS;
    assert_eq!(script.event(Event::Tick), [], "how much of the output is stored is not known yet");
    let unknown_path = |report: Report| Report { output_path: String::new(), ..report };
    assert_eq!(
        script.welcome(&[(1, Verdict::GoOn, 0), (2, Verdict::Report, 0)]),
        [
            Effect::Welcomed,
            Effect::Send(ToCoordinator::Started { attempt: id(1), pid: 40, output_path: String::new() }),
            Effect::Push { attempt: id(1), from: None, size: 8 },
            Effect::Send(ToCoordinator::Ended { report: unknown_path(report(2, 0, 3)), inline: true }),
        ]
    );
}

#[test]
fn a_runner_that_comes_back_is_told_what_it_missed() {
    let mut script = Script::running(1);
    script.offer(2);
    script.event(Event::RunnerDown);
    assert_eq!(script.stop(1, 500), []);
    let running =
        |task, pid| protocol::Held::Running { attempt: to_key(id(task)), pid, start_ms: 1, size: 0 };
    assert_eq!(script.runner_hello(vec![running(1, 40)]), [stop(1, 500), start(2)]);
    script.started(2, 41);
    script.event(Event::RunnerDown);
    assert_eq!(script.stop(3, 0), []);
    script.ms = 5;
    let lost = protocol::Ended { lost: true, exit_code: None, ..runner_ended(1, 0) };
    let effects = script.runner_hello(vec![protocol::Held::Ended(lost)]);
    let Effect::Send(ToCoordinator::Ended { report, .. }) = &effects[0] else { panic!("{effects:?}") };
    assert!(report.attempt == id(1) && matches!(report.outcome, Outcome::Crashed(_)));
    let Effect::Send(ToCoordinator::Ended { report, .. }) = &effects[1] else { panic!("{effects:?}") };
    assert!(report.attempt == id(2) && matches!(report.outcome, Outcome::Crashed(_)), "it is not listed");
    assert_eq!(effects[2..], [refuse(3)]);
}

#[test]
fn an_acknowledgement_while_the_runner_is_away_is_passed_on_later() {
    let mut script = Script::running(1);
    script.ended(1, 0);
    script.event(Event::RunnerDown);
    assert_eq!(script.acknowledge(1), []);
    assert_eq!(script.runner_hello(vec![protocol::Held::Ended(runner_ended(1, 0))]), [forget(1)]);
}

#[test]
fn a_draining_worker_leaves_when_everything_is_acknowledged() {
    let mut script = Script::running(1);
    assert_eq!(script.event(Event::Drain), [Effect::Send(ToCoordinator::Draining)]);
    script.event(Event::SessionEnded(script.session));
    script.ended(1, 0);
    let hello = ToCoordinator::Hello { held: held(&[(1, HeldPhase::Ended)]), draining: true };
    assert_eq!(script.dial(), [Effect::Send(hello)]);
    assert_eq!(script.welcome(&[(1, Verdict::Report, 0)]), [Effect::Welcomed, sent_end(1, 40, 0, false)]);
    assert_eq!(
        script.acknowledge(1),
        [
            forget(1),
            Effect::Send(ToCoordinator::Leaving),
            Effect::Runner(ToRunner::ShutdownWhenIdle),
            Effect::Exit(Exit::Done),
        ]
    );
    assert_eq!(script.offer(2), [], "it has left");
}

#[test]
fn a_stopping_worker_ends_tasks_and_waits_for_so_long() {
    let mut script = Script::running(1);
    assert_eq!(script.event(Event::Drain), [Effect::Send(ToCoordinator::Draining)]);
    assert_eq!(script.event(Event::Stop), [stop(1, GRACE_MS.into())]);
    script.event(Event::SessionEnded(script.session));
    script.ended(1, 0);
    script.ms = script.dispatcher.next_deadline().unwrap();
    assert_eq!(
        script.event(Event::Tick),
        [Effect::Runner(ToRunner::Shutdown { grace_ms: 0 }), Effect::Exit(Exit::Unreported(1)),]
    );
}

#[test]
fn a_goodbye_is_final_only_if_it_says_so() {
    let mut script = Script::new();
    let goodbye = |stay_away| FromCoordinator::Goodbye { reason: "moved".into(), stay_away };
    assert_eq!(script.say(goodbye(false)), [Effect::CloseSession("the coordinator said goodbye")]);
    script.dial();
    script.welcome(&[]);
    assert_eq!(script.say(goodbye(true)), [Effect::Exit(Exit::SentAway("moved".into()))]);
}

// What must hold whatever happens, against a runner that behaves as its protocol says.

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
            ToRunner::Hello { .. } | ToRunner::Shutdown { .. } | ToRunner::ShutdownWhenIdle => {}
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
