//! A runner whose journal has no room left.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use muster_worker::runner::protocol::{Held, ToRunner};
use muster_worker::runner::{ensure_running, journal_path};

use crate::bed::{Bed, gone};

const RECORD: u64 = 64;
/// What a shell's `ulimit -f` counts in.
const BLOCK: u64 = 512;

/// walks: R15
#[test]
fn a_stopping_runner_whose_last_end_cannot_be_journalled_exits_30_s_after_the_grace() {
    let mut bed = Bed::new();
    let path = journal_path(&bed.work());
    let size = || fs::metadata(&path).unwrap().len();
    // How much is written for a start, and by a runner that begins.
    let mut half = bed.half();
    let before = size();
    half.start(bed.sh("exec sleep 600"));
    let of_a_start = size() - before;
    bed.kill_runner();
    bed.half();
    let before = size();
    bed.kill_runner();
    bed.half();
    let of_a_runner = size() - before;
    bed.kill_runner();
    // The last record, again and again, says nothing new: there is room for both, and for nothing after them.
    let bytes = fs::read(&path).unwrap();
    let last = &bytes[bytes.len() - usize::try_from(RECORD).unwrap()..];
    let mut journal = OpenOptions::new().append(true).open(&path).unwrap();
    while (size() + of_a_runner + of_a_start) % BLOCK != 0 {
        journal.write_all(last).unwrap();
    }
    let blocks = (size() + of_a_runner + of_a_start) / BLOCK;
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let mut args: Vec<OsString> =
        vec!["-c".into(), script.into(), env!("CARGO_BIN_EXE_muster-worker").into()];
    args.extend(bed.options.to_args(&bed.work()));
    drop(ensure_running(&bed.work(), Path::new("/bin/sh"), &args).unwrap());

    let mut half = bed.half();
    let key = half.start(bed.sh("echo $$ > leader; exec sleep 600"));
    assert_eq!(size(), blocks * BLOCK, "it is full");
    let told = Instant::now();
    half.send(&ToRunner::Shutdown { grace_ms: 0 });
    half.closed();
    gone(half.runner.as_raw());
    assert!(told.elapsed() >= Duration::from_secs(30), "it tries for that long");
    if let Ok(leader) = fs::read_to_string(bed.cwd().join("leader")) {
        gone(leader.trim().parse().unwrap());
    }
    // The end is in nobody's journal: the next one says so.
    let half = bed.half();
    let is_lost = |held: &&Held| matches!(held, Held::Ended(end) if end.attempt == key && end.lost);
    assert_eq!(half.held.iter().filter(is_lost).count(), 1, "{:?}", half.held);
}
