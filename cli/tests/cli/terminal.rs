//! The built program on a real pseudo-terminal, and what its screen shows.

use std::{
    fs::File,
    io::{Read, Write},
    num::NonZeroU16,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    pty::{Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::DEADLINE;

/// Lines that have left the screen and can still be read.
const SCROLLBACK: usize = 10_000;
/// Every painting of the view begins with this.
const CLEAR: &[u8] = b"\x1b[J";

/// A terminal. Of its size, columns can be changed.
pub(crate) struct Terminal {
    keyboard: File,
    line: OwnedFd,
    rows: u16,
    screen: Arc<Mutex<vt100::Parser>>,
    paintings: Arc<AtomicUsize>,
}

/// A program on it.
pub(crate) struct Running {
    child: Child,
}

impl Terminal {
    pub(crate) fn new(rows: u16, columns: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let mut keyboard = File::from(pty.master);
        let parser = vt100::Parser::new(some(rows), some(columns), SCROLLBACK);
        let screen = Arc::new(Mutex::new(parser));
        let paintings = Arc::new(AtomicUsize::new(0));
        let (shown, mut output) = (Arc::clone(&screen), keyboard.try_clone().unwrap());
        let counted = Arc::clone(&paintings);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut cleared = 0;
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                for byte in &buffer[..count] {
                    // The first byte of the sequence comes only once in it.
                    cleared =
                        if *byte == CLEAR[cleared] { cleared + 1 } else { usize::from(*byte == CLEAR[0]) };
                    if cleared == CLEAR.len() {
                        counted.fetch_add(1, Ordering::Relaxed);
                        cleared = 0;
                    }
                }
                shown.lock().unwrap().process(&buffer[..count]);
            }
        });
        keyboard.flush().unwrap();
        Self { keyboard, line: pty.slave, rows, screen, paintings }
    }

    /// One end for a program to read from or to write to.
    pub(crate) fn stdio(&self) -> Stdio {
        self.line.try_clone().unwrap().into()
    }

    /// Starts the program with all three streams here.
    pub(crate) fn spawn(&self, command: &mut Command) -> Running {
        command.stdin(self.stdio()).stdout(self.stdio()).stderr(self.stdio());
        Running { child: command.spawn().unwrap() }
    }

    /// Types.
    pub(crate) fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Makes it wider or narrower.
    pub(crate) fn set_columns(&self, columns: u16) {
        self.stty(&["cols", &columns.to_string()]);
        self.screen.lock().unwrap().screen_mut().set_size(some(self.rows), some(columns));
    }

    /// Makes it one that does not know its size.
    pub(crate) fn forget_size(&self) {
        self.stty(&["cols", "0", "rows", "0"]);
    }

    fn stty(&self, set: &[&str]) {
        assert!(Command::new("stty").args(set).stdin(self.stdio()).status().unwrap().success());
    }

    /// How often the view has been painted or cleared so far.
    pub(crate) fn paintings(&self) -> usize {
        self.paintings.load(Ordering::Relaxed)
    }

    /// What the screen shows.
    pub(crate) fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// What has been shown from the beginning, line by line, as far as it was not painted over.
    pub(crate) fn history(&self) -> String {
        let mut parser = self.screen.lock().unwrap();
        let screen = parser.screen_mut();
        screen.set_scrollback(usize::MAX);
        let mut lines = Vec::new();
        let above = screen.scrollback();
        let (_, columns) = screen.size();
        for back in (1..=above).rev() {
            screen.set_scrollback(back);
            lines.extend(screen.rows(0, columns.get()).next());
        }
        screen.set_scrollback(0);
        lines.push(screen.contents());
        lines.join("\n")
    }

    pub(crate) fn cursor_is_shown(&self) -> bool {
        !self.screen.lock().unwrap().screen().hide_cursor()
    }

    /// Row and column of the cursor, from 0.
    pub(crate) fn cursor(&self) -> (u16, u16) {
        self.screen.lock().unwrap().screen().cursor_position()
    }

    /// Waits until the screen is as wanted and returns its text.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let text = self.text();
            if wanted(&text) {
                return text;
            }
            assert!(begun.elapsed() < DEADLINE, "never {what}; the screen shows:\n{text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the screen shows a text.
    pub(crate) fn wait_for_text(&self, text: &str) -> String {
        self.wait_for(text, |shown| shown.contains(text))
    }
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits until it is stopped.
    pub(crate) fn wait_until_stopped(&self) {
        let begun = Instant::now();
        loop {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
            if status.lines().any(|line| line.starts_with("State:") && line.contains('T')) {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "never stopped: {status}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The peak of its memory so far.
    pub(crate) fn peak_memory_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
    }

    /// Waits for the end, without ever hanging the test.
    pub(crate) fn code(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < DEADLINE, "the program does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After its end there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn some(number: u16) -> NonZeroU16 {
    number.try_into().unwrap()
}
