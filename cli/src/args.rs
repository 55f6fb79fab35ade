//! The command line. Each command's own arguments stand in its file; here is what they share.
//!
//! Every option has an environment variable `MUSTER_<OPTION>`, with exceptions that a test keeps: approvals (and
//! `--resume`/`--abandon`, which decide about money all the same) come only from the command line, and what a
//! task finds in its own environment (`MUSTER_BATCH_ID MUSTER_TASK_INDEX MUSTER_ATTEMPT MUSTER_OUTPUT_DIR`) is
//! never read, so that a task may call `muster` itself.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{FalseyValueParser, Resettable},
};

use crate::{client::new_request_id, color::When, commands, error::Error, output::Format};

/// Where a coordinator listens unless told otherwise.
pub const DEFAULT_COORDINATOR: &str = "http://127.0.0.1:7070";

/// The heading of what every command takes.
const GLOBAL: &str = "Global options";

/// Run batches of costly command-line jobs on a fleet of machines.
#[derive(Debug, Parser)]
#[command(
    name = "muster",
    version,
    after_help = "Examples:
  muster run batch.json --dispatch ./dispatch      everything on this machine, nothing else to start
  muster submit batch.json --watch                 on a coordinator that runs already
  muster prefill batch.json > cards.md             what it would run, to read and change first
  muster submit --cards cards.md
  muster status BATCH --output json
  muster logs BATCH 3 --follow

Exit codes:
  0    all tasks completed, or it was done as asked
  1    some tasks did not complete, or something local failed
  2    rejected: limits, bad input, unknown names
  3    the coordinator is unreachable or gone
  130  interrupted

Settings come from flags, then the environment (MUSTER_<FLAG>), then a profile in
~/.config/muster/config.toml, then what is built in; `muster config show` says which."
)]
pub struct Cli {
    /// Address of the coordinator
    #[arg(long, global = true, help_heading = GLOBAL, env = "MUSTER_COORDINATOR", default_value = DEFAULT_COORDINATOR, value_name = "URL")]
    pub coordinator: String,
    /// Take settings from this profile [default: the file's default-profile]
    #[arg(long, global = true, help_heading = GLOBAL, env = "MUSTER_PROFILE", value_name = "NAME")]
    pub profile: Option<String>,
    /// File with the profiles [default: ~/.config/muster/config.toml]
    #[arg(long, global = true, help_heading = GLOBAL, env = "MUSTER_CONFIG_FILE", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// When to use colour: auto, always, never
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        value_enum,
        env = "MUSTER_COLOR",
        default_value_t,
        value_name = "WHEN",
        hide_possible_values = true
    )]
    pub color: When,
    /// Print long tables at once, not through a pager
    #[arg(long, global = true, help_heading = GLOBAL, env = "MUSTER_NO_PAGER", value_parser = FalseyValueParser::new())]
    pub no_pager: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One of the commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a batch here: coordinator and worker are started for it and ended after it
    Run(commands::run::RunArgs),
    /// Hand a batch to the coordinator
    Submit(commands::submit::SubmitArgs),
    /// Show a batch as cards, to be read and changed before anything is spent
    Prefill(commands::prefill::PrefillArgs),
    /// Show a batch and its tasks
    Status(commands::status::StatusArgs),
    /// Follow a batch until it has ended
    Watch(commands::watch::WatchArgs),
    /// Wait until batches have ended, and print nothing
    Wait(commands::wait::WaitArgs),
    /// Show what tasks print
    Logs(commands::logs::LogsArgs),
    /// Save a batch as files: status document, logs, record of the scheduling
    Export(commands::export::ExportArgs),
    /// End tasks of a batch, or all of it
    Cancel(commands::cancel::CancelArgs),
    /// Run failed or cancelled tasks again
    Retry(commands::retry::RetryArgs),
    /// Let a batch go on that a restored backup has put on hold
    Release(commands::release::ReleaseArgs),
    /// List batches, newest first
    List(commands::list::ListArgs),
    /// List workers
    Workers(commands::workers::WorkersArgs),
    /// Give a worker nothing new; what runs on it goes on
    Drain(commands::drain::DrainArgs),
    /// Give a worker work again, after a drain or after it was set aside
    Resume(commands::resume::ResumeArgs),
    /// Show the limits in force
    Limits(commands::limits::LimitsArgs),
    /// Say why tasks do not run, and what can be done about it
    Explain(commands::explain::ExplainArgs),
    /// Look for what is wrong between this machine and the coordinator
    Doctor(commands::doctor::DoctorArgs),
    /// Show settings and where each came from
    Config(commands::config::ConfigArgs),
    /// Print the script that completes commands, options and ids in a shell
    Completions(commands::completions::CompletionsArgs),
    /// Print the manual, or write its pages into a folder
    Man(commands::man::ManArgs),
}

