//! The keys of a task, and the one that a misspelt key most likely meant.

/// Every key that a task may have.
pub const TASK_KEYS: [&str; 27] = [
    "prompt",
    "task",
    "model",
    "scene",
    "label",
    "title",
    "card_input",
    "run_with_defaults",
    "confirm_run",
    "param_help",
    "image",
    "audio",
    "video",
    "aspect_ratio",
    "resolution",
    "steps",
    "duration",
    "seed",
    "random_seed",
    "model_name",
    "width",
    "height",
    "param",
    "output",
    "sync",
    "time_limit",
    "retry",
];

/// The keys of a batch that say how it is carried out.
pub const OPTION_KEYS: [&str; 6] =
    ["time_limit", "queue_time_limit", "cancel_grace", "retry", "max_failures", "on_disconnect"];

/// The keys of a retry policy.
pub(super) const RETRY_KEYS: [&str; 4] = ["max_attempts", "on", "backoff", "max_backoff"];

/// No known key is longer; what a key has beyond this only makes it more different.
const MAX_COMPARED: usize = 24;

/// The known key with the fewest edits from `key`.
pub fn nearest(key: &str) -> &'static str {
    nearest_of(key, TASK_KEYS).unwrap_or_default()
}

/// The one of `known` with the fewest edits from `key` (insert, delete, replace, swap of neighbours); letter case
/// and `-` for `_` cost nothing. Of several the first.
pub(in crate::core) fn nearest_of(
    key: &str,
    known: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    let written: Vec<char> = key
        .chars()
        .take(MAX_COMPARED)
        .map(|c| if c == '-' { '_' } else { c })
        .flat_map(char::to_lowercase)
        .collect();
    // The first of equals is the least.
    known.into_iter().min_by_key(|known| edits(&written, known))
}

/// Edits between two words (optimal string alignment), keeping the last two rows only.
fn edits(left: &[char], right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut before = vec![0; right.len() + 1];
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (i, &l) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &r) in right.iter().enumerate() {
            let mut cost = (above[j] + usize::from(l != r)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && l == right[j - 1] && left[i - 1] == r {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_the_one_that_was_meant() {
        for (written, meant) in [
            ("promt", "prompt"),
            ("Prompt", "prompt"),
            ("porduct", "prompt"),
            ("aspect-ratio", "aspect_ratio"),
            ("aspectRatio", "aspect_ratio"),
            ("images", "image"),
            ("lable", "label"),
            ("heigth", "height"),
            ("sead", "seed"),
            ("random-seed", "random_seed"),
            ("modelname", "model_name"),
        ] {
            assert_eq!(nearest(written), meant, "{written}");
        }
    }

    #[test]
    fn any_key_has_a_nearest_one() {
        assert!(TASK_KEYS.contains(&nearest("")));
        assert!(TASK_KEYS.contains(&nearest(&"长".repeat(10_000))));
    }
}
