//! A batch as comma-separated values: the first row has the keys, each further row is a task.
//!
//! An empty cell is absent, a row of nothing but empty cells is no task, and every value goes as the text that it
//! was written as. What it does not do: guess other separators, or numbers.

use std::ops::Range;

use serde_json::{Map, Value};

use super::{
    MAX_PROBLEMS,
    document::Document,
    is_task_key,
    origin::entry_of,
    problem::{Problem, unknown_key},
};

/// The most columns that are taken.
const MAX_COLUMNS: usize = 1024;
/// Keys whose column may be repeated.
const LISTS: [&str; 4] = ["image", "audio", "video", "param"];

/// Where a table has what.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Grid {
    keys: Vec<String>,
    /// The cells of each task.
    tasks: Vec<Vec<Range<usize>>>,
}

impl Grid {
    /// Whether there is no task.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Where a task's value stands: its cell, or its row.
    pub fn find(&self, task: usize, rest: &str) -> Option<Range<usize>> {
        let cells = self.tasks.get(task.checked_sub(1)?)?;
        let (key, entry) = entry_of(rest).unwrap_or((rest, 1));
        let filled = self.keys.iter().zip(cells).filter(|(name, cell)| *name == key && !cell.is_empty());
        if let Some((_, cell)) = filled.clone().nth(entry.saturating_sub(1)).or_else(|| filled.clone().next())
        {
            return Some(cell.clone());
        }
        Some(cells.first()?.start..cells.last()?.end)
    }
}

/// Reads a table into a JSON array of tasks.
pub fn read(document: &Document) -> Result<(String, Grid), Vec<Problem>> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(document.text().as_bytes());
    let mut grid = Grid::default();
    let mut repeated = Vec::new();
    let mut tasks = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| vec![Problem::new("csv", error.to_string(), None)])?;
        let start = record.position().map_or(0, csv::Position::byte);
        let cells = cells(document.text(), usize::try_from(start).unwrap_or(usize::MAX)).map_err(|open| {
            let range = Some(open..open + 1);
            vec![Problem::new("csv", "this quote is never closed; add the closing one".to_owned(), range)]
        })?;
        if grid.keys.is_empty() {
            grid.keys = keys(&record, &cells)?;
            repeated = grid.keys.iter().map(|key| is_repeated(key, &grid.keys)).collect();
            continue;
        }
        if record.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        if record.len() != grid.keys.len() {
            return Err(vec![uneven(&record, &cells, &grid.keys)]);
        }
        tasks.push(Value::Object(task(&grid.keys, &repeated, &record)));
        grid.tasks.push(cells);
    }
    Ok((Value::Array(tasks).to_string(), grid))
}

/// The keys of the first row.
fn keys(record: &csv::StringRecord, cells: &[Range<usize>]) -> Result<Vec<String>, Vec<Problem>> {
    let keys: Vec<String> = record.iter().map(|key| key.trim().to_owned()).collect();
    let mut problems = Vec::new();
    if keys.len() > MAX_COLUMNS {
        let what = format!("there are {} columns; at most {MAX_COLUMNS} are taken", keys.len());
        return Err(vec![Problem::new("", what, cells.get(MAX_COLUMNS).cloned())]);
    }
    for (index, key) in keys.iter().enumerate() {
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
        let place = cells.get(index).cloned();
        let field = format!("column {}", index + 1);
        if key.is_empty() {
            let what = "the first row gives no key for this column; write one, or remove the column";
            problems.push(Problem::new(&field, what.to_owned(), place));
        } else if keys.len() == 1 && key.contains([';', '\t']) {
            let what = "the columns of a CSV file are separated by commas here; export it so".to_owned();
            problems.push(Problem::new(&field, what, place));
        } else if !is_task_key(key) {
            problems.push(Problem::new(key, unknown_key(key), place));
        } else if keys.iter().take(index).any(|earlier| earlier == key) && !LISTS.contains(&key.as_str()) {
            let what = format!("this column is there twice; only these may be: {}", LISTS.join(", "));
            problems.push(Problem::new(key, what, place));
        }
    }
    if problems.is_empty() { Ok(keys) } else { Err(problems) }
}

fn is_repeated(key: &str, keys: &[String]) -> bool {
    keys.iter().filter(|other| *other == key).count() > 1
}

/// A row as a task. `repeated` says which columns are parts of a list.
fn task(keys: &[String], repeated: &[bool], record: &csv::StringRecord) -> Map<String, Value> {
    let mut task = Map::new();
    for ((key, in_list), cell) in keys.iter().zip(repeated).zip(record) {
        if cell.is_empty() {
            continue;
        }
        let text = Value::String(cell.to_owned());
        if !in_list {
            task.insert(key.clone(), text);
        } else if let Value::Array(entries) =
            task.entry(key.clone()).or_insert_with(|| Value::Array(Vec::new()))
        {
            entries.push(text);
        }
    }
    task
}

