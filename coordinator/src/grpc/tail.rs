//! TailLogs: the output of one attempt, as it is stored.
//!
//! Sends only what is stored for good, so that an offset that a client has seen stays good over a restart.

use bytes::Bytes;
use muster_proto::{AttemptId, AttemptNo, BatchId, TaskIndex, v1};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use v1::tail_logs_response::Content;

use crate::{
    core::model::{AttemptRow, Revision, TaskState, TaskStatus, UnixMs},
    logs,
    store::TaskView,
};

use super::{
    context::Context,
    convert::{self, count, submit},
    status,
    watch::BEHIND_PAUSE,
};

/// Messages that wait for a client that is slow to read.
const WAITING_MESSAGES: usize = 4;
/// Most output in one message.
const CHUNK_BYTES: usize = 64 * 1_024;
/// A character has so many bytes at most.
const MAX_CHARACTER: usize = 4;
/// The other name of the only stream there is.
const COMBINED: &str = "combined";

type Response = v1::TailLogsResponse;
type Sender = mpsc::Sender<Result<Response, Status>>;

/// Checks the request, then sends the output in a task of its own.
pub(crate) async fn tail_logs(
    context: Context,
    request: v1::TailLogsRequest,
) -> Result<ReceiverStream<Result<Response, Status>>, Status> {
    let batch = status::batch_id(&request.batch_id)?;
    let task = submit::task_index(request.task_index)?;
    let asked = u32::try_from(request.attempt)
        .map_err(|_| status::invalid("attempt", "is negative; attempts count from 1, 0 is the newest"))?;
    let offset = u64::try_from(request.offset)
        .map_err(|_| status::invalid("offset", "is negative; it counts bytes from 0"))?;
    let since =
        request.since.map(convert::unix_ms).transpose().map_err(|why| status::invalid("since", why))?;
    if !request.stream.is_empty() && request.stream != COMBINED {
        let description = format!("is not known; the only one is {COMBINED:?}, both outputs in order");
        return Err(status::invalid("stream", &description));
    }
    let changes = context.hub.subscribe(batch);
    let life = context.life;
    // One reading for both: of a large batch's logs most are small, and the readings are what they cost.
    let (view, row) = read_task(&context, batch, task, move |view| {
        let attempt = AttemptNo(if asked == 0 { view.state.attempt.0 } else { asked });
        AttemptId { life, batch, task, attempt }
    })
    .await?;
    let newest = view.state.attempt.0;
    if asked > newest {
        return Err(status::unknown_attempt(asked, newest));
    }
    let attempt = AttemptNo(if asked == 0 { newest } else { asked });
    let active = view.state.status == TaskStatus::Running || view.state.offered;
    let life = if row.is_some() || (active && attempt == view.state.attempt) {
        None
    } else {
        // Data that was restored has attempts of the life before.
        context.read(move |reader| reader.attempt_life((batch, task), attempt)).await?
    };
    let mut tail = Tail {
        attempt: AttemptId { life: life.unwrap_or(context.life), batch, task, attempt },
        newest_wanted: asked == 0,
        not_before: 0,
        settled: row.map(|row| (row.id, End::of(&row))),
        offset,
        follow: request.follow,
        raw: request.raw,
        changes,
        context,
    };
    let waits = view.state.status == TaskStatus::Queued && !view.state.offered;
    if waits && asked == 0 && tail.follow && tail.offset == 0 && tail.row_end().await?.is_some() {
        // It is to run again: the newest attempt is the one that comes.
        tail.attempt.attempt = AttemptNo(0);
        tail.attempt.life = tail.context.life;
        tail.not_before = newest + 1;
    }
    tail.check_offset(&view).await?;
    if let Some(since) = since {
        tail.begin_since(since).await?;
    }
    let (sender, messages) = mpsc::channel(WAITING_MESSAGES);
    if tail.fits_at_once() {
        if let Err(Stop::Failed(end)) = tail.run(view, &sender).await {
            // There is room: at most a chunk was sent.
            let _ = sender.send(Err(end)).await;
        }
        return Ok(ReceiverStream::new(messages));
    }
    tokio::spawn(async move {
        let stopping = tail.context.stopping.clone();
        let end = tokio::select! {
            () = sender.closed() => return,
            () = stopping.cancelled() => Err(Stop::Failed(status::shutting_down())),
            end = tail.run(view, &sender) => end,
        };
        if let Err(Stop::Failed(end)) = end {
            // A client that has gone wants no reason.
            let _ = sender.send(Err(end)).await;
        }
    });
    Ok(ReceiverStream::new(messages))
}

