//! Cut off at awkward moments: one direction of the network fails before the other does, or neither side is told
//! that the connection is dead, or a result comes again.

use muster_proto::v1::{
    Accepted, Acknowledged, AttachRequest, Ended, Hello, Offer, Started, TaskStatus, attach_request,
    attach_response, ended::Outcome,
};
use muster_tests::{
    Cluster, ClusterOptions, Direction, Proxy, WatchLog, WorkerOptions, WorkerProcess, eventually,
    probe::run_of, read_log, wait_for,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{LATER, SOON, cut_off::worker};

/// What prints before and after a gate, with more output than rides in a result.
const SCRIPT: &str = "flood 100000;touch up;wait gate;flood 100000;exit 3";

async fn far_worker() -> (Cluster, Proxy, WorkerProcess) {
    let cluster = Cluster::start_with(ClusterOptions::with_limits(2, 20)).await;
    let proxy = Proxy::start(cluster.address()).await;
    let options = WorkerOptions { through: Some(proxy.address()), ..WorkerOptions::new("far", 1) };
    let worker = cluster.worker(options).await;
    (cluster, proxy, worker)
}

async fn program_started(cluster: &Cluster, batch_id: &str) {
    let dir = cluster.probe_dir();
    eventually("the program starts", SOON, || async { run_of(&dir, batch_id, 1, 1) }).await;
}

async fn program_ended(cluster: &Cluster, batch_id: &str) {
    let dir = cluster.probe_dir();
    eventually("the program ends", SOON, || async { run_of(&dir, batch_id, 1, 1)?.end_ns }).await;
}

/// The one task of the batch ended as its program did, in its first attempt; its worker has forgotten it, and works.
async fn assert_right_end(cluster: &Cluster, batch_id: &str) {
    let mut watch = WatchLog::new(batch_id);
    watch.follow_to_end(cluster, LATER).await;
    let task = &watch.tasks[&1];
    assert_eq!((task.status(), task.exit_code), (TaskStatus::Failed, Some(3)), "{task:?}");
    assert!(task.late_results.is_empty(), "{task:?}");
    let log = read_log(cluster, batch_id, 1, 0, LATER).await;
    let half = muster_tests::probe::flood(100_000);
    assert!(log == [half.clone(), half].concat(), "{} bytes of log", log.len());
    assert_eq!(cluster.runs().len(), 1, "started once");
    let next = cluster.submit(&["say next"], 1).await;
    let mut watch = WatchLog::new(&next.batch_id);
    watch.follow_to_end(cluster, LATER).await;
    assert_eq!(watch.tasks[&1].status(), TaskStatus::Completed);
    assert_eq!(worker(cluster, "far").await.held, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_never_arrives_is_offered_again() {
    let (cluster, proxy, _worker) = far_worker().await;
    proxy.hold(Direction::FromTarget);
    let batch = cluster.submit(&[SCRIPT], 1).await;
    eventually("it is offered", SOON, || async { (worker(&cluster, "far").await.held == 1).then_some(()) })
        .await;
    proxy.cut();
    assert!(cluster.runs().is_empty(), "nothing has started");
    proxy.restore();
    wait_for(&cluster.probe_dir().join("up")).await;
    cluster.open_gate("gate");
    assert_right_end(&cluster, &batch.batch_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_that_never_arrives_does_not_start_it_twice() {
    let (cluster, proxy, _worker) = far_worker().await;
    proxy.hold(Direction::ToTarget);
    let batch = cluster.submit(&[SCRIPT], 1).await;
    program_started(&cluster, &batch.batch_id).await;
    let queued = WatchLog::new(&batch.batch_id).follow(&cluster, SOON, |_| true).await;
    assert_eq!(queued.counts.unwrap().queued, 1, "the coordinator has not heard of it: {queued:?}");
    proxy.cut();
    proxy.restore();
    let mut watch = WatchLog::new(&batch.batch_id);
    let runs = |watch: &WatchLog| watch.tasks.values().any(|task| task.status() == TaskStatus::Running);
    watch.follow(&cluster, LATER, runs).await;
    wait_for(&cluster.probe_dir().join("up")).await;
    cluster.open_gate("gate");
    assert_right_end(&cluster, &batch.batch_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_never_arrives_is_told_again() {
    let (cluster, proxy, _worker) = far_worker().await;
    let batch = cluster.submit(&[SCRIPT], 1).await;
    wait_for(&cluster.probe_dir().join("up")).await;
    proxy.hold(Direction::ToTarget);
    cluster.open_gate("gate");
    program_ended(&cluster, &batch.batch_id).await;
    proxy.cut();
    proxy.restore();
    assert_right_end(&cluster, &batch.batch_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_never_arrives_changes_nothing() {
    let (cluster, proxy, _worker) = far_worker().await;
    // Its whole output rides in the result: nothing but the acknowledgement comes back.
    let batch = cluster.submit(&["say a;touch up;wait gate;say b;exit 3"], 1).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow(&cluster, SOON, |watch| watch.tasks.values().any(|task| task.pid != 0)).await;
    wait_for(&cluster.probe_dir().join("up")).await;
    proxy.hold(Direction::FromTarget);
    cluster.open_gate("gate");
    watch.follow_to_end(&cluster, LATER).await;
    let ended = watch.tasks[&1].clone();
    assert_eq!(ended.exit_code, Some(3));
    proxy.cut();
    proxy.restore();
    // It says hello with what it still holds, and takes the next task when it holds nothing more.
    let next = cluster.submit(&["say next"], 1).await;
    WatchLog::new(&next.batch_id).follow_to_end(&cluster, LATER).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow_to_end(&cluster, LATER).await;
    assert_eq!(watch.tasks[&1], ended, "ended once, and nothing was added");
    assert_eq!(read_log(&cluster, &batch.batch_id, 1, 0, SOON).await, b"a\nb\n");
    assert_eq!((cluster.runs().len(), worker(&cluster, "far").await.held), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_dead_in_silence_is_found_out() {
    let (cluster, proxy, _worker) = far_worker().await;
    let batch = cluster.submit(&[SCRIPT], 1).await;
    wait_for(&cluster.probe_dir().join("up")).await;
    proxy.hold(Direction::ToTarget);
    proxy.hold(Direction::FromTarget);
    cluster.open_gate("gate");
    program_ended(&cluster, &batch.batch_id).await;
    let passed = proxy.passed();
    // Nobody is told that the connection is dead, neither side ends it, and no new one gets through.
    eventually("the coordinator gives the session up", LATER, || async {
        let status = worker(&cluster, "far").await.status();
        (status == muster_proto::v1::WorkerStatus::Disconnected).then_some(())
    })
    .await;
    eventually("the worker dials again", LATER, || async { (proxy.passed() > passed).then_some(()) }).await;
    // What was held arrives after all, in whatever order.
    proxy.restore();
    assert_right_end(&cluster, &batch.batch_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_comes_again_with_another_outcome_changes_nothing() {
    let cluster = Cluster::start_with(ClusterOptions::with_limits(2, 20)).await;
    let batch = cluster.submit(&["say nothing"], 1).await;
    let (sender, requests) = mpsc::channel(16);
    let say = async |message| sender.send(AttachRequest { message: Some(message) }).await.unwrap();
    let hello = Hello {
        protocol: 1,
        name: "told".into(),
        instance_id: "0123456789abcdef0123456789abcdef".into(),
        boot_id: "fedcba98-7654-3210-fedc-ba9876543210".into(),
        slots: 1,
        version: "0.0.0".into(),
        connection: 1,
        ..Default::default()
    };
    say(attach_request::Message::Hello(hello)).await;
    let stream = cluster.worker_service().attach(ReceiverStream::new(requests)).await.expect("a welcome");
    let mut stream = stream.into_inner();
    let ended = |attempt, code| {
        attach_request::Message::Ended(Ended {
            attempt,
            outcome: Some(Outcome::ExitCode(code)),
            log_size: 10,
            inline_log: b"said once\n".to_vec().into(),
            ..Default::default()
        })
    };
    let mut again = [0, 5].into_iter();
    loop {
        let message = tokio::time::timeout(SOON, stream.message()).await.expect("an answer");
        match message.unwrap().expect("a message").message.expect("a message of ours") {
            attach_response::Message::Offer(Offer { attempt, .. }) => {
                say(attach_request::Message::Accepted(Accepted { attempt })).await;
                let started = Started { attempt, pid: 77, output_path: "anywhere".into() };
                say(attach_request::Message::Started(started)).await;
                say(ended(attempt, 4)).await;
            }
            // Acknowledged each time, so that a worker does not keep it for ever.
            attach_response::Message::Acknowledged(Acknowledged { attempt }) => match again.next() {
                Some(code) => say(ended(attempt, code)).await,
                None => break,
            },
            _ => {}
        }
    }
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow_to_end(&cluster, SOON).await;
    let task = &watch.tasks[&1];
    assert_eq!(
        (task.status(), task.exit_code),
        (TaskStatus::Failed, Some(4)),
        "the first one stands: {task:?}"
    );
    assert!(task.late_results.is_empty(), "{task:?}");
    assert_eq!(read_log(&cluster, &batch.batch_id, 1, 0, SOON).await, b"said once\n");
}
