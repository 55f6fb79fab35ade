//! Reads the outputs of the running tasks that are shown, for their last lines, and the last lines of those that
//! failed. Says nothing itself: an output that cannot be read is just not shown.

use std::{collections::HashMap, time::Duration};

use muster_proto::v1::{TailLogsRequest, Task};
use tokio::task::{AbortHandle, JoinSet};

use super::{Shared, model::Wanted};
use crate::{
    Context,
    client::Client,
    error::Error,
    sanitize::{Colour, Sanitizer},
    tail::Tail,
};

/// From so many bytes before the end an output is read.
const LAST_BYTES: i64 = 16 << 10;
/// Lines of a failed task that are shown.
const LAST_LINES: usize = 10;
/// Characters of such a line that are shown.
const MAX_LINE: usize = 2_000;
/// How long it may take to read them.
const LAST_LINES_TIME: Duration = Duration::from_secs(5);

/// The outputs being read.
pub struct Outputs {
    client: Client,
    batch_id: String,
    shared: Shared,
    open: HashMap<i32, (i32, AbortHandle)>,
    running: JoinSet<()>,
}

impl Outputs {
    pub(super) fn new(client: &Client, batch_id: &str, shared: &Shared) -> Result<Self, Error> {
        Ok(Self {
            client: quiet(client)?,
            batch_id: batch_id.to_owned(),
            shared: shared.clone(),
            open: HashMap::new(),
            running: JoinSet::new(),
        })
    }

    /// Reads these and no others.
    pub(super) fn follow(&mut self, wanted: &[Wanted]) {
        self.open.retain(|index, (attempt, reading)| {
            let stays = wanted.iter().any(|wanted| wanted.index == *index && wanted.attempt == *attempt);
            if !stays {
                reading.abort();
            }
            stays
        });
        while self.running.try_join_next().is_some() {}
        for wanted in wanted {
            if !self.open.contains_key(&wanted.index) {
                let reading = self.read(*wanted);
                self.open.insert(wanted.index, (wanted.attempt, reading));
            }
        }
    }

    fn read(&mut self, wanted: Wanted) -> AbortHandle {
        let Wanted { index, attempt, log_bytes } = wanted;
        let mut request = request(&self.batch_id, index, attempt, log_bytes);
        request.follow = true;
        let mut tail = Tail::new(&self.client, request);
        let shared = self.shared.clone();
        self.running.spawn(async move {
            while let Ok(Some(piece)) = tail.next().await {
                shared.lock().output(index, attempt, &piece.bytes);
            }
        })
    }
}

/// A client that says nothing about outages: whoever follows the batch does.
fn quiet(client: &Client) -> Result<Client, Error> {
    let context = client.context();
    Client::new(&Context { io: context.io.silent(), ..context.clone() })
}

fn request(batch_id: &str, index: i32, attempt: i32, log_bytes: i64) -> TailLogsRequest {
    TailLogsRequest {
        batch_id: batch_id.to_owned(),
        task_index: index,
        attempt,
        offset: log_bytes.saturating_sub(LAST_BYTES).max(0),
        ..TailLogsRequest::default()
    }
}

/// The last lines that a task printed before it failed, each with its number in front; none where they cannot be
/// read.
pub async fn last_lines(client: &Client, batch_id: &str, task: &Task) -> Vec<String> {
    let Ok(client) = quiet(client) else { return Vec::new() };
    let request = request(batch_id, task.index, task.attempt, task.log_bytes);
    let cut = request.offset > 0;
    let mut tail = Tail::new(&client, request);
    let (mut sanitizer, mut text) = (Sanitizer::new(Colour::Strip), String::new());
    let reading = async {
        while let Ok(Some(piece)) = tail.next().await {
            sanitizer.push(&piece.bytes, &mut text);
            let too_much = text.len().saturating_sub(2 * LAST_BYTES.unsigned_abs() as usize);
            // Bounded even where more came than was expected.
            text.drain(..text.ceil_char_boundary(too_much));
        }
    };
    // What has come by then is shown.
    let _ = tokio::time::timeout(LAST_LINES_TIME, reading).await;
    sanitizer.finish(&mut text);
    newest(&text, cut).into_iter().map(|line| format!("[{}] {line}", task.index)).collect()
}

/// The newest lines of a text; `cut`: it begins in the middle of one.
fn newest(text: &str, cut: bool) -> Vec<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    if cut && lines.len() > 1 {
        lines.remove(0);
    }
    let from = lines.len().saturating_sub(LAST_LINES);
    lines.split_off(from).into_iter().map(|line| line.chars().take(MAX_LINE).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_whole_and_bounded() {
        let text: String = (1..=30).map(|n| format!("line {n}\n")).collect();
        let lines = newest(&text, false);
        assert_eq!((lines.len(), lines[0].as_str(), lines[9].as_str()), (10, "line 21", "line 30"));
        assert_eq!(newest("e 1\nline 2\n", true), ["line 2"]);
        assert_eq!(newest("only half of it", true), ["only half of it"]);
        assert_eq!(newest(&"x".repeat(9_000), false)[0].len(), MAX_LINE);
        assert!(newest("", false).is_empty());
    }
}
