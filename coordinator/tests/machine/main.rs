//! The machine as scripts: an event goes in, exact effects come out. No clock, no sockets, no store.

mod calls;
mod random;
mod running;
mod sessions;
mod world;
