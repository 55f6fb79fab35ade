//! How a batch is carried out: limits of time, retries, when it is given up.

use std::collections::BTreeSet;

use muster_coordinator::core::{event::*, explain::Reason, model::*, options::*};
use muster_proto::{AttemptId, TaskIndex};

use crate::world::*;

/// Three attempts, 10 s and then 20 s apart.
fn retries(on: &[RetryOn]) -> BatchOptions {
    BatchOptions { retry: Some(policy(3, on)), ..BatchOptions::default() }
}

fn policy(max_attempts: u32, on: &[RetryOn]) -> RetryPolicy {
    RetryPolicy {
        max_attempts,
        on: on.iter().copied().collect::<BTreeSet<_>>(),
        backoff_ms: 10_000,
        max_backoff_ms: 15_000,
    }
}

/// The attempt is accepted, runs, and ends so.
fn run(world: &mut World, session: u64, id: AttemptId, end: Box<Ended>) -> Vec<Output> {
    world.says(session, FromWorker::Accepted(id));
    world.says(session, FromWorker::Started(id, Started { pid: 42, output_path: "/out".into() }));
    world.says(session, FromWorker::Ended(id, end))
}

fn stopped(cause: StopCause, outcome: Outcome) -> Box<Ended> {
    Box::new(Ended { stop_sent: true, stop_cause: Some(cause), ..*ended(outcome) })
}

fn terms(outputs: &[Output]) -> Vec<(u32, Terms)> {
    let terms = outputs.iter().filter_map(|output| match output {
        Output::Send(_, ToWorker::Offer(id, terms)) => Some((id.task.0, *terms)),
        _ => None,
    });
    terms.collect()
}

fn status(world: &World, task: u32) -> (TaskStatus, u32) {
    let row = world.task(1, task);
    (row.status, row.attempt.0)
}

fn reasons(world: &World, task: Option<u32>) -> Vec<(Reason, u32)> {
    let found =
        world.machine.explain(batch(1), task.map(TaskIndex)).expect("there is such a task").expect("it runs");
    found.causes.iter().map(|cause| (cause.reason, cause.tasks)).collect()
}

#[test]
fn an_offer_says_what_the_worker_does_by_itself() {
    let mut world = World::new();
    world.connect(1, hello(1, 4, &[]));
    let own = own_options([(None, None), (Some(5_000), None)].into_iter());
    let options = BatchOptions {
        time_limit_ms: Some(60_000),
        cancel_grace_ms: Some(3_000),
        own,
        ..BatchOptions::default()
    };
    let plain = Terms { time_limit_ms: Some(60_000), grace_ms: 3_000, stop_after_cut_off_ms: None };
    assert_eq!(
        terms(&world.submit_with(1, 2, 2, options)),
        [(1, plain), (2, Terms { time_limit_ms: Some(5_000), ..plain })]
    );
    // Nothing asked for: no limit, 10 s.
    let nothing = Terms { time_limit_ms: None, grace_ms: 10_000, stop_after_cut_off_ms: None };
    assert_eq!(terms(&world.submit(2, 1, 1)), [(1, nothing)]);
    // A worker is lost after 100 s: half of that, then its grace, is over before.
    let stop = BatchOptions { on_disconnect: Some(OnDisconnect::Stop), ..BatchOptions::default() };
    let outputs = world.submit_with(3, 1, 1, stop.clone());
    assert_eq!(terms(&outputs), [(1, Terms { stop_after_cut_off_ms: Some(50_000), ..nothing })]);
    // However long the grace.
    world.connect(2, hello(2, 1, &[]));
    let outputs = world.submit_with(4, 1, 1, BatchOptions { cancel_grace_ms: Some(600_000), ..stop });
    let short = Terms { grace_ms: 25_000, stop_after_cut_off_ms: Some(50_000), ..nothing };
    assert_eq!(terms(&outputs), [(1, short)]);
}

