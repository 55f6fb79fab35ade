//! Every refusal and failure as a gRPC status with machine-readable details.
//!
//! Each carries an `ErrorInfo` (reason, domain `muster.v1`), what is wrong with a field a `BadRequest`, a limit
//! a `QuotaFailure`. Held to a size that every client's header limit takes: a message of at most 1 KiB, and
//! 7 KiB in all as it goes over the wire.

use std::collections::HashMap;

use muster_proto::{BatchId, LifeId};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, QuotaViolation, StatusExt as _};

use crate::{
    core::{event::Refused, payload::MAX_VIOLATIONS, refusal::Refusal},
    disk::DiskLow,
    engine::handle,
    logs,
    secrets::SealError,
    store,
};

use super::convert::Violation;

/// `ErrorInfo.domain` of everything that comes from here.
pub(crate) const DOMAIN: &str = "muster.v1";
/// Longest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 1_024;
/// Longest field path, description or metadata value, in bytes.
const MAX_TEXT_BYTES: usize = 512;
/// Longest name that is repeated to who asked for it, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Message and details as they go over the wire, in bytes: some clients take 8 KiB of trailers in all.
const MAX_WIRE_BYTES: usize = 7 * 1_024;

/// What a status is made of, until its size is settled.
struct Parts {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: Vec<(&'static str, String)>,
    violations: Vec<FieldViolation>,
    quota: Option<QuotaViolation>,
    resource: Option<(&'static str, String)>,
}

impl Parts {
    fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: clipped(message.into(), MAX_MESSAGE_BYTES),
            metadata: Vec::new(),
            violations: Vec::new(),
            quota: None,
            resource: None,
        }
    }

    fn field(mut self, field: &str, description: &str) -> Self {
        let clip = |text: &str| clipped(text.to_owned(), MAX_TEXT_BYTES);
        self.violations.push(FieldViolation::new(clip(field), clip(description)));
        self
    }

    fn resource(mut self, kind: &'static str, name: impl Into<String>) -> Self {
        self.resource = Some((kind, clipped(name.into(), MAX_TEXT_BYTES)));
        self
    }

    /// The status; violations that do not fit are left out, the last first.
    fn build(mut self) -> Status {
        self.violations.truncate(MAX_VIOLATIONS);
        loop {
            let status = self.status();
            if wire_bytes(&status) <= MAX_WIRE_BYTES || self.violations.pop().is_none() {
                return status;
            }
        }
    }

    fn status(&self) -> Status {
        let metadata: HashMap<String, String> = self
            .metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), clipped(value.clone(), MAX_TEXT_BYTES)))
            .collect();
        let mut details = ErrorDetails::with_error_info(self.reason, DOMAIN, metadata);
        if !self.violations.is_empty() {
            details.set_bad_request(self.violations.clone());
        }
        if let Some(quota) = &self.quota {
            details.set_quota_failure(vec![quota.clone()]);
        }
        if let Some((kind, name)) = &self.resource {
            details.set_resource_info(*kind, name.clone(), "", "");
        }
        Status::with_error_details(self.code, self.message.clone(), details)
    }
}

/// The message is percent-encoded (three bytes for one at worst), the details are base64.
fn wire_bytes(status: &Status) -> usize {
    let plain = |byte: &u8| (0x20..0x7f).contains(byte) && *byte != b'%';
    let message: usize = status.message().as_bytes().iter().map(|byte| if plain(byte) { 1 } else { 3 }).sum();
    message + status.details().len().div_ceil(3) * 4
}

fn clipped(mut text: String, max: usize) -> String {
    const MARK: &str = "…";
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max - MARK.len()));
        text.push_str(MARK);
    }
    text
}

/// A field that cannot be read.
pub(crate) fn invalid(field: &str, description: &str) -> Status {
    Parts::new(Code::InvalidArgument, "INVALID_ARGUMENT", format!("{field} {description}"))
        .field(field, description)
        .build()
}

impl From<Violation> for Status {
    fn from(violation: Violation) -> Self {
        invalid(&violation.field, &violation.description)
    }
}

/// No such batch.
pub(crate) fn unknown_batch(batch: BatchId) -> Status {
    refused(&Refused::UnknownBatch(batch))
}

