//! A worker and its runner over each other's ends: leaving, upgrades, and a runner that hangs.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use muster_proto::v1;
use muster_proto::v1::attach_request::Message as FromWorker;
use muster_proto::v1::attach_response::Message as ToWorker;
use muster_proto::v1::ended::Outcome;
use muster_proto::v1::{HeldPhase, Verdict};
use muster_worker::runner::protocol::{
    Ended, FromRunner, Held, OLDEST, RELEASE, ToRunner, VERSION, decode, encode,
};
use muster_worker::runner::{RunnerOptions, connect, ensure_running};
use muster_worker::{Error, Shutdown};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::coordinator::{Coordinator, PATIENCE, Session, attempt, held};
use crate::{Dir, TWO_LINES, Worker, go, runner_of};

/// The worker as a program of its own.
fn program(coordinator: &Coordinator, dir: &Dir) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_muster-worker"));
    command
        .args(["--coordinator", &format!("http://{}", coordinator.address), "--dispatch", "/bin/sh"])
        .args(["--slots=2", "--work-dir"])
        .arg(dir.path())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command.spawn().unwrap()
}

fn signal(child: &tokio::process::Child, signal: Signal) {
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), signal).unwrap();
}

async fn exits(mut child: tokio::process::Child) {
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it does not end").unwrap();
    assert_eq!(status.code(), Some(0));
}

/// Waits until something is so.
async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = check() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("it does not come to be: {what}"))
}

