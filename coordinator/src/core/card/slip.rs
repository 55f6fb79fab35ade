//! Slips of a hand, an editor or a chat: values and lines that would be read as something that nobody means.
//!
//! What it does not do: guess. What has one meaning is read; the rest is refused, and quotes say that it is meant.

use std::borrow::Cow;

use super::keys::Key;
use super::value::is_hidden;

/// Marks that a whole value is put between by who decorates it.
const PAIRS: [(&str, &str); 17] = [
    ("**", "**"),
    ("__", "__"),
    ("~~", "~~"),
    ("*", "*"),
    ("_", "_"),
    ("`", "`"),
    ("'", "'"),
    ("‘", "’"),
    ("“", "”"),
    ("”", "”"),
    ("„", "“"),
    ("“", "\""),
    ("＂", "＂"),
    ("「", "」"),
    ("『", "』"),
    ("«", "»"),
    ("<", ">"),
];
const ENTITIES: [&str; 6] = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;", "&nbsp;"];
/// Ways to say that nothing is given, which are none.
const NOTHING: [&str; 8] = ["none", "null", "nil", "n/a", "-", "无", "没有", "空"];

/// What makes a value that is not quoted doubtful, and the way out.
pub(super) fn in_value(key: Key, value: &str) -> Option<&'static str> {
    let media = matches!(key, Key::Image | Key::Audio | Key::Video);
    let word = matches!(key, Key::Model | Key::AspectRatio | Key::Resolution | Key::ModelName);
    Some(if value.contains(|c| is_hidden(c) && !matches!(c, '\n' | '\t')) {
        "has a character that cannot be seen; delete it, or write the value \"in quotes\""
    } else if value.contains("<!--") || value.ends_with("-->") {
        "has a comment; put it on a line of its own that begins with >"
    } else if ENTITIES.iter().any(|entity| value.contains(entity)) {
        "has a character that was escaped for HTML, like &amp;; write the character itself, or the value \"in quotes\""
    } else if is_decorated(value) {
        "stands between marks; take them off, or write the value \"in straight double quotes\" to keep them"
    } else if media && is_link(value) {
        "is a link in Markdown; write its address alone, or the value \"in quotes\""
    } else if media && [", ", "，", "、"].iter().any(|comma| value.contains(comma)) {
        "looks like several; give each a line of its own, or write the value \"in quotes\""
    } else if (media || word) && NOTHING.contains(&value.to_lowercase().as_str()) {
        "says that there is none; leave nothing after the colon, or write the value \"in quotes\""
    } else if word && [" #", " //", "\\"].iter().any(|mark| value.contains(mark)) {
        "has more in it than a value; write the value alone, or \"in quotes\""
    } else if word && value.ends_with([',', ';', '，', '；', '、', '。']) {
        "ends in a punctuation mark; take it off, or write the value \"in quotes\""
    } else if key == Key::Resolution && is_size_with_a_times_sign(value) {
        "is a size with a ×; write it with an x, like 1024x768, or \"in quotes\" as it is"
    } else {
        return None;
    })
}

fn is_decorated(value: &str) -> bool {
    PAIRS.iter().any(|(open, close)| {
        let inner = value.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        // With one more in between it is a text that only begins and ends like that.
        inner.is_some_and(|inner| !inner.is_empty() && !inner.contains(close))
    })
}

/// `[text](address)`, with a `!` before it or none.
fn is_link(value: &str) -> bool {
    value.trim_start_matches('!').starts_with('[') && value.contains("](") && value.ends_with(')')
}

fn is_size_with_a_times_sign(value: &str) -> bool {
    let is_digits = |part: &str| !part.trim().is_empty() && part.trim().bytes().all(|b| b.is_ascii_digit());
    value.split_once('×').is_some_and(|(width, height)| is_digits(width) && is_digits(height))
}

/// A ratio as it is meant where it was typed with full-width characters or white space: `16：9` is `16:9`.
pub(super) fn as_meant(key: Key, value: &str) -> Cow<'_, str> {
    const MAX_BYTES: usize = 64;
    if key != Key::AspectRatio || value.len() > MAX_BYTES {
        return Cow::Borrowed(value);
    }
    let narrow: String = value
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| match c {
            '：' | '∶' => ':',
            '０'..='９' => char::from_digit(u32::from(c) - u32::from('０'), 10).unwrap_or(c),
            c => c,
        })
        .collect();
    let is_ratio = narrow.split_once(':').is_some_and(|(width, height)| {
        [width, height].iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    });
    if is_ratio && narrow != value { Cow::Owned(narrow) } else { Cow::Borrowed(value) }
}

/// Whether what stands before a line's colon says that the line is not to count: it is a comment, struck out,
/// or begins a bracket that ends elsewhere.
pub(super) fn in_key(key: &str) -> bool {
    const PAIRS: [(char, char); 7] =
        [('(', ')'), ('（', '）'), ('[', ']'), ('【', '】'), ('{', '}'), ('“', '”'), ('「', '」')];
    let before = key.split(char::is_alphanumeric).next().unwrap_or_default();
    before.contains(['/', '<', '~', ';', '%', '!', '|', '\''])
        || PAIRS.iter().any(|(open, close)| before.contains(*open) && !key.contains(*close))
        || key.matches('"').count() == 1
}

/// The value of `**key:** value` and of `**key: value**`, where the emphasis ends behind the colon.
pub(super) fn without_emphasis<'a>(key: &str, value: &'a str) -> &'a str {
    const MARKS: [char; 3] = ['*', '_', '`'];
    let key = key.trim();
    let key = match key.split_once(char::is_whitespace) {
        Some((list_mark, rest)) if !list_mark.contains(char::is_alphabetic) => rest.trim(),
        _ => key,
    };
    let name = key.trim_start_matches(MARKS);
    let close: String = key[..key.len() - name.len()].chars().rev().collect();
    if close.is_empty() || name.ends_with(&close) {
        return value;
    }
    value.strip_prefix(&close).or_else(|| value.strip_suffix(&close)).unwrap_or(value).trim()
}

/// Whether a note that is code ends on its line: an editor that wraps long lines wraps this one.
pub(super) fn is_whole_code(text: &str) -> bool {
    let rest = text.trim_start_matches('`');
    let fence = &text[..text.len() - rest.len()];
    fence.is_empty() || rest.ends_with(fence)
}