#[test]
fn a_cancellation_gives_the_batchs_grace_unless_it_is_to_be_at_once() {
    let mut world = World::new();
    world.connect(1, hello(1, 2, &[]));
    world.submit_with(1, 2, 2, BatchOptions { cancel_grace_ms: Some(3_000), ..BatchOptions::default() });
    for task in [1, 2] {
        world.says(1, FromWorker::Accepted(attempt(1, task, 1)));
    }
    let outputs = world.cancel(1, &[1]);
    assert_eq!(said(&outputs), [(1, ToWorker::Stop { attempt: attempt(1, 1, 1), grace_ms: 3_000 })]);
    let now = Cancel {
        batch: batch(1),
        tasks: vec![TaskIndex(2)],
        reason: String::new(),
        immediate: true,
        request: None,
    };
    let outputs = world.send(Event::Cancel(ReplyId(9), now));
    assert_eq!(said(&outputs), [(1, ToWorker::Stop { attempt: attempt(1, 2, 1), grace_ms: 0 })]);
}

#[test]
fn what_ran_too_long_has_timed_out_and_says_the_limit() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit_with(1, 1, 1, BatchOptions { time_limit_ms: Some(90_000), ..BatchOptions::default() });
    run(&mut world, 1, attempt(1, 1, 1), stopped(StopCause::TimeLimit, Outcome::Signalled(15)));
    let row = world.task(1, 1);
    assert_eq!((row.failure, row.signal), (Some(FailureReason::TimedOut), Some(15)));
    assert!(row.failure_message.contains("90 s"), "{}", row.failure_message);
}

#[test]
fn a_covered_failure_runs_again_after_its_wait_and_no_more_often_than_asked() {
    let mut world = World::new();
    world.connect(1, hello(1, 2, &[]));
    world.submit_with(1, 1, 1, retries(&[RetryOn::Code(75)]));
    world.now_ms = 1_000;
    let outputs = run(&mut world, 1, attempt(1, 1, 1), exited(75));
    assert!(offers(&outputs).is_empty(), "not before its wait is over");
    assert_eq!(said(&outputs), [(1, ToWorker::Acknowledged(attempt(1, 1, 1)))]);
    let row = world.task(1, 1).clone();
    assert_eq!((row.status, row.attempt.0, row.not_before_ms), (TaskStatus::Queued, 1, Some(11_000)));
    assert_eq!((row.failure, row.exit_code), (Some(FailureReason::ExitCode), Some(75)));
    assert_eq!(
        row.failure_message,
        "attempt 1 of 3: the program exited with code 75; the next one starts after 10 s"
    );
    assert_eq!(world.store.attempts[&attempt(1, 1, 1)].exit_code, Some(75));
    assert_eq!(reasons(&world, None), [(Reason::RetryBackoff, 1)]);
    assert_eq!(reasons(&world, Some(1)), [(Reason::RetryBackoff, 1)]);

    assert!(offers(&world.pass(9_999)).is_empty());
    assert_eq!(offers(&world.pass(1)), [(1, attempt(1, 1, 2))]);
    run(&mut world, 1, attempt(1, 1, 2), exited(75));
    // Twice the first wait would be more than the longest.
    assert!(offers(&world.pass(14_999)).is_empty());
    assert_eq!(offers(&world.pass(1)), [(1, attempt(1, 1, 3))]);
    world.says(1, FromWorker::Accepted(attempt(1, 1, 3)));
    assert_eq!(world.task(1, 1).failure, None, "it runs");
    run(&mut world, 1, attempt(1, 1, 3), exited(75));
    assert_eq!(status(&world, 1), (TaskStatus::Failed, 3));
    assert_eq!(world.task(1, 1).not_before_ms, None);
    assert_eq!(world.state(1).status, BatchStatus::Completed);
    assert_eq!(world.store.attempts.len(), 3, "each attempt is kept");
}

