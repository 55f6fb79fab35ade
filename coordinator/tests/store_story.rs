//! One story that every store has to live through: a batch from its submission to its end and a retry, over
//! restarts, as the engine writes it and as readers see it. A further backend only adds a way to open itself.
#![expect(clippy::unwrap_used, reason = "a test says by failing what it needs")]

use std::{path::Path, sync::Arc};

use muster_coordinator::{
    core::{
        event::Change,
        model::{
            AttemptRow, BatchHead, BatchState, BatchStatus, Counts, FailureReason, InstanceId, LoadedBatch,
            RequestRecord, TaskState, TaskStatus, WorkerRef, WorkerRow,
        },
        options::{BatchOptions, OnDisconnect, RetryOn, RetryPolicy, own_options},
        plan::TaskSpec,
    },
    store::{Error, PageBounds, Reader, Store, sqlite::SqliteStore},
};
use muster_proto::{AttemptId, AttemptNo, BatchId, LifeId, TaskIndex};

type Opened = Result<(Box<dyn Store>, Arc<dyn Reader>), Error>;

const WIDE: PageBounds = PageBounds { tasks: 1_000, bytes: 1 << 20 };

#[test]
fn the_sqlite_store_lives_through_the_story() {
    let dir = tempfile::tempdir().unwrap();
    story(|| open_sqlite(dir.path()));
}

fn open_sqlite(dir: &Path) -> Opened {
    let (store, reader) = SqliteStore::open(dir)?;
    Ok((Box::new(store), Arc::new(reader)))
}