/// A batch's id as a client gives it. Ids are opaque to clients, so a text that can be none names no batch.
pub(crate) fn batch_id(text: &str) -> Result<BatchId, Status> {
    if text.is_empty() {
        return Err(invalid("batch_id", "is missing; `muster list` shows the batches"));
    }
    text.parse().map_err(|_| {
        let name = clipped(text.to_owned(), MAX_NAME_BYTES);
        let message = format!("there is no batch {name:?}; `muster list` shows those that there are");
        Parts::new(Code::NotFound, "BATCH_NOT_FOUND", message).resource("batch", name).build()
    })
}

/// No such task of a batch; `field` names where it was asked for.
pub(crate) fn unknown_task(field: &str, index: u32, count: u32) -> Status {
    let description = format!("is {index}; the batch has tasks 1 to {count}");
    Parts::new(Code::NotFound, "TASK_NOT_FOUND", format!("{field} {description}"))
        .field(field, &description)
        .build()
}

/// No such attempt of a task.
pub(crate) fn unknown_attempt(asked: u32, newest: u32) -> Status {
    let description = if newest == 0 {
        format!("is {asked}; the task has not been tried yet")
    } else {
        format!("is {asked}; the task has attempts 1 to {newest}")
    };
    Parts::new(Code::NotFound, "ATTEMPT_NOT_FOUND", format!("attempt {description}"))
        .field("attempt", &description)
        .build()
}

/// Something is asked for that is past the end, or of another life of the store.
pub(crate) fn out_of_range(reason: &'static str, field: &str, description: &str) -> Status {
    Parts::new(Code::OutOfRange, reason, format!("{field} {description}")).field(field, description).build()
}

/// A cursor of another life of the store.
pub(crate) fn other_life(given: &str, now: LifeId) -> Status {
    let message = format!(
        "life_id {given:?} is not this store's {now}: the store has begun a new life since; \
         watch again without after_revision"
    );
    let mut parts = Parts::new(Code::OutOfRange, "LIFE_CHANGED", message);
    parts.metadata = vec![("life_id", now.to_string())];
    parts.build()
}

/// The coordinator stops; what was acknowledged is stored, what was not was not done.
pub(crate) fn shutting_down() -> Status {
    Parts::new(
        Code::Unavailable,
        "SHUTTING_DOWN",
        "the coordinator is shutting down; try again when it is back",
    )
    .build()
}

/// New work is refused while the disk is nearly full.
pub(crate) fn disk_low(low: DiskLow) -> Status {
    let mut parts = Parts::new(Code::ResourceExhausted, "DISK_LOW", low.to_string());
    parts.metadata = vec![("free_bytes", low.free.to_string()), ("min_free_bytes", low.limit.to_string())];
    parts.build()
}

/// A message larger than the coordinator takes.
pub(crate) fn too_large(limit: usize) -> Status {
    const MIB: usize = 1_024 * 1_024;
    let short = if limit.is_multiple_of(MIB) {
        format!("{} MiB", limit / MIB)
    } else {
        format!("{} KiB", limit / 1_024)
    };
    let message = format!(
        "the request is larger than {limit} bytes ({short}), the most that this call takes; \
         split the batch, or pass files by their path or address"
    );
    let mut parts = Parts::new(Code::ResourceExhausted, "REQUEST_TOO_LARGE", message);
    parts.metadata = vec![("limit_bytes", limit.to_string())];
    parts.build()
}

/// Cards that do not fit one answer.
pub(crate) fn cards_too_large(tasks: usize, limit: usize) -> Status {
    let message = format!(
        "the cards of the {tasks} tasks take more than {limit} bytes (3 MiB), the most that one answer holds; \
         prefill fewer tasks at a time"
    );
    let mut parts = Parts::new(Code::ResourceExhausted, "CARDS_TOO_LARGE", message);
    parts.metadata = vec![("limit_bytes", limit.to_string()), ("task_count", tasks.to_string())];
    parts.build()
}

