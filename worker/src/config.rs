//! What a worker is told at its start: flags, environment, and what they become.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use nix::unistd::{AccessFlags, access};
use tonic::transport::Uri;

use crate::link::SILENCE;
use crate::telemetry::{LogFormat, LogLevel};

/// Slots of one worker at most.
pub const MAX_SLOTS: u32 = 1024;
/// Labels of one worker at most.
pub const MAX_LABELS: usize = 64;
/// Characters of a name at most.
pub const MAX_NAME: usize = 64;

const HELP: &str = "\
The first SIGTERM or SIGINT drains: nothing new is taken, and the worker ends when what it runs has ended. The \
second one ends the tasks: SIGTERM, 10 seconds, SIGKILL. SIGUSR1 ends the worker and leaves the tasks running, for \
the next worker of the work directory (an upgrade) to take over.

Exit codes: 0 drained or stopped, every result with the coordinator; 1 failed; 2 bad settings, a work directory \
that is in use, or refused by the coordinator. An unreachable coordinator is tried for ever.";

/// Pulls tasks from a coordinator and runs them with a program of this machine.
#[derive(Clone, Debug, Parser)]
#[command(name = "muster-worker", version, after_help = HELP)]
pub struct Cli {
    /// The coordinator's address.
    #[arg(
        long,
        env = "MUSTER_COORDINATOR",
        value_name = "http://HOST:PORT",
        default_value = "http://127.0.0.1:7070"
    )]
    pub coordinator: String,

    /// The program that runs a task, and its first arguments, split into words as a shell would and never run by
    /// one. A relative path is relative to where the worker is started; a bare name is looked up in PATH.
    #[arg(long, env = "MUSTER_DISPATCH", value_name = "CMD ARG...")]
    pub dispatch: String,

    /// Name of this worker, unique among those connected: letters, digits, dot, dash, underscore [default: the
    /// host's name and 4 characters of the work directory's id]
    #[arg(long, env = "MUSTER_NAME")]
    pub name: Option<String>,

    /// How many tasks run here at once, 1 to 1024 [default: the number of cores]
    #[arg(long, env = "MUSTER_SLOTS", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SLOTS)))]
    pub slots: Option<u32>,

    /// Where the worker keeps its state and the outputs [default: the first free
    /// $XDG_STATE_HOME/muster/worker-<n>, or ~/.local/state/muster/worker-<n>]
    #[arg(long, env = "MUSTER_WORK_DIR", value_name = "DIR")]
    pub work_dir: Option<PathBuf>,

    /// A label of this worker; may be given more than once, or separated by commas.
    #[arg(long = "label", env = "MUSTER_LABEL", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,

    /// A further directory that tasks may write their outputs to; may be given more than once, or separated by
    /// colons.
    #[arg(long = "output-root", env = "MUSTER_OUTPUT_ROOT", value_name = "DIR", value_delimiter = ':')]
    pub output_roots: Vec<PathBuf>,

    /// How the log on standard error looks.
    #[arg(long, env = "MUSTER_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// From which level on something is logged.
    #[arg(long, env = "MUSTER_LOG_LEVEL", value_enum, default_value_t)]
    pub log_level: LogLevel,
}

