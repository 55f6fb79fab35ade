//! Every conformance vector as a test case of its own, through the functions that submitting uses.
//!
//! `policy admission plan redaction` are outcomes of the original program; `ours` and `redaction_ours` are where
//! Muster differs on purpose. Each task that plans comes back from its card, too, as the same plan.

use libtest_mimic::{Arguments, Failed, Trial};
use muster_coordinator::core::admission::Approvals;
use muster_coordinator::core::card::{self, Facts, Lang};
use muster_coordinator::core::catalog::Catalog;
use muster_coordinator::core::contract::{Contract, FieldKind, InputField, Unavailable};
use muster_coordinator::core::payload::{self, Defaults, Payload};
use muster_coordinator::core::plan::{self, Planned, TaskSpec, redact};
use muster_coordinator::core::policy::{Policy, SystemLimits};
use muster_coordinator::core::refusal::Refusal;
use serde_json::{Value, json};

const VECTORS: &str = include_str!("../conformance/seed-vectors.json");

/// How many there are: a file cut short must not pass.
const COUNT: usize = 203;
/// How many of them are tasks that plan, and so have a card.
const CARDS: usize = 119;

type Run = fn(&Value) -> Result<Value, Failed>;

fn main() -> Result<(), String> {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, trials()?).exit()
}

fn trials() -> Result<Vec<Trial>, String> {
    let sections: [(&str, Run); 6] = [
        ("policy", policy),
        ("admission", admission),
        ("plan", planning),
        ("redaction", redaction),
        ("ours", planning),
        ("redaction_ours", redaction),
    ];
    let vectors: Value = serde_json::from_str(VECTORS).map_err(|error| error.to_string())?;
    let mut trials = Vec::new();
    let mut cards = Vec::new();
    for (section, run) in sections {
        let cases = vectors[section].as_array().ok_or_else(|| format!("{section} is no list"))?;
        for (number, case) in cases.iter().enumerate() {
            let name = name(section, number, case);
            if case.get("task").is_some() && case["expect"].get("ok").is_some() {
                let case = case.clone();
                cards.push(Trial::test(format!("cards/{name}"), move || round_trip(&case)));
            }
            let case = case.clone();
            trials.push(Trial::test(name, move || check(run, &case)));
        }
    }
    if (trials.len(), cards.len()) != (COUNT, CARDS) {
        return Err(format!(
            "{} vectors and {} cards instead of {COUNT} and {CARDS}; some are missing, or the counts are old",
            trials.len(),
            cards.len()
        ));
    }
    trials.extend(cards);
    Ok(trials)
}

/// `plan/017 {"prompt":"x"…`: the number finds it, the input says what it is about.
fn name(section: &str, number: usize, case: &Value) -> String {
    let input = ["task", "batch_json", "config", "argv"].iter().find_map(|key| case.get(key));
    let input: String = input.unwrap_or(&Value::Null).to_string().chars().take(60).collect();
    format!("{section}/{number:03} {input}")
}

fn check(run: Run, case: &Value) -> Result<(), Failed> {
    let (expected, actual) = (&case["expect"], run(case)?);
    if *expected == actual {
        return Ok(());
    }
    Err(format!("of {case}\n expected {expected}\n      got {actual}").into())
}

fn policy(case: &Value) -> Result<Value, Failed> {
    let policy = policy_of(case);
    Ok(json!({"ok": {
        "max_concurrency": policy.max_concurrency,
        "system_max_concurrency": policy.system.max_concurrency,
        "max_tasks": policy.max_tasks,
        "system_max_tasks": policy.system.max_tasks,
    }}))
}

fn admission(case: &Value) -> Result<Value, Failed> {
    let text = case["batch_json"].as_str().ok_or("batch_json is a string")?;
    let flag = |key: &str| case["flags"][key].as_bool().unwrap_or(false);
    let approvals = Approvals {
        concurrency: flag("batch_concurrency_approved"),
        task_count: flag("batch_task_count_approved"),
    };
    let request_concurrency = match &case["flags"]["batch_concurrency"] {
        Value::Null => None,
        given => Some(i32::try_from(given.as_i64().ok_or("an integer")?).map_err(|e| e.to_string())?),
    };
    let prefill = case["phase"] == "batch_prefill";
    let payload = match payload::parse_batch_json(text, &Defaults::default()) {
        Ok(payload) => payload,
        Err(violations) => return Ok(refused(&Refusal::Invalid(violations))),
    };
    let (policy, catalog) = (policy_of(case), Catalog::builtin());
    if prefill {
        return Ok(match plan::plan_prefill(&payload, approvals, &policy, &catalog, true) {
            Ok(tasks) => json!({"ok": {"task_count": tasks.len()}}),
            Err(refusal) => refused(&refusal),
        });
    }
    Ok(match plan::plan_batch(&payload, request_concurrency, approvals, &policy, &catalog) {
        Ok(Planned { admitted, tasks }) => json!({"ok": {
            "task_count": tasks.len(),
            "requested_concurrency": admitted.requested_concurrency,
            "effective_concurrency": admitted.effective_concurrency,
            "configured_max_concurrency": admitted.configured_max_concurrency,
            "configured_max_tasks": admitted.configured_max_tasks,
        }}),
        Err(refusal) => refused(&refusal),
    })
}

