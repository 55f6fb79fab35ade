//! A canary in the place of an API key: the child sees it, and nothing else ever shows it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use muster_proto::v1::{FailureReason, GetBatchRequest, RetryBatchRequest, SubmitBatchRequest};
use muster_tests::{Cluster, WatchLog, WorkerOptions, probe::stamp_stem, read_log, wait_for};
use tonic::Code;

use crate::SOON;

pub(crate) const CANARY: &str = "canary-5fe1c0ffee-9b2d-key";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_seen_by_the_child_only() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let request = SubmitBatchRequest {
        batch_json: r#"["key;env;args;touch up;wait go;exit 1", "key"]"#.into(),
        concurrency: Some(1),
        api_key: CANARY.into(),
        request_id: "with-a-key".into(),
        ..Default::default()
    };
    let reply = cluster.batches().submit_batch(request.clone()).await.unwrap().into_inner();
    let batch = reply.batch.unwrap();
    assert!(!format!("{batch:?}").contains(CANARY));
    assert!(!format!("{request:?}").contains(CANARY), "a request's debug form hides the key");
    wait_for(&cluster.probe_dir().join("up")).await;
    // One task runs with the key, the other waits for it.
    assert_nowhere(&cluster);
    cluster.open_gate("go");
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow_to_end(&cluster, SOON).await;
    for task in 1..=2 {
        let stem = stamp_stem(&batch.batch_id, task, 1);
        let seen = fs::read_to_string(cluster.probe_dir().join(stem).with_extension("key")).unwrap();
        assert_eq!(seen, CANARY, "the child sees the key");
        let log = read_log(&cluster, &batch.batch_id, task, 0, SOON).await;
        assert!(!String::from_utf8_lossy(&log).contains(CANARY));
    }
    assert!(!format!("{watch:?}").contains(CANARY));
    let request = GetBatchRequest { batch_id: batch.batch_id.clone() };
    let got = cluster.batches().get_batch(request).await.unwrap().into_inner();
    assert!(!format!("{got:?}").contains(CANARY));
    assert_nowhere(&cluster);

    // The key went with the batch's end: a retry needs it again.
    let retry = |api_key: &str| RetryBatchRequest {
        batch_id: batch.batch_id.clone(),
        api_key: api_key.into(),
        ..Default::default()
    };
    let refused = cluster.batches().retry_batch(retry("")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    cluster.batches().retry_batch(retry(CANARY)).await.unwrap();
    WatchLog::new(&batch.batch_id).follow_to_end(&cluster, SOON).await;
    assert_nowhere(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_survives_a_restart_encrypted() {
    let mut cluster = Cluster::start().await;
    let request =
        SubmitBatchRequest { batch_json: r#"["key"]"#.into(), api_key: CANARY.into(), ..Default::default() };
    let batch = cluster.batches().submit_batch(request).await.unwrap().into_inner().batch.unwrap();
    assert_nowhere(&cluster);
    cluster.kill_coordinator().await;
    assert_nowhere(&cluster);
    cluster.start_coordinator().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    WatchLog::new(&batch.batch_id).follow_to_end(&cluster, SOON).await;
    let stem = stamp_stem(&batch.batch_id, 1, 1);
    let seen = fs::read_to_string(cluster.probe_dir().join(stem).with_extension("key")).unwrap();
    assert_eq!(seen, CANARY);
    assert_nowhere(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_file_fails_the_tasks_that_need_it_and_nothing_else() {
    let mut cluster = Cluster::start().await;
    let request = |api_key: &str| SubmitBatchRequest {
        batch_json: r#"["key;say ran"]"#.into(),
        api_key: api_key.into(),
        ..Default::default()
    };
    let submit = async |cluster: &Cluster, api_key: &str| {
        let reply = cluster.batches().submit_batch(request(api_key)).await.unwrap().into_inner();
        reply.batch.unwrap().batch_id
    };
    let keyed = submit(&cluster, CANARY).await;
    let keyless = submit(&cluster, "").await;
    cluster.kill_coordinator().await;
    // Beside the data, not in it, so that a copy of the data holds no key.
    let key_file = cluster.dir().join("data.key");
    let mode = fs::metadata(&key_file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::remove_file(&key_file).unwrap();
    cluster.start_coordinator().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let mut watch = WatchLog::new(&keyed);
    watch.follow_to_end(&cluster, SOON).await;
    assert_eq!(watch.tasks[&1].failure_reason(), FailureReason::SecretUnavailable, "{:?}", watch.tasks[&1]);
    assert!(!watch.tasks[&1].failure_message.is_empty());
    let end = WatchLog::new(&keyless).follow_to_end(&cluster, SOON).await;
    assert_eq!(end.counts.unwrap().completed, 1);
    let after = submit(&cluster, CANARY).await;
    let end = WatchLog::new(&after).follow_to_end(&cluster, SOON).await;
    assert_eq!(end.counts.unwrap().completed, 1, "a new key is made, and new batches have theirs");
    assert_eq!(cluster.runs().len(), 2);
}

/// Searches every file that our processes wrote, and the arguments of every process of the machine.
pub(crate) fn assert_nowhere(cluster: &Cluster) {
    let mut searched = 0;
    // The probe's folder is where the child says on purpose what it saw.
    search(cluster.dir(), &cluster.probe_dir(), &mut searched);
    assert!(searched > 3, "there were files to search");
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(!has_canary(&arguments), "in the arguments of {}", entry.path().display());
    }
}

fn search(folder: &Path, except: &Path, searched: &mut usize) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if kind.is_dir() && path != except {
            search(&path, except, searched);
        } else if kind.is_file() {
            *searched += 1;
            assert!(!has_canary(&fs::read(&path).unwrap_or_default()), "in {}", path.display());
        }
    }
}

fn has_canary(bytes: &[u8]) -> bool {
    bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
}
