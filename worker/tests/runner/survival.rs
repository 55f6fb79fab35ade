//! What outlives what: halves, runners, and work directories.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::time::Duration;

use muster_worker::runner::protocol::{
    FromRunner, Held, MIN_CUT_OFF_MS, OLDEST, RUNNER_VARIABLE, Start, StopCause, ToRunner, VERSION, decode,
    encode,
};
use muster_worker::runner::{RunnerOptions, connect, ensure_running, journal_path};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::bed::{Bed, Half, eventually, gone, state};

#[test]
fn a_half_that_comes_back_learns_what_happened_meanwhile() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let ends = half.start(bed.sh("until [ -e go ]; do sleep 0.01; done; echo meanwhile; exit 6"));
    let goes_on = half.start(bed.sh("echo still; sleep 600"));
    half.output(goes_on, 6);
    let runner = half.runner;
    drop(half);
    fs::write(bed.cwd().join("go"), "").unwrap();
    let half = eventually("the end is listed", || {
        let half = bed.half();
        half.held.iter().any(|held| matches!(held, Held::Ended(_))).then_some(half)
    });
    assert_eq!(half.runner, runner, "the same runner");
    assert_eq!(half.held.len(), 2);
    for held in &half.held {
        match held {
            Held::Ended(ended) => {
                assert_eq!((ended.attempt, ended.exit_code, ended.size), (ends, Some(6), 10));
                assert_eq!(bed.text(ends), "meanwhile\n");
            }
            Held::Running { attempt, pid, start_ms, size } => {
                assert_eq!((*attempt, *size), (goes_on, 6));
                assert!(*pid > 0 && *start_ms > 0);
            }
        }
    }
}

#[test]
fn the_newer_half_replaces_the_older() {
    let mut bed = Bed::new();
    let mut older = bed.half();
    let key = older.start(bed.sh("sleep 600"));
    let mut newer = bed.half();
    older.closed();
    newer.stop(key, 0);
    assert_eq!(newer.ended(key).signal, Some(libc::SIGKILL));
}

#[test]
fn who_does_not_speak_the_protocol_is_cut_off_and_changes_nothing() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    for bad in [&b"{}\n"[..], b"\xff\n", b"{\"type\":\"shutdown\",\"grace_ms\":0}\n"] {
        let mut stream = connect(&bed.work()).unwrap();
        stream.write_all(bad).unwrap();
        assert_eq!(std::io::read_to_string(&stream).unwrap_or_default(), "");
    }
    let stream = connect(&bed.work()).unwrap();
    (&stream).write_all(&encode(&ToRunner::Hello { version: 999 }).unwrap()).unwrap();
    let answer = std::io::read_to_string(&stream).unwrap();
    let answer = decode(answer.as_bytes()).unwrap();
    assert!(matches!(answer, FromRunner::Hello { version: VERSION, speaks: VERSION, .. }));
    assert_eq!(half.run(bed.sh("exit 1")).exit_code, Some(1), "the active half is not disturbed");
}

/// walks: R6
#[test]
fn tasks_of_a_runner_that_died_are_killed_and_reported_lost() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let ended = half.start(bed.sh("echo kept; exit 2"));
    half.ended(ended);
    let lost = half.start(bed.sh(
        "setsid sh -c 'echo $$ > stray; exec sleep 600' & until [ -s stray ]; do sleep 0.01; done; echo $$; sleep 600",
    ));
    half.output(lost, 1);
    let leader: i32 = bed.text(lost).trim().parse().unwrap();
    let stray: i32 = fs::read_to_string(bed.cwd().join("stray")).unwrap().trim().parse().unwrap();
    bed.kill_runner();
    half.closed();
    // As if it had died in the middle of a record.
    let mut journal = OpenOptions::new().append(true).open(journal_path(&bed.work())).unwrap();
    journal.write_all(b"torn").unwrap();

    let mut half = bed.half();
    gone(leader);
    gone(stray);
    assert_eq!(half.held.len(), 2);
    for held in &half.held {
        let Held::Ended(end) = held else { panic!("{held:?}") };
        if end.attempt == lost {
            assert!(end.lost && end.exit_code.is_none() && end.signal.is_none());
            assert_eq!(end.size, bed.output(lost).len() as u64, "what it printed is still there");
        } else {
            assert_eq!((end.attempt, end.exit_code, end.lost, end.size), (ended, Some(2), false, 5));
            assert_eq!(bed.text(ended), "kept\n");
        }
    }
    for attempt in [ended, lost] {
        half.send(&ToRunner::Forget { attempt });
    }
    assert_eq!(half.run(bed.sh("exit 0")).exit_code, Some(0));
}

