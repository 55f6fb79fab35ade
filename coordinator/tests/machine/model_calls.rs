//! The model: what users call for.

use muster_coordinator::core::{event::*, model::*};
use muster_proto::{BatchId, TaskIndex};

use crate::model::{Batch, Model, Out, Task, Worker, id_of};

impl Model {
    /// One event from its beginning to its end.
    pub(crate) fn handle(&mut self, event: &Event) {
        self.touched.clear();
        self.outs.clear();
        match event {
            Event::Submit(_, submit) => self.submit(submit),
            Event::Cancel(_, cancel) => self.cancel(cancel),
            Event::Retry(_, retry) => self.retry(retry),
            Event::Release(_, release) => self.release(release),
            Event::Steer(_, name, steer) => self.steer(name, *steer),
            Event::Workers(_) => {
                let mut views: Vec<_> = self.workers.values().map(|worker| self.view(worker)).collect();
                views.sort_by(|a, b| a.name.cmp(&b.name));
                self.reply(Reply::Workers(views));
            }
            Event::Explain(..) | Event::Tick => {}
            Event::Hello(_, session, hello) => self.hello(session.0, hello),
            Event::Worker(session, said) => self.says(session.0, said),
            Event::Gone(session) => self.gone(session.0),
            Event::LogStored(id, offset) => self.log_stored(*id, *offset),
            Event::Unsendable(id, reason, _) => self.unsendable(*id, *reason),
        }
        self.time_passes();
        self.give_batches_up();
        self.hand_out();
        self.end_batches();
    }

    fn reply(&mut self, reply: Reply) {
        self.outs.push(Out::Reply(reply));
    }

    pub(crate) fn refuse(&mut self, refused: Refused) {
        self.reply(Reply::Refused(refused));
    }

    /// A call that came before is answered, and not carried out again.
    fn came_before(&mut self, request: Option<&Request>) -> bool {
        let known = request.and_then(|request| Some((request, *self.requests.get(&request.id)?)));
        let Some((request, (digest, batch))) = known else { return false };
        if digest == request.digest {
            self.reply(Reply::Batch(batch, 0));
        } else {
            self.refuse(Refused::RequestIdReused(request.id.clone()));
        }
        true
    }

    fn carried_out(&mut self, request: Option<&Request>, batch: BatchId) {
        if let Some(request) = request {
            self.requests.insert(request.id.clone(), (request.digest, batch));
        }
        let revision = self.batches.get(&batch).map_or(0, |batch| batch.revision);
        self.reply(Reply::Batch(batch, revision));
    }

    fn submit(&mut self, submit: &Submit) {
        if self.came_before(submit.request.as_ref()) {
            return;
        }
        if self.batches.contains_key(&submit.head.id) {
            return self.refuse(Refused::BatchIdTaken);
        }
        let task = Task {
            attempts: Vec::new(),
            end: None,
            excluded: std::collections::BTreeSet::new(),
            revision: 1,
            retried_at: 0,
            again_at: 0,
            shown: TaskState::default(),
            ready_at: 0,
        };
        let batch = Batch {
            limit: submit.head.effective_concurrency,
            tasks: vec![task; submit.specs.len()],
            revision: 1,
            ended: None,
            reopened: false,
            start_ms: None,
            end_ms: None,
            cancel_reason: None,
            uses_key: submit.secret.is_some(),
            has_secret: submit.secret.is_some(),
            on_hold: false,
            start_by: submit.head.options.queue_time_limit_ms.map(|limit| self.now + limit),
            options: submit.head.options.clone(),
            queued_since: None,
            fails: false,
            given_up: false,
            says: false,
        };
        self.batches.insert(submit.head.id, batch);
        self.carried_out(submit.request.as_ref(), submit.head.id);
    }

    fn beyond(&self, batch: BatchId, tasks: &[TaskIndex]) -> Option<Refused> {
        let count = self.batches.get(&batch)?.tasks.len() as u32;
        let index = tasks.iter().map(|task| task.0).find(|index| !(1..=count).contains(index))?;
        Some(Refused::UnknownTask { index, count })
    }

    fn cancel(&mut self, cancel: &Cancel) {
        if self.came_before(cancel.request.as_ref()) {
            return;
        }
        let id = cancel.batch;
        let Some(batch) = self.batches.get(&id) else { return self.refuse(Refused::UnknownBatch(id)) };
        let (ended, count) = (batch.ended.is_some(), batch.tasks.len());
        if let Some(refused) = self.beyond(id, &cancel.tasks) {
            return self.refuse(refused);
        }
        if ended {
            // There is nothing left to cancel.
            return self.carried_out(cancel.request.as_ref(), id);
        }
        self.touch(id);
        let all: Vec<_> = (1..=count as u32).map(TaskIndex).collect();
        let tasks = if cancel.tasks.is_empty() { &all } else { &cancel.tasks };
        let grace_ms = self.grace_of(id);
        if let (true, Some(batch)) = (cancel.tasks.is_empty(), self.batches.get_mut(&id)) {
            batch.cancel_reason.get_or_insert(cancel.reason.clone());
        }
        for task in tasks {
            self.cancel_task(id, task.0 as usize - 1, if cancel.immediate { 0 } else { grace_ms });
        }
        self.carried_out(cancel.request.as_ref(), id);
    }

