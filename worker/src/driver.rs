//! The driver: one loop that owns the [`Dispatcher`], hands it every event, and performs what it says.
//!
//! It never waits for a peer while it performs: queues to the session and to the runner are bounded, and a peer
//! that lets its queue fill is cut off and told everything again after the reconnect.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use muster_proto::AttemptId;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ConfigError, absolute_program, coordinator_address, default_name, is_runnable};
use crate::core::{
    Dispatcher, Effect, Event, Exit, LaunchPlan, Note, Now, Outcome, OutputPolicy, SessionNo, ToCoordinator,
};
use crate::link::{self, LinkError, LinkEvent, RunnerLaunch};
use crate::runner::RunnerOptions;
use crate::runner::protocol::{FromRunner, Raw, ToRunner};
use crate::session::logs::{Ledger, Pusher, Unreadable};
use crate::session::{self, Identity, SessionEvent, Why};
use crate::workdir::{WorkDir, WorkDirError};

/// Events of one source that wait for the loop. Who has more waits, which slows its peer down.
const EVENTS: usize = 1024;
/// How long the last messages may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(2);
/// Without anything to do the loop looks at the clock so often.
const IDLE: Duration = Duration::from_secs(3600);

/// What a worker is to do about its own life. Only ever raised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shutdown {
    /// Work.
    #[default]
    Run,
    /// Take nothing new; return when every result is acknowledged.
    Drain,
    /// End tasks with grace; return when every result is acknowledged, or after a bounded wait.
    Stop,
    /// Return at once. Tasks run on under the runner, and the next worker of the work directory takes them over.
    Leave,
}

/// The coordinator has welcomed the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The worker's name.
    pub name: String,
    /// The coordinator's `HOST:PORT`.
    pub address: String,
    /// The work directory, absolute.
    pub work_dir: PathBuf,
}

/// Why a worker ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The work directory cannot be used.
    #[error(transparent)]
    WorkDir(#[from] WorkDirError),
    /// The boot of the machine has no id, and without it a restart cannot be told from a crash.
    #[error("cannot read the id of this boot from {BOOT_ID}: {0}")]
    BootId(#[source] io::Error),
    /// No runner.
    #[error(transparent)]
    Runner(#[from] LinkError),
    /// The coordinator does not want this worker as it is.
    #[error("the coordinator refused this worker: {0}")]
    Refused(String),
    /// The coordinator sent it away.
    #[error("the coordinator sent this worker away: {0}")]
    SentAway(String),
    /// Stopped before every result was acknowledged. They are sent by the next worker of the work directory.
    #[error(
        "{0} results were not acknowledged in time; a worker started again with the same work directory sends them"
    )]
    Unreported(usize),
    /// A part of this process has failed.
    #[error("a part of the worker failed: {0}")]
    Internal(String),
}

/// So long after the start a refusal that may pass is taken for final: longer than a coordinator holds a session
/// of a machine that was rebooted for alive (20 s).
const REFUSAL_PATIENCE: Duration = Duration::from_secs(60);

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Works until it is told to end (see [`Shutdown`]) or cannot go on. Tries to reach the coordinator for ever.
/// `on_ready` is called at the first welcome.
///
/// # Errors
/// [`Error`] says what to do.
pub async fn run(
    config: Config,
    shutdown: watch::Receiver<Shutdown>,
    on_ready: impl FnOnce(Ready) + Send,
) -> Result<(), Error> {
    config.check()?;
    crate::runner::check_slots(config.slots).map_err(ConfigError::from)?;
    let work_dir = WorkDir::open(config.work_dir.as_deref())?;
    let boot_id = std::fs::read_to_string(BOOT_ID).map_err(Error::BootId)?.trim().to_owned();
    let name = config.name.clone().unwrap_or_else(|| default_name(work_dir.instance_id()));
    let ready = Ready {
        name: name.clone(),
        address: coordinator_address(&config.coordinator)?,
        work_dir: work_dir.path().to_owned(),
    };
    let identity = Identity {
        name,
        instance_id: work_dir.instance_id().to_owned(),
        // What a hello leaves out was never started only if nobody else calls itself this worker: a copy of the
        // work directory on this machine is told apart just as one on another machine is.
        boot_id: format!("{boot_id}/{}", work_dir.place()),
        slots: config.slots,
        labels: config.labels.clone(),
        work_dir: work_dir.path().to_owned(),
    };
    let plan = launch_plan(&config, &work_dir)?;
    let mut args = config.runner_args.clone();
    let options = RunnerOptions { die_with_parent: config.die_with_parent, ..RunnerOptions::default() };
    args.extend(options.to_args(work_dir.path()));
    let (in_session, is_in_session) = watch::channel(false);
    let launch = RunnerLaunch {
        work_dir: work_dir.path().to_owned(),
        exe: config.runner_exe,
        args,
        silence: config.runner_silence,
        in_session: is_in_session,
    };
    tracing::info!(name = ready.name, slots = config.slots, work_dir = %ready.work_dir.display(), "worker starts");

    let driver = Driver {
        dispatcher: Dispatcher::new(plan, config.slots),
        clock: Instant::now(),
        commands: None,
        down: None,
        in_session,
        session: None,
        ledger: Arc::default(),
        ready: Some((ready, on_ready)),
        welcomed: false,
        exit: None,
    };
    // The work directory stays locked until this returns.
    let result = driver.run(config.coordinator, Arc::new(identity), launch, shutdown).await;
    drop(work_dir);
    result
}

