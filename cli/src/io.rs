//! Standard output and standard error as values, so that a test can read what a command printed, and the one place
//! that decides whether there is a terminal to paint on.
//!
//! While a view is painted ([`Io::open_screen`]), what goes to a terminal scrolls by above it. Writes block;
//! commands that must not be held up by a slow terminal print from a thread of their own.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::{fd::AsFd, unix::fs::FileTypeExt},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use nix::unistd::{getpgrp, tcgetpgrp};

use crate::{
    error::Error,
    live::screen::{Piece, Screen, Size, Stream},
    sanitize::Colour,
    surroundings::Surroundings,
};

/// A terminal that is not read for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

type Sink = Arc<Mutex<Box<dyn Write + Send>>>;

/// Where a command's data and talk go.
#[derive(Clone)]
pub struct Io {
    out: Sink,
    err: Sink,
    out_is_terminal: bool,
    err_is_terminal: bool,
    /// Whoever reads data may print it on the same terminal.
    out_is_pipe: bool,
    interrupt_hint: Arc<Mutex<Option<String>>>,
    surroundings: Surroundings,
    /// Streams that wait for the coordinator to come back.
    outages: Arc<AtomicUsize>,
    canvas: Option<Canvas>,
    suspending: Arc<AtomicBool>,
}

/// The terminal that may be painted on.
#[derive(Clone)]
struct Canvas {
    stream: Stream,
    /// Held while something is written to a terminal, so that data, talk and painting stay apart.
    screen: Arc<Mutex<Screen>>,
}

impl Io {
    /// The process's own streams.
    pub fn standard() -> Self {
        let (out, err) = (std::io::stdout(), std::io::stderr());
        let (out_is_terminal, err_is_terminal) = (out.is_terminal(), err.is_terminal());
        let stream = match (out_is_terminal, err_is_terminal) {
            (_, true) => Some(Stream::Err),
            (true, false) => Some(Stream::Out),
            (false, false) => None,
        };
        Self {
            err_is_terminal,
            out_is_pipe: is_pipe(&std::io::stdout()),
            canvas: stream.filter(|_| can_paint()).map(Canvas::new),
            ..Self::new(Box::new(out), Box::new(err), out_is_terminal)
        }
    }

    /// Any two writers; nothing is painted.
    pub fn new(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>, out_is_terminal: bool) -> Self {
        Self {
            out: Arc::new(Mutex::new(out)),
            err: Arc::new(Mutex::new(err)),
            out_is_terminal,
            err_is_terminal: false,
            out_is_pipe: false,
            interrupt_hint: Arc::default(),
            surroundings: Surroundings { data_in_colour: out_is_terminal, ..Surroundings::default() },
            outages: Arc::default(),
            canvas: None,
            suspending: Arc::default(),
        }
    }

