//! Workers that come, go, come back, and do not come back; and a coordinator that was away itself.

use muster_coordinator::core::{event::*, model::*};

use crate::world::*;

fn running() -> World {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 2, 1);
    world.says(1, FromWorker::Accepted(attempt(1, 1, 1)));
    world
}

#[test]
fn a_worker_that_is_back_in_time_goes_on_with_what_it_runs() {
    let mut world = running();
    world.send(Event::Gone(SessionId(1)));
    world.pass(99_000);
    let outputs = world.connect(2, hello(1, 1, &[(attempt(1, 1, 1), HeldPhase::Running)]));
    let welcome = ToWorker::Welcome(vec![(attempt(1, 1, 1), Verdict::GoOn)]);
    assert_eq!(said(&outputs), [(2, welcome)]);
    assert!(offers(&outputs).is_empty(), "the limit counts what runs");
    world.pass(99_000);
    assert_eq!(world.task(1, 1).status, TaskStatus::Running);
    world.says(2, FromWorker::Ended(attempt(1, 1, 1), exited(0)));
    assert_eq!(world.task(1, 1).status, TaskStatus::Completed);
}

#[test]
fn the_same_over_a_restart_of_the_coordinator() {
    let mut world = running();
    world.restart();
    world.pass(99_000);
    assert_eq!(world.task(1, 1).status, TaskStatus::Running);
    let outputs = world.connect(2, hello(1, 1, &[(attempt(1, 1, 1), HeldPhase::Ended)]));
    let welcome = ToWorker::Welcome(vec![(attempt(1, 1, 1), Verdict::Report)]);
    assert_eq!(said(&outputs), [(2, welcome)]);
    let outputs = world.says(2, FromWorker::Ended(attempt(1, 1, 1), exited(0)));
    assert_eq!(offers(&outputs), [(2, attempt(1, 2, 1))]);
    assert_eq!(world.task(1, 1).status, TaskStatus::Completed);
}

#[test]
fn an_offer_goes_back_only_on_proof() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    world.send(Event::Gone(SessionId(1)));
    // Another worker proves nothing.
    assert!(offers(&world.connect(2, hello(2, 1, &[]))).is_empty());
    // The same work directory in the same boot does.
    let outputs = world.connect(3, hello(1, 1, &[]));
    assert_eq!(offers(&outputs).len(), 1);
    assert_eq!(offers(&outputs)[0].1, attempt(1, 1, 2));
    assert!(world.store.attempts.is_empty(), "uncounted");
}

#[test]
fn another_boot_means_that_what_may_have_run_crashed() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    world.send(Event::Gone(SessionId(1)));
    let rebooted = Box::new(Hello { boot_id: "another".into(), ..*hello(1, 1, &[]) });
    let outputs = world.connect(2, rebooted);
    assert!(offers(&outputs).is_empty());
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::WorkerCrashed));
}

#[test]
fn a_worker_that_stays_away_loses_its_tasks_and_its_late_result_is_kept() {
    let mut world = running();
    world.connect(2, hello(2, 1, &[]));
    world.send(Event::Gone(SessionId(1)));
    let outputs = world.pass(100_000);
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::WorkerCrashed));
    assert_eq!(offers(&outputs), [(2, attempt(1, 2, 1))], "its place is free");
    let revision = world.state(1).revision;

    let id = attempt(1, 1, 1);
    let outputs = world.connect(3, hello(1, 1, &[(id, HeldPhase::Ended)]));
    assert_eq!(said(&outputs), [(3, ToWorker::Welcome(vec![(id, Verdict::Report)]))]);
    let end = Box::new(Ended { log_size: 10, ..*exited(0) });
    assert!(said(&world.says(3, FromWorker::Ended(id, end))).is_empty(), "its output is not stored yet");
    let outputs = world.send(Event::LogStored(id, 10));
    assert_eq!(said(&outputs), [(3, ToWorker::Acknowledged(id))]);
    let row = &world.store.attempts[&id];
    assert!(row.late && row.exit_code == Some(0) && row.log_bytes == 10);
    assert_eq!(world.task(1, 1).status, TaskStatus::Failed, "an end is final");
    assert!(world.state(1).revision > revision, "watchers see it");
}

