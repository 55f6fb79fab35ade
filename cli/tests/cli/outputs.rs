//! What every command prints, as a table and as JSON, with its exit code: on standard output, and as talk.

use muster_proto::v1::{self, Batch, TaskStatus, Worker, WorkerStatus};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::support::{Fake, batch, change, failed, task};

/// A coordinator with one batch that has ended, one worker of each kind, and an answer for everything.
fn fake() -> Fake {
    let fake = Fake::start();
    let tasks = || {
        let mut first = task(1, TaskStatus::Completed);
        first.label = "竹林".to_owned();
        first.output_path = "/out/b1/task-01-output".to_owned();
        first.log_bytes = 4;
        vec![first, v1::Task { log_bytes: 13, ..failed(2, 3) }]
    };
    let ended = || Batch { tasks: tasks(), ..batch(2, 1, 1) };
    let state = &fake.state;
    *state.batch.lock().unwrap() = ended();
    state.watches.lock().unwrap().push_back(vec![change("l1", 5, batch(2, 1, 1), tasks())]);
    state.logs.lock().unwrap().extend([(1, b"one\n".to_vec()), (2, b"two\nand more\n".to_vec())]);
    let queued = vec![task(1, TaskStatus::Queued), task(2, TaskStatus::Queued)];
    state.submits.lock().unwrap().push_back(Ok(Batch { tasks: queued, ..batch(2, 0, 0) }));
    state.retries.lock().unwrap().push_back(Ok(batch(2, 1, 0)));
    let card = v1::TaskCard {
        index: 1,
        label: "Task 1".to_owned(),
        model: "bpro-t2i".to_owned(),
        display_name: "通用图片B.Pro".to_owned(),
        card_markdown: "- model: bpro-t2i\n".to_owned(),
    };
    state.prefills.lock().unwrap().push_back(Ok(v1::PrefillBatchResponse {
        mode: "batch_prefill".to_owned(),
        task_count: 1,
        tasks: vec![card],
        reply_markdown: "## 1. Task 1\n\n- model: bpro-t2i\n".to_owned(),
    }));
    let worker = |name: &str, status: WorkerStatus, message: &str| Worker {
        worker_id: name.to_owned(),
        status: status.into(),
        status_message: message.to_owned(),
        slots: 4,
        held: 1,
        version: "1.2.3".to_owned(),
        ..Worker::default()
    };
    *state.workers.lock().unwrap() = vec![
        worker("painter", WorkerStatus::Connected, ""),
        worker("画家", WorkerStatus::SetAside, "dispatch: No such file or directory"),
    ];
    let cause = v1::WaitCause {
        reason: v1::WaitReason::Ended.into(),
        message: "the batch has ended: 1 completed, 1 failed".to_owned(),
        way_out: "run what failed again with: muster retry b1".to_owned(),
        ..v1::WaitCause::default()
    };
    let explained = v1::ExplainBatchResponse {
        batch_id: "b1".to_owned(),
        scheduler_status: v1::SchedulerStatus::Completed.into(),
        counts: batch(2, 1, 1).counts,
        effective_concurrency: 2,
        causes: vec![cause],
        ..v1::ExplainBatchResponse::default()
    };
    state.explanations.lock().unwrap().push_back(Ok(explained));
    fake
}

/// Runs it and keeps everything, with the fake's address and the given words replaced.
async fn keep(name: &str, fake: &Fake, line: &[&str], replaced: &[(&str, &str)]) {
    let printed = fake.muster(line).await;
    let mut text = format!(
        "exit code {}\n--- standard output\n{}\n--- standard error\n{}",
        printed.code,
        printed.out.trim_end(),
        printed.err.trim_end()
    );
    for (from, to) in replaced.iter().copied().chain([(fake.url().as_str(), "URL")]) {
        text = text.replace(from, to);
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(format!("output-{name}"), text));
}

