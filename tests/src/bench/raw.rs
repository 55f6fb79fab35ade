//! The floors, each in a process of its own that is measured like the command beside it: bare calls for the same
//! data, of which nothing is kept or shown, and the writing of as many files.

use std::{fs, path::PathBuf, sync::Arc};

use clap::Subcommand;
use muster_proto::v1::{
    GetBatchRequest, ListBatchesRequest, ListTasksRequest, SubmitBatchRequest, TailLogsRequest,
    WatchBatchRequest, batch_service_client::BatchServiceClient,
};
use tokio::{sync::Semaphore, task::JoinSet};
use tonic::transport::Channel;

/// The largest message that is taken.
const MESSAGE_MAX: usize = 16 << 20;
/// Tasks asked for at once, as the command does.
const PAGE_SIZE: i32 = 1_000;
/// Logs that are read at once, as the command does.
const LOGS_AT_ONCE: usize = 16;

/// Which floor.
#[derive(Clone, Debug, Subcommand)]
pub enum Floor {
    /// One SubmitBatch; prints the batch's id.
    Submit {
        /// The coordinator.
        url: String,
        /// The payload.
        file: PathBuf,
    },
    /// One GetBatch.
    Batch {
        /// The coordinator.
        url: String,
        /// The batch.
        batch: String,
    },
    /// One ListBatches.
    Batches {
        /// The coordinator.
        url: String,
    },
    /// Every page of ListTasks.
    Tasks {
        /// The coordinator.
        url: String,
        /// The batch.
        batch: String,
    },
    /// WatchBatch to its end.
    Watch {
        /// The coordinator.
        url: String,
        /// The batch.
        batch: String,
    },
    /// Every page of ListTasks, and TailLogs of every task, some at once.
    Logs {
        /// The coordinator.
        url: String,
        /// The batch.
        batch: String,
    },
    /// So many files, so many bytes each.
    Files {
        /// The folder, which is made.
        folder: PathBuf,
        /// How many.
        count: u32,
        /// Bytes of each.
        bytes: usize,
    },
}

/// Runs a floor, and fails if it cannot.
pub async fn run(floor: Floor) {
    match floor {
        Floor::Submit { url, file } => {
            let batch_json = fs::read_to_string(file).expect("the payload");
            let request = SubmitBatchRequest { batch_json, ..Default::default() };
            let reply = client(&url).submit_batch(request).await.expect("accepted").into_inner();
            println!("{}", reply.batch.expect("the batch").batch_id);
        }
        Floor::Batch { url, batch } => {
            client(&url).get_batch(GetBatchRequest { batch_id: batch }).await.expect("the batch");
        }
        Floor::Batches { url } => {
            client(&url).list_batches(ListBatchesRequest::default()).await.expect("the batches");
        }
        Floor::Tasks { url, batch } => {
            pages(&mut client(&url), &batch, |_| {}).await;
        }
        Floor::Watch { url, batch } => {
            let request = WatchBatchRequest { batch_id: batch, ..Default::default() };
            let mut stream = client(&url).watch_batch(request).await.expect("a watch").into_inner();
            while stream.message().await.expect("the watch holds").is_some() {}
        }
        Floor::Logs { url, batch } => logs(&url, &batch).await,
        Floor::Files { folder, count, bytes } => {
            fs::create_dir(&folder).expect("a new folder");
            let content = vec![b'x'; bytes];
            for number in 0..count {
                fs::write(folder.join(format!("file-{number}")), &content).expect("a new file");
            }
        }
    }
}

fn client(url: &str) -> BatchServiceClient<Channel> {
    let channel = Channel::from_shared(url.to_owned()).expect("an address").connect_lazy();
    BatchServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX)
}

/// Goes through all tasks and hands on their indexes.
async fn pages(client: &mut BatchServiceClient<Channel>, batch: &str, mut each: impl FnMut(i32)) {
    let mut page_token = String::new();
    loop {
        let request = ListTasksRequest { batch_id: batch.to_owned(), page_size: PAGE_SIZE, page_token };
        let page = client.list_tasks(request).await.expect("a page").into_inner();
        page.tasks.iter().for_each(|task| each(task.index));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return;
        }
    }
}

async fn logs(url: &str, batch: &str) {
    let mut client = client(url);
    let mut indexes = Vec::new();
    pages(&mut client, batch, |index| indexes.push(index)).await;
    let places = Arc::new(Semaphore::new(LOGS_AT_ONCE));
    let mut readings = JoinSet::new();
    for task_index in indexes {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        let mut client = client.clone();
        let request =
            TailLogsRequest { batch_id: batch.to_owned(), task_index, raw: true, ..Default::default() };
        readings.spawn(async move {
            let mut stream = client.tail_logs(request).await.expect("a log").into_inner();
            while stream.message().await.expect("the log holds").is_some() {}
            drop(place);
        });
        while readings.try_join_next().is_some() {}
    }
    readings.join_all().await;
}
