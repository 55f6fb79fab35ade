//! The coordinator over real sockets, with a worker that the test plays: what clients and workers are promised.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use muster_coordinator::{Config, Coordinator, Running};
use muster_proto::{
    BatchId,
    v1::{self, attach_request::Message as Say, attach_response::Message as Hear},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use v1::{
    batch_service_client::BatchServiceClient, fleet_service_client::FleetServiceClient,
    tail_logs_response::Content, worker_service_client::WorkerServiceClient,
};

/// Nothing here takes so long; what does has failed.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

struct Site {
    running: Running,
    channel: Channel,
    dir: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), None).await
    }

    async fn start_in(dir: tempfile::TempDir, first_batch: Option<BatchId>) -> Self {
        let mut config = Config::new(dir.path().join("data"));
        config.config_file = Some(dir.path().join("config.json"));
        config.system.max_tasks = 10_000;
        config.system.max_concurrency = 100;
        config.first_batch = first_batch;
        let running = Coordinator::start(config).await.unwrap();
        let url = format!("http://{}", running.local_addr());
        let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
        Self { running, channel, dir }
    }

    fn batches(&self) -> BatchServiceClient<Channel> {
        BatchServiceClient::new(self.channel.clone())
    }

    async fn submit(&self, request: v1::SubmitBatchRequest) -> Result<v1::Batch, Status> {
        let reply = soon("submit", self.batches().submit_batch(request)).await?;
        Ok(reply.into_inner().batch.unwrap())
    }

    /// A batch of so many tasks.
    async fn batch(&self, tasks: usize) -> v1::Batch {
        let tasks = (0..tasks).map(|task| v1::TaskInput { prompt: format!("p{task}"), ..Default::default() });
        let request = v1::SubmitBatchRequest {
            tasks: tasks.collect(),
            task_count_approved: true,
            concurrency: Some(2),
            ..Default::default()
        };
        self.submit(request).await.unwrap()
    }

    async fn watch(
        &self,
        batch_id: &str,
        after: Option<i64>,
    ) -> Result<Streaming<v1::WatchBatchResponse>, Status> {
        let request = v1::WatchBatchRequest {
            batch_id: batch_id.into(),
            after_revision: after,
            life_id: String::new(),
        };
        Ok(soon("watch", self.batches().watch_batch(request)).await?.into_inner())
    }

    async fn tail(&self, request: v1::TailLogsRequest) -> Result<Vec<v1::TailLogsResponse>, Status> {
        let mut stream = soon("tail", self.batches().tail_logs(request)).await?.into_inner();
        let mut all = Vec::new();
        while let Some(message) = soon("output", stream.message()).await? {
            all.push(message);
        }
        Ok(all)
    }
}

/// A worker that the test plays.
struct Worker {
    say: mpsc::Sender<v1::AttachRequest>,
    hear: Streaming<v1::AttachResponse>,
    channel: Channel,
}

impl Worker {
    async fn attach(site: &Site, hello: v1::Hello) -> Result<Self, Status> {
        let (say, messages) = mpsc::channel(100);
        say.send(v1::AttachRequest { message: Some(Say::Hello(hello)) }).await.unwrap();
        let mut client = WorkerServiceClient::new(site.channel.clone());
        let hear = soon("attach", client.attach(ReceiverStream::new(messages))).await?.into_inner();
        let mut worker = Self { say, hear, channel: site.channel.clone() };
        match worker.hear().await? {
            Some(Hear::Welcome(_)) => Ok(worker),
            other => panic!("the first message is the welcome, not {other:?}"),
        }
    }

    fn hello(name: &str) -> v1::Hello {
        v1::Hello {
            protocol: 1,
            name: name.into(),
            instance_id: format!("{:032x}", name.len() + usize::from(name.as_bytes()[0]) * 1_000),
            boot_id: "boot".into(),
            slots: 10,
            version: "test".into(),
            ..Default::default()
        }
    }

    async fn say(&self, message: Say) {
        self.say.send(v1::AttachRequest { message: Some(message) }).await.unwrap();
    }

    /// The next message that is no heartbeat.
    async fn hear(&mut self) -> Result<Option<Hear>, Status> {
        loop {
            match soon("a message", self.hear.message()).await?.and_then(|response| response.message) {
                Some(Hear::Heartbeat(_)) => {}
                message => return Ok(message),
            }
        }
    }

