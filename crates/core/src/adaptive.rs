//! Adaptive: a limit on concurrency that finds itself, from how long calls take and which of them were too much.
//!
//! A server of capacity C answers C calls in the time of one. Beyond that *knee* a higher limit adds nothing but delay:
//! the calls stand in the server's queue. Where the knee is shows in the ratio of the delay without a queue (the
//! *base*) to the delay now: `limit * base / delay` is the number of calls that are served rather than queued.
//!
//! * [`Strategy::Gradient`] keeps `limit * base / delay` calls and a few more in flight, the few being what finds out
//!   that the knee has moved up. In the manner of Netflix's concurrency-limits (its `Gradient2Limit`), but for the base:
//!   theirs is a long average of all delays, which takes a lasting queue for the normal state after a while. Here it is
//!   measured where there is no queue: now and then the limit is halved for one window (BBR's `ProbeRTT`: Cardwell et
//!   al., "BBR: congestion-based congestion control", 2016), again if that shows that there was a queue even so.
//! * [`Strategy::Aimd`] adds one per window and takes a share away when calls were too much or slower than wanted (Chiu
//!   and Jain, 1989; TCP).
//!
//! Both begin with a *slow start*: half as much again per window until the first sign of a queue.
//!
//! Delays are averaged over *windows* of calls that all began after the limit was last changed: what was admitted under
//! an old limit says nothing about the new one. Which end belongs to which begin need not be known, since the mean is
//! the same whatever pairs are made (which is Little's law); they are paired in the order in which they came.
//!
//! Lives here: the limit. Does not live here: the permits and who waits for them, which is `semaphore`.

use std::collections::VecDeque;

/// How the limit is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strategy {
    /// By the ratio of the delay without a queue to the delay now.
    Gradient,
    /// One more per window, a share less when a window's mean delay is above `target` seconds (if there is one) or a
    /// call was too much.
    Aimd {
        /// The longest mean delay that is still right, in seconds.
        target: Option<f64>,
    },
}

/// What a call said about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// How long it takes.
    Served,
    /// Nothing: it was cancelled, or failed for a reason of its own.
    Ignored,
    /// That it has too much to do.
    Overload,
}

/// What it is told at the start.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How it is found.
    pub strategy: Strategy,
    /// The first limit.
    pub initial: u32,
    /// The limit is never below that; 1 or more.
    pub least: u32,
    /// The limit is never above that.
    pub most: u32,
    /// What an overload leaves of the limit: a share below 1.
    pub backoff: f64,
}

/// A call whose begin is known to whoever will report its end.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// When.
    pub at: f64,
    /// Which call it is, counted from 0.
    pub number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// No queue has been seen yet.
    SlowStart,
    Steady,
    /// The limit is halved, once or more often, to see how long calls take without a queue. With a halving less they
    /// took `delay`.
    Drain {
        halvings: i32,
        delay: f64,
    },
}

/// Calls in a window, at least; and at most when delays are spread so widely that their mean is not certain (its
/// standard error is a larger share of it than that).
const SAMPLES: u64 = 50;
const MOST_SAMPLES: u64 = 400;
const CERTAIN: f64 = 0.05;
/// A window waits for its last calls until so many times as many others have ended.
const PATIENCE: u64 = 3;
/// Windows from one drain to the next.
const DRAIN_EVERY: u32 = 20;
/// What slow start makes of a limit.
const SLOW_START: f64 = 1.5;
/// A ratio of delays below this is a queue, above it may be chance.
const QUEUE: f64 = 0.8;
/// Delays this many times the base are no queue: neither is known exactly.
const TOLERANCE: f64 = 1.1;
/// A ratio that asks for less at once; what is above it goes half of the way.
const SURE: f64 = 0.7;

/// See the module's documentation.
#[derive(Debug)]
pub struct Adaptive {
    config: Config,
    phase: Phase,
    /// The limit with its fraction.
    limit: f64,
    /// The calls in flight whose end is reported without a word about their begin.
    begun: VecDeque<Begun>,
    /// Those whose end is reported with it.
    known: usize,
    /// The number of the next call.
    next: u64,
    /// The cohort: the calls from this number on, as many as `size`. How many of them ended; how many others did
    /// meanwhile.
    first: u64,
    size: u64,
    ended: u64,
    others: u64,
    /// The window, of one cohort or more: how many calls gave a delay, the sum of those and of their squares, the most
    /// calls in flight.
    served: u64,
    sum: f64,
    squares: f64,
    peak: usize,
    /// The delay without a queue.
    base: Option<f64>,
    /// The mean delay of the last window.
    delay: Option<f64>,
    windows: u64,
    /// Windows since the last drain; the limit before it and the delay that calls had then.
    since_drain: u32,
    undrained: (f64, f64),
    /// Windows in a row without any sign of a queue.
    quiet: u32,
    overloads: u64,
}

