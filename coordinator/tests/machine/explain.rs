//! Why tasks do not run: one script for each cause, and its way out.

use muster_coordinator::core::{
    event::*,
    explain::{Cause, Explanation, MAX_STEPS, Reason, ended_batch, ended_task},
};
use muster_proto::TaskIndex;

use crate::world::*;

/// The explanation as a caller gets it: through an event that changes nothing.
fn explain(world: &mut World, n: u64, task: Option<u32>) -> Explanation {
    let before = world.store.clone();
    let event = Event::Explain(world.reply_id(), batch(n), task.map(TaskIndex));
    let outputs = world.send(event);
    assert_eq!(outputs.len(), 1, "a question makes nothing happen");
    assert_eq!((&world.store.batches, &world.store.workers), (&before.batches, &before.workers));
    let Reply::Explained(Some(found)) = reply(&outputs) else { panic!("{outputs:?}") };
    (**found).clone()
}

fn reasons(found: &Explanation) -> Vec<(Reason, u32)> {
    found.causes.iter().map(|cause| (cause.reason, cause.tasks)).collect()
}

fn cause(found: &Explanation, reason: Reason) -> &Cause {
    found
        .causes
        .iter()
        .find(|cause| cause.reason == reason)
        .unwrap_or_else(|| panic!("{reason:?} of {found:?}"))
}

fn names(cause: &Cause) -> Vec<&str> {
    cause.workers.iter().map(|worker| worker.name.as_str()).collect()
}

fn steer(world: &mut World, name: &str, steer: Steer) {
    let event = Event::Steer(world.reply_id(), name.into(), steer);
    world.send(event);
}

fn launch_fails(world: &mut World, session: u64, task: u32, no: u32) {
    let id = attempt(1, task, no);
    world.says(session, FromWorker::Accepted(id));
    let outcome = Outcome::LaunchFailed { task_fault: false, message: "No such file".into() };
    world.says(session, FromWorker::Ended(id, ended(outcome)));
}

#[test]
fn without_a_worker_it_names_the_command_that_starts_one() {
    let mut world = World::new();
    world.submit(1, 3, 2);
    let found = explain(&mut world, 1, None);
    assert_eq!(reasons(&found), [(Reason::NoWorker, 3)]);
    let only = cause(&found, Reason::NoWorker);
    assert_eq!(only.message, "no worker is connected");
    assert!(only.way_out.contains("muster-worker --coordinator"), "{}", only.way_out);
    assert_eq!(reasons(&explain(&mut world, 1, Some(2))), [(Reason::NoWorker, 1)]);
}

#[test]
fn a_worker_that_is_lost_is_no_worker_but_is_named() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.send(Event::Gone(SessionId(1)));
    world.submit(1, 1, 1);
    let found = explain(&mut world, 1, None);
    assert_eq!(reasons(&found), [(Reason::WorkersDisconnected, 1)]);
    assert_eq!(names(&found.causes[0]), ["w1"]);
    world.pass(100_000);
    let found = explain(&mut world, 1, None);
    assert_eq!(reasons(&found), [(Reason::NoWorker, 1)]);
    assert_eq!(found.causes[0].message, "no worker is connected (w1 is away too long)");
}

#[test]
fn an_offer_that_is_not_accepted_is_told_apart_from_what_runs() {
    let mut world = World::new();
    world.connect(1, hello(1, 2, &[]));
    world.submit(1, 2, 2);
    assert_eq!(reasons(&explain(&mut world, 1, None)), [(Reason::Offered, 2)]);
    world.now_ms = 70;
    world.says(1, FromWorker::Accepted(attempt(1, 1, 1)));
    let found = explain(&mut world, 1, None);
    assert_eq!(reasons(&found), [(Reason::Offered, 1), (Reason::Running, 1)]);
    assert_eq!(names(cause(&found, Reason::Offered)), ["w1"]);
    let found = explain(&mut world, 1, Some(1));
    let running = cause(&found, Reason::Running);
    assert_eq!((running.since_ms, running.message.as_str()), (Some(70), "task 1 runs on w1"));
    assert_eq!(running.way_out, format!("see what it prints: muster logs {} 1 --follow", batch(1)));
    assert_eq!(found.place, None, "it is not in the queue");
}

#[test]
fn the_batchs_own_limit_is_told_apart_from_a_full_fleet() {
    let mut world = World::new();
    world.connect(1, hello(1, 4, &[]));
    world.submit(1, 5, 2);
    let found = explain(&mut world, 1, None);
    assert_eq!(reasons(&found), [(Reason::BatchLimit, 3), (Reason::Offered, 2)]);
    assert!(found.causes[0].message.contains("2 tasks of the batch are handed out"), "{found:?}");
    assert!(found.causes[0].way_out.contains("--concurrency"));
    // What is handed out ends in vain while no worker takes the next: both stand in the way.
    steer(&mut world, "w1", Steer::Drain);
    let found = explain(&mut world, 1, Some(4));
    assert_eq!(reasons(&found), [(Reason::BatchLimit, 1), (Reason::WorkersDraining, 1)]);
}

