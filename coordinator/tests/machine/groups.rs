//! Groups of the engine: what waits together is committed together, and comes out as if each event had been
//! committed before the next one was looked at. The reference is the same engine, given one event at a time.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    task::{Context, Poll, Waker},
    time::Duration,
};

use muster_coordinator::{
    core::{admission::Approvals, event::*, machine::Config, model::*, plan::TaskSpec, policy},
    engine::{
        self, LogOffsets, Parts, Unseal,
        handle::{Handle, SessionMessage},
    },
    secrets::Secret,
    store::{Error, Store as StoreTrait},
    watch::Hub,
};
use muster_proto::{AttemptId, BatchId, LifeId, TaskIndex};
use proptest::prelude::*;
use tokio::runtime::Runtime;

use crate::world::{self, LIFE, Store};

/// How long anything may take before a test gives up. Never waited for in a test that passes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store in memory that knows only what was committed, and counts commits.
#[derive(Clone, Default)]
struct Memory {
    kept: Arc<Mutex<(Store, usize)>>,
    /// Says when a commit begins, and lets it go on when something can be received.
    gate: Option<Arc<Mutex<Gate>>>,
}

struct Gate {
    begun: mpsc::Sender<()>,
    go_on: mpsc::Receiver<()>,
}

impl Memory {
    fn kept(&self) -> MutexGuard<'_, (Store, usize)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreTrait for Memory {
    fn life(&self) -> LifeId {
        LIFE
    }

    fn load_unfinished(&mut self) -> Result<Vec<LoadedBatch>, Error> {
        Ok(self.kept().0.batches.values().filter(|b| !b.state.status.is_ended()).cloned().collect())
    }

    fn load_workers(&mut self) -> Result<Vec<WorkerRow>, Error> {
        Ok(self.kept().0.workers.values().cloned().collect())
    }

    fn load_batch(&mut self, batch: BatchId) -> Result<Option<LoadedBatch>, Error> {
        Ok(self.kept().0.batches.get(&batch).cloned())
    }

    fn load_task(&mut self, (batch, task): TaskKey) -> Result<Option<(BatchState, TaskState)>, Error> {
        let kept = self.kept();
        let loaded = kept.0.batches.get(&batch);
        Ok(loaded.and_then(|b| Some((b.state.clone(), b.tasks.get(task.0 as usize - 1)?.clone()))))
    }

    fn find_request(&mut self, id: &str) -> Result<Option<RequestRecord>, Error> {
        Ok(self.kept().0.requests.get(id).cloned())
    }

    fn find_attempt(&mut self, attempt: AttemptId) -> Result<Option<AttemptRow>, Error> {
        Ok(self.kept().0.attempts.get(&attempt).cloned())
    }

    fn specs(&mut self, keys: &[TaskKey]) -> Result<Vec<TaskSpec>, Error> {
        Ok(keys.iter().map(|_| TaskSpec::default()).collect())
    }

    fn secret(&mut self, batch: BatchId) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.kept().0.secrets.get(&batch).cloned())
    }

    fn remove(&mut self, _: BatchId) -> Result<bool, Error> {
        Ok(true)
    }

    fn forget_requests(&mut self, _: UnixMs) -> Result<bool, Error> {
        Ok(true)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), Error> {
        if let Some(gate) = &self.gate {
            let gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = gate.begun.send(());
            let _ = gate.go_on.recv_timeout(PATIENCE);
        }
        let mut kept = self.kept();
        kept.1 += 1;
        for change in changes {
            kept.0.apply(copy(change));
        }
        Ok(())
    }
}

/// Changes are not `Clone`, since nothing but a test needs two of one.
fn copy(change: &Change) -> Change {
    match change {
        Change::NewBatch { head, state, specs } => {
            Change::NewBatch { head: head.clone(), state: state.clone(), specs: specs.clone() }
        }
        Change::Batch(id, state) => Change::Batch(*id, state.clone()),
        Change::Task(id, task, state) => Change::Task(*id, *task, state.clone()),
        Change::Attempt(row) => Change::Attempt(row.clone()),
        Change::Exclude(id, task, machine) => Change::Exclude(*id, *task, machine.clone()),
        Change::ForgetExclusions(id, task) => Change::ForgetExclusions(*id, *task),
        Change::Secret(id, secret) => Change::Secret(*id, secret.clone()),
        Change::Request(record) => Change::Request(record.clone()),
        Change::Worker(row) => Change::Worker(row.clone()),
        Change::ForgetWorker(instance) => Change::ForgetWorker(instance.clone()),
    }
}

