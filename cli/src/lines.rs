//! Turns what a task prints into lines that are safe to show, with carriage returns as a terminal shows them. Pure.
//!
//! A line that is drawn again and again (`10%\r20%\r100%\n`) is what it was last: what stands after the last
//! carriage return that text follows. A line without an end is handed on in pieces, so memory stays bounded. It
//! does not lay text over text that is longer, and it keeps nothing of the lines before.

use crate::sanitize::{Colour, Sanitizer};

/// A line that is longer is handed on in pieces, in bytes.
pub const MAX_LINE: usize = 8 << 10;
/// Colours between a carriage return and the text after it: more than these are forgotten, in bytes.
const MAX_WAITING_COLOURS: usize = 256;

/// How a piece of a line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With the line.
    Line,
    /// The line goes on in the next piece.
    Cut,
    /// With the output: there was no line end.
    Output,
}

/// The lines of one stream of output.
#[derive(Debug)]
pub struct Lines {
    sanitizer: Sanitizer,
    line: String,
    /// A carriage return came, and no text after it yet: the next text begins the line anew.
    returned: bool,
    /// Colours since that carriage return.
    colours: String,
    safe: String,
}

impl Lines {
    /// For the beginning of a stream.
    pub fn new(colour: Colour) -> Self {
        Self {
            sanitizer: Sanitizer::new(colour).keep_returns(),
            line: String::new(),
            returned: false,
            colours: String::new(),
            safe: String::new(),
        }
    }

    /// Takes the next bytes and hands on the lines that they complete, without their line ends.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&str, End)) {
        let mut safe = std::mem::take(&mut self.safe);
        safe.clear();
        self.sanitizer.push(bytes, &mut safe);
        self.take(&safe, &mut each);
        self.safe = safe;
    }

    /// The stream has ended: hands on what was left without a line end.
    pub fn finish(&mut self, mut each: impl FnMut(&str, End)) {
        let mut safe = String::new();
        self.sanitizer.finish(&mut safe);
        self.take(&safe, &mut each);
        self.line.push_str(&self.colours);
        if !self.line.is_empty() {
            each(&self.line, End::Output);
        }
        self.line.clear();
        self.colours.clear();
        self.returned = false;
    }

    /// The line as it stands, if it has not ended.
    pub fn open(&self) -> &str {
        &self.line
    }

    fn take(&mut self, safe: &str, each: &mut impl FnMut(&str, End)) {
        let mut rest = safe;
        while let Some(first) = rest.chars().next() {
            if first == '\u{1b}' {
                // Only whole colour sequences come out of the sanitizer.
                let (sequence, after) = rest.split_at(rest.find('m').map_or(rest.len(), |at| at + 1));
                self.colour(sequence);
                rest = after;
                continue;
            }
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
            match first {
                '\n' => {
                    self.line.push_str(&std::mem::take(&mut self.colours));
                    each(&self.line, End::Line);
                    self.line.clear();
                    self.returned = false;
                }
                '\r' => self.returned = true,
                character => self.character(character, each),
            }
        }
    }

    fn colour(&mut self, sequence: &str) {
        if !self.returned {
            self.line.push_str(sequence);
            return;
        }
        if self.colours.len() + sequence.len() > MAX_WAITING_COLOURS {
            self.colours.clear();
        }
        self.colours.push_str(sequence);
    }

    fn character(&mut self, character: char, each: &mut impl FnMut(&str, End)) {
        if std::mem::take(&mut self.returned) {
            self.line.clear();
            self.line.push_str(&std::mem::take(&mut self.colours));
        }
        self.line.push(character);
        if self.line.len() >= MAX_LINE {
            each(&self.line, End::Cut);
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(colour: Colour, chunks: &[&[u8]]) -> Vec<(String, End)> {
        let mut lines = Lines::new(colour);
        let mut out = Vec::new();
        for chunk in chunks {
            lines.push(chunk, |line, end| out.push((line.to_owned(), end)));
        }
        lines.finish(|line, end| out.push((line.to_owned(), end)));
        out
    }

    fn texts(text: &str) -> Vec<String> {
        run(Colour::Strip, &[text.as_bytes()]).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn a_line_that_is_drawn_again_is_what_it_was_last() {
        assert_eq!(texts("10%\r20%\r100%\n"), ["100%"]);
        assert_eq!(texts("\r10%\r20%\r\ndone\r\n"), ["20%", "done"]);
        assert_eq!(texts("10%\x1b[K\r\x1b[K100%\x1b[K\n"), ["100%"]);
        assert_eq!(texts("a\n10%\r20%\r"), ["a", "20%"]);
        assert_eq!(texts("\n\n"), ["", ""]);
    }

    #[test]
    fn an_end_is_told_from_none() {
        let pieces = run(Colour::Strip, &[b"a\r", b"\nb"]);
        assert_eq!(pieces, [("a".to_owned(), End::Line), ("b".to_owned(), End::Output)]);
    }

    #[test]
    fn colours_go_with_the_text_that_they_colour() {
        let pieces = run(Colour::Keep, &[b"\x1b[31m1%\r\x1b[32m2%\x1b[0m\r\x1b[33m\n"]);
        assert_eq!(pieces[0].0, "\u{1b}[32m2%\u{1b}[0m\u{1b}[33m");
    }

    #[test]
    fn a_line_without_an_end_comes_in_pieces_and_is_not_kept() {
        let mut lines = Lines::new(Colour::Strip);
        let mut length = 0;
        for _ in 0..64 {
            lines.push(&[b'x'; 1000], |piece, end| {
                assert_eq!(end, End::Cut);
                length += piece.len();
            });
            assert!(lines.open().len() < MAX_LINE);
        }
        lines.finish(|piece, end| {
            assert_eq!(end, End::Output);
            length += piece.len();
        });
        assert_eq!(length, 64_000);
        let mut lines = Lines::new(Colour::Keep);
        lines.push(b"x\r", |_, _| {});
        for _ in 0..10_000 {
            lines.push(b"\x1b[31m", |_, _| {});
        }
        assert!(lines.colours.len() <= MAX_WAITING_COLOURS);
    }

    proptest! {
        #[test]
        fn chunk_borders_change_nothing(text in "[a-c\\r\\n\u{1b}\\[1;m竹]{0,60}", size in 1_usize..9) {
            for colour in [Colour::Keep, Colour::Strip] {
                let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
                prop_assert_eq!(run(colour, &chunks), run(colour, &[text.as_bytes()]));
            }
        }

        #[test]
        fn no_control_character_is_in_a_line(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for (line, _) in run(Colour::Strip, &[&bytes]) {
                prop_assert!(line.chars().all(|c| !c.is_control() || c == '\t'), "{line:?}");
            }
        }
    }
}
