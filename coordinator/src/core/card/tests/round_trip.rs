//! What is read back is what was shown, whatever the task and whatever a publisher says.

use proptest::prelude::*;

use super::*;
use crate::core::card::value::is_hidden;
use crate::core::integer::Integer;
use crate::core::payload::TaskInput;

/// Texts of the kinds that matter: plain, odd, and those that the grammar takes for something else.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => any::<String>(),
        2 => "[a-z ：:\"'`\\\\#>*_\\-\n\r\t{}|.0-9xX秒s]{0,12}",
        3 => prop::sample::select(vec![
            "auto", "默认", "DEFAULT", "随便", "random", "随机", "-1", "007", "0", "5s", "8秒", "800x600", "1080P",
            "16:9", " ", "\u{3000}", "\"", "\"quoted\"", "a\nb", "## 2. x", "---", "> x", "- model: x", "model: x",
            "\u{202e}", "\u{feff}x", "\u{2028}", "true", "x=1", "```", "**", "提示词：x", "\u{1b}[2J", "1. x",
        ]).prop_map(str::to_owned),
    ]
    .prop_filter("no argument can hold it", |text: &String| !text.contains('\0'))
}

fn some() -> impl Strategy<Value = Option<String>> {
    prop::option::weighted(0.4, value())
}

fn list() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(value(), 0..3)
}

fn model() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        Just(None),
        prop::sample::select(vec!["bpro-t2i", "WAN", "v/m", "44306", "kling"])
            .prop_map(|m| Some(m.to_owned())),
        some(),
    ]
}

fn card_input() -> impl Strategy<Value = Option<String>> {
    let line = prop::sample::select(vec![
        "比例：16:9",
        "规格：2K",
        "规格：800x600",
        "seed：7",
        "seed：随机",
        "时长：8秒",
        "提示词：a\nb",
        "其他补充：横 5秒",
        "档位",
        "模型档位：auto",
        "宽度：9",
    ]);
    prop::option::weighted(0.4, prop::collection::vec(line, 0..4).prop_map(|lines| lines.join("\n")))
}

fn task() -> impl Strategy<Value = TaskInput> {
    let flag = || prop::option::of(any::<bool>());
    (
        (model(), some(), some(), some(), card_input(), some(), some(), some()),
        (some(), some(), some(), some(), some(), some()),
        (list(), list(), list(), list()),
        (flag(), flag(), flag()),
    )
        .prop_map(|(texts, tuning, lists, flags)| {
            let (model, scene, label, prompt, card_input, aspect_ratio, resolution, output) = texts;
            let (steps, duration, seed, model_name, width, height) = tuning;
            let (image, audio, video, param) = lists;
            let (run_with_defaults, random_seed, sync) = flags;
            TaskInput {
                model,
                // Now and then is enough: it hides the model.
                scene: scene.filter(|scene| scene.len() % 3 == 0),
                label,
                prompt,
                card_input,
                aspect_ratio,
                resolution,
                output,
                steps,
                duration,
                seed,
                model_name,
                width,
                height,
                image,
                audio,
                video,
                param,
                run_with_defaults,
                random_seed,
                sync,
                ..TaskInput::default()
            }
        })
}

fn kind() -> impl Strategy<Value = FieldKind> {
    prop_oneof![
        Just(FieldKind::Text),
        Just(FieldKind::Choice),
        Just(FieldKind::Flag),
        Just(FieldKind::Number),
        Just(FieldKind::Slider),
        Just(FieldKind::Seed),
        Just(FieldKind::Images),
        Just(FieldKind::Audios),
        Just(FieldKind::Videos),
        Just(FieldKind::MediaSlot),
        any::<String>().prop_map(FieldKind::Other),
    ]
}

fn said() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        value(),
        prop::sample::select(vec![
            "prompt",
            "aspect_ratio",
            "比例",
            "seed",
            "x",
            "7",
            "1.5",
            "x\n- model: evil"
        ])
        .prop_map(str::to_owned),
        "[a-z长\u{202e}\n]{200,400}",
    ]
}

fn input() -> impl Strategy<Value = InputField> {
    (
        (said(), said(), kind(), said(), prop::collection::vec(said(), 0..12)),
        (0_usize..3, any::<bool>(), said(), said()),
    )
        .prop_map(|((name, label, kind, preset, options), (options_left_out, required, min, max))| {
            InputField { name, label, kind, preset, options, options_left_out, required, min, max }
        })
}

fn any_contract() -> impl Strategy<Value = Result<Contract, Unavailable>> {
    prop_oneof![
        4 => (said(), prop::collection::vec(input(), 0..8), 0_usize..3)
            .prop_map(|(name, fields, fields_left_out)| Ok(Contract { name, fields, fields_left_out })),
        1 => (any::<i64>(), said()).prop_map(|(code, message)| Err(Unavailable::Refused { code, message })),
        1 => Just(Err(Unavailable::Busy { status: 429, code: Some(20049) })),
    ]
}

