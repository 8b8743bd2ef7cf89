//! `Keyed` against a list that is searched from its beginning: what is in use is never given up, what rests goes in the
//! order of its last use, and there are more than there may be only while all are in use.

use loopwright_core::keyed::{Keyed, Settled};
use proptest::prelude::*;

const KEYS: u32 = 12;

#[derive(Clone, Debug)]
enum Event {
    /// A key is asked for: a use, or a newcomer and its look.
    Ask(u32),
    /// A value is taken into use, or let go, without being asked for.
    Hold(u32),
    LetGo(u32),
    /// The clock goes on by so many halves of a second.
    Wait(u32),
    /// Another clock takes its place, which shows an earlier time, or any if that is said.
    AnotherClock(bool),
    Sweep,
    Remove(u32),
    /// While the next look asks after a value, this key is asked for; while it asks after the one after it, this one
    /// is removed.
    Meanwhile(u32, u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0..KEYS).prop_map(Event::Ask),
        4 => (0..KEYS).prop_map(Event::Hold),
        4 => (0..KEYS).prop_map(Event::LetGo),
        4 => (1_u32..8).prop_map(Event::Wait),
        1 => any::<bool>().prop_map(Event::AnotherClock),
        2 => Just(Event::Sweep),
        1 => (0..KEYS).prop_map(Event::Remove),
        2 => (0..KEYS, 0..KEYS).prop_map(|(ask, remove)| Event::Meanwhile(ask, remove)),
    ]
}

/// So that keys share hashes.
fn hash(key: u32) -> u64 {
    u64::from(key % 5)
}

struct Pair {
    real: Keyed<u32>,
    /// What the caller's clock shows.
    now: f64,
    held: Vec<u32>,
    meanwhile: Option<(u32, u32)>,
    // The reference: (key, when it was used), by use.
    line: Vec<(u32, f64)>,
    clock: f64,
    max_keys: usize,
    idle: f64,
    look_at: usize,
}

