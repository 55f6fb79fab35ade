//! Makes bytes that a task printed safe to show: a log can never move the cursor, set a title, hide text or
//! forge what this command says.
//!
//! Kept: text, `\n`, `\t`, and colours (SGR) where allowed. Escape sequences that are complete are dropped;
//! broken or over-long ones, and all other control characters, become visible signs. `\r\n` is a line end, and so
//! is `\r`, unless [`Sanitizer::keep_returns`] leaves it to [`crate::lines`]. Invalid UTF-8 becomes U+FFFD. Works across chunk borders with bounded state. It does not look for
//! secrets, and leaves confusable letters alone.

/// The longest escape sequence that is dropped as a whole, in characters; longer ones are shown.
const MAX_SEQUENCE: usize = 1024;
/// The most parameters of a colour sequence that is let through.
const MAX_SGR_PARAMETERS: usize = 32;

/// Whether colour sequences pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// To a terminal.
    Keep,
    /// To a file or a pipe.
    Strip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ground,
    /// After ESC, and its intermediate characters.
    Escape,
    /// Inside a control sequence (CSI).
    Control,
    /// Inside a string sequence (OSC, DCS, SOS, PM, APC).
    Text,
    /// After ESC inside a string sequence.
    TextEscape,
}

/// The state between chunks of one stream of output.
#[derive(Debug)]
pub struct Sanitizer {
    colour: Colour,
    state: State,
    /// Bytes of a character that is not complete yet: at most 3.
    partial: Vec<u8>,
    /// The sequence read so far, its introducer included.
    sequence: String,
    length: usize,
    carriage_return: bool,
    /// What a `\r` that no `\n` follows becomes.
    lone_return: char,
    coloured: bool,
}

impl Sanitizer {
    /// For the beginning of a stream.
    pub fn new(colour: Colour) -> Self {
        Self {
            colour,
            state: State::Ground,
            partial: Vec::new(),
            sequence: String::new(),
            length: 0,
            carriage_return: false,
            lone_return: '\n',
            coloured: false,
        }
    }

    /// Lets a `\r` that no `\n` follows through as it is: not for a terminal, but for what turns it into lines.
    pub fn keep_returns(mut self) -> Self {
        self.lone_return = '\r';
        self
    }

    /// Takes the next bytes and appends what is safe to show.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        let joined;
        let mut rest = bytes;
        if !self.partial.is_empty() {
            joined = [std::mem::take(&mut self.partial).as_slice(), bytes].concat();
            rest = &joined;
        }
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.text(text, out);
                    return;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    self.text(std::str::from_utf8(good).unwrap_or_default(), out);
                    let Some(length) = error.error_len() else {
                        self.partial = bad.to_vec();
                        return;
                    };
                    self.character(char::REPLACEMENT_CHARACTER, out);
                    rest = bad.get(length..).unwrap_or_default();
                }
            }
        }
    }

    /// The stream has ended: shows what was still open and resets colours.
    pub fn finish(&mut self, out: &mut String) {
        if !std::mem::take(&mut self.partial).is_empty() {
            self.character(char::REPLACEMENT_CHARACTER, out);
        }
        if self.state != State::Ground {
            self.give_up(out);
        }
        if std::mem::take(&mut self.carriage_return) {
            out.push(self.lone_return);
        }
        self.reset_colour(out);
    }

    /// Ends any colour that is on, so that what follows is plain.
    pub fn reset_colour(&mut self, out: &mut String) {
        if std::mem::take(&mut self.coloured) {
            out.push_str("\u{1b}[0m");
        }
    }

    fn text(&mut self, text: &str, out: &mut String) {
        for character in text.chars() {
            self.character(character, out);
        }
    }

    fn character(&mut self, character: char, out: &mut String) {
        match self.state {
            State::Ground => self.ground(character, out),
            State::Escape => match character {
                '[' if self.length == 1 => self.advance(State::Control, character, out),
                ']' | 'P' | 'X' | '^' | '_' if self.length == 1 => self.advance(State::Text, character, out),
                ' '..='/' => self.advance(State::Escape, character, out),
                '0'..='~' => self.drop_sequence(),
                _ => self.break_off(character, out),
            },
            State::Control => match character {
                ' '..='?' => self.advance(State::Control, character, out),
                '@'..='~' => self.end_control(character, out),
                _ => self.break_off(character, out),
            },
            State::Text => match character {
                '\u{7}' | '\u{9c}' => self.drop_sequence(),
                '\u{1b}' => self.advance(State::TextEscape, character, out),
                character if character.is_control() => self.break_off(character, out),
                character => self.advance(State::Text, character, out),
            },
            State::TextEscape => match character {
                '\\' => self.drop_sequence(),
                character => self.break_off(character, out),
            },
        }
    }

    fn ground(&mut self, character: char, out: &mut String) {
        if std::mem::take(&mut self.carriage_return) {
            match character {
                '\n' => {}
                '\r' => {
                    self.carriage_return = true;
                    return;
                }
                _ => out.push(self.lone_return),
            }
        }
        match character {
            '\r' => self.carriage_return = true,
            '\u{1b}' => self.begin(State::Escape, character),
            '\u{9b}' => self.begin(State::Control, character),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => self.begin(State::Text, character),
            '\n' | '\t' => out.push(character),
            character => out.push(visible(character)),
        }
    }

    fn begin(&mut self, state: State, character: char) {
        self.state = state;
        self.sequence.clear();
        self.sequence.push(character);
        self.length = 1;
    }

    fn advance(&mut self, state: State, character: char, out: &mut String) {
        self.state = state;
        self.sequence.push(character);
        self.length += 1;
        if self.length > MAX_SEQUENCE {
            self.give_up(out);
        }
    }

    fn drop_sequence(&mut self) {
        self.state = State::Ground;
        self.sequence.clear();
    }

    /// The sequence is none: shows it, then takes the character as if nothing had been open.
    fn break_off(&mut self, character: char, out: &mut String) {
        self.give_up(out);
        self.ground(character, out);
    }

    fn give_up(&mut self, out: &mut String) {
        self.state = State::Ground;
        out.extend(std::mem::take(&mut self.sequence).chars().map(visible));
    }

    fn end_control(&mut self, last: char, out: &mut String) {
        if last == 'm' && self.colour == Colour::Keep {
            let body = self.sequence.trim_start_matches(['\u{1b}', '[', '\u{9b}']);
            if let Some(ends_plain) = harmless_sgr(body) {
                out.push_str("\u{1b}[");
                out.push_str(body);
                out.push('m');
                self.coloured = !ends_plain;
            }
        }
        self.drop_sequence();
    }
}

