//! The tables of `docs/protocol.md` and `docs/lifecycle.md`, read out of the pages, and one small script for each
//! row (and each column of outcomes): an event goes in, exactly these effects come out. A row without a script and
//! a script without a row are red. The rows about the worker itself are walked by the worker's own tests.

use std::collections::BTreeSet;

use muster_coordinator::core::{event::*, model::*, options::*};
use muster_proto::AttemptId;

use crate::{model::Out, model_hellos::*, model_stage::*, world::*};

/// Tables with two columns of outcomes, told apart as `a` and `b`.
const TWO_COLUMNS: [&str; 3] = ["H", "P", "S"];
/// Tables about the worker's core.
const WORKERS: [&str; 1] = ["D"];
/// Tables about processes and whole lives: each row is named by the test that walks it, and `tests/tests/tidy.rs`
/// checks that.
const ELSEWHERE: [&str; 3] = ["B", "R", "W"];

const PAGES: [&str; 2] =
    [include_str!("../../../docs/protocol.md"), include_str!("../../../docs/lifecycle.md")];

/// The ids of all rows that are walked by scripts, in the order of the pages.
fn ids() -> Vec<String> {
    let mut ids = Vec::new();
    for page in PAGES {
        let mut inside = false;
        for line in page.lines() {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let first = cells.next();
            inside = match first {
                None => false,
                Some("id") => true,
                Some(_) => inside,
            };
            let ours = |id: &&str| inside && *id != "id" && !id.starts_with('-');
            if let Some(id) = first.filter(ours).filter(|id| !ELSEWHERE.contains(&letter(id))) {
                ids.push(id.to_owned());
            }
        }
    }
    ids
}

fn letter(id: &str) -> &str {
    id.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// What the coordinator's rows are known by: their ids, with a column where there are two.
pub(crate) fn documented() -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for id in ids().iter().filter(|id| !WORKERS.contains(&letter(id))) {
        if TWO_COLUMNS.contains(&letter(id)) {
            rows.extend([format!("{id}a"), format!("{id}b")]);
        } else {
            rows.insert(id.clone());
        }
    }
    rows
}

#[test]
fn every_row_has_an_id_of_its_own() {
    let ids = ids();
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert_eq!(ids.len(), distinct.len(), "an id is there twice: {ids:?}");
    for id in &ids {
        assert!(["A", "D", "H", "L", "N", "P", "S", "T"].contains(&letter(id)), "{id}: nobody walks it");
    }
    let lines = |start: &str| PAGES[0].lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(lines("|---"), lines("| id |"), "a table of the protocol has no ids");
}

#[test]
fn every_row_is_walked() {
    let scripts: BTreeSet<String> = SCRIPTS.iter().map(|(row, _)| (*row).to_owned()).collect();
    assert_eq!(SCRIPTS.len(), scripts.len(), "a row is walked twice");
    assert_eq!(documented(), scripts);
    for (row, script) in SCRIPTS {
        // Says which, should it fail.
        eprintln!("row {row}");
        script();
    }
}

fn a1() {
    let started = FromWorker::Started(ID(), Started { pid: 7, output_path: "/o".into() });
    for said in [FromWorker::Accepted(ID()), started] {
        let mut world = stage(Offered, false);
        assert_eq!(outs(&world.says(1, said)), []);
        is(&world, Is::Running, None);
    }
    h1("boot");
}

fn a2() {
    for from in [Offered, Accepted] {
        let mut world = stage(from, false);
        assert_eq!(outs(&world.says(1, FromWorker::Returned(ID()))), []);
        is(&world, Is::Queued, None);
        assert_eq!(outs(&world.pass(999)), []);
        assert_eq!(outs(&world.pass(1)), [offer(1, attempt(1, 1, 2))]);
        let mut world = stage(from, true);
        assert_eq!(outs(&world.says(1, FromWorker::Returned(ID()))), []);
        is(&world, Is::Cancelled, None);
        assert!(world.task(1, 1).end_confirmed);
    }
}