    async fn offer(&mut self) -> v1::Offer {
        match self.hear().await.unwrap() {
            Some(Hear::Offer(offer)) => offer,
            other => panic!("not an offer: {other:?}"),
        }
    }

    async fn start(&mut self) -> v1::Attempt {
        let attempt = self.offer().await.attempt.unwrap();
        self.say(Say::Accepted(v1::Accepted { attempt: Some(attempt) })).await;
        let started = v1::Started { attempt: Some(attempt), pid: 7, output_path: "/out".into() };
        self.say(Say::Started(started)).await;
        attempt
    }

    async fn end(&self, attempt: v1::Attempt, code: i32, log: &[u8]) {
        let ended = v1::Ended {
            attempt: Some(attempt),
            outcome: Some(v1::ended::Outcome::ExitCode(code)),
            log_size: log.len() as u64,
            inline_log: log.to_vec().into(),
            output_path: "/out".into(),
            pid: 7,
            ..Default::default()
        };
        self.say(Say::Ended(ended)).await;
    }

    async fn acknowledged(&mut self, attempt: v1::Attempt) {
        loop {
            match self.hear().await.unwrap() {
                Some(Hear::Acknowledged(done)) if done.attempt == Some(attempt) => return,
                Some(_) => {}
                None => panic!("the session ended before the acknowledgement"),
            }
        }
    }

    async fn push(&self) -> (mpsc::Sender<v1::PushLogsRequest>, Streaming<v1::PushLogsResponse>) {
        let (sender, messages) = mpsc::channel(100);
        let mut client = WorkerServiceClient::new(self.channel.clone());
        let acks = soon("push", client.push_logs(ReceiverStream::new(messages))).await.unwrap();
        (sender, acks.into_inner())
    }
}

fn text(pieces: &[v1::TailLogsResponse]) -> String {
    let piece = |piece: &v1::TailLogsResponse| match &piece.content {
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Data(data)) => panic!("not text: {data:?}"),
        None => String::new(),
    };
    pieces.iter().map(piece).collect()
}

