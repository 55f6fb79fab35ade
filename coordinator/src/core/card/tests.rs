//! What was promised about cards.

mod edits;
mod errors;
mod round_trip;
mod slips;

use super::compose::SINGLE;
use super::keys::Key;
use super::source::Sources;
use super::*;
use crate::core::admission::Approvals;
use crate::core::contract::{FieldKind, InputField};
use crate::core::payload::{self, Defaults, Payload};
use crate::core::plan::{self, RunMode};
use crate::core::policy::{Policy, SystemLimits};

const LANGS: [Lang; 2] = [Lang::En, Lang::Zh];

fn policy() -> Policy {
    Policy::fallback(SystemLimits::default())
}

fn tasks(json: &str) -> Payload {
    payload::parse_batch_json(json, &Defaults::default()).unwrap()
}

fn specs(payload: &Payload) -> Vec<TaskSpec> {
    plan::plan_batch(payload, Some(1), Approvals::default(), &policy(), &Catalog::builtin()).unwrap().tasks
}

fn cards(payload: &Payload, contract: Result<&Contract, &Unavailable>, lang: Lang) -> Vec<String> {
    let catalog = Catalog::builtin();
    (1..)
        .zip(payload.tasks.iter().zip(specs(payload)))
        .map(|(index, (request, spec))| {
            let facts = Facts { index, request, spec: &spec, catalog: &catalog, contract, price: None };
            render(&facts, lang)
        })
        .collect()
}

fn text(payload: &Payload, contract: Result<&Contract, &Unavailable>, lang: Lang) -> String {
    let cards = cards(payload, contract, lang);
    let specs = specs(payload);
    let cards: Vec<(&str, &str)> =
        specs.iter().zip(&cards).map(|(spec, card)| (spec.label.as_str(), card.as_str())).collect();
    reply(&cards, payload.concurrency, lang)
}

fn read_back(text: &str) -> Payload {
    read(text, &Defaults::default(), &Catalog::builtin())
        .unwrap_or_else(|violations| panic!("{violations:?} of\n{text}"))
}

