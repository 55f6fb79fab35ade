//! The connection to the runner: starts the runner where there is none, says hello, and passes messages both
//! ways. It decides nothing: what the runner holds is told to the dispatcher after every reconnect.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::runner::protocol::{self, FromRunner, LineError, MAX_LINE, ToRunner, VERSION};
use crate::runner::{LaunchError, ensure_running};

/// Messages that wait for the runner: several for each attempt that can be held.
pub(crate) const COMMANDS: usize = 4 * protocol::MAX_HELD;
/// Messages written in one go.
const BATCH: usize = 256;
/// Between two tries to reach the runner.
const RETRY: Duration = Duration::from_millis(500);
/// How long the runner may take to answer a hello.
const HELLO: Duration = Duration::from_secs(10);

/// How to start a runner.
#[derive(Clone, Debug)]
pub(crate) struct RunnerLaunch {
    pub(crate) work_dir: PathBuf,
    pub(crate) exe: PathBuf,
    pub(crate) args: Vec<OsString>,
}

/// What the driver hears.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The runner said hello, and can be told things.
    Up { hello: FromRunner, commands: mpsc::Sender<ToRunner> },
    /// A message.
    Message(FromRunner),
    /// The connection fell; it will be tried again.
    Down(String),
}

/// There will be no runner.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It cannot be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It speaks another version of the protocol.
    #[error(
        "the runner of this work directory (process {pid}) speaks version {theirs} and this worker {VERSION}: \
         use the worker that started it until its tasks are done, or end that process"
    )]
    Version {
        /// The runner's process.
        pid: i32,
        /// Its version.
        theirs: u32,
    },
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
    let mut was_up = false;
    while !stop.is_cancelled() {
        let said = match connect(&launch).await {
            Ok(stream) => match serve(stream, &events, &mut was_up).await {
                Ok(()) => "the runner's connection was closed".to_owned(),
                Err(Broken::Io(error)) => error.to_string(),
                Err(Broken::Fatal(error)) => return Err(error),
            },
            // Tasks may be running: the half that knows of them goes on trying.
            Err(error) if was_up => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        if stop.is_cancelled() || events.send(LinkEvent::Down(said)).await.is_err() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

async fn connect(launch: &RunnerLaunch) -> Result<std::os::unix::net::UnixStream, LaunchError> {
    let RunnerLaunch { work_dir, exe, args } = launch.clone();
    let started = tokio::task::spawn_blocking(move || ensure_running(&work_dir, &exe, &args)).await;
    started.unwrap_or_else(|error| Err(LaunchError::Spawn(io::Error::other(error))))
}

async fn serve(
    stream: std::os::unix::net::UnixStream,
    events: &mpsc::Sender<LinkEvent>,
    was_up: &mut bool,
) -> Result<(), Broken> {
    stream.set_nonblocking(true)?;
    let (reader, mut writer) = UnixStream::from_std(stream)?.into_split();
    let mut reader = Lines::new(reader);
    writer
        .write_all(&protocol::encode(&ToRunner::Hello { version: VERSION }).map_err(io::Error::other)?)
        .await?;
    let hello = tokio::time::timeout(HELLO, reader.next()).await.map_err(io::Error::other)??;
    let Some(hello) = hello else { return Ok(()) };
    match &hello {
        FromRunner::Hello { version, pid, .. } if *version != VERSION => {
            return Err(Broken::Fatal(LinkError::Version { pid: *pid, theirs: *version }));
        }
        FromRunner::Hello { .. } => {}
        _ => return Err(io::Error::other("the runner did not begin with a hello").into()),
    }
    *was_up = true;
    let (commands, mut queue) = mpsc::channel(COMMANDS);
    if events.send(LinkEvent::Up { hello, commands }).await.is_err() {
        return Ok(());
    }
    let read = async {
        while let Some(message) = reader.next().await? {
            if events.send(LinkEvent::Message(message)).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let write = async {
        let mut messages = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut messages, BATCH).await > 0 {
            let mut bytes = Vec::new();
            for message in messages.drain(..) {
                match (protocol::encode(&message), message) {
                    (Ok(mut line), _) => bytes.append(&mut line),
                    (Err(LineError::TooLong(size)), ToRunner::Start(start)) => {
                        let failed = FromRunner::StartFailed {
                            attempt: start.attempt,
                            errno: Errno::E2BIG as i32,
                            message: format!("the command takes {size} bytes; at most {MAX_LINE} can be run"),
                            for_task: true,
                        };
                        if events.send(LinkEvent::Message(failed)).await.is_err() {
                            return Ok(());
                        }
                    }
                    (Err(error), _) => return Err(io::Error::other(error)),
                }
            }
            writer.write_all(&bytes).await?;
        }
        Ok(())
    };
    // Whichever ends first ends the connection. When it is the writer, the queue was closed and is written out.
    let ended: io::Result<()> = tokio::select! {
        ended = read => ended,
        ended = write => ended,
    };
    Ok(ended?)
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

    /// The next message; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<FromRunner>> {
        self.line.clear();
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
                return protocol::decode(&self.line).map(Some).map_err(io::Error::other);
            }
        }
    }
}
