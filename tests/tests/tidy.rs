//! What reviews would otherwise have to look for: the cores stay pure, files stay small, and no committed file
//! names a machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What a pure core cannot use, and what to do instead.
const IMPURE: [(&str, &str); 14] = [
    ("tokio", "awaiting is the engine's and the session's"),
    ("tonic", "only the edges know the wire"),
    ("rusqlite", "only store/ knows SQL"),
    ("async fn", "a core never waits"),
    (".await", "a core never waits"),
    ("std::fs", "files are the edges'"),
    ("std::net", "sockets are the edges'"),
    ("std::process", "processes are the runner's"),
    ("std::env", "settings are parsed once, outside"),
    ("std::thread", "a core has one owner"),
    ("SystemTime::now", "time comes in with the event"),
    ("Instant::now", "time comes in with the event"),
    ("getrandom", "random numbers come in with the event"),
    ("rand::", "random numbers come in with the event"),
];
/// A file above this is about more than one noun.
const LINES_MAX: usize = 700;

#[test]
fn cores_are_pure() {
    let mut seen = 0;
    let mut faults = Vec::new();
    for path in committed("rs").into_iter().filter(|path| in_core(path)) {
        seen += 1;
        let text = fs::read_to_string(root().join(&path)).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (word, reason) in IMPURE {
                if code.contains(word) {
                    faults.push(format!("{}:{}: {word}: {reason}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(seen > 0, "there are cores to look at");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_source_file_is_too_long() {
    let long: Vec<String> = committed("rs")
        .into_iter()
        .filter(|path| !path.components().any(|part| part.as_os_str() == "generated"))
        .filter_map(|path| {
            let lines = fs::read_to_string(root().join(&path)).unwrap().lines().count();
            (lines > LINES_MAX).then(|| format!("{}: {lines} lines, at most {LINES_MAX}", path.display()))
        })
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn no_file_names_a_machine() {
    // Spelt in two parts, so that this file does not name one either.
    let machine: Vec<String> =
        [("/wo", "rk/"), ("/ro", "ot/"), ("/ho", "me/"), ("/tmp/", "h-"), ("../sha", "red")]
            .map(|(start, end)| format!("{start}{end}"))
            .to_vec();
    let mut faults = Vec::new();
    for path in committed("") {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(found) = machine.iter().find(|word| line.contains(word.as_str())) {
                faults.push(format!("{}:{}: {found}", path.display(), number + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What drives a core in tests may read how often from the environment, and use every processor.
fn in_core(path: &Path) -> bool {
    let text = path.to_string_lossy();
    (text.contains("/src/core/") || text.ends_with("/src/core.rs")) && !text.contains("/core/tests/")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The committed files whose name ends so; where there is no git repository, all files outside target folders.
fn committed(extension: &str) -> Vec<PathBuf> {
    let git = Command::new("git").arg("ls-files").arg("-z").current_dir(root()).output();
    let files: Vec<PathBuf> = match git {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout)
            .unwrap()
            .split('\0')
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
            .collect(),
        _ => {
            let mut found = Vec::new();
            walk(&root(), &mut found);
            found.iter().map(|path| path.strip_prefix(root()).unwrap().to_path_buf()).collect()
        }
    };
    files
        .into_iter()
        .filter(|path| extension.is_empty() || path.extension().is_some_and(|own| own == extension))
        .filter(|path| root().join(path).is_file())
        .collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_file() {
            found.push(path);
        } else if name != "target" && !name.to_string_lossy().starts_with('.') {
            walk(&path, found);
        }
    }
}
