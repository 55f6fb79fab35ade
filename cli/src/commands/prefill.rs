//! `muster prefill`: shows a batch as cards, to be read and changed before anything is spent.

use std::time::Duration;

use clap::{Args, builder::FalseyValueParser};
use muster_coordinator::core::card::Lang;
use muster_proto::v1::{PrefillBatchRequest, PrefillBatchResponse, SubmitBatchRequest};

use crate::{
    Context,
    approval::{Approvals, Limit, Provenance},
    args::{OutputArgs, TaskCountApprovalArgs},
    client::Client,
    error::{Error, Exit},
    output::{Format, json, print_document, print_line},
    payload::{BatchArgs, HandedIn},
    progress::command,
    sanitize::lines,
};

/// A prefill that takes longer has failed. The coordinator, which asks for contracts elsewhere, answers within a
/// minute.
const TIME_LIMIT: Duration = Duration::from_secs(70);
/// The largest reply that is accepted: it has every card twice, and in them the payload's own words.
const MAX_REPLY_BYTES: usize = 64 << 20;
/// Where a locale stands; the first that is set and not empty counts.
const LOCALE_VARIABLES: [&str; 3] = ["LC_ALL", "LC_MESSAGES", "LANG"];
/// What to do without a key: unlike a run, a prefill may use the coordinator's own.
const WITHOUT_KEY: &str = "models are looked up with an API key; give it with --api-key-file FILE or in \
                           BIZYAIR_API_KEY, or set credentials.api_key in the coordinator's config.json";

/// What `prefill` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "The cards go to standard output, everything else to standard error. Nothing is stored or run.
What stands after a colon on a card is what will run: change it, then hand the cards in.

