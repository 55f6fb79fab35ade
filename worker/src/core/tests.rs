//! The dispatcher as scripts: event in, exact effects out. Notes are left out: nothing depends on them.

mod agree;
mod model;
mod property;
mod rows;

use std::collections::BTreeMap;

use muster_proto::{AttemptId, AttemptNo, BatchId, LifeId, TaskIndex};

use super::start::to_key;
use super::*;
use crate::runner::protocol::{self, FromRunner, Raw, StopCause};

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
        time_limit_ms: None,
        grace_ms: GRACE_MS,
        stop_after_cut_off_ms: None,
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
        stop_cause: None,
    }
}

fn report(task: u32, pid: i32, size: u64) -> Report {
    Report {
        attempt: id(task),
        outcome: Outcome::Exit(0),
        stop_sent: false,
        stop_cause: None,
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
    Effect::Runner(ToRunner::Stop { attempt: to_key(id(task)), grace_ms, cause: StopCause::Requested })
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
        self.runner_hello_in(protocol::VERSION, held)
    }

    fn runner_hello_in(&mut self, version: u32, held: Vec<protocol::Held>) -> Vec<Effect> {
        let (speaks, release, boot_id) = (version, String::new(), "b".into());
        self.event(Event::Runner(FromRunner::Hello { version, speaks, release, pid: 1, boot_id, held }))
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
fn nothing_is_taken_while_the_runner_is_away_or_does_not_answer() {
    for away in [Event::RunnerSilent, Event::RunnerDown] {
        let mut script = Script::running(1);
        script.event(away.clone());
        assert_eq!(script.offer(2), []);
        assert_eq!(script.offer(2), [], "told twice is told once");
        assert_eq!(script.offer(3), []);
        script.ms = PARK_MS - 1;
        assert_eq!(script.dispatcher.next_deadline(), Some(PARK_MS));
        assert_eq!(script.event(Event::Tick), []);
        script.ms = PARK_MS;
        assert_eq!(script.event(Event::Tick), [returned(2), returned(3)]);
        let stops = if away == Event::RunnerSilent { vec![stop(1, 500)] } else { Vec::new() };
        assert_eq!(script.stop(1, 500), stops, "what a silent one is told waits for it");
    }
}

#[test]
fn an_offer_waits_for_a_moment_for_the_runner() {
    let mut script = Script::running(1);
    script.event(Event::RunnerDown);
    assert_eq!(script.offer(2), []);
    assert_eq!(script.event(Event::RunnerAnswers), [], "only a hello brings it back");
    let running = protocol::Held::Running { attempt: to_key(id(1)), pid: 40, start_ms: 1, size: 0 };
    assert_eq!(script.runner_hello(vec![running]), [accepted(2), start(2)]);
    script.started(2, 41);
    script.ended(2, 0);
    script.acknowledge(2);

    script.event(Event::RunnerSilent);
    for task in [3, 4, 5] {
        assert_eq!(script.offer(task), []);
    }
    assert_eq!(script.stop(4, 0), [returned(4)], "what waits can be stopped");
    assert_eq!(script.event(Event::RunnerAnswers), [accepted(3), start(3), returned(5)], "two slots");
    assert_eq!(script.offer(4), [returned(4)], "and is never taken then");
    script.event(Event::RunnerSilent);
    assert_eq!(script.offer(6), []);
    assert_eq!(script.event(Event::Drain), [Effect::Send(ToCoordinator::Draining), returned(6)]);
}

#[test]
fn an_offer_that_waits_is_not_held() {
    let mut script = Script::new();
    script.event(Event::RunnerSilent);
    script.offer(1);
    script.event(Event::SessionEnded(script.session));
    assert_eq!(script.dial(), [hello(&[])], "the hello proves that it was never started");
    script.welcome(&[]);
    assert_eq!(script.event(Event::RunnerAnswers), [], "and it is not");
}

#[test]
fn limits_of_time_are_not_given_to_a_runner_that_does_not_know_them() {
    let mut script = Script::new();
    script.event(Event::RunnerDown);
    script.runner_hello_in(protocol::OLDEST, Vec::new());
    let session = script.session;
    let say =
        |script: &mut Script, offer| script.event(Event::Coordinator(session, FromCoordinator::Offer(offer)));
    let limited = Offer { time_limit_ms: Some(60_000), ..offer(1, "") };
    assert_eq!(say(&mut script, limited.clone()), [returned(1)]);
    let cut_off = Offer { stop_after_cut_off_ms: Some(60_000), ..offer(2, "") };
    assert_eq!(say(&mut script, cut_off), [returned(2)]);
    assert_eq!(script.offer(3), [accepted(3), start(3)]);
    script.event(Event::RunnerDown);
    script.runner_hello(Vec::new());
    let limited = Offer { attempt: id(4), ..limited };
    let effects = say(&mut script, limited);
    let Some(Effect::Runner(ToRunner::Start(start))) = effects.last() else { panic!("{effects:?}") };
    assert_eq!((start.time_limit_ms, start.grace_ms), (Some(60_000), GRACE_MS));
}

#[test]
fn who_leaves_says_nothing_and_ends_nothing() {
    let mut script = Script::running(1);
    script.event(Event::Drain);
    assert_eq!(script.event(Event::Leave), [Effect::Exit(Exit::Left)]);
    assert_eq!(script.ended(1, 0), []);
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
fn a_drain_waits_to_hear_what_the_runner_holds() {
    let mut script = Script { dispatcher: Dispatcher::new(plan(), 2), ms: 0, session: 0 };
    assert_eq!(script.event(Event::Drain), []);
    let ended = protocol::Held::Ended(runner_ended(1, 0));
    assert_eq!(script.runner_hello(vec![ended]), [], "its result is to be sent first");
    assert_eq!(script.dispatcher.held_count(), 1);
}

#[test]
fn a_stopping_worker_ends_tasks_and_waits_for_so_long() {
    let mut script = Script::running(1);
    assert_eq!(script.event(Event::Drain), [Effect::Send(ToCoordinator::Draining)]);
    let stopped =
        ToRunner::Stop { attempt: to_key(id(1)), grace_ms: GRACE_MS.into(), cause: StopCause::WorkerStopped };
    assert_eq!(script.event(Event::Stop), [Effect::Runner(stopped)]);
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
