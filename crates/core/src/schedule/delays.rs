//! Delay bounding: every schedule that is almost first in, first out.
//!
//! Emmi, Qadeer, Rakamarić 2011, "Delay-bounded scheduling": most bugs need few deviations from a deterministic
//! scheduler. Here that scheduler is asyncio's own order, and one delay is one decision whose answer is not the first
//! candidate. Breadth first: all schedules with no delay (there is one), with one, with two, up to the bound.
//!
//! A run tells how many decisions come after its last delay, and how many answers each has; the schedules with one
//! delay more that begin like it follow from that. So no schedule is run twice, and the search knows when it is done.

use std::collections::VecDeque;

use super::{Candidate, Coverage, Question, Run, Strategy};

/// See the module's documentation.
#[derive(Debug)]
pub struct Delays {
    bound: u32,
    /// Runs whose schedules with one delay more are still to be run, fewest delays first.
    parents: VecDeque<Parent>,
    /// The delays of this run: decision and answer, in order.
    delays: Vec<(u32, u32)>,
    /// What each decision of this run could have been, from the one after the last delay on.
    counts: Vec<u32>,
    decision: u32,
    begun: bool,
    done: bool,
    diverged: bool,
}

#[derive(Debug)]
struct Parent {
    delays: Vec<(u32, u32)>,
    /// The decision after its last delay, and how many candidates that one and the ones behind it had.
    first: u32,
    counts: Vec<u32>,
    /// The next schedule: index into `counts`, and the answer there.
    next: (usize, u32),
}

impl Parent {
    fn child(&mut self) -> Option<Vec<(u32, u32)>> {
        loop {
            let (place, answer) = self.next;
            if answer >= *self.counts.get(place)? {
                self.next = (place + 1, 1);
                continue;
            }
            self.next.1 += 1;
            let mut delays = self.delays.clone();
            #[allow(clippy::cast_possible_truncation, reason = "decisions are counted in u32")]
            delays.push((self.first + place as u32, answer));
            return Some(delays);
        }
    }
}

impl Delays {
    /// Every schedule with at most `bound` delays.
    #[must_use]
    pub fn new(bound: u32) -> Self {
        Self {
            bound,
            parents: VecDeque::new(),
            delays: Vec::new(),
            counts: Vec::new(),
            decision: 0,
            begun: false,
            done: false,
            diverged: false,
        }
    }

    fn after_last_delay(&self) -> u32 {
        self.delays.last().map_or(0, |last| last.0 + 1)
    }
}

impl Strategy for Delays {
    fn begin(&mut self) -> bool {
        self.decision = 0;
        self.counts.clear();
        if !std::mem::replace(&mut self.begun, true) {
            return true;
        }
        while let Some(parent) = self.parents.front_mut() {
            if let Some(delays) = parent.child() {
                self.delays = delays;
                return true;
            }
            self.parents.pop_front();
        }
        self.done = true;
        false
    }

    fn choose(&mut self, _question: Question, candidates: &[Candidate]) -> usize {
        let decision = self.decision;
        self.decision += 1;
        if let Ok(place) = self.delays.binary_search_by_key(&decision, |delay| delay.0) {
            let answer = self.delays[place].1 as usize;
            self.diverged |= answer >= candidates.len();
            return answer;
        }
        if decision >= self.after_last_delay() {
            self.counts.push(u32::try_from(candidates.len()).unwrap_or(u32::MAX));
        }
        0
    }

    fn end(&mut self, _run: &Run<'_>) {
        let first = self.after_last_delay();
        self.diverged |= self.decision < first;
        if self.delays.len() < self.bound as usize && !self.counts.is_empty() {
            let (delays, counts) = (self.delays.clone(), std::mem::take(&mut self.counts));
            self.parents.push_back(Parent { delays, first, counts, next: (0, 1) });
        }
    }

    fn coverage(&self) -> Coverage {
        Coverage::Partial(if self.diverged {
            "the program did not do the same when it was run the same way".into()
        } else if self.done {
            format!("every schedule with at most {} delays was run", self.bound)
        } else {
            format!("some of the schedules with at most {} delays were run", self.bound)
        })
    }
}
