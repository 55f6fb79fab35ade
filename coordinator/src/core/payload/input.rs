//! One task as given, in the typed form and in the form that both ways of asking share.

use super::violation::Violations;
use super::{Defaults, Scalar, TaskRequest, read, unless_blank};
use crate::core::options::{self, GivenRetry, RetryPolicy};

/// One task of a typed request: the keys of a JSON task. Text and number fields are texts (numbers as they
/// should reach the command line), `None` and `""` are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskInput {
    pub prompt: Option<String>,
    pub task: Option<String>,
    pub model: Option<String>,
    pub scene: Option<String>,
    pub label: Option<String>,
    pub title: Option<String>,
    pub card_input: Option<String>,
    pub run_with_defaults: Option<bool>,
    /// Accepted, and without effect.
    pub confirm_run: Option<bool>,
    /// Accepted, and without effect.
    pub param_help: Option<bool>,
    pub image: Vec<String>,
    pub audio: Vec<String>,
    pub video: Vec<String>,
    pub aspect_ratio: Option<String>,
    pub resolution: Option<String>,
    pub steps: Option<String>,
    pub duration: Option<String>,
    pub seed: Option<String>,
    pub random_seed: Option<bool>,
    pub model_name: Option<String>,
    pub width: Option<String>,
    pub height: Option<String>,
    pub param: Vec<String>,
    pub output: Option<String>,
    pub sync: Option<bool>,
    /// Milliseconds.
    pub time_limit: Option<i128>,
    pub retry: Option<GivenRetry>,
}

/// One task as given: read and checked, but emptiness and defaults not applied yet.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) prompt: Scalar,
    pub(super) task: Scalar,
    pub(super) model: Scalar,
    pub(super) scene: Scalar,
    pub(super) label: Scalar,
    pub(super) title: Scalar,
    pub(super) card_input: Scalar,
    pub(super) run_with_defaults: Option<bool>,
    pub(super) image: Vec<String>,
    pub(super) audio: Vec<String>,
    pub(super) video: Vec<String>,
    pub(super) aspect_ratio: Scalar,
    pub(super) resolution: Scalar,
    pub(super) steps: Scalar,
    pub(super) duration: Scalar,
    pub(super) seed: Scalar,
    pub(super) random_seed: Option<bool>,
    pub(super) model_name: Scalar,
    pub(super) width: Scalar,
    pub(super) height: Scalar,
    pub(super) param: Vec<String>,
    pub(super) output: Scalar,
    pub(super) sync: Option<bool>,
    pub(super) time_limit_ms: Option<u64>,
    pub(super) retry: Option<RetryPolicy>,
}

impl Given {
    /// Checks the texts of a typed task.
    pub(super) fn from_input(input: TaskInput, at: &str, violations: &mut Violations) -> Self {
        let mut text = |key: &str, value: Option<String>| {
            let text = value.unwrap_or_default();
            read::check_text(&text, || format!("{at}.{key}"), violations);
            Scalar { text, zero_number: false }
        };
        let mut given = Self {
            prompt: text("prompt", input.prompt),
            task: text("task", input.task),
            model: text("model", input.model),
            scene: text("scene", input.scene),
            label: text("label", input.label),
            title: text("title", input.title),
            card_input: text("card_input", input.card_input),
            aspect_ratio: text("aspect_ratio", input.aspect_ratio),
            resolution: text("resolution", input.resolution),
            steps: text("steps", input.steps),
            duration: text("duration", input.duration),
            seed: text("seed", input.seed),
            model_name: text("model_name", input.model_name),
            width: text("width", input.width),
            height: text("height", input.height),
            output: text("output", input.output),
            run_with_defaults: input.run_with_defaults,
            random_seed: input.random_seed,
            sync: input.sync,
            ..Self::default()
        };
        let mut list = |key: &str, mut values: Vec<String>| {
            for (entry, value) in (1_usize..).zip(&values) {
                read::check_text(value, || format!("{at}.{key}[{entry}]"), violations);
            }
            values.retain(|value| !value.trim().is_empty());
            values
        };
        given.image = list("image", input.image);
        given.audio = list("audio", input.audio);
        given.video = list("video", input.video);
        given.param = list("param", input.param);
        given.time_limit_ms = input
            .time_limit
            .and_then(|limit| options::time_limit(limit, &format!("{at}.time_limit"), violations));
        given.retry = input.retry.and_then(|retry| retry.check(&format!("{at}.retry"), violations));
        given
    }

    /// Applies what counts as empty and what is inherited. `defaults` has no blank texts.
    pub(super) fn into_request(self, defaults: &Defaults) -> TaskRequest {
        let inherited = |own: String, default: &Option<String>| {
            if own.is_empty() { default.clone().unwrap_or_default() } else { own }
        };
        let own_model = self.model.or_blank_empty();
        let own_scene = self.scene.or_blank_empty();
        // An inherited scene would hide the model that the task itself asks for.
        let scene = if own_model.is_empty() { inherited(own_scene, &defaults.scene) } else { own_scene };
        let label = self.label.or_zero_empty();
        // A label of white space is one: it hides the title and leaves nothing. A title of 0 is none, as in the
        // original.
        let label = if label.is_empty() { self.title.or_zero_empty() } else { label };
        TaskRequest {
            prompt: self.prompt.text,
            task: inherited(self.task.or_blank_empty(), &defaults.task),
            model: inherited(own_model, &defaults.model),
            scene,
            label: label.trim().to_owned(),
            card_input: unless_blank(self.card_input.text),
            run_with_defaults: self.run_with_defaults.or(defaults.run_with_defaults).unwrap_or(false),
            image: self.image,
            audio: self.audio,
            video: self.video,
            aspect_ratio: self.aspect_ratio.or_zero_empty(),
            resolution: self.resolution.or_zero_empty(),
            steps: self.steps,
            duration: self.duration,
            seed: self.seed,
            random_seed: self.random_seed.unwrap_or(false),
            model_name: self.model_name.or_zero_empty(),
            width: self.width,
            height: self.height,
            param: self.param,
            output: self.output.or_blank_empty(),
            sync: self.sync.or(defaults.sync).unwrap_or(false),
            run_mode: None,
            time_limit_ms: self.time_limit_ms,
            retry: self.retry,
        }
    }
}
