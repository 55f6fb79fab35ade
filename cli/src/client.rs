//! The connection to the coordinator: clients with safe limits, bounded calls, pages.

use std::{future::Future, time::Duration};

use muster_proto::v1::{
    self, Batch, Task, batch_service_client::BatchServiceClient, fleet_service_client::FleetServiceClient,
};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    Context,
    error::{Error, is_lost},
};

/// The largest message that is accepted; the coordinator's own pages stay far below.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// A connection that takes longer is none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a quiet connection is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long an answer to that may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between tries of a call that carries a request id.
const RETRY_PAUSES: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// Tasks asked for in one page.
const PAGE_SIZE: i32 = 1000;

/// Calls one coordinator. Connects when first used.
#[derive(Clone)]
pub struct Client {
    context: Context,
    batches: BatchServiceClient<Channel>,
    fleet: FleetServiceClient<Channel>,
}

impl Client {
    /// For the coordinator of the context. Fails only where its address is none.
    pub fn new(context: &Context) -> Result<Self, Error> {
        let address = &context.url;
        let bad = |detail: &str| Error::Usage(format!("--coordinator {address}: {detail}"));
        let url = with_scheme(address);
        if !url.starts_with("http://") {
            return Err(bad("only addresses such as http://HOST:PORT are supported"));
        }
        let endpoint =
            Endpoint::from_shared(url).map_err(|_| bad("not an address such as http://HOST:PORT"))?;
        if endpoint.uri().port().is_none() {
            return Err(bad("names no port; coordinators listen on 7070 unless told otherwise"));
        }
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_lazy();
        let batches = BatchServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let fleet = FleetServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { context: context.clone(), batches, fleet })
    }

    /// What the client works with.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The batch service.
    pub fn batches(&self) -> BatchServiceClient<Channel> {
        self.batches.clone()
    }

    /// The fleet service.
    pub fn fleet(&self) -> FleetServiceClient<Channel> {
        self.fleet.clone()
    }

    /// Turns a failed call into an error that says what to do.
    pub fn error(&self, status: &Status) -> Error {
        Error::from_status(status, &self.context.url)
    }

    /// Awaits one call, for at most a minute.
    pub async fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        self.call_within(CALL_TIMEOUT, call).await
    }

    /// Awaits one call that may take longer than others.
    pub async fn call_within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.error(&status)),
            Err(_) => Err(Error::Unreachable {
                url: self.context.url.clone(),
                detail: format!("no answer within {} s", limit.as_secs()),
                sent: true,
            }),
        }
    }

    /// Makes a call that is safe to repeat (it carries a request id), again and again while the coordinator is
    /// away, about four seconds in all.
    pub async fn call_repeatedly<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut arrived = false;
        for pause in RETRY_PAUSES {
            match self.call(call()).await {
                Err(Error::Unreachable { detail, sent, .. }) => {
                    arrived |= sent;
                    if pause == RETRY_PAUSES[0] {
                        let (url, detail) = (&self.context.url, crate::sanitize::one_line(&detail));
                        self.context.io.say(&format!("no answer from {url} ({detail}); trying again"));
                    }
                }
                outcome => return outcome,
            }
            tokio::time::sleep(pause).await;
        }
        self.call(call()).await.map_err(|error| match error {
            Error::Unreachable { url, detail, sent } => {
                Error::Unreachable { url, detail, sent: sent || arrived }
            }
            error => error,
        })
    }

    /// One batch as the coordinator shows it: without tasks where they are too many.
    pub async fn batch(&self, batch_id: &str) -> Result<Batch, Error> {
        let request = v1::GetBatchRequest { batch_id: batch_id.to_owned() };
        let reply = self.call(self.batches().get_batch(request)).await?;
        self.required(reply.batch)
    }

    /// The tasks of a batch, page by page: those that it brought along, else from the coordinator.
    pub fn tasks_of(&self, batch: &Batch) -> TaskPages {
        let complete = !batch.tasks_omitted && batch.tasks.len() as i64 >= i64::from(batch.task_count);
        // A batch that was only checked is stored nowhere: there is no more of it.
        let inline = (complete || batch.batch_id.is_empty()).then(|| batch.tasks.clone());
        TaskPages {
            client: self.clone(),
            batch_id: batch.batch_id.clone(),
            inline,
            token: Some(String::new()),
        }
    }

    /// A part of a reply that is always there; a coordinator that leaves it out is broken.
    pub fn required<T>(&self, part: Option<T>) -> Result<T, Error> {
        part.ok_or_else(|| Error::CoordinatorFailed {
            code: tonic::Code::Internal,
            message: "its reply is empty".to_owned(),
        })
    }
}

/// The tasks of one batch by index.
pub struct TaskPages {
    client: Client,
    batch_id: String,
    inline: Option<Vec<Task>>,
    /// The next page's token; `None` after the last.
    token: Option<String>,
}

impl TaskPages {
    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<Task>>, Error> {
        let Some(page_token) = self.token.take() else { return Ok(None) };
        if let Some(tasks) = self.inline.take() {
            return Ok(Some(tasks));
        }
        let request = v1::ListTasksRequest {
            batch_id: self.batch_id.clone(),
            page_size: PAGE_SIZE,
            page_token: page_token.clone(),
        };
        let reply = self.client.call(self.client.batches().list_tasks(request)).await?;
        // A token that does not move would be an endless list.
        if !reply.next_page_token.is_empty() && reply.next_page_token != page_token {
            self.token = Some(reply.next_page_token);
        }
        Ok(Some(reply.tasks))
    }

    /// All that is left, in memory.
    pub async fn all(mut self) -> Result<Vec<Task>, Error> {
        let mut tasks = Vec::new();
        while let Some(page) = self.next().await? {
            tasks.extend(page);
        }
        Ok(tasks)
    }
}

/// An address as everything takes it: `HOST:PORT` alone becomes `http://HOST:PORT`.
pub fn with_scheme(address: &str) -> String {
    if address.is_empty() || address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    }
}

/// Whether a stream that failed so may be opened again.
pub(crate) fn may_come_back(status: &Status) -> bool {
    is_lost(status)
}

/// A fresh request id: 128 random bits in hexadecimal.
pub fn new_request_id() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::Random(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_a_port_and_no_scheme() {
        let client = |url: &str| {
            let io = crate::io::Io::new(Box::new(std::io::sink()), Box::new(std::io::sink()), false);
            let context = Context { io, url: url.to_owned(), patience: crate::backoff::Patience::default() };
            Client::new(&context).map(|_| ()).map_err(|error| error.to_string())
        };
        for good in ["http://h:1", "h:1", "127.0.0.1:7070", "http://[::1]:7070/"] {
            assert_eq!(client(good), Ok(()), "{good}");
        }
        for (bad, way_out) in
            [("http://h", "7070"), ("h", "7070"), ("https://h:1", "http://"), ("", "http://HOST:PORT")]
        {
            assert!(client(bad).unwrap_err().contains(way_out), "{bad}");
        }
    }

    #[test]
    fn request_ids_are_long_and_differ() {
        let (one, two) = (new_request_id().unwrap(), new_request_id().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
    }
}
