//! `Ledger` against a naive one, event by event: the same actions in the same order, the same books, the same alarm; and
//! after every event everything is recounted. Then what it promises in particular, one test each.

use std::cell::RefCell;
use std::collections::BTreeSet;

use loopwright_core::pool::{
    Action, Actions, Condition, Config, Conn, Counts, KeyId, Ledger, Order, Refusal, Resumed, State, TRANSITIONS,
    Ticket,
};
use naive::{Act, Fate, Naive};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

mod naive;
mod promises;

#[derive(Clone, Debug)]
enum Event {
    /// The fast way, else the line (with this deadline, in quarters of a second; 0: none).
    Acquire {
        key: usize,
        deadline: u32,
    },
    /// A waiter runs, woken or not.
    Resume(usize),
    /// A waiter is cancelled, in line, woken or long gone.
    Leave(usize),
    Release {
        which: usize,
        condition: Condition,
    },
    /// The fast way out, else the other.
    ReleaseFast(usize),
    /// A hook answers, perhaps after it was given up.
    Answer {
        which: usize,
        ok: bool,
    },
    Pass {
        quarters: u32,
    },
    Resize {
        max_size: usize,
        burst: usize,
        min_size: usize,
    },
    ExpireAll,
    CheckIdle,
    Lost(usize),
    Drain,
    Force,
    AbandonAll,
}

fn event() -> impl Strategy<Value = Event> {
    let condition = prop_oneof![4 => Just(Condition::Clean), 1 => Just(Condition::Dirty), 1 => Just(Condition::Broken)];
    prop_oneof![
        240 => (0_usize..4, 0_u32..30).prop_map(|(key, deadline)| Event::Acquire { key, deadline }),
        160 => any::<usize>().prop_map(Event::Resume),
        80 => any::<usize>().prop_map(Event::Leave),
        80 => (any::<usize>(), condition).prop_map(|(which, condition)| Event::Release { which, condition }),
        60 => any::<usize>().prop_map(Event::ReleaseFast),
        300 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, ok)| Event::Answer { which, ok }),
        90 => (0_u32..10).prop_map(|quarters| Event::Pass { quarters }),
        8 => (0_usize..4, 0_usize..3, 0_usize..3)
            .prop_map(|(max_size, burst, min_size)| Event::Resize { max_size, burst, min_size }),
        6 => Just(Event::ExpireAll),
        20 => Just(Event::CheckIdle),
        15 => any::<usize>().prop_map(Event::Lost),
        2 => Just(Event::Drain),
        1 => Just(Event::Force),
        1 => Just(Event::AbandonAll),
    ]
}

fn seconds(range: std::ops::Range<u32>) -> impl Strategy<Value = f64> {
    prop_oneof![1 => Just(f64::INFINITY), 3 => range.prop_map(|quarters| f64::from(quarters) / 4.0)]
}

