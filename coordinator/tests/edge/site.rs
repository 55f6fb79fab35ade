//! A coordinator of the test's own, and a worker that the test plays.

use std::time::Duration;

use muster_coordinator::{Config, Coordinator, Running};
use muster_proto::{
    BatchId,
    v1::{self, attach_request::Message as Say, attach_response::Message as Hear},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};
use v1::{
    batch_service_client::BatchServiceClient, tail_logs_response::Content,
    worker_service_client::WorkerServiceClient,
};

/// Nothing here takes so long; what does has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

pub(crate) struct Site {
    pub(crate) running: Running,
    pub(crate) channel: Channel,
    pub(crate) dir: tempfile::TempDir,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), None).await
    }

    pub(crate) async fn start_in(dir: tempfile::TempDir, first_batch: Option<BatchId>) -> Self {
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

    pub(crate) fn batches(&self) -> BatchServiceClient<Channel> {
        BatchServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn submit(&self, request: v1::SubmitBatchRequest) -> Result<v1::Batch, Status> {
        let reply = soon("submit", self.batches().submit_batch(request)).await?;
        Ok(reply.into_inner().batch.unwrap())
    }

    /// A batch of so many tasks.
    pub(crate) async fn batch(&self, tasks: usize) -> v1::Batch {
        let tasks = (0..tasks).map(|task| v1::TaskInput { prompt: format!("p{task}"), ..Default::default() });
        let request = v1::SubmitBatchRequest {
            tasks: tasks.collect(),
            task_count_approved: true,
            concurrency: Some(2),
            ..Default::default()
        };
        self.submit(request).await.unwrap()
    }

    pub(crate) async fn watch(
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

    pub(crate) async fn tail(
        &self,
        request: v1::TailLogsRequest,
    ) -> Result<Vec<v1::TailLogsResponse>, Status> {
        let mut stream = soon("tail", self.batches().tail_logs(request)).await?.into_inner();
        let mut all = Vec::new();
        while let Some(message) = soon("output", stream.message()).await? {
            all.push(message);
        }
        Ok(all)
    }
}

/// A worker that the test plays.
pub(crate) struct Worker {
    pub(crate) say: mpsc::Sender<v1::AttachRequest>,
    pub(crate) hear: Streaming<v1::AttachResponse>,
    pub(crate) channel: Channel,
}

impl Worker {
    pub(crate) async fn attach(site: &Site, hello: v1::Hello) -> Result<Self, Status> {
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

    pub(crate) fn hello(name: &str) -> v1::Hello {
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

    pub(crate) async fn say(&self, message: Say) {
        self.say.send(v1::AttachRequest { message: Some(message) }).await.unwrap();
    }

    /// The next message that is no heartbeat.
    pub(crate) async fn hear(&mut self) -> Result<Option<Hear>, Status> {
        loop {
            match soon("a message", self.hear.message()).await?.and_then(|response| response.message) {
                Some(Hear::Heartbeat(_)) => {}
                message => return Ok(message),
            }
        }
    }

    pub(crate) async fn offer(&mut self) -> v1::Offer {
        match self.hear().await.unwrap() {
            Some(Hear::Offer(offer)) => offer,
            other => panic!("not an offer: {other:?}"),
        }
    }

    pub(crate) async fn start(&mut self) -> v1::Attempt {
        let attempt = self.offer().await.attempt.unwrap();
        self.say(Say::Accepted(v1::Accepted { attempt: Some(attempt) })).await;
        let started = v1::Started { attempt: Some(attempt), pid: 7, output_path: "/out".into() };
        self.say(Say::Started(started)).await;
        attempt
    }

    pub(crate) async fn end(&self, attempt: v1::Attempt, code: i32, log: &[u8]) {
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

    pub(crate) async fn acknowledged(&mut self, attempt: v1::Attempt) {
        loop {
            match self.hear().await.unwrap() {
                Some(Hear::Acknowledged(done)) if done.attempt == Some(attempt) => return,
                Some(_) => {}
                None => panic!("the session ended before the acknowledgement"),
            }
        }
    }

    pub(crate) async fn push(&self) -> (mpsc::Sender<v1::PushLogsRequest>, Streaming<v1::PushLogsResponse>) {
        let (sender, messages) = mpsc::channel(100);
        let mut client = WorkerServiceClient::new(self.channel.clone());
        let acks = soon("push", client.push_logs(ReceiverStream::new(messages))).await.unwrap();
        (sender, acks.into_inner())
    }
}

pub(crate) fn text(pieces: &[v1::TailLogsResponse]) -> String {
    let piece = |piece: &v1::TailLogsResponse| match &piece.content {
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Data(data)) => panic!("not text: {data:?}"),
        None => String::new(),
    };
    pieces.iter().map(piece).collect()
}
