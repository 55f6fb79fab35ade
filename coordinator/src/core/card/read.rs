//! Cards read back into a batch: what stands on them is what will run.
//!
//! What it does not do: plan, or look at limits.

mod entry;
mod lines;

use entry::Entry;
use lines::{Sheet, Sheets};

use super::keys::{self, Key};
use super::value::{self, Plain};
use super::{Lang, slip, source};
use crate::core::card_input::{self, Card};
use crate::core::catalog::{Catalog, Tuning};
use crate::core::payload::{self, Defaults, FieldViolation, Payload, TaskInput, Violations};
use crate::core::plan::RunMode;

/// Reads what [`reply`](super::reply()) gave, edited or not, into a payload. `defaults` are what its tasks inherit
/// where a card says nothing. Fails with what is wrong, at most
/// [`MAX_VIOLATIONS`](crate::core::payload::MAX_VIOLATIONS) of it, naming card and line.
pub fn read(text: &str, defaults: &Defaults, catalog: &Catalog) -> Result<Payload, Vec<FieldViolation>> {
    let mut violations = Violations::default();
    let Sheets { sheets, concurrency } = lines::read(text, &mut violations);
    let mut tasks = Vec::with_capacity(sheets.len());
    let mut run_modes = Vec::with_capacity(sheets.len());
    for (index, sheet) in (1_usize..).zip(&sheets) {
        if violations.full() {
            break;
        }
        let (task, run_mode) = Reader { index, sheet, violations: &mut violations }.task(catalog);
        tasks.push(task);
        run_modes.push(run_mode);
    }
    violations.into_result(())?;
    if sheets.is_empty() {
        let way_out =
            "has no card; a card has one fact a line, `key: value`, the model first: `model: bpro-t2i`";
        return Err(vec![FieldViolation::new("cards_markdown", way_out)]);
    }

    let mut payload = payload::from_tasks(tasks, defaults)?;
    payload.concurrency = concurrency;
    for (task, run_mode) in payload.tasks.iter_mut().zip(run_modes) {
        task.run_mode = run_mode;
    }
    Ok(payload)
}

/// Reads one card.
struct Reader<'a> {
    /// From 1.
    index: usize,
    sheet: &'a Sheet,
    violations: &'a mut Violations,
}

impl<'a> Reader<'a> {
    fn task(&mut self, catalog: &Catalog) -> (TaskInput, Option<RunMode>) {
        let (model, lang) = self.model();
        // The fields that a size, hints or the catalogue may fill are settled in the form that card_input has.
        let mut card = Card::default();
        let mut presets = Vec::new();
        let mut size = None;
        for key in [
            Key::AspectRatio,
            Key::Resolution,
            Key::Duration,
            Key::Seed,
            Key::ModelName,
            Key::Width,
            Key::Height,
        ] {
            let Some((entry, value)) = self.single(key, lang) else { continue };
            let text = match value {
                Value::Literal(text) => text,
                Value::Plain(Plain::Text(text)) => text.to_owned(),
                Value::Plain(Plain::Size(width, height)) => {
                    size = Some((width, height));
                    continue;
                }
                Value::Plain(Plain::Random) => {
                    card.random_seed = true;
                    continue;
                }
                Value::Plain(Plain::Preset) => {
                    presets.push(key);
                    continue;
                }
                Value::Plain(Plain::Open) => continue,
            };
            if self.is_text(key, entry, &text)
                && let Some(field) = tuning(&mut card.tuning, key)
            {
                *field = text;
            }
        }
        if let Some(size) = size {
            card_input::apply_size(size, &mut card.tuning);
        }
        let hints = self.text(Key::Notes, lang).unwrap_or_default();
        card_input::apply_notes(&hints, &mut card);
        let slug = catalog.resolve("", &model, "");
        self.fill_presets(&presets, catalog.defaults(&slug), &mut card);

        let random_seed = self.flag(Key::RandomSeed, lang);
        let run_mode = self.run_mode(lang);
        let Card { tuning, random_seed: drawn, .. } = card;
        let task = TaskInput {
            model: Some(model),
            label: self.text(Key::Label, lang),
            prompt: self.text(Key::Prompt, lang),
            image: self.list(Key::Image),
            audio: self.list(Key::Audio),
            video: self.list(Key::Video),
            aspect_ratio: Some(tuning.aspect_ratio),
            resolution: Some(tuning.resolution),
            steps: self.text(Key::Steps, lang),
            duration: Some(tuning.duration),
            seed: Some(tuning.seed),
            random_seed: Some(random_seed.unwrap_or(false) || drawn),
            model_name: Some(tuning.model_name),
            width: Some(tuning.width),
            height: Some(tuning.height),
            param: self.list(Key::Param),
            output: self.text(Key::Output, lang),
            sync: self.flag(Key::Sync, lang),
            ..TaskInput::default()
        };
        (task, run_mode)
    }

