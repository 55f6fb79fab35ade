//! The Muster coordinator: holds batches, enforces limits, hands tasks to workers.
//!
//! Modules in the order in which a submitted task meets them. Only `core` decides anything; it is pure.

pub mod core;
pub mod engine;
pub mod secrets;
pub mod store;
pub mod watch;
