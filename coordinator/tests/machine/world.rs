//! A machine with a store made of maps: answers what the machine needs, applies its changes, and checks what
//! must hold after every one of them.

use std::collections::BTreeMap;

use muster_coordinator::core::{
    event::*,
    explain::Reason,
    machine::{Config, Machine},
    model::*,
    options::BatchOptions,
    plan::TaskSpec,
};
use muster_proto::{AttemptId, AttemptNo, BatchId, LifeId, TaskIndex};

pub(crate) const LIFE: LifeId = LifeId(7);

/// The numbers that scripts use: an offer is answered in 10 s, a worker is lost after 100 s.
pub(crate) fn config() -> Config {
    Config { lost_after_ms: 100_000, ..Config::default() }
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Store {
    pub(crate) batches: BTreeMap<BatchId, LoadedBatch>,
    pub(crate) attempts: BTreeMap<AttemptId, AttemptRow>,
    pub(crate) requests: BTreeMap<String, RequestRecord>,
    pub(crate) secrets: BTreeMap<BatchId, Vec<u8>>,
    pub(crate) workers: BTreeMap<InstanceId, WorkerRow>,
}

impl Store {
    /// Applies a change, which must fit what is there.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::NewBatch { head, state, specs } => {
                assert_eq!(specs.len(), head.task_count as usize);
                let fresh = TaskState { revision: state.revision, ..TaskState::default() };
                let tasks = vec![fresh; specs.len()];
                let old = self.batches.insert(head.id, LoadedBatch { head, state, tasks, excluded: vec![] });
                assert!(old.is_none(), "a batch was stored twice");
            }
            Change::Batch(id, state) => {
                let stored = self.batches.get_mut(&id).expect("a change of a stored batch");
                assert!(state.revision > stored.state.revision, "revisions only grow");
                stored.state = state;
            }
            Change::Task(id, task, state) => {
                let stored = self.batches.get_mut(&id).expect("a change of a stored batch");
                let row = &mut stored.tasks[task.0 as usize - 1];
                assert!(state.attempt >= row.attempt, "attempts only grow");
                if row.status.is_ended() && state.status.is_ended() {
                    assert_eq!(
                        TaskState { revision: 0, ..row.clone() },
                        TaskState { revision: 0, ..*state.clone() },
                        "an end is final"
                    );
                }
                *row = *state;
            }
            Change::Exclude(id, task, machine) => {
                let stored = self.batches.get_mut(&id).expect("a change of a stored batch");
                assert!(!stored.excluded.contains(&(task, machine.clone())), "offered where it cannot start");
                stored.excluded.push((task, machine));
            }
            Change::ForgetExclusions(id, task) => {
                let stored = self.batches.get_mut(&id).expect("a change of a stored batch");
                stored.excluded.retain(|(other, _)| *other != task);
            }
            Change::Attempt(row) => {
                if let Some(old) = self.attempts.get(&row.id) {
                    assert!(row.late && !old.late, "an attempt's row changes once at most, by a late result");
                }
                self.attempts.insert(row.id, row);
            }
            Change::Secret(id, Some(secret)) => drop(self.secrets.insert(id, secret)),
            Change::Secret(id, None) => drop(self.secrets.remove(&id)),
            Change::Request(record) => drop(self.requests.insert(record.id.clone(), record)),
            Change::Worker(row) => drop(self.workers.insert(row.worker.instance.clone(), row)),
            Change::ForgetWorker(instance) => drop(self.workers.remove(&instance)),
        }
    }
}

pub(crate) struct World {
    pub(crate) machine: Machine,
    pub(crate) store: Store,
    pub(crate) now_ms: u64,
    pub(crate) log_stored: BTreeMap<AttemptId, u64>,
    next: u64,
}

pub(crate) fn batch(n: u64) -> BatchId {
    BatchId::new(n, 0)
}

pub(crate) fn attempt(b: u64, task: u32, no: u32) -> AttemptId {
    AttemptId { life: LIFE, batch: batch(b), task: TaskIndex(task), attempt: AttemptNo(no) }
}

pub(crate) fn worker(n: u32) -> WorkerRef {
    WorkerRef { instance: InstanceId(format!("{n:032x}")), name: format!("w{n}") }
}

pub(crate) fn hello(n: u32, slots: u32, held: &[(AttemptId, HeldPhase)]) -> Box<Hello> {
    Box::new(Hello {
        worker: worker(n),
        boot_id: "boot".into(),
        slots,
        labels: BTreeMap::new(),
        version: "1".into(),
        held: held.to_vec(),
        draining: false,
        connection: 0,
    })
}

