//! What the end-to-end tests and the benchmarks share: a cluster of real processes, a proxy that cuts
//! connections, a stand-in for the API that models are looked up at, readers of watches and logs, and the child
//! program that misbehaves on request.
//!
//! It starts processes only through [`Cluster`], which ends every one of them when it is dropped, and decides
//! nothing that a test asserts.

// This crate is test code as a whole: a failure here is a failed test, and panics say so best.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

pub mod api;
pub mod bench;
mod bins;
mod cgroup;
mod cluster;
mod follow;
pub mod nasty;
pub mod probe;
mod proxy;
mod sweep;

pub use bins::{bin, examples_dir};
pub use cgroup::Delegated;
pub use cluster::{Cluster, ClusterOptions, WorkerOptions, WorkerProcess};
pub use follow::{WatchLog, eventually, is_away, read_log, wait_for};
pub use proxy::{Direction, Proxy};
pub use sweep::{kill_processes_of, processes_of};