fn a3() {
    let mut world = stage(Runs, false);
    assert_eq!(outs(&world.says(1, FromWorker::Returned(ID()))), []);
    is(&world, Is::Failed, crashed());
    world.submit(2, 1, 1);
    assert_eq!(outs(&world.pass(999)), []);
    assert_eq!(outs(&world.pass(1)), [offer(1, attempt(2, 1, 1))]);
    let mut world = stage(Reported, false);
    assert_eq!(outs(&world.says(1, FromWorker::Returned(ID()))), []);
    is(&world, Is::Completed, None);
}

fn a4() {
    for cancelled in [false, true] {
        let mut world = stage(Offered, cancelled);
        assert_eq!(outs(&world.says(1, FromWorker::Leaving)), [Out::Close(1)]);
        is(&world, if cancelled { Is::Cancelled } else { Is::Queued }, None);
        assert!(world.store.workers.is_empty());
    }
}

fn a5() {
    let mut world = stage(Offered, false);
    assert_eq!(outs(&world.pass(9_999)), []);
    assert_eq!(outs(&world.pass(1)), [Out::Close(1)]);
    assert!(world.task(1, 1).offered);
}

fn a6() {
    for from in [Offered, Accepted, Runs] {
        let mut world = stage(from, false);
        let status = world.task(1, 1).status;
        let said = outs(&world.cancel(1, &[1]));
        assert_eq!(said, [stop(1), Out::Reply(Reply::Batch(batch(1), world.state(1).revision))]);
        is(&world, status, None);
        assert!(world.task(1, 1).cancel_requested);
    }
}

fn a7() {
    let mut world = stage(Offered, false);
    let event = Event::Unsendable(ID(), FailureReason::SecretUnavailable, "its key".into());
    assert_eq!(outs(&world.send(event)), []);
    is(&world, Is::Failed, Some(FailureReason::SecretUnavailable));
}

fn a8() {
    for from in [Offered, Accepted, Runs] {
        let mut world = stage(from, false);
        let status = world.task(1, 1).status;
        let ended = Box::new(Ended { log_size: 9, ..*exited(0) });
        assert_eq!(outs(&world.says(1, FromWorker::Ended(ID(), ended))), []);
        is(&world, status, None);
        assert_eq!(outs(&world.send(Event::LogStored(ID(), 8))), []);
        assert_eq!(outs(&world.send(Event::LogStored(ID(), 9))), [acknowledged(1)]);
    }
}

fn a9() {
    for from in [Offered, Accepted, Runs] {
        let mut world = stage(from, false);
        assert_eq!(outs(&world.says(1, FromWorker::Ended(ID(), exited(0)))), [acknowledged(1)]);
        is(&world, Is::Completed, None);
    }
}

fn a10() {
    for from in [Offered, Accepted, Runs] {
        for cancelled in [false, true] {
            let mut world = stage(from, cancelled);
            world.send(Event::Gone(SessionId(1)));
            assert_eq!(outs(&world.pass(99_999)), []);
            assert_eq!(outs(&world.pass(1)), []);
            if cancelled {
                is(&world, Is::Cancelled, None)
            } else {
                is(&world, Is::Failed, crashed())
            }
            assert_eq!(world.task(1, 1).end_confirmed, !cancelled);
        }
    }
}

fn a11() {
    let crashed = || ended(Outcome::Crashed("its runner died".into()));
    for result in [exited as fn(i32) -> Box<Ended>, |_| exited(3)] {
        again(stage(Runs, false), result(0));
    }
    // How it ended is known, though there is no exit code.
    again(stage(Runs, false), crashed());
    again(stage(Accepted, true), ended(Outcome::LaunchFailed { task_fault: true, message: "no".into() }));
}

fn again(mut world: World, result: Box<Ended>) {
    assert_eq!(outs(&world.says(1, FromWorker::Ended(ID(), result.clone()))), [acknowledged(1)]);
    let before = world.store.clone();
    assert_eq!(outs(&world.says(1, FromWorker::Ended(ID(), result))), [acknowledged(1)]);
    assert_eq!((&world.store.batches, &world.store.attempts), (&before.batches, &before.attempts));
}

