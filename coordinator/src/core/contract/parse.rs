//! Contracts and prices out of replies that may hold anything.
//!
//! What it does not do: fetch, or believe. A part of an odd type is taken as not given; a reply without the list
//! of fields is malformed.

use serde_json::value::RawValue;

use super::{
    Contract, FieldKind, InputField, MAX_FIELDS, MAX_OPTIONS, Source, Unavailable,
    reply::{Answer, Members, classify, text_of},
    text::{Hide, MAX_LINE_CHARS, MAX_NAME_CHARS, line, whole},
};
use crate::core::json::{self, Json};

/// The longest number that is kept as a limit, in characters.
const MAX_NUMBER_CHARS: usize = 40;

/// Reads the reply to the question for a contract: HTTP status and body. `hide` is nowhere in what comes out.
pub fn contract(source: &Source, status: u16, body: &[u8], hide: Hide<'_>) -> Answer<Contract> {
    let is_app = matches!(source, Source::App(_));
    let members = match classify(status, body, !is_app, hide) {
        Answer::Found(members) => members,
        Answer::Retry(why) => return Answer::Retry(why),
        Answer::Failed(why) => return Answer::Failed(why),
    };
    let Some(data) = object(&members, "data") else { return Answer::Failed(Unavailable::Malformed) };
    let read = Reader { is_app, hide };
    // Some replies wrap their data once more.
    let found =
        read.contract(&data).or_else(|| object(&data, "data").and_then(|inner| read.contract(&inner)));
    found.map_or(Answer::Failed(Unavailable::Malformed), |mut contract| {
        if contract.name.is_empty() {
            contract.name = read.name(&data);
        }
        Answer::Found(contract)
    })
}

/// Reads the reply to the question for a price. `None` for everything but a price in words.
pub fn price(status: u16, body: &[u8], hide: Hide<'_>) -> Option<String> {
    let Answer::Found(members) = classify(status, body, false, hide) else { return None };
    let data = object(&members, "data")?;
    let text = text_of(&data, "simple_price_text")
        .or_else(|| object(&data, "data").and_then(|inner| text_of(&inner, "simple_price_text")))?;
    let text = line(&text, MAX_LINE_CHARS, hide);
    (!text.is_empty()).then_some(text)
}

#[derive(Clone, Copy)]
struct Reader<'h> {
    is_app: bool,
    hide: Hide<'h>,
}

