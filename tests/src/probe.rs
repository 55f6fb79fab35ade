//! What the probe (the misbehaving child program) and those who check on it agree on: its deterministic
//! output, and the stamps that it leaves. It starts nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

/// Names the folder for stamps, gates and other files that the probe and a test exchange.
pub const DIR_VARIABLE: &str = "MUSTER_PROBE_DIR";
/// Exit code of a probe that found that its attempt had run before.
pub const RAN_TWICE: i32 = 99;
/// What `utf8bad` prints: a lone continuation byte, a cut sequence, an overlong form, a lone surrogate.
pub const BAD_UTF8: &[u8] = b"ok \x80 cut \xe7\xab overlong \xc0\xaf surrogate \xed\xa0\x80 end\n";
/// What `devstd` prints, in this order.
pub const DEV_STD: &str = "before\nby /dev/stdout\nby /dev/stderr\nafter\n";
/// A probe that waits for a gate gives up after this long, so that none outlives its test for ever.
pub const GATE_PATIENCE: Duration = Duration::from_secs(180);

/// The system's monotonic clock, in nanoseconds: one clock for all processes of the machine.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the monotonic clock exists");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// `len` bytes of `flood`: lines of varying length with their offset, the same for every run.
pub fn flood(len: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(len + 128);
    let mut state: u32 = 0x9e37_79b9;
    while text.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend_from_slice(format!("{:010} ", text.len()).as_bytes());
        let letter = b'a' + (state >> 24) as u8 % 26;
        let width = (state >> 16) as usize % 100;
        text.resize(text.len() + width, letter);
        text.push(b'\n');
    }
    text.truncate(len);
    text
}

/// One piece of what `stream` writes: a line that says where it belongs.
pub fn stream_piece(number: u32) -> Vec<u8> {
    format!("{number:0>10} {:.>978} {number:0>10}\n", "").into_bytes()
}

/// What a `stream` has written that wrote so many pieces.
pub fn stream(pieces: u32) -> Vec<u8> {
    (0..pieces).flat_map(stream_piece).collect()
}

/// How many pieces the `stream` of a run wrote, once it has ended.
pub fn streamed(dir: &Path, run: &Run) -> Option<u32> {
    let path = dir.join(stamp_stem(&run.batch, run.task, run.attempt)).with_extension("pieces");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// One run of an attempt, as the probe itself recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The batch's id.
    pub batch: String,
    /// The task, counted from 1.
    pub task: i32,
    /// The attempt, counted from 1.
    pub attempt: i32,
    /// Process id.
    pub pid: i32,
    /// When the program began, by [`now_ns`].
    pub start_ns: u64,
    /// When it was about to end; `None` while it runs, and where it was killed.
    pub end_ns: Option<u64>,
    /// How many times more than once the attempt was started: 0 unless a promise was broken.
    pub again: u32,
}

/// The file name of an attempt's stamps, without extension.
pub fn stamp_stem(batch: &str, task: i32, attempt: i32) -> String {
    format!("{batch}-{task}-{attempt}")
}

/// The stamps in a probe folder, by batch, task and attempt.
pub fn runs(dir: &Path) -> Vec<Run> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the probe folder can be read").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|ext| ext == "start") {
            found.extend(read_run(&path));
        }
    }
    found.sort_by(|a, b| (&a.batch, a.task, a.attempt).cmp(&(&b.batch, b.task, b.attempt)));
    found
}

/// The stamps of one attempt, if it has started.
pub fn run_of(dir: &Path, batch: &str, task: i32, attempt: i32) -> Option<Run> {
    read_run(&dir.join(stamp_stem(batch, task, attempt)).with_extension("start"))
}

fn read_run(path: &Path) -> Option<Run> {
    let stem = path.file_stem()?.to_str()?.to_owned();
    let mut names = stem.rsplitn(3, '-');
    let attempt = names.next()?.parse().ok()?;
    let task = names.next()?.parse().ok()?;
    let batch = names.next()?.to_owned();
    let text = fs::read_to_string(path).ok()?;
    let mut words = text.split_whitespace();
    let start_ns = words.next()?.parse().ok()?;
    let pid = words.next()?.parse().ok()?;
    let end_ns =
        fs::read_to_string(path.with_extension("end")).ok().and_then(|text| text.trim().parse().ok());
    let again =
        fs::read_to_string(path.with_extension("again")).map_or(0, |text| text.lines().count() as u32);
    Some(Run { batch, task, attempt, pid, start_ns, end_ns, again })
}

/// Writes a file whole or not at all, so that a reader never sees half a stamp.
pub fn write_whole(path: &Path, text: &str) {
    let draft = PathBuf::from(format!("{}.{}.draft", path.display(), std::process::id()));
    fs::write(&draft, text).expect("the probe folder can be written");
    fs::rename(&draft, path).expect("the probe folder can be written");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_the_same_however_long_it_is() {
        let long = flood(10_000);
        assert_eq!(long.len(), 10_000);
        for len in [0, 1, 11, 4096, 9_999] {
            assert!(flood(len) == long[..len]);
        }
    }
}