#[test]
fn busy_workers_come_with_who_holds_their_places_and_with_the_place_in_the_queue() {
    let mut world = World::new();
    world.connect(1, hello(1, 2, &[]));
    world.connect(2, hello(2, 1, &[]));
    world.submit(1, 6, 2);
    world.submit(2, 4, 4);
    world.submit(3, 3, 3);
    let found = explain(&mut world, 3, None);
    assert_eq!(reasons(&found), [(Reason::WorkersBusy, 3)]);
    let busy = cause(&found, Reason::WorkersBusy);
    assert_eq!(busy.batches, [(batch(1), 2), (batch(2), 1)]);
    assert_eq!((names(busy), busy.worker_count, busy.batch_count), (vec!["w1", "w2"], 2, 2));
    assert_eq!(busy.message, "all 3 places of w1 and w2 are taken, by tasks of 2 batches");
    let place = found.place.unwrap();
    assert_eq!((place.task, place.ahead, place.at_least), (TaskIndex(1), 4 + 3, false));
    // Of one task: those of its own batch that come first count too.
    let place = explain(&mut world, 3, Some(3)).place.unwrap();
    assert_eq!((place.task, place.ahead), (TaskIndex(3), 4 + 3 + 2));
    // A further worker that only sits there is a way out as well.
    world.connect(3, hello(3, 1, &[]));
    steer(&mut world, "w3", Steer::Drain);
    world.says(3, FromWorker::Heartbeat(vec![]));
    let found = explain(&mut world, 3, None);
    let draining = found.causes.iter().any(|cause| cause.reason == Reason::WorkersDraining);
    assert!(draining && found.causes[0].reason == Reason::WorkersBusy, "{found:?}");
}

#[test]
fn a_drained_worker_comes_with_the_command_that_brings_it_back_and_a_leaving_one_does_not() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    steer(&mut world, "w1", Steer::Drain);
    world.submit(1, 1, 1);
    let found = explain(&mut world, 1, None);
    assert_eq!(reasons(&found), [(Reason::WorkersDraining, 1)]);
    assert_eq!(found.causes[0].way_out, "muster resume w1");

    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.says(1, FromWorker::Draining);
    world.submit(1, 1, 1);
    let found = explain(&mut world, 1, None);
    assert_eq!(found.causes[0].message, "w1 is about to leave and takes nothing new");
    assert!(!found.causes[0].way_out.contains("resume"), "{found:?}");
}

#[test]
fn workers_that_are_set_aside_come_with_the_systems_reason() {
    let mut world = World::new();
    world.connect(1, hello(1, 3, &[]));
    world.connect(2, hello(2, 0, &[]));
    world.submit(1, 3, 3);
    (1..=3).for_each(|task| launch_fails(&mut world, 1, task, 1));
    world.send(Event::Gone(SessionId(2)));
    let found = explain(&mut world, 1, Some(3));
    assert_eq!(reasons(&found), [(Reason::WorkersSetAside, 1), (Reason::WorkersDisconnected, 1)]);
    let aside = cause(&found, Reason::WorkersSetAside);
    assert!(aside.message.contains("No such file") && aside.workers[0].message.contains("No such file"));
    assert!(aside.way_out.ends_with("muster resume w1"), "{}", aside.way_out);
}

#[test]
fn a_task_that_could_not_be_started_on_the_only_workers_is_excluded() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.connect(2, hello(2, 1, &[]));
    world.says(2, FromWorker::Draining);
    world.submit(1, 2, 1);
    launch_fails(&mut world, 1, 1, 1);
    // Task 2 has the place now; the first is looked at once it is free.
    world.says(1, FromWorker::Accepted(attempt(1, 2, 1)));
    world.says(1, FromWorker::Ended(attempt(1, 2, 1), exited(0)));
    let found = explain(&mut world, 1, Some(1));
    assert_eq!(reasons(&found), [(Reason::Excluded, 1), (Reason::WorkersDraining, 1)]);
    assert_eq!(names(&found.causes[0]), ["w1"]);
    let found = explain(&mut world, 1, None);
    assert_eq!(reasons(&found)[..2], [(Reason::Excluded, 1), (Reason::WorkersDraining, 1)]);
    assert_eq!(cause(&found, Reason::Ended).message, "1 task has ended: 1 completed");
}

#[test]
fn a_worker_that_gave_an_offer_back_is_paused() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    world.says(1, FromWorker::Returned(attempt(1, 1, 1)));
    let found = explain(&mut world, 1, None);
    assert_eq!(reasons(&found), [(Reason::WorkersPaused, 1)]);
    world.pass(1_000);
    assert_eq!(reasons(&explain(&mut world, 1, None)), [(Reason::Offered, 1)]);
}

