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

/// The cards of a batch.
pub(crate) async fn prefill_batch(
    context: &Context,
    request: v1::PrefillBatchRequest,
) -> Result<v1::PrefillBatchResponse, Status> {
    let lang = lang(&request.lang)?;
    submit::api_key(&request.api_key)?;
    let refresh = request.refresh;
    let planned = plan(context, request).await?;
    let sources = planned.tasks.iter().filter_map(|task| task.source.clone().ok()).collect();
    let found = context.models.find(sources, &planned.key, refresh).await;
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
        let own = submit::api_key(&request.api_key)?.map(Key::new);
        let key = own.or_else(|| policy.api_key().map(|key| Key::new(key.expose()))).transpose();
        let key = key.map_err(|bad| status::invalid("api_key", &bad.to_string()))?;
        let specs = plan_prefill(&payload, approvals, &limits, &catalog, key.is_some())
            .map_err(|refusal| status::refusal(&refusal))?;
        // Planning has refused a batch without a key.
        let Some(key) = key else { return Err(status::refusal(&crate::core::refusal::Refusal::NoApiKey)) };
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
        bytes += 2 * (card.len() + task.spec.label.len());
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
