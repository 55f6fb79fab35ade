//! Which words of a command line are prompts and which is a file. A mistyped file name must never become a prompt
//! that is paid for, so a word counts as a prompt only where it can hardly be meant as a file.

use crate::{error::Error, sanitize::one_line};

/// The longest ending of a file name, such as `.jsonl`.
const MAX_ENDING: usize = 5;

/// What the words are.
#[derive(Debug, PartialEq, Eq)]
pub enum Words<'a> {
    /// A file, `-` for standard input.
    File(&'a str),
    /// Prompts.
    Prompts(Vec<&'a str>),
}

/// Tells which. `exists` says whether there is a file of that name.
pub fn classify(words: &[String], exists: impl Fn(&str) -> bool) -> Result<Words<'_>, Error> {
    if let [word] = words
        && (word == "-" || exists(word))
    {
        return Ok(Words::File(word));
    }
    for word in words {
        let shown = one_line(word);
        if word.trim().is_empty() {
            return refuse("an empty text is no prompt and no file; leave it out".to_owned());
        }
        if word == "-" || exists(word) {
            return refuse(format!(
                "{shown} is a file, and stands among {} words; give FILE alone, or each prompt with: --prompt TEXT",
                words.len()
            ));
        }
        if word.trim_start().starts_with(['[', '{']) {
            return refuse(
                "a batch as JSON is given in a file or on standard input (-); if it is a prompt, give it with: \
                 --prompt TEXT"
                    .to_owned(),
            );
        }
        let one_word = word.is_ascii() && !word.contains(char::is_whitespace);
        if (one_word && words.len() == 1) || is_like_a_file(word) {
            return refuse(format!("no such file: {shown}; if it is a prompt, give it with: --prompt TEXT"));
        }
        if one_word {
            // Without its quotes a prompt would be a task for every word.
            return refuse(format!(
                "{shown} stands by itself among {} words; put each prompt in quotes, or give it with: --prompt TEXT",
                words.len()
            ));
        }
    }
    Ok(Words::Prompts(words.iter().map(String::as_str).collect()))
}

/// The prompts of `--prompt`.
pub fn prompts(given: &[String]) -> Result<Vec<&str>, Error> {
    if given.iter().any(|prompt| prompt.trim().is_empty()) {
        return refuse("--prompt: the text is empty; leave it out".to_owned());
    }
    Ok(given.iter().map(String::as_str).collect())
}

/// Whether a word ends like a file name, or begins like a path.
fn is_like_a_file(word: &str) -> bool {
    let is_path = ["/", "./", "../", "~/"].iter().any(|start| word.starts_with(start));
    let ending = word.rsplit_once('.').is_some_and(|(_, ending)| {
        (2..=MAX_ENDING).contains(&ending.len())
            && ending.starts_with(|c: char| c.is_ascii_alphabetic())
            && ending.chars().all(|c| c.is_ascii_alphanumeric())
    });
    is_path || ending
}

fn refuse<T>(text: String) -> Result<T, Error> {
    Err(Error::Usage(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Result<Vec<String>, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        match classify(&words, |word| ["batch.json", "a cat", "cat"].contains(&word)) {
            Ok(Words::File(path)) => Ok(vec![format!("file {path}")]),
            Ok(Words::Prompts(prompts)) => Ok(prompts.into_iter().map(str::to_owned).collect()),
            Err(Error::Usage(text)) => Err(text),
            Err(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn one_word_is_a_file_where_there_is_one_and_a_prompt_where_it_can_be_nothing_else() {
        for file in ["-", "batch.json", "a cat", "cat"] {
            assert_eq!(words(&[file]).unwrap(), [format!("file {file}")]);
        }
        for prompt in ["a white cat", "一只猫", "größe", "a cat, drawn in v1.5"] {
            assert_eq!(words(&[prompt]).unwrap(), [prompt]);
        }
        assert_eq!(words(&["a white cat", "a black dog"]).unwrap(), ["a white cat", "a black dog"]);
    }

    #[test]
    fn a_mistyped_file_name_never_becomes_a_prompt() {
        for word in ["bacth.json", "dog", "my batch.json", "猫.csv", "./my tasks", "~/猫", "-x"] {
            let text = words(&[word]).unwrap_err();
            assert!(text.contains(&format!("no such file: {word}")) && text.contains("--prompt"), "{text}");
        }
        let text = words(&["one.json", "a dog"]).unwrap_err();
        assert!(text.contains("no such file: one.json"), "{text}");
        for json in ["[\"a cat\"]", " {\"tasks\": []}"] {
            assert!(words(&[json]).unwrap_err().contains("standard input"), "{json}");
        }
    }

    #[test]
    fn a_prompt_without_its_quotes_is_not_a_task_for_each_word() {
        for several in [&["draw", "white", "cats"][..], &["a white cat", "dog"]] {
            let text = words(several).unwrap_err();
            assert!(text.contains("quotes") && text.contains("--prompt"), "{text}");
        }
    }

    #[test]
    fn a_file_among_several_words_is_asked_about() {
        for other in ["batch.json", "-", "cat"] {
            let text = words(&["a white cat", other]).unwrap_err();
            assert!(text.contains(&format!("{other} is a file")) && text.contains("--prompt"), "{text}");
        }
        assert!(words(&["a white cat", " "]).is_err() && words(&[""]).is_err());
        assert!(prompts(&["a".to_owned(), String::new()]).is_err());
    }
}
