//! `Gcra` against a naive one that counts in exact fractions, and the promise itself: over any window, no more than
//! rate x window + burst, whatever is cancelled when.

use loopwright_core::gcra::{Admitted, Gcra};
use loopwright_core::waiters::{Ticket, Wakes};
use proptest::prelude::*;

/// Time goes in steps of a 64th of a second and rates are whole numbers, so that f64 makes no error at all.
const TICK: f64 = 1.0 / 64.0;

#[derive(Clone, Debug)]
enum Event {
    Acquire(u64),
    TryAcquire(u64),
    /// A woken waiter runs, now or later, in any order.
    Resume(usize),
    /// Any waiter, woken or not, is cancelled.
    Cancel(usize),
    /// Time passes, and nobody serves: the loop is busy.
    Pass(u32),
    /// The timer goes off, at the time that it was told.
    Timer,
    SetRate(u32, u64),
    /// Another thread shows a time that it read a little earlier.
    ReadLate,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1_u64..5).prop_map(Event::Acquire),
        3 => (1_u64..5).prop_map(Event::TryAcquire),
        6 => any::<usize>().prop_map(Event::Resume),
        4 => any::<usize>().prop_map(Event::Cancel),
        4 => (0_u32..100).prop_map(Event::Pass),
        6 => Just(Event::Timer),
        1 => (1_u32..65, 1_u64..7).prop_map(|(rate, burst)| Event::SetRate(rate, burst)),
        1 => Just(Event::ReadLate),
    ]
}

/// The same rules in whole numbers: 64ths of one in 64ths of a second are 4096ths.
struct Reference {
    rate: u64,
    burst: u64,
    /// In 4096ths.
    debt: u64,
    ticks: u64,
    line: Vec<(usize, u64)>,
    woken: Vec<(usize, u64)>,
    never: Vec<usize>,
}

const ONE: u64 = 64;

impl Reference {
    fn reserved(&self) -> u64 {
        self.woken.iter().map(|w| w.1 * ONE).sum()
    }

    fn pass(&mut self, ticks: u64) {
        self.ticks += ticks;
        self.debt = self.debt.saturating_sub(ticks * self.rate).max(self.reserved());
    }

    fn fits(&self, n: u64) -> bool {
        self.debt + n * ONE <= self.burst * ONE
    }

    fn serve(&mut self) -> Vec<usize> {
        let mut woken = Vec::new();
        while let Some(&(who, n)) = self.line.first() {
            if n > self.burst {
                self.never.push(who);
            } else if self.fits(n) {
                self.debt += n * ONE;
                self.woken.push((who, n));
            } else {
                break;
            }
            self.line.remove(0);
            woken.push(who);
        }
        woken
    }
}

struct Pair {
    real: Gcra<usize>,
    reference: Reference,
    tickets: Vec<(Ticket, u64)>,
    /// (tick, n): what was admitted when, since the last change of the rate.
    admitted: Vec<(u64, u64)>,
    /// The burst, or what had been granted before it was made smaller: that stands.
    most_at_once: u64,
}

impl Pair {
    fn new(rate: u64, burst: u64) -> Self {
        let reference = Reference { rate, burst, debt: 0, ticks: 1 << 20, line: vec![], woken: vec![], never: vec![] };
        let mut real = Gcra::new(rate as f64, burst);
        real.available(reference.ticks as f64 * TICK);
        Self { real, reference, tickets: vec![], admitted: vec![], most_at_once: burst }
    }

    fn now(&self) -> f64 {
        self.reference.ticks as f64 * TICK
    }

    fn check(&mut self, wakes: Wakes<usize>) -> Result<(), TestCaseError> {
        let expected = self.reference.serve();
        prop_assert_eq!(wakes.into_iter().collect::<Vec<_>>(), expected);
        self.check_state()
    }

    fn check_state(&mut self) -> Result<(), TestCaseError> {
        let now = self.now();
        let Self { real, reference, .. } = self;
        prop_assert_eq!(real.available(now), reference.burst as f64 - reference.debt as f64 / ONE as f64);
        prop_assert_eq!(real.waiting(), reference.line.len() + reference.woken.len());
        prop_assert_eq!(
            real.wakers().copied().collect::<Vec<_>>(),
            reference.line.iter().map(|w| w.0).collect::<Vec<_>>()
        );
        for n in 1..5 {
            let ahead: u64 = reference.line.iter().map(|w| w.1).sum();
            let missing = (reference.debt + (ahead + n) * ONE) as f64 - (reference.burst * ONE) as f64;
            let wait = if n > reference.burst {
                f64::INFINITY
            } else {
                (missing / ONE as f64 / reference.rate as f64).max(0.0)
            };
            prop_assert_eq!(real.wait_for(n, now), wait);
        }
        match (real.wake_at(now), reference.line.first()) {
            (None, None) => {}
            (Some(at), Some(&(_, n))) => {
                prop_assert!(at > now);
                let missing = (reference.debt + n * ONE).saturating_sub(reference.burst * ONE) as f64 / ONE as f64;
                prop_assert_eq!(at, (now + missing / reference.rate as f64).max(now.next_up()));
            }
            (at, first) => prop_assert!(false, "{at:?} for {first:?}"),
        }
        Ok(())
    }

