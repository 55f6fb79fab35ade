//! What was promised about cards.

use proptest::prelude::*;

use super::*;
use crate::core::admission::Approvals;
use crate::core::integer::Integer;
use crate::core::payload::{self, Defaults, FieldViolation, Payload, TaskInput};
use crate::core::plan::{self, RUN_WORDS};
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
    read(text, &Catalog::builtin()).unwrap_or_else(|violations| panic!("{violations:?} of\n{text}"))
}

#[test]
fn show() {
    let payload = tasks(
        r#"{"concurrency": 2, "tasks": [{"prompt": "a lighthouse", "model": "bpro-t2i", "resolution": "8K", "random_seed": true, "param": ["cfg=3", "x=1"], "image": ["a.png", "b.png"]}, {"prompt": "line1\nline2", "label": "hero", "model": "wan27", "card_input": "时长：8"}, "x"]}"#,
    );
    let contract = contract();
    for lang in LANGS {
        println!("{}", text(&payload, Ok(&contract), lang));
        println!("{}", text(&payload, Err(&Unavailable::Timeout { seconds: 8 }), lang));
    }
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
