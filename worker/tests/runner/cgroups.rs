//! Tasks in cgroups of their own. Needs a machine that lets the tests make one (version 2, delegated): where there
//! is none these tests say so and check nothing.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use muster_worker::runner::ensure_running;
use muster_worker::runner::protocol::{Held, ToRunner};
use nix::libc;

use crate::bed::{Bed, Half, PATIENCE, eventually, gone, state};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A cgroup to start a runner in, removed at the end.
struct Delegated(PathBuf);

impl Delegated {
    fn make() -> Option<Self> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/").map(str::to_owned));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
        let place = own.zip(mount.and_then(|line| line.split(' ').nth(1)));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let made = place.and_then(|(own, mount)| {
            let dir = Path::new(mount).join(own).join(format!("test-{}-{number}", std::process::id()));
            fs::create_dir(&dir).ok()?;
            Some(Self(dir))
        });
        if made.is_none() {
            eprintln!("SKIPPED: no cgroup of version 2 can be made here");
        }
        made
    }

    /// A half of a new runner that is started in it.
    fn half(&self, bed: &mut Bed) -> Half {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.0.display());
        let mut args: Vec<OsString> =
            vec!["-c".into(), script.into(), env!("CARGO_BIN_EXE_muster-worker").into()];
        args.extend(bed.options.to_args(&bed.work()));
        drop(ensure_running(&bed.work(), Path::new("/bin/sh"), &args).unwrap());
        bed.half()
    }

    /// The cgroups below, by their last names.
    fn below(&self) -> Vec<String> {
        fn walk(dir: &Path, names: &mut Vec<String>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    names.push(entry.file_name().into_string().unwrap());
                    walk(&entry.path(), names);
                }
            }
        }
        let mut names = Vec::new();
        walk(&self.0, &mut names);
        names
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        // A test that failed does not wait for its runner, which removes what it made when it exits.
        let deadline = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            sleep(Duration::from_millis(5));
        }
    }
}

/// Leaves a process that nothing but the cgroup tells from anybody else's: no mark, a session of its own, no parent.
/// Its number goes to the file `stray`.
const LEAVE_STRAY: &str = "env -i /bin/sh -c '(setsid /bin/sh -c \"echo \\$\\$ > stray; exec /bin/sleep 600\" &)'; \
                           until [ -s stray ]; do sleep 0.01; done;";

fn stray(bed: &Bed) -> i32 {
    eventually("stray", || fs::read_to_string(bed.cwd().join("stray")).ok()?.trim().parse().ok())
}

#[test]
fn a_task_has_its_own_cgroup_and_is_ended_with_all_that_is_in_it() {
    let Some(delegated) = Delegated::make() else { return };
    let mut bed = Bed::new();
    let mut half = delegated.half(&mut bed);
    // The mark of a process whose task is not known is no help while other tasks run.
    let other = half.start(bed.sh("echo here; cat /proc/self/cgroup; exec sleep 600"));
    half.output(other, 30);
    assert!(bed.text(other).contains(&format!("/task-{other}\n")), "{}", bed.text(other));
    let key = half.start(bed.sh(&format!("{LEAVE_STRAY} echo left; exit 3")));
    assert_eq!(half.ended(key).exit_code, Some(3));
    gone(stray(&bed));
    assert!(!delegated.below().contains(&format!("task-{key}")), "{:?}", delegated.below());
    half.stop(other, 0);
    assert_eq!(half.ended(other).signal, Some(libc::SIGKILL));
    let runner = half.runner;
    half.send(&ToRunner::Shutdown { grace_ms: 0 });
    half.closed();
    gone(runner.as_raw());
    assert_eq!(delegated.below(), Vec::<String>::new(), "nothing of it stays");
}

#[test]
fn term_reaches_who_left_the_group_and_kill_who_ignores_it() {
    let Some(delegated) = Delegated::make() else { return };
    let mut bed = Bed::new();
    let mut half = delegated.half(&mut bed);
    let script = "setsid sh -c 'trap \"echo heard\" TERM; echo $$ > stray; while :; do sleep 0.05; done' & \
                  until [ -s stray ]; do sleep 0.01; done; trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let key = half.start(bed.sh(script));
    half.output(key, 6);
    half.stop(key, 3_600_000);
    // The shell may have a word to say about its own child, which heard it too.
    eventually("it is heard", || bed.text(key).contains("heard\n").then_some(()));
    half.stop(key, 0);
    assert_eq!(half.ended(key).signal, Some(libc::SIGKILL));
    gone(stray(&bed));
}

#[test]
fn a_runner_ends_the_cgroups_of_the_one_that_died_before_it() {
    let Some(delegated) = Delegated::make() else { return };
    let mut bed = Bed::new();
    let mut half = delegated.half(&mut bed);
    let key = half.start(bed.sh(&format!("{LEAVE_STRAY} echo left; exec sleep 600")));
    half.output(key, 5);
    bed.kill_runner();
    half.closed();
    assert!(state(stray(&bed)).is_some_and(|state| state != 'Z'));
    // It is started elsewhere, and finds them all the same.
    let half = bed.half();
    assert!(matches!(&half.held[..], [Held::Ended(ended)] if ended.lost && ended.attempt == key));
    gone(stray(&bed));
    assert_eq!(delegated.below(), Vec::<String>::new());
}

#[test]
fn a_failed_start_leaves_no_cgroup() {
    let Some(delegated) = Delegated::make() else { return };
    let mut bed = Bed::new();
    let mut half = delegated.half(&mut bed);
    let mut start = bed.sh("");
    start.program = "/no/such".into();
    assert_eq!(half.start_failed(start), (libc::ENOENT, false));
    assert!(delegated.below().iter().all(|name| !name.starts_with("task-")), "{:?}", delegated.below());
}
