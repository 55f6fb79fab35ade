//! A cgroup for a test to start a worker in, as a system would delegate one to a service.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long to try to remove it: what was in it has been killed and goes away.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A new cgroup within our own, removed when dropped.
#[derive(Debug)]
pub struct Delegated(PathBuf);

impl Delegated {
    /// Makes one; none where the system does not let us, as a user's login often does not.
    pub fn make() -> Option<Self> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}", std::process::id());
        let dir = Path::new(mount.split(' ').nth(1)?).join(own).join(name);
        fs::create_dir(&dir).ok()?;
        Some(Self(dir))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let deadline = Instant::now() + REMOVED_WITHIN;
        while !remove(&self.0) && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
    }
}

/// Removes a cgroup and those that a killed runner left within it.
fn remove(dir: &Path) -> bool {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    fs::remove_dir(dir).is_ok()
}
