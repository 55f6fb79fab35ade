use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NONE: Hide<'_> = Hide::NOTHING;

fn endpoint() -> Source {
    Source::Endpoint("vendor/model".into())
}

fn app() -> Source {
    Source::App("44306".into())
}

fn read(source: &Source, reply: &Value) -> Contract {
    match contract(source, 200, reply.to_string().as_bytes(), NONE) {
        Answer::Found(contract) => contract,
        other => panic!("{other:?} from {reply}"),
    }
}

fn fields(params: Value) -> Contract {
    read(&endpoint(), &json!({"code": 20000, "data": {"input_params": params}}))
}

#[test]
fn the_documented_reply_becomes_a_contract() {
    let contract = read(
        &endpoint(),
        &json!({"code": 20000, "data": {
            "display_name": "通用图片B.Pro",
            "input_params": [
                {"field_name": "prompt", "field_label": "提示词", "field_type": "customtext", "field_value": "",
                 "required": true},
                {"field_name": "aspect_ratio", "field_label": "比例", "field_type": "combo", "field_value": "1:1",
                 "field_options": {"values": ["1:1", "16:9"]}, "required": false},
                {"field_name": "steps", "field_type": "slider", "field_value": 20.0, "min": 1,
                 "field_options": {"max": "50"}},
                {"field_name": "hd", "field_type": "boolean", "field_value": false},
                {"field_name": "seed", "field_type": "seed", "field_value": 1234567890123456789_u64},
                {"field_name": "image", "field_type": "images", "field_value": [], "required": 1},
                {"field_name": "x", "field_type": "curve"},
            ],
            "outputs_example": [{"url": "https://example.org/1.png"}],
        }}),
    );
    assert_eq!(contract.name, "通用图片B.Pro");
    let kinds: Vec<_> = contract.fields.iter().map(|field| field.kind.clone()).collect();
    let other = FieldKind::Other("curve".into());
    use FieldKind::{Choice, Flag, Images, Seed, Slider, Text};
    assert_eq!(kinds, [Text, Choice, Slider, Flag, Seed, Images, other]);
    assert_eq!(contract.fields[0].label, "提示词");
    assert_eq!(contract.fields[1].options, ["1:1", "16:9"]);
    let presets: Vec<_> = contract.fields.iter().map(|field| field.preset.as_str()).collect();
    assert_eq!(presets, ["", "1:1", "20.0", "false", "1234567890123456789", "", ""]);
    assert_eq!((contract.fields[2].min.as_str(), contract.fields[2].max.as_str()), ("1", "50"));
    let required: Vec<_> = contract.fields.iter().map(|field| field.required).collect();
    assert_eq!(required, [true, false, false, false, false, true, false]);
}

#[test]
fn an_app_has_nodes_and_slots_for_media() {
    let nodes = json!([
        {"variable_name": "93:CLIPTextEncode.text", "field_type": "customtext", "field_value": "a cat"},
        {"variable_name": "17:LoadImage.image", "field_type": "hidden", "field_value": "example.png"},
        {"variable_name": "4:Internal.x", "field_type": "hidden", "field_value": ""},
        {"variable_name": "5:Internal.y", "field_type": "hidden"},
    ]);
    let plain = read(&app(), &json!({"data": {"id": 44306, "name": "My app", "input_nodes": nodes}}));
    assert_eq!(plain.name, "My app");
    let got: Vec<_> = plain.fields.iter().map(|field| (field.name.as_str(), field.kind.clone())).collect();
    assert_eq!(
        got,
        [("93:CLIPTextEncode.text", FieldKind::Text), ("17:LoadImage.image", FieldKind::MediaSlot)]
    );
    let wrapped =
        read(&app(), &json!({"code": 20000, "data": {"name": "My app", "data": {"input_nodes": nodes}}}));
    assert_eq!(wrapped, plain);
    let twice = json!({"code": 20000, "data": {"data": {"input_params": [{"field_name": "prompt"}]}}});
    assert_eq!(read(&endpoint(), &twice).fields.len(), 1);
}