#[test]
fn a_long_work_directory_has_a_socket_too() {
    let mut bed = Bed::new();
    let work = bed.dir.path().join("d".repeat(150)).join("work");
    let mut half = Half::connect(&work, &bed.options);
    assert_eq!(half.run(bed.sh("exit 8")).exit_code, Some(8));
    half.send(&ToRunner::Shutdown { grace_ms: 0 });
    half.closed();
    gone(half.runner.as_raw());
}

#[test]
fn shutdown_ends_the_tasks_and_keeps_their_results() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let on_term = "until [ -e go ]; do sleep 0.01; done; exit 7";
    let key = half.start(bed.sh(&format!("trap '{on_term}' TERM; echo ready; while :; do sleep 0.05; done")));
    half.output(key, 1);
    half.send(&ToRunner::Shutdown { grace_ms: 600_000 });
    let late = bed.sh("echo late > late");
    half.send(&ToRunner::Start(late.clone()));
    half.refused(late.attempt);
    fs::write(bed.cwd().join("go"), "").unwrap();
    assert_eq!(half.ended(key).exit_code, Some(7));
    half.closed();
    gone(half.runner.as_raw());
    let mut half = bed.half();
    assert!(matches!(&half.held[..], [Held::Ended(end)] if end.attempt == key && end.exit_code == Some(7)));
    half.send(&ToRunner::Start(late.clone()));
    half.refused(late.attempt);
    assert!(!bed.cwd().join("late").exists());
}

/// walks: R7
#[test]
fn a_term_to_the_runner_ends_its_tasks_first() {
    assert_eq!(RunnerOptions::default().grace, Duration::from_secs(10));
    let mut bed = Bed::with(RunnerOptions { grace: Duration::from_millis(100), ..RunnerOptions::default() });
    let mut half = bed.half();
    let key = half.start(bed.sh("trap '' TERM; echo ready; while :; do sleep 0.05; done"));
    half.output(key, 1);
    kill(half.runner, Signal::SIGHUP).unwrap();
    kill(half.runner, Signal::SIGTERM).unwrap();
    let ended = half.ended(key);
    assert_eq!((ended.signal, ended.stop_sent), (Some(libc::SIGKILL), true));
    half.closed();
    gone(half.runner.as_raw());
}

/// walks: R14
#[test]
fn a_draining_runner_exits_when_the_last_result_is_acknowledged() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let key = half.start(bed.sh("until [ -e go ]; do sleep 0.01; done"));
    half.send(&ToRunner::ShutdownWhenIdle);
    let late = bed.sh("");
    half.send(&ToRunner::Start(late.clone()));
    half.refused(late.attempt);
    fs::write(bed.cwd().join("go"), "").unwrap();
    half.ended(key);
    half.send(&ToRunner::Ping);
    half.wait(|message| (*message == FromRunner::Pong).then_some(()));
    half.send(&ToRunner::Forget { attempt: key });
    half.closed();
    gone(half.runner.as_raw());
}

