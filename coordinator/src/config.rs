//! What a coordinator is started with, and the command line that says it.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgAction, Parser, ValueEnum, builder::FalseyValueParser, value_parser};

use muster_proto::BatchId;

use crate::core::{policy::SystemLimits, retention::Retention};

/// Where a coordinator listens when nothing is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7070";
/// Where models are looked up when nothing is said.
pub const DEFAULT_CONTRACT_BASE_URL: &str = "https://api.bizyair.cn";
/// How long what was found is good for when nothing is said.
pub const DEFAULT_CONTRACT_CACHE_TTL: Duration = Duration::from_secs(300);

/// With less than this free on the disk no new work is taken, when nothing is said: 256 MiB.
pub const DEFAULT_MIN_FREE_BYTES: u64 = 256 << 20;

/// How long a worker may be away before its tasks are given up, when nothing is said: 1 h.
pub const DEFAULT_LOST_AFTER: Duration = Duration::from_secs(3_600);
/// How much of a task's output is kept when nothing is said: 64 MiB.
pub const DEFAULT_LOG_LIMIT: u64 = 64 << 20;

/// Bounds of `--lost-after`, in seconds: a session is held dead after 20 s, and 30 days is longer than any task.
const LOST_AFTER: std::ops::RangeInclusive<u64> = 30..=30 * 24 * 60 * 60;
/// The largest limit of a task's output, 16 GiB. A worker that says it has kept more is not believed.
pub(crate) const MAX_LOG_LIMIT: u64 = 16 << 30;
/// Bounds of `--log-limit`, in bytes: 64 KiB ride in a result.
const LOG_LIMIT: std::ops::RangeInclusive<u64> = 64 << 10..=MAX_LOG_LIMIT;
/// Longest time that what was found may be kept, in seconds: a week.
const MAX_CACHE_TTL: u64 = 7 * 24 * 60 * 60;

/// What a coordinator is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Listening beyond this machine is wanted, though calls are neither encrypted nor authenticated.
    pub insecure: bool,
    /// Where everything is kept; made where it is missing. Only one coordinator may use it.
    pub data_dir: PathBuf,
    /// The file with the configured limits, read at each submission.
    pub config_file: Option<PathBuf>,
    /// A catalogue instead of the built-in one, read at the start.
    pub catalog_file: Option<PathBuf>,
    /// Limits that no approval lifts.
    pub system: SystemLimits,
    /// The file with the key that API keys are encrypted under; beside the data directory when `None`, so
    /// that a copy of the data alone gives no key away.
    pub secrets_key_file: Option<PathBuf>,
    /// Where models are looked up for a prefill: `https://host[:port][/path]`. Plain HTTP only to this machine,
    /// unless `insecure`.
    pub contract_base_url: String,
    /// How long what was found about a model is good for; zero looks it up each time.
    pub contract_cache_ttl: Duration,
    /// What of ended batches is kept.
    pub retention: Retention,
    /// With less than so many bytes free on the disk of the data no new work is taken; 0: it always is.
    pub min_free_bytes: u64,
    /// How long a worker may be away before its tasks are given up.
    pub lost_after: Duration,
    /// How much of an attempt's output is kept, in bytes; what is past it is thrown away and counted.
    pub log_limit: u64,
    /// The id of the first batch that is submitted, where it has to be known before: an embedding program
    /// names folders after it. Any id when `None`, or when it is taken.
    pub first_batch: Option<BatchId>,
}

impl Config {
    /// A coordinator on this machine only, on a free port, with everything else as it is by default.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            insecure: false,
            data_dir: data_dir.into(),
            config_file: None,
            catalog_file: None,
            system: SystemLimits::default(),
            secrets_key_file: None,
            contract_base_url: DEFAULT_CONTRACT_BASE_URL.to_owned(),
            contract_cache_ttl: DEFAULT_CONTRACT_CACHE_TTL,
            retention: Retention::default(),
            min_free_bytes: DEFAULT_MIN_FREE_BYTES,
            lost_after: DEFAULT_LOST_AFTER,
            log_limit: DEFAULT_LOG_LIMIT,
            first_batch: None,
        }
    }

    /// The file that holds the key for API keys: `<data-dir>.key` unless another was given.
    pub fn key_file(&self) -> PathBuf {
        if let Some(file) = &self.secrets_key_file {
            return file.clone();
        }
        beside(&self.data_dir)
    }
}

/// `/var/lib/muster` gives `/var/lib/muster.key`. A directory without a name of its own (`.`, `..`, `/`) is
/// known by the name that it has in truth.
fn beside(dir: &Path) -> PathBuf {
    let whole = match dir.file_name() {
        Some(_) => dir.to_owned(),
        None => dir.canonicalize().unwrap_or_else(|_| dir.to_owned()),
    };
    let mut name = whole.file_name().unwrap_or_else(|| "muster".as_ref()).to_owned();
    name.push(".key");
    whole.with_file_name(name)
}

