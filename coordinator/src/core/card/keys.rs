//! The keys of a card's lines, in both languages: fields, which are facts of the run, and notes, which are only
//! read by people.
//!
//! What it does not do: know what may stand after a key.

use super::Lang;
use crate::core::card_input;

/// A fact of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    Model,
    Label,
    Prompt,
    AspectRatio,
    Resolution,
    Steps,
    Duration,
    Seed,
    RandomSeed,
    ModelName,
    Width,
    Height,
    Image,
    Audio,
    Video,
    Param,
    Output,
    Sync,
    RunMode,
    /// Hints in free text, which fill what is open.
    Notes,
    /// Of the batch, not of a task.
    Concurrency,
}

/// What is only read by people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    Name,
    Price,
    Field,
    Options,
    Range,
    Warning,
    Missing,
    Command,
    Contract,
}

/// What a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Field(Key),
    Note(Note),
}

struct Row<T> {
    what: T,
    en: &'static str,
    zh: &'static str,
    /// Other names that are read.
    more: &'static [&'static str],
}

const fn row<T>(what: T, en: &'static str, zh: &'static str, more: &'static [&'static str]) -> Row<T> {
    Row { what, en, zh, more }
}

/// Publishers call it by the last two.
const SEED: &[&str] = &["固定seed", "随机种子", "种子"];

/// The English name is the task's key.
const FIELDS: [Row<Key>; 21] = [
    row(Key::Model, "model", "模型", &[]),
    row(Key::Label, "label", "标签", &[]),
    row(Key::Prompt, "prompt", card_input::PROMPT, &[]),
    row(Key::AspectRatio, "aspect_ratio", "比例", card_input::ASPECT_RATIO),
    row(Key::Resolution, "resolution", "规格", card_input::RESOLUTION),
    row(Key::Steps, "steps", "步数", &[]),
    row(Key::Duration, "duration", "时长", card_input::DURATION),
    row(Key::Seed, "seed", "随机性", SEED),
    row(Key::RandomSeed, "random_seed", "每次随机", &[]),
    row(Key::ModelName, "model_name", "模型档位", card_input::MODEL_NAME),
    row(Key::Width, "width", "宽度", card_input::WIDTH),
    row(Key::Height, "height", "高度", card_input::HEIGHT),
    row(Key::Image, "image", "图片", &["images"]),
    row(Key::Audio, "audio", "音频", &["audios"]),
    row(Key::Video, "video", "视频", &["videos"]),
    row(Key::Param, "param", "参数", &["params"]),
    row(Key::Output, "output", "输出", &[]),
    row(Key::Sync, "sync", "同步", &[]),
    row(Key::RunMode, "run_mode", "运行方式", &[]),
    row(Key::Notes, "notes", card_input::NOTES, &[]),
    row(Key::Concurrency, "concurrency", "并发", &[]),
];

const NOTES: [Row<Note>; 9] = [
    row(Note::Name, "name", "名称", &[]),
    row(Note::Price, "price", "价格", &[]),
    row(Note::Field, "field", "字段", &[]),
    row(Note::Options, "options", "可选", &[]),
    row(Note::Range, "range", "范围", &[]),
    row(Note::Warning, "warning", "注意", &[]),
    row(Note::Missing, "missing", "缺少", &[]),
    row(Note::Command, "command", "命令", &[]),
    row(Note::Contract, "contract", "参数表", &[]),
];

impl Key {
    /// How the task's own keys, and paths in errors, call it.
    pub(super) fn field(self) -> &'static str {
        name(&FIELDS, self, Lang::En)
    }

    /// How cards of this language call it.
    pub(super) fn name(self, lang: Lang) -> &'static str {
        name(&FIELDS, self, lang)
    }

    /// Whether its value is a text that may go on over several lines.
    pub(super) fn is_prose(self) -> bool {
        matches!(self, Self::Prompt | Self::Notes)
    }

    /// Whether it may stand on several lines, one an entry.
    pub(super) fn is_list(self) -> bool {
        matches!(self, Self::Image | Self::Audio | Self::Video | Self::Param)
    }
}

impl Note {
    /// How cards of this language call it.
    pub(super) fn name(self, lang: Lang) -> &'static str {
        name(&NOTES, self, lang)
    }
}

fn name<T: PartialEq>(rows: &[Row<T>], what: T, lang: Lang) -> &'static str {
    let row = rows.iter().find(|row| row.what == what);
    row.map(|row| match lang {
        Lang::En => row.en,
        Lang::Zh => row.zh,
    })
    .unwrap_or_default()
}

/// What a key means, by any of its names; letter case is low already, and `_` counts for nothing.
pub(super) fn meaning(key: &str) -> Option<Meaning> {
    let is = |name: &&str| plain(name).eq(plain(key));
    if let Some(row) = FIELDS.iter().find(|row| names(row).any(|name| is(&name))) {
        return Some(Meaning::Field(row.what));
    }
    let note = NOTES.iter().find(|row| names(row).any(|name| is(&name)));
    note.map(|row| Meaning::Note(row.what))
}

