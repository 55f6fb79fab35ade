//! Shows the lines around a place in a text, with the place underlined.
//!
//! What is shown is bounded: a line before and after, cut on both sides of the place where they are long. Text
//! from elsewhere moves no cursor. What it does not do: say what is wrong; that stands on its own line above.

use std::{fmt, ops::Range};

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents,
    SourceCode, SourceSpan, SpanContents,
};

use super::document::Document;
use crate::sanitize::one_line;

/// Lines shown before and after the one in question.
const CONTEXT_LINES: usize = 1;
/// Characters of a line that are shown.
const MAX_CHARACTERS: usize = 66;
/// Of these, how many stand before a place that is too far to the right to be shown otherwise.
const CHARACTERS_BEFORE: usize = 26;
/// What stands where a line was cut.
const CUT: &str = "...";

/// How to draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// ASCII without colour.
    #[default]
    Plain,
    /// Lines and colours, for a terminal.
    Colour,
}

/// The excerpt, each line ended; empty where it cannot be drawn.
pub fn snippet(document: &Document, range: &Range<usize>, style: Style) -> String {
    let excerpt = Excerpt::new(document, range);
    let theme = match style {
        Style::Plain => GraphicalTheme::none(),
        Style::Colour => GraphicalTheme::unicode(),
    };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_links(false)
        .without_cause_chain()
        .without_primary_span_start()
        .without_syntax_highlighting()
        .with_context_lines(CONTEXT_LINES);
    let mut drawn = String::new();
    if handler.render_report(&mut drawn, &excerpt).is_err() {
        return String::new();
    }
    // The first line is for a message, which stands elsewhere.
    drawn
        .lines()
        .skip(1)
        .filter(|line| !line.trim().is_empty())
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// The lines that are shown, and the place in them.
#[derive(Debug)]
struct Excerpt {
    text: String,
    /// Lines of the document before the first one here.
    lines_before: usize,
    span: SourceSpan,
}

impl Excerpt {
    fn new(document: &Document, range: &Range<usize>) -> Self {
        let position = document.position(range.start);
        let lines_before = position.line.saturating_sub(CONTEXT_LINES + 1);
        let from = document.line_start(lines_before + 1);
        let shown = document.part(&(from..document.text().len()));
        let far = position.column + CHARACTERS_BEFORE > MAX_CHARACTERS;
        let first = if far { position.column - 1 - CHARACTERS_BEFORE } else { 0 };
        let end = first + MAX_CHARACTERS;
        let mut text = String::new();
        let mut found = None;
        for (number, line) in (lines_before + 1..).zip(shown.lines().take(2 * CONTEXT_LINES + 1)) {
            if number == position.line {
                found = Some(text.len() + window(line, first, position.column - 1).len());
            }
            text.push_str(&window(line, first, end));
            if line.chars().nth(end).is_some() {
                text.push_str(CUT);
            }
            text.push('\n');
        }
        let start = found.unwrap_or(text.len());
        // At the end of a line there is nothing to underline.
        let line_end = text.get(start..).and_then(|rest| rest.find('\n')).map_or(text.len(), |at| start + at);
        let wanted = safe(document.part(range).lines().next().unwrap_or_default()).len().max(1);
        let length = wanted.min(line_end.saturating_sub(start));
        Self { text, lines_before, span: (start, length).into() }
    }
}

/// The characters of a line from `first` up to `end`, both counted from 0, made safe to show.
fn window(line: &str, first: usize, end: usize) -> String {
    let cut = if first > 0 { CUT } else { "" };
    let shown: String = line.chars().skip(first).take(end.saturating_sub(first)).collect();
    format!("{cut}{}", safe(&shown))
}

/// As it is shown: a tab is one column, so that what is underlined stands below its text.
fn safe(text: &str) -> String {
    one_line(&text.replace('\t', " "))
}

impl fmt::Display for Excerpt {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Excerpt {}

impl Diagnostic for Excerpt {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(std::iter::once(LabeledSpan::underline(self.span))))
    }
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let here = self.text.read_span(span, before, after)?;
        let (line, column) = (here.line() + self.lines_before, here.column());
        let contents = MietteSpanContents::new(here.data(), *here.span(), line, column, here.line_count());
        Ok(Box::new(contents))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(text: &str, range: Range<usize>) -> String {
        snippet(&Document::new("f", text.to_owned()), &range, Style::Plain)
    }

    #[test]
    fn the_place_is_underlined_between_its_neighbours_in_ascii() {
        let text = "[\n  \"one\",\n  {\"promt\": \"猫\"},\n  \"three\"\n]\n";
        let at = text.find("\"promt\"").unwrap();
        insta::assert_snapshot!(plain(text, at..at + 7), @r##"
          ,----
        2 |   "one",
        3 |   {"promt": "猫"},
          :    ^^^^^^^
        4 |   "three"
          `----
        "##);
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("[{}, \"here\", {}]", "1,".repeat(5000), "2,".repeat(5000));
        let at = text.find("\"here\"").unwrap();
        let drawn = plain(&text, at..at + 6);
        assert!(drawn.contains("\"here\"") && drawn.contains("^^^"), "{drawn}");
        assert!(drawn.lines().all(|line| line.chars().count() <= 80), "{drawn}");
    }

    #[test]
    fn colour_is_for_a_terminal_and_the_texts_own_is_not_taken() {
        let document = Document::new("f", "[\"\u{1b}[31mred\u{202e}\"]".to_owned());
        let plain = snippet(&document, &(1..4), Style::Plain);
        assert!(!plain.contains(['\u{1b}', '\u{202e}']) && plain.contains("red"), "{plain}");
        let coloured = snippet(&document, &(1..4), Style::Colour);
        assert!(coloured.contains("\u{1b}[") && !coloured.contains("\u{1b}[31mred"), "{coloured}");
    }

    proptest! {
        #[test]
        fn any_place_in_any_text_can_be_shown(text in "(?s).{0,80}", start in 0_usize..100, length in 0_usize..20) {
            let document = Document::new("f", text);
            let drawn = snippet(&document, &(start..start + length), Style::Plain);
            prop_assert!(!drawn.chars().any(|c| c != '\n' && c.is_control()));
        }
    }
}
