//! What operators do, and what disks do to them: backups, retention, full disks, torn files, stops.

use std::{collections::BTreeMap, fs, process::Stdio, time::Duration};

use muster_proto::v1::{
    Batch, ListBatchesRequest, RetryBatchRequest, SchedulerStatus, SubmitBatchRequest, TailLogsRequest,
    WatchBatchRequest,
};
use muster_tests::{
    Cluster, ClusterOptions, WatchLog, WorkerOptions, eventually, probe::flood, read_log, wait_for,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, timeout};
use tonic::Code;

use crate::{LATER, SOON};

/// Exit code of a coordinator that can no longer store anything.
const DISK_FAILED: i32 = 74;
/// What is printed by each task of a backup under load.
const PRINTED: usize = 40_000;

/// Runs `muster-coordinator` with these arguments to its end: exit code and everything that it printed.
async fn coordinator(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    let mut command = cluster.command("muster-coordinator", "tool");
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = timeout(LATER, command.output()).await.expect("it ends").unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("it exits"), String::from_utf8(text).unwrap())
}

async fn check(cluster: &Cluster) -> (i32, String) {
    coordinator(cluster, &["check", "--data-dir", cluster.data_dir().to_str().unwrap()]).await
}

async fn batches(cluster: &Cluster) -> BTreeMap<String, Batch> {
    let request = ListBatchesRequest { page_size: 1_000, ..Default::default() };
    let reply = cluster.batches().list_batches(request).await.unwrap().into_inner();
    reply.batches.into_iter().map(|batch| (batch.batch_id.clone(), batch)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_has_everything_that_was_acknowledged_before_it() {
    let mut cluster = Cluster::start().await;
    let workers = cluster.workers(2, 4).await;
    let script = format!("flood {PRINTED};say done");
    let mut ended = Vec::new();
    for _ in 0..3 {
        let batch = cluster.submit(&[&script, &script], 2).await.batch_id;
        WatchLog::new(&batch).follow_to_end(&cluster, SOON).await;
        ended.push(batch);
    }
    // Submissions and results go on while it is made.
    let mut before = ended.clone();
    for _ in 0..3 {
        before.push(cluster.submit(&[&script, &script, &script], 3).await.batch_id);
    }
    let data = cluster.data_dir();
    let dest = cluster.dir().join("backup");
    let arguments = ["backup", "--data-dir", data.to_str().unwrap(), dest.to_str().unwrap()];
    let mut backup = Box::pin(coordinator(&cluster, &arguments));
    let mut meanwhile = 0;
    let one = [script.as_str()];
    let (code, said) = loop {
        tokio::select! {
            done = &mut backup => break done,
            _ = cluster.submit(&one, 1) => meanwhile += 1,
        }
    };
    drop(backup);
    assert_eq!(code, 0, "{said}");
    let (code, said) = coordinator(&cluster, &arguments).await;
    assert!(code == 1 && said.contains("not empty"), "a backup is never written over: {said}");
    let (code, said) = check(&cluster).await;
    assert!(code == 1 && said.contains("in use"), "{said}");

    // All that is left is the copy.
    cluster.kill_coordinator().await;
    for worker in workers {
        worker.kill().await;
    }
    cluster.replace_data(&dest);
    let (code, said) = check(&cluster).await;
    assert!(code == 0 && said.contains("all is well"), "{said}");
    cluster.start_coordinator().await;
    let there = batches(&cluster).await;
    for id in &before {
        assert!(there.contains_key(id), "{id} was acknowledged before ({meanwhile} came meanwhile)");
    }
    let whole = [flood(PRINTED), b"done\n".to_vec()].concat();
    for (id, batch) in &there {
        let is_ended = batch.scheduler_status() == SchedulerStatus::Completed;
        assert!(is_ended || batch.on_hold, "{batch:?}");
        let mut watch = WatchLog::new(id);
        watch.follow(&cluster, SOON, |watch| watch.messages > 0).await;
        for task in watch.tasks.values().filter(|task| task.exit_code == Some(0)) {
            let log = read_log(&cluster, id, task.index, 0, SOON).await;
            assert!(log == whole, "the output of task {} of {id}: {} bytes", task.index, log.len());
        }
    }
    assert!(ended.iter().all(|id| there[id].counts.unwrap().completed == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_what_is_damaged() {
    let mut cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let batch = cluster.submit(&["flood 200000"], 1).await.batch_id;
    WatchLog::new(&batch).follow_to_end(&cluster, SOON).await;
    assert!(cluster.stop_coordinator().await.success());
    let (code, said) = check(&cluster).await;
    assert_eq!(code, 0, "{said}");
    let segment = fs::read_dir(cluster.data_dir().join("logs")).unwrap().flatten().map(|entry| entry.path());
    let segment = segment.into_iter().find(|path| path.extension().is_some_and(|e| e == "log")).unwrap();
    let length = fs::metadata(&segment).unwrap().len();
    fs::OpenOptions::new().write(true).open(&segment).unwrap().set_len(length / 2).unwrap();
    let (code, said) = check(&cluster).await;
    assert!(code == 1 && said.contains(&batch) && said.contains("something is wrong"), "{said}");
    let nowhere = cluster.dir().join("nowhere");
    let (code, said) = coordinator(&cluster, &["check", "--data-dir", nowhere.to_str().unwrap()]).await;
    assert!(code == 1 && said.contains("holds no data") && !nowhere.exists(), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_coordinator_on_the_same_data_is_refused() {
    let cluster = Cluster::start().await;
    let data = cluster.data_dir();
    let (code, said) =
        coordinator(&cluster, &["--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0"]).await;
    assert!(code == 1 && said.contains("in use by another coordinator"), "{said}");
    cluster.submit(&["say still here"], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_data_is_refused_and_left_as_it_is() {
    // Where a database file has the number of its schema.
    const PLACE: std::ops::Range<usize> = 60..64;
    let cluster = Cluster::start().await;
    cluster.submit(&["say a"], 1).await;
    // A backup is one file, without a write-ahead log that would have the last word.
    let (data, copy) = (cluster.data_dir(), cluster.dir().join("copy"));
    let (data, copy) = (data.to_str().unwrap(), copy.to_str().unwrap());
    assert_eq!(coordinator(&cluster, &["backup", "--data-dir", data, copy]).await.0, 0);
    let database = cluster.dir().join("copy/muster.db");
    let whole = fs::read(&database).unwrap();
    let mut newer = whole.clone();
    newer[PLACE].copy_from_slice(&99_u32.to_be_bytes());
    fs::write(&database, &newer).unwrap();
    for arguments in [&["--listen=127.0.0.1:0", "--data-dir", copy][..], &["check", "--data-dir", copy]] {
        let (code, said) = coordinator(&cluster, arguments).await;
        assert!(code == 1 && said.contains("schema 99") && said.contains("newer"), "{said}");
    }
    assert!(fs::read(&database).unwrap() == newer, "not a byte is changed");
    fs::write(&database, &whole).unwrap();
    assert_eq!(coordinator(&cluster, &["check", "--data-dir", copy]).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_removes_ended_batches_and_nothing_else() {
    let mut cluster = Cluster::start().await;
    let worker = cluster.worker(WorkerOptions::new("solo", 2)).await;
    let mut ended = Vec::new();
    for _ in 0..3 {
        let batch = cluster.submit(&["flood 1000"], 1).await.batch_id;
        WatchLog::new(&batch).follow_to_end(&cluster, SOON).await;
        ended.push(batch);
    }
    let unfinished = cluster.submit(&["touch up;wait go"], 1).await.batch_id;
    wait_for(&cluster.probe_dir().join("up")).await;
    cluster.kill_coordinator().await;
    cluster.set_coordinator_args(&["--retain-batches=1"]);
    cluster.start_coordinator().await;
    eventually("two batches are removed", SOON, || async {
        (batches(&cluster).await.len() == 2).then_some(())
    })
    .await;
    let there = batches(&cluster).await;
    assert!(there.contains_key(&ended[2]) && there.contains_key(&unfinished), "{there:?}");
    let request = RetryBatchRequest { batch_id: ended[0].clone(), ..Default::default() };
    let gone = cluster.batches().retry_batch(request).await.unwrap_err();
    assert!(gone.code() == Code::NotFound && gone.message().contains("retention"), "{gone:?}");
    assert_eq!(read_log(&cluster, &ended[2], 1, 0, SOON).await, flood(1_000));
    cluster.open_gate("go");
    let end = WatchLog::new(&unfinished).follow_to_end(&cluster, LATER).await;
    assert_eq!(end.counts.unwrap().completed, 1);
    drop(worker);
    assert!(cluster.stop_coordinator().await.success());
    let (code, said) = check(&cluster).await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_little_room_new_work_is_refused_and_the_rest_goes_on() {
    let mut cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let batch = cluster.submit(&["exit 1", "touch up;wait go;say done"], 1).await.batch_id;
    wait_for(&cluster.probe_dir().join("up")).await;
    cluster.kill_coordinator().await;
    cluster.set_coordinator_args(&["--min-free-bytes=999999TiB"]);
    cluster.start_coordinator().await;
    let submit = |validate_only| SubmitBatchRequest {
        batch_json: r#"["say more"]"#.into(),
        validate_only,
        ..Default::default()
    };
    let refused = cluster.batches().submit_batch(submit(false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("--min-free-bytes"), "the way out: {refused:?}");
    cluster.batches().submit_batch(submit(true)).await.unwrap();
    let retry = RetryBatchRequest { batch_id: batch.clone(), ..Default::default() };
    let refused = cluster.batches().retry_batch(retry.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    cluster.open_gate("go");
    let end = WatchLog::new(&batch).follow_to_end(&cluster, LATER).await;
    assert_eq!(end.counts.unwrap().completed, 1, "what runs goes on");
    cluster.kill_coordinator().await;
    cluster.set_coordinator_args(&[]);
    cluster.start_coordinator().await;
    cluster.batches().retry_batch(retry).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_stops_the_coordinator_and_loses_nothing() {
    let mut cluster = Cluster::start_with(ClusterOptions::with_limits(5, 5_000)).await;
    let first = cluster.submit(&["say first"], 1).await.batch_id;
    // As a full disk does: from some size on, no file can grow.
    let pid = cluster.coordinator_pid().to_string();
    let limited = std::process::Command::new("prlimit")
        .args(["--pid", &pid, "--fsize=600000:600000"])
        .status()
        .expect("prlimit comes with util-linux");
    assert!(limited.success());
    let prompts: Vec<String> = (0..500).map(|task| format!("say {task} {}", "x".repeat(400))).collect();
    let mut stored = vec![first];
    let refused = loop {
        let request = SubmitBatchRequest {
            batch_json: serde_json::to_string(&prompts).unwrap(),
            concurrency: Some(1),
            ..Default::default()
        };
        match cluster.batches().submit_batch(request).await {
            Ok(reply) => stored.push(reply.into_inner().batch.unwrap().batch_id),
            Err(status) => break status,
        }
        assert!(stored.len() < 1_000, "the limit holds");
    };
    assert!(matches!(refused.code(), Code::Unavailable | Code::Internal | Code::Unknown), "{refused:?}");
    let (status, said) = cluster.coordinator_ended(LATER).await;
    assert_eq!(status.code(), Some(DISK_FAILED), "{said}");
    assert!(said.contains("nothing more is acknowledged"), "{said}");
    let (code, said) = check(&cluster).await;
    assert_eq!(code, 0, "{said}");

    // There is room again.
    cluster.start_coordinator().await;
    let there = batches(&cluster).await;
    assert!(stored.iter().all(|id| there.contains_key(id)), "nothing that was acknowledged is lost");
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let end = WatchLog::new(&stored[0]).follow_to_end(&cluster, LATER).await;
    assert_eq!(end.counts.unwrap().completed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_ahead_log_that_lost_its_end_is_an_earlier_state_and_never_half_of_one() {
    let mut cluster = Cluster::start().await;
    for _ in 0..20 {
        cluster.submit(&["say a", "say b"], 1).await;
    }
    cluster.kill_coordinator().await;
    let wal = cluster.data_dir().join("muster.db-wal");
    let length = fs::metadata(&wal).unwrap().len();
    assert!(length > 0, "nothing was checkpointed");
    let cut = |to: u64| fs::OpenOptions::new().write(true).open(&wal).unwrap().set_len(to).unwrap();
    cut(length / 3 * 2 + 7);
    cluster.start_coordinator().await;
    let there = batches(&cluster).await;
    assert!((1..20).contains(&there.len()), "{}", there.len());
    for id in there.keys() {
        let mut watch = WatchLog::new(id);
        watch.follow(&cluster, SOON, |watch| watch.messages > 0).await;
        assert_eq!(watch.tasks.len(), 2);
    }
    let _worker = cluster.worker(WorkerOptions::new("solo", 2)).await;
    for id in there.keys() {
        WatchLog::new(id).follow_to_end(&cluster, LATER).await;
    }
    assert!(cluster.stop_coordinator().await.success());
    let (code, said) = check(&cluster).await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_hundred_streams_within_ten_seconds() {
    let mut cluster = Cluster::start().await;
    let _workers = cluster.workers(3, 1).await;
    let batch = cluster.submit(&["say begun;touch up;wait go;say done"], 1).await.batch_id;
    wait_for(&cluster.probe_dir().join("up")).await;
    let mut streams = tokio::task::JoinSet::new();
    let begun = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    for number in 0..100 {
        let (mut client, id, begun) = (cluster.batches(), batch.clone(), begun.clone());
        streams.spawn(async move {
            // How a stream ended, after its first message.
            if number % 2 == 0 {
                let request = WatchBatchRequest { batch_id: id, ..Default::default() };
                let mut stream = client.watch_batch(request).await?.into_inner();
                stream.message().await?;
                begun.add_permits(1);
                while stream.message().await?.is_some() {}
            } else {
                let request =
                    TailLogsRequest { batch_id: id, task_index: 1, follow: true, ..Default::default() };
                let mut stream = client.tail_logs(request).await?.into_inner();
                stream.message().await?;
                begun.add_permits(1);
                while stream.message().await?.is_some() {}
            }
            Ok::<_, tonic::Status>(())
        });
    }
    timeout(SOON, begun.acquire_many(100)).await.expect("every stream has begun").unwrap().forget();
    let asked = Instant::now();
    let status = cluster.stop_coordinator().await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert!(status.success(), "{status:?}");
    while let Some(end) = streams.join_next().await {
        let end = end.unwrap().expect_err("a stream that is cut short says so");
        assert_eq!(end.code(), Code::Unavailable, "{end:?}");
        assert!(end.message().contains("shutting down"), "{end:?}");
    }
    // Whoever can, comes back.
    let mut watch = WatchLog::new(&batch);
    cluster.start_coordinator().await;
    cluster.open_gate("go");
    let end = watch.follow_to_end(&cluster, LATER).await;
    assert_eq!(end.counts.unwrap().completed, 1);
    assert_eq!(cluster.runs().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let mut cluster = Cluster::start().await;
    let batch = cluster.submit(&["say a"], 1).await.batch_id;
    let pid = Pid::from_raw(cluster.coordinator_pid() as i32);
    // A client that never reads holds a connection open.
    let _held = tokio::net::TcpStream::connect(cluster.address()).await.unwrap();
    kill(pid, Signal::SIGTERM).unwrap();
    kill(pid, Signal::SIGINT).unwrap();
    cluster.coordinator_ended(SOON).await;
    cluster.start_coordinator().await;
    assert!(batches(&cluster).await.contains_key(&batch));
}
