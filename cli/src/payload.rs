//! The batch that a command hands over: where it is read from, and what applies to all of its tasks.
//!
//! What it does not do: read JSON or cards. Limits and fields are the coordinator's to check; only what cannot
//! be meant at all is refused here.

use clap::{Args, builder::FalseyValueParser};
use muster_proto::v1::{SubmitBatchRequest, TaskDefaults};

use crate::{
    args::{ApprovalArgs, RequestIdArgs},
    error::Error,
    io::Io,
    key::KeyArgs,
};

/// The largest payload that is read, JSON or cards.
pub const MAX_PAYLOAD_BYTES: u64 = 16 << 20;

/// Where the batch is.
#[derive(Clone, Debug, Default, Args)]
pub struct SourceArgs {
    /// File with the batch as JSON: an array of tasks, or an object with tasks and concurrency; - for standard input
    pub file: Option<String>,
    /// File with the batch as cards, as `muster prefill` printed them, edited or not; - for standard input
    #[arg(long, env = "MUSTER_CARDS", value_name = "FILE")]
    pub cards: Option<String>,
}

/// A batch as it was read, untouched.
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

impl SourceArgs {
    /// Reads the batch. Exactly one of the two must be given, and hold what it is said to.
    pub fn read(&self) -> Result<Payload, Error> {
        // A variable that is set to nothing is not set.
        let cards = self.cards.as_deref().filter(|path| !path.is_empty());
        match (self.file.as_deref(), cards) {
            (Some(path), None) => json(path, read_text(path, MAX_PAYLOAD_BYTES)?),
            (None, Some(path)) => self::cards(path, read_text(path, MAX_PAYLOAD_BYTES)?),
            (None, None) => Err(Error::Usage(
                "no batch is named; give FILE with JSON, or --cards FILE with cards (- for standard input)"
                    .to_owned(),
            )),
            (Some(_), Some(_)) => Err(Error::Usage(
                "give the batch either as FILE with JSON or as --cards FILE (MUSTER_CARDS), not as both"
                    .to_owned(),
            )),
        }
    }

    fn takes_standard_input(&self) -> bool {
        [&self.file, &self.cards].into_iter().any(|path| path.as_deref() == Some("-"))
    }
}

fn json(path: &str, text: String) -> Result<Payload, Error> {
    match first_sign(&text) {
        Some('[' | '{') => Ok(Payload::Json(text)),
        Some(_) => Err(Error::Usage(format!(
            "{path} is not JSON, which begins with [ or {{ here; cards are given with: --cards {path}"
        ))),
        None => Err(Error::Usage(format!("{path}: the payload is empty; give a JSON array of tasks"))),
    }
}

fn cards(path: &str, text: String) -> Result<Payload, Error> {
    match first_sign(&text) {
        Some('[' | '{') => Err(Error::Usage(format!(
            "{path} holds JSON and no cards; leave --cards out and give it as FILE alone: {path}"
        ))),
        Some(_) => Ok(Payload::Cards(text)),
        None => Err(Error::Usage(format!(
            "{path}: there are no cards in it; `muster prefill batch.json` prints them"
        ))),
    }
}

/// The first character that is not white space, nor the mark that some editors begin a file with.
fn first_sign(text: &str) -> Option<char> {
    text.trim_start_matches('\u{feff}').trim_start().chars().next()
}

/// What tasks inherit.
#[derive(Clone, Debug, Default, Args)]
pub struct InheritedArgs {
    /// Model of tasks that name none
    #[arg(long, env = "MUSTER_MODEL")]
    pub model: Option<String>,
    /// Scene of tasks that name none
    #[arg(long, env = "MUSTER_SCENE")]
    pub scene: Option<String>,
    /// Kind of task, which picks a model, for tasks that name none
    #[arg(long, env = "MUSTER_TASK")]
    pub task: Option<String>,
    /// Run tasks with their model's defaults, unless they say otherwise
    #[arg(long, env = "MUSTER_RUN_WITH_DEFAULTS", value_parser = FalseyValueParser::new())]
    pub run_with_defaults: bool,
    /// Wait for the result inside the program, unless tasks say otherwise
    #[arg(long, env = "MUSTER_SYNC", value_parser = FalseyValueParser::new())]
    pub sync: bool,
}

impl InheritedArgs {
    /// As a request has it.
    pub fn defaults(&self) -> TaskDefaults {
        TaskDefaults {
            model: self.model.clone().unwrap_or_default(),
            scene: self.scene.clone().unwrap_or_default(),
            task: self.task.clone().unwrap_or_default(),
            run_with_defaults: self.run_with_defaults.then_some(true),
            sync: self.sync.then_some(true),
        }
    }
}

/// A batch and what applies to all of it, whether it is to be shown or run.
#[derive(Clone, Debug, Default, Args)]
pub struct BatchArgs {
    #[command(flatten)]
    /// Where it is.
    pub source: SourceArgs,
    #[command(flatten)]
    /// What its tasks inherit.
    pub inherited: InheritedArgs,
    /// How many tasks may run at once; wins over the payload's own
    #[arg(long, env = "MUSTER_CONCURRENCY", value_name = "N", allow_negative_numbers = true)]
    pub concurrency: Option<i32>,
    #[command(flatten)]
    /// The key.
    pub key: KeyArgs,
}

impl BatchArgs {
    /// The batch, then the key: read once, as both may come from standard input, though not together.
    pub fn read(&self, io: &Io) -> Result<(Payload, String), Error> {
        if self.source.takes_standard_input() && self.key.takes_standard_input() {
            return Err(Error::Usage(
                "standard input can hold the batch or the key, not both; name a file for one of them"
                    .to_owned(),
            ));
        }
        Ok((self.source.read()?, self.key.read(io)?))
    }
}

