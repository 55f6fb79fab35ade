//! The `muster-worker` program: the network half, and, re-executed, the runner.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use muster_worker::{Cli, Error, Ready, Shutdown, runner, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Bad settings, or the coordinator does not want this worker.
const REJECTED: u8 = 2;

fn main() -> ExitCode {
    if let Some(code) = runner::reexec(std::env::args_os()) {
        return code;
    }
    let cli = Cli::parse();
    telemetry::start(cli.log_format, cli.log_level);
    match work(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "muster-worker: {error}");
            match error {
                Error::Config(_) | Error::WorkDir(_) | Error::Refused(_) | Error::SentAway(_) => {
                    ExitCode::from(REJECTED)
                }
                Error::BootId(_) | Error::Runner(_) | Error::Unreported(_) | Error::Internal(_) => {
                    ExitCode::FAILURE
                }
            }
        }
    }
}

#[tokio::main]
async fn work(cli: Cli) -> Result<(), Error> {
    let config = cli.into_config()?;
    let (asked, shutdown) = watch::channel(Shutdown::Run);
    let unavailable = |error: std::io::Error| Error::Internal(format!("cannot listen to signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(unavailable)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unavailable)?;
    let mut leave = signal(SignalKind::user_defined1()).map_err(unavailable)?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = leave.recv() => {
                    asked.send_replace(Shutdown::Leave);
                    return;
                }
            }
            // The first one drains, the second one stops.
            asked.send_modify(|asked| {
                *asked = if *asked == Shutdown::Run { Shutdown::Drain } else { Shutdown::Stop };
            });
        }
    });
    muster_worker::run(config, shutdown, announce).await
}

fn announce(ready: Ready) {
    let mut out = std::io::stdout().lock();
    // Who closed our standard output does not wait for this line.
    let _ = writeln!(out, "muster-worker connected to {}", ready.address).and_then(|()| out.flush());
}
