//! The connection to the runner: starts the runner where there is none, says hello in a version that both speak,
//! and passes messages both ways. It replaces an idle runner of another release, and notices one that is there
//! and does not answer. It decides nothing about tasks: what the runner holds is told to the dispatcher after every
//! reconnect, and no runner is ever ended that has a task.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::runner::protocol::{
    self, AttemptKey, FromRunner, Held, IN_SESSION_EVERY_MS, LineError, MAX_LINE, OLDEST, PINGS_SINCE,
    RELEASE, ToRunner, VERSION,
};
use crate::runner::{LaunchError, ensure_running};

/// Messages that wait for the runner: several for each attempt that can be held.
pub(crate) const COMMANDS: usize = 4 * protocol::MAX_HELD;
/// Messages of the runner that are read before it is its turn to be told something.
const READS: u32 = 16;
/// With so many bytes on their way, no further message is put behind them.
const OUT: usize = 256 * 1024;
/// Between two tries to reach the runner, at first.
const RETRY: Duration = Duration::from_millis(500);
/// And at most: each try may be a process that is started for nothing.
const MAX_RETRY: Duration = Duration::from_secs(8);
/// How long the runner may take to answer a hello before that is said. It is waited for nevertheless.
const HELLO: Duration = Duration::from_secs(10);
/// A runner from which nothing came for so long is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long it may take to answer before nothing new is taken.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);
/// How long an idle runner may take to exit.
const EXIT: Duration = Duration::from_secs(5);
/// How often that is looked at.
const EXIT_LOOK: Duration = Duration::from_millis(10);
/// How long the last messages may take to be written.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// How to start a runner, and how to talk to it.
#[derive(Clone, Debug)]
pub(crate) struct RunnerLaunch {
    pub(crate) work_dir: PathBuf,
    pub(crate) exe: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// See [`SILENCE`].
    pub(crate) silence: Duration,
    /// Whether the session with the coordinator stands.
    pub(crate) in_session: watch::Receiver<bool>,
}

/// What the driver hears.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The runner said hello, and can be told things.
    Up { hello: FromRunner, commands: mpsc::Sender<ToRunner> },
    /// A message.
    Message(FromRunner),
    /// The runner, this process, is there and does not answer. What it is told waits for it.
    Silent(i32),
    /// It does again.
    Answers,
    /// The connection fell, or does not come to be; it will be tried again.
    Down(String),
}

/// There will be no runner.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It cannot be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It speaks a version of the protocol that is too far from ours.
    #[error(
        "the runner of this work directory (process {pid}) speaks version {theirs} of the protocol, and this worker \
         versions {OLDEST} and {VERSION}. Nothing was ended. Start the release that its tasks were started with, \
         drain it (SIGTERM), and start this one when it has ended"
    )]
    Version {
        /// The runner's process.
        pid: i32,
        /// Its version.
        theirs: u32,
    },
}

/// How a connection ended.
enum Over {
    Closed,
    /// The runner speaks this version; say hello in it.
    Speaks(u32),
    /// It was idle and was told to exit.
    Replaced,
}

enum Broken {
    /// Worth another try.
    Io(io::Error),
    Fatal(LinkError),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Keeps a connection to the runner until `stop`; then what is queued is written first.
///
/// # Errors
/// No runner can be had, at the start or because of its version.
pub(crate) async fn run(
    launch: RunnerLaunch,
    events: mpsc::Sender<LinkEvent>,
    stop: CancellationToken,
) -> Result<(), LinkError> {
    let mut link = Link { launch, events, stop, was_up: false, may_replace: true, wait: RETRY };
    let mut version = VERSION;
    while !link.stop.is_cancelled() {
        let connected = link.connect().await;
        let over = match connected {
            Ok(stream) => link.serve(stream, version).await,
            // Tasks may be running: the half that knows of them goes on trying.
            Err(error) if link.was_up => Err(Broken::Io(io::Error::other(error))),
            Err(error) => return Err(error.into()),
        };
        let said = match over {
            Ok(Over::Speaks(theirs)) => {
                version = theirs;
                continue;
            }
            Ok(Over::Replaced) => {
                version = VERSION;
                continue;
            }
            Ok(Over::Closed) => "the runner's connection was closed".to_owned(),
            Err(Broken::Io(error)) => error.to_string(),
            Err(Broken::Fatal(error)) => return Err(error),
        };
        // Whoever comes next may be a newer one.
        version = VERSION;
        if link.stop.is_cancelled() || link.events.send(LinkEvent::Down(said)).await.is_err() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(link.wait) => {}
            () = link.stop.cancelled() => {}
        }
        link.wait = (link.wait * 2).clamp(RETRY, MAX_RETRY);
    }
    Ok(())
}

