//! How long to wait for a coordinator that went away: growing pauses, bounded in all.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Context, error::Error, io::Io};

/// Bounds of the waiting.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The first pause; each further one is twice as long.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// Give up after so long without an answer.
    pub give_up: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(5),
            give_up: Duration::from_secs(60),
        }
    }
}

impl Patience {
    /// The pause before the `n`th try again, counted from 0.
    fn pause(&self, n: u32) -> Duration {
        self.first.saturating_mul(1u32.checked_shl(n).unwrap_or(u32::MAX)).min(self.longest)
    }
}

/// The time without an answer, from the first failure to the next success. Of several at once, only the first is
/// spoken of, and the end of the last.
#[derive(Default)]
pub struct Outage {
    since: Option<(Instant, Io)>,
    /// The end of a pause that is being made.
    until: Option<Instant>,
    tries: u32,
}

impl Outage {
    /// Waits before the next try, saying so on the first one. Fails once the patience is used up. May be cancelled
    /// and called again: it is the same pause then.
    pub async fn wait(&mut self, context: &Context, why: &str) -> Result<(), Error> {
        let patience = context.patience;
        let (since, _) = self.since.get_or_insert_with(|| {
            let seconds = patience.give_up.as_secs();
            if context.io.outage_begins() {
                context.io.say(&format!(
                    "the coordinator at {} went away ({}); trying again for {seconds} s",
                    context.url,
                    crate::sanitize::one_line(why)
                ));
            }
            (Instant::now(), context.io.clone())
        });
        let until = match self.until {
            Some(until) => until,
            None if since.elapsed() >= patience.give_up => {
                let seconds = since.elapsed().as_secs();
                return Err(Error::GaveUp { url: context.url.clone(), seconds });
            }
            None => *self.until.insert(Instant::now() + jittered(patience.pause(self.tries))),
        };
        tokio::time::sleep_until(until).await;
        self.until = None;
        self.tries = self.tries.saturating_add(1);
        Ok(())
    }

    /// An answer came.
    pub fn over(&mut self, context: &Context) {
        if self.since.take().is_some() && context.io.outage_ends() {
            context.io.say("the coordinator is back");
        }
        self.until = None;
        self.tries = 0;
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        if let Some((_, io)) = self.since.take() {
            io.outage_ends();
        }
    }
}

/// Between three quarters of the pause and all of it, so that many watchers do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without random numbers the pause is just not spread.
    let _ = getrandom::fill(&mut byte);
    pause - pause / 4 * u32::from(byte[0]) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let patience = Patience::default();
        let pauses: Vec<_> = (0..7).map(|n| patience.pause(n).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(patience.pause(u32::MAX), patience.longest);
    }

    #[tokio::test]
    async fn a_pause_that_is_cancelled_goes_on_where_it_was() {
        let io = Io::new(Box::new(std::io::sink()), Box::new(std::io::sink()), false);
        let first = Duration::from_secs(3600);
        let patience = Patience { first, longest: first, give_up: first };
        let context = Context { io, url: "http://h:1".to_owned(), patience };
        let mut outage = Outage::default();
        let mut ends = Vec::new();
        for _ in 0..2 {
            tokio::select! {
                biased;
                _ = outage.wait(&context, "gone") => panic!("an hour is not over"),
                () = std::future::ready(()) => {}
            }
            ends.push(outage.until.unwrap());
        }
        assert_eq!((ends[0], outage.tries), (ends[1], 0));
    }

    #[test]
    fn jitter_stays_within_a_quarter() {
        let pause = Duration::from_secs(4);
        for _ in 0..100 {
            let jittered = jittered(pause);
            assert!(jittered <= pause && jittered >= pause / 4 * 3);
        }
    }
}
