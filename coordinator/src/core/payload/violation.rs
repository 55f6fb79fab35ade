//! What is wrong with a request, field by field, held to a size that fits a status.

use std::fmt;

/// At most this many violations are collected; then reading stops.
pub const MAX_VIOLATIONS: usize = 20;
/// Longest field path kept, in bytes: an unknown key is part of its path.
const MAX_FIELD_BYTES: usize = 80;
/// Longest description kept, in bytes; with the paths, 20 of them stay well under 7 KiB.
const MAX_DESCRIPTION_BYTES: usize = 240;

/// One thing that is wrong, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Where: `tasks[3].duration` (tasks count from 1), `batch_json`, `concurrency`.
    pub field: String,
    /// What is wrong and what to do, to be read after the field.
    pub description: String,
}

impl FieldViolation {
    /// A violation; what is too long for a status is cut.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        let (mut field, mut description) = (field.into(), description.into());
        clip(&mut field, MAX_FIELD_BYTES);
        clip(&mut description, MAX_DESCRIPTION_BYTES);
        Self { field, description }
    }
}

impl fmt::Display for FieldViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.description)
    }
}

/// Cuts `text` to at most `max` bytes, at a character, and marks the cut.
fn clip(text: &mut String, max: usize) {
    const MARK: &str = "…";
    if text.len() > max {
        let mut end = max - MARK.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MARK);
    }
}

/// Collects violations up to the bound.
#[derive(Debug, Default)]
pub(in crate::core) struct Violations(Vec<FieldViolation>);

impl Violations {
    pub(in crate::core) fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if !self.full() {
            self.0.push(FieldViolation::new(field, description));
        }
    }

    /// Whether reading on would find nothing more that is kept.
    pub(in crate::core) fn full(&self) -> bool {
        self.0.len() >= MAX_VIOLATIONS
    }

    pub(in crate::core) fn into_result<T>(self, value: T) -> Result<T, Vec<FieldViolation>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }
}
