//! The program is missing on one of three workers: the batch is done by the others, and the machine that was mended
//! comes back when it is told to.

use muster_proto::v1::WorkerStatus;
use muster_tests::{Cluster, ClusterOptions, WatchLog, WorkerOptions, bin, eventually};

use crate::{
    LATER,
    cut_off::{muster, worker},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_the_program_is_set_aside_and_mended() {
    let cluster = Cluster::start_with(ClusterOptions::with_limits(6, 40)).await;
    let missing = cluster.dir().join("dispatch");
    let dispatch = Some(missing.display().to_string());
    let _bad = cluster.worker(WorkerOptions { dispatch, ..WorkerOptions::new("bad", 2) }).await;
    let _good = [
        cluster.worker(WorkerOptions::new("good-1", 2)).await,
        cluster.worker(WorkerOptions::new("good-2", 2)).await,
    ];
    let scripts: Vec<String> = (1..=24).map(|task| format!("sleep 20;say {task}")).collect();
    let batch = cluster.submit(&scripts, 6).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    let end = watch.follow_to_end(&cluster, LATER).await;
    assert_eq!(end.counts.unwrap().completed, 24, "{:#?}", watch.tasks);
    assert!(watch.tasks.values().all(|task| task.attempt == 1 || task.worker_id != "bad"));
    assert_eq!(cluster.runs().len(), 24, "every task ran, and once");
    let bad = worker(&cluster, "bad").await;
    assert_eq!(bad.status(), WorkerStatus::SetAside, "{bad:?}");
    assert!(bad.status_message.contains("No such file"), "the system's reason: {bad:?}");
    let listed = muster(&cluster, &["workers"]).await;
    assert!(listed.contains("No such file"), "{listed}");

    // Mended, but nobody said so: it gets nothing.
    std::fs::copy(bin("probe"), &missing).expect("the program can be put there");
    for name in ["good-1", "good-2"] {
        muster(&cluster, &["drain", name]).await;
        assert_eq!(worker(&cluster, name).await.status(), WorkerStatus::Draining);
    }
    let batch = cluster.submit(&["say one", "say two", "say three"], 3).await;
    let explained = muster(&cluster, &["explain", &batch.batch_id]).await;
    assert!(explained.contains("No such file") && explained.contains("resume bad"), "{explained}");
    muster(&cluster, &["resume", "bad"]).await;
    eventually("it is back", LATER, || async {
        (worker(&cluster, "bad").await.status() == WorkerStatus::Connected).then_some(())
    })
    .await;
    let mut watch = WatchLog::new(&batch.batch_id);
    let end = watch.follow_to_end(&cluster, LATER).await;
    assert_eq!(end.counts.unwrap().completed, 3, "{:#?}", watch.tasks);
    assert!(watch.tasks.values().all(|task| task.worker_id == "bad"), "{:#?}", watch.tasks);
    assert_eq!(cluster.runs().len(), 27);
}