Examples:
  muster prefill batch.json > cards.md
  muster submit --cards cards.md
  muster prefill --cards cards.md                  check the cards again after an edit
  muster prefill 'a white cat' --lang zh
  muster prefill --from-csv tasks.csv > cards.md
  muster prefill batch.json --output json"
)]
pub struct PrefillArgs {
    #[command(flatten)]
    /// The batch.
    pub batch: BatchArgs,
    #[command(flatten)]
    /// The approval.
    pub task_count: TaskCountApprovalArgs,
    /// Language of the cards: en or zh [default: from LC_ALL, LC_MESSAGES or LANG, else en]
    #[arg(long, env = "MUSTER_LANG", value_name = "LANG")]
    pub lang: Option<String>,
    /// Look models up again, even if the coordinator did so a moment ago
    #[arg(long, env = "MUSTER_REFRESH", value_parser = FalseyValueParser::new())]
    pub refresh: bool,
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Asks for the cards and prints them.
pub async fn run(args: PrefillArgs, context: &Context) -> Result<Exit, Error> {
    let client = Client::new(context)?;
    let (mut request, provenance) = request(&args, context)?;
    let mut approvals = Approvals::new(&client, &provenance, None);
    let mut batches = client.batches().max_decoding_message_size(MAX_REPLY_BYTES);
    let reply = loop {
        let error = match client.call_within(TIME_LIMIT, batches.prefill_batch(request.clone())).await {
            Ok(reply) => break reply,
            Err(error) => error.with_way_out("NO_API_KEY", WITHOUT_KEY),
        };
        match approvals.after(error, Some(&as_run(&request))).await? {
            Limit::TaskCount => request.task_count_approved = true,
            // A prefill never looks at it, so that there is nothing to approve.
            Limit::Concurrency => {
                return Err(Error::Usage("a prefill has no concurrency to approve".to_owned()));
            }
        }
    };
    print(&reply, args.output.format(), context)?;
    Ok(Exit::Completed)
}

/// The same batch as it would be run.
fn as_run(request: &PrefillBatchRequest) -> SubmitBatchRequest {
    SubmitBatchRequest {
        batch_json: request.batch_json.clone(),
        cards_markdown: request.cards_markdown.clone(),
        defaults: request.defaults.clone(),
        concurrency: request.concurrency,
        ..SubmitBatchRequest::default()
    }
}

fn request(args: &PrefillArgs, context: &Context) -> Result<(PrefillBatchRequest, Provenance), Error> {
    let lang = language(args.lang.as_deref(), locale(|name| std::env::var_os(name)).as_deref())?;
    let HandedIn { payload, api_key, provenance } = args.batch.read(&context.io)?;
    let (batch_json, cards_markdown) = payload.into_fields();
    let request = PrefillBatchRequest {
        batch_json,
        tasks: Vec::new(),
        defaults: Some(args.batch.inherited.defaults()),
        concurrency: args.batch.concurrency,
        task_count_approved: args.task_count.task_count_approved,
        api_key,
        cards_markdown,
        lang: lang.as_str().to_owned(),
        refresh: args.refresh,
    };
    Ok((request, provenance))
}

fn print(reply: &PrefillBatchResponse, format: Format, context: &Context) -> Result<(), Error> {
    let io = &context.io;
    match format {
        Format::Table => {
            let mut cards = lines(&reply.reply_markdown);
            if !cards.ends_with('\n') {
                cards.push('\n');
            }
            io.write(cards.as_bytes())?;
            io.say(&hint(io.out_is_terminal(), &context.url));
            Ok(())
        }
        // The seed's own keys are these.
        Format::Json | Format::SeedJson => print_document(io, &json::prefill(reply)),
        Format::Jsonl => reply.tasks.iter().try_for_each(|card| print_line(io, &json::card(card))),
    }
}

fn hint(on_terminal: bool, url: &str) -> String {
    let first = if on_terminal { "send this to cards.md (> cards.md), edit it" } else { "edit the cards" };
    format!("nothing has run yet; {first}, then: {}", command(url, "submit --cards cards.md"))
}

/// The language asked for, else the locale's. A locale that is neither language is English.
fn language(asked: Option<&str>, locale: Option<&str>) -> Result<Lang, Error> {
    match asked.map(str::trim) {
        None | Some("") => Ok(locale.and_then(Lang::parse).unwrap_or_default()),
        Some(asked) => Lang::parse(asked).ok_or_else(|| {
            Error::Usage(format!(
                "--lang {asked}: there are no cards in it; use en (English) or zh (Chinese)"
            ))
        }),
    }
}

fn locale(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<String> {
    let set = LOCALE_VARIABLES.into_iter().filter_map(variable).find(|value| !value.is_empty())?;
    Some(set.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locale_of(settings: &[(&str, &str)]) -> Option<String> {
        locale(|name| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_first_variable_that_is_set_and_not_empty_is_the_locale() {
        let all = [("LANG", "de_DE.UTF-8"), ("LC_MESSAGES", "zh_CN.UTF-8"), ("LC_ALL", "C")];
        assert_eq!(locale_of(&all).as_deref(), Some("C"));
        assert_eq!(locale_of(&all[..2]).as_deref(), Some("zh_CN.UTF-8"));
        assert_eq!(locale_of(&[("LC_ALL", ""), ("LANG", "zh")]).as_deref(), Some("zh"));
        assert_eq!(locale_of(&[("LC_ALL", "")]), None);
    }

    #[test]
    fn an_unknown_locale_is_english_and_an_unknown_language_an_error() {
        assert_eq!(language(None, None).unwrap(), Lang::En);
        assert_eq!(language(None, Some("de_DE.UTF-8")).unwrap(), Lang::En);
        assert_eq!(language(None, Some("zh_CN.UTF-8")).unwrap(), Lang::Zh);
        assert_eq!(language(Some(""), Some("zh_CN.UTF-8")).unwrap(), Lang::Zh);
        assert_eq!(language(Some("en"), Some("zh_CN.UTF-8")).unwrap(), Lang::En);
        let Err(Error::Usage(text)) = language(Some("fr"), Some("zh")) else { panic!("refused") };
        assert!(text.contains("en") && text.contains("zh") && text.contains("fr"), "{text}");
    }

    #[test]
    fn the_hint_names_the_command_and_the_coordinator_where_it_has_to() {
        let here = hint(true, crate::args::DEFAULT_COORDINATOR);
        assert!(here.contains("> cards.md") && here.ends_with(": muster submit --cards cards.md"), "{here}");
        let there = hint(false, "http://h:1");
        assert!(there.ends_with(": muster --coordinator http://h:1 submit --cards cards.md"), "{there}");
    }
}
