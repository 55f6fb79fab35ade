//! One worker: a batch is submitted, runs, and shows everywhere how it went.

use muster_proto::v1::{
    FailureReason, GetBatchRequest, ListBatchesRequest, ListTasksRequest, SchedulerStatus,
    SubmitBatchRequest, TaskInput, TaskStatus,
};
use muster_tests::{Cluster, WatchLog, WorkerOptions, probe, read_log};

use crate::SOON;

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_runs_and_shows_how_it_went() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 2)).await;
    let batch = cluster.submit(&["say good", "say bad;err worse;exit 3"], 2).await;
    assert_eq!((batch.task_count, batch.effective_concurrency), (2, 2));
    assert_eq!((batch.mode.as_str(), batch.version), ("batch_run", 2));

    let mut watch = WatchLog::new(&batch.batch_id);
    let end = watch.follow_to_end(&cluster, SOON).await;
    assert_eq!(end.scheduler_status(), SchedulerStatus::Completed);

    let request = GetBatchRequest { batch_id: batch.batch_id.clone() };
    let got = cluster.batches().get_batch(request).await.unwrap().into_inner().batch.unwrap();
    let counts = got.counts.unwrap();
    assert_eq!((counts.completed, counts.failed, counts.queued, counts.running), (1, 1, 0, 0));
    assert!(got.start_time.is_some() && got.end_time.is_some());
    assert_eq!(got.revision, end.revision, "the watch ended with what GetBatch shows");
    assert_eq!(got.tasks.len(), 2);
    let [good, bad] = &got.tasks[..] else { panic!("two tasks") };
    assert_eq!((good.status(), good.exit_code), (TaskStatus::Completed, Some(0)));
    assert_eq!((bad.status(), bad.exit_code), (TaskStatus::Failed, Some(3)));
    assert_eq!(bad.failure_reason(), FailureReason::ExitCode);
    for task in &got.tasks {
        assert_eq!((task.worker_id.as_str(), task.attempt), ("solo", 1));
        let run = probe::run_of(&cluster.probe_dir(), &batch.batch_id, task.index, 1).unwrap();
        assert_eq!(task.pid, run.pid);
        assert_eq!(watch.tasks[&task.index], *task, "the watch showed the end of every task");
    }
    assert_eq!(read_log(&cluster, &batch.batch_id, 1, 0, SOON).await, b"good\n");
    assert_eq!(read_log(&cluster, &batch.batch_id, 2, 1, SOON).await, b"bad\nworse\n");
    assert_eq!((good.log_bytes, bad.log_bytes), (5, 10));
    assert_eq!(cluster.runs().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_child_gets_the_arguments_environment_and_folder_that_were_promised() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let prompt = "args;env;cwd;result 竹";
    let task = TaskInput {
        prompt: prompt.into(),
        model: "wan".into(),
        seed: "-1".into(),
        image: vec!["a.png".into(), "b.png".into()],
        ..Default::default()
    };
    let request =
        SubmitBatchRequest { tasks: vec![task], api_key: "0123456789".into(), ..Default::default() };
    let batch = cluster.batches().submit_batch(request).await.unwrap().into_inner().batch.unwrap();
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow_to_end(&cluster, SOON).await;
    let folder = cluster.work_dir("solo").join("outputs").join(&batch.batch_id);
    let folder = folder.canonicalize().unwrap();
    let output = folder.join("task-01-output");
    let expected = [
        "--model",
        "wan27-t2v",
        "--prompt",
        prompt,
        "--image",
        "a.png",
        "--image",
        "b.png",
        "--seed=-1",
        "--output",
        output.to_str().unwrap(),
        "--confirm-run",
        "BIZYAIR_DISABLE_RUNTIME_STATE=1",
        "MUSTER_ATTEMPT=1",
        &format!("MUSTER_BATCH_ID={}", batch.batch_id),
        &format!("MUSTER_OUTPUT_DIR={}", folder.display()),
        "MUSTER_TASK_INDEX=1",
        "BIZYAIR_API_KEY: 10 bytes",
        folder.to_str().unwrap(),
        "",
    ]
    .join("\n");
    let log = read_log(&cluster, &batch.batch_id, 1, 0, SOON).await;
    assert_eq!(String::from_utf8(log).unwrap(), expected);
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "竹");
    assert_eq!(watch.tasks[&1].output_path, output.to_str().unwrap());
    assert_eq!(watch.tasks[&1].command_preview[1], "wan27-t2v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_without_a_worker_waits_and_says_so() {
    let cluster = Cluster::start().await;
    let batch = cluster.submit(&["say hello"], 1).await;
    assert_eq!(batch.available_workers, 0);
    assert_eq!(batch.scheduler_status(), SchedulerStatus::Queued);
    let _worker = cluster.worker(WorkerOptions::new("late", 1)).await;
    let end = WatchLog::new(&batch.batch_id).follow_to_end(&cluster, SOON).await;
    assert_eq!(end.counts.unwrap().completed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_id_gives_the_same_batch_and_other_content_is_refused() {
    let cluster = Cluster::start().await;
    let request = |prompt: &str| SubmitBatchRequest {
        batch_json: serde_json::json!([prompt]).to_string(),
        request_id: "order-17".into(),
        ..Default::default()
    };
    let mut client = cluster.batches();
    let first = client.submit_batch(request("say a")).await.unwrap().into_inner().batch.unwrap();
    let again = client.submit_batch(request("say a")).await.unwrap().into_inner().batch.unwrap();
    assert_eq!(first.batch_id, again.batch_id);
    let other = client.submit_batch(request("say b")).await.unwrap_err();
    assert_eq!(other.code(), tonic::Code::AlreadyExists, "{other:?}");
    let only = SubmitBatchRequest { validate_only: true, ..request("say c") };
    let only = SubmitBatchRequest { request_id: String::new(), ..only };
    client.submit_batch(only).await.unwrap();
    let list = client.list_batches(ListBatchesRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.batches.len(), 1, "validate_only stores nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_by_age_and_by_index() {
    let cluster = Cluster::start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(cluster.submit(&["", "", ""], 1).await.batch_id);
    }
    ids.reverse();
    let mut client = cluster.batches();
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListBatchesRequest { page_size: 2, page_token: token };
        let page = client.list_batches(request).await.unwrap().into_inner();
        found.extend(page.batches.into_iter().map(|batch| batch.batch_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, ids, "newest first");
    let request = ListTasksRequest { batch_id: ids[0].clone(), page_size: 2, ..Default::default() };
    let page = client.list_tasks(request).await.unwrap().into_inner();
    assert_eq!(page.tasks.iter().map(|task| task.index).collect::<Vec<_>>(), [1, 2]);
    let request =
        ListTasksRequest { batch_id: ids[0].clone(), page_size: 2, page_token: page.next_page_token };
    let page = client.list_tasks(request).await.unwrap().into_inner();
    assert_eq!(page.tasks.iter().map(|task| task.index).collect::<Vec<_>>(), [3]);
    assert!(page.next_page_token.is_empty());
}
