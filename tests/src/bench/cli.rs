//! `bench cli`: what the commands cost on a large batch, each beside bare calls for the same data.
//!
//! A coordinator and every command are processes of their own; the tasks are ended by a stand-in for the worker.
//! "While it runs" is a watch from the submit to the batch's end, and its floor a bare watch beside it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use muster_proto::v1::{CancelBatchRequest, ListBatchesRequest, SchedulerStatus};

use super::{
    measure::{self, Taken, cpu_of, peak_of},
    stand_in::StandIn,
};
use crate::{Cluster, ClusterOptions, bin, eventually};

/// Slots of the stand-in.
const SLOTS: u32 = 512;
/// What every task prints.
const OUTPUT: &str = "a line of output as a program prints it when it is done\n";
/// A batch that has not ended by then is stuck.
const STUCK: Duration = Duration::from_secs(600);

/// One line of the table.
struct Line {
    name: &'static str,
    taken: Taken,
    /// CPU of the coordinator meanwhile, seconds.
    coordinator_s: f64,
    floor: &'static str,
    floor_taken: Taken,
}

/// Measures the commands on a batch of so many tasks.
pub async fn run(tasks: u32, json: bool) {
    let bench = Bench::start(tasks).await;
    let batch_file = bench.file("batch.json");
    let prompts: Vec<String> = (1..=tasks).map(|number| format!("prompt {number}")).collect();
    fs::write(&batch_file, serde_json::to_vec(&prompts).expect("strings")).expect("a temporary file");
    let batch_file = batch_file.display().to_string();

    let raw_submit = bench.raw(&["submit", &bench.url, &batch_file]).await.0;
    bench.cancel_newest().await;
    let submit = bench.muster(&["submit", &batch_file], 0).await;
    let batch = bench.newest().await;
    let mut lines = vec![Line::new("submit", submit, "SubmitBatch", raw_submit)];

    let watched = bench.cpu();
    let watch = ["watch", &batch];
    let raw_watch = ["watch", &bench.url, &batch];
    let (worker, muster, raw) = tokio::join!(
        StandIn::attach(&bench.cluster, SLOTS, Duration::ZERO, OUTPUT),
        bench.muster(&watch, 0),
        bench.raw(&raw_watch)
    );
    drop(worker);
    let muster = (muster.0, bench.cpu() - watched);
    lines.push(Line::new("watch, while it runs", muster, "WatchBatch", raw.0));

    let raw_watch = bench.raw(&["watch", &bench.url, &batch]).await.0;
    lines.push(Line::new("watch, once it has ended", bench.muster(&watch, 0).await, "WatchBatch", raw_watch));
    let raw_tasks = bench.raw(&["tasks", &bench.url, &batch]).await.0;
    for (name, words) in [
        ("status", vec!["status", &batch]),
        ("status --output jsonl", vec!["status", &batch, "--output", "jsonl"]),
        ("status --output json", vec!["status", &batch, "--output", "json"]),
        ("status --output seed-json", vec!["status", &batch, "--output", "seed-json"]),
    ] {
        lines.push(Line::new(name, bench.muster(&words, 0).await, "ListTasks, all pages", raw_tasks));
    }
    let raw_list = bench.raw(&["batches", &bench.url]).await.0;
    lines.push(Line::new("list", bench.muster(&["list"], 0).await, "ListBatches", raw_list));
    let raw_batch = bench.raw(&["batch", &bench.url, &batch]).await.0;
    lines.push(Line::new("wait", bench.muster(&["wait", &batch], 0).await, "GetBatch", raw_batch));
    let one_log = bench.muster(&["logs", &batch, "1"], 0).await;
    lines.push(Line::new("logs of one task", one_log, "GetBatch", raw_batch));
    let raw_logs = bench.raw(&["logs", &bench.url, &batch]).await.0;
    let logs = bench.muster(&["logs", &batch], 0).await;
    lines.push(Line::new("logs of all tasks", logs, "ListTasks, TailLogs of each", raw_logs));
    let (files, bytes) = (bench.path("files"), OUTPUT.len().to_string());
    let raw_files = bench.raw(&["files", &files, &tasks.to_string(), &bytes]).await.0;
    let folder = bench.path("export");
    let export = bench.muster(&["export", &batch, &folder], 0).await;
    assert_eq!(log_files(Path::new(&folder)), tasks as usize, "a log of every task is exported");
    lines.push(Line::new("export", export, "as many files written", raw_files));
    let again = bench.muster(&["export", &batch, &folder], 0).await;
    lines.push(Line::new("export, again", again, "ListTasks, all pages", raw_tasks));

    let peak = peak_of(bench.cluster.coordinator_pid());
    if json {
        let commands: Vec<_> = lines.iter().map(Line::json).collect();
        let document = serde_json::json!({
            "scenario": "cli", "tasks": tasks, "coordinator_peak_mib": peak, "commands": commands,
        });
        println!("{document}");
        return;
    }
    println!("cli: a batch of {tasks} tasks, loopback; each command beside bare calls for the same data");
    println!(
        "{:<28} {:>8} {:>8} {:>9} {:>9}   {:<30} {:>8} {:>8} {:>6} {:>6}",
        "", "time s", "CPU s", "peak MiB", "coord. s", "floor", "time s", "CPU s", "time", "CPU"
    );
    lines.iter().for_each(Line::print);
    println!("the coordinator's peak: {peak:.0} MiB");
}

