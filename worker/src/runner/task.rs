//! A task that runs: its process group, its pipe, its place in the spool, and how it is being ended.
//!
//! Does not decide when a task is to end, and does not reap: the [server](super::server) does.

use std::collections::HashMap;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::cgroup::Group;
use super::journal::Outcome;
use super::protocol::AttemptKey;
use super::tree::{Member, Tree};
use crate::spool;

/// Bytes read at once, and what a pipe holds unless it was made larger.
pub(super) const READ_SIZE: usize = 64 * 1024;
/// Bytes read of one task before others have their turn.
const TURN: usize = 4 * READ_SIZE;
/// At most one notice of new output an attempt in this time.
const NOTICE_EVERY: Duration = Duration::from_millis(20);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Code(i32),
    Signal(i32),
    /// It is gone and nobody knows how.
    Unknown,
}

/// How far ending a task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// TERM was sent.
    Term {
        kill_at: Instant,
    },
    /// KILL was sent.
    Killed,
}

/// A task's process and all that belongs to it. The pid is valid as long as this exists, since nobody else
/// reaps.
#[derive(Debug)]
pub(super) struct Running {
    key: AttemptKey,
    pid: Pid,
    /// Its own, where the system lets us make them.
    cgroup: Option<Group>,
    pub(super) start_ms: u64,
    /// None once every writer has closed it.
    output: Option<PipeReader>,
    spool: spool::Writer,
    stop: Stop,
    /// What was found outside its process group when TERM was sent.
    strays: Vec<Member>,
    /// When the half was last told of output, and of how much.
    noticed: Option<(Instant, u64)>,
}

/// The pipe for a task's output: our end does not block, its end is for the child.
pub(super) fn output_pipe() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader, writer))
}

impl Running {
    pub(super) fn new(
        (pid, cgroup): (Pid, Option<Group>),
        start_ms: u64,
        output: PipeReader,
        work_dir: &Path,
        key: AttemptKey,
        limit: u64,
    ) -> Self {
        let spool = spool::Writer::new(work_dir, key, limit);
        let (output, strays) = (Some(output), Vec::new());
        Self { key, pid, cgroup, start_ms, output, spool, stop: Stop::No, strays, noticed: None }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Bytes in the spool.
    pub(super) fn size(&self) -> u64 {
        self.spool.size()
    }

    /// Whether its output could not be kept.
    pub(super) fn output_failed(&self) -> bool {
        self.spool.failed().is_some()
    }

    /// What to wait for, while the pipe is open.
    pub(super) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(AsFd::as_fd)
    }

    /// Moves output to the spool, at most one turn's worth.
    pub(super) fn pump(&mut self, buffer: &mut [u8]) {
        self.read(buffer, TURN);
    }

    /// Moves what is in the pipe now to the spool. Does not wait for the end of the stream: a process that still
    /// holds the pipe may go on for ever. What the ended task wrote is no more than the pipe's size.
    pub(super) fn drain(&mut self, buffer: &mut [u8]) {
        let capacity = self.pipe().and_then(|pipe| fcntl(pipe, FcntlArg::F_GETPIPE_SZ).ok());
        self.read(buffer, capacity.and_then(|size| usize::try_from(size).ok()).unwrap_or(READ_SIZE));
        self.output = None;
    }

