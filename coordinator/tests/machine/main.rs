//! The machine as scripts: an event goes in, exact effects come out. No clock, no sockets, no store. And the loop
//! around it, over a store in memory.

#![expect(clippy::panic, clippy::expect_used, reason = "a test that cannot go on fails")]

mod calls;
mod carried;
mod explain;
mod groups;
mod model;
mod model_calls;
mod model_compare;
mod model_ends;
mod model_hellos;
mod model_random;
mod model_retries;
mod model_rows;
mod model_stage;
mod model_steps;
mod model_workers;
mod random;
mod running;
mod sessions;
mod states;
mod world;
