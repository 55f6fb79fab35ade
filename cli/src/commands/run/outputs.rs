//! The files that tasks left behind. Programs may add extensions and siblings to the path that they are given, so
//! everything in its folder that begins with its name counts.

use std::path::{Path, PathBuf};

/// The most files that are named for one task.
const MAX_FILES: usize = 20;
/// The most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 100_000;

/// What exists of one output path on this machine, in order.
pub fn existing(output_path: &str) -> Vec<PathBuf> {
    let path = Path::new(output_path);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let name = name.to_string_lossy();
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .take(MAX_ENTRIES)
        .filter_map(Result::ok)
        .filter(|entry| belongs(&name, &entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.truncate(MAX_FILES);
    found
}

/// Whether a file is of the output `name`: the same, or followed by a mark (`task-01-output.png`, `task-01-output-2`)
/// but not by more of a name, and not another attempt's.
fn belongs(name: &str, file: &str) -> bool {
    let Some(rest) = file.strip_prefix(name) else { return false };
    let another_attempt =
        rest.strip_prefix(".attempt-").is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()));
    !another_attempt && !rest.starts_with(|c: char| c.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_its_extensions_and_siblings_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            "task-01-output",
            "task-01-output-2.png",
            "task-01-output.png",
            "task-01-output.attempt-2",
            "task-01-output.attempt-2.png",
            "task-01-outputs",
            "task-02-output",
        ];
        for file in files {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let names = |path: &str| -> Vec<String> {
            existing(&folder.path().join(path).display().to_string())
                .iter()
                .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(names("task-01-output"), ["task-01-output", "task-01-output-2.png", "task-01-output.png"]);
        assert_eq!(
            names("task-01-output.attempt-2"),
            ["task-01-output.attempt-2", "task-01-output.attempt-2.png"]
        );
        assert!(names("task-09-output").is_empty());
        assert!(existing("").is_empty());
    }
}