/// A batch that is to be run, for `submit` and `run`.
#[derive(Clone, Debug, Default, Args)]
pub struct SubmissionArgs {
    #[command(flatten)]
    /// The batch.
    pub batch: BatchArgs,
    #[command(flatten)]
    /// Approvals.
    pub approvals: ApprovalArgs,
    #[command(flatten)]
    /// The request's id.
    pub request_id: RequestIdArgs,
    /// Check and plan everything, run nothing
    #[arg(long, env = "MUSTER_VALIDATE_ONLY", value_parser = FalseyValueParser::new())]
    pub validate_only: bool,
}

impl SubmissionArgs {
    /// The request.
    pub fn request(&self, io: &Io) -> Result<SubmitBatchRequest, Error> {
        let (payload, api_key) = self.batch.read(io)?;
        let (batch_json, cards_markdown) = payload.into_fields();
        Ok(SubmitBatchRequest {
            batch_json,
            tasks: Vec::new(),
            defaults: Some(self.batch.inherited.defaults()),
            concurrency: self.batch.concurrency,
            concurrency_approved: self.approvals.concurrency_approved,
            task_count_approved: self.approvals.task_count.task_count_approved,
            request_id: self.request_id.get()?,
            validate_only: self.validate_only,
            api_key,
            cards_markdown,
        })
    }
}

/// Reads a file, or standard input for `-`, of at most `limit` bytes of UTF-8.
pub(crate) fn read_text(path: &str, limit: u64) -> Result<String, Error> {
    use std::io::{Error as IoError, ErrorKind, Read};
    let failed = |source: IoError| Error::Read { path: path.to_owned(), source };
    let reader: Box<dyn Read> = if path == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(Error::Usage(format!("{path}: larger than the limit of {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| failed(IoError::new(ErrorKind::InvalidData, "not UTF-8 text")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn path(file: &tempfile::NamedTempFile) -> Option<String> {
        Some(file.path().display().to_string())
    }

    fn json(file: &tempfile::NamedTempFile) -> Result<Payload, Error> {
        SourceArgs { file: path(file), cards: None }.read()
    }

    fn cards(file: &tempfile::NamedTempFile) -> Result<Payload, Error> {
        SourceArgs { file: None, cards: path(file) }.read()
    }

    fn refused(outcome: Result<Payload, Error>) -> String {
        match outcome {
            Err(Error::Usage(text)) => text,
            other => panic!("refused as usage, not {other:?}"),
        }
    }

    #[test]
    fn a_batch_is_read_untouched() {
        for text in ["[\"a cat\"]", "\u{feff} \n{\"tasks\": []}\r\n"] {
            assert_eq!(json(&file(text)).unwrap(), Payload::Json(text.to_owned()));
        }
        for text in ["> two cards\n\n## 1. Task 1\n", "\u{feff}model: a\r\n", "  - model: a"] {
            assert_eq!(cards(&file(text)).unwrap(), Payload::Cards(text.to_owned()));
        }
    }

    #[test]
    fn json_given_as_cards_and_cards_given_as_json_are_told_which_way_round() {
        for text in ["[\"a cat\"]", "\n {\"tasks\": []}", "\u{feff}["] {
            let text = refused(cards(&file(text)));
            assert!(text.contains("holds JSON") && text.contains("leave --cards out"), "{text}");
        }
        for text in ["> two cards", "## 1. Task 1", "- model: a", "model: a"] {
            let cards = file(text);
            let text = refused(json(&cards));
            assert!(text.contains(&format!("--cards {}", cards.path().display())), "{text}");
        }
    }

    #[test]
    fn exactly_one_source_must_be_given() {
        let batch = file("[]");
        let both = SourceArgs { file: path(&batch), cards: path(&batch) };
        assert!(refused(both.read()).contains("not as both"));
        let none = refused(SourceArgs::default().read());
        assert!(none.contains("FILE") && none.contains("--cards"), "{none}");
        // A variable that is set to nothing.
        let empty = Some(String::new());
        assert!(SourceArgs { file: path(&batch), cards: empty.clone() }.read().is_ok());
        assert!(SourceArgs { file: None, cards: empty }.read().is_err());
    }

    #[test]
    fn what_cannot_be_sent_is_refused_with_the_reason() {
        let gone = SourceArgs { file: Some("no/such/file".to_owned()), cards: None };
        assert!(matches!(gone.read(), Err(Error::Read { .. })));
        let long = file("");
        assert!(refused(json(&long)).contains("empty"));
        assert!(refused(cards(&long)).contains("muster prefill"));
        long.as_file().set_len(MAX_PAYLOAD_BYTES + 1).unwrap();
        assert!(refused(json(&long)).contains("16777216") && refused(cards(&long)).contains("16777216"));
        std::fs::write(long.path(), b"[\"\xff\"]").unwrap();
        assert!(matches!(json(&long), Err(Error::Read { .. })));
    }

    #[test]
    fn standard_input_is_not_read_twice() {
        let io = Io::new(Box::new(std::io::sink()), Box::new(std::io::sink()), false);
        let key = KeyArgs { api_key_file: Some("-".into()) };
        for source in [
            SourceArgs { file: Some("-".to_owned()), cards: None },
            SourceArgs { file: None, cards: Some("-".to_owned()) },
        ] {
            let args = BatchArgs { source, key: key.clone(), ..BatchArgs::default() };
            assert!(matches!(args.read(&io), Err(Error::Usage(text)) if text.contains("not both")));
        }
    }
}