struct Link {
    launch: RunnerLaunch,
    events: mpsc::Sender<LinkEvent>,
    stop: CancellationToken,
    was_up: bool,
    /// Once is enough: the one that is started then is as much of our release as there is.
    may_replace: bool,
    /// Before the next try.
    wait: Duration,
}

impl Link {
    async fn connect(&self) -> Result<std::os::unix::net::UnixStream, LaunchError> {
        let RunnerLaunch { work_dir, exe, args, .. } = self.launch.clone();
        let started = tokio::task::spawn_blocking(move || ensure_running(&work_dir, &exe, &args)).await;
        started.unwrap_or_else(|error| Err(LaunchError::Spawn(io::Error::other(error))))
    }

    async fn serve(&mut self, stream: std::os::unix::net::UnixStream, version: u32) -> Result<Over, Broken> {
        stream.set_nonblocking(true)?;
        let (reader, mut writer) = UnixStream::from_std(stream)?.into_split();
        let mut reader = Lines::new(reader);
        writer.write_all(&line(&ToRunner::Hello { version })?).await?;
        let Some(hello) = self.hello(&mut reader).await? else { return Ok(Over::Closed) };
        let FromRunner::Hello { version: answer, speaks, release, pid, held, .. } = &hello else {
            return Err(io::Error::other("the runner did not begin with a hello").into());
        };
        let (answer, pid) = (*answer, *pid);
        if answer != version {
            return if version == VERSION && answer == OLDEST {
                Ok(Over::Speaks(answer))
            } else {
                Err(Broken::Fatal(LinkError::Version { pid, theirs: answer }))
            };
        }
        let speaks = if *speaks == 0 { answer } else { *speaks };
        let is_ours = speaks == VERSION && release == RELEASE;
        let running = |held: &Held| matches!(held, Held::Running { .. }).then(|| held.attempt());
        let live: HashSet<AttemptKey> = held.iter().filter_map(running).collect();
        let replace = self.may_replace && !is_ours;
        if replace {
            tracing::info!(
                pid,
                version = speaks,
                release,
                running = live.len(),
                "the runner is of another release; it is replaced when it runs nothing"
            );
        }
        let mut connection = Connection {
            reader,
            writer,
            out: Vec::new(),
            sent: 0,
            live,
            knows_pings: version >= PINGS_SINCE,
            silence: self.launch.silence,
            pid,
        };
        if replace && connection.live.is_empty() {
            self.may_replace = false;
            return connection.replace(&self.launch.work_dir).await;
        }
        (self.was_up, self.wait) = (true, RETRY);
        let (commands, queue) = mpsc::channel(COMMANDS);
        if self.events.send(LinkEvent::Up { hello, commands }).await.is_err() {
            return Ok(Over::Closed);
        }
        let in_session = self.launch.in_session.clone();
        if connection.pass(queue, &self.events, in_session, &self.stop, replace).await? {
            self.may_replace = false;
            let why = "it is idle and of another release, and is replaced".to_owned();
            if self.events.send(LinkEvent::Down(why)).await.is_err() {
                return Ok(Over::Closed);
            }
            return connection.replace(&self.launch.work_dir).await;
        }
        Ok(Over::Closed)
    }

