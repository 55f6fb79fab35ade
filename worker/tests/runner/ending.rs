//! How tasks are ended, and that nothing of them is left.

use std::fs;

use muster_worker::runner::protocol::{AttemptKey, ToRunner};
use nix::libc;
use nix::sys::signal::{Signal, kill};

use crate::bed::{Bed, Half, eventually, gone, state};

/// A number that a task has written into a file of its directory.
fn number(bed: &Bed, file: &str) -> i32 {
    let path = bed.cwd().join(file);
    eventually(file, || fs::read_to_string(&path).ok()?.strip_suffix('\n')?.parse().ok())
}

fn ready(half: &mut Half, key: AttemptKey) {
    half.output(key, 1);
}

#[test]
fn term_is_heard_and_the_answer_stands() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let key = half.start(bed.sh("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"));
    ready(&mut half, key);
    half.stop(key, 600_000);
    let ended = half.ended(key);
    assert_eq!((ended.exit_code, ended.signal, ended.stop_sent), (Some(7), None, true));
    assert!(bed.text(key).ends_with("bye\n"), "output after TERM is kept");
}

#[test]
fn who_ignores_term_is_killed_after_the_grace() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let key = half.start(bed.sh("trap '' TERM; echo ready; while :; do sleep 0.05; done"));
    ready(&mut half, key);
    half.stop(key, 100);
    let ended = half.ended(key);
    assert_eq!((ended.signal, ended.stop_sent), (Some(libc::SIGKILL), true));
}

#[test]
fn a_second_stop_shortens_the_grace_and_never_lengthens_it() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    for second in [0, 50] {
        let key = half.start(bed.sh("trap '' TERM; echo ready; while :; do sleep 0.05; done"));
        ready(&mut half, key);
        half.stop(key, 3_600_000);
        half.stop(key, second);
        half.stop(key, u64::MAX);
        assert_eq!(half.ended(key).signal, Some(libc::SIGKILL));
    }
}

#[test]
fn a_stopped_task_hears_term() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let key = half.start(bed.sh("echo $$ > leader; kill -STOP $$; sleep 600"));
    let leader = number(&bed, "leader");
    eventually("it is stopped", || (state(leader) == Some('T')).then_some(()));
    half.stop(key, 3_600_000);
    assert_eq!(half.ended(key).signal, Some(libc::SIGTERM));
}

#[test]
fn a_stop_that_comes_after_the_end_changes_nothing() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let key = half.start(bed.sh("echo $$ > leader; until [ -e go ]; do sleep 0.01; done; exit 0"));
    let leader = number(&bed, "leader");
    // The runner is held still so that the task ends, and the stop arrives, before it looks.
    kill(half.runner, Signal::SIGSTOP).unwrap();
    fs::write(bed.cwd().join("go"), "").unwrap();
    eventually("the task has ended", || (state(leader) == Some('Z')).then_some(()));
    half.stop(key, 0);
    kill(half.runner, Signal::SIGCONT).unwrap();
    let ended = half.ended(key);
    assert_eq!((ended.exit_code, ended.signal, ended.stop_sent), (Some(0), None, false));
}

#[test]
fn a_grandchild_that_keeps_the_output_open_delays_nothing_and_is_killed() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let key = half.start(bed.sh("sleep 600 & echo $!; exit 3"));
    let ended = half.ended(key);
    assert_eq!(ended.exit_code, Some(3));
    gone(bed.text(key).trim().parse().unwrap());
}

#[test]
fn a_grandchild_that_left_the_session_is_killed() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    // Another task runs all the while, and keeps what is its own.
    let other = half.start(bed.sh("setsid sh -c 'echo $$ > other; exec sleep 600' & wait"));
    let others = number(&bed, "other");
    let key = half.start(
        bed.sh("setsid sh -c 'echo $$ > stray; sleep 600; :' & until [ -s stray ]; do sleep 0.01; done"),
    );
    assert_eq!(half.ended(key).exit_code, Some(0));
    gone(number(&bed, "stray"));
    assert!(state(others).is_some_and(|state| state != 'Z'));
    half.stop(other, 0);
    half.ended(other);
    gone(others);
}

