//! Where each value of a task comes from, and what is used where none is given.
//!
//! What it does not do: judge values, or say any of it in words.

use super::keys::Key;
use super::{Facts, check};
use crate::core::card_input::{self, Card};
use crate::core::catalog::Tuning;
use crate::core::contract::InputField;
use crate::core::plan::RunMode;

/// Who said a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The task itself.
    You,
    /// Its `card_input`.
    Card,
    /// The catalogue, since a card was there.
    Catalogue,
}

/// What will be used for a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State<'a> {
    Given(&'a str, Origin),
    /// A seed that was asked to be random.
    Random(Origin),
    /// Nothing is said; the program takes the catalogue's value.
    OpenCatalogue(&'a str),
    /// Nothing is said; the model takes its own value.
    OpenModel(&'a str),
    /// Nothing is said, and a seed is drawn.
    OpenRandom,
    /// Nothing is said, and nobody knows.
    OpenUnknown,
}

impl<'a> State<'a> {
    /// The value that the model gets from the task or the catalogue.
    pub(super) fn value(self) -> Option<&'a str> {
        match self {
            Self::Given(value, _) | Self::OpenCatalogue(value) => Some(value),
            _ => None,
        }
    }
}

/// All that is needed to tell where a value of one task comes from.
pub(super) struct Sources<'a> {
    facts: Facts<'a>,
    card: Card,
    defaults: Option<&'a Tuning>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(facts: &Facts<'a>) -> Self {
        // A card that cannot be read was refused when the task was planned.
        let card = match facts.request.card_input.as_str() {
            "" => Card::default(),
            card => card_input::read(card, None).unwrap_or_default(),
        };
        Self { facts: *facts, card, defaults: facts.catalog.defaults(&facts.spec.model) }
    }

    /// What will be used for a field that holds one value. `input` is what the contract says of it.
    pub(super) fn state(&self, key: Key, input: Option<&'a InputField>) -> State<'a> {
        let spec = self.spec(key);
        if !spec.is_empty() {
            let origin = if !self.own(key).is_empty() {
                Origin::You
            } else if self.card_value(key) == spec {
                Origin::Card
            } else {
                Origin::Catalogue
            };
            return State::Given(spec, origin);
        }
        if key == Key::Seed && self.facts.spec.random_seed {
            return State::Random(if self.facts.request.random_seed { Origin::You } else { Origin::Card });
        }
        let catalogue = self.default_of(key);
        if !catalogue.is_empty() {
            return State::OpenCatalogue(catalogue);
        }
        let preset = input.map(|input| input.preset.as_str()).unwrap_or_default();
        if key == Key::Seed && !is_fixed_seed(preset) {
            State::OpenRandom
        } else if preset.is_empty() {
            State::OpenUnknown
        } else {
            State::OpenModel(preset)
        }
    }

    /// What the program takes from the catalogue for a field that nothing is said about; empty for nothing.
    pub(super) fn default_of(&self, key: Key) -> &'a str {
        match self.defaults {
            Some(defaults) if self.facts.spec.run_mode == RunMode::RunWithDefaults => tuning(defaults, key),
            _ => "",
        }
    }

    /// The entries of a field that holds several.
    pub(super) fn entries(&self, key: Key) -> &'a [String] {
        let spec = self.facts.spec;
        match key {
            Key::Image => &spec.image,
            Key::Audio => &spec.audio,
            Key::Video => &spec.video,
            Key::Param => &spec.param,
            _ => &[],
        }
    }

    fn spec(&self, key: Key) -> &'a str {
        let spec = self.facts.spec;
        match key {
            Key::Prompt => &spec.prompt,
            Key::AspectRatio => &spec.aspect_ratio,
            Key::Resolution => &spec.resolution,
            Key::Steps => &spec.steps,
            Key::Duration => &spec.duration,
            Key::Seed => &spec.seed,
            Key::ModelName => &spec.model_name,
            Key::Width => &spec.width,
            Key::Height => &spec.height,
            _ => "",
        }
    }

    fn own(&self, key: Key) -> &str {
        let request = self.facts.request;
        match key {
            Key::Prompt => &request.prompt,
            Key::AspectRatio => &request.aspect_ratio,
            Key::Resolution => &request.resolution,
            Key::Steps => &request.steps.text,
            Key::Duration => &request.duration.text,
            Key::Seed => &request.seed.text,
            Key::ModelName => &request.model_name,
            Key::Width => &request.width.text,
            Key::Height => &request.height.text,
            _ => "",
        }
    }

    fn card_value(&self, key: Key) -> &str {
        if key == Key::Prompt { &self.card.prompt } else { tuning(&self.card.tuning, key) }
    }
}

fn tuning(tuning: &Tuning, key: Key) -> &str {
    match key {
        Key::AspectRatio => &tuning.aspect_ratio,
        Key::Resolution => &tuning.resolution,
        Key::Duration => &tuning.duration,
        Key::Seed => &tuning.seed,
        Key::ModelName => &tuning.model_name,
        Key::Width => &tuning.width,
        Key::Height => &tuning.height,
        _ => "",
    }
}

/// What the catalogue has for a field, whatever runs; empty for nothing.
pub(super) fn preset(defaults: Option<&Tuning>, key: Key) -> &str {
    defaults.map(|defaults| tuning(defaults, key)).unwrap_or_default()
}

/// Whether a model's preset is one seed rather than a way to say random (`-1`, nothing, a word).
fn is_fixed_seed(preset: &str) -> bool {
    check::number(preset).is_some_and(|seed| seed >= 0.0)
}
