//! Cards the way their users take: `muster prefill` into a file, an edit, `muster submit --cards`.

use std::{fs, path::PathBuf, process::Output};

use muster_coordinator::core::args::redact;
use muster_proto::v1::PrefillBatchRequest;
use muster_tests::{Cluster, ClusterOptions, WatchLog, WorkerOptions, api::Api};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic_types::StatusExt;

use crate::{SOON, command::text};

const VECTORS: &str = include_str!("../../conformance/seed-vectors.json");
/// Commands at once; the machine has few cores.
const AT_ONCE: usize = 4;
/// How many vectors plan, so that none is lost.
const PLANNED: usize = 119;

async fn cluster(api: &Api) -> Cluster {
    let mut options = ClusterOptions::default();
    options.coordinator_args.push(format!("--contract-base-url={}", api.base_url()));
    Cluster::start_with(options).await
}

/// The command with a key, ready to be run.
fn muster(cluster: &Cluster, args: &[&str]) -> impl Future<Output = Output> + Send + 'static {
    let mut command = cluster.command("muster", "muster");
    command.env("MUSTER_COORDINATOR", format!("http://{}", cluster.address()));
    command.env("BIZYAIR_API_KEY", "sk-of-a-test").args(args).stderr(std::process::Stdio::piped());
    let output = command.output();
    async move { tokio::time::timeout(SOON, output).await.expect("the command ends").expect("it starts") }
}

/// Files of one batch.
struct Files {
    batch: PathBuf,
    cards: PathBuf,
}

impl Files {
    fn new(cluster: &Cluster, name: &str, batch: &Value) -> Self {
        let files = Self {
            batch: cluster.dir().join(format!("{name}.json")),
            cards: cluster.dir().join(format!("{name}.md")),
        };
        fs::write(&files.batch, batch.to_string()).unwrap();
        files
    }

    /// Fetches the cards into their file, and returns them.
    async fn prefill(&self, cluster: &Cluster, more: &[&str]) -> String {
        let args = [&["prefill", self.batch.to_str().unwrap()], more].concat();
        let output = muster(cluster, &args).await;
        assert!(output.status.success(), "{output:?}");
        fs::write(&self.cards, &output.stdout).unwrap();
        text(&output.stdout)
    }