/// A call that took too long to be read and carried out.
pub(crate) fn too_slow(seconds: u64) -> Status {
    let message = format!(
        "the call was not read and answered within {seconds} s; whether it was carried out is not known, \
         repeat it with the same request_id"
    );
    Parts::new(Code::DeadlineExceeded, "TOO_SLOW", message).build()
}

/// A prefill that took too long, or waited too long for its turn. Nothing depends on it.
pub(crate) fn prefill_too_slow(seconds: u64) -> Status {
    let message =
        format!("there were no cards within {seconds} s; nothing was stored and nothing runs, try again");
    Parts::new(Code::DeadlineExceeded, "TOO_SLOW", message).build()
}

/// A batch that ended and was reopened each time that it was looked at.
pub(crate) fn changing(batch: BatchId) -> Status {
    let message = format!("batch {batch} ends and is retried while it is looked at; ask again");
    Parts::new(Code::Aborted, "BATCH_CHANGING", message).build()
}

/// Something of the coordinator's own is broken. The cause goes to its log only.
pub(crate) fn internal(what: &'static str, cause: &dyn std::fmt::Display) -> Status {
    tracing::error!(%cause, "{what}");
    Parts::new(Code::Internal, "INTERNAL", format!("{what}; the coordinator's log says why")).build()
}

/// A session or stream of a worker that ends because of what it said, or did not say.
pub(crate) fn worker_silent(ms: u32) -> Status {
    let message = format!("no word from the worker for {ms} ms; connect again");
    Parts::new(Code::DeadlineExceeded, "WORKER_SILENT", message).build()
}

/// The engine ended the session.
pub(crate) fn session_closed(reason: &str) -> Status {
    Parts::new(Code::Unavailable, "SESSION_CLOSED", reason).build()
}

/// Stored output that the disk no longer has.
pub(crate) fn log_damaged(from: u64, to: u64) -> Status {
    let message = format!(
        "the stored output is damaged from byte {from} to byte {to}; what follows can be read with offset {to}"
    );
    let mut parts = Parts::new(Code::DataLoss, "LOG_DAMAGED", message);
    parts.metadata = vec![("from", from.to_string()), ("to", to.to_string())];
    parts.build()
}

/// Output that is no longer kept.
pub(crate) fn log_removed() -> Status {
    let message = "the output is no longer kept; it was removed with its batch".to_owned();
    Parts::new(Code::NotFound, "LOG_REMOVED", message).build()
}

/// A key could not be encrypted; it is not stored otherwise.
pub(crate) fn seal(error: &SealError) -> Status {
    internal("the API key could not be encrypted", error)
}

/// Output could not be taken.
pub(crate) fn append(error: &logs::Error) -> Status {
    match error {
        logs::Error::Closed => shutting_down(),
        error => internal("output could not be stored", error),
    }
}

/// A worker has too many attempts whose output is not stored yet.
pub(crate) fn too_many_pushes(limit: usize) -> Status {
    let message =
        format!("output of more than {limit} attempts is on its way at once; wait for acknowledgements");
    Parts::new(Code::ResourceExhausted, "TOO_MANY_PUSHES", message).build()
}

/// The store could not be read.
pub(crate) fn store(error: &store::Error) -> Status {
    internal("the store could not be read", error)
}

/// The engine gave nothing.
pub(crate) fn engine(error: &handle::Error) -> Status {
    match error {
        handle::Error::Refused(why) => refused(why),
        handle::Error::Stopped(handle::Stopped) => shutting_down(),
    }
}

