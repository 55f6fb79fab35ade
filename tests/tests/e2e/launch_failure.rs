//! A machine on which the program cannot be started must not eat a batch, nor a bad task the fleet.

use muster_proto::v1::{
    FailureReason, ListWorkersRequest, ResumeWorkerRequest, TaskStatus, Worker, WorkerStatus,
};
use muster_tests::{Cluster, ClusterOptions, WatchLog, WorkerOptions};

use crate::SOON;

fn broken(cluster: &Cluster, name: &str) -> WorkerOptions {
    let missing = cluster.dir().join("no-such-dispatch").display().to_string();
    WorkerOptions { dispatch: Some(missing), ..WorkerOptions::new(name, 2) }
}

async fn worker(cluster: &Cluster, name: &str) -> Worker {
    let list = cluster.fleet().list_workers(ListWorkersRequest {}).await.unwrap().into_inner();
    list.workers.into_iter().find(|worker| worker.worker_id == name).expect("the worker is listed")
}

/// walks: W5
#[tokio::test(flavor = "multi_thread")]
async fn tasks_go_elsewhere_and_the_broken_worker_is_set_aside() {
    let cluster = Cluster::start_with(ClusterOptions::with_limits(6, 20)).await;
    let _broken = cluster.worker(broken(&cluster, "broken")).await;
    let _workers = cluster.workers(2, 2).await;
    let scripts: Vec<String> = (1..=12).map(|task| format!("sleep 30;say {task}")).collect();
    let batch = cluster.submit(&scripts, 6).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    let end = watch.follow_to_end(&cluster, SOON).await;
    assert_eq!(end.counts.unwrap().completed, 12, "{:#?}", watch.tasks);
    assert!(watch.tasks.values().all(|task| task.worker_id != "broken"));
    assert_eq!(cluster.runs().len(), 12, "every task ran once");
    let broken = worker(&cluster, "broken").await;
    assert_eq!(broken.status(), WorkerStatus::SetAside, "{broken:?}");
    assert!(broken.status_message.contains("No such file"), "the system's reason: {broken:?}");
    let request = ResumeWorkerRequest { worker_id: "broken".into() };
    let back = cluster.fleet().resume_worker(request).await.unwrap().into_inner().worker.unwrap();
    assert_eq!(back.status(), WorkerStatus::Connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_no_worker_can_start_fails_with_the_systems_reason() {
    let cluster = Cluster::start().await;
    let _broken = cluster.worker(broken(&cluster, "broken")).await;
    let batch = cluster.submit(&["say hello"], 1).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow_to_end(&cluster, SOON).await;
    let task = &watch.tasks[&1];
    assert_eq!(
        (task.status(), task.failure_reason()),
        (TaskStatus::Failed, FailureReason::WorkerLaunchFailed),
        "{task:?}"
    );
    assert!(task.failure_message.contains("No such file"), "{}", task.failure_message);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_outside_the_allowed_folders_is_refused() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let outside = cluster.dir().join("outside");
    let request = muster_proto::v1::SubmitBatchRequest {
        batch_json: serde_json::json!([
            {"prompt": "result no", "output": outside},
            {"prompt": "result no", "output": "../../../outside"},
            {"prompt": "result yes", "output": "poster"},
        ])
        .to_string(),
        ..Default::default()
    };
    let batch = cluster.batches().submit_batch(request).await.unwrap().into_inner().batch.unwrap();
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow_to_end(&cluster, SOON).await;
    for index in 1..=2 {
        assert_eq!(
            watch.tasks[&index].failure_reason(),
            FailureReason::OutputRefused,
            "{:?}",
            watch.tasks[&index]
        );
    }
    assert!(!outside.exists());
    assert_eq!(watch.tasks[&3].status(), TaskStatus::Completed);
    assert_eq!(std::fs::read_to_string(&watch.tasks[&3].output_path).unwrap(), "yes");
    assert_eq!(cluster.runs().len(), 1);
}
