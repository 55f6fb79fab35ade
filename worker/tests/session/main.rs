//! A worker against a coordinator that the test plays, with the real runner and real processes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod coordinator;
mod runner;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use coordinator::{Coordinator, PATIENCE, attempt, held, soon};
use muster_proto::v1;
use muster_proto::v1::attach_request::Message as FromWorker;
use muster_proto::v1::attach_response::Message as ToWorker;
use muster_proto::v1::ended::Outcome;
use muster_proto::v1::{HeldPhase, Verdict};
use muster_worker::runner::connect;
use muster_worker::runner::protocol::{AttemptKey, Env, Start, ToRunner, VERSION, encode};
use muster_worker::{Config, Error, Ready, Shutdown};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::Status;

/// Prints a line, waits for the file `go` in the working directory, prints another one.
const TWO_LINES: &str = "echo one; until [ -e go ]; do sleep 0.01; done; echo two";

/// A work directory. At its end its runner ends too, whatever the test left running.
struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Ok(mut runner) = connect(self.path()) {
            for message in [ToRunner::Hello { version: VERSION }, ToRunner::Shutdown { grace_ms: 0 }] {
                let _ = runner.write_all(&encode(&message).unwrap());
            }
        }
    }
}

struct Worker {
    ask: watch::Sender<Shutdown>,
    task: JoinHandle<Result<(), Error>>,
    ready: Option<oneshot::Receiver<Ready>>,
}

impl Worker {
    fn start(coordinator: &Coordinator, dir: &Dir) -> Self {
        Self::start_with(coordinator, dir, |_| {})
    }

    fn start_with(coordinator: &Coordinator, dir: &Dir, set: impl FnOnce(&mut Config)) -> Self {
        let exe = PathBuf::from(env!("CARGO_BIN_EXE_muster-worker"));
        let mut config = Config::new(format!("http://{}", coordinator.address), vec!["/bin/sh".into()], exe);
        config.work_dir = Some(dir.path().to_owned());
        config.slots = 2;
        config.labels.insert("gpu".into(), "a100".into());
        set(&mut config);
        let (ask, shutdown) = watch::channel(Shutdown::Run);
        let (sender, ready) = oneshot::channel();
        let task = tokio::spawn(muster_worker::run(config, shutdown, move |ready| {
            let _ = sender.send(ready);
        }));
        Self { ask, task, ready: Some(ready) }
    }

    async fn ready(&mut self) -> Ready {
        soon(self.ready.take().unwrap()).await
    }

    async fn ends(self) -> Result<(), Error> {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the worker does not end").unwrap()
    }

    /// Ends the network half without a word, as a crash does. The runner goes on.
    async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// The process that started a task.
fn runner_of(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    parent.trim().parse().unwrap()
}

/// The attempt of a task as the runner knows it.
fn key(task: u32) -> AttemptKey {
    let v1::Attempt { life, batch, task, attempt } = attempt(task);
    AttemptKey { life, batch, task, attempt }
}

/// A start of a shell script, as an earlier half would have sent it.
fn start(task: u32, dir: &Dir, script: &str) -> Start {
    Start {
        attempt: key(task),
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: Env::default(),
        cwd: outputs(dir).as_path().into(),
        output_limit: 1 << 20,
        time_limit_ms: None,
        grace_ms: 100,
        stop_after_cut_off_ms: None,
    }
}

fn stop(task: u32) -> ToWorker {
    ToWorker::Stop(v1::Stop { attempt: Some(attempt(task)), grace_ms: 10_000 })
}

fn outputs(dir: &Dir) -> PathBuf {
    fs::canonicalize(dir.path()).unwrap().join("outputs/b1")
}

fn go(dir: &Dir) {
    fs::write(outputs(dir).join("go"), "").unwrap();
}

#[tokio::test]
async fn a_task_runs_from_offer_to_acknowledgement_and_the_worker_leaves() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let mut worker = Worker::start(&coordinator, &dir);
    let (mut session, hello) = coordinator.session().await;
    assert_eq!((hello.protocol, hello.slots, hello.draining), (1, 2, false));
    assert_eq!((hello.instance_id.len(), hello.boot_id.is_empty()), (32, false));
    assert!(hello.name.ends_with(&hello.instance_id[..4]), "{}", hello.name);
    assert_eq!(hello.labels, [("gpu".to_owned(), "a100".to_owned())].into());
    session.welcome(&[]).await;
    assert_eq!(worker.ready().await.address, coordinator.address.to_string());
    assert_eq!(session.heartbeat().await.held, []);