/// walks: R15
#[test]
fn a_stopping_runner_refuses_what_is_new_and_exits_when_nothing_runs() {
    for way in ["shutdown", "SIGTERM", "its parent is gone"] {
        let options = RunnerOptions {
            grace: Duration::from_secs(600),
            die_with_parent: way == "its parent is gone",
            ..RunnerOptions::default()
        };
        let mut bed = Bed::with(options);
        let mut half = bed.half();
        let on_term = "echo heard; until [ -e go ]; do sleep 0.01; done; exit 7";
        let key =
            half.start(bed.sh(&format!("trap '{on_term}' TERM; echo ready; while :; do sleep 0.05; done")));
        half.output(key, 6);
        match way {
            "shutdown" => half.send(&ToRunner::Shutdown { grace_ms: 600_000 }),
            "SIGTERM" => kill(half.runner, Signal::SIGTERM).unwrap(),
            _ => drop(half),
        }
        eventually("its task is being ended", || bed.text(key).ends_with("heard\n").then_some(()));
        let mut half = bed.half();
        let late = bed.sh("echo late > late");
        half.send(&ToRunner::Start(late.clone()));
        half.refused(late.attempt);
        fs::write(bed.cwd().join("go"), "").unwrap();
        let ended = half.ended(key);
        assert_eq!((ended.exit_code, ended.stop_sent), (Some(7), true), "{way}");
        half.closed();
        gone(half.runner.as_raw());
        assert!(!bed.cwd().join("late").exists(), "{way}");
    }
}

/// walks: R13
#[test]
fn an_open_runner_takes_tasks_and_stays_while_a_half_is_there() {
    assert_eq!(RunnerOptions::default().idle_exit, Duration::from_secs(60));
    let options = RunnerOptions { idle_exit: Duration::from_millis(10), ..RunnerOptions::default() };
    let (mut bed, mut alone) = (Bed::with(options.clone()), Bed::with(options));
    let mut half = bed.half();
    assert_eq!(half.run(bed.sh("exit 1")).exit_code, Some(1));
    // Another one shows how long it would take to go.
    let other = alone.half().runner;
    gone(other.as_raw());
    assert_eq!(half.run(bed.sh("exit 2")).exit_code, Some(2));
    let runner = half.runner;
    drop(half);
    gone(runner.as_raw());
}

/// walks: R13
#[test]
fn an_idle_runner_exits_by_itself_and_loses_no_result() {
    let mut bed =
        Bed::with(RunnerOptions { idle_exit: Duration::from_millis(10), ..RunnerOptions::default() });
    let mut half = bed.half();
    let waits = half.start(bed.sh("until [ -e go ]; do sleep 0.01; done; echo done; exit 5"));
    let unread = half.start(bed.sh("echo text; exit 4"));
    half.ended(unread);
    let runner = half.runner;
    drop(half);
    assert!(bed.half().held.len() == 2 && bed.half().runner == runner, "a task runs: it does not go");
    fs::write(bed.cwd().join("go"), "").unwrap();
    gone(runner.as_raw());

    let half = bed.half();
    assert_ne!(half.runner, runner);
    let ends: Vec<_> = half
        .held
        .iter()
        .map(|held| match held {
            Held::Ended(end) => (end.attempt, end.exit_code, end.size, end.lost),
            Held::Running { .. } => panic!("nothing runs"),
        })
        .collect();
    assert_eq!(ends, [(waits, Some(5), 5, false), (unread, Some(4), 5, false)]);
    assert_eq!((bed.text(waits), bed.text(unread)), ("done\n".into(), "text\n".into()));
}

#[test]
fn halves_that_are_refused_do_not_keep_an_idle_runner() {
    let mut bed =
        Bed::with(RunnerOptions { idle_exit: Duration::from_millis(500), ..RunnerOptions::default() });
    let runner = bed.half().runner;
    // Again and again, more often than its patience is long, as a supervisor would start them.
    eventually("it exits", || {
        let stream = connect(&bed.work()).ok();
        if let Some(stream) = &stream {
            let _ = (&*stream).write_all(&encode(&ToRunner::Hello { version: 999 }).unwrap());
            let _ = std::io::read_to_string(stream);
        }
        stream.is_none().then_some(())
    });
    gone(runner.as_raw());
}