pub(crate) fn exited(code: i32) -> Box<Ended> {
    ended(Outcome::Exited(code))
}

pub(crate) fn ended(outcome: Outcome) -> Box<Ended> {
    Box::new(Ended {
        outcome,
        stop_sent: false,
        stop_cause: None,
        log_size: 0,
        log_discarded: 0,
        output_failed: None,
        output_path: "/out".into(),
        pid: 42,
    })
}

impl World {
    pub(crate) fn new() -> Self {
        let machine = Machine::new(config(), LIFE, Now { mono_ms: 0, unix_ms: 0 }, vec![], vec![]);
        Self { machine, store: Store::default(), now_ms: 0, log_stored: BTreeMap::new(), next: 0 }
    }

    /// The coordinator is killed and started again: only what is committed is left.
    pub(crate) fn restart(&mut self) {
        let unfinished =
            self.store.batches.values().filter(|b| !b.state.status.is_ended()).cloned().collect();
        let workers = self.store.workers.values().cloned().collect();
        self.machine = Machine::new(config(), LIFE, self.now(), unfinished, workers);
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, unix_ms: self.now_ms as i64 }
    }

    pub(crate) fn send(&mut self, event: Event) -> Vec<Output> {
        let needs = self.machine.needs(&event);
        let mut facts = Facts::default();
        for id in needs.batches {
            facts.batches.insert(id, self.store.batches.get(&id).cloned());
        }
        for (id, task) in needs.tasks {
            if let Some(loaded) = self.store.batches.get(&id) {
                let stored = (loaded.state.clone(), loaded.tasks[task.0 as usize - 1].clone());
                facts.tasks.insert((id, task), stored);
            }
        }
        facts.request = needs.request.and_then(|id| self.store.requests.get(&id).cloned());
        for id in needs.attempts {
            facts.attempts.extend(self.store.attempts.get(&id).map(|row| (id, row.clone())));
        }
        if let Event::Worker(_, FromWorker::Ended(id, _)) = &event {
            facts.log_stored = self.log_stored.get(id).copied().unwrap_or(0);
        }
        let effects = self.machine.handle(self.now(), event, facts);
        for change in effects.changes {
            self.store.apply(change);
        }
        self.check();
        effects.outputs
    }

    /// What must hold whenever a group is committed.
    fn check(&self) {
        for loaded in self.store.batches.values() {
            let mut counts = Counts::default();
            let mut handed_out = 0;
            for task in &loaded.tasks {
                *counts.of(task.status) += 1;
                handed_out += u32::from(task.offered || task.status == TaskStatus::Running);
                assert!(task.revision <= loaded.state.revision);
                assert!(!task.offered || task.status == TaskStatus::Queued);
            }
            assert_eq!(counts, loaded.state.counts, "counts are kept, and right");
            assert!(handed_out <= loaded.head.effective_concurrency, "the limit holds");
            assert_eq!(counts.unfinished() == 0, loaded.state.status.is_ended());
            let ended = |task: &TaskIndex| loaded.tasks[task.0 as usize - 1].status.is_ended();
            assert!(!loaded.excluded.iter().any(|(task, _)| ended(task)), "of no use any more");
            if loaded.state.status.is_ended() {
                assert!(!self.store.secrets.contains_key(&loaded.head.id), "a key goes with its batch's end");
            }
            self.check_explanation(loaded, handed_out);
        }
    }

    /// Every task of an unfinished batch has a cause, whatever has happened.
    fn check_explanation(&self, loaded: &LoadedBatch, handed_out: u32) {
        let found = self.machine.explain(loaded.head.id, None).expect("the whole batch has no number");
        assert_eq!(found.is_none(), loaded.state.status.is_ended());
        let Some(found) = found else { return };
        let waiting = loaded.state.counts.unfinished() - handed_out;
        let of = |waits: bool| found.causes.iter().filter(move |cause| cause.reason.is_waiting() == waits);
        assert_eq!(
            of(true).any(|cause| cause.tasks > 0),
            waiting > 0,
            "what waits waits for something: {found:?}"
        );
        assert!(of(true).all(|cause| cause.tasks <= waiting), "{found:?}");
        let others = of(false).map(|cause| cause.tasks).sum::<u32>();
        assert_eq!(others + waiting, loaded.head.task_count, "no other is left out: {found:?}");
        let backs_off = found.causes.iter().find(|cause| cause.reason == Reason::RetryBackoff);
        let queued = waiting - backs_off.map_or(0, |cause| cause.tasks);
        assert_eq!(found.place.is_some(), queued > 0);
    }

    pub(crate) fn reply_id(&mut self) -> ReplyId {
        self.next += 1;
        ReplyId(self.next)
    }

    pub(crate) fn submit(&mut self, n: u64, tasks: u32, limit: u32) -> Vec<Output> {
        let event = Event::Submit(self.reply_id(), Box::new(submission(n, tasks, limit)));
        self.send(event)
    }

    /// A batch that is carried out with these options.
    pub(crate) fn submit_with(
        &mut self,
        n: u64,
        tasks: u32,
        limit: u32,
        options: BatchOptions,
    ) -> Vec<Output> {
        let mut submit = submission(n, tasks, limit);
        submit.head.options = options;
        submit.head.create_ms = self.now().unix_ms;
        let event = Event::Submit(self.reply_id(), Box::new(submit));
        self.send(event)
    }

    pub(crate) fn connect(&mut self, session: u64, hello: Box<Hello>) -> Vec<Output> {
        let event = Event::Hello(self.reply_id(), SessionId(session), hello);
        self.send(event)
    }

    pub(crate) fn says(&mut self, session: u64, said: FromWorker) -> Vec<Output> {
        self.send(Event::Worker(SessionId(session), said))
    }

    pub(crate) fn cancel(&mut self, n: u64, tasks: &[u32]) -> Vec<Output> {
        let cancel = Cancel {
            batch: batch(n),
            tasks: tasks.iter().map(|t| TaskIndex(*t)).collect(),
            reason: "why not".into(),
            immediate: false,
            request: None,
        };
        let event = Event::Cancel(self.reply_id(), cancel);
        self.send(event)
    }

    pub(crate) fn retry(&mut self, n: u64, tasks: &[u32], secret: Option<Vec<u8>>) -> Vec<Output> {
        use muster_coordinator::core::{admission::Approvals, policy::*};
        let policy = Policy { max_concurrency: 1_000, max_tasks: 1_000, system: system() };
        let retry = Retry {
            batch: batch(n),
            tasks: tasks.iter().map(|t| TaskIndex(*t)).collect(),
            secret,
            limits: RetryLimits { policy, approvals: Approvals::default() },
            request: None,
        };
        let event = Event::Retry(self.reply_id(), Box::new(retry));
        self.send(event)
    }

    /// Lets time pass and timers fire.
    pub(crate) fn pass(&mut self, ms: u64) -> Vec<Output> {
        self.now_ms += ms;
        self.send(Event::Tick)
    }

    pub(crate) fn task(&self, n: u64, task: u32) -> &TaskState {
        &self.store.batches[&batch(n)].tasks[task as usize - 1]
    }

    pub(crate) fn state(&self, n: u64) -> &BatchState {
        &self.store.batches[&batch(n)].state
    }
}

