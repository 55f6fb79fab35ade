//! Prefills against a stand-in for the API that models are looked up at: how often it is asked, what a reply that
//! goes wrong does to the cards, and where the key goes.

use std::collections::BTreeSet;

use muster_proto::v1::{PrefillBatchRequest, PrefillBatchResponse, TaskCard};
use muster_tests::{
    Cluster, ClusterOptions,
    api::{Answer, Api},
};
use serde_json::json;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    SOON,
    secret::{CANARY, assert_nowhere},
};

const BPRO: &str = "bza-image-b-pro-base/text-to-image";
const WAN: &str = "wan-2-7-official/text-to-video";
const SEEDREAM: &str = "seedream-5-0-official/text-to-image";
/// What the publishers of these models call a field, which nothing but a contract says.
const LABEL: &str = "提示词";
/// The models of the catalogue.
const MODELS: [&str; 10] = [
    "bpro-t2i",
    "fkmax-t2i",
    "seedream5-t2i",
    "o2-t2i",
    "b2-t2i",
    "v31pro-t2v",
    "happyhorse-t2v",
    "kling30-t2v",
    "wan27-t2v",
    "seedance2-t2v",
];

/// A coordinator that looks models up at the stand-in.
async fn cluster(api: &Api, args: &[&str]) -> Cluster {
    let mut options = ClusterOptions::with_limits(5, 50);
    options.coordinator_args.push(format!("--contract-base-url={}", api.base_url()));
    options.coordinator_args.extend(args.iter().map(|arg| (*arg).to_owned()));
    Cluster::start_with(options).await
}

/// One task for each model.
fn request(models: &[&str]) -> PrefillBatchRequest {
    let tasks: Vec<_> =
        models.iter().map(|model| json!({"model": model, "prompt": "a lighthouse"})).collect();
    PrefillBatchRequest { batch_json: json!(tasks).to_string(), api_key: CANARY.into(), ..Default::default() }
}

async fn try_prefill(
    cluster: &Cluster,
    request: PrefillBatchRequest,
) -> Result<PrefillBatchResponse, Status> {
    let reply = timeout(SOON, cluster.batches().prefill_batch(request)).await.expect("an answer in time");
    reply.map(tonic::Response::into_inner)
}

async fn prefill(cluster: &Cluster, models: &[&str]) -> Vec<TaskCard> {
    let reply = try_prefill(cluster, request(models)).await.unwrap();
    assert_eq!((reply.mode.as_str(), reply.task_count as usize), ("batch_prefill", models.len()));
    assert_eq!(reply.tasks.len(), models.len());
    reply.tasks
}

