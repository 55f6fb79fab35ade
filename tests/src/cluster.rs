//! A coordinator and its workers as real processes in a temporary folder, with their clients.
//!
//! Dropping a [`Cluster`] ends every process that came of it, runners and tasks' descendants included, and
//! removes the folder; in a failing test it first prints what the processes logged last.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use muster_proto::v1::{
    Batch, SubmitBatchRequest, batch_service_client::BatchServiceClient,
    fleet_service_client::FleetServiceClient, worker_service_client::WorkerServiceClient,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};

use crate::{bin, probe, sweep};

/// A process that has not said that it is ready by then never will.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The largest message that our clients take: a page of tasks has at most 3 MiB.
const CLIENT_MESSAGE_MAX: usize = 8 << 20;
/// Lines of a process's log that a failing test prints.
const LOG_LINES_SHOWN: usize = 40;

/// How a cluster is set up.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// The content of config.json.
    pub config: Option<String>,
    /// Further arguments of the coordinator.
    pub coordinator_args: Vec<String>,
}

impl ClusterOptions {
    /// Limits high enough for `concurrency` at once and `tasks` in a batch, without approvals.
    pub fn with_limits(concurrency: u32, tasks: u32) -> Self {
        let limits = serde_json::json!({"batch": {"max_concurrency": concurrency, "max_tasks": tasks}});
        Self {
            config: Some(limits.to_string()),
            coordinator_args: vec![
                format!("--system-max-concurrency={concurrency}"),
                format!("--system-max-tasks={tasks}"),
            ],
        }
    }
}

/// How a worker is set up.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Its name, which also names its work folder.
    pub name: String,
    /// How many tasks it runs at once.
    pub slots: u32,
    /// The dispatch command; the probe where there is none.
    pub dispatch: Option<String>,
    /// Where it dials; the coordinator itself where there is none.
    pub through: Option<SocketAddr>,
    /// Further arguments.
    pub args: Vec<String>,
    /// The cgroup that it is started in; ours where there is none.
    pub cgroup: Option<PathBuf>,
}

impl WorkerOptions {
    /// A worker that runs the probe.
    pub fn new(name: &str, slots: u32) -> Self {
        Self { name: name.into(), slots, dispatch: None, through: None, args: Vec::new(), cgroup: None }
    }
}

/// A coordinator with its folder.
pub struct Cluster {
    dir: TempDir,
    options: ClusterOptions,
    coordinator: Option<Child>,
    address: SocketAddr,
    starts: u32,
}

/// A worker's network half.
pub struct WorkerProcess {
    child: Child,
    options: WorkerOptions,
}

impl Cluster {
    /// Starts a coordinator with the default limits.
    pub async fn start() -> Self {
        Self::start_with(ClusterOptions::default()).await
    }

    /// Starts a coordinator.
    pub async fn start_with(options: ClusterOptions) -> Self {
        let dir = TempDir::with_prefix("muster-e2e-").expect("a temporary folder");
        fs::create_dir(dir.path().join("probe")).expect("a temporary folder");
        if let Some(config) = &options.config {
            fs::write(dir.path().join("config.json"), config).expect("a temporary folder");
        }
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut cluster = Self { dir, options, coordinator: None, address, starts: 0 };
        cluster.start_coordinator().await;
        cluster
    }

    /// Starts the coordinator again on the same port and data, after a kill.
    pub async fn start_coordinator(&mut self) {
        assert!(self.coordinator.is_none(), "the coordinator runs");
        let mut command = self.command("muster-coordinator", &format!("coordinator-{}", self.starts));
        self.starts += 1;
        command.arg(format!("--listen={}", self.address)).arg("--data-dir").arg(self.data_dir());
        if self.options.config.is_some() {
            command.arg("--config").arg(self.dir.path().join("config.json"));
        }
        command.args(&self.options.coordinator_args);
        let (child, line) = self.ready(command, "muster-coordinator listening on ").await;
        self.address = line.parse().expect("an address");
        self.coordinator = Some(child);
    }