impl Command {
    /// Whether it prints a table that may be longer than a screen, so that a terminal may show it through a pager.
    pub fn prints_long_table(&self) -> bool {
        let output = match self {
            Self::Status(args) => args.output,
            Self::List(args) => args.output,
            Self::Workers(args) => args.output,
            Self::Prefill(args) => args.output,
            _ => return false,
        };
        output.format() == Format::Table
    }
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct OutputArgs {
    /// How to print what is listed or shown
    #[arg(long, value_enum, env = "MUSTER_OUTPUT", value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// What `--output` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people
    Table,
    /// One JSON document: the API's messages
    Json,
    /// One line of JSON an item
    Jsonl,
    /// The status document of the original batch runner
    SeedJson,
    /// Nothing but errors: the exit code tells
    None,
}

impl OutputArgs {
    /// The format; a table unless told otherwise.
    pub fn format(self) -> Format {
        self.given().unwrap_or(Format::Table)
    }

    /// The format where one was given. Where nothing is to be printed, what is printed goes nowhere (see
    /// [`Command::prints_nothing`]), so any will do.
    pub fn given(self) -> Option<Format> {
        self.output.map(|output| match output {
            Output::Table | Output::None => Format::Table,
            Output::Json => Format::Json,
            Output::Jsonl => Format::Jsonl,
            Output::SeedJson => Format::SeedJson,
        })
    }
}

impl Command {
    /// Whether `--output none` was given: neither data nor talk, only errors and the exit code.
    pub fn prints_nothing(&self) -> bool {
        let output = match self {
            Self::Run(args) => args.output,
            Self::Submit(args) => args.output,
            Self::Prefill(args) => args.output,
            Self::Status(args) => args.output,
            Self::Watch(args) => args.output,
            Self::Cancel(args) => args.output,
            Self::Retry(args) => args.output,
            Self::Release(args) => args.output,
            Self::List(args) => args.output,
            Self::Workers(args) => args.output,
            Self::Drain(args) => args.output,
            Self::Resume(args) => args.output,
            Self::Limits(args) => args.output,
            Self::Explain(args) => args.output,
            Self::Doctor(args) => args.output,
            Self::Logs(_)
            | Self::Wait(_)
            | Self::Export(_)
            | Self::Config(_)
            | Self::Completions(_)
            | Self::Man(_) => return false,
        };
        output.output == Some(Output::None)
    }
}

/// The id that makes a call safe to repeat.
#[derive(Clone, Debug, Default, Args)]
pub struct RequestIdArgs {
    /// Makes the call safe to repeat: the same id with the same content does the same once [default: random]
    #[arg(long, env = "MUSTER_REQUEST_ID", value_name = "ID")]
    pub request_id: Option<String>,
}

impl RequestIdArgs {
    /// The id given, or a fresh one.
    pub fn get(&self) -> Result<String, Error> {
        match &self.request_id {
            Some(id) if !id.is_empty() => Ok(id.clone()),
            Some(_) | None => new_request_id(),
        }
    }
}

/// Whether the user has approved the size of a batch. Never from the environment.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct TaskCountApprovalArgs {
    /// Approve more tasks than the configured limit
    #[arg(long)]
    pub task_count_approved: bool,
}