#[tokio::test]
async fn every_command_as_a_table_and_as_json() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("batch.json");
    std::fs::write(&file, r#"["a lighthouse", "a ferry"]"#).unwrap();
    let file = file.to_str().unwrap();
    let lines: [(&str, &[&str]); 15] = [
        ("submit", &["submit", file, "--request-id", "r1"]),
        ("submit-validate-only", &["submit", file, "--request-id", "r1", "--validate-only"]),
        ("prefill", &["prefill", file, "--lang", "en"]),
        ("status", &["status", "b1"]),
        ("status-task", &["status", "b1", "2"]),
        ("watch", &["watch", "b1"]),
        ("cancel", &["cancel", "b1", "--request-id", "r1"]),
        ("retry", &["retry", "b1", "--request-id", "r1"]),
        ("release", &["release", "b1", "--request-id", "r1"]),
        ("list", &["list"]),
        ("workers", &["workers"]),
        ("drain", &["drain", "painter"]),
        ("resume", &["resume", "painter"]),
        ("limits", &["limits"]),
        ("explain", &["explain", "b1"]),
    ];
    for (name, line) in lines {
        for format in ["table", "json", "none"] {
            let line = [line, &["--output", format]].concat();
            keep(&format!("{name}-{format}"), &fake(), &line, &[]).await;
        }
    }
}

#[tokio::test]
async fn commands_without_formats() {
    let fake = fake();
    keep("wait", &fake, &["wait", "b1"], &[]).await;
    keep("logs", &fake, &["logs", "b1"], &[]).await;
    keep("logs-prefix-never", &fake, &["logs", "b1", "--prefix", "never"], &[]).await;
    keep("logs-one-task", &fake, &["logs", "b1", "2", "--tail", "1"], &[]).await;
    let dir = TempDir::new().unwrap();
    let into = dir.path().join("export");
    let into = into.to_str().unwrap();
    keep("export", &fake, &["export", "b1", into], &[(into, "DIR")]).await;
    let mut names: Vec<_> =
        std::fs::read_dir(into).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let expected =
        [".muster-export", "batch-status.json", "batch-supervisor.log", "task-01.log", "task-02.log"];
    assert_eq!(names, expected);
    assert_eq!(std::fs::read(dir.path().join("export/task-02.log")).unwrap(), b"two\nand more\n");
}

fn refusal(code: Code, reason: &str, message: &str, metadata: &[(&str, &str)]) -> Status {
    let metadata: std::collections::HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, "muster.v1", metadata))
}

#[tokio::test]
async fn the_common_refusals() {
    let dir = TempDir::new().unwrap();
    let good = dir.path().join("good.json");
    std::fs::write(&good, r#"["a lighthouse"]"#).unwrap();
    let typo = dir.path().join("typo.json");
    std::fs::write(&typo, r#"[{"promt": "a lighthouse"}]"#).unwrap();
    let folder = dir.path().to_str().unwrap();
    let refused = |status: Status| {
        let fake = Fake::start();
        fake.state.submits.lock().unwrap().push_back(Err(status.clone()));
        fake.state.prefills.lock().unwrap().push_back(Err(status));
        fake
    };
    let submit = ["submit", good.to_str().unwrap(), "--request-id", "r1"];
    let figures = [("task_count", "6"), ("configured_max_tasks", "5"), ("system_max_tasks", "10")];
    let over = refusal(
        Code::FailedPrecondition,
        "BATCH_TASK_COUNT_REQUIRES_APPROVAL",
        "the batch has 6 tasks, more than the configured 5",
        &figures,
    );
    keep("refused-approval", &refused(over), &submit, &[(folder, "DIR")]).await;
    let limit = refusal(
        Code::ResourceExhausted,
        "BATCH_TASK_LIMIT_EXCEEDED",
        "the batch has 11 tasks and this coordinator takes at most 10 in one batch",
        &figures,
    );
    keep("refused-limit", &refused(limit), &submit, &[(folder, "DIR")]).await;
    let no_key = refusal(Code::FailedPrecondition, "NO_API_KEY", "there is no API key", &[]);
    keep("refused-no-key", &refused(no_key), &["prefill", good.to_str().unwrap()], &[(folder, "DIR")]).await;
    let typo = ["submit", typo.to_str().unwrap(), "--request-id", "r1"];
    keep("refused-typo", &Fake::start(), &typo, &[(folder, "DIR")]).await;
}
