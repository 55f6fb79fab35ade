//! A worker that is cut off for longer than `--lost-after`, and comes back after its tasks were given up.

use muster_proto::v1::{
    FailureReason, ListWorkersRequest, RetryBatchRequest, SchedulerStatus, TaskStatus, Worker, WorkerStatus,
};
use muster_tests::{
    Cluster, ClusterOptions, Proxy, WatchLog, WorkerOptions, eventually,
    probe::{Run, run_of},
    read_log, wait_for,
};
use tokio::process::Command;

use crate::LATER;

/// The worker of this name, as `muster workers` would list it.
pub(crate) async fn worker(cluster: &Cluster, name: &str) -> Worker {
    let list = cluster.fleet().list_workers(ListWorkersRequest {}).await.unwrap().into_inner();
    list.workers.into_iter().find(|worker| worker.worker_id == name).expect("the worker is listed")
}

/// What `muster` prints.
pub(crate) async fn muster(cluster: &Cluster, args: &[&str]) -> String {
    let mut command: Command = cluster.command("muster", "muster");
    command.env("MUSTER_COORDINATOR", format!("http://{}", cluster.address()));
    let output = command.args(args).output().await.expect("the command starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(cluster: &Cluster, batch_id: &str, task: i32, attempt: i32) -> Option<Run> {
    run_of(&cluster.probe_dir(), batch_id, task, attempt)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_cut_off_for_too_long_is_given_up_and_its_late_results_change_nothing() {
    let mut options = ClusterOptions::with_limits(4, 20);
    options.coordinator_args.push("--lost-after=30".into());
    let cluster = Cluster::start_with(options).await;
    let proxy = Proxy::start(cluster.address()).await;
    let through = Some(proxy.address());
    let _far = cluster.worker(WorkerOptions { through, ..WorkerOptions::new("far", 3) }).await;
    let scripts = [
        // Ends while its worker is cut off.
        "say a;touch up-1;wait gate-1;say b;exitif 1 5",
        // Still runs when its worker comes back, and so does its second attempt elsewhere.
        "say a;touch up-2;wait gate-2;say b",
        // Ends while its worker is cut off, and is never asked for again.
        "say a;touch up-3;wait gate-1;say b",
    ];
    let batch = cluster.submit(&scripts, 3).await;
    let id = batch.batch_id.as_str();
    let mut watch = WatchLog::new(id);
    for task in 1..=3 {
        wait_for(&cluster.probe_dir().join(format!("up-{task}"))).await;
    }
    watch.follow(&cluster, LATER, |watch| watch.tasks.values().all(|task| task.pid != 0)).await;
    proxy.cut();
    cluster.open_gate("gate-1");
    for task in [1, 3] {
        eventually("its program ends", LATER, || async { run(&cluster, id, task, 1)?.end_ns }).await;
    }
    let end = watch.follow_to_end(&cluster, LATER).await;
    assert_eq!(end.scheduler_status(), SchedulerStatus::Completed);
    for task in watch.tasks.values() {
        assert_eq!(task.failure_reason(), FailureReason::WorkerCrashed, "{task:?}");
        assert!(task.failure_message.contains("away for 30 s"), "{task:?}");
    }
    assert_eq!(worker(&cluster, "far").await.status(), WorkerStatus::Lost);
    assert_eq!(cluster.runs().len(), 3, "nothing runs again unasked");

    let _near = cluster.worker(WorkerOptions::new("near", 3)).await;
    let request = RetryBatchRequest { batch_id: id.into(), task_indexes: vec![1, 2], ..Default::default() };
    cluster.batches().retry_batch(request).await.expect("they have failed");
    let mut watch = WatchLog::new(id);
    let first_again = |watch: &WatchLog| watch.tasks.get(&1).is_some_and(|task| task.exit_code == Some(0));
    watch.follow(&cluster, LATER, first_again).await;
    eventually("the second runs again", LATER, || async { run(&cluster, id, 2, 2) }).await;
    proxy.restore();
    let all_late = |watch: &WatchLog| watch.tasks.values().all(|task| task.late_results.len() == 1);
    watch.follow(&cluster, LATER, all_late).await;
    // Its first attempt was told to stop; the second one is what counts, and runs on.
    assert_eq!(watch.tasks[&2].status(), TaskStatus::Running, "{:?}", watch.tasks[&2]);
    cluster.open_gate("gate-2");
    watch.follow_to_end(&cluster, LATER).await;
    let expected = [
        (TaskStatus::Completed, 2, "near", Some(0), (Some(5), 0)),
        (TaskStatus::Completed, 2, "near", Some(0), (None, 15)),
        (TaskStatus::Failed, 1, "far", None, (Some(0), 0)),
    ];
    for (task, (status, attempt, worker, code, late)) in watch.tasks.values().zip(expected) {
        assert_eq!(
            (task.status(), task.attempt, task.worker_id.as_str()),
            (status, attempt, worker),
            "{task:?}"
        );
        assert_eq!(task.exit_code, code, "{task:?}");
        let known = &task.late_results[0];
        assert_eq!((known.attempt, known.exit_code, known.signal), (1, late.0, late.1), "{task:?}");
    }
    let shown = muster(&cluster, &["status", id, "1"]).await;
    assert!(shown.contains("late result") && shown.contains("attempt 1: exit code 5"), "{shown}");
    let shown = muster(&cluster, &["status", id, "3"]).await;
    assert!(shown.contains("its worker was lost") && shown.contains("attempt 1: exit code 0"), "{shown}");
    for (task, attempt, log) in
        [(1, 1, "a\nb\n"), (1, 2, "a\nb\n"), (2, 1, "a\n"), (2, 2, "a\nb\n"), (3, 1, "a\nb\n")]
    {
        let stored = read_log(&cluster, id, task, attempt, LATER).await;
        assert_eq!(String::from_utf8_lossy(&stored), log, "task {task}, attempt {attempt}");
    }
    assert_eq!(cluster.runs().len(), 5, "what was asked for ran again, and nothing else");
    assert_eq!(worker(&cluster, "far").await.status(), WorkerStatus::Connected);
}
