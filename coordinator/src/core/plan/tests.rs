//! What the conformance vectors leave open about planning.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::core::payload::{Defaults, parse_batch_json};
use crate::core::policy::SystemLimits;

fn plan(task: Value) -> Result<TaskSpec, Refusal> {
    let payload =
        parse_batch_json(&json!([task]).to_string(), &Defaults::default()).map_err(Refusal::Invalid)?;
    let policy = Policy::fallback(SystemLimits::default());
    plan_batch(&payload, None, Approvals::default(), &policy, &Catalog::builtin())
        .map(|mut planned| planned.tasks.remove(0))
}

fn spec(task: Value) -> TaskSpec {
    plan(task).unwrap()
}

fn wrong_field(task: Value) -> String {
    match plan(task) {
        Err(Refusal::Invalid(violations)) => violations[0].field.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_display_name_is_the_catalogues_or_the_slug() {
    assert_eq!(spec(json!({"scene": "v3"})).display_name, "可灵3.0.Pro");
    assert_eq!(spec(json!({"model": "vendor/thing"})).display_name, "vendor/thing");
}

#[test]
fn the_card_fills_only_what_the_task_left_empty() {
    let planned = spec(json!({
        "model": "wan27-t2v", "prompt": " ", "duration": 0, "resolution": 0, "width": "1", "aspect_ratio": "",
        "card_input": "提示词：p\n时长：8\n宽度：9\n高度：7\n比例：1:1\nseed：随机",
    }));
    assert_eq!(planned.prompt, " ");
    assert_eq!((planned.duration.as_str(), planned.resolution.as_str()), ("0", "720*1280"));
    assert_eq!((planned.width.as_str(), planned.height.as_str()), ("1", "7"));
    assert_eq!(planned.aspect_ratio, "1:1");
    assert!(planned.random_seed);
}

#[test]
fn a_bad_card_is_an_error_even_where_the_task_has_its_own_value() {
    let task = json!({"duration": 5, "card_input": "比例：1:1\n时长：long"});
    let Err(Refusal::Invalid(violations)) = plan(task) else { panic!("no refusal") };
    assert_eq!(violations[0].field, "tasks[1].card_input");
    assert!(violations[0].description.contains("line 2"), "{}", violations[0]);
}

#[test]
fn the_first_task_that_fails_refuses_the_batch() {
    let text = r#"["x", {"scene": 6}, {"card_input": "seed: x"}]"#;
    let payload = parse_batch_json(text, &Defaults::default()).unwrap();
    let policy = Policy::fallback(SystemLimits::default());
    let catalog = Catalog::builtin();
    let refusal = plan_batch(&payload, None, Approvals::default(), &policy, &catalog).unwrap_err();
    assert_eq!(refusal.code(), "BATCH_SEARCH_FLOW_NOT_SUPPORTED");
    assert_eq!(
        refusal.metadata(),
        [
            ("slug", "modelzoo-search-flow".to_owned()),
            ("task_index", "2".to_owned()),
            ("phase", "batch_run".to_owned())
        ]
    );
}

#[test]
fn a_prefill_asks_for_the_key_after_the_size_and_before_the_tasks() {
    let code = |tasks: usize, has_api_key| {
        let text = json!({"concurrency": "many", "tasks": vec![json!({"scene": "7"}); tasks]}).to_string();
        let payload = parse_batch_json(&text, &Defaults::default()).unwrap();
        let policy = Policy::fallback(SystemLimits::default());
        plan_prefill(&payload, Approvals::default(), &policy, &Catalog::builtin(), has_api_key)
            .map_err(|refusal| (refusal.code(), refusal.metadata()))
            .unwrap_err()
    };
    assert_eq!(code(6, false).0, "BATCH_TASK_COUNT_REQUIRES_APPROVAL");
    assert_eq!(code(1, false).0, "NO_API_KEY");
    let (search, metadata) = code(1, true);
    assert_eq!(search, "BATCH_SEARCH_FLOW_NOT_SUPPORTED");
    assert!(metadata.contains(&("phase", "batch_prefill".to_owned())));
}

#[test]
fn the_run_mode_hears_its_words_in_prompt_and_card_in_any_case() {
    let mode = |task: Value| spec(task).run_mode;
    assert_eq!(mode(json!({"model": "44306", "prompt": "DEFAULT look"})), RunMode::RunWithDefaults);
    assert_eq!(mode(json!({"model": "44306", "card_input": "anything: Auto"})), RunMode::RunWithDefaults);
    assert_eq!(mode(json!({"model": "44306", "prompt": "都", "card_input": "行"})), RunMode::ConfirmRun);
    assert_eq!(
        mode(json!({"model": "44306", "seed": 1, "run_with_defaults": true})),
        RunMode::RunWithDefaults
    );
}

#[test]
fn tuning_is_what_is_neither_empty_nor_the_number_zero() {
    for key in
        ["aspect_ratio", "resolution", "steps", "duration", "seed", "model_name", "width", "height", "param"]
    {
        let mode = |value: Value| spec(json!({"model": "b2-t2i", (key): value})).run_mode;
        for none in [json!(0), json!(0.0), json!(""), json!(null)] {
            // One 0 as a list is a value, as an entry it is none.
            let none = if key == "param" { json!([none]) } else { none };
            assert_eq!(mode(none.clone()), RunMode::RunWithDefaults, "{key} {none}");
        }
        for some in [json!("0"), json!(1), json!("x")] {
            assert_eq!(mode(some.clone()), RunMode::ConfirmRun, "{key} {some}");
        }
    }
    assert_eq!(spec(json!({"model": "b2-t2i", "random_seed": 0})).run_mode, RunMode::RunWithDefaults);
    // Own media, an output and a label are no tuning.
    let task = json!({"model": "b2-t2i", "image": "a", "output": "o", "label": "l", "sync": 1});
    assert_eq!(spec(task).run_mode, RunMode::RunWithDefaults);
}

#[test]
fn what_no_program_could_be_started_with_is_refused_by_field() {
    let longest = "x".repeat(MAX_ARG_BYTES);
    assert!(plan(json!({"prompt": longest})).is_ok());
    assert_eq!(wrong_field(json!({"prompt": format!("{longest}x")})), "tasks[1].prompt");
    // Joined to its flag it is too long.
    let dashed = format!("-{}", &longest[1..]);
    assert_eq!(wrong_field(json!({"param": ["a", dashed]})), "tasks[1].param");
    // From a card too.
    assert_eq!(wrong_field(json!({"card_input": format!("提示词:{longest}")})), "tasks[1].card_input");
    let images = vec![&longest; 8];
    assert_eq!(wrong_field(json!({"prompt": "x", "image": images, "video": "v"})), "tasks[1].image");
    assert!(plan(json!({"prompt": "x", "image": &images[..7]})).is_ok());
    // Many small ones weigh more than their letters.
    assert_eq!(wrong_field(json!({"param": vec!["a=1"; 50_000]})), "tasks[1].param");
}

#[test]
fn a_spec_survives_storage_and_an_older_one_can_be_read() {
    let planned = spec(json!({"prompt": "p", "seed": 0, "image": ["a"], "sync": true}));
    let stored = serde_json::to_string(&planned).unwrap();
    assert_eq!(serde_json::from_str::<TaskSpec>(&stored).unwrap(), planned);
    assert!(stored.contains(r#""run_mode":"run_with_defaults""#), "{stored}");
    assert!(!stored.contains("aspect_ratio"), "{stored}");
    let older: TaskSpec = serde_json::from_str(r#"{"label":"l","model":"m"}"#).unwrap();
    assert_eq!(older.command("o"), ["--model", "m", "--output", "o", "--confirm-run"]);
}

/// Any JSON value of a kind that a task might be sent.
fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        any::<String>(),
        "-{1,2}[a-z-]{0,12}(=[a-z]{0,3})?",
        prop::sample::select(vec![
            "true",
            "",
            " ",
            "0",
            "-1",
            "--output",
            "提示词：-x",
            "seed：随机",
            "v2",
            "Kling"
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            1 => prop::collection::btree_map("[a-z]{1,6}", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

const KEYS: [&str; 26] = [
    "prompt",
    "task",
    "model",
    "scene",
    "label",
    "title",
    "card_input",
    "run_with_defaults",
    "confirm_run",
    "param_help",
    "image",
    "audio",
    "video",
    "aspect_ratio",
    "resolution",
    "steps",
    "duration",
    "seed",
    "random_seed",
    "model_name",
    "width",
    "height",
    "param",
    "output",
    "sync",
    "promt",
];

proptest! {
    #[test]
    fn nothing_shaped_like_a_batch_makes_planning_panic(
        tasks in prop::collection::vec(
            prop::collection::btree_map(prop::sample::select(KEYS.to_vec()), value(), 0..5),
            1..4,
        ),
        concurrency in value(),
    ) {
        let text = json!({"tasks": tasks, "concurrency": concurrency}).to_string();
        let policy = Policy::fallback(SystemLimits::default());
        let refusal = parse_batch_json(&text, &Defaults::default()).map_err(Refusal::Invalid).and_then(|payload| {
            plan_batch(&payload, None, Approvals::default(), &policy, &Catalog::builtin())
        });
        if let Err(refusal) = refusal {
            prop_assert!(!refusal.to_string().is_empty());
        }
    }

    /// Read back as the program would: every argument is a known flag, or the value of the flag before it.
    #[test]
    fn no_value_ever_becomes_a_flag(
        texts in prop::collection::btree_map(
            prop::sample::select(vec![
                "prompt", "model", "scene", "card_input", "image", "audio", "video", "aspect_ratio", "resolution",
                "steps", "duration", "seed", "model_name", "width", "height", "param", "output",
            ]),
            prop_oneof!["-{1,2}[a-z-]{0,12}(=[a-z]{0,3})?", "[^\\x00]{0,8}", Just("提示词：--sync".to_owned())],
            0..8,
        ),
        assigned in "-{0,2}[a-z/]{1,6}",
    ) {
        let Ok(planned) = plan(json!(texts)) else { return Ok(()) };
        let args = planned.command(&assigned);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let name = arg.split_once('=').map_or(arg.as_str(), |(name, _)| name);
            if FLAG_FIELDS.iter().any(|(flag, _)| *flag == name) {
                if name == arg {
                    prop_assert!(!args.next().unwrap().starts_with('-'));
                }
            } else {
                prop_assert!(
                    ["--random-seed", "--sync", "--run-with-defaults", "--confirm-run"].contains(&arg.as_str()),
                    "{}", arg
                );
            }
        }
        prop_assert!(planned.sync || !planned.command(&assigned).contains(&"--sync".to_owned()));
    }
}
