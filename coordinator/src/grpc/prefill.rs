//! `PrefillBatch`: plans a batch as if it were to run, looks its models up, and answers with cards.
//!
//! Nothing is stored and nothing runs. What a card looks like is `core::card`'s to know, and how models are looked
//! up `prefill`'s; nothing here logs a request's content.

use std::{collections::BTreeMap, sync::Arc};

use muster_proto::v1;
use tonic::Status;

use crate::{
    core::{
        admission::Approvals,
        card::{self, Facts, Lang},
        catalog::Catalog,
        contract::{Source, Unavailable},
        integer::Integer,
        payload::TaskRequest,
        plan::{TaskSpec, plan_prefill},
        refusal::Refusal,
    },
    prefill::{Found, Key},
};

use super::{
    context::Context,
    convert::{
        self,
        submit::{self, Payload},
    },
    status,
};

/// Most bytes of one answer: clients take 4 MiB by default. Every card is in it twice.
const MAX_ANSWER_BYTES: usize = 3 * 1_024 * 1_024;
/// Where the key is that a complaint is about.
const API_KEY: &str = "api_key";
const CONFIG_KEY: &str = "credentials.api_key in the coordinator's config.json";
/// No card is shorter: so many tasks that even such cards would not fit are refused before anything is looked up.
const MIN_CARD_BYTES: usize = 96;

/// The cards of a batch.
pub(crate) async fn prefill_batch(
    context: &Context,
    request: v1::PrefillBatchRequest,
) -> Result<v1::PrefillBatchResponse, Status> {
    let lang = lang(&request.lang)?;
    submit::api_key(&request.api_key)?;
    let refresh = request.refresh;
    let planned = plan(context, request).await?;
    if planned.tasks.len() * 2 * MIN_CARD_BYTES > MAX_ANSWER_BYTES {
        return Err(status::cards_too_large(planned.tasks.len(), MAX_ANSWER_BYTES));
    }
    let sources = planned.tasks.iter().filter_map(|task| task.source.clone().ok()).collect();
    let found = tokio::select! {
        found = context.models.find(sources, &planned.key, refresh) => found,
        // The longest wait of all calls would hold the stop up.
        () = context.stopping.cancelled() => return Err(status::shutting_down()),
    };
    let catalog = Arc::clone(&context.catalog);
    context.compute(move || answer(&planned, &found, &catalog, lang)).await?
}

/// A batch that may be shown.
struct Planned {
    tasks: Vec<Task>,
    concurrency: Option<Integer>,
    key: Key,
}

struct Task {
    request: TaskRequest,
    spec: TaskSpec,
    source: Result<Source, Unavailable>,
}

async fn plan(context: &Context, request: v1::PrefillBatchRequest) -> Result<Planned, Status> {
    let (policy, catalog) = (Arc::clone(&context.policy), Arc::clone(&context.catalog));
    let work = move || {
        let payload = submit::payload(
            Payload {
                batch_json: &request.batch_json,
                tasks: &request.tasks,
                cards: &request.cards_markdown,
                defaults: request.defaults.as_ref(),
            },
            &catalog,
        )?;
        let limits = policy.read();
        let approvals = Approvals { concurrency: false, task_count: request.task_count_approved };
        let own = submit::api_key(&request.api_key)?.map(|key| (API_KEY, Key::new(key)));
        let key = own.or_else(|| policy.api_key().map(|key| (CONFIG_KEY, Key::new(key.expose()))));
        let usable = key.as_ref().is_some_and(|(_, key)| key.is_ok());
        // Limits go before the key, and a key that cannot be sent is refused where none would be.
        let (specs, key) = match (plan_prefill(&payload, approvals, &limits, &catalog, usable), key) {
            (Err(Refusal::NoApiKey), Some((place, Err(bad)))) => {
                return Err(status::invalid(place, &bad.to_string()));
            }
            (Err(refusal), _) => return Err(status::refusal(&refusal)),
            (Ok(specs), Some((_, Ok(key)))) => (specs, key),
            // Planning has refused a batch without a key.
            (Ok(_), _) => return Err(status::refusal(&Refusal::NoApiKey)),
        };
        let concurrency = request.concurrency.map(|number| Integer::Value(number.into()));
        let concurrency = concurrency.or(payload.concurrency);
        let tasks = payload.tasks.into_iter().zip(specs);
        let tasks = tasks.map(|(request, spec)| {
            let source = Source::of(&spec.model, &catalog);
            Task { request, spec, source }
        });
        Ok(Planned { tasks: tasks.collect(), concurrency, key })
    };
    context.compute(work).await?
}