fn story(open: impl Fn() -> Opened) {
    let (mut store, reader) = open().unwrap();
    let life = store.life();
    let (old, new) = (id(1), id(2));

    // Nothing yet.
    assert_eq!((reader.life(), store.load_unfinished().unwrap().len()), (life, 0));
    assert!(reader.batch(old).unwrap().is_none());
    assert!(reader.tasks(old, 0, WIDE).unwrap().is_none());
    assert!(reader.changed(old, (0, 0), WIDE).unwrap().is_none());
    assert!(reader.task(old, TaskIndex(1)).unwrap().is_none());
    assert!(store.load_batch(old).unwrap().is_none() && store.find_request("r-1").unwrap().is_none());
    store.commit(&[]).unwrap();

    // Two submissions in one group, one with a key and a request id.
    let request = RequestRecord { id: "r-1".into(), digest: [7; 32], batch: old, time_ms: 5 };
    store
        .commit(&[
            Change::NewBatch { head: head(old, 3), state: state(1, [3, 0, 0, 0, 0]), specs: specs("old", 3) },
            Change::Secret(old, Some(b"sealed".to_vec())),
            Change::Request(request.clone()),
            Change::NewBatch { head: head(new, 5), state: state(1, [5, 0, 0, 0, 0]), specs: specs("new", 5) },
        ])
        .unwrap();
    let fresh = TaskState { revision: 1, ..TaskState::default() };
    let mut expected_old = LoadedBatch {
        head: head(old, 3),
        state: state(1, [3, 0, 0, 0, 0]),
        tasks: vec![fresh.clone(); 3],
        excluded: vec![],
    };
    let expected_new = LoadedBatch {
        head: head(new, 5),
        state: state(1, [5, 0, 0, 0, 0]),
        tasks: vec![fresh.clone(); 5],
        excluded: vec![],
    };
    assert_eq!(store.load_unfinished().unwrap(), [expected_old.clone(), expected_new.clone()]);
    assert_eq!(store.find_request("r-1").unwrap(), Some(request.clone()));
    assert_eq!(store.secret(old).unwrap().as_deref(), Some(&b"sealed"[..]));
    assert_eq!(store.secret(new).unwrap(), None);

    // Specs come in the order asked for.
    let keys = [(new, TaskIndex(5)), (old, TaskIndex(1)), (new, TaskIndex(1)), (old, TaskIndex(1))];
    let labels: Vec<_> = store.specs(&keys).unwrap().into_iter().map(|spec| spec.label).collect();
    assert_eq!(labels, ["new 5", "old 1", "new 1", "old 1"]);
    let missing = store.specs(&[(old, TaskIndex(4))]).unwrap_err();
    assert!(matches!(&missing, Error::Corrupt(what) if what.contains("task 4")), "{missing}");

    // Every field of a task that runs, and of one that has failed; only the last state of a batch counts.
    let running = everything(TaskStatus::Running, 3);
    let failed = everything(TaskStatus::Failed, 4);
    store
        .commit(&[
            Change::Batch(old, state(2, [3, 0, 0, 0, 0])),
            Change::Task(old, TaskIndex(1), Box::new(everything(TaskStatus::Queued, 2))),
            Change::Batch(old, state(3, [2, 1, 0, 0, 0])),
            Change::Task(old, TaskIndex(1), Box::new(running.clone())),
            Change::Task(old, TaskIndex(3), Box::new(failed.clone())),
            Change::Attempt(attempt_row(life, old, 3, 1, false)),
            Change::Exclude(old, TaskIndex(2), InstanceId("b".into())),
            Change::Exclude(old, TaskIndex(2), InstanceId("a".into())),
            Change::Exclude(old, TaskIndex(2), InstanceId("a".into())),
            Change::Exclude(old, TaskIndex(3), InstanceId("a".into())),
            Change::ForgetExclusions(old, TaskIndex(3)),
            Change::Batch(old, state(4, [1, 1, 0, 1, 0])),
        ])
        .unwrap();
    expected_old.state = state(4, [1, 1, 0, 1, 0]);
    expected_old.tasks = vec![running.clone(), fresh.clone(), failed.clone()];
    expected_old.excluded = ["a", "b"].map(|machine| (TaskIndex(2), InstanceId(machine.into()))).into();
    assert_eq!(store.load_batch(old).unwrap(), Some(expected_old.clone()));
    assert_eq!(
        store.load_task((old, TaskIndex(2))).unwrap(),
        Some((expected_old.state.clone(), expected_old.tasks[1].clone()))
    );
    assert!(store.load_task((old, TaskIndex(0))).unwrap().is_none());
    let row = attempt_row(life, old, 3, 1, false);
    assert_eq!(reader.attempt(row.id).unwrap(), Some(row.clone()));
    let other_life = AttemptId { life: LifeId(life.0 ^ 1), ..row.id };
    assert_eq!(reader.attempt(other_life).unwrap(), None);

    // A restart keeps all of it, and its life.
    let workers = [worker("a", Some("it broke")), worker("b", None), worker("c", None)];
    store.commit(&workers.clone().map(Change::Worker)).unwrap();
    let drained = WorkerRow { draining: true, slots: 9, ..workers[1].clone() };
    store
        .commit(&[Change::Worker(drained.clone()), Change::ForgetWorker(workers[2].worker.instance.clone())])
        .unwrap();
    drop((store, reader));
    let (mut store, reader) = open().unwrap();
    assert_eq!((store.life(), reader.life()), (life, life));
    assert_eq!(store.load_unfinished().unwrap(), [expected_old, expected_new]);
    assert_eq!(store.load_workers().unwrap(), [workers[0].clone(), drained]);
    assert_eq!(store.find_request("r-1").unwrap(), Some(request));

    // Readers see the same: newest first, tasks with parameters.
    let seen = reader.batches(None, 10).unwrap();
    assert_eq!(seen.iter().map(|view| view.head.id).collect::<Vec<_>>(), [new, old]);
    assert_eq!(reader.batches(None, 1).unwrap()[0].head.id, new);
    assert_eq!(reader.batches(Some(new), 10).unwrap()[0].head.id, old);
    assert!(reader.batches(Some(old), 10).unwrap().is_empty());
    assert_eq!(reader.batch(old).unwrap().unwrap().state, state(4, [1, 1, 0, 1, 0]));
    let task = reader.task(old, TaskIndex(3)).unwrap().unwrap();
    assert_eq!((task.index, &task.state, task.late.len()), (TaskIndex(3), &failed, 0));
    assert_eq!(task.spec.label, "old 3");
    assert!(reader.task(old, TaskIndex(4)).unwrap().is_none());

    paging(&*reader, new);

    // The cursor of changes: by revision, then by index.
    assert_eq!(changes(&*reader, old, (0, 0)), [(1, 2), (3, 1), (4, 3)]);
    assert_eq!(changes(&*reader, old, (1, u32::MAX)), [(3, 1), (4, 3)]);
    assert_eq!(changes(&*reader, old, (4, 2)), [(4, 3)]);
    assert_eq!(changes(&*reader, old, (4, 3)), []);
    assert_eq!(changes(&*reader, new, (1, 3)), [(1, 4), (1, 5)]);
    let page = reader.changed(new, (1, 1), PageBounds { tasks: 2, bytes: 1 << 20 }).unwrap().unwrap();
    assert_eq!((page.tasks.len(), page.more, page.batch.state.revision), (2, true, 1));

    // The end of a batch: its key goes, it is loaded no more at a start, and is still there.
    let ended = BatchState { status: BatchStatus::Cancelled, ..state(5, [0, 0, 1, 1, 1]) };
    let mut changes = vec![Change::Batch(old, ended.clone()), Change::Secret(old, None)];
    for index in 1..=3 {
        let task = everything(TaskStatus::Cancelled, 5);
        changes.push(Change::Task(old, TaskIndex(index), Box::new(task)));
    }
    store.commit(&changes).unwrap();
    assert_eq!(store.secret(old).unwrap(), None);
    assert_eq!(store.load_unfinished().unwrap().iter().map(|batch| batch.head.id).collect::<Vec<_>>(), [new]);
    assert_eq!(store.load_batch(old).unwrap().unwrap().state, ended);

    // A late result is seen with its task, an ordinary one is not, and the same attempt is kept once.
    let late = attempt_row(life, old, 2, 1, true);
    let twice = AttemptRow { exit_code: Some(3), ..late.clone() };
    let ordinary = attempt_row(life, old, 2, 2, false);
    let strange = AttemptRow { id: AttemptId { life: LifeId(u64::MAX), ..late.id }, ..late.clone() };
    store.commit(&[late, twice.clone(), ordinary, strange.clone()].map(Change::Attempt)).unwrap();
    let page = reader.tasks(old, 0, WIDE).unwrap().unwrap();
    assert_eq!(page.tasks.iter().map(|task| task.late.len()).collect::<Vec<_>>(), [0, 2, 0]);
    assert!(page.tasks[1].late.contains(&twice) && page.tasks[1].late.contains(&strange));
    assert_eq!(reader.task(old, TaskIndex(2)).unwrap().unwrap().late.len(), 2);
    assert_eq!(reader.changed(old, (0, 0), WIDE).unwrap().unwrap().tasks[1].late.len(), 2);
    assert_eq!(reader.task(old, TaskIndex(1)).unwrap().unwrap().late.len(), 0);

    // A retry with a new key opens it again.
    let again = TaskState { revision: 6, attempt: AttemptNo(2), ..TaskState::default() };
    store
        .commit(&[
            Change::Batch(old, state(6, [1, 0, 1, 1, 0])),
            Change::Task(old, TaskIndex(2), Box::new(again.clone())),
            Change::Secret(old, Some(b"first".to_vec())),
            Change::Secret(old, Some(b"second".to_vec())),
        ])
        .unwrap();
    assert_eq!(store.load_unfinished().unwrap().remove(0).head.id, old);
    assert_eq!(store.secret(old).unwrap().as_deref(), Some(&b"second"[..]));

    // A group is stored as a whole or not at all, and nothing follows one that failed.
    let taken =
        Change::NewBatch { head: head(new, 1), state: state(1, [1, 0, 0, 0, 0]), specs: specs("x", 1) };
    let error = store.commit(&[Change::Secret(old, None), taken]).unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error}");
    let error = store.commit(&[Change::Secret(old, None)]).unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error}");
    drop((store, reader));
    for nowhere in [
        Change::Batch(id(9), state(1, [1, 0, 0, 0, 0])),
        Change::Task(old, TaskIndex(4), Box::new(fresh.clone())),
        Change::NewBatch { head: head(id(9), 2), state: state(1, [2, 0, 0, 0, 0]), specs: specs("x", 1) },
    ] {
        let (mut store, _reader) = open().unwrap();
        let error = store.commit(&[Change::Secret(old, None), nowhere]).unwrap_err();
        assert!(matches!(error, Error::Failed(_)), "{error}");
    }
    let (mut store, reader) = open().unwrap();
    assert_eq!(store.secret(old).unwrap().as_deref(), Some(&b"second"[..]));
    assert!(reader.batch(id(9)).unwrap().is_none());

    // One coordinator only.
    let error = open().err().unwrap();
    assert!(matches!(error, Error::InUse(_)), "{error}");
    drop((store, reader));
    open().unwrap();
}

