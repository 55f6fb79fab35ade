//! `muster submit`: hands a batch to the coordinator.

use clap::{Args, builder::FalseyValueParser};
use muster_proto::v1::{Batch, SubmitBatchRequest};

use crate::{
    Context,
    approval::{Approvals, Limit},
    args::OutputArgs,
    client::Client,
    commands::watch::watch,
    error::{Error, Exit},
    output::{Format, print_batch},
    payload::SubmissionArgs,
    progress::{command, headline, no_worker_hint},
    sanitize::one_line,
};

/// What `submit` takes.
#[derive(Debug, Args)]
#[command(after_help = "The batch's id goes to standard output, everything else to standard error.

Examples:
  muster submit batch.json
  muster submit -m bpro-t2i 'a white cat' 'a black dog'
  muster submit --from-csv tasks.csv               first row: prompt,model,aspect_ratio
  muster submit --each-line prompts.txt
  echo '[\"a cat\", {\"prompt\": \"a dog\", \"model\": \"o2-t2i\"}]' | muster submit - --watch
  muster submit --cards cards.md                   after: muster prefill batch.json > cards.md
  muster submit batch.json --validate-only
  id=$(muster submit batch.json) && muster watch \"$id\"")]
pub struct SubmitArgs {
    #[command(flatten)]
    /// The batch.
    pub submission: SubmissionArgs,
    /// Follow the batch until it has ended
    #[arg(long, env = "MUSTER_WATCH", value_parser = FalseyValueParser::new())]
    pub watch: bool,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Submits, and watches if asked to.
pub async fn run(args: SubmitArgs, context: &Context) -> Result<Exit, Error> {
    let client = Client::new(context)?;
    let (request, provenance) = args.submission.request(&context.io)?;
    let validate_only = request.validate_only;
    let batch = submit_approved(&client, request, Approvals::new(&client, &provenance, None)).await?;
    if validate_only {
        context.io.say("the batch is valid; nothing was stored");
        print_batch(&client, &batch, args.output.format()).await?;
        return Ok(Exit::Completed);
    }
    if args.watch {
        if args.output.given().is_none() {
            context.io.line(&one_line(&batch.batch_id))?;
        }
        // The watch begins with the headline.
        return watch(&client, &batch.batch_id, args.output.format(), true).await;
    }
    context.io.say(&headline(&batch));
    match args.output.given() {
        None | Some(Format::Table) => context.io.line(&one_line(&batch.batch_id))?,
        Some(format) => print_batch(&client, &batch, format).await?,
    }
    if let Some(hint) = no_worker_hint(&batch, &context.url) {
        context.io.say(&hint);
    }
    context
        .io
        .say(&format!("follow it with: {}", command(&context.url, &format!("watch {}", batch.batch_id))));
    Ok(Exit::Completed)
}

/// Submits, and asks for approval where one is needed and somebody can be asked.
pub async fn submit_approved(
    client: &Client,
    mut request: SubmitBatchRequest,
    mut approvals: Approvals<'_>,
) -> Result<Batch, Error> {
    loop {
        let error = match submit(client, &request).await {
            Ok(batch) => return Ok(batch),
            Err(error) => error,
        };
        match approvals.after(error, Some(&request)).await? {
            Limit::TaskCount => request.task_count_approved = true,
            Limit::Concurrency => request.concurrency_approved = true,
        }
    }
}

/// Submits, again with the same request id while the coordinator is away.
pub async fn submit(client: &Client, request: &SubmitBatchRequest) -> Result<Batch, Error> {
    let io = &client.context().io;
    let hint = format!(
        "the batch may have been stored; submit it again with --request-id {} to be sure that it is there once",
        one_line(&request.request_id)
    );
    if !request.validate_only {
        io.set_interrupt_hint(Some(hint.clone()));
    }
    let outcome = client
        .call_repeatedly(|| {
            let mut batches = client.batches();
            let request = request.clone();
            async move { batches.submit_batch(request).await }
        })
        .await;
    io.set_interrupt_hint(None);
    if outcome.as_ref().is_err_and(Error::leaves_open) && !request.validate_only {
        io.say(&hint);
    }
    client.required(outcome?.batch)
}