    fn cancel_task(&mut self, batch: BatchId, index: usize, grace_ms: u32) {
        let (revision, now) = (self.touch(batch), self.now as i64);
        let Some(task) = self.batches.get_mut(&batch).and_then(|batch| batch.tasks.get_mut(index)) else {
            return;
        };
        let no = task.attempts.len();
        if task.is_waiting() {
            task.end = Some(TaskState {
                status: TaskStatus::Cancelled,
                attempt: muster_proto::AttemptNo(no as u32),
                cancel_requested: true,
                end_ms: Some(now),
                ..TaskState::default()
            });
            task.excluded.clear();
            task.revision = revision;
            return self.at("T2");
        }
        let Some(attempt) = task.attempts.last_mut().filter(|attempt| !attempt.over) else { return };
        // A milder one takes nothing back.
        let grace_ms = attempt.grace_ms.unwrap_or(grace_ms).min(grace_ms);
        attempt.grace_ms = Some(grace_ms);
        let instance = attempt.worker.instance.clone();
        task.revision = revision;
        self.at("A6");
        if let Some(session) = self.workers.get(&instance).and_then(Worker::session) {
            let attempt = id_of(batch, index, no);
            self.send(session, ToWorker::Stop { attempt, grace_ms });
        }
    }

    fn release(&mut self, release: &Release) {
        if self.came_before(release.request.as_ref()) {
            return;
        }
        let (id, now) = (release.batch, self.now);
        let Some(batch) = self.batches.get_mut(&id) else { return self.refuse(Refused::UnknownBatch(id)) };
        if batch.ended.is_none() && std::mem::take(&mut batch.on_hold) {
            (batch.says, batch.given_up) = (false, false);
            // While it was on hold, time did not count.
            batch.begins_to_wait(now);
            self.touch(id);
        }
        self.carried_out(release.request.as_ref(), id);
    }

    fn retry(&mut self, retry: &Retry) {
        if self.came_before(retry.request.as_ref()) {
            return;
        }
        let id = retry.batch;
        let Some(batch) = self.batches.get(&id) else { return self.refuse(Refused::UnknownBatch(id)) };
        let lost = |index: &u32| {
            let task = &batch.tasks[*index as usize - 1];
            matches!(task.status(), TaskStatus::Failed | TaskStatus::Cancelled)
        };
        let count = batch.tasks.len() as u32;
        let mut tasks: Vec<u32> = if retry.tasks.is_empty() {
            (1..=count).filter(lost).collect()
        } else {
            retry.tasks.iter().map(|task| task.0).collect()
        };
        tasks.sort_unstable();
        tasks.dedup();
        if tasks.is_empty() {
            return self.refuse(Refused::NothingToRetry);
        }
        if let Some(refused) = self.beyond(id, &retry.tasks) {
            return self.refuse(refused);
        }
        if let Some(task) = tasks.iter().find(|index| !lost(index)) {
            return self.refuse(Refused::NotRetriable(TaskIndex(*task)));
        }
        if batch.ended.is_some() && batch.uses_key && retry.secret.is_none() {
            return self.refuse(Refused::NoApiKey);
        }
        let (revision, now) = (self.touch(id), self.now);
        let Some(batch) = self.batches.get_mut(&id) else { return };
        batch.says &= batch.on_hold;
        batch.given_up = false;
        batch.begins_to_wait(now);
        batch.uses_key |= retry.secret.is_some();
        batch.has_secret |= retry.secret.is_some();
        batch.reopened |= batch.ended.take().is_some();
        (batch.end_ms, batch.cancel_reason) = (None, None);
        for index in tasks {
            let task = &mut batch.tasks[index as usize - 1];
            task.end = None;
            task.revision = revision;
            task.retried_at = task.attempts.len();
            task.shown = TaskState::default();
            task.ready_at = 0;
        }
        self.at("T9");
        self.carried_out(retry.request.as_ref(), id);
    }

    fn steer(&mut self, name: &str, steer: Steer) {
        let named = |worker: &&mut Worker| worker.who.name == name;
        let connected =
            self.workers.values().any(|worker| worker.who.name == name && worker.session().is_some());
        let Some(worker) =
            self.workers.values_mut().filter(named).find(|worker| !connected || worker.session().is_some())
        else {
            return self.refuse(Refused::UnknownWorker(name.into()));
        };
        worker.draining = steer == Steer::Drain;
        if steer == Steer::Resume {
            (worker.set_aside, worker.launch_failures) = (false, 0);
        }
        worker.stored = true;
        let worker = worker.clone();
        let view = self.view(&worker);
        self.reply(Reply::Worker(Box::new(view)));
    }

    fn view(&self, worker: &Worker) -> WorkerView {
        WorkerView {
            name: worker.who.name.clone(),
            status: worker.status(),
            message: if worker.set_aside { "aside".into() } else { String::new() },
            slots: worker.slots,
            held: self.held_by(&worker.who.instance).len() as u32,
            labels: std::collections::BTreeMap::new(),
            version: String::new(),
            last_seen_ms: worker.last_seen,
        }
    }

    /// A batch ends after its last task.
    fn end_batches(&mut self) {
        let now = self.now as i64;
        for batch in self.batches.values_mut().filter(|batch| batch.ended.is_none()) {
            let counts = batch.counts();
            if counts.queued + counts.running > 0 {
                continue;
            }
            let cancelled = batch.cancel_reason.is_some() && counts.cancelled > 0;
            let too_many = batch.options.max_failures.is_some_and(|most| counts.failed >= most);
            batch.ended = Some(match too_many {
                _ if cancelled => BatchStatus::Cancelled,
                true => BatchStatus::Failed,
                false => BatchStatus::Completed,
            });
            batch.says |= batch.ended == Some(BatchStatus::Failed);
            batch.end_ms = Some(now);
            batch.has_secret = false;
        }
    }
}
