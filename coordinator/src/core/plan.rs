//! What would run: each task of a batch as a model, a run mode and the values of its arguments.
//!
//! [`plan_batch`] is the one way from a payload to tasks, for submitting and for validating alike. What it
//! does not do: give ids, choose workers or output paths.

use serde::{Deserialize, Serialize};

use super::admission::{self, Admitted, Approvals};
pub use super::args::{ArgList, redact};
use super::catalog::Catalog;
use super::payload::{Payload, Scalar, TaskRequest};
use super::policy::Policy;
use super::refusal::{Phase, Refusal};
pub use super::run_mode::RunMode;
use super::{card, card_input};

/// The longest argument that Linux takes, in bytes without its terminator.
pub const MAX_ARG_BYTES: usize = 131_071;
/// The most that all arguments of a task may take together, in bytes, counted as Linux counts them: each with
/// its terminator and a pointer. Half of what it grants by default; the environment needs some too.
pub const MAX_ARGS_BYTES: usize = 1024 * 1024;
/// Terminator and pointer of one argument.
const ARG_OVERHEAD: usize = 1 + 8;

/// Words anywhere in a prompt or card (lower-cased) that mean: do not ask, run.
pub(super) const RUN_WORDS: [&str; 8] =
    ["默认就行", "默认", "你定", "推荐就行", "都行", "随便", "auto", "default"];

/// One planned task: all that a worker needs to run it, ids and output path apart. An empty text was not given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskSpec {
    /// What people call it; never empty.
    pub label: String,
    /// The model as the program knows it.
    pub model: String,
    /// The model as people read it.
    pub display_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audio: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub video: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub aspect_ratio: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resolution: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub steps: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub duration: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub seed: String,
    pub random_seed: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub width: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub height: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub param: Vec<String>,
    /// The task's own output path; empty when the worker assigns one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
    pub sync: bool,
    pub run_mode: RunMode,
    /// The task's own limit of time; the batch's where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit_ms: Option<u64>,
    /// The task's own retries; the batch's where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<super::options::RetryPolicy>,
}

/// A batch that may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub admitted: Admitted,
    /// In index order.
    pub tasks: Vec<TaskSpec>,
}

/// Admits and plans a batch that is to run. The first task that cannot be planned refuses the whole batch.
pub fn plan_batch(
    payload: &Payload,
    request_concurrency: Option<i32>,
    approvals: Approvals,
    policy: &Policy,
    catalog: &Catalog,
) -> Result<Planned, Refusal> {
    let admitted = admission::admit(policy, Phase::Run, request_concurrency, payload, approvals)?;
    let tasks = plan_tasks(payload, catalog, Phase::Run)?;
    Ok(Planned { admitted, tasks })
}

/// Admits and plans a batch that is only to be shown: its size first, then the API key, then the tasks.
/// Concurrency is never looked at.
pub fn plan_prefill(
    payload: &Payload,
    approvals: Approvals,
    policy: &Policy,
    catalog: &Catalog,
    has_api_key: bool,
) -> Result<Vec<TaskSpec>, Refusal> {
    admission::admit(policy, Phase::Prefill, None, payload, approvals)?;
    if !has_api_key {
        return Err(Refusal::NoApiKey);
    }
    plan_tasks(payload, catalog, Phase::Prefill)
}

fn plan_tasks(payload: &Payload, catalog: &Catalog, phase: Phase) -> Result<Vec<TaskSpec>, Refusal> {
    (1..).zip(&payload.tasks).map(|(index, request)| plan_task(index, request, catalog, phase)).collect()
}

/// Plans one task; `index` counts from 1.
pub fn plan_task(
    index: u32,
    request: &TaskRequest,
    catalog: &Catalog,
    phase: Phase,
) -> Result<TaskSpec, Refusal> {
    let model = catalog.resolve(&request.scene, &request.model, &request.task);
    if let Some(slug) = catalog.search_flow(&model) {
        return Err(Refusal::SearchFlowNotSupported { slug: slug.to_owned(), task_index: index, phase });
    }
    let label = match request.label.trim() {
        "" => format!("Task {index}"),
        label => label.to_owned(),
    };
    let number = |scalar: &Scalar| scalar.text.clone();
    let mut spec = TaskSpec {
        label,
        display_name: catalog.display_name(&model).to_owned(),
        prompt: request.prompt.clone(),
        image: request.image.clone(),
        audio: request.audio.clone(),
        video: request.video.clone(),
        aspect_ratio: request.aspect_ratio.clone(),
        resolution: request.resolution.clone(),
        steps: number(&request.steps),
        duration: number(&request.duration),
        seed: number(&request.seed),
        random_seed: request.random_seed,
        model_name: request.model_name.clone(),
        width: number(&request.width),
        height: number(&request.height),
        param: request.param.clone(),
        output: request.output.clone(),
        sync: request.sync,
        run_mode: RunMode::ConfirmRun,
        time_limit_ms: request.time_limit_ms,
        retry: request.retry.clone(),
        model,
    };
    if !request.card_input.trim().is_empty() {
        apply_card(index, &request.card_input, catalog, &mut spec)?;
    }
    spec.run_mode = run_mode(request, &spec, catalog);
    check_size(index, &spec)?;
    Ok(spec)
}

