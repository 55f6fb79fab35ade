//! A filled-in card: free text of `key：value` lines, as a person sends it back, read into what it decides.
//!
//! What it does not do: look at the task's own values (they win, in the planner), or at the flags.

use std::collections::HashMap;

use super::catalog::Tuning;

pub(super) mod grammar;
use grammar::Seed;

/// What a card decides, the model's defaults included. Empty texts are open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    pub prompt: String,
    pub tuning: Tuning,
    pub random_seed: bool,
}

/// A value of a card that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {key} {problem}")]
pub struct BadValue {
    /// Line of the card, from 1.
    pub line: usize,
    /// The key that it stands under, as the card reader knows it.
    pub key: &'static str,
    /// What is wrong with it, and the way out.
    pub problem: &'static str,
}

pub(super) const ASPECT_RATIO: &[&str] = &["aspect_ratio", "比例", "视频比例", "画面比例", "图片比例"];
pub(super) const RESOLUTION: &[&str] =
    &["resolution", "规格", "清晰度", "图片质量", "图片规格", "画面规格", "视频尺寸", "图片尺寸"];
pub(super) const DURATION: &[&str] = &["duration", "时长", "视频时长"];
pub(super) const MODEL_NAME: &[&str] = &["model_name", "模型档位"];
pub(super) const SEED: &[&str] = &["seed", "随机性", "固定seed"];
pub(super) const WIDTH: &[&str] = &["width", "宽度"];
pub(super) const HEIGHT: &[&str] = &["height", "高度"];
pub(super) const PROMPT: &str = "提示词";
pub(super) const NOTES: &str = "其他补充";

/// Reads a card and fills what it leaves open from `defaults`. A bad number is an error, naming its line.
pub fn read(card: &str, defaults: Option<&Tuning>) -> Result<Card, BadValue> {
    let lines = Lines::read(card);
    let mut card = Card { prompt: lines.text(PROMPT), ..Card::default() };
    read_fields(&lines, &mut card)?;
    apply_notes(&lines.text(NOTES), &mut card);
    if let Some(defaults) = defaults {
        apply_defaults(defaults, &mut card);
    }
    Ok(card)
}

fn read_fields(lines: &Lines, card: &mut Card) -> Result<(), BadValue> {
    let tuning = &mut card.tuning;
    let text = |aliases| lines.usable(aliases).map(|found| found.value.to_owned()).unwrap_or_default();
    tuning.aspect_ratio = text(ASPECT_RATIO);
    tuning.model_name = text(MODEL_NAME);

    if let Some(found) = lines.usable(SEED) {
        match grammar::seed(found.value).map_err(|problem| found.bad(problem))? {
            Seed::Random => card.random_seed = true,
            Seed::Fixed(seed) => seed.clone_into(&mut tuning.seed),
        }
    }
    for (aliases, field, grammar) in [
        (DURATION, &mut tuning.duration, grammar::duration as Grammar),
        (WIDTH, &mut tuning.width, grammar::pixels),
        (HEIGHT, &mut tuning.height, grammar::pixels),
    ] {
        if let Some(found) = lines.usable(aliases) {
            grammar(found.value).map_err(|problem| found.bad(problem))?.clone_into(field);
        }
    }

    // A size under the name of a resolution is one, and leaves the resolution open.
    let resolution = text(RESOLUTION);
    match grammar::size(&resolution) {
        Some(size) => apply_size(size, tuning),
        None => tuning.resolution = resolution,
    }
    Ok(())
}

/// Reads a value: what it means, or what is wrong with it.
type Grammar = fn(&str) -> Result<&str, &'static str>;

/// Width and height fill only what is open.
pub(super) fn apply_size((width, height): (&str, &str), tuning: &mut Tuning) {
    fill(&mut tuning.width, width);
    fill(&mut tuning.height, height);
}

