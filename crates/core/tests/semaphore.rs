//! `Semaphore` against a naive one: permits are conserved, the line is served in order, no wake-up is lost.

use loopwright_core::semaphore::{Acquired, Semaphore};
use loopwright_core::waiters::{Ticket, Wakes};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    /// `async with`: take, or join the line.
    Acquire(u64),
    TryAcquire(u64),
    /// A woken waiter runs, in any order (waiters can be threads or live on a loop that explores schedules).
    Resume(usize),
    /// Any waiter, woken or not, is cancelled.
    Cancel(usize),
    /// A holder releases what it holds.
    Release(usize),
    /// A release that nobody acquired for: legal, as in asyncio.
    ReleaseMore(u64),
    Resize(i64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1_u64..5).prop_map(Event::Acquire),
        2 => (1_u64..5).prop_map(Event::TryAcquire),
        5 => any::<usize>().prop_map(Event::Resume),
        4 => any::<usize>().prop_map(Event::Cancel),
        6 => any::<usize>().prop_map(Event::Release),
        1 => (1_u64..3).prop_map(Event::ReleaseMore),
        1 => (-3_i64..4).prop_map(Event::Resize),
    ]
}

/// Two lists and two numbers, everything recomputed at every event.
struct Reference {
    fair: bool,
    permits: i64,
    /// (who, n), in order.
    line: Vec<(usize, u64)>,
    woken: Vec<(usize, u64)>,
    held: Vec<u64>,
}

impl Reference {
    fn promised(&self) -> i64 {
        self.woken.iter().map(|&(_, n)| n as i64).sum()
    }

    fn available(&self) -> i64 {
        let held: i64 = self.held.iter().map(|&n| n as i64).sum();
        self.permits - held - if self.fair { self.promised() } else { 0 }
    }

    /// Whether the head of the line should be awake.
    fn head_can_run(&self) -> bool {
        let spoken_for = if self.fair { 0 } else { self.promised() };
        self.line.first().is_some_and(|&(_, n)| self.available() - spoken_for >= n as i64)
    }

    fn serve(&mut self) -> Vec<usize> {
        let mut woken = Vec::new();
        while self.head_can_run() {
            let head = self.line.remove(0);
            self.woken.push(head);
            woken.push(head.0);
        }
        woken
    }
}

struct Pair {
    real: Semaphore<usize>,
    reference: Reference,
    tickets: Vec<Ticket>,
}

impl Pair {
    fn new(permits: i64, fair: bool) -> Self {
        let reference = Reference { fair, permits, line: vec![], woken: vec![], held: vec![] };
        Self { real: Semaphore::new(permits, fair), reference, tickets: vec![] }
    }

    fn check(&mut self, wakes: Wakes<usize>) -> Result<(), TestCaseError> {
        let expected = self.reference.serve();
        prop_assert_eq!(wakes.into_iter().collect::<Vec<_>>(), expected);
        self.check_state()
    }

    fn check_state(&self) -> Result<(), TestCaseError> {
        let Self { real, reference, .. } = self;
        prop_assert_eq!(real.available(), reference.available());
        prop_assert_eq!(real.waiting(), reference.line.len() + reference.woken.len());
        prop_assert_eq!(
            real.wakers().copied().collect::<Vec<_>>(),
            reference.line.iter().map(|w| w.0).collect::<Vec<_>>()
        );
        prop_assert!(!reference.head_can_run(), "the head of the line sleeps beside its permits");
        for n in 1..5 {
            let overtakes = reference.fair && real.waiting() > 0;
            prop_assert_eq!(real.would_block(n), overtakes || reference.available() < n as i64);
        }
        Ok(())
    }

    fn take_new(&mut self, n: u64) -> Result<bool, TestCaseError> {
        let expected = !self.real.would_block(n);
        prop_assert_eq!(self.real.try_acquire(n), expected);
        if expected {
            self.reference.held.push(n);
        }
        Ok(expected)
    }

    fn resume(&mut self, at: usize) -> Result<(), TestCaseError> {
        let (who, n) = self.reference.woken[at];
        let fits = self.reference.fair || self.reference.available() >= n as i64;
        prop_assert_eq!(self.real.resume(self.tickets[who]), if fits { Acquired::Yes } else { Acquired::No });
        self.reference.woken.remove(at);
        if fits {
            self.reference.held.push(n);
            self.check_state()
        } else {
            self.reference.line.insert(0, (who, n));
            let wakes = self.real.wait_again(self.tickets[who], who).expect("it was woken");
            self.check(wakes)
        }
    }

