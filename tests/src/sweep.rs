//! Finds and ends the processes of one test, whoever started them: workers' runners and tasks' descendants
//! detach from us by design. It knows them by a path of the test in their environment or arguments.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Process ids (zombies apart) that have the path in their environment or arguments; never our own.
pub fn processes_of(path: &Path) -> Vec<i32> {
    let needle = path.as_os_str().as_encoded_bytes();
    let own = std::process::id() as i32;
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|&pid| pid != own)
        .filter(|pid| {
            ["environ", "cmdline"].iter().any(|file| {
                fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|bytes| contains(&bytes, needle))
            })
        })
        .collect()
}

/// Ends them all, and waits until none is left.
pub fn kill_processes_of(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = processes_of(path);
        if left.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in left {
            // It may be gone by now; the next look tells.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        sleep(Duration::from_millis(10));
    }
}

/// Whether `needle` occurs in `hay`.
pub(crate) fn contains(hay: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && hay.windows(needle.len()).any(|window| window == needle)
}
