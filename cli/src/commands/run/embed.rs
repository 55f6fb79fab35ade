//! The coordinator and the worker inside this process: the only file that knows their starting interfaces.
//!
//! NOT CONNECTED YET: [`Embedded::start`] and [`runner_main`] return a named error until the two crates offer
//! what is described at each of them.

use std::{path::PathBuf, process::ExitCode};

use crate::error::Error;

/// The coordinator's part.
#[derive(Clone, Debug)]
pub struct CoordinatorOptions {
    /// Where it keeps everything.
    pub data_dir: PathBuf,
}

/// The worker's part.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The program and its first arguments, as one text to be split as a shell would.
    pub dispatch: String,
    /// How many tasks it runs at once; the cores when absent.
    pub slots: Option<u32>,
    /// Where it keeps its work; outputs come to lie in `outputs/<batch>` under it.
    pub work_dir: PathBuf,
}

/// A coordinator, and a worker once it was asked for, running in this process.
pub struct Embedded {
    url: String,
}

impl Embedded {
    /// Starts a coordinator on a free loopback port.
    ///
    /// Hook: `muster_coordinator::Coordinator::start(Config { listen: 127.0.0.1:0, data_dir, .. }).await`, then
    /// `running.local_addr()`.
    pub async fn start(options: CoordinatorOptions) -> Result<Self, Error> {
        let _ = options;
        Err(not_connected())
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts a worker for it and returns once it is connected. All outputs are allowed, as it is the user's own
    /// machine.
    ///
    /// Hook: spawn `muster_worker::run(Config { .. }, shutdown_receiver, on_ready)`, await `on_ready` or its end.
    pub async fn start_worker(&mut self, options: WorkerOptions) -> Result<(), Error> {
        let _ = options;
        Err(not_connected())
    }

    /// Ends when the worker has ended by itself, which is a failure while a batch runs. May be cancelled and
    /// called again. Never ends before [`Self::start_worker`].
    pub async fn worker_failed(&mut self) -> Error {
        std::future::pending().await
    }

    /// Ends the worker (its runner too), then the coordinator, each within a bounded time.
    ///
    /// Hook: send `muster_worker::Shutdown` on the watch channel, await the worker; `running.shutdown().await`.
    pub async fn shutdown(self) {}
}

/// The runner process: this binary again, started by the embedded worker with `__runner` first.
///
/// Hook: `muster_worker::runner::main(...)` with the arguments after `__runner`.
pub fn runner_main() -> ExitCode {
    crate::io::Io::standard().say("error: this build of muster has no runner");
    Error::exit(&not_connected()).into()
}

fn not_connected() -> Error {
    Error::Embedded("this build of muster cannot run batches by itself; use muster-coordinator, muster-worker and muster submit".to_owned())
}