    fn pass(&mut self, ticks: u64) {
        self.reference.pass(ticks);
    }

    fn resume(&mut self, at: usize) -> Result<(), TestCaseError> {
        let (who, n) = self.reference.woken[at];
        let now = self.now();
        prop_assert_eq!(self.real.resume(self.tickets[who].0, now), Admitted::Yes);
        self.reference.woken.remove(at);
        self.admitted.push((self.reference.ticks, n));
        self.check_state()
    }

    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let now = self.now();
        match *event {
            Event::Acquire(n) if n <= self.reference.burst => {
                if !self.try_acquire(n)? {
                    let who = self.tickets.len();
                    let (ticket, wakes) = self.real.wait(n, who, now);
                    self.tickets.push((ticket, n));
                    self.reference.line.push((who, n));
                    return self.check(wakes);
                }
                Ok(())
            }
            Event::TryAcquire(n) => self.try_acquire(n).map(drop),
            Event::Resume(at) if !self.reference.woken.is_empty() => self.resume(at % self.reference.woken.len()),
            Event::Cancel(who) if !self.tickets.is_empty() => {
                // Waiting, woken, or long gone (then nothing happens but that the line is served).
                let who = who % self.tickets.len();
                self.reference.line.retain(|w| w.0 != who);
                self.reference.never.retain(|&w| w != who);
                if let Some(at) = self.reference.woken.iter().position(|w| w.0 == who) {
                    let (_, n) = self.reference.woken.remove(at);
                    self.reference.debt = (self.reference.debt - n * ONE).max(self.reference.reserved());
                }
                let wakes = self.real.leave(self.tickets[who].0, now);
                self.check(wakes)
            }
            Event::Pass(ticks) => {
                self.pass(u64::from(ticks));
                Ok(())
            }
            Event::Timer => {
                if let Some(at) = self.real.wake_at(now) {
                    let ticks = ((at - now) / TICK).ceil() as u64;
                    self.pass(ticks);
                }
                let now = self.now();
                let wakes = self.real.serve(now);
                self.check(wakes)
            }
            Event::SetRate(rate, burst) => {
                let granted = self.reference.reserved() / ONE;
                self.reference.rate = u64::from(rate);
                self.reference.burst = burst;
                self.reference.debt = self.reference.debt.min(burst * ONE).max(self.reference.reserved());
                let wakes = self.real.set_rate(f64::from(rate), burst, now);
                self.check(wakes)?;
                for who in std::mem::take(&mut self.reference.never) {
                    prop_assert_eq!(self.real.resume(self.tickets[who].0, now), Admitted::Never);
                }
                // A window that reaches back beyond the change has no one rate.
                self.admitted.clear();
                self.most_at_once = burst.max(granted);
                Ok(())
            }
            Event::ReadLate => {
                self.real.available(now - TICK / 4.0);
                self.check_state()
            }
            Event::Acquire(_) | Event::Resume(_) | Event::Cancel(_) => Ok(()),
        }
    }

    fn try_acquire(&mut self, n: u64) -> Result<bool, TestCaseError> {
        let now = self.now();
        let waits = !self.reference.line.is_empty() || !self.reference.woken.is_empty();
        let expected = !waits && self.reference.fits(n);
        prop_assert_eq!(self.real.try_acquire(n, now), expected);
        if expected {
            self.reference.debt += n * ONE;
            self.admitted.push((self.reference.ticks, n));
        }
        self.check_state()?;
        Ok(expected)
    }

    /// Over any window: from each admission to each later one.
    fn check_windows(&self) -> Result<(), TestCaseError> {
        for (first, &(from, _)) in self.admitted.iter().enumerate() {
            let mut sum = 0;
            for &(to, n) in &self.admitted[first..] {
                sum += n * ONE;
                let most = (to - from) * self.reference.rate + self.most_at_once * ONE;
                prop_assert!(sum <= most, "{sum} of {most} 64ths in {} ticks", to - from);
            }
        }
        Ok(())
    }

    /// Everybody alive has its turn.
    fn run_out(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..10_000 {
            if !self.reference.woken.is_empty() {
                self.resume(0)?;
            } else if self.reference.line.is_empty() {
                break;
            } else {
                self.apply(&Event::Timer)?;
            }
        }
        prop_assert_eq!(self.real.waiting(), 0, "somebody waits for ever");
        self.pass(self.reference.debt / self.reference.rate + 1);
        let now = self.now();
        prop_assert!(self.real.is_at_rest(now));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(768))]

    #[test]
    fn agrees_with_the_naive_one_and_no_window_has_too_many(
        rate in 1_u64..65, burst in 1_u64..7, events in prop::collection::vec(event(), 1..80)
    ) {
        let mut pair = Pair::new(rate, burst);
        for event in &events {
            if matches!(event, Event::SetRate(..)) {
                pair.check_windows()?;
            }
            pair.apply(event)?;
        }
        pair.run_out()?;
        pair.check_windows()?;
    }

    /// Rates and times that no f64 holds exactly: rounding is never worth a whole one.
    #[test]
    fn no_window_has_too_many_whatever_the_rounding(
        rate in 0.001_f64..1e6, burst in 1_u64..100, start in 0.0_f64..1e7,
        steps in prop::collection::vec((0.0_f64..3.0, 1_u64..4), 1..200)
    ) {
        let mut real = Gcra::<()>::new(rate, burst);
        let mut now = start;
        let mut admitted = Vec::new();
        for (wait, n) in steps {
            now += wait / rate;
            if real.try_acquire(n, now) {
                admitted.push((now, n as f64));
            }
        }
        for (first, &(from, _)) in admitted.iter().enumerate() {
            let mut sum = 0.0;
            for &(to, n) in &admitted[first..] {
                sum += n;
                // A clock's own digits end somewhere: what passes in the last of them is not counted.
                let digits = (to.next_up() - to) * rate * (admitted.len() as f64);
                prop_assert!(sum <= (to - from) * rate + burst as f64 + 1e-6 + digits);
            }
        }
    }
}