fn launch_plan(config: &Config, work_dir: &WorkDir) -> Result<LaunchPlan, Error> {
    let (program, args) = config.dispatch.split_first().ok_or(ConfigError::NoProgram)?;
    let program = absolute_program(program)?;
    if !is_runnable(&program) {
        tracing::warn!(
            program = %program.display(),
            "the dispatch program is not found or not executable; tasks will fail to start until it is"
        );
    }
    let absolute = |root: &PathBuf| {
        std::path::absolute(root)
            .map_err(|source| ConfigError::Path { what: root.display().to_string(), source })
    };
    Ok(LaunchPlan {
        program: Raw::from(program.as_path()),
        args: args.to_vec(),
        output: OutputPolicy {
            outputs_dir: work_dir.outputs(),
            roots: config.output_roots.iter().map(absolute).collect::<Result<_, _>>()?,
            allow_any: config.allow_any_output,
        },
    })
}

struct Driver<F> {
    dispatcher: Dispatcher,
    /// Where the dispatcher's clock begins.
    clock: Instant,
    /// To the runner, while it is connected.
    commands: Option<mpsc::Sender<ToRunner>>,
    /// Why the runner is not connected, as it was said last.
    down: Option<String>,
    /// Told to the runner, which ends tasks after too long a cut-off.
    in_session: watch::Sender<bool>,
    session: Option<Current>,
    ledger: Arc<Ledger>,
    ready: Option<(Ready, F)>,
    welcomed: bool,
    exit: Option<Exit>,
}

/// The session that stands.
struct Current {
    number: SessionNo,
    /// `None`: it is being closed.
    outgoing: Option<mpsc::Sender<ToCoordinator>>,
    close: CancellationToken,
}

