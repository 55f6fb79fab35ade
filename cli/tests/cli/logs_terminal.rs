//! `muster logs` on a real pseudo-terminal: colours, lines that are drawn again, raw bytes.

use std::{
    fs::File,
    io::Read as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use muster_proto::v1::{Batch, TaskStatus};
use nix::pty::{Winsize, openpty};

use crate::support::{DEADLINE, Fake, Step, batch, piece, task};

const ROWS: u16 = 10;
const COLUMNS: u16 = 80;

/// The program with standard output on a terminal of its own, and that terminal's screen.
struct Terminal {
    child: Child,
    bytes: std::sync::mpsc::Receiver<Vec<u8>>,
    screen: vt100::Parser,
}

impl Terminal {
    fn start(fake: &Fake, line: &[&str], environment: &[(&str, &str)]) -> Self {
        let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_muster"))
            .args(line)
            .env_clear()
            .env("MUSTER_COORDINATOR", fake.url())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(pty.slave)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, bytes) = std::sync::mpsc::channel();
        let mut master = File::from(pty.master);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of a terminal is an error.
            while let Ok(length @ 1..) = master.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let screen = vt100::Parser::new(ROWS.try_into().unwrap(), COLUMNS.try_into().unwrap(), 0);
        Self { child, bytes, screen }
    }

    /// Waits until the screen shows something.
    fn wait_until(&mut self, shown: impl Fn(&vt100::Screen) -> bool) {
        let begun = Instant::now();
        while !shown(self.screen.screen()) {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            match self.bytes.recv_timeout(left.max(Duration::from_millis(1))) {
                Ok(bytes) => self.screen.process(&bytes),
                Err(error) => {
                    let _ = self.child.kill();
                    panic!("{error}: {:?}", self.screen.screen().contents())
                }
            }
        }
    }

    /// Waits for the end: the exit code, the screen, and what was said.
    fn end(mut self) -> (Option<i32>, vt100::Parser, String) {
        while let Ok(bytes) = self.bytes.recv_timeout(DEADLINE) {
            self.screen.process(&bytes);
        }
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), self.screen, said)
    }
}

#[test]
fn a_progress_bar_moves_and_leaves_what_it_was_last() {
    let fake = Fake::start();
    fake.state.tails.lock().unwrap().extend([
        vec![piece(0, b"begin\n10%", false), piece(9, b"\r20", false), piece(12, b"%", false), Step::Hang],
        vec![
            piece(0, b"begin\n10%", false),
            piece(9, b"\r20%\r100%\n", false),
            piece(19, b"\x1b[31mred", true),
        ],
    ]);
    let line = ["logs", "b1", "1", "--follow"];
    let mut terminal = Terminal::start(&fake, &line, &[]);
    terminal.wait_until(|screen| screen.contents() == "begin\n20%");
    let pid = terminal.child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let (code, _, said) = terminal.end();
    assert_eq!(code, Some(130));
    assert!(said.contains("follow it again with: ") && said.contains("logs b1 1 --follow"), "{said}");

    let (code, screen, _) = Terminal::start(&fake, &line, &[]).end();
    assert_eq!((code, screen.screen().contents().as_str()), (Some(0), "begin\n100%\nred"));
    assert_eq!(screen.screen().cell(2, 0).unwrap().fgcolor(), vt100::Color::Idx(1));
    assert_eq!(screen.screen().fgcolor(), vt100::Color::Default, "what follows is plain");
}

fn two_tasks() -> Fake {
    let fake = Fake::start();
    let tasks = vec![task(1, TaskStatus::Completed), task(2, TaskStatus::Completed)];
    *fake.state.batch.lock().unwrap() = Batch { tasks, ..batch(2, 2, 0) };
    fake.state.logs.lock().unwrap().extend([(1, b"one\n".to_vec()), (2, b"\x1b[31mtwo\n".to_vec())]);
    fake
}

#[test]
fn prefixes_have_a_colour_a_task_unless_colour_is_not_wanted() {
    let fake = two_tasks();
    let colours = |environment: &[(&str, &str)]| {
        let (code, screen, _) = Terminal::start(&fake, &["logs", "b1"], environment).end();
        let screen = screen.screen();
        assert_eq!((code, screen.contents().as_str()), (Some(0), "[1 Task 1] one\n[2 Task 2] two"));
        [(0, 0), (1, 0), (1, 11)].map(|(row, column)| screen.cell(row, column).unwrap().fgcolor())
    };
    use vt100::Color::{Default, Idx};
    assert_eq!(colours(&[]), [Idx(6), Idx(3), Idx(1)]);
    assert_eq!(colours(&[("NO_COLOR", "1")]), [Default; 3]);
    assert_eq!(colours(&[("TERM", "dumb")]), [Default; 3]);
}

#[test]
fn a_pipe_gets_colours_only_if_they_are_forced() {
    let fake = two_tasks();
    let piped = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command.args(["logs", "b1"]).env_clear().env("MUSTER_COORDINATOR", fake.url());
        String::from_utf8(command.envs(variables.iter().copied()).output().unwrap().stdout).unwrap()
    };
    assert_eq!(piped(&[]), "[1 Task 1] one\n[2 Task 2] two\n");
    let forced = piped(&[("CLICOLOR_FORCE", "1")]);
    assert!(forced.starts_with("\u{1b}[36m[1 Task 1]\u{1b}[0m one\n"), "{forced:?}");
}

#[test]
fn raw_bytes_are_refused_on_a_terminal() {
    let fake = two_tasks();
    let (code, screen, said) = Terminal::start(&fake, &["logs", "b1", "1", "--raw"], &[]).end();
    assert_eq!((code, screen.screen().contents().as_str()), (Some(2), ""));
    assert!(said.contains("--raw is not for terminals"), "{said}");
    assert!(fake.state.seen_tails.lock().unwrap().is_empty());
}
