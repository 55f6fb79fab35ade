//! Whole numbers as people write them: JSON numbers with fractions and exponents, or digits in a string.
//!
//! Never an error for size: what lies beyond the signed 64-bit range counts as the nearest end.

/// Digits of `i64::MAX`; more significant digits than this are past the end of the range.
const I64_DIGITS: i64 = 19;

/// A whole number that a user gave, or tried to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integer {
    /// Read, cut toward zero, held to the signed 64-bit range.
    Value(i64),
    /// There, but no number: a boolean, a structure, `"2.9"`, `"many"`.
    Unreadable,
}

impl Integer {
    /// Reads a number given as text: trimmed, an optional sign and ASCII digits, nothing else.
    pub fn from_text(text: &str) -> Self {
        let text = text.trim();
        let (negative, digits) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Self::Unreadable;
        }
        Self::Value(signed(negative, digits.trim_start_matches('0').bytes().map(|b| b - b'0')))
    }

    /// Reads a JSON number from its text (`2.9` is 2, `1e3` is 1000), cut toward zero.
    pub fn from_number(number: &str) -> Self {
        let (negative, number) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number),
        };
        let (mantissa, exponent) = match number.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => match Self::from_text(exponent) {
                Self::Value(exponent) => (mantissa, exponent),
                Self::Unreadable => return Self::Unreadable,
            },
            None => (number, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = || whole.bytes().chain(fraction.bytes());
        if whole.is_empty() || !digits().all(|b| b.is_ascii_digit()) {
            return Self::Unreadable;
        }
        let leading_zeros = digits().take_while(|b| *b == b'0').count();
        if leading_zeros == whole.len() + fraction.len() {
            return Self::Value(0);
        }
        // How many digits, from the first that is not zero, stand before the decimal point.
        let kept = (whole.len() as i64 - leading_zeros as i64).saturating_add(exponent);
        if kept <= 0 {
            return Self::Value(0);
        }
        let significant = digits().skip(leading_zeros).map(|b| b - b'0').chain(std::iter::repeat(0));
        // One digit past the range is enough for `signed` to see that it is past it.
        Self::Value(signed(negative, significant.take(kept.min(I64_DIGITS + 1) as usize)))
    }
}

/// Whether a JSON number's text is equal to zero (`0`, `-0.0`, `0e9`).
pub fn is_zero(number: &str) -> bool {
    number.bytes().take_while(|b| !matches!(b, b'e' | b'E')).all(|b| matches!(b, b'0' | b'.' | b'-'))
}

/// ASCII digits read as a number of any size and written again: `007` is `7`. `None` for anything else.
pub fn plain_digits(text: &str) -> Option<&str> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let trimmed = text.trim_start_matches('0');
    Some(if trimmed.is_empty() { "0" } else { trimmed })
}

fn signed(negative: bool, digits: impl Iterator<Item = u8>) -> i64 {
    digits.fold(0_i64, |sum, digit| {
        let digit = i64::from(if negative { -(digit as i8) } else { digit as i8 });
        sum.saturating_mul(10).saturating_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_cut_toward_zero_and_held_to_the_range() {
        for (text, value) in [
            ("2.9", 2),
            ("-2.9", -2),
            ("-0.9", 0),
            ("0", 0),
            ("-0", 0),
            ("1e3", 1000),
            ("1E+3", 1000),
            ("12345e-2", 123),
            ("0.0123e4", 123),
            ("1.5e1", 15),
            ("0e99999999999999999999", 0),
            ("1e99999999999999999999", i64::MAX),
            ("-1e400", i64::MIN),
            ("1e-99999999999999999999", 0),
            ("9223372036854775807", i64::MAX),
            ("9223372036854775808", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("92233720368547758070", i64::MAX),
        ] {
            assert_eq!(Integer::from_number(text), Integer::Value(value), "{text}");
        }
    }

    #[test]
    fn text_is_a_sign_and_digits() {
        for (text, value) in
            [(" 4 ", 4), ("+4", 4), ("-4", -4), ("007", 7), ("99999999999999999999", i64::MAX)]
        {
            assert_eq!(Integer::from_text(text), Integer::Value(value), "{text}");
        }
        for text in ["", " ", "-", "+", "2.9", "1e1", "abc", "٤", "4 4", "--4", "0x1"] {
            assert_eq!(Integer::from_text(text), Integer::Unreadable, "{text}");
        }
    }

    #[test]
    fn zero_is_any_number_equal_to_zero() {
        for zero in ["0", "-0", "0.0", "-0.00", "0e5", "0.0E-3"] {
            assert!(is_zero(zero), "{zero}");
        }
        for other in ["1", "0.1", "-0.01e-9", "1e0"] {
            assert!(!is_zero(other), "{other}");
        }
    }

    #[test]
    fn digits_of_any_size_lose_their_leading_zeros() {
        assert_eq!(plain_digits("007"), Some("7"));
        assert_eq!(plain_digits("000"), Some("0"));
        assert_eq!(plain_digits("123456789012345678901234567890"), Some("123456789012345678901234567890"));
        assert_eq!(plain_digits(""), None);
        assert_eq!(plain_digits("１"), None);
        assert_eq!(plain_digits("-1"), None);
    }
}
