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
    colour: Colour,
    interrupt_hint: Arc<Mutex<Option<String>>>,
    surroundings: Surroundings,
    /// Streams that wait for the coordinator to come back.
    outages: Arc<AtomicUsize>,
}

impl Io {
    /// The process's own streams.
    pub fn standard() -> Self {
        let out_is_terminal = std::io::stdout().is_terminal();
        let io = Self::new(Box::new(std::io::stdout()), Box::new(std::io::stderr()), out_is_terminal);
        Self { colour: colour_wanted(out_is_terminal, |name| std::env::var(name).ok()), ..io }
    }

    /// Any two writers.
    pub fn new(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>, out_is_terminal: bool) -> Self {
        Self {
            out: Arc::new(Mutex::new(out)),
            err: Arc::new(Mutex::new(err)),
            out_is_terminal,
            colour: if out_is_terminal { Colour::Keep } else { Colour::Strip },
            interrupt_hint: Arc::default(),
            surroundings: Surroundings::default(),
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

    /// Whether data may be coloured: the one place that decides.
    pub fn colour(&self) -> Colour {
        self.colour
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

/// Colour as people ask for it: `NO_COLOR` beats `CLICOLOR_FORCE`, which beats what standard output is.
fn colour_wanted(out_is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Colour {
    let set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let on = |name: &str| variable(name).is_some_and(|value| !value.is_empty() && value != "0");
    let off = variable("CLICOLOR").is_some_and(|value| value == "0");
    let dumb = variable("TERM").is_some_and(|value| value == "dumb");
    let wanted = !set("NO_COLOR") && (on("CLICOLOR_FORCE") || (out_is_terminal && !off && !dumb));
    if wanted { Colour::Keep } else { Colour::Strip }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_unless_the_user_says_otherwise() {
        let table = [
            (true, &[][..], Colour::Keep),
            (false, &[], Colour::Strip),
            (true, &[("NO_COLOR", "1")], Colour::Strip),
            (true, &[("NO_COLOR", "")], Colour::Keep),
            (false, &[("CLICOLOR_FORCE", "1")], Colour::Keep),
            (false, &[("CLICOLOR_FORCE", "0")], Colour::Strip),
            (true, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], Colour::Strip),
            (true, &[("CLICOLOR", "0")], Colour::Strip),
            (true, &[("TERM", "dumb")], Colour::Strip),
        ];
        for (terminal, variables, expected) in table {
            let find = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(colour_wanted(terminal, find), expected, "{terminal} {variables:?}");
        }
    }
}