    /// The same, but neither data nor talk goes anywhere (`--output none`), and nothing is painted or asked.
    pub fn silent(&self) -> Self {
        Self {
            interrupt_hint: self.interrupt_hint.clone(),
            ..Self::new(Box::new(io::sink()), Box::new(io::sink()), false)
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

    /// Writes data and flushes it. A reader that went away is [`Error::ClosedPipe`]. Whole lines only, while a view
    /// is painted.
    pub fn write(&self, data: &[u8]) -> Result<(), Error> {
        self.put(Stream::Out, data).map_err(Error::from_write)
    }

    /// Writes one line of data.
    pub fn line(&self, text: &str) -> Result<(), Error> {
        self.write(format!("{text}\n").as_bytes())
    }

    /// Says something to the user. Failures are ignored: there is nobody left to tell.
    pub fn say(&self, text: &str) {
        let _ = self.put(Stream::Err, format!("{text}\n").as_bytes());
    }

    /// Says that `what` is about to be read from standard input, where that is a keyboard and silence would look like a
    /// command that hangs.
    pub fn say_that_it_reads(&self, what: &str) {
        if self.surroundings.can_ask {
            self.say(&format!("reading {what} from the terminal; end it with Ctrl-D on a line of its own"));
        }
    }

    /// Ends the line that Ctrl-C or a question left open on a terminal.
    pub fn end_open_line(&self) {
        if self.err_is_terminal {
            self.prompt("\n");
        }
    }

    /// Says something that the user's answer is to follow on the same line.
    pub fn prompt(&self, text: &str) {
        let _ = self.put(Stream::Err, text.as_bytes());
    }

    /// What to say if the user interrupts the command from now on; `None` for nothing.
    pub fn set_interrupt_hint(&self, hint: Option<String>) {
        *lock(&self.interrupt_hint) = hint;
    }

    /// What to say after an interrupt.
    pub fn interrupt_hint(&self) -> Option<String> {
        lock(&self.interrupt_hint).clone()
    }

    /// Whether there is a terminal to paint on.
    pub fn has_screen(&self) -> bool {
        self.canvas.is_some()
    }

    /// Its size now, or what terminals once had where it does not say.
    pub fn screen_size(&self) -> Option<Size> {
        let size = match self.canvas.as_ref()?.stream {
            Stream::Out => terminal_size::terminal_size_of(std::io::stdout()),
            Stream::Err => terminal_size::terminal_size_of(std::io::stderr()),
        };
        // Some terminals do not know their size.
        let of_old = Size { columns: 80, rows: 24 };
        Some(size.map_or(of_old, |(columns, rows)| Size { columns: columns.0.into(), rows: rows.0.into() }))
    }

    /// From now on, what goes to a terminal scrolls by above what [`Self::paint`] paints, when it next does so.
    pub fn open_screen(&self) {
        if let Some(canvas) = &self.canvas {
            lock(&canvas.screen).open();
        }
    }

    /// Whether something may be painted now.
    pub fn screen_is_open(&self) -> bool {
        // Held for long only by what is being painted.
        self.canvas
            .as_ref()
            .is_some_and(|canvas| canvas.screen.try_lock().map_or(true, |screen| screen.is_open()))
    }

    /// Paints these lines in place of the last ones; none while the terminal belongs to another job.
    pub fn paint(&self, lines: Vec<String>) {
        let Some(canvas) = &self.canvas else { return };
        let mut screen = lock(&canvas.screen);
        let lines = if in_foreground(canvas.stream) { lines } else { Vec::new() };
        // What a terminal that is gone does not take is lost anyway.
        let _ = self.put_all(screen.paint(lines));
    }

    /// Paints again even though nothing has changed: something else may have been printed.
    pub fn touch_screen(&self) {
        self.change_screen(|screen| {
            screen.touch();
            Vec::new()
        });
    }

    /// Removes what is painted until [`Self::touch_screen`], and prints what still waits.
    pub fn pause_screen(&self) {
        self.change_screen(Screen::pause);
    }

    /// Removes what is painted, for good, and prints what still waits.
    pub fn close_screen(&self) {
        self.change_screen(Screen::close);
    }

    /// On a thread of its own, so that it waits a bounded time for a terminal that is not read.
    fn change_screen(&self, change: impl FnOnce(&mut Screen) -> Vec<Piece> + Send + 'static) {
        let Some(Canvas { screen, .. }) = self.canvas.clone() else { return };
        let io = self.clone();
        let (done, is_done) = mpsc::channel();
        std::thread::spawn(move || {
            let mut screen = lock(&screen);
            let _ = io.put_all(change(&mut screen));
            let _ = done.send(());
        });
        // Stuck: it is left behind.
        let _ = is_done.recv_timeout(PATIENCE);
    }

    /// Whether the caller is the first to ask, and so the one who sees to Ctrl-Z.
    pub(crate) fn take_over_suspending(&self) -> bool {
        !self.suspending.swap(true, Ordering::Relaxed)
    }

    fn put(&self, stream: Stream, data: &[u8]) -> io::Result<()> {
        let terminal = match stream {
            Stream::Out => self.out_is_terminal,
            Stream::Err => self.err_is_terminal,
        };
        if let Some(canvas) = self.canvas.as_ref().filter(|_| terminal) {
            let mut screen = lock(&canvas.screen);
            if screen.is_open() {
                return if screen.add(stream, data) { self.put_all(screen.again()) } else { Ok(()) };
            }
        }
        if let Some(canvas) = self.canvas.as_ref().filter(|_| stream == Stream::Out && self.out_is_pipe) {
            self.put_all(lock(&canvas.screen).hide())?;
        }
        self.put_now(stream, data)
    }

    fn put_all(&self, pieces: Vec<Piece>) -> io::Result<()> {
        pieces.iter().try_for_each(|(stream, data)| self.put_now(*stream, data))
    }

    fn put_now(&self, stream: Stream, data: &[u8]) -> io::Result<()> {
        let mut sink = lock(match stream {
            Stream::Out => &self.out,
            Stream::Err => &self.err,
        });
        sink.write_all(data).and_then(|()| sink.flush())
    }
}

impl Canvas {
    fn new(stream: Stream) -> Self {
        Self { stream, screen: Arc::new(Mutex::new(Screen::new(stream))) }
    }
}

/// Whether the terminal knows the few sequences that painting needs.
fn can_paint() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

fn is_pipe(stream: &impl AsFd) -> bool {
    let file = stream.as_fd().try_clone_to_owned().map(File::from);
    file.and_then(|file| file.metadata()).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// Whether this process may paint: not after `bg`. A terminal that is nobody's is free.
fn in_foreground(stream: Stream) -> bool {
    let owner = match stream {
        Stream::Out => tcgetpgrp(std::io::stdout()),
        Stream::Err => tcgetpgrp(std::io::stderr()),
    };
    owner.map_or(true, |owner| owner == getpgrp())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
