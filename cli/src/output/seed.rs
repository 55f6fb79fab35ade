//! The status document of the original batch runner: its keys, its words, Unix seconds. What is ours comes under
//! further keys. Keys of files that do not exist here are empty. Pure.

use muster_proto::v1::{Batch, Task};
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::output::{
    json::{counts, late_result, seed_fields},
    words::{reason_word, scheduler_word, task_word},
};

/// Text fields that the seed leaves null where a task does not give them.
const NULL_WHEN_EMPTY: [&str; 8] =
    ["aspect_ratio", "resolution", "steps", "duration", "seed", "model_name", "width", "height"];

/// A batch with the tasks that it holds.
pub fn batch(batch: &Batch) -> Value {
    json!({
        "mode": batch.mode,
        "version": batch.version,
        "task_count": batch.task_count,
        "requested_concurrency": batch.requested_concurrency,
        "effective_concurrency": batch.effective_concurrency,
        "configured_max_concurrency": batch.configured_max_concurrency,
        "configured_max_tasks": batch.configured_max_tasks,
        "batch_dir": "",
        "status_path": "",
        "supervisor_log": "",
        "scheduler_pid": null,
        "scheduler_status": scheduler_word(batch.scheduler_status()),
        "started_at": seconds(batch.start_time.as_ref()),
        "finished_at": seconds(batch.end_time.as_ref()),
        "reply_markdown": batch.reply_markdown,
        "tasks": batch.tasks.iter().map(task).collect::<Vec<_>>(),
        // Ours.
        "batch_id": batch.batch_id,
        "created_at": seconds(batch.create_time.as_ref()),
        "revision": batch.revision,
        "counts": batch.counts.as_ref().map_or(Value::Null, counts),
        "available_workers": batch.available_workers,
        "cancel_requested": batch.cancel_requested,
        "cancel_reason": batch.cancel_reason,
    })
}

/// A task.
pub fn task(task: &Task) -> Value {
    let mut fields = seed_fields(task);
    for key in NULL_WHEN_EMPTY {
        if fields.get(key).is_some_and(|value| value == "") {
            fields.insert(key.to_owned(), Value::Null);
        }
    }
    let exit_code = if task.signal == 0 { task.exit_code } else { Some(task.signal.saturating_neg()) };
    let pid = (task.pid != 0).then_some(task.pid);
    let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
    put("status", json!(task_word(task.status())));
    put("exit_code", json!(exit_code));
    put("failure_reason", json!(reason_word(task.failure_reason())));
    put("pid", json!(pid));
    // Ours.
    put("failure_message", json!(task.failure_message));
    put("attempt", json!(task.attempt));
    put("worker_id", json!(task.worker_id));
    put("signal", json!(task.signal));
    put("started_at", seconds(task.start_time.as_ref()));
    put("finished_at", seconds(task.end_time.as_ref()));
    put("log_bytes", json!(task.log_bytes));
    put("discarded_log_bytes", json!(task.discarded_log_bytes));
    put("cancel_requested", json!(task.cancel_requested));
    put("end_confirmed", json!(task.end_confirmed));
    put("late_results", json!(task.late_results.iter().map(late_result).collect::<Vec<_>>()));
    Value::Object(fields)
}

fn seconds(time: Option<&Timestamp>) -> Value {
    json!(time.map(|time| time.seconds))
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{FailureReason, SchedulerStatus, TaskStatus};

    use super::*;

    const BATCH_KEYS: &str = "mode version task_count requested_concurrency effective_concurrency \
        configured_max_concurrency configured_max_tasks batch_dir status_path supervisor_log scheduler_pid \
        scheduler_status started_at finished_at reply_markdown tasks";
    const TASK_KEYS: &str = "index label model display_name status log_path output_path prompt image audio video \
        aspect_ratio resolution steps duration seed random_seed model_name width height param sync run_mode \
        command_preview exit_code failure_reason pid";

    #[test]
    fn every_key_of_the_seed_is_there_and_the_hard_limits_are_not() {
        let document = batch(&Batch { tasks: vec![Task::default()], ..Batch::default() });
        for key in BATCH_KEYS.split_whitespace() {
            assert!(document.get(key).is_some(), "{key}");
        }
        for key in TASK_KEYS.split_whitespace() {
            assert!(document["tasks"][0].get(key).is_some(), "{key}");
        }
        assert!(!document.to_string().contains("system_max"));
    }

    #[test]
    fn words_and_times_are_the_seeds() {
        let document = batch(&Batch {
            scheduler_status: SchedulerStatus::Running.into(),
            start_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 999 }),
            ..Batch::default()
        });
        assert_eq!(document["scheduler_status"], "running");
        assert_eq!(document["started_at"], 1_700_000_000);
        assert_eq!(document["finished_at"], Value::Null);
        assert_eq!(document["scheduler_pid"], Value::Null);
    }

    #[test]
    fn an_end_by_signal_is_the_negative_number() {
        let value = task(&Task {
            status: TaskStatus::Failed.into(),
            failure_reason: FailureReason::Signal.into(),
            signal: 9,
            ..Task::default()
        });
        assert_eq!(value["exit_code"], -9);
        assert_eq!(value["failure_reason"], "signal");
        assert_eq!(value["status"], "failed");
        let value = task(&Task { status: TaskStatus::Queued.into(), ..Task::default() });
        assert_eq!((&value["exit_code"], &value["failure_reason"]), (&Value::Null, &Value::Null));
        assert_eq!(
            (&value["pid"], &value["seed"], &value["prompt"]),
            (&Value::Null, &Value::Null, &json!(""))
        );
    }
}
