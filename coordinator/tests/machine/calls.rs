//! What users ask for: submit, cancel, retry.

use muster_coordinator::core::{event::*, model::*};
use muster_proto::TaskIndex;

use crate::world::*;

#[test]
fn a_batch_is_stored_before_it_is_answered_and_waits_without_workers() {
    let mut world = World::new();
    let outputs = world.submit(1, 3, 2);
    assert_eq!(reply(&outputs), &Reply::Batch(batch(1), 1));
    assert!(offers(&outputs).is_empty());
    assert_eq!(world.state(1).status, BatchStatus::Queued);
    assert_eq!(world.state(1).counts.queued, 3);
}

#[test]
fn the_same_request_gives_the_same_batch_and_another_one_is_refused() {
    let mut world = World::new();
    let request = Request { id: "r".into(), digest: [1; 32] };
    let first = Submit { request: Some(request.clone()), ..submission(1, 1, 1) };
    world.send(Event::Submit(ReplyId(1), Box::new(first)));
    let again = Submit { request: Some(request), ..submission(2, 1, 1) };
    let outputs = world.send(Event::Submit(ReplyId(2), Box::new(again)));
    assert!(matches!(reply(&outputs), Reply::Batch(id, _) if *id == batch(1)));
    assert_eq!(world.store.batches.len(), 1);

    let other = Request { id: "r".into(), digest: [2; 32] };
    let other = Submit { request: Some(other), ..submission(3, 1, 1) };
    let outputs = world.send(Event::Submit(ReplyId(3), Box::new(other)));
    assert_eq!(reply(&outputs), &Reply::Refused(Refused::RequestIdReused("r".into())));
    assert_eq!(world.store.batches.len(), 1);
}

#[test]
fn a_taken_batch_id_is_refused_even_if_its_batch_has_ended() {
    let mut world = World::new();
    world.submit(1, 1, 1);
    world.cancel(1, &[]);
    let outputs = world.submit(1, 2, 1);
    assert_eq!(reply(&outputs), &Reply::Refused(Refused::BatchIdTaken));
}

#[test]
fn cancelling_all_ends_queued_tasks_at_once_and_stops_running_ones() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 3, 3);
    world.says(1, FromWorker::Accepted(attempt(1, 1, 1)));
    let outputs = world.cancel(1, &[]);
    let stop = ToWorker::Stop { attempt: attempt(1, 1, 1), grace_ms: 10_000 };
    assert_eq!(said(&outputs), [(1, stop)]);
    assert_eq!(world.task(1, 2).status, TaskStatus::Cancelled);
    assert!(world.task(1, 1).cancel_requested);
    assert_eq!(world.task(1, 1).status, TaskStatus::Running);
    assert_eq!(world.state(1).status, BatchStatus::Running);

    let end = Box::new(Ended { stop_sent: true, ..*ended(Outcome::Signalled(15)) });
    let outputs = world.says(1, FromWorker::Ended(attempt(1, 1, 1), end));
    assert_eq!(said(&outputs), [(1, ToWorker::Acknowledged(attempt(1, 1, 1)))]);
    assert_eq!(world.task(1, 1).status, TaskStatus::Cancelled);
    assert_eq!(world.state(1).status, BatchStatus::Cancelled);
    assert_eq!(world.state(1).cancel_reason.as_deref(), Some("why not"));
}

#[test]
fn a_task_that_ended_before_it_was_told_to_keeps_its_own_outcome() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    world.says(1, FromWorker::Accepted(attempt(1, 1, 1)));
    world.cancel(1, &[]);
    world.says(1, FromWorker::Ended(attempt(1, 1, 1), exited(0)));
    assert_eq!(world.task(1, 1).status, TaskStatus::Completed);
    assert_eq!(world.state(1).status, BatchStatus::Completed);
}

#[test]
fn cancelling_one_task_leaves_the_others() {
    let mut world = World::new();
    world.submit(1, 3, 3);
    world.cancel(1, &[2]);
    assert_eq!(world.task(1, 2).status, TaskStatus::Cancelled);
    assert_eq!(world.state(1).counts.queued, 2);
    let outputs = world.cancel(1, &[4]);
    assert_eq!(reply(&outputs), &Reply::Refused(Refused::UnknownTask { index: 4, count: 3 }));
    // The others are handed out in their order, past the gap.
    let outputs = world.connect(1, hello(1, 4, &[]));
    assert_eq!(offers(&outputs), [(1, attempt(1, 1, 1)), (1, attempt(1, 3, 1))]);
}

#[test]
fn a_cancelled_offer_that_comes_back_is_cancelled() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    world.cancel(1, &[1]);
    world.says(1, FromWorker::Returned(attempt(1, 1, 1)));
    assert_eq!(world.task(1, 1).status, TaskStatus::Cancelled);
    // Not the whole batch was cancelled.
    assert_eq!(world.state(1).status, BatchStatus::Completed);
}

