//! How tasks are started, and what cannot be.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use muster_worker::runner::ensure_running;
use muster_worker::runner::protocol::{Env, FromRunner, Raw, ToRunner};
use nix::libc;

use crate::bed::Bed;

#[test]
fn a_low_limit_of_open_files_does_not_bound_the_tasks() {
    let mut bed = Bed::new();
    let exe = env!("CARGO_BIN_EXE_muster-worker");
    let script = "ulimit -Sn 32; exec \"$0\" \"$@\"";
    let mut args: Vec<OsString> = vec!["-c".into(), script.into(), exe.into()];
    args.extend(bed.options.to_args(&bed.work()));
    drop(ensure_running(&bed.work(), Path::new("/bin/sh"), &args).unwrap());
    let mut half = bed.half();
    let keys: Vec<_> = (0..40)
        .map(|_| half.start(bed.sh("echo started; until [ -e go ]; do sleep 0.05; done; echo done")))
        .collect();
    for key in &keys {
        half.output(*key, 8);
    }
    fs::write(bed.cwd().join("go"), "").unwrap();
    for key in keys {
        let ended = half.ended(key);
        assert_eq!((ended.exit_code, ended.output_failed, ended.size), (Some(0), None, 13));
    }
}

#[test]
fn a_worker_whose_slots_cannot_have_their_files_says_so_and_takes_no_task() {
    let bed = Bed::new();
    let script = "ulimit -n 100; exec \"$0\" --coordinator=http://127.0.0.1:1 --dispatch=true --slots=64 --work-dir \"$1\"";
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_muster-worker")])
        .arg(bed.work())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("--slots 64 needs 192 open files") && said.contains("--slots 18 or less"),
        "{said}"
    );
    assert!(!bed.work().exists());
}

#[test]
fn the_exit_code_is_reported() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    assert!(half.held.is_empty());
    let ended = half.run(bed.sh("exit 42"));
    assert_eq!((ended.exit_code, ended.signal, ended.stop_sent, ended.lost), (Some(42), None, false, false));
    assert!(ended.end_ms > 0);
}

#[test]
fn death_by_a_signal_is_reported_real_time_ones_included() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    for signal in [libc::SIGSEGV, libc::SIGTERM, 40] {
        let ended = half.run(bed.sh(&format!("kill -{signal} $$; sleep 60")));
        assert_eq!((ended.exit_code, ended.signal), (None, Some(signal)));
        assert!(!ended.stop_sent, "nobody but itself sent it");
    }
}

#[test]
fn a_task_hears_signals_whatever_the_runner_blocks() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let key = half.start(bed.sh("exec grep -E '^Sig(Blk|Ign)' /proc/self/status"));
    half.ended(key);
    let text = bed.text(key);
    let masks: Vec<u64> = text
        .lines()
        .map(|line| u64::from_str_radix(line.split_ascii_whitespace().nth(1).unwrap(), 16).unwrap())
        .collect();
    // 32 and 33 are the C library's own; it has every program that it spawns ignore them.
    assert_eq!([masks[0], masks[1] & !(0b11 << 31)], [0, 0], "{text}");
}

#[test]
fn it_runs_in_its_directory_and_group_with_its_variables_and_no_input() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let mut start =
        bed.sh("cat; pwd; echo $GREETING $HOME $MUSTER_ATTEMPT_KEY; ps -o pgid= -p $$ | tr -d ' '; echo $$");
    let variables = [("GREETING", "x"), ("HOME", "/h"), ("GREETING", "hello")];
    start.env = Env::new(variables.map(|(name, value)| (name.into(), value.into())).to_vec());
    let key = half.start(start);
    assert_eq!(half.ended(key).exit_code, Some(0));
    let text = bed.text(key);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], bed.cwd().to_str().unwrap());
    assert_eq!(lines[1], format!("hello /h {key}"));
    assert_eq!(lines[2], lines[3], "its own group");
}

#[test]
fn a_bare_name_is_found_in_the_tasks_path() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let program = bed.dir.path().join("bin/tool");
    fs::create_dir(program.parent().unwrap()).unwrap();
    fs::write(&program, "#!/bin/sh\nexit 5\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut start = bed.sh("");
    start.program = "tool".into();
    start.env = Env::new(vec![("PATH".into(), program.parent().unwrap().to_str().unwrap().into())]);
    assert_eq!(half.run(start).exit_code, Some(5));
}

