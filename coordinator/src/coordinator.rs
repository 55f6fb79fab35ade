//! A coordinator from start to end: opens what it needs, in the order of need, and stops in the reverse.

use std::{fs, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use muster_proto::{AttemptId, BatchId};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    core::{catalog, machine, retention::Retention},
    disk::Disk,
    engine::{self, LogOffsets, Unseal, handle::Handle},
    grpc::{
        self, Edge, Health, accept,
        context::{Context, Parts},
    },
    logs::{self, Logs},
    policy_file::PolicyFile,
    prefill::{self, Models},
    secrets::{Keyring, KeyringError, Secret},
    store::{self, Reader, sqlite::SqliteStore},
    upkeep::Upkeep,
    watch::Hub,
};

/// Exit code of a process whose coordinator stopped because it could no longer store what it acknowledges.
pub const EXIT_STORAGE_FAILED: u8 = 74;

/// How long a stop may take in all: the engine's last group, what peers take to end their connections, and the
/// output that is queued.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Of that, what is left to the output at least. It is written again by the workers where that is not enough.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
/// Folder of the logs in the data directory.
pub(crate) const LOGS_DIR: &str = "logs";

/// Why a coordinator could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It would have been open to everyone.
    #[error(
        "{0} can be reached from other machines, and calls are neither encrypted nor authenticated: whoever \
         reaches it can run tasks; listen on 127.0.0.1 (the default) behind a tunnel, or give --insecure if the \
         network is trusted"
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A file or folder cannot be read or made.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The catalogue is not valid.
    #[error("{path}: {source}")]
    Catalog {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: catalog::Error,
    },
    /// Models cannot be looked up like that.
    #[error(transparent)]
    ContractBaseUrl(#[from] prefill::BadBaseUrl),
    /// The key file is not usable.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The logs cannot be used.
    #[error("the logs cannot be opened: {0}")]
    Logs(#[from] logs::Error),
    /// The server cannot be built.
    #[error(transparent)]
    Server(#[from] grpc::Error),
    /// A thread that opens files has died.
    #[error("the start was cut short: {0}")]
    CutShort(String),
}

/// Why a coordinator stopped by itself. What it had acknowledged is stored.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The store failed.
    #[error("{0}; nothing more is acknowledged, so the coordinator stops")]
    Store(#[from] store::Error),
    /// Output could not be stored.
    #[error("{0}; nothing more is acknowledged, so the coordinator stops")]
    Logs(String),
    /// The engine has died without a word, which is a defect.
    #[error("the engine has stopped unexpectedly; its last log lines say why")]
    Engine,
    /// The server could not go on.
    #[error(transparent)]
    Server(#[from] grpc::Error),
}

/// Starts coordinators.
pub struct Coordinator;

impl Coordinator {
    /// Opens data and address, and serves. What was acknowledged before a crash is there again.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        if !config.listen.ip().is_loopback() && !config.insecure {
            return Err(StartError::NotLoopback(config.listen));
        }
        let listen = config.listen;
        let (engine, inbox) = engine::channel();
        let on_stored = engine.clone();
        let opened = spawn_blocking(move || open(config, on_stored)).await;
        let opened = opened.map_err(|error| StartError::CutShort(error.to_string()))??;
        let failed = |source| StartError::Listen { address: listen, source };
        let listener = accept::listen(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        run(opened, engine, inbox, listener, address).await
    }
}

struct Opened {
    store: SqliteStore,
    reader: Arc<dyn Reader>,
    logs: Logs,
    keyring: Arc<Keyring>,
    catalog: catalog::Catalog,
    policy: PolicyFile,
    models: Models,
    disk: Disk,
    retention: Retention,
    data_dir: PathBuf,
    first_batch: Option<BatchId>,
    lost_after_ms: u64,
    log_limit: u64,
}

/// Opens everything on disk. Blocks.
fn open(config: Config, engine: Handle) -> Result<Opened, StartError> {
    let catalog = match &config.catalog_file {
        None => catalog::Catalog::builtin(),
        Some(path) => {
            let text =
                fs::read_to_string(path).map_err(|source| StartError::File { path: path.clone(), source })?;
            catalog::Catalog::parse(&text)
                .map_err(|source| StartError::Catalog { path: path.clone(), source })?
        }
    };
    let models = Models::new(prefill::Options {
        base_url: config.contract_base_url.clone(),
        keep: config.contract_cache_ttl,
        insecure: config.insecure,
    })?;
    let dir = &config.data_dir;
    fs::create_dir_all(dir).map_err(|source| StartError::File { path: dir.clone(), source })?;
    // The store's lock first: everything else is this coordinator's alone then.
    let (store, reader) = SqliteStore::open(dir)?;
    let keyring = Arc::new(Keyring::open(&config.key_file())?);
    let on_stored = move |attempt, offset| {
        // An engine that has stopped reads offsets anew at its next start.
        let _ = engine.log_stored_blocking(attempt, offset);
    };
    let logs = Logs::open(&dir.join(LOGS_DIR), logs::Options::default(), on_stored)?;
    for damage in logs.damage() {
        tracing::error!(
            segment = %damage.segment.display(), from = damage.from, to = damage.to,
            "stored output is damaged; readers are told where"
        );
    }
    let policy = PolicyFile::new(config.config_file.clone(), config.system);
    let in_force = policy.read();
    tracing::info!(
        max_concurrency = in_force.max_concurrency,
        max_tasks = in_force.max_tasks,
        system_max_concurrency = config.system.max_concurrency,
        system_max_tasks = config.system.max_tasks,
        "limits in force"
    );
    if !config.retention.keeps_all() {
        tracing::info!(ended_batches_kept = config.retention.in_words(), "retention");
        // What a crash has left of batches that were removed.
        let there = reader.batch_ids()?;
        logs.retain(|batch| there.contains(&batch))?;
    }
    Ok(Opened {
        store,
        reader: Arc::new(reader),
        logs,
        keyring,
        catalog,
        policy,
        models,
        disk: Disk::new(config.data_dir.clone(), config.min_free_bytes),
        retention: config.retention,
        data_dir: config.data_dir,
        first_batch: config.first_batch,
        lost_after_ms: u64::try_from(config.lost_after.as_millis()).unwrap_or(u64::MAX),
        log_limit: config.log_limit,
    })
}

async fn run(
    opened: Opened,
    engine: Handle,
    inbox: engine::Inbox,
    listener: TcpListener,
    address: SocketAddr,
) -> Result<Running, StartError> {
    let Opened {
        store,
        reader,
        logs,
        keyring,
        catalog,
        policy,
        models,
        disk,
        retention,
        data_dir,
        first_batch,
        lost_after_ms,
        log_limit,
    } = opened;
    let hub = Hub::default();
    let parts = engine::Parts {
        store: Box::new(store),
        logs: Box::new(Offsets(logs.clone())),
        keys: Box::new(Keys(Arc::clone(&keyring))),
        hub: hub.clone(),
        log_limit,
        machine: machine::Config { lost_after_ms, ..machine::Config::default() },
    };
    let spawned = spawn_blocking(move || engine::spawn(inbox, parts)).await;
    let engine_stopped = spawned.map_err(|error| StartError::CutShort(error.to_string()))??;
    let stopping = CancellationToken::new();
    let upkeep = Upkeep {
        data_dir,
        retention,
        engine: engine.clone(),
        reader: Arc::clone(&reader),
        logs: logs.clone(),
    };
    let context = Context::new(Parts {
        engine: engine.clone(),
        reader,
        logs: logs.clone(),
        hub,
        keyring,
        catalog: Arc::new(catalog),
        policy: Arc::new(policy),
        models: Arc::new(models),
        disk: Arc::new(disk),
        stopping: stopping.clone(),
        first_batch,
    });
    let edge = Edge::new(context)?;
    let health = edge.health.clone();
    health.set(true);
    let server = tokio::spawn(edge.serve(listener));
    tokio::spawn(upkeep.run(stopping.clone()));
    let asked = CancellationToken::new();
    let supervisor =
        Supervisor { asked: asked.clone(), stopping, engine, engine_stopped, logs, health, server };
    Ok(Running { address, asked, end: tokio::spawn(supervisor.supervise()) })
}

/// A coordinator that runs. Dropping it leaves it running.
pub struct Running {
    address: SocketAddr,
    /// Cancelled to ask for a stop.
    asked: CancellationToken,
    end: JoinHandle<Result<(), Failure>>,
}

impl Running {
    /// Where it listens.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has stopped: `Ok` after a stop that was asked for, else why. May be dropped and called
    /// again until it has returned once.
    pub async fn wait(&mut self) -> Result<(), Failure> {
        (&mut self.end).await.unwrap_or(Err(Failure::Engine))
    }

    /// Stops it: health NOT_SERVING, streams ended with UNAVAILABLE, the group in flight committed, connections
    /// drained for at most 10 s.
    pub async fn shutdown(mut self) -> Result<(), Failure> {
        self.asked.cancel();
        self.wait().await
    }

    /// Asks it to stop, without waiting.
    pub fn stop(&self) {
        self.asked.cancel();
    }
}

/// Watches over the parts and stops them all when one fails or a stop is asked for.
struct Supervisor {
    /// A stop is asked for.
    asked: CancellationToken,
    /// It has begun: health says so already.
    stopping: CancellationToken,
    engine: Handle,
    engine_stopped: engine::Stopped,
    logs: Logs,
    health: Health,
    server: JoinHandle<Result<(), grpc::Error>>,
}

impl Supervisor {
    async fn supervise(mut self) -> Result<(), Failure> {
        let mut engine_ended = false;
        let mut server_ended = false;
        let failure = tokio::select! {
            () = self.asked.cancelled() => None,
            stopped = &mut self.engine_stopped => {
                engine_ended = true;
                Some(match stopped {
                    Ok(Err(error)) => Failure::Store(error),
                    Ok(Ok(())) | Err(_) => Failure::Engine,
                })
            }
            why = self.logs.failed() => Some(Failure::Logs(why)),
            served = &mut self.server => {
                server_ended = true;
                served.ok().and_then(Result::err).map(Failure::Server)
            }
        };
        if let Some(failure) = &failure {
            tracing::error!("{failure}");
        }
        self.health.set(false);
        // Streams end themselves, nothing new is let in, connections are told to go.
        self.stopping.cancel();
        let mut result = failure.map_or(Ok(()), Err);
        let end = Instant::now() + STOP_WITHIN;
        let peers_end = end - LAST_OUTPUT;
        if !engine_ended {
            let stop = async {
                self.engine.shut_down().await;
                (&mut self.engine_stopped).await
            };
            match timeout_at(peers_end, stop).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => result = result.and(Err(Failure::Store(error))),
                Ok(Err(_)) => result = result.and(Err(Failure::Engine)),
                Err(_) => {
                    tracing::warn!("the engine has not stopped in time; it is left behind")
                }
            }
        }
        if !server_ended && timeout_at(peers_end, &mut self.server).await.is_err() {
            tracing::warn!("some connections have not ended in time; they are cut");
            self.server.abort();
        }
        let logs = self.logs.clone();
        // What is queued is written; the log writer's own failure was reported before.
        let _ = timeout_at(end, spawn_blocking(move || logs.close())).await;
        tracing::info!("stopped");
        result
    }
}

struct Offsets(Logs);

impl LogOffsets for Offsets {
    fn stored(&self, attempt: AttemptId) -> u64 {
        self.0.stored(attempt)
    }
}

struct Keys(Arc<Keyring>);

impl Unseal for Keys {
    fn unseal(&self, batch: BatchId, sealed: &[u8]) -> Result<Secret, String> {
        self.0.unseal(batch, sealed).map_err(|error| error.to_string())
    }
}
