//! The one loop that owns the machine: input, facts, machine, commit, outputs.
//!
//! Runs on a thread of its own. While one group is being committed the next gathers in the queue, so load
//! makes groups bigger. Decides nothing: what follows from an event is the machine's.

mod clock;
pub mod handle;
mod outputs;
mod record;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use muster_proto::{AttemptId, BatchId};
use tokio::{sync::mpsc, sync::oneshot, time::timeout};

use crate::{
    core::{
        event::{Change, Event, Facts, FromWorker, Needs, Output},
        machine::{self, Machine},
    },
    secrets::Secret,
    store::{self, Store},
    watch::Hub,
};
use clock::Clock;
use handle::{Handle, INPUT_CAPACITY, Input};
use outputs::Outputs;

/// A group is committed when it has so many changes ...
const MAX_GROUP_CHANGES: usize = 2_000;
/// ... or has gathered for so long.
const MAX_GROUP_TIME: Duration = Duration::from_millis(10);
/// The loop turns at least so often, so that a longer gap is known for a stall.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// What the engine asks of the logs.
pub trait LogOffsets: Send {
    /// Output of an attempt that is stored for good, bytes.
    fn stored(&self, attempt: AttemptId) -> u64;
}

/// What the engine asks of the key ring.
pub trait Unseal: Send {
    /// The key of a batch in the clear, or why it cannot be read.
    fn unseal(&self, batch: BatchId, sealed: &[u8]) -> Result<Secret, String>;
}

/// What the engine owns.
pub struct Parts {
    /// The writing side of the store.
    pub store: Box<dyn Store>,
    /// Says how much output is stored.
    pub logs: Box<dyn LogOffsets>,
    /// Opens keys.
    pub keys: Box<dyn Unseal>,
    /// Where committed revisions are published.
    pub hub: Hub,
    /// How much of an attempt's output is kept, in bytes.
    pub log_limit: u64,
    /// Numbers of the protocol.
    pub machine: machine::Config,
}

/// The queue into an engine that is not started yet.
pub struct Inbox {
    inputs: mpsc::Receiver<Input>,
    available_workers: Arc<AtomicU32>,
}

/// The way into an engine, and what `spawn` starts it with.
pub fn channel() -> (Handle, Inbox) {
    let (sender, inputs) = mpsc::channel(INPUT_CAPACITY);
    let available_workers = Arc::new(AtomicU32::new(0));
    (Handle::new(sender, available_workers.clone()), Inbox { inputs, available_workers })
}

/// Ends when the engine has stopped: `Ok` after a shutdown, `Err` when the store failed (fail-stop).
pub type Stopped = oneshot::Receiver<Result<(), store::Error>>;

/// Loads what is unfinished and starts the loop.
pub fn spawn(inbox: Inbox, mut parts: Parts) -> Result<Stopped, store::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| store::Error::Failed(format!("the engine's timers: {error}")))?;
    let clock = Clock::start();
    let life = parts.store.life();
    let batches = parts.store.load_unfinished()?;
    let workers = parts.store.load_workers()?;
    tracing::info!(unfinished = batches.len(), workers = workers.len(), "store loaded");
    let machine = Machine::new(parts.machine, life, clock.now(), batches, workers);
    let engine = Engine {
        machine,
        store: parts.store,
        outputs: Outputs::new(parts.hub, parts.logs, parts.keys, parts.log_limit),
        clock,
        inputs: inbox.inputs,
        available_workers: inbox.available_workers,
        pending: Pending::default(),
    };
    let (sender, stopped) = oneshot::channel();
    thread::Builder::new()
        .name("engine".into())
        .spawn(move || {
            let result = engine.run(&runtime);
            if let Err(error) = &result {
                tracing::error!(%error, "the engine stops");
            }
            // Whoever waited may be gone, which is fine.
            let _ = sender.send(result);
        })
        .map_err(|error| store::Error::Failed(format!("the engine's thread: {error}")))?;
    Ok(stopped)
}

struct Engine {
    machine: Machine,
    store: Box<dyn Store>,
    outputs: Outputs,
    clock: Clock,
    inputs: mpsc::Receiver<Input>,
    available_workers: Arc<AtomicU32>,
    pending: Pending,
}

/// The group that is being gathered.
#[derive(Default)]
struct Pending {
    changes: Vec<Change>,
    outputs: Vec<Output>,
}

enum Next {
    Input(Input),
    Timer,
    Closed,
}

impl Engine {
    fn run(mut self, runtime: &tokio::runtime::Runtime) -> Result<(), store::Error> {
        loop {
            let next = self.wait(runtime);
            let open = match next {
                Next::Input(input) => self.gather(input)?,
                Next::Timer => true,
                Next::Closed => false,
            };
            self.step(Event::Tick)?;
            self.flush()?;
            if !open {
                self.outputs.close_all("the coordinator is shutting down");
                return Ok(());
            }
        }
    }