    /// Puts another folder in the place of the data; the coordinator must not run.
    pub fn replace_data(&self, with: &Path) {
        assert!(self.coordinator.is_none(), "the coordinator runs");
        fs::remove_dir_all(self.data_dir()).expect("our own folder");
        fs::rename(with, self.data_dir()).expect("our own folder");
    }

    /// Kills the coordinator: it gets no chance to tidy up.
    pub async fn kill_coordinator(&mut self) {
        let mut child = self.coordinator.take().expect("the coordinator runs");
        child.kill().await.expect("the coordinator is ours to kill");
    }

    /// Asks the coordinator to end, and waits for it.
    pub async fn stop_coordinator(&mut self) -> ExitStatus {
        let mut child = self.coordinator.take().expect("the coordinator runs");
        signal_child(&child, Signal::SIGTERM);
        timeout(READY_WITHIN, child.wait()).await.expect("the coordinator ends").expect("its status")
    }

    /// Sends the coordinator a signal.
    pub fn signal_coordinator(&self, signal: Signal) {
        signal_child(self.coordinator.as_ref().expect("the coordinator runs"), signal);
    }

    /// Other further arguments for the next start of the coordinator.
    pub fn set_coordinator_args(&mut self, args: &[&str]) {
        self.options.coordinator_args = args.iter().map(|&arg| arg.to_owned()).collect();
    }

    /// Waits until the coordinator has ended by itself: its status, and what it logged.
    pub async fn coordinator_ended(&mut self, within: Duration) -> (ExitStatus, String) {
        let mut child = self.coordinator.take().expect("the coordinator runs");
        let status = timeout(within, child.wait()).await.expect("the coordinator ends").expect("its status");
        let log = self.dir.path().join(format!("coordinator-{}.log", self.starts - 1));
        (status, String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned())
    }

