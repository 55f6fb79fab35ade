//! The Muster coordinator: holds batches, enforces limits, hands tasks to workers.
//!
//! Modules in the order in which a submitted task meets them. Only `core` decides anything; it is pure.

pub mod config;
mod coordinator;
pub mod core;
mod disk;
pub mod engine;
mod grpc;
pub mod logs;
mod policy_file;
mod prefill;
pub mod secrets;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod tools;
mod upkeep;
pub mod watch;

pub use config::Config;
pub use coordinator::{Coordinator, EXIT_STORAGE_FAILED, Failure, Running, StartError};
pub use grpc::Error as ServerError;
pub use prefill::BadBaseUrl;
