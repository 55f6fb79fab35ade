//! Handing out, running, ending.

use muster_coordinator::core::{event::*, model::*};

use crate::world::*;

#[test]
fn offers_go_out_in_index_order_up_to_the_limit_to_the_freest_worker() {
    let mut world = World::new();
    world.connect(1, hello(1, 4, &[]));
    world.connect(2, hello(2, 2, &[]));
    let outputs = world.submit(1, 5, 3);
    assert_eq!(
        offers(&outputs),
        [(1, attempt(1, 1, 1)), (1, attempt(1, 2, 1)), (2, attempt(1, 3, 1))],
        "w1 had the more free places twice, then both had two"
    );
    // Another batch gets what is left, though the first one waits for its limit.
    let outputs = world.submit(2, 9, 9);
    assert_eq!(offers(&outputs).len(), 3);
    // An end makes room for the next by index.
    world.says(1, FromWorker::Accepted(attempt(1, 1, 1)));
    let outputs = world.says(1, FromWorker::Ended(attempt(1, 1, 1), exited(0)));
    assert_eq!(offers(&outputs), [(1, attempt(1, 4, 1))]);
}

#[test]
fn running_begins_with_the_accept() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    assert_eq!(world.task(1, 1).status, TaskStatus::Queued);
    assert!(world.task(1, 1).offered);
    world.now_ms = 50;
    world.says(1, FromWorker::Accepted(attempt(1, 1, 1)));
    assert_eq!(world.task(1, 1).status, TaskStatus::Running);
    assert_eq!(world.task(1, 1).start_ms, Some(50));
    assert_eq!(world.state(1).status, BatchStatus::Running);
    let started = Started { pid: 7, output_path: "/o".into() };
    world.says(1, FromWorker::Started(attempt(1, 1, 1), started));
    assert_eq!((world.task(1, 1).pid, world.task(1, 1).output_path.as_str()), (7, "/o"));
    // A worker that was started anew says it again, without the path that it no longer knows.
    let again = Started { pid: 7, output_path: String::new() };
    world.says(1, FromWorker::Started(attempt(1, 1, 1), again));
    assert_eq!(world.task(1, 1).output_path, "/o");
    world.says(
        1,
        FromWorker::Ended(attempt(1, 1, 1), Box::new(Ended { output_path: String::new(), ..*exited(0) })),
    );
    assert_eq!(world.task(1, 1).output_path, "/o");
}

#[test]
fn ended_implies_stored() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    let id = attempt(1, 1, 1);
    world.says(1, FromWorker::Accepted(id));
    let end = Box::new(Ended { log_size: 100, log_discarded: 5, ..*exited(0) });
    let outputs = world.says(1, FromWorker::Ended(id, end));
    assert!(said(&outputs).is_empty(), "no acknowledgement before the output is stored");
    assert!(said(&world.send(Event::LogStored(id, 99))).is_empty());
    assert_eq!(world.task(1, 1).status, TaskStatus::Running);
    let outputs = world.send(Event::LogStored(id, 100));
    assert_eq!(said(&outputs), [(1, ToWorker::Acknowledged(id))]);
    assert_eq!(world.task(1, 1).status, TaskStatus::Completed);
    assert_eq!((world.task(1, 1).log_bytes, world.task(1, 1).log_discarded), (100, 5));
}

#[test]
fn a_result_that_comes_again_is_acknowledged_and_changes_nothing() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    let id = attempt(1, 1, 1);
    world.says(1, FromWorker::Accepted(id));
    world.says(1, FromWorker::Ended(id, exited(4)));
    let before = world.store.clone();
    let outputs = world.says(1, FromWorker::Ended(id, exited(4)));
    assert_eq!(said(&outputs), [(1, ToWorker::Acknowledged(id))]);
    assert_eq!(world.store.batches, before.batches);
    assert_eq!(world.task(1, 1).exit_code, Some(4));
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::ExitCode));
}

#[test]
fn an_attempt_of_another_life_is_forgotten_by_its_worker() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    let id = muster_proto::AttemptId { life: muster_proto::LifeId(8), ..attempt(1, 1, 1) };
    let outputs = world.says(1, FromWorker::Ended(id, exited(0)));
    assert_eq!(said(&outputs), [(1, ToWorker::Acknowledged(id))]);
}

