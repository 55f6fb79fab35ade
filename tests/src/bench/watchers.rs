//! `bench watchers`: many watches of one batch, beside the same with one.
//!
//! A coordinator as a process of its own; watches and a stand-in for the worker are here. Every watch has its
//! snapshot before the first task may start, and is read as fast as it comes.

use std::time::{Duration, Instant};

use muster_proto::v1::{WatchBatchRequest, WatchBatchResponse, batch_service_client::BatchServiceClient};
use tokio::{task::JoinSet, time::timeout};
use tonic::{Streaming, transport::Channel};

use super::{
    measure::{cpu_of, peak_of},
    stand_in::StandIn,
};
use crate::{Cluster, ClusterOptions};

/// Watches that share a connection; less than the coordinator allows.
const STREAMS_EACH: u32 = 50;
/// A watch that has not ended by then is stuck.
const STUCK: Duration = Duration::from_secs(600);

/// What is run.
pub struct Setup {
    /// Watches at the same time.
    pub watchers: u32,
    /// Tasks in the batch.
    pub tasks: u32,
    /// Tasks that run at once.
    pub at_once: u32,
    /// How long each runs, milliseconds.
    pub task_ms: u64,
}

/// What so many watches took.
struct Run {
    watchers: u32,
    /// Until every watch had its snapshot, seconds.
    snapshots_s: f64,
    /// CPU of the coordinator for that, seconds.
    snapshots_cpu_s: f64,
    /// From the first task's start to the end of the first watch, and of the last, seconds.
    first_s: f64,
    last_s: f64,
    /// CPU of the coordinator for that, seconds.
    cpu_s: f64,
    /// Peak of the coordinator's memory, MiB.
    peak_mib: f64,
    /// Messages, and tasks in them, that all watches got after their snapshots.
    messages: u64,
    tasks: u64,
}

/// Measures so many watches, and one.
pub async fn run(setup: &Setup, json: bool) {
    let one = one_run(setup, 1).await;
    let many = one_run(setup, setup.watchers).await;
    let Setup { watchers, tasks, at_once, task_ms } = setup;
    let floor_s = f64::from(*tasks) / f64::from(*at_once) * *task_ms as f64 / 1e3;
    if json {
        let document = serde_json::json!({
            "scenario": "watchers", "watchers": watchers, "tasks": tasks, "at_once": at_once, "task_ms": task_ms,
            "tasks_alone_s": floor_s, "one": one.json(), "many": many.json(),
            "last_end_over_one": many.last_s / one.last_s, "cpu_over_one": many.cpu_s / one.cpu_s,
            "peak_over_one": many.peak_mib / one.peak_mib,
        });
        println!("{document}");
        return;
    }
    println!(
        "watchers: a batch of {tasks} tasks of {task_ms} ms, {at_once} at once ({floor_s:.2} s of tasks alone), loopback"
    );
    println!(
        "{:<12} {:>10} {:>8} {:>12} {:>11} {:>8} {:>9} {:>10} {:>11}",
        "watches",
        "snapshot s",
        "CPU s",
        "first end s",
        "last end s",
        "CPU s",
        "peak MiB",
        "messages",
        "tasks"
    );
    [&one, &many].into_iter().for_each(Run::print);
    println!(
        "over one watch: last end {:.2}x, CPU {:.1}x, memory {:.1}x",
        many.last_s / one.last_s,
        many.cpu_s / one.cpu_s,
        many.peak_mib / one.peak_mib
    );
}

impl Run {
    fn print(&self) {
        println!(
            "{:<12} {:>10.2} {:>8.2} {:>12.2} {:>11.2} {:>8.2} {:>9.0} {:>10} {:>11}",
            self.watchers,
            self.snapshots_s,
            self.snapshots_cpu_s,
            self.first_s,
            self.last_s,
            self.cpu_s,
            self.peak_mib,
            self.messages,
            self.tasks
        );
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "watchers": self.watchers, "snapshots_s": self.snapshots_s, "snapshots_cpu_s": self.snapshots_cpu_s,
            "first_end_s": self.first_s, "last_end_s": self.last_s, "coordinator_cpu_s": self.cpu_s,
            "coordinator_peak_mib": self.peak_mib, "messages": self.messages, "tasks": self.tasks,
        })
    }
}

async fn one_run(setup: &Setup, watchers: u32) -> Run {
    let cluster = Cluster::start_with(ClusterOptions::with_limits(setup.at_once, setup.tasks)).await;
    let pid = cluster.coordinator_pid();
    let prompts: Vec<String> = (1..=setup.tasks).map(|number| format!("prompt {number}")).collect();
    let batch = cluster.submit(&prompts, setup.at_once as i32).await;

    let (begun, cpu) = (Instant::now(), cpu_of(pid));
    let mut opening = JoinSet::new();
    let mut client = cluster.batches();
    for number in 0..watchers {
        if number % STREAMS_EACH == 0 {
            client = cluster.batches();
        }
        opening.spawn(open(client.clone(), batch.batch_id.clone(), setup.tasks));
    }
    let streams = timeout(STUCK, opening.join_all()).await.expect("every watch has its snapshot");
    let (snapshots_s, snapshots_cpu_s) = (begun.elapsed().as_secs_f64(), cpu_of(pid) - cpu);

    let (begun, cpu) = (Instant::now(), cpu_of(pid));
    let mut reading = JoinSet::new();
    for stream in streams {
        reading.spawn(async move { read(stream, begun).await });
    }
    let worker =
        StandIn::attach(&cluster, setup.at_once, Duration::from_millis(setup.task_ms), "done\n").await;
    let ends = timeout(STUCK, reading.join_all()).await.expect("every watch ends");
    drop(worker);
    let seconds = |time: Option<Duration>| time.expect("at least one watch").as_secs_f64();
    Run {
        watchers,
        snapshots_s,
        snapshots_cpu_s,
        first_s: seconds(ends.iter().map(|end| end.0).min()),
        last_s: seconds(ends.iter().map(|end| end.0).max()),
        cpu_s: cpu_of(pid) - cpu,
        peak_mib: peak_of(pid),
        messages: ends.iter().map(|end| end.1).sum(),
        tasks: ends.iter().map(|end| end.2).sum(),
    }
}

/// Opens a watch and reads its snapshot.
async fn open(
    mut client: BatchServiceClient<Channel>,
    batch_id: String,
    tasks: u32,
) -> Streaming<WatchBatchResponse> {
    let request = WatchBatchRequest { batch_id, ..Default::default() };
    let mut stream = client.watch_batch(request).await.expect("a watch").into_inner();
    let mut seen = 0;
    while seen < tasks as usize {
        seen += stream.message().await.expect("the watch holds").expect("a snapshot").tasks.len();
    }
    stream
}

/// Reads to the end: when that was, and how many messages and tasks it took.
async fn read(mut stream: Streaming<WatchBatchResponse>, begun: Instant) -> (Duration, u64, u64) {
    let (mut messages, mut tasks) = (0, 0);
    while let Some(message) = stream.message().await.expect("the watch holds to the end") {
        messages += 1;
        tasks += message.tasks.len() as u64;
    }
    (begun.elapsed(), messages, tasks)
}
