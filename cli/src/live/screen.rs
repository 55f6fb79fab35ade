//! The part of the terminal that is painted again and again, and the lines that scroll by above it. Pure: it
//! makes the bytes, [`crate::io::Io`] writes them.
//!
//! The cursor rests at the beginning of the painted part's first line. So one "clear from here to the end of the
//! screen" removes all of it, however the terminal has broken its lines anew after a change of size; what another
//! program prints meanwhile pushes it down instead of being overwritten; and nothing has to be put right when the
//! program is killed, as the cursor is never hidden and no mode is ever changed. (That is why this is not done
//! with indicatif: its bars count lines from below, which a changed size or a stop and continue make wrong, and it
//! writes past the lock that keeps data, talk and painting apart.)

use std::mem;

/// Bytes of lines that wait for the next painting; more are written at once.
const MAX_WAITING: usize = 64 << 10;
/// To the beginning of the line, and away with everything from there on.
const CLEAR: &str = "\r\u{1b}[J";

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

/// Something to write.
pub type Piece = (Stream, Vec<u8>);

/// What is painted, and what waits to be printed above it.
#[derive(Debug)]
pub struct Screen {
    on: Stream,
    open: bool,
    painted: Vec<String>,
    /// Something else may have been printed since.
    stale: bool,
    /// Nothing is painted for now: the process is about to stop.
    paused: bool,
    waiting: Vec<Piece>,
    waiting_bytes: usize,
}

impl Screen {
    /// Painted on `on`; closed at first.
    pub fn new(on: Stream) -> Self {
        Self {
            on,
            open: false,
            painted: Vec::new(),
            stale: false,
            paused: false,
            waiting: Vec::new(),
            waiting_bytes: 0,
        }
    }

    /// From now on lines go above what is painted.
    pub fn open(&mut self) {
        self.open = true;
    }

    /// Whether lines have to go through [`Self::add`].
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Something else may have been printed on the terminal: paint again even though nothing has changed. Ends a
    /// pause.
    pub fn touch(&mut self) {
        self.stale = true;
        self.paused = false;
    }

    /// What to write so that nothing is painted, nor will be until [`Self::touch`].
    pub fn pause(&mut self) -> Vec<Piece> {
        let pieces = self.paint(Vec::new());
        self.paused = true;
        pieces
    }

    /// Takes whole lines that are to scroll by with the next painting. Whether so much waits that it should be now.
    pub fn add(&mut self, stream: Stream, data: &[u8]) -> bool {
        self.waiting_bytes += data.len();
        match self.waiting.last_mut() {
            Some((last, bytes)) if *last == stream => bytes.extend_from_slice(data),
            Some(_) | None => self.waiting.push((stream, data.to_vec())),
        }
        self.waiting_bytes > MAX_WAITING
    }

    /// What to write so that the lines that wait have scrolled by and `lines` are painted; nothing where the
    /// screen shows that already. No line may be wider than the terminal, nor may they be more than its rows.
    pub fn paint(&mut self, lines: Vec<String>) -> Vec<Piece> {
        if !self.open || self.paused || (self.waiting.is_empty() && !self.stale && self.painted == lines) {
            return Vec::new();
        }
        self.painted = lines;
        self.again()
    }

    /// As [`Self::paint`] with the lines painted last.
    pub fn again(&mut self) -> Vec<Piece> {
        self.stale = false;
        let mut pieces = vec![(self.on, CLEAR.as_bytes().to_vec())];
        self.waiting_bytes = 0;
        for piece in mem::take(&mut self.waiting) {
            append(&mut pieces, piece);
        }
        let mut frame = self.painted.join("\r\n");
        if self.painted.len() > 1 {
            frame.push_str(&format!("\u{1b}[{}A", self.painted.len() - 1));
        }
        if !frame.is_empty() {
            frame.push('\r');
            append(&mut pieces, (self.on, frame.into_bytes()));
        }
        pieces
    }

    /// What to write so that nothing is painted until the next painting; what waits goes on waiting.
    pub fn hide(&mut self) -> Vec<Piece> {
        if mem::take(&mut self.painted).is_empty() {
            return Vec::new();
        }
        vec![(self.on, CLEAR.as_bytes().to_vec())]
    }

    /// What to write so that nothing is painted and nothing waits. Lines are as usual until [`Self::open`].
    pub fn close(&mut self) -> Vec<Piece> {
        self.paused = false;
        let pieces = self.paint(Vec::new());
        self.open = false;
        pieces
    }
}

