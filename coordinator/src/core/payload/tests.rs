//! What the conformance vectors leave open about reading a payload.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Payload, Vec<FieldViolation>> {
    parse_batch_json(text, &Defaults::default())
}

fn one(task: &str) -> TaskRequest {
    parse(&format!("[{task}]")).unwrap().tasks.remove(0)
}

/// The fields that are wrong.
fn wrong(text: &str) -> Vec<String> {
    parse(text).unwrap_err().into_iter().map(|violation| violation.field).collect()
}

#[test]
fn numbers_keep_their_text() {
    for number in ["20.0", "1E5", "1e+05", "0.10", "-7", "123456789012345678901234567890"] {
        let task = one(&format!(r#"{{"duration": {number}, "prompt": {number}, "image": [{number}]}}"#));
        assert_eq!(task.duration.text, number);
        assert_eq!(task.prompt, number);
        assert_eq!(task.image, [number]);
    }
}

#[test]
fn the_number_zero_is_empty_for_some_fields_and_a_value_for_others() {
    for zero in ["0", "-0", "0.0", "0e7"] {
        let task = one(&format!(
            r#"{{"label":{zero},"model":{zero},"scene":{zero},"task":{zero},"aspect_ratio":{zero},
                "resolution":{zero},"model_name":{zero},"output":{zero},
                "prompt":{zero},"card_input":{zero},"steps":{zero},"image":{zero},"param":[{zero}]}}"#
        ));
        for empty in [
            &task.label,
            &task.model,
            &task.scene,
            &task.task,
            &task.aspect_ratio,
            &task.resolution,
            &task.model_name,
            &task.output,
        ] {
            assert_eq!(empty, "", "{zero}");
        }
        assert_eq!((task.prompt.as_str(), task.card_input.as_str()), (zero, zero));
        assert_eq!(task.steps, Scalar { text: zero.into(), zero_number: true });
        assert_eq!((task.image, task.param), (vec![zero.to_owned()], vec![]));
    }
    // The text "0" is none of this.
    let task = one(r#"{"aspect_ratio":"0","steps":"0","param":["0"],"label":"0"}"#);
    assert_eq!((task.aspect_ratio.as_str(), task.label.as_str()), ("0", "0"));
    assert!(task.steps.is_tuning());
    assert_eq!(task.param, ["0"]);
}

#[test]
fn flags_take_booleans_numbers_and_two_words() {
    for (value, on) in [
        ("true", true),
        ("false", false),
        ("1", true),
        ("-0.5", true),
        ("0", false),
        ("0.0", false),
        ("\"TRUE\"", true),
        ("\"False\"", false),
        ("\"\"", true),
        ("null", true),
    ] {
        let defaults = Defaults { sync: Some(true), ..Defaults::default() };
        let batch = parse_batch_json(&format!(r#"[{{"sync": {value}}}]"#), &defaults).unwrap();
        assert_eq!(batch.tasks[0].sync, on, "{value}");
    }
    for value in ["\" true\"", "\"1\"", "\"yes\"", "[]", "{}", "[true]", "\"\\u0000\""] {
        assert_eq!(wrong(&format!(r#"[{{"random_seed": {value}}}]"#)), ["tasks[1].random_seed"], "{value}");
    }
}

#[test]
fn confirm_run_and_param_help_change_nothing_whatever_they_are() {
    assert_eq!(one(r#"{"confirm_run": [true], "param_help": {"a": 1}}"#), TaskRequest::default());
}

#[test]
fn wrong_elements_are_named_by_their_place() {
    assert_eq!(wrong(r#"["a", 1, {}, null, true, []]"#), ["tasks[2]", "tasks[4]", "tasks[5]", "tasks[6]"]);
    assert_eq!(wrong(r#"{"tasks": ["a", {"prompt": {}}]}"#), ["tasks[2].prompt"]);
    assert_eq!(wrong(r#"[{"image": ["a", true]}]"#), ["tasks[1].image[2]"]);
    assert_eq!(wrong(r#"[{"video": false}]"#), ["tasks[1].video"]);
    for shape in ["", "not json", "[]", "{}", "{\"tasks\":null}", "{\"tasks\":{}}", "7", "[1] x", "[NaN]"] {
        assert_eq!(wrong(shape), ["batch_json"], "{shape}");
    }
}

#[test]
fn an_unknown_key_is_wrong_whatever_its_value_and_names_the_nearest() {
    for value in ["null", "\"\"", "1", "{}"] {
        let violations = parse(&format!(r#"["ok", {{"promt": {value}}}]"#)).unwrap_err();
        assert_eq!(violations[0].field, "tasks[2].promt");
        assert!(violations[0].description.contains("prompt"), "{}", violations[0]);
    }
    assert!(parse(r#"{"tasks": ["x"], "promt": true, "version": {"deep": [1]}}"#).is_ok());
}

#[test]
fn of_a_repeated_key_the_last_counts() {
    assert_eq!(one(r#"{"prompt": true, "prompt": "x"}"#).prompt, "x");
    assert_eq!(one(r#"{"prompt": "x", "prompt": null}"#).prompt, "");
    assert_eq!(parse(r#"{"tasks": [], "tasks": ["x", "y"]}"#).unwrap().tasks.len(), 2);
}

#[test]
fn objects_in_disguise_are_no_numbers() {
    assert_eq!(wrong(r#"[{"prompt": {"$serde_json::private::Number": "1"}}]"#), ["tasks[1].prompt"]);
}

#[test]
fn nul_and_length_are_checked_everywhere() {
    let long = "x".repeat(MAX_VALUE_BYTES + 1);
    assert_eq!(
        wrong(&format!(r#"["{long}", {{"title": "{long}", "param": ["a\u0000b", "{long}"]}}, "\u0000"]"#)),
        ["tasks[1].prompt", "tasks[2].param[1]", "tasks[2].param[2]", "tasks[2].title", "tasks[3].prompt"]
    );
    assert!(parse(&format!(r#"["{}"]"#, &long[1..])).is_ok());
    let defaults = Defaults { model: Some(long), scene: Some("a\0".into()), ..Defaults::default() };
    let violations = parse_batch_json("[\"x\"]", &defaults).unwrap_err();
    assert_eq!(violations[0].field, "defaults.model");
    assert_eq!(violations[1].field, "defaults.scene");
}

#[test]
fn half_a_character_is_no_text() {
    assert_eq!(
        wrong(r#"[{"prompt": "\ud83d", "image": ["\ude00"]}, "\ud83d"]"#),
        ["tasks[1].image[1]", "tasks[1].prompt", "tasks[2]"]
    );
}

#[test]
fn at_most_twenty_violations_that_fit_a_status() {
    let key = "长".repeat(5000);
    let task = (0..300).map(|n| format!(r#""{n}{key}": 1"#)).collect::<Vec<_>>().join(",");
    let violations = parse(&format!("[{{{task}}}]")).unwrap_err();
    assert_eq!(violations.len(), MAX_VIOLATIONS);
    let bytes: usize = violations.iter().map(|v| v.field.len() + v.description.len()).sum();
    assert!(bytes < 7 * 1024 - 512, "{bytes}");
    let many = vec!["7"; 100].join(",");
    assert_eq!(parse(&format!("[{many}]")).unwrap_err().len(), MAX_VIOLATIONS);
}

#[test]
fn lists_drop_what_is_empty_and_trim_only_a_single_value() {
    let task =
        one(r#"{"image": "  a b ", "audio": "  ", "video": [" a ", "\u3000", 0, 5, null], "param": null}"#);
    assert_eq!(task.image, ["a b"]);
    assert!(task.audio.is_empty() && task.param.is_empty());
    assert_eq!(task.video, [" a ", "5"]);
}

#[test]
fn blank_is_empty_for_names_and_paths_but_a_prompt_is_a_prompt() {
    let task = one(
        r#"{"prompt":" ","model":"\t","scene":" ","task":" ","output":" ","card_input":"\n","aspect_ratio":" "}"#,
    );
    assert_eq!(task, TaskRequest { prompt: " ".into(), aspect_ratio: " ".into(), ..TaskRequest::default() });
}

#[test]
fn a_blank_label_hides_the_title_and_an_empty_one_does_not() {
    assert_eq!(one(r#"{"label": " ", "title": "T"}"#).label, "");
    assert_eq!(one(r#"{"label": "", "title": " T "}"#).label, "T");
    assert_eq!(one(r#"{"label": 0, "title": "T"}"#).label, "T");
    assert_eq!(one(r#"{"label": 0, "title": 0}"#).label, "");
    assert_eq!(one(r#"{"label": 7}"#).label, "7");
}

#[test]
fn what_a_task_inherits() {
    let text = |text: &str| Some(text.to_owned());
    let defaults = Defaults {
        model: text("dm"),
        scene: text("ds"),
        task: text("dt"),
        run_with_defaults: Some(true),
        sync: Some(true),
    };
    let batch = parse_batch_json(
        r#"["x", {"model": "m", "run_with_defaults": false, "sync": ""}, {"scene": "s", "task": "t"},
            {"model": " ", "scene": 0, "task": "", "sync": 0}]"#,
        &defaults,
    )
    .unwrap();
    let seen: Vec<_> = batch
        .tasks
        .iter()
        .map(|t| (t.model.as_str(), t.scene.as_str(), t.task.as_str(), t.run_with_defaults, t.sync))
        .collect();
    assert_eq!(
        seen,
        [
            ("dm", "ds", "dt", true, true),
            ("m", "", "dt", false, true),
            ("dm", "s", "t", true, true),
            ("dm", "ds", "dt", true, false),
        ]
    );
    let blank = Defaults { model: text(" "), scene: text(""), task: text("\t"), ..Defaults::default() };
    assert_eq!(parse_batch_json("[{}]", &blank).unwrap().tasks[0], TaskRequest::default());
}

#[test]
fn a_payloads_concurrency_is_read_but_not_judged() {
    for (value, read) in [
        ("null", None),
        ("2.9", Some(Integer::Value(2))),
        ("-1", Some(Integer::Value(-1))),
        ("\" 3 \"", Some(Integer::Value(3))),
        ("\"\"", Some(Integer::Unreadable)),
        ("true", Some(Integer::Unreadable)),
        ("[1]", Some(Integer::Unreadable)),
        ("1e99", Some(Integer::Value(i64::MAX))),
    ] {
        let text = format!(r#"{{"concurrency": {value}, "tasks": ["x"]}}"#);
        assert_eq!(parse(&text).unwrap().concurrency, read, "{value}");
    }
}

#[test]
fn the_typed_form_follows_the_same_rules() {
    let text = |text: &str| Some(text.to_owned());
    let input = TaskInput {
        prompt: text(" "),
        model: text(" "),
        title: text(" T "),
        label: text(""),
        image: vec![" a ".into(), " ".into(), "0".into()],
        steps: text("0"),
        duration: text(""),
        confirm_run: Some(true),
        random_seed: Some(true),
        ..TaskInput::default()
    };
    let task = from_tasks(vec![input], &Defaults::default()).unwrap().tasks.remove(0);
    assert_eq!((task.prompt.as_str(), task.model.as_str(), task.label.as_str()), (" ", "", "T"));
    assert_eq!(task.image, [" a ", "0"]);
    assert!(task.steps.is_tuning() && task.duration.text.is_empty() && task.random_seed);

    let limited = TaskInput { time_limit: Some(5), retry: Some(Default::default()), ..TaskInput::default() };
    let violations = from_tasks(vec![limited], &Defaults::default()).unwrap_err();
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["tasks[1].time_limit", "tasks[1].retry.max_attempts"]);

    let bad = TaskInput { seed: text("a\0"), param: vec!["x".into(), "\0".into()], ..TaskInput::default() };
    let violations = from_tasks(vec![TaskInput::default(), bad], &Defaults::default()).unwrap_err();
    assert_eq!(violations[0].field, "tasks[2].seed");
    assert_eq!(violations[1].field, "tasks[2].param[2]");
    assert_eq!(from_tasks(vec![], &Defaults::default()).unwrap_err()[0].field, "tasks");
}

#[test]
fn how_a_batch_is_carried_out_is_read_from_its_object() {
    use crate::core::options::{OnDisconnect, RetryOn};
    let payload = parse(
        r#"{"time_limit": "5m", "queue_time_limit": 3600, "cancel_grace": 0.5, "max_failures": 3,
            "on_disconnect": "stop", "retry": {"max_attempts": 3, "on": [75, "signal"], "backoff": "30s"},
            "tasks": ["x", {"time_limit": "90s", "retry": {"max_attempts": 1}},
                      {"time_limit": null, "retry": ""}]}"#,
    )
    .unwrap();
    let options = payload.options;
    assert_eq!((options.time_limit_ms, options.queue_time_limit_ms), (Some(300_000), Some(3_600_000)));
    assert_eq!((options.cancel_grace_ms, options.max_failures), (Some(500), Some(3)));
    assert_eq!(options.on_disconnect, Some(OnDisconnect::Stop));
    let retry = options.retry.unwrap();
    assert_eq!((retry.max_attempts, retry.backoff_ms, retry.max_backoff_ms), (3, 30_000, 600_000));
    assert_eq!(retry.on.into_iter().collect::<Vec<_>>(), [RetryOn::Code(75), RetryOn::Signal]);
    let own: Vec<_> =
        payload.tasks.iter().map(|t| (t.time_limit_ms, t.retry.as_ref().map(|r| r.max_attempts))).collect();
    assert_eq!(own, [(None, None), (Some(90_000), Some(1)), (None, None)]);
    // One reason need be no list.
    assert_eq!(
        parse(r#"{"retry": {"max_attempts": 2, "on": "signal"}, "tasks": ["x"]}"#).map(|_| ()),
        Ok(())
    );
}

#[test]
fn what_is_wrong_with_it_is_named_by_its_place() {
    for (members, field) in [
        (r#""time_limit": "soon""#, "time_limit"),
        (r#""time_limit": true"#, "time_limit"),
        (r#""queue_time_limit": 0"#, "queue_time_limit"),
        (r#""cancel_grace": -1"#, "cancel_grace"),
        (r#""max_failures": 1.5"#, "max_failures"),
        (r#""max_failures": "x""#, "max_failures"),
        (r#""on_disconnect": "halt""#, "on_disconnect"),
        (r#""retry": 3"#, "retry"),
        (r#""retry": {"max_attempts": null}"#, "retry.max_attempts"),
        (r#""retry": {"max_attempts": [], "on": ["signal"]}"#, "retry.max_attempts"),
        (r#""retry": {"max_attempts": 2, "on": ["signal", 0]}"#, "retry.on[2]"),
        (r#""retry": {"max_attempts": 2, "on": ["signal", {}]}"#, "retry.on[2]"),
        (r#""retry": {"max_attempts": 2, "on": ["signal"], "delay": 3}"#, "retry.delay"),
    ] {
        assert_eq!(wrong(&format!(r#"{{{members}, "tasks": ["x"]}}"#)), [field], "{members}");
    }
    assert_eq!(wrong(r#"["x", {"time_limit": 0}]"#), ["tasks[2].time_limit"]);
    assert_eq!(wrong(r#"[{"retry": {"max_attempts": 2, "on": ["x"]}}]"#), ["tasks[1].retry.on[1]"]);
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn no_text_made_of_json_characters_makes_reading_panic(text in r#"[\[\]{}:,"\\u0-9a-f.eE +-]{0,60}"#) {
        if let Err(violations) = parse(&text) {
            prop_assert!((1..=MAX_VIOLATIONS).contains(&violations.len()));
        }
    }

    #[test]
    fn a_string_is_a_prompt_exactly_as_it_is(prompt in "[^\\x00]*") {
        let text = serde_json::to_string(&[&prompt]).unwrap();
        prop_assert_eq!(&parse(&text).unwrap().tasks[0].prompt, &prompt);
    }
}
