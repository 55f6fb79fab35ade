//! Cards: how `muster prefill` asks for them and prints them, and how `muster submit --cards` hands them in.

use std::{
    collections::HashMap,
    io::Write as _,
    process::{Command, Output, Stdio},
};

use crate::support::{Fake, Printed, batch};
use muster_proto::v1::{PrefillBatchRequest, PrefillBatchResponse, TaskCard};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const CARDS: &str = "> 1 card\n\n## 1. 灯塔\n\n- model: bpro-t2i\n- prompt: a lighthouse\n- seed: random\n";

fn reply(markdown: &str) -> PrefillBatchResponse {
    PrefillBatchResponse {
        mode: "batch_prefill".to_owned(),
        task_count: 1,
        tasks: vec![TaskCard {
            index: 1,
            label: "灯塔".to_owned(),
            model: "bpro-t2i".to_owned(),
            display_name: "通用图片B.Pro".to_owned(),
            card_markdown: "- model: bpro-t2i\n".to_owned(),
        }],
        reply_markdown: markdown.to_owned(),
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn answers(fake: &Fake, reply: Result<PrefillBatchResponse, Status>) {
    fake.state.prefills.lock().unwrap().push_back(reply);
}

fn seen(fake: &Fake) -> PrefillBatchRequest {
    fake.state.seen_prefills.lock().unwrap().pop().expect("a request")
}

/// Runs `prefill` for a JSON file with further words.
async fn prefill(fake: &Fake, words: &[&str]) -> Printed {
    let payload = file("[\"a lighthouse\"]");
    let line: Vec<&str> =
        ["prefill", payload.path().to_str().unwrap()].into_iter().chain(words.iter().copied()).collect();
    fake.muster(&line).await
}

/// The built program, with nothing of the tester's own settings but what is given.
fn program(fake: &Fake, line: &[&str], settings: &[(&str, &str)], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.env_clear().env("MUSTER_COORDINATOR", fake.url()).envs(settings.iter().copied()).args(line);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn standard_output_is_exactly_the_markdown_and_the_hint_stands_apart() {
    let fake = Fake::start();
    for words in [&[][..], &["--output", "table"]] {
        answers(&fake, Ok(reply(CARDS)));
        let printed = prefill(&fake, words).await;
        assert_eq!((printed.code, printed.out.as_str()), (0, CARDS), "{}", printed.err);
        let command = format!("muster --coordinator {} submit --cards cards.md", fake.url());
        assert!(printed.err.contains(&command), "{}", printed.err);
        assert_eq!(printed.err.lines().count(), 1, "{}", printed.err);
    }
    answers(&fake, Ok(reply("> cards without a last line end")));
    assert_eq!(prefill(&fake, &[]).await.out, "> cards without a last line end\n");
}

#[tokio::test]
async fn what_was_asked_for_is_sent() {
    let fake = Fake::start();
    answers(&fake, Ok(reply(CARDS)));
    let words = "--model m --scene 2 --task t2i --run-with-defaults --sync --concurrency 2 \
                 --task-count-approved --lang zh --refresh";
    prefill(&fake, &words.split_whitespace().collect::<Vec<_>>()).await;
    let request = seen(&fake);
    assert_eq!((request.batch_json.as_str(), request.cards_markdown.as_str()), ("[\"a lighthouse\"]", ""));
    let defaults = request.defaults.unwrap();
    assert_eq!((defaults.model.as_str(), defaults.scene.as_str(), defaults.task.as_str()), ("m", "2", "t2i"));
    assert_eq!((defaults.run_with_defaults, defaults.sync), (Some(true), Some(true)));
    assert_eq!((request.concurrency, request.lang.as_str()), (Some(2), "zh"));
    assert!(request.task_count_approved && request.refresh);
    answers(&fake, Ok(reply(CARDS)));
    prefill(&fake, &["--lang", "en"]).await;
    let request = seen(&fake);
    assert!(!request.task_count_approved && !request.refresh && request.concurrency.is_none());
}

#[tokio::test]
async fn a_reply_cannot_steer_the_terminal() {
    let fake = Fake::start();
    answers(&fake, Ok(reply("## 1. a\u{1b}[2J\u{202e}b\r\n- prompt: \u{9b}31m\t提示词\n")));
    let printed = prefill(&fake, &[]).await;
    assert_eq!(printed.out, "## 1. a␛[2J\u{fffd}b␍\n- prompt: \u{fffd}31m\t提示词\n");
    answers(&fake, Ok(reply("\u{1b}[2J\u{9b}")));
    let json = prefill(&fake, &["--output", "json"]).await.out;
    assert!(json.chars().all(|character| character == '\n' || !character.is_control()), "{json:?}");
}

#[tokio::test]
async fn cards_as_json() {
    let fake = Fake::start();
    for format in ["json", "seed-json"] {
        answers(&fake, Ok(reply(CARDS)));
        let printed = prefill(&fake, &["--output", format]).await;
        let document: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
        assert_eq!((&document["mode"], &document["task_count"]), (&"batch_prefill".into(), &1.into()));
        assert_eq!(document["reply_markdown"], CARDS);
        assert_eq!(document["tasks"][0]["display_name"], "通用图片B.Pro");
        assert_eq!(printed.err, "", "{format}");
    }
    answers(&fake, Ok(reply(CARDS)));
    let lines = prefill(&fake, &["--output", "jsonl"]).await;
    assert_eq!(lines.out.lines().count(), 1);
    let card: serde_json::Value = serde_json::from_str(&lines.out).unwrap();
    assert_eq!((&card["index"], &card["card_markdown"]), (&1.into(), &"- model: bpro-t2i\n".into()));
}

#[tokio::test]
async fn cards_are_handed_in_untouched_and_can_be_checked_again() {
    let fake = Fake::start();
    let text = format!("\u{feff}{CARDS}\r\n比例：16:9\n");
    let cards = file(&text);
    let path = cards.path().to_str().unwrap();
    fake.state.submits.lock().unwrap().push_back(Ok(batch(1, 0, 0)));
    let printed = fake.muster(&["submit", "--cards", path]).await;
    assert_eq!((printed.code, printed.out.as_str()), (0, "b1\n"), "{}", printed.err);
    let submitted = fake.state.seen_submits.lock().unwrap().pop().unwrap();
    assert_eq!((submitted.cards_markdown.as_str(), submitted.batch_json.as_str()), (text.as_str(), ""));
    answers(&fake, Ok(reply(CARDS)));
    let printed = fake.muster(&["prefill", "--cards", path]).await;
    assert_eq!((printed.code, printed.out.as_str()), (0, CARDS), "{}", printed.err);
    assert_eq!(seen(&fake).cards_markdown, text);
}

#[tokio::test]
async fn json_and_cards_are_not_taken_for_one_another() {
    let fake = Fake::start();
    let (json, cards) = (file("[\"a cat\"]"), file(CARDS));
    let (json, cards) = (json.path().to_str().unwrap(), cards.path().to_str().unwrap());
    for (line, expected) in [
        (&["submit", "--cards", json][..], "leave --cards out"),
        (&["prefill", "--cards", json], "leave --cards out"),
        (&["run", "--dispatch", "true", "--cards", json], "leave --cards out"),
        (&["submit", cards], "--cards"),
        (&["prefill", cards], "--cards"),
        (&["run", "--dispatch", "true", cards], "--cards"),
        (&["submit", json, "--cards", cards], "not as both"),
        (&["prefill"], "no batch is named"),
        (&["submit"], "no batch is named"),
        (&["run", "--dispatch", "true"], "no batch is named"),
    ] {
        let printed = fake.muster(line).await;
        assert_eq!((printed.code, printed.out.as_str()), (2, ""), "{line:?}");
        assert!(printed.err.contains(expected), "{line:?}: {}", printed.err);
    }
    assert!(fake.state.seen_submits.lock().unwrap().is_empty());
    assert!(fake.state.seen_prefills.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_error_in_the_cards_names_card_and_line_and_an_absent_coordinator_exits_with_3() {
    let fake = Fake::start();
    let mut details = ErrorDetails::with_error_info("INVALID_ARGUMENT", "muster.v1", HashMap::new());
    details.add_bad_request_violation("cards[2].duration", "line 14: not a number");
    details.add_bad_request_violation("cards[3]", "line 20: unknown key");
    let message = "cards[2].duration line 14: not a number (and 1 more)";
    answers(&fake, Err(Status::with_error_details(Code::InvalidArgument, message, details)));
    let cards = file(CARDS);
    let line = ["prefill", "--cards", cards.path().to_str().unwrap()];
    let printed = fake.muster(&line).await;
    assert_eq!((printed.code, printed.out.as_str()), (2, ""));
    let lines: Vec<_> = printed.err.lines().collect();
    assert!(lines[0].starts_with("error: cards[2].duration line 14: not a number"), "{}", printed.err);
    assert_eq!(lines[1..], ["  cards[3]: line 20: unknown key"]);
    drop(fake);
    assert_eq!(crate::support::muster("http://127.0.0.1:1", &line).await.code, 3);
}

#[tokio::test]
async fn an_unknown_language_is_refused_before_anything_is_asked() {
    let fake = Fake::start();
    let printed = prefill(&fake, &["--lang", "fr"]).await;
    assert_eq!(printed.code, 2);
    assert!(printed.err.contains("en (English)") && printed.err.contains("zh (Chinese)"), "{}", printed.err);
    assert!(fake.state.seen_prefills.lock().unwrap().is_empty());
}

#[test]
fn the_language_comes_from_the_option_the_variable_or_the_locale() {
    let fake = Fake::start();
    for (settings, words, lang) in [
        (&[][..], &[][..], "en"),
        (&[("LANG", "zh_CN.UTF-8")], &[], "zh"),
        (&[("LANG", "zh_CN.UTF-8"), ("LC_ALL", "C.UTF-8")], &[], "en"),
        (&[("LANG", "en_US.UTF-8"), ("LC_MESSAGES", "zh_TW.UTF-8"), ("LC_ALL", "")], &[], "zh"),
        (&[("LANG", "de_DE.UTF-8")], &[], "en"),
        (&[("LANG", "zh_CN.UTF-8"), ("MUSTER_LANG", "en")], &[], "en"),
        (&[("LANG", "en_US.UTF-8"), ("MUSTER_LANG", "en")], &["--lang", "zh"], "zh"),
    ] {
        answers(&fake, Ok(reply(CARDS)));
        let line = [&["prefill", "-"], words].concat();
        let output = program(&fake, &line, settings, "[\"a lighthouse\"]");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(output.stdout, CARDS.as_bytes());
        assert_eq!(seen(&fake).lang, lang, "{settings:?} {words:?}");
    }
}

#[test]
fn cards_come_from_standard_input_or_a_file_that_the_environment_names() {
    let fake = Fake::start();
    fake.state.submits.lock().unwrap().extend([Ok(batch(1, 0, 0)), Ok(batch(1, 0, 0))]);
    let output = program(&fake, &["submit", "--cards", "-"], &[], CARDS);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let cards = file(CARDS);
    let output = program(&fake, &["submit"], &[("MUSTER_CARDS", cards.path().to_str().unwrap())], "");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let seen = fake.state.seen_submits.lock().unwrap();
    assert!(seen.len() == 2 && seen.iter().all(|request| request.cards_markdown == CARDS));
}

#[test]
fn a_task_count_is_never_approved_by_the_environment() {
    let fake = Fake::start();
    answers(&fake, Ok(reply(CARDS)));
    let output = program(&fake, &["prefill", "-"], &[("MUSTER_TASK_COUNT_APPROVED", "1")], "[\"a\"]");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!seen(&fake).task_count_approved);
}

#[test]
fn a_key_reaches_the_request_from_its_file_or_the_variable_and_is_never_shown() {
    let fake = Fake::start();
    let (real, placeholder) = (file("sk-canary-file\n"), file("YOUR_CANARY_KEY\n"));
    let (real, placeholder) = (real.path().to_str().unwrap(), placeholder.path().to_str().unwrap());
    let variable = ("BIZYAIR_API_KEY", "sk-canary-variable");
    for (settings, words, key, said) in [
        (&[][..], &[][..], "", ""),
        (&[variable], &[], "sk-canary-variable", ""),
        (&[variable], &["--api-key-file", real], "sk-canary-file", ""),
        (&[variable], &["--api-key-file", placeholder], "sk-canary-variable", placeholder),
        (&[], &["--api-key-file", placeholder], "", placeholder),
        (&[("BIZYAIR_API_KEY", "<canary key>")], &[], "", "BIZYAIR_API_KEY"),
    ] {
        answers(&fake, Ok(reply(CARDS)));
        fake.state.submits.lock().unwrap().push_back(Ok(batch(1, 0, 0)));
        for command in ["prefill", "submit"] {
            let line = [&[command, "-"], words].concat();
            let output = program(&fake, &line, settings, "[\"a lighthouse\"]");
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            assert!(stderr(&output).contains(said), "{}", stderr(&output));
            let shown = [output.stdout, output.stderr].concat();
            let shown = String::from_utf8_lossy(&shown).to_lowercase();
            assert!(!shown.contains("canary"), "{shown}");
            assert_eq!(shown.contains("counts as no key"), !said.is_empty(), "{shown}");
        }
        assert_eq!(seen(&fake).api_key, key);
        assert_eq!(fake.state.seen_submits.lock().unwrap().pop().unwrap().api_key, key);
    }
}

#[test]
fn retry_and_refusals_treat_a_key_the_same() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() = batch(1, 0, 1);
    let placeholder = file("YOUR_CANARY_KEY");
    let line = ["retry", "b1", "--api-key-file", placeholder.path().to_str().unwrap()];
    let output = program(&fake, &line, &[("BIZYAIR_API_KEY", "sk-canary")], "");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(fake.state.seen_retries.lock().unwrap()[0].api_key, "sk-canary");
    assert!(!stderr(&output).to_lowercase().contains("canary"), "{}", stderr(&output));
    answers(&fake, Err(Status::invalid_argument("the batch cannot be read")));
    let output = program(&fake, &["prefill", "-"], &[("BIZYAIR_API_KEY", "sk-canary")], "[3]");
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty() && !stderr(&output).contains("canary"), "{}", stderr(&output));
}

#[tokio::test]
async fn a_missing_key_names_every_place_for_one() {
    let fake = Fake::start();
    let details = ErrorDetails::with_error_info("NO_API_KEY", "muster.v1", HashMap::new());
    answers(&fake, Err(Status::with_error_details(Code::FailedPrecondition, "this needs a key", details)));
    let printed = prefill(&fake, &[]).await;
    assert_eq!((printed.code, printed.out.as_str()), (2, ""));
    for place in ["--api-key-file", "BIZYAIR_API_KEY", "credentials.api_key", "config.json"] {
        assert!(printed.err.contains(place), "{place}: {}", printed.err);
    }
}

#[test]
fn help_shows_the_way_there_and_back() {
    let fake = Fake::start();
    let output = program(&fake, &["prefill", "--help"], &[], "");
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("muster prefill batch.json > cards.md"), "{help}");
    assert!(help.contains("muster submit --cards cards.md"), "{help}");
}