#[test]
fn a_lost_task_that_still_runs_is_stopped() {
    let mut world = running();
    world.send(Event::Gone(SessionId(1)));
    world.pass(100_000);
    let id = attempt(1, 1, 1);
    let outputs = world.connect(2, hello(1, 1, &[(id, HeldPhase::Running)]));
    assert_eq!(said(&outputs), [(2, ToWorker::Welcome(vec![(id, Verdict::Stop)]))]);
}

#[test]
fn a_cancelled_task_whose_worker_is_lost_is_cancelled_unconfirmed() {
    let mut world = running();
    world.send(Event::Gone(SessionId(1)));
    world.cancel(1, &[1]);
    assert_eq!(world.task(1, 1).status, TaskStatus::Running);
    world.pass(100_000);
    assert_eq!(world.task(1, 1).status, TaskStatus::Cancelled);
    assert!(!world.task(1, 1).end_confirmed);
}

#[test]
fn a_cancellation_reaches_a_worker_that_was_away() {
    let mut world = running();
    world.send(Event::Gone(SessionId(1)));
    world.cancel(1, &[1]);
    world.restart();
    let id = attempt(1, 1, 1);
    let outputs = world.connect(2, hello(1, 1, &[(id, HeldPhase::Running)]));
    assert_eq!(
        said(&outputs),
        [
            (2, ToWorker::Welcome(vec![(id, Verdict::GoOn)])),
            (2, ToWorker::Stop { attempt: id, grace_ms: 10_000 })
        ]
    );
}

#[test]
fn used_names_and_copied_work_directories_are_refused() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    let namesake = Hello { worker: WorkerRef { name: "w1".into(), ..worker(2) }, ..*hello(2, 1, &[]) };
    let outputs = world.connect(2, Box::new(namesake));
    assert_eq!(reply(&outputs), &Reply::Refused(Refused::NameInUse("w1".into())));
    let copy = Hello { boot_id: "another".into(), ..*hello(1, 1, &[]) };
    let outputs = world.connect(3, Box::new(copy));
    assert_eq!(reply(&outputs), &Reply::Refused(Refused::Clone));
    // The same instance and boot replaces its old stream.
    let outputs = world.connect(4, hello(1, 1, &[]));
    assert_eq!(closed(&outputs), [1]);
    world.send(Event::Gone(SessionId(1)));
    assert_eq!(world.machine.available_workers(), 1, "the end of the old stream changes nothing");
}

#[test]
fn an_offer_that_is_not_answered_ends_the_session() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    assert!(closed(&world.pass(9_999)).is_empty());
    assert_eq!(closed(&world.pass(1)), [1]);
}

#[test]
fn a_worker_that_leaves_is_forgotten() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.says(1, FromWorker::Draining);
    assert_eq!(world.machine.available_workers(), 0);
    let outputs = world.says(1, FromWorker::Leaving);
    assert_eq!(closed(&outputs), [1]);
    assert!(world.store.workers.is_empty());
    let outputs = world.send(Event::Workers(ReplyId(9)));
    assert_eq!(reply(&outputs), &Reply::Workers(vec![]));
}

#[test]
fn an_offer_that_crosses_with_a_leaving_worker_goes_back() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.connect(2, hello(2, 1, &[]));
    let offered = offers(&world.submit(1, 1, 1));
    let [(session, first)] = offered[..] else { panic!("one offer: {offered:?}") };
    world.says(session, FromWorker::Draining);
    let outputs = world.says(session, FromWorker::Leaving);
    assert_eq!(closed(&outputs), [session]);
    assert_eq!(offers(&outputs), [(3 - session, attempt(1, 1, first.attempt.0 + 1))], "it held nothing");
    assert!(world.store.attempts.is_empty(), "uncounted");
    assert_eq!(world.store.workers.len(), 1, "and is forgotten");
}

#[test]
fn lost_and_forgotten_in_the_end() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.send(Event::Gone(SessionId(1)));
    let status = |world: &mut World| match reply(&world.send(Event::Workers(ReplyId(9)))) {
        Reply::Workers(views) => views.first().map(|view| view.status),
        _ => None,
    };
    assert_eq!(status(&mut world), Some(WorkerStatus::Disconnected));
    world.pass(100_000);
    assert_eq!(status(&mut world), Some(WorkerStatus::Lost));
    world.pass(86_400_000);
    assert_eq!(status(&mut world), None);
}
