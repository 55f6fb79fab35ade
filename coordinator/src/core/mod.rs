//! Every decision of the coordinator, without clock, I/O, async or randomness.
//!
//! What it does not do: read files, talk to anyone, know protobuf (ids excepted).

pub mod admission;
pub mod event;
pub mod model;
pub mod payload;
pub mod plan;
pub mod policy;
pub mod refusal;
