//! What workers and the coordinator say to each other.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use muster_proto::{AttemptId, LifeId, v1};
use v1::{attach_request::Message as In, attach_response::Message as Out};

use crate::{
    config::MAX_LOG_LIMIT,
    core::{
        event::{Ended, FromWorker, HeldPhase, Hello, Outcome, Started, StopCause, Verdict},
        model::{InstanceId, WorkerRef},
    },
    engine::handle::{Offer, SessionMessage},
};

use super::Violation;

/// Version of the protocol that this program speaks.
pub(crate) const PROTOCOL: u32 = 1;
/// Most tasks that a worker may run at once.
pub(crate) const MAX_SLOTS: u32 = 1_024;
/// Longest name of a worker, in characters.
pub(crate) const MAX_NAME_CHARS: usize = 64;
/// Most labels of a worker.
pub(crate) const MAX_LABELS: usize = 64;
/// Longest key or value of a label, version or boot id, in bytes.
pub(crate) const MAX_LABEL_BYTES: usize = 256;
/// Most attempts that a worker may hold.
pub(crate) const MAX_HELD: usize = 8_192;
/// Longest text about a failure that is kept, in bytes; what is longer is cut.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4_096;
/// Longest output path that is kept, in bytes.
pub(crate) const MAX_OUTPUT_PATH_BYTES: usize = 8_192;
/// Most output that may ride in a result.
pub(crate) const MAX_INLINE_LOG_BYTES: usize = 256 * 1_024;
/// Heartbeats come at least so often.
pub(crate) const HEARTBEAT_MS: u32 = 5_000;
/// A session without a word for so long is dead.
pub(crate) const SILENCE_MS: u32 = 20_000;

/// Name of the variable that hands the key to the program.
const API_KEY_VARIABLE: &str = "BIZYAIR_API_KEY";

/// A worker's first words.
pub(crate) fn hello(wire: v1::Hello) -> Result<Hello, Violation> {
    let bad = |field: &str, description: String| Err(Violation::new(format!("hello.{field}"), description));
    if wire.protocol != PROTOCOL {
        return bad(
            "protocol",
            format!(
                "is {}; this coordinator speaks {PROTOCOL}, use a worker of its own version",
                wire.protocol
            ),
        );
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if wire.name.is_empty() || wire.name.chars().count() > MAX_NAME_CHARS || !wire.name.chars().all(fits) {
        return bad(
            "name",
            format!("must have 1 to {MAX_NAME_CHARS} letters, digits, dots, dashes or underscores"),
        );
    }
    let instance = instance("hello.instance_id", &wire.instance_id)?;
    if wire.boot_id.is_empty() || wire.boot_id.len() > MAX_LABEL_BYTES {
        return bad("boot_id", format!("must have 1 to {MAX_LABEL_BYTES} bytes"));
    }
    if !(1..=MAX_SLOTS).contains(&wire.slots) {
        return bad("slots", format!("is {}; it must be 1 to {MAX_SLOTS}", wire.slots));
    }
    if wire.labels.len() > MAX_LABELS {
        return bad("labels", format!("has {} entries; at most {MAX_LABELS} are allowed", wire.labels.len()));
    }
    let too_long =
        |(key, value): (&String, &String)| key.len() > MAX_LABEL_BYTES || value.len() > MAX_LABEL_BYTES;
    if wire.labels.iter().any(too_long) {
        return bad("labels", format!("has a key or value of more than {MAX_LABEL_BYTES} bytes"));
    }
    if wire.version.len() > MAX_LABEL_BYTES {
        return bad("version", format!("is longer than {MAX_LABEL_BYTES} bytes"));
    }
    Ok(Hello {
        worker: WorkerRef { instance, name: wire.name },
        boot_id: wire.boot_id,
        connection: wire.connection,
        slots: wire.slots,
        labels: wire.labels.into_iter().collect::<BTreeMap<_, _>>(),
        version: wire.version,
        held: held("hello.held", wire.held)?,
        draining: wire.draining,
    })
}

/// A worker's instance id.
pub(crate) fn instance(field: &str, wire: &str) -> Result<InstanceId, Violation> {
    if wire.len() != 32 || !wire.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Violation::new(field, "must be 32 hexadecimal digits"));
    }
    Ok(InstanceId(wire.to_ascii_lowercase()))
}

