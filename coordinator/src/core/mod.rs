//! Every decision of the coordinator, without clock, I/O, async or randomness.
//!
//! What it does not do: read files, talk to anyone, know protobuf (ids excepted).

pub mod payload;
pub mod plan;
pub mod policy;
