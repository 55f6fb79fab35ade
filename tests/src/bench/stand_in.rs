//! A worker that runs nothing: it takes each offer and says that the task has run and ended with exit code 0. For
//! batches so large that real programs would take most of the time.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use muster_proto::v1::{
    Accepted, AttachRequest, Attempt, Ended, Held, HeldPhase, Hello, Started, WorkerHeartbeat,
    attach_request::Message as Say, attach_response::Message as Hear, ended::Outcome,
    worker_service_client::WorkerServiceClient,
};
use tokio::{
    runtime::Builder,
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::Cluster;

/// Messages on their way; more than three for each slot.
const WAITING_MESSAGES: usize = 4_096;

/// A connected stand-in, until it is dropped.
pub struct StandIn {
    session: AbortHandle,
    /// Dropped to end its thread.
    _over: oneshot::Sender<()>,
}

impl StandIn {
    /// Connects. Each task takes so long and prints `output`.
    pub async fn attach(cluster: &Cluster, slots: u32, task_time: Duration, output: &'static str) -> Self {
        // A thread of its own, so that nothing else that the scenario does holds it up.
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        let (over, is_over) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            // Ends with the sender.
            let _ = runtime.block_on(is_over);
        });
        let client = {
            // Its connection belongs to that thread too.
            let _entered = handle.enter();
            cluster.worker_service()
        };
        let attaching = handle.spawn(Self::connect(client, slots, task_time, output));
        let session = attaching.await.expect("the stand-in connects");
        Self { session, _over: over }
    }

    async fn connect(
        mut client: WorkerServiceClient<Channel>,
        slots: u32,
        task_time: Duration,
        output: &'static str,
    ) -> AbortHandle {
        let (say, messages) = mpsc::channel(WAITING_MESSAGES);
        let hello = Hello {
            protocol: 1,
            name: "stand-in".into(),
            instance_id: format!("{:032x}", 1),
            boot_id: "boot".into(),
            slots,
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        send(&say, Say::Hello(hello)).await;
        let attached = client.attach(ReceiverStream::new(messages)).await;
        let mut hear = attached.expect("the coordinator takes the stand-in").into_inner();
        let first = hear.message().await.expect("a session").and_then(|message| message.message);
        let Some(Hear::Welcome(welcome)) = first else {
            panic!("the first message is the welcome: {first:?}")
        };
        let beat = Duration::from_millis(u64::from(welcome.heartbeat_ms.max(2)) / 2);
        let session = tokio::spawn(async move {
            let mut held: HashMap<(u64, u32), Held> = HashMap::new();
            let mut beats = tokio::time::interval(beat);
            loop {
                let message = tokio::select! {
                    message = hear.message() => message,
                    _ = beats.tick() => {
                        let held = held.values().copied().collect();
                        send(&say, Say::Heartbeat(WorkerHeartbeat { held })).await;
                        continue;
                    }
                };
                // The coordinator ends first, or the session has been cut, which the scenario will miss.
                let Ok(Some(message)) = message else { return };
                match message.message {
                    Some(Hear::Offer(offer)) => {
                        let attempt = offer.attempt.expect("an offer names its attempt");
                        let phase = HeldPhase::Running.into();
                        held.insert((attempt.batch, attempt.task), Held { attempt: Some(attempt), phase });
                        run(&say, attempt, task_time, output).await;
                    }
                    Some(Hear::Acknowledged(done)) => {
                        let attempt = done.attempt.expect("an acknowledgement names its attempt");
                        held.remove(&(attempt.batch, attempt.task));
                    }
                    Some(_) | None => {}
                }
            }
        });
        session.abort_handle()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.session.abort();
    }
}

async fn run(say: &mpsc::Sender<AttachRequest>, attempt: Attempt, task_time: Duration, output: &'static str) {
    send(say, Say::Accepted(Accepted { attempt: Some(attempt) })).await;
    send(say, Say::Started(Started { attempt: Some(attempt), pid: 1, output_path: "/output".into() })).await;
    let ended = Say::Ended(Ended {
        attempt: Some(attempt),
        outcome: Some(Outcome::ExitCode(0)),
        log_size: output.len() as u64,
        inline_log: Bytes::from_static(output.as_bytes()),
        output_path: "/output".into(),
        pid: 1,
        ..Default::default()
    });
    if task_time.is_zero() {
        send(say, ended).await;
        return;
    }
    let say = say.clone();
    tokio::spawn(async move {
        sleep(task_time).await;
        send(&say, ended).await;
    });
}

async fn send(say: &mpsc::Sender<AttachRequest>, message: Say) {
    // A session that has ended takes nothing more.
    let _ = say.send(AttachRequest { message: Some(message) }).await;
}
