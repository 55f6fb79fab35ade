//! How a batch is to be carried out, as options of a command.
//!
//! What it does not do: hold the values to their bounds, which are the coordinator's to check.

use clap::{Args, ValueEnum};
use muster_coordinator::core::options::read_time;
use muster_proto::v1::{self, BatchOptions, RetryPolicy};
use prost_types::Duration;

use crate::error::Error;

/// Where help has them; for each, since a heading for all would go on over what comes after them.
const HEADING: &str = "How the batch is carried out (wins over the payload's own)";

/// Limits of time, retries, when to give up. What is not given is left to the payload.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct OptionArgs {
    /// End a task that runs longer: it fails as timed_out (90s, 5m, 2h)
    #[arg(help_heading = HEADING, long, env = "MUSTER_TIME_LIMIT", value_name = "TIME", value_parser = time)]
    pub time_limit: Option<Duration>,
    /// Fail a task that has waited longer for its first start
    #[arg(
        help_heading = HEADING, long, env = "MUSTER_QUEUE_TIME_LIMIT", value_name = "TIME",
        value_parser = time
    )]
    pub queue_time_limit: Option<Duration>,
    /// Between SIGTERM and SIGKILL when a task is ended; 10s where nothing is said
    #[arg(
        help_heading = HEADING, long, env = "MUSTER_CANCEL_GRACE", value_name = "TIME", value_parser = time
    )]
    pub cancel_grace: Option<Duration>,
    /// Run a failed task again, so many times at most; each run may cost money
    #[arg(
        help_heading = HEADING, long, env = "MUSTER_RETRIES", value_name = "N",
        value_parser = clap::value_parser!(i32).range(0..100)
    )]
    pub retries: Option<i32>,
    /// What is run again: exit_code, an exit code, signal, timed_out, worker_crashed
    #[arg(
        help_heading = HEADING, long, env = "MUSTER_RETRY_ON", value_name = "END,…", value_delimiter = ',',
        requires = "retries"
    )]
    pub retry_on: Vec<String>,
    /// Wait before the first retry, twice as long before each further one; 10s where nothing is said
    #[arg(
        help_heading = HEADING, long, env = "MUSTER_RETRY_BACKOFF", value_name = "TIME",
        value_parser = time, requires = "retries"
    )]
    pub retry_backoff: Option<Duration>,
    /// Give the batch up once so many tasks have failed: what waits is cancelled, what runs goes on
    #[arg(help_heading = HEADING, long, env = "MUSTER_MAX_FAILURES", value_name = "N")]
    pub max_failures: Option<i32>,
    /// What a worker does with its tasks while it is cut off from the coordinator
    #[arg(help_heading = HEADING, long, env = "MUSTER_ON_DISCONNECT", value_name = "WHAT")]
    pub on_disconnect: Option<OnDisconnect>,
}

/// What a worker does that is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnDisconnect {
    /// They run on
    Continue,
    /// It ends them before the coordinator gives them up
    Stop,
}

impl OptionArgs {
    /// As a request has it; `None` where nothing was given.
    ///
    /// # Errors
    /// Retries without what is to be retried.
    pub fn get(&self) -> Result<Option<BatchOptions>, Error> {
        if *self == Self::default() {
            return Ok(None);
        }
        if self.retries.is_some_and(|retries| retries > 0) && self.retry_on.is_empty() {
            let text = "--retries needs --retry-on, since each run may cost money: exit_code, an exit code, signal, \
                        timed_out or worker_crashed, with commas between";
            return Err(Error::Usage(text.to_owned()));
        }
        let retry = self.retries.map(|retries| RetryPolicy {
            max_attempts: retries + 1,
            on: self.retry_on.clone(),
            backoff: self.retry_backoff,
            max_backoff: None,
        });
        let on_disconnect = match self.on_disconnect {
            None => v1::OnDisconnect::Unspecified,
            Some(OnDisconnect::Continue) => v1::OnDisconnect::Continue,
            Some(OnDisconnect::Stop) => v1::OnDisconnect::Stop,
        };
        Ok(Some(BatchOptions {
            time_limit: self.time_limit,
            queue_time_limit: self.queue_time_limit,
            cancel_grace: self.cancel_grace,
            retry,
            max_failures: self.max_failures,
            on_disconnect: on_disconnect.into(),
        }))
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let ms = read_time(text).and_then(|ms| i64::try_from(ms).ok());
    let ms = ms.ok_or_else(|| "no time; give 90s, 5m, 2h, 1d or a number of seconds".to_owned())?;
    // A remainder of 1,000 always fits.
    let nanos = i32::try_from(ms % 1_000).unwrap_or(0) * 1_000_000;
    Ok(Duration { seconds: ms / 1_000, nanos })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: OptionArgs,
    }

    fn read(line: &[&str]) -> Option<BatchOptions> {
        Line::parse_from([&["muster"], line].concat()).options.get().unwrap()
    }

    #[test]
    fn nothing_given_is_nothing_asked_for() {
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn retries_are_attempts_after_the_first() {
        let line =
            ["--retries", "2", "--retry-on", "75,signal", "--retry-backoff", "1.5s", "--time-limit", "5m"];
        let options = read(&line).unwrap();
        assert_eq!(options.time_limit, Some(Duration { seconds: 300, nanos: 0 }));
        let retry = options.retry.unwrap();
        assert_eq!((retry.max_attempts, retry.on), (3, vec!["75".to_owned(), "signal".to_owned()]));
        assert_eq!(retry.backoff, Some(Duration { seconds: 1, nanos: 500_000_000 }));
        // None at all: also where the payload asks for some.
        assert_eq!(read(&["--retries", "0"]).unwrap().retry.unwrap().max_attempts, 1);
    }

    #[test]
    fn every_end_that_is_run_again_has_to_be_named() {
        let options = Line::parse_from(["muster", "--retries", "1"]).options;
        assert!(matches!(options.get(), Err(Error::Usage(text)) if text.contains("--retry-on")));
        for line in [&["--retry-on", "signal"][..], &["--time-limit", "soon"], &["--on-disconnect", "halt"]] {
            assert!(Line::try_parse_from([&["muster"], line].concat()).is_err(), "{line:?}");
        }
    }
}
