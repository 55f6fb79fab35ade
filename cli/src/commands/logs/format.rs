//! How one task's output is shown: prefix, colours, only lines with a text in them. Pure.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::{
    lines::{End, Lines},
    sanitize::{Colour, one_line},
};

/// A label in a prefix is cut at this width.
const MAX_LABEL: usize = 24;
/// Colours of prefixes, one task after the other: those that are read well on dark and on light.
const COLOURS: [&str; 6] = ["36", "33", "32", "35", "34", "31"];
const RESET: &str = "\u{1b}[0m";

/// How lines are shown.
#[derive(Clone, Debug)]
pub struct Style {
    prefix: String,
    colour: Colour,
    grep: Option<String>,
    own_lines: bool,
}

impl Style {
    /// `prefix`: the task's number and label, where lines carry them. `plain`: without the task's own colours.
    pub fn new(colour: Colour, prefix: Option<(i32, &str)>, plain: bool) -> Self {
        let own_lines = prefix.is_some();
        let prefix = prefix.map(|(index, label)| self::prefix(colour, index, label)).unwrap_or_default();
        Self { prefix, colour: if plain { Colour::Strip } else { colour }, grep: None, own_lines }
    }

    /// Only lines with this text.
    pub fn with_grep(self, grep: Option<String>) -> Self {
        Self { own_lines: self.own_lines || grep.is_some(), grep, ..self }
    }

    /// Every piece is a line of its own, also where the output has no line end.
    pub fn with_own_lines(self) -> Self {
        Self { own_lines: true, ..self }
    }
}

/// `[3 label]`, in the task's colour.
fn prefix(colour: Colour, index: i32, label: &str) -> String {
    let mut name = format!("[{index}");
    let label = cut(&one_line(label.trim()));
    if !label.is_empty() {
        name.push(' ');
        name.push_str(&label);
    }
    name.push(']');
    match colour {
        Colour::Strip => format!("{name} "),
        Colour::Keep => {
            let place = usize::try_from(index - 1).unwrap_or(0) % COLOURS.len();
            format!("\u{1b}[{}m{name}{RESET} ", COLOURS.get(place).unwrap_or(&"36"))
        }
    }
}

fn cut(label: &str) -> String {
    if label.width() <= MAX_LABEL {
        return label.to_owned();
    }
    let mut width = 1;
    let kept = label.chars().take_while(|character| {
        width += character.width().unwrap_or(0).max(1);
        width <= MAX_LABEL
    });
    kept.chain(std::iter::once('…')).collect()
}

/// One task's output on its way to be shown.
#[derive(Debug)]
pub struct Formatter {
    lines: Lines,
    shown: Shown,
}

impl Formatter {
    /// For the beginning of the output.
    pub fn new(style: Style) -> Self {
        let lines = Lines::new(style.colour);
        Self { lines, shown: Shown { style, goes_on: false, carry: String::new() } }
    }

    /// Takes the next bytes; the text to show.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut out = String::new();
        let Self { lines, shown } = self;
        lines.push(bytes, |line, end| shown.line(line, end, &mut out));
        out
    }

    /// The output has ended; the rest to show.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        let Self { lines, shown } = self;
        lines.finish(|line, end| shown.line(line, end, &mut out));
        out
    }

    /// The line that has not ended.
    pub fn open(&self) -> &str {
        self.lines.open()
    }
}

#[derive(Debug)]
struct Shown {
    style: Style,
    /// The line began in a piece before.
    goes_on: bool,
    /// The end of the piece before, in which a text that is looked for may begin.
    carry: String,
}

impl Shown {
    fn line(&mut self, line: &str, end: End, out: &mut String) {
        let went_on = std::mem::replace(&mut self.goes_on, end == End::Cut);
        if !self.style.own_lines {
            out.push_str(line);
            if end == End::Line {
                out.push('\n');
            }
            return;
        }
        let matches = self.matches(line, end);
        // The end of a line that came in pieces, or a colour that is switched off.
        let nothing = (went_on && end != End::Cut || end == End::Output) && !has_text(line);
        if nothing || !matches {
            return;
        }
        out.push_str(&self.style.prefix);
        out.push_str(line);
        // A colour never runs into the next line, which may be another task's.
        if line.contains('\u{1b}') && !line.ends_with(RESET) {
            out.push_str(RESET);
        }
        out.push('\n');
    }