/// Whether the card has what only a contract says.
fn is_whole(card: &TaskCard) -> bool {
    card.card_markdown.contains(LABEL)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_tasks_over_three_models_ask_for_three_contracts() {
    let api = Api::start().await;
    let cluster = cluster(&api, &[]).await;
    let models: Vec<_> = ["bpro-t2i", "wan", WAN, "即梦"].into_iter().cycle().take(10).collect();
    let cards = prefill(&cluster, &models).await;
    assert!(cards.iter().all(is_whole), "{cards:?}");
    for place in [BPRO, WAN, SEEDREAM] {
        assert_eq!(api.contract_calls(place), 1, "{place}");
    }
    assert_eq!(api.all_contract_calls(), 3);
    let prices: BTreeSet<_> = api.calls().into_iter().map(|call| call.path).collect();
    assert_eq!(prices.len(), api.calls().len(), "nothing was asked for twice");
    for call in api.calls() {
        assert_eq!(call.authorization, Some(format!("Bearer {CANARY}")));
        assert_eq!(call.lang.as_deref(), Some("zh"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_models_are_looked_up_at_the_same_time() {
    let api = Api::start().await;
    let cluster = cluster(&api, &[]).await;
    // None of them is answered before all ten are asked for.
    for endpoint in muster_tests::api::endpoints() {
        api.answer_contract(&endpoint, [Answer::Together(MODELS.len())]);
    }
    let cards = prefill(&cluster, &MODELS).await;
    assert!(cards.iter().all(is_whole), "{cards:?}");
    assert_eq!(api.all_contract_calls(), MODELS.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_looked_up_leaves_the_other_cards_whole() {
    let api = Api::start().await;
    let cluster = cluster(&api, &["--contract-cache-ttl=0"]).await;
    let models = ["wan", "bpro-t2i", "wan", "即梦"];
    let right = prefill(&cluster, &models).await;
    assert!(right.iter().all(is_whole), "{right:?}");
    let elsewhere = Api::start().await;
    for answer in [
        Answer::Status(401, None),
        Answer::Status(404, None),
        Answer::Status(500, None),
        Answer::Status(429, Some("3600")),
        Answer::Code(20_003),
        Answer::Json(json!({"code": 20000, "data": {"input_params": "none"}})),
        Answer::Json(json!([])),
        Answer::BreakOff,
        Answer::Nonsense,
        Answer::Huge { announced: true },
        Answer::Huge { announced: false },
        Answer::Redirect(elsewhere.base_url()),
        Answer::Redirect(format!("/x/v1/modelzoo/detail/{BPRO}")),
        Answer::Silence,
    ] {
        api.answer_contract(BPRO, [answer.clone()]);
        let cards = prefill(&cluster, &models).await;
        for (index, card) in cards.iter().enumerate() {
            if index == 1 {
                assert!(!is_whole(card), "{answer:?}: {card:?}");
                assert_eq!((card.model.as_str(), card.label.as_str()), ("bpro-t2i", "Task 2"));
            } else {
                assert_eq!(*card, right[index], "{answer:?}");
            }
        }
    }
    assert_eq!(elsewhere.calls().len(), 0, "the key goes to no other address");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_that_cannot_be_had_leaves_the_card_whole() {
    let api = Api::start().await;
    let cluster = cluster(&api, &["--contract-cache-ttl=0"]).await;
    for answer in [Answer::Status(429, Some("0")), Answer::Nonsense, Answer::BreakOff, Answer::Silence] {
        let asked = api.calls().len();
        api.answer_price(BPRO, [answer.clone()]);
        let cards = prefill(&cluster, &["bpro-t2i"]).await;
        assert!(is_whole(&cards[0]), "{answer:?}");
        assert_eq!(api.calls().len(), asked + 2, "a price is asked for once: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_is_good_for_the_next_prefill_unless_a_refresh_is_asked_for() {
    let api = Api::start().await;
    let kept = cluster(&api, &[]).await;
    for (refresh, calls) in [(false, 2), (false, 2), (true, 4), (false, 4)] {
        let request = PrefillBatchRequest { refresh, ..request(&["wan", "bpro-t2i"]) };
        let reply = try_prefill(&kept, request).await.unwrap();
        assert!(reply.tasks.iter().all(is_whole));
        assert_eq!(api.all_contract_calls(), calls);
    }
    // A failure is not kept.
    api.answer_contract(SEEDREAM, [Answer::Status(500, None), Answer::Right]);
    assert!(!is_whole(&prefill(&kept, &["seedream5-t2i"]).await[0]));
    assert!(is_whole(&prefill(&kept, &["seedream5-t2i"]).await[0]));
    let asked = api.all_contract_calls();
    let fresh = cluster(&api, &["--contract-cache-ttl=0"]).await;
    for calls in [asked + 1, asked + 2] {
        prefill(&fresh, &["wan"]).await;
        assert_eq!(api.all_contract_calls(), calls);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_prefills_at_once_share_a_look_up_even_if_the_first_caller_goes_away() {
    for first_goes_away in [false, true] {
        let api = Api::start().await;
        let cluster = cluster(&api, &[]).await;
        api.answer_contract(BPRO, [Answer::Gated]);
        let mut client = cluster.batches();
        let first = tokio::spawn(async move { client.prefill_batch(request(&["bpro-t2i"])).await });
        timeout(SOON, api.until_under_way(1)).await.unwrap();
        // The second one's other model is asked for after it has looked for the shared one: in the order of names.
        api.answer_contract(WAN, [Answer::Gated]);
        let mut client = cluster.batches();
        let second = tokio::spawn(async move { client.prefill_batch(request(&["wan", "bpro-t2i"])).await });
        timeout(SOON, api.until_under_way(2)).await.unwrap();
        if first_goes_away {
            first.abort();
            assert!(first.await.unwrap_err().is_cancelled());
            api.open();
        } else {
            api.open();
            let reply = timeout(SOON, first).await.unwrap().unwrap().unwrap().into_inner();
            assert!(is_whole(&reply.tasks[0]));
        }
        let reply = timeout(SOON, second).await.unwrap().unwrap().unwrap().into_inner();
        assert!(reply.tasks.iter().all(is_whole));
        assert_eq!((api.contract_calls(BPRO), api.contract_calls(WAN)), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_calls_retryable_is_asked_for_again_and_bounded() {
    let api = Api::start().await;
    let cluster = cluster(&api, &["--contract-cache-ttl=0"]).await;
    let busy = [
        Answer::Status(429, Some("1")),
        Answer::Status(402, None),
        Answer::Code(50_600),
        Answer::Code(20_049),
    ];
    for busy in busy {
        let asked = api.contract_calls(BPRO);
        api.answer_contract(BPRO, [busy.clone(), Answer::Right]);
        assert!(is_whole(&prefill(&cluster, &["bpro-t2i"]).await[0]), "{busy:?}");
        assert_eq!(api.contract_calls(BPRO), asked + 2, "{busy:?}");
    }
    let asked = api.contract_calls(BPRO);
    api.answer_contract(BPRO, [Answer::Status(429, None)]);
    assert!(!is_whole(&prefill(&cluster, &["bpro-t2i"]).await[0]));
    assert_eq!(api.contract_calls(BPRO), asked + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_nothing_is_asked_for() {
    let api = Api::start().await;
    let cluster = cluster(&api, &[]).await;
    for api_key in ["", " ", "YOUR_API_KEY", "<key>", "${BIZYAIR_API_KEY}"] {
        let request = PrefillBatchRequest { api_key: api_key.into(), ..request(&["bpro-t2i"]) };
        let refused = try_prefill(&cluster, request).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert_eq!(refused.get_details_error_info().unwrap().reason, "NO_API_KEY");
    }
    let request = PrefillBatchRequest { api_key: "sk-1\nHost: evil".into(), ..request(&["bpro-t2i"]) };
    let refused = try_prefill(&cluster, request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(!format!("{refused:?}").contains("sk-1"), "{refused:?}");
    assert_eq!(api.calls().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_place_is_shown_and_not_asked_for() {
    let api = Api::start().await;
    let cluster = cluster(&api, &[]).await;
    let cards = prefill(&cluster, &["nothing-known", "../../admin", "44306", "bpro-t2i"]).await;
    assert_eq!(cards[0].model, "nothing-known");
    assert!(!is_whole(&cards[0]) && !is_whole(&cards[1]));
    assert!(cards[2].card_markdown.contains("人物照片"), "{:?}", cards[2]);
    assert!(is_whole(&cards[3]));
    assert_eq!((api.all_contract_calls(), api.contract_calls("44306"), api.contract_calls(BPRO)), (2, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_in_no_card_log_or_file_even_if_the_api_sends_it_back() {
    let api = Api::start().await;
    let cluster = cluster(&api, &["--log-level=trace"]).await;
    api.answer_contract(BPRO, [Answer::Echo]);
    api.answer_price(BPRO, [Answer::Echo]);
    api.answer_contract(WAN, [Answer::EchoRefusal]);
    api.answer_contract("44306", [Answer::Echo]);
    api.answer_contract(SEEDREAM, [Answer::Redirect(format!("http://localhost:1/{CANARY}"))]);
    let reply = try_prefill(&cluster, request(&["bpro-t2i", "wan", "44306", "即梦"])).await.unwrap();
    assert_eq!(api.all_contract_calls(), 4);
    assert!(!format!("{reply:?}").contains(CANARY), "{reply:?}");
    assert!(reply.reply_markdown.contains("***"), "{}", reply.reply_markdown);
    assert_nowhere(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_a_contract_cannot_break_out_of_their_line() {
    let api = Api::start().await;
    let cluster = cluster(&api, &[]).await;
    api.answer_contract(BPRO, [Answer::Controls]);
    api.answer_price(BPRO, [Answer::Controls]);
    api.answer_contract("44306", [Answer::Controls]);
    api.answer_contract(
        WAN,
        [Answer::Json(json!({"code": 20003, "message": "no\u{1b}[2J\n- prompt: evil"}))],
    );
    let reply = try_prefill(&cluster, request(&["bpro-t2i", "44306", "wan"])).await.unwrap();
    for line in reply.reply_markdown.lines() {
        let text = line.trim_start();
        assert!(!text.starts_with("- prompt: evil") && !text.starts_with("## 9"), "{}", reply.reply_markdown);
        let dangerous = |c: char| c.is_control() || "\u{202e}\u{2066}\u{feff}\u{2028}".contains(c);
        assert!(!line.contains(dangerous), "{line:?}");
    }
    assert!(
        reply.reply_markdown.contains("fine"),
        "the option that is whole is shown: {}",
        reply.reply_markdown
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_cards_cannot_fit_is_refused_before_anything_is_asked_for() {
    let api = Api::start().await;
    let mut options = ClusterOptions::with_limits(5, 30_000);
    options.coordinator_args.push(format!("--contract-base-url={}", api.base_url()));
    let cluster = Cluster::start_with(options).await;
    let models: Vec<_> = (0..30_000).map(|number| format!("a/b{number}")).collect();
    let models: Vec<_> = models.iter().map(String::as_str).collect();
    let refused = try_prefill(&cluster, request(&models)).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "CARDS_TOO_LARGE");
    assert_eq!(api.calls().len(), 0);
    // A model is named in more places than its card.
    let long = "m".repeat(130_000);
    let refused = try_prefill(&cluster, request(&[long.as_str(); 11])).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "CARDS_TOO_LARGE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_key_in_the_config_file_is_told_by_its_place_and_after_the_limits() {
    let api = Api::start().await;
    let mut options = ClusterOptions::with_limits(5, 2);
    let config = json!({"batch": {"max_tasks": 2}, "credentials": {"api_key": "sk-\u{5bc6}"}});
    options.config = Some(config.to_string());
    options.coordinator_args.push(format!("--contract-base-url={}", api.base_url()));
    let cluster = Cluster::start_with(options).await;
    let keyless = |models| PrefillBatchRequest { api_key: String::new(), ..request(models) };
    let refused = try_prefill(&cluster, keyless(&["wan"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("config.json") && !refused.message().contains("sk-"), "{refused:?}");
    let refused = try_prefill(&cluster, keyless(&["wan"; 3])).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "BATCH_TASK_LIMIT_EXCEEDED");
    assert_eq!(api.calls().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefill_that_waits_does_not_hold_a_stop_up() {
    let api = Api::start().await;
    let mut cluster = cluster(&api, &[]).await;
    api.answer_contract(BPRO, [Answer::Gated]);
    let mut batches = cluster.batches();
    let waiting = tokio::spawn(async move { batches.prefill_batch(request(&["bpro-t2i"])).await });
    api.until_under_way(1).await;
    cluster.stop_coordinator().await;
    let refused = waiting.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert_eq!(refused.get_details_error_info().unwrap().reason, "SHUTTING_DOWN");
}