/// What a worker says after its hello, with the output that rides in a result.
///
/// An attempt of another `life` can only be one that the worker has held since before the store began a new
/// one: it may be listed, returned and reported, but nobody can have just accepted or started it.
pub(crate) fn from_worker(
    wire: v1::AttachRequest,
    life: LifeId,
) -> Result<(FromWorker, Option<Bytes>), Violation> {
    let Some(message) = wire.message else {
        return Err(Violation::new("message", "is empty, or of a kind that this coordinator does not know"));
    };
    let of_this_life = |field: &str, id: AttemptId| {
        if id.life == life {
            Ok(id)
        } else {
            let description = format!("is of life {}; this coordinator's is {life}", id.life);
            Err(Violation::new(format!("{field}.attempt"), description))
        }
    };
    let said = match message {
        In::Hello(_) => return Err(Violation::new("hello", "may only be the first message")),
        In::Heartbeat(wire) => FromWorker::Heartbeat(held("heartbeat.held", wire.held)?),
        In::Accepted(wire) => {
            FromWorker::Accepted(of_this_life("accepted", attempt("accepted", wire.attempt)?)?)
        }
        In::Returned(wire) => FromWorker::Returned(attempt("returned", wire.attempt)?),
        In::Started(wire) => {
            let id = of_this_life("started", attempt("started", wire.attempt)?)?;
            let output_path = output_path("started.output_path", wire.output_path)?;
            FromWorker::Started(id, Started { pid: wire.pid, output_path })
        }
        In::Ended(wire) => {
            let (id, ended, inline_log) = ended(wire)?;
            return Ok((FromWorker::Ended(id, Box::new(ended)), inline_log));
        }
        In::Draining(v1::Draining {}) => FromWorker::Draining,
        In::Leaving(v1::Leaving {}) => FromWorker::Leaving,
    };
    Ok((said, None))
}

fn ended(wire: v1::Ended) -> Result<(AttemptId, Ended, Option<Bytes>), Violation> {
    use v1::ended::Outcome as Wire;
    let id = attempt("ended", wire.attempt)?;
    let outcome = match wire.outcome {
        Some(Wire::ExitCode(code)) => Outcome::Exited(code),
        Some(Wire::Signal(signal)) => Outcome::Signalled(signal),
        Some(Wire::LaunchFailed(failed)) => Outcome::LaunchFailed {
            task_fault: failed.task_fault,
            message: clipped(failed.message, MAX_MESSAGE_BYTES),
        },
        Some(Wire::WorkerCrashed(crashed)) => Outcome::Crashed(clipped(crashed.message, MAX_MESSAGE_BYTES)),
        Some(Wire::OutputRefused(refused)) => {
            Outcome::OutputRefused(clipped(refused.message, MAX_MESSAGE_BYTES))
        }
        None => return Err(Violation::new("ended.outcome", "is missing, or of a kind not known here")),
    };
    if wire.log_size > MAX_LOG_LIMIT {
        let description = format!("is {}; at most {MAX_LOG_LIMIT} bytes are kept", wire.log_size);
        return Err(Violation::new("ended.log_size", description));
    }
    let inline = wire.inline_log.len();
    if inline > MAX_INLINE_LOG_BYTES || inline as u64 > wire.log_size {
        let description = format!(
            "has {inline} bytes; at most {MAX_INLINE_LOG_BYTES} and log_size ({}) are allowed",
            wire.log_size
        );
        return Err(Violation::new("ended.inline_log", description));
    }
    // A cause that is not known here is one that a later worker has: as if it had not said.
    let stop_cause = match v1::StopCause::try_from(wire.stop_cause) {
        Ok(v1::StopCause::Requested) => Some(StopCause::Requested),
        Ok(v1::StopCause::TimeLimit) => Some(StopCause::TimeLimit),
        Ok(v1::StopCause::CutOff) => Some(StopCause::CutOff),
        Ok(v1::StopCause::WorkerStopped) => Some(StopCause::WorkerStopped),
        Ok(v1::StopCause::Unspecified) | Err(_) => None,
    };
    let ended = Ended {
        outcome,
        stop_cause,
        stop_sent: wire.stop_sent,
        log_size: wire.log_size,
        log_discarded: wire.log_discarded,
        output_failed: (!wire.output_failed.is_empty())
            .then(|| clipped(wire.output_failed, MAX_MESSAGE_BYTES)),
        output_path: output_path("ended.output_path", wire.output_path)?,
        pid: wire.pid,
    };
    Ok((id, ended, (inline > 0).then_some(wire.inline_log)))
}

