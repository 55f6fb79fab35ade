//! The machine beside the model: whatever can be seen is the same after every event, and what must hold holds.

use std::collections::{BTreeMap, BTreeSet};

use muster_coordinator::core::{event::*, machine::Config, model::*};
use muster_proto::{AttemptId, BatchId};

use crate::{
    model::{Model, Out, Task},
    world::{LIFE, World, config},
};

/// Both, and what they were told.
pub(crate) struct Pair {
    pub(crate) world: World,
    pub(crate) model: Model,
    /// Events that both were told.
    pub(crate) events: usize,
    /// Tasks of which a worker said that the program runs, with how many attempts there were before it may again.
    started: BTreeMap<(BatchId, u32), u32>,
}

/// What is not the same, or does not hold.
pub(crate) type Told = Result<(), String>;

impl Pair {
    pub(crate) fn new() -> Self {
        Self { world: World::new(), model: Model::default(), events: 0, started: BTreeMap::new() }
    }

    /// Tells both, and compares.
    pub(crate) fn tell(&mut self, event: Event) -> Told {
        self.events += 1;
        self.model.now = self.world.now_ms;
        self.model.handle(&event);
        let outputs = self.world.turn(event);
        self.compare_outputs(&outputs)?;
        self.compare_store()?;
        self.check(&outputs)
    }

    /// Only what is committed is left of the machine.
    pub(crate) fn restart(&mut self, hold: bool) -> Told {
        if hold {
            for batch in self.world.store.batches.values_mut() {
                // What ran is not known to run when data comes from a copy.
                let free = |task: &TaskState| !task.offered && task.status != TaskStatus::Running;
                if !batch.state.status.is_ended() && batch.tasks.iter().all(free) {
                    batch.state.on_hold = true;
                    batch.state.message = "restored".into();
                }
            }
        }
        self.world.restart();
        let Config { lost_after_ms, recovery_ms, .. } = config();
        self.model.now = self.world.now_ms;
        self.model.restart(lost_after_ms.max(recovery_ms), hold);
        self.compare_store()
    }

    fn compare_outputs(&self, outputs: &[Output]) -> Told {
        let said = outputs.iter().map(|output| match output {
            Output::Reply(_, reply) => Out::Reply(plain(reply)),
            Output::Send(session, message) => Out::Send(session.0, message.clone()),
            Output::Close(session, _) => Out::Close(session.0),
        });
        let (said, expected) =
            (by_session(said.collect()), by_session(self.model.outs.iter().map(copy).collect()));
        same("said", &said, &expected)
    }

    fn compare_store(&self) -> Told {
        let (store, model) = (&self.world.store, &self.model);
        let ids: Vec<_> = store.batches.keys().collect();
        same("batches", &ids, &model.batches.keys().collect())?;
        let mut attempts = 0;
        for (id, expected) in &model.batches {
            let found = &store.batches[id];
            let message = if found.state.message.is_empty() { String::new() } else { "so".into() };
            let state = BatchState { message, ..found.state.clone() };
            same(&format!("batch {id}"), &state, &expected.state())?;
            same("key", &store.secrets.contains_key(id), &expected.has_secret)?;
            for (row, task) in found.tasks.iter().zip(&expected.tasks) {
                compare_task(*id, row, task)?;
                for row in task.attempts.iter().filter_map(|attempt| attempt.row.as_ref()) {
                    attempts += 1;
                    same("attempt", &store.attempts.get(&row.id), &Some(row))?;
                }
            }
        }
        for (id, row) in &model.foreign {
            attempts += 1;
            same("attempt of another life", &store.attempts.get(id), &Some(row))?;
        }
        same("ended attempts", &store.attempts.len(), &attempts)?;
        let rows: Vec<_> = model.workers.values().filter(|worker| worker.stored).collect();
        same("workers", &store.workers.len(), &rows.len())?;
        for worker in rows {
            let found = store.workers.get(&worker.who.instance).map(|row| {
                (&row.worker, &row.boot_id, row.connection, row.slots, row.draining, row.set_aside.is_some())
            });
            let Some(found) = found else { return Err(format!("{:?} is not stored", worker.who)) };
            let expected = (
                &worker.who,
                &worker.boot,
                worker.connection,
                worker.slots,
                worker.draining,
                worker.set_aside,
            );
            same("worker", &found, &expected)?;
        }
        let requests = store.requests.values().map(|record| (&record.id, (record.digest, record.batch)));
        let requests: BTreeMap<_, _> = requests.collect();
        same("requests", &requests, &model.requests.iter().map(|(id, call)| (id, *call)).collect())?;
        let available = self.world.machine.available_workers();
        same("available", &available, &(model.workers.values().filter(|w| w.takes_tasks()).count() as u32))
    }

