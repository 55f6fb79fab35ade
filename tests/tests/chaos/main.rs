//! Processes killed, stopped and cut off while batches run: nothing acknowledged is lost, nothing runs twice, every
//! task ends as its program did, and every log is byte for byte what its program wrote.
//!
//! What is hit, and when, comes from a seed that each test prints; `MUSTER_CHAOS_SEED` takes it up again. The same
//! seed makes the same choices, but the machine's own timing is not in its hand. No blow counts unless there
//! was traffic: a test waits for output to move before it strikes, and fails if nothing ran when it did.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod batch;
mod coordinator_killed;
mod cut_off;
mod dice;
mod missing_program;
mod moments;
mod stopped;
mod worker_killed;

use std::time::Duration;

/// A wait for something that takes well under a second on an idle machine; tests share two cores.
const SOON: Duration = Duration::from_secs(60);
/// A wait for something that takes some seconds, or for a worker's longest pause between two calls.
const LATER: Duration = Duration::from_secs(150);