/// What the machine refused.
pub(crate) fn refused(refused: &Refused) -> Status {
    let parts = |code, reason| Parts::new(code, reason, refused.to_string());
    match refused {
        Refused::BatchIdTaken => parts(Code::Aborted, "BATCH_ID_TAKEN").build(),
        Refused::RequestIdReused(_) => parts(Code::AlreadyExists, "REQUEST_ID_REUSED")
            .field("request_id", "was used before with other content; use a new one")
            .build(),
        Refused::UnknownBatch(batch) => {
            parts(Code::NotFound, "BATCH_NOT_FOUND").resource("batch", batch.to_string()).build()
        }
        Refused::UnknownTask { index, count } => unknown_task("task_indexes", *index, *count),
        Refused::NotRetriable(_) => parts(Code::FailedPrecondition, "TASK_NOT_RETRIABLE").build(),
        Refused::NothingToRetry => parts(Code::FailedPrecondition, "NOTHING_TO_RETRY").build(),
        Refused::NoApiKey => parts(Code::FailedPrecondition, "NO_API_KEY").build(),
        Refused::Limit(limit) => refusal(limit),
        Refused::UnknownWorker(name) => {
            parts(Code::NotFound, "WORKER_NOT_FOUND").resource("worker", name.clone()).build()
        }
        Refused::NameInUse(_) => parts(Code::AlreadyExists, "WORKER_NAME_IN_USE").build(),
        Refused::Clone => parts(Code::FailedPrecondition, "WORKER_CLONED").build(),
        Refused::Outdated => parts(Code::Aborted, "CONNECTION_OUTDATED").build(),
        Refused::Contended => parts(Code::Aborted, "WORKER_CONTENDED").build(),
    }
}

/// What planning or a limit refused.
pub(crate) fn refusal(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::Invalid(_) => Code::InvalidArgument,
        Refusal::TaskLimitExceeded { .. } | Refusal::ConcurrencyLimitExceeded { .. } => {
            Code::ResourceExhausted
        }
        Refusal::TaskCountRequiresApproval { .. }
        | Refusal::ConcurrencyRequiresApproval { .. }
        | Refusal::SearchFlowNotSupported { .. }
        | Refusal::NoApiKey => Code::FailedPrecondition,
    };
    let mut parts = Parts::new(code, refusal.code(), refusal.to_string());
    parts.metadata = refusal.metadata();
    if let Refusal::Invalid(violations) = refusal {
        for violation in violations {
            parts = parts.field(&violation.field, &violation.description);
        }
    }
    parts.quota = quota(refusal);
    parts.build()
}

fn quota(refusal: &Refusal) -> Option<QuotaViolation> {
    let (quota_id, limit) = match refusal {
        Refusal::TaskLimitExceeded { system_max_tasks, .. } => ("system_max_tasks", system_max_tasks),
        Refusal::ConcurrencyLimitExceeded { system_max_concurrency, .. } => {
            ("system_max_concurrency", system_max_concurrency)
        }
        Refusal::Invalid(_)
        | Refusal::TaskCountRequiresApproval { .. }
        | Refusal::ConcurrencyRequiresApproval { .. }
        | Refusal::SearchFlowNotSupported { .. }
        | Refusal::NoApiKey => return None,
    };
    Some(QuotaViolation {
        subject: "batch".to_owned(),
        description: clipped(refusal.to_string(), MAX_TEXT_BYTES),
        api_service: DOMAIN.to_owned(),
        quota_id: quota_id.to_owned(),
        quota_value: i64::from(*limit),
        ..QuotaViolation::default()
    })
}

