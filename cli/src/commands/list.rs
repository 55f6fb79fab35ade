//! `muster list`: batches, newest first.

use clap::Args;
use muster_proto::v1::{Batch, ListBatchesRequest};
use serde_json::{Value, json};

use crate::{
    Context,
    args::OutputArgs,
    client::Client,
    error::{Error, Exit},
    output::{Format, batch_row, batch_table, json, print_document, print_line, seed},
};

/// Batches asked for in one page.
const PAGE_SIZE: i32 = 500;

/// What `list` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster list
  muster list --limit 0 --output jsonl | jq -r .batch_id")]
pub struct ListArgs {
    /// Show at most so many; 0 for all
    #[arg(long, env = "MUSTER_LIMIT", value_name = "N", default_value_t = 50)]
    pub limit: u32,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Lists, page by page.
pub async fn run(args: ListArgs, context: &Context) -> Result<Exit, Error> {
    let io = &context.io;
    let client = Client::new(context)?;
    let format = args.output.format();
    let mut table = batch_table();
    let mut documents: Vec<Value> = Vec::new();
    let mut batches = Batches::new(&client, args.limit);
    while let Some(page) = batches.next().await? {
        match format {
            Format::Table => io.write(table.rows(page.iter().map(batch_row).collect()).as_bytes())?,
            Format::Jsonl => page.iter().try_for_each(|batch| print_line(io, &json::batch(batch)))?,
            Format::Json => documents.extend(page.iter().map(json::batch)),
            Format::SeedJson => documents.extend(page.iter().map(seed::batch)),
        }
    }
    match format {
        Format::Json => print_document(io, &json!({ "batches": documents }))?,
        Format::SeedJson => print_document(io, &Value::Array(documents))?,
        Format::Table | Format::Jsonl => {}
    }
    if batches.more {
        io.say("there are more; --limit 0 lists all");
    }
    Ok(Exit::Completed)
}

/// Batches, newest first, without tasks, up to a limit.
pub struct Batches {
    client: Client,
    left: u32,
    token: Option<String>,
    more: bool,
}

impl Batches {
    /// At most `limit`; 0 for all.
    pub fn new(client: &Client, limit: u32) -> Self {
        let left = if limit == 0 { u32::MAX } else { limit };
        Self { client: client.clone(), left, token: Some(String::new()), more: false }
    }

    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<Batch>>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(page_token) = self.token.take() else { return Ok(None) };
        let page_size = PAGE_SIZE.min(i32::try_from(self.left).unwrap_or(PAGE_SIZE));
        let request = ListBatchesRequest { page_size, page_token: page_token.clone() };
        let mut reply = self.client.call(self.client.batches().list_batches(request)).await?;
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
        let cut = reply.batches.len() > wanted;
        reply.batches.truncate(wanted);
        self.left -= u32::try_from(reply.batches.len()).unwrap_or(self.left);
        // A token that does not move would be an endless list.
        if !reply.next_page_token.is_empty() && reply.next_page_token != page_token {
            self.token = Some(reply.next_page_token);
        }
        self.more = cut || (self.left == 0 && self.token.is_some());
        Ok(Some(reply.batches))
    }
}