    /// The first message. However long it takes: a runner that does not answer may have tasks.
    async fn hello(&self, reader: &mut Lines) -> io::Result<Option<FromRunner>> {
        let late = tokio::time::sleep(HELLO.min(self.launch.silence));
        tokio::pin!(late);
        loop {
            tokio::select! {
                hello = reader.next() => return hello,
                () = &mut late, if !late.is_elapsed() => {
                    let why = "the runner is there and does not answer; it is waited for".to_owned();
                    if self.events.send(LinkEvent::Down(why)).await.is_err() {
                        return Ok(None);
                    }
                }
                () = self.stop.cancelled() => return Ok(None),
            }
        }
    }
}

/// A connection after the hellos.
struct Connection {
    reader: Lines,
    writer: OwnedWriteHalf,
    /// Whole lines, of which `sent` bytes are written.
    out: Vec<u8>,
    sent: usize,
    /// What runs, or may come to run: started and not known to have ended.
    live: HashSet<AttemptKey>,
    knows_pings: bool,
    silence: Duration,
    /// The runner's process.
    pid: i32,
}

impl Connection {
    /// Passes messages until the connection or the queue ends. With `until_idle`, until nothing runs, if that is
    /// sooner: then it returns true.
    async fn pass(
        &mut self,
        mut queue: mpsc::Receiver<ToRunner>,
        events: &mpsc::Sender<LinkEvent>,
        in_session: watch::Receiver<bool>,
        stop: &CancellationToken,
        until_idle: bool,
    ) -> io::Result<bool> {
        let mut in_session_tick = tokio::time::interval(Duration::from_millis(IN_SESSION_EVERY_MS));
        in_session_tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ping_every = PING_EVERY.min(self.silence);
        let (mut ping_at, mut pinged, mut silent) = (Instant::now() + ping_every, false, false);
        let (mut is_open, mut closes_at) = (true, None);
        let mut reads = 0;
        loop {
            if until_idle && self.live.is_empty() {
                return Ok(true);
            }
            if self.sent == self.out.len() {
                self.out.clear();
                self.sent = 0;
                if !is_open {
                    return Ok(false);
                }
            }
            let may_read = reads < READS;
            reads = if may_read { reads + 1 } else { 0 };
            tokio::select! {
                // What has been said counts before what has not.
                biased;
                message = self.reader.next(), if may_read => {
                    let Some(message) = message? else { return Ok(false) };
                    (ping_at, pinged) = (Instant::now() + ping_every, false);
                    if std::mem::take(&mut silent) && events.send(LinkEvent::Answers).await.is_err() {
                        return Ok(false);
                    }
                    self.note(&message);
                    if message != FromRunner::Pong && events.send(LinkEvent::Message(message)).await.is_err() {
                        return Ok(false);
                    }
                }
                written = self.writer.write(&self.out[self.sent..]), if self.sent < self.out.len() => {
                    self.sent += written?;
                }
                message = queue.recv(), if is_open && self.out.len() < OUT => match message {
                    Some(message) => {
                        if let Some(failed) = self.put(message)?
                            && events.send(LinkEvent::Message(failed)).await.is_err()
                        {
                            return Ok(false);
                        }
                    }
                    // What is left is written.
                    None => {
                        is_open = false;
                        closes_at.get_or_insert(Instant::now() + LAST_WRITE);
                    }
                },
                // A runner that does not read is not waited for long.
                () = stop.cancelled(), if closes_at.is_none() => closes_at = Some(Instant::now() + LAST_WRITE),
                _ = in_session_tick.tick(), if self.knows_pings => {
                    if *in_session.borrow() && self.out.len() < OUT {
                        self.out.append(&mut line(&ToRunner::InSession)?);
                    }
                }
                () = tokio::time::sleep_until(ping_at), if self.knows_pings && !silent && may_read => {
                    if pinged {
                        silent = true;
                        if events.send(LinkEvent::Silent(self.pid)).await.is_err() {
                            return Ok(false);
                        }
                    } else {
                        pinged = true;
                        ping_at = Instant::now() + self.silence;
                        self.out.append(&mut line(&ToRunner::Ping)?);
                    }
                }
                () = until(closes_at) => return Ok(false),
                // A runner that talks without pause is told things too.
                () = std::future::ready(()), if !may_read => {}
            }
        }
    }