fn a12() {
    let started = || FromWorker::Started(ID(), Started { pid: 7, output_path: "/o".into() });
    for said in [FromWorker::Accepted(ID()), started()] {
        let mut world = stage(Runs, false);
        world.says(1, FromWorker::Ended(ID(), exited(0)));
        assert_eq!(outs(&world.says(1, said.clone())), [stop(1)]);
        is(&world, Is::Completed, None);
        let mut world = stage(Offered, false);
        world.connect(2, hello(2, 1, &[]));
        assert_eq!(outs(&world.says(2, said)), [stop(2)]);
        is(&world, Is::Queued, None);
    }
}

fn a13() {
    let mut world = stage(Reported, false);
    world.send(Event::Gone(SessionId(1)));
    assert_eq!(outs(&world.pass(100_000)), []);
    is(&world, Is::Completed, None);
    assert_eq!((world.task(1, 1).log_bytes, world.task(1, 1).log_discarded), (4, 5));
}

fn a14() {
    let mut world = given_up();
    comes_back(&mut world, "boot", Some(Held::Ended));
    let late = Box::new(Ended { log_size: 9, ..*exited(0) });
    assert_eq!(outs(&world.says(2, FromWorker::Ended(ID(), late))), []);
    assert_eq!(outs(&world.send(Event::LogStored(ID(), 9))), [acknowledged(2)]);
    is(&world, Is::Failed, crashed());
    let row = &world.store.attempts[&ID()];
    assert_eq!((row.late, row.exit_code, row.log_bytes), (true, Some(0), 9));
}

/// A program ends, in each of the ways that make the row, and with each of the ways to be in its column.
fn ends(outcome: Outcome, cancelled: bool, from: Stage, status: TaskStatus, failure: Option<FailureReason>) {
    kept(Ended { stop_sent: cancelled, ..*ended(outcome) }, cancelled, from, status, failure);
}

fn kept(result: Ended, cancelled: bool, from: Stage, status: TaskStatus, failure: Option<FailureReason>) {
    let mut world = stage(from, cancelled);
    assert_eq!(outs(&world.says(1, FromWorker::Ended(ID(), Box::new(result)))), [acknowledged(1)]);
    is(&world, status, failure);
}

/// TERM came too late: its own outcome stands.
fn ends_first(outcome: Outcome, status: TaskStatus, failure: Option<FailureReason>) {
    kept(*ended(outcome), true, Runs, status, failure);
}

fn unstarted(task_fault: bool) -> Outcome {
    Outcome::LaunchFailed { task_fault, message: "no".into() }
}

fn p1b() {
    ends(Outcome::Exited(0), false, Runs, Is::Completed, None);
    ends_first(Outcome::Exited(0), Is::Completed, None);
}

fn p2b() {
    ends(Outcome::Exited(3), false, Runs, Is::Failed, Some(FailureReason::ExitCode));
    ends_first(Outcome::Exited(3), Is::Failed, Some(FailureReason::ExitCode));
}

fn p3b() {
    ends(Outcome::Signalled(9), false, Runs, Is::Failed, Some(FailureReason::Signal));
    ends_first(Outcome::Signalled(9), Is::Failed, Some(FailureReason::Signal));
}

fn p4(cancelled: bool) {
    let result = Ended { output_failed: Some("no room".into()), stop_sent: cancelled, ..*exited(0) };
    if cancelled {
        kept(result, true, Runs, Is::Cancelled, None);
    } else {
        kept(result, false, Runs, Is::Failed, Some(FailureReason::OutputFailed));
    }
}

/// None of them needs to have been told to end.
fn p_unrun(outcome: fn() -> Outcome) {
    ends(outcome(), true, Accepted, Is::Cancelled, None);
    kept(*ended(outcome()), true, Accepted, Is::Cancelled, None);
}