    fn matches(&mut self, line: &str, end: End) -> bool {
        let Some(text) = &self.style.grep else { return true };
        self.carry.push_str(line);
        let found = self.carry.contains(text.as_str());
        if end == End::Cut {
            let mut from = self.carry.len().saturating_sub(text.len().saturating_sub(1));
            while !self.carry.is_char_boundary(from) {
                from += 1;
            }
            self.carry.drain(..from);
        } else {
            self.carry.clear();
        }
        found
    }
}

/// Whether anything is seen of a line.
fn has_text(line: &str) -> bool {
    let mut rest = line;
    while let Some(sequence) = rest.strip_prefix('\u{1b}') {
        rest = sequence.split_once('m').map_or("", |(_, after)| after);
    }
    !rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::MAX_LINE;

    fn show(style: Style, chunks: &[&[u8]]) -> String {
        let mut formatter = Formatter::new(style);
        let mut out: String = chunks.iter().map(|chunk| formatter.push(chunk)).collect();
        out.push_str(&formatter.finish());
        out
    }

    fn plain(index: i32, label: &str) -> Style {
        Style::new(Colour::Strip, Some((index, label)), false)
    }

    #[test]
    fn one_task_is_shown_as_it_is() {
        let style = Style::new(Colour::Keep, None, false);
        let long = "x".repeat(3 * MAX_LINE);
        assert_eq!(show(style.clone(), &[b"a\n", long.as_bytes(), b"\nb"]), format!("a\n{long}\nb"));
        let red = b"\x1b[31mred\nstill\n";
        assert_eq!(show(style, &[red]), "\u{1b}[31mred\nstill\n\u{1b}[0m");
    }

    #[test]
    fn lines_of_several_tasks_are_whole_and_carry_number_and_label() {
        assert_eq!(
            show(plain(3, "a cat"), &[b"hel", b"lo\n1%\r99", b"%\n\nend"]),
            "[3 a cat] hello\n[3 a cat] 99%\n[3 a cat] \n[3 a cat] end\n"
        );
        assert_eq!(show(plain(4, " "), &[b"x"]), "[4] x\n");
        assert_eq!(show(plain(5, "a\n[6] forged\u{1b}[2J"), &[b"x"]), "[5 a␊[6] forged␛[2J] x\n");
    }

    #[test]
    fn long_labels_are_cut_by_their_width() {
        let text = show(plain(1, &"万".repeat(100)), &[b"x"]);
        assert_eq!(text, format!("[1 {}…] x\n", "万".repeat(11)));
    }

    #[test]
    fn a_task_has_a_colour_and_its_own_do_not_run_out_of_a_line() {
        let style = |index| Style::new(Colour::Keep, Some((index, "x")), false);
        assert_eq!(show(style(1), &[b"\x1b[31mred\n"]), "\u{1b}[36m[1 x]\u{1b}[0m \u{1b}[31mred\u{1b}[0m\n");
        assert!(show(style(2), &[b"x"]).starts_with("\u{1b}[33m[2 x]\u{1b}[0m x\n"));
        assert!(show(style(7), &[b"x"]).starts_with("\u{1b}[36m[7"));
    }

    #[test]
    fn a_line_without_an_end_comes_in_pieces_of_its_own() {
        let out = show(plain(1, ""), &["x".repeat(2 * MAX_LINE).as_bytes(), b"\ny\n"]);
        let lines: Vec<_> = out.lines().collect();
        assert_eq!((lines.len(), lines[2]), (3, "[1] y"));
        assert!(lines.iter().all(|line| line.starts_with("[1] ")));
    }

    #[test]
    fn only_lines_with_the_text_are_shown_and_without_colours() {
        let style = |text: &str| Style::new(Colour::Keep, None, true).with_grep(Some(text.to_owned()));
        let log = b"an e\x1b[31mrro\x1b[0mr\nError\n.*\nlast error";
        assert_eq!(show(style("error"), &[log]), "an error\nlast error\n");
        assert_eq!(show(style(".*"), &[log]), ".*\n");
        // Across the place where a long line is cut.
        let long = format!("{}error{}\n", "x".repeat(MAX_LINE - 2), "y".repeat(MAX_LINE));
        let out = show(style("error"), &[long.as_bytes()]);
        assert!(out.starts_with("ror") && out.lines().count() == 1, "{}", out.len());
    }
}
