//! The wire contract of Muster: messages, services and ids.
//!
//! The `.proto` files under `proto/` are the source, with the documentation of every field; the code
//! generated from them is checked in (a test keeps it fresh), so that nobody needs a protobuf compiler.
//! This crate decides nothing.

mod debug;
mod ids;

pub use ids::{AttemptId, AttemptNo, BatchId, LifeId, ParseIdError, TaskIndex};

/// Messages and services of package `muster.v1`.
#[allow(warnings, clippy::all, clippy::pedantic, clippy::restriction)]
pub mod v1 {
    include!("generated/muster.v1.rs");
}

/// The compiled `.proto` files with their comments' positions, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/muster.v1.bin");
