//! The lines of a text with cards, sorted into the facts of each card.
//!
//! What it does not do: know what a value means.

use super::entry::Entry;
use crate::core::card::keys::{self, Key, Meaning, Note};
use crate::core::card::slip;
use crate::core::card::value::shown;
use crate::core::card_input;
use crate::core::integer::Integer;
use crate::core::payload::{Violations, nearest_of};

/// Longest unknown key that an error repeats, in bytes.
const MAX_KEY_BYTES: usize = 40;

/// A line that somebody meant to take out.
const NO_FACT: &str = "looks commented, struck out or bracketed; delete it, begin it with > to leave it unread, or \
                       write it plainly, like `resolution: 4K`";
/// The command of a card is its longest line.
const WRAPPED: &str = "breaks off; an editor wrapped the long lines. Turn that off and take the cards from prefill \
                       again, or delete this note and check every line";

/// The cards of a text.
#[derive(Debug, Default)]
pub(super) struct Sheets {
    pub(super) sheets: Vec<Sheet>,
    pub(super) concurrency: Option<Integer>,
}

/// The facts of one card, in their order.
#[derive(Debug)]
pub(super) struct Sheet {
    /// Where it begins.
    pub(super) line: usize,
    pub(super) entries: Vec<Entry>,
}

/// What a line without a colon goes on with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    /// Text before the first field of a card, which nobody reads.
    Before,
    /// The card's last field.
    Field,
    /// A key that was reported already.
    Unknown,
    /// A note, and notes have one line.
    Note,
}

/// Sorts the lines. What is wrong is reported and left out.
pub(super) fn read(text: &str, violations: &mut Violations) -> Sheets {
    let mut reader = Reader {
        found: Sheets::default(),
        open: Open::Before,
        new_card: true,
        seen_heading: false,
        violations,
    };
    for (number, line) in (1..).zip(card_input::lines(text)) {
        if reader.violations.full() {
            break;
        }
        // Some editors begin a file with a mark.
        let line = if number == 1 { line.trim_start_matches('\u{feff}') } else { line };
        reader.line(number, line.trim());
    }
    reader.found
}

struct Reader<'a> {
    found: Sheets,
    open: Open,
    /// Whether the next field begins a card.
    new_card: bool,
    seen_heading: bool,
    violations: &'a mut Violations,
}