#[test]
fn other_tasks_go_on_while_one_waits_for_its_retry() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit_with(1, 3, 3, retries(&[RetryOn::ExitCode]));
    let outputs = run(&mut world, 1, attempt(1, 1, 1), exited(1));
    assert_eq!(offers(&outputs), [(1, attempt(1, 2, 1))]);
    let outputs = run(&mut world, 1, attempt(1, 2, 1), exited(0));
    assert_eq!(offers(&outputs), [(1, attempt(1, 3, 1))]);
    // It comes first again as soon as a place is free.
    assert!(offers(&world.pass(10_000)).is_empty());
    let outputs = run(&mut world, 1, attempt(1, 3, 1), exited(0));
    assert_eq!(offers(&outputs), [(1, attempt(1, 1, 2))]);
    run(&mut world, 1, attempt(1, 1, 2), exited(0));
    assert_eq!(world.state(1).counts.completed, 3);
}

#[test]
fn what_is_not_named_is_not_run_again() {
    for (on, end) in [
        (RetryOn::Code(75), exited(1)),
        (RetryOn::ExitCode, ended(Outcome::Signalled(9))),
        (RetryOn::Signal, exited(1)),
        (RetryOn::WorkerCrashed, stopped(StopCause::TimeLimit, Outcome::Exited(0))),
        (RetryOn::TimedOut, stopped(StopCause::CutOff, Outcome::Exited(0))),
    ] {
        let mut world = World::new();
        world.connect(1, hello(1, 1, &[]));
        world.submit_with(1, 1, 1, retries(&[on]));
        run(&mut world, 1, attempt(1, 1, 1), end);
        assert_eq!(status(&world, 1), (TaskStatus::Failed, 1), "{on:?}");
    }
}

#[test]
fn a_tasks_own_policy_stands_in_place_of_its_batchs() {
    let mut world = World::new();
    world.connect(1, hello(1, 3, &[]));
    let (never, often) = (policy(1, &[]), policy(2, &[RetryOn::Signal]));
    let own = own_options([(None, None), (None, Some(&never)), (None, Some(&often))].into_iter());
    world.submit_with(1, 3, 3, BatchOptions { own, ..retries(&[RetryOn::ExitCode]) });
    for task in 1..=3 {
        run(&mut world, 1, attempt(1, task, 1), exited(1));
    }
    let ends: Vec<_> = (1..=3).map(|task| world.task(1, task).status).collect();
    assert_eq!(ends, [TaskStatus::Queued, TaskStatus::Failed, TaskStatus::Failed]);
    // Also after a restart, which has the batch's row alone to go by.
    world.restart();
    world.connect(2, hello(1, 3, &[]));
    assert_eq!(offers(&world.pass(10_000)), [(2, attempt(1, 1, 2))]);
}

#[test]
fn what_was_never_started_does_not_count() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit_with(
        1,
        1,
        1,
        BatchOptions { retry: Some(policy(2, &[RetryOn::ExitCode])), ..Default::default() },
    );
    world.says(1, FromWorker::Returned(attempt(1, 1, 1)));
    assert_eq!(world.task(1, 1).uncounted, 1);
    world.restart();
    world.connect(2, hello(1, 1, &[]));
    run(&mut world, 2, attempt(1, 1, 2), exited(1));
    let row = world.task(1, 1);
    assert_eq!((row.status, row.not_before_ms), (TaskStatus::Queued, Some(10_000)), "the first that counts");
    world.pass(10_000);
    run(&mut world, 2, attempt(1, 1, 3), exited(1));
    assert_eq!(status(&world, 1), (TaskStatus::Failed, 3));
}

