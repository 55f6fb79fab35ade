//! Every conformance vector as a test case of its own, through the functions that submitting uses.
//!
//! `policy admission plan redaction` are outcomes of the original program; `ours` and `redaction_ours` are where
//! Muster differs on purpose.

use libtest_mimic::{Arguments, Failed, Trial};
use muster_coordinator::core::admission::Approvals;
use muster_coordinator::core::catalog::Catalog;
use muster_coordinator::core::payload::{self, Defaults};
use muster_coordinator::core::plan::{self, Planned, redact};
use muster_coordinator::core::policy::{Policy, SystemLimits};
use muster_coordinator::core::refusal::Refusal;
use serde_json::{Value, json};

const VECTORS: &str = include_str!("../conformance/seed-vectors.json");

/// How many there are: a file cut short must not pass.
const COUNT: usize = 203;

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
    for (section, run) in sections {
        let cases = vectors[section].as_array().ok_or_else(|| format!("{section} is no list"))?;
        for (number, case) in cases.iter().enumerate() {
            let (name, case) = (name(section, number, case), case.clone());
            trials.push(Trial::test(name, move || check(run, &case)));
        }
    }
    if trials.len() != COUNT {
        return Err(format!(
            "{} vectors instead of {COUNT}; some are missing, or COUNT is old",
            trials.len()
        ));
    }
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
    let outcome = payload::parse_batch_json(&Value::Array(tasks).to_string(), &defaults)
        .map_err(Refusal::Invalid)
        .and_then(|payload| {
            let policy = Policy::fallback(SystemLimits::default());
            plan::plan_batch(&payload, None, Approvals::default(), &policy, &Catalog::builtin())
        });
    Ok(match outcome {
        Ok(planned) => {
            let spec = planned.tasks.last().ok_or("at least one task")?;
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
