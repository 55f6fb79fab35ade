//! One cgroup for every task, where the system lets us make cgroups (version 2, delegated): whatever a task forks
//! is in it, and it is ended as a whole.
//!
//! Below the cgroup that the runner is started in it makes `muster-<pid>-<start>`, with a leaf `runner` for itself
//! and a `task-<attempt>` for each task. It enters a task's cgroup for the moment of the spawn, so that the child is
//! born in it: written there afterwards, it could have forked before. Where any of this is refused, tasks run
//! without, and [`tree`](super::tree) ends them.
//!
//! It sets no limits, turns no controllers on, and never kills a cgroup that the runner itself is in. A process
//! that may write the files here can move itself out; no task does so by accident.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::place::Place;
use super::protocol::AttemptKey;
use super::{log, procfs};

/// What a runner's own cgroups are called.
const PREFIX: &str = "muster-";
/// In the work directory: where the last runner's cgroups are, for the next one to find what was left in them.
const RECORD: &str = "cgroup";
/// How long ending a task's cgroup may hold up everything else.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a starting runner waits for what is left of the one before.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks, while killed processes go away.
const PAUSE: Duration = Duration::from_millis(1);
/// How deep cgroups are removed that a task has made within its own.
const MAX_DEPTH: u32 = 16;
/// The most cgroups kept for another try at removing them.
const MAX_UNDEAD: usize = 1024;

/// Why tasks have no cgroups of their own.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotDelegated {
    #[error("no cgroup hierarchy of version 2 is mounted")]
    NoHierarchy,
    #[error("we are in the root of the hierarchy, which is the system's")]
    Root,
    #[error("a cgroup in {path} is refused (delegate one, as systemd does with Delegate=yes): {source}")]
    Refused { path: PathBuf, source: io::Error },
}

/// The runner's cgroups.
#[derive(Debug)]
pub(super) struct Cgroups {
    /// The one that the runner was started in.
    started_in: PathBuf,
    /// Ours, which holds the leaf and the tasks.
    ours: PathBuf,
    record: PathBuf,
    /// Entering or leaving failed: no further task is given a cgroup.
    failed: bool,
    /// Cgroups of ended tasks that could not be removed yet.
    undead: Vec<Group>,
}

/// Kills and removes what a runner before this one left of its cgroups. Everything in them is of tasks whose runner
/// is gone; a record that came here with a copy of another work directory names that one's, and is passed over.
pub(super) fn end_leftovers(work_dir: &Path, boot: u128, place: Place) {
    let record = work_dir.join(RECORD);
    let Ok(text) = fs::read(&record) else { return };
    if let Some(ours) = recorded(&text, boot, place) {
        let within = own_dir().is_some_and(|own| own.starts_with(&ours));
        if ours.is_dir() && !within {
            log::line(format_args!("cgroups of the runner before are ended: {}", ours.display()));
            if !(Group { dir: ours }).end(LEFTOVER_PATIENCE) {
                log::line(format_args!("processes in them do not go away"));
                return;
            }
        }
    }
    let _ = fs::remove_file(record);
}

/// The first line of a record: in which boot, and for which work directory, it was written.
fn heading(boot: u128, place: Place) -> String {
    format!("{boot:x} {place}")
}

/// The path in a record of this boot and place.
fn recorded(text: &[u8], boot: u128, place: Place) -> Option<PathBuf> {
    let mut lines = text.splitn(2, |byte| *byte == b'\n');
    let is_ours_now = lines.next()? == heading(boot, place).as_bytes();
    let path = Path::new(std::ffi::OsStr::from_bytes(lines.next()?));
    let is_ours = path.is_absolute()
        && path.file_name().is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes()));
    (is_ours_now && is_ours).then(|| path.to_owned())
}

impl Cgroups {
    /// Makes the runner's own cgroups and enters their leaf, if the system allows it.
    pub(super) fn set_up(work_dir: &Path, boot: u128, place: Place) -> Result<Self, NotDelegated> {
        Self::below(&own_dir().ok_or(NotDelegated::NoHierarchy)?, work_dir, &heading(boot, place))
    }

