//! Processes that are killed together, and processes that are only stopped: they hear and say nothing, and then go on
//! as if no time had passed.

use std::time::Duration;

use muster_proto::v1::{FailureReason, TaskStatus, WorkerStatus};
use muster_tests::{
    Cluster, ClusterOptions, WatchLog, WorkerOptions, eventually, nasty::runner_of, probe::run_of, wait_for,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{LATER, SOON, cut_off::worker};

/// The shortest `--lost-after` that there is.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// How long the coordinator is stopped: longer than that, so that whoever counted the time would give workers up.
const STOPPED: Duration = Duration::from_secs(34);

fn options() -> ClusterOptions {
    let mut options = ClusterOptions::with_limits(4, 20);
    options.coordinator_args.push(format!("--lost-after={}", LOST_AFTER.as_secs()));
    options
}

async fn both_run(cluster: &Cluster, watch: &mut WatchLog) {
    for task in 1..=2 {
        wait_for(&cluster.probe_dir().join(format!("up-{task}"))).await;
    }
    watch.follow(cluster, SOON, |watch| watch.tasks.values().filter(|task| task.pid != 0).count() == 2).await;
}

const SCRIPTS: [&str; 3] =
    ["say a;touch up-1;wait gate;say b", "say a;touch up-2;wait gate;say b;exit 4", "say third"];

/// The first two ended as their programs did, in their first attempts, and everything was started once.
fn assert_as_if_nothing_had_been(cluster: &Cluster, watch: &WatchLog) {
    for (task, code) in watch.tasks.values().zip([0, 4, 0]) {
        assert_eq!((task.exit_code, task.attempt), (Some(code), 1), "{task:?}");
        assert!(task.late_results.is_empty(), "{task:?}");
    }
    assert_eq!(cluster.runs().len(), 3, "started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_halves_killed_end_the_tasks_and_nothing_else() {
    let cluster = Cluster::start_with(options()).await;
    let both = cluster.worker(WorkerOptions::new("both", 2)).await;
    let scripts = ["say a;touch up-1;wait never", "say a;touch up-2;wait never", "say third"];
    let batch = cluster.submit(&scripts, 2).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    both_run(&cluster, &mut watch).await;
    let runner = runner_of(&cluster.work_dir("both"));
    let running: Vec<i32> = cluster.runs().iter().map(|run| run.pid).collect();
    let options = both.kill().await;
    kill(Pid::from_raw(runner), Signal::SIGKILL).expect("the runner is ours");
    let _both = cluster.worker(options).await;
    watch.follow_to_end(&cluster, LATER).await;
    for index in 1..=2 {
        let task = &watch.tasks[&index];
        assert_eq!(task.failure_reason(), FailureReason::WorkerCrashed, "{task:?}");
    }
    assert_eq!(watch.tasks[&3].status(), TaskStatus::Completed, "the worker goes on: {:?}", watch.tasks[&3]);
    eventually("the programs without a runner are ended", SOON, || async {
        running.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}/exe")).exists()).then_some(())
    })
    .await;
    assert_eq!(cluster.runs().len(), 3, "nothing runs again unasked");
}

/// walks: W3
#[tokio::test(flavor = "multi_thread")]
async fn a_network_half_that_is_stopped_is_disconnected_and_goes_on() {
    let cluster = Cluster::start_with(options()).await;
    let half = cluster.worker(WorkerOptions::new("half", 2)).await;
    let batch = cluster.submit(&SCRIPTS, 2).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    both_run(&cluster, &mut watch).await;
    half.signal(Signal::SIGSTOP);
    cluster.open_gate("gate");
    for task in 1..=2 {
        let dir = cluster.probe_dir();
        eventually("its program ends", SOON, || async { run_of(&dir, &batch.batch_id, task, 1)?.end_ns })
            .await;
    }
    eventually("the coordinator gives the session up", LATER, || async {
        (worker(&cluster, "half").await.status() == WorkerStatus::Disconnected).then_some(())
    })
    .await;
    half.signal(Signal::SIGCONT);
    watch.follow_to_end(&cluster, LATER).await;
    assert_as_if_nothing_had_been(&cluster, &watch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_stopped_gives_nobody_up() {
    let cluster = Cluster::start_with(options()).await;
    let _here = cluster.worker(WorkerOptions::new("here", 1)).await;
    let away = cluster.worker(WorkerOptions::new("away", 1)).await;
    let batch = cluster.submit(&SCRIPTS, 2).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    both_run(&cluster, &mut watch).await;
    // One is connected when the standstill begins, and of the other it is known that it is away.
    let options = away.kill().await;
    eventually("it is known to be away", SOON, || async {
        (worker(&cluster, "away").await.status() == WorkerStatus::Disconnected).then_some(())
    })
    .await;
    cluster.signal_coordinator(Signal::SIGSTOP);
    // The passing of this time is what is tested: nothing can be waited for.
    tokio::time::sleep(STOPPED).await;
    cluster.signal_coordinator(Signal::SIGCONT);
    for _ in 0..2 {
        assert_eq!(worker(&cluster, "away").await.status(), WorkerStatus::Disconnected, "not given up");
    }
    let _away = cluster.worker(options).await;
    cluster.open_gate("gate");
    watch.follow_to_end(&cluster, LATER).await;
    assert_as_if_nothing_had_been(&cluster, &watch);
    for name in ["here", "away"] {
        eventually("it is back", LATER, || async {
            (worker(&cluster, name).await.status() == WorkerStatus::Connected).then_some(())
        })
        .await;
    }
}