impl Line {
    fn new(name: &'static str, command: (Taken, f64), floor: &'static str, floor_taken: Taken) -> Self {
        Self { name, taken: command.0, coordinator_s: command.1, floor, floor_taken }
    }

    fn ratios(&self) -> (f64, f64) {
        // The system counts CPU in steps; below one there is nothing to divide by.
        let cpu = self.taken.cpu_s / self.floor_taken.cpu_s.max(0.001);
        (self.taken.wall_s / self.floor_taken.wall_s, cpu)
    }

    fn print(&self) {
        let (time, cpu) = self.ratios();
        println!(
            "{:<28} {:>8.3} {:>8.3} {:>9.0} {:>9.2}   {:<30} {:>8.3} {:>8.3} {:>5.1}x {:>5.1}x",
            self.name,
            self.taken.wall_s,
            self.taken.cpu_s,
            self.taken.peak_mib,
            self.coordinator_s,
            self.floor,
            self.floor_taken.wall_s,
            self.floor_taken.cpu_s,
            time,
            cpu
        );
    }

    fn json(&self) -> serde_json::Value {
        let (time, cpu) = self.ratios();
        serde_json::json!({
            "command": self.name, "taken": self.taken, "coordinator_cpu_s": self.coordinator_s,
            "floor": self.floor, "floor_taken": self.floor_taken,
            "wall_over_floor": time, "cpu_over_floor": cpu,
        })
    }
}

struct Bench {
    cluster: Cluster,
    url: String,
}

impl Bench {
    async fn start(tasks: u32) -> Self {
        let cluster = Cluster::start_with(ClusterOptions::with_limits(SLOTS, tasks)).await;
        let url = format!("http://{}", cluster.address());
        Self { cluster, url }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.cluster.dir().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn cpu(&self) -> f64 {
        cpu_of(self.cluster.coordinator_pid())
    }

    /// A command, and what the coordinator took meanwhile.
    async fn muster(&self, words: &[&str], code: i32) -> (Taken, f64) {
        let muster = bin("muster").display().to_string();
        let line = [&[&muster, "--coordinator", &self.url], words].concat();
        let before = self.cpu();
        let taken = measure::command(&self.file("command.out"), &line, code).await;
        (taken, self.cpu() - before)
    }

    async fn raw(&self, words: &[&str]) -> (Taken, f64) {
        let own = std::env::current_exe().expect("own path").display().to_string();
        let line = [&[own.as_str(), "raw"], words].concat();
        let before = self.cpu();
        let taken = measure::command(&self.file("raw.out"), &line, 0).await;
        (taken, self.cpu() - before)
    }

    async fn newest(&self) -> String {
        let request = ListBatchesRequest { page_size: 1, ..Default::default() };
        let reply = self.cluster.batches().list_batches(request).await.expect("the batches").into_inner();
        reply.batches.first().expect("a batch").batch_id.clone()
    }

    async fn cancel_newest(&self) {
        let batch_id = self.newest().await;
        let request = CancelBatchRequest { batch_id: batch_id.clone(), ..Default::default() };
        self.cluster.batches().cancel_batch(request).await.expect("cancelled");
        eventually("the batch is cancelled", STUCK, || async {
            let request = ListBatchesRequest { page_size: 1, ..Default::default() };
            let reply = self.cluster.batches().list_batches(request).await.expect("the batches").into_inner();
            let status = reply.batches.first().expect("a batch").scheduler_status();
            (status == SchedulerStatus::Cancelled).then_some(())
        })
        .await;
    }
}

fn log_files(folder: &Path) -> usize {
    let names = fs::read_dir(folder).expect("the export").flatten().map(|entry| entry.file_name());
    names
        .filter(|name| {
            name.to_string_lossy().ends_with(".log") && name.to_string_lossy().starts_with("task-")
        })
        .count()
}