#[test]
fn halves_of_this_version_and_of_the_one_before_are_served() {
    let mut bed = Bed::new();
    let key = bed.next_key();
    bed.half();
    let greet = |version: u32| {
        let stream = connect(&bed.work()).unwrap();
        (&stream).write_all(&encode(&ToRunner::Hello { version }).unwrap()).unwrap();
        let mut line = String::new();
        let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
        let Ok(FromRunner::Hello { version, speaks, .. }) = decode(line.as_bytes()) else { panic!("{line}") };
        assert_eq!(speaks, VERSION);
        (version, stream, reader)
    };
    let (version, older, mut answers) = greet(OLDEST);
    assert_eq!(version, OLDEST, "it is answered in its own version");
    (&older).write_all(&encode(&ToRunner::Refuse { attempt: key }).unwrap()).unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut answers, &mut line).unwrap();
    assert_eq!(decode::<FromRunner>(line.as_bytes()).unwrap(), FromRunner::Refused { attempt: key });
    for other in [0, VERSION + 1, u32::MAX] {
        let (version, stream, _) = greet(other);
        assert_eq!(version, VERSION);
        assert_eq!(std::io::read_to_string(&stream).unwrap(), "", "it is closed");
    }
}

#[test]
fn a_ping_is_answered() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    half.send(&ToRunner::Ping);
    assert_eq!(half.receive(), Some(FromRunner::Pong));
}

#[test]
fn a_copy_of_a_live_work_directory_does_not_touch_the_tasks_of_the_original() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let key = half.start(bed.sh("setsid sh -c 'echo $$; exec sleep 600' & echo $$; wait"));
    half.output(key, 4);
    let pids: Vec<i32> = eventually("both have said their number", || {
        let pids: Vec<_> = bed.text(key).lines().map(|line| line.parse().unwrap()).collect();
        (pids.len() == 2).then_some(pids)
    });

    let copy = bed.dir.path().join("copy");
    fs::create_dir_all(copy.join("spool")).unwrap();
    for file in ["journal", "runner.lock", "runner.log"] {
        fs::copy(bed.work().join(file), copy.join(file)).unwrap();
    }
    let mut of_copy = Half::connect(&copy, &bed.options);
    assert!(
        matches!(&of_copy.held[..], [Held::Ended(end)] if end.attempt == key && end.lost),
        "what becomes of it is not known here: {:?}",
        of_copy.held
    );
    // It has looked for what is left: it does so before it answers.
    for pid in &pids {
        assert!(matches!(state(*pid), Some('S' | 'R')), "process {pid} was killed");
    }
    of_copy.send(&ToRunner::Start(bed.sh_for(key, "echo again > again")));
    of_copy.refused(key);
    of_copy.send(&ToRunner::Shutdown { grace_ms: 0 });
    of_copy.closed();
    gone(of_copy.runner.as_raw());

    half.stop(key, 0);
    half.ended(key);
    assert!(!bed.cwd().join("again").exists(), "nothing that was seen is started by the copy either");
    for pid in pids {
        gone(pid);
    }
}

#[test]
fn what_a_dead_runner_left_is_ended_even_if_nothing_can_be_written() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let lost = half.start(bed.sh("echo $$; sleep 600"));
    half.output(lost, 1);
    let leader: i32 = bed.text(lost).trim().parse().unwrap();
    bed.kill_runner();
    half.closed();
    // Neither the journal nor anything else can be had any more.
    let journal = journal_path(&bed.work());
    let kept = fs::read(&journal).unwrap();
    fs::remove_file(&journal).unwrap();
    fs::create_dir(&journal).unwrap();
    let exe = std::path::Path::new(env!("CARGO_BIN_EXE_muster-worker"));
    let failed = ensure_running(&bed.work(), exe, &bed.options.to_args(&bed.work()));
    assert!(failed.is_err(), "{failed:?}");
    gone(leader);
    // And when it can be had again, it is said.
    fs::remove_dir(&journal).unwrap();
    fs::write(&journal, kept).unwrap();
    let half = bed.half();
    assert!(matches!(&half.held[..], [Held::Ended(end)] if end.attempt == lost && end.lost));
}