fn p6b() {
    ends(unstarted(false), false, Accepted, Is::Failed, Some(FailureReason::WorkerLaunchFailed));
    let mut world = stage(Accepted, false);
    world.connect(2, hello(2, 1, &[]));
    let said = outs(&world.says(1, FromWorker::Ended(ID(), ended(unstarted(false)))));
    assert_eq!(said, [acknowledged(1), offer(2, attempt(1, 1, 2))]);
    is(&world, Is::Queued, None);
}

fn t6() {
    let mut world = stage(Accepted, false);
    world.says(1, FromWorker::Returned(ID()));
    is(&world, Is::Queued, None);
    assert!(world.store.attempts.is_empty(), "uncounted");
}

fn t2() {
    let mut world = World::new();
    world.submit(1, 1, 1);
    assert_eq!(outs(&world.cancel(1, &[1])), [Out::Reply(Reply::Batch(batch(1), 2))]);
    is(&world, Is::Cancelled, None);
}

fn t9() {
    for cancelled in [false, true] {
        let mut world = stage(Runs, cancelled);
        let end = Ended { stop_sent: true, ..*exited(3) };
        world.says(1, FromWorker::Ended(ID(), Box::new(end)));
        assert!(world.state(1).status.is_ended());
        let said = outs(&world.retry(1, &[1], None));
        assert_eq!(said[1..], [offer(1, attempt(1, 1, 2))], "as the next attempt");
        is(&world, Is::Queued, None);
        assert_eq!((world.state(1).status, world.state(1).end_ms), (BatchStatus::Running, None));
    }
}

fn another_life(phase: HeldPhase, verdict: Verdict) {
    let mut world = World::new();
    world.submit(1, 1, 1);
    let id = AttemptId { life: muster_proto::LifeId(LIFE.0 + 1), ..ID() };
    let hello = hello(1, 0, &[(id, phase)]);
    let welcome = Out::Send(1, ToWorker::Welcome(vec![(id, verdict)]));
    assert_eq!(outs(&world.connect(1, hello)), [attached(), welcome]);
    is(&world, Is::Queued, None);
}

/// The one task of a batch with these options runs.
fn with(options: BatchOptions) -> World {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit_with(1, 1, 1, options);
    world.says(1, FromWorker::Started(ID(), Started { pid: 7, output_path: "/o".into() }));
    world
}

fn t10() {
    let mut world = World::new();
    world.submit_with(1, 1, 1, BatchOptions { queue_time_limit_ms: Some(60_000), ..Default::default() });
    assert_eq!(outs(&world.pass(60_000)), []);
    is(&world, Is::Failed, Some(FailureReason::QueueTimedOut));
}

fn t11() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit_with(1, 2, 1, BatchOptions { max_failures: Some(1), ..Default::default() });
    assert_eq!(outs(&world.says(1, FromWorker::Ended(ID(), exited(3)))), [acknowledged(1)]);
    assert_eq!(world.task(1, 2).status, Is::Cancelled);
}

fn stopped(cause: StopCause, failure: FailureReason) {
    let mut world = with(BatchOptions::default());
    let end = Ended { stop_sent: true, stop_cause: Some(cause), ..*ended(Outcome::Signalled(15)) };
    assert_eq!(outs(&world.says(1, FromWorker::Ended(ID(), Box::new(end)))), [acknowledged(1)]);
    is(&world, Is::Failed, Some(failure));
}

fn t13() {
    stopped(StopCause::CutOff, FailureReason::WorkerCrashed);
    stopped(StopCause::WorkerStopped, FailureReason::WorkerCrashed);
}

fn t14() {
    let on = [RetryOn::ExitCode].into();
    let retry = Some(RetryPolicy { max_attempts: 2, on, backoff_ms: 10_000, max_backoff_ms: 10_000 });
    let mut world = with(BatchOptions { retry, ..Default::default() });
    assert_eq!(outs(&world.says(1, FromWorker::Ended(ID(), exited(3)))), [acknowledged(1)]);
    // Its row tells why it waits.
    is(&world, Is::Queued, Some(FailureReason::ExitCode));
    assert_eq!(world.store.attempts[&ID()].failure, Some(FailureReason::ExitCode));
    assert_eq!(outs(&world.pass(9_999)), []);
    assert_eq!(outs(&world.pass(1)), [offer(1, attempt(1, 1, 2))]);
}

