//! The runner's log: its standard error, which the launcher points at `runner.log`. Bounded, since nothing
//! rotates it while the runner lives; a failure to write it is ignored. Never given a task's environment,
//! arguments or output.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most bytes that one runner writes.
const MAX_BYTES: usize = 1024 * 1024;

static WRITTEN: AtomicUsize = AtomicUsize::new(0);

/// Writes one line, while there is room.
pub(super) fn line(text: Arguments<'_>) {
    let line = format!("{text}\n");
    if WRITTEN.fetch_add(line.len(), Ordering::Relaxed) < MAX_BYTES {
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
