//! The lines that scroll by on a live view for attempts that ended: no more of them than can be painted in time,
//! since a batch of small tasks ends thousands in a second. Pure.

use super::width::fit;
use crate::progress::Outcome;

/// The time in which so many of them scroll by at most, in milliseconds.
const WINDOW_MS: i64 = 1_000;
/// Outcomes that scroll by in that time; the counts tell of the others.
const MAX_OUTCOMES: usize = 200;
/// Columns of a label behind an outcome.
const MAX_LABEL: usize = 60;

/// What has scrolled by lately.
#[derive(Debug, Default)]
pub struct Outcomes {
    since_ms: Option<i64>,
    shown: usize,
    held_back: usize,
}

impl Outcomes {
    /// The lines for the outcomes of one message that came at `now_ms`.
    pub fn lines(&mut self, outcomes: &[Outcome], now_ms: i64) -> Vec<String> {
        let mut lines = Vec::new();
        if self.since_ms.is_none_or(|since| now_ms.saturating_sub(since) >= WINDOW_MS) {
            lines.extend(self.rest());
            (self.since_ms, self.shown) = (Some(now_ms), 0);
        }
        let room = MAX_OUTCOMES.saturating_sub(self.shown);
        // Failures first where not all are shown: they are what one looks for.
        let failures = outcomes.iter().filter(|outcome| outcome.bad).count();
        let mut others = room.saturating_sub(failures);
        let chosen = outcomes.iter().filter(|outcome| {
            let shown = outcome.bad || others > 0;
            others -= usize::from(!outcome.bad && others > 0);
            shown
        });
        let before = lines.len();
        lines.extend(chosen.take(room).map(line));
        let shown = lines.len() - before;
        self.shown += shown;
        self.held_back += outcomes.len() - shown;
        lines
    }

    /// Tells of those that have not scrolled by, once.
    pub fn rest(&mut self) -> Option<String> {
        let count = std::mem::take(&mut self.held_back);
        (count > 0).then(|| format!("and {count} more tasks that ended"))
    }
}

fn line(outcome: &Outcome) -> String {
    let label = fit(&outcome.label, MAX_LABEL);
    if label.is_empty() { outcome.text.clone() } else { format!("{}  ({label})", outcome.text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(index: usize, bad: bool) -> Outcome {
        Outcome { text: format!("task {index}"), label: String::new(), bad }
    }

    #[test]
    fn of_many_outcomes_failures_are_shown_first() {
        let ended: Vec<_> = (1..=1_000).map(|index| outcome(index, index % 100 == 0)).collect();
        let mut outcomes = Outcomes::default();
        let lines = outcomes.lines(&ended, 0);
        assert_eq!(lines.len(), MAX_OUTCOMES);
        assert!(lines.contains(&"task 1000".to_owned()));
        assert_eq!(outcomes.rest().as_deref(), Some("and 800 more tasks that ended"));
        assert_eq!(outcomes.rest(), None);
    }

    #[test]
    fn many_messages_in_a_moment_show_no_more_than_one_and_none_is_forgotten() {
        let mut outcomes = Outcomes::default();
        let mut shown = 0;
        for message in 0..100 {
            let ended: Vec<_> = (0..10).map(|index| outcome(message * 10 + index, false)).collect();
            shown += outcomes.lines(&ended, 7).len();
        }
        assert_eq!(shown, MAX_OUTCOMES);
        let later = outcomes.lines(&[outcome(1_000, false)], 7 + WINDOW_MS);
        assert_eq!(later, ["and 800 more tasks that ended", "task 1000"]);
        assert_eq!(outcomes.rest(), None);
    }

    #[test]
    fn an_outcome_carries_its_name_cut_to_a_line() {
        let outcome = Outcome { label: "x".repeat(100), ..outcome(1, false) };
        let expected = format!("task 1  ({}...)", "x".repeat(MAX_LABEL - 3));
        assert_eq!(Outcomes::default().lines(&[outcome], 0), [expected]);
    }
}
