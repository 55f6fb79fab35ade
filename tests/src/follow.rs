//! Follows watches and logs the way a careful client does, over reconnects, and checks on the way what every
//! stream promises: revisions only grow, offsets leave no gap.

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    time::{Duration, Instant},
};

use muster_proto::v1::{
    Batch, SchedulerStatus, TailLogsRequest, Task, WatchBatchRequest, WatchBatchResponse,
    batch_service_client::BatchServiceClient, tail_logs_response::Content,
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, transport::Channel};

use crate::{Cluster, probe::now_ns};

/// Between two looks at something that sends no event.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks until there is something, or fails.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        sleep(LOOK_EVERY).await;
    }
}

/// Waits for a file, such as one that the probe makes.
pub async fn wait_for(path: &Path) {
    let what = path.display().to_string();
    eventually(&what, Duration::from_secs(60), || async { path.exists().then_some(()) }).await;
}

/// What a watch has said so far.
#[derive(Clone, Debug, Default)]
pub struct WatchLog {
    /// The batch's id.
    pub batch_id: String,
    /// The store's life.
    pub life_id: String,
    /// The newest revision.
    pub revision: i64,
    /// The newest state of the batch.
    pub batch: Option<Batch>,
    /// The newest state of every task.
    pub tasks: BTreeMap<i32, Task>,
    /// How many streams it took.
    pub streams: u32,
    /// When the last message came, by the probe's clock.
    pub last_ns: u64,
    /// Messages in all.
    pub messages: u32,
}

impl WatchLog {
    /// A watch that begins with a snapshot.
    pub fn new(batch_id: &str) -> Self {
        Self { batch_id: batch_id.into(), ..Self::default() }
    }

    /// Follows until the batch has ended; a broken stream is taken up again from the last revision.
    pub async fn follow_to_end(&mut self, cluster: &Cluster, within: Duration) -> Batch {
        let batch = self.follow(cluster, within, |_| false).await;
        assert!(ended(&batch), "the watch ended before its batch: {batch:?}");
        batch
    }

    /// Follows until `enough` says so or the batch has ended.
    pub async fn follow(
        &mut self,
        cluster: &Cluster,
        within: Duration,
        enough: impl Fn(&Self) -> bool,
    ) -> Batch {
        self.follow_with(cluster.batches(), within, enough).await
    }

    /// The same through a client, which goes on while the cluster's processes are killed and started.
    pub async fn follow_with(
        &mut self,
        client: BatchServiceClient<Channel>,
        within: Duration,
        enough: impl Fn(&Self) -> bool,
    ) -> Batch {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not within {within:?}; the watch says: {self:#?}");
            match timeout(left, self.one_stream(client.clone(), &enough)).await {
                Ok(Ok(())) => return self.batch.clone().expect("a watch says something"),
                Ok(Err(status)) if is_away(&status) => {
                    sleep(Duration::from_millis(50)).await;
                }
                Ok(Err(status)) => panic!("the watch failed: {status:?}"),
                Err(_) => {}
            }
        }
    }

    async fn one_stream(
        &mut self,
        mut client: BatchServiceClient<Channel>,
        enough: &impl Fn(&Self) -> bool,
    ) -> Result<(), Status> {
        let request = WatchBatchRequest {
            batch_id: self.batch_id.clone(),
            after_revision: (self.messages > 0).then_some(self.revision),
            life_id: self.life_id.clone(),
        };
        let mut stream = client.watch_batch(request).await?.into_inner();
        self.streams += 1;
        while let Some(message) = stream.message().await? {
            self.take(message);
            if enough(self) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn take(&mut self, message: WatchBatchResponse) {
        self.last_ns = now_ns();
        self.messages += 1;
        assert!(
            message.revision >= self.revision,
            "a revision went back from {}: {message:?}",
            self.revision
        );
        assert!(
            self.life_id.is_empty() || self.life_id == message.life_id,
            "another life of the store: {message:?}"
        );
        self.revision = message.revision;
        self.life_id = message.life_id;
        self.batch = message.batch.or(self.batch.take());
        for task in message.tasks {
            let before = self.tasks.get(&task.index).map_or(0, |task| task.revision);
            assert!(task.revision >= before, "task {} went back to an older revision", task.index);
            self.tasks.insert(task.index, task);
        }
    }
}

fn ended(batch: &Batch) -> bool {
    matches!(
        batch.scheduler_status(),
        SchedulerStatus::Completed | SchedulerStatus::Cancelled | SchedulerStatus::Failed
    )
}

/// Whether a call failed because its coordinator was not there, so that it can be made again.
pub fn is_away(status: &Status) -> bool {
    status.code() == Code::Unavailable || lost(status)
}

/// A connection that broke shows as one of these, besides UNAVAILABLE.
fn lost(status: &Status) -> bool {
    matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled)
        && std::error::Error::source(status).is_some()
}

/// The whole output of a task's attempt (0: the newest), followed to its end over reconnects.
pub async fn read_log(
    cluster: &Cluster,
    batch_id: &str,
    task_index: i32,
    attempt: i32,
    within: Duration,
) -> Vec<u8> {
    let deadline = Instant::now() + within;
    let mut log = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(
            !left.is_zero(),
            "task {task_index}: {} bytes of log within {within:?}, and no end",
            log.len()
        );
        let request = TailLogsRequest {
            batch_id: batch_id.into(),
            task_index,
            attempt,
            offset: log.len() as i64,
            follow: true,
            raw: true,
            ..Default::default()
        };
        match timeout(left, one_tail(cluster, request, &mut log)).await {
            Ok(Ok(true)) => return log,
            Ok(Err(status)) if !is_away(&status) => {
                panic!("the log of task {task_index} failed: {status:?}")
            }
            // The stream ended or broke before the end of the log: go on from where it got to.
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn one_tail(cluster: &Cluster, request: TailLogsRequest, log: &mut Vec<u8>) -> Result<bool, Status> {
    let mut stream = cluster.batches().tail_logs(request).await?.into_inner();
    while let Some(piece) = stream.message().await? {
        if let Some(content) = piece.content {
            assert_eq!(piece.offset, log.len() as i64, "a gap or a repetition in the log");
            match content {
                Content::Text(_) => panic!("text in a raw log"),
                Content::Data(data) => log.extend_from_slice(&data),
            }
        }
        if piece.end_of_log {
            return Ok(true);
        }
    }
    Ok(false)
}