impl<F: FnOnce(Ready) + Send> Driver<F> {
    async fn run(
        mut self,
        url: String,
        identity: Arc<Identity>,
        launch: RunnerLaunch,
        mut shutdown: watch::Receiver<Shutdown>,
    ) -> Result<(), Error> {
        let stop = CancellationToken::new();
        // Whatever way this function is left, the tasks end.
        let _stop = stop.clone().drop_guard();
        let (link_sender, mut link_events) = mpsc::channel(EVENTS);
        let (session_sender, mut session_events) = mpsc::channel(EVENTS);
        let (unreadable, mut unreadable_events) = mpsc::channel(EVENTS);
        let link_stop = CancellationToken::new();
        let _link_stop = link_stop.clone().drop_guard();
        let mut link = tokio::spawn(link::run(launch, link_sender, link_stop.clone()));
        let pusher = Pusher {
            url: url.clone(),
            instance_id: identity.instance_id.clone(),
            work_dir: identity.work_dir.clone(),
            ledger: Arc::clone(&self.ledger),
            unreadable,
        };
        tokio::spawn(pusher.run(stop.clone()));
        // Started once it is known what the runner holds: a hello without it would give running tasks away.
        let mut sessions = Some((url, identity, session_sender));
        let mut asked = Shutdown::Run;
        let mut can_be_asked = true;

        while self.exit.is_none() {
            if asked < *shutdown.borrow() {
                asked = *shutdown.borrow();
                tracing::info!(
                    held = self.dispatcher.held_count(),
                    "{}",
                    match asked {
                        Shutdown::Run => "working",
                        Shutdown::Drain => "draining: nothing new is taken, and what runs is finished",
                        Shutdown::Stop => "stopping: what runs is ended",
                        Shutdown::Leave =>
                            "leaving: what runs goes on, for the next worker of this work directory",
                    }
                );
                self.handle(match asked {
                    Shutdown::Run | Shutdown::Drain => Event::Drain,
                    Shutdown::Stop => Event::Stop,
                    Shutdown::Leave => Event::Leave,
                });
                continue;
            }
            let deadline = self.dispatcher.next_deadline();
            let wake = deadline.map_or(Instant::now() + IDLE, |ms| self.clock + Duration::from_millis(ms));
            tokio::select! {
                changed = shutdown.changed(), if can_be_asked => can_be_asked = changed.is_ok(),
                ended = &mut link => return Err(link_error(ended)),
                Some(event) = link_events.recv() => {
                    let up = matches!(event, LinkEvent::Up { .. });
                    self.handle_link(event);
                    if up && let Some((url, identity, sender)) = sessions.take() {
                        tokio::spawn(session::run(url, identity, sender, stop.clone()));
                    }
                }
                Some(event) = session_events.recv() => self.handle_session(event)?,
                Some(Unreadable { attempt, from, message }) = unreadable_events.recv() => {
                    let (batch, task) = (attempt.batch, attempt.task.0);
                    tracing::error!(%batch, task, attempt = attempt.attempt.0, message, "output cannot be read");
                    self.handle(Event::OutputUnreadable { attempt, from, message });
                }
                () = tokio::time::sleep_until(wake) => self.handle(Event::Tick),
            }
        }

        // What was said last is written before this ends; a peer that does not read is not waited for long.
        link_stop.cancel();
        self.commands = None;
        let _ = tokio::time::timeout(FLUSH, flush_link(&mut link, &mut link_events)).await;
        if !matches!(self.exit, Some(Exit::SentAway(_)))
            && let Some(Current { number, outgoing, .. }) = self.session.take()
        {
            drop(outgoing);
            let _ = tokio::time::timeout(FLUSH, flush_session(number, &mut session_events)).await;
        }
        match self.exit {
            None | Some(Exit::Done | Exit::Left) => Ok(()),
            Some(Exit::Unreported(0)) => Err(Error::Internal(
                "the runner of the work directory did not answer, so what it holds is not known; it keeps it for the \
                 next worker"
                    .into(),
            )),
            Some(Exit::Unreported(count)) => Err(Error::Unreported(count)),
            Some(Exit::SentAway(reason)) => Err(Error::SentAway(reason)),
        }
    }

