//! The coordinator and the worker inside this process: the only file that knows their starting interfaces.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use muster_coordinator::{Config as CoordinatorConfig, Coordinator, Running};
use muster_proto::BatchId;
use muster_worker::{Config as WorkerConfig, Shutdown, runner};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::error::Error;

/// How long the worker may take to end its tasks (10 s of grace) and to hand in what they left.
const WORKER_END_TIME: Duration = Duration::from_secs(20);

/// The coordinator's part.
#[derive(Clone, Debug)]
pub struct CoordinatorOptions {
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// The id of the batch to come, where the folder is named after it.
    pub first_batch: Option<BatchId>,
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
    coordinator: Running,
    url: String,
    worker: Option<EmbeddedWorker>,
}

struct EmbeddedWorker {
    shutdown: watch::Sender<Shutdown>,
    task: JoinHandle<Result<(), muster_worker::Error>>,
}

impl Embedded {
    /// Starts a coordinator on a free loopback port.
    pub async fn start(options: CoordinatorOptions) -> Result<Self, Error> {
        let config = CoordinatorConfig {
            first_batch: options.first_batch,
            ..CoordinatorConfig::new(options.data_dir)
        };
        let coordinator = Coordinator::start(config).await.map_err(embedded)?;
        let url = format!("http://{}", coordinator.local_addr());
        Ok(Self { coordinator, url, worker: None })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts a worker for it and returns once it is connected. All outputs are allowed, as it is the user's own
    /// machine.
    pub async fn start_worker(&mut self, options: WorkerOptions) -> Result<(), Error> {
        let config =
            WorkerConfig::embedded(self.url.clone(), &options.dispatch, options.slots, options.work_dir)
                .map_err(embedded)?;
        let (shutdown, asked) = watch::channel(Shutdown::Run);
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(muster_worker::run(config, asked, |_| {
            // Who waits for it may have been interrupted.
            let _ = ready.send(());
        }));
        let worker = self.worker.insert(EmbeddedWorker { shutdown, task });
        tokio::select! {
            Ok(()) = is_ready => Ok(()),
            error = ended(worker) => Err(error),
        }
    }

    /// Ends when the worker has ended by itself, which is a failure while a batch runs. May be cancelled and
    /// called again. Never ends before [`Self::start_worker`].
    pub async fn worker_failed(&mut self) -> Error {
        match &mut self.worker {
            Some(worker) if !worker.task.is_finished() => ended(worker).await,
            Some(_) => Error::Embedded("the worker has ended".to_owned()),
            None => std::future::pending().await,
        }
    }

    /// Ends the worker (its runner too), then the coordinator, each within a bounded time.
    pub async fn shutdown(mut self) {
        if let Some(worker) = self.worker.take() {
            // It may have ended by itself.
            let _ = worker.shutdown.send(Shutdown::Stop);
            let abort = worker.task.abort_handle();
            if timeout(WORKER_END_TIME, worker.task).await.is_err() {
                tracing::warn!("the worker did not end in time");
                abort.abort();
            }
        }
        if let Err(error) = self.coordinator.shutdown().await {
            tracing::warn!(%error, "the coordinator did not end cleanly");
        }
    }
}

/// Whether the worker's program can be run, before anything is started or stored.
pub fn check_dispatch(dispatch: &str) -> Result<(), Error> {
    match muster_worker::config::runnable_words(dispatch) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Usage(error.to_string())),
    }
}

/// The runner process: this binary again, started by the embedded worker with `__runner` first.
pub fn runner_main() -> Option<ExitCode> {
    runner::reexec(std::env::args_os())
}

async fn ended(worker: &mut EmbeddedWorker) -> Error {
    match (&mut worker.task).await {
        Ok(Ok(())) => Error::Embedded("the worker has ended".to_owned()),
        Ok(Err(error)) => embedded(error),
        Err(error) => embedded(error),
    }
}

fn embedded(error: impl std::fmt::Display) -> Error {
    Error::Embedded(error.to_string())
}
