//! `muster logs`: what is shown of one task and of several, and what is saved.

use muster_proto::v1::{Batch, GetInfoResponse, Task, TaskStatus};
use tonic::Status;

use crate::support::{Buffer, Fake, Step, batch, change, context, execute, failed, info, piece, task};

#[tokio::test]
async fn logs_go_on_at_their_offset_and_show_no_control_characters() {
    let fake = Fake::start();
    fake.state.tails.lock().unwrap().extend([
        vec![piece(0, b"one\x1b[2J\r\ntw", false), Step::Fail(Status::unavailable("gone"))],
        // From a little before where it was cut: nothing is shown twice.
        vec![piece(8, b"\ntwo\n\xff", true)],
    ]);
    let printed = fake.muster(&["logs", "b1", "2", "--follow"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert_eq!(printed.out, "one\ntwo\n\u{fffd}");
    let seen = fake.state.seen_tails.lock().unwrap();
    assert_eq!((seen[0].task_index, seen[0].offset, seen[0].attempt), (2, 0, 0));
    assert_eq!((seen[1].offset, seen[1].attempt), (11, 1));
}

#[tokio::test]
async fn following_a_task_that_has_printed_nothing_survives_a_restart_of_the_coordinator() {
    let fake = Fake::start();
    fake.state.tails.lock().unwrap().extend([
        vec![Step::Fail(Status::unavailable("stopping")), Step::Hang],
        vec![piece(0, b"late\n", true)],
    ]);
    let printed = fake.muster(&["logs", "b1", "1", "--follow"]).await;
    assert_eq!((printed.code, printed.out.as_str()), (0, "late\n"), "{}", printed.err);
}

#[tokio::test]
async fn raw_logs_are_the_bytes_from_the_offset() {
    let fake = Fake::start();
    fake.state.tails.lock().unwrap().push_back(vec![piece(3, b"\x1b[2Jx\r", true)]);
    let printed = fake.muster(&["logs", "b1", "2", "--attempt", "1", "--offset", "3", "--raw"]).await;
    assert_eq!(printed.out, "\u{1b}[2Jx\r");
    let seen = fake.state.seen_tails.lock().unwrap();
    assert_eq!((seen[0].offset, seen[0].attempt, seen[0].follow), (3, 1, false));
}

/// A batch whose tasks are ended and have printed this.
fn printed_by(logs: &[&[u8]]) -> Fake {
    let fake = Fake::start();
    let count = i32::try_from(logs.len()).unwrap();
    let mut tasks = Vec::new();
    for (index, log) in (1..).zip(logs) {
        fake.state.logs.lock().unwrap().insert(index, log.to_vec());
        let log_bytes = i64::try_from(log.len()).unwrap();
        tasks.push(Task { log_bytes, ..task(index, TaskStatus::Completed) });
    }
    *fake.state.batch.lock().unwrap() = Batch { tasks, ..batch(count, count, 0) };
    fake
}

#[tokio::test]
async fn several_tasks_come_one_after_the_other_and_each_line_says_whose_it_is() {
    let fake = printed_by(&[b"one\n1%\r2%\nend", b"", b"three\n\x1b[31mred\x1b[2J\n"]);
    let printed = fake.muster(&["logs", "b1"]).await;
    insta::assert_snapshot!(printed.out, @r"
    [1 Task 1] one
    [1 Task 1] 2%
    [1 Task 1] end
    [3 Task 3] three
    [3 Task 3] red
    ");
    let named = fake.muster(&["logs", "b1", "3", "1", "3", "--prefix", "never"]).await;
    assert_eq!(named.out, "three\nred\none\n2%\nend\n");
    let one = fake.muster(&["logs", "b1", "1", "--prefix", "always"]).await;
    assert!(one.out.starts_with("[1 Task 1] one\n"), "{}", one.out);
}

#[tokio::test]
async fn a_task_that_has_not_started_has_nothing_to_show() {
    let fake = Fake::start();
    let tasks = vec![task(1, TaskStatus::Completed), task(2, TaskStatus::Queued), failed(3, 1)];
    *fake.state.batch.lock().unwrap() = Batch { tasks, ..batch(3, 1, 1) };
    fake.state.logs.lock().unwrap().extend([(1, b"one".to_vec()), (3, b"three\n".to_vec())]);
    let printed = fake.muster(&["logs", "b1"]).await;
    assert_eq!((printed.code, printed.out.as_str()), (0, "[1 Task 1] one\n[3 Task 3] three\n"));
    assert_eq!(fake.state.seen_tails.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn many_tasks_are_paged_and_their_order_is_kept() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() = Batch { tasks_omitted: true, ..batch(300, 300, 0) };
    let ended = |index| Task { label: String::new(), ..task(index, TaskStatus::Completed) };
    *fake.state.pages.lock().unwrap() = [1..=100, 101..=300].map(|range| range.map(ended).collect()).to_vec();
    let log = |index: i32| (0..200).map(|line| format!("{index} {line}\n")).collect::<String>();
    fake.state.logs.lock().unwrap().extend((1..=300).map(|index| (index, log(index).into_bytes())));
    let printed = fake.muster(&["logs", "b1", "--prefix", "never"]).await;
    assert_eq!(printed.out, (1..=300).map(log).collect::<String>());
}

#[tokio::test]
async fn the_last_lines_of_each_task() {
    let long: Vec<u8> = (0..200_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    let fake = printed_by(&[&long, b"only\n", b"a\nb\nc\nd"]);
    let printed = fake.muster(&["logs", "b1", "--tail", "2", "--prefix", "never"]).await;
    assert_eq!(printed.out, "line 199998\nline 199999\nonly\nc\nd\n");
    // Not the whole of the long one was read.
    let first = fake.state.seen_tails.lock().unwrap().iter().map(|seen| (seen.task_index, seen.offset)).min();
    assert!(first.unwrap().1 > 1_000_000, "{first:?}");
    // Nothing is known of the size of another attempt's log.
    fake.state.seen_tails.lock().unwrap().clear();
    let printed = fake.muster(&["logs", "b1", "1", "--attempt", "7", "--tail", "1"]).await;
    assert_eq!(printed.out, "line 199999\n", "{}", printed.err);
    let attempts: Vec<_> = fake.state.seen_tails.lock().unwrap().iter().map(|seen| seen.attempt).collect();
    assert!(attempts.len() < 20 && attempts.iter().all(|attempt| *attempt == 7), "{attempts:?}");
    assert_eq!(fake.muster(&["logs", "b1", "3", "--tail", "0"]).await.out, "");
    assert_eq!(fake.muster(&["logs", "b1", "3", "--tail", "9"]).await.out, "a\nb\nc\nd");
}

#[tokio::test]
async fn a_time_is_asked_for_by_the_coordinators_clock() {
    let fake = printed_by(&[b"one\ntwo\n", b"three\n"]);
    let now = prost_types::Timestamp { seconds: 1_800_000_000, nanos: 5 };
    let ask = |server_time| Ok(GetInfoResponse { server_time, ..info(0) });
    fake.state.infos.lock().unwrap().extend([ask(Some(now)), ask(Some(now))]);
    let seen = |fake: &Fake| std::mem::take(&mut *fake.state.seen_tails.lock().unwrap());
    let printed = fake.muster(&["logs", "b1", "--since", "10m"]).await;
    assert_eq!((printed.code, printed.out.lines().count()), (0, 3), "{}", printed.err);
    let ago = Some(prost_types::Timestamp { seconds: 1_799_999_400, nanos: 5 });
    let since: Vec<_> = seen(&fake).iter().map(|seen| seen.since).collect();
    assert_eq!(since, [ago, ago]);
    // Where last lines are looked for, all output counts.
    let printed = fake.muster(&["logs", "b1", "1", "--since", "10m", "--tail", "1"]).await;
    assert_eq!((printed.code, printed.out.as_str()), (0, "two\n"), "{}", printed.err);
    let (last, before) = seen(&fake).split_last().map(|(last, rest)| (last.clone(), rest.to_vec())).unwrap();
    assert_eq!((last.since, last.offset), (ago, 4));
    assert!(before.iter().all(|seen| seen.since.is_none()), "{before:?}");
    // A time is as good as it stands.
    fake.state.infos.lock().unwrap().push_back(Err(Status::internal("not asked for")));
    fake.state.logs.lock().unwrap().insert(1, Vec::new());
    let printed = fake.muster(&["logs", "b1", "1", "--since", "2026-11-24T11:00:00+01:00"]).await;
    assert_eq!((printed.code, printed.out.as_str()), (0, ""));
    assert!(printed.err.contains("printed nothing since 2026-11-24T10:00:00Z"), "{}", printed.err);
    let time = prost_types::Timestamp { seconds: 1_795_514_400, nanos: 0 };
    assert_eq!(seen(&fake).first().and_then(|seen| seen.since), Some(time));
}

#[tokio::test]
async fn lines_with_a_text() {
    let fake = printed_by(&[b"ok\nerror: x\n", b"an \x1b[31merror\x1b[0m\nErrors\n"]);
    let printed = fake.muster(&["logs", "b1", "--grep", "error"]).await;
    assert_eq!(printed.out, "[1 Task 1] error: x\n[2 Task 2] an error\n");
    let printed = fake.muster(&["logs", "b1", "2", "--grep", "error"]).await;
    assert_eq!(printed.out, "an error\n");
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused_with_a_way_out() {
    let fake = printed_by(&[b"one\n", b"two\n"]);
    for (line, way_out) in [
        (&["logs", "b1", "--raw"][..], "--output-dir DIR"),
        (&["logs", "b1", "1", "2", "--raw"], "--output-dir DIR"),
        (&["logs", "b1", "--attempt", "2"], "muster logs BATCH TASK --attempt N"),
        (&["logs", "b1", "1", "2", "--offset", "5"], "muster logs BATCH TASK --offset N"),
        (&["logs", "b1", "9", "--output-dir", "/dev/null/x"], "tasks 1 to 2"),
    ] {
        let printed = fake.muster(line).await;
        assert_eq!((printed.code, printed.out.as_str()), (2, ""), "{line:?}");
        assert!(printed.err.contains(way_out), "{line:?}: {}", printed.err);
    }
    assert!(fake.state.seen_tails.lock().unwrap().is_empty());
}

#[tokio::test]
async fn one_log_that_cannot_be_read_leaves_the_others() {
    let fake = Fake::start();
    let tasks = vec![task(1, TaskStatus::Completed), task(2, TaskStatus::Completed)];
    *fake.state.batch.lock().unwrap() = Batch { tasks, ..batch(2, 2, 0) };
    fake.state.logs.lock().unwrap().insert(2, b"two\n".to_vec());
    fake.state
        .tails
        .lock()
        .unwrap()
        .push_back(vec![Step::Fail(Status::data_loss("bytes 1 to 2 are damaged"))]);
    let printed = fake.muster(&["logs", "b1"]).await;
    assert_eq!((printed.code, printed.out.as_str()), (1, "[2 Task 2] two\n"));
    assert!(printed.err.contains("task 1: ") && printed.err.contains("damaged"), "{}", printed.err);
}

#[tokio::test]
async fn following_all_tasks_shows_each_from_its_start_until_the_batch_has_ended() {
    let fake = Fake::start();
    let tasks = vec![task(1, TaskStatus::Running), task(2, TaskStatus::Queued)];
    *fake.state.batch.lock().unwrap() = Batch { tasks: tasks.clone(), ..batch(2, 0, 0) };
    fake.state.watches.lock().unwrap().extend([
        vec![change("l", 1, batch(2, 0, 0), tasks), Step::Fail(Status::unavailable("restarting"))],
        vec![
            change("l", 2, batch(2, 0, 0), vec![task(2, TaskStatus::Running)]),
            change(
                "l",
                3,
                batch(2, 2, 0),
                vec![task(1, TaskStatus::Completed), task(2, TaskStatus::Completed)],
            ),
        ],
    ]);
    fake.state.logs.lock().unwrap().extend([(1, b"a\nb\n".to_vec()), (2, b"c\nd".to_vec())]);
    let printed = fake.muster(&["logs", "b1", "--follow"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    let of = |mark: &str| printed.out.lines().filter(|line| line.starts_with(mark)).collect::<Vec<_>>();
    assert_eq!(of("[1 Task 1]"), ["[1 Task 1] a", "[1 Task 1] b"]);
    assert_eq!(of("[2 Task 2]"), ["[2 Task 2] c", "[2 Task 2] d"]);
    assert_eq!(printed.err.matches("went away").count(), 1, "{}", printed.err);
}

#[tokio::test]
async fn following_named_tasks_waits_for_those_that_have_not_started() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() =
        Batch { tasks: vec![task(1, TaskStatus::Queued), task(2, TaskStatus::Queued)], ..batch(3, 0, 0) };
    fake.state.logs.lock().unwrap().extend([(1, b"one\n".to_vec()), (2, b"two\n".to_vec())]);
    let printed = fake.muster(&["logs", "b1", "1", "2", "--follow", "--tail", "1"]).await;
    let mut lines: Vec<_> = printed.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[1 Task 1] one", "[2 Task 2] two"]);
    let seen = fake.state.seen_tails.lock().unwrap();
    assert!(seen.iter().all(|seen| seen.follow && seen.offset == 0));
}

#[tokio::test]
async fn more_running_tasks_than_are_followed_at_once_is_said_and_all_are_shown() {
    let fake = Fake::start();
    let tasks: Vec<_> = (1..=80).map(|index| task(index, TaskStatus::Running)).collect();
    *fake.state.batch.lock().unwrap() = Batch { tasks: tasks.clone(), ..batch(80, 0, 0) };
    fake.state
        .watches
        .lock()
        .unwrap()
        .push_back(vec![change("l", 1, batch(80, 0, 0), tasks), change("l", 2, batch(80, 80, 0), vec![])]);
    fake.state.logs.lock().unwrap().extend((1..=80).map(|index| (index, b"x\n".to_vec())));
    let printed = fake.muster(&["logs", "b1", "--follow"]).await;
    assert_eq!(printed.out.lines().count(), 80, "{}", printed.err);
    assert!(printed.err.contains("16 more tasks run than are followed at once (64)"), "{}", printed.err);
}

#[tokio::test]
async fn several_streams_without_a_coordinator_say_so_once() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() =
        Batch { tasks: (1..=9).map(|index| task(index, TaskStatus::Running)).collect(), ..batch(9, 0, 0) };
    let quiet = || vec![Step::Fail(Status::unavailable("stopping")), Step::Hang];
    fake.state.tails.lock().unwrap().extend(std::iter::repeat_with(quiet).take(9));
    let err = Buffer::default();
    let url = fake.url();
    let context = context(&url, Box::new(Buffer::default()), &err);
    let tasks: Vec<String> = (1..=9).map(|index| index.to_string()).collect();
    let line = ["logs", "b1", "--follow"].into_iter().chain(tasks.iter().map(String::as_str));
    let line: Vec<_> = line.collect();
    // All further calls find nothing scripted.
    assert_eq!(execute(&line, context).await, 2, "{}", err.text());
    assert_eq!(err.text().matches("went away").count(), 1, "{}", err.text());
}

#[tokio::test]
async fn logs_are_saved_byte_for_byte_and_what_is_there_is_not_fetched_again() {
    let raw = b"\x1b[2J10%\r20%\n\xff".to_vec();
    let fake = printed_by(&[&raw, b"two\n", b""]);
    fake.state.batch.lock().unwrap().tasks[1].attempt = 2;
    fake.state.batch.lock().unwrap().tasks.push(task(4, TaskStatus::Queued));
    fake.state.batch.lock().unwrap().task_count = 4;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logs");
    let line = ["logs", "b1", "--output-dir", path.to_str().unwrap()];
    let printed = fake.muster(&line).await;
    assert_eq!((printed.code, printed.out.as_str()), (0, ""), "{}", printed.err);
    assert!(printed.err.contains("3 written, 0 there already; 1 without output"), "{}", printed.err);
    let mut names: Vec<_> = std::fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["task-01.log", "task-02.attempt-2.log", "task-03.log"]);
    assert_eq!(std::fs::read(path.join("task-01.log")).unwrap(), raw);
    fake.state.seen_tails.lock().unwrap().clear();
    std::fs::write(path.join("task-01.log"), "short").unwrap();
    let printed = fake.muster(&line).await;
    assert!(printed.err.contains("1 written, 2 there already"), "{}", printed.err);
    assert_eq!(fake.state.seen_tails.lock().unwrap().len(), 1);
    assert_eq!(std::fs::read(path.join("task-01.log")).unwrap(), raw);
}