/// Whether the parameters of an SGR sequence only colour text: `Some(true)` where they end with a reset, `None`
/// where they hide text or are none.
fn harmless_sgr(body: &str) -> Option<bool> {
    if !body.chars().all(|c| c.is_ascii_digit() || c == ';' || c == ':') {
        return None;
    }
    let parameters: Vec<&str> = body.split(';').collect();
    if parameters.len() > MAX_SGR_PARAMETERS {
        return None;
    }
    let mut ends_plain = false;
    let mut index = 0;
    while let Some(parameter) = parameters.get(index) {
        let number: u32 = parameter.split(':').next().unwrap_or("").parse().unwrap_or(0);
        ends_plain = number == 0;
        match number {
            // Concealed text would hide what a task printed.
            8 => return None,
            // The colour's own numbers follow, unless they are joined by colons.
            38 | 48 | 58 if !parameter.contains(':') => {
                index += match parameters.get(index + 1) {
                    Some(&"5") => 2,
                    Some(&"2") => 4,
                    _ => 0,
                };
            }
            _ => {}
        }
        index += 1;
    }
    Some(ends_plain)
}

/// A control character, or one that turns the direction of text round, as a sign that is seen; anything else as
/// it is.
fn visible(character: char) -> char {
    match character {
        '\0'..='\u{1f}' => {
            char::from_u32(0x2400 + u32::from(character)).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}' => char::REPLACEMENT_CHARACTER,
        // Embeddings, overrides and isolates would show what stands on the rest of the line in another order.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        character => character,
    }
}

/// Text from elsewhere (a label, a reason) on one line, with every control character made visible.
pub fn one_line(text: &str) -> String {
    text.chars().map(visible).collect()
}

