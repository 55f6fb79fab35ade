//! The command against a fake coordinator; what needs a real one is tested end to end elsewhere.

// Helpers of tests stand outside the functions that clippy knows as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod approval;
mod commands;
mod conventions;
mod doctor;
mod drive;
mod explain;
mod export;
mod input;
mod live;
mod live_large;
mod logs;
mod logs_terminal;
mod outputs;
mod prefill;
mod process;
mod support;
mod tails;
mod terminal;
