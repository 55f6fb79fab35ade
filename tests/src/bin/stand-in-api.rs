//! A stand-in for the API that models are looked up at, to try prefills without an account: answers for the
//! models of the catalogue, for any key.

#![allow(clippy::print_stdout)]

use std::{net::SocketAddr, process::ExitCode};

use clap::Parser;
use muster_tests::api::Api;

/// Serves contracts of models as the documented API would.
#[derive(Parser)]
#[command(name = "stand-in-api")]
struct Options {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:7071")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let _api = match Api::listen(options.listen).await {
        Ok(api) => {
            println!("stand-in-api listening on {}", api.address());
            api
        }
        Err(error) => {
            eprintln!("cannot listen on {}: {error}; give another address with --listen", options.listen);
            return ExitCode::FAILURE;
        }
    };
    std::future::pending().await
}
