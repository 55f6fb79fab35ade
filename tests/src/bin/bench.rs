//! `bench SCENARIO [--json]`: measurements on real processes on loopback, each beside a floor measured in the
//! same run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{ffi::OsString, future::Future, path::PathBuf};

use clap::{Parser, Subcommand};
use muster_tests::bench::{cli, latency, measure, raw, watchers};

#[derive(Parser)]
#[command(name = "bench", about = "Benchmarks of Muster on real processes, on this machine")]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// From a submit to the child's start, and from the child's exit to the watcher's `completed`.
    Latency {
        /// Single-task batches, one after the other.
        #[arg(long, default_value_t = 50)]
        rounds: u32,
        /// Workers in the fleet.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=26))]
        workers: u8,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// What the commands cost on a large batch: time, CPU and memory, beside bare calls for the same data.
    Cli {
        /// Tasks in the batch.
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        tasks: u32,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Many watches of one batch: until every one has seen the end, beside the same with one watch.
    Watchers {
        /// Watches at the same time.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        watchers: u32,
        /// Tasks in the batch.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        tasks: u32,
        /// Tasks that run at once.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        at_once: u32,
        /// How long each runs, milliseconds.
        #[arg(long, default_value_t = 100)]
        task_ms: u64,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Runs a program, its output into a file, and prints what it took.
    #[command(hide = true)]
    Measure {
        /// Where its standard output goes.
        output: PathBuf,
        /// The program and its arguments.
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// One of the floors, as a process of its own.
    #[command(hide = true)]
    Raw {
        #[command(subcommand)]
        floor: raw::Floor,
    },
}

fn main() {
    match Arguments::parse().scenario {
        Scenario::Latency { rounds, workers, json } => block_on(latency::run(rounds.max(1), workers, json)),
        Scenario::Cli { tasks, json } => block_on(cli::run(tasks, json)),
        Scenario::Watchers { watchers, tasks, at_once, task_ms, json } => {
            block_on(watchers::run(&watchers::Setup { watchers, tasks, at_once, task_ms }, json));
        }
        Scenario::Measure { output, command } => measure::child(&output, &command),
        Scenario::Raw { floor } => block_on(raw::run(floor)),
    }
}

fn block_on(scenario: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(scenario);
}
