//! The `muster-coordinator` program: the command line, signals and exit codes around the library.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use muster_coordinator::{
    Coordinator, EXIT_STORAGE_FAILED, Failure, StartError, config::Args, shutdown::Signals, store, telemetry,
};

/// Exit code of a coordinator that could not start.
const EXIT_NOT_STARTED: u8 = 1;
/// Exit code for a command line that cannot be read; clap's own.
const EXIT_USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = telemetry::start(args.log_format, &args.log_level) {
        complain(&format!("--log-level: {error}"));
        return ExitCode::from(EXIT_USAGE);
    }
    match run(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(End { message, code }) => {
            complain(&message);
            ExitCode::from(code)
        }
    }
}

/// Why the program ends, and with which code.
struct End {
    message: String,
    code: u8,
}

impl From<StartError> for End {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::NotLoopback(_) | StartError::ContractBaseUrl(_) => EXIT_USAGE,
            StartError::Store(store::Error::Failed(_) | store::Error::Corrupt(_)) => EXIT_STORAGE_FAILED,
            _ => EXIT_NOT_STARTED,
        };
        Self { message: error.to_string(), code }
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        let code = match &failure {
            Failure::Store(_) | Failure::Logs(_) => EXIT_STORAGE_FAILED,
            Failure::Engine | Failure::Server(_) => EXIT_NOT_STARTED,
        };
        Self { message: failure.to_string(), code }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self { message: error.to_string(), code: EXIT_NOT_STARTED }
    }
}

async fn run(args: &Args) -> Result<(), End> {
    let mut signals = Signals::new()?;
    let mut running = Coordinator::start(args.config()).await?;
    let mut stdout = io::stdout();
    writeln!(stdout, "muster-coordinator listening on {}", running.local_addr())?;
    stdout.flush()?;
    tokio::select! {
        ended = running.wait() => return ended.map_err(End::from),
        signal = signals.next() => tracing::info!(signal, "stopping"),
    }
    tokio::select! {
        ended = running.shutdown() => ended.map_err(End::from),
        signal = signals.next() => {
            Err(End { message: format!("{signal} again: stopped at once"), code: EXIT_NOT_STARTED })
        }
    }
}

fn complain(message: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "muster-coordinator: {message}");
}
