//! Reads the output of one attempt by offset, through restarts of the coordinator. Shows nothing itself.

use muster_proto::v1::{TailLogsRequest, TailLogsResponse, tail_logs_response::Content};
use tonic::Streaming;

use crate::{
    backoff::Outage,
    client::{Client, may_come_back},
    error::Error,
};

/// A piece of output, in order and without repetition.
#[derive(Debug)]
pub struct Piece {
    /// The attempt that printed it.
    pub attempt: i32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Bytes past the limit that were thrown away; known at the end.
    pub discarded: i64,
}

/// One output stream.
pub struct Tail {
    client: Client,
    request: TailLogsRequest,
    stream: Option<Streaming<TailLogsResponse>>,
    outage: Outage,
    known: bool,
    over: bool,
}

impl Tail {
    /// Reads what `request` names, as raw bytes.
    pub fn new(client: &Client, request: TailLogsRequest) -> Self {
        Self {
            client: client.clone(),
            request: TailLogsRequest { raw: true, ..request },
            stream: None,
            outage: Outage::default(),
            known: false,
            over: false,
        }
    }

    /// The next piece; `None` at the end of the output (or, without follow, of what there is).
    pub async fn next(&mut self) -> Result<Option<Piece>, Error> {
        while !self.over {
            let failure = match self.receive().await {
                Ok(Some(message)) => return Ok(Some(self.accept(message))),
                Ok(None) if !self.request.follow => {
                    self.over = true;
                    continue;
                }
                Ok(None) => "the stream ended".to_owned(),
                Err(status) if self.known && may_come_back(&status) => self.client.error(&status).to_string(),
                Err(status) => return Err(self.client.error(&status)),
            };
            self.stream = None;
            self.outage.wait(self.client.context(), &failure).await?;
        }
        Ok(None)
    }

    async fn receive(&mut self) -> Result<Option<TailLogsResponse>, tonic::Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = self.client.batches().tail_logs(self.request.clone()).await?.into_inner();
                // It has answered, so it is worth waiting for, also before the first output.
                self.known = true;
                self.outage.over(self.client.context());
                self.stream.insert(stream)
            }
        };
        stream.message().await
    }

    /// Takes over a message: from here on the attempt is fixed and the offset is behind its bytes.
    fn accept(&mut self, message: TailLogsResponse) -> Piece {
        let mut bytes = match message.content {
            Some(Content::Text(text)) => text.into_bytes(),
            Some(Content::Data(data)) => data.into(),
            None => Vec::new(),
        };
        let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        // What was shown already is not shown again.
        let known = self.request.offset.saturating_sub(message.offset).clamp(0, length);
        bytes.drain(..usize::try_from(known).unwrap_or(0));
        self.request.offset = self.request.offset.max(message.offset.saturating_add(length));
        if message.attempt > 0 {
            self.request.attempt = message.attempt;
        }
        self.over = message.end_of_log;
        Piece { attempt: message.attempt, bytes, discarded: message.discarded_bytes }
    }
}
