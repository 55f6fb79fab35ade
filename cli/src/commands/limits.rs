//! `muster limits`: the limits that are in force now.

use clap::Args;
use muster_proto::v1::GetPolicyRequest;

use crate::{
    Context,
    args::OutputArgs,
    client::Client,
    error::{Error, Exit},
    output::{Format, json, print_document, print_line, table::Table},
};

/// What `limits` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster limits
  muster limits --output json")]
pub struct LimitsArgs {
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Shows the limits.
pub async fn run(args: LimitsArgs, context: &Context) -> Result<Exit, Error> {
    let format = args.output.format().without_seed("limits")?;
    let client = Client::new(context)?;
    let policy = client.call(client.batches().get_policy(GetPolicyRequest {})).await?;
    match format {
        Format::Json => print_document(&context.io, &json::policy(&policy))?,
        Format::Jsonl => print_line(&context.io, &json::policy(&policy))?,
        Format::Table | Format::SeedJson => {
            let row = |name: &str, configured: i32, hard: i32| {
                vec![name.to_owned(), configured.to_string(), hard.to_string()]
            };
            let rows = vec![
                row("tasks at once", policy.max_concurrency, policy.system_max_concurrency),
                row("tasks in a batch", policy.max_tasks, policy.system_max_tasks),
            ];
            let mut table = Table::new(&["LIMIT", "WITHOUT APPROVAL", "AT MOST"]);
            context.io.write(table.rows(rows).as_bytes())?;
        }
    }
    Ok(Exit::Completed)
}
