//! The `muster-coordinator` program: the command line, signals and exit codes around the library.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use muster_coordinator::{
    Coordinator, EXIT_STORAGE_FAILED, Failure, StartError,
    config::{Args, Tool},
    shutdown::Signals,
    store, telemetry, tools,
};

/// Exit code of a coordinator that could not start.
const EXIT_NOT_STARTED: u8 = 1;
/// Exit code for a command line that cannot be read; clap's own.
const EXIT_USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    if env::args_os().nth(1).is_some_and(|first| Tool::NAMES.iter().any(|name| first == *name)) {
        return run_tool(Tool::parse());
    }
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

/// Exit codes: 0; 1 where something is wrong with the data or it was not used; 74 where the disk failed.
fn run_tool(tool: Tool) -> ExitCode {
    let said = match tool {
        Tool::Check { data_dir } => tools::check(&data_dir).map(|checked| {
            let whole = checked.problems.is_empty();
            let notes = checked.notes.into_iter().map(|note| format!("note: {note}"));
            let lines = checked.problems.into_iter().map(|problem| format!("problem: {problem}"));
            let end = if whole { "all is well" } else { "something is wrong" };
            let lines = [checked.summary].into_iter().chain(notes).chain(lines).chain([end.to_owned()]);
            (lines.collect::<Vec<_>>(), if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }),
        Tool::Backup { data_dir, dest } => tools::backup(&data_dir, &dest).map(|copied| {
            let line = format!(
                "copied {} bytes of database and {} bytes of output to {}; the key file is not part of it",
                copied.database_bytes,
                copied.log_bytes,
                dest.display()
            );
            (vec![line], ExitCode::SUCCESS)
        }),
    };
    match said {
        Ok((lines, code)) => {
            let mut stdout = io::stdout();
            let written = lines.iter().try_for_each(|line| writeln!(stdout, "{line}"));
            if written.and_then(|()| stdout.flush()).is_err() { ExitCode::FAILURE } else { code }
        }
        Err(error) => {
            complain(&error.to_string());
            let failed = matches!(
                error,
                tools::Error::Store(store::Error::Failed(_) | store::Error::Corrupt(_))
                    | tools::Error::File { .. }
            );
            ExitCode::from(if failed { EXIT_STORAGE_FAILED } else { EXIT_NOT_STARTED })
        }
    }
}

fn complain(message: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "muster-coordinator: {message}");
}