/// Offers until the worker takes it: while its runner is being replaced, it gives offers back.
async fn offer_until_taken(session: &mut Session, task: u32, script: &str) {
    loop {
        session.offer(task, script).await;
        match session.next().await {
            FromWorker::Accepted(_) => break,
            FromWorker::Returned(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let FromWorker::Started(started) = session.next().await else { panic!("not started") };
    assert_eq!(started.attempt, Some(attempt(task)));
}

async fn drains(worker: Worker, mut session: Session) {
    worker.ask.send_replace(Shutdown::Drain);
    assert_eq!(session.next().await, FromWorker::Draining(v1::Draining {}));
    session.leaves().await;
    worker.ends().await.unwrap();
}

/// walks: R1, walks: R16
#[tokio::test]
async fn at_sigusr1_only_the_network_half_goes_and_the_next_one_takes_over() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let child = program(&coordinator, &dir);
    let (mut session, first) = coordinator.session().await;
    session.welcome(&[]).await;
    session.offer(1, TWO_LINES).await;
    let started = session.started(1).await;
    let runner = runner_of(started.pid);
    signal(&child, Signal::SIGUSR1);
    session.ends_without_a_word().await;
    exits(child).await;
    go(&dir);
    eventually("it ends without a half", || {
        (!fs::exists(format!("/proc/{}", started.pid)).unwrap()).then_some(())
    })
    .await;

    let child = program(&coordinator, &dir);
    let (mut session, hello) = coordinator.session().await;
    assert_eq!((&hello.instance_id, &hello.boot_id), (&first.instance_id, &first.boot_id));
    assert_eq!((hello.draining, hello.held), (false, vec![held(1, HeldPhase::Ended)]));
    session.welcome(&[(1, Verdict::Report, 0)]).await;
    let ended = session.ended(1).await;
    assert_eq!(
        (ended.outcome.clone(), coordinator.output(&ended).await),
        (Some(Outcome::ExitCode(0)), b"one\ntwo\n".to_vec())
    );
    session.acknowledge(1).await;
    session.offer(2, "exec sleep 600").await;
    assert_eq!(runner_of(session.started(2).await.pid), runner, "the runner is the same");

    // And the other signals: the first drains, the second ends what runs.
    signal(&child, Signal::SIGTERM);
    assert_eq!(session.next().await, FromWorker::Draining(v1::Draining {}));
    signal(&child, Signal::SIGTERM);
    let ended = session.ended(2).await;
    assert_eq!((ended.outcome, ended.stop_sent), (Some(Outcome::Signal(15)), true));
    session.acknowledge(2).await;
    session.leaves().await;
    exits(child).await;
    eventually("the runner ends too", || connect(dir.path()).is_err().then_some(())).await;
}

/// walks: R4
#[tokio::test]
async fn a_killed_network_half_stops_nothing_and_the_next_one_reports_what_ended_meanwhile() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let mut child = program(&coordinator, &dir);
    let mut session = coordinator.welcome().await;
    session.offer(1, TWO_LINES).await;
    let ends = session.started(1).await;
    session.offer(2, "exec sleep 600").await;
    let goes_on = session.started(2).await;
    child.kill().await.unwrap();
    drop(session);
    go(&dir);
    eventually("it ends without a half", || {
        (!fs::exists(format!("/proc/{}", ends.pid)).unwrap()).then_some(())
    })
    .await;

    let child = program(&coordinator, &dir);
    let (mut session, mut hello) = coordinator.session().await;
    hello.held.sort_by_key(|held| held.attempt.as_ref().map(|attempt| attempt.task));
    assert_eq!(hello.held, [held(1, HeldPhase::Ended), held(2, HeldPhase::Running)]);
    session.welcome(&[(1, Verdict::Report, 0), (2, Verdict::GoOn, 0)]).await;
    for _ in 0..2 {
        match session.next().await {
            FromWorker::Ended(ended) => {
                assert_eq!((ended.attempt, &ended.outcome), (Some(attempt(1)), &Some(Outcome::ExitCode(0))));
                assert_eq!(coordinator.output(&ended).await, b"one\ntwo\n");
            }
            FromWorker::Started(started) => {
                assert_eq!((started.attempt, started.pid), (Some(attempt(2)), goes_on.pid));
            }
            other => panic!("{other:?}"),
        }
    }
    session.acknowledge(1).await;
    session.say(crate::stop(2)).await;
    session.ended(2).await;
    session.acknowledge(2).await;
    signal(&child, Signal::SIGTERM);
    assert_eq!(session.next().await, FromWorker::Draining(v1::Draining {}));
    session.leaves().await;
    exits(child).await;
}

/// walks: R3
#[tokio::test]
async fn a_worker_that_is_told_twice_to_end_does_so_and_the_journal_keeps_what_was_not_acknowledged() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let mut child = program(&coordinator, &dir);
    let mut session = coordinator.welcome().await;
    session.offer(1, "trap '' TERM; echo deaf; while :; do sleep 0.05; done").await;
    session.started(1).await;
    coordinator.stored(1, 5).await;
    session.offer(2, "exec sleep 600").await;
    session.started(2).await;
    signal(&child, Signal::SIGTERM);
    assert_eq!(session.next().await, FromWorker::Draining(v1::Draining {}));
    let told = Instant::now();
    signal(&child, Signal::SIGTERM);
    let ended = session.ended(2).await;
    assert_eq!((ended.outcome, ended.stop_sent), (Some(Outcome::Signal(15)), true));
    session.acknowledge(2).await;
    let ended = session.ended(1).await;
    assert_eq!((ended.outcome, ended.stop_sent), (Some(Outcome::Signal(9)), true));
    assert!(told.elapsed() >= Duration::from_secs(10), "the grace");
    // Nobody acknowledges it.
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it does not end").unwrap();
    assert_eq!(status.code(), Some(1), "something was not reported");
    assert!(told.elapsed() >= Duration::from_secs(20), "the patience");
    drop(session);

    let child = program(&coordinator, &dir);
    let (mut session, hello) = coordinator.session().await;
    assert_eq!(hello.held, [held(1, HeldPhase::Ended)]);
    session.welcome(&[(1, Verdict::Report, 5)]).await;
    assert_eq!(session.ended(1).await.outcome, Some(Outcome::Signal(9)));
    session.acknowledge(1).await;
    signal(&child, Signal::SIGINT);
    assert_eq!(session.next().await, FromWorker::Draining(v1::Draining {}));
    session.leaves().await;
    exits(child).await;
}

