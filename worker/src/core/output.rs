//! Where a task's output goes: which paths are assigned and which are allowed.
//!
//! Decided on the words of the path alone. No link is followed: a program that is allowed to run can write
//! wherever its user can, so this guards against mistakes and careless batches, not against hostile programs.

use std::path::{Component, Path, PathBuf};

/// The longest batch id that becomes a directory's name, bytes.
const MAX_BATCH_ID: usize = 64;

/// What a worker allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputPolicy {
    /// The worker's own directory for outputs, absolute.
    pub outputs_dir: PathBuf,
    /// Further directories that tasks may name, absolute.
    pub roots: Vec<PathBuf>,
    /// Allow every path, as `muster run` does for its own user.
    pub allow_any: bool,
}

/// Where one attempt's output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The batch's directory: the program's working directory too.
    pub dir: PathBuf,
    /// The value of `--output`.
    pub path: String,
}

/// The path is not allowed; the text says what is wrong and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OutputRefused(pub String);

impl OutputPolicy {
    /// The batch's directory. `fallback` names it where `batch_id` is not fit for a file's name.
    pub fn batch_dir(&self, batch_id: &str, fallback: &str) -> PathBuf {
        let fit = (1..=MAX_BATCH_ID).contains(&batch_id.len())
            && batch_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        self.outputs_dir.join(if fit { batch_id } else { fallback })
    }

    /// Where the output of an attempt goes, given the path that its task wishes (empty: none).
    ///
    /// # Errors
    /// The wish lies outside what is allowed.
    pub fn place(
        &self,
        dir: PathBuf,
        task: u32,
        attempt: u32,
        wish: &str,
    ) -> Result<Placement, OutputRefused> {
        if wish.is_empty() {
            let again = if attempt > 1 { format!(".attempt-{attempt}") } else { String::new() };
            let path = dir.join(format!("task-{task:02}-output{again}"));
            return Ok(Placement { path: text(&path)?, dir });
        }
        if wish.contains('\0') {
            return Err(OutputRefused("the output path has a zero byte in it".into()));
        }
        let wished = Path::new(wish);
        let path = dir.join(wished);
        if !self.allow_any {
            if wished.components().any(|part| part == Component::ParentDir) {
                return Err(OutputRefused(format!(
                    "the output path {wish:?} has '..' in it; name the file without"
                )));
            }
            let mut allowed = std::iter::once(&self.outputs_dir).chain(&self.roots);
            // A directory that is allowed is not itself a place for a file.
            if !allowed.any(|root| path.starts_with(root) && path != *root) {
                let roots: Vec<_> = self.roots.iter().map(|root| root.display().to_string()).collect();
                return Err(OutputRefused(format!(
                    "the output path {wish:?} lies outside what this worker allows: relative paths, {}{}{} \
                     (the worker's --output-root adds to these)",
                    self.outputs_dir.display(),
                    if roots.is_empty() { "" } else { ", " },
                    roots.join(", ")
                )));
            }
            if path == dir {
                return Err(OutputRefused(format!(
                    "the output path {wish:?} is the batch's own directory; name a file in it"
                )));
            }
        }
        Ok(Placement { path: text(&path)?, dir })
    }
}

/// Output paths travel as text, so one that is not text cannot be reported.
fn text(path: &Path) -> Result<String, OutputRefused> {
    let text = path.to_str().ok_or_else(|| {
        OutputRefused(format!(
            "the work directory's path {} is not UTF-8; choose another one",
            path.display()
        ))
    })?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> OutputPolicy {
        OutputPolicy { outputs_dir: "/w/outputs".into(), roots: vec!["/data/out".into()], allow_any: false }
    }

    fn place(wish: &str) -> Result<String, String> {
        let policy = policy();
        let dir = policy.batch_dir("b1", "x");
        policy.place(dir, 3, 1, wish).map(|placement| placement.path).map_err(|refused| refused.0)
    }

    #[test]
    fn a_path_is_assigned_by_task_and_attempt() {
        let policy = policy();
        let path = |task, attempt| policy.place("/w/outputs/b1".into(), task, attempt, "").unwrap().path;
        assert_eq!(path(3, 1), "/w/outputs/b1/task-03-output");
        assert_eq!(path(100, 1), "/w/outputs/b1/task-100-output");
        assert_eq!(path(3, 2), "/w/outputs/b1/task-03-output.attempt-2");
    }

    #[test]
    fn own_paths_stay_inside_what_is_allowed() {
        assert_eq!(place("cat.png").unwrap(), "/w/outputs/b1/cat.png");
        assert_eq!(place("sub/cat.png").unwrap(), "/w/outputs/b1/sub/cat.png");
        assert_eq!(place("/w/outputs/b2/cat.png").unwrap(), "/w/outputs/b2/cat.png");
        assert_eq!(place("/data/out/cat.png").unwrap(), "/data/out/cat.png");
        for bad in [
            "../cat.png",
            "sub/../../cat.png",
            "/w/outputs/../journal",
            "/etc/passwd",
            "/data/outside",
            "/data/out",
            "/w/outputs",
            "/w/outputsx/y",
            ".",
            "a\0b",
            "/w/outputs/b1",
            "/",
        ] {
            assert!(place(bad).is_err(), "{bad:?}");
        }
        assert!(place("/etc/x").unwrap_err().contains("/data/out"), "the message names what is allowed");
    }

    #[test]
    fn everything_goes_where_everything_is_allowed() {
        let policy = OutputPolicy { allow_any: true, ..policy() };
        let path = |wish| policy.place("/w/outputs/b1".into(), 1, 1, wish).unwrap().path;
        assert_eq!(path("/etc/x"), "/etc/x");
        assert_eq!(path("../x"), "/w/outputs/b1/../x");
    }

    #[test]
    fn a_batch_id_that_is_no_file_name_is_replaced() {
        for bad in ["", "..", "a/b", "a\0", &"x".repeat(65)] {
            assert_eq!(policy().batch_dir(bad, "00ab"), Path::new("/w/outputs/00ab"), "{bad:?}");
        }
    }
}
