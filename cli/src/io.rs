//! Standard output and standard error as values, so that a test can read what a command printed.
//!
//! Writes block; commands that must not be held up by a slow terminal print from a thread of their own.

use std::{
    io::{IsTerminal, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{error::Error, sanitize::Colour, surroundings::Surroundings};

type Sink = Arc<Mutex<Box<dyn Write + Send>>>;

/// Where a command's data and talk go.
#[derive(Clone)]
pub struct Io {
    out: Sink,
    err: Sink,
    out_is_terminal: bool,
    interrupt_hint: Arc<Mutex<Option<String>>>,
    surroundings: Surroundings,
    /// Streams that wait for the coordinator to come back.
    outages: Arc<AtomicUsize>,
}

impl Io {
    /// The process's own streams.
    pub fn standard() -> Self {
        let out_is_terminal = std::io::stdout().is_terminal();
        Self::new(Box::new(std::io::stdout()), Box::new(std::io::stderr()), out_is_terminal)
    }

    /// Any two writers.
    pub fn new(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>, out_is_terminal: bool) -> Self {
        Self {
            out: Arc::new(Mutex::new(out)),
            err: Arc::new(Mutex::new(err)),
            out_is_terminal,
            interrupt_hint: Arc::default(),
            surroundings: Surroundings { data_in_colour: out_is_terminal, ..Surroundings::default() },
            outages: Arc::default(),
        }
    }

    /// The same, but neither data nor talk goes anywhere (`--output none`).
    pub fn silent(&self) -> Self {
        Self {
            interrupt_hint: self.interrupt_hint.clone(),
            ..Self::new(Box::new(std::io::sink()), Box::new(std::io::sink()), false)
        }
    }

    /// The same streams with something around them.
    #[must_use]
    pub fn with_surroundings(self, surroundings: Surroundings) -> Self {
        Self { surroundings, ..self }
    }

    /// What is around the streams.
    pub fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// Whether data goes to a terminal, which decides about colour and raw bytes.
    pub fn out_is_terminal(&self) -> bool {
        self.out_is_terminal
    }

    /// Whether data may be coloured, as [`crate::color`] has decided.
    pub fn colour(&self) -> Colour {
        if self.surroundings.data_in_colour { Colour::Keep } else { Colour::Strip }
    }

    /// A stream lost the coordinator: whether it is the first to say so.
    pub fn outage_begins(&self) -> bool {
        self.outages.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// A stream that had lost the coordinator has it back, or gave up: whether none is without it now.
    pub fn outage_ends(&self) -> bool {
        self.outages.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Writes data and flushes it. A reader that went away is [`Error::ClosedPipe`].
    pub fn write(&self, data: &[u8]) -> Result<(), Error> {
        let mut out = lock(&self.out);
        out.write_all(data).and_then(|()| out.flush()).map_err(Error::from_write)
    }

    /// Writes one line of data.
    pub fn line(&self, text: &str) -> Result<(), Error> {
        self.write(format!("{text}\n").as_bytes())
    }

    /// Says something to the user. Failures are ignored: there is nobody left to tell.
    pub fn say(&self, text: &str) {
        let mut err = lock(&self.err);
        let _ = writeln!(err, "{text}").and_then(|()| err.flush());
    }

    /// Says something that the user's answer is to follow on the same line.
    pub fn prompt(&self, text: &str) {
        let mut err = lock(&self.err);
        let _ = write!(err, "{text}").and_then(|()| err.flush());
    }

    /// What to say if the user interrupts the command from now on; `None` for nothing.
    pub fn set_interrupt_hint(&self, hint: Option<String>) {
        *lock(&self.interrupt_hint) = hint;
    }

    /// What to say after an interrupt.
    pub fn interrupt_hint(&self) -> Option<String> {
        lock(&self.interrupt_hint).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