/// How a tail ends before its log does.
enum Stop {
    ClientGone,
    Failed(Status),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// What is known of an attempt's end.
#[derive(Clone, Copy)]
struct End {
    /// Bytes of output that were stored at the end.
    size: u64,
    /// Bytes that were thrown away.
    discarded: u64,
}

impl End {
    fn of(row: &AttemptRow) -> Self {
        Self { size: row.log_bytes, discarded: row.log_discarded }
    }
}

struct Tail {
    context: Context,
    /// Its number is 0 while the task has not been tried.
    attempt: AttemptId,
    /// No number was asked for: an attempt that never ran gives way to the next.
    newest_wanted: bool,
    /// An attempt of a lower number is not the newest that is wanted.
    not_before: u32,
    /// An attempt whose end has been read; ends are final.
    settled: Option<(AttemptId, End)>,
    offset: u64,
    follow: bool,
    raw: bool,
    changes: watch::Receiver<Revision>,
}

impl Tail {
    /// An offset past the end cannot come from here.
    async fn check_offset(&self, view: &TaskView) -> Result<(), Status> {
        let end = self.end(&view.state).await?.map_or(0, |end| end.size);
        let stored = end.max(self.stored());
        if self.offset > stored {
            let description =
                format!("is {}, and {stored} bytes are stored; start there or before", self.offset);
            return Err(status::out_of_range("OFFSET_BEYOND_END", "offset", &description));
        }
        Ok(())
    }

    /// Passes over what was stored before a time.
    async fn begin_since(&mut self, since: UnixMs) -> Result<(), Status> {
        if self.attempt.attempt.0 != 0 {
            // Nothing was stored before 1970.
            let since = u64::try_from(since).unwrap_or(0);
            let begins = self.context.logs.since(self.attempt, since).await;
            self.offset = self.offset.max(begins.map_err(|error| unreadable(&error))?);
        }
        Ok(())
    }

    /// Whether all that is ever to be sent is there and fits into the messages that may wait: a chunk and the end.
    fn fits_at_once(&self) -> bool {
        self.settled.is_some_and(|(attempt, end)| {
            attempt == self.attempt && end.size.saturating_sub(self.offset) < CHUNK_BYTES as u64
        })
    }

    async fn run(&mut self, mut view: TaskView, sender: &Sender) -> Result<(), Stop> {
        let mut stored = self.context.logs.subscribe(self.attempt);
        let mut looked = Instant::now();
        loop {
            // First whether it has ended, then what is stored: an ended attempt's output is stored.
            let end = self.end(&view.state).await?;
            stored.borrow_and_update();
            self.send_stored(end.is_some() || !self.follow, sender).await?;
            if let Some(End { size, discarded }) = end {
                // It was there when the tail began.
                if self.offset == 0 && size > 0 && self.stored() == 0 {
                    return Err(status::log_removed().into());
                }
                return send(sender, self.last(discarded)).await;
            }
            if !self.follow {
                return Ok(());
            }
            // More output needs no look at the task.
            let task_may_have_changed = tokio::select! {
                // The logs are closed first when the coordinator stops; else the output was removed with its batch.
                stored = stored.changed() => stored.map(|()| false),
                changed = self.changes.changed() => changed.map(|()| true),
            };
            if task_may_have_changed.is_err() && !self.context.stopping.is_cancelled() {
                let (batch, task, attempt) = (self.attempt.batch, self.attempt.task, self.attempt);
                read_task(&self.context, batch, task, move |_| attempt).await?;
            }
            if task_may_have_changed.map_err(|_| status::shutting_down())? {
                // The news may be about any task of the batch: not more than one look in a while.
                tokio::time::sleep_until(looked + BEHIND_PAUSE).await;
                looked = Instant::now();
                self.changes.borrow_and_update();
                let (batch, task, attempt) = (self.attempt.batch, self.attempt.task, self.attempt);
                let row;
                (view, row) = read_task(&self.context, batch, task, move |_| attempt).await?;
                self.settled = row.map(|row| (row.id, End::of(&row))).or(self.settled);
                if self.gives_way(&view.state).await? {
                    self.attempt.attempt = view.state.attempt;
                    self.attempt.life = self.context.life;
                    stored = self.context.logs.subscribe(self.attempt);
                }
            }
        }
    }

