//! The live view of `watch` and `run` on a terminal.

use std::{fs, io::Read as _, path::Path, process::Command, sync::Mutex};

use muster_proto::v1::{Batch, SchedulerStatus, Task, TaskCounts, TaskStatus};
use nix::sys::signal::Signal;

use crate::{
    support::{Fake, State, Step, batch, change, failed, gate, piece, task},
    terminal::Terminal,
};

/// The program as a user starts it, with nothing of the tester's own settings.
pub(crate) fn muster(url: &str, line: &[&str]) -> Command {
    with_settings(Command::new(env!("CARGO_BIN_EXE_muster")), url, line)
}

/// The same on a terminal that is its own, so that keys such as Ctrl-C reach it.
fn muster_at_keyboard(url: &str, line: &[&str]) -> Command {
    let mut command = Command::new("setsid");
    command.args(["--ctty", env!("CARGO_BIN_EXE_muster")]);
    with_settings(command, url, line)
}

fn with_settings(mut command: Command, url: &str, line: &[&str]) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.args(line).env_clear().env("PATH", path).env("TERM", "xterm").env("MUSTER_COORDINATOR", url);
    command
}

fn running_batch(counts: TaskCounts) -> Batch {
    let count = counts.queued + counts.running + counts.completed + counts.failed + counts.cancelled;
    let status = if counts.queued + counts.running == 0 {
        SchedulerStatus::Completed
    } else {
        SchedulerStatus::Running
    };
    Batch { scheduler_status: status.into(), counts: Some(counts), ..batch(count, 0, 0) }
}

fn labelled(task: Task, label: &str) -> Task {
    Task { label: label.to_owned(), ..task }
}

const TWO_RUN: TaskCounts = TaskCounts { queued: 1, running: 2, completed: 0, failed: 0, cancelled: 0 };

/// A watch of three tasks, two of which run, that then stays as it is.
fn two_run() -> Vec<Step<muster_proto::v1::WatchBatchResponse>> {
    let tasks = vec![
        labelled(task(1, TaskStatus::Running), "一只猫在月亮上喝茶"),
        labelled(task(2, TaskStatus::Running), "a very long label that says everything there is to say"),
        task(3, TaskStatus::Queued),
    ];
    vec![change("l", 1, running_batch(TWO_RUN), tasks), Step::Hang]
}

#[test]
fn a_batch_is_seen_at_a_glance_and_leaves_outcomes_and_a_summary() {
    let fake = Fake::start();
    let (open, wait) = gate();
    let first = vec![labelled(task(1, TaskStatus::Running), "一只猫在月亮上"), task(2, TaskStatus::Queued)];
    let counts = TaskCounts { queued: 1, running: 1, ..TaskCounts::default() };
    let ended = TaskCounts { completed: 1, failed: 1, ..TaskCounts::default() };
    let done = vec![labelled(task(1, TaskStatus::Completed), "一只猫在月亮上"), failed(2, 3)];
    fake.state.watches.lock().unwrap().push_back(vec![
        change("l", 1, running_batch(counts), first),
        wait,
        change("l", 2, running_batch(ended), done),
    ]);
    fake.state
        .tails
        .lock()
        .unwrap()
        .push_back(vec![piece(0, b"load\nstep 3 of 20\x1b[2J\r", false), Step::Hang]);
    let terminal = Terminal::new(24, 80);
    let mut watch = terminal.spawn(&mut muster(&fake.url(), &["watch", "b1"]));
    let text = terminal.wait_for_text("step 3 of 20");
    let line = text.lines().find(|line| line.contains("step 3 of 20")).unwrap();
    assert!(line.starts_with("1 一只猫在月亮上  worker-a "), "{text}");
    let bar = text.lines().find(|line| line.starts_with('[')).unwrap();
    assert!(bar.contains("0/2  0%") && !bar.contains("left"), "nothing is guessed: {text}");
    assert!(text.contains("1 running  1 queued"), "{text}");
    drop(open);
    assert_eq!(watch.code(), Some(1));
    // The last line.
    let text = terminal.wait_for_text("logs b1 2");
    assert!(text.contains("1 of 2 tasks completed, 1 failed"), "{text}");
    assert!(text.contains("task 1 completed  (一只猫在月亮上)"), "{text}");
    assert!(text.contains("task 2 failed: exit code 3  (Task 2)"), "{text}");
    assert!(!text.contains('['), "nothing of the view is left: {text}");
    assert!(terminal.cursor_is_shown());
    assert_eq!(terminal.cursor().1, 0);
}

