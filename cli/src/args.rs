//! The command line. Each command's own arguments stand in its file; here is what they share.
//!
//! Every option has an environment variable `MUSTER_<OPTION>`, with exceptions that a test keeps: approvals (and
//! `--resume`/`--abandon`, which decide about money all the same) come only from the command line, and what a
//! task finds in its own environment (`MUSTER_BATCH_ID MUSTER_TASK_INDEX MUSTER_ATTEMPT MUSTER_OUTPUT_DIR`) is
//! never read, so that a task may call `muster` itself.

use std::{env::VarError, path::PathBuf};

use clap::{Args, Parser, Subcommand, builder::FalseyValueParser};
use muster_proto::v1::{SubmitBatchRequest, TaskDefaults};

use crate::{client::new_request_id, commands, error::Error, output::Format};

/// Where a coordinator listens unless told otherwise.
pub const DEFAULT_COORDINATOR: &str = "http://127.0.0.1:7070";
/// The largest payload that is read from a file.
pub const MAX_PAYLOAD_BYTES: u64 = 16 << 20;
/// The largest key file that is read.
const MAX_KEY_BYTES: u64 = 64 << 10;

/// Run batches of costly command-line jobs on a fleet of machines.
#[derive(Debug, Parser)]
#[command(
    name = "muster",
    version,
    after_help = "Examples:
  muster run batch.json --dispatch ./dispatch      everything on this machine, nothing else to start
  muster submit batch.json --watch                 on a coordinator that runs already
  muster status BATCH --output json
  muster logs BATCH 3 --follow