fn lang(text: &str) -> Result<Lang, Status> {
    Lang::parse(text).ok_or_else(|| {
        status::invalid("lang", "is a language that cards are not written in; give en or zh, or leave it out")
    })
}

/// Renders the cards. Takes computing, so it is for a blocking thread.
fn answer(
    planned: &Planned,
    found: &BTreeMap<Source, Found>,
    catalog: &Catalog,
    lang: Lang,
) -> Result<v1::PrefillBatchResponse, Status> {
    const MISSING: Unavailable = Unavailable::Unreachable;
    let mut cards = Vec::with_capacity(planned.tasks.len());
    let mut bytes = 0;
    for (index, task) in (1..).zip(&planned.tasks) {
        let found = task.source.as_ref().map(|source| found.get(source));
        let contract = match found {
            Ok(Some(found)) => found.contract.as_deref(),
            Ok(None) => Err(&MISSING),
            Err(why) => Err(why),
        };
        let price = found.ok().flatten().and_then(|found| found.price.as_deref());
        let facts = Facts { index, request: &task.request, spec: &task.spec, catalog, contract, price };
        let card = card::render(&facts, lang);
        // In a card of its own, and in the text of all.
        bytes +=
            2 * (card.len() + task.spec.label.len()) + task.spec.model.len() + task.spec.display_name.len();
        if bytes > MAX_ANSWER_BYTES {
            return Err(status::cards_too_large(planned.tasks.len(), MAX_ANSWER_BYTES));
        }
        cards.push(card);
    }
    let labelled = planned.tasks.iter().map(|task| task.spec.label.as_str());
    let labelled: Vec<(&str, &str)> = labelled.zip(cards.iter().map(String::as_str)).collect();
    let reply_markdown = card::reply(&labelled, planned.concurrency, lang);
    let tasks = (1_u32..).zip(planned.tasks.iter().zip(cards)).map(|(index, (task, card))| v1::TaskCard {
        index: convert::count(index),
        label: task.spec.label.clone(),
        model: task.spec.model.clone(),
        display_name: task.spec.display_name.clone(),
        card_markdown: card,
    });
    Ok(v1::PrefillBatchResponse {
        mode: "batch_prefill".to_owned(),
        task_count: convert::count(u32::try_from(planned.tasks.len()).unwrap_or(u32::MAX)),
        tasks: tasks.collect(),
        reply_markdown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{contract::Contract, plan::plan_task, refusal::Phase};

    #[test]
    fn no_card_is_shorter_than_the_shortest() {
        let catalog = Catalog::builtin();
        let request = TaskRequest { model: "m".into(), ..TaskRequest::default() };
        let spec = plan_task(1, &request, &catalog, Phase::Prefill).unwrap();
        let empty = Contract::default();
        for lang in [Lang::En, Lang::Zh] {
            for contract in [Ok(&empty), Err(&Unavailable::Malformed)] {
                let facts = Facts {
                    index: 1,
                    request: &request,
                    spec: &spec,
                    catalog: &catalog,
                    contract,
                    price: None,
                };
                let card = card::render(&facts, lang);
                assert!(card.len() >= MIN_CARD_BYTES, "{card}");
            }
        }
    }
}