#[test]
fn a_big_request_is_not_starved_by_small_ones() {
    let mut limiter = Gcra::new(1.0, 10);
    assert!(limiter.try_acquire(10, 0.0));
    let (big, _) = limiter.wait(10, "big", 0.0);
    for second in 1..10 {
        assert!(limiter.serve(f64::from(second)).is_empty());
        assert!(!limiter.try_acquire(1, f64::from(second)), "a small one overtook");
    }
    assert_eq!(limiter.wake_at(9.0), Some(10.0));
    assert_eq!(limiter.serve(10.0).into_iter().collect::<Vec<_>>(), ["big"]);
    assert_eq!(limiter.resume(big, 10.0), Admitted::Yes);
}

#[test]
fn a_waiter_that_runs_late_does_not_let_two_pass_at_once() {
    let mut limiter = Gcra::new(1.0, 1);
    assert!(limiter.try_acquire(1, 0.0));
    let (late, _) = limiter.wait(1, "late", 0.0);
    assert_eq!(limiter.serve(1.0).into_iter().collect::<Vec<_>>(), ["late"]);
    let (next, wakes) = limiter.wait(1, "next", 1.0);
    assert!(wakes.is_empty());
    assert!(limiter.serve(5.0).is_empty(), "the late one has not passed yet, and would pass now");
    assert_eq!(limiter.resume(late, 5.0), Admitted::Yes);
    assert!(limiter.serve(5.9).is_empty());
    assert_eq!(limiter.serve(6.0).into_iter().collect::<Vec<_>>(), ["next"]);
    assert_eq!(limiter.resume(next, 6.0), Admitted::Yes);
}

#[test]
fn another_clock_neither_fills_the_bucket_nor_stops_it() {
    let mut limiter = Gcra::<()>::new(1.0, 2);
    assert!(limiter.try_acquire(2, 1e6));
    limiter.change_clock(1e9);
    assert_eq!(limiter.available(1e9), 0.0);
    assert_eq!(limiter.available(1e9 + 1.0), 1.0);
    assert_eq!(limiter.available(5.0), 1.0, "a clock that shows less is another one");
    assert_eq!(limiter.available(6.0), 2.0);
    assert!(limiter.is_at_rest(6.0));
}

#[test]
fn one_whose_loop_is_gone_does_not_hold_up_the_others() {
    let mut limiter = Gcra::new(1.0, 1);
    assert!(limiter.try_acquire(1, 0.0));
    let (gone, _) = limiter.wait(1, "gone", 0.0);
    let (next, _) = limiter.wait(1, "next", 0.0);
    limiter.skip_first();
    assert_eq!(limiter.wait_for(1, 0.0), 2.0);
    assert_eq!(limiter.serve(1.0).into_iter().collect::<Vec<_>>(), ["next"]);
    assert_eq!(limiter.resume(next, 1.0), Admitted::Yes);
    assert_eq!(limiter.resume(gone, 1.0), Admitted::Never);
}
