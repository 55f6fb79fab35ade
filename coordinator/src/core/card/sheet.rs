//! A card as it is being written, line by line.
//!
//! What it does not do: decide what stands on it.

use super::Lang;
use super::keys::{Key, Note};
use super::value;
use super::words::{self, Words};

/// Longest text of another's that a note shows, in bytes.
pub(super) const MAX_TEXT_BYTES: usize = 120;
/// Longest note, in bytes; the command has its own bound.
const MAX_NOTE_BYTES: usize = 1024;

/// The lines so far.
pub(super) struct Sheet {
    pub(super) lang: Lang,
    pub(super) words: &'static Words,
    text: String,
}

impl Sheet {
    pub(super) fn new(lang: Lang) -> Self {
        Self { lang, words: words::of(lang), text: String::new() }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    /// A fact, as it is.
    pub(super) fn value(&mut self, key: Key, value: &str) {
        self.word(key, &value::write(key, value));
    }

    /// A field that is left open.
    pub(super) fn open(&mut self, key: Key) {
        self.word(key, "");
    }

    /// A fact that the reader knows by this word.
    pub(super) fn word(&mut self, key: Key, word: &str) {
        self.line("- ", key.name(self.lang), word);
    }

    /// A note on the field above.
    pub(super) fn note(&mut self, note: Note, text: &str) {
        self.line("  - ", note.name(self.lang), &note_text(text));
    }

    /// A note on no field.
    pub(super) fn own_note(&mut self, note: Note, text: &str) {
        self.line("- ", note.name(self.lang), &note_text(text));
    }

    /// A note that is code, shown and bounded already.
    pub(super) fn code_note(&mut self, note: Note, text: &str) {
        self.line("  - ", note.name(self.lang), &value::code(text));
    }

    fn line(&mut self, mark: &str, key: &str, value: &str) {
        self.text.push_str(mark);
        self.text.push_str(key);
        let colon = self.words.colon;
        self.text.push_str(if value.is_empty() { colon.trim_end() } else { colon });
        self.text.push_str(value);
        self.text.push('\n');
    }
}

/// A note's text on one line. What a publisher says is neither markup nor a picture to be fetched.
fn note_text(text: &str) -> String {
    let text = value::shown(text, MAX_NOTE_BYTES).replace("](", "]\\(");
    let mut safe = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '<' && chars.peek().is_some_and(|next| next.is_ascii_alphabetic() || "/!?".contains(*next)) {
            safe.push('\\');
        }
        safe.push(c);
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_no_markup() {
        assert_eq!(
            note_text("![x](http://h/i.png) <img src=y> </b> 1 < 2"),
            "![x]\\(http://h/i.png) \\<img src=y> \\</b> 1 < 2"
        );
    }
}
