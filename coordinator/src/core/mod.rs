//! Every decision of the coordinator, without clock, I/O, async or randomness.
//!
//! A submitted batch meets `payload` (what was asked), `policy` (the limits in force), `admission` (does it
//! fit), `plan` with `catalog` and `card_input` (what would run), and then the `machine`, whose
//! `handle(now, event, facts) -> effects` is the way in for everything that happens from then on.
//!
//! What this folder does not do: read files, talk to anyone, know protobuf (ids excepted).

pub mod admission;
pub mod api_key;
pub mod args;
mod attempts;
pub mod card;
pub mod card_input;
pub mod catalog;
pub mod contract;
pub mod event;
pub mod explain;
mod fleet;
pub mod integer;
mod json;
mod live;
pub mod machine;
pub mod model;
pub mod options;
mod outcome;
pub mod payload;
pub mod plan;
pub mod policy;
pub mod refusal;
pub mod renewal;
pub mod retention;
pub mod run_mode;
mod schedule;
mod sessions;
mod timers;
mod waiting;

/// Between TERM and KILL, where nothing else is said: 10 s.
pub const DEFAULT_GRACE_MS: u32 = 10_000;