#[test]
fn a_cancellation_ends_the_retries() {
    let mut world = World::new();
    world.connect(1, hello(1, 2, &[]));
    world.submit_with(1, 2, 2, retries(&[RetryOn::ExitCode, RetryOn::WorkerCrashed]));
    run(&mut world, 1, attempt(1, 1, 1), exited(1));
    world.says(1, FromWorker::Accepted(attempt(1, 2, 1)));
    world.cancel(1, &[]);
    assert_eq!(status(&world, 1), (TaskStatus::Cancelled, 1));
    // Its program had ended before: its own outcome, and no other attempt.
    run(&mut world, 1, attempt(1, 2, 1), exited(1));
    assert_eq!(status(&world, 2), (TaskStatus::Failed, 1));
    assert_eq!(world.state(1).status, BatchStatus::Cancelled);
    assert!(offers(&world.pass(60_000)).is_empty());
}

#[test]
fn a_restart_waits_for_the_rest_and_never_longer_than_the_longest_wait() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit_with(1, 1, 1, retries(&[RetryOn::ExitCode]));
    run(&mut world, 1, attempt(1, 1, 1), exited(1));
    world.pass(4_000);
    world.restart();
    world.connect(2, hello(1, 1, &[]));
    assert_eq!(reasons(&world, Some(1)), [(Reason::RetryBackoff, 1)]);
    assert!(offers(&world.pass(5_999)).is_empty());
    let mut later = world.store.clone();
    assert_eq!(offers(&world.pass(1)), [(2, attempt(1, 1, 2))]);

    // The wall clock was set back by a year meanwhile.
    let task = &mut later.batches.get_mut(&batch(1)).expect("it is stored").tasks[0];
    task.not_before_ms = Some(31_536_000_000);
    let mut world = World::new();
    world.store = later;
    world.restart();
    world.connect(1, hello(1, 1, &[]));
    assert!(offers(&world.pass(14_999)).is_empty());
    assert_eq!(offers(&world.pass(1)), [(1, attempt(1, 1, 2))]);
}

#[test]
fn of_a_lost_attempt_and_its_retry_the_newest_counts() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit_with(1, 1, 1, retries(&[RetryOn::WorkerCrashed]));
    let lost = attempt(1, 1, 1);
    world.says(1, FromWorker::Accepted(lost));
    world.says(1, FromWorker::Started(lost, Started { pid: 42, output_path: "/out".into() }));
    world.send(Event::Gone(SessionId(1)));
    world.connect(2, hello(2, 1, &[]));
    world.pass(100_000);
    assert_eq!(status(&world, 1), (TaskStatus::Queued, 1));
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::WorkerCrashed));
    assert_eq!(offers(&world.pass(10_000)), [(2, attempt(1, 1, 2))]);
    world.says(2, FromWorker::Accepted(attempt(1, 1, 2)));

    // The first one is back, with a result: kept as late, while the second runs on.
    let outputs = world.connect(3, hello(1, 1, &[(lost, HeldPhase::Ended)]));
    assert_eq!(said(&outputs), [(3, ToWorker::Welcome(vec![(lost, Verdict::Report)]))]);
    let outputs = world.says(3, FromWorker::Ended(lost, exited(0)));
    assert_eq!(said(&outputs), [(3, ToWorker::Acknowledged(lost))]);
    assert!(world.store.attempts[&lost].late);
    assert_eq!(status(&world, 1), (TaskStatus::Running, 2));
    run(&mut world, 2, attempt(1, 1, 2), exited(7));
    assert_eq!((world.task(1, 1).status, world.task(1, 1).exit_code), (TaskStatus::Failed, Some(7)));
}

