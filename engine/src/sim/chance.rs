//! The only source of randomness of a simulation: the same seed draws the same things, for ever.

use rand_core::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256StarStar;

/// A stream of draws from a seed (xoshiro256**, whose output is a documented, fixed function of the seed).
#[derive(Debug, Clone)]
pub(super) struct Chance {
    source: Xoshiro256StarStar,
}

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self { source: Xoshiro256StarStar::seed_from_u64(seed) }
    }

    /// A number below `bound` (0 where `bound` is 0). The bias of the remainder is below 2^-32 for the bounds
    /// used here, and no property rests on it.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.source.next_u64() % bound }
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `per_mille` times in a thousand.
    pub(super) fn per_mille(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// Mostly near `typical`, sometimes much more: the shape of latencies.
    pub(super) fn latency(&mut self, typical: u64) -> u64 {
        let base = self.between(typical / 2, typical + typical / 2);
        if self.per_mille(20) { base * self.between(2, 12) } else { base }
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let index = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        from.get(index).copied()
    }
}
