//! Cards: a planned task as text that a person reads and changes, and that text read back into a task.
//!
//! The visible card is the whole truth: what stands after a field's colon goes on the command line, an empty
//! value leaves the field open, a line that is not there was not given. Nothing is hidden, so that a card can be
//! read, edited and sent back without whatever it was made from. Notes are for people only, and all that comes
//! from a model's publisher stands in notes, on one line each, so that it can never become a field.
//!
//! What it does not do: look models up, or plan.

mod check;
mod command;
mod compose;
mod field;
mod inputs;
mod keys;
pub mod lang;
mod read;
mod reply;
mod sheet;
mod slip;
mod source;
mod value;
mod words;

pub(super) use keys::is_publishers;
pub use lang::Lang;
pub use read::read;
pub use reply::reply;

use super::catalog::Catalog;
use super::contract::{Contract, Unavailable};
use super::payload::TaskRequest;
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

/// One task's card. Beside what the task itself says it has at most [`MAX_CARD_BYTES`].
pub fn render(facts: &Facts<'_>, lang: Lang) -> String {
    compose::card(facts, lang)
}

#[cfg(test)]
mod tests;
