//! The runner's loop: one thread that waits for signals, connections, output and time, and acts on each.
//!
//! What it does is written down before it is done (a start) or right after it happened (an end), and told to the
//! half last. Nothing in it blocks for longer than a disk write or a spawn.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getppid};

use super::cgroup::Cgroups;
use super::clients::{ClientId, Clients};
use super::journal::{Journal, Outcome, Record, Replay};
use super::limits::Limits;
use super::options::RunnerOptions;
use super::place::Place;
use super::protocol::{AttemptKey, FromRunner, Held, MAX_HELD, RELEASE, Start, StopCause, ToRunner, VERSION};
use super::seen::Seen;
use super::spawn::{SpawnError, Spawner, errno_of};
use super::task::{self, Exit, Running};
use super::{log, procfs, sweep};
use crate::spool;

/// Messages acted on before output is looked after again.
const MESSAGES_A_TURN: usize = 16;
/// How often what has no event of its own is looked at: the parent, a journal that could not be written, and
/// whether the first half is overdue.
const TICK: Duration = Duration::from_millis(500);
/// How long a runner that is to die with its parent waits for a half that closed its connection.
const RETURN_PATIENCE: Duration = Duration::from_secs(2);
/// How long a runner waits for its first half, at least.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
/// How long after KILL a runner that is to exit waits for processes that do not die.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// Whether new tasks are taken, and when to exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    /// Nothing new; exit when nothing is held, or when nobody comes for it.
    Draining,
    /// Nothing new, tasks are being ended; exit when none runs, or at the latest then.
    Stopping {
        give_up_at: Instant,
    },
}

/// What became ready.
#[derive(Clone, Copy, Debug)]
enum Ready {
    Signal,
    Listener,
    Client(ClientId),
    Pipe(AttemptKey),
}

/// All of the runner's state. An attempt is in `running`, in `ended`, or not held.
#[derive(Debug)]
pub(super) struct Server {
    work_dir: PathBuf,
    options: RunnerOptions,
    boot_id: String,
    place: Place,
    signals: SignalFd,
    spawner: Spawner,
    /// Where the system lets us make them.
    cgroups: Option<Cgroups>,
    journal: Journal,
    seen: Seen,
    running: BTreeMap<AttemptKey, Running>,
    /// How long each of them may run.
    limits: BTreeMap<AttemptKey, Limits>,
    /// The leaders' pids.
    leaders: HashMap<Pid, AttemptKey>,
    ended: BTreeMap<AttemptKey, Outcome>,
    clients: Clients,
    mode: Mode,
    parent: Pid,
    /// When a half last said that it is in touch with the coordinator.
    in_session_at: Instant,
    /// Since when no half is connected; none while one is.
    alone_since: Option<Instant>,
    had_half: bool,
    started: Instant,
    /// Since when there has been nothing to do.
    idle_since: Option<Instant>,
    buffer: Vec<u8>,
}

/// What a server is made of.
pub(super) struct Parts {
    pub(super) work_dir: PathBuf,
    pub(super) options: RunnerOptions,
    pub(super) boot_id: String,
    pub(super) place: Place,
    pub(super) signals: SignalFd,
    pub(super) spawner: Spawner,
    pub(super) cgroups: Option<Cgroups>,
    pub(super) journal: Journal,
    pub(super) replay: Replay,
    pub(super) listener: UnixListener,
    pub(super) parent: Pid,
}

impl Server {
    pub(super) fn new(parts: Parts) -> io::Result<Self> {
        Ok(Self {
            work_dir: parts.work_dir,
            options: parts.options,
            boot_id: parts.boot_id,
            place: parts.place,
            signals: parts.signals,
            spawner: parts.spawner,
            cgroups: parts.cgroups,
            journal: parts.journal,
            seen: parts.replay.seen,
            running: BTreeMap::new(),
            limits: BTreeMap::new(),
            leaders: HashMap::new(),
            ended: parts.replay.ended,
            clients: Clients::new(parts.listener)?,
            mode: Mode::Open,
            parent: parts.parent,
            in_session_at: Instant::now(),
            alone_since: Some(Instant::now()),
            had_half: false,
            started: Instant::now(),
            idle_since: None,
            buffer: vec![0; task::READ_SIZE],
        })
    }

