//! Probabilistic concurrency testing: tasks have priorities, and a few change at random places.
//!
//! Burckhardt, Kothari, Musuvathi, Nagarakatte 2010, "A randomized scheduler with probabilistic guarantees of finding
//! bugs": a bug that needs `depth` ordering constraints is met by one schedule with a chance of at least
//! `1 / (tasks * decisions^(depth - 1))`, which random walks do not promise. Here decisions stand for their steps.
//!
//! Lanes get their priority when they are met first. A plain callback at the front goes at once: asyncio's own
//! machinery is not what is tested. A task that does nothing but yield goes behind all others after a while, so that
//! a loop around `sleep(0)` gets what it waits for (shuttle demotes at each yield; in asyncio nearly every step is
//! one).

use std::collections::HashMap;

use super::random::spread;
use super::{Candidate, Coverage, Kind, Lane, Question, Run, Strategy};
use crate::rng::Rng;

/// A lane that has yielded so often in a row, with others waiting, goes behind them.
const YIELDS: u32 = 48;
/// Decisions that a program is taken to make until one run of it is known.
const GUESS: u32 = 32;

/// See the module's documentation.
#[derive(Debug)]
pub struct Pct {
    rng: Rng,
    next_seed: u64,
    left: u64,
    depth: u32,
    /// The most decisions that a run has made.
    decisions: u32,
    decision: u32,
    /// Decisions at which the lane with the highest priority loses it, sorted.
    changes: Vec<u32>,
    /// Higher goes first. Drawn ones are positive; each demotion gives the lowest so far.
    priorities: HashMap<Lane, i64>,
    lowest: i64,
    last: Option<Lane>,
    yields: u32,
}

impl Pct {
    /// `count` schedules, of the seeds from `first_seed` on, each with `depth - 1` changes.
    #[must_use]
    pub fn new(first_seed: u64, count: u64, depth: u32) -> Self {
        Self {
            rng: Rng::new(0),
            next_seed: first_seed,
            left: count,
            depth,
            decisions: 0,
            decision: 0,
            changes: Vec::new(),
            priorities: HashMap::new(),
            lowest: 0,
            last: None,
            yields: 0,
        }
    }

    fn highest(&mut self, candidates: &[Candidate]) -> usize {
        if candidates[0].kind == Kind::Callback {
            return 0;
        }
        let mut best = (i64::MIN, 0);
        for (index, candidate) in candidates.iter().enumerate() {
            let rng = &mut self.rng;
            let priority =
                *self.priorities.entry(candidate.lane).or_insert_with(|| 1 + (rng.draw() >> 2).cast_signed());
            if priority > best.0 {
                best = (priority, index);
            }
        }
        best.1
    }

    fn demote(&mut self, lane: Lane) {
        self.lowest -= 1;
        self.priorities.insert(lane, self.lowest);
    }
}

impl Strategy for Pct {
    fn begin(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        self.rng = spread(self.next_seed);
        self.next_seed = self.next_seed.wrapping_add(1);
        let range = if self.decisions == 0 { GUESS } else { self.decisions };
        self.changes = (1..self.depth).map(|_| self.draw_below(range)).collect();
        self.changes.sort_unstable();
        self.decision = 0;
        self.priorities.clear();
        self.lowest = 0;
        self.last = None;
        self.yields = 0;
        true
    }

    fn choose(&mut self, question: Question, candidates: &[Candidate]) -> usize {
        let decision = self.decision;
        self.decision += 1;
        if question != Question::Ready {
            return self.rng.below(candidates.len());
        }
        let mut chosen = self.highest(candidates);
        for _ in 0..self.changes.iter().filter(|&&change| change == decision).count() {
            self.demote(candidates[chosen].lane);
            chosen = self.highest(candidates);
        }
        let next = candidates[chosen];
        self.yields = if next.yielded && self.last == Some(next.lane) { self.yields + 1 } else { 0 };
        if self.yields >= YIELDS {
            self.yields = 0;
            self.demote(next.lane);
            chosen = self.highest(candidates);
        }
        self.last = Some(candidates[chosen].lane);
        chosen
    }

    fn end(&mut self, run: &Run<'_>) {
        self.decisions = self.decisions.max(run.trace.len());
    }

    fn coverage(&self) -> Coverage {
        Coverage::Partial(format!("a sample of the schedules with {} priority changes was run", self.depth.max(1) - 1))
    }
}

impl Pct {
    fn draw_below(&mut self, range: u32) -> u32 {
        #[allow(clippy::cast_possible_truncation, reason = "below `range`")]
        let drawn = self.rng.below(range as usize) as u32;
        drawn
    }
}