#[tokio::test]
async fn while_the_runner_hangs_nothing_is_taken_and_nothing_is_started_twice() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let worker = Worker::start_with(&coordinator, &dir, |config| {
        config.slots = 100;
        config.runner_silence = Duration::from_millis(100);
    });
    let mut session = coordinator.welcome().await;
    session.offer(1, TWO_LINES).await;
    let started = session.started(1).await;
    let runner = Pid::from_raw(runner_of(started.pid));
    kill(runner, Signal::SIGSTOP).unwrap();
    eventually("it stands still", || {
        let stat = fs::read_to_string(format!("/proc/{runner}/stat")).unwrap();
        stat[stat.rfind(')')?..].starts_with(") T").then_some(())
    })
    .await;
    // What comes before its silence is noticed is taken, and waits for it.
    let mut expected = vec![1];
    for task in 2.. {
        session.offer(task, "echo ran >> runs").await;
        match session.next().await {
            FromWorker::Accepted(_) => expected.push(task),
            FromWorker::Returned(_) => break,
            other => panic!("{other:?}"),
        }
        session.heartbeat().await;
    }
    go(&dir);
    kill(runner, Signal::SIGCONT).unwrap();
    let mut ended = Vec::new();
    while ended.len() < expected.len() {
        match session.next().await {
            FromWorker::Ended(end) => {
                assert_eq!(end.outcome, Some(Outcome::ExitCode(0)));
                ended.push(end.attempt.unwrap().task);
            }
            FromWorker::Started(_) => {}
            other => panic!("{other:?}"),
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, expected);
    let runs = fs::read_to_string(crate::outputs(&dir).join("runs")).unwrap_or_default();
    assert_eq!(runs.lines().count(), expected.len() - 1, "each ran once");
    for task in expected {
        session.acknowledge(task).await;
    }
    offer_until_taken(&mut session, 1000, "exit 0").await;
    session.ended(1000).await;
    session.acknowledge(1000).await;
    drains(worker, session).await;
}

/// Starts a runner of another version of the protocol, as an older release would have.
fn older_runner(dir: &Dir, version: u32) -> Older {
    let options = RunnerOptions { version: Some(version), ..RunnerOptions::default() };
    let exe = std::path::Path::new(env!("CARGO_BIN_EXE_muster-worker"));
    // The directory is a work directory, and not something of somebody else's.
    fs::write(dir.path().join("half.lock"), "").unwrap();
    let stream = ensure_running(dir.path(), exe, &options.to_args(dir.path())).unwrap();
    let mut older = Older { reader: BufReader::new(stream), pid: 0 };
    older.send(&ToRunner::Hello { version });
    let Some(FromRunner::Hello { version: theirs, pid, .. }) = older.receive() else { panic!("no hello") };
    assert_eq!(theirs, version);
    older.pid = pid;
    older
}

/// One end of a connection between a half and a runner.
struct Older {
    reader: BufReader<UnixStream>,
    pid: i32,
}

impl Older {
    fn send<T: serde::Serialize>(&mut self, message: &T) {
        self.reader.get_mut().write_all(&encode(message).unwrap()).unwrap();
    }

    /// The next message; none at the end.
    fn receive<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).unwrap();
        (!line.is_empty()).then(|| decode(&line).unwrap())
    }
}