    /// What must hold, whatever the model says: it could be wrong as well.
    fn check(&mut self, outputs: &[Output]) -> Told {
        for (id, batch) in &self.world.store.batches {
            let heard: BTreeSet<_> = self
                .model
                .workers
                .values()
                .filter(|w| w.status() != WorkerStatus::Lost)
                .map(|w| &w.who.instance)
                .collect();
            let handed_out =
                batch.tasks.iter().filter(|task| task.offered || task.status == TaskStatus::Running);
            let handed_out =
                handed_out.filter(|task| task.worker.as_ref().is_some_and(|w| heard.contains(&w.instance)));
            if handed_out.count() > batch.head.effective_concurrency as usize {
                return Err(format!("more tasks of {id} are handed out than its limit allows"));
            }
        }
        for output in outputs {
            match output {
                Output::Send(session, ToWorker::Acknowledged(id)) if self.is_active_on(*id, session.0) => {
                    return Err(format!("{id} is acknowledged, and its end is not committed"));
                }
                Output::Send(_, ToWorker::Offer(id, _)) => {
                    // By an operator, or as its retries say.
                    let again = |task: &mut Task| task.retried_at.max(task.again_at) as u32;
                    let retried = self.model.task(*id).map_or(0, again);
                    let began = self.started.get(&(id.batch, id.task.0));
                    if began.is_some_and(|began| *began > retried) {
                        return Err(format!("{id} is handed out though an earlier attempt ran"));
                    }
                }
                _ => {}
            }
        }
        for (id, attempt) in self.model.active() {
            if attempt.ran {
                self.started.insert((id.batch, id.task.0), id.attempt.0);
            }
        }
        Ok(())
    }

    /// Whether the attempt is offered to this session's worker, or runs there. (What a worker says of another's is
    /// about nothing that it ever had.)
    fn is_active_on(&self, id: AttemptId, session: u64) -> bool {
        let task =
            self.world.store.batches.get(&id.batch).and_then(|batch| batch.tasks.get(id.task.0 as usize - 1));
        let active = |task: &&TaskState| task.offered || task.status == TaskStatus::Running;
        let task = task.filter(active).filter(|task| id.life == LIFE && task.attempt == id.attempt);
        let holder = task.and_then(|task| task.worker.as_ref()).map(|worker| worker.instance.clone());
        holder.is_some() && holder == self.model.by_session(session)
    }
}

fn compare_task(batch: BatchId, row: &TaskState, task: &Task) -> Told {
    let mut expected = task.row();
    expected.failure_message.clone_from(&row.failure_message);
    same(&format!("a task of {batch}"), row, &expected)
}

/// Each session's messages in their order, and everything else in one.
fn by_session(outs: Vec<Out>) -> (Vec<Out>, BTreeMap<u64, Vec<ToWorker>>, BTreeSet<u64>) {
    let (mut replies, mut sent, mut closed) = (Vec::new(), BTreeMap::<u64, Vec<_>>::new(), BTreeSet::new());
    for out in outs {
        match out {
            Out::Reply(_) => replies.push(out),
            Out::Send(session, message) => sent.entry(session).or_default().push(message),
            Out::Close(session) => drop(closed.insert(session)),
        }
    }
    (replies, sent, closed)
}

fn copy(out: &Out) -> Out {
    match out {
        Out::Reply(reply) => Out::Reply(plain(reply)),
        Out::Send(session, message) => Out::Send(*session, message.clone()),
        Out::Close(session) => Out::Close(*session),
    }
}

/// A reply without its texts for people.
fn plain(reply: &Reply) -> Reply {
    let view = |view: &WorkerView| WorkerView {
        message: if view.message.is_empty() { String::new() } else { "aside".into() },
        labels: BTreeMap::new(),
        version: String::new(),
        ..view.clone()
    };
    match reply {
        Reply::Batch(id, revision) => Reply::Batch(*id, *revision),
        Reply::Worker(one) => Reply::Worker(Box::new(view(one))),
        Reply::Workers(all) => Reply::Workers(all.iter().map(view).collect()),
        Reply::Explained(_) => Reply::Explained(None),
        Reply::Attached => Reply::Attached,
        Reply::Refused(refused) => Reply::Refused(refused.clone()),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Told {
    if found == expected { Ok(()) } else { Err(format!("{what}\n   found {found:?}\nexpected {expected:?}")) }
}
