//! A model's contract: which inputs it takes, as its publisher describes them, held to what a card can show.
//!
//! Everything here came from another machine and is bounded and cleaned by [`parse`]: no control characters, no
//! text longer than a line, no list longer than its constant. What it does not do: fetch anything, or judge a
//! task's values (the card does).

mod parse;
mod reply;
mod source;
mod text;

pub use parse::{contract, price};
pub use reply::Answer;
pub use text::{Hide, MAX_LINE_CHARS, MAX_NAME_CHARS};

/// The most fields that a contract keeps.
pub const MAX_FIELDS: usize = 64;
/// The most options that a field keeps.
pub const MAX_OPTIONS: usize = 256;

/// A contract that was understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contract {
    /// What the publisher calls the model; empty when it says nothing.
    pub name: String,
    /// In the publisher's order.
    pub fields: Vec<InputField>,
    /// Fields beyond the most that are kept.
    pub fields_left_out: usize,
}

/// One input of a model. An empty text was not given. A text that ends in `…` was longer than its bound and is no
/// value to compare with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputField {
    /// `aspect_ratio`, or of an app's node `93:CLIPTextEncode.text`.
    pub name: String,
    /// What people read.
    pub label: String,
    pub kind: FieldKind,
    /// What is used when nothing is given.
    pub preset: String,
    /// The values that are allowed, where the field has a list of them.
    pub options: Vec<String>,
    /// Options beyond the most that are kept, and those that cannot be shown as they are (too long, control
    /// characters). A value that is not in `options` may then be allowed all the same.
    pub options_left_out: usize,
    pub required: bool,
    /// Least and greatest number allowed, as written.
    pub min: String,
    pub max: String,
}

/// What a field takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FieldKind {
    /// `customtext`.
    #[default]
    Text,
    /// `combo`: one of the options.
    Choice,
    /// `boolean`.
    Flag,
    /// `number`.
    Number,
    /// `slider`, `slides`: a number in a range.
    Slider,
    /// `seed`.
    Seed,
    /// `images`.
    Images,
    /// `audios`.
    Audios,
    /// `videos`.
    Videos,
    /// `hidden` with a value: a slot of an app for the user's own media.
    MediaSlot,
    /// Any other word, as written.
    Other(String),
}

/// Where a model's contract is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// `vendor/endpoint` in the model zoo; no segment is empty, `.` or `..`.
    Endpoint(String),
    /// The number of an AI app: ASCII digits.
    App(String),
}

/// Why there is no contract. Held to one short line wherever it carries a text of the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unavailable {
    /// Not in the catalogue, and neither `vendor/endpoint` nor an app's number.
    NoSource,
    /// No answer within the time, in seconds.
    Timeout { seconds: u64 },
    /// The other side cannot be reached, or broke off.
    Unreachable,
    /// HTTP 401 or 403, or a code that says so.
    KeyRefused,
    /// Asked to come back later (HTTP 429 or 402, or a retryable code), and the tries are used up.
    Busy { status: u16, code: Option<i64> },
    /// Another HTTP status than 200.
    Http { status: u16 },
    /// The reply's own code says no; `message` is its text, cleaned, perhaps empty.
    Refused { code: i64, message: String },
    /// A body over the limit, in bytes.
    TooLarge { limit: usize },
    /// No JSON, or not in the documented form.
    Malformed,
    /// It points to another place, or on and on within its own.
    Redirected,
}
