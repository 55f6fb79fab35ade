//! Ending tasks early, running them again, and letting workers go.

use muster_proto::v1::{
    CancelBatchRequest, DrainWorkerRequest, ListWorkersRequest, ResumeWorkerRequest, RetryBatchRequest,
    SchedulerStatus, TailLogsRequest, Task, TaskStatus, Worker, WorkerStatus, tail_logs_response::Content,
};
use muster_tests::{Cluster, WatchLog, WorkerOptions, eventually, processes_of, read_log, wait_for};
use nix::sys::signal::Signal;
use tonic::Code;

use crate::SOON;

async fn cancel(cluster: &Cluster, batch_id: &str, task_indexes: &[i32]) {
    let request = CancelBatchRequest {
        batch_id: batch_id.into(),
        task_indexes: task_indexes.to_vec(),
        reason: "changed my mind".into(),
        ..Default::default()
    };
    cluster.batches().cancel_batch(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_tasks_are_cancelled_at_once_and_running_ones_by_term() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let batch = cluster.submit(&["say one;touch up;wait never", "say two", "say three"], 1).await;
    wait_for(&cluster.probe_dir().join("up")).await;
    cancel(&cluster, &batch.batch_id, &[3]).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    let third =
        |watch: &WatchLog| watch.tasks.get(&3).is_some_and(|task| task.status() == TaskStatus::Cancelled);
    let state = watch.follow(&cluster, SOON, third).await;
    assert_eq!(state.scheduler_status(), SchedulerStatus::Running, "the others go on");

    cancel(&cluster, &batch.batch_id, &[]).await;
    let end = watch.follow_to_end(&cluster, SOON).await;
    assert_eq!(end.scheduler_status(), SchedulerStatus::Cancelled);
    assert_eq!((end.counts.unwrap().cancelled, end.cancel_reason.as_str()), (3, "changed my mind"));
    assert_eq!(watch.tasks[&1].signal, Signal::SIGTERM as i32, "{:?}", watch.tasks[&1]);
    assert!(watch.tasks[&1].end_confirmed);
    assert_eq!(read_log(&cluster, &batch.batch_id, 1, 0, SOON).await, b"one\n");
    assert_eq!(cluster.runs().len(), 1, "a cancelled task never starts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_a_new_attempt_in_the_same_batch() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 2)).await;
    let scripts = ["say fine", "say try;exitif 1 7;result second", "say hopeless;exit 5"];
    let batch = cluster.submit(&scripts, 2).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    let first_end = watch.follow_to_end(&cluster, SOON).await;
    assert_eq!(first_end.counts.unwrap().failed, 2);

    let retry = |task_indexes: Vec<i32>, request_id: &str| RetryBatchRequest {
        batch_id: batch.batch_id.clone(),
        task_indexes,
        request_id: request_id.into(),
        ..Default::default()
    };
    let refused = cluster.batches().retry_batch(retry(vec![1], "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "a completed task is not run again: {refused:?}");
    let reply = cluster.batches().retry_batch(retry(vec![], "again-1")).await.unwrap().into_inner();
    assert!(reply.batch.unwrap().revision > first_end.revision);
    // A repeated call is the same call.
    cluster.batches().retry_batch(retry(vec![], "again-1")).await.unwrap();

    let mut watch = WatchLog::new(&batch.batch_id);
    let end = watch.follow_to_end(&cluster, SOON).await;
    let counts = end.counts.unwrap();
    assert_eq!((counts.completed, counts.failed), (2, 1));
    let attempts: Vec<i32> = watch.tasks.values().map(|task| task.attempt).collect();
    assert_eq!(attempts, [1, 2, 2]);
    let second: &Task = &watch.tasks[&2];
    assert!(second.output_path.ends_with("/task-02-output.attempt-2"), "{}", second.output_path);
    assert_eq!(std::fs::read_to_string(&second.output_path).unwrap(), "second");
    for attempt in [1, 2] {
        assert_eq!(read_log(&cluster, &batch.batch_id, 2, attempt, SOON).await, b"try\n");
    }
    assert_eq!(cluster.runs().len(), 5);
}

/// walks: W2
#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_gets_nothing_new_until_it_is_resumed() {
    let cluster = Cluster::start().await;
    let _workers = cluster.workers(2, 2).await;
    let mut fleet = cluster.fleet();
    let drained =
        fleet.drain_worker(DrainWorkerRequest { worker_id: "a".into() }).await.unwrap().into_inner();
    assert_eq!(drained.worker.unwrap().status(), WorkerStatus::Draining);
    let batch = cluster.submit(&["say 1", "say 2", "say 3", "say 4"], 3).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow_to_end(&cluster, SOON).await;
    assert!(watch.tasks.values().all(|task| task.worker_id == "b"), "{:?}", watch.tasks);
    let resumed =
        fleet.resume_worker(ResumeWorkerRequest { worker_id: "a".into() }).await.unwrap().into_inner();
    assert_eq!(resumed.worker.unwrap().status(), WorkerStatus::Connected);
    fleet.drain_worker(DrainWorkerRequest { worker_id: "b".into() }).await.unwrap();
    let batch = cluster.submit(&["say 1"], 1).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow_to_end(&cluster, SOON).await;
    assert_eq!(watch.tasks[&1].worker_id, "a");
    let unknown = fleet.drain_worker(DrainWorkerRequest { worker_id: "nobody".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_worker_finishes_what_it_has_and_leaves_no_process() {
    let cluster = Cluster::start().await;
    let worker = cluster.worker(WorkerOptions::new("leaver", 2)).await;
    let batch = cluster.submit(&["say one;touch up;wait go;say end", "say two", "say three"], 1).await;
    wait_for(&cluster.probe_dir().join("up")).await;
    worker.signal(Signal::SIGTERM);
    eventually("the worker shows as draining", SOON, || async {
        status_of(&cluster, "leaver").await.filter(|worker| worker.status() == WorkerStatus::Draining)
    })
    .await;
    cluster.open_gate("go");
    let status = worker.ended(SOON).await;
    assert!(status.success(), "{status:?}");
    assert_eq!(cluster.runs().len(), 1, "a draining worker takes nothing new");
    let work_dir = cluster.work_dir("leaver");
    eventually("no process of the worker is left", SOON, || async {
        processes_of(&work_dir).is_empty().then_some(())
    })
    .await;
    let _other = cluster.worker(WorkerOptions::new("heir", 1)).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    let end = watch.follow_to_end(&cluster, SOON).await;
    assert_eq!(end.counts.unwrap().completed, 3);
    assert_eq!(read_log(&cluster, &batch.batch_id, 1, 0, SOON).await, b"one\nend\n");
}

async fn status_of(cluster: &Cluster, name: &str) -> Option<Worker> {
    let list = cluster.fleet().list_workers(ListWorkersRequest {}).await.ok()?.into_inner();
    list.workers.into_iter().find(|worker| worker.worker_id == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_task_that_is_to_run_again_is_that_of_the_run_to_come() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let batch = cluster.submit(&["env;exit 1"], 1).await;
    WatchLog::new(&batch.batch_id).follow_to_end(&cluster, SOON).await;
    let first = read_log(&cluster, &batch.batch_id, 1, 0, SOON).await;

    // Nobody runs it yet: it waits in the queue while its log is asked for.
    let mut fleet = cluster.fleet();
    fleet.drain_worker(DrainWorkerRequest { worker_id: "solo".into() }).await.unwrap();
    let retry = RetryBatchRequest { batch_id: batch.batch_id.clone(), ..Default::default() };
    cluster.batches().retry_batch(retry).await.unwrap();
    let follow = TailLogsRequest {
        batch_id: batch.batch_id.clone(),
        task_index: 1,
        follow: true,
        raw: true,
        ..Default::default()
    };
    // Once it is answered, it is settled which attempt is followed.
    let mut log = cluster.batches().tail_logs(follow).await.unwrap().into_inner();
    fleet.resume_worker(ResumeWorkerRequest { worker_id: "solo".into() }).await.unwrap();
    let mut second = Vec::new();
    while let Some(piece) = log.message().await.unwrap() {
        if let Some(Content::Data(data)) = piece.content {
            second.extend(data);
        }
    }
    let (first, second) = (String::from_utf8_lossy(&first), String::from_utf8_lossy(&second));
    assert!(
        first.contains("MUSTER_ATTEMPT=1\n") && second.contains("MUSTER_ATTEMPT=2\n"),
        "{first:?} {second:?}"
    );
    assert_eq!(read_log(&cluster, &batch.batch_id, 1, 1, SOON).await, first.as_bytes(), "by its number");
}
