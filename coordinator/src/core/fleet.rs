//! The workers that are known: who is connected, who may get tasks, who holds what.
//!
//! Keeps the index of free places true; what a worker's coming and going means for tasks is decided in
//! `sessions`.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::AttemptId;

use super::{
    event::{Hello, SessionId, WorkerStatus, WorkerView},
    model::{InstanceId, UnixMs, WorkerRef, WorkerRow},
};

/// A worker's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Up(SessionId),
    Down {
        since_mono_ms: u64,
    },
    /// Away too long; its tasks were given up.
    Lost {
        since_mono_ms: u64,
    },
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) who: WorkerRef,
    pub(super) boot_id: String,
    /// Of its newest hello; see there.
    pub(super) connection: u64,
    pub(super) slots: u32,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) version: String,
    pub(super) link: Link,
    /// The worker itself wants nothing new.
    pub(super) leaving: bool,
    /// An operator drains it.
    pub(super) draining: bool,
    pub(super) set_aside: Option<String>,
    /// Launches in a row that failed for the machine's sake.
    pub(super) launch_failures: u32,
    /// Nothing new before this: it gave an offer back unasked.
    pub(super) paused_until_mono_ms: Option<u64>,
    /// Attempts offered to it and not ended.
    pub(super) held: BTreeSet<AttemptId>,
    pub(super) last_seen_ms: Option<UnixMs>,
    /// When its session was replaced while it was up, as far as that still counts.
    pub(super) replaced_mono_ms: Vec<u64>,
    /// It is refused until then: two processes dial in as this worker by turns.
    pub(super) contended_until_mono_ms: Option<u64>,
    indexed_free: Option<u32>,
}

impl Worker {
    fn new(who: WorkerRef, boot_id: String, slots: u32, link: Link) -> Self {
        Self {
            who,
            boot_id,
            connection: 0,
            slots,
            labels: BTreeMap::new(),
            version: String::new(),
            link,
            leaving: false,
            draining: false,
            set_aside: None,
            launch_failures: 0,
            paused_until_mono_ms: None,
            held: BTreeSet::new(),
            last_seen_ms: None,
            replaced_mono_ms: Vec::new(),
            contended_until_mono_ms: None,
            indexed_free: None,
        }
    }

    pub(super) const fn session(&self) -> Option<SessionId> {
        match self.link {
            Link::Up(session) => Some(session),
            Link::Down { .. } | Link::Lost { .. } => None,
        }
    }

    /// Connected and willing, whatever it holds.
    pub(super) const fn is_available(&self) -> bool {
        matches!(self.link, Link::Up(_)) && !self.leaving && !self.draining && self.set_aside.is_none()
    }

    pub(super) fn row(&self) -> WorkerRow {
        WorkerRow {
            worker: self.who.clone(),
            boot_id: self.boot_id.clone(),
            connection: self.connection,
            slots: self.slots,
            draining: self.draining,
            set_aside: self.set_aside.clone(),
        }
    }

    pub(super) fn view(&self) -> WorkerView {
        let status = match self.link {
            Link::Down { .. } => WorkerStatus::Disconnected,
            Link::Lost { .. } => WorkerStatus::Lost,
            Link::Up(_) if self.set_aside.is_some() => WorkerStatus::SetAside,
            Link::Up(_) if self.draining || self.leaving => WorkerStatus::Draining,
            Link::Up(_) => WorkerStatus::Connected,
        };
        WorkerView {
            name: self.who.name.clone(),
            status,
            message: self.set_aside.clone().unwrap_or_default(),
            slots: self.slots,
            held: u32::try_from(self.held.len()).unwrap_or(u32::MAX),
            labels: self.labels.clone(),
            version: self.version.clone(),
            last_seen_ms: self.last_seen_ms,
        }
    }

    fn free(&self) -> Option<u32> {
        if !self.is_available() || self.paused_until_mono_ms.is_some() {
            return None;
        }
        let held = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        self.slots.checked_sub(held).filter(|free| *free > 0)
    }
}

/// Every worker that is known.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    workers: BTreeMap<InstanceId, Worker>,
    sessions: BTreeMap<SessionId, InstanceId>,
    /// The names of those whose stream is up.
    names: BTreeMap<String, InstanceId>,
    /// Those with free places, the freest last.
    free: BTreeSet<(u32, InstanceId)>,
    /// How many are available. Kept, because it is asked for with every group.
    available: u32,
}

