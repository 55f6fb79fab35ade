//! Whatever a publisher replies, a card stays bounded, shows nothing that a terminal obeys, and reads back as
//! the same task.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use muster_coordinator::core::admission::Approvals;
use muster_coordinator::core::card::{self, Facts, Lang, MAX_CARD_BYTES};
use muster_coordinator::core::catalog::Catalog;
use muster_coordinator::core::contract::{self, Answer, Contract, Hide, Source, Unavailable};
use muster_coordinator::core::payload::{self, Defaults, Payload};
use muster_coordinator::core::plan::{self, TaskSpec};
use muster_coordinator::core::policy::{Policy, SystemLimits};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        prop::sample::select(vec![
            "prompt",
            "提示词",
            "aspect_ratio",
            "seed",
            "combo",
            "customtext",
            "images",
            "slider",
            "hidden",
            "boolean",
            "7",
            "16:9",
            "x\n- model: evil\n## 2. evil",
            "\u{1b}[2J\u{202e}",
        ])
        .prop_map(str::to_owned),
        Just("长a".repeat(150)),
    ]
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(vec![
            "code", "data", "display_name", "name", "input_params", "input_nodes", "field_name", "field_label",
            "field_type", "field_value", "field_options", "values", "required", "min", "max", "variable_name",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

/// One input: the documented members, each most likely of its own type.
fn input() -> impl Strategy<Value = Value> {
    let own = || prop_oneof![4 => text().prop_map(Value::from), 1 => anything()];
    let values = prop::collection::vec(own(), 0..12).prop_map(|values| json!({"values": values}));
    (own(), own(), own(), own(), prop_oneof![3 => values, 1 => anything()], anything()).prop_map(
        |(name, label, kind, preset, options, required)| {
            json!({
                "field_name": name, "variable_name": name, "field_label": label, "field_type": kind,
                "field_value": preset, "field_options": options, "required": required,
            })
        },
    )
}

fn reply() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (text(), prop::collection::vec(input(), 0..20)).prop_map(|(name, inputs)| {
            json!({"code": 20000, "data": {"display_name": name, "input_params": inputs, "input_nodes": inputs}})
        }),
        1 => (any::<i32>(), text()).prop_map(|(code, message)| json!({"code": code, "message": message})),
        1 => anything(),
        1 => prop::collection::vec((key(), anything()), 0..6)
            .prop_map(|members| Value::Object(members.into_iter().collect::<Map<String, Value>>())),
    ]
}

fn planned(payload: &Payload) -> Vec<TaskSpec> {
    let policy = Policy::fallback(SystemLimits::default());
    plan::plan_batch(payload, Some(1), Approvals::default(), &policy, &Catalog::builtin()).unwrap().tasks
}

proptest! {
    // Each case parses, plans and renders a lot.
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_card_of_any_reply_is_bounded_clean_and_true(
        reply in reply(),
        app in any::<bool>(),
        lang in prop::sample::select(vec![Lang::En, Lang::Zh]),
        task in prop::sample::select(vec![
            json!({"prompt": "a lighthouse"}),
            json!({"model": "44306", "seed": "-1", "resolution": "800x600", "param": ["7=x", "prompt=y"]}),
            json!({"model": "kling", "card_input": "时长：8\n其他补充：竖", "image": ["a", "b"], "random_seed": true}),
        ]),
    ) {
        let source = if app { Source::App("44306".into()) } else { Source::Endpoint("v/m".into()) };
        let found: Result<Contract, Unavailable> =
            match contract::contract(&source, 200, reply.to_string().as_bytes(), Hide::NOTHING) {
                Answer::Found(found) => Ok(found),
                Answer::Retry(why) | Answer::Failed(why) => Err(why),
            };
        let payload = payload::parse_batch_json(&json!([task]).to_string(), &Defaults::default()).unwrap();
        let (specs, catalog) = (planned(&payload), Catalog::builtin());
        let facts = Facts {
            index: 1,
            request: &payload.tasks[0],
            spec: &specs[0],
            catalog: &catalog,
            contract: found.as_ref(),
            price: None,
        };
        let card = card::render(&facts, lang);
        prop_assert!(card.len() <= MAX_CARD_BYTES);
        let hidden = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
        prop_assert!(!card.contains(hidden), "{card:?}");

        let text = card::reply(&[(&specs[0].label, &card)], None, lang);
        let back = card::read(&text, &Defaults::default(), &catalog);
        prop_assert!(back.is_ok(), "{back:?} of\n{text}");
        prop_assert_eq!(planned(&back.unwrap()), specs, "of\n{}", text);
    }
}
