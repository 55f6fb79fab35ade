//! Where the parts of a JSON text stand: its tasks, their keys and values.
//!
//! What it does not do: judge what they mean.

use std::{fmt, ops::Range};

use muster_coordinator::core::payload::OPTION_KEYS;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::document::Document;

/// A member of an object: its key and its value as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The key, its escapes resolved.
    pub name: String,
    /// Where the key stands.
    pub key: Range<usize>,
    /// Where the value stands.
    pub value: Range<usize>,
}

/// Where a batch as JSON has what.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// All of it, without the white space around.
    pub whole: Range<usize>,
    /// The tasks; none where it is no batch.
    pub tasks: Vec<Range<usize>>,
    /// The value of `tasks`, where the batch is an object with it.
    pub list: Option<Range<usize>>,
    /// The value of `concurrency`, where the batch is an object with it.
    pub concurrency: Option<Range<usize>>,
    /// The values of how it is carried out, by key; of a repeated key the last counts.
    pub options: Vec<(String, Range<usize>)>,
}

impl Outline {
    /// The value that a path is of or is in (`retry.on[2]` is in `retry`).
    pub fn option(&self, field: &str) -> Option<Range<usize>> {
        let key = field.split(['.', '[']).next()?;
        self.options.iter().rfind(|(name, _)| name == key).map(|(_, value)| value.clone())
    }
}

/// A text that is no JSON: the byte offset at which this shows, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Byte offset.
    pub offset: usize,
    /// To be read after a place.
    pub message: String,
}

/// Outlines a batch. Fails where the text is no JSON at all.
pub fn outline(document: &Document) -> Result<Outline, SyntaxError> {
    let whole = value(document, 0..document.text().len())?;
    let mut outline = Outline { whole: whole.clone(), ..Outline::default() };
    match document.part(&whole).as_bytes().first() {
        Some(b'[') => outline.tasks = elements(document, &whole),
        Some(b'{') => {
            for member in members(document, &whole) {
                match member.name.as_str() {
                    // Of a repeated key the last counts.
                    "tasks" => outline.list = Some(member.value),
                    "concurrency" => outline.concurrency = Some(member.value),
                    key if OPTION_KEYS.contains(&key) => outline.options.push((member.name, member.value)),
                    _ => {}
                }
            }
            if let Some(list) = &outline.list {
                outline.tasks = elements(document, list);
            }
        }
        _ => {}
    }
    Ok(outline)
}

/// The one JSON value in a part of the text, without the white space around it.
pub fn value(document: &Document, part: Range<usize>) -> Result<Range<usize>, SyntaxError> {
    let text = document.part(&part);
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) => Ok(document.range_of(raw.get()).unwrap_or(part)),
        Err(error) => {
            let lines_before = document.position(part.start).line - 1;
            // A part begins where a line does, or is on one line.
            let first_byte =
                if error.line() == 1 { part.start - document.line_start(lines_before + 1) } else { 0 };
            let offset = if error.is_eof() {
                part.start + text.trim_end().len()
            } else {
                document.offset(lines_before + error.line(), first_byte + error.column()).min(part.end)
            };
            Err(SyntaxError {
                offset: offset.min(part.end),
                message: explain(&error, text, offset - part.start),
            })
        }
    }
}

/// The elements of an array; none where it is none.
pub fn elements(document: &Document, array: &Range<usize>) -> Vec<Range<usize>> {
    let raw: Vec<&RawValue> = serde_json::from_str(document.part(array)).unwrap_or_default();
    raw.into_iter().filter_map(|raw| document.range_of(raw.get())).collect()
}

/// The members of an object in their order; none where it is none.
pub fn members(document: &Document, object: &Range<usize>) -> Vec<Member> {
    let Members(raw) = serde_json::from_str(document.part(object)).unwrap_or_default();
    raw.into_iter()
        .filter_map(|(key, value)| {
            let name = serde_json::from_str(key.get()).ok()?;
            Some(Member { name, key: document.range_of(key.get())?, value: document.range_of(value.get())? })
        })
        .collect()
}

/// What is wrong, without the place, which is said elsewhere, and with a way out for the usual slips.
fn explain(error: &serde_json::Error, text: &str, offset: usize) -> String {
    let said = error.to_string();
    let what = said.rsplit_once(" at line ").map_or(said.as_str(), |(what, _)| what);
    let (before, at) = text.split_at_checked(offset).unwrap_or_default();
    if error.is_eof() {
        return "no JSON: it ends too early; is a bracket or a quote missing?".to_owned();
    }
    let hint = if at.starts_with('\'') {
        "; texts stand in double quotes in JSON"
    } else if at.starts_with(['#', '/']) {
        "; JSON has no comments"
    } else if at.starts_with(['\u{201c}', '\u{201d}']) {
        "; these are typographic quotes, JSON takes only plain ones"
    } else if at.starts_with([']', '}']) && before.trim_end().ends_with(',') {
        "; remove the comma before this"
    } else if what.starts_with("control character") {
        "; a line break in a text is written \\n"
    } else if what.starts_with("trailing characters") {
        "; one value is all that there may be (several tasks stand in [ ], with commas between)"
    } else {
        ""
    };
    format!("no JSON: {what}{hint}")
}

#[derive(Default)]
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document::new("f", text.to_owned())
    }

    #[test]
    fn tasks_and_their_members_are_found_where_they_stand() {
        let text = " {\"concurrency\": 2,\n \"tasks\": [\"a\", {\"pr\\u006fmt\": [1, 2]}]}\n";
        let document = document(text);
        let outline = outline(&document).unwrap();
        let parts: Vec<_> = outline.tasks.iter().map(|task| document.part(task)).collect();
        assert_eq!(parts, ["\"a\"", "{\"pr\\u006fmt\": [1, 2]}"]);
        assert_eq!(document.part(&outline.concurrency.unwrap()), "2");
        let members = members(&document, &outline.tasks[1]);
        assert_eq!((members.len(), members[0].name.as_str()), (1, "promt"));
        assert_eq!(document.part(&members[0].key), "\"pr\\u006fmt\"");
        assert_eq!(document.part(&elements(&document, &members[0].value)[1]), "2");
    }

    #[test]
    fn a_syntax_error_has_its_place_and_the_usual_slips_their_way_out() {
        for (text, line, column, hint) in [
            ("[\"a\",\n]", 2, 1, "remove the comma"),
            ("[\n  'a']", 2, 3, "double quotes"),
            ("[\"猫\", // x\n]", 1, 7, "no comments"),
            ("[\"a\"", 1, 5, "ends too early"),
            ("[“a”]", 1, 2, "typographic"),
            ("[\"a\"] [\"b\"]", 1, 7, "several tasks"),
        ] {
            let document = document(text);
            let error = outline(&document).unwrap_err();
            let place = document.position(error.offset);
            assert!(error.message.contains(hint), "{text}: {}", error.message);
            assert!(!error.message.contains("at line"), "{}", error.message);
            assert_eq!((place.line, place.column), (line, column), "{text}: {}", error.message);
        }
    }
}