#[test]
fn an_operators_retry_begins_to_count_anew() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit_with(
        1,
        1,
        1,
        BatchOptions { retry: Some(policy(2, &[RetryOn::ExitCode])), ..Default::default() },
    );
    run(&mut world, 1, attempt(1, 1, 1), exited(1));
    world.pass(10_000);
    run(&mut world, 1, attempt(1, 1, 2), exited(1));
    assert_eq!(status(&world, 1), (TaskStatus::Failed, 2));
    assert_eq!(offers(&world.retry(1, &[], None)), [(1, attempt(1, 1, 3))]);
    run(&mut world, 1, attempt(1, 1, 3), exited(1));
    assert_eq!(status(&world, 1), (TaskStatus::Queued, 3));
    // While it waits for its retry there is nothing to run again.
    let outputs = world.retry(1, &[1], None);
    assert!(matches!(reply(&outputs), Reply::Refused(Refused::NotRetriable(_))));
    assert_eq!(offers(&world.pass(10_000)), [(1, attempt(1, 1, 4))]);
    run(&mut world, 1, attempt(1, 1, 4), exited(1));
    assert_eq!(status(&world, 1), (TaskStatus::Failed, 4));
}

fn at_most(max_failures: u32) -> BatchOptions {
    BatchOptions { max_failures: Some(max_failures), ..retries(&[RetryOn::Signal]) }
}

/// walks: B5
#[test]
fn enough_failures_give_the_batch_up_and_what_runs_goes_on() {
    let mut world = World::new();
    world.connect(1, hello(1, 3, &[]));
    world.submit_with(1, 6, 6, at_most(1));
    for task in 1..=3 {
        world.says(1, FromWorker::Accepted(attempt(1, task, 1)));
    }
    let outputs = run(&mut world, 1, attempt(1, 1, 1), exited(1));
    assert!(offers(&outputs).is_empty(), "nothing new starts");
    let counts = Counts { running: 2, failed: 1, cancelled: 3, ..Counts::default() };
    assert_eq!((world.state(1).counts, world.state(1).status), (counts, BatchStatus::Running));
    assert!(world.task(1, 4).failure_message.contains("max_failures"));
    world.restart();
    world.connect(
        2,
        hello(1, 3, &[(attempt(1, 2, 1), HeldPhase::Running), (attempt(1, 3, 1), HeldPhase::Running)]),
    );
    // Would be run again, were the batch not given up.
    run(&mut world, 2, attempt(1, 2, 1), ended(Outcome::Signalled(9)));
    assert_eq!(status(&world, 2), (TaskStatus::Failed, 1));
    run(&mut world, 2, attempt(1, 3, 1), exited(0));
    assert_eq!(world.state(1).status, BatchStatus::Failed);
    assert_eq!(
        world.state(1).message,
        "1 task has failed and max_failures is 1: what had not started was cancelled"
    );

    // An operator goes on with it: all that was not done, and the count begins anew.
    let outputs = world.retry(1, &[], None);
    assert_eq!(offers(&outputs).len(), 3);
    assert_eq!((world.state(1).status, world.state(1).message.as_str()), (BatchStatus::Running, ""));
    for (task, no) in [(1, 2), (2, 2), (4, 1), (5, 1), (6, 1)] {
        run(&mut world, 2, attempt(1, task, no), exited(0));
    }
    assert_eq!(world.state(1).status, BatchStatus::Completed);
}

#[test]
fn only_failures_for_good_count_and_the_last_one_too() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit_with(1, 2, 2, at_most(2));
    run(&mut world, 1, attempt(1, 1, 1), ended(Outcome::Signalled(9)));
    run(&mut world, 1, attempt(1, 2, 1), exited(1));
    world.pass(10_000);
    assert_eq!(world.state(1).counts.failed, 1);
    run(&mut world, 1, attempt(1, 1, 2), exited(1));
    assert_eq!(world.state(1).status, BatchStatus::Failed);
    // Some of them again: what is left failed is known and gives nothing up.
    assert_eq!(offers(&world.retry(1, &[2], None)), [(1, attempt(1, 2, 2))]);
    run(&mut world, 1, attempt(1, 2, 2), exited(0));
    assert_eq!(world.state(1).status, BatchStatus::Completed);
}

