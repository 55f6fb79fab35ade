//! Exact widths of text on a terminal: how many columns it takes, and how it is cut and filled up to a number of
//! them. Pure.
//!
//! Terminals disagree about characters that join (families of emoji, flags, signs followed by a variation
//! selector), so text counts as wide as the widest of them would show it.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What stands for the part that was cut off. Not the one character for it: some terminals show that two wide.
const CUT: &str = "...";
/// A text that is cut to fewer columns than this ends without a sign.
const MIN_FOR_CUT: usize = 8;
/// Marks that one visible character may carry; the others are left out, since they take no column and so would
/// have no bound.
const MAX_MARKS: usize = 8;

/// The columns that `text` takes at most.
pub fn columns(text: &str) -> usize {
    let one_by_one: usize = text.chars().map(|character| character.width().unwrap_or(0)).sum();
    one_by_one.max(text.width())
}

/// The text, cut where it is wider than `width` columns.
pub fn fit(text: &str, width: usize) -> String {
    let whole = take(text, width);
    if whole.len() == text.len() || width < MIN_FOR_CUT {
        return whole;
    }
    // Marks that were left out are no reason for a sign.
    if columns(text) <= width {
        return whole;
    }
    let mut cut = take(text, width.saturating_sub(CUT.len()));
    cut.truncate(cut.trim_end().len());
    cut.push_str(CUT);
    clamp(cut, width)
}

/// The text, cut or filled up with spaces to `width` columns.
pub fn pad(text: &str, width: usize) -> String {
    let mut padded = fit(text, width);
    let missing = width.saturating_sub(columns(&padded));
    padded.extend(std::iter::repeat_n(' ', missing));
    padded
}

/// The text with spaces before it up to `width` columns.
pub fn pad_left(text: &str, width: usize) -> String {
    let fitted = fit(text, width);
    let missing = width.saturating_sub(columns(&fitted));
    let mut padded = " ".repeat(missing);
    padded.push_str(&fitted);
    padded
}

/// Cuts without a sign. A line put together from fitting parts fits as well, unless characters join across their
/// borders; this is the last word on it.
pub fn clamp(mut text: String, width: usize) -> String {
    while columns(&text) > width {
        text.pop();
    }
    text
}

/// As much of the beginning as fits.
fn take(text: &str, width: usize) -> String {
    let mut taken = String::new();
    let mut used = 0;
    let mut marks = 0;
    for character in text.chars() {
        let wide = character.width().unwrap_or(0);
        if used + wide > width {
            break;
        }
        if wide == 0 {
            marks += 1;
            if marks > MAX_MARKS {
                continue;
            }
        } else {
            marks = 0;
        }
        used += wide;
        taken.push(character);
    }
    clamp(taken, width)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wide_characters_count_double_and_are_never_cut_in_half() {
        assert_eq!(columns("猫a"), 3);
        assert_eq!(fit("一只猫在月亮上", 9), "一只猫...");
        assert_eq!(fit("一只猫在月亮上", 10), "一只猫...");
        assert_eq!(fit("猫猫", 3), "猫");
        assert_eq!(pad("猫", 4), "猫  ");
        assert_eq!(pad_left("7", 3), "  7");
    }

    #[test]
    fn what_fits_stays_and_what_does_not_says_so() {
        assert_eq!(fit("a cat", 5), "a cat");
        assert_eq!(fit("a cat on the moon", 9), "a cat...");
        assert_eq!(fit("a cat", 0), "");
    }

    #[test]
    fn emoji_count_as_wide_as_any_terminal_shows_them() {
        // A family is 2 columns where it is joined, 6 where it is not.
        assert_eq!(columns("👩\u{200d}👩\u{200d}👧"), 6);
        // A heart is 1 column as text, 2 as an emoji.
        assert_eq!(columns("❤\u{fe0f}"), 2);
    }

    #[test]
    fn marks_have_a_bound() {
        let text = format!("a{}b", "\u{301}".repeat(5_000));
        assert_eq!(fit(&text, 10).chars().count(), 2 + MAX_MARKS);
    }

    proptest! {
        #[test]
        fn nothing_is_ever_too_wide(text in "\\PC*", width in 0usize..60) {
            prop_assert!(columns(&fit(&text, width)) <= width);
            prop_assert_eq!(columns(&pad(&text, width)), width);
        }
    }
}
