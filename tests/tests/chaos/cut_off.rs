//! A worker that is cut off for longer than `--lost-after`, and comes back after its tasks were given up.

use muster_proto::v1::{
    BatchOptions, FailureReason, ListWorkersRequest, RetryBatchRequest, RetryPolicy, SchedulerStatus,
    SubmitBatchRequest, TaskStatus, Worker, WorkerStatus,
};
use muster_tests::{
    Cluster, ClusterOptions, Proxy, WatchLog, WorkerOptions, eventually,
    probe::{Run, flood, run_of},
    read_log, wait_for,
};
use tokio::process::Command;

use crate::{LATER, batch::list_tasks};

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

/// walks: W4
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
        // Ends while its worker is cut off, with more output than rides in a result, and is never asked for again.
        "flood 200000;touch up-3;wait gate-1;flood 200000",
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
    for (task, attempt, log) in [(1, 1, "a\nb\n"), (1, 2, "a\nb\n"), (2, 1, "a\n"), (2, 2, "a\nb\n")] {
        let stored = read_log(&cluster, id, task, attempt, LATER).await;
        assert_eq!(String::from_utf8_lossy(&stored), log, "task {task}, attempt {attempt}");
    }
    let late = read_log(&cluster, id, 3, 1, LATER).await;
    assert!(late == [flood(200_000), flood(200_000)].concat(), "the late log is whole: {} bytes", late.len());
    assert_eq!(cluster.runs().len(), 5, "what was asked for ran again, and nothing else");
    assert_eq!(worker(&cluster, "far").await.status(), WorkerStatus::Connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_batch_asks_for_it_runs_again_elsewhere_when_its_worker_is_lost() {
    let mut options = ClusterOptions::with_limits(4, 20);
    options.coordinator_args.push("--lost-after=30".into());
    let cluster = Cluster::start_with(options).await;
    let proxy = Proxy::start(cluster.address()).await;
    let through = Some(proxy.address());
    let _far = cluster.worker(WorkerOptions { through, ..WorkerOptions::new("far", 2) }).await;
    let scripts = ["say a;touch up-1;wait gate;exitif 1 5", "say a;touch up-2;wait gate;exitif 1 6"];
    let retry = RetryPolicy { max_attempts: 2, on: vec!["worker_crashed".into()], ..Default::default() };
    let request = SubmitBatchRequest {
        batch_json: serde_json::to_string(&scripts).unwrap(),
        concurrency: Some(2),
        options: Some(BatchOptions { retry: Some(retry), ..Default::default() }),
        ..Default::default()
    };
    let batch = cluster.batches().submit_batch(request).await.unwrap().into_inner().batch.unwrap();
    let id = batch.batch_id.as_str();
    for task in 1..=2 {
        wait_for(&cluster.probe_dir().join(format!("up-{task}"))).await;
    }
    let mut watch = WatchLog::new(id);
    watch.follow(&cluster, LATER, |watch| watch.tasks.values().all(|task| task.pid != 0)).await;
    proxy.cut();
    let _near = cluster.worker(WorkerOptions::new("near", 2)).await;
    for task in 1..=2 {
        eventually("it runs again", LATER, || async { run(&cluster, id, task, 2) }).await;
    }
    // Both attempts of both tasks end at once; what counts is the one that was started because it was asked for.
    cluster.open_gate("gate");
    let end = watch.follow_to_end(&cluster, LATER).await;
    assert_eq!(end.counts.unwrap().completed, 2, "{:#?}", watch.tasks);
    proxy.restore();
    let tasks = eventually("both late results are known", LATER, || async {
        let tasks = list_tasks(cluster.batches(), id).await;
        tasks.iter().all(|task| task.late_results.len() == 1).then_some(tasks)
    })
    .await;
    for (task, code) in tasks.iter().zip([5, 6]) {
        assert_eq!(
            (task.status(), task.attempt, task.worker_id.as_str()),
            (TaskStatus::Completed, 2, "near")
        );
        assert_eq!(
            (task.late_results[0].attempt, task.late_results[0].exit_code),
            (1, Some(code)),
            "{task:?}"
        );
    }
    assert_eq!(cluster.runs().len(), 4, "what was asked for ran again, once, and nothing else");
}
