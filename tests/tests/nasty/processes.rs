//! Processes that would outlive their task, and how tasks end.

use muster_proto::v1::{FailureReason, TaskStatus};
use muster_tests::nasty;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    bed::{Bed, PATIENCE},
    both_ways,
};

/// How many children a bomb has.
const BOMB: usize = 200;

both_ways! {
    a_daemon_that_holds_the_output_open_delays_nothing_and_is_ended
    an_orphan_without_a_mark_is_ended_when_nothing_else_runs
    a_grandchild_that_holds_the_output_open_delays_nothing_and_is_ended
    who_does_not_hear_term_is_killed_after_the_grace
    a_tree_that_forks_anew_at_term_is_ended_whole
    a_killed_runner_leaves_nothing_of_a_whole_tree
    exit_codes_and_signals_are_told_apart
    no_file_stays_open_and_nothing_else_either
}

async fn a_daemon_that_holds_the_output_open_delays_nothing_and_is_ended(bed: Bed) {
    let end = bed.run("daemon").await;
    assert_eq!((end.task.status(), end.task.exit_code), (TaskStatus::Completed, Some(0)));
    assert_eq!(end.log, b"left\n");
    assert_eq!(nasty::recorded(&bed.cluster.probe_dir()).len(), 3, "all three were there");
}

async fn an_orphan_without_a_mark_is_ended_when_nothing_else_runs(bed: Bed) {
    let end = bed.run("orphan").await;
    assert_eq!((end.task.status(), end.log.as_slice()), (TaskStatus::Completed, &b"left\n"[..]));
}

async fn a_grandchild_that_holds_the_output_open_delays_nothing_and_is_ended(bed: Bed) {
    let end = bed.run("held 5").await;
    assert_eq!((end.task.status(), end.task.exit_code), (TaskStatus::Failed, Some(5)));
    assert_eq!(end.log, b"left\n");
}

async fn who_does_not_hear_term_is_killed_after_the_grace(bed: Bed) {
    let batch = bed.start("deaf", "deaf").await;
    let end = bed.cancel(&batch).await;
    assert_eq!((end.task.status(), end.task.signal, end.task.exit_code), (TaskStatus::Cancelled, 9, None));
    assert!(end.task.end_confirmed);
}

async fn a_tree_that_forks_anew_at_term_is_ended_whole(bed: Bed) {
    let batch = bed.start(&format!("bomb {BOMB}"), "armed").await;
    let end = bed.cancel(&batch).await;
    assert_eq!((end.task.status(), end.task.signal), (TaskStatus::Cancelled, 9));
    let processes = nasty::recorded(&bed.cluster.probe_dir()).len();
    assert!(processes > 1 + BOMB, "they did fork anew at TERM: {processes}");
}

async fn a_killed_runner_leaves_nothing_of_a_whole_tree(bed: Bed) {
    let batch = bed.start(&format!("bomb {BOMB}"), "armed").await;
    let runner = bed.runner();
    kill(Pid::from_raw(runner), Signal::SIGKILL).unwrap();
    let end = bed.end(&batch).await;
    assert_eq!(end.task.status(), TaskStatus::Failed);
    assert_eq!(end.task.failure_reason(), FailureReason::WorkerCrashed);
    assert_eq!(end.log, b"armed\n", "what it printed is still there");
    assert_ne!(bed.runner(), runner);
}

async fn exit_codes_and_signals_are_told_apart(bed: Bed) {
    for (script, code) in [
        ("no-such-command-here", 127),
        ("/dev/null", 126),
        ("exit 255", 255),
        ("sh -c 'kill -9 $$'; exit $?", 137),
    ] {
        let task = bed.run(&format!("sh {script}")).await.task;
        assert_eq!((task.status(), task.failure_reason()), (TaskStatus::Failed, FailureReason::ExitCode));
        assert_eq!((task.exit_code, task.signal), (Some(code), 0), "{script}");
    }
    for signal in [9, 15, 11, 40] {
        let task = bed.run(&format!("sh kill -{signal} $$; sleep 300")).await.task;
        assert_eq!((task.status(), task.failure_reason()), (TaskStatus::Failed, FailureReason::Signal));
        assert_eq!((task.exit_code, task.signal), (None, signal));
    }
}

async fn no_file_stays_open_and_nothing_else_either(bed: Bed) {
    let round = async || {
        for prompt in ["daemon", "held 0", "chatter 0", "sh exit 3", "sh exec /no/such"] {
            bed.run(prompt).await;
        }
        // The last spool is deleted when its result has been acknowledged.
        let spool = bed.cluster.work_dir("solo").join("spool");
        muster_tests::eventually("every result is acknowledged", PATIENCE, || async {
            (std::fs::read_dir(&spool).unwrap().count() == 0).then_some(())
        })
        .await;
    };
    round().await;
    let (runner, half) = (bed.runner(), bed.worker.pid());
    let before = (nasty::open_files(runner), nasty::open_files(half));
    for _ in 0..3 {
        round().await;
    }
    muster_tests::eventually("no more files are open than before", PATIENCE, || async {
        let after = (nasty::open_files(runner), nasty::open_files(half));
        (after.0 <= before.0 && after.1 <= before.1).then_some(())
    })
    .await;
    let children = std::fs::read_to_string(format!("/proc/{runner}/task/{runner}/children")).unwrap();
    assert_eq!(children, "", "no child is left, not even one that waits to be reaped");
}