fn config() -> impl Strategy<Value = Config> {
    let sizes = (1_usize..4, 0_usize..3, prop_oneof![3 => Just(0_usize), 1 => 1_usize..3], 1_usize..4);
    let sharing = prop_oneof![3 => Just(1_u32), 1 => 2_u32..4, 1 => Just(u32::MAX)];
    let hooks = (any::<bool>(), any::<bool>(), 0_u32..6);
    let limits = (seconds(1..20), seconds(4..40), seconds(1..12), seconds(1..8));
    let rest = (
        any::<bool>(),
        prop::option::weighted(0.3, 0_usize..4),
        prop::option::weighted(0.5, 1_u32..12),
        0_u32..8,
        any::<u64>(),
        any::<bool>(),
    );
    (sizes, sharing, hooks, limits, rest).prop_map(|(sizes, max_shares, hooks, limits, rest)| Config {
        max_size: sizes.0,
        burst: sizes.1,
        min_size: sizes.2,
        max_per_key: sizes.3,
        max_shares,
        order: if rest.0 { Order::Lifo } else { Order::Fifo },
        max_waiting: rest.1,
        max_idle: limits.0,
        max_lifetime: limits.1,
        jitter: if rest.5 { 0.25 } else { 0.0 },
        check_after: f64::from(hooks.2) / 4.0,
        checks: hooks.0,
        resets: hooks.1,
        burst_linger: f64::from(rest.3.saturating_sub(3)) / 4.0,
        connect_timeout: limits.2,
        hook_timeout: limits.3,
        leak_after: rest.2.map(|quarters| f64::from(quarters) / 4.0),
        retry_base: 0.5,
        retry_max: 2.0,
        seed: rest.4,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Connect,
    Check,
    Reset,
    Close,
}

struct Pair {
    real: Ledger<usize, u32>,
    naive: Naive,
    out: Actions<usize>,
    now: f64,
    /// What stands behind the naive one's numbers.
    conns: Vec<Conn>,
    keys: Vec<KeyId>,
    tickets: Vec<Ticket>,
    /// The keys that the events mean.
    used_keys: [usize; 4],
    /// The connections in the hands of users, once for each.
    held: Vec<usize>,
    running: Vec<(Hook, usize)>,
    drained: bool,
    /// What the timer is set for.
    armed: f64,
}

impl Pair {
    fn new(config: &Config) -> Self {
        let real = Ledger::new(config.clone());
        Self {
            keys: vec![real.pinned()],
            real,
            naive: Naive::new(config.clone()),
            out: Actions::default(),
            now: 0.0,
            conns: vec![],
            tickets: vec![],
            used_keys: [0, usize::MAX, usize::MAX, usize::MAX],
            held: vec![],
            running: vec![],
            drained: false,
            armed: f64::INFINITY,
        }
    }

    fn number(&self, conn: Conn) -> usize {
        self.conns.iter().rposition(|&other| other == conn).expect("it was told of")
    }

    fn key_number(&self, key: KeyId) -> usize {
        self.keys.iter().rposition(|&other| other == key).expect("it was made here")
    }

    /// Live things in the order in which the ledger numbers them.
    fn in_order<T: Ord + Copy>(things: &[T], alive: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..things.len()).filter(|&number| alive(number)).collect();
        numbers.sort_by_key(|&number| things[number]);
        numbers
    }

    fn conns_in_order(&self) -> Vec<usize> {
        Self::in_order(&self.conns, |c| self.naive.conns[c].state.is_some())
    }

    fn keys_in_order(&self) -> Vec<usize> {
        Self::in_order(&self.keys, |key| !self.naive.keys[key].forgotten)
    }

    fn waiters_in_order(&self) -> Vec<usize> {
        Self::in_order(&self.tickets, |w| self.naive.waiters[w].fate != Fate::Gone)
    }

    /// The same actions, and they are carried out: what they start runs from here on.
    fn agree(&mut self) -> Result<(), TestCaseError> {
        let mut acts = Vec::new();
        let actions: Vec<Action<usize>> = self.out.drain().collect();
        for action in actions {
            acts.push(match action {
                Action::Connect(conn, key) => {
                    self.conns.push(conn);
                    let c = self.conns.len() - 1;
                    self.running.push((Hook::Connect, c));
                    Act::Connect(c, self.key_number(key))
                }
                Action::Check(conn) => {
                    self.running.push((Hook::Check, self.number(conn)));
                    Act::Check(self.number(conn))
                }
                Action::Reset(conn) => {
                    self.running.push((Hook::Reset, self.number(conn)));
                    Act::Reset(self.number(conn))
                }
                Action::Close(conn) => {
                    self.running.push((Hook::Close, self.number(conn)));
                    Act::Close(self.number(conn))
                }
                Action::Abort(conn, phase) => {
                    let c = self.number(conn);
                    self.held.retain(|&held| held != c);
                    Act::Abort(c, phase)
                }
                Action::Wake(w) => Act::Wake(w),
                Action::Forget(key) => Act::Forget(self.key_number(key)),
                Action::Leak(conn, held) => Act::Leak(self.number(conn), held),
                Action::Drained => {
                    self.drained = true;
                    Act::Drained
                }
            });
        }
        prop_assert_eq!(acts, std::mem::take(&mut self.naive.acts));
        self.check()
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let Self { real, naive, now, .. } = self;
        real.audit(*now);
        let counts = real.counts();
        for (state, count) in [
            (State::Idle, counts.idle),
            (State::Opening, counts.opening),
            (State::Checking, counts.checking),
            (State::InUse, counts.in_use),
            (State::Resetting, counts.resetting),
            (State::Closing, counts.closing),
        ] {
            prop_assert_eq!(count, naive.count(None, &[state]), "{:?}", state);
        }
        prop_assert_eq!(counts.waiting, naive.waiting());
        prop_assert_eq!(counts.keys, naive.keys.iter().filter(|key| !key.forgotten).count());
        prop_assert_eq!(
            (counts.opened, counts.closed, counts.abandoned),
            (naive.opened, naive.closed, naive.abandoned)
        );
        prop_assert_eq!((counts.acquired, counts.timeouts), (naive.acquired, naive.timeouts));
        prop_assert_eq!(real.wake_at().unwrap_or(f64::INFINITY), naive.earliest());
        if let Some(at) = real.alarm() {
            prop_assert!(at < self.armed, "a timer is only ever moved to an earlier time");
            self.armed = at;
        }
        prop_assert!(self.armed <= naive.earliest(), "the timer goes off too late");
        self.nobody_asleep()
    }

    /// Somebody waits, nothing is on its way and nothing is in use that could come back: then there is a next attempt.
    fn nobody_asleep(&self) -> Result<(), TestCaseError> {
        let Counts { waiting, idle, opening, checking, in_use, resetting, closing, .. } = self.real.counts();
        if waiting > 0 && self.naive.config.max_size + self.naive.config.burst > 0 {
            let coming = opening + checking + resetting + closing;
            prop_assert!(coming + in_use > 0 || self.real.wake_at().is_some(), "{waiting} sleep beside {idle} idle");
        }
        Ok(())
    }

    fn acquire(&mut self, slot: usize, deadline: u32) -> Result<(), TestCaseError> {
        if self.used_keys[slot] == usize::MAX || self.naive.keys[self.used_keys[slot]].forgotten {
            let key = self.real.key();
            self.keys.push(key);
            self.naive.keys.push(naive::Key::default());
            self.used_keys[slot] = self.keys.len() - 1;
        }
        let number = self.used_keys[slot];
        let (key, now) = (self.keys[number], self.now);
        let fast = self.real.try_acquire(key, now);
        prop_assert_eq!(fast.map(|conn| self.number(conn)), self.naive.try_acquire(number, now));
        if let Some(conn) = fast {
            prop_assert_eq!(self.real.key_of(conn), Some(key));
            self.held.push(self.number(conn));
            // The key may have been made for this.
            return self.check();
        }
        let deadline = if deadline == 0 { f64::INFINITY } else { now + f64::from(deadline) / 4.0 };
        let waiter = self.tickets.len();
        let real = self.real.wait(key, deadline, now, waiter, &mut self.out);
        let naive = self.naive.wait(number, deadline, now);
        match real {
            Ok(ticket) => {
                prop_assert_eq!(naive, Ok(waiter));
                self.tickets.push(ticket);
            }
            Err(refusal) => prop_assert_eq!(naive, Err(refusal)),
        }
        self.agree()
    }

    fn resume(&mut self, w: usize) -> Result<(), TestCaseError> {
        let gone = self.naive.waiters[w].fate == Fate::Gone;
        match (self.real.resume(self.tickets[w]), self.naive.resume(w)) {
            (Resumed::Refused(Refusal::Closed), Fate::Gone) if gone => {}
            (Resumed::Waiting, Fate::InLine) => {}
            (Resumed::Refused(real), Fate::Refused(naive)) => prop_assert_eq!(real, naive),
            (Resumed::Got(conn), Fate::Granted(c)) => {
                prop_assert_eq!(self.number(conn), c);
                prop_assert_eq!(self.real.state(conn), Some(State::InUse));
                self.held.push(c);
            }
            (real, naive) => prop_assert!(false, "{real:?}, {naive:?}"),
        }
        self.check()
    }

    fn release(&mut self, c: usize, condition: Condition, fast: bool) -> Result<(), TestCaseError> {
        let before = self.real.wake_at();
        if fast && self.real.try_release(self.conns[c], self.now) {
            self.naive.release(c, Condition::Clean, self.now);
            prop_assert_eq!(&self.naive.acts, &[], "the fast way is for what needs no action ({:?})", before);
        } else {
            let condition = if fast { Condition::Clean } else { condition };
            prop_assert!(self.real.release(self.conns[c], condition, self.now, &mut self.out));
            self.naive.release(c, condition, self.now);
        }
        self.agree()
    }

    fn answer(&mut self, hook: Hook, c: usize, ok: bool) -> Result<(), TestCaseError> {
        let (conn, now, out) = (self.conns[c], self.now, &mut self.out);
        let expected = match hook {
            Hook::Connect => State::Opening,
            Hook::Check => State::Checking,
            Hook::Reset => State::Resetting,
            Hook::Close => State::Closing,
        };
        let heard = self.naive.conns[c].state == Some(expected);
        match hook {
            Hook::Connect if ok => prop_assert_eq!(self.real.connected(conn, now, out), heard),
            Hook::Connect => self.real.connect_failed(conn, 7, now, out),
            Hook::Check => self.real.checked(conn, ok, now, out),
            Hook::Reset => self.real.reset(conn, ok, now, out),
            Hook::Close => self.real.closed(conn, ok, now, out),
        }
        match hook {
            _ if !heard => {}
            Hook::Connect if ok => self.naive.connected(c, now),
            Hook::Connect => self.naive.connect_failed(c, 7, now),
            Hook::Check | Hook::Reset => self.naive.hook_ended(c, ok, now),
            Hook::Close => self.naive.closed(c, now),
        }
        self.agree()
    }

    fn pass(&mut self, to: f64) -> Result<(), TestCaseError> {
        self.now = to;
        self.armed = f64::INFINITY;
        self.real.tick(to, &mut self.out);
        self.naive.tick(to);
        self.agree()
    }

    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let now = self.now;
        match *event {
            Event::Acquire { key, deadline } => self.acquire(key, deadline),
            Event::Resume(at) if !self.tickets.is_empty() => self.resume(at % self.tickets.len()),
            Event::Leave(at) if !self.tickets.is_empty() => {
                let w = at % self.tickets.len();
                self.real.leave(self.tickets[w], now, &mut self.out);
                self.naive.leave(w, now);
                self.agree()
            }
            Event::Release { which, condition } if !self.held.is_empty() => {
                let c = self.held.swap_remove(which % self.held.len());
                self.release(c, condition, false)
            }
            Event::ReleaseFast(which) if !self.held.is_empty() => {
                let c = self.held.swap_remove(which % self.held.len());
                self.release(c, Condition::Clean, true)
            }
            Event::Answer { which, ok } if !self.running.is_empty() => {
                let (hook, c) = self.running.swap_remove(which % self.running.len());
                self.answer(hook, c, ok)
            }
            Event::Pass { quarters } => self.pass(now + f64::from(quarters) / 4.0),
            Event::Resize { max_size, burst, min_size } => {
                self.real.resize(max_size, burst, min_size, now, &mut self.out);
                self.naive.resize(max_size, burst, min_size, now);
                self.agree()
            }
            Event::ExpireAll => {
                let (conns, keys) = (self.conns_in_order(), self.keys_in_order());
                self.real.expire_all(now, &mut self.out);
                self.naive.expire_all(&conns, &keys, now);
                self.agree()
            }
            Event::CheckIdle => {
                self.real.check_idle(now, &mut self.out);
                self.naive.check_idle(now);
                self.agree()
            }
            Event::Lost(at) if !self.conns.is_empty() => {
                let c = at % self.conns.len();
                prop_assert_eq!(self.real.lost(self.conns[c], now, &mut self.out), self.naive.lost(c, now));
                self.agree()
            }
            Event::Drain => {
                let keys = self.keys_in_order();
                self.real.drain(now, &mut self.out);
                self.naive.drain(&keys, now);
                self.agree()
            }
            Event::Force => {
                let (conns, keys, waiters) = (self.conns_in_order(), self.keys_in_order(), self.waiters_in_order());
                self.real.force(now, &mut self.out);
                self.naive.force(&conns, &waiters, &keys, now);
                self.agree()
            }
            Event::AbandonAll => {
                let live = self.conns_in_order();
                let abandoned = self.real.abandon_all();
                prop_assert_eq!(abandoned.iter().map(|&conn| self.number(conn)).collect::<Vec<_>>(), live);
                self.naive.abandon_all();
                self.held.clear();
                self.armed = f64::INFINITY;
                self.agree()
            }
            Event::Lost(_)
            | Event::Resume(_)
            | Event::Leave(_)
            | Event::Release { .. }
            | Event::ReleaseFast(_)
            | Event::Answer { .. } => Ok(()),
        }
    }

    /// Everybody who waits is served or refused, every hook answers, the pool drains: then the books are even.
    fn run_out(&mut self) -> Result<(), TestCaseError> {
        if self.naive.config.max_size + self.naive.config.burst == 0 {
            self.apply(&Event::Resize { max_size: 1, burst: 0, min_size: 0 })?;
        }
        let mut quiet = 0;
        while self.real.counts().waiting > 0 || !self.held.is_empty() || !self.running.is_empty() {
            quiet += 1;
            prop_assert!(quiet < 2_000, "somebody waits for ever");
            if let Some((hook, c)) = self.running.pop() {
                self.answer(hook, c, true)?;
            } else if let Some(c) = self.held.pop() {
                self.release(c, Condition::Clean, true)?;
            } else {
                for w in 0..self.tickets.len() {
                    if self.naive.waiters[w].fate != Fate::Gone {
                        self.resume(w)?;
                    }
                }
                if self.held.is_empty() && self.running.is_empty() {
                    let at = self.real.wake_at().unwrap_or(self.now).max(self.now);
                    self.pass(at)?;
                }
            }
        }
        for w in 0..self.tickets.len() {
            self.apply(&Event::Leave(w))?;
        }
        self.drained = false;
        self.apply(&Event::Drain)?;
        while let Some((hook, c)) = self.running.pop() {
            self.answer(hook, c, true)?;
        }
        prop_assert!(self.drained, "it never says that it is empty");
        let counts = self.real.counts();
        prop_assert_eq!(counts.opened, counts.closed + counts.abandoned, "a connection leaked");
        prop_assert_eq!(counts.keys, 1, "a key is remembered for ever");
        prop_assert_eq!(self.real.wake_at(), None, "a timer outlives the pool");
        Ok(())
    }
}

fn cases() -> u32 {
    if std::env::var_os("LOOPWRIGHT_STRESS").is_some() { 100_000 } else { 8_000 }
}

/// More than a million events; and every step that the table of states allows is taken in them.
#[test]
fn agrees_with_the_naive_one_and_the_whole_table_is_used() {
    let taken = RefCell::new(BTreeSet::new());
    let run = |(config, events): (Config, Vec<Event>)| {
        let mut pair = Pair::new(&config);
        let verdict = events.iter().try_for_each(|event| pair.apply(event)).and_then(|()| pair.run_out());
        taken.borrow_mut().append(&mut pair.naive.steps);
        verdict
    };
    let mut runner =
        TestRunner::new(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() });
    if let Err(failure) = runner.run(&(config(), prop::collection::vec(event(), 60..200)), run) {
        panic!("{failure}");
    }
    let table: BTreeSet<_> = TRANSITIONS.iter().map(|&(from, _, to)| naive::step(from, to)).collect();
    assert_eq!(taken.into_inner(), table);
}
