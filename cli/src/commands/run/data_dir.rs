//! Where `muster run` keeps its data.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// The folder of runs, under the current one.
const RUNS: &str = "muster-runs";

/// A new folder `muster-runs/<date>-<time>-<4 hexadecimal digits>`, created.
pub fn new_run() -> Result<PathBuf, Error> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).map_err(|error| Error::Random(error.to_string()))?;
    let now = jiff::Zoned::now();
    let path =
        Path::new(RUNS).join(format!("{}-{:04x}", now.strftime("%Y%m%d-%H%M%S"), u16::from_be_bytes(bytes)));
    make(path)
}

/// The folder that the user named, created where it is missing.
pub fn given(path: &Path) -> Result<PathBuf, Error> {
    make(path.to_owned())
}

fn make(path: PathBuf) -> Result<PathBuf, Error> {
    let failed = |source| Error::Write { what: path.display().to_string(), source };
    std::fs::create_dir_all(&path).map_err(failed)?;
    // Tasks run elsewhere: every path that they are given has to be a full one.
    std::path::absolute(&path).map_err(failed)
}