#[test]
fn options_come_in_several_forms_and_none_is_made_up() {
    let long = "x".repeat(MAX_LINE_CHARS + 1);
    let contract = fields(json!([{"field_name": "a", "field_options": {"values": [
        "1:1", " 16:9 ", 2, 2.50, true, {"value": "4K", "label": "best"}, {"label": "2K"}, null, "", [1], {},
        {"value": {"value": 1}}, "two\nlines", "turn\u{202e}ed", long,
    ]}}, {"field_name": "b", "field_options": ["x", 1]}, {"field_name": "c", "field_options": "x"}]));
    let got = &contract.fields[0];
    assert_eq!(got.options, ["1:1", "16:9", "2", "2.5", "true", "4K", "2K"]);
    // What cannot be shown as it is must not be taken for another value.
    assert_eq!(got.options_left_out, 3);
    assert_eq!(contract.fields[1].options, ["x", "1"]);
    assert!(contract.fields[2].options.is_empty());
}

#[test]
fn lists_are_bounded_and_the_rest_is_counted() {
    let many: Vec<_> = (0..100_000).map(|n| json!(n)).collect();
    let contract = fields(json!([{"field_name": "a", "field_options": {"values": many}}]));
    assert_eq!(contract.fields[0].options.len(), MAX_OPTIONS);
    assert_eq!(contract.fields[0].options_left_out, 100_000 - MAX_OPTIONS);
    let contract = fields(vec![json!({"field_name": "a"}); 1_000].into());
    assert_eq!((contract.fields.len(), contract.fields_left_out), (MAX_FIELDS, 1_000 - MAX_FIELDS));
}

#[test]
fn odd_types_are_taken_as_not_given() {
    let contract = fields(json!([
        1, null, "prompt", [], {}, {"field_type": "combo"}, {"field_name": ""}, {"field_name": {}},
        {"field_name": "a", "field_label": [], "field_type": 7, "field_value": {"x": 1}, "required": [true],
         "min": "low", "max": {}, "field_options": {"values": {"a": 1}}},
        {"field_label": "only a label", "required": "true"},
    ]));
    assert_eq!(contract.fields.len(), 2);
    let odd = InputField { name: "a".into(), kind: FieldKind::Other("7".into()), ..InputField::default() };
    assert_eq!(contract.fields[0], odd);
    assert_eq!((contract.fields[1].label.as_str(), contract.fields[1].required), ("only a label", true));
    for reply in [
        json!({"code": 20000}),
        json!({"code": 20000, "data": null}),
        json!({"code": 20000, "data": [1]}),
        json!({"code": 20000, "data": {}}),
        json!({"code": 20000, "data": {"input_params": {}}}),
        json!({"code": 20000, "data": {"data": {"data": {"input_params": []}}}}),
    ] {
        let got = contract_of(&reply);
        assert_eq!(got, Answer::Failed(Unavailable::Malformed), "{reply}");
    }
}

fn contract_of(reply: &Value) -> Answer<Contract> {
    contract(&endpoint(), 200, reply.to_string().as_bytes(), NONE)
}

#[test]
fn an_echoed_key_is_in_no_part_of_a_contract() {
    let key = "sk-secret-42";
    let text = format!("x {key} y");
    let escaped = "sk-\\u0073ecret-42";
    let body = format!(
        r#"{{"code":20000,"data":{{"display_name":"{text}","input_params":[{{"field_name":"{text}","field_label":"{escaped}",
        "field_type":"{text}","field_value":"{escaped}","field_options":{{"values":["{text}","ok"]}},"min":"{text}"}}]}}}}"#
    );
    let Answer::Found(found) = contract(&endpoint(), 200, body.as_bytes(), Hide::key(key)) else {
        panic!("a contract")
    };
    assert!(!format!("{found:?}").contains("secret"), "{found:?}");
    assert_eq!(found.fields[0].options, ["ok"]);
    // A key that is a number, sent back as one.
    let body =
        br#"{"code":20000,"data":{"input_params":[{"field_name":"a","field_value":123456,"max":123456}]}}"#;
    let Answer::Found(found) = contract(&endpoint(), 200, body, Hide::key("123456")) else {
        panic!("a contract")
    };
    assert!(!format!("{found:?}").contains("123456"));
}

