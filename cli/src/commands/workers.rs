//! `muster workers`: the workers that the coordinator knows.

use clap::Args;
use muster_proto::v1::ListWorkersRequest;

use crate::{
    Context,
    args::OutputArgs,
    client::Client,
    error::{Error, Exit},
    output::print_workers,
    sanitize::one_line,
};

/// What `workers` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster workers
  muster workers --output jsonl | jq -r 'select(.status == \"WORKER_STATUS_LOST\") | .worker_id'")]
pub struct WorkersArgs {
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Lists workers.
pub async fn run(args: WorkersArgs, context: &Context) -> Result<Exit, Error> {
    let format = args.output.format().without_seed("workers")?;
    let client = Client::new(context)?;
    let reply = client.call(client.fleet().list_workers(ListWorkersRequest {})).await?;
    print_workers(&context.io, &reply.workers, format)?;
    if reply.workers.is_empty() {
        context.io.say(&format!(
            "no worker is known; start one with: muster-worker --coordinator {} --dispatch 'CMD'",
            one_line(&context.url)
        ));
    }
    Ok(Exit::Completed)
}