/// The data is a copy, and a worker of the original dials in: what it runs has cost money.
#[test]
fn an_attempt_of_the_life_before_runs_on_and_is_kept_as_a_late_result() {
    let mut world = World::new();
    world.submit(1, 2, 1);
    let old = |id| muster_proto::AttemptId { life: muster_proto::LifeId(8), ..id };
    let (running, done, accepted) = (old(attempt(1, 1, 1)), old(attempt(1, 2, 1)), old(attempt(1, 1, 2)));
    let held = [(running, HeldPhase::Running), (done, HeldPhase::Ended), (accepted, HeldPhase::Accepted)];
    let outputs = world.connect(1, hello(1, 3, &held));
    let welcome = said(&outputs).into_iter().find_map(|(_, said)| match said {
        ToWorker::Welcome(verdicts) => Some(verdicts),
        _ => None,
    });
    let mut verdicts = welcome.unwrap();
    verdicts.sort_by_key(|(id, _)| (id.task, id.attempt));
    let expected = [(running, Verdict::GoOn), (accepted, Verdict::Stop), (done, Verdict::Report)];
    assert_eq!(verdicts, expected);
    world.says(1, FromWorker::Started(running, Started { pid: 7, output_path: "/out".into() }));
    for id in [running, done] {
        let outputs = world.says(1, FromWorker::Ended(id, exited(0)));
        assert!(said(&outputs).contains(&(1, ToWorker::Acknowledged(id))));
        let row = &world.store.attempts[&id];
        assert!(row.late && row.exit_code == Some(0), "{row:?}");
    }
    assert_eq!(world.task(1, 2).status, TaskStatus::Queued, "it changes nothing but what is shown");
}

#[test]
fn an_accept_of_what_is_not_current_is_told_to_stop() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    let outputs = world.says(1, FromWorker::Accepted(attempt(5, 1, 1)));
    assert!(matches!(said(&outputs)[..], [(1, ToWorker::Stop { .. })]));
}

#[test]
fn a_returned_offer_goes_back_uncounted_after_a_pause() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    let outputs = world.says(1, FromWorker::Returned(attempt(1, 1, 1)));
    assert!(offers(&outputs).is_empty(), "not at once to who gave it back");
    assert_eq!(world.task(1, 1).status, TaskStatus::Queued);
    assert!(!world.task(1, 1).offered);
    assert!(world.store.attempts.is_empty());
    assert_eq!(offers(&world.pass(1_000)), [(1, attempt(1, 1, 2))]);
}

fn missing() -> Box<Ended> {
    ended(Outcome::LaunchFailed { task_fault: false, message: "No such file".into() })
}

#[test]
fn a_machine_that_cannot_start_programs_is_set_aside_and_its_tasks_run_elsewhere() {
    let mut world = World::new();
    world.connect(1, hello(1, 4, &[]));
    world.connect(2, hello(2, 1, &[]));
    world.submit(1, 5, 5);
    for (task, no) in [(1, 1), (2, 1), (3, 1)] {
        let id = attempt(1, task, no);
        world.says(1, FromWorker::Accepted(id));
        world.says(1, FromWorker::Ended(id, missing()));
        assert_eq!(world.task(1, task).status, TaskStatus::Queued);
    }
    let row = &world.store.workers[&worker(1).instance];
    assert!(row.set_aside.as_ref().is_some_and(|why| why.contains("No such file")), "{row:?}");
    assert_eq!(world.machine.available_workers(), 1);

    let outputs = world.send(Event::Steer(ReplyId(1), "w1".into(), Steer::Resume));
    assert!(matches!(reply(&outputs), Reply::Worker(view) if view.status == WorkerStatus::Connected));
    // Tasks 1 to 3 never go back to it.
    assert!(offers(&outputs).iter().all(|(session, id)| *session == 2 || id.task.0 > 3));
}

#[test]
fn a_task_that_no_connected_worker_can_start_fails_and_says_why() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    world.says(1, FromWorker::Accepted(attempt(1, 1, 1)));
    world.says(1, FromWorker::Ended(attempt(1, 1, 1), missing()));
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::WorkerLaunchFailed));
    assert!(world.task(1, 1).failure_message.contains("w1: No such file"));
}

#[test]
fn a_launch_that_fails_for_the_tasks_sake_fails_the_task_only() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.connect(2, hello(2, 1, &[]));
    world.submit(1, 1, 1);
    let (session, id) = (2, attempt(1, 1, 1));
    world.says(session, FromWorker::Accepted(id));
    let too_long = Outcome::LaunchFailed { task_fault: true, message: "Argument list too long".into() };
    world.says(session, FromWorker::Ended(id, ended(too_long)));
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::WorkerLaunchFailed));
    assert_eq!(world.machine.available_workers(), 2);
}

#[test]
fn a_draining_worker_gets_nothing_new() {
    let mut world = World::new();
    world.connect(1, hello(1, 2, &[]));
    world.send(Event::Steer(ReplyId(1), "w1".into(), Steer::Drain));
    assert!(offers(&world.submit(1, 1, 1)).is_empty());
    let outputs = world.send(Event::Steer(ReplyId(2), "w1".into(), Steer::Resume));
    assert_eq!(offers(&outputs), [(1, attempt(1, 1, 1))]);
    let outputs = world.send(Event::Steer(ReplyId(3), "w9".into(), Steer::Drain));
    assert_eq!(reply(&outputs), &Reply::Refused(Refused::UnknownWorker("w9".into())));
}
