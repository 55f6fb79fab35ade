//! Commands against a coordinator that says what the test wants: requests, output, exit codes.

use std::{collections::HashMap, io::Write as _, sync::Mutex};

use crate::support::{
    Buffer, ClosedPipe, DEADLINE, Fake, State, Step, batch, change, context, execute, failed, muster, piece,
    task,
};
use muster_cli::{client::Client, follow::Follower};
use muster_proto::v1::{Batch, Task, TaskStatus, Worker};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

fn payload() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"[\"a cat\"]").unwrap();
    file
}

#[tokio::test]
async fn submit_prints_the_id_alone_and_names_what_is_missing() {
    let fake = Fake::start();
    let stored = Batch { available_workers: 0, ..batch(1, 0, 0) };
    fake.state.submits.lock().unwrap().push_back(Ok(stored));
    let file = payload();
    let printed = fake.muster(&["submit", file.path().to_str().unwrap(), "--concurrency", "2"]).await;
    assert_eq!((printed.code, printed.out.as_str()), (0, "b1\n"));
    assert!(printed.err.contains(&format!("muster-worker --coordinator {} --dispatch 'CMD'", fake.url())));
    assert!(printed.err.contains("watch b1"), "{}", printed.err);
    let seen = fake.state.seen_submits.lock().unwrap();
    assert_eq!(seen[0].batch_json, "[\"a cat\"]");
    assert_eq!((seen[0].concurrency, seen[0].request_id.len()), (Some(2), 32));
}

#[tokio::test]
async fn submit_is_repeated_with_the_same_id_while_the_coordinator_is_away() {
    let fake = Fake::start();
    fake.state.submits.lock().unwrap().extend([Err(Status::unavailable("restarting")), Ok(batch(1, 0, 0))]);
    let file = payload();
    let printed = fake.muster(&["submit", file.path().to_str().unwrap()]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert!(printed.err.contains("trying again"), "{}", printed.err);
    let seen = fake.state.seen_submits.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].request_id, seen[1].request_id);
}

#[tokio::test]
async fn a_call_that_may_have_been_carried_out_names_the_id_that_makes_it_safe_to_repeat() {
    let fake = Fake::start();
    let file = payload();
    let path = file.path().to_str().unwrap();
    fake.state.submits.lock().unwrap().extend([
        Err(Status::deadline_exceeded("not answered in time")),
        Err(Status::invalid_argument("refused")),
        Err(Status::unavailable("away")),
        Err(Status::unavailable("away")),
        Err(Status::unavailable("away")),
        Err(Status::unavailable("away")),
        Err(Status::unavailable("away")),
    ]);
    let hint = |err: &str| err.contains("--request-id r1");
    let line = ["submit", path, "--request-id", "r1"];
    let slow = fake.muster(&line).await;
    assert!(slow.code == 3 && hint(&slow.err), "{}", slow.err);
    let refused = fake.muster(&line).await;
    assert!(refused.code == 2 && !hint(&refused.err), "{}", refused.err);
    let away = fake.muster(&line).await;
    assert!(away.code == 3 && hint(&away.err), "{}", away.err);
    let absent = muster("http://127.0.0.1:1", &line).await;
    assert!(absent.code == 3 && !hint(&absent.err), "it never arrived: {}", absent.err);
}

#[tokio::test]
async fn refusals_exit_with_2_and_say_the_way_out() {
    let fake = Fake::start();
    let file = payload();
    let path = file.path().to_str().unwrap();
    let metadata = HashMap::from([("task_count".to_owned(), "7".to_owned())]);
    let details = ErrorDetails::with_error_info("BATCH_TASK_COUNT_REQUIRES_APPROVAL", "muster.v1", metadata);
    let approval = Status::with_error_details(Code::FailedPrecondition, "too many tasks", details);
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("tasks[1].promt", "unknown key; did you mean prompt?");
    let field = Status::with_error_details(Code::InvalidArgument, "1 problem", details);
    let reused = Status::already_exists("used before");
    fake.state.submits.lock().unwrap().extend([Err(approval), Err(field), Err(reused)]);
    let expected = [
        "--task-count-approved",
        ":1:2: tasks[1].promt: unknown key; did you mean prompt?\n",
        "--request-id",
    ];
    for expected in expected {
        let printed = fake.muster(&["submit", path]).await;
        assert_eq!((printed.code, printed.out.as_str()), (2, ""));
        assert!(printed.err.starts_with("error: ") && printed.err.contains(expected), "{}", printed.err);
    }
}

