//! How a batch is carried out: limits of time, retries, giving up; with real programs.

use muster_proto::v1::{
    BatchOptions, FailureReason, RetryPolicy, SchedulerStatus, SubmitBatchRequest, TaskInput, TaskStatus,
};
use muster_tests::{Cluster, WatchLog, WorkerOptions, read_log};
use nix::sys::signal::Signal;
use prost_types::Duration;

use crate::SOON;

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

async fn submit(cluster: &Cluster, tasks: Vec<TaskInput>, options: BatchOptions) -> String {
    let request = SubmitBatchRequest {
        tasks,
        concurrency: Some(1),
        options: Some(options),
        ..SubmitBatchRequest::default()
    };
    cluster.batches().submit_batch(request).await.unwrap().into_inner().batch.unwrap().batch_id
}

fn task(script: &str) -> TaskInput {
    TaskInput { prompt: script.into(), ..TaskInput::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_runs_longer_than_it_may_is_ended_with_grace_and_fails_by_that_name() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let tasks = vec![
        task("ignoreterm;say on;wait never"),
        // Its own limit is the one that counts.
        TaskInput { time_limit: seconds(600), ..task("say quick") },
        task("say politely;wait never"),
    ];
    let options = BatchOptions {
        time_limit: seconds(1),
        cancel_grace: Some(Duration { seconds: 0, nanos: 300_000_000 }),
        ..BatchOptions::default()
    };
    let batch = submit(&cluster, tasks, options).await;
    let mut watch = WatchLog::new(&batch);
    let end = watch.follow_to_end(&cluster, SOON).await;
    assert_eq!(end.scheduler_status(), SchedulerStatus::Completed);
    for (index, signal) in [(1, Signal::SIGKILL), (3, Signal::SIGTERM)] {
        let task = &watch.tasks[&index];
        assert_eq!((task.status(), task.failure_reason()), (TaskStatus::Failed, FailureReason::TimedOut));
        assert_eq!((task.signal, task.shell_code), (signal as i32, Some(128 + signal as i32)), "{task:?}");
    }
    assert_eq!(watch.tasks[&2].status(), TaskStatus::Completed);
    assert_eq!(read_log(&cluster, &batch, 3, 0, SOON).await, b"politely\n", "what it printed is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_end_that_was_named_is_run_again_and_only_so_often() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let retry = RetryPolicy {
        max_attempts: 3,
        on: vec!["75".into(), "signal".into()],
        backoff: seconds(0),
        max_backoff: None,
    };
    let tasks = vec![
        task("say a;exitif 1 75;say b"),
        task("exit 1"),
        task("exit 75"),
        TaskInput {
            retry: Some(RetryPolicy { max_attempts: 1, ..RetryPolicy::default() }),
            ..task("exit 75")
        },
    ];
    let batch = submit(&cluster, tasks, BatchOptions { retry: Some(retry), ..BatchOptions::default() }).await;
    let mut watch = WatchLog::new(&batch);
    watch.follow_to_end(&cluster, SOON).await;
    let ends: Vec<_> = watch.tasks.values().map(|task| (task.attempt, task.exit_code)).collect();
    assert_eq!(ends, [(2, Some(0)), (1, Some(1)), (3, Some(75)), (1, Some(75))]);
    assert_eq!(cluster.runs().len(), 2 + 1 + 3 + 1, "each start is one that was asked for");
    assert_eq!(read_log(&cluster, &batch, 1, 1, SOON).await, b"a\n");
    assert_eq!(read_log(&cluster, &batch, 1, 2, SOON).await, b"a\nb\n", "attempts are kept apart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_which_too_many_tasks_fail_is_given_up_before_it_spends_more() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let tasks = vec![task("exit 1"), task("say never"), task("say never")];
    let options = BatchOptions { max_failures: Some(1), ..BatchOptions::default() };
    let batch = submit(&cluster, tasks, options).await;
    let mut watch = WatchLog::new(&batch);
    let end = watch.follow_to_end(&cluster, SOON).await;
    assert_eq!(end.scheduler_status(), SchedulerStatus::Failed);
    assert!(end.status_message.contains("max_failures"), "{}", end.status_message);
    let counts = end.counts.unwrap();
    assert_eq!((counts.failed, counts.cancelled), (1, 2));
    assert_eq!(cluster.runs().len(), 1);
}
