//! Breaker: stops calling what is down, tries again after a while with a few calls, and goes on when these succeed.
//!
//! ```text
//!             too many failures or slow calls
//!   Closed ────────────────────────────────────> Open <──────────────────┐
//!     ^                                           │ the next call after  │ `half_open` calls have ended,
//!     │                                           v `open_for` seconds   │ too many failed or were slow
//!     └────────────────────────────────────── HalfOpen ──────────────────┘
//!        `half_open` calls have ended, few failed
//!
//!   `open`, `close` and `isolate` from anywhere; Isolated is left by the other two only
//! ```
//!
//! The states, the windows and the thresholds are those of resilience4j, as its documentation has them: rates are taken
//! over the last calls or the last seconds, once there were `min_calls`; a rate that *reaches* its threshold opens; the
//! half-open state lets `half_open` calls through, refuses all others, and decides when the last of them has ended.
//!
//! Two things are stricter here. A call counts only in the state in which it began: what comes in late, from before the
//! breaker opened, decides nothing about the probes. And a probe that ends without a verdict (it was cancelled) gives its
//! place to another one.
//!
//! Does not live here: what is a failure, and who is told about a change.

use crate::progress::Progress;

/// The four states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls pass.
    Closed,
    /// Calls are refused, until `open_for` seconds have passed.
    Open,
    /// A few calls pass, to see how it goes.
    HalfOpen,
    /// Calls are refused, for as long as nobody says otherwise.
    Isolated,
}

/// Over what the rates are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Window {
    /// The last calls that ended, so many.
    Calls(usize),
    /// Those that ended in the last seconds, so many; exact to a part in [`PARTS`].
    Seconds(f64),
}

/// A window by time is kept as so many sums.
pub const PARTS: usize = 32;

/// What it is told at the start. Rates are shares, more than 0 and up to 1.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The share of failures that opens.
    pub failure_rate: f64,
    /// Over what the rates are taken.
    pub window: Window,
    /// No rate is taken over fewer calls than this (of a window by calls: or all of it).
    pub min_calls: u64,
    /// A call that takes more seconds than this is slow.
    pub slow_call: Option<f64>,
    /// The share of slow calls that opens.
    pub slow_rate: f64,
    /// Seconds in the open state.
    pub open_for: f64,
    /// How many calls pass in the half-open state.
    pub half_open: u64,
}

/// A call that passes: which state it began in, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Call {
    epoch: u64,
    began: f64,
}

impl Call {
    /// A call that began in the state of this [epoch](Breaker::epoch), which was closed, at a time that means nothing.
    #[inline]
    pub fn plain(epoch: u64) -> Self {
        Self { epoch, began: 0.0 }
    }
}

/// A call that does not pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refused {
    /// Seconds until one may pass; `None`: that is for others to decide.
    pub retry_after: Option<f64>,
}

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered.
    Success,
    /// It failed in a way that counts.
    Failure,
    /// Nothing that says anything about who was called.
    Nothing,
}

/// Why a state ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// This share of the calls failed.
    Failures(f64),
    /// This share of the calls was slow.
    Slow(f64),
    /// `open_for` seconds have passed.
    Waited,
    /// The probes went well.
    Recovered,
    /// Somebody said so.
    Asked,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// The state that ended.
    pub from: State,
    /// The state that began.
    pub to: State,
    /// Why.
    pub why: Why,
}

/// Calls that ended, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub calls: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those that were slow, failed or not.
    pub slow: u64,
}

impl Tally {
    #[inline]
    fn add(&mut self, failed: bool, slow: bool) {
        self.calls += 1;
        self.failures += u64::from(failed);
        self.slow += u64::from(slow);
    }

    fn take_away(&mut self, other: Self) {
        self.calls -= other.calls;
        self.failures -= other.failures;
        self.slow -= other.slow;
    }

    fn share(self, part: u64) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "counts of calls")]
        let share = part as f64 / self.calls as f64;
        share
    }
}

/// Totals since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Calls that passed and succeeded.
    pub successes: u64,
    /// Calls that passed and failed.
    pub failures: u64,
    /// Calls that passed and were slow, whether they succeeded or failed.
    pub slow: u64,
    /// Calls that passed and ended without a verdict.
    pub ignored: u64,
    /// Calls that did not pass.
    pub refused: u64,
    /// How often it opened, by itself or because it was asked to.
    pub opened: u64,
}

#[derive(Debug)]
enum Records {
    /// A ring of outcomes; bit 0: failed, bit 1: slow.
    Calls { ring: Vec<u8>, size: usize, next: usize },
    /// A ring of sums, each of a part of the window, by the number of the part since the beginning.
    Seconds { parts: Box<[Tally; PARTS]>, width: f64, newest: u64 },
}

impl Records {
    fn new(window: Window) -> Self {
        match window {
            Window::Calls(size) => Self::Calls { ring: Vec::new(), size: size.max(1), next: 0 },
            Window::Seconds(seconds) => {
                #[allow(clippy::cast_precision_loss, reason = "32")]
                let width = seconds / PARTS as f64;
                Self::Seconds { parts: Box::default(), width, newest: 0 }
            }
        }
    }

