//! The worker of Muster as a library: the runner, which owns the task processes, and the spool of their output.

pub mod runner;
pub mod spool;