impl Pair {
    fn new(max_keys: usize, idle: f64) -> Self {
        Self {
            real: Keyed::new(max_keys, idle),
            now: 1000.0,
            held: vec![],
            meanwhile: None,
            line: vec![],
            clock: 0.0,
            max_keys,
            idle,
            look_at: 0,
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let line: Vec<u32> = self.line.iter().map(|&(key, _)| key).collect();
        prop_assert_eq!(self.real.by_use().copied().collect::<Vec<_>>(), line);
        prop_assert_eq!(self.real.len(), self.line.len());
        let totals = self.real.totals();
        prop_assert!(totals.evicted + totals.expired + self.real.len() as u64 <= totals.made);
        for key in 0..KEYS {
            prop_assert_eq!(self.find(key).is_some(), self.line.iter().any(|&(known, _)| known == key));
        }
        Ok(())
    }

    fn find(&self, key: u32) -> Option<loopwright_core::keyed::Seen> {
        let mut after = None;
        loop {
            let (seen, &value) = self.real.candidate(hash(key), after)?;
            if value == key {
                return Some(seen);
            }
            after = Some(seen);
        }
    }

    fn use_now(&mut self, key: u32) {
        self.line.retain(|&(known, _)| known != key);
        self.line.push((key, self.clock));
    }

    fn ask(&mut self, key: u32) -> Result<bool, TestCaseError> {
        let found = self.find(key);
        self.use_now(key);
        match found {
            Some(seen) => {
                prop_assert_eq!(self.real.touch(seen, self.now), Some(&key));
                prop_assert_eq!(self.real.touch(seen, self.now), None, "a stale sight is good for nothing");
            }
            None => self.real.insert(hash(key), key, self.now),
        }
        Ok(found.is_none())
    }

    fn remove(&mut self, key: u32) -> Result<(), TestCaseError> {
        let removed = self.find(key).and_then(|seen| self.real.remove(seen));
        prop_assert_eq!(removed.is_some(), self.line.iter().any(|&(known, _)| known == key));
        if removed.is_some() {
            self.look_at = 0;
        }
        self.line.retain(|&(known, _)| known != key);
        Ok(())
    }

    /// One look of either kind, by the real one and, step by step, by the reference.
    fn look(&mut self, sweep: bool) -> Result<(), TestCaseError> {
        let mut look = if sweep { self.real.sweep(self.now) } else { self.real.look() };
        let looks_for_room = sweep || (self.line.len() > self.max_keys && self.line.len() >= self.look_at);
        let mut unseen = if sweep { self.line.len() } else { self.line.len().saturating_sub(1) };
        let mut idle_left = if sweep { usize::MAX } else { 8 };
        let mut in_vain = !sweep && looks_for_room;
        let disturbed = self.meanwhile.is_some();
        loop {
            let too_many = self.line.len() > self.max_keys && looks_for_room;
            let oldest = self
                .line
                .first()
                .copied()
                .filter(|&(_, at)| unseen > 0 && (too_many || (idle_left > 0 && at + self.idle <= self.clock)));
            let candidate = self.real.next(&mut look).map(|(seen, &key)| (seen, key));
            prop_assert_eq!(candidate.map(|(_, key)| key), oldest.map(|(key, _)| key));
            let (Some((seen, key)), Some((_, at))) = (candidate, oldest) else { break };
            unseen -= 1;
            if !too_many {
                idle_left -= 1;
            }
            if let Some((ask, remove)) = self.meanwhile.take() {
                self.ask(ask)?;
                self.remove(remove)?;
            }
            let stale = self.line.first() != Some(&(key, at)) || self.find(key) != Some(seen);
            let rests = !self.held.contains(&key);
            let settled = self.real.settle(&mut look, seen, rests);
            if stale {
                prop_assert_eq!(settled, Settled::Stale);
            } else if rests {
                prop_assert_eq!(settled, Settled::Gone(key));
                self.line.remove(0);
                in_vain = false;
                self.look_at = 0;
            } else {
                prop_assert_eq!(settled, Settled::Kept);
                self.use_now(key);
            }
        }
        if in_vain && unseen == 0 && self.line.len() > self.max_keys {
            self.look_at = self.line.len() + self.line.len() / 8 + 1;
        }
        if sweep && !disturbed && self.line.len() > self.max_keys {
            prop_assert!(self.line.iter().all(|(key, _)| self.held.contains(key)), "there was room to make");
        }
        Ok(())
    }

    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match *event {
            Event::Ask(key) => {
                if self.ask(key)? {
                    self.look(false)?;
                }
            }
            Event::Hold(key) => self.held.push(key),
            Event::LetGo(key) => self.held.retain(|&held| held != key),
            Event::Wait(halves) => {
                self.now += f64::from(halves) / 2.0;
                self.clock += f64::from(halves) / 2.0;
                self.real.sweep(self.now); // somebody reads it
            }
            Event::AnotherClock(said) => {
                self.now += if said { 1e9 } else { -500.0 };
                if said {
                    self.real.change_clock(self.now);
                }
                self.real.sweep(self.now);
            }
            Event::Sweep => self.look(true)?,
            Event::Remove(key) => self.remove(key)?,
            Event::Meanwhile(ask, remove) => self.meanwhile = Some((ask, remove)),
        }
        self.check()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn agrees_with_the_naive_one(max_keys in 1_usize..8, idle in 1_u32..12, events in prop::collection::vec(event(), 1..120)) {
        let mut pair = Pair::new(max_keys, f64::from(idle) / 2.0);
        // The clock of the reference starts with the first reading, as the real one's.
        pair.real.sweep(pair.now);
        for event in &events {
            pair.apply(event)?;
        }
        pair.held.clear();
        pair.meanwhile = None;
        pair.now += 100.0;
        pair.clock += 100.0;
        pair.look(true)?;
        prop_assert!(pair.real.is_empty());
    }
}

/// Asks for a key that is not there, and looks, everything in `held` being in use.
fn newcomer(keyed: &mut Keyed<u32>, key: u32, now: f64, held: impl Fn(u32) -> bool) -> usize {
    keyed.insert(u64::from(key), key, now);
    let mut asked = 0;
    let mut look = keyed.look();
    while let Some((seen, &candidate)) = keyed.next(&mut look) {
        asked += 1;
        keyed.settle(&mut look, seen, !held(candidate));
    }
    asked
}

#[test]
fn a_crowd_in_use_costs_a_newcomer_o_1() {
    let mut keyed = Keyed::new(100, f64::INFINITY);
    let asked: usize = (0..100_000).map(|key| newcomer(&mut keyed, key, 0.0, |_| true)).sum();
    assert_eq!(keyed.len(), 100_000, "what is in use was given up");
    assert!(asked < 10 * 100_000, "asked {asked} times");
    // Let go of, it shrinks again, a little with each newcomer.
    let most = (100_000..120_000).map(|key| newcomer(&mut keyed, key, 0.0, |_| false)).max();
    assert_eq!(keyed.len(), 100);
    assert!(most <= Some(64), "a newcomer gave up {most:?}");
}

#[test]
fn idle_ones_go_a_few_at_a_time() {
    let mut keyed = Keyed::new(10_000, 10.0);
    for key in 0..1000 {
        newcomer(&mut keyed, key, 0.0, |_| false);
    }
    assert_eq!(keyed.len(), 1000);
    assert_eq!(newcomer(&mut keyed, 1000, 10.0, |_| false), 8);
    let mut look = keyed.sweep(10.0);
    while let Some((seen, _)) = keyed.next(&mut look) {
        keyed.settle(&mut look, seen, true);
    }
    assert_eq!(keyed.values().collect::<Vec<_>>(), [&1000]);
    assert_eq!(keyed.totals().expired, 1000);
}

#[test]
fn a_clock_that_is_read_coarsely_adds_no_time() {
    let mut keyed = Keyed::new(10, 1.0);
    keyed.insert(0, 0, 5.0);
    for _ in 0..10_000 {
        keyed.sweep(4.996);
        keyed.sweep(5.0);
    }
    let mut look = keyed.sweep(5.0);
    assert_eq!(keyed.next(&mut look), None);
}
