//! Shrinking: from a schedule that fails to a simple one that still does.
//!
//! Zeller, Hildebrandt 2002, "Simplifying and isolating failure-inducing input" (ddmin), over the deviations from first
//! in, first out: halves of them are left out, then quarters, down to single ones, from the end on (what is left out
//! there moves nothing else); once so that what comes after moves up, once so that it stays. Before that, every schedule with a single deviation is tried when the run is short: what
//! a random schedule finds with fifty deviations often takes one. After it, each deviation is made smaller (a candidate
//! nearer to the front) and moved to its neighbours, where that needs fewer preemptions.
//!
//! Simpler is: fewer deviations; then fewer preemptions; then answers nearer to the front. The result is the simplest
//! schedule that was *found*: the number of runs is bounded.

use std::collections::HashSet;

use super::trace::{ANY_LANE, Deviation, Trace};

/// Runs of at most so many decisions have all their single deviations tried.
const SHORT: u32 = 150;
/// Second and third candidates: which ones.
const NEAR: u32 = 2;

/// A search that is asked for a schedule, and told whether the run failed, until it has no more questions.
///
/// ```text
/// while let Some(deviations) = shrink.next() { run; shrink.answer(failed, trace) }
/// shrink.best()
/// ```
#[derive(Debug)]
pub struct Shrink {
    best: Vec<Deviation>,
    cost: Cost,
    decisions: u32,
    left: u32,
    phase: Phase,
    tried: HashSet<Vec<(u32, u32, u32)>>,
}

/// Deviations, preemptions, sum of the answers.
type Cost = (usize, u32, u64);

#[derive(Clone, Copy, Debug)]
enum Phase {
    Nothing,
    Single { decision: u32, chosen: u32 },
    LeaveOut { size: usize, end: usize, again: bool, closing: bool },
    Lower { place: usize, to: u32 },
    Move { place: usize, way: usize },
    Over,
}

impl Phase {
    fn leave_out(size: usize, end: usize) -> Self {
        Self::LeaveOut { size, end, again: false, closing: true }
    }
}

/// Where a deviation is moved to, in decisions.
const WAYS: [i64; 4] = [-1, 1, -2, 2];

fn cost(trace: &Trace) -> Cost {
    let answers = trace.deviations().iter().map(|deviation| u64::from(deviation.chosen)).sum();
    (trace.deviations().len(), trace.preemptions(), answers)
}

impl Shrink {
    /// Shrinks this schedule, whose run has failed, in at most `limit` runs.
    #[must_use]
    pub fn new(failed: &Trace, limit: u32) -> Self {
        Self {
            best: failed.deviations().to_vec(),
            cost: cost(failed),
            decisions: failed.len(),
            left: limit,
            phase: Phase::Nothing,
            tried: HashSet::new(),
        }
    }

    /// The simplest failing schedule so far.
    #[must_use]
    pub fn best(&self) -> &[Deviation] {
        &self.best
    }

    /// The schedule to run next; None: [`Shrink::best`] is the answer.
    #[allow(clippy::should_implement_trait, reason = "each question has to be answered before the next one")]
    pub fn next(&mut self) -> Option<Vec<Deviation>> {
        if self.left == 0 {
            return None;
        }
        loop {
            let schedule = self.propose()?;
            let key = schedule.iter().map(|deviation| (deviation.decision, deviation.chosen, deviation.lane)).collect();
            if schedule != self.best && self.tried.insert(key) {
                self.left -= 1;
                return Some(schedule);
            }
        }
    }

    /// The run of the last question is over. What it did counts, not what was asked for.
    pub fn answer(&mut self, failed: bool, trace: &Trace) {
        if let Phase::Single { decision: 0, chosen: 1 } = self.phase {
            // This was first in, first out: it tells how many decisions there are.
            self.decisions = trace.len();
        }
        if !failed || cost(trace) >= self.cost {
            return;
        }
        self.best = trace.deviations().to_vec();
        self.cost = cost(trace);
        self.phase = match self.phase {
            Phase::Single { .. } => Phase::leave_out(1, 0),
            // What was behind the part that is gone was tried.
            Phase::LeaveOut { size, end, .. } => {
                Phase::LeaveOut { size, end: end.min(self.best.len()), again: true, closing: true }
            }
            Phase::Lower { .. } => Phase::Lower { place: 0, to: 1 },
            Phase::Move { .. } => Phase::Move { place: 0, way: 0 },
            other => other,
        };
    }

