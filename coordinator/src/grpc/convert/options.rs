//! How a batch is carried out, as users see it.

use muster_proto::v1;
use prost_types::Duration;

use crate::core::{
    options::{BatchOptions, GivenOptions, GivenRetry, OnDisconnect, RetryOn, RetryPolicy},
    payload::{self, FieldViolation},
};

/// What a request asks for, held to its bounds.
pub(crate) fn requested(wire: Option<&v1::BatchOptions>) -> Result<BatchOptions, Vec<FieldViolation>> {
    let Some(wire) = wire else { return Ok(BatchOptions::default()) };
    let on_disconnect = match v1::OnDisconnect::try_from(wire.on_disconnect) {
        Ok(v1::OnDisconnect::Unspecified) => None,
        Ok(v1::OnDisconnect::Continue) => Some(OnDisconnect::Continue),
        Ok(v1::OnDisconnect::Stop) => Some(OnDisconnect::Stop),
        Err(_) => {
            let description = format!(
                "is {}, which this coordinator does not know; give ON_DISCONNECT_CONTINUE or ON_DISCONNECT_STOP",
                wire.on_disconnect
            );
            return Err(vec![FieldViolation::new("options.on_disconnect", description)]);
        }
    };
    payload::check_options(GivenOptions {
        time_limit: wire.time_limit.as_ref().map(given_ms),
        queue_time_limit: wire.queue_time_limit.as_ref().map(given_ms),
        cancel_grace: wire.cancel_grace.as_ref().map(given_ms),
        retry: wire.retry.as_ref().map(given_retry),
        max_failures: wire.max_failures.map(i64::from),
        on_disconnect,
    })
}

/// A policy as it was sent.
pub(crate) fn given_retry(wire: &v1::RetryPolicy) -> GivenRetry {
    GivenRetry {
        max_attempts: Some(wire.max_attempts.into()),
        on: wire.on.clone(),
        backoff: wire.backoff.as_ref().map(given_ms),
        max_backoff: wire.max_backoff.as_ref().map(given_ms),
    }
}

/// Milliseconds of any size; what is finer is cut off.
pub(crate) fn given_ms(wire: &Duration) -> i128 {
    i128::from(wire.seconds) * 1_000 + i128::from(wire.nanos) / 1_000_000
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_comes_back_as_it_was() {
        let wire = v1::BatchOptions {
            time_limit: Some(duration(90_000)),
            queue_time_limit: Some(duration(3_600_000)),
            cancel_grace: Some(duration(1_500)),
            retry: Some(v1::RetryPolicy {
                max_attempts: 3,
                on: vec!["75".into(), "signal".into()],
                backoff: Some(duration(0)),
                max_backoff: Some(duration(60_000)),
            }),
            max_failures: Some(2),
            on_disconnect: v1::OnDisconnect::Stop.into(),
        };
        assert_eq!(batch(&requested(Some(&wire)).unwrap()), wire);
        assert_eq!(requested(None).unwrap(), BatchOptions::default());
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        let retry = v1::RetryPolicy { max_attempts: 2, on: vec!["x".into()], ..Default::default() };
        let endless = Duration { seconds: i64::MAX, nanos: 999_999_999 };
        for (wire, field) in [
            (v1::BatchOptions { time_limit: Some(endless), ..Default::default() }, "options.time_limit"),
            (v1::BatchOptions { retry: Some(retry), ..Default::default() }, "options.retry.on[1]"),
            (v1::BatchOptions { max_failures: Some(-1), ..Default::default() }, "options.max_failures"),
            (v1::BatchOptions { on_disconnect: 9, ..Default::default() }, "options.on_disconnect"),
        ] {
            assert_eq!(requested(Some(&wire)).unwrap_err()[0].field, field);
        }
    }
}