fn contract() -> Contract {
    let field = |name: &str, label: &str, kind, preset: &str, options: &[&str]| InputField {
        name: name.into(),
        label: label.into(),
        kind,
        preset: preset.into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..InputField::default()
    };
    Contract {
        name: "Picture B Pro".into(),
        fields: vec![
            InputField { required: true, ..field("prompt", "提示词", FieldKind::Text, "", &[]) },
            field(
                "aspect_ratio",
                "比例",
                FieldKind::Choice,
                "1:1",
                &["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "21:9", "9:21", "5:4"],
            ),
            field("resolution", "规格", FieldKind::Choice, "2K", &["1K", "2K", "4K"]),
            field("noise_seed", "种子", FieldKind::Seed, "-1", &[]),
            InputField {
                min: "1".into(),
                max: "20".into(),
                ..field("cfg", "CFG", FieldKind::Slider, "7", &[])
            },
            field("hd", "HD", FieldKind::Flag, "false", &[]),
            InputField { required: true, ..field("images", "图片", FieldKind::Images, "", &[]) },
        ],
        fields_left_out: 0,
    }
}

/// The lines of the only card of a task.
fn card(json: &str, contract: Result<&Contract, &Unavailable>, lang: Lang) -> String {
    cards(&tasks(&format!("[{json}]")), contract, lang).remove(0)
}

fn has(card: &str, line: &str) {
    assert!(card.lines().any(|own| own.trim_start_matches([' ', '-']) == line), "{line:?} in\n{card}");
}

fn has_not(card: &str, part: &str) {
    assert!(!card.contains(part), "{part:?} in\n{card}");
}

#[test]
fn a_card_says_what_will_be_used_and_where_it_comes_from() {
    let task = r#"{"model": "bpro-t2i", "prompt": "a lighthouse", "card_input": "规格：8K", "seed": 0}"#;
    let english = card(task, Ok(&contract()), Lang::En);
    for line in [
        "model: bpro-t2i",
        "name: 通用图片B.Pro (the publisher calls it Picture B Pro)",
        "price: unknown",
        "prompt: a lighthouse",
        "field: 提示词, text, required; from you",
        "aspect_ratio: 1:1",
        "field: 比例, one of the options; from the catalogue",
        "options: 1:1, 16:9, 9:16, 4:3, 3:4, 3:2, 2:3, 21:9 and 2 more",
        "resolution: 8K",
        "field: 规格, one of the options; from the card",
        "warning: 8K is not among the options; the API may refuse it, or bill it",
        "seed: 0",
        "image:",
        "missing: required, and none is given",
        "run_mode: confirm_run",
    ] {
        has(&english, line);
    }
    let chinese = card(task, Ok(&contract()), Lang::Zh);
    for line in [
        "模型：bpro-t2i",
        "提示词：a lighthouse",
        "字段：提示词，文本，必填；由任务指定",
        "比例：1:1",
        "规格：8K",
        "注意：8K 不在选项之中；接口可能拒绝，也可能照样计费",
        "随机性：0",
        "图片：",
        "缺少：必填，但未提供",
        "运行方式：confirm_run",
    ] {
        has(&chinese, line);
    }
}

#[test]
fn what_is_left_open_names_who_fills_it() {
    let bare = card(r#"{"model": "bpro-t2i", "prompt": "x"}"#, Ok(&contract()), Lang::En);
    has(&bare, "field: 比例, one of the options; left open, 1:1 from the catalogue");
    has(&bare, "field: 种子, seed; left open, random");
    has(&bare, "run_mode: run_with_defaults");
    let tuned = card(r#"{"model": "bpro-t2i", "seed": "random"}"#, Ok(&contract()), Lang::En);
    has(&tuned, "field: 比例, one of the options; left open, 1:1 from the model");
    has(&tuned, "seed: \"random\"");
    has(&tuned, "warning: random is not a number; the API may refuse it, or bill it");
    has(&tuned, "field: 提示词, text, required; left open, no preset is known");
    let random = card(r#"{"model": "v/m", "random_seed": true}"#, Ok(&contract()), Lang::En);
    has(&random, "seed: random");
    has(&random, "field: 种子, seed; random at each run, from you");
    let fixed = Contract {
        fields: vec![InputField { kind: FieldKind::Seed, preset: "42".into(), ..InputField::default() }],
        ..Contract::default()
    };
    has(&card(r#"{"model": "v/m"}"#, Ok(&fixed), Lang::En), "field: seed; left open, 42 from the model");
}

#[test]
fn an_input_that_only_a_param_sets_is_shown_with_the_way_to_set_it() {
    let contract = contract();
    let open = card(r#""x""#, Ok(&contract), Lang::En);
    has(
        &open,
        "field: CFG (cfg), number in a range; left open, 7 from the model; to set it, add a line with \
         the key param and the value cfg=VALUE",
    );
    let task = r#"{"model": "v/m", "param": ["hd=maybe", "cfg=30", "other=1"]}"#;
    let set = card(task, Ok(&contract), Lang::En);
    has(&set, "warning: maybe is neither true nor false; the API may refuse it, or bill it");
    has(&set, "range: 1 to 20");
    has(&set, "warning: 30 is above the maximum, 20; the API may refuse it, or bill it");
    has(&set, "warning: the model has no such field; the API may ignore it or refuse it");
    has_not(&set, "to set it");
    // Of a contract that is not whole nothing can be said to be missing from it.
    let part = Contract { fields_left_out: 3, ..contract };
    let set = card(task, Ok(&part), Lang::En);
    has_not(&set, "no such field");
    has(&set, "field: and 3 more fields that are not shown");
}

#[test]
fn slots_for_own_media_are_counted() {
    let slot = |name: &str| InputField {
        name: name.into(),
        kind: FieldKind::MediaSlot,
        preset: "example.png".into(),
        ..InputField::default()
    };
    let app = Contract { fields: vec![slot("1:Load.image"), slot("2:Load.image")], ..Contract::default() };
    let none = card(r#"{"model": "44306"}"#, Ok(&app), Lang::En);
    has(&none, "missing: slots for your own media, 2; given, 0");
    has(&none, "image:");
    let one = card(r#"{"model": "44306", "video": "v.mp4"}"#, Ok(&app), Lang::En);
    has(&one, "missing: slots for your own media, 2; given, 1");
    let both = r#"{"model": "44306", "image": "a.png", "param": "2:Load.image=b.png"}"#;
    has_not(&card(both, Ok(&app), Lang::En), "missing");
}

#[test]
fn without_a_contract_the_card_says_why_and_is_whole_all_the_same() {
    let refused = Unavailable::Refused { code: 40400, message: "no\u{202e}such".into() };
    let found = card(r#"{"model": "bpro-t2i", "image": "a.png", "sync": true}"#, Err(&refused), Lang::En);
    for line in [
        "contract: not known, as the publisher answered with code 40400, no\u{fffd}such; only what the task itself \
         says is shown",
        "prompt:",
        "aspect_ratio:",
        "image: a.png",
        "sync: true",
        "run_mode: run_with_defaults",
    ] {
        has(&found, line);
    }
    has_not(&found, "warning");
}

#[test]
fn a_price_is_shown_as_it_was_given() {
    let payload = tasks(r#"["x"]"#);
    let (specs, catalog, contract) = (specs(&payload), Catalog::builtin(), contract());
    let facts = Facts {
        index: 1,
        request: &payload.tasks[0],
        spec: &specs[0],
        catalog: &catalog,
        contract: Ok(&contract),
        price: Some("0.12 CNY / image"),
    };
    has(&render(&facts, Lang::En), "price: 0.12 CNY / image");
    has(&render(&facts, Lang::Zh), "价格：0.12 CNY / image");
}

#[test]
fn the_command_is_the_planned_one_without_a_key() {
    let found = card(r#"{"prompt": "it is", "param": ["--api-key=abc"]}"#, Ok(&contract()), Lang::En);
    has(
        &found,
        "command: `dispatch --model bpro-t2i --prompt 'it is' --param=--api-key=abc --output {output} --confirm-run`",
    );
}

#[test]
fn a_card_sent_back_whole_as_card_input_changes_nothing_that_was_given() {
    for task in [
        r#"{"model": "bpro-t2i", "prompt": "a lighthouse"}"#,
        r#"{"model": "bpro-t2i", "prompt": "a lighthouse", "resolution": "2K", "aspect_ratio": "16:9"}"#,
        r#"{"model": "v/m", "prompt": "a lighthouse", "seed": 42, "sync": true, "image": "a.png"}"#,
        r#"{"model": "wan27-t2v", "card_input": "时长：8\n比例：1:1\n其他补充：随机", "param": "cfg=3"}"#,
        r#"{"model": "wan27-t2v", "prompt": "x", "width": 512, "height": "512", "steps": 20, "label": "hero"}"#,
    ] {
        let payload = tasks(&format!("[{task}]"));
        let before = specs(&payload).remove(0);
        let defaults = Catalog::builtin();
        // Options that are run words themselves say nothing about the run.
        let mut contract = contract();
        contract.fields[1].options.insert(0, "auto".into());
        contract.fields[1].preset = "默认".into();
        for lang in LANGS {
            for contract in [Ok(&contract), Err(&Unavailable::Malformed)] {
                let mut again = payload.clone();
                again.tasks[0].card_input = cards(&payload, contract, lang).remove(0);
                let after = specs(&again).remove(0);
                assert_eq!(after.run_mode, before.run_mode, "{task}");
                // What was left open, the catalogue fills where a card comes; that is the rule of card_input.
                for key in SINGLE {
                    let of = |spec: &TaskSpec| {
                        let facts = Facts {
                            index: 1,
                            request: &again.tasks[0],
                            spec,
                            catalog: &defaults,
                            contract,
                            price: None,
                        };
                        Sources::new(&facts).state(key, None).value().unwrap_or_default().to_owned()
                    };
                    let (was, is) = (of(&before), of(&after));
                    let filled =
                        was.is_empty() && is == source::preset(defaults.defaults(&before.model), key);
                    assert!(was == is || filled, "{key:?} of {task}: {was:?}, then {is:?}");
                }
                assert_eq!(after.random_seed, before.random_seed, "{task}");
                assert_eq!(
                    (after.image, after.param, after.label, after.sync),
                    (before.image.clone(), before.param.clone(), before.label.clone(), before.sync)
                );
            }
        }
    }
}