    /// What the cards in the file would run, each as its argument list.
    async fn planned(&self, cluster: &Cluster) -> Vec<Vec<String>> {
        let cards = self.cards.to_str().unwrap();
        let args = ["submit", "--cards", cards, "--validate-only", "--output", "json"];
        let output = muster(cluster, &args).await;
        assert!(output.status.success(), "{output:?}\n{}", fs::read_to_string(&self.cards).unwrap());
        let batch: Value = serde_json::from_slice(&output.stdout).unwrap();
        let tasks = batch["tasks"].as_array().unwrap().iter();
        tasks.map(|task| serde_json::from_value(task["command_preview"].clone()).unwrap()).collect()
    }
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_vector_that_plans_comes_back_through_its_cards() {
    let api = Api::start().await;
    let cluster = std::sync::Arc::new(cluster(&api).await);
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let cases = ["plan", "ours"].iter().flat_map(|section| vectors[section].as_array().unwrap());
    let cases: Vec<Value> = cases.filter(|case| case["expect"]["ok"].is_object()).cloned().collect();
    assert_eq!(cases.len(), PLANNED);
    let mut running = JoinSet::new();
    for (number, case) in cases.into_iter().enumerate() {
        if running.len() >= AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        let cluster = std::sync::Arc::clone(&cluster);
        running.spawn(async move { comes_back(&cluster, number, &case).await });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

/// One vector through the two commands, in English or Chinese.
async fn comes_back(cluster: &Cluster, number: usize, case: &Value) {
    let index = case["index"].as_u64().unwrap_or(1) as usize;
    let mut tasks = vec![json!("a task before it"); index - 1];
    tasks.push(case["task"].clone());
    let files = Files::new(cluster, &format!("vector-{number}"), &json!(tasks));
    let mut more = vec!["--lang", if number.is_multiple_of(2) { "en" } else { "zh" }];
    for (key, value) in case["defaults"].as_object().into_iter().flatten() {
        match (key.as_str(), value.as_str()) {
            ("model", Some(model)) => more.extend(["--model", model]),
            ("scene", Some(scene)) => more.extend(["--scene", scene]),
            ("task", Some(task)) => more.extend(["--task", task]),
            ("run_with_defaults", None) if value == true => more.push("--run-with-defaults"),
            ("sync", None) if value == true => more.push("--sync"),
            _ => panic!("a default that no flag says: {key} {value}"),
        }
    }
    let cards = files.prefill(cluster, &more).await;
    let planned = files.planned(cluster).await;
    let expected = redact(&strings(&case["expect"]["ok"]["argv"]));
    assert_eq!(planned.len(), index);
    assert_eq!(planned[index - 1], expected, "of {case} through\n{cards}");
}

/// What an edit of the cards is to change in the argument list of the task: what goes, and what comes instead.
struct Edit {
    lang: &'static str,
    task: Value,
    /// A line's beginning and what stands there instead; nothing as the beginning adds a line at the end.
    line: (&'static str, &'static str),
    gone: &'static [&'static str],
    there: &'static [&'static str],
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_changes_what_it_says_and_nothing_else() {
    let api = Api::start().await;
    let cluster = cluster(&api).await;
    let plain = || json!({"prompt": "a lighthouse", "aspect_ratio": "1:1", "model": "bpro-t2i"});
    let edits = [
        Edit {
            lang: "en",
            task: plain(),
            line: ("- aspect_ratio: 1:1", "- aspect_ratio: 16:9"),
            gone: &["--aspect-ratio", "1:1"],
            there: &["--aspect-ratio", "16:9"],
        },
        Edit {
            lang: "en",
            task: plain(),
            line: ("", "比例：9:16"),
            gone: &["--aspect-ratio", "1:1"],
            there: &["--aspect-ratio", "9:16"],
        },
        Edit {
            lang: "zh",
            task: plain(),
            line: ("- 比例：1:1", "- 比例：16:9"),
            gone: &["--aspect-ratio", "1:1"],
            there: &["--aspect-ratio", "16:9"],
        },
        Edit {
            lang: "zh",
            task: plain(),
            line: ("", "aspect_ratio: 9:16"),
            gone: &["--aspect-ratio", "1:1"],
            there: &["--aspect-ratio", "9:16"],
        },
        Edit {
            lang: "en",
            task: plain(),
            line: ("- aspect_ratio: 1:1", "- aspect_ratio:"),
            gone: &["--aspect-ratio", "1:1"],
            there: &[],
        },
        Edit {
            lang: "en",
            task: plain(),
            line: ("- prompt: a lighthouse", "- prompt: a dog: on the left"),
            gone: &["--prompt", "a lighthouse"],
            there: &["--prompt", "a dog: on the left"],
        },
        Edit {
            lang: "en",
            task: plain(),
            line: ("- seed:", "- seed: 随机"),
            gone: &[],
            there: &["--random-seed"],
        },
        Edit {
            lang: "zh",
            task: plain(),
            line: ("- 随机性：", "- 随机性：42"),
            gone: &[],
            there: &["--seed", "42"],
        },
        Edit {
            lang: "en",
            task: json!({"prompt": "a ferry", "model": "wan27-t2v", "duration": "5s"}),
            line: ("- duration: \"5s\"", "- duration: 10 秒"),
            gone: &["--duration", "5s"],
            there: &["--duration", "10"],
        },
        Edit {
            lang: "en",
            task: json!({"prompt": "a cup", "model": "o2-t2i", "width": 640, "height": 480}),
            line: ("- width: 640", "- width: 1024"),
            gone: &["--width", "640"],
            there: &["--width", "1024"],
        },
        Edit {
            lang: "en",
            task: plain(),
            line: ("", "- param: cfg=3"),
            gone: &[],
            there: &["--param", "cfg=3"],
        },
        Edit {
            lang: "en",
            task: json!({"prompt": "a lighthouse", "model": "bpro-t2i"}),
            line: ("- run_mode: run_with_defaults", "- run_mode: confirm_run"),
            gone: &["--run-with-defaults"],
            there: &["--confirm-run"],
        },
    ];
    for (number, edit) in edits.iter().enumerate() {
        let files = Files::new(&cluster, &format!("edit-{number}"), &json!([edit.task]));
        let cards = files.prefill(&cluster, &["--lang", edit.lang]).await;
        let before = files.planned(&cluster).await.remove(0);
        fs::write(&files.cards, edited(&cards, edit.line)).unwrap();
        let mut after = files.planned(&cluster).await.remove(0);
        let mut left = before;
        take(&mut left, edit.gone);
        take(&mut after, edit.there);
        assert_eq!(after, left, "beside {:?} of\n{cards}", edit.line);
    }
}

fn edited(cards: &str, (from, to): (&str, &str)) -> String {
    if from.is_empty() {
        return format!("{cards}{to}\n");
    }
    let mut found = 0;
    let lines = cards.lines().map(|line| {
        if line == from {
            found += 1;
            return to;
        }
        line
    });
    let edited: Vec<&str> = lines.collect();
    assert_eq!(found, 1, "one line {from:?} in\n{cards}");
    edited.join("\n")
}

/// Takes these neighbours out of the list, where they must be.
fn take(list: &mut Vec<String>, words: &[&str]) {
    if words.is_empty() {
        return;
    }
    let at = list.windows(words.len()).position(|window| window.iter().zip(words).all(|(a, b)| a == b));
    let at = at.unwrap_or_else(|| panic!("{words:?} in {list:?}"));
    list.drain(at..at + words.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_cannot_be_read_is_refused_by_its_number_and_line() {
    let api = Api::start().await;
    let cluster = cluster(&api).await;
    let files = Files::new(&cluster, "bad", &json!(["a cat", "a dog"]));
    let cards = files.prefill(&cluster, &[]).await;
    let line = |of: &str| cards.lines().position(|line| line == of).unwrap() + 1;
    let second = line("- prompt: a dog");
    fs::write(&files.cards, cards.replace("- prompt: a dog", "- promt: a dog")).unwrap();
    let output = muster(&cluster, &["submit", "--cards", files.cards.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("cards[2]") && said.contains(&format!("line {second}")), "{said}");
    assert!(said.contains("prompt"), "the key that was meant: {said}");
    let listed = muster(&cluster, &["list", "--output", "jsonl"]).await;
    assert_eq!(text(&listed.stdout), "", "nothing was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_run_with_the_batch_s_own_concurrency() {
    let api = Api::start().await;
    let cluster = cluster(&api).await;
    let _worker = cluster.worker(WorkerOptions::new("solo", 2)).await;
    let batch =
        json!({"concurrency": 1, "tasks": ["say first", {"prompt": "say \n second", "label": "zwei"}]});
    let files = Files::new(&cluster, "run", &batch);
    files.prefill(&cluster, &[]).await;
    let output = muster(&cluster, &["submit", "--cards", files.cards.to_str().unwrap(), "--watch"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let id = cluster.runs()[0].batch.clone();
    let end = WatchLog::new(&id).follow_to_end(&cluster, SOON).await;
    assert_eq!((end.requested_concurrency, end.effective_concurrency), (1, 1));
    let status = muster(&cluster, &["status", &id, "--output", "json"]).await;
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["tasks"][1]["prompt"], "say \n second");
    assert_eq!(status["tasks"][1]["label"], "zwei");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_search_flows_meet_a_prefill_as_the_vectors_say() {
    let api = Api::start().await;
    let cluster = cluster(&api).await;
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let cases = vectors["admission"].as_array().unwrap().iter();
    let cases: Vec<&Value> = cases.filter(|case| case["phase"] == "batch_prefill").collect();
    assert_eq!(cases.len(), 5);
    let flow = json!({
        "batch_json": r#"["a", {"scene": "6"}]"#,
        "expect": {"error": {
            "error": "BATCH_SEARCH_FLOW_NOT_SUPPORTED", "slug": "modelzoo-search-flow", "task_index": 2,
            "phase": "batch_prefill",
        }},
    });
    for case in cases.into_iter().chain([&flow]) {
        let request = PrefillBatchRequest {
            batch_json: case["batch_json"].as_str().unwrap().into(),
            task_count_approved: case["flags"]["batch_task_count_approved"] == true,
            api_key: "sk-of-a-test".into(),
            ..Default::default()
        };
        let reply = cluster.batches().prefill_batch(request).await;
        if case["expect"]["ok"].is_object() {
            let reply = reply.expect("cards").into_inner();
            assert_eq!(json!(reply.task_count), case["expect"]["ok"]["task_count"]);
            continue;
        }
        let details = reply.expect_err("a refusal").get_error_details();
        let info = details.error_info().expect("an ErrorInfo");
        let expected = case["expect"]["error"].as_object().unwrap();
        assert_eq!(json!(info.reason), expected["error"]);
        assert_eq!(info.metadata.len(), expected.len() - 1, "{info:?}");
        for (key, value) in expected.iter().filter(|(key, _)| *key != "error") {
            let word = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert_eq!(info.metadata.get(key), Some(&word), "{key} of {case}");
        }
    }
    assert_eq!(
        api.calls().len(),
        api.calls().iter().filter(|call| call.path.contains("bza-image-b-pro")).count()
    );
}
