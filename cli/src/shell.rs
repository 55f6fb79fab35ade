//! A command line as one would type it, safe to copy: each word quoted where a shell would read it as more than
//! itself, and without any character that could move a cursor.

use std::{ffi::OsStr, fmt::Write, os::unix::ffi::OsStrExt};

/// A command line with one more option: at its end, or before the `--` after which there are no options.
pub fn with_option<W: AsRef<OsStr>>(words: &[W], option: &str) -> String {
    let end = words.iter().position(|word| word.as_ref() == "--").unwrap_or(words.len());
    let mut quoted: Vec<String> = words.iter().map(|word| quote(word.as_ref())).collect();
    quoted.insert(end, option.to_owned());
    quoted.join(" ")
}

/// One word.
pub fn quote(word: &OsStr) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(plain) => text.to_owned(),
        Some(text) if !text.chars().any(needs_escape) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => escaped(word.as_bytes()),
    }
}

/// Characters that cannot be shown as they are, or would show the rest of the line in another order.
fn needs_escape(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// In the form `$'…'`, which bash, zsh and ksh know, and POSIX since 2024.
fn escaped(bytes: &[u8]) -> String {
    let mut out = "$'".to_owned();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\'' | '\\' => out.extend(['\\', character]),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                _ if needs_escape(character) => {
                    character.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| octal(byte, &mut out));
                }
                _ => out.push(character),
            }
        }
        chunk.invalid().iter().for_each(|byte| octal(*byte, &mut out));
    }
    out.push('\'');
    out
}

/// Always three digits, so that a digit after it is not taken along.
fn octal(byte: u8, out: &mut String) {
    // Writing to a text cannot fail.
    let _ = write!(out, "\\{byte:03o}");
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt, process::Command};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_quoted_only_where_they_have_to_be() {
        for (word, quoted) in [
            ("batch.json", "batch.json"),
            ("--model=a", "--model=a"),
            ("", "''"),
            ("a white cat", "'a white cat'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("猫", "'猫'"),
            ("a\n\u{1b}1", r"$'a\n\0331'"),
        ] {
            assert_eq!(quote(OsStr::new(word)), quoted);
        }
    }

    #[test]
    fn the_option_stands_where_it_is_one() {
        assert_eq!(with_option(&["muster", "submit", "a b"], "--x"), "muster submit 'a b' --x");
        assert_eq!(with_option(&["muster", "run", "--", "a", "--"], "--x"), "muster run --x -- a --");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_shell_reads_back_what_was_meant(words in prop::collection::vec(prop::collection::vec(1_u8.., 0..12), 1..12)) {
            let words: Vec<OsString> = words.into_iter().map(OsString::from_vec).collect();
            let line = format!("printf '%s\\0' {}", with_option(&words, "--x"));
            prop_assert!(!line.chars().any(char::is_control));
            let shell = Command::new("bash").arg("-c").arg(&line).env("LC_ALL", "C").output().unwrap();
            let mut expected = words;
            expected.insert(expected.iter().position(|word| word == "--").unwrap_or(expected.len()), "--x".into());
            let expected: Vec<u8> = expected.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
            prop_assert_eq!(shell.stdout, expected);
        }
    }
}
