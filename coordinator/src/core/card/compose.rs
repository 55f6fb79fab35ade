//! A card from its first line to its last: the model, its inputs in the publisher's order, what the task says
//! beside them, what will run.
//!
//! What it does not do: say what an input is ([`field`]), or where a value comes from ([`Sources`]).

use super::keys::{Key, Note};
use super::sheet::{MAX_TEXT_BYTES, Sheet};
use super::source::{self, Sources, State};
use super::value::{TRUE, shown};
use super::words::fill;
use super::{Facts, Lang, check, command, field, inputs};
use crate::core::contract::{Contract, FieldKind, InputField};

/// Inputs shown that only a `param` can set; the others are counted.
const MAX_PARAM_INPUTS: usize = 16;
/// Params that are said to belong to no input; more are not.
const MAX_STRAY_PARAMS: usize = 16;

/// The fields that a card has one line of, in the order in which they stand where no contract has another.
pub(super) const SINGLE: [Key; 9] = [
    Key::Prompt,
    Key::AspectRatio,
    Key::Resolution,
    Key::Steps,
    Key::Duration,
    Key::Seed,
    Key::ModelName,
    Key::Width,
    Key::Height,
];
const MEDIA: [Key; 3] = [Key::Image, Key::Audio, Key::Video];

/// One task's card.
pub(super) fn card(facts: &Facts<'_>, lang: Lang) -> String {
    let mut card = Card {
        facts,
        sources: Sources::new(facts),
        sheet: Sheet::new(lang),
        known: facts.contract.is_ok_and(|contract| !contract.fields.is_empty()),
        complete: facts.contract.is_ok_and(|contract| contract.fields_left_out == 0),
    };
    card.head();
    let none = Contract::default();
    let contract = facts.contract.unwrap_or(&none);
    let keys = inputs::keys(contract);
    let shown = card.param_inputs(contract, &keys);
    for (place, (input, key)) in contract.fields.iter().zip(&keys).enumerate() {
        match key {
            Some(key) => card.input(*key, Some(input)),
            None if shown.contains(&place) && card.param_of(input).is_none() => {
                let missing = card.param_is_missing(input);
                field::param_notes(&mut card.sheet, input, missing);
            }
            None => {}
        }
    }
    for key in SINGLE.into_iter().chain(MEDIA).filter(|key| !keys.contains(&Some(*key))) {
        if card.has_line(key, contract) {
            card.input(key, None);
        }
    }
    card.params(contract, &shown);
    card.media_slots(contract);
    card.left_out(contract, keys.iter().filter(|key| key.is_none()).count() - shown.len());
    card.foot();
    card.sheet.finish()
}

struct Card<'a> {
    facts: &'a Facts<'a>,
    sources: Sources<'a>,
    sheet: Sheet,
    /// Whether there is a contract that names inputs.
    known: bool,
    /// Whether it names every input that the model has.
    complete: bool,
}

impl<'a> Card<'a> {
    /// Which model, what it costs, what is not known about it.
    fn head(&mut self) {
        let (facts, words) = (self.facts, self.sheet.words);
        self.sheet.value(Key::Model, &facts.spec.model);
        let own = facts.catalog.model(&facts.spec.model).map(|model| shown(&model.name, MAX_TEXT_BYTES));
        let theirs = facts.contract.map(|contract| shown(&contract.name, MAX_TEXT_BYTES)).unwrap_or_default();
        match own.unwrap_or_default() {
            own if own.is_empty() && theirs.is_empty() => {}
            own if own.is_empty() => self.sheet.note(Note::Name, &theirs),
            own if theirs.is_empty() || own == theirs => self.sheet.note(Note::Name, &own),
            own => self.sheet.note(Note::Name, &fill(words.named_by_publisher, &[&own, &theirs])),
        }
        self.sheet.note(
            Note::Price,
            facts.price.map(str::trim).filter(|price| !price.is_empty()).unwrap_or(words.price_unknown),
        );
        match facts.contract {
            Err(reason) => {
                let text = fill(words.no_contract, &[&words.reason(reason)]);
                self.sheet.note(Note::Contract, &text);
            }
            Ok(_) if !self.known => self.sheet.note(Note::Contract, words.no_inputs),
            Ok(_) => {}
        }
        if facts.spec.label != format!("Task {}", facts.index) {
            self.sheet.value(Key::Label, &facts.spec.label);
        }
    }

    /// Whether a field that no contract describes has a line: it is given, or the catalogue has a value for it,
    /// or it is the one that every task is likely to want.
    fn has_line(&self, key: Key, contract: &Contract) -> bool {
        if key.is_list() {
            let open_slots = key == Key::Image && self.open_slots(contract) > 0 && self.media_given() == 0;
            return open_slots || !self.sources.entries(key).is_empty();
        }
        match self.sources.state(key, None) {
            State::Given(..) | State::Random(_) | State::OpenCatalogue(_) => true,
            _ if key == Key::Prompt => !self.known,
            _ => {
                let defaults = self.facts.catalog.defaults(&self.facts.spec.model);
                !self.known && !source::preset(defaults, key).is_empty()
            }
        }
    }

