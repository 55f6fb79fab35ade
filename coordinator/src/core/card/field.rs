//! What a card says about one input of a contract: what it is, where its value comes from, what it takes, and
//! what the contract forbids.

use super::check::{self, Fault};
use super::keys::{Key, Note};
use super::sheet::{MAX_TEXT_BYTES, Sheet};
use super::source::{Origin, State};
use super::value::{self, shown};
use super::words::{Words, fill};
use crate::core::contract::{FieldKind, InputField};

/// Options that are shown; the others are counted.
const OPTIONS_SHOWN: usize = 8;
/// The options that are shown, in bytes: long ones are fewer, since half an option is of no use.
const MAX_OPTIONS_BYTES: usize = 400;
/// Longest bound or foreign kind shown, in bytes.
const MAX_BOUND_BYTES: usize = 48;

/// The notes on an input that a field line above sets. `missing`: required, and nothing is there.
pub(super) fn notes(sheet: &mut Sheet, key: Key, input: &InputField, state: State<'_>, missing: bool) {
    let text = describe(sheet.words, input, input_name(input), &source(sheet.words, state));
    sheet.note(Note::Field, &text);
    details(sheet, key, input, state.value(), missing);
}

/// The notes on an input that only a `param` sets, and none does.
pub(super) fn param_notes(sheet: &mut Sheet, input: &InputField, missing: bool) {
    let words = sheet.words;
    let state = match input.preset.as_str() {
        "" => State::OpenUnknown,
        preset => State::OpenModel(preset),
    };
    let name = shown(&input.name, MAX_TEXT_BYTES);
    let label = full_name(input);
    let mut says = source(words, state);
    if input.kind == FieldKind::MediaSlot {
        says.clear();
    }
    let mut text = describe(words, input, &label, &says);
    if input.kind != FieldKind::MediaSlot {
        text.push_str(words.semicolon);
        text.push_str(&fill(words.set_by_param, &[Key::Param.name(sheet.lang), &name]));
    }
    sheet.own_note(Note::Field, &text);
    details(sheet, Key::Param, input, None, missing);
}

/// The note on a value that no contract describes.
pub(super) fn bare_notes(sheet: &mut Sheet, state: State<'_>) {
    let text = source(sheet.words, state);
    sheet.note(Note::Field, &text);
}

fn details(sheet: &mut Sheet, key: Key, input: &InputField, value: Option<&str>, missing: bool) {
    let words = sheet.words;
    if !input.options.is_empty() && !check::is_media(&input.kind) {
        sheet.note(Note::Options, &options(words, key, input));
    }
    let (min, max) = (shown(&input.min, MAX_BOUND_BYTES), shown(&input.max, MAX_BOUND_BYTES));
    match (min.is_empty(), max.is_empty()) {
        (false, false) => sheet.note(Note::Range, &fill(words.range_both, &[&min, &max])),
        (false, true) => sheet.note(Note::Range, &fill(words.range_min, &[&min])),
        (true, false) => sheet.note(Note::Range, &fill(words.range_max, &[&max])),
        (true, true) => {}
    }
    if let Some(value) = value
        && let Some(fault) = check::check(input, value)
    {
        sheet.note(Note::Warning, &say(words, fault, value));
    }
    if missing {
        sheet.note(Note::Missing, words.missing);
    }
}

/// The first options, as many as fit, each as it is written after the key's colon; the others are counted.
fn options(words: &Words, key: Key, input: &InputField) -> String {
    let mut first = String::new();
    let mut count = 0;
    for option in input.options.iter().take(OPTIONS_SHOWN) {
        let option = match key {
            // Stands behind a `=` there, where nothing is quoted.
            Key::Param => shown(option, MAX_TEXT_BYTES),
            key => shown(&value::write(key, option), MAX_TEXT_BYTES),
        };
        if count > 0 && first.len() + option.len() > MAX_OPTIONS_BYTES {
            break;
        }
        if count > 0 {
            first.push_str(words.between);
        }
        first.push_str(&option);
        count += 1;
    }
    let more = (input.options.len() - count).saturating_add(input.options_left_out);
    if more == 0 { first } else { fill(words.options_more, &[&first, &more.to_string()]) }
}

fn say(words: &Words, fault: Fault<'_>, value: &str) -> String {
    let value = shown(value, MAX_TEXT_BYTES);
    let with = |template, other: &str| fill(template, &[&value, &shown(other, MAX_TEXT_BYTES)]);
    match fault {
        Fault::NotAnOption => with(words.not_an_option, ""),
        Fault::OtherCase(option) => with(words.option_in_other_case, option),
        Fault::NotANumber => with(words.not_a_number, ""),
        Fault::TooSmall(min) => with(words.too_small, min),
        Fault::TooGreat(max) => with(words.too_great, max),
        Fault::NotAFlag => with(words.not_a_flag, ""),
    }
}

fn describe(words: &Words, input: &InputField, name: &str, source: &str) -> String {
    let kind = kind(words, &input.kind);
    let required = if input.required { words.required } else { "" };
    let name = shown(name, 2 * MAX_TEXT_BYTES);
    let parts: Vec<&str> =
        [name.as_str(), &kind, required].into_iter().filter(|part| !part.is_empty()).collect();
    let mut text = parts.join(words.comma);
    if !source.is_empty() {
        text.push_str(words.semicolon);
        text.push_str(source);
    }
    text
}

/// What people read for it.
fn input_name(input: &InputField) -> &str {
    if input.label.is_empty() { &input.name } else { &input.label }
}

/// What people read for it, and what a `param` calls it.
fn full_name(input: &InputField) -> String {
    let name = shown(&input.name, MAX_TEXT_BYTES);
    match shown(&input.label, MAX_TEXT_BYTES - 3) {
        label if label.is_empty() || label == name => name,
        label => format!("{label} ({name})"),
    }
}

fn kind(words: &Words, kind: &FieldKind) -> String {
    match kind {
        FieldKind::Text => words.text,
        FieldKind::Choice => words.choice,
        FieldKind::Flag => words.flag,
        FieldKind::Number => words.number,
        FieldKind::Slider => words.slider,
        FieldKind::Seed => words.seed,
        FieldKind::Images => words.images,
        FieldKind::Audios => words.audios,
        FieldKind::Videos => words.videos,
        FieldKind::MediaSlot => words.media_slot,
        FieldKind::Other(other) => return shown(other, MAX_BOUND_BYTES),
    }
    .to_owned()
}

fn source(words: &Words, state: State<'_>) -> String {
    let origin = |origin| match origin {
        Origin::You => words.from_you,
        Origin::Card => words.from_card,
        Origin::Catalogue => words.from_catalogue,
    };
    let with = |template, value| fill(template, &[&shown(value, MAX_TEXT_BYTES)]);
    match state {
        State::Given(_, from) => origin(from).to_owned(),
        State::Random(from) => format!("{}{}{}", words.chosen_random, words.comma, origin(from)),
        State::OpenCatalogue(value) => with(words.open_catalogue, value),
        State::OpenModel(value) => with(words.open_model, value),
        State::OpenRandom => words.open_random.to_owned(),
        State::OpenUnknown => words.open_unknown.to_owned(),
    }
}
