//! The batch in the forms that people have it in: JSON, cards, a prompt or a task a line, a table, words of the
//! command line. All but cards become the JSON that the coordinator takes; what can be found wrong here is, with
//! its place, before anything is sent.
//!
//! What it does not do: look at limits or models, which are the coordinator's to check; or read cards.

pub mod document;
pub mod file;
pub mod json;
pub mod origin;
pub mod problem;
pub mod snippet;
pub mod table;
pub mod words;

use std::{ffi::OsStr, ops::Range};

use clap::{Args, ValueHint};
use muster_coordinator::core::payload::{Defaults, TASK_KEYS, parse_batch_json};

use crate::{error::Error, shell::quote};
use document::Document;
use file::read_text;
use origin::Origin;
use problem::{Problem, report};
use snippet::Style;
use words::Words;

/// The largest payload that is read, and the largest that is sent.
pub const MAX_PAYLOAD_BYTES: u64 = 16 << 20;

/// Problems that are reported at once.
const MAX_PROBLEMS: usize = 20;

/// Where the batch is.
#[derive(Clone, Debug, Default, Args)]
pub struct SourceArgs {
    /// File with the batch as JSON (an array of tasks, or an object with tasks and concurrency), - for standard
    /// input; or prompts, each a task
    #[arg(value_name = "FILE|PROMPT", value_hint = ValueHint::FilePath)]
    pub words: Vec<String>,
    /// A prompt, which is a task; may be repeated
    #[arg(long, env = "MUSTER_PROMPT", value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// File with the batch as cards, as `muster prefill` printed them, edited or not; - for standard input
    #[arg(long, env = "MUSTER_CARDS", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub cards: Option<String>,
    /// File with a prompt a line; blank lines are skipped; - for standard input
    #[arg(long, env = "MUSTER_EACH_LINE", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub each_line: Option<String>,
    /// File with a task as JSON a line (a text or an object); - for standard input
    #[arg(long, env = "MUSTER_FROM_JSONL", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub from_jsonl: Option<String>,
    /// File with comma-separated values: keys of tasks in the first row, a task a row; - for standard input
    #[arg(long, env = "MUSTER_FROM_CSV", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub from_csv: Option<String>,
}

/// A batch as a request has it.
#[derive(Debug, PartialEq, Eq)]
pub enum Payload {
    /// JSON text.
    Json(String),
    /// Cards.
    Cards(String),
}

impl Payload {
    /// As a request has it: its `batch_json` and its `cards_markdown`, one of them empty.
    pub fn into_fields(self) -> (String, String) {
        match self {
            Self::Json(text) => (text, String::new()),
            Self::Cards(text) => (String::new(), text),
        }
    }
}

/// A batch as it was read, and where it came from.
#[derive(Debug, PartialEq, Eq)]
pub struct Input {
    /// The batch.
    pub payload: Payload,
    /// Where from.
    pub origin: Origin,
}

