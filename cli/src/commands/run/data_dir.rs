//! Where `muster run` keeps its data.

use std::path::{Path, PathBuf};

use muster_proto::BatchId;

use crate::error::Error;

/// The folder of runs, under the current one.
const RUNS: &str = "muster-runs";

/// A new folder `muster-runs/<batch>`, created, and the batch's id, made beforehand.
pub fn new_run() -> Result<(PathBuf, BatchId), Error> {
    let random = getrandom::u64().map_err(|error| Error::Random(error.to_string()))?;
    let now_ms = jiff::Timestamp::now().as_millisecond();
    // A clock before 1970 has no milliseconds since.
    let id = BatchId::new(u64::try_from(now_ms).unwrap_or(0), random);
    Ok((make(Path::new(RUNS).join(id.to_string()))?, id))
}

/// The folder that the user named, created where it is missing.
pub fn given(path: &Path) -> Result<PathBuf, Error> {
    make(path.to_owned())
}

/// Removes a folder of [`new_run`] in which nothing was stored, its key file beside it, and the folder of runs
/// where that leaves it empty.
pub fn remove_unused(path: &Path) {
    let key = muster_coordinator::Config::new(path).key_file();
    // What cannot be removed is an empty store, which harms nobody.
    let _ = std::fs::remove_dir_all(path);
    let _ = std::fs::remove_file(key);
    if let Some(runs) = path.parent() {
        let _ = std::fs::remove_dir(runs);
    }
}

fn make(path: PathBuf) -> Result<PathBuf, Error> {
    let failed = |source| Error::Write { what: path.display().to_string(), source };
    std::fs::create_dir_all(&path).map_err(failed)?;
    // Tasks run elsewhere: every path that they are given has to be a full one.
    std::path::absolute(&path).map_err(failed)
}
