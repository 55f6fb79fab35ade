//! Why a task does not run, from no worker to its end, with real processes; and what the doctor finds meanwhile.

use muster_proto::v1::{
    DrainWorkerRequest, ExplainBatchRequest, ExplainBatchResponse, ListWorkersRequest, ResumeWorkerRequest,
    SubmitBatchRequest, WaitCause, WaitReason, WorkerStatus,
};
use muster_tests::{Cluster, ClusterOptions, WatchLog, WorkerOptions, eventually, wait_for};
use tonic::Code;

use crate::{
    SOON,
    command::{muster, text},
};

async fn explain(cluster: &Cluster, batch_id: &str, task_index: i32) -> ExplainBatchResponse {
    let request = ExplainBatchRequest { batch_id: batch_id.into(), task_index };
    cluster.batches().explain_batch(request).await.expect("an answer").into_inner()
}

/// The cause once it is there: an acceptance, say, comes a moment after the offer.
async fn cause(cluster: &Cluster, batch_id: &str, task_index: i32, reason: WaitReason) -> WaitCause {
    eventually(reason.as_str_name(), SOON, || async {
        let found = explain(cluster, batch_id, task_index).await;
        found.causes.into_iter().find(|cause| cause.reason() == reason)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_says_at_every_step_what_it_waits_for() {
    let cluster = Cluster::start_with(ClusterOptions::with_limits(4, 10)).await;
    let first = cluster.submit(&["touch up;wait go"], 1).await.batch_id;
    let second = cluster.submit(&["touch up2;wait go2", "say b", "say c"], 1).await.batch_id;

    // Nobody is there.
    let nobody = cause(&cluster, &second, 0, WaitReason::NoWorker).await;
    assert_eq!(nobody.task_count, 3);
    assert!(nobody.way_out.contains("muster-worker --coordinator"), "{nobody:?}");
    let place = explain(&cluster, &second, 3).await;
    assert_eq!((place.next_task_index, place.tasks_ahead), (3, 1 + 2));
    let sick = muster(&cluster, &["doctor"]).await;
    assert_eq!(sick.status.code(), Some(2), "{sick:?}");
    assert!(text(&sick.stdout).contains("no worker is known"), "{sick:?}");

    // One place, which the older batch has.
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    wait_for(&cluster.probe_dir().join("up")).await;
    let busy = cause(&cluster, &second, 0, WaitReason::WorkersBusy).await;
    assert_eq!((busy.batches[0].batch_id.as_str(), busy.batches[0].places), (first.as_str(), 1));
    let running = cause(&cluster, &first, 1, WaitReason::Running).await;
    assert_eq!(running.workers[0].worker_id, "solo");
    assert!(running.since_time.is_some());
    let told = muster(&cluster, &["explain", &second]).await;
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    assert!(text(&told.stdout).contains(&format!("held by: {first} (1)")), "{told:?}");
    let healthy = muster(&cluster, &["doctor", "--output", "json"]).await;
    assert_eq!(healthy.status.code(), Some(0), "{healthy:?}");
    let report: serde_json::Value = serde_json::from_slice(&healthy.stdout).expect("one JSON document");
    let serving = report["checks"].as_array().unwrap().iter().find(|check| check["check"] == "serving");
    assert_eq!(serving.unwrap()["status"], "ok", "{report}");

    // Drained.
    let mut fleet = cluster.fleet();
    fleet.drain_worker(DrainWorkerRequest { worker_id: "solo".into() }).await.unwrap();
    cluster.open_gate("go");
    WatchLog::new(&first).follow_to_end(&cluster, SOON).await;
    let draining = cause(&cluster, &second, 1, WaitReason::WorkersDraining).await;
    assert_eq!(
        (draining.workers[0].worker_id.as_str(), draining.way_out.as_str()),
        ("solo", "muster resume solo")
    );

    // Another one, on which nothing can be started: three tasks of a third batch set it aside.
    let missing = cluster.dir().join("no-such-dispatch").display().to_string();
    let broken = WorkerOptions { dispatch: Some(missing), ..WorkerOptions::new("broken", 3) };
    let _broken = cluster.worker(broken).await;
    let third = cluster.submit(&["say d", "say e", "say f"], 3).await.batch_id;
    eventually("the broken worker is set aside", SOON, || async {
        let workers = cluster.fleet().list_workers(ListWorkersRequest {}).await.ok()?.into_inner().workers;
        let broken = workers.into_iter().find(|worker| worker.worker_id == "broken")?;
        (broken.status() == WorkerStatus::SetAside).then_some(())
    })
    .await;
    for batch in [&second, &third] {
        let aside = cause(&cluster, batch, 0, WaitReason::WorkersSetAside).await;
        assert!(aside.message.contains("No such file"), "the system's reason: {aside:?}");
        assert!(aside.way_out.ends_with("muster resume broken"), "{aside:?}");
        cause(&cluster, batch, 0, WaitReason::WorkersDraining).await;
    }

    // Back: what runs, what waits for the batch's own limit, what has ended.
    fleet.resume_worker(ResumeWorkerRequest { worker_id: "solo".into() }).await.unwrap();
    wait_for(&cluster.probe_dir().join("up2")).await;
    cause(&cluster, &second, 1, WaitReason::Running).await;
    let limit = cause(&cluster, &second, 2, WaitReason::BatchLimit).await;
    assert_eq!(limit.task_count, 1);
    cluster.open_gate("go2");
    for batch in [&second, &third] {
        WatchLog::new(batch).follow_to_end(&cluster, SOON).await;
        let ended = explain(&cluster, batch, 0).await;
        assert_eq!((ended.causes.len(), ended.causes[0].reason()), (1, WaitReason::Ended));
        assert_eq!(ended.counts.unwrap().completed, 3, "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_says_how_and_what_is_not_there_is_refused() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let request = SubmitBatchRequest {
        batch_json: serde_json::json!(["say hello;exit 7"]).to_string(),
        ..Default::default()
    };
    let batch = cluster.batches().submit_batch(request).await.unwrap().into_inner().batch.unwrap().batch_id;
    WatchLog::new(&batch).follow_to_end(&cluster, SOON).await;
    let told = explain(&cluster, &batch, 1).await;
    assert!(told.causes[0].message.contains("exit_code") && told.causes[0].message.contains('7'), "{told:?}");
    assert!(told.causes[0].way_out.contains(&format!("muster retry {batch} 1")), "{told:?}");
    for (batch_id, task_index, code) in [
        (batch.as_str(), 2, Code::NotFound),
        (batch.as_str(), -1, Code::InvalidArgument),
        ("0000000000000", 0, Code::NotFound),
        ("", 0, Code::InvalidArgument),
    ] {
        let request = ExplainBatchRequest { batch_id: batch_id.into(), task_index };
        let refused = cluster.batches().explain_batch(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{batch_id} {task_index}: {refused:?}");
    }
}
