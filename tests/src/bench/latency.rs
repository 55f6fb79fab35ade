//! `bench latency`: from a submit to the child's start, and from the child's exit to the watcher's `completed`.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use muster_proto::v1::{SubmitBatchRequest, TaskStatus, WatchBatchRequest};
use tokio::time::timeout;

use crate::{
    Cluster, bin,
    probe::{self, now_ns},
};

/// A single-task batch on an idle fleet that takes longer than this is stuck.
const STUCK: Duration = Duration::from_secs(30);

/// Durations of one kind, in milliseconds.
struct Figures(Vec<f64>);

impl Figures {
    fn new(ns: Vec<u64>) -> Self {
        let mut ms: Vec<f64> = ns.into_iter().map(|ns| ns as f64 / 1e6).collect();
        ms.sort_by(f64::total_cmp);
        Self(ms)
    }

    /// The value that a share of them does not exceed.
    fn at(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({"p50_ms": self.at(0.5), "p90_ms": self.at(0.9), "max_ms": self.at(1.0)})
    }
}

/// Measures so many single-task batches, one after the other.
pub async fn run(rounds: u32, workers: u8, json: bool) {
    let cluster = Cluster::start().await;
    let _workers = cluster.workers(workers, 2).await;
    let mut starts = Vec::new();
    let mut ends = Vec::new();
    // The first round opens connections and warms caches: run and not counted.
    for round in 0..=rounds {
        let (start, end) = one_round(&cluster).await;
        if round > 0 {
            starts.push(start);
            ends.push(end);
        }
    }
    let (starts, ends) = (Figures::new(starts), Figures::new(ends));
    let (spawn, sync) = floors(cluster.dir(), rounds);
    let floor = spawn.at(0.5) + sync.at(0.5);
    let ratio = |figures: &Figures| figures.at(0.5) / floor;
    if json {
        let document = serde_json::json!({
            "scenario": "latency", "rounds": rounds, "workers": workers,
            "submit_to_start": starts.json(), "exit_to_completed": ends.json(),
            "floor": {"spawn": spawn.json(), "write_and_sync": sync.json(), "p50_ms": floor},
            "submit_to_start_over_floor": ratio(&starts), "exit_to_completed_over_floor": ratio(&ends),
        });
        println!("{document}");
        return;
    }
    println!("latency: {rounds} single-task batches, one at a time, {workers} idle workers, loopback");
    println!("{:<44} {:>9} {:>9} {:>9}", "", "p50 ms", "p90 ms", "max ms");
    let row = |name: &str, figures: &Figures| {
        println!("{name:<44} {:>9.2} {:>9.2} {:>9.2}", figures.at(0.5), figures.at(0.9), figures.at(1.0));
    };
    row("submit call to the child's start", &starts);
    row("the child's exit to the watcher's completed", &ends);
    row("floor: spawn of the bare program", &spawn);
    row("floor: a write of 4 KiB and a sync", &sync);
    println!(
        "p50 over the floor (one spawn and one sync, {floor:.2} ms): start {:.1}x, completed {:.1}x",
        ratio(&starts),
        ratio(&ends)
    );
}

/// One batch of one task: nanoseconds from the call to the child's start, and from its exit to the news of it.
async fn one_round(cluster: &Cluster) -> (u64, u64) {
    let mut client = cluster.batches();
    // Connects: a client that submits has a connection.
    client.get_policy(muster_proto::v1::GetPolicyRequest {}).await.expect("the coordinator serves");
    let request = SubmitBatchRequest { batch_json: r#"["sleep 50"]"#.into(), ..Default::default() };
    let called = now_ns();
    let batch = client.submit_batch(request).await.expect("accepted").into_inner().batch.expect("the batch");
    let request = WatchBatchRequest { batch_id: batch.batch_id.clone(), ..Default::default() };
    let mut watch = client.watch_batch(request).await.expect("a watch").into_inner();
    let completed = loop {
        let next = timeout(STUCK, watch.message()).await.expect("the batch moves").expect("the watch holds");
        let news = next.expect("the watch goes on to the end");
        if news.tasks.iter().any(|task| task.status() == TaskStatus::Completed) {
            break now_ns();
        }
    };
    let run = probe::run_of(&cluster.probe_dir(), &batch.batch_id, 1, 1).expect("the child's stamps");
    let ended = run.end_ns.expect("the child ended");
    (run.start_ns.saturating_sub(called), completed.saturating_sub(ended))
}

/// What cannot be avoided: starting the program, and making one write durable.
fn floors(dir: &Path, rounds: u32) -> (Figures, Figures) {
    let folder = dir.join("floor");
    fs::create_dir(&folder).expect("a temporary folder");
    let mut spawns = Vec::new();
    let mut syncs = Vec::new();
    let mut file = File::create(folder.join("file")).expect("a temporary file");
    for round in 0..rounds {
        let called = now_ns();
        let mut command = Command::new(bin("probe"));
        command.env(probe::DIR_VARIABLE, &folder).env("MUSTER_TASK_INDEX", (round + 1).to_string());
        command.args(["--prompt", "exit 0"]).stdin(Stdio::null()).stdout(Stdio::null());
        assert!(command.status().expect("the probe starts").success());
        let run = probe::run_of(&folder, "bare", round as i32 + 1, 1).expect("the child's stamps");
        spawns.push(run.start_ns.saturating_sub(called));
        let called = now_ns();
        file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).expect("a durable write");
        syncs.push(now_ns() - called);
    }
    (Figures::new(spawns), Figures::new(syncs))
}