/// What the engine says, on the wire.
pub(crate) fn to_worker(message: SessionMessage, life: LifeId) -> v1::AttachResponse {
    let message = match message {
        SessionMessage::Welcome(verdicts) => Out::Welcome(v1::Welcome {
            life: life.0,
            heartbeat_ms: HEARTBEAT_MS,
            silence_ms: SILENCE_MS,
            verdicts: verdicts
                .into_iter()
                .map(|(attempt, verdict, log_offset)| v1::HeldVerdict {
                    attempt: Some(attempt.into()),
                    verdict: verdict_to_wire(verdict).into(),
                    log_offset,
                })
                .collect(),
        }),
        SessionMessage::Heartbeat => Out::Heartbeat(v1::CoordinatorHeartbeat {}),
        SessionMessage::Offer(offer) => Out::Offer(offer_to_wire(*offer)),
        SessionMessage::Stop { attempt, grace_ms } => {
            Out::Stop(v1::Stop { attempt: Some(attempt.into()), grace_ms })
        }
        SessionMessage::Acknowledged(attempt) => {
            Out::Acknowledged(v1::Acknowledged { attempt: Some(attempt.into()) })
        }
        SessionMessage::Goodbye(reason) => Out::Goodbye(v1::Goodbye { reason, stay_away: false }),
    };
    v1::AttachResponse { message: Some(message) }
}

fn offer_to_wire(offer: Offer) -> v1::Offer {
    let args = offer.spec.arg_list();
    let mut env = HashMap::new();
    if let Some(key) = &offer.api_key {
        env.insert(API_KEY_VARIABLE.to_owned(), key.expose().to_owned());
    }
    v1::Offer {
        attempt: Some(offer.attempt.into()),
        args_before: args.before_output,
        output: args.output.unwrap_or_default(),
        args_after: args.after_output,
        env,
        log_limit: offer.log_limit,
        time_limit_ms: offer.terms.time_limit_ms.unwrap_or(0),
        grace_ms: offer.terms.grace_ms,
        stop_after_cut_off_ms: offer.terms.stop_after_cut_off_ms.unwrap_or(0),
        batch_id: offer.attempt.batch.to_string(),
    }
}

const fn verdict_to_wire(verdict: Verdict) -> v1::Verdict {
    match verdict {
        Verdict::GoOn => v1::Verdict::GoOn,
        Verdict::Report => v1::Verdict::Report,
        Verdict::Stop => v1::Verdict::Stop,
        Verdict::Forget => v1::Verdict::Forget,
    }
}

/// The attempt of a message; `field` is the message's name.
pub(crate) fn attempt(field: &str, wire: Option<v1::Attempt>) -> Result<AttemptId, Violation> {
    let named = |what: &str| Violation::new(format!("{field}.attempt"), what);
    let wire = wire.ok_or_else(|| named("is missing"))?;
    AttemptId::try_from(wire).map_err(|_| named("names no attempt; batch, task and attempt count from 1"))
}