    /// Runs until it is time to exit, and returns why.
    pub(super) fn run(mut self) -> io::Result<&'static str> {
        loop {
            let now = Instant::now();
            self.on_time(now);
            self.clients.flush_all();
            self.note_half(now);
            if let Some(why) = self.is_over(now) {
                sweep::children();
                if let Some(cgroups) = &self.cgroups {
                    cgroups.close();
                }
                if let Err(error) = self.journal.flush().and_then(|()| self.journal.sync()) {
                    log::line(format_args!("the journal cannot be written: {error}"));
                }
                self.clients.finish();
                return Ok(why);
            }
            let ready = self.wait(now)?;
            let mut heard_all = true;
            for (ready, flags) in ready {
                match ready {
                    Ready::Signal => self.on_signals(),
                    Ready::Pipe(key) => self.on_output(key),
                    Ready::Listener => self.clients.accept(),
                    Ready::Client(id) if flags.intersects(!PollFlags::POLLOUT) => {
                        heard_all = false;
                        self.clients.read(id);
                    }
                    Ready::Client(_) => {}
                }
            }
            self.on_messages();
            // Acting on what was ready may have taken long, on a slow disk: silence counts only as far as we listened.
            let heard_until = (heard_all && !self.clients.has_lines()).then_some(now);
            self.on_limits(heard_until);
        }
    }

    // Waiting.

    /// Waits for what is next and returns what became ready, signals first.
    fn wait(&mut self, now: Instant) -> io::Result<Vec<(Ready, PollFlags)>> {
        let timeout = if self.clients.has_lines() { PollTimeout::ZERO } else { self.timeout(now) };
        let mut what = vec![Ready::Signal];
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        for (key, running) in &self.running {
            if let Some(pipe) = running.pipe() {
                what.push(Ready::Pipe(*key));
                fds.push(PollFd::new(pipe, PollFlags::POLLIN));
            }
        }
        if let Some(listener) = self.clients.listener(now) {
            what.push(Ready::Listener);
            fds.push(PollFd::new(listener, PollFlags::POLLIN));
        }
        for (id, stream, writes) in self.clients.streams() {
            what.push(Ready::Client(id));
            let flags = if writes { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
            fds.push(PollFd::new(stream, flags));
        }
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        let ready = what.into_iter().zip(fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn timeout(&self, now: Instant) -> PollTimeout {
        // While the half does not read, what ends that is that it does.
        let may_notice = !self.clients.is_busy();
        let tasks = self.running.values().filter_map(|running| running.deadline(may_notice));
        let limits = self.limits.values().filter_map(|limits| limits.deadline(self.in_session_at));
        let idle = self.idle_since.filter(|_| self.clients.is_empty());
        let idle = idle.map(|since| since + self.options.idle_exit);
        let give_up = if let Mode::Stopping { give_up_at } = self.mode { Some(give_up_at) } else { None };
        let looks = self.options.die_with_parent || self.journal.is_behind() || !self.had_half;
        let tick = looks.then_some(now + TICK);
        let others = idle.into_iter().chain(give_up).chain(tick).chain(self.clients.deadline(now));
        let Some(next) = tasks.chain(limits).chain(others).min() else { return PollTimeout::NONE };
        // Rounded up, so that it is time when we wake.
        let millis = next.saturating_duration_since(now).as_micros().div_ceil(1000);
        PollTimeout::try_from(millis.min(60_000)).unwrap_or(PollTimeout::ZERO)
    }

    fn on_time(&mut self, now: Instant) {
        let may_notice = !self.clients.is_busy();
        for (key, running) in &mut self.running {
            running.on_time(now, &self.leaders);
            if may_notice && let Some(size) = running.notice(now) {
                self.clients.tell(&FromRunner::Output { attempt: *key, size });
            }
        }
        if self.journal.is_behind() {
            let _ = self.journal.flush();
        }
        if self.journal.wants_compaction() {
            self.compact();
        }
    }

    /// Ends what has run for as long as it may.
    fn on_limits(&mut self, heard_until: Option<Instant>) {
        let now = Instant::now();
        for (key, limits) in &mut self.limits {
            let Some((cause, grace)) = limits.reached(now, self.in_session_at, heard_until) else { continue };
            let Some(running) = self.running.get_mut(key) else { continue };
            let why = if cause == StopCause::TimeLimit {
                "has reached its time limit"
            } else {
                "was cut off from the coordinator for as long as it may be"
            };
            log::line(format_args!("{key} {why}: it is ended"));
            running.stop(now, grace, &self.leaders);
            limits.stopped(cause);
        }
    }

    /// Keeps account of how long nobody has been there and nothing has run.
    fn note_half(&mut self, now: Instant) {
        if self.clients.has_active() {
            self.alone_since = None;
            self.had_half = true;
        } else if self.alone_since.is_none() {
            self.alone_since = Some(now);
        }
        // Who started us is about to connect.
        let expects = self.clients.has_active() || (!self.had_half && now < self.started + FIRST_PATIENCE);
        // Results that are held are in the journal, for the next runner; what is not written yet would be lost.
        if expects || !self.running.is_empty() || self.journal.is_behind() {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            self.idle_since = Some(now);
        }
        let is_stopping = matches!(self.mode, Mode::Stopping { .. });
        if self.options.die_with_parent && !is_stopping && self.is_orphan(now) {
            log::line(format_args!("the half is gone: tasks are ended"));
            self.stop_all(now, self.options.grace);
        }
    }

    /// Whether who started us is gone, with the tasks that were its own.
    fn is_orphan(&self, now: Instant) -> bool {
        let patience = if self.had_half { RETURN_PATIENCE } else { FIRST_PATIENCE };
        self.alone_since.is_some_and(|since| getppid() != self.parent || now >= since + patience)
    }

    fn is_over(&self, now: Instant) -> Option<&'static str> {
        let quiet = self.running.is_empty();
        let is_past =
            |since: Option<Instant>| since.is_some_and(|since| now >= since + self.options.idle_exit);
        match self.mode {
            Mode::Stopping { .. } if quiet && !self.journal.is_behind() => Some("stopped"),
            Mode::Stopping { give_up_at } if now >= give_up_at => {
                Some("stopped, leaving processes that do not die")
            }
            Mode::Draining if quiet && self.ended.is_empty() => Some("drained"),
            // Nobody comes for the results: the next runner has them.
            // Who is connected and has not said hello yet is about to; but halves that are refused, of another
            // version, do not keep us.
            Mode::Open | Mode::Draining if is_past(self.idle_since) && self.clients.is_empty() => {
                Some("idle")
            }
            _ => None,
        }
    }

    // Signals and ends.

    fn on_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            // SIGCHLD is acted on below, since several become one; SIGHUP is nothing to us.
            if [Signal::SIGTERM, Signal::SIGINT].iter().any(|end| *end as u32 == signal.ssi_signo) {
                log::line(format_args!("told to end by a signal: tasks are ended"));
                self.stop_all(Instant::now(), self.options.grace);
            }
        }
        self.reap();
    }

    fn stop_all(&mut self, now: Instant, grace: Duration) {
        let give_up_at = now.checked_add(grace + KILL_PATIENCE).unwrap_or(now + KILL_PATIENCE);
        self.mode = match self.mode {
            Mode::Stopping { give_up_at: before } => Mode::Stopping { give_up_at: before.min(give_up_at) },
            _ => Mode::Stopping { give_up_at },
        };
        for running in self.running.values_mut() {
            running.stop(now, grace, &self.leaders);
        }
        for limits in self.limits.values_mut() {
            limits.stopped(StopCause::WorkerStopped);
        }
    }

    /// Takes every child that has ended.
    fn reap(&mut self) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let (mut any, mut are_left) = (false, true);
        loop {
            match waitid(Id::All, flags) {
                Ok(WaitStatus::Exited(pid, code)) => self.take(pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.take(pid, Exit::Signal(signal as i32)),
                Ok(_) => break,
                Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => {
                    // Somebody else reaped what was ours: it is gone, and with it how it ended.
                    for pid in self.leaders.keys().copied().collect::<Vec<_>>() {
                        self.take(pid, Exit::Unknown);
                    }
                    are_left = false;
                    break;
                }
                // Killed by a signal that nix has no name for: real-time ones.
                Err(_) => {
                    if !self.take_by_stat() {
                        break;
                    }
                }
            }
            any = true;
        }
        if any && are_left {
            // What an ended process leaves behind has been adopted by us in the same moment.
            let (leaders, running) = (&self.leaders, &self.running);
            let is_leader = |pid| leaders.contains_key(&pid);
            sweep::adopted(is_leader, |key| running.contains_key(&key), running.is_empty());
        }
    }

    /// As `reap` does, by what `/proc` says. Whether there was one.
    fn take_by_stat(&mut self) -> bool {
        let mut any = false;
        for pid in procfs::children() {
            if let Some(stat) = procfs::stat(pid).filter(|stat| stat.has_ended()) {
                let (code, signal) = ((stat.wait_status >> 8) & 0xff, stat.wait_status & 0x7f);
                self.take(pid, if signal == 0 { Exit::Code(code) } else { Exit::Signal(signal) });
                any = true;
            }
        }
        any
    }

    /// Takes one child that has ended and is not yet reaped.
    fn take(&mut self, pid: Pid, exit: Exit) {
        let ended = self.leaders.get(&pid).and_then(|key| Some((*key, self.running.remove(key)?)));
        let Some((key, mut running)) = ended else {
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            return;
        };
        let undead = running.end_rest(exit, &self.leaders);
        if let (Some(cgroups), Some(group)) = (&mut self.cgroups, undead) {
            cgroups.keep(group);
        }
        running.drain(&mut self.buffer);
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        self.leaders.remove(&pid);
        let mut outcome = running.outcome(exit, now_ms());
        let cause = self.limits.remove(&key).and_then(|limits| limits.cause());
        // A stop that came after the end was none.
        outcome.stop_cause = cause.filter(|_| outcome.stop_sent);
        if let Err(error) = self.journal.append_or_keep(Record::Ended { key, outcome }) {
            log::line(format_args!("the end of {key} is not journalled yet: {error}"));
        }
        self.ended.insert(key, outcome);
        self.clients.tell(&FromRunner::Ended(outcome.to_ended(key)));
    }

    fn on_output(&mut self, key: AttemptKey) {
        let Some(running) = self.running.get_mut(&key) else { return };
        let had_failed = running.output_failed();
        running.pump(&mut self.buffer);
        if running.output_failed() && !had_failed {
            log::line(format_args!("the output of {key} cannot be written: it is stopped"));
            running.stop(Instant::now(), self.options.grace, &self.leaders);
            // That is why it ends; a limit that is reached meanwhile is not.
            self.limits.remove(&key);
        }
    }

    // Messages.

    fn on_messages(&mut self) {
        for id in self.clients.ids() {
            for _ in 0..MESSAGES_A_TURN {
                let Some(message) = self.clients.take(id) else { break };
                self.on_message(id, message);
            }
        }
    }

    fn on_message(&mut self, from: ClientId, message: ToRunner) {
        let now = Instant::now();
        match message {
            ToRunner::Hello { version } => self.hello(from, version),
            ToRunner::Start(start) => {
                let answer = self.start(&start);
                self.clients.tell(&answer);
            }
            ToRunner::Stop { attempt, grace_ms, cause } => {
                if let Some(running) = self.running.get_mut(&attempt) {
                    running.stop(now, Duration::from_millis(grace_ms), &self.leaders);
                }
                if let Some(limits) = self.limits.get_mut(&attempt) {
                    limits.stopped(cause);
                }
            }
            ToRunner::Refuse { attempt } => self.refuse(attempt),
            ToRunner::Forget { attempt } => self.forget(attempt),
            ToRunner::Shutdown { grace_ms } => self.stop_all(now, Duration::from_millis(grace_ms)),
            ToRunner::ShutdownWhenIdle => {
                if self.mode == Mode::Open {
                    self.mode = Mode::Draining;
                }
            }
            ToRunner::Ping => self.clients.tell(&FromRunner::Pong),
            ToRunner::InSession => self.in_session_at = now,
        }
    }

    fn hello(&mut self, from: ClientId, version: u32) {
        let running = self.running.iter().map(|(attempt, running)| Held::Running {
            attempt: *attempt,
            pid: running.pid().as_raw(),
            start_ms: running.start_ms,
            size: running.size(),
        });
        let ended = self.ended.iter().map(|(attempt, outcome)| Held::Ended(outcome.to_ended(*attempt)));
        let held = running.chain(ended).collect();
        let (boot_id, pid, release) = (self.boot_id.clone(), Pid::this().as_raw(), RELEASE.to_owned());
        let speaks = self.options.version.unwrap_or(VERSION);
        let serves = version == speaks || version.checked_add(1) == Some(speaks);
        let answer = if serves { version } else { speaks };
        let hello = FromRunner::Hello { version: answer, speaks, release, pid, boot_id, held };
        if serves {
            self.clients.activate(from);
            self.clients.send(from, &hello);
        } else {
            log::line(format_args!("a half speaks version {version}, and this runner {speaks}"));
            self.clients.send(from, &hello);
            self.clients.close_after_sending(from);
        }
    }

    fn start(&mut self, start: &Start) -> FromRunner {
        let attempt = start.attempt;
        if self.seen.contains(attempt) || self.is_held(attempt) {
            return FromRunner::Refused { attempt };
        }
        self.seen.insert(attempt);
        if self.mode != Mode::Open {
            // Nobody's fault: it can run elsewhere, or here when the next runner is there.
            let _ = self.journal.append_or_keep(Record::Closed(attempt));
            return FromRunner::Refused { attempt };
        }
        match self.launch(start) {
            Ok((pid, start_ms)) => FromRunner::Started { attempt, pid: pid.as_raw(), start_ms },
            Err(error) => {
                // Nothing runs, so a runner after this one must not take it for lost.
                let _ = self.journal.append_or_keep(Record::Closed(attempt));
                FromRunner::StartFailed {
                    attempt,
                    errno: error.errno as i32,
                    message: error.to_string(),
                    for_task: error.is_for_task(),
                }
            }
        }
    }

    fn launch(&mut self, start: &Start) -> Result<(Pid, u64), SpawnError> {
        let key = start.attempt;
        if self.running.len() + self.ended.len() >= MAX_HELD {
            return Err(SpawnError::new(Errno::EAGAIN, format!("{MAX_HELD} attempts are held already")));
        }
        let journalled = self.journal.append(&Record::Seen(key));
        journalled.map_err(|error| SpawnError::new(errno_of(&error), "cannot write the journal"))?;
        let pipe = task::output_pipe();
        let (reader, writer) =
            pipe.map_err(|error| SpawnError::new(errno_of(&error), "cannot make a pipe"))?;
        let spawn = || self.spawner.spawn(start, writer.as_raw_fd());
        let (pid, cgroup) = match &mut self.cgroups {
            Some(cgroups) => cgroups.spawn(key, spawn)?,
            None => (spawn()?, None),
        };
        drop(writer);
        let start_ms = now_ms();
        // Not there only if it could not be read: our child cannot be gone before we reap it.
        let start_ticks = procfs::stat(pid).map_or(0, |stat| stat.start_ticks);
        if let Err(error) =
            self.journal.append_or_keep(Record::Started { key, pid: pid.as_raw(), start_ticks, start_ms })
        {
            log::line(format_args!("the start of {key} is not journalled yet: {error}"));
        }
        self.leaders.insert(pid, key);
        self.limits.insert(key, Limits::new(start, Instant::now()));
        let running = Running::new((pid, cgroup), start_ms, reader, &self.work_dir, key, start.output_limit);
        self.running.insert(key, running);
        Ok((pid, start_ms))
    }

    fn is_held(&self, key: AttemptKey) -> bool {
        self.running.contains_key(&key) || self.ended.contains_key(&key)
    }

    fn refuse(&mut self, attempt: AttemptKey) {
        let answer = if let Some(running) = self.running.get(&attempt) {
            FromRunner::Started { attempt, pid: running.pid().as_raw(), start_ms: running.start_ms }
        } else if let Some(outcome) = self.ended.get(&attempt) {
            FromRunner::Ended(outcome.to_ended(attempt))
        } else {
            if !self.seen.contains(attempt) {
                self.seen.insert(attempt);
                if let Err(error) = self.journal.append_or_keep(Record::Closed(attempt)) {
                    log::line(format_args!("the refusal of {attempt} is not journalled yet: {error}"));
                }
            }
            FromRunner::Refused { attempt }
        };
        self.clients.tell(&answer);
    }

    fn forget(&mut self, attempt: AttemptKey) {
        if self.ended.remove(&attempt).is_none() {
            return;
        }
        // Journalled first: a spool without an owner is deleted by the next runner, a result without its spool
        // would be a lie.
        if let Err(error) = self.journal.append_or_keep(Record::Closed(attempt)) {
            log::line(format_args!("that {attempt} is forgotten is not journalled yet: {error}"));
        }
        if let Err(error) = spool::remove(&self.work_dir, attempt) {
            log::line(format_args!("the spool of {attempt} cannot be deleted: {error}"));
        }
    }

    /// Rewrites the journal with what still matters.
    fn compact(&mut self) {
        let boot = Record::Boot(boot_number(&self.boot_id), self.place);
        let seen = self.seen.iter().map(Record::Closed);
        let running = self.running.iter().flat_map(|(key, running)| {
            let (key, pid, start_ms) = (*key, running.pid(), running.start_ms);
            let start_ticks = procfs::stat(pid).map_or(0, |stat| stat.start_ticks);
            [Record::Started { key, pid: pid.as_raw(), start_ticks, start_ms }]
        });
        let ended = self.ended.iter().map(|(key, outcome)| Record::Ended { key: *key, outcome: *outcome });
        if let Err(error) = self.journal.rewrite([boot].into_iter().chain(seen).chain(running).chain(ended)) {
            log::line(format_args!("the journal cannot be rewritten: {error}"));
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The boot id as the journal keeps it; 0 if it is none.
pub(super) fn boot_number(boot_id: &str) -> u128 {
    u128::from_str_radix(&boot_id.replace('-', ""), 16).unwrap_or(0)
}
