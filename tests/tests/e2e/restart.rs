//! Kills and cuts in mid-batch: nothing is lost, nothing runs twice, watches and logs go on where they were.

use muster_proto::v1::{FailureReason, SchedulerStatus, TaskStatus};
use muster_tests::{
    Cluster, ClusterOptions, Proxy, WatchLog, WorkerOptions, eventually,
    probe::{flood, stamp_stem},
    processes_of, read_log, wait_for,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{LATER, SOON};

const TASKS: usize = 8;
/// Printed before a gate, and again after it.
const HALF: usize = 300_000;

/// Prints half of its log, says that it is there, waits for the gate, prints the rest.
fn gated(task: usize) -> String {
    format!("flood {HALF};touch half-{task};wait go;flood {HALF};say task {task}")
}

fn gated_log(task: usize) -> Vec<u8> {
    [flood(HALF), flood(HALF), format!("task {task}\n").into_bytes()].concat()
}

async fn assert_gated_logs(cluster: &Cluster, batch_id: &str, tasks: usize) {
    for task in 1..=tasks {
        let log = read_log(cluster, batch_id, task as i32, 0, LATER).await;
        assert!(log == gated_log(task), "the log of task {task} is whole: {} bytes", log.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_coordinator_goes_on_where_it_was() {
    let mut cluster = Cluster::start_with(ClusterOptions::with_limits(4, 20)).await;
    let _workers = cluster.workers(2, 2).await;
    let scripts: Vec<String> =
        (1..=TASKS).map(|task| if task <= 2 { format!("say task {task}") } else { gated(task) }).collect();
    let batch = cluster.submit(&scripts, 4).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    // In mid-batch: two have ended, four run and have printed, two wait.
    let at_half = |watch: &WatchLog| {
        let counts = watch.batch.as_ref().and_then(|batch| batch.counts).unwrap_or_default();
        counts.completed == 2 && counts.running == 4
    };
    watch.follow(&cluster, SOON, at_half).await;
    for task in 3..=6 {
        wait_for(&cluster.probe_dir().join(format!("half-{task}"))).await;
    }
    let before = watch.revision;

    cluster.kill_coordinator().await;
    cluster.open_gate("go");
    // Those that run end while nobody is there to tell.
    for task in 3..=6 {
        let stem = stamp_stem(&batch.batch_id, task, 1);
        wait_for(&cluster.probe_dir().join(stem).with_extension("end")).await;
    }
    assert_eq!(cluster.runs().len(), 6, "nothing is handed out without a coordinator");
    cluster.start_coordinator().await;

    let end = watch.follow_to_end(&cluster, LATER).await;
    assert!(watch.streams >= 2 && watch.revision > before, "the watch went on from its revision");
    assert_eq!(end.scheduler_status(), SchedulerStatus::Completed);
    assert_eq!(end.counts.unwrap().completed, TASKS as i32);
    assert_eq!(cluster.runs().len(), TASKS, "nothing lost, nothing run twice");
    for task in 1..=2 {
        let log = read_log(&cluster, &batch.batch_id, task, 0, SOON).await;
        assert_eq!(log, format!("task {task}\n").into_bytes());
    }
    for task in 3..=TASKS {
        let log = read_log(&cluster, &batch.batch_id, task as i32, 0, LATER).await;
        assert!(log == gated_log(task), "the log of task {task} is whole: {} bytes", log.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_again_and_again_loses_nothing() {
    let mut cluster = Cluster::start_with(ClusterOptions::with_limits(4, 40)).await;
    let _workers = cluster.workers(2, 2).await;
    let scripts: Vec<String> =
        (1..=20).map(|task| format!("print {};sleep 60;say {task}", task * 997)).collect();
    let batch = cluster.submit(&scripts, 4).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    for kills in 1..=4 {
        let enough = |watch: &WatchLog| {
            watch.batch.as_ref().and_then(|batch| batch.counts).unwrap_or_default().completed >= 3 * kills
        };
        watch.follow(&cluster, LATER, enough).await;
        cluster.kill_coordinator().await;
        cluster.start_coordinator().await;
    }
    let end = watch.follow_to_end(&cluster, LATER).await;
    assert_eq!(end.counts.unwrap().completed, 20);
    assert_eq!(cluster.runs().len(), 20, "nothing lost, nothing run twice");
    for task in 1..=20_usize {
        let log = read_log(&cluster, &batch.batch_id, task as i32, 0, SOON).await;
        assert!(log == [flood(task * 997), format!("{task}\n").into_bytes()].concat(), "log {task} is whole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_coordinator_ends_cleanly_and_goes_on_later() {
    let mut cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 2)).await;
    let batch = cluster.submit(&[gated(1), gated(2), gated(3)], 2).await;
    for task in 1..=2 {
        wait_for(&cluster.probe_dir().join(format!("half-{task}"))).await;
    }
    let status = cluster.stop_coordinator().await;
    assert!(status.success(), "{status:?}");
    cluster.start_coordinator().await;
    cluster.open_gate("go");
    let end = WatchLog::new(&batch.batch_id).follow_to_end(&cluster, LATER).await;
    assert_eq!(end.counts.unwrap().completed, 3);
    assert_eq!(cluster.runs().len(), 3);
    assert_gated_logs(&cluster, &batch.batch_id, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_is_taken_up_again_in_mid_task() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(cluster.address()).await;
    let options = WorkerOptions { through: Some(proxy.address()), ..WorkerOptions::new("far", 2) };
    let _worker = cluster.worker(options).await;
    let batch = cluster.submit(&[gated(1), gated(2), gated(3)], 2).await;
    for task in 1..=2 {
        wait_for(&cluster.probe_dir().join(format!("half-{task}"))).await;
    }
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow(&cluster, SOON, |watch| watch.tasks.values().any(|task| task.pid != 0)).await;
    proxy.cut();
    cluster.open_gate("go");
    // Both end while the connection is down.
    for task in 1..=2 {
        let stem = stamp_stem(&batch.batch_id, task, 1);
        wait_for(&cluster.probe_dir().join(stem).with_extension("end")).await;
    }
    let passed = proxy.passed();
    proxy.restore();
    let end = watch.follow_to_end(&cluster, LATER).await;
    assert!(proxy.passed() > passed, "the worker dialled again");
    assert_eq!(end.counts.unwrap().completed, 3);
    assert_eq!(cluster.runs().len(), 3, "nothing lost, nothing run twice");
    assert_gated_logs(&cluster, &batch.batch_id, 3).await;
}

/// walks: R4
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_network_half_leaves_its_tasks_running() {
    let cluster = Cluster::start().await;
    let worker = cluster.worker(WorkerOptions::new("half", 2)).await;
    let batch = cluster.submit(&[gated(1), gated(2), gated(3)], 2).await;
    for task in 1..=2 {
        wait_for(&cluster.probe_dir().join(format!("half-{task}"))).await;
    }
    let options = worker.kill().await;
    let running = cluster.runs();
    assert!(running.iter().all(|run| std::path::Path::new(&format!("/proc/{}", run.pid)).exists()));
    let _worker = cluster.worker(options).await;
    cluster.open_gate("go");
    let mut watch = WatchLog::new(&batch.batch_id);
    let end = watch.follow_to_end(&cluster, LATER).await;
    assert_eq!(end.counts.unwrap().completed, 3, "{:#?}", watch.tasks);
    assert!(watch.tasks.values().all(|task| task.status() == TaskStatus::Completed && task.attempt == 1));
    assert_eq!(cluster.runs().len(), 3, "nothing lost, nothing run twice");
    assert_gated_logs(&cluster, &batch.batch_id, 3).await;
}

/// walks: R6
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_runner_ends_its_tasks_as_crashed_and_is_replaced() {
    let cluster = Cluster::start().await;
    let worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let batch = cluster.submit(&["say begun;touch up;wait never", "say second"], 1).await;
    wait_for(&cluster.probe_dir().join("up")).await;
    let own = std::fs::canonicalize(muster_tests::bin("muster-worker")).unwrap();
    let is_worker = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == own);
    let runners: Vec<i32> = processes_of(&cluster.work_dir("solo"))
        .into_iter()
        .filter(|&pid| is_worker(&pid) && pid != worker.pid())
        .collect();
    assert_eq!(runners.len(), 1, "one runner a worker: {runners:?}");
    kill(Pid::from_raw(runners[0]), Signal::SIGKILL).unwrap();
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow_to_end(&cluster, SOON).await;
    let crashed = &watch.tasks[&1];
    assert_eq!(
        (crashed.status(), crashed.failure_reason()),
        (TaskStatus::Failed, FailureReason::WorkerCrashed)
    );
    assert_eq!(watch.tasks[&2].status(), TaskStatus::Completed, "the worker goes on: {:?}", watch.tasks[&2]);
    let orphan = format!("/proc/{}", cluster.runs()[0].pid);
    eventually("the crashed task's program is ended", SOON, || async {
        (!std::path::Path::new(&orphan).exists()).then_some(())
    })
    .await;
    assert_eq!(cluster.runs().len(), 2, "nothing runs again unasked");
}
