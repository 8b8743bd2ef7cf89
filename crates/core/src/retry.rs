//! Retry: whether a call that has failed is made again, and after how long; and the budget that bounds how often, for
//! all calls together.
//!
//! **The delays** grow by powers of two up to a cap, and *then* the jitter is drawn, so that what failed together does
//! not come back together however long the outage is (Brooker 2015, "Exponential Backoff And Jitter"; the decorrelated
//! form draws between `base` and three times the last delay, capped first here too). A server that says when to come
//! back is obeyed: its wish is waited out, and the drawn delay on top of it, for others were told the same.
//!
//! **Time.** A delay after which there is no time left is not begun: the caller learns the error at once and not when
//! its time is up.
//!
//! **The budget** is a share of the calls of the last seconds plus a floor, as in tower's `TpsBudget` and Finagle's
//! `RetryBudget`: when everything fails, the load becomes `1 + share` times what it was, not `attempts` times. The
//! window moves in tenths. So that a call that succeeds costs nothing here, calls are told late
//! ([`Budget::tell`]): in one number, at the next failure, and count as spread evenly over the time since the last one.
//!
//! Time is whatever the caller says it is; a clock that is replaced by another one neither adds to the budget nor
//! takes from it.

use crate::rng::Rng;

/// How a delay is drawn, `cap` being what the powers of two and the cap on them allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    /// From 0 to `cap`.
    Full,
    /// From half of `cap` to all of it.
    Equal,
    /// From `base` to three times the last delay, or to the cap if that is less.
    Decorrelated,
    /// Exactly `cap`.
    None,
}

/// What one `Retry` says about attempts and delays.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The most attempts of one call, the first included; `None` for no limit.
    pub attempts: Option<u64>,
    /// Seconds: the cap of the first delay.
    pub base: f64,
    /// Seconds that no drawn delay exceeds.
    pub max_delay: f64,
    /// How delays are drawn.
    pub jitter: Jitter,
}

impl Policy {
    /// Draws the delay after the `failed`th attempt, `last` being the delay before that one.
    fn draw(&self, failed: u64, last: Option<f64>, rng: &mut Rng) -> f64 {
        let doublings = i32::try_from(failed - 1).unwrap_or(i32::MAX);
        let cap = (self.base * 2_f64.powi(doublings)).min(self.max_delay);
        // 0 * infinity: a base of 0 stays that.
        let cap = if cap.is_nan() { 0.0 } else { cap };
        match self.jitter {
            Jitter::None => cap,
            Jitter::Full => cap * rng.unit(),
            Jitter::Equal => cap * (0.5 + 0.5 * rng.unit()),
            Jitter::Decorrelated => {
                let top = (last.unwrap_or(self.base) * 3.0).min(self.max_delay);
                self.base + (top - self.base).max(0.0) * rng.unit()
            }
        }
    }
}

/// What becomes of a call after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Wait so many seconds and try again.
    Again(f64),
    /// There was the last attempt.
    OutOfAttempts,
    /// So many seconds would have to be waited, and there are not as many left.
    OutOfTime(f64),
    /// The budget has nothing left.
    OutOfBudget,
}

/// The failures of one call.
#[derive(Clone, Debug)]
pub struct Failures {
    count: u64,
    last: Option<f64>,
    rng: Rng,
}

impl Failures {
    /// Of a call that has not failed yet. Its delays are those of the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { count: 0, last: None, rng: Rng::new(seed) }
    }

    /// Attempts that have failed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// An attempt has failed in a way that makes another one worth it. `left`: seconds until the caller's deadline, if
    /// it has one. `wish`: how many seconds the other side asked to wait. Only [`Verdict::Again`] takes from the budget.
    pub fn failed(
        &mut self,
        policy: &Policy,
        budget: Option<&mut Budget>,
        now: f64,
        left: Option<f64>,
        wish: Option<f64>,
    ) -> Verdict {
        self.count += 1;
        if policy.attempts.is_some_and(|attempts| self.count >= attempts) {
            return Verdict::OutOfAttempts;
        }
        let drawn = policy.draw(self.count, self.last, &mut self.rng);
        self.last = Some(drawn);
        let delay = drawn + wish.filter(|wish| *wish > 0.0).unwrap_or(0.0);
        if delay >= left.unwrap_or(f64::INFINITY) {
            return Verdict::OutOfTime(delay);
        }
        if budget.is_some_and(|budget| !budget.withdraw(now)) {
            return Verdict::OutOfBudget;
        }
        Verdict::Again(delay)
    }
}

