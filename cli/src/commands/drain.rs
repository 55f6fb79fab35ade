//! `muster drain`: gives a worker nothing new (what runs on it goes on).

use clap::Args;
use muster_proto::v1::DrainWorkerRequest;

use crate::{
    Context,
    args::OutputArgs,
    client::Client,
    error::{Error, Exit},
    output::print_workers,
};

/// What `drain` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "What runs on the worker goes on; `muster workers` shows when nothing is left, and it may be
stopped.

Examples:
  muster drain gpu-1
  muster resume gpu-1                              give it work again"
)]
pub struct DrainArgs {
    /// The worker, as `muster workers` names it
    pub worker: String,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Gives a worker nothing new and shows where it stands.
pub async fn run(args: DrainArgs, context: &Context) -> Result<Exit, Error> {
    let format = args.output.format().without_seed("workers")?;
    let client = Client::new(context)?;
    let request = DrainWorkerRequest { worker_id: args.worker };
    let reply = client.call(client.fleet().drain_worker(request)).await?;
    let worker = client.required(reply.worker)?;
    print_workers(&context.io, &[worker], format)?;
    Ok(Exit::Completed)
}