    fn below(started_in: &Path, work_dir: &Path, heading: &str) -> Result<Self, NotDelegated> {
        // Only the root of all has no such file.
        if !started_in.join("cgroup.events").exists() {
            return Err(NotDelegated::Root);
        }
        let pid = Pid::this();
        let start_ticks = procfs::stat(pid).map_or(0, |stat| stat.start_ticks);
        let cgroups = Self {
            started_in: started_in.to_owned(),
            ours: started_in.join(format!("{PREFIX}{pid}-{start_ticks}")),
            record: work_dir.join(RECORD),
            failed: false,
            undead: Vec::new(),
        };
        // Entering comes last, so whatever fails, we are still where we were.
        if let Err(source) = cgroups.make(heading) {
            let _ = fs::remove_dir(cgroups.leaf());
            let _ = fs::remove_dir(&cgroups.ours);
            let _ = fs::remove_file(&cgroups.record);
            return Err(NotDelegated::Refused { path: started_in.to_owned(), source });
        }
        Ok(cgroups)
    }

    fn make(&self, heading: &str) -> io::Result<()> {
        // Written first: what nobody knows of would stay for ever.
        let record = [heading.as_bytes(), b"\n", self.ours.as_os_str().as_bytes()].concat();
        fs::write(&self.record, record)?;
        fs::create_dir(&self.ours)?;
        fs::create_dir(self.leaf())?;
        enter(&self.leaf())
    }

    fn leaf(&self) -> PathBuf {
        self.ours.join("runner")
    }

    /// Runs `spawn` so that what it spawns is born in a cgroup of its own. The spawn goes ahead without one where
    /// that fails.
    pub(super) fn spawn<T, E>(
        &mut self,
        key: AttemptKey,
        spawn: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Option<Group>), E> {
        let group = self.enter_new(key);
        let result = spawn();
        let group = group.filter(|_| self.leave(key));
        match result {
            Ok(spawned) => Ok((spawned, group)),
            Err(error) => {
                if let Some(group) = group {
                    self.keep(group);
                }
                Err(error)
            }
        }
    }

    fn enter_new(&mut self, key: AttemptKey) -> Option<Group> {
        if self.failed {
            return None;
        }
        self.undead.retain(|group| !group.try_remove());
        let dir = self.ours.join(format!("task-{key}"));
        match fs::create_dir(&dir).and_then(|()| enter(&dir)) {
            Ok(()) => Some(Group { dir }),
            Err(error) => {
                log::line(format_args!("{key} runs without a cgroup, and so will all from now on: {error}"));
                self.failed = true;
                let _ = fs::remove_dir(dir);
                None
            }
        }
    }

    /// Back to the leaf. Where that fails, the task's cgroup is ours too, and must not be killed.
    fn leave(&mut self, key: AttemptKey) -> bool {
        let left = enter(&self.leaf());
        if let Err(error) = &left {
            log::line(format_args!("the cgroup of {key} cannot be left, and is not used: {error}"));
            self.failed = true;
        }
        left.is_ok()
    }

    /// Removes a cgroup in which nothing should be left; what cannot be removed now is tried again later.
    pub(super) fn keep(&mut self, group: Group) {
        self.undead.push(group);
        self.undead.retain(|group| !group.try_remove());
        if self.undead.len() > MAX_UNDEAD {
            // They go at the exit, or by the next runner.
            self.undead.remove(0);
        }
    }

    /// Goes back to where the runner was started, and removes what it made. What is left of tasks is killed.
    pub(super) fn close(&self) {
        if let Err(error) = enter(&self.started_in) {
            log::line(format_args!("the runner's cgroup is left for the next one to remove: {error}"));
            return;
        }
        if (Group { dir: self.ours.clone() }).end(PATIENCE) {
            let _ = fs::remove_file(&self.record);
        }
    }
}

/// Moves us into a cgroup.
fn enter(dir: &Path) -> io::Result<()> {
    write(&dir.join("cgroup.procs"), "0")
}

