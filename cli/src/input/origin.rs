//! Where a batch came from, and where in it a field stands that something is wrong with.

use std::ops::Range;

use super::{
    document::Document,
    json::{self, Member, Outline},
    table::Grid,
};

/// Where a batch came from.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Words of the command line, or nowhere that could be pointed at.
    #[default]
    Words,
    /// JSON.
    Json(Document, Outline),
    /// A task a line: where each stands, prompts or JSON.
    Lines(Document, Vec<Range<usize>>),
    /// A table.
    Table(Document, Grid),
    /// Cards.
    Cards(Document),
}

/// A field path as refusals have it: `tasks[3].duration`, `tasks[3].image[2]`, counted from 1.
struct Field<'a> {
    task: usize,
    /// Empty for the task as a whole.
    rest: &'a str,
}

impl Origin {
    /// The text, where there is one.
    pub fn document(&self) -> Option<&Document> {
        match self {
            Self::Words => None,
            Self::Json(document, _)
            | Self::Lines(document, _)
            | Self::Table(document, _)
            | Self::Cards(document) => Some(document),
        }
    }

    /// Where a field stands, as well as can be said. `description` is what is wrong with it: for cards the line
    /// stands there.
    pub fn find(&self, field: &str, description: &str) -> Option<Range<usize>> {
        match self {
            Self::Words => None,
            Self::Cards(document) => line_of(document, description),
            Self::Json(document, outline) => match field {
                "batch_json" => Some(outline.list.clone().unwrap_or_else(|| outline.whole.clone())),
                "concurrency" => outline.concurrency.clone(),
                _ => outline.option(field).or_else(|| in_task(document, &outline.tasks, &parse(field)?)),
            },
            Self::Lines(document, tasks) => match field {
                "batch_json" => Some(0..0),
                _ => in_task(document, tasks, &parse(field)?),
            },
            Self::Table(_, grid) => match field {
                "batch_json" => Some(0..0),
                _ => {
                    let field = parse(field)?;
                    grid.find(field.task, field.rest)
                }
            },
        }
    }
}

fn parse(field: &str) -> Option<Field<'_>> {
    let (index, rest) = field.strip_prefix("tasks[")?.split_once(']')?;
    Some(Field { task: index.parse().ok()?, rest: rest.strip_prefix('.').unwrap_or_default() })
}

/// A key and perhaps an entry in it, counted from 1, if `rest` ends with one.
pub(super) fn entry_of(rest: &str) -> Option<(&str, usize)> {
    let (key, entry) = rest.strip_suffix(']')?.rsplit_once('[')?;
    Some((key, entry.parse().ok()?))
}

fn in_task(document: &Document, tasks: &[Range<usize>], field: &Field<'_>) -> Option<Range<usize>> {
    let task = tasks.get(field.task.checked_sub(1)?)?;
    if field.rest.is_empty() {
        return Some(task.clone());
    }
    let members = json::members(document, task);
    // Of a repeated key the last counts.
    let named = |name: &dyn Fn(&str) -> bool| members.iter().rev().find(|member| name(&member.name));
    if let Some(member) = named(&|name| name == field.rest) {
        return Some(known_or_key(member));
    }
    if let Some((key, entry)) = entry_of(field.rest)
        && let Some(member) = named(&|name| name == key)
    {
        let place = json::elements(document, &member.value).into_iter().nth(entry.checked_sub(1)?);
        return Some(place.unwrap_or_else(|| member.value.clone()));
    }
    // A path that was too long for a status was cut.
    if let Some(start) = field.rest.strip_suffix('…')
        && let Some(member) = named(&|name| name.starts_with(start))
    {
        return Some(known_or_key(member));
    }
    Some(task.clone())
}

/// The value of a known key, else the key itself: that is what is wrong then.
fn known_or_key(member: &Member) -> Range<usize> {
    if super::is_task_key(&member.name) { member.value.clone() } else { member.key.clone() }
}

/// Cards' own problems say `line 14: …`.
fn line_of(document: &Document, description: &str) -> Option<Range<usize>> {
    let (number, _) = description.strip_prefix("line ")?.split_once(':')?;
    let start = document.line_start(number.parse().ok()?);
    let line = document.part(&(start..document.text().len())).lines().next()?;
    let indent = line.len() - line.trim_start().len();
    Some(start + indent..start + line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Origin {
        let document = Document::new("f", text.to_owned());
        let outline = json::outline(&document).unwrap();
        Origin::Json(document, outline)
    }

    fn found<'a>(origin: &'a Origin, field: &str) -> Option<&'a str> {
        origin.find(field, "").map(|range| origin.document().unwrap().part(&range))
    }

    #[test]
    fn a_field_is_found_by_its_path() {
        let origin = json(
            r#"{"concurrency": 0, "retry": 3, "time_limit": 0, "tasks": ["p", {"seed": [], "a.b": 1, "seed": {}, "image": ["x", true], "c[1]": 2}]}"#,
        );
        for (field, place) in [
            ("concurrency", "0"),
            ("time_limit", "0"),
            ("retry.on[2]", "3"),
            ("tasks[1]", "\"p\""),
            ("tasks[1].prompt", "\"p\""),
            ("tasks[2].seed", "{}"),
            ("tasks[2].a.b", "\"a.b\""),
            ("tasks[2].image", "[\"x\", true]"),
            ("tasks[2].image[2]", "true"),
            ("tasks[2].c[1]", "\"c[1]\""),
            ("tasks[2].a…", "\"a.b\""),
        ] {
            assert_eq!(found(&origin, field), Some(place), "{field}");
        }
        for field in [
            "tasks[3]",
            "tasks[0]",
            "tasks[x].a",
            "defaults.model",
            "request_id",
            "options.retry",
            "max_failures",
            "tasks[1",
        ] {
            assert_eq!(found(&origin, field), None, "{field}");
        }
        assert!(found(&origin, "tasks[2].label").unwrap().starts_with("{\"seed\""));
    }

    #[test]
    fn a_card_is_found_by_its_line() {
        let origin = Origin::Cards(Document::new("f", "a\n  b: 1\n".to_owned()));
        let place = origin.find("cards[1].seed", "line 2: odd").unwrap();
        assert_eq!(origin.document().unwrap().part(&place), "b: 1");
        assert_eq!(origin.find("cards[1]", "no model"), None);
        assert_eq!(Origin::Words.find("tasks[1]", ""), None);
    }
}
