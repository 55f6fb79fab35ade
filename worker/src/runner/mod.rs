//! The runner: the small process that owns a worker's tasks.
//!
//! One runner serves one work directory. It is the worker's own binary, re-executed once, in a session of its
//! own: single-threaded, without network and without an async runtime, so that it starts processes cheaply and
//! that there is little in it that could fail. It spawns tasks, moves their output into the [spool](crate::spool),
//! ends whole process trees, and keeps a journal of what it has seen, started and ended. The network half of the
//! worker talks to it over a Unix socket ([`protocol`]) and can crash, be upgraded and come back without a task
//! noticing.
//!
//! It ends a task at the time limit, or after the cut-off from the coordinator, that its start names, since the
//! half may not be there to do it. Otherwise it does *not* decide anything about tasks: no retries, no queue. It never speaks to
//! the coordinator, never reads the spool, and never writes a task's environment anywhere.

mod cgroup;
mod clients;
mod files;
mod journal;
mod launch;
mod limits;
mod log;
mod options;
mod paths;
mod place;
mod procfs;
pub mod protocol;
mod run;
mod seen;
mod server;
mod spawn;
mod sweep;
mod task;
mod tree;

pub use files::{TooManySlots, check_slots};
pub use launch::{LaunchError, connect, ensure_running};
pub use options::{OptionsError, RUNNER_ARG, RunnerOptions};
pub use paths::journal_path;
pub use run::{main, reexec};
