//! All cards of a batch as one text.

use super::Lang;
use super::keys::Key;
use super::sheet::MAX_TEXT_BYTES;
use super::value::shown;
use super::words::{self, fill};
use crate::core::integer::Integer;

/// How a concurrency is written that could not be read; it reads back as one that cannot be.
const UNREADABLE: &str = "unreadable";

/// All cards (label and card) under their labels, as one text that [`read`](super::read()) takes. `concurrency`
/// is the batch's own, where it has one.
pub fn reply(cards: &[(&str, &str)], concurrency: Option<Integer>, lang: Lang) -> String {
    let words = words::of(lang);
    let intro = match cards.len() {
        1 => words.intro_one.to_owned(),
        count => fill(words.intro, &[&count.to_string()]),
    };
    let mut text = format!("> {intro}\n> {}\n> {}\n\n", words.how_to_edit, words.how_to_submit);
    if let Some(concurrency) = concurrency {
        let value = match concurrency {
            Integer::Value(value) => value.to_string(),
            Integer::Unreadable => UNREADABLE.to_owned(),
        };
        text.push_str(&format!("- {}{}{value}\n\n", Key::Concurrency.name(lang), words.colon));
    }
    for (index, (label, card)) in (1_usize..).zip(cards) {
        text.push_str(&format!("## {index}. {}\n\n{card}\n", shown(label, MAX_TEXT_BYTES)));
    }
    // One line break at the end.
    text.truncate(text.trim_end_matches('\n').len() + 1);
    text
}
