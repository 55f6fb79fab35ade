//! The live view: a batch at a glance while it runs, on a terminal.
//!
//! [`model`] is what is known, [`render`] the lines that show it, [`screen`] the bytes that paint them; all three
//! are pure. Here is what moves them: a thread that paints, the outputs that are read for the tasks that are shown,
//! and stop and continue (Ctrl-Z, `fg`). What scrolls by, and where to, is the commands' business.

pub mod model;
pub mod outcomes;
pub mod outputs;
pub mod render;
pub mod screen;
mod suspend;
pub mod width;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use muster_proto::v1::WatchBatchResponse;

use crate::{client::Client, error::Error, follow::Follower, io::Io, progress::Outcome};
use model::Model;
use outcomes::Outcomes;
use outputs::Outputs;

/// Between two paintings: at most 10 in a second.
const FRAME: Duration = Duration::from_millis(100);
/// How often it is looked which outputs to read; a change of the terminal's size may have changed that.
const LOOK: Duration = Duration::from_secs(1);
/// Outputs that are read at the same time for their last lines.
const MAX_OUTPUTS: usize = 16;
/// A view that is being painted, until it is dropped.
pub struct Live {
    shared: Shared,
    io: Io,
    outputs: Outputs,
    outcomes: Outcomes,
    /// Dropped to stop the painting.
    _painting: SyncSender<()>,
}

/// The model, and the clock that it is told.
#[derive(Clone)]
pub(crate) struct Shared {
    model: Arc<Mutex<Model>>,
    begun: Instant,
    begun_ms: i64,
}

impl Shared {
    fn new() -> Self {
        let begun_ms = jiff::Timestamp::now().as_millisecond();
        Self { model: Arc::default(), begun: Instant::now(), begun_ms }
    }

    /// Never held while something is written.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never goes back, whatever happens to the system's clock.
    fn now_ms(&self) -> i64 {
        let elapsed = i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.begun_ms.saturating_add(elapsed)
    }
}

impl Live {
    /// Begins to show a batch; `None` where there is no terminal to do so.
    pub fn start(client: &Client, batch_id: &str) -> Result<Option<Self>, Error> {
        let io = client.context().io.clone();
        if !io.has_screen() {
            return Ok(None);
        }
        let shared = Shared::new();
        let outputs = Outputs::new(client, batch_id, &shared)?;
        suspend::handle(&io);
        io.open_screen();
        let (painting, stop) = sync_channel(0);
        let (painted, canvas) = (shared.clone(), io.clone());
        // A thread of its own: a terminal that is not read holds up nothing else.
        std::thread::spawn(move || paint(&painted, &canvas, &stop));
        Ok(Some(Self { shared, io, outputs, outcomes: Outcomes::default(), _painting: painting }))
    }

    /// Takes a message of the watch.
    pub fn observe(&mut self, message: &WatchBatchResponse) {
        let now_ms = self.shared.now_ms();
        self.shared.lock().observe(message, now_ms);
        self.look();
    }

    /// The lines that scroll by for the outcomes of one message, bounded.
    pub fn outcome_lines(&mut self, outcomes: &[Outcome]) -> Vec<String> {
        self.outcomes.lines(outcomes, self.shared.now_ms())
    }

    /// Tells of the outcomes that have not scrolled by, once.
    pub fn outcomes_left(&mut self) -> Option<String> {
        self.outcomes.rest()
    }

    fn look(&mut self) {
        let rows = self.io.screen_size().map_or(0, render::task_rows);
        let wanted = self.shared.lock().wanted(rows.min(MAX_OUTPUTS));
        self.outputs.follow(&wanted);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.io.close_screen();
    }
}

/// The next message of a watch; meanwhile it is looked after the view.
pub async fn next_message(
    follower: &mut Follower,
    live: &mut Option<Live>,
) -> Result<Option<WatchBatchResponse>, Error> {
    let Some(live) = live else { return follower.next().await };
    let message = {
        let next = follower.next();
        tokio::pin!(next);
        loop {
            tokio::select! {
                message = &mut next => break message?,
                () = tokio::time::sleep(LOOK) => live.look(),
            }
        }
    };
    if let Some(message) = &message {
        live.observe(message);
    }
    Ok(message)
}

fn paint(shared: &Shared, io: &Io, stop: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(FRAME) {
        let Some(size) = io.screen_size() else { continue };
        let lines = render::render(&shared.lock(), size, shared.now_ms());
        io.paint(lines);
    }
}
