//! The file of profiles: its grammar and what is wrong with it, with line and column. Pure.

use std::ops::Range;

use clap::{Args as _, ValueEnum as _};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{args::OutputArgs, color::When, sanitize::one_line};

/// The settings that a profile may have.
pub const KEYS: [&str; 5] = ["coordinator", "output", "color", "api-key-file", "lang"];
/// The keys outside profiles.
const TOP_KEYS: [&str; 2] = ["default-profile", "profile"];
/// What decides about money.
const APPROVALS: [&str; 5] = ["concurrency-approved", "task-count-approved", "resume", "abandon", "approve"];
/// Names under which people look for a place to write a key down.
const SECRETS: [&str; 5] = ["api-key", "key", "secret", "token", "bizyair-api-key"];

/// A file of profiles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// The profile to use where none is named.
    pub default_profile: Option<String>,
    /// Profiles by name, in alphabetical order.
    pub profiles: Vec<(String, Vec<Entry>)>,
}

/// One setting of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// One of [`KEYS`].
    pub key: &'static str,
    /// Its value.
    pub value: String,
}

impl File {
    /// Reads the file's text.
    ///
    /// # Errors
    /// `LINE:COLUMN: ` and what is wrong there, with the way out.
    pub fn parse(text: &str) -> Result<Self, String> {
        let at = |span: Range<usize>, what: &str| format!("{}: {what}", place(text, span.start));
        let table = DeTable::parse(text).map_err(|error| {
            let hint = if text.lines().any(is_wrong_choice) { WRONG_CHOICE } else { "" };
            at(error.span().unwrap_or(0..0), &format!("{}{hint}", one_line(error.message())))
        })?;
        let mut file = Self::default();
        for (key, value) in table.get_ref() {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("default-profile", DeValue::String(name)) => file.default_profile = Some(name.to_string()),
                ("default-profile", _) => return Err(at(value.span(), "default-profile: not a text")),
                ("profile", DeValue::Table(profiles)) => {
                    for (name, settings) in profiles {
                        let entries = entries(name, settings).map_err(|(span, what)| at(span, &what))?;
                        file.profiles.push((name.get_ref().to_string(), entries));
                    }
                }
                ("profile", _) => return Err(at(value.span(), WRONG_CHOICE.trim_start_matches("; "))),
                (key_text, _) if KEYS.contains(&key_text) => {
                    let what =
                        format!("{key_text} belongs into a profile; put a line [profile.default] above it");
                    return Err(at(key.span(), &what));
                }
                (key_text, _) => return Err(at(key.span(), &unknown(key_text, "", &TOP_KEYS))),
            }
        }
        file.profiles.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(file)
    }
}

/// TOML has no room for both `profile = "x"` and `[profile.x]`, and people try.
const WRONG_CHOICE: &str = "; to choose a profile, write: default-profile = \"NAME\"";

fn is_wrong_choice(line: &str) -> bool {
    line.trim_start().strip_prefix("profile").is_some_and(|rest| rest.trim_start().starts_with('='))
}

type Problem = (Range<usize>, String);

fn entries(
    name: &Spanned<std::borrow::Cow<'_, str>>,
    settings: &Spanned<DeValue<'_>>,
) -> Result<Vec<Entry>, Problem> {
    let profile = format!("profile.{}.", one_line(name.get_ref()));
    let DeValue::Table(settings_table) = settings.get_ref() else {
        let name = one_line(name.get_ref());
        return Err((settings.span(), format!("a profile is a table: [profile.{name}]")));
    };
    let mut entries = Vec::new();
    for (key, value) in settings_table {
        let Some(known) = KEYS.into_iter().find(|known| known == key.get_ref()) else {
            return Err((key.span(), unknown(key.get_ref(), &profile, &KEYS)));
        };
        let DeValue::String(text) = value.get_ref() else {
            return Err((value.span(), format!("{profile}{known}: not a text; write it in quotes")));
        };
        check(known, text).map_err(|what| (value.span(), format!("{profile}{known}: {what}")))?;
        entries.push(Entry { key: known, value: text.to_string() });
    }
    entries.sort_by_key(|entry| KEYS.iter().position(|key| *key == entry.key));
    Ok(entries)
}