/// The card goes in only where the task itself says nothing; a random seed it switches on whatever the task says.
fn apply_card(index: u32, card: &str, catalog: &Catalog, spec: &mut TaskSpec) -> Result<(), Refusal> {
    let card = card_input::read(card, catalog.defaults(&spec.model))
        .map_err(|bad| Refusal::field(format!("tasks[{index}].card_input"), bad.to_string()))?;
    for (own, from_card) in [
        (&mut spec.prompt, card.prompt),
        (&mut spec.aspect_ratio, card.tuning.aspect_ratio),
        (&mut spec.resolution, card.tuning.resolution),
        (&mut spec.duration, card.tuning.duration),
        (&mut spec.seed, card.tuning.seed),
        (&mut spec.model_name, card.tuning.model_name),
        (&mut spec.width, card.tuning.width),
        (&mut spec.height, card.tuning.height),
    ] {
        if own.is_empty() {
            *own = from_card;
        }
    }
    spec.random_seed |= card.random_seed;
    Ok(())
}

fn run_mode(request: &TaskRequest, spec: &TaskSpec, catalog: &Catalog) -> RunMode {
    if let Some(decided) = request.run_mode {
        return decided;
    }
    let said = || {
        // A card that comes back whole has its model's options in it, and those are nobody's wish.
        let said = card_input::lines(&request.card_input).filter(|line| !card::is_publishers(line));
        let text = format!("{}\n{}", spec.prompt, said.collect::<Vec<_>>().join("\n")).to_lowercase();
        RUN_WORDS.iter().any(|word| text.contains(word))
    };
    // A card is tuning itself, so that what it brought need not be looked at.
    let tuned = || {
        [&request.steps, &request.duration, &request.seed, &request.width, &request.height]
            .iter()
            .any(|scalar| scalar.is_tuning())
            || [&request.card_input, &request.aspect_ratio, &request.resolution, &request.model_name]
                .iter()
                .any(|text| !text.is_empty())
            || request.random_seed
            || !request.param.is_empty()
    };
    if request.run_with_defaults || said() || (catalog.defaults(&spec.model).is_some() && !tuned()) {
        RunMode::RunWithDefaults
    } else {
        RunMode::ConfirmRun
    }
}

/// Refuses a task whose arguments no program could be started with, by the field that is to blame.
fn check_size(index: u32, spec: &TaskSpec) -> Result<(), Refusal> {
    let mut field = "model";
    let mut total = 0;
    // The field that takes most, over all its arguments.
    let mut sizes: Vec<(&str, usize)> = Vec::new();
    for arg in spec.command("") {
        let flag = FLAG_FIELDS.iter().find(|(flag, _)| {
            arg.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        });
        // A value on its own never starts with a dash, so that it keeps the field of its flag.
        field = flag.map_or(field, |(_, field)| field);
        if arg.len() > MAX_ARG_BYTES {
            let description = format!(
                "makes an argument of {} bytes; at most {MAX_ARG_BYTES} can be given to a program, shorten it \
                 or pass a file",
                arg.len()
            );
            return Err(Refusal::field(format!("tasks[{index}].{field}"), description));
        }
        let size = arg.len() + ARG_OVERHEAD;
        total += size;
        match sizes.last_mut() {
            Some((last, sum)) if *last == field => *sum += size,
            _ => sizes.push((field, size)),
        }
    }
    if total > MAX_ARGS_BYTES {
        let (largest, _) = sizes.into_iter().max_by_key(|(_, size)| *size).unwrap_or_default();
        let description = format!(
            "takes most of {total} bytes of arguments; at most {MAX_ARGS_BYTES} (1 MiB) can be given to a \
             program, shorten it or pass files"
        );
        return Err(Refusal::field(format!("tasks[{index}].{largest}"), description));
    }
    Ok(())
}

/// The field that each flag's value comes from.
const FLAG_FIELDS: [(&str, &str); 15] = [
    ("--model", "model"),
    ("--prompt", "prompt"),
    ("--image", "image"),
    ("--audio", "audio"),
    ("--video", "video"),
    ("--aspect-ratio", "aspect_ratio"),
    ("--resolution", "resolution"),
    ("--steps", "steps"),
    ("--duration", "duration"),
    ("--seed", "seed"),
    ("--model-name", "model_name"),
    ("--width", "width"),
    ("--height", "height"),
    ("--param", "param"),
    ("--output", "output"),
];

#[cfg(test)]
mod tests;
