//! The API key as it goes into a header.

use std::{fmt, sync::Arc};

use reqwest::header::HeaderValue;
use zeroize::Zeroizing;

use crate::core::contract::Hide;

/// The longest key, in bytes. A header line of a few KiB is what servers take.
const MAX_KEY_BYTES: usize = 4 * 1024;

/// A key that can be sent. Never printed; cheap to clone.
#[derive(Clone)]
pub(crate) struct Key(Arc<Inner>);

struct Inner {
    text: Zeroizing<String>,
    header: HeaderValue,
}

/// The text cannot be sent as a key. It is not in the message, which goes on after the name of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnusableKey {
    /// Line breaks, control characters, or characters beyond ASCII.
    #[error(
        "has characters that no HTTP header can carry; give the key alone, as printable ASCII on one line"
    )]
    Characters,
    /// Over 4 KiB.
    #[error("is longer than 4 KiB; give the key alone")]
    TooLong,
}

impl Key {
    /// Makes a key fit to be sent.
    pub(crate) fn new(key: &str) -> Result<Self, UnusableKey> {
        let text = Zeroizing::new(key.to_owned());
        if text.len() > MAX_KEY_BYTES {
            return Err(UnusableKey::TooLong);
        }
        if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(UnusableKey::Characters);
        }
        let line = Zeroizing::new(format!("Bearer {}", *text));
        let mut header = HeaderValue::from_str(&line).map_err(|_| UnusableKey::Characters)?;
        header.set_sensitive(true);
        Ok(Self(Arc::new(Inner { text, header })))
    }

    /// The value of the Authorization header.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.header.clone()
    }

    /// Keeps it out of what is read.
    pub(super) fn hide(&self) -> Hide<'_> {
        Hide::key(&self.0.text)
    }

    /// To be digested.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.text.as_bytes()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_header_carries_is_told_without_the_key() {
        for text in ["sk-1\nHost: evil", "sk-\u{0}", "sk-密", "a\r"] {
            let error = Key::new(text).unwrap_err();
            assert_eq!(error, UnusableKey::Characters);
            assert!(!format!("{error} {error:?}").contains("sk-"));
        }
        assert_eq!(Key::new(&"x".repeat(5_000)).unwrap_err(), UnusableKey::TooLong);
        let key = Key::new("sk-fine").unwrap();
        assert!(!format!("{key:?} {:?}", key.header()).contains("fine"));
    }
}