    fn handle_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { hello, commands } => {
                if let FromRunner::Hello { pid, held, .. } = &hello {
                    tracing::info!(pid, held = held.len(), "the runner is connected");
                }
                self.commands = Some(commands);
                self.down = None;
                self.handle(Event::Runner(hello));
            }
            LinkEvent::Message(message) => self.handle(Event::Runner(message)),
            LinkEvent::Silent(pid) => {
                tracing::error!(
                    pid,
                    held = self.dispatcher.held_count(),
                    "the runner does not answer: nothing new is taken until it does, and its tasks are left alone"
                );
                self.handle(Event::RunnerSilent);
            }
            LinkEvent::Answers => {
                tracing::info!("the runner answers again");
                self.handle(Event::RunnerAnswers);
            }
            LinkEvent::Down(why) => {
                // It is tried for ever: said once.
                if self.down.as_ref() != Some(&why) {
                    tracing::warn!(why, "no connection to the runner; it is tried again");
                }
                self.down = Some(why);
                self.commands = None;
                self.handle(Event::RunnerDown);
            }
        }
    }

    fn handle_session(&mut self, event: SessionEvent) -> Result<(), Error> {
        match event {
            SessionEvent::Dialed { session, outgoing, close } => {
                self.session = Some(Current { number: session, outgoing: Some(outgoing), close });
                self.handle(Event::Dialed(session));
            }
            SessionEvent::Message(session, message) => self.handle(Event::Coordinator(session, message)),
            SessionEvent::Ended { session, why } => {
                if self.session.as_ref().is_some_and(|current| current.number == session) {
                    self.session = None;
                    self.in_session.send_replace(false);
                }
                match why {
                    // A worker that was welcomed before may have tasks: it goes on trying.
                    Why::Refused(reason) if !self.welcomed => return Err(Error::Refused(reason)),
                    Why::NotNow(reason) if !self.welcomed && self.clock.elapsed() > REFUSAL_PATIENCE => {
                        return Err(Error::Refused(reason));
                    }
                    Why::NotNow(reason) => {
                        tracing::warn!(reason, "the coordinator refuses this worker; it is tried again");
                    }
                    Why::Refused(reason) => tracing::error!(reason, "the coordinator refuses this worker"),
                    Why::Failed(reason) => tracing::warn!(reason, "no session with the coordinator"),
                }
                self.handle(Event::SessionEnded(session));
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        let ms = u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Now { ms, unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) };
        for effect in self.dispatcher.handle(now, event) {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Runner(message) => {
                let Some(commands) = &self.commands else { return };
                if let Err(error) = commands.try_send(message) {
                    // Its end is told as an event; then the runner is asked what it holds.
                    if matches!(error, TrySendError::Full(_)) {
                        tracing::warn!("the runner does not read; it is connected anew");
                    }
                    self.commands = None;
                }
            }
            Effect::Send(message) => {
                let Some(current) = &mut self.session else { return };
                if let Some(outgoing) = &current.outgoing
                    && outgoing.try_send(message).is_err()
                {
                    current.outgoing = None;
                    current.close.cancel();
                }
            }
            Effect::CloseSession(why) => {
                tracing::warn!(why, "the session is given up");
                self.in_session.send_replace(false);
                if let Some(current) = &mut self.session {
                    current.outgoing = None;
                    current.close.cancel();
                }
            }
            Effect::Push { attempt, from, size } => self.ledger.push(attempt, from, size),
            Effect::StopPushing(attempt) => self.ledger.stop(attempt),
            Effect::Welcomed => {
                tracing::info!("connected");
                self.ledger.hurry();
                self.welcomed = true;
                self.in_session.send_replace(true);
                if let Some((ready, on_ready)) = self.ready.take() {
                    on_ready(ready);
                }
            }
            Effect::Note(attempt, note) => log(attempt, &note),
            Effect::Exit(exit) => self.exit = Some(exit),
        }
    }
}

fn log(id: AttemptId, note: &Note) {
    let (batch, task, attempt) = (id.batch, id.task.0, id.attempt.0);
    match note {
        Note::Accepted => tracing::debug!(%batch, task, attempt, "accepted"),
        Note::Returned(why) => tracing::info!(%batch, task, attempt, why, "returned"),
        Note::Started(pid) => tracing::info!(%batch, task, attempt, pid, "started"),
        Note::Stopping => tracing::info!(%batch, task, attempt, "stopping"),
        Note::Acknowledged => tracing::debug!(%batch, task, attempt, "acknowledged"),
        Note::Ended(Outcome::Exit(code)) => tracing::info!(%batch, task, attempt, code, "ended"),
        Note::Ended(Outcome::Signal(signal)) => tracing::info!(%batch, task, attempt, signal, "ended"),
        Note::Ended(Outcome::LaunchFailed { errno, message, .. }) => {
            tracing::warn!(%batch, task, attempt, errno, message, "could not be started");
        }
        Note::Ended(Outcome::Crashed(message)) => tracing::error!(%batch, task, attempt, message, "lost"),
        Note::Ended(Outcome::OutputRefused(message)) => {
            tracing::warn!(%batch, task, attempt, message, "output refused");
        }
    }
}

fn link_error(ended: Result<Result<(), LinkError>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) => Error::Internal("the runner's connection ended".into()),
        Err(error) => Error::Internal(error.to_string()),
    }
}

/// Waits until the connection to the runner has written what it had; what still comes in is of no interest.
async fn flush_link(link: &mut JoinHandle<Result<(), LinkError>>, events: &mut mpsc::Receiver<LinkEvent>) {
    loop {
        tokio::select! {
            _ = &mut *link => return,
            event = events.recv() => if event.is_none() { return },
        }
    }
}

/// Waits until the coordinator has ended the session, which it does when it has read the last message.
async fn flush_session(session: SessionNo, events: &mut mpsc::Receiver<SessionEvent>) {
    while let Some(event) = events.recv().await {
        if matches!(event, SessionEvent::Ended { session: ended, .. } if ended == session) {
            return;
        }
    }
}