/// The notes fill only what the card leaves open.
pub(super) fn apply_notes(notes: &str, card: &mut Card) {
    let tuning = &mut card.tuning;
    if tuning.aspect_ratio.is_empty() && tuning.width.is_empty() {
        let shape = if notes.contains('横') {
            "16:9"
        } else if notes.contains('竖') {
            "9:16"
        } else if notes.contains('方') || notes.contains("1:1") {
            "1:1"
        } else {
            ""
        };
        fill(&mut tuning.aspect_ratio, shape);
    }
    if tuning.duration.is_empty() {
        let noted = ["10", "8", "5", "3"].into_iter().find(|seconds| says_seconds(notes, seconds));
        fill(&mut tuning.duration, noted.unwrap_or_default());
    }
    if tuning.seed.is_empty() && notes.contains("随机") {
        card.random_seed = true;
    }
}

/// Whether `seconds` stands before 秒 somewhere, as a number of its own.
fn says_seconds(notes: &str, seconds: &str) -> bool {
    notes.match_indices(seconds).any(|(at, _)| {
        let own_number = !notes[..at].ends_with(|c: char| c.is_ascii_digit() || ('０'..='９').contains(&c));
        own_number && notes[at + seconds.len()..].trim_start().starts_with('秒')
    })
}

fn apply_defaults(defaults: &Tuning, card: &mut Card) {
    let tuning = &mut card.tuning;
    for (field, default) in [
        (&mut tuning.aspect_ratio, &defaults.aspect_ratio),
        (&mut tuning.resolution, &defaults.resolution),
        (&mut tuning.duration, &defaults.duration),
        (&mut tuning.model_name, &defaults.model_name),
        (&mut tuning.width, &defaults.width),
        (&mut tuning.height, &defaults.height),
    ] {
        fill(field, default);
    }
    if !card.random_seed {
        fill(&mut tuning.seed, &defaults.seed);
    }
}

fn fill(field: &mut String, value: &str) {
    if field.is_empty() {
        value.clone_into(field);
    }
}

/// The card's keys with their values.
struct Lines(HashMap<String, Entry>);

#[derive(Default)]
struct Entry {
    line: usize,
    value: String,
}

struct Found<'a> {
    key: &'static str,
    line: usize,
    value: &'a str,
}

impl Found<'_> {
    fn bad(&self, problem: &'static str) -> BadValue {
        BadValue { line: self.line, key: self.key, problem }
    }
}

impl Lines {
    fn read(card: &str) -> Self {
        let mut entries: HashMap<String, Entry> = HashMap::new();
        let mut open: Option<String> = None;
        for (number, line) in (1..).zip(lines(card)) {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            if let Some((key, value)) = line.split_once(['：', ':']) {
                let key = clean_key(key.trim());
                // The last of a repeated key counts, even if it is empty.
                entries.insert(key.clone(), Entry { line: number, value: value.trim().to_owned() });
                open = Some(key);
            } else if let Some(entry) = open.as_ref().and_then(|key| entries.get_mut(key))
                && !is_menu_line(line)
            {
                entry.value.push('\n');
                entry.value.push_str(line);
            }
        }
        Self(entries)
    }

    /// The first alias, in the order of the list, whose value does not leave the field open.
    fn usable(&self, aliases: &[&'static str]) -> Option<Found<'_>> {
        aliases.iter().find_map(|&key| {
            let entry = self.0.get(key)?;
            let value = entry.value.trim();
            (!grammar::is_left_open(value)).then_some(Found { key, line: entry.line, value })
        })
    }

    fn text(&self, key: &str) -> String {
        self.0.get(key).map(|entry| entry.value.trim().to_owned()).unwrap_or_default()
    }
}

/// Lines that end in LF, CRLF or CR.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// A key without its list mark and without all that is neither letter, digit nor `_`, in lower case.
pub(super) fn clean_key(key: &str) -> String {
    let after_digits = key.trim_start_matches(|c: char| c.is_ascii_digit());
    let key = match after_digits.strip_prefix(['.', '．', '、', ')', '）']) {
        Some(rest) if after_digits.len() < key.len() => rest,
        _ => key,
    };
    let kept: String = key.chars().filter(|c| c.is_alphanumeric() || *c == '_').collect();
    kept.to_lowercase()
}

/// A line of the card's own menu (`1. …` to `7. …`), which is nobody's value.
fn is_menu_line(line: &str) -> bool {
    matches!(line.as_bytes(), [b'1'..=b'7', b'.', ..])
}

#[cfg(test)]
mod tests;