/// Plans a whole batch in which the task stands at the vector's index.
fn planning(case: &Value) -> Result<Value, Failed> {
    let outcome = payload_of(case)?.map_err(Refusal::Invalid).and_then(|payload| plan_all(&payload));
    Ok(match outcome {
        Ok(tasks) => {
            let spec = tasks.last().ok_or("at least one task")?;
            json!({"ok": {
                "label": spec.label,
                "model": spec.model,
                "run_mode": spec.run_mode.as_str(),
                "argv": spec.command("{output}"),
            }})
        }
        Err(refusal) => refused(&refusal),
    })
}

/// The task of a vector, at its index of a batch.
fn payload_of(case: &Value) -> Result<Result<Payload, Vec<payload::FieldViolation>>, Failed> {
    let index = case.get("index").and_then(Value::as_u64).unwrap_or(1);
    let before = usize::try_from(index).map_err(|e| e.to_string())? - 1;
    let mut tasks = vec![json!("a task before it"); before];
    tasks.push(case["task"].clone());

    let given = |key: &str| case["defaults"][key].as_str().map(str::to_owned);
    let defaults = Defaults {
        model: given("model"),
        scene: given("scene"),
        task: given("task"),
        run_with_defaults: case["defaults"]["run_with_defaults"].as_bool(),
        sync: case["defaults"]["sync"].as_bool(),
    };
    Ok(payload::parse_batch_json(&Value::Array(tasks).to_string(), &defaults))
}

fn plan_all(payload: &Payload) -> Result<Vec<TaskSpec>, Refusal> {
    let policy = Policy::fallback(SystemLimits::default());
    plan::plan_batch(payload, None, Approvals::default(), &policy, &Catalog::builtin())
        .map(|planned| planned.tasks)
}

/// Shown as cards and read back without an edit, the batch plans to the very same tasks: in each language,
/// whatever is known about the model.
fn round_trip(case: &Value) -> Result<(), Failed> {
    let payload = payload_of(case)?.map_err(|violations| Refusal::Invalid(violations).to_string())?;
    let planned = plan_all(&payload).map_err(|refusal| refusal.to_string())?;
    let contract = contract();
    for lang in [Lang::En, Lang::Zh] {
        for contract in [Ok(&contract), Err(&Unavailable::Unreachable)] {
            let text = cards(&payload, &planned, contract, lang);
            let back = card::read(&text, &Defaults::default(), &Catalog::builtin())
                .map_err(|violations| format!("{}\nof\n{text}", Refusal::Invalid(violations)))?;
            let again = plan_all(&back).map_err(|refusal| format!("{refusal}\nof\n{text}"))?;
            if again != planned {
                return Err(format!("planned {planned:?}\n  again {again:?}\nof\n{text}").into());
            }
        }
    }
    Ok(())
}

fn cards(
    payload: &Payload,
    planned: &[TaskSpec],
    contract: Result<&Contract, &Unavailable>,
    lang: Lang,
) -> String {
    let catalog = Catalog::builtin();
    let cards: Vec<String> = (1..)
        .zip(payload.tasks.iter().zip(planned))
        .map(|(index, (request, spec))| {
            let facts = Facts { index, request, spec, catalog: &catalog, contract, price: None };
            card::render(&facts, lang)
        })
        .collect();
    let labelled: Vec<(&str, &str)> =
        planned.iter().zip(&cards).map(|(spec, card)| (spec.label.as_str(), card.as_str())).collect();
    card::reply(&labelled, payload.concurrency, lang)
}

/// A model with inputs of several kinds.
fn contract() -> Contract {
    let field = |name: &str, label: &str, kind| InputField {
        name: name.to_owned(),
        label: label.to_owned(),
        kind,
        ..InputField::default()
    };
    Contract {
        name: "A model".to_owned(),
        fields: vec![
            InputField { required: true, ..field("text", "提示词", FieldKind::Text) },
            InputField {
                options: vec!["1:1".to_owned(), "16:9".to_owned()],
                preset: "1:1".to_owned(),
                ..field("aspect_ratio", "比例", FieldKind::Choice)
            },
            field("noise", "种子", FieldKind::Seed),
            InputField { required: true, ..field("images", "图片", FieldKind::Images) },
            InputField { preset: "7".to_owned(), ..field("cfg", "CFG", FieldKind::Slider) },
        ],
        fields_left_out: 0,
    }
}

fn redaction(case: &Value) -> Result<Value, Failed> {
    let args: Vec<String> = serde_json::from_value(case["argv"].clone()).map_err(|e| e.to_string())?;
    Ok(json!(redact(&args)))
}

fn policy_of(case: &Value) -> Policy {
    Policy::from_config(case.get("config").unwrap_or(&Value::Null), SystemLimits::default())
}

/// A refusal as the vectors write it: the code and its metadata, whole numbers as numbers.
fn refused(refusal: &Refusal) -> Value {
    let mut error = json!({"error": refusal.code()});
    for (key, value) in refusal.metadata() {
        error[key] = value.parse::<i64>().map_or_else(|_| json!(value), |number| json!(number));
    }
    json!({"error": error})
}