fn held(field: &str, wire: Vec<v1::Held>) -> Result<Vec<(AttemptId, HeldPhase)>, Violation> {
    if wire.len() > MAX_HELD {
        let description = format!("has {} entries; at most {MAX_HELD} are allowed", wire.len());
        return Err(Violation::new(field, description));
    }
    (1_usize..)
        .zip(wire)
        .map(|(place, held)| {
            let field = format!("{field}[{place}]");
            let phase = match held.phase() {
                v1::HeldPhase::Accepted => HeldPhase::Accepted,
                v1::HeldPhase::Running => HeldPhase::Running,
                v1::HeldPhase::Ended => HeldPhase::Ended,
                v1::HeldPhase::Unspecified => {
                    return Err(Violation::new(format!("{field}.phase"), "is missing or not known here"));
                }
            };
            Ok((attempt(&field, held.attempt)?, phase))
        })
        .collect()
}

fn output_path(field: &str, path: String) -> Result<String, Violation> {
    if path.len() > MAX_OUTPUT_PATH_BYTES {
        return Err(Violation::new(field, format!("is longer than {MAX_OUTPUT_PATH_BYTES} bytes")));
    }
    Ok(path)
}

/// Cuts a text for people at a character.
fn clipped(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text
}

#[cfg(test)]
mod tests {
    use muster_proto::{AttemptNo, BatchId, TaskIndex};

    use super::*;
    use crate::{
        core::{event::Terms, plan::TaskSpec},
        secrets::Secret,
    };

    const LIFE: LifeId = LifeId(5);

    fn id() -> AttemptId {
        let batch = BatchId::new(1_700_000_000_000, 1);
        AttemptId { life: LIFE, batch, task: TaskIndex(2), attempt: AttemptNo(1) }
    }

    fn good_hello() -> v1::Hello {
        v1::Hello {
            protocol: PROTOCOL,
            name: "host-1.a_b".into(),
            instance_id: "0123456789abcdefABCDEF0123456789".into(),
            boot_id: "boot".into(),
            slots: 4,
            held: vec![v1::Held { attempt: Some(id().into()), phase: v1::HeldPhase::Running.into() }],
            ..v1::Hello::default()
        }
    }

    #[test]
    fn a_hello_keeps_what_it_says() {
        let hello = hello(good_hello()).unwrap();
        assert_eq!(hello.worker.instance.0, "0123456789abcdefabcdef0123456789");
        assert_eq!((hello.slots, hello.held), (4, vec![(id(), HeldPhase::Running)]));
    }