#[test]
fn the_view_follows_a_terminal_that_becomes_narrower() {
    let fake = Fake::start();
    fake.state.watches.lock().unwrap().push_back(two_run());
    let terminal = Terminal::new(24, 80);
    let mut watch = terminal.spawn(&mut muster(&fake.url(), &["watch", "b1"]));
    terminal.wait_for_text("a very long label that");
    terminal.set_columns(40);
    let text = terminal.wait_for("40 columns", |text| {
        text.contains("一只猫在月亮上喝茶")
            && text.contains("a very long label...")
            && text.contains("0/3  0%")
    });
    assert_eq!(text.lines().filter(|line| line.starts_with('[')).count(), 1, "painted once: {text}");
    assert!(text.contains("2 running  1 queued"), "{text}");
    terminal.set_columns(20);
    let text = terminal.wait_for("20 columns", |text| !text.contains('[') && text.contains("2 running"));
    assert_eq!(text.lines().filter(|line| line.contains("0/3")).count(), 1, "painted once: {text}");
    watch.signal(Signal::SIGTERM);
    assert_eq!(watch.code(), Some(130));
    let text = terminal.wait_for_text("the batch goes on");
    assert!(!text.contains("2 running"), "nothing of the view is left: {text}");
}

#[test]
fn a_thousand_running_tasks_fill_the_screen_and_no_more() {
    let fake = Fake::start();
    let tasks = (1..=1_000).map(|index| task(index, TaskStatus::Running)).collect();
    let counts = TaskCounts { running: 1_000, ..TaskCounts::default() };
    fake.state
        .watches
        .lock()
        .unwrap()
        .push_back(vec![change("l", 1, running_batch(counts), tasks), Step::Hang]);
    let terminal = Terminal::new(24, 80);
    let watch = terminal.spawn(&mut muster(&fake.url(), &["watch", "b1"]));
    let text = terminal.wait_for_text("more running");
    assert!(text.contains("and 983 more running"), "{text}");
    assert!(text.lines().any(|line| line.starts_with('[')), "the bar is still there: {text}");
    // Each of those shown is read, and of those no more than 16.
    let tails = || fake.state.seen_tails.lock().unwrap().len();
    terminal.wait_for("16 outputs", |_| tails() >= 16);
    assert_eq!(tails(), 16);
    drop(watch);
}

#[test]
fn ctrl_c_leaves_a_watch_and_says_that_the_batch_goes_on() {
    let fake = Fake::start();
    fake.state.watches.lock().unwrap().push_back(two_run());
    let mut terminal = Terminal::new(24, 80);
    let mut watch = terminal.spawn(&mut muster_at_keyboard(&fake.url(), &["watch", "b1"]));
    terminal.wait_for_text("2 running");
    terminal.press("\u{3}");
    assert_eq!(watch.code(), Some(130));
    let text = terminal.wait_for_text("the batch goes on");
    assert!(text.contains("watch b1") && !text.contains("2 running"), "{text}");
    assert!(terminal.cursor_is_shown());
    assert!(fake.state.seen_cancels.lock().unwrap().is_empty());
}

