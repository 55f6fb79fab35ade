//! Choices from a seed that is printed, so that a run which failed can be made again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Takes up an earlier run's seed.
const VARIABLE: &str = "MUSTER_CHAOS_SEED";

/// A small generator (splitmix64): even enough for choosing moments.
pub(crate) struct Dice(u64);

impl Dice {
    /// From the variable, else from the clock; prints which.
    pub(crate) fn thrown() -> Self {
        let seed = match std::env::var(VARIABLE) {
            Ok(seed) => seed.parse().expect("a seed is a number"),
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 % 1_000_000_000,
        };
        println!("{VARIABLE}={seed}");
        Self(seed)
    }

    /// A number below `sides`.
    pub(crate) fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    /// Lets a moment pass, so that a blow comes at a point that nothing has prepared.
    pub(crate) async fn moment(&mut self, at_most_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.below(at_most_ms))).await;
    }
}