impl Reader<'_> {
    fn line(&mut self, number: usize, line: &str) {
        if line.is_empty() || line.starts_with('>') || is_rule(line) || is_fence(line) {
            return;
        }
        match heading(line) {
            0 => {}
            1 if self.in_text() => return self.lost(number),
            level => {
                self.open = Open::Before;
                if level > 1 {
                    (self.new_card, self.seen_heading) = (true, true);
                }
                return;
            }
        }
        match line.split_once(['：', ':']) {
            Some((key, value)) => self.field(number, key, value),
            None => self.go_on(number, line),
        }
    }

    fn field(&mut self, number: usize, key: &str, value: &str) {
        let name = card_input::clean_key(key.trim());
        let value = slip::without_emphasis(key, value.trim());
        match keys::meaning(&name) {
            Some(Meaning::Note(note)) if note != Note::Field && self.in_text() => self.lost(number),
            Some(Meaning::Note(Note::Command)) if !slip::is_whole_code(value) => self.wrong(number, WRAPPED),
            Some(Meaning::Note(_)) => {
                self.open = if self.new_card { Open::Before } else { Open::Note };
            }
            Some(Meaning::Field(_)) if slip::in_key(key) => self.wrong(number, NO_FACT),
            Some(Meaning::Field(Key::Concurrency)) => self.concurrency(number, value),
            Some(Meaning::Field(key)) => {
                let value = slip::as_meant(key, value).into_owned();
                let entry = Entry { key, name, line: number, value };
                self.card(number).entries.push(entry);
                self.open = Open::Field;
            }
            None => self.unknown(number, &name),
        }
    }

    /// Of the batch: it stands before the cards, unless the text has no headings at all.
    fn concurrency(&mut self, number: usize, value: &str) {
        if self.seen_heading {
            let at = format!("cards[{}].concurrency", self.index());
            let problem = "is of the whole batch; put it before the first heading";
            self.violations.add(at, format!("line {number}: {problem}"));
            self.open = Open::Unknown;
            return;
        }
        self.found.concurrency = (!value.is_empty()).then(|| Integer::from_text(value));
        self.open = Open::Before;
    }

    fn unknown(&mut self, number: usize, name: &str) {
        self.open = Open::Unknown;
        let nearest = nearest_of(name, keys::field_names()).unwrap_or_default();
        let name = shown(name, MAX_KEY_BYTES);
        let problem = format!(
            "line {number}: is no known key; the nearest one is {nearest}. Begin the line with > to leave it \
             unread; a value with line breaks is written \"like\\nthis\""
        );
        self.violations.add(format!("cards[{}].{name}", self.index()), problem);
    }

    fn go_on(&mut self, number: usize, line: &str) {
        match self.open {
            _ if line.starts_with("<!--") => self.wrong(number, NO_FACT),
            Open::Before | Open::Unknown => {}
            Open::Field if !self.in_text() => {
                let problem = "goes on with a field that has one line; give each value a line with its key, like \
                               `image: a.png`, or begin this one with > to leave it unread";
                self.wrong(number, problem);
            }
            Open::Field => {
                let last = self.found.sheets.last_mut().and_then(|sheet| sheet.entries.last_mut());
                if let Some(entry) = last {
                    if !entry.value.is_empty() {
                        entry.value.push('\n');
                    }
                    entry.value.push_str(line);
                }
            }
            Open::Note => {
                let problem = "belongs to no field; put it after a field's colon, or begin it with > to leave it unread";
                self.wrong(number, problem);
            }
        }
    }

    /// Whether the last line was of a value that may have several.
    fn in_text(&self) -> bool {
        let last = || self.found.sheets.last().and_then(|sheet| sheet.entries.last());
        self.open == Open::Field && last().is_some_and(|entry| entry.key.is_prose())
    }

    /// A line that may be meant as part of the text above, and reads as something that is passed over.
    fn lost(&mut self, number: usize) {
        let last = self.found.sheets.last().and_then(|sheet| sheet.entries.last());
        let field = last.map_or("", |entry| entry.key.field());
        let problem = "would not be read as part of this text; write the text as \"line one\\nline two\", or \
                       begin the line with > to leave it unread";
        self.violations.add(format!("cards[{}].{field}", self.index()), format!("line {number}: {problem}"));
        self.open = Open::Unknown;
    }

    fn wrong(&mut self, number: usize, problem: &str) {
        self.violations.add(format!("cards[{}]", self.index()), format!("line {number}: {problem}"));
        self.open = Open::Unknown;
    }

    /// The card that a field of this line belongs to.
    fn card(&mut self, number: usize) -> &mut Sheet {
        let sheets = &mut self.found.sheets;
        if self.new_card || sheets.is_empty() {
            self.new_card = false;
            sheets.push(Sheet { line: number, entries: Vec::new() });
        }
        let last = sheets.len() - 1;
        &mut sheets[last]
    }

    /// The number of the card that is being read, from 1.
    fn index(&self) -> usize {
        let begun = self.found.sheets.len();
        if self.new_card { begun + 1 } else { begun }
    }
}

/// How many `#` begin a heading; 0 for any other line.
fn heading(line: &str) -> usize {
    let rest = line.trim_start_matches('#');
    let level = line.len() - rest.len();
    if level <= 6 && (rest.is_empty() || rest.starts_with(char::is_whitespace)) { level } else { 0 }
}

/// `---`, `* * *`.
fn is_rule(line: &str) -> bool {
    let mut marks = line.chars().filter(|c| !c.is_whitespace());
    let Some(first @ ('-' | '*' | '_')) = marks.next() else { return false };
    let (same, count) = marks.fold((true, 1), |(same, count), c| (same && c == first, count + 1));
    same && count >= 3
}

/// The line around a block of code, in which a chat may hand cards over.
fn is_fence(line: &str) -> bool {
    line.starts_with("```") || line.starts_with("~~~")
}
