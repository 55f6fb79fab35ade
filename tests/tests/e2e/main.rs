//! Real processes on loopback: what users were promised, end to end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_input;
mod cancel_retry_drain;
mod cards;
mod chaos;
mod command;
mod explain;
mod first_steps;
mod fleet;
mod launch_failure;
mod logs;
mod nasty;
mod operations;
mod options;
mod policy;
mod prefill;
mod readme;
mod restart;
mod restore;
mod run_killed;
mod secret;
mod submit_run;
mod transcript;

use std::time::Duration;

/// A wait for something that takes well under a second on an idle machine; tests share two cores.
const SOON: Duration = Duration::from_secs(60);
/// A wait for something that takes some seconds.
const LATER: Duration = Duration::from_secs(120);
