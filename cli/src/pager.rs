//! A pager for what does not fit on the screen.
//!
//! Output that fits is printed as always. What is longer goes to a program such as `less`; talk that comes after the
//! first output is held back until that has ended, so that it does not land in the middle of the picture. What it does not do: page anything that
//! goes to a file or a pipe; whoever starts it asks first.

use std::{
    io::{self, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use unicode_width::UnicodeWidthStr;

/// The pager where none is named: ends at once if all fits, shows colour, leaves the text on the screen.
pub(crate) const DEFAULT_PAGER: &str = "less -FRX";
/// How `less` behaves where it is named without options of its own.
const LESS: &str = "FRX";
/// Talk that is held back while the pager shows something; what is past it is not said.
const MAX_TALK_BYTES: usize = 64 << 10;

/// The words of the pager to use, if any: `MUSTER_PAGER`, then `PAGER`, then `less` where there is one. An empty
/// variable, `cat`, and a program that is not there mean none.
pub fn program(variable: impl Fn(&str) -> Option<String>) -> Option<Vec<String>> {
    let named = variable("MUSTER_PAGER").or_else(|| variable("PAGER"));
    let words = muster_worker::config::runnable_words(named.as_deref().unwrap_or(DEFAULT_PAGER)).ok()?;
    (words != ["cat"]).then_some(words)
}

/// Standard output that turns to a pager once it is longer than the screen.
#[derive(Clone)]
pub struct Pager {
    state: Arc<Mutex<State>>,
    /// The pager's process id; 0 where there is none.
    process: Arc<AtomicI32>,
}

struct State {
    words: Vec<String>,
    columns: usize,
    /// Lines that fit on the screen together with the prompt.
    lines: usize,
    /// What was written so far, while it fits: at most a screen and one write.
    kept: Vec<u8>,
    running: Option<(Child, Option<ChildStdin>)>,
    process: Arc<AtomicI32>,
    /// All is written and the user reads on.
    waited_for: bool,
    /// The pager could not be started, or has ended: what comes is printed.
    plain: bool,
    talk: Vec<u8>,
}

impl Pager {
    /// For a screen of this size.
    pub fn new(words: Vec<String>, columns: usize, rows: usize) -> Self {
        let process = Arc::new(AtomicI32::new(0));
        let state = State {
            words,
            columns: columns.max(1),
            lines: rows.saturating_sub(1),
            kept: Vec::new(),
            running: None,
            process: Arc::clone(&process),
            waited_for: false,
            plain: false,
            talk: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), process }
    }

    /// Where data goes.
    pub fn out(&self) -> impl Write + Send + 'static {
        Data(self.clone())
    }

    /// Where talk goes.
    pub fn talk(&self) -> impl Write + Send + 'static {
        Talk(self.clone())
    }

    /// Whether the pager has the terminal now, so that Ctrl-C is meant for it.
    pub fn has_terminal(&self) -> bool {
        // Held for long only by a write that waits for the pager to read.
        let Ok(mut state) = self.state.try_lock() else { return true };
        match &mut state.running {
            Some((child, _)) => {
                let runs = matches!(child.try_wait(), Ok(None));
                if !runs {
                    self.process.store(0, Ordering::Relaxed);
                }
                runs
            }
            None => state.waited_for,
        }
    }

    /// Prints what was kept, or waits until the user has left the pager; then says what was held back.
    pub fn finish(&self) {
        let running = {
            let mut state = self.state();
            // A reader that went away needs nothing more.
            let _ = state.print_kept();
            state.plain = true;
            state.waited_for = state.running.is_some();
            state.running.take()
        };
        if let Some((mut child, stdin)) = running {
            drop(stdin);
            let _ = child.wait();
            self.process.store(0, Ordering::Relaxed);
        }
        let mut state = self.state();
        state.waited_for = false;
        let talk = std::mem::take(&mut state.talk);
        let _ = io::stderr().write_all(&talk);
    }

    /// Ends the pager, which leaves the terminal as it was, and says what was held back.
    pub fn end(&self) {
        let process = self.process.load(Ordering::Relaxed);
        if process > 0 {
            // It may have ended already; its number stays ours until it has been waited for.
            let _ = kill(Pid::from_raw(process), Signal::SIGTERM);
        }
        self.finish();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if let Some((_, Some(stdin))) = &mut self.running {
            return stdin.write_all(data);
        }
        if self.plain {
            return print(data);
        }
        self.kept.extend_from_slice(data);
        if self.fits() {
            return Ok(());
        }
        let Some((program, arguments)) = self.words.split_first() else { return self.print_kept() };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped());
        if std::env::var_os("LESS").is_none() {
            command.env("LESS", LESS);
        }
        match command.spawn() {
            Ok(mut child) => {
                self.process.store(child.id().try_into().unwrap_or_default(), Ordering::Relaxed);
                let mut stdin = child.stdin.take();
                let kept = std::mem::take(&mut self.kept);
                let written = stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(&kept));
                self.running = Some((child, stdin));
                written
            }
            Err(_) => {
                self.plain = true;
                self.print_kept()
            }
        }
    }

    /// Whether there is no output yet that talk would come before or into.
    fn shows_nothing(&self) -> bool {
        self.kept.is_empty() && self.running.is_none() && !self.waited_for
    }

    /// Whether what is kept fits on the screen, with lines that the terminal breaks counted as several.
    fn fits(&self) -> bool {
        let text = String::from_utf8_lossy(&self.kept);
        let rows: usize = text.lines().map(|line| line.width().div_ceil(self.columns).max(1)).sum();
        rows <= self.lines
    }

    fn print_kept(&mut self) -> io::Result<()> {
        let kept = std::mem::take(&mut self.kept);
        if kept.is_empty() { Ok(()) } else { print(&kept) }
    }
}

fn print(data: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(data).and_then(|()| out.flush())
}

struct Data(Pager);

impl Write for Data {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.state().write(data).map(|()| data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Talk(Pager);

impl Write for Talk {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state();
        if state.shows_nothing() {
            // At once: it may be a question.
            return io::stderr().write(data);
        }
        let room = MAX_TALK_BYTES.saturating_sub(state.talk.len());
        state.talk.extend_from_slice(data.get(..room).unwrap_or(data));
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_variable_then_the_common_one_then_less_and_nothing_where_that_is_asked_for() {
        let of = |settings: &[(&str, &str)]| {
            program(|name| {
                settings.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[("MUSTER_PAGER", "sh -e"), ("PAGER", "ls")]).unwrap(), ["sh", "-e"]);
        assert_eq!(of(&[("PAGER", "ls")]).unwrap(), ["ls"]);
        assert_eq!(of(&[("MUSTER_PAGER", ""), ("PAGER", "ls")]), None);
        assert_eq!(of(&[("PAGER", "cat")]), None);
        assert_eq!(of(&[("PAGER", "no-such-program-anywhere")]), None);
    }

    #[test]
    fn what_fits_is_counted_in_rows_of_the_terminal() {
        let pager = Pager::new(Vec::new(), 4, 4);
        let fits = |text: &str| {
            let mut state = pager.state();
            state.kept = text.as_bytes().to_vec();
            state.fits()
        };
        assert!(fits("a\nb\nc\n"));
        assert!(!fits("a\nb\nc\nd\n"));
        assert!(fits("abcd\nb\nc\n") && !fits("abcde\nb\nc\n"));
        assert!(!fits("万相万\nb\nc\n"));
    }
}