/// How log lines are written to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The coordinator of Muster: holds batches, enforces limits, hands tasks to workers.
///
/// Exit codes: 0 after SIGTERM or SIGINT; 1 when it cannot start; 2 for a command line that cannot be read; 74
/// when the disk failed and nothing more may be acknowledged.
#[derive(Debug, Parser)]
#[command(
    name = "muster-coordinator",
    version,
    after_help = "Other uses:
  muster-coordinator check --data-dir DIR          look whether data is whole
  muster-coordinator backup --data-dir DIR DEST    copy data while the coordinator runs"
)]
pub struct Args {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, env = "MUSTER_LISTEN", value_name = "HOST:PORT", default_value = DEFAULT_LISTEN,
        value_parser = address)]
    pub listen: SocketAddr,

    /// Allow to listen beyond this machine, without encryption or authentication.
    #[arg(long, env = "MUSTER_INSECURE", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub insecure: bool,

    /// Directory where everything is kept; made where it is missing.
    #[arg(long, env = "MUSTER_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// File with the configured limits (`batch.max_concurrency`, `batch.max_tasks`), read at each submission.
    #[arg(long, env = "MUSTER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Catalogue of models instead of the built-in one.
    #[arg(long, env = "MUSTER_CATALOG", value_name = "FILE")]
    pub catalog: Option<PathBuf>,

    /// Tasks of one batch that may run at once at most, whatever is approved.
    #[arg(long, env = "MUSTER_SYSTEM_MAX_CONCURRENCY", value_name = "N",
        default_value_t = SystemLimits::default().max_concurrency, value_parser = value_parser!(u32).range(1..))]
    pub system_max_concurrency: u32,

    /// Tasks that one batch may have at most, whatever is approved.
    #[arg(long, env = "MUSTER_SYSTEM_MAX_TASKS", value_name = "N",
        default_value_t = SystemLimits::default().max_tasks, value_parser = value_parser!(u32).range(1..))]
    pub system_max_tasks: u32,

    /// Where models are looked up for a prefill; plain http only to this machine, unless --insecure.
    #[arg(long, env = "MUSTER_CONTRACT_BASE_URL", value_name = "URL", default_value = DEFAULT_CONTRACT_BASE_URL)]
    pub contract_base_url: String,

    /// How long what was found about a model is good for, in seconds; 0 looks it up for every prefill.
    #[arg(long, env = "MUSTER_CONTRACT_CACHE_TTL", value_name = "SECONDS",
        default_value_t = DEFAULT_CONTRACT_CACHE_TTL.as_secs(), value_parser = value_parser!(u64).range(..=MAX_CACHE_TTL))]
    pub contract_cache_ttl: u64,

    /// How long a worker may be away, in seconds, before its tasks are given up as `worker_crashed`.
    #[arg(long, env = "MUSTER_LOST_AFTER", value_name = "SECONDS",
        default_value_t = DEFAULT_LOST_AFTER.as_secs(), value_parser = value_parser!(u64).range(LOST_AFTER))]
    pub lost_after: u64,

    /// How much of a task's output is kept, in bytes; what is past it is thrown away and counted.
    #[arg(long, env = "MUSTER_LOG_LIMIT", value_name = "BYTES",
        default_value_t = DEFAULT_LOG_LIMIT, value_parser = value_parser!(u64).range(LOG_LIMIT))]
    pub log_limit: u64,

    /// File with the key that API keys are encrypted under, made at the first start. Keep it apart from copies
    /// of the data. [default: the data directory's name with .key added, beside it]
    #[arg(long, env = "MUSTER_SECRETS_KEY_FILE", value_name = "FILE")]
    pub secrets_key_file: Option<PathBuf>,

    /// Remove batches that ended longer ago than so many days [default: keep everything]
    #[arg(long, env = "MUSTER_RETAIN_DAYS", value_name = "N")]
    pub retain_days: Option<u32>,

    /// Of ended batches keep so many, those that ended last [default: keep everything]
    #[arg(long, env = "MUSTER_RETAIN_BATCHES", value_name = "N")]
    pub retain_batches: Option<u64>,

    /// Of ended batches keep about so many bytes, output included, such as 20GiB [default: keep everything]
    #[arg(long, env = "MUSTER_RETAIN_BYTES", value_name = "BYTES", value_parser = bytes)]
    pub retain_bytes: Option<u64>,

    /// With less than this free on the disk no new work is taken; 0: it always is.
    #[arg(long, env = "MUSTER_MIN_FREE_BYTES", value_name = "BYTES", default_value = "256MiB",
        value_parser = bytes)]
    pub min_free_bytes: u64,

    /// How log lines are written to standard error.
    #[arg(long, env = "MUSTER_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Which log lines are written: error, warn, info, debug, trace, or a filter such as `info,h2=warn`.
    #[arg(long, env = "MUSTER_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