#[test]
fn every_process_of_a_task_names_its_runner() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let key = half.start(bed.sh(&format!("echo ${RUNNER_VARIABLE}")));
    assert_eq!(half.ended(key).exit_code, Some(0));
    assert!(bed.text(key).len() > 8, "{}", bed.text(key));
}

#[test]
fn a_time_limit_ends_a_task_and_says_so_also_to_the_next_half_and_runner() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let mut start = bed.sh("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    start.time_limit_ms = Some(1);
    start.grace_ms = 600_000;
    let key = half.start(start);
    // Whoever reports it: the half is not needed.
    drop(half);
    let half = eventually("it has ended", || {
        let half = bed.half();
        half.held.iter().any(|held| matches!(held, Held::Ended(_))).then_some(half)
    });
    let check = |held: &[Held]| {
        let [Held::Ended(end)] = held else { panic!("{held:?}") };
        assert_eq!((end.attempt, end.stop_sent, end.stop_cause), (key, true, Some(StopCause::TimeLimit)));
    };
    check(&half.held);
    bed.kill_runner();
    drop(half);
    check(&bed.half().held);
}

#[test]
fn the_first_cause_of_a_stop_is_told() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let (requested, own, stopped) =
        (half.start(bed.sh(script)), half.start(bed.sh("exit 1")), half.start(bed.sh(script)));
    half.output(requested, 1);
    half.output(stopped, 1);
    assert_eq!(half.ended(own).stop_cause, None);
    half.stop(requested, 600_000);
    half.send(&ToRunner::Shutdown { grace_ms: 0 });
    assert_eq!(half.ended(requested).stop_cause, Some(StopCause::Requested));
    assert_eq!(half.ended(stopped).stop_cause, Some(StopCause::WorkerStopped));
}

/// walks: R5
#[test]
fn a_runner_that_is_to_die_with_its_parent_ends_its_tasks() {
    assert_eq!(RunnerOptions::default().grace, Duration::from_secs(10));
    let grace = Duration::from_millis(100);
    let mut bed = Bed::with(RunnerOptions { die_with_parent: true, grace, ..RunnerOptions::default() });
    let mut half = bed.half();
    let key = half.start(bed.sh("trap '' TERM; echo $$; while :; do sleep 0.05; done"));
    half.output(key, 1);
    let leader = bed.text(key).trim().parse().unwrap();
    let runner = half.runner;
    drop(half);
    gone(leader);
    gone(runner.as_raw());
}

#[test]
fn two_that_start_a_runner_at_once_reach_the_same() {
    // One that was too late takes over when the first has ended, and is not to wait long for a half.
    let mut bed =
        Bed::with(RunnerOptions { idle_exit: Duration::from_millis(10), ..RunnerOptions::default() });
    let (work, options) = (bed.work(), bed.options.clone());
    let connectors: Vec<_> = (0..4)
        .map(|_| {
            let (work, options) = (work.clone(), options.clone());
            std::thread::spawn(move || {
                let exe = std::path::Path::new(env!("CARGO_BIN_EXE_muster-worker"));
                muster_worker::runner::ensure_running(&work, exe, &options.to_args(&work)).unwrap()
            })
        })
        .collect();
    let streams: Vec<_> = connectors.into_iter().map(|thread| thread.join().unwrap()).collect();
    let runners: Vec<_> = streams.into_iter().map(|stream| Half::greet(stream).runner).collect();
    assert!(runners.iter().all(|runner| *runner == runners[0]), "{runners:?}");
    bed.half();
}