Exit codes: 0 all tasks completed (or done as asked); 1 some did not; 2 rejected (limits, bad input);
3 coordinator unreachable or gone; 130 interrupted."
)]
pub struct Cli {
    /// Address of the coordinator
    #[arg(long, global = true, env = "MUSTER_COORDINATOR", default_value = DEFAULT_COORDINATOR, value_name = "URL")]
    pub coordinator: String,
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
    /// Show a batch and its tasks
    Status(commands::status::StatusArgs),
    /// Follow a batch until it has ended
    Watch(commands::watch::WatchArgs),
    /// Show what tasks print
    Logs(commands::logs::LogsArgs),
    /// End tasks of a batch, or all of it
    Cancel(commands::cancel::CancelArgs),
    /// Run failed or cancelled tasks again
    Retry(commands::retry::RetryArgs),
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
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct OutputArgs {
    /// How to print what is listed or shown
    #[arg(long, value_enum, env = "MUSTER_OUTPUT", value_name = "FORMAT")]
    pub output: Option<Format>,
}

impl OutputArgs {
    /// The format; a table unless told otherwise.
    pub fn format(self) -> Format {
        self.output.unwrap_or(Format::Table)
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

/// What the user has approved. Never from the environment.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ApprovalArgs {
    /// Approve a concurrency above the configured limit
    #[arg(long)]
    pub concurrency_approved: bool,
    /// Approve more tasks than the configured limit
    #[arg(long)]
    pub task_count_approved: bool,
}

/// The key that tasks run with.
#[derive(Clone, Debug, Default, Args)]
pub struct KeyArgs {
    /// File with the key that tasks find as BIZYAIR_API_KEY [default: the variable BIZYAIR_API_KEY]
    #[arg(long, env = "MUSTER_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
}

impl KeyArgs {
    /// The key, empty where none is given. Never printed.
    pub fn read(&self) -> Result<String, Error> {
        let Some(path) = &self.api_key_file else {
            return match std::env::var("BIZYAIR_API_KEY") {
                Ok(key) => Ok(key),
                Err(VarError::NotPresent) => Ok(String::new()),
                // The error would show it.
                Err(VarError::NotUnicode(_)) => {
                    Err(Error::Usage("BIZYAIR_API_KEY: the key is not UTF-8 text".to_owned()))
                }
            };
        };
        let text = read_text(&path.display().to_string(), MAX_KEY_BYTES)?;
        match text.trim() {
            "" => Err(Error::Usage(format!("{}: the key file is empty", path.display()))),
            key => Ok(key.to_owned()),
        }
    }
}

/// The payload and what applies to it, for `submit` and `run`.
#[derive(Clone, Debug, Default, Args)]
pub struct PayloadArgs {
    /// Model of tasks that name none
    #[arg(long, env = "MUSTER_MODEL")]
    pub model: Option<String>,
    /// Scene of tasks that name none
    #[arg(long, env = "MUSTER_SCENE")]
    pub scene: Option<String>,
    /// Kind of task, which picks a model, for tasks that name none
    #[arg(long, env = "MUSTER_TASK")]
    pub task: Option<String>,
    /// How many tasks may run at once; wins over the payload's own
    #[arg(long, env = "MUSTER_CONCURRENCY", value_name = "N", allow_negative_numbers = true)]
    pub concurrency: Option<i32>,
    #[command(flatten)]
    /// Approvals.
    pub approvals: ApprovalArgs,
    /// Run tasks with their model's defaults, unless they say otherwise
    #[arg(long, env = "MUSTER_RUN_WITH_DEFAULTS", value_parser = FalseyValueParser::new())]
    pub run_with_defaults: bool,
    /// Wait for the result inside the program, unless tasks say otherwise
    #[arg(long, env = "MUSTER_SYNC", value_parser = FalseyValueParser::new())]
    pub sync: bool,
    #[command(flatten)]
    /// The request's id.
    pub request_id: RequestIdArgs,
    /// Check and plan everything, run nothing
    #[arg(long, env = "MUSTER_VALIDATE_ONLY", value_parser = FalseyValueParser::new())]
    pub validate_only: bool,
    #[command(flatten)]
    /// The key.
    pub key: KeyArgs,
}

impl PayloadArgs {
    /// The request for the payload in `file` (`-` for standard input). Limits and fields are the coordinator's to
    /// check; only what cannot be sent at all is refused here.
    pub fn request(&self, file: &str) -> Result<SubmitBatchRequest, Error> {
        let batch_json = read_text(file, MAX_PAYLOAD_BYTES)?;
        if batch_json.trim().is_empty() {
            return Err(Error::Usage(format!("{file}: the payload is empty; give a JSON array of tasks")));
        }
        Ok(SubmitBatchRequest {
            batch_json,
            tasks: Vec::new(),
            defaults: Some(TaskDefaults {
                model: self.model.clone().unwrap_or_default(),
                scene: self.scene.clone().unwrap_or_default(),
                task: self.task.clone().unwrap_or_default(),
                run_with_defaults: self.run_with_defaults.then_some(true),
                sync: self.sync.then_some(true),
            }),
            concurrency: self.concurrency,
            concurrency_approved: self.approvals.concurrency_approved,
            task_count_approved: self.approvals.task_count_approved,
            request_id: self.request_id.get()?,
            validate_only: self.validate_only,
            api_key: self.key.read()?,
            cards_markdown: String::new(),
        })
    }
}

/// Reads a file, or standard input for `-`, of at most `limit` bytes of UTF-8.
fn read_text(path: &str, limit: u64) -> Result<String, Error> {
    use std::io::{Error as IoError, ErrorKind, Read};
    let failed = |source: IoError| Error::Read { path: path.to_owned(), source };
    let reader: Box<dyn Read> = if path == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(Error::Usage(format!("{path}: larger than the limit of {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| failed(IoError::new(ErrorKind::InvalidData, "not UTF-8 text")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Options without an environment variable, each for its reason in the module's documentation.
    const NO_VARIABLE: [&str; 7] =
        ["help", "version", "concurrency-approved", "task-count-approved", "attempt", "resume", "abandon"];

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
        let request = args.payload.request(&args.file).unwrap();
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
    fn a_payload_that_cannot_be_sent_is_refused_with_the_reason() {
        let args = PayloadArgs::default();
        assert!(matches!(args.request("no/such/file"), Err(Error::Read { .. })));
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        assert!(matches!(args.request(&path), Err(Error::Usage(text)) if text.contains("empty")));
        file.as_file().set_len(MAX_PAYLOAD_BYTES + 1).unwrap();
        assert!(matches!(args.request(&path), Err(Error::Usage(text)) if text.contains("16777216")));
        std::fs::write(file.path(), b"[\"\xff\"]").unwrap();
        assert!(matches!(args.request(&path), Err(Error::Read { .. })));
    }

    #[test]
    fn a_key_comes_from_its_file_without_the_line_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "sk-1\n").unwrap();
        let key = KeyArgs { api_key_file: Some(file.path().to_owned()) };
        assert_eq!(key.read().unwrap(), "sk-1");
        std::fs::write(file.path(), "\n").unwrap();
        assert!(matches!(key.read(), Err(Error::Usage(_))));
    }

    #[test]
    fn tasks_are_counted_from_one() {
        assert!(Cli::try_parse_from(["muster", "cancel", "b", "0"]).is_err());
        assert!(Cli::try_parse_from(["muster", "cancel", "b", "1", "2"]).is_ok());
    }
}
