//! GCRA: at most so much per second, with so much at once; weighted, and in the order of arrival.
//!
//! The generic cell rate algorithm of ITU-T I.371, in its second form, the continuous-state leaky bucket: a *debt* that
//! grows by `n` with every admission of `n` and shrinks by `rate` a second; `n` are admitted when the debt stays within
//! `burst`. (The first form keeps the time at which the debt will be paid. It decides the same, but a time of day has
//! fewer digits to spare than a small number has.)
//!
//! **What is granted is reserved, and what is reserved is not paid off.** A waiter whose turn has come is admitted when
//! it runs, which may be later; were its share paid off meanwhile, others could be admitted in the same moment. So the
//! debt never falls below what is reserved, and this holds for the admissions as they happen, whatever is cancelled:
//!
//! > over any window of `t` seconds, admitted <= `rate * t + burst`.
//!
//! One whose waiter is cancelled after its turn came goes back: the debt falls by `n`, and the next in line is served.

use crate::progress::Progress;
use crate::waiters::{Left, Resumed, Ticket, Waiters, Wakes};

/// The rounding that is forgiven: this much of one, for each decision. It is never forgiven twice, the debt is exact.
const ROUNDING: f64 = 1e-9;

/// What a woken waiter finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It is admitted, at this moment.
    Yes,
    /// It will never be: the burst was made smaller than what it asks for.
    Never,
    /// It was not woken.
    No,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Gcra<W> {
    /// Admissions per second.
    rate: f64,
    /// The most that can be admitted at once.
    burst: u64,
    /// What was admitted or reserved and has not been paid off.
    debt: f64,
    clock: Progress,
    waiters: Waiters<W>,
    /// The weight of all who stand in line.
    queued: u64,
}

impl<W> Gcra<W> {
    /// A limiter to which nothing is owed. `rate` is more than 0 and finite, `burst` 1 or more.
    pub fn new(rate: f64, burst: u64) -> Self {
        debug_assert!(rate > 0.0 && rate.is_finite() && burst > 0);
        Self { rate, burst, debt: 0.0, clock: Progress::default(), waiters: Waiters::default(), queued: 0 }
    }

    /// Admissions per second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// The most that can be admitted at once: nothing that weighs more will ever be.
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// Waiters that stand in line or were woken and have not run yet.
    pub fn waiting(&self) -> usize {
        self.waiters.waiting() + self.waiters.granted()
    }

    /// The wakers in line, first to last.
    pub fn wakers(&self) -> impl Iterator<Item = &W> {
        self.waiters.wakers()
    }

    /// The waker of the first in line.
    pub fn first(&self) -> Option<&W> {
        self.waiters.wakers().next()
    }

    /// The caller reads another clock from here on, which shows `now`.
    pub fn change_clock(&mut self, now: f64) {
        self.clock.change_clock(now);
    }

    /// What could be admitted at once if nobody stood in line.
    pub fn available(&mut self, now: f64) -> f64 {
        self.pay_off(now);
        as_f64(self.burst) - self.debt
    }

    /// Whether a new limiter in its place would change nothing: nothing is owed, and nobody waits.
    pub fn is_at_rest(&mut self, now: f64) -> bool {
        self.pay_off(now);
        self.debt == 0.0 && self.waiting() == 0
    }

    #[inline]
    fn pay_off(&mut self, now: f64) {
        let step = self.clock.advance(now);
        self.debt = (self.debt - step * self.rate).max(as_f64(self.waiters.reserved()));
    }

    #[inline]
    fn fits(&self, n: u64) -> bool {
        self.debt + as_f64(n) <= as_f64(self.burst) + ROUNDING
    }

    /// Admits `n` if that needs no waiting and overtakes nobody.
    #[inline]
    pub fn try_acquire(&mut self, n: u64, now: f64) -> bool {
        self.pay_off(now);
        let admitted = self.waiting() == 0 && self.fits(n);
        if admitted {
            self.debt += as_f64(n);
        }
        admitted
    }

