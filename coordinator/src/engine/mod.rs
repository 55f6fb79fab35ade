//! The one loop that owns the machine: input, facts, machine, commit, outputs.

pub mod handle;
