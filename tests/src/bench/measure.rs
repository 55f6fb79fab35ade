//! What a process takes: time, CPU and the peak of its memory.
//!
//! A command is run by a small process of our own that runs nothing else, since the system counts what ended
//! children took for all of them together, and a child begins with its parent's peak of memory.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use serde::{Deserialize, Serialize};

/// What a command took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Taken {
    /// From its start to its end, seconds.
    pub wall_s: f64,
    /// User and system time, seconds.
    pub cpu_s: f64,
    /// Peak of its resident memory, MiB.
    pub peak_mib: f64,
    /// Its exit code.
    pub code: i32,
}

/// Runs a command measured, its standard output into a file, and fails unless its exit code is `code`.
pub async fn command<S: AsRef<OsStr>>(output: &Path, words: &[S], code: i32) -> Taken {
    let mut command = tokio::process::Command::new(std::env::current_exe().expect("own path"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    command.arg("measure").arg(output).arg("--").args(words).stdin(Stdio::null()).kill_on_drop(true);
    let ended = command.output().await.expect("our own program starts");
    let taken: Taken = serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| {
        panic!("{command:?}: {error}: {}", String::from_utf8_lossy(&ended.stderr));
    });
    assert_eq!(taken.code, code, "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
    taken
}

/// The process that runs it and prints what it took.
pub fn child(output: &Path, words: &[OsString]) {
    let file = File::create(output).expect("the output's file");
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(file);
    let begun = Instant::now();
    let status = command.status().expect("the program starts");
    let wall_s = begun.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the system counts");
    let taken = Taken {
        wall_s,
        cpu_s: seconds(usage.user_time()) + seconds(usage.system_time()),
        peak_mib: usage.max_rss() as f64 / 1_024.0,
        code: status.code().unwrap_or(-1),
    };
    println!("{}", serde_json::to_string(&taken).expect("numbers"));
}

fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

/// The CPU that a running process has taken so far, seconds.
pub fn cpu_of(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name may hold anything; behind its bracket fields are numbers. User and system time are the 14th and 15th.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 =
        [11, 12].map(|place: usize| fields[place].parse::<f64>().expect("a number")).iter().sum();
    ticks / ticks_per_second()
}

/// The peak of a running process's memory so far, MiB.
pub fn peak_of(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib / 1_024.0
}

fn ticks_per_second() -> f64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).expect("the system says");
    ticks.expect("the system says") as f64
}
