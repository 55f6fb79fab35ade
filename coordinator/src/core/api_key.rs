//! When a text given as an API key is one.
//!
//! What it does not do: read any of the places where a key may stand, or check a key with its issuer.

/// The variable that a key is kept in; written as the key itself it is a placeholder.
const VARIABLE: &str = "BIZYAIR_API_KEY";

/// The key, trimmed, unless it is empty or stands for one that somebody forgot to fill in: `YOUR_…`, `<…>`, or
/// the name of the variable.
pub fn usable(text: &str) -> Option<&str> {
    let key = text.trim();
    let upper = key.to_ascii_uppercase();
    let name = upper.trim_start_matches(['$', '{', '%']).trim_end_matches(['}', '%']);
    let placeholder = upper.starts_with("YOUR_")
        || upper.starts_with("YOUR-")
        || (key.starts_with('<') && key.ends_with('>'))
        || name == VARIABLE;
    (!key.is_empty() && !placeholder).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_is_no_key() {
        for text in [
            "",
            " ",
            "YOUR_API_KEY",
            "your_key_here",
            " YOUR_BIZYAIR_API_KEY\n",
            "your-api-key",
            "<your key>",
            "<>",
            "BIZYAIR_API_KEY",
            "bizyair_api_key",
            "$BIZYAIR_API_KEY",
            "${BIZYAIR_API_KEY}",
            "%BIZYAIR_API_KEY%",
        ] {
            assert_eq!(usable(text), None, "{text:?}");
        }
        for text in ["sk-1", "yours", "sk-YOUR_1", "a<b>", "BIZYAIR_API_KEY_2", "<open"] {
            assert_eq!(usable(text), Some(text));
        }
        assert_eq!(usable(" sk-1\n"), Some("sk-1"));
    }
}