    fn release(&mut self, at: usize) -> Result<(), TestCaseError> {
        let n = self.reference.held.remove(at);
        let wakes = self.real.release(n);
        self.check(wakes)
    }

    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match *event {
            Event::Acquire(n) => {
                if !self.take_new(n)? {
                    let who = self.tickets.len();
                    let (ticket, wakes) = self.real.wait(n, who);
                    self.tickets.push(ticket);
                    self.reference.line.push((who, n));
                    return self.check(wakes);
                }
                self.check_state()
            }
            Event::TryAcquire(n) => {
                self.take_new(n)?;
                self.check_state()
            }
            Event::Resume(at) if !self.reference.woken.is_empty() => self.resume(at % self.reference.woken.len()),
            Event::Cancel(who) if !self.tickets.is_empty() => {
                // Waiting, woken, or long gone (then nothing may happen).
                let who = who % self.tickets.len();
                self.reference.line.retain(|w| w.0 != who);
                self.reference.woken.retain(|w| w.0 != who);
                let wakes = self.real.leave(self.tickets[who]);
                self.check(wakes)
            }
            Event::Release(at) if !self.reference.held.is_empty() => self.release(at % self.reference.held.len()),
            Event::ReleaseMore(n) => {
                self.reference.permits += n as i64;
                let wakes = self.real.release(n);
                self.check(wakes)
            }
            Event::Resize(delta) => {
                self.reference.permits += delta;
                let wakes = self.real.resize(delta);
                self.check(wakes)
            }
            Event::Resume(_) | Event::Cancel(_) | Event::Release(_) => Ok(()),
        }
    }

    /// Everybody alive gets its permits once, and gives them back.
    fn run_out(&mut self) -> Result<(), TestCaseError> {
        let missing = 5 - self.reference.permits.min(5);
        self.apply(&Event::Resize(missing))?;
        for _ in 0..100_000 {
            if !self.reference.held.is_empty() {
                self.release(0)?;
            } else if !self.reference.woken.is_empty() {
                self.resume(0)?;
            } else {
                break;
            }
        }
        prop_assert_eq!(self.real.waiting(), 0, "somebody waits for ever");
        prop_assert_eq!(self.real.available(), self.reference.permits);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn agrees_with_the_naive_one(fair: bool, permits in 0_i64..5, events in prop::collection::vec(event(), 1..80)) {
        let mut pair = Pair::new(permits, fair);
        for event in &events {
            pair.apply(event)?;
        }
        pair.run_out()?;
    }
}

#[test]
fn an_absurd_weight_waits_for_ever_instead_of_overflowing() {
    for fair in [true, false] {
        let mut semaphore = Semaphore::new(2, fair);
        assert!(semaphore.try_acquire(2));
        assert!(semaphore.wait(1, "small").1.is_empty());
        assert!(semaphore.wait(u64::MAX, "absurd").1.is_empty());
        assert_eq!(semaphore.release(2).into_iter().collect::<Vec<_>>(), ["small"]);
    }
}

#[test]
fn a_big_request_is_not_starved_by_small_ones() {
    let mut semaphore = Semaphore::new(4, true);
    assert!(semaphore.try_acquire(4));
    let (big, _) = semaphore.wait(4, "big");
    for _ in 0..3 {
        assert!(semaphore.release(1).is_empty());
        assert!(!semaphore.try_acquire(1), "a small one overtook");
    }
    assert_eq!(semaphore.release(1).into_iter().collect::<Vec<_>>(), ["big"]);
    assert_eq!(semaphore.resume(big), Acquired::Yes);
}

#[test]
fn whoever_comes_while_the_woken_have_yet_to_run_runs_behind_them() {
    let mut semaphore = Semaphore::new(0, true);
    let (first, wakes) = semaphore.wait(1, "first");
    assert!(wakes.is_empty());
    assert_eq!(semaphore.release(2).into_iter().collect::<Vec<_>>(), ["first"]);
    assert!(!semaphore.try_acquire(1), "a permit is free, but the first has yet to run");
    let (second, wakes) = semaphore.wait(1, "second");
    assert_eq!(wakes.into_iter().collect::<Vec<_>>(), ["second"]);
    assert_eq!(semaphore.resume(first), Acquired::Yes);
    assert_eq!(semaphore.resume(second), Acquired::Yes);
}
