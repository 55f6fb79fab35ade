//! Reads the JSON object of one task: each key by the form that it may have.
//!
//! Says of every value what is wrong with it; what an accepted value means is decided elsewhere.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::input::Given;
use super::violation::Violations;
use super::{MAX_VALUE_BYTES, Scalar, carried, keys};
use crate::core::integer::is_zero;
use crate::core::json::{self, Json};

pub(super) const NO_TEXT: &str =
    "has a \\u escape that is half of a character; write the character itself, or both halves";

/// Reads a task's members. What cannot be read is reported and left out.
pub(super) fn task(members: &BTreeMap<String, &RawValue>, at: &str, violations: &mut Violations) -> Given {
    let mut given = Given::default();
    for (key, raw) in members {
        if violations.full() {
            break;
        }
        let mut reader = Reader { at, key, violations };
        match key.as_str() {
            "prompt" => given.prompt = reader.scalar(raw),
            "task" => given.task = reader.scalar(raw),
            "model" => given.model = reader.scalar(raw),
            "scene" => given.scene = reader.scalar(raw),
            "label" => given.label = reader.scalar(raw),
            "title" => given.title = reader.scalar(raw),
            "card_input" => given.card_input = reader.scalar(raw),
            "aspect_ratio" => given.aspect_ratio = reader.scalar(raw),
            "resolution" => given.resolution = reader.scalar(raw),
            "steps" => given.steps = reader.scalar(raw),
            "duration" => given.duration = reader.scalar(raw),
            "seed" => given.seed = reader.scalar(raw),
            "model_name" => given.model_name = reader.scalar(raw),
            "width" => given.width = reader.scalar(raw),
            "height" => given.height = reader.scalar(raw),
            "output" => given.output = reader.scalar(raw),
            "image" => given.image = reader.list(raw),
            "audio" => given.audio = reader.list(raw),
            "video" => given.video = reader.list(raw),
            "param" => given.param = reader.list(raw),
            "run_with_defaults" => given.run_with_defaults = reader.flag(raw),
            "random_seed" => given.random_seed = reader.flag(raw),
            "sync" => given.sync = reader.flag(raw),
            "time_limit" => {
                given.time_limit_ms = carried::task_time_limit(raw, &format!("{at}.{key}"), violations);
            }
            "retry" => given.retry = carried::retry(raw, &format!("{at}.{key}"), violations),
            // Accepted from whoever sends them to the original, and without effect there too.
            "confirm_run" | "param_help" => {}
            unknown => {
                let nearest = keys::nearest(unknown);
                violations.add(
                    format!("{at}.{unknown}"),
                    format!("is no known key; the nearest one is {nearest}: rename it, or leave it out"),
                );
            }
        }
    }
    given
}

/// Why a text cannot be given to a program as an argument, and the way out.
pub(in crate::core) fn text_problem(text: &str) -> Option<String> {
    if text.len() > MAX_VALUE_BYTES {
        let bytes = text.len();
        Some(format!("has {bytes} bytes; at most {MAX_VALUE_BYTES} (128 KiB) are taken, shorten it"))
    } else if text.contains('\0') {
        Some("has a NUL character, which no argument can hold; remove it".to_owned())
    } else {
        None
    }
}

/// Reports a text that no program could be given as an argument.
pub(super) fn check_text(text: &str, field: impl FnOnce() -> String, violations: &mut Violations) {
    if let Some(problem) = text_problem(text) {
        violations.add(field(), problem);
    }
}

struct Reader<'a> {
    at: &'a str,
    key: &'a str,
    violations: &'a mut Violations,
}

impl Reader<'_> {
    fn wrong(&mut self, description: &str) {
        self.violations.add(format!("{}.{}", self.at, self.key), description);
    }

    fn check(&mut self, text: &str, entry: Option<usize>) {
        let field = || match entry {
            Some(entry) => format!("{}.{}[{entry}]", self.at, self.key),
            None => format!("{}.{}", self.at, self.key),
        };
        check_text(text, field, self.violations);
    }

    /// A string or a number; null is absent.
    fn scalar(&mut self, raw: &RawValue) -> Scalar {
        let scalar = match json::view(raw) {
            Ok(Json::Null) => return Scalar::default(),
            Ok(Json::Text(text)) => Scalar { text: text.into_owned(), zero_number: false },
            Ok(Json::Number(number)) => Scalar { text: number.to_owned(), zero_number: is_zero(number) },
            Ok(Json::Bool(_) | Json::List(_) | Json::Object(_)) => {
                self.wrong("is neither a string nor a number; send one of these, or leave it out");
                return Scalar::default();
            }
            Err(_) => {
                self.wrong(NO_TEXT);
                return Scalar::default();
            }
        };
        self.check(&scalar.text, None);
        scalar
    }

    /// One value, trimmed, or a list of them, each as it is; what is empty is dropped.
    fn list(&mut self, raw: &RawValue) -> Vec<String> {
        match json::view(raw) {
            Ok(Json::Null) => Vec::new(),
            Ok(Json::Number(number)) => {
                self.check(number, None);
                vec![number.to_owned()]
            }
            Ok(Json::Text(text)) => {
                self.check(&text, None);
                let text = text.trim();
                if text.is_empty() { Vec::new() } else { vec![text.to_owned()] }
            }
            Ok(Json::List(entries)) => {
                (1_usize..).zip(entries).filter_map(|(index, raw)| self.entry(raw, index)).collect()
            }
            Ok(Json::Bool(_) | Json::Object(_)) => {
                self.wrong("is no string, number or list of these; send one, or leave it out");
                Vec::new()
            }
            Err(_) => {
                self.wrong(NO_TEXT);
                Vec::new()
            }
        }
    }

    fn entry(&mut self, raw: &RawValue, index: usize) -> Option<String> {
        match json::view(raw) {
            Ok(Json::Null) => None,
            Ok(Json::Number(number)) => {
                self.check(number, Some(index));
                (!is_zero(number)).then(|| number.to_owned())
            }
            Ok(Json::Text(text)) => {
                self.check(&text, Some(index));
                (!text.trim().is_empty()).then(|| text.into_owned())
            }
            Ok(Json::Bool(_) | Json::List(_) | Json::Object(_)) => {
                let field = format!("{}.{}[{index}]", self.at, self.key);
                self.violations.add(field, "is neither a string nor a number; send one, or leave it out");
                None
            }
            Err(_) => {
                self.violations.add(format!("{}.{}[{index}]", self.at, self.key), NO_TEXT);
                None
            }
        }
    }

    /// A boolean, a number (0 is off) or the word true or false; null and `""` are absent.
    fn flag(&mut self, raw: &RawValue) -> Option<bool> {
        match json::view(raw) {
            Ok(Json::Null) => return None,
            Ok(Json::Bool(flag)) => return Some(flag),
            Ok(Json::Number(number)) => return Some(!is_zero(number)),
            Ok(Json::Text(text)) => {
                let word = |word: &str| text.eq_ignore_ascii_case(word);
                if text.is_empty() {
                    return None;
                }
                if word("true") || word("false") {
                    return Some(word("true"));
                }
            }
            Ok(Json::List(_) | Json::Object(_)) | Err(_) => {}
        }
        self.wrong("is no flag; send true or false, or leave it out");
        None
    }
}