fn uneven(record: &csv::StringRecord, cells: &[Range<usize>], keys: &[String]) -> Problem {
    let (has, expected) = (record.len(), keys.len());
    if has > expected {
        let what = format!(
            "the row has {has} cells and the first row {expected}; a text with a comma in it stands in double quotes"
        );
        Problem::new(&format!("column {}", expected + 1), what, cells.get(expected).cloned())
    } else {
        let what = format!(
            "the row has {has} cells and the first row {expected}; give each a cell, empty for no value"
        );
        Problem::new(&format!("column {has}"), what, cells.last().cloned())
    }
}

/// Where the cells of the row stand that begins at `start`, line breaks before it left out. Fails with the place
/// of a quote that is never closed, which would swallow the rows below.
fn cells(text: &str, start: usize) -> Result<Vec<Range<usize>>, usize> {
    let bytes = text.as_bytes();
    let mut at = start;
    while matches!(bytes.get(at), Some(b'\r' | b'\n')) {
        at += 1;
    }
    let mut cells = Vec::new();
    loop {
        let begin = at;
        if bytes.get(at) == Some(&b'"') {
            at += 1;
            // A doubled quote closes the text and opens it again at once.
            loop {
                match bytes.get(at) {
                    None => return Err(begin),
                    Some(b'"') if bytes.get(at + 1) == Some(&b'"') => at += 2,
                    Some(b'"') => break,
                    Some(_) => at += 1,
                }
            }
        }
        while !matches!(bytes.get(at), None | Some(b',' | b'\r' | b'\n')) {
            at += 1;
        }
        cells.push(begin..at);
        if bytes.get(at) != Some(&b',') {
            return Ok(cells);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn document(text: &str) -> Document {
        Document::new("f", text.to_owned())
    }

    /// The place and the words of the first problem.
    fn problem(text: &str) -> (usize, usize, String) {
        let document = document(text);
        let problems = read(&document).unwrap_err();
        let place = document.position(problems[0].place.clone().unwrap().start);
        (place.line, place.column, problems[0].gist())
    }

    #[test]
    fn rows_become_tasks_with_their_values_as_written() {
        let text = "prompt,image,steps,image,param\r\n\"a, \"\"big\"\"\ncat\",one.png,020,two.png,\n\n,,,,\n猫,,1.0,,-x\n";
        let (json, grid) = read(&document(text)).unwrap();
        assert_eq!(
            json,
            r#"[{"image":["one.png","two.png"],"prompt":"a, \"big\"\ncat","steps":"020"},{"param":"-x","prompt":"猫","steps":"1.0"}]"#
        );
        let part = |task, rest| text.get(grid.find(task, rest).unwrap()).unwrap();
        assert_eq!(part(1, "image[2]"), "two.png");
        assert_eq!(part(1, "steps"), "020");
        assert_eq!(part(2, "prompt"), "猫");
        assert_eq!(part(2, "label"), "猫,,1.0,,-x");
        assert_eq!(grid.find(3, "prompt"), None);
    }

    #[test]
    fn what_is_wrong_with_a_table_has_its_place() {
        for (text, line, column, words) in [
            ("prompt,modle\na,b\n", 1, 8, "modle: unknown key; did you mean model?"),
            ("prompt,,seed\na,b,1\n", 1, 8, "no key for this column"),
            ("prompt,prompt\na,b\n", 1, 8, "twice"),
            (&"image,".repeat(2000), 1, 6145, "at most 1024"),
            ("prompt;seed\na;1\n", 1, 1, "separated by commas"),
            ("prompt,seed\na,1\n\na cat, white,2\n", 4, 14, "double quotes"),
            ("prompt,seed\na\n", 2, 1, "the row has 1 cells and the first row 2"),
            ("prompt,seed\na,\"1\nb,2\nc,3\n", 2, 3, "never closed"),
        ] {
            let (at_line, at_column, gist) = problem(text);
            assert!(gist.contains(words), "{text}: {gist}");
            assert_eq!((at_line, at_column), (line, column), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_value_is_found_where_it_stands(rows in prop::collection::vec(("[a-z\",\n 猫]{1,8}", "[0-9\"]{1,4}"), 1..6)) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(["prompt", "seed"]).unwrap();
            rows.iter().for_each(|(prompt, seed)| writer.write_record([prompt, seed]).unwrap());
            let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
            let (_, grid) = read(&document(&text)).unwrap();
            let tasks = rows.iter().filter(|(prompt, seed)| !(prompt.trim().is_empty() && seed.is_empty()));
            for (index, (prompt, seed)) in (1..).zip(tasks) {
                let part = |rest| text.get(grid.find(index, rest).unwrap()).unwrap();
                prop_assert_eq!(&value(part("prompt")), prompt);
                prop_assert_eq!(&value(part("seed")), seed);
            }
        }
    }

    /// What a cell says.
    fn value(cell: &str) -> String {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(cell.as_bytes());
        reader.records().next().unwrap().unwrap()[0].to_owned()
    }
}
