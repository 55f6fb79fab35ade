//! Children that misbehave: each ends as it should, within the grace and two seconds, with its whole log.

use std::time::Duration;

use muster_proto::v1::{CancelBatchRequest, FailureReason, Task, TaskStatus};
use muster_tests::{
    Cluster, ClusterOptions, WatchLog, WorkerOptions, eventually,
    probe::{self, BAD_UTF8, DEV_STD, flood},
    read_log, wait_for,
};

use crate::{LATER, SOON};

/// The default grace, and two seconds.
const GRACE_AND_TWO: Duration = Duration::from_secs(12);
const FIFTY_MB: usize = 50_000_000;

/// Runs one script to its end on a cluster of its own; gives the task and its log.
async fn run(script: &str, within: Duration) -> (Cluster, Task, Vec<u8>) {
    let cluster = Cluster::start_with(ClusterOptions::with_limits(4, 10)).await;
    // The runner is not ours to stop before the assertions: the cluster ends it.
    let _worker = cluster.worker(WorkerOptions::new("solo", 2)).await;
    let batch = cluster.submit(&[script], 1).await;
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow_to_end(&cluster, within).await;
    let log = read_log(&cluster, &batch.batch_id, 1, 0, within).await;
    assert_eq!(cluster.runs().len(), 1);
    let task = watch.tasks[&1].clone();
    assert_eq!(task.log_bytes, log.len() as i64);
    (cluster, task, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_of_output_are_kept_byte_for_byte() {
    let (_cluster, task, log) = run(&format!("flood {FIFTY_MB}"), LATER).await;
    assert_eq!(task.status(), TaskStatus::Completed);
    assert_eq!((log.len(), task.discarded_log_bytes), (FIFTY_MB, 0));
    assert!(log == flood(FIFTY_MB), "the log differs from what was printed");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_output_at_all_is_an_empty_log_that_ends() {
    let (_cluster, task, log) = run("exit 0", SOON).await;
    assert_eq!((task.status(), task.exit_code), (TaskStatus::Completed, Some(0)));
    assert!(log.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_utf8_is_kept_as_it_is() {
    let (cluster, task, log) = run("say 竹;utf8bad;say 林", SOON).await;
    assert_eq!(task.status(), TaskStatus::Completed);
    let expected = ["竹\n".as_bytes(), BAD_UTF8, "林\n".as_bytes()].concat();
    assert_eq!(log, expected);
    // Without `raw`, text and data come in turn and add up to the same.
    let request = muster_proto::v1::TailLogsRequest {
        batch_id: cluster.runs()[0].batch.clone(),
        task_index: 1,
        ..Default::default()
    };
    let mut stream = cluster.batches().tail_logs(request).await.unwrap().into_inner();
    let mut mixed = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        match piece.content {
            Some(muster_proto::v1::tail_logs_response::Content::Text(text)) => {
                mixed.extend(text.into_bytes())
            }
            Some(muster_proto::v1::tail_logs_response::Content::Data(data)) => mixed.extend(data),
            None => {}
        }
    }
    assert_eq!(mixed, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn death_by_signal_is_a_failure_that_names_it() {
    let (_cluster, task, log) = run("say last words;signal 9", SOON).await;
    assert_eq!((task.status(), task.failure_reason()), (TaskStatus::Failed, FailureReason::Signal));
    assert_eq!((task.signal, task.exit_code), (9, None));
    assert_eq!(log, b"last words\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_to_the_devices_by_name_cuts_nothing() {
    let (_cluster, task, log) = run("devstd", SOON).await;
    assert_eq!(task.status(), TaskStatus::Completed, "{task:?}");
    assert_eq!(String::from_utf8(log).unwrap(), DEV_STD);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grandchild_that_keeps_the_output_open_holds_nothing_up() {
    let (cluster, task, log) = run("say before;grandchild 60;say after;exit 4", GRACE_AND_TWO).await;
    assert_eq!((task.status(), task.exit_code), (TaskStatus::Failed, Some(4)));
    assert_eq!(log, b"before\nafter\n");
    let run = &cluster.runs()[0];
    let stem = probe::stamp_stem(&run.batch, run.task, run.attempt);
    let pid = std::fs::read_to_string(cluster.probe_dir().join(stem).with_extension("grandchild")).unwrap();
    eventually("the grandchild is ended with its group", SOON, || async { (!alive(&pid)).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_descendant_in_a_session_of_its_own_holds_nothing_up() {
    let (_cluster, task, log) = run("say before;setsid 60;say after", GRACE_AND_TWO).await;
    assert_eq!((task.status(), task.exit_code), (TaskStatus::Completed, Some(0)));
    assert_eq!(log, b"before\nafter\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_ignores_term_is_killed_after_the_grace() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 1)).await;
    let batch = cluster.submit(&["ignoreterm;say deaf;touch deaf;sleep 60000"], 1).await;
    wait_for(&cluster.probe_dir().join("deaf")).await;
    let request = CancelBatchRequest { batch_id: batch.batch_id.clone(), ..Default::default() };
    cluster.batches().cancel_batch(request).await.unwrap();
    let mut watch = WatchLog::new(&batch.batch_id);
    watch.follow_to_end(&cluster, GRACE_AND_TWO).await;
    let task = &watch.tasks[&1];
    assert_eq!(task.status(), TaskStatus::Cancelled);
    assert!(task.end_confirmed);
    assert_eq!(task.signal, 9, "{task:?}");
    assert_eq!(read_log(&cluster, &batch.batch_id, 1, 0, SOON).await, b"deaf\n");
    assert!(!alive(&task.pid.to_string()), "the child is gone when its end is shown");
}

fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // The state follows the name, which is in parentheses. A zombie has ended.
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}
