//! What reviews would otherwise have to look for: the cores stay pure, files stay small, no committed file names a
//! machine, and every row of the state tables is walked by a test. The rows that the cores' own scripts walk are
//! theirs to check.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
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
/// The pages with state tables, and how many tables each has at least.
const STATES: [(&str, usize); 2] = [("docs/protocol.md", 12), ("docs/lifecycle.md", 3)];
/// The first letters of the rows that are walked by tests all over the repository: a batch, the runner, a worker.
const WALKED_HERE: [char; 3] = ['B', 'R', 'W'];

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

#[test]
fn every_row_about_batches_workers_and_runners_is_walked_by_a_test() {
    let rows = rows();
    for letter in WALKED_HERE {
        assert!(rows.iter().any(|id| id.starts_with(letter)), "no table has rows {letter}");
    }
    let mut walked = BTreeMap::<String, Vec<String>>::new();
    let mut faults = Vec::new();
    for path in committed("rs") {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate() {
            let place = format!("{}:{}", path.display(), at + 1);
            for named in line.strip_prefix("///").unwrap_or_default().split("walks: ").skip(1) {
                let id: String = named.chars().take_while(char::is_ascii_alphanumeric).collect();
                if !rows.contains(&id) {
                    faults.push(format!("{place}: no table has a row {id:?}"));
                } else if !is_above_a_test(&lines[at..]) {
                    faults.push(format!("{place}: what walks {id} is no test that runs"));
                } else {
                    walked.entry(id).or_default().push(place.clone());
                }
            }
        }
    }
    let missing = rows.iter().filter(|id| !walked.contains_key(*id));
    faults.extend(missing.map(|id| format!("{id}: no test says that it walks it")));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The ids of the rows of the state tables that are walked by tests all over the repository.
fn rows() -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for (page, tables_min) in STATES {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let (mut tables, mut inside) = (0, false);
        for line in text.lines() {
            inside = line.starts_with('|') && (inside || line.starts_with("| id |"));
            tables += usize::from(line.starts_with("| id |"));
            let Some(id) = line.split('|').nth(1).map(str::trim).filter(|_| inside) else { continue };
            if id.starts_with(WALKED_HERE) {
                assert!(rows.insert(id.to_owned()), "{page}: {id} is there twice");
            }
        }
        assert!(tables >= tables_min, "{page}: {tables} tables have ids, not {tables_min}");
    }
    rows
}

/// Whether a doc comment belongs to a test that is not ignored.
fn is_above_a_test(lines: &[&str]) -> bool {
    let mut attributes =
        lines.iter().skip_while(|line| line.starts_with("///")).take_while(|line| line.starts_with("#["));
    let is_test = |line: &&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    attributes.clone().any(is_test) && !attributes.any(|line| line.starts_with("#[ignore"))
}

/// The cores themselves: what explores one in a test may use threads for it.
fn in_core(path: &Path) -> bool {
    let text = path.to_string_lossy();
    (text.contains("/src/core/") || text.ends_with("/src/core.rs")) && !text.contains("/src/core/tests/")
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