/// walks: R17
#[tokio::test]
async fn an_idle_runner_of_an_older_release_is_replaced_and_its_results_are_kept() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let mut older = older_runner(&dir, OLDEST);
    older.send(&ToRunner::Start(crate::start(1, &dir, "echo kept; exit 4")));
    while !matches!(older.receive(), Some(FromRunner::Ended(_))) {}
    let worker = Worker::start(&coordinator, &dir);
    let (mut session, hello) = coordinator.session().await;
    assert_eq!(hello.held, [held(1, HeldPhase::Ended)]);
    session.welcome(&[(1, Verdict::Report, 0)]).await;
    let ended = session.ended(1).await;
    assert_eq!(
        (ended.outcome.clone(), coordinator.output(&ended).await),
        (Some(Outcome::ExitCode(4)), b"kept\n".to_vec())
    );
    session.acknowledge(1).await;
    session.offer(2, "exec sleep 600").await;
    let now = runner_of(session.started(2).await.pid);
    assert_ne!(now, older.pid);
    session.say(crate::stop(2)).await;
    session.ended(2).await;
    session.acknowledge(2).await;
    drains(worker, session).await;
}

/// walks: R17
#[tokio::test]
async fn an_idle_runner_of_a_newer_release_is_replaced_too() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let newer = older_runner(&dir, VERSION + 1);
    let worker = Worker::start(&coordinator, &dir);
    let mut session = coordinator.welcome().await;
    offer_until_taken(&mut session, 1, "exit 0").await;
    session.ended(1).await;
    session.acknowledge(1).await;
    assert!(!fs::exists(format!("/proc/{}/exe", newer.pid)).unwrap_or(false), "it has gone");
    drains(worker, session).await;
}

/// walks: R17
#[tokio::test]
async fn a_busy_runner_of_the_release_before_is_used_until_it_is_idle() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let mut older = older_runner(&dir, OLDEST);
    older.send(&ToRunner::Start(crate::start(1, &dir, TWO_LINES)));
    while !matches!(older.receive(), Some(FromRunner::Started { .. })) {}
    let worker = Worker::start(&coordinator, &dir);
    let (mut session, hello) = coordinator.session().await;
    assert_eq!(hello.held, [held(1, HeldPhase::Running)]);
    session.welcome(&[(1, Verdict::GoOn, 0)]).await;
    assert!(matches!(session.next().await, FromWorker::Started(_)));
    session.offer(2, "exec sleep 600").await;
    assert_eq!(runner_of(session.started(2).await.pid), older.pid, "it takes new tasks too");
    go(&dir);
    assert_eq!(session.ended(1).await.outcome, Some(Outcome::ExitCode(0)));
    session.acknowledge(1).await;
    // A place is free, but what it does not know it cannot keep.
    let limited = v1::Offer { attempt: Some(attempt(4)), time_limit_ms: 600_000, ..v1::Offer::default() };
    session.say(ToWorker::Offer(limited)).await;
    assert_eq!(session.next().await, FromWorker::Returned(v1::Returned { attempt: Some(attempt(4)) }));
    session.say(crate::stop(2)).await;
    assert_eq!(session.ended(2).await.outcome, Some(Outcome::Signal(15)));
    // Not acknowledged: the next one has it still.
    offer_until_taken(&mut session, 3, "exec sleep 600").await;
    assert!(!fs::exists(format!("/proc/{}/exe", older.pid)).unwrap_or(false), "the older one has gone");
    session.acknowledge(2).await;
    session.say(crate::stop(3)).await;
    session.ended(3).await;
    session.acknowledge(3).await;
    drains(worker, session).await;
}

