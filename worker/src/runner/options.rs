//! How a runner is started: the arguments that the launcher writes and the re-executed binary reads.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The first argument of a binary that is to be the runner.
pub const RUNNER_ARG: &str = "__runner";

/// What the half decides about its runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerOptions {
    /// Exit after this long without a running task or a connected half. Results that are held stay in the journal.
    pub idle_exit: Duration,
    /// From TERM to KILL where the half did not say: on SIGTERM, when the parent is gone, and for a task whose
    /// output cannot be kept.
    pub grace: Duration,
    /// End the tasks and exit when the half that started the runner is gone, as `muster run` wants it.
    pub die_with_parent: bool,
    /// Only for tests: be of this version of the protocol, not of [`VERSION`](super::protocol::VERSION).
    pub version: Option<u32>,
}

impl Default for RunnerOptions {
    fn default() -> Self {
        Self {
            idle_exit: Duration::from_secs(60),
            grace: Duration::from_secs(10),
            die_with_parent: false,
            version: None,
        }
    }
}

/// The arguments of a runner are wrong: the binary that started it is of another version.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// An argument that this version does not know.
    #[error("the runner does not know the argument {0:?}")]
    Unknown(OsString),
    /// An argument without its value, or with one that is not a number.
    #[error("the runner's argument {0} needs a value")]
    Value(&'static str),
}

impl RunnerOptions {
    /// The arguments for a runner of this work directory, [`RUNNER_ARG`] first.
    pub fn to_args(&self, work_dir: &std::path::Path) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec![RUNNER_ARG.into(), "--work-dir".into(), work_dir.into()];
        args.extend(["--idle-exit-ms".into(), self.idle_exit.as_millis().to_string().into()]);
        args.extend(["--grace-ms".into(), self.grace.as_millis().to_string().into()]);
        if self.die_with_parent {
            args.push("--die-with-parent".into());
        }
        if let Some(version) = self.version {
            args.extend(["--version-for-tests".into(), version.to_string().into()]);
        }
        args
    }

    /// The work directory and the options from the arguments that follow [`RUNNER_ARG`].
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<(PathBuf, Self), OptionsError> {
        let mut options = Self::default();
        let mut work_dir = None;
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--work-dir") => work_dir = args.next().map(PathBuf::from),
                Some("--idle-exit-ms") => options.idle_exit = millis("--idle-exit-ms", args.next())?,
                Some("--grace-ms") => options.grace = millis("--grace-ms", args.next())?,
                Some("--die-with-parent") => options.die_with_parent = true,
                Some("--version-for-tests") => {
                    options.version = Some(number("--version-for-tests", args.next())?);
                }
                _ => return Err(OptionsError::Unknown(arg)),
            }
        }
        Ok((work_dir.ok_or(OptionsError::Value("--work-dir"))?, options))
    }
}

fn millis(name: &'static str, value: Option<OsString>) -> Result<Duration, OptionsError> {
    number(name, value).map(Duration::from_millis)
}

fn number<T: FromStr>(name: &'static str, value: Option<OsString>) -> Result<T, OptionsError> {
    let value = value.as_deref().and_then(OsStr::to_str).and_then(|text| text.parse().ok());
    value.ok_or(OptionsError::Value(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn arguments_say_the_options() {
        let options = RunnerOptions {
            idle_exit: Duration::from_millis(5),
            grace: Duration::ZERO,
            die_with_parent: true,
            version: Some(9),
        };
        let mut args = options.to_args(Path::new("/w")).into_iter();
        assert_eq!(args.next(), Some(RUNNER_ARG.into()));
        assert_eq!(RunnerOptions::from_args(args).unwrap(), ("/w".into(), options));
        assert!(RunnerOptions::from_args(["--work-dir".into()]).is_err());
        assert!(RunnerOptions::from_args(["--new".into()]).is_err());
    }
}
