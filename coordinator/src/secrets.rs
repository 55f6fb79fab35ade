//! Placeholder: keys at rest.

/// A key in the clear. Never printed, wiped when dropped.
pub struct Secret(zeroize::Zeroizing<String>);

impl Secret {
    /// Wraps a key.
    pub fn new(key: String) -> Self {
        Self(zeroize::Zeroizing::new(key))
    }

    /// The key, for the one place that hands it on.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}
