//! What the values of a card mean, one by one: open, a number, a size, a random seed.
//!
//! What it does not do: know where a value stands.

use crate::core::integer::plain_digits;

/// Values (whole, in any letter case) that leave a field to the model.
const LEFT_OPEN: [&str; 8] = ["", "默认", "你定", "推荐就行", "都行", "随便", "auto", "default"];

/// The longest of them, in bytes: a longer value need not be compared.
const LEFT_OPEN_BYTES: usize = 12;

/// What a seed says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Seed<'a> {
    Random,
    /// Digits without leading zeros.
    Fixed(&'a str),
}

/// Whether this value, trimmed already, says no more than that a field is left to the model.
pub(in crate::core) fn is_left_open(value: &str) -> bool {
    value.len() <= LEFT_OPEN_BYTES && LEFT_OPEN.contains(&value.to_lowercase().as_str())
}

/// A number, or one of the ways to say random.
pub(in crate::core) fn seed(value: &str) -> Result<Seed<'_>, &'static str> {
    if value.contains("随机") || value == "-1" || value.to_lowercase() == "random" {
        return Ok(Seed::Random);
    }
    plain_digits(value).map(Seed::Fixed).ok_or("is no seed; write digits, or random")
}

/// Whole seconds, perhaps with `s` or `秒` after them.
pub(in crate::core) fn duration(value: &str) -> Result<&str, &'static str> {
    let seconds = value.strip_suffix(['秒', 's', 'S']).unwrap_or(value).trim_end();
    plain_digits(seconds).ok_or("is no duration; write whole seconds, like 8")
}

/// Whole pixels.
pub(in crate::core) fn pixels(value: &str) -> Result<&str, &'static str> {
    plain_digits(value).ok_or("is no size; write whole pixels, like 1024")
}

/// Width and height of `1024x768`.
pub(in crate::core) fn size(text: &str) -> Option<(&str, &str)> {
    let (width, height) = text.split_once(['x', 'X'])?;
    Some((plain_digits(width.trim_end())?, plain_digits(height.trim_start())?))
}