    /// Takes out of `sum` what is no longer in the window at `time`.
    fn forget(&mut self, time: f64, sum: &mut Tally) {
        let Self::Seconds { parts, width, newest } = self else { return };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of parts since the start")]
        let part = (time / *width) as u64;
        for number in *newest + 1..=part.min(*newest + PARTS as u64) {
            sum.take_away(std::mem::take(&mut parts[index(number)]));
        }
        *newest = part.max(*newest);
    }

    #[inline]
    fn add(&mut self, failed: bool, slow: bool, sum: &mut Tally) {
        match self {
            Self::Calls { ring, size, next } => {
                let outcome = u8::from(failed) | u8::from(slow) << 1;
                if ring.len() < *size {
                    ring.push(outcome);
                } else {
                    let old = std::mem::replace(&mut ring[*next], outcome);
                    sum.take_away(Tally { calls: 1, failures: u64::from(old & 1), slow: u64::from(old >> 1) });
                    *next = if *next + 1 == *size { 0 } else { *next + 1 };
                }
            }
            Self::Seconds { parts, newest, .. } => parts[index(*newest)].add(failed, slow),
        }
        sum.add(failed, slow);
    }

    fn clear(&mut self) {
        match self {
            Self::Calls { ring, next, .. } => {
                ring.clear();
                *next = 0;
            }
            Self::Seconds { parts, .. } => **parts = [Tally::default(); PARTS],
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "less than 32")]
fn index(part: u64) -> usize {
    (part % PARTS as u64) as usize
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Breaker {
    config: Config,
    state: State,
    /// The number of the state: calls of another one are late.
    epoch: u64,
    clock: Progress,
    records: Records,
    /// What is in the window.
    sum: Tally,
    /// Of the half-open state: probes that are under way, and those that have ended.
    probing: u64,
    probed: Tally,
    /// When the state began.
    since: f64,
    /// When something was wrong last: a failure, a slow call, a refusal, the opening.
    trouble: f64,
    in_flight: u64,
    totals: Totals,
}

impl Breaker {
    /// A closed one that knows nothing yet.
    pub fn new(mut config: Config) -> Self {
        if let Window::Calls(size) = config.window {
            config.min_calls = config.min_calls.min(size as u64);
        }
        config.min_calls = config.min_calls.max(1);
        config.half_open = config.half_open.max(1);
        Self {
            config,
            state: State::Closed,
            epoch: 0,
            clock: Progress::default(),
            records: Records::new(config.window),
            sum: Tally::default(),
            probing: 0,
            probed: Tally::default(),
            since: 0.0,
            trouble: f64::NEG_INFINITY,
            in_flight: 0,
            totals: Totals::default(),
        }
    }

    /// What it was told.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The state that it is in. An open one whose time is over stays open until somebody calls.
    #[inline]
    pub fn state(&self) -> State {
        self.state
    }

    /// The number of the state: every change begins another one.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Calls that have passed and not ended.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Totals since it was made.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether calls in the closed state differ: then each has to be known by the time at which it began.
    #[inline]
    pub fn times_calls(&self) -> bool {
        self.config.slow_call.is_some()
    }

    /// Whether the window is one of seconds.
    #[inline]
    pub fn is_timed(&self) -> bool {
        matches!(self.config.window, Window::Seconds(_))
    }

    /// The caller reads another clock from here on, which shows `now`.
    pub fn change_clock(&mut self, now: f64) {
        self.clock.change_clock(now);
    }

    /// What the rates are taken over: the window, or the probes that have ended.
    pub fn tally(&mut self, now: f64) -> Tally {
        self.advance(now);
        if self.state == State::HalfOpen { self.probed } else { self.sum }
    }

    /// Seconds until a call may pass: 0 where calls pass, `None` where that is for others to decide.
    pub fn retry_after(&mut self, now: f64) -> Option<f64> {
        self.advance(now);
        match self.state {
            State::Closed => Some(0.0),
            State::Open => Some(self.left()),
            State::HalfOpen => (self.probing + self.probed.calls < self.config.half_open).then_some(0.0),
            State::Isolated => None,
        }
    }

    /// Whether a new one in its place would change nothing for anybody: it is closed and remembers no trouble, or its
    /// last trouble is so long ago (twice `open_for`) that one more try is due anyway.
    pub fn is_at_rest(&mut self, now: f64) -> bool {
        self.advance(now);
        let clean = self.state == State::Closed && self.sum.failures == 0 && self.sum.slow == 0;
        let stale = self.clock.passed() - self.trouble >= 2.0 * self.config.open_for;
        self.in_flight == 0 && self.state != State::Isolated && (clean || stale)
    }

    fn advance(&mut self, now: f64) {
        self.clock.advance(now);
        self.records.forget(self.clock.passed(), &mut self.sum);
    }

    fn left(&self) -> f64 {
        (self.since + self.config.open_for - self.clock.passed()).max(0.0)
    }

    /// A call begins, in the closed state, where [calls are alike](Self::times_calls): no clock is read. `None`, and no
    /// effect, otherwise.
    #[inline]
    pub fn begin_plainly(&mut self) -> Option<Call> {
        if self.state != State::Closed || self.times_calls() {
            return None;
        }
        self.in_flight += 1;
        Some(Call::plain(self.epoch))
    }

    /// A plain call succeeds; `now` is needed where the window [is one of seconds](Self::is_timed). Tells whether this was
    /// all: false, and no effect, when [`end`](Self::end) has to decide about the state.
    #[inline]
    pub fn end_plainly(&mut self, call: Call, now: Option<f64>) -> bool {
        if call.epoch != self.epoch || self.times_calls() || self.state != State::Closed {
            return false;
        }
        if self.is_timed() {
            let Some(now) = now else { return false };
            self.advance(now);
        }
        let with_it = Tally { calls: self.sum.calls + 1, ..self.sum };
        if with_it.calls >= self.config.min_calls && with_it.share(with_it.failures) >= self.config.failure_rate {
            return false;
        }
        self.in_flight -= 1;
        self.totals.successes += 1;
        self.records.add(false, false, &mut self.sum);
        true
    }

    /// Somebody wants to call. The change is one that has happened whether the call passes or not.
    ///
    /// # Errors
    /// It does not pass.
    pub fn begin(&mut self, now: f64) -> (Result<Call, Refused>, Option<Change>) {
        self.advance(now);
        let mut change = None;
        if self.state == State::Open && self.left() == 0.0 {
            change = self.go(State::HalfOpen, Why::Waited);
        }
        let passes = match self.state {
            State::Closed => Ok(()),
            State::HalfOpen if self.probing + self.probed.calls < self.config.half_open => {
                self.probing += 1;
                Ok(())
            }
            State::Open => Err(Refused { retry_after: Some(self.left()) }),
            State::HalfOpen | State::Isolated => Err(Refused { retry_after: None }),
        };
        let call = match passes {
            Ok(()) => {
                self.in_flight += 1;
                Ok(Call { epoch: self.epoch, began: self.clock.passed() })
            }
            Err(refused) => {
                self.totals.refused += 1;
                self.trouble = self.clock.passed();
                Err(refused)
            }
        };
        (call, change)
    }

    /// A call that passed has ended.
    pub fn end(&mut self, call: Call, verdict: Verdict, now: f64) -> Option<Change> {
        self.advance(now);
        self.in_flight -= 1;
        let in_time = call.epoch == self.epoch;
        if in_time && self.state == State::HalfOpen {
            self.probing -= 1;
        }
        let failed = match verdict {
            Verdict::Success => false,
            Verdict::Failure => true,
            Verdict::Nothing => {
                self.totals.ignored += 1;
                return None;
            }
        };
        let slow = self.config.slow_call.is_some_and(|slow| self.clock.passed() - call.began > slow);
        self.totals.successes += u64::from(!failed);
        self.totals.failures += u64::from(failed);
        self.totals.slow += u64::from(slow);
        if failed || slow {
            self.trouble = self.clock.passed();
        }
        if !in_time {
            return None;
        }
        if self.state == State::HalfOpen {
            self.probed.add(failed, slow);
            if self.probed.calls < self.config.half_open {
                return None;
            }
            return match self.too_much(self.probed) {
                Some(why) => self.go(State::Open, why),
                None => self.go(State::Closed, Why::Recovered),
            };
        }
        self.records.add(failed, slow, &mut self.sum);
        if self.sum.calls < self.config.min_calls {
            return None;
        }
        let why = self.too_much(self.sum)?;
        self.go(State::Open, why)
    }

    fn too_much(&self, tally: Tally) -> Option<Why> {
        let (failed, slow) = (tally.share(tally.failures), tally.share(tally.slow));
        if failed >= self.config.failure_rate {
            Some(Why::Failures(failed))
        } else if self.config.slow_call.is_some() && slow >= self.config.slow_rate {
            Some(Why::Slow(slow))
        } else {
            None
        }
    }

    /// Opens it, for `open_for` seconds from now on.
    pub fn open(&mut self, now: f64) -> Option<Change> {
        self.advance(now);
        self.go(State::Open, Why::Asked)
    }

    /// Closes it, and forgets everything that it has counted for its rates.
    pub fn close(&mut self, now: f64) -> Option<Change> {
        self.advance(now);
        self.go(State::Closed, Why::Asked)
    }

    /// Refuses all calls until [`open`](Self::open) or [`close`](Self::close).
    pub fn isolate(&mut self, now: f64) -> Option<Change> {
        self.advance(now);
        self.go(State::Isolated, Why::Asked)
    }

    /// Begins a state, be it the same one anew: that is no change.
    fn go(&mut self, to: State, why: Why) -> Option<Change> {
        let from = std::mem::replace(&mut self.state, to);
        self.epoch += 1;
        self.since = self.clock.passed();
        self.probing = 0;
        self.probed = Tally::default();
        self.records.clear();
        self.sum = Tally::default();
        if to == State::Open {
            self.trouble = self.since;
            self.totals.opened += u64::from(from != to);
        }
        (from != to).then_some(Change { from, to, why })
    }
}