#[test]
fn a_price_is_what_the_publisher_says_or_nothing() {
    let of = |status, body: &str| price(status, body.as_bytes(), NONE);
    let said = r#"{"code":20000,"data":{"simple_price_text":" 0.35\n元/张 "}}"#;
    assert_eq!(of(200, said).as_deref(), Some("0.35 元/张"));
    assert_eq!(of(200, r#"{"data":{"simple_price_text":"1"}}"#).as_deref(), Some("1"));
    for body in [
        r#"{"code":20000,"data":{"simple_price_text":""}}"#,
        r#"{"code":20000,"data":{"simple_price_text":0.35}}"#,
        r#"{"code":20000,"data":{}}"#,
        r#"{"code":50000,"data":{"simple_price_text":"1"}}"#,
        "nonsense",
    ] {
        assert_eq!(of(200, body), None, "{body}");
    }
    assert_eq!(of(500, said), None);
}

fn word() -> impl Strategy<Value = String> {
    let known = [
        "code",
        "data",
        "input_params",
        "input_nodes",
        "field_name",
        "field_label",
        "field_type",
        "field_value",
        "field_options",
        "values",
        "required",
        "variable_name",
        "name",
        "display_name",
        "hidden",
        "combo",
        "min",
        "max",
        "value",
        "label",
        "simple_price_text",
        "message",
    ];
    prop_oneof![3 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word().prop_map(Value::from),
        "\\PC{0,300}".prop_map(Value::from),
        "[\u{0}-\u{20}\u{80}-\u{9f}\u{200b}-\u{2070}\u{feff}a]{0,250}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 100, 12, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
            proptest::collection::vec((word(), inner), 0..10)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn assert_line(text: &str, max: usize) {
    assert!(text.chars().count() <= max, "{text:?}");
    assert_eq!(text.trim(), text);
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}'
            | '\u{61c}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    assert!(!text.chars().any(bad), "{text:?}");
}

fn assert_bounds(contract: &Contract) {
    assert_line(&contract.name, MAX_NAME_CHARS);
    assert!(contract.fields.len() <= MAX_FIELDS);
    for field in &contract.fields {
        assert_line(&field.name, MAX_NAME_CHARS);
        assert_line(&field.label, MAX_NAME_CHARS);
        assert_line(&field.preset, MAX_LINE_CHARS);
        assert_line(&field.min, MAX_NUMBER_CHARS);
        assert_line(&field.max, MAX_NUMBER_CHARS);
        assert!(field.options.len() <= MAX_OPTIONS);
        for option in &field.options {
            assert_line(option, MAX_LINE_CHARS);
        }
        if let FieldKind::Other(word) = &field.kind {
            assert_line(word, MAX_NAME_CHARS);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_reply_breaks_the_bounds(
        status in prop_oneof![4 => Just(200_u16), 1 => any::<u16>()],
        whole in any_json(),
        params in proptest::collection::vec(any_json(), 0..70),
        data in any_json(),
    ) {
        let shapes = [
            whole,
            json!({"code": 20000, "data": data.clone()}),
            json!({"code": 20000, "message": data, "data": {"input_params": params, "input_nodes": params}}),
        ];
        for body in shapes.map(|shape| shape.to_string()) {
            for source in [endpoint(), app()] {
                match contract(&source, status, body.as_bytes(), Hide::key("data")) {
                    Answer::Found(contract) => assert_bounds(&contract),
                    Answer::Failed(Unavailable::Refused { message, .. }) => assert_line(&message, MAX_LINE_CHARS),
                    Answer::Retry(_) | Answer::Failed(_) => {}
                }
            }
            if let Some(price) = price(status, body.as_bytes(), NONE) {
                assert_line(&price, MAX_LINE_CHARS);
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(status: u16, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = contract(&endpoint(), status, &body, NONE);
        let _ = contract(&app(), status, &body, NONE);
        let _ = price(status, &body, NONE);
    }
}