/// A worker's settings. Made from flags by [`Cli::into_config`], or by who embeds a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `http://HOST:PORT`.
    pub coordinator: String,
    /// The program and its first arguments; see [`Cli::dispatch`] for how the program is found.
    pub dispatch: Vec<String>,
    /// The name; by default the host's and 4 characters of the instance id.
    pub name: Option<String>,
    /// Tasks at once, 1 to [`MAX_SLOTS`].
    pub slots: u32,
    /// The work directory; by default the first free one of the user's.
    pub work_dir: Option<PathBuf>,
    /// At most [`MAX_LABELS`].
    pub labels: BTreeMap<String, String>,
    /// Further directories for outputs.
    pub output_roots: Vec<PathBuf>,
    /// Let a task name any output path.
    pub allow_any_output: bool,
    /// The binary to start as the runner.
    pub runner_exe: PathBuf,
    /// Arguments of that binary before [`RUNNER_ARG`](crate::runner::RUNNER_ARG).
    pub runner_args: Vec<std::ffi::OsString>,
    /// End the tasks when this process is gone, instead of keeping them for the next one.
    pub die_with_parent: bool,
    /// Nothing new is taken when the runner has not answered for so long.
    pub runner_silence: Duration,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not an address of a coordinator.
    #[error("--coordinator {0:?} is not of the form http://HOST:PORT")]
    Coordinator(String),
    /// The words of `--dispatch` are not well quoted.
    #[error("--dispatch {0:?} has a quote that is not closed")]
    Quote(String),
    /// No program.
    #[error("--dispatch names no program")]
    NoProgram,
    /// No such program, or not one that can be run.
    #[error("--dispatch {0:?}: there is no such program that can be run; give its path, or a name in PATH")]
    NotRunnable(String),
    /// Not a name.
    #[error("--name {0:?} must be 1 to {MAX_NAME} letters, digits, dots, dashes or underscores")]
    Name(String),
    /// Out of range.
    #[error("--slots {0} must be from 1 to {MAX_SLOTS}")]
    Slots(u32),
    /// More than there are files for.
    #[error(transparent)]
    Files(#[from] crate::runner::TooManySlots),
    /// Too many.
    #[error("{0} labels are given, at most {MAX_LABELS} are possible")]
    Labels(usize),
    /// A path cannot be made absolute, or the binary's own path is not known.
    #[error("cannot find out where {what} is: {source}")]
    Path {
        /// Of what.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Cli {
    /// The settings that the flags ask for.
    ///
    /// # Errors
    /// A flag's value cannot be used.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let dispatch =
            shell_words::split(&self.dispatch).map_err(|_| ConfigError::Quote(self.dispatch.clone()))?;
        let runner_exe = std::env::current_exe()
            .map_err(|source| ConfigError::Path { what: "this program".into(), source })?;
        let config = Config {
            coordinator: self.coordinator,
            dispatch,
            name: self.name,
            slots: self.slots.unwrap_or_else(default_slots),
            work_dir: self.work_dir,
            labels: self.labels.into_iter().collect(),
            output_roots: self.output_roots,
            allow_any_output: false,
            runner_exe,
            runner_args: Vec::new(),
            die_with_parent: false,
            runner_silence: SILENCE,
        };
        config.check()?;
        Ok(config)
    }
}

impl Config {
    /// Settings for a worker of `coordinator` that runs `dispatch`, with the defaults otherwise.
    pub fn new(coordinator: impl Into<String>, dispatch: Vec<String>, runner_exe: PathBuf) -> Self {
        Self {
            coordinator: coordinator.into(),
            dispatch,
            name: None,
            slots: default_slots(),
            work_dir: None,
            labels: BTreeMap::new(),
            output_roots: Vec::new(),
            allow_any_output: false,
            runner_exe,
            runner_args: Vec::new(),
            die_with_parent: false,
            runner_silence: SILENCE,
        }
    }

    /// Settings for a worker inside another program, on its user's own machine: tasks may write where they
    /// like, and end with the program.
    ///
    /// # Errors
    /// `dispatch` cannot be split into words, or its program cannot be found; or this program's own path.
    pub fn embedded(
        coordinator: String,
        dispatch: &str,
        slots: Option<u32>,
        work_dir: PathBuf,
    ) -> Result<Self, ConfigError> {
        let words = runnable_words(dispatch)?;
        let runner_exe = std::env::current_exe()
            .map_err(|source| ConfigError::Path { what: "this program".into(), source })?;
        Ok(Self {
            slots: slots.unwrap_or_else(default_slots),
            work_dir: Some(work_dir),
            allow_any_output: true,
            die_with_parent: true,
            ..Self::new(coordinator, words, runner_exe)
        })
    }

    /// Whether everything can be used.
    ///
    /// # Errors
    /// The first setting that cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        coordinator_address(&self.coordinator)?;
        if self.dispatch.first().is_none_or(String::is_empty) {
            return Err(ConfigError::NoProgram);
        }
        if let Some(name) = self.name.as_ref().filter(|name| !is_name(name)) {
            return Err(ConfigError::Name(name.clone()));
        }
        if !(1..=MAX_SLOTS).contains(&self.slots) {
            return Err(ConfigError::Slots(self.slots));
        }
        if self.labels.len() > MAX_LABELS {
            return Err(ConfigError::Labels(self.labels.len()));
        }
        Ok(())
    }
}

