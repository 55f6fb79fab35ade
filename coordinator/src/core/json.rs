//! JSON as it was written: one value at a time, numbers with their own text.
//!
//! `serde_json::Value` cannot serve here: with `arbitrary_precision` it takes an object with one magic key for
//! a number, which would let a payload disguise the one as the other. A raw value knows what it is by its
//! first byte. What this does not do: judge what a value means.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// One JSON value, its parts not yet looked at.
#[derive(Debug)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    /// A number, in the digits that the sender wrote.
    Number(&'a str),
    /// A string, its escapes resolved.
    Text(Cow<'a, str>),
    /// The elements of an array.
    List(Vec<&'a RawValue>),
    /// The members of an object; of a repeated key the last.
    Object(BTreeMap<String, &'a RawValue>),
}

/// Checks that `text` is one JSON value (strict RFC 8259) and nothing else.
pub(crate) fn parse(text: &str) -> Result<&RawValue, serde_json::Error> {
    serde_json::from_str(text)
}

/// Looks at one value. Fails only for a string that is no Unicode text (half of a surrogate pair).
pub(crate) fn view(raw: &RawValue) -> Result<Json<'_>, serde_json::Error> {
    let text = raw.get();
    Ok(match text.as_bytes().first() {
        Some(b'{') => Json::Object(serde_json::from_str(text)?),
        Some(b'[') => Json::List(serde_json::from_str(text)?),
        // Without escapes the text between the quotes is the string.
        Some(b'"') if !text.contains('\\') => Json::Text(Cow::Borrowed(text.trim_matches('"'))),
        Some(b'"') => Json::Text(Cow::Owned(serde_json::from_str(text)?)),
        Some(b't') => Json::Bool(true),
        Some(b'f') => Json::Bool(false),
        Some(b'n') | None => Json::Null,
        Some(_) => Json::Number(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_text() {
        for number in ["20.0", "1E5", "1e+05", "-0", "-0.0", "1e999999999", "123456789012345678901234567890"]
        {
            let raw = parse(number).unwrap();
            assert!(matches!(view(raw).unwrap(), Json::Number(text) if text == number), "{number}");
        }
    }

    #[test]
    fn strict_json_only() {
        for text in
            ["", "NaN", "[1,]", "{'a':1}", "01", "1.", "+1", "\u{feff}1", "1 2", "\"\t\"", "// x\n1", "[1"]
        {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_object_with_the_parsers_own_key_stays_an_object() {
        let raw = parse(r#"{"$serde_json::private::Number": "12"}"#).unwrap();
        assert!(matches!(view(raw).unwrap(), Json::Object(_)));
        let raw = parse(r#"{"$serde_json::private::RawValue": "12"}"#).unwrap();
        assert!(matches!(view(raw).unwrap(), Json::Object(_)));
    }

    #[test]
    fn of_a_repeated_key_the_last_counts_and_escapes_are_resolved() {
        let raw = parse(r#"{"a": 1, "\u0061": "\"x\\" }"#).unwrap();
        let Json::Object(members) = view(raw).unwrap() else { panic!("no object") };
        assert_eq!(members.len(), 1);
        assert!(matches!(view(members["a"]).unwrap(), Json::Text(text) if text == "\"x\\"));
        assert!(matches!(view(parse("\"\"").unwrap()).unwrap(), Json::Text(text) if text.is_empty()));
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        assert!(matches!(view(parse(&deep).unwrap()).unwrap(), Json::List(_)));
    }

    #[test]
    fn half_a_surrogate_pair_is_no_text() {
        assert!(view(parse(r#""\ud800""#).unwrap()).is_err());
    }
}
