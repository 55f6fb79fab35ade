//! How a batch is carried out, as users see it.

use muster_proto::v1;
use prost_types::Duration;

use crate::core::options::{BatchOptions, OnDisconnect, RetryOn, RetryPolicy};

pub(crate) fn batch(options: &BatchOptions) -> v1::BatchOptions {
    v1::BatchOptions {
        time_limit: options.time_limit_ms.map(duration),
        queue_time_limit: options.queue_time_limit_ms.map(duration),
        cancel_grace: options.cancel_grace_ms.map(u64::from).map(duration),
        retry: options.retry.as_ref().map(retry),
        max_failures: options.max_failures.map(super::count),
        on_disconnect: match options.on_disconnect {
            None => v1::OnDisconnect::Unspecified,
            Some(OnDisconnect::Continue) => v1::OnDisconnect::Continue,
            Some(OnDisconnect::Stop) => v1::OnDisconnect::Stop,
        }
        .into(),
    }
}

pub(crate) fn retry(policy: &RetryPolicy) -> v1::RetryPolicy {
    v1::RetryPolicy {
        max_attempts: super::count(policy.max_attempts),
        on: policy.on.iter().map(|on| reason(*on)).collect(),
        backoff: Some(duration(policy.backoff_ms)),
        max_backoff: Some(duration(policy.max_backoff_ms)),
    }
}

fn reason(on: RetryOn) -> String {
    match on {
        RetryOn::ExitCode => "exit_code".to_owned(),
        RetryOn::Code(code) => code.to_string(),
        RetryOn::Signal => "signal".to_owned(),
        RetryOn::TimedOut => "timed_out".to_owned(),
        RetryOn::WorkerCrashed => "worker_crashed".to_owned(),
    }
}

/// Milliseconds within the bounds of `options`, far below what the type holds.
pub(crate) fn duration(ms: u64) -> Duration {
    Duration {
        seconds: i64::try_from(ms / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(ms % 1_000).unwrap_or(0) * 1_000_000,
    }
}