    let script = "echo $# $1 $3 \"$4\"; env | grep -E '^(MUSTER_[A-Z_]*(ID|INDEX|ATTEMPT|DIR)|BIZYAIR.*)=' | sort; \
                  pwd; echo picture > $2; exit 3";
    session.offer(7, script).await;
    let started = session.started(7).await;
    let output_path = outputs(&dir).join("task-07-output");
    assert_eq!(started.output_path, output_path.to_str().unwrap());
    let ended = session.ended(7).await;
    assert_eq!(ended.outcome, Some(Outcome::ExitCode(3)));
    assert_eq!((ended.pid, &ended.output_path), (started.pid, &started.output_path));
    let pwd = outputs(&dir);
    let pwd = pwd.display();
    let expected = format!(
        "4 --output --prompt a cat\nBIZYAIR_API_KEY=secret\nBIZYAIR_DISABLE_RUNTIME_STATE=1\nMUSTER_ATTEMPT=1\n\
         MUSTER_BATCH_ID=b1\nMUSTER_OUTPUT_DIR={pwd}\nMUSTER_TASK_INDEX=7\n{pwd}\n"
    );
    assert_eq!(String::from_utf8_lossy(&coordinator.output(&ended).await), expected);
    assert_eq!(fs::read_to_string(output_path).unwrap(), "picture\n");

    worker.ask.send_replace(Shutdown::Drain);
    assert_eq!(session.next().await, FromWorker::Draining(v1::Draining {}));
    session.offer(8, "echo no").await;
    assert_eq!(session.next().await, FromWorker::Returned(v1::Returned { attempt: Some(attempt(8)) }));
    session.acknowledge(7).await;
    session.leaves().await;
    worker.ends().await.unwrap();
}

#[tokio::test]
async fn a_task_goes_on_over_reconnects_and_its_output_arrives_once_and_whole() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let worker = Worker::start(&coordinator, &dir);
    let mut session = coordinator.welcome().await;
    session.offer(1, TWO_LINES).await;
    let started = session.started(1).await;
    assert_eq!(coordinator.stored(1, 4).await, b"one\n");
    drop(session);

    let (mut session, hello) = coordinator.session().await;
    assert_eq!(hello.held, [held(1, HeldPhase::Running)]);
    coordinator.lose(1, 2);
    session.welcome(&[(1, Verdict::GoOn, 2)]).await;
    assert_eq!(session.next().await, FromWorker::Started(started.clone()), "it is said again");
    assert_eq!(coordinator.stored(1, 4).await, b"one\n");
    go(&dir);
    let ended = session.ended(1).await;
    assert_eq!((ended.log_size, ended.inline_log.len()), (8, 0), "what was pushed is not sent inline");
    assert_eq!(coordinator.stored(1, 8).await, b"one\ntwo\n");
    drop(session);

    let (mut session, hello) = coordinator.session().await;
    assert_eq!(hello.held, [held(1, HeldPhase::Ended)]);
    session.welcome(&[(1, Verdict::Report, 8)]).await;
    assert_eq!(session.ended(1).await, ended, "the result is sent until it is acknowledged");
    session.acknowledge(1).await;
    worker.ask.send_replace(Shutdown::Drain);
    assert_eq!(session.next().await, FromWorker::Draining(v1::Draining {}));
    session.leaves().await;
    worker.ends().await.unwrap();
}

#[tokio::test]
async fn a_copy_of_a_work_directory_on_the_same_machine_is_not_taken_for_the_same() {
    let mut coordinator = Coordinator::start().await;
    let (dir, copy) = (Dir::new(), Dir::new());
    let original = Worker::start(&coordinator, &dir);
    let (first, hello) = coordinator.session().await;
    first.welcome(&[]).await;
    fs::copy(dir.path().join("instance"), copy.path().join("instance")).unwrap();
    let copied = Worker::start(&coordinator, &copy);
    let (_second, other) = coordinator.session().await;
    assert_eq!(other.instance_id, hello.instance_id);
    assert_ne!(
        other.boot_id, hello.boot_id,
        "its hellos would prove that what the other one has never started"
    );
    original.crash().await;
    copied.crash().await;
}

