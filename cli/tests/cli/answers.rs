//! `muster status` and `muster wait`, and commands that print nothing.

use muster_proto::v1::{Batch, Task, TaskStatus};
use tonic::Status;

use crate::support::{Fake, Step, batch, change, failed, task};

fn three() -> Fake {
    let fake = Fake::start();
    let tasks = vec![task(1, TaskStatus::Completed), failed(2, 3), task(3, TaskStatus::Queued)];
    *fake.state.batch.lock().unwrap() = Batch { tasks, ..batch(3, 1, 1) };
    fake
}

#[tokio::test]
async fn a_batch_as_a_table() {
    let printed = three().muster(&["status", "b1"]).await;
    insta::assert_snapshot!(printed.out, @r"
    batch b1: 3 tasks, at most 2 at once, running
    TASK  STATUS     MODEL     WORKER    TRY  TIME  LABEL   NOTE
    1     completed  bpro-t2i  worker-a  1          Task 1
    2     failed     bpro-t2i  worker-a  1          Task 2  exit code 3
    3     queued     bpro-t2i  worker-a             Task 3
    ");
}

#[tokio::test]
async fn tasks_in_some_states_only() {
    let fake = three();
    let table = fake.muster(&["status", "b1", "--status", "failed,queued"]).await;
    let lines: Vec<_> = table.out.lines().skip(2).map(|line| &line[..1]).collect();
    assert_eq!(lines, ["2", "3"], "{}", table.out);
    let none = fake.muster(&["status", "b1", "--status", "cancelled"]).await;
    assert_eq!((none.code, none.out.lines().count()), (0, 2), "{}", none.out);
    let json = fake.muster(&["status", "b1", "--status", "failed", "--output", "json"]).await;
    let document: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(document["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(document["tasks"][0]["index"], 2);
    assert_eq!(document["task_count"], 3);
}

#[tokio::test]
async fn one_task_in_full_in_every_format() {
    let fake = three();
    let table = fake.muster(&["status", "b1", "2"]).await;
    insta::assert_snapshot!(table.out.replace(&fake.url(), "URL"), @r"
    task          2
    label         Task 2
    status        failed
    failure       exit code 3
    its log       muster --coordinator URL logs b1 2
    log size      0 bytes
    attempt       1
    worker        worker-a
    exit code     3
    model         bpro-t2i
    ");
    let json = fake.muster(&["status", "b1", "2", "--output", "json"]).await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json.out).unwrap()["exit_code"], 3);
    let seed = fake.muster(&["status", "b1", "2", "--output", "seed-json"]).await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&seed.out).unwrap()["status"], "failed");
    let beyond = fake.muster(&["status", "b1", "9"]).await;
    assert_eq!((beyond.code, beyond.out.as_str()), (2, ""));
    assert!(beyond.err.contains("batch b1 has tasks 1 to 3, so there is no task 9"), "{}", beyond.err);
}

#[tokio::test]
async fn a_task_that_the_batch_left_out_is_found_by_pages() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() = Batch { tasks_omitted: true, ..batch(3, 3, 0) };
    *fake.state.pages.lock().unwrap() =
        vec![vec![task(1, TaskStatus::Completed), task(2, TaskStatus::Completed)], vec![failed(3, 7)]];
    let printed = fake.muster(&["status", "b1", "3"]).await;
    assert!(printed.out.contains("failure       exit code 7"), "{}", printed.out);
}