    /// The model, and the language that its line says the card is written in.
    fn model(&mut self) -> (String, Lang) {
        let mut models = self.sheet.entries.iter().filter(|entry| entry.key == Key::Model);
        let (first, second) = (models.next(), models.next());
        let Some(first) = first else {
            let line = self.sheet.entries.first().map_or(self.sheet.line, |entry| entry.line);
            self.wrong(
                Key::Model,
                line,
                "the card that begins here has no model; add a line like `model: bpro-t2i`",
            );
            return (String::new(), Lang::En);
        };
        if let Some(second) = second {
            self.wrong(
                Key::Model,
                second.line,
                "is the second model of this card; put a heading (`## 2.`) before each card, or leave one out",
            );
        }
        let lang = if keys::is_own(Key::Model, &first.name, Lang::Zh) { Lang::Zh } else { Lang::En };
        let model = self.literal(Key::Model, first).unwrap_or_default();
        self.is_text(Key::Model, first, &model);
        if model.trim().is_empty() && !first.value.starts_with('"') {
            self.wrong(Key::Model, first.line, "is empty; write the model, like `bpro-t2i`");
        }
        (model, lang)
    }

    /// A default-ish word takes what the catalogue has. A random seed stays one.
    fn fill_presets(&self, presets: &[Key], defaults: Option<&Tuning>, card: &mut Card) {
        for &key in presets {
            if key == Key::Seed && card.random_seed {
                continue;
            }
            if let Some(field) = tuning(&mut card.tuning, key)
                && field.is_empty()
            {
                source::preset(defaults, key).clone_into(field);
            }
        }
    }

    /// The line that counts of a field that has one value: the last under a name that the card itself was not
    /// written with, since a person added that, else the last.
    fn chosen(&self, key: Key, lang: Lang) -> Option<&'a Entry> {
        let mut entries = self.sheet.entries.iter().filter(|entry| entry.key == key).rev();
        let last = entries.clone().next();
        entries.find(|entry| !keys::is_own(key, &entry.name, lang)).or(last)
    }

    /// The value of a field by the grammar of its key, and where it stands.
    fn single(&mut self, key: Key, lang: Lang) -> Option<(&'a Entry, Value<'a>)> {
        let entry = self.chosen(key, lang)?;
        if entry.value.starts_with('"') {
            return self.literal(key, entry).map(|text| (entry, Value::Literal(text)));
        }
        match value::plain(key, &entry.value) {
            Ok(value) => Some((entry, Value::Plain(value))),
            Err(problem) => {
                self.wrong(key, entry.line, problem);
                None
            }
        }
    }

    /// The value of a field that is a text.
    fn text(&mut self, key: Key, lang: Lang) -> Option<String> {
        let (entry, value) = self.single(key, lang)?;
        let text = match value {
            Value::Literal(text) => text,
            Value::Plain(Plain::Text(text)) => text.to_owned(),
            Value::Plain(_) => return None,
        };
        self.is_text(key, entry, &text).then_some(text)
    }

    fn list(&mut self, key: Key) -> Vec<String> {
        let sheet = self.sheet;
        let mut values = Vec::new();
        for entry in sheet.entries.iter().filter(|entry| entry.key == key) {
            if let Some(text) = self.literal(key, entry)
                && self.is_text(key, entry, &text)
            {
                values.push(text);
            }
        }
        values
    }

    fn flag(&mut self, key: Key, lang: Lang) -> Option<bool> {
        let entry = self.chosen(key, lang)?;
        let text = self.literal(key, entry)?;
        if text.is_empty() {
            return None;
        }
        let flag = value::flag(&text);
        if flag.is_none() {
            self.wrong(key, entry.line, "is no flag; write true or false, or leave it empty");
        }
        flag
    }

    fn run_mode(&mut self, lang: Lang) -> Option<RunMode> {
        let entry = self.chosen(Key::RunMode, lang)?;
        let text = self.literal(Key::RunMode, entry)?;
        if text.is_empty() {
            return None;
        }
        let mode = value::run_mode(&text);
        if mode.is_none() {
            self.wrong(Key::RunMode, entry.line, "is no run mode; write run_with_defaults or confirm_run");
        }
        mode
    }

    /// A value as it stands there, without its quotes.
    fn literal(&mut self, key: Key, entry: &Entry) -> Option<String> {
        if !entry.value.starts_with('"') {
            if let Some(doubt) = slip::in_value(key, &entry.value) {
                self.wrong(key, entry.line, doubt);
                return None;
            }
            return Some(entry.value.clone());
        }
        let text = value::unquote(&entry.value);
        if text.is_none() {
            self.wrong(
                key,
                entry.line,
                "begins with a quote and is no JSON string; write it like \"say \\\"hi\\\"\\nagain\", or begin it \
                 with another character",
            );
        }
        text
    }

    /// Whether a program can be given it; else says why not.
    fn is_text(&mut self, key: Key, entry: &Entry, text: &str) -> bool {
        let problem = payload::text_problem(text);
        if let Some(problem) = &problem {
            self.wrong(key, entry.line, problem);
        }
        problem.is_none()
    }

    fn wrong(&mut self, key: Key, line: usize, problem: &str) {
        let field = format!("cards[{}].{}", self.index, key.field());
        self.violations.add(field, format!("line {line}: {problem}"));
    }
}

/// The value of a field.
enum Value<'a> {
    /// It was quoted.
    Literal(String),
    Plain(Plain<'a>),
}

fn tuning(tuning: &mut Tuning, key: Key) -> Option<&mut String> {
    Some(match key {
        Key::AspectRatio => &mut tuning.aspect_ratio,
        Key::Resolution => &mut tuning.resolution,
        Key::Duration => &mut tuning.duration,
        Key::Seed => &mut tuning.seed,
        Key::ModelName => &mut tuning.model_name,
        Key::Width => &mut tuning.width,
        Key::Height => &mut tuning.height,
        _ => return None,
    })
}