    /// Whether the newest attempt is wanted and this one is not it: it was never tried, or went back unstarted.
    async fn gives_way(&self, state: &TaskState) -> Result<bool, Status> {
        Ok(self.newest_wanted
            && self.offset == 0
            && state.attempt != self.attempt.attempt
            && state.attempt.0 >= self.not_before
            && self.row_end().await?.is_none())
    }

    /// How the attempt has ended, if it has.
    async fn end(&self, state: &TaskState) -> Result<Option<End>, Status> {
        if let Some(end) = self.row_end().await? {
            return Ok(Some(end));
        }
        let settled = if state.attempt == self.attempt.attempt {
            state.status.is_ended()
        } else {
            // Passed over without an end of its own: it was handed back and never ran.
            self.attempt.attempt.0 != 0
        };
        Ok(settled.then(|| End { size: self.stored(), discarded: 0 }))
    }

    async fn row_end(&self) -> Result<Option<End>, Status> {
        let attempt = self.attempt;
        if attempt.attempt.0 == 0 {
            return Ok(None);
        }
        if let Some((_, end)) = self.settled.filter(|(settled, _)| *settled == attempt) {
            return Ok(Some(end));
        }
        let row = self.context.read(move |reader| reader.attempt(attempt)).await?;
        Ok(row.map(|row| End::of(&row)))
    }

    fn stored(&self) -> u64 {
        if self.attempt.attempt.0 == 0 { 0 } else { self.context.logs.stored(self.attempt) }
    }

    /// Sends what is stored from the offset on. Where more may come (not `to_the_end`), the first bytes of a
    /// character wait for the others.
    async fn send_stored(&mut self, to_the_end: bool, sender: &Sender) -> Result<(), Stop> {
        if self.attempt.attempt.0 == 0 {
            return Ok(());
        }
        let logs = self.context.logs.clone();
        loop {
            let read = logs.read_piece(self.attempt, self.offset, CHUNK_BYTES).await;
            let logs::Piece { mut bytes, time } = read.map_err(|error| unreadable(&error))?;
            let end = self.offset + bytes.len() as u64;
            let is_stored_further = end < self.stored();
            if is_stored_further && incomplete_tail(&bytes) == bytes.len() && !self.raw {
                // A character that came in two pieces.
                let read = logs.read(self.attempt, self.offset, MAX_CHARACTER).await;
                bytes = read.map_err(|error| unreadable(&error))?;
            }
            let more_follows = is_stored_further || !to_the_end;
            let Some((content, taken)) = content(&bytes, self.raw, more_follows) else { return Ok(()) };
            let response = Response {
                attempt: count(self.attempt.attempt.0),
                offset: convert::bytes(self.offset),
                content: Some(content),
                time: time.map(|time| convert::timestamp(UnixMs::try_from(time).unwrap_or(UnixMs::MAX))),
                ..Response::default()
            };
            self.offset += taken as u64;
            send(sender, response).await?;
        }
    }