#[test]
fn a_stop_clears_the_view_and_going_on_brings_it_back() {
    let fake = Fake::start();
    fake.state.watches.lock().unwrap().push_back(two_run());
    let terminal = Terminal::new(24, 80);
    let mut watch = terminal.spawn(&mut muster(&fake.url(), &["watch", "b1"]));
    terminal.wait_for_text("2 running");
    watch.signal(Signal::SIGTSTP);
    watch.wait_until_stopped();
    let text = terminal.wait_for("no view", |text| !text.contains("2 running"));
    assert!(text.contains("batch b1") && terminal.cursor().1 == 0, "{text}");
    watch.signal(Signal::SIGCONT);
    terminal.wait_for_text("2 running");
    // Stopped without being asked: something else wrote where the view was.
    watch.signal(Signal::SIGSTOP);
    watch.wait_until_stopped();
    let mut shell = Command::new("sh");
    assert!(
        shell.args(["-c", "echo; echo from the shell"]).stdout(terminal.stdio()).status().unwrap().success()
    );
    terminal.wait_for_text("from the shell");
    watch.signal(Signal::SIGCONT);
    let text = terminal.wait_for("the view below", |text| {
        let (shell, bar) = (text.rfind("from the shell"), text.rfind("2 running"));
        bar > shell
    });
    assert!(text.contains("from the shell"), "{text}");
    watch.signal(Signal::SIGINT);
    assert_eq!(watch.code(), Some(130));
}

#[test]
fn a_terminal_that_does_not_know_its_size_is_taken_for_one_of_80_columns() {
    let fake = Fake::start();
    fake.state.watches.lock().unwrap().push_back(two_run());
    let terminal = Terminal::new(24, 80);
    terminal.forget_size();
    let watch = terminal.spawn(&mut muster(&fake.url(), &["watch", "b1"]));
    let text = terminal.wait_for_text("2 running");
    assert!(text.contains("batch b1: 3 tasks"), "{text}");
    drop(watch);
}

/// A shell with job control that runs a script in which `$0` is the program.
fn shell(url: &str, script: &str) -> Command {
    let mut command = Command::new("setsid");
    command.args(["--ctty", "sh", "-mc", script, env!("CARGO_BIN_EXE_muster")]);
    with_settings(command, url, &[])
}

#[test]
fn ctrl_z_gives_the_terminal_to_the_shell_and_fg_takes_it_back() {
    let fake = Fake::start();
    fake.state.watches.lock().unwrap().push_back(two_run());
    let mut terminal = Terminal::new(24, 80);
    let script = "\"$0\" watch b1; echo the shell is back; read line; fg; echo code $?";
    let mut shell = terminal.spawn(&mut shell(&fake.url(), script));
    terminal.wait_for_text("2 running");
    terminal.press("\u{1a}");
    let text = terminal.wait_for_text("the shell is back");
    assert!(!text.contains("2 running"), "{text}");
    terminal.press("\n");
    terminal.wait_for_text("2 running");
    terminal.press("\u{3}");
    let text = terminal.wait_for_text("code 130");
    assert!(text.contains("the batch goes on") && !text.contains("2 running"), "{text}");
    assert_eq!(shell.code(), Some(0));
}

#[test]
fn what_a_pipe_prints_on_the_same_terminal_stays() {
    let fake = Fake::start();
    let (open, wait) = gate();
    let mut steps = two_run();
    let hang = steps.pop();
    steps.extend([wait, change("l", 2, running_batch(TWO_RUN), vec![failed(3, 7)])]);
    steps.extend(hang);
    fake.state.watches.lock().unwrap().push_back(steps);
    let mut terminal = Terminal::new(24, 80);
    let mut shell = terminal.spawn(&mut shell(&fake.url(), "\"$0\" watch b1 | cat"));
    terminal.wait_for_text("2 running  1 queued");
    drop(open);
    // Once through the pipe, once on the view with its name.
    let text = terminal.wait_for("both", |text| {
        text.matches("task 3 failed: exit code 7").count() == 2 && text.contains("2 running  1 queued")
    });
    assert!(text.contains("task 1 running on worker-a"), "{text}");
    terminal.press("\u{3}");
    shell.code();
    terminal.wait_for("no view", |text| text.contains("the batch goes on") && !text.contains("1 queued"));
}