#[tokio::test]
async fn the_id_that_was_set_aside_is_the_first_stored_batchs() {
    let id = BatchId::new(1_700_000_000_000, 7);
    let site = Site::start_in(tempfile::tempdir().unwrap(), Some(id)).await;
    let refused = site.submit(v1::SubmitBatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert_eq!(site.batch(1).await.batch_id, id.to_string(), "a refused submission does not use it up");
    assert_ne!(site.batch(1).await.batch_id, id.to_string());
    let Site { running, channel, dir } = site;
    drop(channel);
    running.shutdown().await.unwrap();
    // One that is taken is no obstacle, and harms nothing.
    let site = Site::start_in(dir, Some(id)).await;
    assert_ne!(site.batch(2).await.batch_id, id.to_string());
    let request = v1::GetBatchRequest { batch_id: id.to_string() };
    let first = soon("get", site.batches().get_batch(request)).await.unwrap().into_inner().batch.unwrap();
    assert_eq!(first.tasks.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_runs_is_watched_and_its_output_read() {
    let site = Site::start().await;
    let batch = site.batch(1).await;
    assert_eq!((batch.task_count, batch.tasks.len(), batch.available_workers), (1, 1, 0));
    let mut watch = site.watch(&batch.batch_id, None).await.unwrap();
    let first = soon("snapshot", watch.message()).await.unwrap().unwrap();
    assert_eq!((first.revision, first.tasks.len()), (batch.revision, 1));

    let follow = v1::TailLogsRequest {
        batch_id: batch.batch_id.clone(),
        task_index: 1,
        follow: true,
        ..Default::default()
    };
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    let attempt = worker.start().await;
    let (tail, ()) = tokio::join!(site.tail(follow), async {
        worker.end(attempt, 3, "héllo 竹".as_bytes()).await;
        worker.acknowledged(attempt).await;
    });
    let tail = tail.unwrap();
    assert_eq!(text(&tail), "héllo 竹");
    let last = tail.last().unwrap();
    assert!(last.end_of_log && last.attempt == 1 && last.offset == "héllo 竹".len() as i64);

    let mut seen = first.revision;
    let mut end = None;
    while let Some(message) = soon("a change", watch.message()).await.unwrap() {
        assert!(message.revision > seen);
        seen = message.revision;
        end = Some(message);
    }
    let end = end.unwrap();
    assert_eq!(end.batch.unwrap().scheduler_status(), v1::SchedulerStatus::Completed);
    let task = end.tasks.last().unwrap();
    assert_eq!((task.status(), task.exit_code), (v1::TaskStatus::Failed, Some(3)));
    assert_eq!((task.worker_id.as_str(), task.output_path.as_str()), ("w1", "/out"));

    // Whoever has seen everything is told once more that it has ended.
    let mut again = site.watch(&batch.batch_id, Some(seen)).await.unwrap();
    let message = soon("the end", again.message()).await.unwrap().unwrap();
    assert!(message.batch.is_some() && message.tasks.is_empty() && message.revision == seen);
    assert!(soon("no more", again.message()).await.unwrap().is_none());
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_tailed_from_a_time_on() {
    let site = Site::start().await;
    let batch = site.batch(1).await;
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    let attempt = worker.start().await;
    let (push, mut acks) = worker.push().await;
    let request =
        v1::TailLogsRequest { batch_id: batch.batch_id.clone(), task_index: 1, ..Default::default() };
    let mut times = Vec::new();
    for (offset, data) in [(0, &b"old\n"[..]), (4, b"new\n")] {
        let chunk = v1::PushLogsRequest {
            attempt: Some(attempt),
            offset,
            data: data.to_vec().into(),
            instance_id: Worker::hello("w1").instance_id,
        };
        push.send(chunk).await.unwrap();
        while soon("an acknowledgement", acks.message()).await.unwrap().unwrap().stored < offset + 4 {}
        let tail = site.tail(v1::TailLogsRequest { offset: offset as i64, ..request.clone() }).await.unwrap();
        let time = tail[0].time.unwrap();
        times.push(time);
        // The next piece is not of the same moment.
        let info = async || site.batches().get_info(v1::GetInfoRequest {}).await.unwrap().into_inner();
        let later = |now: prost_types::Timestamp| (now.seconds, now.nanos) > (time.seconds, time.nanos);
        while !soon("time passes", info()).await.server_time.is_some_and(later) {}
    }
    let since = |since, offset| v1::TailLogsRequest { since: Some(since), offset, ..request.clone() };
    assert_eq!(text(&site.tail(since(times[0], 0)).await.unwrap()), "old\nnew\n");
    let tail = site.tail(since(times[1], 0)).await.unwrap();
    assert_eq!((text(&tail).as_str(), tail[0].offset, tail[0].time), ("new\n", 4, Some(times[1])));
    assert_eq!(text(&site.tail(since(times[0], 6)).await.unwrap()), "w\n", "the offset is further on");
    let to_come = prost_types::Timestamp { seconds: times[1].seconds + 86_400, nanos: 0 };
    assert_eq!(site.tail(since(to_come, 0)).await.unwrap(), []);
    let follow = v1::TailLogsRequest { follow: true, ..since(to_come, 0) };
    let mut follow = soon("tail", site.batches().tail_logs(follow)).await.unwrap().into_inner();
    worker.end(attempt, 0, b"old\nnew\nlast\n").await;
    let next = soon("what comes", follow.message()).await.unwrap().unwrap();
    assert_eq!((text(std::slice::from_ref(&next)).as_str(), next.offset), ("last\n", 8));
    let wrong = prost_types::Timestamp { seconds: 0, nanos: -1 };
    let refused = site.tail(since(wrong, 0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_acknowledged_when_stored_and_a_gap_is_sent_again() {
    let site = Site::start().await;
    let batch = site.batch(1).await;
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    let attempt = worker.start().await;
    let (push, mut acks) = worker.push().await;
    let chunk = |offset, data: &'static [u8]| v1::PushLogsRequest {
        attempt: Some(attempt),
        offset,
        data: data.into(),
        instance_id: Worker::hello("w1").instance_id,
    };
    // Of another life, and of no task that is known here.
    let foreign = v1::Attempt { life: attempt.life ^ 1, batch: attempt.batch ^ 1, ..attempt };
    push.send(v1::PushLogsRequest { attempt: Some(foreign), ..chunk(0, b"x") }).await.unwrap();
    push.send(chunk(3, b"def")).await.unwrap();
    let ack = soon("the gap", acks.message()).await.unwrap().unwrap();
    assert_eq!((ack.attempt, ack.stored), (Some(attempt), 0), "told where to go on");
    push.send(chunk(0, b"abc")).await.unwrap();
    push.send(chunk(3, b"def")).await.unwrap();
    let mut stored = 0;
    while stored < 6 {
        let ack = soon("an acknowledgement", acks.message()).await.unwrap().unwrap();
        assert!(ack.stored >= stored && ack.attempt == Some(attempt));
        stored = ack.stored;
    }
    push.send(chunk(0, b"abc")).await.unwrap();
    let ack = soon("again", acks.message()).await.unwrap().unwrap();
    assert_eq!(ack.stored, 6, "what is stored already is acknowledged too");

    let request = v1::TailLogsRequest {
        batch_id: batch.batch_id.clone(),
        task_index: 1,
        offset: 2,
        ..Default::default()
    };
    assert_eq!(text(&site.tail(request.clone()).await.unwrap()), "cdef", "so far");
    let beyond = site.tail(v1::TailLogsRequest { offset: 7, ..request.clone() }).await.unwrap_err();
    assert_eq!(beyond.code(), Code::OutOfRange);
    let raw = site.tail(v1::TailLogsRequest { raw: true, ..request.clone() }).await.unwrap();
    assert_eq!(raw[0].content, Some(Content::Data(b"cdef".as_slice().into())));

    let ended = v1::Ended {
        attempt: Some(attempt),
        outcome: Some(v1::ended::Outcome::Signal(9)),
        log_size: 6,
        log_discarded: 4,
        ..Default::default()
    };
    worker.say(Say::Ended(ended)).await;
    worker.acknowledged(attempt).await;
    let all = site.tail(request).await.unwrap();
    let last = all.last().unwrap();
    assert!(last.end_of_log);
    assert_eq!(last.discarded_bytes, 4);

    push.send(v1::PushLogsRequest { attempt: None, ..chunk(0, b"x") }).await.unwrap();
    let refused = soon("the refusal", acks.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_taken_only_from_the_worker_that_has_the_attempt() {
    let site = Site::start().await;
    let batch = site.batch(1).await;
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    let attempt = worker.start().await;
    let other = Worker::attach(&site, Worker::hello("v2")).await.unwrap();
    let chunk = |of: &str, offset, data: &'static [u8]| v1::PushLogsRequest {
        attempt: Some(attempt),
        offset,
        data: data.into(),
        instance_id: of.to_owned(),
    };
    let [mine, theirs] = ["w1", "v2"].map(|name| Worker::hello(name).instance_id);
    // Nor with a result of its own for it.
    other.end(attempt, 0, b"forged").await;
    let (push, mut acks) = other.push().await;
    push.send(chunk(&theirs, 0, b"forged")).await.unwrap();
    drop(push);
    let end = soon("the end", acks.message()).await;
    assert!(matches!(end, Ok(None)), "read, and nothing acknowledged: {end:?}");

    let (push, mut acks) = worker.push().await;
    push.send(chunk(&mine.to_ascii_uppercase(), 0, b"true")).await.unwrap();
    while soon("an acknowledgement", acks.message()).await.unwrap().unwrap().stored < 4 {}
    worker.end(attempt, 0, b"true").await;
    worker.acknowledged(attempt).await;
    let request = v1::TailLogsRequest { batch_id: batch.batch_id, task_index: 1, ..Default::default() };
    assert_eq!(text(&site.tail(request).await.unwrap()), "true");

    push.send(chunk(&theirs, 4, b"x")).await.unwrap();
    let refused = soon("the refusal", acks.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "a stream is one worker's");
    let (push, mut acks) = worker.push().await;
    push.send(chunk("", 0, b"x")).await.unwrap();
    let refused = soon("the refusal", acks.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "and says whose");
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_costs_a_worker_its_session_and_nobody_else_anything() {
    let site = Site::start().await;
    let refused = Worker::attach(&site, v1::Hello { slots: 0, ..Worker::hello("w0") }).await;
    let refused = refused.map(|_| ()).unwrap_err();
    let details = refused.get_error_details();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "hello.slots");

    let mut good = Worker::attach(&site, Worker::hello("good")).await.unwrap();
    let taken = v1::Hello { instance_id: "f".repeat(32), ..Worker::hello("good") };
    let taken = Worker::attach(&site, taken).await.map(|_| ()).unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
    for nonsense in [
        Say::Accepted(v1::Accepted { attempt: None }),
        Say::Hello(Worker::hello("bad")),
        Say::Ended(v1::Ended {
            attempt: Some(v1::Attempt { life: 1, batch: 1, task: 1, attempt: 1 }),
            ..Default::default()
        }),
        Say::Accepted(v1::Accepted { attempt: Some(v1::Attempt { life: 1, batch: 1, task: 1, attempt: 1 }) }),
    ] {
        let mut bad = Worker::attach(&site, Worker::hello("bad")).await.unwrap();
        bad.say(nonsense).await;
        let status = bad.hear().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    let mut fleet = FleetServiceClient::new(site.channel.clone());
    soon("bad is gone", async {
        loop {
            let workers = fleet.list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
            let up = |worker: &&v1::Worker| worker.status() == v1::WorkerStatus::Connected;
            let names: Vec<_> = workers.iter().filter(up).map(|worker| worker.worker_id.as_str()).collect();
            if names == ["good"] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    site.batch(1).await;
    let attempt = good.start().await;
    good.end(attempt, 0, b"").await;
    good.acknowledged(attempt).await;
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_reaches_the_worker_and_no_answer() {
    let site = Site::start().await;
    let request = v1::SubmitBatchRequest {
        batch_json: r#"["a"]"#.into(),
        api_key: "sk-canary".into(),
        ..Default::default()
    };
    let batch = site.submit(request.clone()).await.unwrap();
    assert!(!format!("{batch:?}").contains("sk-canary"));
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    let offer = worker.offer().await;
    assert_eq!(offer.env.get("BIZYAIR_API_KEY").map(String::as_str), Some("sk-canary"));
    assert!(!format!("{:?}", offer.args_before).contains("sk-canary"));
    let bad =
        site.submit(v1::SubmitBatchRequest { api_key: "sk-\ncanary".into(), ..request }).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    assert!(!format!("{bad:?}").contains("canary"));
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_come_in_pages_and_every_list_has_them_once() {
    const TASKS: usize = 2_500;
    let site = Site::start().await;
    let batch = site.batch(TASKS).await;
    assert!(batch.tasks_omitted && batch.tasks.is_empty());

    let mut listed = Vec::new();
    let mut request =
        v1::ListTasksRequest { batch_id: batch.batch_id.clone(), page_size: 999, ..Default::default() };
    loop {
        let page = soon("a page", site.batches().list_tasks(request.clone())).await.unwrap().into_inner();
        listed.extend(page.tasks.iter().map(|task| task.index));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let expected: Vec<i32> = (1..=TASKS as i32).collect();
    assert_eq!(listed, expected);

    let mut watch = site.watch(&batch.batch_id, None).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < TASKS {
        let message = soon("the snapshot", watch.message()).await.unwrap().unwrap();
        let complete = seen.len() + message.tasks.len() == TASKS;
        assert_eq!(message.revision == batch.revision, complete, "a cursor never passes over tasks not sent");
        seen.extend(message.tasks.iter().map(|task| task.index));
    }
    assert_eq!(seen, expected);

    for _ in 0..3 {
        site.batch(1).await;
    }
    let mut ids = Vec::new();
    let mut request = v1::ListBatchesRequest { page_size: 3, ..Default::default() };
    loop {
        let page = soon("a page", site.batches().list_batches(request.clone())).await.unwrap().into_inner();
        ids.extend(page.batches.into_iter().map(|batch| batch.batch_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let mut newest_first = ids.clone();
    newest_first.sort_unstable_by(|left, right| right.cmp(left));
    assert_eq!((ids.len(), &ids), (4, &newest_first));
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_from_elsewhere_is_out_of_range() {
    let site = Site::start().await;
    let batch = site.batch(1).await;
    let future = site.watch(&batch.batch_id, Some(batch.revision + 1)).await.map(|_| ()).unwrap_err();
    assert_eq!(future.code(), Code::OutOfRange);
    let request = v1::WatchBatchRequest {
        batch_id: batch.batch_id,
        after_revision: Some(batch.revision),
        life_id: "0000000000000".into(),
    };
    let other = soon("watch", site.batches().watch_batch(request)).await.map(|_| ()).unwrap_err();
    assert_eq!(other.code(), Code::OutOfRange);
    let details = other.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "LIFE_CHANGED");
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_names_no_batch_is_not_found_and_a_missing_one_is_invalid() {
    let site = Site::start().await;
    for (id, code) in
        [("0000000000000", Code::NotFound), ("no-such-batch", Code::NotFound), ("", Code::InvalidArgument)]
    {
        let mut batches = site.batches();
        let batch_id = || id.to_owned();
        let got = batches.get_batch(v1::GetBatchRequest { batch_id: batch_id() }).await.unwrap_err();
        let request = v1::ListTasksRequest { batch_id: batch_id(), ..Default::default() };
        let listed = batches.list_tasks(request).await.unwrap_err();
        let request = v1::CancelBatchRequest { batch_id: batch_id(), ..Default::default() };
        let cancelled = batches.cancel_batch(request).await.unwrap_err();
        let request = v1::RetryBatchRequest { batch_id: batch_id(), ..Default::default() };
        let retried = batches.retry_batch(request).await.unwrap_err();
        let request = v1::TailLogsRequest { batch_id: batch_id(), task_index: 1, ..Default::default() };
        let tailed = site.tail(request).await.unwrap_err();
        let watched = site.watch(id, None).await.unwrap_err();
        for status in [got, listed, cancelled, retried, tailed, watched] {
            assert_eq!(status.code(), code, "{id:?}: {status:?}");
        }
    }
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_by_the_limit_and_the_connection_lives_on() {
    let site = Site::start().await;
    let request = v1::SubmitBatchRequest { batch_json: "x".repeat(20 << 20), ..Default::default() };
    let status = site.submit(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("16777216"), "{status:?}");
    let request = v1::DrainWorkerRequest { worker_id: "x".repeat(70_000) };
    let mut fleet = FleetServiceClient::new(site.channel.clone());
    let status = soon("drain", fleet.drain_worker(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("65536"), "each service has its own limit: {status:?}");
    site.batch(1).await;
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gives_the_same_batch() {
    let site = Site::start().await;
    let request = v1::SubmitBatchRequest {
        batch_json: r#"["a", "a"]"#.into(),
        request_id: "once".into(),
        ..Default::default()
    };
    let first = site.submit(request.clone()).await.unwrap();
    assert_eq!(site.submit(request.clone()).await.unwrap().batch_id, first.batch_id);
    let other = v1::SubmitBatchRequest { batch_json: r#"["b"]"#.into(), ..request.clone() };
    assert_eq!(site.submit(other).await.unwrap_err().code(), Code::AlreadyExists);
    // The limits that it met count, not those that are in force when it is repeated.
    std::fs::write(site.dir.path().join("config.json"), r#"{"batch": {"max_tasks": 1}}"#).unwrap();
    assert_eq!(site.submit(request.clone()).await.unwrap().batch_id, first.batch_id);
    let anew = v1::SubmitBatchRequest { request_id: "anew".into(), ..request.clone() };
    assert_eq!(site.submit(anew).await.unwrap_err().code(), Code::FailedPrecondition);
    std::fs::remove_file(site.dir.path().join("config.json")).unwrap();
    let planned = v1::SubmitBatchRequest { validate_only: true, ..request };
    let planned = site.submit(planned).await.unwrap();
    assert_eq!((planned.batch_id.as_str(), planned.tasks.len()), ("", 2));
    let list = site.batches().list_batches(v1::ListBatchesRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.batches.len(), 1);
    site.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_every_stream_and_says_why() {
    let site = Site::start().await;
    let batch = site.batch(2).await;
    let mut watches = Vec::new();
    for _ in 0..20 {
        let mut watch = site.watch(&batch.batch_id, None).await.unwrap();
        soon("the snapshot", watch.message()).await.unwrap().unwrap();
        watches.push(watch);
    }
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    worker.start().await;
    let tail = v1::TailLogsRequest {
        batch_id: batch.batch_id.clone(),
        task_index: 1,
        follow: true,
        ..Default::default()
    };
    let mut tail = soon("tail", site.batches().tail_logs(tail)).await.unwrap().into_inner();
    let address = site.running.local_addr();
    let stop = tokio::spawn(site.running.shutdown());
    for mut watch in watches {
        let end = loop {
            match soon("the end of the watch", watch.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a watch ended as if its batch had"),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    }
    let end = soon("the end of the tail", tail.message()).await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    let end = loop {
        match worker.hear().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a session ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Unavailable);
    drop((site.channel, worker, tail));
    soon("the stop", stop).await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn an_address_beyond_this_machine_needs_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path().join("data"));
    config.listen = "0.0.0.0:0".parse().unwrap();
    let refused = Coordinator::start(config.clone()).await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("--insecure"), "{refused}");
    assert!(!dir.path().join("data").exists(), "nothing was made");
    config.insecure = true;
    Coordinator::start(config).await.unwrap().shutdown().await.unwrap();
}

/// Seconds.
fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_batch_is_carried_out_reaches_the_worker_and_comes_back() {
    let site = Site::start().await;
    let mut worker = Worker::attach(&site, Worker::hello("w1")).await.unwrap();
    let retry = v1::RetryPolicy {
        max_attempts: 2,
        on: vec!["timed_out".into()],
        backoff: seconds(0),
        ..Default::default()
    };
    let request = v1::SubmitBatchRequest {
        // The request wins over the payload, key by key.
        batch_json:
            r#"{"time_limit": "5m", "cancel_grace": 3, "tasks": [{"prompt": "a", "time_limit": "90s"}]}"#
                .into(),
        options: Some(v1::BatchOptions {
            time_limit: seconds(60),
            retry: Some(retry),
            on_disconnect: v1::OnDisconnect::Stop.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let batch = site.submit(request.clone()).await.unwrap();
    let options = batch.options.as_ref().unwrap();
    assert_eq!((options.time_limit, options.cancel_grace), (seconds(60), seconds(3)));
    assert_eq!(batch.tasks[0].time_limit, seconds(90));

    let offer = worker.offer().await;
    // A worker is lost after an hour; its grace and a minute are left of that.
    assert_eq!(
        (offer.time_limit_ms, offer.grace_ms, offer.stop_after_cut_off_ms),
        (90_000, 3_000, 3_600_000 - 3_000 - 60_000)
    );
    let timed_out = |attempt| v1::Ended {
        attempt: Some(attempt),
        outcome: Some(v1::ended::Outcome::ExitCode(0)),
        stop_sent: true,
        stop_cause: v1::StopCause::TimeLimit.into(),
        ..Default::default()
    };
    let first = offer.attempt.unwrap();
    worker.say(Say::Accepted(v1::Accepted { attempt: Some(first) })).await;
    worker.say(Say::Ended(timed_out(first))).await;
    let second = loop {
        match worker.hear().await.unwrap() {
            Some(Hear::Offer(offer)) => break offer.attempt.unwrap(),
            Some(Hear::Acknowledged(_)) => {}
            other => panic!("neither acknowledged nor offered again: {other:?}"),
        }
    };
    assert_eq!(second.attempt, 2);
    worker.say(Say::Accepted(v1::Accepted { attempt: Some(second) })).await;
    worker.say(Say::Ended(timed_out(second))).await;
    worker.acknowledged(second).await;
    let get = v1::GetBatchRequest { batch_id: batch.batch_id.clone() };
    let ended = soon("get", site.batches().get_batch(get)).await.unwrap().into_inner().batch.unwrap();
    assert_eq!(ended.scheduler_status(), v1::SchedulerStatus::Completed);
    let task = &ended.tasks[0];
    assert_eq!(
        (task.failure_reason(), task.exit_code, task.attempt),
        (v1::FailureReason::TimedOut, Some(0), 2)
    );
    assert!(task.failure_message.contains("90 s"), "{}", task.failure_message);

    let options = Some(v1::BatchOptions { max_failures: Some(0), ..Default::default() });
    let refused = site.submit(v1::SubmitBatchRequest { options, ..request }).await.unwrap_err();
    let details = refused.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "options.max_failures");
    site.running.shutdown().await.unwrap();
}
