//! Cards: a planned task as text that a person reads and changes, and that text read back into a task.

pub mod lang;
pub use lang::Lang;

use super::catalog::Catalog;
use super::contract::{Contract, Unavailable};
use super::integer::Integer;
use super::payload::{Defaults, FieldViolation, Payload, TaskRequest};
use super::plan::TaskSpec;

/// The most that a card has beside what the task itself says, in bytes.
pub const MAX_CARD_BYTES: usize = 64 * 1024;

/// What a card is made of.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// Counted from 1.
    pub index: u32,
    /// As asked for.
    pub request: &'a TaskRequest,
    /// As planned from it.
    pub spec: &'a TaskSpec,
    pub catalog: &'a Catalog,
    pub contract: Result<&'a Contract, &'a Unavailable>,
    /// What the publisher says about the price, cleaned.
    pub price: Option<&'a str>,
}

/// One task's card.
pub fn render(_facts: &Facts<'_>, _lang: Lang) -> String {
    String::new()
}

/// All cards (label and card) under their labels, as one text that [`read`] takes. `concurrency` is the batch's
/// own, where it has one.
pub fn reply(_cards: &[(&str, &str)], _concurrency: Option<Integer>, _lang: Lang) -> String {
    String::new()
}

/// Reads what [`reply`] gave, edited or not, into a payload. Fails with what is wrong, naming card and line.
pub fn read(_text: &str, _defaults: &Defaults, _catalog: &Catalog) -> Result<Payload, Vec<FieldViolation>> {
    Err(Vec::new())
}
