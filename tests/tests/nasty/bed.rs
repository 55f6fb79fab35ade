//! A cluster whose one worker runs the program `nasty`.

use std::time::Duration;

use muster_proto::v1::{CancelBatchRequest, Task};
use muster_tests::{
    Cluster, ClusterOptions, Delegated, WatchLog, WorkerOptions, WorkerProcess, bin, eventually, nasty,
    read_log,
};

/// How long anything may take before a test gives up. Never waited for in a test that passes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);
/// The same for output of many gigabytes.
const LONG_PATIENCE: Duration = Duration::from_secs(3600);

/// Ends all its processes at its end.
pub(crate) struct Bed {
    pub(crate) cluster: Cluster,
    pub(crate) worker: WorkerProcess,
    /// Dropped last: a cgroup that something is in cannot be removed.
    delegated: Option<Delegated>,
}

/// A task at its end, and its log.
pub(crate) struct End {
    pub(crate) task: Task,
    pub(crate) log: Vec<u8>,
}

impl Bed {
    /// Tasks have no cgroups of their own, unless the tests themselves run where they may have them.
    pub(crate) async fn plain() -> Self {
        Self::new(None).await
    }

    /// Tasks have cgroups of their own. None where the machine does not let us make them.
    pub(crate) async fn in_cgroup() -> Option<Self> {
        let delegated = Delegated::make();
        if delegated.is_none() {
            eprintln!("SKIPPED: no cgroup of version 2 can be made here");
            return None;
        }
        let bed = Self::new(delegated).await;
        let place = std::fs::read_to_string(format!("/proc/{}/cgroup", bed.runner())).unwrap();
        assert!(place.contains("/muster-") && place.contains("/runner\n"), "tasks would have none: {place}");
        Some(bed)
    }

    async fn new(delegated: Option<Delegated>) -> Self {
        let cluster = Cluster::start_with(ClusterOptions::with_limits(4, 10)).await;
        let options = WorkerOptions {
            dispatch: Some(bin("nasty").display().to_string()),
            cgroup: delegated.as_ref().map(|delegated| delegated.path().to_owned()),
            ..WorkerOptions::new("solo", 2)
        };
        let worker = cluster.worker(options).await;
        Self { cluster, worker, delegated }
    }

    /// Runs one prompt to its end, and looks that nothing of it is left.
    pub(crate) async fn run(&self, prompt: &str) -> End {
        let batch = self.cluster.submit(&[prompt], 1).await;
        self.end(&batch.batch_id).await
    }

    /// Starts one prompt and waits until its log holds this.
    pub(crate) async fn start(&self, prompt: &str, says: &str) -> String {
        let batch = self.cluster.submit(&[prompt], 1).await;
        let spools = self.cluster.work_dir("solo").join("spool");
        eventually(says, PATIENCE, || async {
            let entries = std::fs::read_dir(&spools).into_iter().flatten().flatten();
            let mut texts = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
            texts.any(|text| text.contains(says)).then_some(())
        })
        .await;
        batch.batch_id
    }

    pub(crate) async fn cancel(&self, batch_id: &str) -> End {
        let request = CancelBatchRequest { batch_id: batch_id.into(), ..Default::default() };
        self.cluster.batches().cancel_batch(request).await.unwrap();
        self.end(batch_id).await
    }

    pub(crate) async fn end(&self, batch_id: &str) -> End {
        let mut watch = WatchLog::new(batch_id);
        watch.follow_to_end(&self.cluster, LONG_PATIENCE).await;
        let task = watch.tasks[&1].clone();
        let log = read_log(&self.cluster, batch_id, 1, 0, PATIENCE).await;
        assert_eq!(task.log_bytes, log.len() as i64);
        self.nothing_is_left().await;
        End { task, log }
    }

    /// No process of any task runs any more, and no cgroup of one is there.
    pub(crate) async fn nothing_is_left(&self) {
        let (probe, all) = (self.cluster.probe_dir(), self.cluster.dir().to_owned());
        eventually("every process of the task is gone", PATIENCE, || async {
            nasty::processes_left(&probe, &all).is_empty().then_some(())
        })
        .await;
        if let Some(delegated) = &self.delegated {
            let cgroups = find_tasks(delegated.path());
            assert!(cgroups.is_empty(), "{cgroups:?}");
        }
    }

    /// The runner's process.
    pub(crate) fn runner(&self) -> i32 {
        nasty::runner_of(&self.cluster.work_dir("solo"))
    }
}

fn find_tasks(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("task-") {
                found.push(name);
            }
            found.extend(find_tasks(&entry.path()));
        }
    }
    found
}
