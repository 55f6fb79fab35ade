//! Batches over a configured limit: the question on a terminal, and the command to repeat elsewhere.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read as _, Write as _},
    num::NonZeroU16,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Instant,
};

use nix::pty::{Winsize, openpty};

use crate::support::{DEADLINE, Fake, batch, task};
use muster_proto::v1::{Batch, SubmitBatchRequest, Task, TaskStatus};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const ROWS: NonZeroU16 = NonZeroU16::new(40).unwrap();
const COLUMNS: NonZeroU16 = NonZeroU16::new(160).unwrap();
const SIZE: Winsize = Winsize { ws_row: ROWS.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 };

fn needs_approval(reason: &str, figures: &[(&str, &str)]) -> Status {
    let figures: HashMap<String, String> =
        figures.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let details = ErrorDetails::with_error_info(reason, "muster.v1", figures);
    Status::with_error_details(Code::FailedPrecondition, "over the limit", details)
}

fn too_many_tasks() -> Status {
    let figures = [("task_count", "12"), ("configured_max_tasks", "5")];
    needs_approval("BATCH_TASK_COUNT_REQUIRES_APPROVAL", &figures)
}

fn too_many_at_once() -> Status {
    let figures = [("requested_concurrency", "4"), ("configured_max_concurrency", "3")];
    needs_approval("BATCH_CONCURRENCY_REQUIRES_APPROVAL", &figures)
}

/// The plan of a batch of twelve.
fn planned() -> Batch {
    let task = |index| Task {
        label: format!("Cat {index}"),
        prompt: "a white cat".to_owned(),
        ..task(index, TaskStatus::Queued)
    };
    Batch { batch_id: String::new(), tasks: (1..=12).map(task).collect(), ..batch(12, 0, 0) }
}

fn answers(fake: &Fake, replies: impl IntoIterator<Item = Result<Batch, Status>>) {
    fake.state.submits.lock().unwrap().extend(replies);
}

/// What was asked for, as far as approvals go: only looked at, tasks approved, concurrency approved.
fn seen(fake: &Fake) -> Vec<(bool, bool, bool)> {
    let flags = |request: &SubmitBatchRequest| {
        (request.validate_only, request.task_count_approved, request.concurrency_approved)
    };
    fake.state.seen_submits.lock().unwrap().iter().map(flags).collect()
}

fn program(fake: &Fake, line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.env_clear().env("MUSTER_COORDINATOR", fake.url()).env("TERM", "xterm").args(line);
    command
}

/// A program on a terminal of its own.
struct OnTerminal {
    child: Child,
    keyboard: File,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
}

impl OnTerminal {
    fn start(command: Command) -> Self {
        Self::start_after_typing("", command)
    }