#[test]
fn an_offer_that_comes_back_to_a_batch_that_was_given_up_is_cancelled() {
    let mut world = World::new();
    world.connect(1, hello(1, 2, &[]));
    world.submit_with(1, 2, 2, at_most(1));
    run(&mut world, 1, attempt(1, 1, 1), exited(1));
    assert_eq!(world.state(1).status, BatchStatus::Running);
    world.says(1, FromWorker::Returned(attempt(1, 2, 1)));
    assert_eq!(status(&world, 2), (TaskStatus::Cancelled, 1));
    assert_eq!(world.state(1).status, BatchStatus::Failed);
}

fn waits_at_most(ms: u64) -> BatchOptions {
    BatchOptions { queue_time_limit_ms: Some(ms), ..retries(&[RetryOn::ExitCode]) }
}

#[test]
fn what_has_not_started_in_time_fails_and_what_has_is_left_alone() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit_with(1, 3, 3, waits_at_most(30_000));
    run(&mut world, 1, attempt(1, 1, 1), exited(1));
    world.says(1, FromWorker::Accepted(attempt(1, 2, 1)));
    world.pass(29_999);
    assert_eq!(status(&world, 3), (TaskStatus::Queued, 0));
    world.pass(1);
    assert_eq!(world.task(1, 3).failure, Some(FailureReason::QueueTimedOut));
    assert!(world.task(1, 3).failure_message.contains("30 s"), "{}", world.task(1, 3).failure_message);
    assert_eq!(status(&world, 2), (TaskStatus::Running, 1));
    assert_eq!(status(&world, 1), (TaskStatus::Queued, 1), "it waits for a retry, and has started before");
    assert_eq!(world.state(1).counts.failed, 1);
}

#[test]
fn an_offer_that_comes_back_too_late_has_waited_too_long() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit_with(1, 1, 1, waits_at_most(5_000));
    world.pass(6_000);
    assert_eq!(status(&world, 1), (TaskStatus::Queued, 1), "offered");
    world.says(1, FromWorker::Returned(attempt(1, 1, 1)));
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::QueueTimedOut));
    assert_eq!(world.state(1).status, BatchStatus::Completed);
}

#[test]
fn downtime_expires_nothing_before_workers_had_time_to_come_back() {
    let mut world = World::new();
    world.submit_with(1, 1, 1, waits_at_most(200_000));
    world.submit_with(2, 1, 1, waits_at_most(1_000_000));
    world.now_ms = 500_000;
    world.restart();
    world.pass(59_999);
    assert_eq!(world.task(1, 1).status, TaskStatus::Queued, "a minute to come back");
    world.pass(1);
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::QueueTimedOut));
    world.pass(439_999);
    assert_eq!(world.task(2, 1).status, TaskStatus::Queued, "by its own time");
    world.pass(1);
    assert_eq!(world.task(2, 1).failure, Some(FailureReason::QueueTimedOut));

    // Run again: from then on, also over a restart.
    world.retry(1, &[], None);
    world.pass(100_000);
    world.restart();
    world.pass(99_999);
    assert_eq!(world.task(1, 1).status, TaskStatus::Queued);
    world.pass(1);
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::QueueTimedOut));
}

#[test]
fn a_batch_on_hold_says_so_and_its_time_begins_with_the_release() {
    let mut world = World::new();
    world.submit_with(1, 2, 2, waits_at_most(100_000));
    let held = world.store.batches.get_mut(&batch(1)).expect("it is stored");
    held.state.on_hold = true;
    held.state.message = "restored from a backup".into();
    world.restart();
    world.connect(1, hello(1, 2, &[]));
    assert!(offers(&world.pass(200_000)).is_empty());
    assert_eq!(reasons(&world, None), [(Reason::OnHold, 2)]);
    assert_eq!(reasons(&world, Some(2)), [(Reason::OnHold, 1)]);
    let release = Release { batch: batch(1), request: None };
    let outputs = world.send(Event::Release(ReplyId(5), release));
    assert_eq!(offers(&outputs).len(), 2);
    // Also over a restart.
    world.says(1, FromWorker::Returned(attempt(1, 1, 1)));
    world.restart();
    world.pass(99_999);
    assert_eq!(status(&world, 1), (TaskStatus::Queued, 1));
    world.pass(1);
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::QueueTimedOut));
}