#[test]
fn a_daemon_is_reaped_and_does_not_disturb_its_running_task() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let script =
        "(setsid sh -c 'echo $$ > daemon; exit 9' &) ; until [ -s daemon ]; do sleep 0.01; done; read x < go";
    let mut start = bed.sh(&script.replace("read x < go", "until [ -e go ]; do sleep 0.01; done; exit 4"));
    start.output_limit = 0;
    let key = half.start(start);
    let daemon = number(&bed, "daemon");
    eventually("the daemon is reaped", || state(daemon).is_none().then_some(()));
    fs::write(bed.cwd().join("go"), "").unwrap();
    assert_eq!(half.ended(key).exit_code, Some(4));
}

#[test]
fn term_reaches_a_descendant_that_left_the_group() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let script = "setsid sh -c 'trap \"echo heard\" TERM; echo $$ > stray; while :; do sleep 0.05; done' & \
                  until [ -s stray ]; do sleep 0.01; done; trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let key = half.start(bed.sh(script));
    half.output(key, 6);
    half.stop(key, 3_600_000);
    // The shell may have a word to say about its own child, which heard it too.
    eventually("it is heard", || bed.text(key).contains("heard\n").then_some(()));
    half.stop(key, 0);
    assert_eq!(half.ended(key).signal, Some(libc::SIGKILL));
    gone(number(&bed, "stray"));
}

#[test]
fn who_cleared_its_environment_is_known_by_its_parents_and_children() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let other = half.start(bed.sh("exec sleep 600"));
    // An orphan with the mark, in a session of its own, whose child has neither.
    let child = "env -i /bin/sh -c \"echo \\$\\$ > stray; exec /bin/sleep 600\"";
    let script =
        format!("setsid sh -c 'setsid {child} & wait' & until [ -s stray ]; do sleep 0.01; done; exit 2");
    let key = half.start(bed.sh(&script));
    assert_eq!(half.ended(key).exit_code, Some(2));
    gone(number(&bed, "stray"));
    half.stop(other, 0);
    half.ended(other);
}

#[test]
fn who_cleared_its_environment_is_known_by_its_parents_while_they_live() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let other = half.start(bed.sh("exec sleep 600"));
    let stray = |file: &str, trap: &str| {
        format!("env -i setsid /bin/sh -c '{trap}echo $$ > {file}; while :; do /bin/sleep 0.05; done' & wait")
    };
    for (file, trap, grace_ms) in
        [("killed", "", 0), ("termed", "", 3_600_000), ("deaf", "trap : TERM; ", 3_600_000)]
    {
        let key = half.start(bed.sh(&stray(file, trap)));
        let stray = number(&bed, file);
        half.stop(key, grace_ms);
        assert!(half.ended(key).stop_sent);
        gone(stray);
    }
    half.stop(other, 0);
    half.ended(other);
}

#[test]
fn who_cleared_its_environment_is_known_by_its_parents_after_the_runner_died() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    half.start(bed.sh("env -i setsid /bin/sh -c 'echo $$ > stray; exec /bin/sleep 600' & wait"));
    let stray = number(&bed, "stray");
    bed.kill_runner();
    bed.half();
    gone(stray);
}

#[test]
fn a_runner_that_exits_leaves_nothing_of_what_it_adopted() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    // Orphans without a mark, each the parent of the next.
    let inner = "/bin/sh -c \"/bin/sleep 600 & echo \\$! > last; wait\"; :";
    let script = format!(
        "(env -i setsid /bin/sh -c '{inner}' &); until [ -s last ]; do sleep 0.01; done; echo x; exec sleep 600"
    );
    let key = half.start(bed.sh(&script));
    ready(&mut half, key);
    let last = number(&bed, "last");
    half.send(&ToRunner::Shutdown { grace_ms: 0 });
    assert_eq!(half.ended(key).signal, Some(libc::SIGKILL));
    half.closed();
    gone(last);
}
