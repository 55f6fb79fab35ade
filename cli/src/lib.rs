//! The `muster` command: submits, shows, follows and ends batches, and steers workers.
//!
//! Everything is decided by the coordinator; this crate turns flags into requests and replies into text.
//! Data goes to standard output, talk to standard error. `muster run` is the exception that brings its own
//! coordinator and worker, both started and ended inside this process.

pub mod args;
pub mod backoff;
pub mod client;
pub mod commands;
pub mod error;
pub mod follow;
pub mod io;
pub mod key;
pub mod live;
pub mod output;
pub mod payload;
pub mod progress;
pub mod sanitize;
pub mod tail;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use args::{Cli, Command};
use backoff::Patience;
use error::{Error, Exit};
use io::Io;

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
    let context = Context { io: Io::standard(), url: cli.coordinator.clone(), patience: Patience::default() };
    // `run` owns tasks that cost money and ends them itself; every other command only looks on.
    if matches!(cli.command, Command::Run(_)) {
        return execute(cli, context).await;
    }
    let io = context.io.clone();
    // On a thread of its own, so that Ctrl-C works while it waits for standard input or a terminal.
    let command = tokio::spawn(execute(cli, context));
    tokio::select! {
        exit = command => exit.unwrap_or(Exit::NotAllCompleted),
        () = interrupted() => report(Err(Error::Interrupted), &io),
    }
}

/// Ends at Ctrl-C or SIGTERM: either leaves the terminal as it was found.
async fn interrupted() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => signals.recv().await,
            // The system's own way of ending it stays.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
}

/// Runs one command and prints how it failed, if it did.
pub async fn execute(cli: Cli, context: Context) -> Exit {
    let io = context.io.clone();
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
