//! Ctrl-Z and `fg`: the view goes before the process stops, and comes back when it goes on.

use nix::{
    sys::signal::{Signal, raise},
    unistd::{getppid, getsid},
};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use crate::io::Io;

/// The number of the signal that asks a process to stop; tokio has no name for it.
const TERMINAL_STOP: i32 = Signal::SIGTSTP as i32;
/// The number of the signal that lets a process go on.
const CONTINUE: i32 = Signal::SIGCONT as i32;

/// From now on, and as long as the process lives: once a signal is handled, its default is gone.
pub(super) fn handle(io: &Io) {
    if !io.take_over_suspending() {
        return;
    }
    let signals = (signal(SignalKind::from_raw(TERMINAL_STOP)), signal(SignalKind::from_raw(CONTINUE)));
    // Without the handlers the screen is less tidy after Ctrl-Z, and nothing else.
    if let (Ok(stops), Ok(continues)) = signals {
        tokio::spawn(follow(io.clone(), stops, continues));
    }
}

async fn follow(io: Io, mut stops: Signals, mut continues: Signals) {
    loop {
        tokio::select! {
            Some(()) = stops.recv() => {
                if may_stop() {
                    io.pause_screen();
                    // Returns once somebody lets the process go on.
                    let _ = raise(Signal::SIGSTOP);
                }
                io.touch_screen();
            }
            Some(()) = continues.recv() => io.touch_screen(),
            else => return,
        }
    }
}

/// Whether there is a shell that could let this process go on. The system passes over Ctrl-Z where there is none.
fn may_stop() -> bool {
    let parent = getppid();
    parent.as_raw() > 1 && getsid(Some(parent)).is_ok_and(|session| getsid(None) == Ok(session))
}