fn paging(reader: &dyn Reader, batch: BatchId) {
    let tasks = |after, tasks, bytes| {
        let page = reader.tasks(batch, after, PageBounds { tasks, bytes }).unwrap().unwrap();
        assert_eq!(page.batch.head.id, batch);
        (page.tasks.iter().map(|task| task.index.0).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(tasks(0, 5, 1 << 20), (vec![1, 2, 3, 4, 5], false));
    assert_eq!(tasks(0, 4, 1 << 20), (vec![1, 2, 3, 4], true));
    assert_eq!(tasks(4, 4, 1 << 20), (vec![5], false));
    assert_eq!(tasks(5, 4, 1 << 20), (vec![], false));
    assert_eq!(tasks(u32::MAX, 4, 1 << 20), (vec![], false));
    assert_eq!(tasks(0, 5, 0), (vec![1], true), "one at least");
    assert_eq!(tasks(0, 0, 1 << 20), (vec![1], true), "one at least");
    let one = serde_json::to_string(&specs("new", 1)[0]).unwrap().len();
    assert_eq!(tasks(1, 5, 2 * one), (vec![2, 3], true), "bytes bound it");
}

fn changes(reader: &dyn Reader, batch: BatchId, after: (i64, u32)) -> Vec<(i64, u32)> {
    let page = reader.changed(batch, after, WIDE).unwrap().unwrap();
    assert!(!page.more);
    page.tasks.iter().map(|task| (task.state.revision, task.index.0)).collect()
}

#[test]
fn readers_go_on_while_a_group_is_written_and_see_all_of_it_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, reader) = SqliteStore::open(dir.path()).unwrap();
    let batch = id(1);
    store
        .commit(&[Change::NewBatch {
            head: head(batch, 50),
            state: state(1, [50, 0, 0, 0, 0]),
            specs: specs("x", 50),
        }])
        .unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let reader = reader.clone();
            scope.spawn(move || {
                loop {
                    let page = reader.tasks(batch, 0, WIDE).unwrap().unwrap();
                    let revision = page.batch.state.revision;
                    assert!(page.tasks.iter().all(|task| task.state.revision == revision));
                    if revision == 40 {
                        return;
                    }
                }
            });
        }
        for revision in 2..=40 {
            let task = || Box::new(TaskState { revision, ..TaskState::default() });
            let mut group: Vec<_> =
                (1..=50).map(|index| Change::Task(batch, TaskIndex(index), task())).collect();
            group.push(Change::Batch(batch, state(revision, [50, 0, 0, 0, 0])));
            store.commit(&group).unwrap();
        }
    });
}

