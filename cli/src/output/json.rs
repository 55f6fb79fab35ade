//! The API's messages as JSON, the way protobuf writes it: field names as in the API, enum values by their
//! full names, times as RFC 3339, 64-bit numbers as strings. Every field is there, also where it is empty; what
//! is absent is null. Pure.

use muster_proto::v1::{
    Batch, BatchOptions, BatchPlaces, ExplainBatchResponse, FailureReason, GetInfoResponse,
    GetPolicyResponse, LateResult, OnDisconnect, PrefillBatchResponse, RetryPolicy, SchedulerStatus, Task,
    TaskCard, TaskCounts, TaskStatus, WaitCause, WaitReason, WatchBatchResponse, Worker, WorkerStatus,
};
use prost_types::{Duration, Timestamp};
use serde_json::{Map, Value, json};

use crate::output::words::rfc3339;

/// A batch with the tasks that it holds.
pub fn batch(batch: &Batch) -> Value {
    json!({
        "batch_id": batch.batch_id,
        "mode": batch.mode,
        "version": batch.version,
        "task_count": batch.task_count,
        "requested_concurrency": batch.requested_concurrency,
        "effective_concurrency": batch.effective_concurrency,
        "configured_max_concurrency": batch.configured_max_concurrency,
        "configured_max_tasks": batch.configured_max_tasks,
        "scheduler_status": name(batch.scheduler_status, |n| SchedulerStatus::try_from(n).ok().map(|s| s.as_str_name())),
        "create_time": time(batch.create_time.as_ref()),
        "start_time": time(batch.start_time.as_ref()),
        "end_time": time(batch.end_time.as_ref()),
        "reply_markdown": batch.reply_markdown,
        "revision": batch.revision.to_string(),
        "counts": batch.counts.as_ref().map_or(Value::Null, counts),
        "tasks": batch.tasks.iter().map(task).collect::<Vec<_>>(),
        "tasks_omitted": batch.tasks_omitted,
        "available_workers": batch.available_workers,
        "cancel_requested": batch.cancel_requested,
        "cancel_reason": batch.cancel_reason,
        "options": batch.options.as_ref().map_or(Value::Null, options),
        "on_hold": batch.on_hold,
        "status_message": batch.status_message,
    })
}

/// How a batch is carried out.
pub fn options(options: &BatchOptions) -> Value {
    json!({
        "time_limit": options.time_limit.as_ref().map(duration),
        "queue_time_limit": options.queue_time_limit.as_ref().map(duration),
        "cancel_grace": options.cancel_grace.as_ref().map(duration),
        "retry": options.retry.as_ref().map_or(Value::Null, retry),
        "max_failures": options.max_failures,
        "on_disconnect": name(options.on_disconnect, |n| OnDisconnect::try_from(n).ok().map(|s| s.as_str_name())),
    })
}

/// When failed attempts are run again.
pub fn retry(policy: &RetryPolicy) -> Value {
    json!({
        "max_attempts": policy.max_attempts,
        "on": policy.on,
        "backoff": policy.backoff.as_ref().map(duration),
        "max_backoff": policy.max_backoff.as_ref().map(duration),
    })
}

/// A task.
pub fn task(task: &Task) -> Value {
    let mut fields = seed_fields(task);
    let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
    put("status", name(task.status, |n| TaskStatus::try_from(n).ok().map(|s| s.as_str_name())));
    put("exit_code", json!(task.exit_code));
    put(
        "failure_reason",
        name(task.failure_reason, |n| FailureReason::try_from(n).ok().map(|s| s.as_str_name())),
    );
    put("failure_message", json!(task.failure_message));
    put("pid", json!(task.pid));
    put("attempt", json!(task.attempt));
    put("worker_id", json!(task.worker_id));
    put("signal", json!(task.signal));
    put("start_time", time(task.start_time.as_ref()));
    put("end_time", time(task.end_time.as_ref()));
    put("log_bytes", json!(task.log_bytes.to_string()));
    put("cancel_requested", json!(task.cancel_requested));
    put("revision", json!(task.revision.to_string()));
    put("end_confirmed", json!(task.end_confirmed));
    put("discarded_log_bytes", json!(task.discarded_log_bytes.to_string()));
    put("time_limit", json!(task.time_limit.as_ref().map(duration)));
    put("retry", task.retry.as_ref().map_or(Value::Null, retry));
    put("next_attempt_time", time(task.next_attempt_time.as_ref()));
    put("shell_code", json!(task.shell_code));
    put("late_results", json!(task.late_results.iter().map(late_result).collect::<Vec<_>>()));
    Value::Object(fields)
}