    /// Waits for an input or for the next timer.
    fn wait(&mut self, runtime: &tokio::runtime::Runtime) -> Next {
        let now = self.clock.now().mono_ms;
        let until_timer =
            self.machine.next_deadline().map(|at| Duration::from_millis(at.saturating_sub(now)));
        let patience = until_timer.unwrap_or(MAX_WAIT).min(MAX_WAIT);
        // The timer belongs to the runtime, so it is made inside it.
        match runtime.block_on(async { timeout(patience, self.inputs.recv()).await }) {
            Ok(Some(input)) => Next::Input(input),
            Ok(None) => Next::Closed,
            Err(_) => Next::Timer,
        }
    }

    /// Handles an input and all that wait behind it, up to the bounds of a group. False: shut down.
    fn gather(&mut self, first: Input) -> Result<bool, store::Error> {
        let begin = Instant::now();
        let mut next = Some(first);
        while let Some(input) = next {
            match input {
                Input::Remove(batch, reply) => {
                    // What is pending may reopen it, or be about it.
                    self.flush()?;
                    let gone = self.machine.is_unfinished(batch) || self.store.remove(batch)?;
                    // Whoever asked may have gone, and asks again.
                    let _ = reply.send(gone);
                }
                Input::ForgetRequests(before_ms, reply) => {
                    let _ = reply.send(self.store.forget_requests(before_ms)?);
                }
                input => {
                    let Some(event) = self.outputs.admit(input) else { return Ok(false) };
                    self.step(event)?;
                }
            }
            let full = self.pending.changes.len() >= MAX_GROUP_CHANGES || begin.elapsed() >= MAX_GROUP_TIME;
            next = if full { None } else { self.inputs.try_recv().ok() };
        }
        Ok(true)
    }

    /// Handles one event into the pending group.
    fn step(&mut self, event: Event) -> Result<(), store::Error> {
        let facts = self.facts(&event)?;
        // A commit that took long is behind us now: it is known for a stall before any timer is looked at.
        self.clock.turn();
        let effects = self.machine.handle(self.clock.now(), event, facts);
        self.pending.changes.extend(effects.changes);
        self.pending.outputs.extend(effects.outputs);
        Ok(())
    }

    /// Reads what the machine cannot know. What is pending is committed first, so that nothing is missed.
    fn facts(&mut self, event: &Event) -> Result<Facts, store::Error> {
        let mut facts = Facts::default();
        if let Event::Worker(_, FromWorker::Ended(attempt, _)) = event {
            facts.log_stored = self.outputs.log_stored(*attempt);
        }
        let mut needs = self.machine.needs(event);
        if needs.is_empty() {
            return Ok(facts);
        }
        // What is pending matters only where it is about the same things; other submissions share a group.
        if self.pending.changes.iter().any(|change| concerns(change, &needs)) {
            self.flush()?;
            // Offers of the group may have been unsendable, which can end a batch.
            needs = self.machine.needs(event);
        }
        for batch in needs.batches {
            facts.batches.insert(batch, self.store.load_batch(batch)?);
        }
        for key in needs.tasks {
            facts.tasks.extend(self.store.load_task(key)?.map(|stored| (key, stored)));
        }
        if let Some(id) = needs.request {
            facts.request = self.store.find_request(&id)?;
        }
        for attempt in needs.attempts {
            if let Some(row) = self.store.find_attempt(attempt)? {
                facts.attempts.insert(attempt, row);
            }
        }
        Ok(facts)
    }

    /// Commits the pending group and releases its outputs, until none is left.
    fn flush(&mut self) -> Result<(), store::Error> {
        while !self.pending.changes.is_empty() || !self.pending.outputs.is_empty() {
            let group = std::mem::take(&mut self.pending);
            if !group.changes.is_empty() {
                self.store.commit(&group.changes)?;
                group.changes.iter().for_each(record::record);
            }
            self.available_workers.store(self.machine.available_workers(), Ordering::Relaxed);
            let unsendable = self.outputs.release(self.store.as_mut(), &group.changes, group.outputs)?;
            for (attempt, reason, message) in unsendable {
                self.step(Event::Unsendable(attempt, reason, message))?;
            }
        }
        Ok(())
    }
}

/// Whether a change that is not committed yet could alter the facts that are needed.
fn concerns(change: &Change, needs: &Needs) -> bool {
    let batch = |id: &BatchId| {
        needs.batches.contains(id)
            || needs.tasks.iter().any(|(batch, _)| batch == id)
            || needs.attempts.iter().any(|attempt| attempt.batch == *id)
    };
    match change {
        Change::NewBatch { head, .. } => batch(&head.id),
        Change::Batch(id, _)
        | Change::Task(id, ..)
        | Change::Secret(id, _)
        | Change::Exclude(id, ..)
        | Change::ForgetExclusions(id, _) => batch(id),
        Change::Attempt(row) => batch(&row.id.batch),
        Change::Request(record) => needs.request.as_ref() == Some(&record.id),
        Change::Worker(_) | Change::ForgetWorker(_) => false,
    }
}
