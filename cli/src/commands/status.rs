//! `muster status`: shows a batch and its tasks.

use clap::Args;

use crate::{
    Context,
    args::OutputArgs,
    client::Client,
    error::{Error, Exit},
    output::print_batch,
    progress::no_worker_hint,
};

/// What `status` takes.
#[derive(Debug, Args)]
#[command(after_help = "Formats: table; json (the batch with its tasks); jsonl (one task a line);
seed-json (the status document of the original batch runner).

Examples:
  muster status BATCH
  muster status BATCH --output jsonl | jq -r 'select(.status == \"TASK_STATUS_FAILED\") | .index'")]
pub struct StatusArgs {
    /// The batch
    pub batch: String,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Shows the batch. Exit code 0 whatever its state: the question was answered.
pub async fn run(args: StatusArgs, context: &Context) -> Result<Exit, Error> {
    let client = Client::new(context)?;
    let batch = client.batch(&args.batch).await?;
    print_batch(&client, &batch, args.output.format()).await?;
    if let Some(hint) = no_worker_hint(&batch, &context.url) {
        context.io.say(&hint);
    }
    Ok(Exit::Completed)
}