#[test]
fn in_the_background_nothing_is_painted_and_lines_still_come() {
    let fake = Fake::start();
    let ended = TaskCounts { completed: 3, ..TaskCounts::default() };
    let tasks = (1..=3).map(|index| task(index, TaskStatus::Completed)).collect();
    let (open, wait) = gate();
    let mut steps = two_run();
    steps.pop();
    steps.extend([
        change("l", 2, running_batch(TWO_RUN), vec![failed(3, 7)]),
        wait,
        change("l", 3, running_batch(ended), tasks),
    ]);
    fake.state.watches.lock().unwrap().push_back(steps);
    let terminal = Terminal::new(24, 80);
    let mut shell = terminal.spawn(&mut shell(&fake.url(), "\"$0\" watch b1 & wait"));
    let text = terminal.wait_for_text("task 3 failed: exit code 7");
    assert!(!text.contains("2 running"), "{text}");
    drop(open);
    let text = terminal.wait_for_text("3 of 3 tasks completed");
    assert!(!text.contains('['), "{text}");
    assert_eq!(shell.code(), Some(0));
}

#[test]
fn a_coordinator_that_goes_away_and_comes_back_is_said_above_the_view() {
    let fake = Fake::start();
    fake.state.watches.lock().unwrap().push_back(two_run());
    let terminal = Terminal::new(24, 80);
    let mut watch = terminal.spawn(&mut muster(&fake.url(), &["watch", "b1"]));
    terminal.wait_for_text("2 running");
    let address = fake.address;
    drop(fake);
    let text = terminal.wait_for("said", |text| text.contains("went away") && text.contains("2 running"));
    assert_eq!(text.matches("went away").count(), 1, "once, not once an output: {text}");
    let ended = TaskCounts { completed: 3, ..TaskCounts::default() };
    let tasks = (1..=3).map(|index| task(index, TaskStatus::Completed)).collect();
    let rest = vec![change("l", 2, running_batch(ended), tasks)];
    let _fake = Fake::start_at(address, State { watches: Mutex::new([rest].into()), ..State::default() });
    assert_eq!(watch.code(), Some(0));
    let text = terminal.wait_for_text("3 of 3 tasks completed");
    assert!(text.contains("the coordinator is back"), "{text}");
}

#[test]
fn data_that_goes_elsewhere_is_the_same_with_and_without_a_view() {
    let fake = Fake::start();
    let (open, wait) = gate();
    let ended = TaskCounts { completed: 3, ..TaskCounts::default() };
    let tasks = (1..=3).map(|index| task(index, TaskStatus::Completed)).collect();
    let mut steps = two_run();
    steps.pop();
    steps.extend([wait, change("l", 2, running_batch(ended), tasks)]);
    fake.state.watches.lock().unwrap().push_back(steps);
    let terminal = Terminal::new(24, 80);
    let mut command = muster(&fake.url(), &["watch", "b1"]);
    let mut watch = command.stdout(std::process::Stdio::piped()).stderr(terminal.stdio()).spawn().unwrap();
    terminal.wait_for_text("2 running");
    drop(open);
    let mut data = String::new();
    watch.stdout.take().unwrap().read_to_string(&mut data).unwrap();
    assert!(watch.wait().unwrap().success());
    assert_eq!(
        data,
        "task 1 running on worker-a (attempt 1)\ntask 2 running on worker-a (attempt 1)\n\
         task 1 completed\ntask 2 completed\ntask 3 completed\n3 of 3 tasks completed\n"
    );
}

#[test]
fn a_reader_that_goes_away_ends_a_watch_quietly() {
    let fake = Fake::start();
    let (open, wait) = gate();
    let mut steps = two_run();
    let hang = steps.pop();
    steps.extend([wait, change("l", 2, running_batch(TWO_RUN), vec![task(1, TaskStatus::Completed)])]);
    steps.extend(hang);
    fake.state.watches.lock().unwrap().push_back(steps);
    let terminal = Terminal::new(24, 80);
    let mut command = muster(&fake.url(), &["watch", "b1"]);
    let mut watch = command.stdout(std::process::Stdio::piped()).stderr(terminal.stdio()).spawn().unwrap();
    terminal.wait_for_text("2 running");
    drop(watch.stdout.take());
    drop(open);
    assert_eq!(watch.wait().unwrap().code(), Some(1));
    let text = terminal.wait_for("no view", |text| !text.contains("2 running"));
    assert!(!text.contains("error") && terminal.cursor_is_shown(), "{text}");
}

