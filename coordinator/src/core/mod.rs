//! Every decision of the coordinator, without clock, I/O, async or randomness.
//!
//! What it does not do: read files, talk to anyone, know protobuf (ids excepted).
//!
//! A submitted batch meets these modules in this order: `payload` (what was asked), `policy` (the limits in
//! force), `admission` (does it fit), `plan` with `catalog` and `card_input` (what would run).

pub mod admission;
pub mod args;
pub mod card_input;
pub mod catalog;
pub mod integer;
mod json;
pub mod payload;
pub mod plan;
pub mod policy;
pub mod refusal;