#[test]
fn what_cannot_be_understood_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let batch = id(1);
    let fresh =
        || Change::NewBatch { head: head(batch, 3), state: state(1, [3, 0, 0, 0, 0]), specs: specs("x", 3) };
    SqliteStore::open(dir.path()).unwrap().0.commit(&[fresh()]).unwrap();
    let damage = |sql: &str| {
        let raw = rusqlite::Connection::open(dir.path().join("muster.db")).unwrap();
        assert_eq!(raw.execute(sql, []).unwrap(), 1, "{sql}");
    };
    let names = |error: Error, words: &[&str]| {
        assert!(matches!(error, Error::Corrupt(_)), "{error}");
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
    };
    let name = format!("batch {batch}");

    damage("UPDATE specs SET spec = '{\"label\":' WHERE idx = 2");
    let (mut store, reader) = SqliteStore::open(dir.path()).unwrap();
    store.specs(&[(batch, TaskIndex(1)), (batch, TaskIndex(3))]).unwrap();
    names(store.specs(&[(batch, TaskIndex(1)), (batch, TaskIndex(2))]).unwrap_err(), &["task 2", &name]);
    names(reader.task(batch, TaskIndex(2)).unwrap_err(), &["task 2", &name]);
    // What runs can go on: nothing of it is needed to load the states.
    assert_eq!(store.load_unfinished().unwrap().len(), 1);
    drop((store, reader));

    damage("UPDATE tasks SET status = 99 WHERE idx = 3");
    let (mut store, reader) = SqliteStore::open(dir.path()).unwrap();
    names(store.load_unfinished().unwrap_err(), &["status", "task 3", &name]);
    names(reader.task(batch, TaskIndex(3)).unwrap_err(), &["status", "task 3", &name]);
    drop((store, reader));

    damage("DELETE FROM tasks WHERE idx = 3");
    let mut store = SqliteStore::open(dir.path()).unwrap().0;
    names(store.load_batch(batch).unwrap_err(), &["missing", &name]);
}

