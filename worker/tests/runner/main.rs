//! The runner with real processes: what a worker's network half, and through it a user, relies on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod attempts;
mod bed;
mod cgroups;
mod ending;
mod full_disk;
mod output;
mod starting;
mod survival;
