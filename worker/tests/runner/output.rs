//! What becomes of what tasks print.

use std::fs;
use std::time::Duration;

use muster_worker::runner::RunnerOptions;
use muster_worker::runner::protocol::{Env, Start, ToRunner};
use muster_worker::spool;
use nix::libc;

use crate::bed::{Bed, eventually};

#[test]
fn a_silent_task_has_no_spool_file() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let ended = half.run(bed.sh(":"));
    assert_eq!((ended.size, ended.discarded, ended.output_failed), (0, 0, None));
    assert_eq!(fs::read_dir(spool::dir(&bed.work())).unwrap().count(), 0);
}

#[test]
fn every_byte_is_kept_in_order_and_announced_before_the_end() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let script = "echo first; until [ -e go ]; do sleep 0.01; done; exec seq 1 7000000";
    let key = half.start(bed.sh(script));
    assert_eq!(half.output(key, 1), 6, "the first line is announced while the task goes on");
    assert_eq!(bed.text(key), "first\n");
    fs::write(bed.cwd().join("go"), "").unwrap();
    let ended = half.ended(key);
    let mut expected = b"first\n".to_vec();
    for number in 1..=7_000_000u32 {
        expected.extend(number.to_string().bytes());
        expected.push(b'\n');
    }
    assert_eq!(ended.size, expected.len() as u64);
    assert!(bed.output(key) == expected, "50 MB arrive whole");
    assert_eq!(ended.discarded, 0);
}

#[test]
fn what_is_past_the_limit_is_counted_exactly() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let mut start = bed.sh("exec head -c 50000000 /dev/zero");
    start.output_limit = 1_000_001;
    let ended = half.run(start);
    assert_eq!((ended.exit_code, ended.size, ended.discarded), (Some(0), 1_000_001, 48_999_999));
    assert_eq!(bed.output(ended.attempt).len(), 1_000_001);
}

#[test]
fn a_flood_neither_starves_others_nor_fills_memory() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let mut flood = bed.sh("exec yes");
    flood.output_limit = 100_000;
    let flood = half.start(flood);
    half.output(flood, 100_000);
    for _ in 0..20 {
        assert_eq!(half.run(bed.sh("echo hello")).size, 6);
    }
    let status = fs::read_to_string(format!("/proc/{}/status", half.runner)).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 32 * 1024, "{peak} kB");
    half.stop(flood, 0);
    let ended = half.ended(flood);
    assert_eq!(ended.size, 100_000);
    assert!(ended.discarded > 0);
}

#[test]
fn standard_output_and_error_keep_their_order_also_when_opened_by_name() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let script = "echo 1; echo 2 >&2; echo 3 >/dev/stdout; echo 4 >/dev/stderr; echo 5 >>/dev/stderr; echo 6";
    let key = half.start(bed.sh(script));
    assert_eq!(half.ended(key).exit_code, Some(0));
    assert_eq!(bed.text(key), "1\n2\n3\n4\n5\n6\n");
}

#[test]
fn a_spool_that_cannot_be_written_ends_the_task_and_says_so() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    fs::remove_dir(spool::dir(&bed.work())).unwrap();
    let ended = half.run(bed.sh("echo lost; exec sleep 600"));
    assert_eq!((ended.signal, ended.size, ended.discarded), (Some(libc::SIGTERM), 0, 5));
    assert!(ended.stop_sent && ended.output_failed.is_some_and(|why| why.contains("No such file")));
}

#[test]
fn a_time_limit_that_is_reached_while_a_task_ends_for_its_output_is_not_the_cause() {
    let mut bed = Bed::with(RunnerOptions { grace: Duration::from_secs(2), ..RunnerOptions::default() });
    let mut half = bed.half();
    fs::remove_dir(spool::dir(&bed.work())).unwrap();
    let script = "trap '' TERM; echo lost; while :; do sleep 0.05; done";
    let ended = half.run(Start { time_limit_ms: Some(500), ..bed.sh(script) });
    assert!(ended.stop_sent && ended.output_failed.is_some());
    assert_eq!((ended.signal, ended.stop_cause), (Some(libc::SIGKILL), None));
}

#[test]
fn forgetting_deletes_the_spool() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let key = half.start(bed.sh("echo x"));
    // While it may still run this is ignored.
    half.ended(key);
    assert!(spool::path(&bed.work(), key).exists());
    half.send(&ToRunner::Forget { attempt: key });
    eventually("the spool file is deleted", || (!spool::path(&bed.work(), key).exists()).then_some(()));
    assert!(bed.half().held.is_empty());
}

#[test]
fn a_secret_reaches_the_task_and_no_file() {
    const SECRET: &str = "canary-5cb1c2d0";
    let mut bed = Bed::new();
    let mut half = bed.half();
    let mut start = bed.sh("test \"$KEY\" = canary-5cb1c2d$ZERO && echo same; sleep 600");
    start.env = Env::new(vec![("KEY".into(), SECRET.into()), ("ZERO".into(), "0".into())]);
    let key = half.start(start);
    half.output(key, 5);
    assert_eq!(bed.text(key), "same\n");
    let mut failing = bed.sh("");
    failing.program = "/no/such".into();
    failing.env = Env::new(vec![("KEY".into(), SECRET.into())]);
    half.start_failed(failing);
    let mut bad = bed.sh("");
    bad.env = Env::new(vec![("KEY".into(), format!("{SECRET}\0"))]);
    half.start_failed(bad);
    half.stop(key, 0);
    half.ended(key);

    let mut files = vec![format!("/proc/{}/cmdline", half.runner).into()];
    for entry in fs::read_dir(bed.work()).unwrap().chain(fs::read_dir(spool::dir(&bed.work())).unwrap()) {
        files.push(entry.unwrap().path());
    }
    assert!(
        files.iter().any(|path| path.ends_with("journal"))
            && files.iter().any(|path| path.ends_with("runner.log"))
    );
    for path in files {
        let Ok(bytes) = fs::read(&path) else { continue };
        let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!found, "{} holds the secret", path.display());
    }
}
