//! Four workers and three batches at once: limits, order and exactness, checked from the children's own stamps.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::v1::TaskStatus;
use muster_tests::{
    Cluster, ClusterOptions, WatchLog,
    probe::{Run, flood},
    read_log,
};

use crate::LATER;

/// The concurrency limits of the three batches.
const LIMITS: [i32; 3] = [2, 3, 5];
const TASKS: usize = 10;

fn script(batch: usize, task: usize) -> String {
    let (size, pause, code) = (task * 1000 + batch, 20 + 37 * ((task * 7 + batch) % 4), task % 3);
    format!("print {size};sleep {pause};say batch {batch} task {task};result done;exit {code}")
}

#[tokio::test(flavor = "multi_thread")]
async fn three_batches_on_four_workers_keep_their_limits_and_order() {
    let cluster = Cluster::start_with(ClusterOptions::with_limits(8, 20)).await;
    let _workers = cluster.workers(4, 3).await;
    let scripts: Vec<Vec<String>> =
        (0..LIMITS.len()).map(|batch| (1..=TASKS).map(|task| script(batch, task)).collect()).collect();
    let submits = (0..LIMITS.len()).map(|batch| cluster.submit(&scripts[batch], LIMITS[batch]));
    let mut ids = Vec::new();
    // At once: each is polled by a task of its own.
    let mut submits: Vec<_> = submits.map(Box::pin).collect();
    let (first, second, third) = {
        let mut rest = submits.drain(..);
        let (a, b, c) = (rest.next().unwrap(), rest.next().unwrap(), rest.next().unwrap());
        tokio::join!(a, b, c)
    };
    for (batch, limit) in [first, second, third].into_iter().zip(LIMITS) {
        assert_eq!(batch.effective_concurrency, limit);
        ids.push(batch.batch_id);
    }

    for (number, id) in ids.iter().enumerate() {
        let mut watch = WatchLog::new(id);
        watch.follow_to_end(&cluster, LATER).await;
        assert_eq!(watch.tasks.len(), TASKS);
        for task in watch.tasks.values() {
            let index = task.index as usize;
            let code = (index % 3) as i32;
            assert_eq!(task.exit_code, Some(code), "{task:?}");
            let status = if code == 0 { TaskStatus::Completed } else { TaskStatus::Failed };
            assert_eq!(task.status(), status);
            assert_eq!(std::fs::read_to_string(&task.output_path).unwrap(), "done", "its output");
            let mut expected = flood(index * 1000 + number);
            expected.extend_from_slice(format!("batch {number} task {index}\n").as_bytes());
            let log = read_log(&cluster, id, task.index, 0, LATER).await;
            assert!(log == expected, "the log of task {index} of batch {number}, byte for byte");
        }
    }

    let runs = cluster.runs();
    assert_eq!(runs.len(), LIMITS.len() * TASKS, "every task ran once");
    let workers: BTreeSet<String> = workers_used(&cluster, &ids).await;
    assert!(workers.len() > 1, "the batches ran on the fleet, not on one worker: {workers:?}");
    for (id, limit) in ids.iter().zip(LIMITS) {
        let runs: BTreeMap<i32, &Run> =
            runs.iter().filter(|run| run.batch == *id).map(|run| (run.task, run)).collect();
        assert_eq!(runs.len(), TASKS);
        assert!(most_at_once(runs.values().copied()) <= limit as usize, "{runs:#?}");
        for (&task, run) in &runs {
            let ended =
                runs.range(..task).filter(|(_, earlier)| earlier.end_ns.unwrap() <= run.start_ns).count();
            assert!(
                ended as i32 >= task - limit,
                "task {task} started while only {ended} before it had ended: {runs:#?}"
            );
        }
    }
}

async fn workers_used(cluster: &Cluster, ids: &[String]) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for id in ids {
        let request = muster_proto::v1::GetBatchRequest { batch_id: id.clone() };
        let batch = cluster.batches().get_batch(request).await.unwrap().into_inner().batch.unwrap();
        used.extend(batch.tasks.into_iter().map(|task| task.worker_id));
    }
    used
}

fn most_at_once<'a>(runs: impl Iterator<Item = &'a Run>) -> usize {
    let mut edges: Vec<(u64, i32)> =
        runs.flat_map(|run| [(run.start_ns, 1), (run.end_ns.expect("it ended"), -1)]).collect();
    edges.sort_unstable();
    let mut now = 0;
    edges
        .iter()
        .map(|(_, step)| {
            now += step;
            now
        })
        .max()
        .unwrap_or(0) as usize
}