/// Text from elsewhere that may have several lines: `\n` and `\t` stay, every other control character is made
/// visible.
pub fn lines(text: &str) -> String {
    text.chars()
        .map(|character| if matches!(character, '\n' | '\t') { character } else { visible(character) })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(colour: Colour, chunks: &[&[u8]]) -> String {
        let mut sanitizer = Sanitizer::new(colour);
        let mut out = String::new();
        for chunk in chunks {
            sanitizer.push(chunk, &mut out);
        }
        sanitizer.finish(&mut out);
        out
    }

    fn strip(text: &str) -> String {
        run(Colour::Strip, &[text.as_bytes()])
    }

    fn keep(text: &str) -> String {
        run(Colour::Keep, &[text.as_bytes()])
    }

    #[test]
    fn text_and_line_ends_pass() {
        assert_eq!(strip("a\tb\nc 你好 é\n"), "a\tb\nc 你好 é\n");
        assert_eq!(strip("a\r\nb\r\r\nc\rd\r"), "a\nb\nc\nd\n");
    }

    #[test]
    fn lone_returns_are_kept_where_they_are_wanted() {
        let mut sanitizer = Sanitizer::new(Colour::Strip).keep_returns();
        let mut out = String::new();
        for chunk in [&b"1%\r2%\r"[..], b"\r\nx\r", b"\x1b[Ky\r"] {
            sanitizer.push(chunk, &mut out);
        }
        sanitizer.finish(&mut out);
        assert_eq!(out, "1%\r2%\nx\ry\r");
    }

    #[test]
    fn complete_sequences_go_and_broken_ones_show() {
        assert_eq!(strip("\u{1b}[2J\u{1b}[1;1Hx\u{1b}7\u{1b}(B\u{9b}5Ay"), "xy");
        assert_eq!(strip("\u{1b}]0;title\u{7}x\u{1b}]8;;http://e\u{1b}\\y\u{9d}t\u{9c}z"), "xyz");
        assert_eq!(strip("\u{1b}]0;open\nnext"), "␛]0;open\nnext");
        assert_eq!(strip("\u{1b}[12\nnext\u{8}\u{7f}"), "␛[12\nnext␈␡");
        assert_eq!(strip("\u{1b}"), "␛");
    }

    #[test]
    fn a_sequence_without_an_end_hides_nothing() {
        let text = format!("\u{1b}]{}", "x".repeat(5000));
        assert_eq!(strip(&text).matches('x').count(), 5000);
        let text = format!("\u{1b}[{}m after", "1;".repeat(5000));
        assert!(keep(&text).ends_with("m after"));
    }

    #[test]
    fn colours_pass_to_a_terminal_only_and_are_reset() {
        assert_eq!(strip("\u{1b}[31mred\u{1b}[0m"), "red");
        assert_eq!(keep("\u{1b}[31mred\u{1b}[0m"), "\u{1b}[31mred\u{1b}[0m");
        assert_eq!(keep("\u{1b}[38;5;8mgrey"), "\u{1b}[38;5;8mgrey\u{1b}[0m");
        assert_eq!(keep("\u{1b}[1;8mhidden\u{1b}[?25lx\u{1b}[>4;2m"), "hiddenx");
    }

    #[test]
    fn invalid_bytes_show_and_split_characters_join() {
        assert_eq!(run(Colour::Strip, &[b"a\xffb\xe4"]), "a\u{fffd}b\u{fffd}");
        assert_eq!(run(Colour::Strip, &[b"\xe4", b"\xbd", b"\xa0!"]), "你!");
        assert_eq!(run(Colour::Strip, &[b"x\r", b"\ny"]), "x\ny");
        assert_eq!(run(Colour::Keep, &[b"\x1b", b"[3", b"1mr"]), "\u{1b}[31mr\u{1b}[0m");
    }

    #[test]
    fn the_order_of_a_line_cannot_be_turned_round() {
        let text = "a\u{202e}b\u{2066}c\u{2069}";
        assert_eq!(one_line(text), "a\u{fffd}b\u{fffd}c\u{fffd}");
        assert_eq!(strip(text), "a\u{fffd}b\u{fffd}c\u{fffd}");
    }

    #[test]
    fn one_line_stays_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[0m\u{9b}"), "a␊b␛[0m\u{fffd}");
    }

    #[test]
    fn lines_keep_their_ends_and_nothing_else_that_moves_the_cursor() {
        assert_eq!(lines("## 1. 提示词\n- a:\tb é\n"), "## 1. 提示词\n- a:\tb é\n");
        assert_eq!(lines("a\r\n\u{1b}[2J\u{9b}\u{202e}\u{7}"), "a␍\n␛[2J\u{fffd}\u{fffd}␇");
    }

    /// Pieces that make interesting sequences likely.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..8),
            prop::sample::select(vec![
                &b"\x1b"[..],
                b"\x1b[",
                b"\x1b]",
                b"\xc2\x9b",
                b"\xc2",
                b"31",
                b";",
                b"m",
                b"\x07",
                b"\x1b\\",
                b"\r",
                b"\n",
                b"\xe4\xbd\xa0",
                b"?25l",
                b"8m",
            ])
            .prop_map(<[u8]>::to_vec),
        ]
    }

    /// Removes allowed colour sequences.
    fn without_sgr(text: &str) -> String {
        let mut rest = text;
        let mut out = String::new();
        while let Some(at) = rest.find("\u{1b}[") {
            out.push_str(&rest[..at]);
            let body = &rest[at + 2..];
            let end =
                body.find(|c: char| !(c.is_ascii_digit() || c == ';' || c == ':')).unwrap_or(body.len());
            if body[end..].starts_with('m') {
                rest = &body[end + 1..];
            } else {
                out.push('\u{1b}');
                rest = body;
            }
        }
        out + rest
    }

    proptest! {
        #[test]
        fn no_control_character_gets_through(pieces in prop::collection::vec(piece(), 0..40)) {
            let chunks: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let stripped = run(Colour::Strip, &chunks);
            prop_assert!(stripped.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'), "{stripped:?}");
            let kept = without_sgr(&run(Colour::Keep, &chunks));
            prop_assert!(kept.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'), "{kept:?}");
        }

        #[test]
        fn chunk_borders_change_nothing(pieces in prop::collection::vec(piece(), 0..40)) {
            let chunks: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let whole = pieces.concat();
            let bytes: Vec<&[u8]> = whole.chunks(1).collect();
            for colour in [Colour::Keep, Colour::Strip] {
                let at_once = run(colour, &[&whole]);
                prop_assert_eq!(&run(colour, &chunks), &at_once);
                prop_assert_eq!(&run(colour, &bytes), &at_once);
            }
        }
    }
}
