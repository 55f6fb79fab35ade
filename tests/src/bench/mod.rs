//! The benchmarks' scenarios and what they share: the measuring of processes, floors as processes of their own, a
//! worker that only says that its tasks have ended.
//!
//! Each scenario prints its figures beside a floor measured in the same run. Nothing here judges them.

pub mod cli;
pub mod latency;
pub mod measure;
pub mod raw;
pub mod stand_in;
pub mod watchers;
