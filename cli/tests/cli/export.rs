//! `muster export`: files laid out as the original batch runner did.

use std::path::Path;

use muster_proto::v1::{Batch, SchedulerStatus, Task, TaskStatus};
use prost_types::Timestamp;

use crate::support::{Fake, batch, failed, task};

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_700_000_000 + seconds, nanos: 0 })
}

fn ended() -> Fake {
    let fake = Fake::start();
    let run = |task: Task, start, end| Task {
        pid: 40 + task.index,
        start_time: at(start),
        end_time: at(end),
        log_bytes: 4,
        ..task
    };
    let tasks = vec![
        Task { exit_code: Some(0), ..run(task(1, TaskStatus::Completed), 1, 3) },
        run(failed(2, 3), 1, 2),
        Task { attempt: 0, worker_id: String::new(), end_time: at(4), ..task(3, TaskStatus::Cancelled) },
    ];
    fake.state.logs.lock().unwrap().extend([(1, b"one\n".to_vec()), (2, b"\x1b[2J".to_vec())]);
    *fake.state.batch.lock().unwrap() = Batch {
        tasks,
        scheduler_status: SchedulerStatus::Completed.into(),
        create_time: at(0),
        start_time: at(1),
        end_time: at(4),
        ..batch(3, 1, 1)
    };
    fake
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort_unstable();
    names
}

fn text(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

#[tokio::test]
async fn a_batch_becomes_the_files_of_the_seed() {
    let fake = ended();
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a/b");
    let printed = fake.muster(&["export", "b1", folder.to_str().unwrap()]).await;
    assert_eq!((printed.code, printed.out.as_str()), (0, ""), "{}", printed.err);
    assert!(printed.err.contains("3 tasks, 2 logs written, 0 there already"), "{}", printed.err);
    assert_eq!(names(&folder), ["batch-status.json", "batch-supervisor.log", "task-01.log", "task-02.log"]);
    assert_eq!(
        (text(&folder, "task-01.log").as_str(), text(&folder, "task-02.log").as_str()),
        ("one\n", "\u{1b}[2J")
    );
    insta::assert_snapshot!(text(&folder, "batch-supervisor.log"), @r"
    [2023-11-14 22:13:20] batch b1 created
    [2023-11-14 22:13:21] worker started with 3 task(s), concurrency=2
    [2023-11-14 22:13:21] launched task#1 pid=41 label=Task 1
    [2023-11-14 22:13:21] launched task#2 pid=42 label=Task 2
    [2023-11-14 22:13:22] task#2 pid=42 finished status=failed exit_code=3 reason=exit_code worker=worker-a
    [2023-11-14 22:13:23] task#1 pid=41 finished status=completed exit_code=0 worker=worker-a
    [2023-11-14 22:13:24] task#3 finished status=cancelled
    [2023-11-14 22:13:24] worker finished
    ");

    let document: serde_json::Value = serde_json::from_str(&text(&folder, "batch-status.json")).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    assert_eq!(document["batch_dir"], folder.to_str().unwrap());
    assert_eq!(document["status_path"], path("batch-status.json"));
    assert_eq!(document["supervisor_log"], path("batch-supervisor.log"));
    assert_eq!(document["tasks"][1]["log_path"], path("task-02.log"));
    assert_eq!(document["tasks"][2]["log_path"], "", "it has no log");
    assert_eq!(
        (&document["tasks"][1]["exit_code"], &document["scheduler_status"]),
        (&3.into(), &"completed".into())
    );
    // But for the paths it is what status shows.
    let shown = fake.muster(&["status", "b1", "--output", "seed-json"]).await;
    let mut shown: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    for key in ["batch_dir", "status_path", "supervisor_log"] {
        shown[key] = document[key].clone();
    }
    for index in 0..3 {
        shown["tasks"][index]["log_path"] = document["tasks"][index]["log_path"].clone();
    }
    assert_eq!(document, shown);
}

#[tokio::test]
async fn an_export_is_brought_up_to_date_and_anothers_folder_is_left_alone() {
    let fake = ended();
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("export");
    let line = ["export", "b1", folder.to_str().unwrap()];
    {
        let mut batch = fake.state.batch.lock().unwrap();
        batch.scheduler_status = SchedulerStatus::Running.into();
        batch.tasks[1].status = TaskStatus::Running.into();
    }
    let printed = fake.muster(&line).await;
    assert!(printed.err.contains("it has not ended"), "{}", printed.err);
    let full = ended().state.batch.lock().unwrap().clone();
    *fake.state.batch.lock().unwrap() = full;
    fake.state.logs.lock().unwrap().insert(2, b"more".to_vec());
    std::fs::remove_file(folder.join("batch-supervisor.log")).unwrap();
    std::fs::write(folder.join("task-02.log"), "cut").unwrap();
    fake.state.seen_tails.lock().unwrap().clear();
    let printed = fake.muster(&line).await;
    assert!(printed.err.contains("1 logs written, 1 there already"), "{}", printed.err);
    assert_eq!(fake.state.seen_tails.lock().unwrap().len(), 1);
    assert_eq!((names(&folder).len(), text(&folder, "task-02.log").as_str()), (4, "more"));

    fake.state.batch.lock().unwrap().batch_id = "b2".to_owned();
    let printed = fake.muster(&["export", "b2", folder.to_str().unwrap()]).await;
    assert!(printed.code == 2 && printed.err.contains("an export of batch b1"), "{}", printed.err);
    let printed = fake.muster(&["export", "b2", parent.path().to_str().unwrap()]).await;
    assert!(printed.code == 2 && printed.err.contains("not empty"), "{}", printed.err);
}

#[tokio::test]
async fn one_log_that_cannot_be_read_leaves_the_rest() {
    let fake = ended();
    fake.state.logs.lock().unwrap().remove(&1);
    let damaged = vec![crate::support::Step::Fail(tonic::Status::data_loss("damaged"))];
    fake.state.tails.lock().unwrap().push_back(damaged);
    let parent = tempfile::tempdir().unwrap();
    let printed = fake.muster(&["export", "b1", parent.path().to_str().unwrap()]).await;
    assert_eq!(printed.code, 1);
    assert!(
        printed.err.contains("task 1: ") && printed.err.contains("1 logs could not be read"),
        "{}",
        printed.err
    );
    assert_eq!(names(parent.path()), ["batch-status.json", "batch-supervisor.log", "task-02.log"]);
}
