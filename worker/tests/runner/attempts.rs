//! What the runner does with an attempt: the rows of the table in `docs/protocol.md`, one test each.

use std::fs;

use muster_worker::runner::protocol::{AttemptKey, FromRunner, Held, Start, ToRunner};
use muster_worker::spool;
use nix::libc;

use crate::bed::{Bed, Half, eventually, gone};

/// Waits until the runner has acted on all that was sent to it.
fn heard(half: &mut Half) {
    half.send(&ToRunner::Ping);
    half.wait(|message| (*message == FromRunner::Pong).then_some(()));
}

fn start_is_refused(half: &mut Half, start: &Start) {
    half.send(&ToRunner::Start(start.clone()));
    half.refused(start.attempt);
}

fn nothing_comes_of_stop_and_forget(half: &mut Half, attempt: AttemptKey) {
    half.stop(attempt, 0);
    half.send(&ToRunner::Forget { attempt });
    heard(half);
}

fn failing(bed: &mut Bed) -> Start {
    Start { program: "/no/such".into(), ..bed.sh("") }
}

/// walks: R9
#[test]
fn what_was_not_seen_is_started_or_closed_and_nothing_else_is_done_with_it() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let (runs, fails, refused) = (bed.sh("exec sleep 600"), failing(&mut bed), bed.sh("echo x > ran"));
    for start in [&runs, &fails, &refused] {
        nothing_comes_of_stop_and_forget(&mut half, start.attempt);
    }
    let mut half = bed.half();
    assert_eq!(half.held, [], "none of it is listed");

    half.start(runs.clone());
    assert_eq!(half.start_failed(fails.clone()), (libc::ENOENT, false));
    half.send(&ToRunner::Refuse { attempt: refused.attempt });
    half.refused(refused.attempt);
    let mut half = bed.half();
    assert!(
        matches!(&half.held[..], [Held::Running { attempt, .. }] if *attempt == runs.attempt),
        "running, and the others closed: {:?}",
        half.held
    );
    for start in [&runs, &fails, &refused] {
        start_is_refused(&mut half, start);
    }
    half.stop(runs.attempt, 0);
    half.ended(runs.attempt);
    assert!(!bed.cwd().join("ran").exists());
}

/// walks: R10
#[test]
fn what_runs_goes_on_until_it_ends_is_stopped_or_loses_its_runner() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let start = bed.sh("echo x >> ran; trap 'echo heard' TERM; echo ready; while :; do sleep 0.05; done");
    let key = half.start(start.clone());
    half.output(key, 6);
    start_is_refused(&mut half, &start);
    half.send(&ToRunner::Forget { attempt: key });
    half.send(&ToRunner::Refuse { attempt: key });
    let told = half.wait(|message| match message {
        FromRunner::Started { attempt, pid, .. } if *attempt == key => Some(*pid),
        _ => None,
    });
    let mut half = bed.half();
    assert!(
        matches!(&half.held[..], [Held::Running { attempt, pid, .. }] if (*attempt, *pid) == (key, told)),
        "it runs on: {:?}",
        half.held
    );
    half.stop(key, 1_000);
    let ended = half.ended(key);
    assert_eq!((ended.signal, ended.stop_sent), (Some(libc::SIGKILL), true));
    assert!(bed.text(key).contains("heard\n"), "TERM came first: {}", bed.text(key));
    assert_eq!(fs::read_to_string(bed.cwd().join("ran")).unwrap(), "x\n", "it was started once");

    let by_itself = half.start(bed.sh("until [ -e go ]; do sleep 0.01; done; exit 6"));
    fs::write(bed.cwd().join("go"), "").unwrap();
    let ended = half.ended(by_itself);
    assert_eq!((ended.exit_code, ended.stop_sent, ended.lost), (Some(6), false, false));

    let lost = half.start(bed.sh("echo $$; exec sleep 600"));
    half.output(lost, 2);
    let leader = bed.text(lost).trim().parse().unwrap();
    bed.kill_runner();
    let half = bed.half();
    gone(leader);
    let is_lost = |held: &&Held| matches!(held, Held::Ended(end) if end.attempt == lost && end.lost);
    assert_eq!(half.held.iter().filter(is_lost).count(), 1, "{:?}", half.held);
}

/// walks: R11
#[test]
fn what_has_ended_is_kept_until_it_is_forgotten() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let start = bed.sh("echo x >> ran; echo text; exit 5");
    let key = start.attempt;
    let ended = half.run(start.clone());
    assert_eq!((ended.exit_code, ended.size, ended.lost), (Some(5), 5, false));
    for restarted in [false, true] {
        if restarted {
            bed.kill_runner();
            half = bed.half();
        }
        start_is_refused(&mut half, &start);
        half.stop(key, 0);
        half.send(&ToRunner::Refuse { attempt: key });
        assert_eq!(half.ended(key), ended);
        half = bed.half();
        assert_eq!(half.held, [Held::Ended(ended.clone())]);
        assert_eq!(bed.text(key), "text\n");
    }
    half.send(&ToRunner::Forget { attempt: key });
    eventually("its output is deleted", || (!spool::path(&bed.work(), key).exists()).then_some(()));
    start_is_refused(&mut half, &start);
    assert_eq!(bed.half().held, [], "closed");
    assert_eq!(fs::read_to_string(bed.cwd().join("ran")).unwrap(), "x\n", "it was started once");
}

/// walks: R12
#[test]
fn what_is_closed_stays_closed_whatever_comes() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let (forgotten, fails, refused) = (bed.sh("echo x >> ran"), failing(&mut bed), bed.sh("echo x >> ran"));
    half.run(forgotten.clone());
    half.send(&ToRunner::Forget { attempt: forgotten.attempt });
    half.start_failed(fails.clone());
    half.send(&ToRunner::Refuse { attempt: refused.attempt });
    half.refused(refused.attempt);
    for restarted in [false, true] {
        if restarted {
            bed.kill_runner();
            half = bed.half();
        }
        for start in [&forgotten, &fails, &refused] {
            start_is_refused(&mut half, start);
            nothing_comes_of_stop_and_forget(&mut half, start.attempt);
            half.send(&ToRunner::Refuse { attempt: start.attempt });
            half.refused(start.attempt);
        }
        half = bed.half();
        assert_eq!(half.held, []);
    }
    assert_eq!(fs::read_to_string(bed.cwd().join("ran")).unwrap(), "x\n", "one was started, once");
}
