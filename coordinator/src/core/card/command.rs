//! The command of a task as a person can read it: redacted, quoted, clipped.
//!
//! What it does not do: give a text that a shell should be given. It is for the eye.

use super::value::shown;
use crate::core::plan::{TaskSpec, redact};

/// Longest argument shown, in bytes.
const MAX_ARG_BYTES: usize = 200;
/// Longest command shown, in bytes.
const MAX_COMMAND_BYTES: usize = 4096;
/// What stands for the output path that a worker assigns.
const OUTPUT: &str = "{output}";

/// `dispatch --model … --output {output} --confirm-run`.
pub(super) fn line(spec: &TaskSpec) -> String {
    let mut line = "dispatch".to_owned();
    for arg in redact(&spec.command(OUTPUT)) {
        line.push(' ');
        line.push_str(&quoted(&shown(&arg, MAX_ARG_BYTES)));
        if line.len() > MAX_COMMAND_BYTES {
            break;
        }
    }
    shown(&line, MAX_COMMAND_BYTES)
}

/// A word as a shell would take it.
fn quoted(word: &str) -> String {
    let is_safe = |c: char| c.is_alphanumeric() || "-_=:/.,+@%{}…".contains(c);
    if !word.is_empty() && word.chars().all(is_safe) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_quoted_redacted_and_clipped() {
        let spec = TaskSpec {
            model: "m".into(),
            prompt: "it's\na lighthouse".into(),
            param: vec!["--api-key=secret".into(), "x".repeat(500)],
            ..TaskSpec::default()
        };
        let shown = line(&spec);
        assert!(shown.starts_with(r"dispatch --model m --prompt 'it'\''s␊a lighthouse' --param="), "{shown}");
        assert!(shown.ends_with("… --output {output} --confirm-run"), "{shown}");
        let long = TaskSpec { image: vec!["i".repeat(150); 1000], ..spec };
        assert!(line(&long).len() <= MAX_COMMAND_BYTES);
    }
}