    /// Starts it once something was typed in already.
    fn start_after_typing(typed: &str, mut command: Command) -> Self {
        let ends = openpty(&SIZE, None).unwrap();
        File::from(ends.master.try_clone().unwrap()).write_all(typed.as_bytes()).unwrap();
        let slave = || Stdio::from(ends.slave.try_clone().unwrap());
        let child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
        // The command keeps the terminal's other ends until it goes.
        drop((command, ends.slave));
        let keyboard = File::from(ends.master.try_clone().unwrap());
        let mut master = File::from(ends.master);
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // Once nobody has the other end, reading fails.
            while let Ok(length @ 1..) = master.read(&mut piece) {
                if sender.send(piece[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keyboard, output, screen: vt100::Parser::new(ROWS, COLUMNS, 0) }
    }

    fn text(&self) -> String {
        self.screen.screen().contents()
    }

    /// Waits until the screen shows a text.
    fn wait_for(&mut self, text: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.text().contains(text) {
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(piece) => self.screen.process(&piece),
                Err(error) => panic!("{error}; {text:?} is not on the screen:\n{}", self.text()),
            }
        }
    }

    fn type_in(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for the end: the exit code, and what the screen shows then.
    fn end(mut self) -> (Option<i32>, String) {
        let end = Instant::now() + DEADLINE;
        loop {
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(piece) => self.screen.process(&piece),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the program does not end:\n{}", self.text()),
            }
        }
        (self.child.wait().unwrap().code(), self.text())
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // It has ended unless the test failed.
        let _ = self.child.kill();
    }
}

#[test]
fn a_yes_repeats_the_call_with_that_approval_after_what_would_run_was_shown() {
    let fake = Fake::start();
    answers(&fake, [Err(too_many_tasks()), Ok(planned()), Ok(batch(12, 0, 0))]);
    let mut terminal = OnTerminal::start(program(&fake, &["submit", "a cat", "a dog"]));
    terminal.wait_for("12 tasks are 7 more than the 5 allowed without approval; approve them? [y/N]");
    let shown = terminal.text();
    assert!(shown.contains("this would run: batch: 12 tasks, at most 2 at once"), "{shown}");
    assert!(
        shown.contains("  1. Cat 1 (bpro-t2i): a white cat") && shown.contains("  10. Cat 10 (bpro-t2i)"),
        "{shown}"
    );
    assert!(!shown.contains("Cat 11") && shown.contains("  and 2 more"), "{shown}");
    assert_eq!(seen(&fake), [(false, false, false), (true, true, true)], "nothing but a look without a yes");
    terminal.type_in("y\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("b1"), "{shown}");
    assert_eq!(seen(&fake)[2..], [(false, true, false)]);
    let requests = fake.state.seen_submits.lock().unwrap();
    assert_ne!(requests[0].request_id, requests[1].request_id, "a look is not the batch");
    assert_eq!(requests[0].request_id, requests[2].request_id);
}

#[test]
fn a_second_limit_is_a_second_question() {
    let fake = Fake::start();
    answers(&fake, [Err(too_many_tasks()), Ok(planned()), Err(too_many_at_once()), Ok(batch(12, 0, 0))]);
    let mut terminal = OnTerminal::start(program(&fake, &["submit", "a cat", "--concurrency", "4"]));
    terminal.wait_for("approve them? [y/N]");
    terminal.type_in("y\n");
    terminal.wait_for("4 tasks at once are 1 more than the 3 allowed without approval; approve them? [y/N]");
    terminal.type_in("Yes\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(shown.matches("this would run").count(), 1, "{shown}");
    let expected = [(false, false, false), (true, true, true), (false, true, false), (false, true, true)];
    assert_eq!(seen(&fake), expected);
}

#[test]
fn anything_but_yes_is_a_no() {
    for answer in ["\n", "n\n", "yy\n", "\u{4}"] {
        let fake = Fake::start();
        answers(&fake, [Err(too_many_tasks()), Ok(planned())]);
        let mut terminal = OnTerminal::start(program(&fake, &["submit", "a cat"]));
        terminal.wait_for("[y/N]");
        terminal.type_in(answer);
        let (code, shown) = terminal.end();
        assert_eq!(code, Some(2), "{answer:?}: {shown}");
        assert!(shown.contains("not approved; nothing was run"), "{shown}");
        assert_eq!(seen(&fake).len(), 2, "{answer:?}");
    }
}

#[test]
fn what_was_typed_before_the_question_is_no_answer_to_it() {
    let fake = Fake::start();
    answers(&fake, [Err(too_many_tasks()), Ok(planned())]);
    let mut terminal = OnTerminal::start_after_typing("y\n", program(&fake, &["submit", "a cat"]));
    terminal.wait_for("[y/N]");
    terminal.type_in("n\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(2), "{shown}");
    assert_eq!(seen(&fake).len(), 2);
}

#[test]
fn a_batch_that_is_read_from_the_keyboard_is_asked_for() {
    let fake = Fake::start();
    answers(&fake, [Ok(batch(1, 0, 0))]);
    let mut terminal = OnTerminal::start(program(&fake, &["submit", "-"]));
    terminal.wait_for("reading the batch from the terminal");
    terminal.type_in("[\"a cat\"]\n\u{4}");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(fake.state.seen_submits.lock().unwrap()[0].batch_json, "[\"a cat\"]\n");
}

#[test]
fn an_interrupt_at_the_question_is_no_approval() {
    let fake = Fake::start();
    answers(&fake, [Err(too_many_tasks()), Ok(planned())]);
    let mut terminal = OnTerminal::start(program(&fake, &["submit", "a cat"]));
    terminal.wait_for("[y/N]");
    let id = terminal.child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(130), "{shown}");
    let lines: Vec<_> = shown.lines().rev().take(2).map(str::trim_end).collect();
    assert_eq!(lines[0], "interrupted");
    assert!(lines[1].ends_with("approve them? [y/N]"), "{shown}");
    assert_eq!(seen(&fake).len(), 2);
}

#[test]
fn a_batch_that_would_be_refused_anyway_is_refused_without_a_question() {
    let fake = Fake::start();
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("tasks[1].seed", "is no number");
    let refusal = Status::with_error_details(Code::InvalidArgument, "1 problem", details);
    answers(&fake, [Err(too_many_tasks()), Err(refusal)]);
    let terminal = OnTerminal::start(program(&fake, &["submit", "a cat"]));
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(2), "{shown}");
    assert!(shown.contains("tasks[1].seed: is no number") && !shown.contains("[y/N]"), "{shown}");
}

#[test]
fn a_prefill_is_asked_about_like_a_run() {
    let fake = Fake::start();
    let reply = muster_proto::v1::PrefillBatchResponse {
        reply_markdown: "the cards\n".to_owned(),
        ..Default::default()
    };
    fake.state.prefills.lock().unwrap().extend([Err(too_many_tasks()), Ok(reply)]);
    answers(&fake, [Ok(planned())]);
    let mut terminal = OnTerminal::start(program(&fake, &["prefill", "a cat"]));
    terminal.wait_for("[y/N]");
    terminal.type_in("y\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("the cards"), "{shown}");
    let approved: Vec<_> =
        fake.state.seen_prefills.lock().unwrap().iter().map(|request| request.task_count_approved).collect();
    assert_eq!(approved, [false, true]);
    assert_eq!(seen(&fake), [(true, true, true)], "no more than a look");
}

#[test]
fn a_question_is_seen_although_what_follows_it_goes_through_a_pager() {
    let fake = Fake::start();
    let cards = (1..=100).map(|line| format!("card line {line}\n")).collect();
    let reply = muster_proto::v1::PrefillBatchResponse { reply_markdown: cards, ..Default::default() };
    fake.state.prefills.lock().unwrap().extend([Err(too_many_tasks()), Ok(reply)]);
    answers(&fake, [Ok(planned())]);
    let mut command = program(&fake, &["prefill", "a cat"]);
    command.env("PAGER", "/bin/cat -u");
    let mut terminal = OnTerminal::start(command);
    terminal.wait_for("[y/N]");
    terminal.type_in("y\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    let (cards, hint) = (shown.find("card line 100"), shown.find("nothing has run yet"));
    assert!(cards.is_some() && cards < hint, "talk comes after what is paged: {shown}");
}

fn run(mut command: Command, input: &str) -> (Output, String) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[test]
fn off_a_terminal_the_refusal_has_the_command_to_repeat() {
    let fake = Fake::start();
    let name = env!("CARGO_BIN_EXE_muster");
    answers(&fake, [Err(too_many_tasks()), Err(too_many_at_once())]);
    // A "y" that nobody asked for is no answer.
    let (output, said) = run(program(&fake, &["submit", "it's a cat", "a dog"]), "y\n");
    assert_eq!(output.status.code(), Some(2));
    let command =
        format!("to approve, repeat it: {name} submit 'it'\\''s a cat' 'a dog' --task-count-approved");
    assert!(said.contains(&command), "{said}");
    let (_, said) =
        run(program(&fake, &["submit", "--task-count-approved", "-", "--concurrency=4"]), "[\"a\"]");
    let command = format!(
        "to approve, repeat it (standard input was read: give the batch there again): \
         {name} submit --task-count-approved - --concurrency=4 --concurrency-approved"
    );
    assert!(said.contains(&command), "{said}");
    assert_eq!(seen(&fake), [(false, false, false), (false, true, false)], "it is never more than refused");
}

#[test]
fn a_retry_over_a_limit_is_asked_about_and_has_its_command_too() {
    let fake = Fake::start();
    fake.state.retries.lock().unwrap().extend([Err(too_many_at_once()), Ok(batch(1, 0, 0))]);
    let mut terminal = OnTerminal::start(program(&fake, &["retry", "b1"]));
    terminal.wait_for("[y/N]");
    terminal.type_in("y\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    fake.state.retries.lock().unwrap().extend([Err(too_many_at_once())]);
    let (output, said) = run(program(&fake, &["retry", "b1", "--api-key-file", "-"]), "sk-1\n");
    assert_eq!(output.status.code(), Some(2));
    let command = "(standard input was read: give the key there again): ";
    assert!(
        said.contains(command) && said.contains("retry b1 --api-key-file - --concurrency-approved"),
        "{said}"
    );
    let seen = fake.state.seen_retries.lock().unwrap();
    assert_eq!(
        seen.iter().map(|request| request.concurrency_approved).collect::<Vec<_>>(),
        [false, true, false]
    );
    assert_eq!(seen[0].request_id, seen[1].request_id);
}

#[test]
fn a_terminal_on_one_side_alone_is_nobody_to_ask() {
    let fake = Fake::start();
    for typed_at in [true, false] {
        answers(&fake, [Err(too_many_tasks())]);
        let ends = openpty(&SIZE, None).unwrap();
        let mut keyboard = File::from(ends.master.try_clone().unwrap());
        keyboard.write_all(b"y\n").unwrap();
        let mut command = program(&fake, &["submit", "a cat"]);
        let terminal = Stdio::from(ends.slave.try_clone().unwrap());
        if typed_at {
            command.stdin(terminal).stderr(Stdio::piped());
        } else {
            command.stdin(Stdio::null()).stderr(terminal);
        }
        let output = command.stdout(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(!String::from_utf8_lossy(&output.stderr).contains("[y/N]"));
    }
    assert_eq!(seen(&fake), [(false, false, false); 2]);
}

#[test]
fn muster_run_asks_too_and_starts_nothing_without_a_yes() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("ran");
    let fake = Fake::start();
    let script = folder.path().join("dispatch");
    std::fs::write(&script, format!("#!/bin/sh\ntouch {}\n", marker.display())).unwrap();
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, permissions).unwrap();
    let line = |answer: &str| {
        let mut command =
            program(&fake, &["run", "--dispatch", "./dispatch", "--concurrency", "4", "-m", "o2-t2i"]);
        command.args(["one cat", "two cats"]).current_dir(folder.path()).env("PATH", "/usr/bin:/bin");
        let mut terminal = OnTerminal::start(command);
        terminal
            .wait_for("4 tasks at once are 1 more than the 3 allowed without approval; approve them? [y/N]");
        assert!(terminal.text().contains("1. Task 1 (o2-t2i)"), "{}", terminal.text());
        terminal.type_in(answer);
        terminal.end()
    };
    let (code, shown) = line("n\n");
    assert_eq!(code, Some(2), "{shown}");
    assert!(!marker.exists());
    let (code, shown) = line("y\n");
    assert_eq!(code, Some(0), "{shown}");
    assert!(marker.exists());
}

#[test]
fn interrupting_the_question_of_muster_run_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start();
    let mut command =
        program(&fake, &["run", "--dispatch", "true", "--concurrency", "4", "one cat", "two cats"]);
    command.current_dir(folder.path()).env("PATH", "/usr/bin:/bin");
    let mut terminal = OnTerminal::start(command);
    terminal.wait_for("[y/N]");
    let id = terminal.child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(130), "{shown}");
    assert!(!folder.path().join("muster-runs").exists(), "nothing was stored");
}