/// A folder with a batch and a program for it that obeys files in that folder.
fn workshop(batch: &str, program: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("batch.json"), batch).unwrap();
    let here = folder.path().display();
    fs::write(folder.path().join("dispatch"), format!("here='{here}'\n{program}")).unwrap();
    folder
}

/// The command that runs it there.
fn run_in(folder: &Path, command: fn(&str, &[&str]) -> Command) -> Command {
    let dispatch = format!("sh {}", folder.join("dispatch").display());
    let line = ["run", "batch.json", "--dispatch", &dispatch, "--slots", "2", "--concurrency", "2"];
    let mut command = command("http://127.0.0.1:1", &line);
    command.current_dir(folder);
    command
}

#[test]
fn a_run_shows_last_lines_and_what_a_failed_task_printed() {
    let folder = workshop(
        r#"["works", "fails"]"#,
        "case \"$*\" in
        *fails*) n=0; while [ $n -lt 15 ]; do n=$((n+1)); echo \"detail $n\"; done; exit 3;;
        *) echo 'step 1'; while [ ! -e \"$here/go\" ]; do sleep 0.02; done; echo 'the end';;
        esac",
    );
    let terminal = Terminal::new(40, 100);
    let mut run = terminal.spawn(&mut run_in(folder.path(), muster));
    let text = terminal.wait_for("both", |text| text.contains("step 1") && text.contains("[2] detail 15"));
    assert!(text.contains("task 2 failed: exit code 3"), "{text}");
    assert!(text.contains("[2] detail 6\n") && !text.contains("detail 5\n"), "the last ten: {text}");
    assert!(!text.contains("[1]"), "output that is shown in the view is not printed too: {text}");
    fs::write(folder.path().join("go"), "").unwrap();
    assert_eq!(run.code(), Some(1));
    let text = terminal.wait_for_text("1 of 2 tasks completed, 1 failed");
    assert!(text.contains("task 1 completed in") && !text.contains("step 1"), "{text}");
    assert!(terminal.history().contains("data in"), "{}", terminal.history());
}

#[test]
fn ctrl_c_once_cancels_a_run_and_twice_ends_its_tasks() {
    let folder =
        workshop(r#"["stubborn", "second"]"#, "trap '' TERM INT\necho started\nwhile :; do sleep 0.02; done");
    let mut terminal = Terminal::new(24, 100);
    let mut run = terminal.spawn(&mut run_in(folder.path(), muster_at_keyboard));
    terminal.wait_for("both run", |text| text.matches("started").count() == 2);
    terminal.press("\u{3}");
    let text = terminal.wait_for("cancelling", |text| text.matches("is being cancelled").count() == 2);
    assert!(text.contains("interrupt again to end them at once"), "{text}");
    terminal.press("\u{3}");
    assert_eq!(run.code(), Some(130));
    let text = terminal.wait_for_text("2 cancelled");
    assert!(text.contains("ending the tasks at once") && !text.contains("is being cancelled"), "{text}");
    assert!(terminal.cursor_is_shown());
}

#[test]
fn a_terminal_that_is_held_holds_up_neither_the_run_nor_its_end() {
    let folder = workshop(r#"["one", "two"]"#, "echo started\nwhile :; do sleep 0.02; done");
    let mut terminal = Terminal::new(24, 100);
    let mut run = terminal.spawn(&mut run_in(folder.path(), muster_at_keyboard));
    terminal.wait_for("both run", |text| text.matches("started").count() == 2);
    // Ctrl-S: nothing that is written goes anywhere from here on.
    terminal.press("\u{13}");
    run.signal(Signal::SIGINT);
    assert_eq!(run.code(), Some(130));
}