/// The one source that was given.
#[derive(Debug, PartialEq, Eq)]
enum Source<'a> {
    Prompts(Vec<&'a str>),
    Json(&'a str),
    Cards(&'a str),
    EachLine(&'a str),
    Jsonl(&'a str),
    Csv(&'a str),
}

impl SourceArgs {
    /// Reads the batch and checks what can be checked here. Exactly one source must be given, and hold what it is
    /// said to. `defaults` are those of the request.
    pub fn read(&self, defaults: &Defaults, style: Style) -> Result<Input, Error> {
        let read = |path: &str| Ok(Document::new(path, read_text(path, MAX_PAYLOAD_BYTES)?));
        match self.source()? {
            Source::Cards(path) => cards(path, read_text(path, MAX_PAYLOAD_BYTES)?),
            Source::Prompts(prompts) => checked(encoded(&prompts)?, Origin::Words, defaults, style),
            Source::Json(path) => json(path, read(path)?, defaults, style),
            Source::EachLine(path) => each_line(read(path)?, defaults, style),
            Source::Jsonl(path) => jsonl(read(path)?, defaults, style),
            Source::Csv(path) => csv(read(path)?, defaults, style),
        }
    }

    /// Whether the batch comes from standard input, so that nothing else can.
    pub fn takes_standard_input(&self) -> bool {
        let files = [&self.cards, &self.each_line, &self.from_jsonl, &self.from_csv];
        self.words.iter().any(|word| word == "-")
            || files.into_iter().any(|path| path.as_deref() == Some("-"))
    }

    fn source(&self) -> Result<Source<'_>, Error> {
        let prompts = self.prompt.iter().any(|prompt| !prompt.is_empty());
        let given = [
            (!self.words.is_empty()).then_some(("FILE or PROMPT", None)),
            prompts.then_some(("--prompt (MUSTER_PROMPT)", None)),
            named(&self.cards).map(|path| ("--cards (MUSTER_CARDS)", Some(Source::Cards(path)))),
            named(&self.each_line)
                .map(|path| ("--each-line (MUSTER_EACH_LINE)", Some(Source::EachLine(path)))),
            named(&self.from_jsonl)
                .map(|path| ("--from-jsonl (MUSTER_FROM_JSONL)", Some(Source::Jsonl(path)))),
            named(&self.from_csv).map(|path| ("--from-csv (MUSTER_FROM_CSV)", Some(Source::Csv(path)))),
        ];
        let mut given: Vec<_> = given.into_iter().flatten().collect();
        match (given.pop(), given.pop()) {
            (None, _) => Err(Error::Usage(
                "no batch is named; give FILE with JSON (- for standard input), prompts in quotes, or one of \
                 --cards, --each-line, --from-jsonl, --from-csv FILE"
                    .to_owned(),
            )),
            (Some((second, _)), Some((first, _))) => {
                Err(Error::Usage(format!("give the batch in one way, not as both {first} and {second}")))
            }
            (Some((_, Some(source))), None) => Ok(source),
            (Some((_, None)), None) if prompts => words::prompts(&self.prompt).map(Source::Prompts),
            (Some((_, None)), None) => {
                Ok(match words::classify(&self.words, |word| std::path::Path::new(word).exists())? {
                    Words::File(path) => Source::Json(path),
                    Words::Prompts(prompts) => Source::Prompts(prompts),
                })
            }
        }
    }
}

/// A file that was named. A variable that is set to nothing is not set.
fn named(path: &Option<String>) -> Option<&str> {
    path.as_deref().filter(|path| !path.is_empty())
}

/// Whether tasks may have this key.
pub fn is_task_key(key: &str) -> bool {
    TASK_KEYS.contains(&key)
}

fn json(path: &str, document: Document, defaults: &Defaults, style: Style) -> Result<Input, Error> {
    let name = document.name().to_owned();
    match document.text().trim_start().chars().next() {
        Some('[' | '{') => {}
        Some(_) => {
            let path = quote(OsStr::new(path));
            return Err(Error::Usage(format!(
                "{name} is not JSON, which begins with [ or {{ here; cards are given with: --cards {path}, a prompt \
                 a line with: --each-line {path}, a table with: --from-csv {path}"
            )));
        }
        None => return Err(empty(&name, "give a JSON array of tasks")),
    }
    match json::outline(&document) {
        Ok(outline) => {
            let text = document.text().to_owned();
            checked(text, Origin::Json(document, outline), defaults, style)
        }
        Err(error) => {
            // Objects one below the other are a task a line.
            let is_jsonl = error.message.contains("trailing characters") && document.text().starts_with('{');
            let more = if is_jsonl {
                format!("; a task a line is given with: --from-jsonl {}", quote(OsStr::new(path)))
            } else {
                String::new()
            };
            let place = Some(error.offset..error.offset + 1);
            let problem = Problem::new("", format!("{}{more}", error.message), place);
            let origin = Origin::Lines(document, Vec::new());
            Err(refused(&[problem], &origin, style))
        }
    }
}

fn cards(path: &str, text: String) -> Result<Input, Error> {
    let name = document::display_name(path);
    match text.trim_start_matches('\u{feff}').trim_start().chars().next() {
        Some('[' | '{') => Err(Error::Usage(format!(
            "{name} holds JSON and no cards; leave --cards out and give it as FILE alone: {}",
            quote(OsStr::new(path))
        ))),
        Some(_) => {
            // Cards are handed on as they are; only places are looked up without the mark at the beginning.
            let origin = Origin::Cards(Document::new(path, text.clone()));
            Ok(Input { payload: Payload::Cards(text), origin })
        }
        None => Err(Error::Usage(format!(
            "{name}: there are no cards in it; `muster prefill batch.json` prints them"
        ))),
    }
}

fn each_line(document: Document, defaults: &Defaults, style: Style) -> Result<Input, Error> {
    let lines = filled_lines(&document);
    if lines.is_empty() {
        return Err(empty(document.name(), "write a prompt on each line"));
    }
    let prompts: Vec<&str> = lines.iter().map(|line| document.part(line)).collect();
    let text = encoded(&prompts)?;
    checked(text, Origin::Lines(document, lines), defaults, style)
}

fn jsonl(document: Document, defaults: &Defaults, style: Style) -> Result<Input, Error> {
    let lines = filled_lines(&document);
    if lines.is_empty() {
        return Err(empty(document.name(), "write a task as JSON on each line"));
    }
    let mut tasks = Vec::with_capacity(lines.len());
    let mut problems = Vec::new();
    for (number, line) in (1_usize..).zip(lines) {
        match json::value(&document, line) {
            Ok(task) => tasks.push(task),
            Err(error) if problems.len() < MAX_PROBLEMS => {
                let place = Some(error.offset..error.offset + 1);
                problems.push(Problem::new(&format!("tasks[{number}]"), error.message, place));
            }
            Err(_) => break,
        }
    }
    if !problems.is_empty() {
        return Err(refused(&problems, &Origin::Lines(document, tasks), style));
    }
    let texts: Vec<&str> = tasks.iter().map(|task| document.part(task)).collect();
    let text = format!("[{}]", texts.join(",\n"));
    checked(text, Origin::Lines(document, tasks), defaults, style)
}

fn csv(document: Document, defaults: &Defaults, style: Style) -> Result<Input, Error> {
    match table::read(&document) {
        Ok((_, grid)) if grid.is_empty() => Err(empty(
            document.name(),
            "write the keys in the first row, such as prompt,model, and a task a row",
        )),
        Ok((text, grid)) => checked(text, Origin::Table(document, grid), defaults, style),
        Err(problems) => Err(refused(&problems, &Origin::Table(document, table::Grid::default()), style)),
    }
}

/// The lines with something on them, without their ends.
fn filled_lines(document: &Document) -> Vec<Range<usize>> {
    let lines = document.text().split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    lines.filter(|line| !line.trim().is_empty()).filter_map(|line| document.range_of(line)).collect()
}

fn encoded(prompts: &[&str]) -> Result<String, Error> {
    serde_json::to_string(prompts).map_err(|error| Error::Usage(error.to_string()))
}

/// The batch, if the rules for payloads find nothing wrong with it.
fn checked(text: String, origin: Origin, defaults: &Defaults, style: Style) -> Result<Input, Error> {
    if text.len() as u64 > MAX_PAYLOAD_BYTES {
        return Err(Error::Usage(format!(
            "the batch is larger than the limit of {MAX_PAYLOAD_BYTES} bytes; split it"
        )));
    }
    if let Err(violations) = parse_batch_json(&text, defaults) {
        let problems: Vec<_> =
            violations.iter().map(|violation| Problem::of_violation(violation, &origin)).collect();
        return Err(refused(&problems, &origin, style));
    }
    Ok(Input { payload: Payload::Json(text), origin })
}

fn empty(name: &str, way_out: &str) -> Error {
    Error::Usage(format!("{name}: there is no task in it; {way_out}"))
}

fn refused(problems: &[Problem], origin: &Origin, style: Style) -> Error {
    Error::Input { problems: problems.len(), report: report(problems, origin, style) }
}

#[cfg(test)]
mod tests;
