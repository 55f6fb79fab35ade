//! A text that the user handed in, and where in it something stands.

use std::ops::Range;

use crate::sanitize::one_line;

/// A text with the name that the user knows it by.
#[derive(Debug, PartialEq, Eq)]
pub struct Document {
    name: String,
    text: String,
}

/// A place for people: both counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in it.
    pub column: usize,
}

impl Document {
    /// What was read from `path`, `-` being standard input. The mark that some editors begin a file with is no part
    /// of the text.
    pub fn new(path: &str, mut text: String) -> Self {
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        Self { name: display_name(path), text }
    }

    /// The name, safe to print.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The part of the text at `range`; nothing where that is no part of it.
    pub fn part(&self, range: &Range<usize>) -> &str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    /// The place of a byte offset. One past the end, or inside a character, is taken as the nearest before.
    pub fn position(&self, offset: usize) -> Position {
        let before = self.text.get(..self.floor(offset)).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
        }
    }

    /// The byte offset of a line counted from 1 and a byte in it counted from 1, as parsers name places.
    pub fn offset(&self, line: usize, byte: usize) -> usize {
        let start = self.line_start(line);
        self.floor((start + byte.saturating_sub(1)).min(self.text.len()))
    }

    /// The byte offset at which a line, counted from 1, starts; the end for one that is not there.
    pub fn line_start(&self, line: usize) -> usize {
        match line.checked_sub(2) {
            None => 0,
            Some(skipped) => {
                self.text.match_indices('\n').nth(skipped).map_or(self.text.len(), |(at, _)| at + 1)
            }
        }
    }

    /// Where a part of this text stands in it; `None` for a text that is no part.
    pub fn range_of(&self, part: &str) -> Option<Range<usize>> {
        let start = (part.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize)?;
        let range = start..start + part.len();
        (self.text.get(range.clone()) == Some(part)).then_some(range)
    }

    fn floor(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }
}

/// What a file is called in messages.
pub fn display_name(path: &str) -> String {
    if path == "-" { "<stdin>".to_owned() } else { one_line(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let document = Document::new("-", "\u{feff}ab\n猫c\n".to_owned());
        assert_eq!((document.name(), document.text()), ("<stdin>", "ab\n猫c\n"));
        for (offset, line, column) in
            [(0, 1, 1), (2, 1, 3), (3, 2, 1), (4, 2, 1), (6, 2, 2), (8, 3, 1), (99, 3, 1)]
        {
            assert_eq!(document.position(offset), Position { line, column }, "{offset}");
        }
        assert_eq!(document.offset(2, 4), 6);
        assert_eq!(document.offset(1, 0), 0);
        assert_eq!((document.line_start(2), document.line_start(3), document.line_start(9)), (3, 8, 8));
        assert_eq!(document.range_of(&document.text()[3..6]), Some(3..6));
        assert_eq!(document.range_of("ab"), None);
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        assert!(!display_name("a\u{1b}[2Jb\n").contains(['\u{1b}', '\n']));
    }
}
