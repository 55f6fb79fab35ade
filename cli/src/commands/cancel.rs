//! `muster cancel`: ends tasks of a batch, or all of it.

use clap::{Args, builder::FalseyValueParser};
use muster_proto::v1::{Batch, CancelBatchRequest};

use crate::{
    Context,
    args::{OutputArgs, RequestIdArgs},
    client::Client,
    commands::task_index,
    error::{Error, Exit},
    output::print_batch_alone,
};

/// What `cancel` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "A queued task ends at once. A running one gets TERM, time to finish, then KILL; it stays
running until its worker has confirmed the end.

Examples:
  muster cancel BATCH
  muster cancel BATCH 2 5 --reason 'wrong prompt'"
)]
pub struct CancelArgs {
    /// The batch
    pub batch: String,
    /// The tasks, counted from 1 [default: all]
    #[arg(value_name = "TASK", value_parser = task_index())]
    pub tasks: Vec<i32>,
    /// Why, for the record
    #[arg(long, env = "MUSTER_REASON", value_name = "TEXT")]
    pub reason: Option<String>,
    /// End running tasks at once, without time to finish
    #[arg(long, env = "MUSTER_NOW", value_parser = FalseyValueParser::new())]
    pub now: bool,
    #[command(flatten)]
    /// The request's id.
    pub request_id: RequestIdArgs,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Asks for the cancellation and says where the batch stands then.
pub async fn run(args: CancelArgs, context: &Context) -> Result<Exit, Error> {
    let client = Client::new(context)?;
    let request = CancelBatchRequest {
        batch_id: args.batch,
        task_indexes: args.tasks,
        reason: args.reason.unwrap_or_default(),
        request_id: args.request_id.get()?,
        immediate: args.now,
    };
    let batch = cancel(&client, &request).await?;
    print_batch_alone(&context.io, &batch, args.output.format())?;
    let running = batch.counts.map_or(0, |counts| counts.running);
    if running > 0 {
        context.io.say(&format!("still running: {running}"));
    }
    Ok(Exit::Completed)
}

/// Cancels, again with the same request id while the coordinator is away.
pub async fn cancel(client: &Client, request: &CancelBatchRequest) -> Result<Batch, Error> {
    let reply = client
        .call_repeatedly(|| {
            let mut batches = client.batches();
            let request = request.clone();
            async move { batches.cancel_batch(request).await }
        })
        .await?;
    client.required(reply.batch)
}