/// Where tonic itself refused a message for its length (it says OUT_OF_RANGE), a refusal with the limit that it
/// names, or `limit` where it names none.
pub(crate) fn refused_for_length(
    code: Option<&[u8]>,
    message: Option<&[u8]>,
    limit: usize,
) -> Option<Status> {
    const OUT_OF_RANGE: &[u8] = b"11";
    const WORDS: &str = "message length too large";
    const LIMIT: &str = "the limit is: ";
    if code != Some(OUT_OF_RANGE) {
        return None;
    }
    let message = String::from_utf8_lossy(message?).replace("%20", " ");
    if !message.contains(WORDS) {
        return None;
    }
    let named = message.split_once(LIMIT).and_then(|(_, rest)| rest.split(' ').next());
    Some(too_large(named.and_then(|number| number.parse().ok()).unwrap_or(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{payload, refusal::Phase};

    fn info(status: &Status) -> (Code, String) {
        let details = status.get_error_details();
        let info = details.error_info().expect("every status has an ErrorInfo");
        assert_eq!(info.domain, DOMAIN);
        assert!(status.message().len() <= MAX_MESSAGE_BYTES && wire_bytes(status) <= MAX_WIRE_BYTES);
        (status.code(), info.reason.clone())
    }

    #[test]
    fn limits_are_quotas_and_keep_the_interfaces_metadata() {
        let status = refusal(&Refusal::TaskLimitExceeded {
            phase: Phase::Run,
            task_count: 11,
            configured_max_tasks: 5,
            system_max_tasks: 10,
        });
        assert_eq!(info(&status), (Code::ResourceExhausted, "BATCH_TASK_LIMIT_EXCEEDED".to_owned()));
        let details = status.get_error_details();
        let metadata = &details.error_info().unwrap().metadata;
        for (key, value) in [
            ("phase", "batch_run"),
            ("task_count", "11"),
            ("configured_max_tasks", "5"),
            ("system_max_tasks", "10"),
        ] {
            assert_eq!(metadata.get(key).map(String::as_str), Some(value));
        }
        let quota = &details.quota_failure().unwrap().violations;
        assert_eq!((quota[0].quota_id.as_str(), quota[0].quota_value), ("system_max_tasks", 10));
    }

    #[test]
    fn approvals_and_keys_are_preconditions() {
        let approval = refusal(&Refusal::ConcurrencyRequiresApproval {
            requested_concurrency: 4,
            configured_max_concurrency: 3,
            system_max_concurrency: 5,
        });
        let expected = (Code::FailedPrecondition, "BATCH_CONCURRENCY_REQUIRES_APPROVAL".to_owned());
        assert_eq!(info(&approval), expected);
        assert!(approval.get_error_details().quota_failure().is_none());
        let key = (Code::FailedPrecondition, "NO_API_KEY".to_owned());
        assert_eq!(info(&refusal(&Refusal::NoApiKey)), key);
        assert_eq!(info(&refused(&Refused::NoApiKey)), key);
    }

    #[test]
    fn the_worst_of_violations_still_fits_a_trailer() {
        let violation = payload::FieldViolation::new("竹".repeat(100), "竹".repeat(1_000));
        let status = refusal(&Refusal::Invalid(vec![violation; MAX_VIOLATIONS]));
        assert_eq!(info(&status), (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()));
        let details = status.get_error_details();
        assert!(!details.bad_request().unwrap().field_violations.is_empty());
    }

    #[test]
    fn a_field_is_named_in_words_and_in_details() {
        let status = invalid("page_size", "is -1");
        assert_eq!(info(&status).0, Code::InvalidArgument);
        assert_eq!(status.message(), "page_size is -1");
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "page_size");
    }

    #[test]
    fn a_message_too_large_is_told_from_other_ranges() {
        let tonics = "Error,%20decoded%20message%20length%20too%20large:%20found%209";
        let status = refused_for_length(Some(b"11"), Some(tonics.as_bytes()), 16 << 20).unwrap();
        assert_eq!(info(&status), (Code::ResourceExhausted, "REQUEST_TOO_LARGE".to_owned()));
        assert!(status.message().contains("16777216") && status.message().contains("16 MiB"));
        assert!(refused_for_length(Some(b"11"), Some(b"life_id"), 1).is_none());
        assert!(refused_for_length(Some(b"5"), Some(tonics.as_bytes()), 1).is_none());
        assert!(refused_for_length(None, None, 1).is_none());
    }

    #[test]
    fn each_refusal_of_the_machine_has_its_code() {
        let batch = BatchId::new(1, 1);
        for (why, code) in [
            (Refused::BatchIdTaken, Code::Aborted),
            (Refused::RequestIdReused("x".repeat(5_000)), Code::AlreadyExists),
            (Refused::UnknownBatch(batch), Code::NotFound),
            (Refused::UnknownTask { index: 9, count: 2 }, Code::NotFound),
            (Refused::NotRetriable(muster_proto::TaskIndex(1)), Code::FailedPrecondition),
            (Refused::NothingToRetry, Code::FailedPrecondition),
            (Refused::UnknownWorker("w".repeat(5_000)), Code::NotFound),
            (Refused::NameInUse("w".into()), Code::AlreadyExists),
            (Refused::Clone, Code::FailedPrecondition),
            (Refused::Outdated, Code::Aborted),
            (Refused::Contended, Code::Aborted),
        ] {
            assert_eq!(info(&refused(&why)).0, code, "{why}");
        }
    }
}