impl Reader<'_> {
    fn contract(self, data: &Members<'_>) -> Option<Contract> {
        let Ok(Json::List(entries)) =
            json::view(data.get(if self.is_app { "input_nodes" } else { "input_params" })?)
        else {
            return None;
        };
        let mut contract = Contract { name: self.name(data), ..Contract::default() };
        for entry in entries {
            if contract.fields.len() == MAX_FIELDS {
                // Not looked at: how many there are is the other side's choice.
                contract.fields_left_out += usize::from(entry.get().starts_with('{'));
            } else if let Ok(Json::Object(members)) = json::view(entry) {
                contract.fields.extend(self.field(&members));
            }
        }
        Some(contract)
    }

    /// What the model is called.
    fn name(self, data: &Members<'_>) -> String {
        let keys = if self.is_app { ["name", "display_name"] } else { ["display_name", "name"] };
        self.first_line(data, &keys)
    }

    /// One field; `None` if it has no name to be given by, or nobody can set it.
    fn field(self, members: &Members<'_>) -> Option<InputField> {
        let names = ["variable_name", "field_name"];
        let name =
            self.first_line(members, if self.is_app { &names } else { &["field_name", "variable_name"] });
        let label = self.first_line(members, &["field_label", "label"]);
        if name.is_empty() && label.is_empty() {
            return None;
        }
        let preset = members.get("field_value").and_then(|raw| scalar(raw)).unwrap_or_default();
        let preset = line(&preset, MAX_LINE_CHARS, self.hide);
        let kind = self.kind(members);
        let kind = match kind {
            FieldKind::Other(word) if self.is_app && word == "hidden" => {
                if preset.is_empty() {
                    return None;
                }
                FieldKind::MediaSlot
            }
            kind => kind,
        };
        let settings = object(members, "field_options").unwrap_or_default();
        let (options, options_left_out) = self.options(members, &settings);
        let limit = |key: &str| [members, &settings].into_iter().find_map(|place| self.number(place, key));
        Some(InputField {
            name,
            label,
            kind,
            preset,
            options,
            options_left_out,
            required: members.get("required").is_some_and(|raw| is_true(raw)),
            min: limit("min").unwrap_or_default(),
            max: limit("max").unwrap_or_default(),
        })
    }

    fn kind(self, members: &Members<'_>) -> FieldKind {
        let word = self.first_line(members, &["field_type"]);
        match word.to_ascii_lowercase().as_str() {
            "" | "customtext" => FieldKind::Text,
            "combo" => FieldKind::Choice,
            "boolean" => FieldKind::Flag,
            "number" => FieldKind::Number,
            "slider" | "slides" => FieldKind::Slider,
            "seed" => FieldKind::Seed,
            "images" => FieldKind::Images,
            "audios" => FieldKind::Audios,
            "videos" => FieldKind::Videos,
            "hidden" => FieldKind::Other("hidden".into()),
            _ => FieldKind::Other(word),
        }
    }

    /// The options that are kept, and how many are not.
    fn options(self, members: &Members<'_>, settings: &Members<'_>) -> (Vec<String>, usize) {
        let list = settings.get("values").or_else(|| members.get("field_options"));
        let Some(Ok(Json::List(entries))) = list.map(|raw| json::view(raw)) else { return (Vec::new(), 0) };
        let (mut kept, mut left_out) = (Vec::<String>::new(), 0);
        for entry in entries {
            let Some(text) = option(entry) else { continue };
            if text.trim().is_empty() {
                continue;
            }
            match whole(&text, MAX_LINE_CHARS, self.hide) {
                Some(text) if kept.len() < MAX_OPTIONS => kept.push(text),
                _ => left_out += 1,
            }
        }
        (kept, left_out)
    }

    /// The first of these members that is a text or a number and not blank.
    fn first_line(self, members: &Members<'_>, keys: &[&str]) -> String {
        let texts = keys.iter().filter_map(|key| members.get(*key)).filter_map(|raw| match json::view(raw) {
            Ok(Json::Text(text)) => Some(line(&text, MAX_NAME_CHARS, self.hide)),
            Ok(Json::Number(text)) => Some(line(text, MAX_NAME_CHARS, self.hide)),
            _ => None,
        });
        texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
    }

    /// A member that is a number, as written.
    fn number(self, members: &Members<'_>, key: &str) -> Option<String> {
        let text = members.get(key).and_then(|raw| scalar(raw))?;
        let text = whole(&text, MAX_NUMBER_CHARS, self.hide)?;
        text.parse().is_ok_and(f64::is_finite).then_some(text)
    }
}

/// A member that is an object.
fn object<'a>(members: &Members<'a>, key: &str) -> Option<Members<'a>> {
    match json::view(members.get(key)?) {
        Ok(Json::Object(inner)) => Some(inner),
        _ => None,
    }
}

/// A text, a number as written, or a truth value.
fn scalar(raw: &RawValue) -> Option<String> {
    match json::view(raw).ok()? {
        Json::Text(text) => Some(text.into_owned()),
        Json::Number(text) => Some(text.to_owned()),
        Json::Bool(flag) => Some(flag.to_string()),
        Json::Null | Json::List(_) | Json::Object(_) => None,
    }
}

/// An option: a scalar, or an object with a `value` (or at least a `label`).
fn option(raw: &RawValue) -> Option<String> {
    if !raw.get().starts_with('{') {
        return scalar(raw);
    }
    let Ok(Json::Object(members)) = json::view(raw) else { return None };
    ["value", "label"].into_iter().find_map(|key| scalar(members.get(key)?))
}

fn is_true(raw: &RawValue) -> bool {
    match json::view(raw) {
        Ok(Json::Bool(flag)) => flag,
        Ok(Json::Number(text)) => text.parse().is_ok_and(|number: f64| number != 0.0),
        Ok(Json::Text(text)) => matches!(text.trim().to_ascii_lowercase().as_str(), "true" | "1" | "yes"),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
