//! What was asked: a batch as sent (JSON text or typed), read into tasks in which every rule about forms,
//! emptiness and inheritance has been applied.
//!
//! What it does not do: look at limits, or find out which model a task means.

mod carried;
mod input;
mod keys;
mod read;
mod violation;

pub use input::TaskInput;
pub use keys::{OPTION_KEYS, TASK_KEYS, nearest};
pub use violation::{FieldViolation, MAX_VIOLATIONS};

use super::integer::Integer;
use super::json::{self, Json};
use super::options::{BatchOptions, GivenOptions, RetryPolicy};
use super::run_mode::RunMode;
use input::Given;
pub(super) use keys::nearest_of;
pub(super) use read::text_problem;
pub(super) use violation::Violations;

/// The longest text, number or list entry that a task may carry, in bytes.
pub const MAX_VALUE_BYTES: usize = 128 * 1024;

/// What the tasks of a request inherit where they say nothing themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Model or alias.
    pub model: Option<String>,
    /// Scene; gives way to a task's own model.
    pub scene: Option<String>,
    /// Kind of task, which picks a default model.
    pub task: Option<String>,
    /// Run without asking.
    pub run_with_defaults: Option<bool>,
    /// Wait for the result.
    pub sync: Option<bool>,
}

/// A batch as asked for. At least one task when it comes from this module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The payload's own `concurrency`; admission judges it, since a request's own goes before it.
    pub concurrency: Option<Integer>,
    /// How it is to be carried out, as far as the payload itself says.
    pub options: BatchOptions,
    /// In the order of the request.
    pub tasks: Vec<TaskRequest>,
}

/// A value that keeps whether it was the JSON number zero: as an argument that is a value, as tuning it is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scalar {
    /// As it was written; empty when not given.
    pub text: String,
    /// A JSON number equal to zero (the text `"0"` is not).
    pub zero_number: bool,
}

impl Scalar {
    /// Whether it is there and more than the number zero.
    pub fn is_tuning(&self) -> bool {
        !self.text.is_empty() && !self.zero_number
    }

    /// The text, where the number zero counts as nothing.
    fn or_zero_empty(self) -> String {
        if self.zero_number { String::new() } else { self.text }
    }

    /// As [`Self::or_zero_empty`], where white space counts as nothing too.
    fn or_blank_empty(self) -> String {
        unless_blank(self.or_zero_empty())
    }
}

/// One task as asked for; the request's defaults are in. An empty text is a value that was not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskRequest {
    /// May be white space only: that is a prompt.
    pub prompt: String,
    /// Kind of task.
    pub task: String,
    /// Model or alias as written.
    pub model: String,
    /// Goes before `model`.
    pub scene: String,
    /// Trimmed; the planner gives one where it is empty.
    pub label: String,
    /// A filled-in card, never only white space.
    pub card_input: String,
    /// The flag, its default included.
    pub run_with_defaults: bool,
    pub image: Vec<String>,
    pub audio: Vec<String>,
    pub video: Vec<String>,
    pub aspect_ratio: String,
    pub resolution: String,
    pub steps: Scalar,
    pub duration: Scalar,
    pub seed: Scalar,
    pub random_seed: bool,
    pub model_name: String,
    pub width: Scalar,
    pub height: Scalar,
    pub param: Vec<String>,
    /// The task's own output path; empty when one is assigned.
    pub output: String,
    /// The flag, its default included.
    pub sync: bool,
    /// The run mode, where it is decided already: by a card that says it. Goes before every other rule.
    pub run_mode: Option<RunMode>,
    /// The task's own limit of time.
    pub time_limit_ms: Option<u64>,
    /// The task's own retries.
    pub retry: Option<RetryPolicy>,
}

