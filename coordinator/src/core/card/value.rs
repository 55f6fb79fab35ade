//! How a value stands on a card: as it is where that is read back as the same, else as a JSON string. And how
//! a text that is not the task's own is shown: on one line, clipped, with nothing that a terminal obeys.
//!
//! What it does not do: know where values come from.

use std::fmt::Write as _;

use super::keys::Key;
use super::slip;
use crate::core::card_input::grammar::{self, Seed};
use crate::core::run_mode::RunMode;

/// How a flag that is on is written, in every language.
pub(super) const TRUE: &str = "true";

/// What a value means that is not quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain<'a> {
    /// Nothing was given.
    Open,
    /// A word that asks for the catalogue's value.
    Preset,
    /// A seed that is to be random.
    Random,
    /// Width and height.
    Size(&'a str, &'a str),
    Text(&'a str),
}

/// Reads a value that is not quoted, by the grammar of card_input. Fails with what is wrong.
pub(super) fn plain(key: Key, value: &str) -> Result<Plain<'_>, &'static str> {
    if value.is_empty() {
        return Ok(Plain::Open);
    }
    if let Some(doubt) = slip::in_value(key, value) {
        return Err(doubt);
    }
    let takes_words = matches!(
        key,
        Key::AspectRatio
            | Key::Resolution
            | Key::Steps
            | Key::Duration
            | Key::Seed
            | Key::ModelName
            | Key::Width
            | Key::Height
    );
    if takes_words && grammar::is_left_open(value) {
        return Ok(Plain::Preset);
    }
    Ok(match key {
        Key::Resolution => match grammar::size(value) {
            Some((width, height)) => Plain::Size(width, height),
            None => Plain::Text(value),
        },
        Key::Seed => match grammar::seed(value)? {
            Seed::Random => Plain::Random,
            Seed::Fixed(seed) => Plain::Text(seed),
        },
        Key::Duration => Plain::Text(grammar::duration(value)?),
        Key::Width | Key::Height => Plain::Text(grammar::pixels(value)?),
        Key::Steps => {
            Plain::Text(grammar::pixels(value).map_err(|_| "is no number of steps; write digits, like 20")?)
        }
        _ => Plain::Text(value),
    })
}

/// A flag as a person writes it.
pub(super) fn flag(text: &str) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(&[TRUE, "yes", "on", "1", "是"]) {
        Some(true)
    } else if is(&["false", "no", "off", "0", "否"]) {
        Some(false)
    } else {
        None
    }
}

/// A run mode as a person writes it: its word in a status, in any letter case, `-` or a space for `_`.
pub(super) fn run_mode(text: &str) -> Option<RunMode> {
    let word = text.to_ascii_lowercase().replace(['-', ' '], "_");
    [RunMode::RunWithDefaults, RunMode::ConfirmRun].into_iter().find(|mode| mode.as_str() == word)
}

/// A value as it stands on a card. Reading that back gives exactly the value.
pub(super) fn write(key: Key, value: &str) -> String {
    let as_it_is = !value.starts_with('"')
        && value.trim() == value
        && !value.contains(is_hidden)
        && slip::as_meant(key, value) == value
        && matches!(plain(key, value), Ok(Plain::Text(read)) if read == value);
    if as_it_is { value.to_owned() } else { quote(value) }
}

/// A value as a JSON string, in which all that cannot be seen is an escape.
fn quote(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if is_hidden(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a text cannot fail.
                    let _ = write!(quoted, "\\u{unit:04x}");
                }
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A quoted value without its quotes; `None` where it is no JSON string.
pub(super) fn unquote(value: &str) -> Option<String> {
    serde_json::from_str(value).ok()
}

/// Characters that cannot be seen, or that change how others are seen: controls, bidirectional marks, line
/// and paragraph separators, characters without width, tags. Those that emoji are made of are none of these.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// A text as a note may show it: on one line, hidden characters made visible, at most `max` bytes.
pub(super) fn shown(text: &str, max: usize) -> String {
    const CUT: &str = "…";
    let mut shown = String::new();
    for c in text.trim().chars() {
        shown.push(visible(c));
        if shown.len() > max {
            let end = shown.floor_char_boundary(max.saturating_sub(CUT.len()));
            shown.truncate(end);
            shown.push_str(CUT);
            break;
        }
    }
    shown
}

/// A character that can be seen, for any: the pictures of controls, and the mark of what cannot be shown.
fn visible(c: char) -> char {
    match c {
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\u{7f}' => '\u{2421}',
        c if is_hidden(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// A text as code in Markdown: between more back-ticks than it has in a row itself.
pub(super) fn code(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(longest + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_would_be_read_as_something_else_is_quoted() {
        for (key, value, written) in [
            (Key::Prompt, "a lighthouse", "a lighthouse"),
            (Key::Prompt, "auto", "auto"),
            (Key::AspectRatio, "auto", "\"auto\""),
            (Key::AspectRatio, "16:9", "16:9"),
            (Key::Resolution, "800x600", "\"800x600\""),
            (Key::Resolution, "720*1280", "720*1280"),
            (Key::Seed, "-1", "\"-1\""),
            (Key::Seed, "42", "42"),
            (Key::Seed, "007", "\"007\""),
            (Key::Duration, "5s", "\"5s\""),
            (Key::Steps, "20.0", "\"20.0\""),
            (Key::Prompt, "a\nb", r#""a\nb""#),
            (Key::Prompt, " ", "\" \""),
            (Key::Prompt, "\"hi\"", r#""\"hi\"""#),
            (Key::Prompt, "say \"hi\"", "say \"hi\""),
            (Key::Prompt, "a\u{202e}b", r#""a\u202eb""#),
            (Key::Prompt, "a\u{e0041}b", r#""a\udb40\udc41b""#),
            (Key::Prompt, "👩\u{200d}🚀", "👩\u{200d}🚀"),
        ] {
            assert_eq!(write(key, value), written);
        }
    }

    #[test]
    fn what_is_shown_is_one_line_that_can_be_seen() {
        assert_eq!(shown(" a\nb\u{1b}[31m\u{202e} ", 100), "a␊b␛[31m\u{fffd}");
        assert_eq!(shown("长长长长", 9), "长长…");
        assert_eq!(shown("长长长", 9), "长长长");
        assert_eq!(code("a"), "`a`");
        assert_eq!(code("a``b`"), "``` a``b` ```");
    }

    proptest! {
        #[test]
        fn every_value_reads_back_as_itself(value in any::<String>()) {
            for key in [Key::Prompt, Key::Seed, Key::Resolution, Key::Duration, Key::Image] {
                let written = write(key, &value);
                prop_assert!(!written.contains(is_hidden));
                let read = if written.starts_with('"') { unquote(&written) } else { Some(written) };
                prop_assert_eq!(read.as_deref(), Some(value.as_str()));
            }
        }

        #[test]
        fn nothing_hidden_is_shown(text in any::<String>(), max in 8_usize..100) {
            let shown = shown(&text, max);
            prop_assert!(shown.len() <= max && !shown.contains(is_hidden));
        }
    }
}