    /// Whether the coordinator's process still runs.
    pub fn coordinator_runs(&mut self) -> bool {
        self.coordinator.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The process id of the coordinator.
    pub fn coordinator_pid(&self) -> u32 {
        self.coordinator.as_ref().and_then(Child::id).expect("the coordinator runs")
    }

    /// Starts a worker and waits until it is connected. The same name again takes up the same work folder.
    pub async fn worker(&self, options: WorkerOptions) -> WorkerProcess {
        let mut command = match &options.cgroup {
            None => self.command("muster-worker", &options.name),
            Some(cgroup) => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]).arg(cgroup);
                command.arg(bin("muster-worker"));
                self.equip(command, &options.name)
            }
        };
        let target = options.through.unwrap_or(self.address);
        command.arg(format!("--coordinator=http://{target}"));
        let dispatch = options.dispatch.clone().unwrap_or_else(|| bin("probe").display().to_string());
        command.arg("--dispatch").arg(dispatch);
        command.arg(format!("--name={}", options.name)).arg(format!("--slots={}", options.slots));
        command.arg("--work-dir").arg(self.work_dir(&options.name)).args(&options.args);
        let (child, _) = self.ready(command, "muster-worker connected to ").await;
        WorkerProcess { child, options }
    }

    /// Workers of the same kind, named a, b, c and so on.
    pub async fn workers(&self, count: u8, slots: u32) -> Vec<WorkerProcess> {
        let mut workers = Vec::new();
        for number in 0..count {
            let name = char::from(b'a' + number).to_string();
            workers.push(self.worker(WorkerOptions::new(&name, slots)).await);
        }
        workers
    }

    /// A command that belongs to this cluster: it finds the probe folder, and is ended with the cluster.
    pub fn command(&self, program: &str, log_name: &str) -> Command {
        self.equip(Command::new(bin(program)), log_name)
    }

    fn equip(&self, mut command: Command, log_name: &str) -> Command {
        let log = self.dir.path().join(format!("{log_name}.log"));
        let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("a log file");
        command.env(probe::DIR_VARIABLE, self.probe_dir()).env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null()).stderr(log).current_dir(self.dir.path()).kill_on_drop(true);
        command
    }

    async fn ready(&self, mut command: Command, line: &str) -> (Child, String) {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("our own program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let found = timeout(READY_WITHIN, find_line(&mut stdout, line)).await.ok().flatten();
        let Some(rest) = found else {
            self.print_logs();
            panic!("no {line:?} from {command:?} within {READY_WITHIN:?}");
        };
        // Keeps the pipe from filling up.
        tokio::spawn(async move {
            let mut rest = String::new();
            while stdout.read_line(&mut rest).await.is_ok_and(|read| read > 0) {
                rest.clear();
            }
        });
        (child, rest)
    }

    /// Where the coordinator listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The temporary folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The coordinator's data.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A worker's work folder.
    pub fn work_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("work-{name}"))
    }

    /// Where the probe leaves its stamps.
    pub fn probe_dir(&self) -> PathBuf {
        self.dir.path().join("probe")
    }

    /// Opens a gate that probes wait for.
    pub fn open_gate(&self, name: &str) {
        probe::write_whole(&self.probe_dir().join(name), "");
    }

    /// Every run of every attempt so far, by the children's own records. Fails if one ran twice.
    pub fn runs(&self) -> Vec<probe::Run> {
        let runs = probe::runs(&self.probe_dir());
        for run in &runs {
            assert_eq!(run.again, 0, "an attempt was started again: {run:?}");
        }
        runs
    }

    /// A connection to the coordinator, made when first used.
    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .expect("an address")
            .connect_timeout(Duration::from_secs(5))
            .connect_lazy()
    }

    /// A client of its batches.
    pub fn batches(&self) -> BatchServiceClient<Channel> {
        BatchServiceClient::new(self.channel()).max_decoding_message_size(CLIENT_MESSAGE_MAX)
    }

    /// A client of its fleet.
    pub fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel())
    }

    /// What a worker speaks, for messages that no worker of ours would send.
    pub fn worker_service(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel())
    }

    /// Submits prompts, which the probe takes as scripts, and fails if they are refused.
    pub async fn submit<S: AsRef<str>>(&self, prompts: &[S], concurrency: i32) -> Batch {
        let prompts: Vec<&str> = prompts.iter().map(AsRef::as_ref).collect();
        let request = SubmitBatchRequest {
            batch_json: serde_json::to_string(&prompts).expect("strings"),
            concurrency: Some(concurrency),
            ..Default::default()
        };
        let reply = self.batches().submit_batch(request).await.expect("an accepted batch");
        reply.into_inner().batch.expect("the batch")
    }

    fn print_logs(&self) {
        let Ok(entries) = fs::read_dir(self.dir.path()) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = fs::read(&path).unwrap_or_default();
                let text = String::from_utf8_lossy(&text).into_owned();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {}", path.display());
                for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                    eprintln!("{line}");
                }
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        sweep::kill_processes_of(self.dir.path());
    }
}

impl WorkerProcess {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The process id of its network half.
    pub fn pid(&self) -> i32 {
        self.child.id().expect("the process runs") as i32
    }

    /// How it was started.
    pub fn options(&self) -> &WorkerOptions {
        &self.options
    }

    /// Kills its network half, and nothing else: the runner and the tasks are processes of their own.
    pub async fn kill(mut self) -> WorkerOptions {
        self.child.kill().await.expect("the worker is ours to kill");
        self.options
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        signal_child(&self.child, signal);
    }

    /// Waits until it has ended.
    pub async fn ended(mut self, within: Duration) -> ExitStatus {
        timeout(within, self.child.wait()).await.expect("the worker ends in time").expect("its status")
    }
}

fn signal_child(child: &Child, signal: Signal) {
    let pid = child.id().expect("the process runs");
    kill(Pid::from_raw(pid as i32), signal).expect("the process is ours");
}

async fn find_line(stdout: &mut BufReader<ChildStdout>, start: &str) -> Option<String> {
    let mut line = String::new();
    while stdout.read_line(&mut line).await.ok()? > 0 {
        if let Some(rest) = line.trim_end().strip_prefix(start) {
            return Some(rest.to_owned());
        }
        line.clear();
    }
    None
}