/// Whether a line of text is one that a card has from a publisher: a note, exactly as a card writes it. Words in
/// it are nobody's wish.
pub(in crate::core) fn is_publishers(line: &str) -> bool {
    let Some((key, _)) = line.trim_start().strip_prefix("- ").and_then(|line| line.split_once(['：', ':']))
    else {
        return false;
    };
    // A person may well warn or miss something, so that those notes count as said by one.
    NOTES
        .iter()
        .filter(|row| !matches!(row.what, Note::Warning | Note::Missing))
        .any(|row| row.en == key || row.zh == key)
}

/// The field that a contract's name or label stands for: what a person could have meant by it on a card.
pub(super) fn field_of_input(name: &str) -> Option<Key> {
    match meaning(&card_input::clean_key(name))? {
        Meaning::Field(
            key @ (Key::Prompt
            | Key::AspectRatio
            | Key::Resolution
            | Key::Steps
            | Key::Duration
            | Key::Seed
            | Key::ModelName
            | Key::Width
            | Key::Height),
        ) => Some(key),
        _ => None,
    }
}

/// Every name of every field.
pub(super) fn field_names() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().flat_map(names)
}

/// Whether the key is exactly the one that cards of this language are written with.
pub(super) fn is_own(key: Key, written: &str, lang: Lang) -> bool {
    key.name(lang) == written
}

fn names<T>(row: &Row<T>) -> impl Iterator<Item = &'static str> {
    [row.en, row.zh].into_iter().chain(row.more.iter().copied())
}

fn plain(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(|c| *c != '_')
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn no_name_means_two_things() {
        let mut seen = HashMap::new();
        let fields = FIELDS.iter().map(|row| (format!("{:?}", row.what), names(row).collect::<Vec<_>>()));
        let notes = NOTES.iter().map(|row| (format!("note {:?}", row.what), names(row).collect()));
        for (what, names) in fields.chain(notes) {
            for name in names {
                let plain: String = plain(name).collect();
                assert_eq!(seen.insert(plain, what.clone()).unwrap_or_else(|| what.clone()), what, "{name}");
            }
        }
    }

    #[test]
    fn every_name_is_read_as_card_input_cleans_it() {
        for row in &FIELDS {
            for name in names(row) {
                let cleaned = card_input::clean_key(&format!("- **{name}**"));
                assert_eq!(meaning(&cleaned), Some(Meaning::Field(row.what)), "{name}");
            }
        }
        for row in &NOTES {
            for name in names(row) {
                assert_eq!(
                    meaning(&card_input::clean_key(&format!("  - {name}"))),
                    Some(Meaning::Note(row.what))
                );
            }
        }
        assert_eq!(meaning("aspectratio"), Some(Meaning::Field(Key::AspectRatio)));
        assert_eq!(meaning("promt"), None);
        assert_eq!(meaning(""), None);
    }

    #[test]
    fn every_name_that_card_input_reads_is_read() {
        for (key, names) in [
            (Key::AspectRatio, card_input::ASPECT_RATIO),
            (Key::Resolution, card_input::RESOLUTION),
            (Key::Duration, card_input::DURATION),
            (Key::ModelName, card_input::MODEL_NAME),
            (Key::Seed, card_input::SEED),
            (Key::Width, card_input::WIDTH),
            (Key::Height, card_input::HEIGHT),
            (Key::Prompt, &[card_input::PROMPT]),
            (Key::Notes, &[card_input::NOTES]),
        ] {
            for name in names {
                assert_eq!(meaning(name), Some(Meaning::Field(key)), "{name}");
            }
        }
    }

    #[test]
    fn only_a_note_as_a_card_writes_it_is_the_publishers() {
        for line in ["  - options: auto", "- 字段：默认", "  - price：x"] {
            assert!(is_publishers(line), "{line}");
        }
        for line in ["options: auto", "- **字段**：默认", "- 注意：随便", "- prompt: auto", "- options"]
        {
            assert!(!is_publishers(line), "{line}");
        }
    }

    #[test]
    fn a_contracts_input_is_known_by_name_or_label() {
        for (name, key) in [
            ("prompt", Some(Key::Prompt)),
            ("提示词", Some(Key::Prompt)),
            ("视频时长", Some(Key::Duration)),
            ("Aspect Ratio", Some(Key::AspectRatio)),
            ("steps", Some(Key::Steps)),
            ("93:CLIPTextEncode.text", None),
            ("model", None),
            ("output", None),
            ("notes", None),
            ("name", None),
        ] {
            assert_eq!(field_of_input(name), key, "{name}");
        }
    }
}