fn planned(payload: &Payload) -> Option<Vec<TaskSpec>> {
    let approvals = Approvals { concurrency: true, task_count: true };
    plan::plan_batch(payload, Some(1), approvals, &policy(), &Catalog::builtin())
        .ok()
        .map(|planned| planned.tasks)
}

/// The bytes of the lines that are not the task's own.
fn note_bytes(card: &str) -> usize {
    let is_note = |line: &&str| {
        let key = line.split([':', '：']).next().unwrap_or_default();
        !matches!(keys::meaning(&crate::core::card_input::clean_key(key)), Some(keys::Meaning::Field(_)))
    };
    card.lines().filter(is_note).map(|line| line.len() + 1).sum()
}

proptest! {
    #[test]
    fn any_task_comes_back_as_it_was(
        inputs in prop::collection::vec(task(), 1..3),
        contract in any_contract(),
        lang in prop::sample::select(LANGS.to_vec()),
        concurrency in prop::option::of(prop_oneof![
            any::<i64>().prop_map(Integer::Value),
            Just(Integer::Unreadable)
        ]),
    ) {
        let Ok(mut payload) = payload::from_tasks(inputs, &Defaults::default()) else { return Ok(()) };
        payload.concurrency = concurrency;
        let Some(before) = planned(&payload) else { return Ok(()) };

        let text = text(&payload, contract.as_ref(), lang);
        prop_assert!(!text.replace('\n', "").contains(is_hidden), "{text:?}");
        let back = read(&text, &Defaults::default(), &Catalog::builtin());
        prop_assert!(back.is_ok(), "{back:?} of\n{text}");
        let back = back.unwrap();
        prop_assert_eq!(back.concurrency, concurrency);
        prop_assert_eq!(planned(&back), Some(before), "of\n{}", text);

        // What a publisher says changes nothing.
        let alone = super::text(&payload, Err(&Unavailable::NoSource), lang);
        prop_assert_eq!(read_back(&alone), back);
        for card in cards(&payload, contract.as_ref(), lang) {
            prop_assert!(note_bytes(&card) <= MAX_CARD_BYTES);
        }
    }

    #[test]
    fn no_text_makes_reading_panic(text in any::<String>()) {
        let _ = read(&text, &Defaults::default(), &Catalog::builtin());
    }

    #[test]
    fn no_text_made_of_card_words_makes_reading_panic(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "model", "模型", "prompt", "seed", "规格", "field", "字段", "notes", "concurrency", ": ", "：", "\n",
                "\n", "## ", "# ", "> ", "- ", "---", "\"", "\\", "x", "7", "800x600", "随机", "auto", "\r", "**",
            ]),
            0..40,
        ),
    ) {
        if let Err(violations) = read(&words.concat(), &Defaults::default(), &Catalog::builtin()) {
            prop_assert!((1..=payload::MAX_VIOLATIONS).contains(&violations.len()));
        }
    }
}

#[test]
fn the_worst_contract_stays_within_the_bound() {
    let long = || "长".repeat(5000);
    let field = |number: usize, kind: FieldKind| InputField {
        name: format!("{number}{}", long()),
        label: long(),
        kind,
        preset: long(),
        options: vec![long(); 300],
        options_left_out: usize::MAX,
        required: number.is_multiple_of(2),
        min: long(),
        max: long(),
    };
    let mut fields: Vec<InputField> =
        (0..200).map(|number| field(number, FieldKind::Other(long()))).collect();
    for key in SINGLE {
        fields.push(InputField { name: key.field().into(), ..field(1, FieldKind::Number) });
    }
    fields.extend([FieldKind::Images, FieldKind::Audios, FieldKind::Videos].map(|kind| field(2, kind)));
    let contract = Contract { name: long(), fields, fields_left_out: usize::MAX };
    let params: Vec<String> = (0..200).map(|number| format!("{number}{}={}", long(), long())).collect();
    let payload = Payload {
        concurrency: None,
        options: Default::default(),
        tasks: vec![TaskRequest { prompt: long(), param: params[..8].to_vec(), ..TaskRequest::default() }],
    };
    for lang in LANGS {
        for contract in [Ok(&contract), Err(&Unavailable::Refused { code: i64::MIN, message: long() })] {
            let card = cards(&payload, contract, lang).remove(0);
            assert!(note_bytes(&card) <= MAX_CARD_BYTES, "{}", note_bytes(&card));
        }
    }
}

#[test]
fn labels_that_are_left_out_and_those_that_are_not() {
    let payload =
        tasks(r#"["x", {"prompt": "y", "label": "Task 1"}, {"prompt": "z", "label": "hero\nshot"}]"#);
    for lang in LANGS {
        let text = text(&payload, Ok(&contract()), lang);
        assert!(text.contains("## 1. Task 1\n") && text.contains("## 3. hero␊shot\n"), "{text}");
        assert_eq!(specs(&read_back(&text)), specs(&payload));
    }
}