impl Args {
    /// What the coordinator is to be started with.
    pub fn config(&self) -> Config {
        Config {
            listen: self.listen,
            insecure: self.insecure,
            data_dir: self.data_dir.clone(),
            config_file: self.config.clone(),
            catalog_file: self.catalog.clone(),
            system: SystemLimits {
                max_concurrency: self.system_max_concurrency,
                max_tasks: self.system_max_tasks,
            },
            secrets_key_file: self.secrets_key_file.clone(),
            contract_base_url: self.contract_base_url.clone(),
            contract_cache_ttl: Duration::from_secs(self.contract_cache_ttl),
            retention: Retention {
                days: self.retain_days,
                batches: self.retain_batches,
                bytes: self.retain_bytes,
            },
            min_free_bytes: self.min_free_bytes,
            lost_after: Duration::from_secs(self.lost_after),
            log_limit: self.log_limit,
            first_batch: None,
        }
    }
}

/// What is done to data beside running a coordinator on it.
#[derive(Debug, Parser)]
#[command(name = "muster-coordinator", version)]
pub enum Tool {
    /// Look whether a data directory that no coordinator uses is whole: exit code 0, or 1 and what is wrong with it.
    Check {
        /// The directory.
        #[arg(long, env = "MUSTER_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Copy a data directory, whether or not a coordinator uses it; a coordinator that is started on the copy begins a
    /// new life, with unfinished batches on hold. The key file is not copied. Exit code 0: it is whole and on the
    /// disk; 1: refused; 74: reading or writing failed.
    Backup {
        /// The directory.
        #[arg(long, env = "MUSTER_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
        /// Where to: a directory that is empty, or not there.
        dest: PathBuf,
    },
}

impl Tool {
    /// The first words that say that a tool is wanted, and not a start.
    pub const NAMES: [&str; 2] = ["check", "backup"];
}

/// A number of bytes, with or without a unit.
fn bytes(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        _ => return Err("a unit is one of KiB, MiB, GiB, TiB".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "is no number of bytes, such as 512MiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "is more than there can be".to_owned())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let resolved =
        text.to_socket_addrs().map_err(|error| format!("{error}; give an address and a port"))?.next();
    resolved.ok_or_else(|| "the host has no address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(more: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["muster-coordinator", "--data-dir", "/data"].iter().chain(more))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
        Tool::command().debug_assert();
        let names: Vec<_> =
            Tool::command().get_subcommands().map(|tool| tool.get_name().to_owned()).collect();
        assert_eq!(names, Tool::NAMES);
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config = args(&[]).unwrap().config();
        assert_eq!(config.listen.to_string(), "127.0.0.1:7070");
        assert_eq!((config.system.max_concurrency, config.system.max_tasks), (5, 10));
        assert!(!config.insecure);
        assert_eq!(config.key_file(), PathBuf::from("/data.key"));
    }

    #[test]
    fn everything_is_kept_unless_told_otherwise() {
        let config = args(&[]).unwrap().config();
        assert!(config.retention.keeps_all());
        assert_eq!(config.min_free_bytes, DEFAULT_MIN_FREE_BYTES);
        let config =
            args(&["--retain-bytes", "20GiB", "--retain-days=7", "--min-free-bytes=0"]).unwrap().config();
        assert_eq!((config.retention.bytes, config.retention.days), (Some(20 << 30), Some(7)));
        assert_eq!(config.min_free_bytes, 0);
        for bad in ["20GB", "GiB", "", "-1", "99999999TiB", "1.5GiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_begin_at_one() {
        assert!(args(&["--system-max-concurrency", "0"]).is_err());
        assert!(args(&["--system-max-tasks", "-1"]).is_err());
        assert!(args(&["--system-max-tasks", "1000000"]).is_ok());
    }

    #[test]
    fn the_key_file_is_outside_the_data_directory() {
        for (dir, key) in
            [("a/b", "a/b.key"), ("a/b/", "a/b.key"), ("data.d", "data.d.key"), ("/", "/muster.key")]
        {
            assert_eq!(Config::new(dir).key_file(), PathBuf::from(key), "{dir}");
        }
        let here = std::env::current_dir().unwrap();
        assert!(!Config::new(".").key_file().starts_with(here));
        let mut config = Config::new("a");
        config.secrets_key_file = Some("/k".into());
        assert_eq!(config.key_file(), PathBuf::from("/k"));
    }
}