/// Reads `batch_json`: an array of tasks, or an object with `tasks` and perhaps `concurrency` and how it is to be
/// carried out.
///
/// Fails with what is wrong, in order, at most [`MAX_VIOLATIONS`] of it; fields count tasks from 1.
pub fn parse_batch_json(text: &str, defaults: &Defaults) -> Result<Payload, Vec<FieldViolation>> {
    let mut violations = Violations::default();
    let defaults = read_defaults(defaults, &mut violations);
    let shape = |description: String| Err(vec![FieldViolation::new("batch_json", description)]);

    let top = match json::parse(text).and_then(json::view) {
        Ok(top) => top,
        Err(error) => return shape(format!("is no JSON: {error}; send an array of tasks, as JSON text")),
    };
    let mut options = BatchOptions::default();
    let (tasks, concurrency) = match top {
        Json::List(tasks) => (tasks, None),
        Json::Object(mut members) => {
            let concurrency = members.remove("concurrency").and_then(|raw| match json::view(raw) {
                Ok(Json::Null) => None,
                Ok(Json::Number(number)) => Some(Integer::from_number(number)),
                Ok(Json::Text(text)) => Some(Integer::from_text(&text)),
                Ok(_) | Err(_) => Some(Integer::Unreadable),
            });
            options = carried::batch(&members, &mut violations).check("", &mut violations);
            match members.remove("tasks").map(json::view) {
                Some(Ok(Json::List(tasks))) => (tasks, concurrency),
                Some(_) => return shape("has tasks that are no array; send {\"tasks\": [...]}".into()),
                None => return shape("is an object without tasks; send {\"tasks\": [...]}".into()),
            }
        }
        _ => return shape("is neither an array nor an object; send an array of tasks".into()),
    };
    if tasks.is_empty() {
        return shape("has no task; send at least one".into());
    }

    let mut requests = Vec::with_capacity(tasks.len());
    for (index, raw) in (1_usize..).zip(tasks) {
        let at = format!("tasks[{index}]");
        let given = match json::view(raw) {
            Ok(Json::Text(prompt)) => {
                let mut given = Given::default();
                read::check_text(&prompt, || format!("{at}.prompt"), &mut violations);
                given.prompt.text = prompt.into_owned();
                given
            }
            Ok(Json::Object(members)) => read::task(&members, &at, &mut violations),
            Ok(_) => {
                violations.add(at, "is neither a string nor an object; send a prompt or an object of fields");
                Given::default()
            }
            Err(_) => {
                violations.add(at, read::NO_TEXT);
                Given::default()
            }
        };
        if violations.full() {
            break;
        }
        requests.push(given.into_request(&defaults));
    }
    violations.into_result(Payload { concurrency, options, tasks: requests })
}

/// Reads the typed form of a request, by the same rules as JSON: there every value is a text, so that `"0"` is
/// a value wherever only the number zero is none.
///
/// Fails like [`parse_batch_json`].
pub fn from_tasks(tasks: Vec<TaskInput>, defaults: &Defaults) -> Result<Payload, Vec<FieldViolation>> {
    let mut violations = Violations::default();
    let defaults = read_defaults(defaults, &mut violations);
    if tasks.is_empty() {
        violations.add("tasks", "is empty; send at least one task");
    }
    let mut requests = Vec::with_capacity(tasks.len());
    for (index, task) in (1_usize..).zip(tasks) {
        let given = Given::from_input(task, &format!("tasks[{index}]"), &mut violations);
        if violations.full() {
            break;
        }
        requests.push(given.into_request(&defaults));
    }
    violations.into_result(Payload { concurrency: None, options: BatchOptions::default(), tasks: requests })
}

/// How a request wants its batch carried out, whatever the form of the tasks; fields are named `options.`.
///
/// Fails like [`parse_batch_json`].
pub fn check_options(given: GivenOptions) -> Result<BatchOptions, Vec<FieldViolation>> {
    let mut violations = Violations::default();
    let options = given.check("options.", &mut violations);
    violations.into_result(options)
}

/// The defaults, checked and without blanks.
fn read_defaults(defaults: &Defaults, violations: &mut Violations) -> Defaults {
    let mut text = |name: &str, value: &Option<String>| {
        let value = value.as_deref()?;
        read::check_text(value, || format!("defaults.{name}"), violations);
        Some(value.to_owned()).filter(|value| !value.trim().is_empty())
    };
    Defaults {
        model: text("model", &defaults.model),
        scene: text("scene", &defaults.scene),
        task: text("task", &defaults.task),
        run_with_defaults: defaults.run_with_defaults,
        sync: defaults.sync,
    }
}

fn unless_blank(text: String) -> String {
    if text.trim().is_empty() { String::new() } else { text }
}

#[cfg(test)]
mod tests;