/// Whether a setting may have that value, so that what is wrong is said with its place.
fn check(key: &str, value: &str) -> Result<(), String> {
    let known: Vec<String> = match key {
        "output" => outputs(),
        "color" => When::value_variants()
            .iter()
            .filter_map(|when| Some(when.to_possible_value()?.get_name().to_owned()))
            .collect(),
        "lang" => vec!["en".to_owned(), "zh".to_owned()],
        _ if value.is_empty() => return Err("is empty; leave it out instead".to_owned()),
        _ => return Ok(()),
    };
    if known.iter().any(|known| known == value) {
        return Ok(());
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let nearest = nearest(value, &known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    Err(format!("{} is none of {}{nearest}", one_line(value), known.join(", ")))
}

/// What `--output` takes.
fn outputs() -> Vec<String> {
    let command = OutputArgs::augment_args(clap::Command::new("outputs"));
    let values = command.get_arguments().flat_map(clap::Arg::get_possible_values);
    values.map(|value| value.get_name().to_owned()).collect()
}

fn unknown(key: &str, profile: &str, known: &[&str]) -> String {
    let plain = key.to_lowercase().replace('_', "-");
    let shown = one_line(key);
    if SECRETS.contains(&plain.as_str()) {
        return format!(
            "{profile}{shown}: a key does not belong into this file; put it into a file of its own and name that \
             here: api-key-file = \"FILE\""
        );
    }
    if APPROVALS.contains(&plain.as_str()) {
        return format!(
            "{profile}{shown}: what decides about money is never taken from a profile; give it on the command line"
        );
    }
    match nearest(&plain, known) {
        Some(near) => format!("{profile}{shown}: unknown key; did you mean {near}?"),
        None => format!("{profile}{shown}: unknown key; known are {}", known.join(", ")),
    }
}

/// The known word within a third of the letters.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let (distance, near) = known.iter().map(|known| (distance(word, known), *known)).min()?;
    (distance <= near.chars().count().div_ceil(3)).then_some(near)
}

/// Letters to insert, delete or change, looked for in the first few dozen only.
fn distance(one: &str, other: &str) -> usize {
    const LONGEST: usize = 40;
    let other: Vec<char> = other.chars().take(LONGEST).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().take(LONGEST).enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        for (cell, against) in row.iter_mut().skip(1).zip(&other) {
            let best = (diagonal + usize::from(letter != *against)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// `LINE:COLUMN` of a byte, counted from one, in characters.
fn place(text: &str, byte: usize) -> String {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{line}:{column}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read() {
        let text =
            "default-profile = \"work\"\n[profile.work]\nlang = \"zh\"\ncoordinator = \"http://h:1\"\n";
        let file = File::parse(text).unwrap();
        assert_eq!(file.default_profile.as_deref(), Some("work"));
        let entry = |key, value: &str| Entry { key, value: value.to_owned() };
        let entries = vec![entry("coordinator", "http://h:1"), entry("lang", "zh")];
        assert_eq!(file.profiles, [("work".to_owned(), entries)]);
        assert_eq!(File::parse("").unwrap(), File::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_the_way_out() {
        let table = [
            ("[profile.a]\noutptu = \"json\"\n", "2:1: profile.a.outptu: unknown key; did you mean output?"),
            ("[profile.a]\ncolour = \"auto\"\n", "2:1: profile.a.colour: unknown key; did you mean color?"),
            (
                "[profile.a]\napi_key_file = \"f\"\n",
                "2:1: profile.a.api_key_file: unknown key; did you mean api-key-file?",
            ),
            ("[profile.a]\nlang = \"fr\"\n", "2:8: profile.a.lang: fr is none of en, zh"),
            ("[profile.a]\ncolor = 3\n", "2:9: profile.a.color: not a text; write it in quotes"),
            (
                "[profile.a]\ncoordinator = \"\"\n",
                "2:15: profile.a.coordinator: is empty; leave it out instead",
            ),
            ("profile = \"a\"\n", "1:11: to choose a profile, write: default-profile = \"NAME\""),
            ("default_profile = \"a\"\n", "1:1: default_profile: unknown key; did you mean default-profile?"),
            (
                "output = \"json\"\n",
                "1:1: output belongs into a profile; put a line [profile.default] above it",
            ),
            ("x = 1\n", "1:1: x: unknown key; known are default-profile, profile"),
        ];
        for (text, expected) in table {
            assert_eq!(File::parse(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn an_unknown_format_is_refused_with_those_that_there_are() {
        let problem = File::parse("[profile.a]\n  output = \"tabel\"\n").unwrap_err();
        assert!(problem.starts_with("2:12: profile.a.output: tabel is none of table, json, "), "{problem}");
        assert!(problem.ends_with("; did you mean table?"), "{problem}");
        let known = outputs();
        assert!(known.iter().any(|name| name == "seed-json"), "{known:?}");
        for name in known {
            assert!(File::parse(&format!("[profile.a]\noutput = \"{name}\"\n")).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_broken_file_names_line_and_column() {
        let problem = File::parse("[profile.a]\ncoordinator = http://h\n").unwrap_err();
        assert!(problem.starts_with("2:15: "), "{problem}");
        let problem = File::parse("profile = \"a\"\n[profile.a]\n").unwrap_err();
        assert!(problem.starts_with("2:") && problem.contains("default-profile = \"NAME\""), "{problem}");
    }

    #[test]
    fn neither_keys_nor_approvals_are_taken_from_a_profile_and_no_key_is_repeated() {
        for key in ["api-key", "api_key", "API_KEY", "token", "key"] {
            let problem = File::parse(&format!("[profile.a]\n{key} = \"sk-canary\"\n")).unwrap_err();
            assert!(problem.contains("api-key-file = \"FILE\""), "{problem}");
            assert!(!problem.contains("canary"), "{problem}");
        }
        for key in ["concurrency-approved", "task_count_approved", "resume", "abandon"] {
            let problem = File::parse(&format!("[profile.a]\n{key} = true\n")).unwrap_err();
            assert!(problem.contains("on the command line"), "{problem}");
        }
    }
}
