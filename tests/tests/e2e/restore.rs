//! Data that was copied or restored: it goes on under a life of its own, and nothing of it runs twice unasked.

use std::{fs, path::Path};

use muster_proto::v1::{
    FailureReason, GetBatchRequest, ListBatchesRequest, ReleaseBatchRequest, SchedulerStatus, TaskStatus,
    WatchBatchRequest,
};
use muster_tests::{Cluster, WatchLog, WorkerOptions, read_log, wait_for};
use tonic::Code;

use crate::SOON;

/// A copy of a folder as `cp -r` makes it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_begins_a_new_life_and_holds_what_was_unfinished() {
    let mut cluster = Cluster::start().await;
    let worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let ended = cluster.submit(&["say done"], 1).await;
    let mut watch = WatchLog::new(&ended.batch_id);
    watch.follow_to_end(&cluster, SOON).await;
    let batch = cluster.submit(&["say first;touch up;wait go", "say second"], 1).await;
    wait_for(&cluster.probe_dir().join("up")).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow(&cluster, SOON, |watch| watch.tasks.values().any(|task| task.pid != 0)).await;
    let request = ListBatchesRequest { page_size: 1, ..Default::default() };
    let token = cluster.batches().list_batches(request).await.unwrap().into_inner().next_page_token;
    assert!(!token.is_empty());

    // A disaster: what there is is a copy. The worker's network half is away meanwhile.
    cluster.kill_coordinator().await;
    let options = worker.kill().await;
    let backup = cluster.dir().join("backup");
    copy(&cluster.data_dir(), &backup);
    cluster.replace_data(&backup);
    cluster.start_coordinator().await;

    let mut after = WatchLog::new(&batch.batch_id);
    let held = after.follow(&cluster, SOON, |watch| watch.messages > 0).await;
    assert!(
        held.on_hold && held.status_message.contains(&format!("muster release {}", batch.batch_id)),
        "{held:?}"
    );
    assert_ne!(after.life_id, watch.life_id);
    assert!(after.revision > watch.revision);
    let first = &after.tasks[&1];
    assert_eq!((first.status(), first.failure_reason()), (TaskStatus::Failed, FailureReason::WorkerCrashed));
    assert!(first.failure_message.contains("copy"), "{first:?}");
    assert_eq!(after.tasks[&2].status(), TaskStatus::Queued);

    // What was for the life before is told apart.
    let request = WatchBatchRequest {
        batch_id: batch.batch_id.clone(),
        after_revision: Some(watch.revision),
        life_id: watch.life_id.clone(),
    };
    let refused = match cluster.batches().watch_batch(request).await {
        Err(status) => status,
        Ok(stream) => stream.into_inner().message().await.unwrap_err(),
    };
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    let request = ListBatchesRequest { page_size: 1, page_token: token };
    let refused = cluster.batches().list_batches(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");

    // What has ended is as it was, its output included.
    let request = GetBatchRequest { batch_id: ended.batch_id.clone() };
    let same = cluster.batches().get_batch(request).await.unwrap().into_inner().batch.unwrap();
    assert_eq!((same.scheduler_status(), same.on_hold), (SchedulerStatus::Completed, false));
    assert_eq!(read_log(&cluster, &ended.batch_id, 1, 0, SOON).await, b"done\n");

    // The worker comes back with a task of the life before: it runs on, and its result is kept as a late one.
    let _worker = cluster.worker(options).await;
    assert_eq!(cluster.runs().len(), 2, "what is on hold has not been started");
    cluster.open_gate("go");
    after.follow(&cluster, SOON, |watch| !watch.tasks[&1].late_results.is_empty()).await;
    let late = &after.tasks[&1].late_results[0];
    assert_eq!((late.attempt, late.exit_code), (1, Some(0)), "{late:?}");
    assert_eq!(read_log(&cluster, &batch.batch_id, 1, 0, SOON).await, b"first\n");
    assert!(after.batch.as_ref().unwrap().on_hold);
    assert_eq!(after.tasks[&2].status(), TaskStatus::Queued, "and nothing else has happened");

    let request = ReleaseBatchRequest { batch_id: batch.batch_id.clone(), ..Default::default() };
    let released = cluster.batches().release_batch(request).await.unwrap().into_inner().batch.unwrap();
    assert!(!released.on_hold && released.status_message.is_empty(), "{released:?}");
    let end = after.follow_to_end(&cluster, SOON).await;
    let counts = end.counts.unwrap();
    assert_eq!((counts.completed, counts.failed), (1, 1));
    assert_eq!(cluster.runs().len(), 3);

    // Its own life goes on over restarts.
    let life = after.life_id.clone();
    cluster.kill_coordinator().await;
    cluster.start_coordinator().await;
    let mut again = WatchLog::new(&batch.batch_id);
    again.follow_to_end(&cluster, SOON).await;
    assert_eq!(again.life_id, life);
}