fn id(number: u64) -> BatchId {
    BatchId::new(1_700_000_000_000 + number, number)
}

fn head(id: BatchId, task_count: u32) -> BatchHead {
    BatchHead {
        id,
        create_ms: 1_700_000_000_001,
        task_count,
        requested_concurrency: 11,
        effective_concurrency: 12,
        configured_max_concurrency: 13,
        configured_max_tasks: u32::MAX,
        options: BatchOptions {
            time_limit_ms: Some(u64::MAX),
            queue_time_limit_ms: Some(1),
            cancel_grace_ms: Some(0),
            retry: Some(RetryPolicy {
                max_attempts: 3,
                on: [RetryOn::ExitCode, RetryOn::Code(-7), RetryOn::WorkerCrashed].into(),
                backoff_ms: 5,
                max_backoff_ms: 6,
            }),
            max_failures: Some(2),
            on_disconnect: Some(OnDisconnect::Stop),
            own: own_options([(None, None), (Some(9), None)].into_iter()),
        },
    }
}

fn state(revision: i64, [queued, running, completed, failed, cancelled]: [u32; 5]) -> BatchState {
    let started = revision > 1;
    BatchState {
        revision,
        status: if started { BatchStatus::Running } else { BatchStatus::Queued },
        counts: Counts { queued, running, completed, failed, cancelled },
        start_ms: started.then_some(21),
        end_ms: (revision == 5).then_some(22),
        cancel_reason: (revision == 5).then(|| "enough".into()),
        uses_key: revision != 3,
        on_hold: revision == 4,
        message: if revision == 4 { "from a backup".into() } else { String::new() },
        queued_since_ms: (revision == 4).then_some(23),
    }
}

fn specs(name: &str, count: u32) -> Vec<TaskSpec> {
    let spec = |index| TaskSpec { label: format!("{name} {index}"), ..TaskSpec::default() };
    (1..=count).map(spec).collect()
}

/// A state with no field left at its default, beyond sense.
fn everything(status: TaskStatus, revision: i64) -> TaskState {
    TaskState {
        revision,
        status,
        attempt: AttemptNo(u32::MAX),
        worker: Some(WorkerRef { instance: InstanceId("i".into()), name: "wörker".into() }),
        offered: true,
        output_path: "/outputs/task-01-output".into(),
        pid: i32::MAX,
        exit_code: Some(i32::MIN),
        signal: Some(9),
        failure: Some(FailureReason::SecretUnavailable),
        failure_message: "said \"no\"\0".into(),
        start_ms: Some(31),
        end_ms: Some(i64::MAX),
        log_bytes: u64::MAX,
        log_discarded: u64::MAX - 1,
        cancel_requested: true,
        end_confirmed: false,
        cancel_grace_ms: Some(u32::MAX),
        uncounted: 3,
        not_before_ms: Some(51),
    }
}

fn attempt_row(life: LifeId, batch: BatchId, task: u32, attempt: u32, late: bool) -> AttemptRow {
    AttemptRow {
        id: AttemptId { life, batch, task: TaskIndex(task), attempt: AttemptNo(attempt) },
        worker: "wörker".into(),
        exit_code: None,
        signal: Some(15),
        failure: Some(FailureReason::Signal),
        end_ms: 41,
        log_bytes: u64::MAX,
        log_discarded: 2,
        late,
    }
}

fn worker(name: &str, set_aside: Option<&str>) -> WorkerRow {
    WorkerRow {
        worker: WorkerRef { instance: InstanceId(format!("instance-{name}")), name: name.into() },
        boot_id: "boot".into(),
        connection: u64::MAX,
        slots: 4,
        draining: false,
        set_aside: set_aside.map(Into::into),
    }
}
