//! `muster doctor`: looks for what is wrong between this machine and the coordinator, step by step.
//!
//! Changes nothing, shows no key, and ends: every step over the network is bounded by a time of its own.

mod local;
mod network;
mod report;

use clap::{Args, ValueHint};

use crate::{
    Context,
    args::OutputArgs,
    error::{Error, Exit},
    key::KeyArgs,
};
use report::Report;

/// What `doctor` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Formats: lines; json (all checks); jsonl (one check a line). Each check is ok, a problem (with
its fix), a note, or was skipped because one before it failed.

Examples:
  muster doctor
  muster doctor --dispatch ./dispatch
  muster --coordinator http://HOST:7070 doctor --output jsonl

Exit codes: 0 no problem; 2 a problem of settings or of the fleet; 3 no coordinator could be reached."
)]
pub struct DoctorArgs {
    #[command(flatten)]
    /// Where a key would be looked for.
    pub key: KeyArgs,
    /// Program that `muster run` would run tasks with
    #[arg(long, env = "MUSTER_DISPATCH", value_name = "CMD", default_value = "dispatch", value_hint = ValueHint::AnyPath)]
    pub dispatch: String,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Checks everything.
pub async fn run(args: DoctorArgs, context: &Context) -> Result<Exit, Error> {
    let format = args.output.format().without_seed("what doctor found")?;
    let mut report = Report::new(context.io.clone(), format);
    network::check(&context.url, &mut report).await?;
    report.add(local::key(&args.key))?;
    report.add(local::dispatch(&args.dispatch))?;
    report.finish()
}