/// The fields of a task that the API and the seed write alike.
pub(super) fn seed_fields(task: &Task) -> Map<String, Value> {
    let pairs = [
        ("index", json!(task.index)),
        ("label", json!(task.label)),
        ("model", json!(task.model)),
        ("display_name", json!(task.display_name)),
        ("log_path", json!(task.log_path)),
        ("output_path", json!(task.output_path)),
        ("prompt", json!(task.prompt)),
        ("image", json!(task.image)),
        ("audio", json!(task.audio)),
        ("video", json!(task.video)),
        ("aspect_ratio", json!(task.aspect_ratio)),
        ("resolution", json!(task.resolution)),
        ("steps", json!(task.steps)),
        ("duration", json!(task.duration)),
        ("seed", json!(task.seed)),
        ("random_seed", json!(task.random_seed)),
        ("model_name", json!(task.model_name)),
        ("width", json!(task.width)),
        ("height", json!(task.height)),
        ("param", json!(task.param)),
        ("sync", json!(task.sync)),
        ("run_mode", json!(task.run_mode)),
        ("command_preview", json!(task.command_preview)),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// How many tasks are in each state.
pub fn counts(counts: &TaskCounts) -> Value {
    json!({
        "queued": counts.queued,
        "running": counts.running,
        "completed": counts.completed,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
    })
}

/// A result that came too late.
pub fn late_result(result: &LateResult) -> Value {
    json!({
        "attempt": result.attempt,
        "exit_code": result.exit_code,
        "signal": result.signal,
        "receive_time": time(result.receive_time.as_ref()),
    })
}

/// A worker.
pub fn worker(worker: &Worker) -> Value {
    json!({
        "worker_id": worker.worker_id,
        "status": name(worker.status, |n| WorkerStatus::try_from(n).ok().map(|s| s.as_str_name())),
        "status_message": worker.status_message,
        "slots": worker.slots,
        "held": worker.held,
        "labels": worker.labels,
        "version": worker.version,
        "last_seen_time": time(worker.last_seen_time.as_ref()),
    })
}

/// The limits.
pub fn policy(policy: &GetPolicyResponse) -> Value {
    json!({
        "max_concurrency": policy.max_concurrency,
        "max_tasks": policy.max_tasks,
        "system_max_concurrency": policy.system_max_concurrency,
        "system_max_tasks": policy.system_max_tasks,
    })
}

/// A message of a watch.
pub fn watch(message: &WatchBatchResponse) -> Value {
    json!({
        "life_id": message.life_id,
        "revision": message.revision.to_string(),
        "batch": message.batch.as_ref().map_or(Value::Null, batch),
        "tasks": message.tasks.iter().map(task).collect::<Vec<_>>(),
    })
}

/// Which coordinator it is.
pub fn info(info: &GetInfoResponse) -> Value {
    json!({
        "version": info.version,
        "server_time": time(info.server_time.as_ref()),
        "life_id": info.life_id,
    })
}

/// Why tasks do not run.
pub fn explanation(reply: &ExplainBatchResponse) -> Value {
    json!({
        "batch_id": reply.batch_id,
        "task_index": reply.task_index,
        "scheduler_status": name(reply.scheduler_status, |n| SchedulerStatus::try_from(n).ok().map(|s| s.as_str_name())),
        "counts": reply.counts.as_ref().map_or(Value::Null, counts),
        "effective_concurrency": reply.effective_concurrency,
        "causes": reply.causes.iter().map(cause).collect::<Vec<_>>(),
        "next_task_index": reply.next_task_index,
        "tasks_ahead": reply.tasks_ahead,
        "tasks_ahead_at_least": reply.tasks_ahead_at_least,
    })
}

/// One cause of it.
pub fn cause(cause: &WaitCause) -> Value {
    json!({
        "reason": name(cause.reason, |n| WaitReason::try_from(n).ok().map(|r| r.as_str_name())),
        "message": cause.message,
        "way_out": cause.way_out,
        "task_count": cause.task_count,
        "at_least": cause.at_least,
        "workers": cause.workers.iter().map(worker).collect::<Vec<_>>(),
        "worker_count": cause.worker_count,
        "batches": cause.batches.iter().map(places).collect::<Vec<_>>(),
        "batch_count": cause.batch_count,
        "since_time": time(cause.since_time.as_ref()),
    })
}

/// A batch that holds places.
pub fn places(places: &BatchPlaces) -> Value {
    json!({ "batch_id": places.batch_id, "places": places.places })
}

/// The cards of a batch.
pub fn prefill(reply: &PrefillBatchResponse) -> Value {
    json!({
        "mode": reply.mode,
        "task_count": reply.task_count,
        "tasks": reply.tasks.iter().map(card).collect::<Vec<_>>(),
        "reply_markdown": reply.reply_markdown,
    })
}

/// One task as a card.
pub fn card(card: &TaskCard) -> Value {
    json!({
        "index": card.index,
        "label": card.label,
        "model": card.model,
        "display_name": card.display_name,
        "card_markdown": card.card_markdown,
    })
}

/// JSON text with the characters escaped that JSON itself would let through and that are not safe on a terminal
/// (DEL, C1, and those that turn the direction of text round). They can stand only inside strings, so the document stays the same.
pub fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(character)))
            }
            character => out.push(character),
        }
    }
    out
}