/// What the user has approved of a run. Never from the environment.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ApprovalArgs {
    /// Approve a concurrency above the configured limit
    #[arg(long)]
    pub concurrency_approved: bool,
    #[command(flatten)]
    /// The size.
    pub task_count: TaskCountApprovalArgs,
}

/// The command line, as help and manual show it: the names of variables, never what is in them.
pub fn command() -> clap::Command {
    fn named(command: clap::Command) -> clap::Command {
        command.mut_args(|arg| arg.hide_env_values(true)).mut_subcommands(named)
    }
    named(<Cli as clap::CommandFactory>::command())
}

/// A command line that passes over variables that are set to nothing, as if they were not set.
pub fn without_empty_variables(
    command: clap::Command,
    variable: &impl Fn(&OsStr) -> Option<OsString>,
) -> clap::Command {
    let is_empty = |name: &OsStr| variable(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if arg.get_env().is_some_and(is_empty) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(|command| without_empty_variables(command, variable))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Options without an environment variable, each for its reason in the module's documentation.
    const NO_VARIABLE: [&str; 8] = [
        "help",
        "version",
        "concurrency-approved",
        "task-count-approved",
        "attempt",
        "output-dir",
        "resume",
        "abandon",
    ];

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_its_variable_except_approvals() {
        let root = Cli::command();
        for command in std::iter::once(&root).chain(root.get_subcommands()) {
            for option in command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg.get_env()))) {
                let (long, variable) = (option.0, option.1.map(|name| name.to_string_lossy().into_owned()));
                let expected = (!NO_VARIABLE.contains(&long))
                    .then(|| format!("MUSTER_{}", long.to_uppercase().replace('-', "_")));
                assert_eq!(variable, expected, "{} --{long}", command.get_name());
            }
        }
    }

    #[test]
    fn what_a_task_finds_in_its_environment_is_no_setting() {
        let root = Cli::command();
        for command in std::iter::once(&root).chain(root.get_subcommands()) {
            for variable in command.get_arguments().filter_map(clap::Arg::get_env) {
                let variable = variable.to_string_lossy();
                for taken in ["MUSTER_BATCH_ID", "MUSTER_TASK_INDEX", "MUSTER_ATTEMPT", "MUSTER_OUTPUT_DIR"] {
                    assert_ne!(variable, taken);
                }
            }
        }
    }

    #[test]
    fn flags_become_the_request() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[\"a cat\"]").unwrap();
        let path = file.path().display().to_string();
        let line =
            ["muster", "submit", &path, "--model", "m", "--concurrency", "-1", "--sync", "--request-id", "r"];
        let cli = Cli::try_parse_from(line).unwrap();
        let Command::Submit(args) = cli.command else { panic!("submit") };
        let io = crate::io::Io::new(Box::new(std::io::sink()), Box::new(std::io::sink()), false);
        let (request, _) = args.submission.request(&io).unwrap();
        assert_eq!(request.batch_json, "[\"a cat\"]");
        assert_eq!(request.request_id, "r");
        // Not checked here: the coordinator says what is wrong with it.
        assert_eq!(request.concurrency, Some(-1));
        assert!(!request.concurrency_approved && !request.task_count_approved && !request.validate_only);
        let defaults = request.defaults.unwrap();
        assert_eq!(
            (defaults.model.as_str(), defaults.sync, defaults.run_with_defaults),
            ("m", Some(true), None)
        );
    }

    #[test]
    fn tasks_are_counted_from_one() {
        assert!(Cli::try_parse_from(["muster", "cancel", "b", "0"]).is_err());
        assert!(Cli::try_parse_from(["muster", "cancel", "b", "1", "2"]).is_ok());
    }
}
