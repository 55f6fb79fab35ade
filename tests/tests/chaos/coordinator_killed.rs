//! The coordinator, killed over and over while two workers run a batch, others submit, and others watch.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use muster_proto::v1::{
    BatchOptions, SubmitBatchRequest, TaskStatus, batch_service_client::BatchServiceClient,
};
use muster_tests::{Cluster, ClusterOptions, WatchLog, is_away, read_log};
use tonic::transport::Channel;

use crate::{
    LATER, SOON,
    batch::{self, AT_ONCE, BLOWS, Traffic},
    dice::Dice,
};

/// Between two submits of one client.
const SUBMIT_PAUSE: Duration = Duration::from_millis(150);
/// Batches that are submitted meanwhile, at most.
const MAX_SUBMITTED: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_twenty_times_loses_nothing_acknowledged() {
    let mut dice = Dice::thrown();
    let mut cluster = Cluster::start_with(ClusterOptions::with_limits(AT_ONCE as u32, 100)).await;
    // One place more than the batch takes, so that what is submitted meanwhile runs meanwhile.
    let _workers = [
        cluster.worker(muster_tests::WorkerOptions::new("a", 3)).await,
        cluster.worker(muster_tests::WorkerOptions::new("b", 2)).await,
    ];
    let batch = cluster.submit(&batch::scripts(), AT_ONCE).await;
    let stop = Arc::new(AtomicBool::new(false));
    let submitter = tokio::spawn(keep_submitting(cluster.batches(), Arc::clone(&stop)));
    let watcher = tokio::spawn(keep_watching(cluster.batches(), batch.batch_id.clone()));
    let mut traffic = Traffic::new(&batch.batch_id);
    let mut recovery = Vec::new();
    let begin = Instant::now();
    for blow in 0..BLOWS {
        traffic.moves(&cluster, blow).await;
        dice.moment(250).await;
        let gate = format!("gate-{blow}");
        let when = dice.below(3);
        traffic.struck(&cluster, blow);
        if when == 0 {
            cluster.open_gate(&gate);
            dice.moment(30).await;
        }
        cluster.kill_coordinator().await;
        if when == 1 {
            cluster.open_gate(&gate);
        }
        dice.moment(200).await;
        cluster.start_coordinator().await;
        if dice.below(4) == 0 {
            // Once more, in the middle of its recovery.
            dice.moment(100).await;
            cluster.kill_coordinator().await;
            cluster.start_coordinator().await;
        }
        if when != 2 {
            continue;
        }
        let up = Instant::now();
        traffic.moves(&cluster, blow).await;
        recovery.push(up.elapsed());
        cluster.open_gate(&gate);
    }
    stop.store(true, Ordering::SeqCst);
    let submitted = submitter.await.expect("every submit came through");
    let mut watch = watcher.await.expect("the watch came through");
    assert!(watch.streams > BLOWS as u32 / 2, "the watch was broken and taken up: {}", watch.streams);
    batch::assert_whole(&cluster, &mut watch).await;

    assert!(submitted.len() >= BLOWS as usize, "there were submits at the blows: {}", submitted.len());
    for (request_id, batch_id) in &submitted {
        let again = cluster.batches().submit_batch(request(request_id)).await.expect("the same batch again");
        assert_eq!(&again.into_inner().batch.unwrap().batch_id, batch_id, "acknowledged once as another");
        let mut watch = WatchLog::new(batch_id);
        watch.follow_to_end(&cluster, LATER).await;
        assert_eq!(watch.tasks[&1].status(), TaskStatus::Completed, "{:?}", watch.tasks);
        let log = read_log(&cluster, batch_id, 1, 0, SOON).await;
        assert_eq!(log, format!("{request_id}\n").into_bytes());
        assert_eq!(cluster.runs().iter().filter(|run| run.batch == *batch_id).count(), 1);
    }
    let ids: std::collections::BTreeSet<_> = submitted.values().chain([&batch.batch_id]).collect();
    let started: std::collections::BTreeSet<_> = cluster.runs().into_iter().map(|run| run.batch).collect();
    assert_eq!(started.len(), ids.len(), "no batch runs that nobody knows of");
    batch::assert_nothing_left(&cluster);
    recovery.sort();
    println!(
        "coordinator killed {BLOWS} times in {:.1} s; running at each: {:?}; {} batches submitted meanwhile; from its \
         start to output stored again: median {:?}, most {:?}",
        begin.elapsed().as_secs_f64(),
        traffic.running,
        submitted.len(),
        recovery.get(recovery.len() / 2),
        recovery.last()
    );
}

fn request(request_id: &str) -> SubmitBatchRequest {
    SubmitBatchRequest {
        batch_json: serde_json::json!([format!("say {request_id}")]).to_string(),
        request_id: request_id.into(),
        options: Some(BatchOptions::default()),
        ..Default::default()
    }
}

/// Submits one batch after another, each until it is acknowledged; gives the ids that the acknowledgements named.
async fn keep_submitting(
    mut client: BatchServiceClient<Channel>,
    stop: Arc<AtomicBool>,
) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    while !stop.load(Ordering::SeqCst) && acknowledged.len() < MAX_SUBMITTED {
        let request_id = format!("request-{}", acknowledged.len());
        let batch = loop {
            match client.submit_batch(request(&request_id)).await {
                Ok(reply) => break reply.into_inner().batch.expect("the batch"),
                Err(status) if is_away(&status) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(status) => panic!("{request_id}: {status:?}"),
            }
        };
        acknowledged.insert(request_id, batch.batch_id);
        tokio::time::sleep(SUBMIT_PAUSE).await;
    }
    acknowledged
}

async fn keep_watching(client: BatchServiceClient<Channel>, batch_id: String) -> WatchLog {
    let mut watch = WatchLog::new(&batch_id);
    watch.follow_with(client, 2 * LATER, |_| false).await;
    watch
}
