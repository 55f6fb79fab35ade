//! The states of a batch and of a worker: the rows of the tables in `docs/lifecycle.md`, one test each. That a batch
//! is given up is in `carried.rs`.

use muster_coordinator::core::{event::*, model::*};

use crate::world::*;

fn runs(world: &mut World, task: u32) {
    world.says(1, FromWorker::Accepted(attempt(1, task, 1)));
    world.says(1, FromWorker::Started(attempt(1, task, 1), Started { pid: 7, output_path: "/o".into() }));
}

fn ends(world: &mut World, task: u32, end: Box<Ended>) {
    world.says(1, FromWorker::Ended(attempt(1, task, 1), end));
}

fn worker_is(world: &mut World, status: WorkerStatus) {
    let outputs = world.send(Event::Workers(ReplyId(9)));
    let Reply::Workers(views) = reply(&outputs) else { panic!("no workers: {outputs:?}") };
    assert_eq!(views.iter().map(|view| view.status).collect::<Vec<_>>(), [status]);
}

/// walks: B1
#[test]
fn a_batch_is_queued_until_a_task_has_started() {
    let mut world = World::new();
    world.submit(1, 3, 3);
    assert_eq!(world.state(1).status, BatchStatus::Queued);
    let outputs = world.connect(1, hello(1, 1, &[]));
    assert_eq!(offers(&outputs), [(1, attempt(1, 1, 1))]);
    assert_eq!(world.state(1).status, BatchStatus::Queued, "an offer is no start");
    world.cancel(1, &[2]);
    assert_eq!(world.state(1).status, BatchStatus::Queued, "nor is the end of another one");
    assert_eq!((world.state(1).start_ms, world.state(1).end_ms), (None, None));
    world.says(1, FromWorker::Accepted(attempt(1, 1, 1)));
    assert_eq!(world.state(1).status, BatchStatus::Running);
}

/// walks: B2
#[test]
fn a_batch_runs_from_the_first_start_to_the_last_end() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 2, 2);
    for task in [1, 2] {
        runs(&mut world, task);
        assert_eq!((world.state(1).status, world.state(1).end_ms), (BatchStatus::Running, None));
        ends(&mut world, task, exited(0));
        let is = if task == 1 { BatchStatus::Running } else { BatchStatus::Completed };
        assert_eq!(world.state(1).status, is, "after task {task}");
    }
}

/// walks: B3
#[test]
fn a_batch_is_completed_when_every_task_has_ended_whatever_its_outcome() {
    let mut world = World::new();
    world.connect(1, hello(1, 3, &[]));
    world.submit(1, 4, 3);
    for task in 1..=3 {
        runs(&mut world, task);
    }
    world.cancel(1, &[4]);
    ends(&mut world, 1, exited(0));
    ends(&mut world, 2, exited(1));
    assert_eq!(world.state(1).status, BatchStatus::Running);
    world.now_ms = 70;
    ends(&mut world, 3, ended(Outcome::Crashed("its runner died".into())));
    let counts = Counts { completed: 1, failed: 2, cancelled: 1, ..Counts::default() };
    let state = world.state(1);
    assert_eq!((state.status, state.counts), (BatchStatus::Completed, counts));
    assert!(state.end_ms.is_some());
    // All of them failed, too.
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    world.submit(1, 1, 1);
    runs(&mut world, 1);
    ends(&mut world, 1, exited(1));
    assert_eq!(world.state(1).status, BatchStatus::Completed);
}

/// walks: B4
#[test]
fn a_cancelled_batch_is_so_when_every_task_has_ended() {
    let mut world = World::new();
    world.submit(1, 2, 2);
    world.cancel(1, &[]);
    assert_eq!(world.state(1).status, BatchStatus::Cancelled, "nothing had started");

    let killed = || Box::new(Ended { stop_sent: true, ..*ended(Outcome::Signalled(15)) });
    // What ended before changes nothing about it; where nothing was left to cancel, nothing was cancelled.
    for (last, is) in [(killed(), BatchStatus::Cancelled), (exited(0), BatchStatus::Completed)] {
        let mut world = World::new();
        world.connect(1, hello(1, 2, &[]));
        world.submit(1, 2, 2);
        runs(&mut world, 1);
        runs(&mut world, 2);
        ends(&mut world, 1, exited(0));
        world.cancel(1, &[]);
        assert_eq!((world.state(1).status, world.state(1).end_ms), (BatchStatus::Running, None));
        ends(&mut world, 2, last);
        assert_eq!(world.state(1).status, is);
    }
    // One task after the other is not the batch.
    let mut world = World::new();
    world.submit(1, 2, 2);
    world.cancel(1, &[1, 2]);
    assert_eq!(world.state(1).status, BatchStatus::Completed);
}