/// One cgroup, and those within it.
#[derive(Debug)]
pub(super) struct Group {
    dir: PathBuf,
}

impl Group {
    /// Sends a signal to all of it outside one process group, which has been sent it as a group.
    pub(super) fn signal_outside(&self, signal: Signal, leader: Pid) {
        for pid in pids(&self.dir, MAX_DEPTH) {
            if procfs::stat(pid).is_some_and(|stat| stat.group != leader.as_raw()) {
                let _ = kill(pid, signal);
            }
        }
    }

    /// KILL to all of it, what is being forked included.
    pub(super) fn kill(&self) {
        let pids = pids(&self.dir, MAX_DEPTH);
        if pids.contains(&Pid::this()) {
            log::line(format_args!("{} holds the runner: it is not killed", self.dir.display()));
            return;
        }
        // Since Linux 5.14.
        if write(&self.dir.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        // A frozen process forks no more, and can be killed.
        let freeze = self.dir.join("cgroup.freeze");
        let _ = write(&freeze, "1");
        for pid in self::pids(&self.dir, MAX_DEPTH) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = write(&freeze, "0");
    }

    /// Kills all of it, waits for a bounded time until it is empty, and removes it. Whether it is gone.
    pub(super) fn end(&self, patience: Duration) -> bool {
        // Nearly always everything has ended by itself.
        if self.try_remove() {
            return true;
        }
        let deadline = Instant::now() + patience;
        loop {
            self.kill();
            while self.is_populated() && Instant::now() < deadline {
                thread::sleep(PAUSE);
            }
            if self.try_remove() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(PAUSE);
        }
    }

    /// As [`end`](Self::end), for as long as one task may hold up the others.
    pub(super) fn end_soon(&self) -> bool {
        self.end(PATIENCE)
    }

    /// Whether processes are in it, those that have ended not counted.
    fn is_populated(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "populated 1")
    }

    /// Whether it is gone now.
    fn try_remove(&self) -> bool {
        match fs::remove_dir(&self.dir) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(_) => !self.is_populated() && remove(&self.dir, MAX_DEPTH),
        }
    }
}

/// Removes a cgroup and those within it.
fn remove(dir: &Path, depth: u32) -> bool {
    if depth > 0 {
        for within in subdirs(dir) {
            remove(&within, depth - 1);
        }
    }
    fs::remove_dir(dir).is_ok()
}

/// Every process in a cgroup and those within it.
fn pids(dir: &Path, depth: u32) -> Vec<Pid> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process that our pid namespace does not show; to a signal it would mean our own group.
    let numbers = text.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 0);
    let mut found: Vec<Pid> = numbers.map(Pid::from_raw).collect();
    if depth > 0 {
        found.extend(subdirs(dir).iter().flat_map(|within| pids(within, depth - 1)));
    }
    found
}

fn subdirs(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

/// To a file that is there already.
fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// The directory of the cgroup that we are in.
fn own_dir() -> Option<PathBuf> {
    let cgroup = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_own(&cgroup, &mounts)
}

/// From what `/proc` says of our cgroups and of the mounts.
fn find_own(cgroup: &str, mounts: &str) -> Option<PathBuf> {
    let path = Path::new(cgroup.lines().find_map(|line| line.strip_prefix("0::"))?);
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if kind.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
        // A path outside what is mounted, or outside our namespace (`/..`), is not to be had.
        let within = path.strip_prefix(root).ok()?;
        let is_plain = within.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        is_plain.then(|| Path::new(&point).join(within))
    })
}

