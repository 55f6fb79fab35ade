//! The `muster` command: submits, shows, follows and ends batches, and steers workers.
//!
//! Everything is decided by the coordinator; this crate turns flags into requests and replies into text.
//! Data goes to standard output, talk to standard error. `muster run` is the exception that brings its own
//! coordinator and worker, both started and ended inside this process.

pub mod approval;
pub mod args;
pub mod backoff;
pub mod client;
pub mod color;
pub mod commands;
pub mod config;
pub mod error;
pub mod follow;
pub mod input;
pub mod io;
pub mod key;
pub mod lines;
pub mod live;
pub mod options;
pub mod output;
pub mod pager;
pub mod payload;
pub mod progress;
pub mod sanitize;
pub mod shell;
pub mod start;
pub mod surroundings;
pub mod tail;

use std::process::ExitCode;

use args::{Cli, Command};
use backoff::Patience;
use error::{Error, Exit};
use io::Io;
use start::Start;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What every command works with.
#[derive(Clone)]
pub struct Context {
    /// Where output goes.
    pub io: Io,
    /// The coordinator's address as the user gave it.
    pub url: String,
    /// How long to wait for a coordinator that went away.
    pub patience: Patience,
}

/// The whole program: reads the command line, runs one command, returns the documented exit code.
pub fn main() -> ExitCode {
    // The runner is this same binary, started again by the embedded worker; it must see nothing of the rest.
    if let Some(code) = commands::run::embed::runner_main() {
        return code;
    }
    // A shell asks what could come next on the command line; the answer is all there is to do.
    if let Some(exit) = commands::completions::answer() {
        return exit.into();
    }
    let start = match start::read(std::env::args_os().collect()) {
        Ok(start) => start,
        Err(exit) => return exit,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            Io::standard().say(&format!("error: the runtime could not be started: {error}"));
            return Exit::NotAllCompleted.into();
        }
    };
    let exit = runtime.block_on(execute_until_interrupted(start));
    // Waits for nothing: a thread stuck on a terminal that nobody reads must not hold the exit.
    runtime.shutdown_background();
    exit.into()
}

async fn execute_until_interrupted(start: Start) -> Exit {
    let Start { cli, io, pager } = start;
    let context = Context { io, url: client::with_scheme(&cli.coordinator), patience: Patience::default() };
    // `run` owns tasks that cost money and ends them itself; every other command only looks on.
    if matches!(cli.command, Command::Run(_)) {
        return execute(cli, context).await;
    }
    let io = context.io.clone();
    // Before anything is printed that a user may answer with Ctrl-C. SIGTERM leaves the terminal as it was found too.
    // Without a handler the signal ends us as it is.
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).ok());
    // On a thread of its own, so that Ctrl-C works while it waits for standard input or a terminal.
    let command = tokio::spawn(execute(cli, context));
    let shown = pager.clone();
    let command = async move {
        let exit = command.await.unwrap_or(Exit::NotAllCompleted);
        if let Some(pager) = shown {
            // Waits for the user, on a thread that may wait.
            let _ = tokio::task::spawn_blocking(move || pager.finish()).await;
        }
        exit
    };
    tokio::select! {
        exit = command => exit,
        () = interrupted(signals, pager.as_ref()) => {
            let exit = report(Err(Error::Interrupted), &io);
            if let Some(pager) = pager {
                pager.end();
            }
            exit
        }
    }
}

/// Ends at the first of the signals, but for Ctrl-C while the pager has the terminal, which is meant for that.
async fn interrupted([mut interrupt, mut terminate]: [Option<Signal>; 2], pager: Option<&pager::Pager>) {
    async fn received(signal: &mut Option<Signal>) {
        match signal {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
    loop {
        tokio::select! {
            () = received(&mut interrupt) => {
                if !pager.is_some_and(pager::Pager::has_terminal) {
                    return;
                }
            }
            () = received(&mut terminate) => return,
        }
    }
}

/// Runs one command and prints how it failed, if it did.
pub async fn execute(cli: Cli, context: Context) -> Exit {
    let io = context.io.clone();
    let silent = cli.command.prints_nothing();
    let context = if silent { Context { io: io.silent(), ..context } } else { context };
    report(commands::dispatch(cli.command, &context).await, &io)
}

fn report(outcome: Result<Exit, Error>, io: &Io) -> Exit {
    // An interrupt comes in the middle of a live view.
    let had_screen = io.screen_is_open();
    io.close_screen();
    match outcome {
        Ok(exit) => exit,
        Err(error) => {
            if let Some(text) = error.text() {
                if matches!(error, Error::Interrupted) && !had_screen {
                    io.end_open_line();
                }
                io.say(&text);
            }
            if let (Error::Interrupted, Some(hint)) = (&error, io.interrupt_hint()) {
                io.say(&hint);
            }
            error.exit()
        }
    }
}
