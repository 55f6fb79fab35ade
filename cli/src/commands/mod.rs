//! The commands, one file each: arguments, the call, what is printed.

pub mod cancel;
pub mod completions;
pub mod config;
pub mod doctor;
pub mod drain;
pub mod explain;
pub mod export;
pub mod limits;
pub mod list;
pub mod logs;
pub mod man;
pub mod prefill;
pub mod release;
pub mod resume;
pub mod retry;
pub mod run;
pub mod status;
pub mod submit;
pub mod wait;
pub mod watch;
pub mod workers;

use crate::{
    Context,
    args::Command,
    error::{Error, Exit},
};

/// Runs one command.
pub async fn dispatch(command: Command, context: &Context) -> Result<Exit, Error> {
    match command {
        Command::Run(args) => run::run(args, context).await,
        Command::Submit(args) => submit::run(args, context).await,
        Command::Prefill(args) => prefill::run(args, context).await,
        Command::Status(args) => status::run(args, context).await,
        Command::Watch(args) => watch::run(args, context).await,
        Command::Wait(args) => wait::run(args, context).await,
        Command::Export(args) => export::run(args, context).await,
        Command::Logs(args) => logs::run(args, context).await,
        Command::Cancel(args) => cancel::run(args, context).await,
        Command::Retry(args) => retry::run(args, context).await,
        Command::Release(args) => release::run(args, context).await,
        Command::List(args) => list::run(args, context).await,
        Command::Workers(args) => workers::run(args, context).await,
        Command::Drain(args) => drain::run(args, context).await,
        Command::Resume(args) => resume::run(args, context).await,
        Command::Limits(args) => limits::run(args, context).await,
        Command::Explain(args) => explain::run(args, context).await,
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::Config(args) => config::run(&args, context),
        Command::Completions(args) => completions::run(&args, context),
        Command::Man(args) => man::run(&args, context),
    }
}

/// Reads a task's number for clap: counted from 1.
fn task_index() -> clap::builder::RangedI64ValueParser<i32> {
    clap::value_parser!(i32).range(1..)
}