#[test]
fn what_a_retry_has_begun_to_count_stands_whatever_comes_between_it_and_a_restart() {
    let mut world = World::new();
    world.submit_with(1, 1, 1, waits_at_most(100_000));
    world.pass(100_000);
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::QueueTimedOut));
    world.retry(1, &[], None);
    assert_eq!(world.task(1, 1).not_before_ms, None, "it may start at once");
    let outputs = world.connect(1, hello(1, 1, &[]));
    assert_eq!(offers(&outputs), [(1, attempt(1, 1, 1))]);
    world.says(1, FromWorker::Returned(attempt(1, 1, 1)));
    world.send(Event::Gone(SessionId(1)));
    world.restart();
    world.pass(99_999);
    assert_eq!(world.task(1, 1).status, TaskStatus::Queued);
    world.pass(1);
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::QueueTimedOut));
}

#[test]
fn a_restart_remembers_when_a_batch_was_released() {
    let mut world = World::new();
    world.submit_with(1, 1, 1, waits_at_most(100_000));
    let held = world.store.batches.get_mut(&batch(1)).expect("it is stored");
    held.state.on_hold = true;
    world.now_ms = 500_000;
    world.restart();
    world.send(Event::Release(ReplyId(5), Release { batch: batch(1), request: None }));
    world.pass(10_000);
    world.restart();
    world.pass(89_999);
    assert_eq!(world.task(1, 1).status, TaskStatus::Queued, "by the time of its release");
    world.pass(1);
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::QueueTimedOut));
}

#[test]
fn a_restart_remembers_since_when_a_reopened_task_waits_though_it_was_offered_and_came_back() {
    let mut world = World::new();
    world.submit_with(1, 1, 1, waits_at_most(200_000));
    world.pass(200_000);
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::QueueTimedOut));
    world.now_ms = 1_000_000;
    world.connect(1, hello(1, 1, &[]));
    assert_eq!(offers(&world.retry(1, &[], None)), [(1, attempt(1, 1, 1))]);
    world.restart();
    world.pass(70_000);
    assert_eq!(
        offers(&world.connect(2, hello(1, 1, &[]))),
        [(2, attempt(1, 1, 2))],
        "it never had the first"
    );
    world.says(2, FromWorker::Returned(attempt(1, 1, 2)));
    world.restart();
    world.pass(129_999);
    assert_eq!(world.task(1, 1).status, TaskStatus::Queued);
    world.pass(1);
    assert_eq!(world.task(1, 1).failure, Some(FailureReason::QueueTimedOut));
}

#[test]
fn a_restart_remembers_which_machines_could_not_start_a_task() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.connect(2, hello(2, 1, &[]));
    world.submit(1, 1, 1);
    let missing = || ended(Outcome::LaunchFailed { task_fault: false, message: "No such file".into() });
    let (session, other) = (2, 1);
    world.says(session, FromWorker::Accepted(attempt(1, 1, 1)));
    // Given to the other one at once, and returned unstarted.
    let outputs = world.says(session, FromWorker::Ended(attempt(1, 1, 1), missing()));
    assert_eq!(offers(&outputs), [(other, attempt(1, 1, 2))]);
    world.says(other, FromWorker::Returned(attempt(1, 1, 2)));
    assert_eq!(world.store.batches[&batch(1)].excluded.len(), 1);
    world.restart();
    assert!(offers(&world.connect(4, hello(2, 1, &[]))).is_empty(), "it has failed there");
    assert_eq!(offers(&world.connect(3, hello(1, 1, &[]))), [(3, attempt(1, 1, 3))]);
    run(&mut world, 3, attempt(1, 1, 3), exited(0));
    assert!(world.store.batches[&batch(1)].excluded.is_empty());
}
