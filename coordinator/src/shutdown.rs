//! The signals that end the program.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Sent for a write that reaches the largest size that a file may have.
const SIGXFSZ: i32 = nix::sys::signal::Signal::SIGXFSZ as i32;

/// SIGTERM and SIGINT, from the moment that this is made.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Taken over so that such a write fails as one on a full disk does, with its reason, and ends nothing by itself.
    _too_large: Signal,
}

impl Signals {
    /// Takes the signals over; they no longer end the process by themselves.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _too_large: signal(SignalKind::from_raw(SIGXFSZ))?,
        })
    }

    /// Waits for the next of them and gives its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