const SCRIPTS: &[(&str, fn())] = &[
    ("H1a", || h1("boot")),
    ("H1b", || h1(other_boot())),
    ("H2a", || h2("boot")),
    ("H2b", || h2(other_boot())),
    ("H3a", || h3("boot")),
    ("H3b", || h3(other_boot())),
    ("H4a", || h4("boot")),
    ("H4b", || h4(other_boot())),
    ("H5a", h5a),
    ("H5b", h5b),
    ("H6a", || given_up_by("boot", Runs)),
    ("H6b", || given_up_by(other_boot(), Runs)),
    ("H7a", || h7("boot")),
    ("H7b", || h7(other_boot())),
    ("L1", || another_life(Held::Accepted, Verdict::Stop)),
    ("L2", || another_life(Held::Running, Verdict::GoOn)),
    ("L3", || another_life(Held::Ended, Verdict::Report)),
    ("N1", n1),
    ("N2", n2),
    ("N3", n3),
    ("S1a", s1a),
    ("S1b", s1b),
    ("S2a", || s2(true)),
    ("S2b", || s2(false)),
    ("S3a", s3a),
    ("S3b", s3b),
    ("S4a", s4a),
    ("S4b", s4b),
    ("S5a", || drop(contended())),
    ("S5b", s5b),
    ("A1", a1),
    ("A2", a2),
    ("A3", a3),
    ("A4", a4),
    ("A5", a5),
    ("A6", a6),
    ("A7", a7),
    ("A8", a8),
    ("A9", a9),
    ("A10", a10),
    ("A11", a11),
    ("A12", a12),
    ("A13", a13),
    ("A14", a14),
    ("P1a", || ends(Outcome::Exited(0), true, Runs, Is::Cancelled, None)),
    ("P1b", p1b),
    ("P2a", || ends(Outcome::Exited(3), true, Runs, Is::Cancelled, None)),
    ("P2b", p2b),
    ("P3a", || ends(Outcome::Signalled(15), true, Runs, Is::Cancelled, None)),
    ("P3b", p3b),
    ("P4a", || p4(true)),
    ("P4b", || p4(false)),
    ("P5a", || p_unrun(|| unstarted(true))),
    ("P5b", || ends(unstarted(true), false, Accepted, Is::Failed, Some(FailureReason::WorkerLaunchFailed))),
    ("P6a", || p_unrun(|| unstarted(false))),
    ("P6b", p6b),
    ("P7a", || p_unrun(|| Outcome::Crashed("it died".into()))),
    ("P7b", || ends(Outcome::Crashed("it died".into()), false, Runs, Is::Failed, crashed())),
    ("P8a", || p_unrun(|| Outcome::OutputRefused("outside".into()))),
    ("P8b", || {
        let outcome = Outcome::OutputRefused("outside".into());
        ends(outcome, false, Accepted, Is::Failed, Some(FailureReason::OutputRefused));
    }),
    ("P9a", || ends(unstarted(false), true, Runs, Is::Cancelled, None)),
    ("P9b", || ends(unstarted(false), false, Runs, Is::Failed, crashed())),
    ("T1", a1),
    ("T2", t2),
    ("T3", || ends(Outcome::Exited(0), false, Runs, Is::Completed, None)),
    ("T4", || ends(Outcome::Exited(3), false, Runs, Is::Failed, Some(FailureReason::ExitCode))),
    ("T5", || ends(Outcome::Signalled(15), true, Runs, Is::Cancelled, None)),
    ("T6", t6),
    ("T7", p6b),
    ("T8", a10),
    ("T9", t9),
    ("T10", t10),
    ("T11", t11),
    ("T12", || stopped(StopCause::TimeLimit, FailureReason::TimedOut)),
    ("T13", t13),
    ("T14", t14),
];