/// walks: W1
#[test]
fn a_worker_whose_stream_is_up_is_connected_and_gets_tasks() {
    let mut world = World::new();
    world.connect(1, hello(1, 1, &[]));
    worker_is(&mut world, WorkerStatus::Connected);
    assert_eq!(offers(&world.submit(1, 1, 1)), [(1, attempt(1, 1, 1))]);
    worker_is(&mut world, WorkerStatus::Connected);
    world.send(Event::Gone(SessionId(1)));
    worker_is(&mut world, WorkerStatus::Disconnected);
    world.connect(2, hello(1, 1, &[]));
    worker_is(&mut world, WorkerStatus::Connected);
}

/// walks: W2
#[test]
fn a_worker_that_drains_keeps_its_stream_and_gets_nothing_new() {
    for asked_for in [true, false] {
        let mut world = World::new();
        world.connect(1, hello(1, 2, &[]));
        world.submit(1, 1, 1);
        runs(&mut world, 1);
        let outputs = if asked_for {
            world.send(Event::Steer(ReplyId(1), "w1".into(), Steer::Drain))
        } else {
            world.says(1, FromWorker::Draining)
        };
        assert_eq!(closed(&outputs), Vec::<u64>::new());
        worker_is(&mut world, WorkerStatus::Draining);
        assert_eq!(offers(&world.submit(2, 1, 1)), []);
        ends(&mut world, 1, exited(0));
        assert_eq!(world.task(1, 1).status, TaskStatus::Completed, "what it runs goes on");
        assert_eq!(offers(&world.pass(50_000)), []);
        worker_is(&mut world, WorkerStatus::Draining);
    }
}

/// walks: W3, walks: W4
#[test]
fn a_worker_whose_stream_is_down_keeps_what_it_runs_until_it_is_lost() {
    for comes_back in [true, false] {
        let mut world = World::new();
        world.connect(1, hello(1, 1, &[]));
        world.submit(1, 1, 1);
        runs(&mut world, 1);
        world.send(Event::Gone(SessionId(1)));
        world.pass(99_999);
        worker_is(&mut world, WorkerStatus::Disconnected);
        assert_eq!(world.task(1, 1).status, TaskStatus::Running);
        if comes_back {
            let id = attempt(1, 1, 1);
            let outputs = world.connect(2, hello(1, 1, &[(id, HeldPhase::Running)]));
            assert_eq!(said(&outputs), [(2, ToWorker::Welcome(vec![(id, Verdict::GoOn)]))]);
            world.pass(100_000);
            assert_eq!(world.task(1, 1).status, TaskStatus::Running);
        } else {
            world.pass(1);
            worker_is(&mut world, WorkerStatus::Lost);
            assert_eq!(world.task(1, 1).failure, Some(FailureReason::WorkerCrashed));
        }
    }
}

/// walks: W5
#[test]
fn a_worker_is_set_aside_after_three_failed_starts_in_a_row_until_it_is_resumed() {
    let missing = || ended(Outcome::LaunchFailed { task_fault: false, message: "No such file".into() });
    let mut world = World::new();
    world.connect(1, hello(1, 6, &[]));
    world.submit(1, 6, 6);
    for task in 1..=6 {
        worker_is(&mut world, WorkerStatus::Connected);
        if task == 3 {
            // It can start programs: two and three are not five in a row.
            runs(&mut world, task);
            ends(&mut world, task, exited(0));
        } else {
            world.says(1, FromWorker::Accepted(attempt(1, task, 1)));
            ends(&mut world, task, missing());
        }
    }
    worker_is(&mut world, WorkerStatus::SetAside);
    assert_eq!(offers(&world.submit(2, 1, 1)), []);
    let outputs = world.send(Event::Steer(ReplyId(1), "w1".into(), Steer::Resume));
    assert_eq!(offers(&outputs), [(1, attempt(2, 1, 1))]);
    worker_is(&mut world, WorkerStatus::Connected);
}