/// A value of a newer API that has no name here is shown as its number, as protobuf does.
fn name(number: i32, name_of: impl Fn(i32) -> Option<&'static str>) -> Value {
    name_of(number).map_or_else(|| json!(number), |name| json!(name))
}

/// Seconds with three digits after the point where there are any, as protobuf writes milliseconds.
fn duration(duration: &Duration) -> String {
    match duration.nanos / 1_000_000 {
        0 => format!("{}s", duration.seconds),
        ms => format!("{}.{ms:03}s", duration.seconds),
    }
}

fn time(time: Option<&Timestamp>) -> Value {
    time.and_then(rfc3339).map_or(Value::Null, Value::String)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;

    use super::*;

    fn fields_of(message: &str) -> BTreeSet<String> {
        let set = prost_types::FileDescriptorSet::decode(muster_proto::FILE_DESCRIPTOR_SET).unwrap();
        let messages = set.file.iter().flat_map(|file| &file.message_type);
        let found = messages.into_iter().find(|m| m.name() == message).unwrap();
        found.field.iter().map(|field| field.name().to_owned()).collect()
    }

    fn keys(value: &Value) -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn every_field_of_the_api_is_there_under_its_name() {
        assert_eq!(keys(&batch(&Batch::default())), fields_of("Batch"));
        assert_eq!(keys(&task(&Task::default())), fields_of("Task"));
        assert_eq!(keys(&options(&BatchOptions::default())), fields_of("BatchOptions"));
        assert_eq!(keys(&retry(&RetryPolicy::default())), fields_of("RetryPolicy"));
        assert_eq!(keys(&counts(&TaskCounts::default())), fields_of("TaskCounts"));
        assert_eq!(keys(&late_result(&LateResult::default())), fields_of("LateResult"));
        assert_eq!(keys(&worker(&Worker::default())), fields_of("Worker"));
        assert_eq!(keys(&policy(&GetPolicyResponse::default())), fields_of("GetPolicyResponse"));
        assert_eq!(keys(&watch(&WatchBatchResponse::default())), fields_of("WatchBatchResponse"));
        assert_eq!(keys(&prefill(&PrefillBatchResponse::default())), fields_of("PrefillBatchResponse"));
        assert_eq!(keys(&card(&TaskCard::default())), fields_of("TaskCard"));
        assert_eq!(keys(&info(&GetInfoResponse::default())), fields_of("GetInfoResponse"));
        assert_eq!(keys(&explanation(&ExplainBatchResponse::default())), fields_of("ExplainBatchResponse"));
        assert_eq!(keys(&cause(&WaitCause::default())), fields_of("WaitCause"));
        assert_eq!(keys(&places(&BatchPlaces::default())), fields_of("BatchPlaces"));
    }

    #[test]
    fn values_are_written_as_protobuf_writes_them() {
        let message = Task {
            status: TaskStatus::Failed.into(),
            failure_reason: FailureReason::WorkerCrashed.into(),
            log_bytes: 1 << 60,
            start_time: Some(Timestamp { seconds: 0, nanos: 0 }),
            ..Task::default()
        };
        let value = task(&message);
        assert_eq!(value["status"], "TASK_STATUS_FAILED");
        assert_eq!(value["failure_reason"], "FAILURE_REASON_WORKER_CRASHED");
        assert_eq!(value["log_bytes"], "1152921504606846976");
        let limits = BatchOptions {
            time_limit: Some(Duration { seconds: 90, nanos: 0 }),
            cancel_grace: Some(Duration { seconds: 1, nanos: 50_000_000 }),
            ..BatchOptions::default()
        };
        let value = options(&limits);
        assert_eq!((&value["time_limit"], &value["cancel_grace"]), (&json!("90s"), &json!("1.050s")));
        assert_eq!(value["on_disconnect"], "ON_DISCONNECT_UNSPECIFIED");
        let value = task(&message);
        assert_eq!(value["start_time"], "1970-01-01T00:00:00Z");
        assert_eq!(value["end_time"], Value::Null);
        assert_eq!(value["exit_code"], Value::Null);
        assert_eq!(task(&Task { status: 99, ..Task::default() })["status"], 99);
    }

    #[test]
    fn no_control_character_is_left_and_the_document_is_the_same() {
        let value = json!({"prompt": "a\u{1b}[2J\u{9b}31m\u{7f}\n\u{202e}"});
        let text = safe(&value.to_string());
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