#[test]
fn a_program_that_cannot_be_started_is_the_machines_fault() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let file = bed.dir.path().join("file");
    fs::write(&file, "not a program").unwrap();
    let mut start_of = |program: &str| {
        let mut start = bed.sh("");
        start.program = program.into();
        start
    };
    assert_eq!(half.start_failed(start_of("/no/such/program")), (libc::ENOENT, false));
    assert_eq!(half.start_failed(start_of("no-such-program")), (libc::ENOENT, false));
    assert_eq!(half.start_failed(start_of(file.to_str().unwrap())), (libc::EACCES, false));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(half.start_failed(start_of(file.to_str().unwrap())), (libc::ENOEXEC, false));
}

#[test]
fn arguments_that_no_machine_could_take_are_the_tasks_fault() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let mut start = bed.sh("");
    start.args.push("x".repeat(256 * 1024).into());
    assert_eq!(half.start_failed(start), (libc::E2BIG, true));
    let mut start = bed.sh("");
    start.args.push(Raw(b"a\0b".to_vec()));
    assert_eq!(half.start_failed(start), (libc::EINVAL, true));
    let mut start = bed.sh("");
    start.program = format!("/{}", "x".repeat(5000)).into();
    assert_eq!(half.start_failed(start), (libc::ENAMETOOLONG, true));
    let mut start = bed.sh("");
    start.env = Env::new(vec![("A=B".into(), "c".into())]);
    assert_eq!(half.start_failed(start), (libc::EINVAL, true));
}

#[test]
fn bytes_that_are_no_text_arrive_as_they_are() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let mut start = bed.sh("printf %s \"$0\"");
    start.args.push(Raw(vec![0xff, 0xfe, b'\n', b'"']));
    let key = half.start(start);
    half.ended(key);
    assert_eq!(bed.output(key), [0xff, 0xfe, b'\n', b'"']);
}

#[test]
fn an_attempt_is_started_once_whatever_comes_again() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let start = bed.sh("echo x >> ran");
    let key = half.start(start.clone());
    half.send(&ToRunner::Start(start.clone()));
    half.refused(key);
    half.ended(key);
    half.send(&ToRunner::Forget { attempt: key });
    half.send(&ToRunner::Start(start.clone()));
    half.refused(key);

    let failing = bed.sh("");
    let failing_key = failing.attempt;
    half.start_failed(muster_worker::runner::protocol::Start {
        program: "/no/such".into(),
        ..failing.clone()
    });
    half.send(&ToRunner::Start(failing));
    half.refused(failing_key);

    let returned = bed.sh("echo x >> ran");
    half.send(&ToRunner::Refuse { attempt: returned.attempt });
    half.refused(returned.attempt);

    // Nor by a runner after this one.
    bed.kill_runner();
    let mut half = bed.half();
    assert!(half.held.is_empty(), "{:?}", half.held);
    for start in [start, returned] {
        half.send(&ToRunner::Start(start.clone()));
        half.refused(start.attempt);
    }
    assert_eq!(fs::read_to_string(bed.cwd().join("ran")).unwrap(), "x\n");
}

#[test]
fn a_refusal_of_what_is_held_says_what_it_is() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    let key = half.start(bed.sh("sleep 60"));
    half.send(&ToRunner::Refuse { attempt: key });
    half.wait(|message| {
        matches!(message, FromRunner::Started { attempt, .. } if *attempt == key).then_some(())
    });
    half.stop(key, 0);
    half.ended(key);
    half.send(&ToRunner::Refuse { attempt: key });
    assert_eq!(half.ended(key).signal, Some(libc::SIGKILL));
}

#[test]
fn a_task_has_no_file_open_but_its_input_and_output() {
    let mut bed = Bed::new();
    let mut half = bed.half();
    // The shell's own listing opens one more.
    let key = half.start(bed.sh("for fd in /proc/self/fd/*; do echo ${fd##*/}; done"));
    half.ended(key);
    let text = bed.text(key);
    let open: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(open.starts_with(&[0, 1, 2]) && open.len() <= 4, "{open:?}");
}
