//! The page of first steps that go wrong, replayed case by case.

use std::fs;

use muster_tests::{processes_of, wait_for};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::transcript::{Newcomer, blocks, page, steps, until_printed};

/// Runs until the test lets it go on; each run leaves a line.
const SLOW: &str = "#!/bin/sh
echo working
exec 2>/dev/null
echo run >>\"$HOME/muster/runs\"
trap 'exit 1' TERM
while [ ! -e \"$HOME/muster/go\" ]; do sleep 0.05; done
";

/// Goes through a section whose commands all end with `code`.
async fn replay(newcomer: &mut Newcomer, section: &str, code: i32) {
    let shown = blocks(&page("docs/first-steps.md"), section);
    let steps = steps(&shown);
    assert!(!steps.is_empty(), "{section}");
    for step in &steps {
        let wanted = if step.command.starts_with("cat ") { 0 } else { code };
        assert_eq!(newcomer.replay(step).await, Some(wanted), "{section}: {}", step.command);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_coordinator() {
    let mut newcomer = Newcomer::new();
    replay(&mut newcomer, "No coordinator is running", 3).await;
    let shown = blocks(&page("docs/first-steps.md"), "A wrong address");
    let codes = [Some(3), Some(2), Some(3)];
    let steps = steps(&shown);
    assert_eq!(steps.len(), codes.len());
    for (step, code) in steps.iter().zip(codes) {
        assert_eq!(newcomer.replay(step).await, code, "{}", step.command);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_before_anything_starts() {
    let mut newcomer = Newcomer::new();
    newcomer.write("batch.json", "[\"a lighthouse at dusk\"]\n");
    for section in ["No dispatch program", "A typo", "More than is allowed without approval"] {
        replay(&mut newcomer, section, 2).await;
    }
    assert!(!newcomer.folder().join("muster-runs").exists(), "nothing was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fails_and_a_run_that_is_interrupted() {
    let mut newcomer = Newcomer::new();
    newcomer.write("batch.json", "[\"a lighthouse at dusk\"]\n");
    replay(&mut newcomer, "A task fails", 1).await;
    // The hint at the end, as it says.
    let batch = newcomer.batch.clone();
    let _coordinator = newcomer.start(&format!("muster-coordinator --data-dir muster-runs/{batch}")).await;
    let (code, printed) = newcomer.give(&format!("muster logs {batch} 1")).await;
    assert_eq!((code, printed.as_str()), (Some(0), "working\nno such style\n"));

    newcomer.write("slow", SLOW);
    replay(&mut newcomer, "Ctrl-C", 130).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_without_a_worker_and_workers_that_are_killed() {
    let mut newcomer = Newcomer::new();
    newcomer.write("batch.json", "[\"a lighthouse at dusk\"]\n");
    let _coordinator = newcomer.start("muster-coordinator --data-dir ./muster-data").await;
    replay(&mut newcomer, "Nothing starts", 0).await;

    newcomer.write("slow", SLOW);
    let shown = blocks(&page("docs/first-steps.md"), "A worker is killed");
    let [start, network_half, all] = &shown[..] else { panic!("{shown:?}") };
    let mut worker = newcomer.start(&start.lines[0]).await;
    let runs = newcomer.folder().join("runs");
    wait_for(&runs).await;
    worker.kill().await.unwrap();
    until_printed(&mut newcomer, "muster workers", "disconnected").await;
    for step in &steps([network_half]) {
        assert_eq!(newcomer.replay(step).await, Some(0), "{}", step.command);
    }
    let mut worker = newcomer.start(&start.lines[0]).await;
    newcomer.write("go", "");
    let (code, printed) = newcomer.give("muster wait BATCH").await;
    assert_eq!((code, printed.as_str()), (Some(0), ""), "the task was taken up");
    assert_eq!(fs::read_to_string(&runs).unwrap().lines().count(), 1, "and not run again");

    for file in ["go", "runs"] {
        fs::remove_file(newcomer.folder().join(file)).unwrap();
    }
    newcomer.give("muster submit batch.json").await;
    wait_for(&runs).await;
    let is_runner = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).nth(1) == Some(b"__runner")
    };
    let runners: Vec<i32> = processes_of(&newcomer.folder()).into_iter().filter(is_runner).collect();
    assert_eq!(runners.len(), 1, "one runner a worker");
    worker.kill().await.unwrap();
    kill(Pid::from_raw(runners[0]), Signal::SIGKILL).unwrap();
    let _worker = newcomer.start(&start.lines[0]).await;
    until_printed(&mut newcomer, "muster status BATCH", "failed").await;
    for step in &steps([all]) {
        assert_eq!(newcomer.replay(step).await, Some(0), "{}", step.command);
    }
}