/// Pages are printed as they come: a batch that breaks off shows what was there before.
#[tokio::test]
async fn a_large_batch_is_one_document_in_every_json_format() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() = Batch { tasks_omitted: true, ..batch(2000, 2000, 0) };
    let page = |range: std::ops::RangeInclusive<i32>| -> Vec<Task> {
        range.map(|index| task(index, TaskStatus::Completed)).collect()
    };
    *fake.state.pages.lock().unwrap() = vec![page(1..=1000), page(1001..=2000)];
    for format in ["json", "seed-json"] {
        let printed = fake.muster(&["status", "b1", "--output", format]).await;
        let document: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
        let indexes: Vec<_> =
            document["tasks"].as_array().unwrap().iter().map(|t| t["index"].clone()).collect();
        assert_eq!(indexes, (1..=2000).map(serde_json::Value::from).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn waiting_says_by_its_exit_code_how_batches_ended() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() = batch(1, 0, 0);
    let good = || {
        vec![
            change("l", 1, batch(1, 0, 0), vec![task(1, TaskStatus::Running)]),
            change("l", 2, batch(1, 1, 0), vec![task(1, TaskStatus::Completed)]),
        ]
    };
    let bad = || vec![change("l", 1, batch(1, 0, 1), vec![failed(1, 3)])];
    fake.state.watches.lock().unwrap().extend([good(), good(), bad(), bad(), good()]);
    for (line, code) in [(&["wait", "b1"][..], 0), (&["wait", "b1", "b1"], 1), (&["wait", "b1", "b1"], 1)] {
        let printed = fake.muster(line).await;
        assert_eq!((printed.code, printed.out.as_str(), printed.err.as_str()), (code, "", ""));
    }
    // Nothing is waited for where one of the names is wrong.
    let printed = fake.muster(&["wait", "b1", "nope"]).await;
    assert_eq!(printed.code, 2, "{}", printed.err);
    assert_eq!(fake.state.seen_watches.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn waiting_goes_on_over_a_restart_and_ends_with_its_time() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() = batch(1, 0, 0);
    fake.state.watches.lock().unwrap().extend([
        vec![
            change("l", 1, batch(1, 0, 0), vec![task(1, TaskStatus::Running)]),
            Step::Fail(Status::unavailable("restarting")),
        ],
        vec![change("l", 2, batch(1, 1, 0), vec![task(1, TaskStatus::Completed)])],
        vec![change("l", 1, batch(1, 0, 0), vec![task(1, TaskStatus::Running)]), Step::Hang],
    ]);
    assert_eq!(fake.muster(&["wait", "b1"]).await.code, 0);
    let late = fake.muster(&["wait", "b1", "b1", "--timeout", "20ms"]).await;
    assert_eq!((late.code, late.out.as_str()), (1, ""));
    assert!(late.err.contains("has not ended") && late.err.ends_with("wait b1 b1\n"), "{}", late.err);
}

#[tokio::test]
async fn a_batch_on_hold_says_so_and_names_the_command() {
    let fake = three();
    fake.state.batch.lock().unwrap().on_hold = true;
    let held = fake.state.batch.lock().unwrap().clone();
    let ended = Batch { on_hold: false, ..batch(1, 0, 1) };
    let messages = vec![change("l", 1, held, vec![]), change("l", 2, ended, vec![failed(1, 3)])];
    fake.state.watches.lock().unwrap().push_back(messages);
    for line in [&["status", "b1"][..], &["watch", "b1"]] {
        let printed = fake.muster(line).await;
        assert!(
            printed.err.contains("on hold") && printed.err.contains("release b1"),
            "{line:?}: {}",
            printed.err
        );
    }
    let printed = fake.muster(&["release", "b1"]).await;
    assert_eq!((printed.code, printed.err.contains("on hold")), (0, false), "{}", printed.err);
    let printed = fake.muster(&["status", "b1"]).await;
    assert!(!printed.err.contains("on hold"), "{}", printed.err);
}

#[tokio::test]
async fn commands_print_nothing_where_only_the_exit_code_is_wanted() {
    let fake = three();
    fake.state.watches.lock().unwrap().push_back(vec![change("l", 1, batch(1, 0, 1), vec![failed(1, 3)])]);
    for (line, code) in [
        (&["status", "b1"][..], 0),
        (&["status", "b1", "2"], 0),
        (&["watch", "b1"], 1),
        (&["list"], 0),
        (&["workers"], 0),
        (&["limits"], 0),
        (&["cancel", "b1"], 0),
        (&["retry", "b1"], 0),
        (&["release", "b1"], 0),
        (&["drain", "w"], 0),
    ] {
        let printed = fake.muster(&[line, &["--output", "none"]].concat()).await;
        assert_eq!((printed.code, printed.out.as_str(), printed.err.as_str()), (code, "", ""), "{line:?}");
    }
    let printed = fake.muster(&["status", "nope", "--output", "none"]).await;
    assert_eq!((printed.code, printed.out.as_str()), (2, ""));
    assert!(printed.err.starts_with("error: "), "{}", printed.err);
}