/// The words of a `--dispatch` whose program can be run here, as far as can be told now.
///
/// # Errors
/// A quote is not closed, there is no program, or it cannot be found or run.
pub fn runnable_words(dispatch: &str) -> Result<Vec<String>, ConfigError> {
    let words = shell_words::split(dispatch).map_err(|_| ConfigError::Quote(dispatch.to_owned()))?;
    let program = absolute_program(words.first().ok_or(ConfigError::NoProgram)?)?;
    if is_runnable(&program) { Ok(words) } else { Err(ConfigError::NotRunnable(dispatch.to_owned())) }
}

/// `HOST:PORT` of a coordinator's URL.
///
/// # Errors
/// It is not of the form `http://HOST:PORT`.
pub(crate) fn coordinator_address(url: &str) -> Result<String, ConfigError> {
    let bad = || ConfigError::Coordinator(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| bad())?;
    match (uri.scheme_str(), uri.authority(), uri.path()) {
        (Some("http"), Some(authority), "" | "/") if authority.port().is_some() => Ok(authority.to_string()),
        _ => Err(bad()),
    }
}

/// The name of a worker that was given none.
pub(crate) fn default_name(instance_id: &str) -> String {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let suffix = &instance_id[..instance_id.len().min(4)];
    let kept = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
    let host: String = host.chars().filter(kept).take(MAX_NAME - suffix.len() - 1).collect();
    format!("{}-{suffix}", if host.is_empty() { "worker" } else { &host })
}

/// A program with a slash in it, made absolute; a bare name as it is.
pub(crate) fn absolute_program(program: &str) -> Result<PathBuf, ConfigError> {
    if !program.contains('/') {
        return Ok(program.into());
    }
    std::path::absolute(program).map_err(|source| ConfigError::Path { what: format!("{program:?}"), source })
}

/// Whether a program can be run, as far as can be told now.
pub(crate) fn is_runnable(program: &Path) -> bool {
    let good = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        return good(program);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| good(&dir.join(program)))
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

fn default_slots() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(MAX_SLOTS).min(MAX_SLOTS)
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args = [&["muster-worker"], args].concat();
        let cli = Cli::try_parse_from(args).map_err(|error| error.to_string())?;
        cli.into_config().map_err(|error| error.to_string())
    }

    #[test]
    fn flags_become_settings() {
        let config = parse(&[
            "--coordinator=http://h:7070",
            "--dispatch=bin/gen --mode 'a b' \"c\"",
            "--name=gpu-1",
            "--slots=3",
            "--label=gpu=a100,zone=x",
            "--label=k=",
            "--output-root=/a:/b",
        ])
        .unwrap();
        assert_eq!(config.dispatch, ["bin/gen", "--mode", "a b", "c"]);
        assert_eq!((config.slots, config.name.as_deref()), (3, Some("gpu-1")));
        let labels = [("gpu", "a100"), ("k", ""), ("zone", "x")];
        assert_eq!(config.labels, labels.map(|(key, value)| (key.into(), value.into())).into());
        assert_eq!(config.output_roots, ["/a", "/b"].map(PathBuf::from));
        assert!(!config.allow_any_output && !config.die_with_parent);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (bad, said) in [
            (&["--dispatch=a 'b"][..], "quote"),
            (&["--dispatch="], "no program"),
            (&["--dispatch=a", "--slots=0"], "1..=1024"),
            (&["--dispatch=a", "--name=a b"], "--name"),
            (&["--dispatch=a", "--label=x"], "KEY=VALUE"),
            (&["--dispatch=a", "--coordinator=h:7070"], "http://"),
            (&["--dispatch=a", "--coordinator=http://h"], "http://"),
            (&[], "--dispatch"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(said), "{bad:?}: {error}");
        }
    }

    #[test]
    fn no_variable_of_a_task_is_a_setting() {
        let command = <Cli as clap::CommandFactory>::command();
        let names: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
        assert!(names.contains(&"MUSTER_DISPATCH"));
        for taken in ["MUSTER_BATCH_ID", "MUSTER_TASK_INDEX", "MUSTER_ATTEMPT", "MUSTER_OUTPUT_DIR"] {
            assert!(!names.contains(&taken), "{taken}");
        }
    }

    #[test]
    fn a_default_name_is_a_name() {
        assert!(is_name(&default_name("0123456789abcdef0123456789abcdef")));
    }
}