impl Adaptive {
    /// A limit that has learnt nothing yet.
    ///
    /// # Panics
    /// When the limits are not in order, or the backoff is no share.
    #[must_use]
    pub fn new(config: Config) -> Self {
        assert!(1 <= config.least && config.least <= config.initial && config.initial <= config.most);
        assert!(0.0 < config.backoff && config.backoff < 1.0);
        let mut new = Self {
            config,
            phase: Phase::SlowStart,
            limit: f64::from(config.initial),
            begun: VecDeque::new(),
            known: 0,
            next: 0,
            first: 0,
            size: 0,
            ended: 0,
            others: 0,
            served: 0,
            sum: 0.0,
            squares: 0.0,
            peak: 0,
            base: None,
            delay: None,
            windows: 0,
            since_drain: 0,
            undrained: (0.0, 0.0),
            quiet: 0,
            overloads: 0,
        };
        new.open_window();
        new
    }

    /// The calls that may be in flight now.
    #[must_use]
    pub fn limit(&self) -> u32 {
        let limit = match self.phase {
            Phase::Drain { halvings, .. } => self.undrained.0 / 2_f64.powi(halvings),
            Phase::SlowStart | Phase::Steady => self.limit,
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between two u32")]
        let whole = limit as u32;
        whole.clamp(self.config.least, self.config.most)
    }

    /// A call begins, under a permit.
    pub fn begin(&mut self, now: f64) {
        self.begun.push_back(Begun { at: now, number: self.next });
        self.next += 1;
        self.peak = self.peak.max(self.in_flight());
    }

    /// The call that began last really begins now, and its end will be reported by [`ended_of`](Self::ended_of).
    pub fn begin_anew(&mut self, now: f64) -> Begun {
        self.known += 1;
        match self.begun.pop_back() {
            Some(begun) => Begun { at: now, ..begun },
            None => Begun { at: now, number: self.next },
        }
    }

    /// The call that began first of those in flight ends; or another, which makes no difference.
    pub fn ended(&mut self, now: f64, outcome: Outcome) {
        if let Some(begun) = self.begun.pop_front() {
            self.learn(begun, now, outcome);
        }
    }

    /// This call ends.
    pub fn ended_of(&mut self, begun: Begun, now: f64, outcome: Outcome) {
        self.known = self.known.saturating_sub(1);
        self.learn(begun, now, outcome);
    }

    /// Calls that have begun and not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.begun.len() + self.known
    }

    /// The delay without a queue, in seconds, as far as it is known.
    #[must_use]
    pub fn base(&self) -> Option<f64> {
        self.base
    }

    /// The mean delay of the last window, in seconds.
    #[must_use]
    pub fn delay(&self) -> Option<f64> {
        self.delay
    }

    /// Windows so far.
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Calls that were too much.
    #[must_use]
    pub fn overloads(&self) -> u64 {
        self.overloads
    }