    /// The line or lines of a field, and its notes.
    fn input(&mut self, key: Key, input: Option<&'a InputField>) {
        if key.is_list() {
            return self.media(key, input);
        }
        let state = self.sources.state(key, input);
        match state {
            State::Given(value, _) => self.sheet.value(key, value),
            State::Random(_) => self.sheet.word(key, self.sheet.words.random),
            _ => self.sheet.open(key),
        }
        let both = key == Key::Seed && matches!(state, State::Given(..)) && self.facts.spec.random_seed;
        let given = match state {
            State::Given(value, _) | State::OpenCatalogue(value) => !value.trim().is_empty(),
            State::Random(_) => true,
            // The publisher's prompt is an example and nobody's wish.
            State::OpenModel(_) => key != Key::Prompt,
            State::OpenRandom => true,
            State::OpenUnknown => false,
        };
        match input {
            Some(input) => field::notes(&mut self.sheet, key, input, state, input.required && !given),
            None => field::bare_notes(&mut self.sheet, state),
        }
        if input.is_none() && matches!(state, State::Given(..) | State::Random(_)) {
            self.stray();
        }
        if both {
            self.sheet.word(Key::RandomSeed, TRUE);
        }
    }

    fn media(&mut self, key: Key, input: Option<&'a InputField>) {
        let entries = self.sources.entries(key);
        for entry in entries {
            self.sheet.value(key, entry);
        }
        if entries.is_empty() {
            self.sheet.open(key);
        }
        let Some(input) = input else {
            let slots = self.facts.contract.is_ok_and(has_slots);
            if !entries.is_empty() && !slots {
                self.stray();
            }
            return;
        };
        let state = match entries.first() {
            Some(entry) => State::Given(entry, source::Origin::You),
            None if input.preset.is_empty() => State::OpenUnknown,
            None => State::OpenModel(&input.preset),
        };
        field::notes(&mut self.sheet, key, input, state, input.required && entries.is_empty());
    }

    /// The params in their order, each with what the contract says of it.
    fn params(&mut self, contract: &'a Contract, shown: &[usize]) {
        let mut strays = 0;
        let mut noted = vec![false; contract.fields.len()];
        for entry in self.sources.entries(Key::Param) {
            self.sheet.value(Key::Param, entry);
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            match contract.fields.iter().position(|field| field.name == name.trim()) {
                Some(place) if shown.contains(&place) && !noted[place] => {
                    noted[place] = true;
                    let input = &contract.fields[place];
                    let state = State::Given(value, source::Origin::You);
                    let missing = self.param_is_missing(input);
                    field::notes(&mut self.sheet, Key::Param, input, state, missing);
                }
                Some(_) => {}
                None if strays < MAX_STRAY_PARAMS => {
                    strays += 1;
                    self.stray();
                }
                None => {}
            }
        }
    }

    /// Says of the field above that the model has none like it, where that is sure.
    fn stray(&mut self) {
        if self.known && self.complete {
            let words = self.sheet.words;
            self.sheet.note(Note::Warning, words.no_such_field);
        }
    }

    /// Which of the inputs that only a `param` sets are shown: those that are required and missing, then the
    /// first.
    fn param_inputs(&self, contract: &Contract, keys: &[Option<Key>]) -> Vec<usize> {
        let mut places: Vec<usize> = (0..keys.len()).filter(|place| keys[*place].is_none()).collect();
        places.sort_by_key(|place| !self.param_is_missing(&contract.fields[*place]));
        places.truncate(MAX_PARAM_INPUTS);
        places
    }

    fn param_of(&self, input: &InputField) -> Option<&'a str> {
        self.sources.entries(Key::Param).iter().find_map(|entry| {
            let (name, value) = entry.split_once('=')?;
            (name.trim() == input.name).then_some(value)
        })
    }

    fn param_is_missing(&self, input: &InputField) -> bool {
        let slot = input.kind == FieldKind::MediaSlot;
        let given = || self.param_of(input).is_some_and(|value| !value.trim().is_empty());
        input.required && !slot && (input.preset.is_empty() || check::is_media(&input.kind)) && !given()
    }

    fn media_slots(&mut self, contract: &Contract) {
        let (slots, given) = (self.open_slots(contract), self.media_given());
        if slots > given {
            let text = fill(self.sheet.words.missing_slots, &[&slots.to_string(), &given.to_string()]);
            self.sheet.own_note(Note::Missing, &text);
        }
    }

    /// Slots for the user's own media that no `param` fills.
    fn open_slots(&self, contract: &Contract) -> usize {
        let slots = contract.fields.iter().filter(|field| field.kind == FieldKind::MediaSlot);
        slots.filter(|field| self.param_of(field).is_none()).count()
    }

    fn media_given(&self) -> usize {
        MEDIA.into_iter().map(|key| self.sources.entries(key).len()).sum()
    }

    fn left_out(&mut self, contract: &Contract, not_shown: usize) {
        let left_out = contract.fields_left_out.saturating_add(not_shown);
        if left_out > 0 {
            let text = fill(self.sheet.words.fields_left_out, &[&left_out.to_string()]);
            self.sheet.own_note(Note::Field, &text);
        }
    }

    /// What is to be done with the result, and what will run.
    fn foot(&mut self) {
        let spec = self.facts.spec;
        if !spec.output.is_empty() {
            self.sheet.value(Key::Output, &spec.output);
        }
        if spec.sync {
            self.sheet.word(Key::Sync, TRUE);
        }
        self.sheet.word(Key::RunMode, spec.run_mode.as_str());
        self.sheet.code_note(Note::Command, &command::line(spec));
    }
}

fn has_slots(contract: &Contract) -> bool {
    contract.fields.iter().any(|field| field.kind == FieldKind::MediaSlot)
}
