//! Finding and ending all the processes of one task where it has no cgroup: what descends from its leader, and
//! what was orphaned and adopted by us while it carries the task's marker, with what descends from that.
//!
//! A process cannot be watched while it forks, so nothing is killed before everything that is known stands still.
//! It does not find a descendant that was orphaned before anybody looked *and* has cleared its environment: nobody
//! can say whose that is while other tasks run. It never looks beyond our own descendants.

use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::procfs;
use super::protocol::AttemptKey;

/// How often a tree is looked at, at most.
const MAX_ROUNDS: u32 = 100;
/// How long ending a tree may hold up everything else. What has not died by then is in the kernel's hands.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks, while killed processes go away.
const PAUSE: Duration = Duration::from_millis(1);
/// The most processes of one task that are looked at in one round.
const MAX_MEMBERS: usize = 65_536;

/// Whose processes are meant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree<'a> {
    /// The task's own process, not reaped yet.
    pub(super) leader: Pid,
    pub(super) key: AttemptKey,
    /// The leaders of every task that runs: what descends from another one is none of ours.
    pub(super) leaders: &'a HashMap<Pid, AttemptKey>,
    /// Processes that are known to be of the task, whoever their parent is by now.
    pub(super) known: &'a [Member],
}

impl Tree<'_> {
    /// Everything outside the leader's process group, which is signalled as a group. To be asked for before that: with
    /// its parents a process loses what it is known by.
    pub(super) fn strays(self) -> Vec<Member> {
        let mut members = self.members(&HashSet::new());
        members.retain(|member| member.group != self.leader.as_raw());
        members
    }

    /// Kills everything, and waits for a bounded time until it is gone. Whether it is.
    pub(super) fn end(self) -> bool {
        // To a group a signal goes as one: a fork that is under way is undone. Nothing is killed before all of it
        // stands: an orphan may not be known any more.
        let _ = killpg(self.leader, Signal::SIGSTOP);
        let deadline = Instant::now() + PATIENCE;
        let mut still = HashSet::new();
        for round in 1..=MAX_ROUNDS {
            let members = self.members(&still);
            let mut all_stand = true;
            for member in &members {
                if still.insert((member.pid, member.start_ticks)) {
                    all_stand = false;
                    let _ = kill(member.pid, Signal::SIGSTOP);
                }
            }
            // What was stopped is killed, whatever else there may be.
            let is_last = round == MAX_ROUNDS || Instant::now() >= deadline;
            if all_stand || is_last {
                let _ = killpg(self.leader, Signal::SIGKILL);
                for member in &members {
                    let _ = kill(member.pid, Signal::SIGKILL);
                }
                if members.is_empty() || is_last {
                    return members.is_empty();
                }
                thread::sleep(PAUSE);
            }
        }
        false
    }

    /// Every process of the task that has not ended; `seen` are those that were found before.
    fn members(self, seen: &HashSet<(Pid, u64)>) -> Vec<Member> {
        let mut members = descendants(self.leader);
        let adopted = procfs::children().into_iter().filter(|pid| !self.leaders.contains_key(pid));
        for pid in adopted.filter(|pid| *pid != self.leader) {
            let kin = descendants(pid);
            // The first that carries a mark speaks for all: they descend from one process of one task.
            let owner = kin.iter().find_map(|member| procfs::attempt_of(member.pid));
            if owner == Some(self.key) {
                members.extend(kin);
            }
        }
        let mut found: HashSet<Pid> = members.iter().map(|member| member.pid).collect();
        let known = self.known.iter().map(|member| (member.pid, member.start_ticks));
        for (pid, start_ticks) in known.chain(seen.iter().copied()) {
            if !found.contains(&pid) && procfs::stat(pid).is_some_and(|stat| stat.start_ticks == start_ticks)
            {
                let kin = descendants(pid);
                found.extend(kin.iter().map(|member| member.pid));
                members.extend(kin);
            }
        }
        members
    }
}

/// A process of a task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) pid: Pid,
    group: i32,
    start_ticks: u64,
}

/// A process and all that descends from it, as far as they have not ended.
pub(super) fn descendants(root: Pid) -> Vec<Member> {
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        let Some(stat) = procfs::stat(pid) else { continue };
        // What has ended has no children any more: they were adopted.
        if stat.has_ended() {
            continue;
        }
        found.push(Member { pid, group: stat.group, start_ticks: stat.start_ticks });
        if found.len() + next.len() < MAX_MEMBERS {
            next.extend(procfs::children_of(pid));
        }
    }
    found
}