    fn read(&mut self, buffer: &mut [u8], budget: usize) {
        let mut left = budget;
        while let Some(pipe) = &mut self.output
            && left > 0
        {
            let room = buffer.len().min(left);
            match pipe.read(&mut buffer[..room]) {
                Ok(0) => self.output = None,
                Ok(count) => {
                    self.spool.append(&buffer[..count]);
                    left -= count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.output = None,
            }
        }
    }

    /// The size to tell the half now, if there is news and it is time.
    pub(super) fn notice(&mut self, now: Instant) -> Option<u64> {
        self.notice_at().filter(|at| at.is_none_or(|at| at <= now))?;
        let size = self.size();
        self.noticed = Some((now, size));
        Some(size)
    }

    /// When the half is to be told of output: `Some(None)` is at once.
    fn notice_at(&self) -> Option<Option<Instant>> {
        match self.noticed {
            None => (self.size() > 0).then_some(None),
            Some((at, size)) => (size < self.size()).then_some(Some(at + NOTICE_EVERY)),
        }
    }

    /// The next time at which something is to be done, at most. A notice counts only while one may be sent.
    pub(super) fn deadline(&self, may_notice: bool) -> Option<Instant> {
        let kill_at = if let Stop::Term { kill_at } = self.stop { Some(kill_at) } else { None };
        kill_at.into_iter().chain(self.notice_at().flatten().filter(|_| may_notice)).min()
    }

    /// TERM to all of it now and KILL after the grace; later calls can only shorten what remains. Nothing if the
    /// task has ended already and only waits to be reaped: then its own outcome stands. `leaders` are those of
    /// every task that runs.
    pub(super) fn stop(&mut self, now: Instant, grace: Duration, leaders: &HashMap<Pid, AttemptKey>) {
        if self.stop == Stop::No && self.has_ended() {
            return;
        }
        // A grace beyond what a clock can count is as good as a day.
        let kill_at = now.checked_add(grace).unwrap_or(now + Duration::from_secs(86_400));
        match self.stop {
            _ if grace.is_zero() => self.kill(leaders),
            Stop::No => {
                self.term(leaders);
                self.stop = Stop::Term { kill_at };
            }
            Stop::Term { kill_at: before } => self.stop = Stop::Term { kill_at: before.min(kill_at) },
            Stop::Killed => {}
        }
    }

    /// KILL if the grace is over.
    pub(super) fn on_time(&mut self, now: Instant, leaders: &HashMap<Pid, AttemptKey>) {
        if matches!(self.stop, Stop::Term { kill_at } if kill_at <= now) {
            self.kill(leaders);
        }
    }

    fn term(&mut self, leaders: &HashMap<Pid, AttemptKey>) {
        if self.cgroup.is_none() {
            self.strays = self.tree(leaders).strays();
        }
        // A stopped process would not hear it before it is continued.
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            if killpg(self.pid, signal) == Err(Errno::ESRCH) {
                let _ = kill(self.pid, signal);
            }
            match &self.cgroup {
                Some(group) => group.signal_outside(signal, self.pid),
                None => {
                    for stray in &self.strays {
                        let _ = kill(stray.pid, signal);
                    }
                }
            }
        }
    }

    fn kill(&mut self, leaders: &HashMap<Pid, AttemptKey>) {
        self.stop = Stop::Killed;
        if let Some(group) = &self.cgroup {
            group.kill();
            // It is a child of ours, wherever it has moved to.
            let _ = kill(self.pid, Signal::SIGKILL);
        } else {
            self.tree(leaders).end();
        }
    }

    /// KILL to what its leader has left behind, and a bounded wait until that is gone. To be called after the leader
    /// has ended and before it is reaped, since until then no other group can have its number; where somebody else
    /// has reaped it already (`exit` is unknown), only its cgroup is ended. Returns that if it could not be removed
    /// yet.
    pub(super) fn end_rest(&mut self, exit: Exit, leaders: &HashMap<Pid, AttemptKey>) -> Option<Group> {
        let has_number = exit != Exit::Unknown;
        let Some(group) = self.cgroup.take() else {
            if has_number {
                self.tree(leaders).end();
            }
            return None;
        };
        if has_number {
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
        (!group.end_soon()).then_some(group)
    }

    fn tree<'a>(&'a self, leaders: &'a HashMap<Pid, AttemptKey>) -> Tree<'a> {
        Tree { leader: self.pid, key: self.key, leaders, known: &self.strays }
    }

    fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(self.pid), flags), Ok(WaitStatus::StillAlive))
    }

    /// What is journalled of its end.
    pub(super) fn outcome(&self, exit: Exit, end_ms: u64) -> Outcome {
        Outcome {
            exit_code: if let Exit::Code(code) = exit { Some(code) } else { None },
            signal: if let Exit::Signal(signal) = exit { Some(signal) } else { None },
            stop_sent: self.stop != Stop::No,
            lost: exit == Exit::Unknown,
            output_errno: self.spool.failed(),
            size: self.spool.size(),
            discarded: self.spool.discarded(),
            end_ms,
            // The server knows.
            stop_cause: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_notice_that_may_not_be_sent_wakes_nobody() {
        let work = tempfile::tempdir().unwrap();
        spool::prepare(work.path()).unwrap();
        let key = AttemptKey { life: 1, batch: 2, task: 3, attempt: 4 };
        let (reader, mut writer) = output_pipe().unwrap();
        let mut running = Running::new((Pid::this(), None), 0, reader, work.path(), key, 100);
        let (now, mut buffer) = (Instant::now(), [0; 16]);
        writer.write_all(b"one").unwrap();
        running.pump(&mut buffer);
        assert_eq!(running.notice(now), Some(3));
        writer.write_all(b"two").unwrap();
        running.pump(&mut buffer);
        assert_eq!(running.deadline(true), Some(now + NOTICE_EVERY));
        // It would be over at once and for as long as the half does not read: the loop would spin.
        assert_eq!(running.deadline(false), None);
    }
}
