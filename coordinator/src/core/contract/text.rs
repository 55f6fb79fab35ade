//! Texts of another machine, made fit to be shown: one line, bounded, without a character that moves a cursor,
//! turns the direction of writing or hides, and without the API key.
//!
//! What it does not do: escape for Markdown or any other format.

/// The most characters of a field's name, label or type.
pub const MAX_NAME_CHARS: usize = 100;
/// The most characters of a message, an option, a preset or a price.
pub const MAX_LINE_CHARS: usize = 200;
/// A shorter key would be found by accident in texts that have nothing to do with it.
const MIN_HIDDEN_BYTES: usize = 4;
/// Ends a text that was longer than its bound.
const CUT: char = '…';

/// What no text may carry, even if the other side sends it back: the API key.
#[derive(Clone, Copy)]
pub struct Hide<'a>(&'a str);

impl<'a> Hide<'a> {
    /// Hides nothing.
    pub const NOTHING: Hide<'static> = Hide("");

    /// Hides a key, if it has at least 4 bytes.
    pub fn key(key: &'a str) -> Self {
        Self(if key.len() < MIN_HIDDEN_BYTES { "" } else { key })
    }

    /// Whether `text` has it in it.
    pub(super) fn is_in(self, text: &str) -> bool {
        !self.0.is_empty() && text.contains(self.0)
    }

    fn from(self, text: &str) -> String {
        if self.is_in(text) { text.replace(self.0, "***") } else { text.to_owned() }
    }
}

/// One line of at most `max` characters, trimmed. What cannot be shown is replaced, what is too long is cut and
/// ends in `…`.
pub(super) fn line(text: &str, max: usize, hide: Hide<'_>) -> String {
    // The key goes first: a cut could leave half of it, and a replaced character could have been in its middle.
    let text = hide.from(text);
    let mut kept = String::new();
    for (count, c) in text.trim().chars().enumerate() {
        if count == max {
            kept.pop();
            kept.push(CUT);
            break;
        }
        kept.push(shown(c));
    }
    kept.trim().to_owned()
}

/// The text, trimmed, if it can be shown as it is: within `max` characters, with nothing replaced.
pub(super) fn whole(text: &str, max: usize, hide: Hide<'_>) -> Option<String> {
    let text = text.trim();
    // Bytes first: the other side decides how long a text is.
    let fits = text.len() <= max * 4 && text.chars().count() <= max;
    (fits && !hide.is_in(text) && text.chars().all(|c| shown(c) == c)).then(|| text.to_owned())
}

/// What stands for a character.
fn shown(c: char) -> char {
    match c {
        '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        // Directions of writing, the byte order mark, and what is drawn as nothing (tags, annotations, fillers).
        '\u{61c}'
        | '\u{200b}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Hide<'_> = Hide::NOTHING;

    #[test]
    fn what_moves_turns_or_hides_is_replaced() {
        let text = "\u{1b}[2Ja\u{202e}b\u{2066}c\u{feff}d\u{61c}\u{200f}\u{7f}\u{9b}é中\r\n# e\u{2028}f";
        assert_eq!(
            line(text, 100, NONE),
            "\u{fffd}[2Ja\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}\u{fffd}\u{fffd}\u{fffd}é中  # e f"
        );
        assert_eq!(line(" \t\n", 100, NONE), "");
        assert_eq!(whole("a\u{202e}b", 100, NONE), None);
        assert_eq!(whole("a\nb", 100, NONE), None);
        assert_eq!(whole(" 1:1 \n", 100, NONE).as_deref(), Some("1:1"));
    }

    #[test]
    fn what_is_too_long_is_cut_and_shows_it() {
        let long = "字".repeat(101);
        assert_eq!(line(&long, 100, NONE), format!("{}…", "字".repeat(99)));
        assert_eq!(line(&long[3..], 100, NONE), "字".repeat(100));
        assert_eq!(whole(&long, 100, NONE), None);
        assert!(whole(&long[3..], 100, NONE).is_some());
    }

    #[test]
    fn the_key_is_gone_before_anything_is_cut_or_replaced() {
        let hide = Hide::key("sk-secret-123");
        let at_the_cut = format!("{}sk-secret-123", "x".repeat(95));
        assert!(!line(&at_the_cut, 100, hide).contains("sk-"));
        assert_eq!(line("Bearer sk-secret-123.", 100, hide), "Bearer ***.");
        assert_eq!(whole("sk-secret-123", 100, hide), None);
        // Too short to be told from an ordinary text.
        assert_eq!(line("abc", 100, Hide::key("abc")), "abc");
    }
}