/// Into how many slots the window of a budget is divided.
const SLOTS: usize = 10;

/// A clock that shows this much less than before is another clock.
const ANOTHER_CLOCK: f64 = 1.0;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    calls: f64,
    retries: f64,
}

/// How many retries there may be. See the module's documentation.
#[derive(Debug)]
pub struct Budget {
    share: f64,
    floor: f64,
    /// Seconds of one slot.
    length: f64,
    slots: [Slot; SLOTS],
    /// The slot of this moment, counted from the beginning; it is in `slots[current % SLOTS]`.
    current: u64,
    shown: f64,
    /// How far the caller's clock has come in all, and how far it had when calls were told last.
    clock: f64,
    told: f64,
    retries: u64,
    denied: u64,
}

impl Budget {
    /// At most `share` times the calls, and `floor` a second, over `window` seconds. `now` is what the caller's clock
    /// shows.
    #[must_use]
    pub fn new(share: f64, floor: f64, window: f64, now: f64) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let length = window / SLOTS as f64;
        Self {
            share,
            floor,
            length,
            slots: [Slot::default(); SLOTS],
            current: 0,
            shown: now,
            clock: 0.0,
            told: 0.0,
            retries: 0,
            denied: 0,
        }
    }

    /// Retries that there could be at this moment.
    pub fn left(&mut self, now: f64) -> f64 {
        self.advance(now);
        self.balance().max(0.0)
    }

    /// Retries that were allowed so far.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// Retries that were refused so far.
    #[must_use]
    pub fn denied(&self) -> u64 {
        self.denied
    }

    /// So many calls were made since this was said last.
    pub fn tell(&mut self, calls: u64, now: f64) {
        self.advance(now);
        #[allow(clippy::cast_precision_loss, reason = "a share of it is what counts")]
        let calls = calls as f64;
        let (from, to) = (self.told, self.clock);
        self.told = to;
        let span = to - from;
        if span <= 0.0 {
            self.slot(self.current).calls += calls;
            return;
        }
        for number in self.oldest()..=self.current {
            #[allow(clippy::cast_precision_loss, reason = "the number of a slot")]
            let start = number as f64 * self.length;
            // The slot of this moment has no end yet: rounding must not cost a call.
            let end = if number == self.current { to } else { (start + self.length).min(to) };
            let inside = (end - start.max(from)).max(0.0);
            self.slot(number).calls += calls * inside / span;
        }
    }

    /// Takes a retry, if there is one left.
    pub fn withdraw(&mut self, now: f64) -> bool {
        self.advance(now);
        let allowed = self.balance() >= 1.0;
        if allowed {
            self.slot(self.current).retries += 1.0;
            self.retries += 1;
        } else {
            self.denied += 1;
        }
        allowed
    }

    fn balance(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let floor = self.floor * self.length * SLOTS as f64;
        let earned: f64 = self.slots.iter().map(|slot| slot.calls).sum();
        let spent: f64 = self.slots.iter().map(|slot| slot.retries).sum();
        floor + self.share * earned - spent
    }

    fn oldest(&self) -> u64 {
        self.current.saturating_sub(SLOTS as u64 - 1)
    }

    fn slot(&mut self, number: u64) -> &mut Slot {
        #[allow(clippy::cast_possible_truncation, reason = "below SLOTS")]
        let index = (number % SLOTS as u64) as usize;
        &mut self.slots[index]
    }

    /// The caller's clock shows `now`: slots that the window has left are empty again.
    fn advance(&mut self, now: f64) {
        if now > self.shown {
            self.clock += now - self.shown;
            self.shown = now;
        } else if now < self.shown - ANOTHER_CLOCK {
            self.shown = now;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it starts at 0 and saturates")]
        let current = (self.clock / self.length) as u64;
        let passed = current.saturating_sub(self.current).min(SLOTS as u64);
        self.current = self.current.max(current);
        for number in 0..passed {
            *self.slot(self.current - number) = Slot::default();
        }
    }
}
