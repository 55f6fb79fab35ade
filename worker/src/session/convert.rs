//! Between the core's words and the wire's. Nothing else knows both.

use bytes::Bytes;
use muster_proto::{AttemptId, v1};
use nix::time::{ClockId, clock_gettime};

use crate::core::{
    FromCoordinator, Held, HeldPhase, HeldVerdict, Offer, Outcome, Report, ToCoordinator, Verdict,
};

use super::Identity;
use crate::runner::protocol::StopCause;

/// The coordinator sent what this version does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator sent {0}")]
pub(crate) struct Misunderstood(&'static str);

/// A message of the coordinator.
pub(crate) fn from_wire(message: v1::AttachResponse) -> Result<FromCoordinator, Misunderstood> {
    use v1::attach_response::Message;
    Ok(match message.message.ok_or(Misunderstood("an empty message, or one of a newer version"))? {
        Message::Welcome(welcome) => FromCoordinator::Welcome {
            heartbeat_ms: welcome.heartbeat_ms.into(),
            silence_ms: welcome.silence_ms.into(),
            verdicts: welcome.verdicts.into_iter().map(verdict).collect::<Result<_, _>>()?,
        },
        Message::Heartbeat(_) => FromCoordinator::Heartbeat,
        Message::Offer(offer) => FromCoordinator::Offer(Offer {
            attempt: attempt(offer.attempt)?,
            batch_id: offer.batch_id,
            args_before: offer.args_before,
            output: offer.output,
            args_after: offer.args_after,
            env: offer.env.into_iter().collect(),
            log_limit: offer.log_limit,
            time_limit_ms: (offer.time_limit_ms > 0).then_some(offer.time_limit_ms),
            grace_ms: offer.grace_ms,
            stop_after_cut_off_ms: (offer.stop_after_cut_off_ms > 0).then_some(offer.stop_after_cut_off_ms),
        }),
        Message::Stop(stop) => {
            FromCoordinator::Stop { attempt: attempt(stop.attempt)?, grace_ms: stop.grace_ms }
        }
        Message::Acknowledged(acknowledged) => FromCoordinator::Acknowledged(attempt(acknowledged.attempt)?),
        Message::Goodbye(goodbye) => {
            FromCoordinator::Goodbye { reason: goodbye.reason, stay_away: goodbye.stay_away }
        }
    })
}

/// A message to the coordinator; `connection` numbers the session, `inline_log` is the output that rides in a result.
pub(crate) fn to_wire(
    message: ToCoordinator,
    who: &Identity,
    connection: u64,
    inline_log: Bytes,
) -> v1::AttachRequest {
    use v1::attach_request::Message;
    let message = match message {
        ToCoordinator::Hello { held, draining } => Message::Hello(v1::Hello {
            protocol: super::PROTOCOL,
            name: who.name.clone(),
            instance_id: who.instance_id.clone(),
            boot_id: who.boot_id.clone(),
            slots: who.slots,
            labels: who.labels.clone().into_iter().collect(),
            version: env!("CARGO_PKG_VERSION").into(),
            held: held.into_iter().map(held_to_wire).collect(),
            draining,
            connection,
        }),
        ToCoordinator::Heartbeat(held) => {
            Message::Heartbeat(v1::WorkerHeartbeat { held: held.into_iter().map(held_to_wire).collect() })
        }
        ToCoordinator::Accepted(id) => Message::Accepted(v1::Accepted { attempt: Some(id.into()) }),
        ToCoordinator::Returned(id) => Message::Returned(v1::Returned { attempt: Some(id.into()) }),
        ToCoordinator::Started { attempt, pid, output_path } => {
            Message::Started(v1::Started { attempt: Some(attempt.into()), pid, output_path })
        }
        ToCoordinator::Ended { report, .. } => Message::Ended(ended(report, inline_log)),
        ToCoordinator::Draining => Message::Draining(v1::Draining {}),
        ToCoordinator::Leaving => Message::Leaving(v1::Leaving {}),
    };
    v1::AttachRequest { message: Some(message) }
}

/// An attempt's id.
pub(crate) fn attempt(wire: Option<v1::Attempt>) -> Result<AttemptId, Misunderstood> {
    wire.and_then(|attempt| attempt.try_into().ok()).ok_or(Misunderstood("a message about no attempt"))
}

fn verdict(wire: v1::HeldVerdict) -> Result<HeldVerdict, Misunderstood> {
    let verdict = match wire.verdict() {
        // Whatever it was: to go on loses nothing.
        v1::Verdict::Unspecified | v1::Verdict::GoOn => Verdict::GoOn,
        v1::Verdict::Report => Verdict::Report,
        v1::Verdict::Stop => Verdict::Stop,
        v1::Verdict::Forget => Verdict::Forget,
    };
    Ok(HeldVerdict { attempt: attempt(wire.attempt)?, verdict, log_offset: wire.log_offset })
}

fn held_to_wire(held: Held) -> v1::Held {
    let phase = match held.phase {
        HeldPhase::Accepted => v1::HeldPhase::Accepted,
        HeldPhase::Running => v1::HeldPhase::Running,
        HeldPhase::Ended => v1::HeldPhase::Ended,
    };
    v1::Held { attempt: Some(held.attempt.into()), phase: phase.into() }
}

fn ended(report: Report, inline_log: Bytes) -> v1::Ended {
    use v1::ended::Outcome as Wire;
    let outcome = match report.outcome {
        Outcome::Exit(code) => Wire::ExitCode(code),
        Outcome::Signal(signal) => Wire::Signal(signal),
        Outcome::LaunchFailed { errno, message, for_task } => {
            Wire::LaunchFailed(v1::LaunchFailed { errno, message, task_fault: for_task })
        }
        Outcome::Crashed(message) => Wire::WorkerCrashed(v1::WorkerCrashed { message }),
        Outcome::OutputRefused(message) => Wire::OutputRefused(v1::OutputRefused { message }),
    };
    v1::Ended {
        attempt: Some(report.attempt.into()),
        outcome: Some(outcome),
        stop_sent: report.stop_sent,
        log_size: report.log_size,
        log_discarded: report.log_discarded,
        output_failed: report.output_failed,
        inline_log,
        end_unix_ms: i64::try_from(report.end_ms).unwrap_or(i64::MAX),
        output_path: report.output_path,
        pid: report.pid,
        stop_cause: stop_cause(report.stop_cause).into(),
    }
}

const fn stop_cause(cause: Option<StopCause>) -> v1::StopCause {
    match cause {
        None => v1::StopCause::Unspecified,
        Some(StopCause::Requested) => v1::StopCause::Requested,
        Some(StopCause::TimeLimit) => v1::StopCause::TimeLimit,
        Some(StopCause::CutOff) => v1::StopCause::CutOff,
        Some(StopCause::WorkerStopped) => v1::StopCause::WorkerStopped,
    }
}

/// Nanoseconds since the machine's boot, suspended time included: grows over restarts of this process too.
pub(super) fn since_boot_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        let (seconds, nanos) = (time.tv_sec().unsigned_abs(), time.tv_nsec().unsigned_abs());
        seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
    })
}