#[tokio::test]
async fn an_absent_coordinator_exits_with_3() {
    let fake = Fake::start();
    let url = fake.url();
    drop(fake);
    for line in [&["status", "b1"][..], &["watch", "b1"], &["logs", "b1", "1"], &["list"], &["workers"]] {
        let printed = muster(&url, line).await;
        assert_eq!(printed.code, 3, "{line:?}: {}", printed.err);
        assert!(printed.err.contains("start one with: muster-coordinator --data-dir DIR"), "{}", printed.err);
    }
}

#[tokio::test]
async fn unknown_batches_exit_with_2() {
    let fake = Fake::start();
    let printed = fake.muster(&["status", "nope"]).await;
    assert_eq!(printed.code, 2);
    assert!(printed.err.contains("no such batch") && printed.err.contains("muster list"), "{}", printed.err);
}

#[tokio::test]
async fn watch_prints_changes_and_a_summary_and_exits_by_the_outcome() {
    let fake = Fake::start();
    fake.state.watches.lock().unwrap().extend([
        vec![
            change("l", 1, batch(2, 0, 0), vec![task(1, TaskStatus::Running), task(2, TaskStatus::Queued)]),
            change("l", 2, batch(2, 1, 0), vec![task(1, TaskStatus::Completed)]),
            change("l", 3, batch(2, 1, 1), vec![failed(2, 3)]),
        ],
        vec![change("l", 4, batch(1, 1, 0), vec![task(1, TaskStatus::Completed)])],
    ]);
    let printed = fake.muster(&["watch", "b1"]).await;
    let lines: Vec<_> = printed.out.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "task 1 running on worker-a (attempt 1)",
            "task 1 completed",
            "task 2 failed: exit code 3",
            "1 of 2 tasks completed, 1 failed"
        ]
    );
    assert!(
        printed.out.contains(&format!("muster --coordinator {} logs b1 2", fake.url())),
        "{}",
        printed.out
    );
    assert_eq!(printed.code, 1);
    assert_eq!(fake.muster(&["watch", "b1"]).await.code, 0);
}

