//! Every decision of the coordinator, without clock, I/O, async or randomness.
//!
//! `Machine::handle(now, event, facts) -> effects` is the way in. What this folder does not do: read files,
//! talk to anyone, know protobuf (ids excepted).

pub mod admission;
mod attempts;
pub mod event;
mod fleet;
mod live;
pub mod machine;
pub mod model;
mod outcome;
pub mod payload;
pub mod plan;
pub mod policy;
pub mod refusal;
mod schedule;
mod sessions;
mod timers;

/// Between TERM and KILL, where nothing else is said: 10 s.
pub const DEFAULT_GRACE_MS: u32 = 10_000;
