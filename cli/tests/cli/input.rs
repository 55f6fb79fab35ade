//! What people hand in: the forms of a batch on the command line and on standard input, and what is said of one
//! that is wrong.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use crate::support::{Fake, batch};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

fn muster(fake: &Fake, line: &[&str], settings: &[(&str, &str)], input: &str) -> (Output, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.env_clear().env("MUSTER_COORDINATOR", fake.url()).envs(settings.iter().copied()).args(line);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Who needs none of it does not read it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

/// The batch that a command line comes to, and the model that tasks inherit.
fn sent(line: &[&str], settings: &[(&str, &str)], input: &str) -> (String, String) {
    let fake = Fake::start();
    fake.state.submits.lock().unwrap().push_back(Ok(batch(1, 0, 0)));
    let line: Vec<&str> = ["submit"].into_iter().chain(line.iter().copied()).collect();
    let (output, said) = muster(&fake, &line, settings, input);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let seen = fake.state.seen_submits.lock().unwrap().pop().unwrap();
    (seen.batch_json, seen.defaults.unwrap().model)
}

/// What is said of a command line that sends nothing.
fn refused(line: &[&str], input: &str) -> String {
    let fake = Fake::start();
    for command in ["submit", "run", "prefill"] {
        let line: Vec<&str> = [command].into_iter().chain(line.iter().copied()).collect();
        let mut settings = vec![("PATH", "/usr/bin:/bin")];
        if command == "run" {
            settings.push(("MUSTER_DISPATCH", "true"));
        }
        let (output, said) = muster(&fake, &line, &settings, input);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{line:?}: {said}");
        if command == "prefill" {
            let none = fake.state.seen_submits.lock().unwrap().is_empty()
                && fake.state.seen_prefills.lock().unwrap().is_empty();
            assert!(none, "{line:?}");
            return said;
        }
    }
    unreachable!()
}

#[test]
fn prompts_stand_on_the_command_line() {
    let line = ["-m", "b2-t2i", "a white cat", "a black dog"];
    assert_eq!(sent(&line, &[], ""), (r#"["a white cat","a black dog"]"#.to_owned(), "b2-t2i".to_owned()));
    let line = ["--prompt", "cat", "--prompt", "batch.json"];
    assert_eq!(sent(&line, &[], "").0, r#"["cat","batch.json"]"#);
    assert_eq!(sent(&[], &[("MUSTER_PROMPT", "a cat"), ("MUSTER_CARDS", "")], "").0, r#"["a cat"]"#);
}

#[test]
fn every_form_may_come_from_standard_input() {
    assert_eq!(sent(&["-"], &[], "[\"a\"]").0, "[\"a\"]");
    assert_eq!(sent(&["--each-line", "-"], &[], "a cat\n\na dog\n").0, r#"["a cat","a dog"]"#);
    assert_eq!(
        sent(&["--from-jsonl", "-"], &[], "\"a\"\n{\"steps\": 1.0}\n").0,
        "[\"a\",\n{\"steps\": 1.0}]"
    );
    assert_eq!(
        sent(&["--from-csv", "-"], &[], "prompt,steps\na cat,1.0\n").0,
        r#"[{"prompt":"a cat","steps":"1.0"}]"#
    );
    assert_eq!(sent(&[], &[("MUSTER_FROM_CSV", "-")], "prompt\na\n").0, r#"[{"prompt":"a"}]"#);
}

#[test]
fn what_is_wrong_is_said_on_one_line_with_its_place_and_nothing_is_sent() {
    for (line, input, expected) in [
        (
            &["-"][..],
            "[\n {},\n {\"promt\": 1}]",
            "<stdin>:3:3: tasks[2].promt: unknown key; did you mean prompt?",
        ),
        (&["-"], "[\n'a']", "<stdin>:2:1: no JSON: expected value; texts stand in double quotes in JSON"),
        (&["-"], "[]", "<stdin>:1:1: has no task; send at least one"),
        (
            &["--from-jsonl", "-"],
            "\"a\"\n{\"sync\": 2, \"size\": 1}\n",
            "<stdin>:2:13: tasks[2].size: unknown key",
        ),
        (&["--from-csv", "-"], "prompt,styel\na,b\n", "<stdin>:1:8: styel: unknown key; did you mean "),
    ] {
        let said = refused(line, input);
        assert!(said.lines().any(|line| line.starts_with(expected)), "{said}");
        assert!(said.starts_with("error: ") && said.is_ascii() && said.contains('^'), "{said}");
    }
}

#[test]
fn a_mistyped_file_name_is_never_a_prompt() {
    let said = refused(&["no-such-batch.json"], "");
    assert!(said.contains("no such file: no-such-batch.json") && said.contains("--prompt"), "{said}");
    let said = refused(&["a white cat", "Cargo.toml"], "");
    assert!(said.contains("Cargo.toml is a file") && said.contains("--prompt"), "{said}");
    let said = refused(&["a white cat", "--each-line", "-"], "a\n");
    assert!(said.contains("FILE or PROMPT and --each-line (MUSTER_EACH_LINE)"), "{said}");
}

#[test]
fn what_the_coordinator_finds_wrong_has_its_place_too() {
    let fake = Fake::start();
    let refuse = |fields: &[(&str, &str)]| {
        let mut details = ErrorDetails::new();
        for (field, description) in fields {
            details.add_bad_request_violation(*field, *description);
        }
        fake.state.submits.lock().unwrap().push_back(Err(Status::with_error_details(
            Code::InvalidArgument,
            "it is wrong",
            details,
        )));
    };
    let json = "{\"concurrency\": 0,\n \"tasks\": [\"a\",\n  {\"seed\": \"x\"}]}";
    refuse(&[
        ("concurrency", "is below 1"),
        ("tasks[2].seed", "is no number"),
        ("request_id", "is too long"),
    ]);
    let (output, said) = muster(&fake, &["submit", "-"], &[], json);
    assert_eq!(output.status.code(), Some(2));
    for line in [
        "error: it is wrong",
        "<stdin>:1:17: concurrency: is below 1",
        "<stdin>:3:12: tasks[2].seed: is no number",
        "  request_id: is too long",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\n{said}");
    }
    // The option's number stands nowhere in the text.
    refuse(&[("concurrency", "is below 1")]);
    let (_, said) = muster(&fake, &["submit", "-", "--concurrency", "0"], &[], json);
    assert!(said.lines().any(|said| said == "  concurrency: is below 1"), "{said}");
    refuse(&[("cards[1].seed", "line 3: is no number")]);
    let (_, said) = muster(&fake, &["submit", "--cards", "-"], &[], "## 1. Cat\n\n- seed: x\n");
    assert!(said.lines().any(|said| said == "<stdin>:3:1: cards[1].seed: line 3: is no number"), "{said}");
    refuse(&[("tasks[2].seed", "is no number")]);
    let (_, said) = muster(&fake, &["submit", "--from-csv", "-"], &[], "prompt,seed\na,1\n\nb,x\n");
    assert!(said.lines().any(|said| said == "<stdin>:4:3: tasks[2].seed: is no number"), "{said}");
    let figures = [("task_index", "2"), ("slug", "v2-search")];
    let figures: std::collections::HashMap<_, _> =
        figures.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let details = ErrorDetails::with_error_info("BATCH_SEARCH_FLOW_NOT_SUPPORTED", "muster.v1", figures);
    let status = Status::with_error_details(Code::FailedPrecondition, "no search flows", details);
    fake.state.submits.lock().unwrap().push_back(Err(status));
    let json = "[\"a\",\n {\"model\": \"v2-search\"}]";
    let (_, said) = muster(&fake, &["submit", "-"], &[], json);
    assert!(said.lines().any(|said| said == "<stdin>:2:12: tasks[2].model: a search flow"), "{said}");
}