#[tokio::test]
async fn watch_goes_on_from_its_cursor_after_the_coordinator_went_away() {
    let fake = Fake::start();
    let snapshot = vec![task(1, TaskStatus::Running), task(2, TaskStatus::Queued)];
    fake.state.watches.lock().unwrap().extend([
        vec![change("life", 5, batch(2, 0, 0), snapshot), Step::Fail(Status::unavailable("shutting down"))],
        vec![Step::Fail(Status::unavailable("not yet"))],
        vec![change(
            "life",
            7,
            batch(2, 2, 0),
            vec![task(1, TaskStatus::Completed), task(2, TaskStatus::Completed)],
        )],
    ]);
    let printed = fake.muster(&["watch", "b1"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert!(printed.err.contains("went away") && printed.err.contains("is back"), "{}", printed.err);
    assert_eq!(printed.out.matches("task 1 running").count(), 1);
    let seen = fake.state.seen_watches.lock().unwrap();
    assert_eq!(seen[0].after_revision, None);
    for request in &seen[1..] {
        assert_eq!((request.after_revision, request.life_id.as_str()), (Some(5), "life"));
    }
}

#[tokio::test]
async fn a_stream_that_ends_before_the_batch_is_opened_again() {
    let fake = Fake::start();
    fake.state.watches.lock().unwrap().extend([
        vec![change("l", 1, batch(1, 0, 0), vec![task(1, TaskStatus::Running)])],
        vec![change("l", 2, batch(1, 1, 0), vec![task(1, TaskStatus::Completed)])],
    ]);
    let printed = fake.muster(&["watch", "b1"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert_eq!(fake.state.seen_watches.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_new_life_of_the_store_starts_again_from_a_snapshot() {
    let fake = Fake::start();
    fake.state.watches.lock().unwrap().extend([
        vec![
            change("old", 5, batch(1, 0, 0), vec![task(1, TaskStatus::Running)]),
            Step::Fail(Status::unavailable("gone")),
        ],
        vec![Step::Fail(Status::out_of_range("another life"))],
        vec![change("new", 2, batch(1, 1, 0), vec![task(1, TaskStatus::Completed)])],
    ]);
    let printed = fake.muster(&["watch", "b1"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    let seen = fake.state.seen_watches.lock().unwrap();
    assert_eq!(seen[1].after_revision, Some(5));
    assert_eq!((seen[2].after_revision, seen[2].life_id.as_str()), (None, ""));
}

#[tokio::test]
async fn a_follower_that_is_cancelled_again_and_again_asks_once() {
    let fake = Fake::start();
    let steps = vec![change("l", 1, batch(1, 1, 0), vec![task(1, TaskStatus::Completed)])];
    fake.state.watches.lock().unwrap().push_back(steps);
    let (out, err) = (Buffer::default(), Buffer::default());
    let client = Client::new(&context(&fake.url(), Box::new(out), &err)).unwrap();
    let mut follower = Follower::new(&client, "b1", true);
    let message = loop {
        tokio::select! {
            biased;
            message = follower.next() => break message.unwrap(),
            () = tokio::task::yield_now() => {}
        }
    };
    assert_eq!(message.unwrap().revision, 1);
    assert_eq!(fake.state.seen_watches.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn watch_survives_a_coordinator_that_vanishes_and_gives_up_on_one_that_stays_away() {
    let fake = Fake::start();
    let address = fake.address;
    let snapshot = || change("l", 1, batch(1, 0, 0), vec![task(1, TaskStatus::Running)]);
    fake.state.watches.lock().unwrap().push_back(vec![snapshot(), Step::Hang]);
    let (out, err) = (Buffer::default(), Buffer::default());
    let waiting = context(&fake.url(), Box::new(out.clone()), &err);
    let watching = tokio::spawn(async move { execute(&["watch", "b1"], waiting).await });
    wait_until(|| out.text().contains("task 1 running")).await;
    drop(fake);
    let rest = vec![change("l", 2, batch(1, 1, 0), vec![task(1, TaskStatus::Completed)])];
    let state = State { watches: Mutex::new([rest].into()), ..State::default() };
    let fake = tokio::task::spawn_blocking(move || Fake::start_at(address, state)).await.unwrap();
    assert_eq!(watching.await.unwrap(), 0, "{}", err.text());

    fake.state.watches.lock().unwrap().push_back(vec![snapshot(), Step::Hang]);
    let (out, err) = (Buffer::default(), Buffer::default());
    let mut waiting = context(&fake.url(), Box::new(out.clone()), &err);
    waiting.patience.give_up = std::time::Duration::from_millis(400);
    let watching = tokio::spawn(async move { execute(&["watch", "b1"], waiting).await });
    wait_until(|| out.text().contains("task 1 running")).await;
    drop(fake);
    assert_eq!(watching.await.unwrap(), 3);
    assert!(err.text().contains("giving up"), "{}", err.text());
}

async fn wait_until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("it happens");
}

#[tokio::test]
async fn watch_as_json_lines_and_as_a_document() {
    let fake = Fake::start();
    let messages = || {
        vec![
            change("l", 1, batch(1, 0, 0), vec![task(1, TaskStatus::Running)]),
            change("l", 2, batch(1, 1, 0), vec![task(1, TaskStatus::Completed)]),
        ]
    };
    fake.state.watches.lock().unwrap().extend([messages(), messages()]);
    *fake.state.batch.lock().unwrap() =
        Batch { tasks: vec![task(1, TaskStatus::Completed)], ..batch(1, 1, 0) };
    let printed = fake.muster(&["watch", "b1", "--output", "jsonl"]).await;
    let lines: Vec<serde_json::Value> =
        printed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["tasks"][0]["status"], "TASK_STATUS_COMPLETED");
    let printed = fake.muster(&["watch", "b1", "--output", "seed-json"]).await;
    let document: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!(document["tasks"][0]["status"], "completed");
    assert!(printed.err.contains("task 1 completed"), "{}", printed.err);
}

#[tokio::test]
async fn status_pages_tasks_that_are_not_inline_in_every_format() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() = Batch { tasks_omitted: true, ..batch(3, 1, 1) };
    let evil = Task { label: "evil\u{1b}[2J\nlabel".to_owned(), ..task(3, TaskStatus::Queued) };
    *fake.state.pages.lock().unwrap() = vec![vec![task(1, TaskStatus::Completed), failed(2, 3)], vec![evil]];
    let table = fake.muster(&["status", "b1"]).await;
    assert_eq!(table.code, 0);
    assert_eq!(table.out.lines().count(), 5, "{}", table.out);
    assert!(table.out.contains("exit code 3") && !table.out.contains('\u{1b}'), "{}", table.out);
    let json = fake.muster(&["status", "b1", "--output", "json"]).await;
    let document: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(document["scheduler_status"], "SCHEDULER_STATUS_RUNNING");
    assert_eq!(document["tasks"].as_array().unwrap().len(), 3);
    assert_eq!(document["tasks_omitted"], false);
    let seed = fake.muster(&["status", "b1", "--output", "seed-json"]).await;
    let document: serde_json::Value = serde_json::from_str(&seed.out).unwrap();
    assert_eq!(document["tasks"][1]["exit_code"], 3);
    assert_eq!(document["tasks"][1]["failure_reason"], "exit_code");
    let lines = fake.muster(&["status", "b1", "--output", "jsonl"]).await;
    assert_eq!(lines.out.lines().count(), 3);
}

#[tokio::test]
async fn each_time_that_the_coordinator_is_away_counts_for_itself_though_nothing_happens_between() {
    // Together they take longer than the patience.
    const RESTARTS: usize = 30;
    let fake = Fake::start();
    let quiet = || vec![Step::Fail(Status::unavailable("stopping")), Step::Hang];
    let mut tails: Vec<_> = std::iter::repeat_with(quiet).take(RESTARTS).collect();
    tails.push(vec![piece(0, b"late\n", true)]);
    fake.state.tails.lock().unwrap().extend(tails);
    let printed = fake.muster(&["logs", "b1", "1", "--follow"]).await;
    assert_eq!((printed.code, printed.out.as_str()), (0, "late\n"), "{}", printed.err);

    let quiet = || vec![Step::Fail(Status::unavailable("stopping")), Step::Hang];
    let mut watches = vec![vec![
        change("l", 1, batch(1, 0, 0), vec![task(1, TaskStatus::Running)]),
        Step::Fail(Status::unavailable("stopping")),
    ]];
    watches.extend(std::iter::repeat_with(quiet).take(RESTARTS));
    watches.push(vec![change("l", 2, batch(1, 1, 0), vec![task(1, TaskStatus::Completed)])]);
    fake.state.watches.lock().unwrap().extend(watches);
    let printed = fake.muster(&["watch", "b1"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
}

#[tokio::test]
async fn cancel_and_retry_send_what_was_asked_for() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() = batch(3, 0, 0);
    let printed = fake.muster(&["cancel", "b1", "2", "3", "--reason", "why", "--now"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    let printed = fake.muster(&["retry", "b1", "2", "--task-count-approved", "--request-id", "r1"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    let cancels = fake.state.seen_cancels.lock().unwrap();
    assert_eq!((&cancels[0].task_indexes[..], cancels[0].reason.as_str()), (&[2, 3][..], "why"));
    assert!(cancels[0].immediate && cancels[0].request_id.len() == 32);
    let retries = fake.state.seen_retries.lock().unwrap();
    assert_eq!((&retries[0].task_indexes[..], retries[0].request_id.as_str()), (&[2][..], "r1"));
    assert!(retries[0].task_count_approved && !retries[0].concurrency_approved);
}

#[tokio::test]
async fn fleet_and_limits_are_listed() {
    let fake = Fake::start();
    assert!(fake.muster(&["workers"]).await.err.contains("muster-worker --coordinator"));
    fake.state.workers.lock().unwrap().push(Worker {
        worker_id: "w1".to_owned(),
        labels: HashMap::from([("gpu".to_owned(), "a100".to_owned())]),
        ..Worker::default()
    });
    let table = fake.muster(&["workers"]).await;
    assert!(table.out.contains("w1") && table.out.contains("gpu=a100"), "{}", table.out);
    assert_eq!(fake.muster(&["workers", "--output", "seed-json"]).await.code, 2);
    let drained = fake.muster(&["drain", "w1", "--output", "json"]).await;
    assert!(drained.out.contains("WORKER_STATUS_DRAINING"), "{}", drained.out);
    assert_eq!(fake.muster(&["resume", "w9"]).await.code, 2);
    let limits = fake.muster(&["limits", "--output", "json"]).await;
    let limits: serde_json::Value = serde_json::from_str(&limits.out).unwrap();
    assert_eq!((&limits["max_concurrency"], &limits["system_max_tasks"]), (&3.into(), &10.into()));
    *fake.state.batch.lock().unwrap() = batch(3, 3, 0);
    assert!(fake.muster(&["list"]).await.out.contains("b1"));
}

#[tokio::test]
async fn a_closed_pipe_ends_quietly_and_claims_no_success() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() =
        Batch { tasks: vec![task(1, TaskStatus::Completed)], ..batch(1, 1, 0) };
    let err = Buffer::default();
    assert_eq!(execute(&["status", "b1"], context(&fake.url(), Box::new(ClosedPipe), &err)).await, 0);
    assert_eq!(err.text(), "");
    fake.state
        .watches
        .lock()
        .unwrap()
        .push_back(vec![change("l", 1, batch(2, 0, 0), vec![task(1, TaskStatus::Running)]), Step::Hang]);
    assert_eq!(execute(&["watch", "b1"], context(&fake.url(), Box::new(ClosedPipe), &err)).await, 1);
    assert!(!err.text().contains("error"), "{}", err.text());
}
