//! `muster resume`: gives a worker work again (after a drain, or after it was set aside).

use clap::Args;
use muster_proto::v1::ResumeWorkerRequest;

use crate::{
    Context,
    args::OutputArgs,
    client::Client,
    error::{Error, Exit},
    output::print_workers,
};

/// What `resume` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "A worker is set aside when programs cannot be started on it, three times in a row; put that
right first.

Examples:
  muster resume gpu-1"
)]
pub struct ResumeArgs {
    /// The worker, as `muster workers` names it
    pub worker: String,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Gives a worker work again and shows where it stands.
pub async fn run(args: ResumeArgs, context: &Context) -> Result<Exit, Error> {
    let format = args.output.format().without_seed("workers")?;
    let client = Client::new(context)?;
    let request = ResumeWorkerRequest { worker_id: args.worker };
    let reply = client.call(client.fleet().resume_worker(request)).await?;
    let worker = client.required(reply.worker)?;
    print_workers(&context.io, &[worker], format)?;
    Ok(Exit::Completed)
}
