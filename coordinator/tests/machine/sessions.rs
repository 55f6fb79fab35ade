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

/// walks: R8
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
    // What was seen to run crashed too, and the worker takes what is next.
    let mut world = running();
    world.says(1, FromWorker::Started(attempt(1, 1, 1), Started { pid: 7, output_path: "/o".into() }));
    world.send(Event::Gone(SessionId(1)));
    let rebooted = Box::new(Hello { boot_id: "another".into(), ..*hello(1, 1, &[]) });
    assert_eq!(offers(&world.connect(2, rebooted)), [(2, attempt(1, 2, 1))]);
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
    assert_eq!(closed(&outputs), [2], "nothing is kept for it");
    let copy = Hello { boot_id: "another".into(), ..*hello(1, 1, &[]) };
    let outputs = world.connect(3, Box::new(copy));
    assert_eq!(reply(&outputs), &Reply::Refused(Refused::Clone));
    // The same instance and boot replaces its old stream.
    let outputs = world.connect(4, hello(1, 1, &[]));
    assert_eq!(closed(&outputs), [1]);
    world.send(Event::Gone(SessionId(1)));
    assert_eq!(world.machine.available_workers(), 1, "the end of the old stream changes nothing");
    // It may come with a new name, which frees the old one.
    let renamed = Hello { worker: WorkerRef { name: "new".into(), ..worker(1) }, ..*hello(1, 1, &[]) };
    world.connect(5, Box::new(renamed));
    let namesake =
        |name: &str| Hello { worker: WorkerRef { name: name.into(), ..worker(2) }, ..*hello(2, 1, &[]) };
    let outputs = world.connect(6, Box::new(namesake("new")));
    assert_eq!(reply(&outputs), &Reply::Refused(Refused::NameInUse("new".into())));
    assert_eq!(reply(&world.connect(7, Box::new(namesake("w1")))), &Reply::Attached);
    assert_eq!(world.machine.available_workers(), 2);
}

#[test]
fn a_hello_that_was_held_up_proves_nothing() {
    let mut world = World::new();
    let numbered = |connection| Box::new(Hello { connection, ..*hello(1, 1, &[]) });
    world.connect(1, numbered(5));
    world.submit(1, 1, 1);
    world.says(1, FromWorker::Accepted(attempt(1, 1, 1)));
    // Written before the offer was received, so it does not list it.
    let outputs = world.connect(2, numbered(4));
    assert_eq!(reply(&outputs), &Reply::Refused(Refused::Outdated));
    assert_eq!(world.task(1, 1).status, TaskStatus::Running);
    assert_eq!(world.machine.available_workers(), 1, "the newer session stands");
    // Nor does one that came twice.
    assert_eq!(reply(&world.connect(3, numbered(5))), &Reply::Refused(Refused::Outdated));
    assert_eq!(world.task(1, 1).status, TaskStatus::Running);
}

#[test]
fn nor_does_it_after_a_restart_of_the_coordinator() {
    let mut world = World::new();
    let numbered = |connection| Box::new(Hello { connection, ..*hello(1, 1, &[]) });
    world.connect(1, numbered(5));
    world.submit(1, 1, 1);
    // It has begun; that its program runs was not heard of yet.
    world.says(1, FromWorker::Accepted(attempt(1, 1, 1)));
    world.restart();
    let outputs = world.connect(2, numbered(4));
    assert_eq!(reply(&outputs), &Reply::Refused(Refused::Outdated));
    assert!(offers(&outputs).is_empty(), "the task is not run twice");
    assert_eq!(world.task(1, 1).status, TaskStatus::Running);
    let id = attempt(1, 1, 1);
    let newer = Box::new(Hello { connection: 6, ..*hello(1, 1, &[(id, HeldPhase::Running)]) });
    assert_eq!(said(&world.connect(3, newer)), [(3, ToWorker::Welcome(vec![(id, Verdict::GoOn)]))]);
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

#[test]
fn a_program_that_was_seen_to_start_is_never_handed_out_again() {
    let id = attempt(1, 1, 1);
    let started = || Started { pid: 7, output_path: "/o".into() };
    // A hello that was held up in the network, from before the offer.
    let mut world = running();
    world.says(1, FromWorker::Started(id, started()));
    let outputs = world.connect(2, hello(1, 1, &[]));
    assert_eq!(offers(&outputs), [(2, attempt(1, 2, 1))], "it did start, whatever the hello lists");
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::WorkerCrashed));
    // A worker that takes back its own word.
    let mut world = running();
    world.says(1, FromWorker::Started(id, started()));
    world.restart();
    world.connect(2, hello(1, 1, &[(id, HeldPhase::Running)]));
    world.says(2, FromWorker::Returned(id));
    assert_eq!(offers(&world.pass(1_000)), [(2, attempt(1, 2, 1))]);
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::WorkerCrashed));
}