    fn propose(&mut self) -> Option<Vec<Deviation>> {
        loop {
            let count = self.best.len();
            match self.phase {
                Phase::Nothing => {
                    self.phase = Phase::Single { decision: 0, chosen: 1 };
                    if count > 0 {
                        return Some(Vec::new());
                    }
                }
                Phase::Single { decision, chosen } => {
                    if count <= 1 || self.decisions > SHORT || decision >= self.decisions {
                        let size = count.div_ceil(2).max(1);
                        self.phase = Phase::leave_out(size, count);
                        continue;
                    }
                    self.phase = if chosen < NEAR {
                        Phase::Single { decision, chosen: chosen + 1 }
                    } else {
                        Phase::Single { decision: decision + 1, chosen: 1 }
                    };
                    return Some(vec![Deviation { decision, chosen, lane: ANY_LANE }]);
                }
                Phase::LeaveOut { size, end, again, closing } if end > 0 => {
                    let end = end.min(count);
                    let begin = end.saturating_sub(size);
                    let next = if closing { end } else { begin };
                    self.phase = Phase::LeaveOut { size, end: next, again, closing: !closing };
                    let mut schedule = self.best.clone();
                    #[allow(clippy::cast_possible_truncation, reason = "deviations are counted in u32")]
                    let gone = schedule.drain(begin..end).len() as u32;
                    if closing {
                        // What is left out did not happen at all: what came after it comes that much earlier.
                        let before = begin.checked_sub(1).map_or(0, |last| schedule[last].decision + 1);
                        for deviation in &mut schedule[begin..] {
                            deviation.decision = deviation.decision.saturating_sub(gone).max(before);
                        }
                        schedule.dedup_by_key(|deviation| deviation.decision);
                    }
                    return Some(schedule);
                }
                Phase::LeaveOut { size: 1, again: true, .. } if count > 0 => {
                    self.phase = Phase::leave_out(1, count);
                }
                Phase::LeaveOut { size: 1, .. } => self.phase = Phase::Lower { place: 0, to: 1 },
                Phase::LeaveOut { size, .. } => {
                    let size = size.div_ceil(2).min(count.max(1));
                    self.phase = Phase::leave_out(size, count);
                }
                Phase::Lower { place, .. } if place >= count => self.phase = Phase::Move { place: 0, way: 0 },
                Phase::Lower { place, to } if to >= self.best[place].chosen => {
                    self.phase = Phase::Lower { place: place + 1, to: 1 };
                }
                Phase::Lower { place, to } => {
                    self.phase = Phase::Lower { place, to: to + 1 };
                    let mut schedule = self.best.clone();
                    schedule[place].chosen = to;
                    schedule[place].lane = ANY_LANE;
                    return Some(schedule);
                }
                Phase::Move { place, .. } if place >= count => self.phase = Phase::Over,
                Phase::Move { place, way } if way >= WAYS.len() => {
                    self.phase = Phase::Move { place: place + 1, way: 0 };
                }
                Phase::Move { place, way } => {
                    self.phase = Phase::Move { place, way: way + 1 };
                    let moved = i64::from(self.best[place].decision) + WAYS[way];
                    let after = place.checked_sub(1).map_or(-1, |before| i64::from(self.best[before].decision));
                    let until = self.best.get(place + 1).map_or(i64::MAX, |next| i64::from(next.decision));
                    if let Ok(decision) = u32::try_from(moved)
                        && after < moved
                        && moved < until
                    {
                        let mut schedule = self.best.clone();
                        schedule[place].decision = decision;
                        return Some(schedule);
                    }
                }
                Phase::Over => return None,
            }
        }
    }
}
