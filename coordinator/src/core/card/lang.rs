//! The languages that cards are written in.

/// A language.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Chinese.
    Zh,
}

impl Lang {
    /// Reads a language or a locale (`zh`, `zh-Hans`, `zh_CN.UTF-8`, `en_GB`); empty is English. `None` for any
    /// other.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        match text.split(['_', '-', '.', '@']).next().unwrap_or_default() {
            "" | "en" | "c" | "posix" => Some(Self::En),
            "zh" => Some(Self::Zh),
            _ => None,
        }
    }

    /// Its code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Zh => "zh",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_and_locales_are_read() {
        for (text, lang) in [
            ("", Some(Lang::En)),
            ("EN", Some(Lang::En)),
            ("en_GB.UTF-8", Some(Lang::En)),
            ("C.UTF-8", Some(Lang::En)),
            ("zh", Some(Lang::Zh)),
            ("zh-Hans-CN", Some(Lang::Zh)),
            ("zh_TW.UTF-8", Some(Lang::Zh)),
            ("de", None),
            ("english", None),
        ] {
            assert_eq!(Lang::parse(text), lang, "{text}");
        }
    }
}
