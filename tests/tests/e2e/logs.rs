//! Output while it grows, from any offset, in any size.

use muster_proto::v1::{TailLogsRequest, TailLogsResponse, tail_logs_response::Content};
use muster_tests::{Cluster, WatchLog, WorkerOptions, eventually, probe::flood, read_log, wait_for};
use tonic::{Code, Status};

use crate::{LATER, SOON};

async fn tail(cluster: &Cluster, request: TailLogsRequest) -> Result<Vec<TailLogsResponse>, Status> {
    let mut stream = cluster.batches().tail_logs(request).await?.into_inner();
    let mut pieces = Vec::new();
    while let Some(piece) = stream.message().await? {
        pieces.push(piece);
    }
    Ok(pieces)
}

fn bytes(pieces: &[TailLogsResponse]) -> Vec<u8> {
    let content = |piece: &TailLogsResponse| match &piece.content {
        Some(Content::Text(text)) => text.as_bytes().to_vec(),
        Some(Content::Data(data)) => data.to_vec(),
        None => Vec::new(),
    };
    pieces.iter().flat_map(content).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_growing_log_shows_what_is_there_and_ends_when_the_attempt_does() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let batch = cluster.submit(&["say 竹;touch half;wait go;say 林"], 1).await;
    let request = TailLogsRequest { batch_id: batch.batch_id.clone(), task_index: 1, ..Default::default() };
    wait_for(&cluster.probe_dir().join("half")).await;
    let so_far = eventually("the first half is there while the task runs", SOON, || async {
        let pieces = tail(&cluster, request.clone()).await.unwrap();
        (!bytes(&pieces).is_empty()).then_some(pieces)
    })
    .await;
    assert_eq!(bytes(&so_far), "竹\n".as_bytes());
    assert!(so_far.iter().all(|piece| !piece.end_of_log), "it has not ended: {so_far:?}");
    cluster.open_gate("go");
    WatchLog::new(&batch.batch_id).follow_to_end(&cluster, SOON).await;
    // From the middle of a character: its rest is no text.
    let from = |offset| TailLogsRequest { offset, ..request.clone() };
    let pieces = tail(&cluster, from(1)).await.unwrap();
    assert_eq!(bytes(&pieces), &"竹\n林\n".as_bytes()[1..]);
    assert_eq!(pieces[0].offset, 1);
    assert!(pieces.last().unwrap().end_of_log);
    let pieces = tail(&cluster, from(8)).await.unwrap();
    assert_eq!((bytes(&pieces), pieces.last().unwrap().end_of_log), (Vec::new(), true), "from its very end");
    let past = tail(&cluster, from(9)).await.unwrap_err();
    assert!(matches!(past.code(), Code::InvalidArgument | Code::OutOfRange), "past the end: {past:?}");
    let unknown = tail(&cluster, TailLogsRequest { attempt: 2, ..request }).await.unwrap_err();
    assert!(matches!(unknown.code(), Code::NotFound | Code::InvalidArgument), "no such attempt: {unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_a_long_log_whole_and_holds_nobody_up() {
    const SIZE: usize = 20_000_000;
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 2)).await;
    let batch = cluster.submit(&[format!("flood {SIZE}").as_str(), "say quick"], 2).await;
    let request = TailLogsRequest {
        batch_id: batch.batch_id.clone(),
        task_index: 1,
        follow: true,
        raw: true,
        ..Default::default()
    };
    // A reader that has taken one piece and then takes no more for now.
    let mut slow = cluster.batches().tail_logs(request).await.unwrap().into_inner();
    let first = slow.message().await.unwrap().expect("a piece");
    let mut log = bytes(&[first]);
    WatchLog::new(&batch.batch_id).follow_to_end(&cluster, LATER).await;
    assert!(
        read_log(&cluster, &batch.batch_id, 1, 0, LATER).await == flood(SIZE),
        "another reader has it all"
    );
    // It may be cut off for its slowness; what it has is right, and it can go on from there.
    while let Ok(Some(piece)) = slow.message().await {
        assert_eq!(piece.offset as usize, log.len(), "no gap");
        log.extend(bytes(&[piece]));
    }
    assert!(log == flood(SIZE)[..log.len()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_argument_arrives_and_a_longer_one_is_refused() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    // An argument may have 131,071 bytes.
    let longest = format!("args;say {}", "x".repeat(131_071 - 9));
    assert_eq!(longest.len(), 131_071);
    let batch = cluster.submit(&[longest.as_str()], 1).await;
    let end = WatchLog::new(&batch.batch_id).follow_to_end(&cluster, SOON).await;
    assert_eq!(end.counts.unwrap().completed, 1);
    let log = read_log(&cluster, &batch.batch_id, 1, 0, SOON).await;
    let log = String::from_utf8(log).unwrap();
    assert!(log.lines().any(|line| line == longest), "the child got it whole");
    // One more byte; and with a dash in front, the flag's name counts too.
    for prompt in ["x".repeat(131_072), format!("-{}", "x".repeat(131_070))] {
        let request = muster_proto::v1::SubmitBatchRequest {
            batch_json: serde_json::to_string(&[&prompt]).unwrap(),
            ..Default::default()
        };
        let status = cluster.batches().submit_batch(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{} bytes: {}", prompt.len(), status.message());
    }
}
