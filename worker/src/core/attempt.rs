//! One attempt as the worker holds it.

use muster_proto::AttemptId;

use super::event::{Held, HeldPhase, Report};
use super::start::Launch;

/// An attempt that this worker has to do with.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) phase: Phase,
    /// The output path it was given; empty where a former worker process started it.
    pub(super) output_path: String,
    pub(super) log: Log,
    /// The coordinator wants no result: forget it when it has ended.
    pub(super) unwanted: bool,
}

/// How far an attempt is.
///
/// ```text
///  offer ─► Accepted ─► Starting ─► Running ─► Stopping
///              │           │           │          │
///              ▼           ▼           ▼          ▼
///           Refusing    (returned)   Ended ◄──────┘ ─► (forgotten)
/// ```
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Told to the coordinator; the runner is not connected.
    Accepted(Box<Launch>),
    /// Sent to the runner, which has not answered. Kept to be sent again to a runner that never read it.
    Starting {
        launch: Box<Launch>,
        /// A stop came meanwhile: its grace.
        stop: Option<u32>,
    },
    /// The runner is told never to start it. Not held: a hello does not list it.
    Refusing {
        /// For the case that it runs after all.
        grace_ms: u32,
    },
    /// Its program runs.
    Running { pid: i32 },
    /// Its program was told to end.
    Stopping { pid: i32, grace_ms: u32 },
    /// The result waits for its acknowledgement.
    Ended(Report),
}

/// How much output there is, and what of it was handed to the pusher.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Log {
    /// In the spool, bytes.
    pub(super) size: u64,
    /// Of which the pusher may send, bytes; `None`: it was never asked to.
    pub(super) announced: Option<u64>,
    /// When to announce what there is, milliseconds.
    pub(super) due: Option<u64>,
    /// The spool cannot be read any further: `size` does not grow.
    pub(super) unreadable: bool,
}

impl Attempt {
    pub(super) fn new(phase: Phase) -> Self {
        Self { phase, output_path: String::new(), log: Log::default(), unwanted: false }
    }

    /// As a hello lists it.
    pub(super) fn held(&self, attempt: AttemptId) -> Option<Held> {
        let phase = match self.phase {
            Phase::Accepted(_) | Phase::Starting { .. } => HeldPhase::Accepted,
            Phase::Running { .. } | Phase::Stopping { .. } => HeldPhase::Running,
            Phase::Ended(_) => HeldPhase::Ended,
            Phase::Refusing { .. } => return None,
        };
        Some(Held { attempt, phase })
    }

    /// Whether it takes a slot.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.phase, Phase::Refusing { .. } | Phase::Ended(_))
    }

    pub(super) fn pid(&self) -> i32 {
        match &self.phase {
            Phase::Running { pid } | Phase::Stopping { pid, .. } => *pid,
            Phase::Ended(report) => report.pid,
            _ => 0,
        }
    }
}
