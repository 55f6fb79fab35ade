//! The `muster` command: submits, shows, follows and ends batches, and steers workers.
//!
//! Everything is decided by the coordinator; this crate turns flags into requests and replies into text.
//! Data goes to standard output, talk to standard error. `muster run` is the exception that brings its own
//! coordinator and worker, both started and ended inside this process.

pub mod approval;
pub mod args;
pub mod backoff;
pub mod client;
pub mod commands;
pub mod error;
pub mod follow;
pub mod input;
pub mod io;
pub mod key;
pub mod lines;
pub mod live;
pub mod output;
pub mod payload;
pub mod progress;
pub mod sanitize;
pub mod shell;
pub mod surroundings;
pub mod tail;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use backoff::Patience;
use error::{Error, Exit};
use io::Io;
use surroundings::Surroundings;
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
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            Io::standard().say(&format!("error: the runtime could not be started: {error}"));
            return Exit::NotAllCompleted.into();
        }
    };
    let exit = runtime.block_on(execute_until_interrupted(cli));
    // Waits for nothing: a thread stuck on a terminal that nobody reads must not hold the exit.
    runtime.shutdown_background();
    exit.into()
}

async fn execute_until_interrupted(cli: Cli) -> Exit {
    let io = Io::standard().with_surroundings(Surroundings::of_process());
    let context = Context { io, url: cli.coordinator.clone(), patience: Patience::default() };
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
    tokio::select! {
        exit = command => exit.unwrap_or(Exit::NotAllCompleted),
        () = interrupted(signals) => report(Err(Error::Interrupted), &io),
    }
}

/// Ends at the first of the signals.
async fn interrupted([interrupt, terminate]: [Option<Signal>; 2]) {
    async fn received(signal: Option<Signal>) {
        match signal {
            Some(mut signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
    tokio::select! {
        () = received(interrupt) => {}
        () = received(terminate) => {}
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
    io.close_screen();
    match outcome {
        Ok(exit) => exit,
        Err(error) => {
            if let Some(text) = error.text() {
                io.say(&text);
            }
            if let (Error::Interrupted, Some(hint)) = (&error, io.interrupt_hint()) {
                io.say(&hint);
            }
            error.exit()
        }
    }
}
