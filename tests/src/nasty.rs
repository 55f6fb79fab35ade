//! What the program `nasty` prints, and what tests look for afterwards: its processes, and how much memory and how
//! many files those took who had to do with it.

use std::{fs, path::Path};

use crate::sweep;

/// What `bad-text` prints: every byte that there is, cut sequences, overlong forms, surrogates, and what is past the
/// last character.
pub const BAD_TEXT: &[u8] = &{
    let tail = b"\n\xe7\xab \xf0\x9f\x98 \xc0\xaf \xe0\x80\xaf \xed\xa0\x80 \xf4\x90\x80\x80 \xfe \xff end";
    let mut bytes = [0; 256 + 31];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = if at < 256 { at as u8 } else { tail[at - 256] };
        at += 1;
    }
    bytes
};
/// What `dribble` prints again and again.
pub const DRIBBLE: &[u8] = b"one byte at a time\n";
/// The variable that marks every process of an attempt.
const MARK: &[u8] = b"MUSTER_ATTEMPT_KEY=";

/// A block of a flood; the first 8 bytes of each are its number, from 0 on.
pub static FLOOD_BLOCK: [u8; 64 * 1024] = {
    let mut block = [0; 64 * 1024];
    let mut at = 0;
    while at < block.len() {
        // A period that no power of two is a multiple of.
        block[at] = (at % 251) as u8;
        at += 1;
    }
    block
};

/// Whether these bytes are what a flood begins with.
pub fn is_flood(bytes: &[u8]) -> bool {
    bytes.chunks(FLOOD_BLOCK.len()).zip(0u64..).all(|(chunk, number)| {
        let (stamp, rest) = chunk.split_at(chunk.len().min(8));
        number.to_be_bytes().starts_with(stamp) && FLOOD_BLOCK[8..].starts_with(rest)
    })
}

/// Numbers of processes of tasks that still run: those that `nasty` wrote down in this probe folder, and whatever
/// has the mark and a path of the test in its environment.
pub fn processes_left(probe_dir: &Path, test_dir: &Path) -> Vec<i32> {
    let mut left: Vec<i32> = recorded(probe_dir).into_iter().filter(|pid| runs_nasty(*pid)).collect();
    left.extend(sweep::processes_of(test_dir).into_iter().filter(|pid| has_mark(*pid)));
    left
}

/// Every process that `nasty` wrote down.
pub fn recorded(probe_dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(probe_dir.join("pids")).unwrap_or_default();
    text.lines().map(|line| line.parse().expect("a process's number")).collect()
}

/// A number may be another process's by now: `nasty` is known by its name.
fn runs_nasty(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains("(nasty) ") && !stat.contains("(nasty) Z")
}

fn has_mark(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|bytes| sweep::contains(&bytes, MARK))
}

/// The runner of a work folder.
pub fn runner_of(work_dir: &Path) -> i32 {
    let is_runner = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == b"__runner")
    };
    sweep::processes_of(work_dir).into_iter().find(is_runner).expect("the runner runs")
}

/// The most memory that a process has had, in KiB.
pub fn peak_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// How many files a process has open.
pub fn open_files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_text_is_whole_and_bad() {
        assert!(BAD_TEXT.ends_with(b" end") && std::str::from_utf8(BAD_TEXT).is_err());
    }

    #[test]
    fn a_flood_is_known_to_its_last_byte() {
        let mut bytes = [FLOOD_BLOCK, FLOOD_BLOCK].concat();
        bytes[..8].copy_from_slice(&0u64.to_be_bytes());
        bytes[FLOOD_BLOCK.len()..][..8].copy_from_slice(&1u64.to_be_bytes());
        bytes.truncate(bytes.len() - 3);
        assert!(is_flood(&bytes));
        bytes[FLOOD_BLOCK.len() + 7] = 2;
        assert!(!is_flood(&bytes));
    }
}