/// walks: R16
#[tokio::test]
async fn a_task_outlives_a_crash_of_the_network_half() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let worker = Worker::start(&coordinator, &dir);
    let (mut session, first) = coordinator.session().await;
    session.welcome(&[]).await;
    session.offer(1, TWO_LINES).await;
    let started = session.started(1).await;
    worker.crash().await;
    drop(session);

    let worker = Worker::start(&coordinator, &dir);
    let (mut session, hello) = coordinator.session().await;
    assert_eq!(hello.held, [held(1, HeldPhase::Running)]);
    assert_eq!((hello.instance_id, hello.boot_id), (first.instance_id, first.boot_id));
    assert!(hello.connection > first.connection, "its hellos are numbered on");
    session.welcome(&[(1, Verdict::GoOn, 0)]).await;
    let FromWorker::Started(again) = session.next().await else { panic!("not started") };
    assert_eq!(again.pid, started.pid);
    go(&dir);
    assert_eq!(session.ended(1).await.outcome, Some(Outcome::ExitCode(0)));
    session.acknowledge(1).await;
    worker.ask.send_replace(Shutdown::Drain);
    assert_eq!(session.next().await, FromWorker::Draining(v1::Draining {}));
    session.leaves().await;
    worker.ends().await.unwrap();
}

/// walks: R6
#[tokio::test]
async fn a_task_whose_runner_dies_is_reported_and_the_worker_goes_on() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let worker = Worker::start(&coordinator, &dir);
    let mut session = coordinator.welcome().await;
    session.offer(1, "exec sleep 1000").await;
    let started = session.started(1).await;
    kill(Pid::from_raw(runner_of(started.pid)), Signal::SIGKILL).unwrap();
    assert!(matches!(session.ended(1).await.outcome, Some(Outcome::WorkerCrashed(_))));
    session.acknowledge(1).await;
    session.offer(2, "exit 0").await;
    session.started(2).await;
    assert_eq!(session.ended(2).await.outcome, Some(Outcome::ExitCode(0)));
    session.acknowledge(2).await;
    worker.ask.send_replace(Shutdown::Drain);
    assert_eq!(session.next().await, FromWorker::Draining(v1::Draining {}));
    session.leaves().await;
    worker.ends().await.unwrap();
}

#[tokio::test]
async fn much_output_is_pushed_and_what_is_over_the_limit_is_counted() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let worker = Worker::start(&coordinator, &dir);
    let mut session = coordinator.welcome().await;
    session.offer(1, "head -c 1500000 /dev/zero").await;
    session.started(1).await;
    let ended = session.ended(1).await;
    assert_eq!((ended.log_size, ended.log_discarded), (1 << 20, 1_500_000 - (1 << 20)));
    let stored = coordinator.stored(1, 1 << 20).await;
    assert!(stored.len() == 1 << 20 && stored.iter().all(|byte| *byte == 0));
    session.acknowledge(1).await;
    worker.ask.send_replace(Shutdown::Drain);
    assert_eq!(session.next().await, FromWorker::Draining(v1::Draining {}));
    session.leaves().await;
    worker.ends().await.unwrap();
}

