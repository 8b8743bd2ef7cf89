//! Random schedules: each decision by lot, a number of schedules or without end.

use super::{Candidate, Question, Run, Strategy};
use crate::rng::Rng;

/// Schedules of consecutive seeds. Every candidate is as likely as the others.
#[derive(Debug)]
pub struct Random {
    rng: Rng,
    next_seed: u64,
    left: Option<u64>,
}

impl Random {
    /// `count` schedules, of the seeds from `first_seed` on; without end when `None`.
    #[must_use]
    pub fn new(first_seed: u64, count: Option<u64>) -> Self {
        Self { rng: Rng::new(0), next_seed: first_seed, left: count }
    }
}

/// Neighbouring seeds give unlike numbers from the first one on.
pub(super) fn spread(seed: u64) -> Rng {
    Rng::new(Rng::new(seed).draw())
}

impl Strategy for Random {
    fn begin(&mut self) -> bool {
        if self.left == Some(0) {
            return false;
        }
        self.left = self.left.map(|left| left - 1);
        self.rng = spread(self.next_seed);
        self.next_seed = self.next_seed.wrapping_add(1);
        true
    }

    fn choose(&mut self, _question: Question, candidates: &[Candidate]) -> usize {
        self.rng.below(candidates.len())
    }

    fn end(&mut self, _run: &Run<'_>) {}
}