/// Nothing is stored until an event says so.
struct NoLogs;

impl LogOffsets for NoLogs {
    fn stored(&self, _: AttemptId) -> u64 {
        0
    }
}

struct Plain;

impl Unseal for Plain {
    fn unseal(&self, _: BatchId, sealed: &[u8]) -> Result<Secret, String> {
        Ok(Secret::new(String::from_utf8_lossy(sealed).into_owned()))
    }
}

fn parts(store: Memory) -> Parts {
    // No timer fires by itself.
    let never = 86_400_000;
    let machine =
        Config { offer_timeout_ms: never, pause_ms: never, lost_after_ms: never, ..Config::default() };
    Parts {
        store: Box::new(store),
        logs: Box::new(NoLogs),
        keys: Box::new(Plain),
        hub: Hub::default(),
        log_limit: 1 << 20,
        machine,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Submit { batch: u64, tasks: u32, key: bool, request: Option<(u8, u8)> },
    Cancel { batch: u64, task: u32, request: Option<(u8, u8)> },
    Retry { batch: u64, task: u32, key: bool, request: Option<(u8, u8)> },
    Hello { worker: u32, boot: u32, held: Vec<(AttemptId, HeldPhase)> },
    Says(u32, FromWorker),
    Gone(u32),
    LogStored(AttemptId, u64),
    Steer(u32, bool),
}

fn attempt() -> impl Strategy<Value = AttemptId> {
    (1..4u64, 1..3u32, 1..3u32).prop_map(|(batch, task, no)| world::attempt(batch, task, no))
}

fn step() -> impl Strategy<Value = Step> {
    let request = || prop::option::weighted(0.4, (0..3u8, 0..2u8));
    let worker = 0..2u32;
    let phase = prop_oneof![Just(HeldPhase::Accepted), Just(HeldPhase::Running), Just(HeldPhase::Ended)];
    let held = prop::collection::vec((attempt(), phase), 0..3);
    let ended = (0..3i32, 0..2u64, any::<bool>()).prop_map(|(code, log_size, stop_sent)| {
        let outcome = match code {
            2 => Outcome::LaunchFailed { task_fault: false, message: "no".into() },
            code => Outcome::Exited(code),
        };
        Ended { log_size, stop_sent, ..*world::ended(outcome) }
    });
    let said = prop_oneof![
        3 => attempt().prop_map(FromWorker::Accepted),
        1 => attempt().prop_map(FromWorker::Returned),
        1 => attempt()
            .prop_map(|id| FromWorker::Started(id, Started { pid: 7, output_path: "/o".into() })),
        6 => (attempt(), ended).prop_map(|(id, ended)| FromWorker::Ended(id, Box::new(ended))),
        1 => Just(FromWorker::Leaving),
    ];
    prop_oneof![
        4 => (1..4u64, 1..3u32, any::<bool>(), request())
            .prop_map(|(batch, tasks, key, request)| Step::Submit { batch, tasks, key, request }),
        2 => (1..4u64, 0..3u32, request())
            .prop_map(|(batch, task, request)| Step::Cancel { batch, task, request }),
        3 => (1..4u64, 0..3u32, any::<bool>(), request())
            .prop_map(|(batch, task, key, request)| Step::Retry { batch, task, key, request }),
        4 => (worker.clone(), 0..2u32, held)
            .prop_map(|(worker, boot, held)| Step::Hello { worker, boot, held }),
        12 => (worker.clone(), said).prop_map(|(worker, said)| Step::Says(worker, said)),
        1 => worker.clone().prop_map(Step::Gone),
        3 => (attempt(), 0..2u64).prop_map(|(id, offset)| Step::LogStored(id, offset)),
        1 => (worker, any::<bool>()).prop_map(|(worker, on)| Step::Steer(worker, on)),
    ]
}

type Call = Pin<Box<dyn Future<Output = String>>>;

/// Who calls: keeps what sessions are told.
struct Callers {
    handle: Handle,
    /// The newest session of each worker, by their order.
    newest: BTreeMap<u32, u64>,
    sessions: u64,
    told: Arc<Mutex<BTreeMap<u64, engine::handle::Session>>>,
    /// Sessions whose streams have ended: what is still on its way to them is dropped.
    over: Vec<u64>,
}

impl Callers {
    fn new(handle: Handle) -> Self {
        let (newest, told) = (BTreeMap::new(), Arc::default());
        Self { handle, newest, sessions: 0, told, over: Vec::new() }
    }

    /// The call of a step; its answer is text. Made outside of a runtime.
    fn call(&mut self, step: Step) -> Call {
        let handle = self.handle.clone();
        let once = |request: Option<(u8, u8)>| {
            request.map(|(id, digest)| Request { id: format!("r{id}"), digest: [digest; 32] })
        };
        let tasks = |task: u32| if task == 0 { vec![] } else { vec![TaskIndex(task)] };
        let secret = |key: bool| key.then(|| b"sealed".to_vec());
        match step {
            Step::Submit { batch, tasks, key, request } => {
                let mut submit = world::submission(batch, tasks, tasks);
                submit.secret = secret(key);
                submit.request = once(request);
                Box::pin(async move { format!("{:?}", handle.submit(submit).await) })
            }
            Step::Cancel { batch, task, request } => {
                let cancel = Cancel {
                    batch: world::batch(batch),
                    tasks: tasks(task),
                    reason: "why not".into(),
                    immediate: false,
                    request: once(request),
                };
                Box::pin(async move { format!("{:?}", handle.cancel(cancel).await) })
            }
            Step::Retry { batch, task, key, request } => {
                let system = policy::SystemLimits { max_concurrency: 1_000, max_tasks: 1_000 };
                let policy = policy::Policy { max_concurrency: 1_000, max_tasks: 1_000, system };
                let retry = Retry {
                    batch: world::batch(batch),
                    tasks: tasks(task),
                    secret: secret(key),
                    limits: RetryLimits { policy, approvals: Approvals::default() },
                    request: once(request),
                };
                Box::pin(async move { format!("{:?}", handle.retry(retry).await) })
            }
            Step::Hello { worker, boot, held } => {
                self.sessions += 1;
                self.newest.insert(worker, self.sessions);
                let boot_id = format!("boot {boot}");
                let hello = Hello { boot_id, connection: self.sessions, ..*world::hello(worker, 2, &held) };
                let told = Arc::clone(&self.told);
                Box::pin(async move {
                    match handle.attach(hello).await {
                        Ok(session) => {
                            told.lock().expect("nobody panics with it").insert(session.id.0, session);
                            "attached".into()
                        }
                        Err(error) => format!("{error:?}"),
                    }
                })
            }
            Step::Says(worker, said) => {
                let Some(session) = self.newest.get(&worker).copied() else { return nothing() };
                Box::pin(async move { format!("{:?}", handle.worker_says(SessionId(session), said).await) })
            }
            Step::Gone(worker) => {
                let Some(session) = self.newest.remove(&worker) else { return nothing() };
                self.over.push(session);
                Box::pin(async move { format!("{:?}", handle.detach(SessionId(session)).await) })
            }
            Step::LogStored(id, offset) => {
                let stored = handle.log_stored_blocking(id, offset);
                Box::pin(async move { format!("{stored:?}") })
            }
            Step::Steer(worker, on) => {
                let steer = if on { Steer::Drain } else { Steer::Resume };
                Box::pin(async move {
                    let answer = handle.steer(format!("w{worker}"), steer).await;
                    format!("{:?}", answer.map(|view| (view.name, view.status, view.held)))
                })
            }
        }
    }

    /// What each session was told, those aside that are over.
    fn told(self) -> BTreeMap<u64, Vec<String>> {
        let mut told = self.told.lock().expect("nobody panics with it");
        let mut all = BTreeMap::new();
        for (id, session) in told.iter_mut().filter(|(id, _)| !self.over.contains(id)) {
            let messages = std::iter::from_fn(|| session.messages.try_recv().ok());
            let text = |message| match message {
                // These workers end what they were not sent yet, and with its batch's end a key is deleted.
                SessionMessage::Offer(offer) => format!("offer of {}", offer.attempt),
                message => format!("{message:?}"),
            };
            all.insert(*id, messages.map(text).collect());
        }
        all
    }
}

fn nothing() -> Call {
    Box::pin(async { String::new() })
}

/// What came of a sequence, times aside.
#[derive(Debug, PartialEq)]
struct Came {
    answers: Vec<String>,
    told: BTreeMap<u64, Vec<String>>,
    store: String,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

fn wait<T>(runtime: &Runtime, call: impl Future<Output = T>) -> T {
    runtime.block_on(async { tokio::time::timeout(PATIENCE, call).await.expect("an answer in time") })
}

fn poll<T>(call: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    call.poll(&mut Context::from_waker(Waker::noop()))
}

fn without_times(mut store: Store) -> String {
    for loaded in store.batches.values_mut() {
        let state = &mut loaded.state;
        (state.start_ms, state.end_ms) = (state.start_ms.map(|_| 0), state.end_ms.map(|_| 0));
        for task in &mut loaded.tasks {
            (task.start_ms, task.end_ms) = (task.start_ms.map(|_| 0), task.end_ms.map(|_| 0));
        }
    }
    store.attempts.values_mut().for_each(|row| row.end_ms = 0);
    store.requests.values_mut().for_each(|record| record.time_ms = 0);
    format!("{store:#?}")
}

/// Everything waits before the engine starts (`together`), or each step is committed before the next is sent.
fn play(steps: &[Step], together: bool) -> (Came, usize) {
    let (runtime, memory) = (runtime(), Memory::default());
    let (handle, inbox) = engine::channel();
    let mut callers = Callers::new(handle.clone());
    let (stopped, answers) = if together {
        let calls: Vec<_> = steps
            .iter()
            .map(|step| {
                let mut call = callers.call(step.clone());
                match poll(call.as_mut()) {
                    Poll::Ready(answer) => Box::pin(async move { answer }),
                    Poll::Pending => call,
                }
            })
            .collect();
        let stopped = engine::spawn(inbox, parts(memory.clone())).expect("it starts");
        let answers = calls.into_iter().map(|call| wait(&runtime, call)).collect();
        (stopped, answers)
    } else {
        let stopped = engine::spawn(inbox, parts(memory.clone())).expect("it starts");
        let one = |step: &Step| {
            let call = callers.call(step.clone());
            let answer = wait(&runtime, call);
            wait(&runtime, handle.workers()).expect("the loop has come so far");
            answer
        };
        (stopped, steps.iter().map(one).collect())
    };
    wait(&runtime, handle.shut_down());
    wait(&runtime, stopped).expect("the engine says how it ended").expect("no commit fails");
    let (store, commits) = memory.kept().clone();
    (Came { answers, told: callers.told(), store: without_times(store) }, commits)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_group_comes_out_as_its_events_would_one_by_one(steps in prop::collection::vec(step(), 20..80)) {
        let ((alone, _), (together, _)) = (play(&steps, false), play(&steps, true));
        for (place, (alone, together)) in alone.answers.iter().zip(&together.answers).enumerate() {
            prop_assert_eq!(alone, together, "the answer to step {}", place);
        }
        prop_assert_eq!(&alone.told, &together.told);
        prop_assert_eq!(&alone.store, &together.store);
    }
}

#[test]
fn late_results_of_a_group_build_on_one_another() {
    let said = |message| Step::Says(0, message);
    let id = |task| world::attempt(1, task, 1);
    let late = |task| said(FromWorker::Ended(id(task), world::exited(0)));
    let hello = |boot| Step::Hello { worker: 0, boot, held: vec![] };
    let steps = [
        Step::Submit { batch: 1, tasks: 3, key: false, request: None },
        hello(0),
        said(FromWorker::Accepted(id(1))),
        said(FromWorker::Accepted(id(2))),
        // Both are given up, and the third is cancelled: the batch ends and is in the store alone.
        Step::Cancel { batch: 1, task: 3, request: None },
        Step::Gone(0),
        hello(1),
        late(1),
        late(2),
        late(1),
        Step::Retry { batch: 1, task: 3, key: false, request: None },
        late(2),
    ];
    let ((alone, _), (together, _)) = (play(&steps, false), play(&steps, true));
    assert_eq!(alone, together);
    assert_eq!(together.store.matches("late: true").count(), 2, "{}", together.store);
}

#[test]
fn submissions_share_a_commit_and_a_conflict_is_only_its_callers() {
    let submit =
        |batch, id, digest| Step::Submit { batch, tasks: 1, key: false, request: Some((id, digest)) };
    let mut steps: Vec<_> = (1..=100).map(|n| submit(n, n as u8, 0)).collect();
    // A batch id that is taken, a request that came before, and one that came with other content.
    steps.extend([submit(1, 101, 0), submit(201, 2, 0), submit(202, 3, 1), submit(203, 104, 0)]);
    let (came, commits) = play(&steps, true);
    let stored = |batch: u64, revision: i64| {
        format!("{:?}", Ok::<_, engine::handle::Error>((world::batch(batch), revision)))
    };
    for n in 1..=100 {
        assert_eq!(came.answers[n as usize - 1], stored(n, 1));
    }
    assert!(came.answers[100].contains("BatchIdTaken"), "{}", came.answers[100]);
    assert_eq!(came.answers[101], stored(2, 0));
    assert!(came.answers[102].contains("RequestIdReused"), "{}", came.answers[102]);
    assert_eq!(came.answers[103], stored(203, 1));
    assert!(commits < 100, "{commits} commits for 101 batches");
}

#[test]
fn nothing_leaves_before_its_commit() {
    let runtime = runtime();
    let ((begun, begins), (go_on, goes_on)) = (mpsc::channel(), mpsc::channel());
    let gate = Gate { begun, go_on: goes_on };
    let memory = Memory { gate: Some(Arc::new(Mutex::new(gate))), ..Memory::default() };
    let (handle, inbox) = engine::channel();
    let mut callers = Callers::new(handle.clone());
    let submit = |batch| Step::Submit { batch, tasks: 1, key: false, request: Some((batch as u8, 0)) };
    let steps = [
        Step::Hello { worker: 1, boot: 0, held: vec![] },
        submit(1),
        submit(2),
        // Read from the store, so that what came before is committed first.
        Step::Submit { batch: 3, tasks: 1, key: false, request: Some((1, 0)) },
        Step::Cancel { batch: 2, task: 0, request: None },
    ];
    let mut calls: Vec<_> = steps.into_iter().map(|step| callers.call(step)).collect();
    let open = |at: usize, calls: &mut Vec<Call>| poll(calls[at].as_mut()).is_pending();
    assert!((0..5).all(|at| open(at, &mut calls)));
    let stopped = engine::spawn(inbox, parts(memory.clone())).expect("it starts");
    let mut committed = 0;
    while committed < 5 {
        begins.recv_timeout(PATIENCE).expect("a commit begins");
        // While it goes on, only those are answered whose effects are stored.
        let kept = memory.kept().0.clone();
        let has = |n| kept.batches.contains_key(&world::batch(n));
        let cancelled = || kept.batches[&world::batch(2)].state.status == BatchStatus::Cancelled;
        let due = [!kept.workers.is_empty(), has(1), has(2), has(1), has(2) && cancelled()];
        let mut answered = 0;
        for (at, due) in due.into_iter().enumerate().skip(committed) {
            if !open(at, &mut calls) {
                assert!(due, "answer {at} left before its commit");
                calls[at] = nothing();
                answered += 1;
            }
        }
        committed += answered;
        go_on.send(()).expect("the engine waits");
        if has(1) && has(2) {
            break;
        }
    }
    // The rest goes through.
    drop(go_on);
    for call in calls {
        wait(&runtime, call);
    }
    wait(&runtime, handle.shut_down());
    wait(&runtime, stopped).expect("the engine says how it ended").expect("no commit fails");
}