    #[test]
    fn a_bad_hello_is_refused_by_its_field() {
        type Case = (&'static str, fn(&mut v1::Hello));
        let cases: [Case; 12] = [
            ("hello.protocol", |hello| hello.protocol = 2),
            ("hello.name", |hello| hello.name = String::new()),
            ("hello.name", |hello| hello.name = "a b".into()),
            ("hello.name", |hello| hello.name = "x".repeat(65)),
            ("hello.instance_id", |hello| hello.instance_id = "xyz".into()),
            ("hello.boot_id", |hello| hello.boot_id = String::new()),
            ("hello.slots", |hello| hello.slots = 0),
            ("hello.slots", |hello| hello.slots = 1_025),
            ("hello.labels", |hello| {
                hello.labels = (0..65).map(|i| (i.to_string(), String::new())).collect();
            }),
            ("hello.labels", |hello| {
                hello.labels.insert("k".into(), "v".repeat(257));
            }),
            ("hello.held[1].attempt", |hello| hello.held[0].attempt = None),
            ("hello.held", |hello| hello.held = vec![v1::Held::default(); MAX_HELD + 1]),
        ];
        for (field, spoil) in cases {
            let mut wire = good_hello();
            spoil(&mut wire);
            assert_eq!(hello(wire).unwrap_err().field, field);
        }
    }

    #[test]
    fn nonsense_is_refused_by_its_field() {
        let from = |message| from_worker(v1::AttachRequest { message }, LIFE).unwrap_err().field;
        let foreign = AttemptId { life: LifeId(6), ..id() };
        assert_eq!(from(None), "message");
        assert_eq!(from(Some(In::Hello(good_hello()))), "hello");
        assert_eq!(from(Some(In::Accepted(v1::Accepted { attempt: None }))), "accepted.attempt");
        let accepted = v1::Accepted { attempt: Some(foreign.into()) };
        assert_eq!(from(Some(In::Accepted(accepted))), "accepted.attempt");
        let ended = v1::Ended { attempt: Some(id().into()), ..v1::Ended::default() };
        assert_eq!(from(Some(In::Ended(ended.clone()))), "ended.outcome");
        let outcome = Some(v1::ended::Outcome::ExitCode(0));
        let log = v1::Ended { outcome: outcome.clone(), inline_log: vec![0; 3].into(), log_size: 2, ..ended };
        assert_eq!(from(Some(In::Ended(log))), "ended.inline_log");
        let huge =
            v1::Ended { attempt: Some(id().into()), outcome, log_size: u64::MAX, ..Default::default() };
        assert_eq!(from(Some(In::Ended(huge))), "ended.log_size");
    }

    #[test]
    fn a_result_of_an_older_life_is_passed_on() {
        let foreign = AttemptId { life: LifeId(6), ..id() };
        let wire = v1::Ended {
            attempt: Some(foreign.into()),
            outcome: Some(v1::ended::Outcome::Signal(15)),
            inline_log: Bytes::from_static(b"abc"),
            log_size: 3,
            ..v1::Ended::default()
        };
        let (said, log) = from_worker(v1::AttachRequest { message: Some(In::Ended(wire)) }, LIFE).unwrap();
        let FromWorker::Ended(attempt, ended) = said else { panic!("{said:?}") };
        assert_eq!((attempt, ended.outcome), (foreign, Outcome::Signalled(15)));
        assert_eq!(log.as_deref(), Some(b"abc".as_slice()));
    }

    #[test]
    fn a_worker_may_say_why_it_ended_a_program() {
        let cause = |stop_cause| {
            let outcome = Some(v1::ended::Outcome::Signal(15));
            let attempt = Some(id().into());
            let wire = v1::Ended { attempt, outcome, stop_sent: true, stop_cause, ..Default::default() };
            ended(wire).unwrap().1.stop_cause
        };
        assert_eq!(cause(v1::StopCause::TimeLimit.into()), Some(StopCause::TimeLimit));
        assert_eq!(cause(v1::StopCause::CutOff.into()), Some(StopCause::CutOff));
        assert_eq!(cause(v1::StopCause::WorkerStopped.into()), Some(StopCause::WorkerStopped));
        assert_eq!(cause(v1::StopCause::Requested.into()), Some(StopCause::Requested));
        // An older worker, and a later one.
        assert_eq!((cause(0), cause(99)), (None, None));
    }

    #[test]
    fn an_offer_has_the_arguments_and_the_key_in_the_environment_only() {
        let spec = TaskSpec { model: "m".into(), output: "out.png".into(), ..TaskSpec::default() };
        let terms =
            Terms { time_limit_ms: Some(90_000), grace_ms: 5_000, stop_after_cut_off_ms: Some(60_000) };
        let api_key = Some(Secret::new("sk-canary".into()));
        let offer = Offer { attempt: id(), spec, log_limit: 9, api_key, terms };
        let wire = to_worker(SessionMessage::Offer(Box::new(offer)), LIFE);
        let Some(Out::Offer(offer)) = &wire.message else { panic!("not an offer") };
        assert_eq!(offer.args_before, ["--model", "m"]);
        assert_eq!((offer.output.as_str(), offer.log_limit), ("out.png", 9));
        assert_eq!(offer.args_after, ["--confirm-run"]);
        assert_eq!(offer.env.get("BIZYAIR_API_KEY").map(String::as_str), Some("sk-canary"));
        assert!(!format!("{wire:?}").contains("sk-canary"));
        assert_eq!(
            (offer.time_limit_ms, offer.grace_ms, offer.stop_after_cut_off_ms),
            (90_000, 5_000, 60_000)
        );
    }
}