/// walks: R18
#[tokio::test]
async fn a_runner_that_is_too_far_away_is_left_alone_and_the_way_out_is_named() {
    let coordinator = Coordinator::start().await;
    let dir = Dir::new();
    for version in [VERSION + 2, VERSION + 1] {
        let mut other = older_runner(&dir, version);
        if version > VERSION + 1 {
            // Nor is one that has no task.
            let error = Worker::start(&coordinator, &dir).ends().await.unwrap_err();
            assert!(matches!(error, Error::Runner(_)) && error.to_string().contains("drain it"), "{error}");
            assert!(fs::exists(format!("/proc/{}/exe", other.pid)).unwrap(), "it is left alone");
        }
        other.send(&ToRunner::Start(crate::start(version, &dir, "exec sleep 600")));
        let Some(FromRunner::Started { pid, .. }) = other.receive() else { panic!("not started") };
        let worker = Worker::start(&coordinator, &dir);
        if version == VERSION + 1 {
            // One version newer serves us.
            eventually("the worker connects", || {
                worker
                    .task
                    .is_finished()
                    .then_some(false)
                    .or_else(|| coordinator.has_session().then_some(true))
            })
            .await;
            worker.crash().await;
        } else {
            let error = worker.ends().await.unwrap_err();
            assert!(matches!(error, Error::Runner(_)) && error.to_string().contains("drain it"), "{error}");
        }
        assert!(fs::exists(format!("/proc/{pid}/exe")).unwrap(), "nothing is ended");
        let mut end = older_runner_again(&dir, version);
        end.send(&ToRunner::Shutdown { grace_ms: 0 });
        eventually("it ends", || connect(dir.path()).is_err().then_some(())).await;
    }
}

fn older_runner_again(dir: &Dir, version: u32) -> Older {
    let mut older = Older { reader: BufReader::new(connect(dir.path()).unwrap()), pid: 0 };
    older.send(&ToRunner::Hello { version });
    let Some(FromRunner::Hello { .. }) = older.receive() else { panic!("no hello") };
    older
}

/// Plays the runner of a work directory.
struct Fake {
    listener: UnixListener,
    release: &'static str,
}

impl Fake {
    fn new(dir: &Dir) -> Self {
        fs::write(dir.path().join("half.lock"), "").unwrap();
        let listener = UnixListener::bind(dir.path().join("runner.sock")).unwrap();
        Self { listener, release: RELEASE }
    }

