pub mod core;
pub mod runner;