#[test]
fn calls_about_unknown_or_ended_batches() {
    let mut world = World::new();
    assert_eq!(reply(&world.cancel(9, &[])), &Reply::Refused(Refused::UnknownBatch(batch(9))));
    assert_eq!(reply(&world.retry(9, &[], None)), &Reply::Refused(Refused::UnknownBatch(batch(9))));
    world.submit(1, 1, 1);
    world.cancel(1, &[]);
    let revision = world.state(1).revision;
    assert_eq!(reply(&world.cancel(1, &[])), &Reply::Batch(batch(1), revision));
}

fn request() -> Option<Request> {
    Some(Request { id: "r".into(), digest: [1; 32] })
}

#[test]
fn a_cancellation_of_an_ended_batch_that_comes_again_cancels_nothing_of_what_was_retried() {
    let mut world = World::new();
    world.submit(1, 1, 1);
    world.cancel(1, &[]);
    let cancel = |batch| Cancel {
        batch,
        tasks: Vec::new(),
        reason: "why not".into(),
        immediate: false,
        request: request(),
    };
    let (unknown, revision) = (batch(9), world.state(1).revision);
    // Refused, so the id is not used up.
    let refused = world.send(Event::Cancel(ReplyId(1), cancel(unknown)));
    assert_eq!(reply(&refused), &Reply::Refused(Refused::UnknownBatch(unknown)));
    let first = world.send(Event::Cancel(ReplyId(2), cancel(batch(1))));
    assert_eq!(reply(&first), &Reply::Batch(batch(1), revision));
    world.retry(1, &[1], None);
    let again = world.send(Event::Cancel(ReplyId(3), cancel(batch(1))));
    assert!(matches!(reply(&again), Reply::Batch(id, _) if *id == batch(1)));
    assert_eq!((world.task(1, 1).status, &world.state(1).cancel_reason), (TaskStatus::Queued, &None));
}

#[test]
fn a_release_of_an_ended_batch_is_remembered() {
    let mut world = World::new();
    world.submit(1, 1, 1);
    world.cancel(1, &[]);
    let release = Release { batch: batch(1), request: request() };
    let outputs = world.send(Event::Release(ReplyId(1), release));
    assert_eq!(reply(&outputs), &Reply::Batch(batch(1), world.state(1).revision));
    let other = Request { id: "r".into(), digest: [2; 32] };
    let other = Submit { request: Some(other), ..submission(2, 1, 1) };
    let outputs = world.send(Event::Submit(ReplyId(2), Box::new(other)));
    assert_eq!(reply(&outputs), &Reply::Refused(Refused::RequestIdReused("r".into())));
}

#[test]
fn a_retry_reopens_the_batch_with_new_attempts() {
    let mut world = World::new();
    world.connect(1, hello(1, 2, &[]));
    world.submit(1, 2, 2);
    for task in [1, 2] {
        world.says(1, FromWorker::Accepted(attempt(1, task, 1)));
        world.says(1, FromWorker::Ended(attempt(1, task, 1), exited(task as i32 - 1)));
    }
    assert_eq!(world.state(1).status, BatchStatus::Completed);
    let before = world.state(1).revision;
    assert_eq!(reply(&world.retry(1, &[1], None)), &Reply::Refused(Refused::NotRetriable(TaskIndex(1))));

    let outputs = world.retry(1, &[], None);
    assert!(matches!(reply(&outputs), Reply::Batch(_, revision) if *revision > before));
    assert_eq!(offers(&outputs), [(1, attempt(1, 2, 2))]);
    assert_eq!(world.state(1).status, BatchStatus::Running);
    assert_eq!(world.state(1).end_ms, None);
    // What the first attempt says now changes nothing.
    world.says(1, FromWorker::Ended(attempt(1, 2, 1), exited(1)));
    world.says(1, FromWorker::Accepted(attempt(1, 2, 2)));
    world.says(1, FromWorker::Ended(attempt(1, 2, 2), exited(0)));
    assert_eq!(world.state(1).status, BatchStatus::Completed);
    assert_eq!(world.state(1).counts.completed, 2);
    assert_eq!(world.store.attempts.len(), 3);
    assert_eq!(reply(&world.retry(1, &[], None)), &Reply::Refused(Refused::NothingToRetry));
}

#[test]
fn a_key_goes_when_the_batch_ends_and_a_retry_must_bring_it_again() {
    let mut world = World::new();
    let with_key = Submit { secret: Some(vec![1]), ..submission(1, 1, 1) };
    world.send(Event::Submit(ReplyId(1), Box::new(with_key)));
    assert!(world.store.secrets.contains_key(&batch(1)));
    world.cancel(1, &[]);
    assert!(world.store.secrets.is_empty());
    assert_eq!(reply(&world.retry(1, &[], None)), &Reply::Refused(Refused::NoApiKey));
    assert!(matches!(reply(&world.retry(1, &[], Some(vec![2]))), Reply::Batch(..)));
    assert_eq!(world.store.secrets[&batch(1)], [2]);
}

#[test]
fn a_key_that_cannot_be_read_fails_its_task_with_that_reason() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    world.send(Event::Unsendable(attempt(1, 1, 1), FailureReason::SecretUnavailable, "no key".into()));
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::SecretUnavailable));
    assert_eq!(world.state(1).status, BatchStatus::Completed);
}