    /// Takes a connection, and answers its hello in `version`.
    fn accept(&self, version: u32, speaks: u32, held: Vec<Held>) -> (Older, u32) {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut half = Older { reader: BufReader::new(stream), pid: 0 };
        let Some(ToRunner::Hello { version: asked }) = half.receive() else { panic!("no hello") };
        let (release, boot_id) = (self.release.to_owned(), "b".to_owned());
        // Nobody's.
        let pid = i32::MAX;
        half.send(&FromRunner::Hello { version, speaks, release, pid, boot_id, held });
        (half, asked)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn the_runner_is_told_that_the_worker_is_in_session_and_only_then() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let fake = Fake::new(&dir);
    let worker = Worker::start_with(&coordinator, &dir, |config| {
        config.runner_silence = Duration::from_millis(50);
    });
    let mut half = blocking(move || fake.accept(VERSION, VERSION, Vec::new()).0).await;
    // Pings come, and nothing else, while there is no welcome.
    let (session, _) = coordinator.session().await;
    let mut half = blocking(move || {
        for _ in 0..3 {
            assert_eq!(half.receive(), Some(ToRunner::Ping));
            half.send(&FromRunner::Pong);
        }
        half
    })
    .await;
    session.welcome(&[]).await;
    let _half = blocking(move || {
        loop {
            match half.receive() {
                Some(ToRunner::Ping) => half.send(&FromRunner::Pong),
                Some(ToRunner::InSession) => return half,
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    worker.crash().await;
}

#[tokio::test]
async fn a_runner_of_version_1_is_greeted_in_it_and_never_hears_what_it_does_not_know() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let fake = Fake::new(&dir);
    let worker = Worker::start_with(&coordinator, &dir, |config| {
        config.runner_silence = Duration::from_millis(50);
    });
    let running = Held::Running { attempt: crate::key(1), pid: 1, start_ms: 1, size: 0 };
    let mut half = blocking(move || {
        // It is busy; and it refuses the newer version, as version 1 did.
        let (half, asked) = fake.accept(1, 0, vec![running.clone()]);
        assert_eq!(asked, VERSION);
        drop(half);
        let (half, asked) = fake.accept(1, 0, vec![running]);
        assert_eq!(asked, 1);
        half
    })
    .await;
    let (mut session, hello) = coordinator.session().await;
    assert_eq!(hello.held, [held(1, HeldPhase::Running)]);
    session.welcome(&[(1, Verdict::GoOn, 0)]).await;
    assert!(matches!(session.next().await, FromWorker::Started(_)));
    for _ in 0..3 {
        // Time enough for many a ping.
        session.heartbeat().await;
    }
    session.offer(2, "exit 0").await;
    assert!(matches!(session.next().await, FromWorker::Accepted(_)));
    let (first, _half) = blocking(move || (half.receive::<ToRunner>(), half)).await;
    assert!(matches!(first, Some(ToRunner::Start(_))), "{first:?}");
    worker.crash().await;
}

/// walks: R17
#[tokio::test]
async fn an_idle_runner_of_another_build_is_told_to_exit_and_a_busy_one_once_it_is_idle() {
    for busy in [false, true] {
        let mut coordinator = Coordinator::start().await;
        let dir = Dir::new();
        let fake = Fake { release: "0.0.0-other", ..Fake::new(&dir) };
        let worker = Worker::start(&coordinator, &dir);
        let held = if busy {
            vec![Held::Running { attempt: crate::key(1), pid: 1, start_ms: 1, size: 0 }]
        } else {
            Vec::new()
        };
        let socket = dir.path().join("runner.sock");
        blocking(move || {
            let (mut half, _) = fake.accept(VERSION, VERSION, held);
            if busy {
                let ended = Ended {
                    attempt: crate::key(1),
                    exit_code: Some(0),
                    signal: None,
                    stop_sent: false,
                    size: 0,
                    discarded: 0,
                    end_ms: 1,
                    output_failed: None,
                    lost: false,
                    stop_cause: None,
                };
                half.send(&FromRunner::Ended(ended));
            }
            loop {
                match half.receive() {
                    Some(ToRunner::Shutdown { grace_ms: 0 }) => break,
                    Some(ToRunner::Ping | ToRunner::InSession) => {}
                    other => panic!("{other:?}"),
                }
            }
            // It exits: the half starts one of its own.
            fs::remove_file(socket).unwrap();
        })
        .await;
        let (session, _) = coordinator.session().await;
        session.welcome(&[]).await;
        eventually("another one is there", || connect(dir.path()).ok()).await;
        worker.crash().await;
    }
}

/// Written at once.
const LINES: usize = 1000;

#[tokio::test]
async fn a_runner_that_talks_without_pause_is_talked_to_nevertheless() {
    let mut coordinator = Coordinator::start().await;
    let dir = Dir::new();
    let fake = Fake::new(&dir);
    let worker = Worker::start(&coordinator, &dir);
    let running = Held::Running { attempt: crate::key(1), pid: 1, start_ms: 1, size: 0 };
    let mut half = blocking(move || fake.accept(VERSION, VERSION, vec![running]).0).await;
    let mut flood = half.reader.get_ref().try_clone().unwrap();
    let lines = encode(&FromRunner::Output { attempt: crate::key(1), size: 0 }).unwrap().repeat(LINES);
    let said = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&said);
    let flood = std::thread::spawn(move || {
        while flood.write_all(&lines).is_ok() {
            count.fetch_add(LINES, Ordering::Relaxed);
        }
    });
    let (mut session, _) = coordinator.session().await;
    session.welcome(&[(1, Verdict::GoOn, 0)]).await;
    assert!(matches!(session.next().await, FromWorker::Started(_)));
    session.say(crate::stop(1)).await;
    let before = said.load(Ordering::Relaxed);
    let half = blocking(move || {
        loop {
            match half.receive() {
                Some(ToRunner::Stop { .. }) => return half,
                Some(ToRunner::InSession) => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    let meanwhile = said.load(Ordering::Relaxed) - before;
    assert!(meanwhile < 100_000, "told only after {meanwhile} messages");
    drop(half);
    worker.crash().await;
    flood.join().unwrap();
}
