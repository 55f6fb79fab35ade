//! Prints from a thread of its own, so that a terminal that is not read (Ctrl-S, a stuck pipe) holds up neither
//! the coordinator nor the worker in this process, nor their end once the user wants it. Lines of tasks are kept
//! whole.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use crate::{
    error::Error,
    io::Io,
    sanitize::{Colour, Sanitizer},
};

/// Pieces that wait to be printed; senders wait beyond that.
const QUEUED_PIECES: usize = 256;
/// A line that is longer is printed in parts, in bytes.
const MAX_LINE: usize = 8 << 10;
/// Once the user has interrupted, a piece waits so long for a reader; after that nothing more is printed.
const HURRIED_PIECE: Duration = Duration::from_secs(1);

/// What goes where.
enum Item {
    Data(String),
    Talk(String),
}

/// The printing thread.
pub struct Printer {
    sender: PrintSender,
    thread: JoinHandle<()>,
}

/// Hands text to the printing thread.
#[derive(Clone)]
pub struct PrintSender {
    items: mpsc::Sender<Item>,
    io: Io,
    /// Whether the user has interrupted.
    hurried: Arc<watch::Sender<bool>>,
    /// Nobody reads what is printed: it is thrown away.
    given_up: Arc<AtomicBool>,
}

impl Printer {
    /// Starts the thread. A reader of standard output that goes away ends the printing of data, not the run: its
    /// tasks cost money.
    pub fn start(io: Io) -> Self {
        let (sender, mut items) = mpsc::channel(QUEUED_PIECES);
        let talk = io.clone();
        let thread = std::thread::spawn(move || {
            let mut closed = false;
            while let Some(item) = items.blocking_recv() {
                match item {
                    Item::Talk(text) => io.say(&text),
                    Item::Data(_) if closed => {}
                    Item::Data(text) => {
                        if let Err(error) = io.write(text.as_bytes()) {
                            closed = true;
                            if !matches!(error, Error::ClosedPipe) {
                                io.say(&format!("{error}; the run goes on without printing"));
                            }
                        }
                    }
                }
            }
        });
        let sender = PrintSender {
            items: sender,
            io: talk,
            hurried: Arc::new(watch::Sender::new(false)),
            given_up: Arc::default(),
        };
        Self { sender, thread }
    }

    /// A handle for one source of text.
    pub fn sender(&self) -> PrintSender {
        self.sender.clone()
    }

    /// Waits until everything is printed; after an interrupt, no longer than a reader may take for one piece.
    /// Whether it was: if not, standard output is stuck. All other senders must be gone.
    pub async fn finish(self) -> bool {
        let Self { sender, thread } = self;
        let PrintSender { items, hurried, .. } = sender;
        drop(items);
        let printed = tokio::task::spawn_blocking(move || thread.join());
        tokio::select! {
            _ = printed => true,
            () = patience_ends(&hurried) => false,
        }
    }
}

impl PrintSender {
    /// Prints lines of data, each with its line end.
    pub async fn data(&self, text: String) {
        if !text.is_empty() {
            self.send(Item::Data(text)).await;
        }
    }

    /// Says a line on standard error.
    pub async fn talk(&self, text: String) {
        self.send(Item::Talk(text)).await;
    }

    /// The user has interrupted: from now on a reader that does not read holds nothing up. Says why, past what is
    /// queued, and waits for nothing.
    pub fn hurry(&self, text: &'static str) {
        self.hurried.send_replace(true);
        let io = self.io.clone();
        // Standard error may be stuck as well.
        tokio::task::spawn_blocking(move || io.say(text));
    }

    async fn send(&self, item: Item) {
        if self.given_up.load(Ordering::Relaxed) {
            return;
        }
        tokio::select! {
            biased;
            // The thread ends only after its senders.
            _ = self.items.send(item) => {}
            () = patience_ends(&self.hurried) => self.given_up.store(true, Ordering::Relaxed),
        }
    }
}

/// Ends some time after the user's interrupt; never without one.
async fn patience_ends(hurried: &watch::Sender<bool>) {
    // The sender is borrowed, so it is not gone.
    let _ = hurried.subscribe().wait_for(|hurried| *hurried).await;
    tokio::time::sleep(HURRIED_PIECE).await;
}

/// Turns the output of one task into whole lines with the task's number in front.
pub struct Prefixer {
    prefix: String,
    sanitizer: Sanitizer,
    line: String,
}

impl Prefixer {
    /// For the task with this number.
    pub fn new(task_index: i32, colour: Colour) -> Self {
        Self { prefix: format!("[{task_index}] "), sanitizer: Sanitizer::new(colour), line: String::new() }
    }

    /// Takes the next bytes and returns the lines that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut text = String::new();
        self.sanitizer.push(bytes, &mut text);
        self.lines(&text)
    }

    /// The output has ended: what is left of the last line.
    pub fn finish(mut self) -> String {
        let mut text = String::new();
        self.sanitizer.finish(&mut text);
        let mut out = self.lines(&text);
        if !self.line.is_empty() {
            self.end_line(&mut out);
        }
        out
    }

    fn lines(&mut self, text: &str) -> String {
        let mut out = String::new();
        for part in text.split_inclusive('\n') {
            for character in part.chars() {
                if character == '\n' {
                    self.end_line(&mut out);
                } else {
                    self.line.push(character);
                    if self.line.len() >= MAX_LINE {
                        self.end_line(&mut out);
                    }
                }
            }
        }
        out
    }

    /// Colours never run into the next line, which may be another task's.
    fn end_line(&mut self, out: &mut String) {
        out.push_str(&self.prefix);
        out.push_str(&self.line);
        if self.line.contains('\u{1b}') {
            out.push_str("\u{1b}[0m");
        }
        out.push('\n');
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_whole_and_carry_the_number() {
        let mut prefixer = Prefixer::new(3, Colour::Strip);
        assert_eq!(prefixer.push(b"hel"), "");
        assert_eq!(prefixer.push(b"lo\nwor"), "[3] hello\n");
        assert_eq!(prefixer.push(b"ld\n\nend"), "[3] world\n[3] \n");
        assert_eq!(prefixer.finish(), "[3] end\n");
    }

    #[test]
    fn a_line_without_an_end_is_printed_in_parts() {
        let mut prefixer = Prefixer::new(1, Colour::Strip);
        let out = prefixer.push(&vec![b'x'; 3 * MAX_LINE]);
        assert_eq!(out.lines().count(), 3);
        assert_eq!(prefixer.finish(), "");
    }

    #[test]
    fn a_task_cannot_forge_anothers_line() {
        let mut prefixer = Prefixer::new(1, Colour::Keep);
        let out = prefixer.push(b"\x1b[31mred\r[2] forged\x1b[1A\n");
        assert!(out.lines().all(|line| line.starts_with("[1] ")), "{out:?}");
        assert!(out.starts_with("[1] \u{1b}[31mred\u{1b}[0m\n"), "{out:?}");
    }
}
