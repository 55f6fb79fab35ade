//! What is wrong with what was handed in: where, what, and the way out.

use std::{fmt::Write, ops::Range};

use muster_coordinator::core::payload::{FieldViolation, nearest};

use super::{
    is_task_key,
    origin::Origin,
    snippet::{Style, snippet},
};
use crate::sanitize::one_line;

/// At most so many problems are shown with the lines around them; the others have their one line.
const MAX_SNIPPETS: usize = 3;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field, in the words of refusals: `tasks[3].duration`.
    pub field: String,
    /// To be read after the field and a colon.
    pub what: String,
    /// Where in the text.
    pub place: Option<Range<usize>>,
}

impl Problem {
    /// A problem; an empty field for a text as a whole.
    pub fn new(field: &str, what: String, place: Option<Range<usize>>) -> Self {
        Self { field: field.to_owned(), what, place }
    }

    /// A violation of the rules for payloads, with its place where the batch came from.
    pub fn of_violation(violation: &FieldViolation, origin: &Origin) -> Self {
        let FieldViolation { field, description } = violation;
        let place = origin.find(field, description);
        let key = field.strip_prefix("tasks[").and_then(|rest| rest.split_once("].")).map(|(_, key)| key);
        let unknown = key.filter(|key| {
            let alone = key.split_once('[').map_or(*key, |(key, _)| key);
            !is_task_key(key) && !is_task_key(alone)
        });
        match (field.as_str(), unknown) {
            ("batch_json", _) => Self::new("", description.clone(), place),
            (_, Some(key)) => Self::new(field, unknown_key(key), place),
            (_, None) => Self::new(field, description.clone(), place),
        }
    }

    /// Field and what is wrong, on one line.
    pub fn gist(&self) -> String {
        let gap = if self.field.is_empty() { "" } else { ": " };
        one_line(&format!("{}{gap}{}", self.field, self.what))
    }

    /// Its one line: `batch.json:3:14: tasks[2].promt: …`.
    pub fn line(&self, origin: &Origin) -> String {
        match (&self.place, origin.document()) {
            (Some(place), Some(document)) => {
                let position = document.position(place.start);
                format!("{}:{}:{}: {}", document.name(), position.line, position.column, self.gist())
            }
            (None, Some(document)) if self.field.is_empty() => {
                format!("{}: {}", document.name(), self.gist())
            }
            _ => self.gist(),
        }
    }
}

/// What is wrong with an unknown key.
pub fn unknown_key(key: &str) -> String {
    format!("unknown key; did you mean {}?", nearest(key))
}

/// All problems: each its line, and the first few the lines around their place. No line break at the end.
pub fn report(problems: &[Problem], origin: &Origin, style: Style) -> String {
    let mut text = String::new();
    for (index, problem) in problems.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        text.push_str(&problem.line(origin));
        if index < MAX_SNIPPETS
            && let (Some(place), Some(document)) = (&problem.place, origin.document())
        {
            // Writing to a text cannot fail.
            let _ = write!(text, "\n{}", snippet(document, place, style).trim_end_matches('\n'));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{document::Document, json};

    #[test]
    fn each_problem_has_one_line_that_a_program_can_read() {
        let document = Document::new("batch.json", "[\n \"a\",\n {\"promt\": 1, \"seed\": []}\n]".to_owned());
        let outline = json::outline(&document).unwrap();
        let origin = Origin::Json(document, outline);
        let problems: Vec<_> =
            [("tasks[2].promt", "is no known key"), ("tasks[2].seed", "is odd\u{1b}[2J\n")]
                .into_iter()
                .map(|(field, what)| Problem::of_violation(&FieldViolation::new(field, what), &origin))
                .collect();
        let text = report(&problems, &origin, Style::Plain);
        insta::assert_snapshot!(text, @r##"
        batch.json:3:3: tasks[2].promt: unknown key; did you mean prompt?
           ,----
         2 |  "a",
         3 |  {"promt": 1, "seed": []}
           :   ^^^^^^^
         4 | ]
           `----
        batch.json:3:23: tasks[2].seed: is odd␛[2J␊
           ,----
         2 |  "a",
         3 |  {"promt": 1, "seed": []}
           :                       ^^
         4 | ]
           `----
        "##);
        let many = vec![problems[0].clone(); 20];
        assert_eq!(report(&many, &origin, Style::Plain).matches("`----").count(), MAX_SNIPPETS);
    }
}
