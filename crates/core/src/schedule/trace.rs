//! What was decided in a run: enough to run it again, and a digest to tell whether it was the same run.
//!
//! A schedule is written down as its *deviations*: the decisions whose answer was not the first candidate (what asyncio
//! would have run), each with its place, its answer and the lane that it chose. A shrunk schedule has few of them.

use super::{Candidate, Coverage, Lane, Question, Run, Strategy};
use crate::rng::Rng;

/// A decision that was not first in, first out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// Which decision, counted from 0.
    pub decision: u32,
    /// The candidate that was chosen.
    pub chosen: u32,
    /// Its lane: on replay, tells whether the program still does the same. [`ANY_LANE`]: not known.
    pub lane: Lane,
}

/// Stands for whatever lane has that place.
pub const ANY_LANE: Lane = Lane::MAX;

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    deviations: Vec<Deviation>,
    decisions: u32,
    preemptions: u32,
    digest: u64,
}

impl Trace {
    /// A decision was made.
    pub fn decided(&mut self, _question: Question, count: usize, chosen: usize, lane: Lane) {
        #[allow(clippy::cast_possible_truncation, reason = "more than u32::MAX candidates do not fit in memory")]
        let chosen = chosen as u32;
        if chosen > 0 {
            self.deviations.push(Deviation { decision: self.decisions, chosen, lane });
        }
        self.decisions += 1;
        self.mix(count as u64);
    }

    /// The lane that ran before could have gone on, and another one goes.
    pub fn preempted(&mut self) {
        self.preemptions += 1;
    }

    /// A step of this lane was run.
    pub fn stepped(&mut self, lane: Lane) {
        self.mix(u64::from(lane) << 32);
    }

    fn mix(&mut self, value: u64) {
        self.digest = Rng::new(self.digest ^ value).draw();
    }

    /// How often a lane that could have gone on did not.
    #[must_use]
    pub fn preemptions(&self) -> u32 {
        self.preemptions
    }

    /// Decisions made.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.decisions
    }

    /// Whether no decision was made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.decisions == 0
    }

    /// The decisions that were not first in, first out.
    #[must_use]
    pub fn deviations(&self) -> &[Deviation] {
        &self.deviations
    }

    /// A digest of every step's lane and every decision's size. Two runs with the same digest took the same course.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The schedule as bytes: three LEB128 numbers per deviation (distance from the one before, answer, lane).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut next = 0;
        for deviation in &self.deviations {
            for number in [deviation.decision - next, deviation.chosen, deviation.lane] {
                write_leb128(&mut bytes, number);
            }
            next = deviation.decision + 1;
        }
        bytes
    }

    /// The deviations that [`Trace::encode`] wrote down.
    ///
    /// # Errors
    /// The bytes are not a schedule.
    pub fn decode(bytes: &[u8]) -> Result<Vec<Deviation>, Malformed> {
        let mut bytes = bytes.iter().copied();
        let mut deviations = Vec::new();
        let mut next = 0_u32;
        while bytes.len() > 0 {
            let distance = read_leb128(&mut bytes)?;
            let chosen = read_leb128(&mut bytes)?;
            let lane = read_leb128(&mut bytes)?;
            let decision = next.checked_add(distance).ok_or(Malformed)?;
            if chosen == 0 {
                return Err(Malformed);
            }
            deviations.push(Deviation { decision, chosen, lane });
            next = decision.checked_add(1).ok_or(Malformed)?;
        }
        Ok(deviations)
    }
}

/// The bytes are not a schedule: they were cut off, or are something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

fn write_leb128(bytes: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        bytes.push((number & 0x7F) as u8 | 0x80);
        number >>= 7;
    }
    #[allow(clippy::cast_possible_truncation, reason = "below 0x80")]
    bytes.push(number as u8);
}

fn read_leb128(bytes: &mut impl Iterator<Item = u8>) -> Result<u32, Malformed> {
    let mut number = 0_u64;
    for shift in (0..35).step_by(7) {
        let byte = bytes.next().ok_or(Malformed)?;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(number).map_err(|_| Malformed);
        }
    }
    Err(Malformed)
}

/// Runs one schedule again: the deviations that it has, and first in, first out everywhere else.
#[derive(Debug)]
pub struct Replay {
    deviations: Vec<Deviation>,
    begun: bool,
    decision: u32,
    next: usize,
    diverged: Option<Deviation>,
}

impl Replay {
    /// The schedule with these deviations, in order.
    #[must_use]
    pub fn new(deviations: Vec<Deviation>) -> Self {
        Self { deviations, begun: false, decision: 0, next: 0, diverged: None }
    }
}

impl Strategy for Replay {
    fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.begun, true)
    }

    fn choose(&mut self, _question: Question, candidates: &[Candidate]) -> usize {
        let decision = self.decision;
        self.decision += 1;
        let Some(deviation) = self.deviations.get(self.next).copied().filter(|next| next.decision == decision) else {
            return 0;
        };
        self.next += 1;
        let is_meant = |lane| lane == deviation.lane || deviation.lane == ANY_LANE;
        if candidates.get(deviation.chosen as usize).is_some_and(|candidate| is_meant(candidate.lane)) {
            return deviation.chosen as usize;
        }
        // The program was edited, perhaps: the lane that was meant, if it is there.
        let meant = candidates.iter().position(|candidate| candidate.lane == deviation.lane);
        if self.diverged.is_none() {
            self.diverged = Some(deviation);
        }
        meant.unwrap_or(0)
    }

    fn end(&mut self, _run: &Run<'_>) {}

    fn coverage(&self) -> Coverage {
        Coverage::Partial("one schedule was run again".into())
    }

    fn diverged(&self) -> Option<Deviation> {
        self.diverged
    }
}
