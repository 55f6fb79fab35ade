//! What a model's contract forbids: the paid API would reject such a value, or bill it all the same.
//!
//! What it does not do: know where a value comes from, or say it in words.

use std::cmp::Ordering;

use crate::core::contract::{FieldKind, InputField};

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault<'a> {
    NotAnOption,
    /// It is this option in another letter case.
    OtherCase(&'a str),
    NotANumber,
    TooSmall(&'a str),
    TooGreat(&'a str),
    NotAFlag,
}

/// Holds a value that is given to what the field takes.
pub(super) fn check<'a>(field: &'a InputField, value: &str) -> Option<Fault<'a>> {
    if is_media(&field.kind) {
        return None;
    }
    if !field.options.is_empty() {
        return check_options(field, value);
    }
    match field.kind {
        FieldKind::Number | FieldKind::Slider | FieldKind::Seed => check_number(field, value),
        FieldKind::Flag => {
            let flag = ["true", "false", "1", "0"].iter().any(|flag| value.eq_ignore_ascii_case(flag));
            (!flag).then_some(Fault::NotAFlag)
        }
        _ => None,
    }
}

/// Whether it takes files rather than a value.
pub(super) fn is_media(kind: &FieldKind) -> bool {
    matches!(kind, FieldKind::Images | FieldKind::Audios | FieldKind::Videos | FieldKind::MediaSlot)
}

fn check_options<'a>(field: &'a InputField, value: &str) -> Option<Fault<'a>> {
    let same = |option: &String| {
        option == value || matches!((number(option), number(value)), (Some(a), Some(b)) if a == b)
    };
    // Those that were left out may have the value.
    if field.options_left_out > 0 || field.options.iter().any(same) {
        return None;
    }
    let lower = value.to_lowercase();
    let meant = field.options.iter().find(|option| option.to_lowercase() == lower);
    Some(meant.map_or(Fault::NotAnOption, |option| Fault::OtherCase(option)))
}

fn check_number<'a>(field: &'a InputField, value: &str) -> Option<Fault<'a>> {
    let Some(value) = number(value) else { return Some(Fault::NotANumber) };
    let beyond = |bound: &str, side| number(bound).and_then(|bound| value.partial_cmp(&bound)) == Some(side);
    if beyond(&field.min, Ordering::Less) {
        Some(Fault::TooSmall(&field.min))
    } else if beyond(&field.max, Ordering::Greater) {
        Some(Fault::TooGreat(&field.max))
    } else {
        None
    }
}

/// A decimal number: a sign, digits with perhaps a point, an exponent.
pub(super) fn number(text: &str) -> Option<f64> {
    let decimal = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E'));
    if !decimal {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: FieldKind, options: &[&str]) -> InputField {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        InputField { kind, options, ..InputField::default() }
    }

    #[test]
    fn options_are_exact_in_text_or_equal_as_numbers() {
        let choice = field(FieldKind::Choice, &["1K", "2k", "5", "0.5"]);
        for (value, fault) in [
            ("1K", None),
            ("5.0", None),
            (".5", None),
            ("1k", Some(Fault::OtherCase("1K"))),
            ("2K", Some(Fault::OtherCase("2k"))),
            ("8K", Some(Fault::NotAnOption)),
            ("6", Some(Fault::NotAnOption)),
            (" 1K", Some(Fault::NotAnOption)),
        ] {
            assert_eq!(check(&choice, value), fault, "{value}");
        }
        assert_eq!(check(&InputField { options_left_out: 1, ..choice }, "8K"), None);
        assert_eq!(check(&field(FieldKind::Choice, &[]), "8K"), None);
    }

    #[test]
    fn numbers_are_decimal_and_in_range() {
        let slider = InputField { min: "1".into(), max: "10.5".into(), ..field(FieldKind::Slider, &[]) };
        for (value, fault) in [
            ("1", None),
            ("10.50", None),
            ("0.9", Some(Fault::TooSmall("1"))),
            ("1e3", Some(Fault::TooGreat("10.5"))),
            ("5s", Some(Fault::NotANumber)),
            ("inf", Some(Fault::NotANumber)),
            ("nan", Some(Fault::NotANumber)),
            ("0x5", Some(Fault::NotANumber)),
            ("", Some(Fault::NotANumber)),
        ] {
            assert_eq!(check(&slider, value), fault, "{value}");
        }
        let odd = InputField { min: "low".into(), ..field(FieldKind::Number, &[]) };
        assert_eq!(check(&odd, "5"), None);
    }

    #[test]
    fn flags_are_true_or_false_and_texts_are_free() {
        let flag = field(FieldKind::Flag, &[]);
        assert_eq!(check(&flag, "True"), None);
        assert_eq!(check(&flag, "yes"), Some(Fault::NotAFlag));
        assert_eq!(check(&field(FieldKind::Text, &[]), "anything"), None);
        assert_eq!(check(&field(FieldKind::Images, &["x"]), "anything"), None);
    }
}
