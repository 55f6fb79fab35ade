//! `muster release`: lets a batch go on that a restored backup has put on hold.

use clap::Args;
use muster_proto::v1::{Batch, ReleaseBatchRequest};

use crate::{
    Context,
    args::{OutputArgs, RequestIdArgs},
    client::Client,
    error::{Error, Exit},
    output::print_batch_alone,
    progress::{command, no_worker_hint},
    sanitize::one_line,
};

/// What `release` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "A coordinator that was started on a backup or on another copy of its data does not know what ran
since that was taken. It puts unfinished batches on hold; tasks that were running then have failed
with worker_crashed. Tasks that are queued now may have run since: each that runs again may cost
money again. `muster status BATCH TASK` shows results that workers have brought meanwhile.

Examples:
  muster release BATCH
  muster cancel BATCH 2 5                          before: leave out what has run already"
)]
pub struct ReleaseArgs {
    /// The batch
    pub batch: String,
    #[command(flatten)]
    /// The request's id.
    pub request_id: RequestIdArgs,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Lets the batch go on and says where it stands then.
pub async fn run(args: ReleaseArgs, context: &Context) -> Result<Exit, Error> {
    let client = Client::new(context)?;
    let request = ReleaseBatchRequest { batch_id: args.batch, request_id: args.request_id.get()? };
    let reply = release(&client, &request).await;
    if reply.as_ref().is_err_and(Error::leaves_open) {
        context.io.say(&format!(
            "the batch may have been released; repeat it with --request-id {} to be sure",
            one_line(&request.request_id)
        ));
    }
    let batch = reply?;
    print_batch_alone(&context.io, &batch, args.output.format())?;
    if let Some(hint) = no_worker_hint(&batch, &context.url) {
        context.io.say(&hint);
    }
    context
        .io
        .say(&format!("follow it with: {}", command(&context.url, &format!("watch {}", batch.batch_id))));
    Ok(Exit::Completed)
}

/// Releases, again with the same request id while the coordinator is away.
pub async fn release(client: &Client, request: &ReleaseBatchRequest) -> Result<Batch, Error> {
    let reply = client
        .call_repeatedly(|| {
            let mut batches = client.batches();
            let request = request.clone();
            async move { batches.release_batch(request).await }
        })
        .await?;
    client.required(reply.batch)
}
