//! The built program: environment, standard input, signals, closed pipes.

use std::{
    io::{Read, Write},
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use muster_proto::v1::{Batch, TaskStatus};

use crate::support::{DEADLINE, Fake, Step, batch, change, task};

/// The program with nothing of the tester's own settings.
fn program(fake: &Fake) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.env_clear().env("MUSTER_COORDINATOR", fake.url()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn submit(mut command: Command, payload: &str) -> Output {
    let mut child = command.args(["submit", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(payload.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Waits for the end without ever hanging the test.
fn code_of(child: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if begun.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("the program does not end");
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn settings_come_from_the_environment_but_approvals_and_a_tasks_own_variables_do_not() {
    let fake = Fake::start();
    fake.state.submits.lock().unwrap().push_back(Ok(batch(1, 0, 0)));
    let mut command = program(&fake);
    command.envs([
        ("MUSTER_MODEL", "o2-t2i"),
        ("MUSTER_SYNC", "1"),
        ("MUSTER_RUN_WITH_DEFAULTS", ""),
        ("MUSTER_TASK_COUNT_APPROVED", "1"),
        ("MUSTER_CONCURRENCY_APPROVED", "true"),
        ("MUSTER_BATCH_ID", "other"),
        ("MUSTER_TASK_INDEX", "7"),
        ("MUSTER_ATTEMPT", "7"),
        ("MUSTER_OUTPUT_DIR", "/nowhere"),
    ]);
    let output = submit(command, "[\"a cat\"]");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"b1\n");
    let seen = fake.state.seen_submits.lock().unwrap();
    assert_eq!(seen[0].batch_json, "[\"a cat\"]");
    assert!(!seen[0].concurrency_approved && !seen[0].task_count_approved);
    let defaults = seen[0].defaults.clone().unwrap();
    assert_eq!(
        (defaults.model.as_str(), defaults.sync, defaults.run_with_defaults),
        ("o2-t2i", Some(true), None)
    );
}

#[test]
fn the_key_reaches_the_request_and_nothing_that_is_printed() {
    let fake = Fake::start();
    fake.state.submits.lock().unwrap().push_back(Ok(batch(1, 0, 0)));
    let mut command = program(&fake);
    command.env("BIZYAIR_API_KEY", "sk-canary");
    let output = submit(command, "[\"a cat\"]");
    assert_eq!(fake.state.seen_submits.lock().unwrap()[0].api_key, "sk-canary");
    let printed = [output.stdout, output.stderr].concat();
    assert!(!String::from_utf8_lossy(&printed).contains("sk-canary"));
}

#[test]
fn a_key_that_cannot_be_sent_is_refused_and_never_left_out() {
    use std::os::unix::ffi::OsStringExt as _;
    let fake = Fake::start();
    let mut command = program(&fake);
    command.env("BIZYAIR_API_KEY", std::ffi::OsString::from_vec(b"sk-canary\xff".to_vec()));
    let output = submit(command, "[\"a cat\"]");
    assert_eq!(output.status.code(), Some(2));
    assert!(fake.state.seen_submits.lock().unwrap().is_empty());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("BIZYAIR_API_KEY") && !said.contains("sk-canary"), "{said}");
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn interrupting_a_watch_exits_with_130_and_says_how_to_go_on() {
    let fake = Fake::start();
    let running = vec![change("l", 1, batch(1, 0, 0), vec![task(1, TaskStatus::Running)]), Step::Hang];
    fake.state.watches.lock().unwrap().push_back(running);
    let mut child = program(&fake).args(["watch", "b1"]).spawn().unwrap();
    let mut first = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"task 1");
    interrupt(&child);
    assert_eq!(code_of(&mut child), Some(130));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("the batch goes on") && said.contains("watch b1"), "{said}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let fake = Fake::start();
    let tasks = (1..=2000).map(|index| task(index, TaskStatus::Completed)).collect();
    *fake.state.batch.lock().unwrap() = Batch { tasks, ..batch(2000, 2000, 0) };
    let mut child = program(&fake).args(["status", "b1", "--output", "jsonl"]).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(code_of(&mut child), Some(0));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn a_wrong_command_line_exits_with_2_and_help_with_0() {
    let fake = Fake::start();
    for (line, code) in [(&["nonsense"][..], 2), (&["cancel"], 2), (&["--help"], 0), (&["run", "--help"], 0)]
    {
        let output = program(&fake).args(line).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{line:?}");
    }
}