#[test]
fn nor_is_one_whose_worker_says_afterwards_that_it_could_not_be_started() {
    let id = attempt(1, 1, 1);
    let mut world = running();
    world.connect(2, hello(2, 1, &[]));
    world.says(1, FromWorker::Started(id, Started { pid: 7, output_path: "/o".into() }));
    let failed = Outcome::LaunchFailed { task_fault: false, message: "no such file".into() };
    let outputs = world.says(1, FromWorker::Ended(id, ended(failed)));
    assert!(said(&outputs).contains(&(1, ToWorker::Acknowledged(id))));
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::WorkerCrashed));
}

#[test]
fn a_cancelled_task_that_had_not_begun_is_not_begun() {
    let mut world = running();
    world.send(Event::Gone(SessionId(1)));
    world.cancel(1, &[1]);
    let id = attempt(1, 1, 1);
    let outputs = world.connect(2, hello(1, 1, &[(id, HeldPhase::Accepted)]));
    assert_eq!(said(&outputs), [(2, ToWorker::Welcome(vec![(id, Verdict::Stop)]))]);
    world.says(2, FromWorker::Returned(id));
    assert_eq!(world.task(1, 1).status, TaskStatus::Cancelled);
    assert!(world.task(1, 1).end_confirmed);
}

#[test]
fn a_task_fails_when_the_last_other_worker_that_could_try_it_is_gone_for_good() {
    for leaves in [true, false] {
        let mut world = World::new();
        world.connect(1, hello(1, 1, &[]));
        world.connect(2, hello(2, 1, &[]));
        world.says(2, FromWorker::Draining);
        world.submit(1, 1, 1);
        let id = attempt(1, 1, 1);
        world.says(1, FromWorker::Accepted(id));
        let failed = Outcome::LaunchFailed { task_fault: false, message: "no such file".into() };
        world.says(1, FromWorker::Ended(id, ended(failed)));
        assert_eq!(world.task(1, 1).status, TaskStatus::Queued, "w2 has not tried it");
        if leaves {
            world.says(2, FromWorker::Leaving);
        } else {
            world.says(2, FromWorker::Heartbeat(vec![]));
            world.connect(3, hello(2, 0, &[]));
            world.send(Event::Gone(SessionId(3)));
            assert_eq!(world.task(1, 1).status, TaskStatus::Queued, "w2 may be back");
            world.pass(100_000);
        }
        assert_eq!(world.task(1, 1).failure, Some(FailureReason::WorkerLaunchFailed));
        assert_eq!(world.task(1, 1).failure_message, "could not be started on any connected worker");
    }
}

#[test]
fn late_results_of_sessions_that_ended_make_room() {
    let mut world = World::new();
    world.connect(1, hello(1, 2, &[]));
    world.submit(1, 2, 2);
    for task in [1, 2] {
        world.says(1, FromWorker::Accepted(attempt(1, task, 1)));
    }
    world.send(Event::Gone(SessionId(1)));
    world.pass(100_000);
    let id = attempt(1, 1, 1);
    world.connect(2, hello(1, 2, &[(id, HeldPhase::Ended)]));
    let end = Box::new(Ended { log_size: 10, ..*exited(0) });
    world.says(2, FromWorker::Ended(id, end.clone()));
    world.send(Event::Gone(SessionId(2)));
    // Its worker sends it again in its next session; until then nothing is kept of it.
    assert!(said(&world.send(Event::LogStored(id, 10))).is_empty());
    assert!(!world.store.attempts[&id].late);
    world.log_stored.insert(id, 10);
    world.connect(3, hello(1, 2, &[(id, HeldPhase::Ended)]));
    assert_eq!(said(&world.says(3, FromWorker::Ended(id, end))), [(3, ToWorker::Acknowledged(id))]);
    assert!(world.store.attempts[&id].late);
}

#[test]
fn two_that_replace_each_other_are_both_refused_for_a_minute() {
    let mut world = running();
    let held = [(attempt(1, 1, 1), HeldPhase::Running)];
    for session in 2..=3 {
        world.pass(10_000);
        let outputs = world.connect(session, hello(1, 1, &held));
        assert_eq!(closed(&outputs), [session - 1], "one at a time is a worker that has connected anew");
    }
    world.pass(10_000);
    let outputs = world.connect(4, hello(1, 1, &held));
    assert_eq!(reply(&outputs), &Reply::Refused(Refused::Contended));
    assert_eq!(closed(&outputs), [3, 4]);
    world.pass(59_999);
    assert_eq!(reply(&world.connect(5, hello(1, 1, &held))), &Reply::Refused(Refused::Contended));
    assert_eq!(world.task(1, 1).status, TaskStatus::Running, "what runs goes on");
    world.pass(1);
    let outputs = world.connect(6, hello(1, 1, &held));
    assert_eq!(reply(&outputs), &Reply::Attached);
    assert!(closed(&outputs).is_empty());
}

#[test]
fn replacements_that_are_far_apart_are_those_of_a_bad_network() {
    let mut world = running();
    for session in 2..20 {
        world.pass(30_001);
        let outputs = world.connect(session, hello(1, 1, &[(attempt(1, 1, 1), HeldPhase::Running)]));
        assert_eq!(reply(&outputs), &Reply::Attached);
    }
}
