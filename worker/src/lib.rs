//! The worker of Muster as a library: it pulls tasks from a coordinator and runs them.
//!
//! A worker is two processes. This library holds both: the network half ([`run`]), which talks to the coordinator
//! and decides, and the [`runner`], which owns the task processes and survives the half. `muster run` uses the
//! library to run a worker of its own.

pub mod config;
pub mod core;
mod driver;
mod link;
pub mod runner;
mod session;
pub mod spool;
pub mod telemetry;
pub mod workdir;

pub use config::{Cli, Config};
pub use driver::{Error, Ready, Shutdown, run};