    /// How many seconds a newcomer would wait for `n`, as things stand: less if somebody in line gives up. Infinite for
    /// more than the burst.
    pub fn wait_for(&mut self, n: u64, now: f64) -> f64 {
        self.pay_off(now);
        if n > self.burst {
            return f64::INFINITY;
        }
        let missing = self.debt + as_f64(self.queued) + as_f64(n) - as_f64(self.burst);
        if missing <= ROUNDING { 0.0 } else { missing / self.rate }
    }

    /// Joins the line, after [`try_acquire`](Self::try_acquire) said no. Whoever comes while there is room and others,
    /// woken before, have yet to run is woken behind them: the wakes can hold the newcomer's own.
    pub fn wait(&mut self, n: u64, waker: W, now: f64) -> (Ticket, Wakes<W>) {
        let ticket = self.waiters.join(n, waker);
        self.queued += n;
        (ticket, self.serve(now))
    }

    /// A woken waiter runs: this is the admission.
    pub fn resume(&mut self, ticket: Ticket, now: f64) -> Admitted {
        self.pay_off(now);
        match self.waiters.resume(ticket) {
            Resumed::Granted(_) => Admitted::Yes,
            Resumed::Refused => Admitted::Never,
            Resumed::Waiting => Admitted::No,
        }
    }

    /// The waiter was cancelled, closed or dropped, before or after it was woken.
    pub fn leave(&mut self, ticket: Ticket, now: f64) -> Wakes<W> {
        self.pay_off(now);
        let weight = self.waiters.weight(ticket);
        match self.waiters.leave(ticket) {
            Left::Place(_) => self.queued -= weight,
            Left::Reservation(n) => self.debt = (self.debt - as_f64(n)).max(as_f64(self.waiters.reserved())),
            Left::Nothing => {}
        }
        self.serve(now)
    }

    /// Time has passed: wakes those whose turn has come.
    pub fn serve(&mut self, now: f64) -> Wakes<W> {
        self.pay_off(now);
        let mut wakes = Wakes::default();
        while let Some(n) = self.waiters.front() {
            let waker = if n > self.burst {
                self.waiters.refuse_front()
            } else if self.fits(n) {
                self.debt += as_f64(n);
                self.waiters.grant_front()
            } else {
                break;
            };
            self.queued -= n;
            wakes.extend(waker);
        }
        wakes
    }

    /// When to call [`serve`](Self::serve) next; `None` when nobody stands in line. Always later than `now`.
    pub fn wake_at(&mut self, now: f64) -> Option<f64> {
        self.pay_off(now);
        let n = self.waiters.front()?;
        let missing = self.debt + as_f64(n) - as_f64(self.burst);
        Some((now + missing.max(0.0) / self.rate).max(now.next_up()))
    }

    /// The first in line is gone for good, and cannot be woken.
    pub fn skip_first(&mut self) {
        if let Some(n) = self.waiters.front() {
            self.queued -= n;
            drop(self.waiters.refuse_front());
        }
    }

    /// Another rate from now on. What is owed stays owed (up to the new burst), so that a change fills no bucket, and
    /// what was granted stands. Who stands in line and asks for more than the new burst is woken, when its turn comes, to
    /// hear that it will never be.
    pub fn set_rate(&mut self, rate: f64, burst: u64, now: f64) -> Wakes<W> {
        debug_assert!(rate > 0.0 && rate.is_finite() && burst > 0);
        self.pay_off(now);
        self.rate = rate;
        self.burst = burst;
        self.debt = self.debt.min(as_f64(burst)).max(as_f64(self.waiters.reserved()));
        self.serve(now)
    }
}

#[allow(clippy::cast_precision_loss, reason = "the binding refuses what has no exact f64")]
fn as_f64(n: u64) -> f64 {
    n as f64
}