    fn last(&self, discarded: u64) -> Response {
        Response {
            attempt: count(self.attempt.attempt.0),
            offset: convert::bytes(self.offset),
            content: None,
            end_of_log: true,
            discarded_bytes: convert::bytes(discarded),
            time: None,
        }
    }
}

fn unreadable(error: &logs::Error) -> Status {
    match error {
        logs::Error::Damaged { from, to } => status::log_damaged(*from, *to),
        logs::Error::Removed => status::log_removed(),
        logs::Error::Closed => status::shutting_down(),
        error => status::internal("the log could not be read", error),
    }
}

async fn send(sender: &Sender, response: Response) -> Result<(), Stop> {
    sender.send(Ok(response)).await.map_err(|_| Stop::ClientGone)
}

/// A task, and how one of its attempts has ended, if it has.
async fn read_task(
    context: &Context,
    batch: BatchId,
    task: TaskIndex,
    attempt: impl FnOnce(&TaskView) -> AttemptId + Send + 'static,
) -> Result<(TaskView, Option<AttemptRow>), Status> {
    let found = context.read(move |reader| match reader.task(batch, task)? {
        Some(view) => {
            let row = reader.attempt(attempt(&view))?;
            Ok(Ok((view, row)))
        }
        None => Ok(Err(reader.batch(batch)?.map(|view| view.head.task_count))),
    });
    found.await?.map_err(|count| match count {
        Some(count) => status::unknown_task("task_index", task.0, count),
        None => status::unknown_batch(batch),
    })
}

/// What of a chunk can be sent, and how many bytes that is; `None`: nothing (yet).
///
/// Text where it is valid UTF-8. Either way a chunk ends at the border of a character where it can, so that
/// text after it stays text.
fn content(chunk: &Bytes, raw: bool, more_follows: bool) -> Option<(Content, usize)> {
    let keep = if more_follows && !raw { incomplete_tail(chunk) } else { 0 };
    let whole = chunk.slice(..chunk.len() - keep);
    let length = whole.len();
    let content = match std::str::from_utf8(&whole) {
        Ok("") => return None,
        Ok(text) if !raw => Content::Text(text.to_owned()),
        Ok(_) | Err(_) => Content::Data(whole),
    };
    Some((content, length))
}

/// How many bytes at the end begin a character that is not complete.
fn incomplete_tail(chunk: &[u8]) -> usize {
    let ends: Vec<u8> = chunk.iter().rev().take(3).copied().collect();
    for (place, byte) in (1_usize..).zip(ends) {
        let length = match byte {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => 1,
        };
        return if length > place { place } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use bytes::Buf as _;

    use super::*;

    fn sent(bytes: &[u8], chunk: usize, more: bool) -> (Vec<Content>, usize) {
        let mut bytes = Bytes::copy_from_slice(bytes);
        let mut all = Vec::new();
        while let Some((content, taken)) = content(&bytes.slice(..chunk.min(bytes.len())), false, more) {
            all.push(content);
            bytes.advance(taken);
        }
        (all, bytes.len())
    }

    #[test]
    fn text_is_split_at_characters() {
        let text = "竹é𝄞x".repeat(50);
        for chunk in 4..40 {
            let (pieces, left) = sent(text.as_bytes(), chunk, true);
            let joined: String = pieces
                .iter()
                .map(|piece| match piece {
                    Content::Text(text) => text.as_str(),
                    Content::Data(_) => panic!("chunks of {chunk} broke a character"),
                })
                .collect();
            assert_eq!((joined.as_str(), left), (text.as_str(), 0));
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_data_and_text_after_them_is_text() {
        let mut bytes = vec![0xFF, 0x00];
        bytes.extend("竹".as_bytes());
        let (pieces, left) = sent(&bytes, 4, true);
        assert_eq!(pieces, [Content::Data(vec![0xFF, 0x00].into()), Content::Text("竹".into())]);
        assert_eq!(left, 0);
    }

    #[test]
    fn half_a_character_waits_while_more_may_come_and_is_data_at_the_end() {
        let half = Bytes::from("竹").slice(..2);
        assert_eq!(content(&half, false, true), None);
        assert_eq!(content(&half, false, false), Some((Content::Data(half.clone()), 2)));
        assert_eq!(content(&half, true, true), Some((Content::Data(half.clone()), 2)));
        assert_eq!(content(&Bytes::new(), true, false), None);
    }

    #[test]
    fn only_the_beginning_of_a_character_is_held_back() {
        for (bytes, tail) in [
            (&b"abc"[..], 0),
            (b"", 0),
            (&[0x80, 0x80, 0x80, 0x80], 0),
            (&[0x61, 0xE7], 1),
            (&[0xE7, 0xAB], 2),
            (&[0xF0, 0x9D, 0x84], 3),
            (&[0xC0], 0),
            (&[0xFF], 0),
        ] {
            assert_eq!(incomplete_tail(bytes), tail, "{bytes:?}");
        }
    }
}