fn system() -> muster_coordinator::core::policy::SystemLimits {
    muster_coordinator::core::policy::SystemLimits { max_concurrency: 1_000, max_tasks: 1_000 }
}

pub(crate) fn submission(n: u64, tasks: u32, limit: u32) -> Submit {
    let spec: TaskSpec = serde_json::from_str("{}").expect("every field of a spec has a default");
    Submit {
        head: BatchHead {
            id: batch(n),
            create_ms: 0,
            task_count: tasks,
            requested_concurrency: limit,
            effective_concurrency: limit,
            configured_max_concurrency: limit,
            configured_max_tasks: tasks,
            options: BatchOptions::default(),
        },
        specs: vec![spec; tasks as usize],
        secret: None,
        request: None,
    }
}

/// The offers among outputs, with the session each goes to.
pub(crate) fn offers(outputs: &[Output]) -> Vec<(u64, AttemptId)> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Send(session, ToWorker::Offer(id, _)) => Some((session.0, *id)),
            _ => None,
        })
        .collect()
}

/// Everything said to workers, offers aside.
pub(crate) fn said(outputs: &[Output]) -> Vec<(u64, ToWorker)> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Send(_, ToWorker::Offer(..)) => None,
            Output::Send(session, message) => Some((session.0, message.clone())),
            _ => None,
        })
        .collect()
}

pub(crate) fn reply(outputs: &[Output]) -> &Reply {
    outputs
        .iter()
        .find_map(|output| match output {
            Output::Reply(_, reply) => Some(reply),
            _ => None,
        })
        .expect("an answer")
}

pub(crate) fn closed(outputs: &[Output]) -> Vec<u64> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Close(session, _) => Some(session.0),
            _ => None,
        })
        .collect()
}
