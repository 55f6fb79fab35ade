//! Kills and cuts of everything but the runners, again and again, while batches run: nothing is lost, nothing
//! runs twice, every log is whole. The choices come from a fixed seed; what they meet does not.

use std::time::Duration;

use muster_proto::v1::SchedulerStatus;
use muster_tests::{
    Cluster, ClusterOptions, Proxy, WatchLog, WorkerOptions, WorkerProcess, probe::flood, read_log,
};

use crate::LATER;

const TASKS: usize = 40;
const BLOWS: u32 = 12;

fn script(task: usize) -> String {
    format!("flood {};sleep {};say end of {task};exit {}", task * 3_001, 20 + task * 7 % 90, task % 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn blow_after_blow_loses_nothing_and_runs_nothing_twice() {
    let mut cluster = Cluster::start_with(ClusterOptions::with_limits(6, 50)).await;
    let proxy = Proxy::start(cluster.address()).await;
    let mut workers: Vec<WorkerProcess> = Vec::new();
    for name in ["a", "b", "c"] {
        let through = (name != "c").then(|| proxy.address());
        workers.push(cluster.worker(WorkerOptions { through, ..WorkerOptions::new(name, 3) }).await);
    }
    let scripts: Vec<String> = (1..=TASKS).map(script).collect();
    let batches = [cluster.submit(&scripts, 6).await, cluster.submit(&scripts, 4).await];
    let mut watch = WatchLog::new(&batches[0].batch_id);
    let mut state: u32 = 20_260_101;
    for _ in 0..BLOWS {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let seen = watch.messages;
        // Something must have moved since the last blow, so that no blow falls into the void.
        watch.follow(&cluster, LATER, |watch| watch.messages > seen).await;
        match state >> 24 & 3 {
            0 => {
                cluster.kill_coordinator().await;
                cluster.start_coordinator().await;
            }
            1 => {
                proxy.cut();
                tokio::time::sleep(Duration::from_millis(u64::from(state >> 16 & 0xff))).await;
                proxy.restore();
            }
            _ => {
                let worker = workers.remove(0);
                let options = worker.kill().await;
                workers.push(cluster.worker(options).await);
            }
        }
    }
    for batch in &batches {
        let mut watch = WatchLog::new(&batch.batch_id);
        let end = watch.follow_to_end(&cluster, LATER).await;
        assert_eq!(end.scheduler_status(), SchedulerStatus::Completed);
        for (&index, task) in &watch.tasks {
            assert_eq!(task.exit_code, Some(index % 2), "{task:?}");
            let index = index as usize;
            let expected = [flood(index * 3_001), format!("end of {index}\n").into_bytes()].concat();
            let log = read_log(&cluster, &batch.batch_id, index as i32, 0, LATER).await;
            assert!(log == expected, "the log of task {index}: {} of {} bytes", log.len(), expected.len());
        }
    }
    assert_eq!(cluster.runs().len(), 2 * TASKS, "every task ran, and ran once");
}