    /// What it was told at the start.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn learn(&mut self, begun: Begun, now: f64, outcome: Outcome) {
        self.overloads += u64::from(outcome == Outcome::Overload);
        if !(self.first..self.first + self.size).contains(&begun.number) {
            self.others += 1;
            if self.others >= PATIENCE * self.size {
                self.close_window(); // without the stragglers
            }
            return;
        }
        self.ended += 1;
        match outcome {
            Outcome::Overload => {
                self.phase = Phase::Steady;
                self.set(self.limit * self.config.backoff);
                return;
            }
            // A clock that went backwards is another loop's.
            Outcome::Served if now >= begun.at => {
                self.served += 1;
                self.sum += now - begun.at;
                self.squares += (now - begun.at).powi(2);
            }
            _ => {}
        }
        if self.ended == self.size {
            self.close_window();
        }
    }

    fn close_window(&mut self) {
        if self.served * 2 < SAMPLES {
            self.open_cohort(); // too few to be judged by
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "a mean")]
        let served = self.served as f64;
        let mean = self.sum / served;
        let variance = (self.squares / served - mean * mean).max(0.0);
        if variance > (CERTAIN * mean).powi(2) * served && self.served < MOST_SAMPLES {
            self.open_cohort();
            return;
        }
        let full = self.peak >= usize::try_from(self.limit()).unwrap_or(usize::MAX);
        self.windows += 1;
        self.delay = Some(mean);
        match self.config.strategy {
            Strategy::Gradient => self.follow_gradient(mean, full),
            Strategy::Aimd { target } => {
                if target.is_some_and(|target| mean > target) {
                    self.phase = Phase::Steady;
                    self.set(self.limit * self.config.backoff);
                } else if full {
                    let more = if self.phase == Phase::SlowStart { self.limit * SLOW_START } else { self.limit + 1.0 };
                    self.set(more);
                }
            }
        }
        self.open_window();
    }

    /// `full`: the limit was reached. Where it was not it was no limit, and says nothing about a higher one.
    fn follow_gradient(&mut self, mean: f64, full: bool) {
        let limit = f64::from(self.limit());
        let before = self.base.unwrap_or(mean);
        // Faster than the base: there was a queue when that was measured, or the server has become faster; or it is chance.
        let base = match self.phase {
            _ if mean >= QUEUE * before => before,
            Phase::Drain { .. } => mean,
            _ => f64::midpoint(mean, before),
        };
        self.base = Some(base);
        let ratio = if mean > 0.0 { (TOLERANCE * base / mean).clamp(0.5, 1.0) } else { 1.0 };
        self.quiet = if ratio >= 1.0 { self.quiet + 1 } else { 0 };
        match self.phase {
            Phase::SlowStart if ratio >= QUEUE => {
                if full {
                    self.set(self.limit * SLOW_START);
                }
            }
            Phase::SlowStart => self.drain(limit, mean),
            Phase::Steady => {
                let wanted = if ratio < 1.0 {
                    self.limit * ratio
                } else {
                    limit + step(limit) * (1.0 + f64::from(self.quiet) / 4.0)
                };
                let share = if ratio < SURE { 1.0 } else { 0.5 };
                if wanted <= self.limit || full {
                    self.set(self.limit + share * (wanted - self.limit));
                }
                self.since_drain += 1;
                if ratio < SURE || (full && self.since_drain >= DRAIN_EVERY) {
                    self.drain(limit, mean);
                }
            }
            Phase::Drain { halvings, delay } => self.drained(mean, halvings, delay, base < before),
        }
    }

    /// The limit is halved for a window. Before, it was `limit`, and calls took `delay`.
    fn drain(&mut self, limit: f64, delay: f64) {
        self.phase = Phase::Drain { halvings: 1, delay };
        self.since_drain = 0;
        self.undrained = (limit, delay);
    }

    /// How long calls take when there are fewer.
    fn drained(&mut self, mean: f64, halvings: i32, delay: f64, faster: bool) {
        let slower = self.base.is_some_and(|base| mean * QUEUE > base);
        if self.limit() > self.config.least && (faster || (slower && mean < QUEUE * delay)) {
            // Fewer calls, less delay: there was a queue. Is there one still?
            self.phase = Phase::Drain { halvings: halvings + 1, delay: mean };
            return;
        }
        let base = match self.base {
            Some(base) if !slower => f64::midpoint(base, mean),
            _ => mean, // fewer calls, the same delay: that is how long the server takes now
        };
        self.base = Some(base);
        self.phase = Phase::Steady;
        let (limit, delay) = self.undrained;
        self.set(limit * (TOLERANCE * base / delay).min(1.0));
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(f64::from(self.config.least), f64::from(self.config.most));
        self.open_window();
    }

    fn open_window(&mut self) {
        self.served = 0;
        (self.sum, self.squares) = (0.0, 0.0);
        self.peak = self.in_flight();
        self.open_cohort();
    }

    fn open_cohort(&mut self) {
        self.first = self.next;
        self.size = SAMPLES.max(2 * u64::from(self.limit()));
        (self.ended, self.others) = (0, 0);
    }
}

/// How far it goes at first where there is no queue: enough to see whether the knee has moved, not enough for a delay
/// that anybody would notice. It goes further with each window without a queue.
fn step(limit: f64) -> f64 {
    (limit.sqrt() / 4.0).max(0.5)
}
