//! A stopwatch: which calls of one operation run, since when, how they ended, and which of them are slow.
//!
//! A call is slow once it has taken as long as the threshold, and not only when it has ended: [`Stopwatch::overdue`]
//! finds those that still run. Each is counted once, and each that runs is told once.
//!
//! Does not live here: the distribution of the times (a histogram is kept beside the machine), and whoever is told.
//! Times are of whatever clock the caller reads; a call is judged by the clock it began on, never against another one.

use crate::slab::Slab;

const NONE: u32 = u32::MAX;

/// Which clock a time is of: the system's, or a simulated loop's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock(pub u64);

/// One call that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    index: u32,
    /// Numbers are used again; this one is not, for four billion calls.
    turn: u32,
}

impl Run {
    /// As one number, for those who can keep only that.
    #[must_use]
    pub fn pack(self) -> u64 {
        u64::from(self.turn) << 32 | u64::from(self.index)
    }

    /// The reverse of [`pack`](Self::pack).
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "each half is one of the numbers")]
    pub fn unpack(packed: u64) -> Self {
        Self { index: packed as u32, turn: (packed >> 32) as u32 }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a result.
    Returned,
    /// With an error.
    Failed,
    /// By a cancel.
    Cancelled,
}

/// A call that has ended.
#[derive(Debug, PartialEq)]
pub struct Ended<T> {
    /// Seconds from its beginning to its end; None when the clock is not the one that it began on.
    pub elapsed: Option<f64>,
    /// Whether it took as long as the threshold.
    pub slow: bool,
    /// Whether it was told as overdue before.
    pub told: bool,
    /// What [`Stopwatch::begin`] was given.
    pub what: T,
}

/// The totals of a [`Stopwatch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that have ended, whatever way.
    pub ended: u64,
    /// Of these, with an error.
    pub failed: u64,
    /// Of these, by a cancel.
    pub cancelled: u64,
    /// Calls that took as long as the threshold, those that still run included.
    pub slow: u64,
}

#[derive(Debug)]
struct Entry<T> {
    what: T,
    since: f64,
    clock: Clock,
    turn: u32,
    told: bool,
    prev: u32,
    next: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Stopwatch<T> {
    runs: Slab<Entry<T>>,
    /// Runs in the order of their beginning.
    head: u32,
    tail: u32,
    turn: u32,
    threshold: f64,
    counts: Counts,
}

impl<T> Default for Stopwatch<T> {
    fn default() -> Self {
        Self {
            runs: Slab::default(),
            head: NONE,
            tail: NONE,
            turn: 0,
            threshold: f64::INFINITY,
            counts: Counts::default(),
        }
    }
}

impl<T> Stopwatch<T> {
    /// Seconds from which on a call is slow; infinity: none is.
    pub fn set_threshold(&mut self, seconds: f64) {
        self.threshold = seconds;
    }

    /// What [`set_threshold`](Self::set_threshold) said.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Calls that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.runs.len()
    }

    /// The totals.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// A call begins.
    #[inline]
    pub fn begin(&mut self, now: f64, clock: Clock, what: T) -> Run {
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn;
        let entry = Entry { what, since: now, clock, turn, told: false, prev: self.tail, next: NONE };
        let index = self.runs.insert(entry);
        match self.runs.get_mut(self.tail) {
            Some(last) => last.next = index,
            None => self.head = index,
        }
        self.tail = index;
        Run { index, turn }
    }

    /// A call has ended. None when it was ended before, or is of another stopwatch.
    #[inline]
    pub fn end(&mut self, run: Run, now: f64, clock: Clock, outcome: Outcome) -> Option<Ended<T>> {
        self.runs.get(run.index).filter(|entry| entry.turn == run.turn)?;
        let (entry, _) = self.runs.remove(run.index);
        match self.runs.get_mut(entry.prev) {
            Some(before) => before.next = entry.next,
            None => self.head = entry.next,
        }
        match self.runs.get_mut(entry.next) {
            Some(after) => after.prev = entry.prev,
            None => self.tail = entry.prev,
        }
        let elapsed = (entry.clock == clock).then(|| (now - entry.since).max(0.0));
        let slow = entry.told || elapsed.is_some_and(|elapsed| elapsed >= self.threshold);
        self.counts.ended += 1;
        self.counts.failed += u64::from(outcome == Outcome::Failed);
        self.counts.cancelled += u64::from(outcome == Outcome::Cancelled);
        self.counts.slow += u64::from(slow && !entry.told);
        Some(Ended { elapsed, slow, told: entry.told, what: entry.what })
    }

    /// The calls that run for as long as the threshold and were not told before, the oldest first; they are told now.
    ///
    /// Looks at no more calls than are overdue and one, and at those of other clocks before them.
    pub fn overdue(&mut self, now: f64, clock: Clock) -> Vec<(f64, &T)> {
        let mut found = Vec::new();
        let mut index = self.head;
        while let Some(entry) = self.runs.get_mut(index) {
            let at = index;
            index = entry.next;
            if entry.clock != clock {
                continue;
            }
            let elapsed = now - entry.since;
            if elapsed < self.threshold {
                break;
            }
            if !entry.told {
                entry.told = true;
                self.counts.slow += 1;
                found.push((elapsed, at));
            }
        }
        let told = found.into_iter();
        told.filter_map(|(elapsed, at)| self.runs.get(at).map(|entry| (elapsed, &entry.what))).collect()
    }
}

/// How often something may be said: once in so many seconds; what is left out meanwhile is counted.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    every: f64,
    last: f64,
    left_out: u64,
}

impl Pace {
    /// Once in `every` seconds.
    #[must_use]
    pub fn new(every: f64) -> Self {
        Self { every, last: f64::NEG_INFINITY, left_out: 0 }
    }

    /// Something is to be said: how often it was not since it was said last, or None: not now. A clock that went back
    /// is another one.
    pub fn ask(&mut self, now: f64) -> Option<u64> {
        if now >= self.last && now - self.last < self.every {
            self.left_out += 1;
            return None;
        }
        self.last = now;
        Some(std::mem::take(&mut self.left_out))
    }
}