#[test]
fn a_long_journal_is_rewritten_and_nothing_is_forgotten() {
    const RECORD: usize = 64;
    let mut bed = Bed::new();
    let mut half = bed.half();
    let seen = bed.sh("exit 0");
    half.send(&ToRunner::Refuse { attempt: seen.attempt });
    half.refused(seen.attempt);
    let held = half.start(bed.sh("echo x; exit 2"));
    half.ended(held);
    bed.kill_runner();
    // The last record, again and again, says nothing new.
    let path = journal_path(&bed.work());
    let bytes = fs::read(&path).unwrap();
    let last = &bytes[bytes.len() - RECORD..];
    OpenOptions::new().append(true).open(&path).unwrap().write_all(&last.repeat(300_000)).unwrap();

    let mut half = bed.half();
    eventually("the journal is short again", || (fs::metadata(&path).unwrap().len() < 100_000).then_some(()));
    let running = half.start(bed.sh("sleep 600"));
    bed.kill_runner();
    let mut half = bed.half();
    let ends: Vec<_> =
        half.held.iter().map(|held| (held.attempt(), matches!(held, Held::Ended(end) if end.lost))).collect();
    assert_eq!(ends, [(held, false), (running, true)]);
    half.send(&ToRunner::Start(seen.clone()));
    half.refused(seen.attempt);
}

/// walks: R14
#[test]
fn a_draining_runner_leaves_results_that_nobody_comes_for_to_the_next() {
    let mut bed =
        Bed::with(RunnerOptions { idle_exit: Duration::from_millis(10), ..RunnerOptions::default() });
    let mut half = bed.half();
    let key = half.start(bed.sh("exit 3"));
    half.ended(key);
    half.send(&ToRunner::ShutdownWhenIdle);
    let runner = half.runner;
    drop(half);
    gone(runner.as_raw());
    assert_eq!(bed.half().held.len(), 1);
}

#[test]
fn a_task_ends_when_no_half_is_in_session_for_too_long() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let start = Start { stop_after_cut_off_ms: Some(MIN_CUT_OFF_MS), ..bed.sh("sleep 600") };
    let (kept, unlimited) = (half.start(start), half.start(bed.sh("sleep 600")));
    // Another worker, whose half says nothing: that its task is ended shows how long the first one has run.
    let mut other_bed = Bed::new();
    let mut other = other_bed.half();
    let start = Start { stop_after_cut_off_ms: Some(MIN_CUT_OFF_MS), ..other_bed.sh("sleep 600") };
    let cut_off = other.start(start);
    let ended = std::thread::spawn(move || (other.ended(cut_off), other_bed));
    while !ended.is_finished() {
        half.send(&ToRunner::InSession);
        std::thread::sleep(Duration::from_millis(50));
    }
    let (end, _other_bed) = ended.join().unwrap();
    assert_eq!((end.signal, end.stop_cause), (Some(libc::SIGTERM), Some(StopCause::CutOff)));
    for key in [kept, unlimited] {
        half.stop(key, 0);
        assert_eq!(half.ended(key).stop_cause, Some(StopCause::Requested), "it ran until it was stopped");
    }
}

#[test]
fn a_disk_that_hangs_is_not_taken_for_a_cut_off() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let start = Start { stop_after_cut_off_ms: Some(MIN_CUT_OFF_MS), ..bed.sh("echo x; exec sleep 600") };
    // The runner hangs when it opens this for the first byte, until somebody reads.
    let spool = muster_worker::spool::path(&bed.work(), start.attempt);
    mkfifo(&spool, Mode::S_IRWXU).unwrap();
    let key = half.start(start);
    // Another worker's task shows how long that is.
    let mut other_bed = Bed::new();
    let mut other = other_bed.half();
    let start = Start { stop_after_cut_off_ms: Some(MIN_CUT_OFF_MS), ..other_bed.sh("exec sleep 600") };
    let cut_off = other.start(start);
    half.send(&ToRunner::InSession);
    assert_eq!(other.ended(cut_off).stop_cause, Some(StopCause::CutOff));
    half.send(&ToRunner::InSession);
    let _reader = fs::File::open(&spool).unwrap();
    half.output(key, 2);
    half.stop(key, 0);
    assert_eq!(half.ended(key).stop_cause, Some(StopCause::Requested), "the half had said that it is there");
}
