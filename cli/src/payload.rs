//! The batch that a command hands over, and what applies to all of its tasks.
//!
//! What it does not do: read the batch, in whatever form it is ([`crate::input`]), or look at limits, which are the
//! coordinator's to check.

use clap::{Args, builder::FalseyValueParser};
use muster_coordinator::core::payload::Defaults;
use muster_proto::v1::{SubmitBatchRequest, TaskDefaults};

use crate::{
    approval::Provenance,
    args::{ApprovalArgs, RequestIdArgs},
    error::Error,
    input::{Payload, SourceArgs, origin::Origin, snippet::Style},
    io::Io,
    key::KeyArgs,
    options::OptionArgs,
};

/// What tasks inherit.
#[derive(Clone, Debug, Default, Args)]
pub struct InheritedArgs {
    /// Model of tasks that name none
    #[arg(short, long, env = "MUSTER_MODEL")]
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

    /// As the rules for payloads have it.
    fn checked_defaults(&self) -> Defaults {
        Defaults {
            model: self.model.clone(),
            scene: self.scene.clone(),
            task: self.task.clone(),
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
    pub fn read(&self, io: &Io) -> Result<HandedIn, Error> {
        let (batch, key) = (self.source.takes_standard_input(), self.key.takes_standard_input());
        if batch && key {
            return Err(Error::Usage(
                "standard input can hold the batch or the key, not both; name a file for one of them"
                    .to_owned(),
            ));
        }
        let from_standard_input = if batch { Some("the batch") } else { key.then_some("the key") };
        from_standard_input.into_iter().for_each(|what| io.say_that_it_reads(what));
        let style = if io.surroundings().talk_in_colour { Style::Colour } else { Style::Plain };
        let input = self.source.read(&self.inherited.checked_defaults(), style)?;
        let mut origin = input.origin;
        // The option wins over the payload's own, so that what is wrong with it has no place there.
        if let (Origin::Json(_, outline), Some(_)) = (&mut origin, self.concurrency) {
            outline.concurrency = None;
        }
        let provenance = Provenance { origin, style, from_standard_input };
        Ok(HandedIn { payload: input.payload, api_key: self.key.read(io)?, provenance })
    }
}

/// What was read for a request.
#[derive(Debug)]
pub struct HandedIn {
    /// The batch.
    pub payload: Payload,
    /// The key; empty for none.
    pub api_key: String,
    /// Where it came from.
    pub provenance: Provenance,
}

/// A batch that is to be run, for `submit` and `run`.
#[derive(Clone, Debug, Default, Args)]
pub struct SubmissionArgs {
    #[command(flatten)]
    /// The batch.
    pub batch: BatchArgs,
    #[command(flatten)]
    /// How it is carried out.
    pub options: OptionArgs,
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
    /// The request, and where it came from.
    pub fn request(&self, io: &Io) -> Result<(SubmitBatchRequest, Provenance), Error> {
        let HandedIn { payload, api_key, provenance } = self.batch.read(io)?;
        let (batch_json, cards_markdown) = payload.into_fields();
        let request = SubmitBatchRequest {
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
            options: self.options.get()?,
        };
        Ok((request, provenance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_input_is_not_read_twice() {
        let io = Io::new(Box::new(std::io::sink()), Box::new(std::io::sink()), false);
        let key = KeyArgs { api_key_file: Some("-".into()) };
        let dash = || Some("-".to_owned());
        for source in [
            SourceArgs { words: vec!["-".to_owned()], ..SourceArgs::default() },
            SourceArgs { cards: dash(), ..SourceArgs::default() },
            SourceArgs { each_line: dash(), ..SourceArgs::default() },
            SourceArgs { from_jsonl: dash(), ..SourceArgs::default() },
            SourceArgs { from_csv: dash(), ..SourceArgs::default() },
        ] {
            let args = BatchArgs { source, key: key.clone(), ..BatchArgs::default() };
            assert!(matches!(args.read(&io), Err(Error::Usage(text)) if text.contains("not both")));
        }
    }
}