#[tokio::test]
async fn tasks_are_stopped_by_the_coordinator_and_by_the_worker() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let worker = Worker::start(&coordinator, &dir);
    let mut session = coordinator.welcome().await;
    for task in [1, 2] {
        session.offer(task, "exec sleep 1000").await;
        session.started(task).await;
    }
    session.say(ToWorker::Stop(v1::Stop { attempt: Some(attempt(1)), grace_ms: 10_000 })).await;
    let ended = session.ended(1).await;
    assert_eq!((ended.outcome, ended.stop_sent), (Some(Outcome::Signal(15)), true));
    session.say(ToWorker::Stop(v1::Stop { attempt: Some(attempt(3)), grace_ms: 0 })).await;
    assert_eq!(session.next().await, FromWorker::Returned(v1::Returned { attempt: Some(attempt(3)) }));
    session.acknowledge(1).await;

    worker.ask.send_replace(Shutdown::Stop);
    assert_eq!(session.next().await, FromWorker::Draining(v1::Draining {}));
    assert_eq!(session.ended(2).await.outcome, Some(Outcome::Signal(15)));
    session.acknowledge(2).await;
    session.leaves().await;
    worker.ends().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_started_is_told_apart() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let worker = Worker::start(&coordinator, &dir);
    let mut session = coordinator.welcome().await;
    let long = format!("# {}", "x".repeat(200_000));
    session.offer(1, &long).await;
    assert!(matches!(session.next().await, FromWorker::Accepted(_)));
    let Some(Outcome::LaunchFailed(failed)) = session.ended(1).await.outcome else {
        panic!("it was started")
    };
    assert!(failed.task_fault && failed.errno == nix::libc::E2BIG, "{failed:?}");
    session.acknowledge(1).await;

    let offer = v1::Offer { attempt: Some(attempt(2)), output: "/etc/x".into(), ..v1::Offer::default() };
    session.say(ToWorker::Offer(offer)).await;
    assert!(matches!(session.next().await, FromWorker::Accepted(_)));
    let Some(Outcome::OutputRefused(refused)) = session.ended(2).await.outcome else {
        panic!("it was started")
    };
    assert!(refused.message.contains("--output-root"), "{}", refused.message);
    session.acknowledge(2).await;
    worker.ask.send_replace(Shutdown::Drain);
    assert_eq!(session.next().await, FromWorker::Draining(v1::Draining {}));
    session.leaves().await;
    worker.ends().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_is_not_wanted_ends_with_the_reason() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let worker = Worker::start(&coordinator, &dir);
    let (session, _) = coordinator.session().await;
    session.fail(Status::already_exists("the name is in use by another worker")).await;
    let error = worker.ends().await.unwrap_err();
    assert!(matches!(&error, Error::Refused(reason) if reason.contains("in use")), "{error}");

    let worker = Worker::start(&coordinator, &dir);
    let session = coordinator.welcome().await;
    session.say(ToWorker::Goodbye(v1::Goodbye { reason: "decommissioned".into(), stay_away: true })).await;
    assert!(matches!(worker.ends().await, Err(Error::SentAway(reason)) if reason == "decommissioned"));
}

/// walks: R2
#[tokio::test]
async fn the_program_says_that_it_is_connected_and_drains_when_told_to_end() {
    for told in [Signal::SIGTERM, Signal::SIGINT] {
        let mut coordinator = Coordinator::start().await;
        let dir = Dir::new();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_muster-worker"));
        command
            .args(["--coordinator", &format!("http://{}", coordinator.address), "--dispatch", "/bin/sh -e"])
            .args(["--slots=1", "--name=gpu-1", "--work-dir"])
            .arg(dir.path())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (mut session, hello) = coordinator.session().await;
        assert_eq!((hello.name.as_str(), hello.slots), ("gpu-1", 1));
        session.welcome(&[]).await;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it says nothing").unwrap();
        assert_eq!(line, Some(format!("muster-worker connected to {}", coordinator.address)));

        session.offer(1, TWO_LINES).await;
        session.started(1).await;
        kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), told).unwrap();
        assert_eq!(session.next().await, FromWorker::Draining(v1::Draining {}));
        session.offer(2, "echo no").await;
        assert_eq!(session.next().await, FromWorker::Returned(v1::Returned { attempt: Some(attempt(2)) }));
        go(&dir);
        assert_eq!(session.ended(1).await.outcome, Some(Outcome::ExitCode(0)), "what runs is finished");
        session.heartbeat().await;
        assert!(connect(dir.path()).is_ok() && child.try_wait().unwrap().is_none(), "it is not acknowledged");
        session.acknowledge(1).await;
        session.leaves().await;
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it does not end").unwrap();
        assert_eq!(status.code(), Some(0));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while connect(dir.path()).is_ok() {
            assert!(tokio::time::Instant::now() < deadline, "the runner does not end");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn bad_settings_are_refused_before_anything_is_made() {
    let dir = Dir::new();
    let work_dir = dir.path().join("w");
    for args in [&["--dispatch", "a 'b"][..], &["--dispatch", "a", "--name", "a b"], &["--dispatch", ""]] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_muster-worker"));
        let output = command.args(args).arg("--work-dir").arg(&work_dir).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty() && !work_dir.exists());
    }
}