impl Fleet {
    pub(super) fn get(&self, instance: &InstanceId) -> Option<&Worker> {
        self.workers.get(instance)
    }

    /// Changes a worker, and puts it where it belongs in the index of free places.
    pub(super) fn change<R>(
        &mut self,
        instance: &InstanceId,
        change: impl FnOnce(&mut Worker) -> R,
    ) -> Option<R> {
        let worker = self.workers.get_mut(instance)?;
        let old_session = worker.session();
        let old_available = worker.is_available();
        let result = change(worker);
        if worker.session() != old_session {
            if let Some(session) = old_session {
                self.sessions.remove(&session);
                self.names.remove(&worker.who.name);
            }
            if let Some(session) = worker.session() {
                self.sessions.insert(session, instance.clone());
                self.names.insert(worker.who.name.clone(), instance.clone());
            }
        }
        self.available = self.available - u32::from(old_available) + u32::from(worker.is_available());
        let free = worker.free();
        if free != worker.indexed_free {
            if let Some(old) = worker.indexed_free {
                self.free.remove(&(old, instance.clone()));
            }
            if let Some(new) = free {
                self.free.insert((new, instance.clone()));
            }
            worker.indexed_free = free;
        }
        Some(result)
    }

    /// A worker that a restart remembers: away since now.
    pub(super) fn remember(&mut self, row: WorkerRow, now_mono_ms: u64) {
        let link = Link::Down { since_mono_ms: now_mono_ms };
        let mut worker = Worker::new(row.worker.clone(), row.boot_id, row.slots, link);
        worker.connection = row.connection;
        worker.draining = row.draining;
        worker.set_aside = row.set_aside;
        self.workers.insert(row.worker.instance, worker);
    }

    /// A worker that only a task remembers (its own row is gone): away since now, of no known boot.
    pub(super) fn remember_ref(&mut self, who: &WorkerRef, now_mono_ms: u64) {
        if !self.workers.contains_key(&who.instance) {
            let link = Link::Down { since_mono_ms: now_mono_ms };
            self.workers.insert(who.instance.clone(), Worker::new(who.clone(), String::new(), 1, link));
        }
    }

    /// A hello that was let in.
    pub(super) fn connect(&mut self, hello: &Hello, session: SessionId, now_ms: UnixMs) {
        let instance = hello.worker.instance.clone();
        self.workers.entry(instance.clone()).or_insert_with(|| {
            Worker::new(hello.worker.clone(), String::new(), hello.slots, Link::Lost { since_mono_ms: 0 })
        });
        // Its old stream has its old name.
        self.change(&instance, |worker| worker.link = Link::Lost { since_mono_ms: 0 });
        self.change(&instance, |worker| {
            worker.who = hello.worker.clone();
            worker.boot_id.clone_from(&hello.boot_id);
            worker.connection = hello.connection;
            worker.slots = hello.slots;
            worker.labels.clone_from(&hello.labels);
            worker.version.clone_from(&hello.version);
            worker.leaving = hello.draining;
            worker.paused_until_mono_ms = None;
            worker.last_seen_ms = Some(now_ms);
            worker.link = Link::Up(session);
        });
    }

    pub(super) fn forget(&mut self, instance: &InstanceId) {
        // Takes it out of the indexes first.
        self.change(instance, |worker| worker.link = Link::Lost { since_mono_ms: 0 });
        self.workers.remove(instance);
    }

    pub(super) fn by_session(&self, session: SessionId) -> Option<&Worker> {
        self.workers.get(self.sessions.get(&session)?)
    }

    /// The connected worker of that name, else any.
    pub(super) fn by_name(&self, name: &str) -> Option<&Worker> {
        self.connected_as(name).or_else(|| self.workers.values().find(|worker| worker.who.name == name))
    }

    /// The connected worker of that name.
    pub(super) fn connected_as(&self, name: &str) -> Option<&Worker> {
        self.workers.get(self.names.get(name)?)
    }

    /// Workers with free places, the freest first.
    pub(super) fn freest(&self) -> impl Iterator<Item = &InstanceId> {
        self.free.iter().rev().map(|(_, instance)| instance)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// Those whose stream is up.
    pub(super) fn connected(&self) -> impl Iterator<Item = &Worker> {
        self.sessions.values().filter_map(|instance| self.workers.get(instance))
    }

    pub(super) const fn available(&self) -> u32 {
        self.available
    }
}