fn append(pieces: &mut Vec<Piece>, (stream, data): Piece) {
    match pieces.last_mut() {
        Some((last, bytes)) if *last == stream => bytes.extend_from_slice(&data),
        Some(_) | None => pieces.push((stream, data)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Terminal(vt100::Parser);

    impl Terminal {
        fn new(rows: u16, columns: u16) -> Self {
            Self(vt100::Parser::new(rows.try_into().unwrap(), columns.try_into().unwrap(), 100))
        }

        fn write(&mut self, pieces: Vec<Piece>) {
            for (_, bytes) in pieces {
                // As a terminal's driver does.
                self.0.process(String::from_utf8(bytes).unwrap().replace('\n', "\r\n").as_bytes());
            }
        }

        fn text(&self) -> String {
            self.0.screen().contents()
        }
    }

    fn lines(count: usize) -> Vec<String> {
        (1..=count).map(|n| format!("line {n}")).collect()
    }

    #[test]
    fn lines_scroll_by_above_and_the_same_is_not_painted_twice() {
        let mut terminal = Terminal::new(10, 20);
        let mut screen = Screen::new(Stream::Err);
        screen.open();
        terminal.write(screen.paint(lines(2)));
        assert!(screen.paint(lines(2)).is_empty());
        assert!(!screen.add(Stream::Out, b"task 1 done\n"));
        terminal.write(screen.paint(lines(2)));
        assert_eq!(terminal.text(), "task 1 done\nline 1\nline 2");
        terminal.write(screen.paint(lines(1)));
        assert_eq!(terminal.text(), "task 1 done\nline 1");
        assert_eq!(terminal.0.screen().cursor_position(), (1, 0));
        terminal.write(screen.close());
        assert_eq!(terminal.text(), "task 1 done");
        assert!(screen.paint(lines(2)).is_empty(), "closed is closed");
    }

    #[test]
    fn at_the_end_of_the_screen_it_scrolls() {
        let mut terminal = Terminal::new(4, 20);
        let mut screen = Screen::new(Stream::Out);
        screen.open();
        for n in 1..=9 {
            screen.add(Stream::Out, format!("task {n}\n").as_bytes());
            terminal.write(screen.paint(lines(3)));
        }
        assert_eq!(terminal.text(), "task 9\nline 1\nline 2\nline 3");
        terminal.write(screen.paint(lines(1)));
        assert_eq!(terminal.text(), "task 9\nline 1");
    }

    #[test]
    fn what_another_program_prints_is_not_lost() {
        let mut terminal = Terminal::new(10, 20);
        let mut screen = Screen::new(Stream::Err);
        screen.open();
        terminal.write(screen.paint(lines(2)));
        terminal.0.process(b"from another\r\n");
        screen.touch();
        terminal.write(screen.paint(lines(2)));
        assert_eq!(terminal.text(), "from another\nline 1\nline 2");
    }

    #[test]
    fn what_is_hidden_makes_room_and_comes_back() {
        let mut terminal = Terminal::new(10, 20);
        let mut screen = Screen::new(Stream::Err);
        screen.open();
        terminal.write(screen.paint(lines(2)));
        terminal.write(screen.hide());
        assert!(screen.hide().is_empty());
        terminal.0.process(b"tee\r\n");
        terminal.write(screen.paint(lines(2)));
        assert_eq!(terminal.text(), "tee\nline 1\nline 2");
    }

    #[test]
    fn nothing_is_painted_in_a_pause() {
        let mut terminal = Terminal::new(10, 20);
        let mut screen = Screen::new(Stream::Err);
        screen.open();
        terminal.write(screen.paint(lines(2)));
        terminal.write(screen.pause());
        // The painting thread does not know that the process is about to stop.
        terminal.write(screen.paint(lines(2)));
        assert_eq!(terminal.text(), "");
        screen.touch();
        terminal.write(screen.paint(lines(2)));
        assert_eq!(terminal.text(), "line 1\nline 2");
        terminal.write(screen.pause());
        screen.add(Stream::Err, b"the end\n");
        terminal.write(screen.close());
        assert_eq!(terminal.text(), "the end");
    }

    #[test]
    fn much_that_waits_asks_to_be_written() {
        let mut screen = Screen::new(Stream::Err);
        screen.open();
        assert!(screen.add(Stream::Out, &vec![b'x'; MAX_WAITING + 1]));
        assert!(!screen.again().is_empty());
        assert!(!screen.add(Stream::Out, b"x"));
    }
}