#[test]
fn what_is_cancelled_waits_for_its_worker() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    world.says(1, FromWorker::Accepted(attempt(1, 1, 1)));
    world.cancel(1, &[]);
    let found = explain(&mut world, 1, Some(1));
    assert_eq!(reasons(&found), [(Reason::CancelRequested, 1)]);
    assert!(found.causes[0].way_out.ends_with(&format!("muster cancel {} 1 --now", batch(1))));
    let whole = explain(&mut world, 1, None);
    assert!(whole.causes[0].way_out.ends_with(&format!("muster cancel {} --now", batch(1))), "{whole:?}");
    world.send(Event::Gone(SessionId(1)));
    let found = explain(&mut world, 1, None);
    assert!(found.causes[0].message.contains("w1 is disconnected"), "{found:?}");
}

#[test]
fn the_way_out_of_one_cancellation_never_ends_the_whole_batch() {
    let mut world = World::new();
    world.connect(1, hello(1, 2, &[]));
    world.submit(1, 2, 2);
    for task in [1, 2] {
        world.says(1, FromWorker::Accepted(attempt(1, task, 1)));
    }
    world.cancel(1, &[1]);
    let found = explain(&mut world, 1, None);
    let cancelled = cause(&found, Reason::CancelRequested);
    assert!(cancelled.way_out.ends_with(&format!("muster cancel {} TASK --now", batch(1))), "{cancelled:?}");
}

#[test]
fn a_task_that_was_never_tried_has_no_output_to_look_at() {
    let mut world = World::new();
    world.submit(1, 2, 1);
    world.cancel(1, &[1]);
    let told = ended_task(batch(1), TaskIndex(1), world.task(1, 1));
    assert_eq!(told.way_out, format!("run it again: muster retry {} 1", batch(1)));
}

#[test]
fn a_task_whose_output_is_on_its_way_has_ended_but_for_that() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    let id = attempt(1, 1, 1);
    world.says(1, FromWorker::Accepted(id));
    world.says(1, FromWorker::Ended(id, Box::new(Ended { log_size: 9, ..*exited(0) })));
    assert_eq!(reasons(&explain(&mut world, 1, None)), [(Reason::StoringOutput, 1)]);
    assert_eq!(reasons(&explain(&mut world, 1, Some(1))), [(Reason::StoringOutput, 1)]);
}

#[test]
fn what_has_ended_is_told_from_its_row() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 2, 1);
    world.says(1, FromWorker::Accepted(attempt(1, 1, 1)));
    world.now_ms = 50;
    world.says(1, FromWorker::Ended(attempt(1, 1, 1), exited(3)));
    assert_eq!(reasons(&explain(&mut world, 1, Some(1))), [(Reason::Ended, 1)]);
    let told = ended_task(batch(1), TaskIndex(1), world.task(1, 1));
    assert_eq!(told.message, "task 1 failed (exit_code): the program exited with code 3");
    assert!(told.way_out.contains(&format!("muster retry {} 1", batch(1))), "{}", told.way_out);
    assert_eq!(told.since_ms, Some(50));

    world.cancel(1, &[2]);
    world.says(1, FromWorker::Ended(attempt(1, 2, 1), exited(0)));
    let event = Event::Explain(ReplyId(99), batch(1), None);
    assert_eq!(reply(&world.send(event)), &Reply::Explained(None), "no longer in memory");
    let stored = &world.store.batches[&batch(1)];
    let told = ended_batch(&stored.head, &stored.state);
    assert_eq!(told.causes[0].message, "the batch has ended: 1 completed, 1 failed");
    assert!(told.causes[0].way_out.ends_with(&format!("muster retry {}", batch(1))));
}

#[test]
fn what_is_not_there_is_refused() {
    let mut world = World::new();
    world.submit(1, 2, 1);
    let event = Event::Explain(ReplyId(9), batch(1), Some(TaskIndex(3)));
    let refused = Refused::UnknownTask { index: 3, count: 2 };
    assert_eq!(reply(&world.send(event)), &Reply::Refused(refused));
    let event = Event::Explain(ReplyId(9), batch(2), None);
    assert_eq!(reply(&world.send(event)), &Reply::Explained(None));
}

#[test]
fn a_walk_that_would_be_long_ends_and_says_so() {
    let mut world = World::new();
    let many = u32::try_from(MAX_STEPS).unwrap() + 10;
    world.submit(1, many, 1);
    let place = explain(&mut world, 1, Some(many)).place.unwrap();
    assert_eq!((place.ahead as usize, place.at_least), (MAX_STEPS, true));
    let found = explain(&mut world, 1, None);
    assert_eq!(reasons(&found), [(Reason::NoWorker, many)], "counted without a walk");
    assert_eq!(found.place.map(|place| (place.task, place.ahead)), Some((TaskIndex(1), 0)));
}
