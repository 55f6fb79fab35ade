//! Errors name the card and the line.

use super::*;
use crate::core::payload::FieldViolation;

fn wrong(text: &str) -> Vec<FieldViolation> {
    read(text, &Defaults::default(), &Catalog::builtin()).unwrap_err()
}

#[test]
fn an_error_names_card_line_and_way_out() {
    for (text, field, line, way_out) in [
        ("model: a\nprmpt: x", "cards[1].prmpt", 2, "nearest one is prompt"),
        ("model: a\n比列：x", "cards[1].比列", 2, "nearest one is 比例"),
        ("model: a\n: x", "cards[1].", 2, "no known key"),
        ("prompt: x", "cards[1].model", 1, "has no model"),
        ("## 1\nmodel: a\n## 2\n\nprompt: x", "cards[2].model", 5, "has no model"),
        ("model: a\nprompt: x\nmodel: b", "cards[1].model", 3, "heading"),
        ("model:\nprompt: x", "cards[1].model", 1, "is empty"),
        ("model: a\nseed: x", "cards[1].seed", 2, "write digits"),
        ("model: a\nduration: 8 min", "cards[1].duration", 2, "whole seconds"),
        ("模型：a\n宽度：512px", "cards[1].width", 2, "whole pixels"),
        ("model: a\nsteps: 2.5", "cards[1].steps", 2, "write digits"),
        ("model: a\nsync: maybe", "cards[1].sync", 2, "true or false"),
        ("model: a\nrun_mode: now", "cards[1].run_mode", 2, "confirm_run"),
        ("model: a\nprompt: \"x", "cards[1].prompt", 2, "JSON string"),
        ("model: a\nprompt: \"x\" y", "cards[1].prompt", 2, "JSON string"),
        ("model: a\nprompt: \"x\"\ny", "cards[1].prompt", 2, "JSON string"),
        ("model: a\nimage: a\nimage: \"\\u0000\"", "cards[1].image", 3, "NUL"),
        ("model: a\nprice: 1\ntext", "cards[1]", 3, "belongs to no field"),
        ("Here it is: yours\n## 1\nmodel: a\n", "cards[1].hereitis", 1, "Begin the line with >"),
        ("## 1\nmodel: a\nconcurrency: 2", "cards[1].concurrency", 3, "before the first heading"),
    ] {
        let violations = wrong(text);
        assert_eq!(violations.len(), 1, "{violations:?}");
        assert_eq!(violations[0].field, field, "{text:?}");
        let description = &violations[0].description;
        assert!(description.starts_with(&format!("line {line}: ")), "{description}");
        assert!(description.contains(way_out) && !description.ends_with('…'), "{description}");
    }
}

#[test]
fn lines_are_those_of_the_whole_text_and_all_errors_come_at_once() {
    let payload = tasks(r#"[{"prompt": "x", "seed": 1}, {"prompt": "y", "seed": 2}]"#);
    let text = text(&payload, Ok(&contract()), Lang::En)
        .replace("seed: 1", "seed: one")
        .replace("seed: 2", "sede: 2");
    let violations = wrong(&text);
    let number = |part: &str| text.lines().position(|line| line.contains(part)).unwrap() + 1;
    // Keys first, since they are met while the lines are sorted.
    assert_eq!(
        (violations[0].field.as_str(), violations[1].field.as_str()),
        ("cards[2].sede", "cards[1].seed")
    );
    assert!(violations[0].description.starts_with(&format!("line {}: ", number("sede: 2"))));
    assert!(violations[1].description.starts_with(&format!("line {}: ", number("seed: one"))));
}

#[test]
fn errors_are_bounded_and_no_cards_are_an_error() {
    let many: String = (0..100).map(|_| "nonsense: x\n").collect();
    assert_eq!(wrong(&many).len(), payload::MAX_VIOLATIONS);
    for none in ["", "\n\n", "> only a remark", "## 1. heading\n\ntext", "concurrency: 2"] {
        assert_eq!(wrong(none)[0].field, "cards_markdown", "{none:?}");
    }
    let long = "x".repeat(payload::MAX_VALUE_BYTES + 1);
    assert_eq!(wrong(&format!("model: a\nprompt: {long}"))[0].field, "cards[1].prompt");
    assert_eq!(wrong(&format!("model: {long}"))[0].field, "cards[1].model");
}
