//! `muster retry`: runs failed or cancelled tasks again, as new attempts in the same batch.

use clap::Args;
use muster_proto::v1::RetryBatchRequest;

use crate::{
    Context,
    approval::{Approvals, Limit, Provenance},
    args::{ApprovalArgs, OutputArgs, RequestIdArgs},
    client::Client,
    commands::task_index,
    error::{Error, Exit},
    key::KeyArgs,
    output::print_batch_alone,
    progress::{command, no_worker_hint},
    sanitize::one_line,
};

/// What `retry` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Each task that runs again may cost money again. A key that the batch had is deleted when it
ends, so it must be given again.

Examples:
  muster retry BATCH
  muster retry BATCH 2 5 --api-key-file key.txt"
)]
pub struct RetryArgs {
    /// The batch
    pub batch: String,
    /// The tasks, counted from 1 [default: all that failed or were cancelled]
    #[arg(value_name = "TASK", value_parser = task_index())]
    pub tasks: Vec<i32>,
    #[command(flatten)]
    /// Approvals.
    pub approvals: ApprovalArgs,
    #[command(flatten)]
    /// The key.
    pub key: KeyArgs,
    #[command(flatten)]
    /// The request's id.
    pub request_id: RequestIdArgs,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Asks for the new attempts and says where the batch stands then.
pub async fn run(args: RetryArgs, context: &Context) -> Result<Exit, Error> {
    let client = Client::new(context)?;
    let provenance = Provenance {
        from_standard_input: args.key.takes_standard_input().then_some("the key"),
        ..Provenance::default()
    };
    provenance.from_standard_input.into_iter().for_each(|what| context.io.say_that_it_reads(what));
    let mut approvals = Approvals::new(&client, &provenance, None);
    let mut request = RetryBatchRequest {
        batch_id: args.batch,
        task_indexes: args.tasks,
        request_id: args.request_id.get()?,
        api_key: args.key.read(&context.io)?,
        concurrency_approved: args.approvals.concurrency_approved,
        task_count_approved: args.approvals.task_count.task_count_approved,
    };
    let reply = loop {
        let reply = client
            .call_repeatedly(|| {
                let mut batches = client.batches();
                let request = request.clone();
                async move { batches.retry_batch(request).await }
            })
            .await;
        match reply {
            Err(error @ Error::Rejected(_)) => match approvals.after(error, None).await? {
                Limit::TaskCount => request.task_count_approved = true,
                Limit::Concurrency => request.concurrency_approved = true,
            },
            reply => break reply,
        }
    };
    if reply.as_ref().is_err_and(Error::leaves_open) {
        context.io.say(&format!(
            "the tasks may have been queued again; repeat it with --request-id {} to be sure that it is done once",
            one_line(&request.request_id)
        ));
    }
    let batch = client.required(reply?.batch)?;
    print_batch_alone(&context.io, &batch, args.output.format())?;
    if let Some(hint) = no_worker_hint(&batch, &context.url) {
        context.io.say(&hint);
    }
    context
        .io
        .say(&format!("follow it with: {}", command(&context.url, &format!("watch {}", batch.batch_id))));
    Ok(Exit::Completed)
}