    /// Puts a message behind what waits to be written; what is returned is the answer to one that cannot be sent.
    fn put(&mut self, message: ToRunner) -> io::Result<Option<FromRunner>> {
        match (protocol::encode(&message), message) {
            (Ok(mut line), message) => {
                if let ToRunner::Start(start) = message {
                    self.live.insert(start.attempt);
                }
                self.out.append(&mut line);
                Ok(None)
            }
            (Err(LineError::TooLong(size)), ToRunner::Start(start)) => Ok(Some(FromRunner::StartFailed {
                attempt: start.attempt,
                errno: Errno::E2BIG as i32,
                message: format!("the command takes {size} bytes; at most {MAX_LINE} can be run"),
                for_task: true,
            })),
            (Err(error), _) => Err(io::Error::other(error)),
        }
    }

    /// Keeps account of what runs.
    fn note(&mut self, message: &FromRunner) {
        match message {
            FromRunner::Started { attempt, .. } => self.live.insert(*attempt),
            FromRunner::StartFailed { attempt, .. } | FromRunner::Refused { attempt } => {
                self.live.remove(attempt)
            }
            FromRunner::Ended(ended) => self.live.remove(&ended.attempt),
            FromRunner::Hello { .. } | FromRunner::Output { .. } | FromRunner::Pong => false,
        };
    }

    /// Tells a runner to exit that has no task. Only this connection can start one, and does not: what it has not
    /// acknowledged is in the journal, for the next.
    async fn replace(mut self, work_dir: &Path) -> Result<Over, Broken> {
        tracing::info!(pid = self.pid, work_dir = %work_dir.display(), "the idle runner is replaced");
        self.out.append(&mut line(&ToRunner::Shutdown { grace_ms: 0 })?);
        let exit = async {
            self.writer.write_all(&self.out[self.sent..]).await?;
            while self.reader.next().await?.is_some() {}
            // It has closed its connections, and is about to remove its socket.
            while is_alive(self.pid) {
                tokio::time::sleep(EXIT_LOOK).await;
            }
            Ok::<_, io::Error>(())
        };
        // If it takes longer, it is found again as it is.
        let _ = tokio::time::timeout(EXIT, exit).await;
        Ok(Over::Replaced)
    }
}

fn line(message: &ToRunner) -> io::Result<Vec<u8>> {
    protocol::encode(message).map_err(io::Error::other)
}

/// Whether a process has not ended. One that only waits to be reaped has.
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with('Z'))
}

/// Never, where there is no such time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Reads lines of bounded length.
struct Lines {
    reader: BufReader<OwnedReadHalf>,
    line: Vec<u8>,
}

impl Lines {
    fn new(reader: OwnedReadHalf) -> Self {
        Self { reader: BufReader::with_capacity(64 * 1024, reader), line: Vec::new() }
    }

    /// The next message; `None` at the end. Nothing is lost when the future is dropped.
    async fn next(&mut self) -> io::Result<Option<FromRunner>> {
        loop {
            let bytes = self.reader.fill_buf().await?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(bytes.len(), |end| end + 1);
            if self.line.len() + taken > MAX_LINE {
                return Err(io::Error::other("the runner sent a line that is too long"));
            }
            self.line.extend_from_slice(&bytes[..taken]);
            self.reader.consume(taken);
            if end.is_some() {
                let message = protocol::decode(&self.line).map(Some).map_err(io::Error::other);
                self.line.clear();
                return message;
            }
        }
    }
}