/// Blanks and backslashes of a path are written as `\ooo`.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &after[3..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    const MOUNTS: &str = "\
25 1 0:23 / /proc rw,nosuid - proc proc rw
31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 24 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn our_cgroup_is_found_below_where_it_is_mounted() {
        let found = find_own("9:memory:/x\n0::/system.slice/w.service\n", MOUNTS);
        assert_eq!(found.as_deref(), Some(Path::new("/sys/fs/cgroup/system.slice/w.service")));
        assert_eq!(find_own("0::/\n", MOUNTS).as_deref(), Some(Path::new("/sys/fs/cgroup/")));
        assert_eq!(find_own("9:memory:/x\n", MOUNTS), None, "version 1 only");
        assert_eq!(find_own("0::/x\n", "25 1 0:23 / /proc rw - proc proc rw\n"), None, "not mounted");
        assert_eq!(find_own("0::/../x\n", MOUNTS), None, "outside our namespace");
        let part = "32 24 0:28 /docker/a /mnt/c\\040g rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find_own("0::/docker/a/b\n", part).as_deref(), Some(Path::new("/mnt/c g/b")));
        assert_eq!(find_own("0::/other\n", part), None, "not in what is mounted");
    }

    #[test]
    fn the_root_of_the_hierarchy_is_left_alone() {
        let (own, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(own.path().join("cgroup.procs"), "").unwrap();
        let refused = Cgroups::below(own.path(), work.path(), &heading(7, Place::default()));
        assert!(matches!(refused, Err(NotDelegated::Root)));
        assert_eq!(subdirs(own.path()).len(), 0);
    }

    #[test]
    fn where_a_cgroup_cannot_be_entered_nothing_of_it_stays() {
        let (own, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(own.path().join("cgroup.events"), "populated 1\n").unwrap();
        // No kernel puts `cgroup.procs` into what we make here.
        let refused = Cgroups::below(own.path(), work.path(), &heading(7, Place::default()));
        let Err(NotDelegated::Refused { path, source }) = refused else { panic!("{refused:?}") };
        assert_eq!((path.as_path(), source.kind()), (own.path(), io::ErrorKind::NotFound));
        assert_eq!(subdirs(own.path()).len(), 0);
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_record_of_another_boot_or_place_or_of_something_else_names_nothing() {
        let here = Place { device: 1, inode: 2, nonce: 3 };
        let there = Place { inode: 4, ..here };
        let text = [heading(7, here).as_bytes(), b"\n/sys/fs/cgroup/a/muster-1-2"].concat();
        assert_eq!(recorded(&text, 7, here).as_deref(), Some(Path::new("/sys/fs/cgroup/a/muster-1-2")));
        assert_eq!(recorded(&text, 8, here), None);
        assert_eq!(recorded(&text, 7, there), None, "a copy must not end what the original runs");
        for path in ["/sys/fs/cgroup/a", "muster-1-2"] {
            let text = format!("{}\n{path}", heading(7, here));
            assert_eq!(recorded(text.as_bytes(), 7, here), None);
        }
        assert_eq!(recorded(b"", 7, here), None);
    }

    #[test]
    fn a_kernel_that_can_kill_a_cgroup_is_asked_to() {
        let dir = tempfile::tempdir().unwrap();
        let within = dir.path().join("within");
        fs::create_dir(&within).unwrap();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(within.join("cgroup.procs"), format!("{}\n", child.id())).unwrap();
        fs::write(dir.path().join("cgroup.kill"), "").unwrap();
        let group = Group { dir: dir.path().to_owned() };
        group.kill();
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.kill")).unwrap(), "1");
        assert!(child.try_wait().unwrap().is_none(), "by nothing else");
        // One that cannot has each killed while all are frozen.
        fs::remove_file(dir.path().join("cgroup.kill")).unwrap();
        fs::write(dir.path().join("cgroup.freeze"), "").unwrap();
        group.kill();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.freeze")).unwrap(), "0");
    }

    #[test]
    fn a_cgroup_that_holds_the_runner_is_never_killed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.procs"), format!("0\n{}\n", Pid::this())).unwrap();
        assert_eq!(pids(dir.path(), 1), [Pid::this()], "what we cannot see is not for us to signal");
        fs::write(dir.path().join("cgroup.kill"), "").unwrap();
        Group { dir: dir.path().to_owned() }.kill();
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.kill")).unwrap(), "");
    }

    #[test]
    fn what_does_not_die_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let group = Group { dir: dir.path().to_owned() };
        assert!(!group.end(Duration::from_millis(20)));
        assert!(dir.path().exists());
    }
}
