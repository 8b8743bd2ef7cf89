//! The heap of deadlines and its alarm against a naive list.

use loopwright_core::deadlines::{Alarm, Arm, Deadlines, Key};
use proptest::prelude::*;

/// The naive reference: a list in order of arrival.
#[derive(Default)]
struct Model {
    live: Vec<(f64, u64, u32)>,
    order: u64,
}

impl Model {
    fn insert(&mut self, when: f64, id: u32) {
        self.live.push((when, self.order, id));
        self.order += 1;
    }

    fn remove(&mut self, id: u32) -> Option<(f64, u64, u32)> {
        let place = self.live.iter().position(|&(_, _, other)| other == id)?;
        Some(self.live.remove(place))
    }

    fn earliest(&self) -> Option<(f64, u64, u32)> {
        self.live.iter().copied().min_by(|a, b| a.0.partial_cmp(&b.0).unwrap().then(a.1.cmp(&b.1)))
    }
}

/// The loop, as far as timers go: at most one is set, and it is what the alarm asked for last.
#[derive(Default)]
struct Harness {
    deadlines: Deadlines<u32>,
    alarm: Alarm,
    model: Model,
    keys: Vec<Key>,
    now: f64,
    timer: Option<Arm>,
    calls: usize,
}

#[derive(Clone, Debug)]
enum Op {
    Insert(f64),
    Remove(prop::sample::Index),
    Reschedule(prop::sample::Index, f64),
    /// Time passes, the loop runs its timer if it is due.
    Turn(f64),
    /// The timer goes off a little before its time.
    Early,
    /// A waker raised after `usize` deadlines: the firing ends there.
    Interrupted(f64, usize),
    /// A waker inserts a deadline in the past while the alarm is going off.
    InsertWhileFiring(f64),
}

fn moment() -> impl Strategy<Value = f64> {
    // Few distinct times (ties), some in the past, some never.
    prop_oneof![8 => (-4i32..24).prop_map(|t| f64::from(t) / 2.0), 1 => Just(f64::INFINITY), 1 => Just(f64::NEG_INFINITY), 1 => Just(-0.0)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => moment().prop_map(Op::Insert),
        3 => any::<prop::sample::Index>().prop_map(Op::Remove),
        2 => (any::<prop::sample::Index>(), moment()).prop_map(|(i, t)| Op::Reschedule(i, t)),
        4 => (0i32..6).prop_map(|t| Op::Turn(f64::from(t) / 2.0)),
        1 => Just(Op::Early),
        1 => (0i32..12, 0usize..3).prop_map(|(t, n)| Op::Interrupted(f64::from(t) / 2.0, n)),
        1 => (0i32..6).prop_map(|t| Op::InsertWhileFiring(f64::from(t) / 2.0)),
    ]
}

impl Harness {
    fn set(&mut self, arm: Option<Arm>) {
        if let Some(arm) = arm {
            self.timer = Some(arm);
            self.calls += 1;
        }
    }

    fn insert(&mut self, relative: f64) {
        let when = self.now + relative;
        let id = u32::try_from(self.keys.len()).unwrap();
        let before = (self.timer, self.calls);
        self.keys.push(self.deadlines.insert(when, id));
        self.model.insert(when, id);
        let arm = self.alarm.cover(when, self.now);
        self.set(arm);
        if let Some(Arm::At(armed)) = before.0
            && when >= armed
            && when > self.now
        {
            assert_eq!(self.calls, before.1, "a later deadline than the armed one makes no call");
        }
    }

    fn fire(&mut self, most: usize, insert_in_the_past: bool) {
        self.timer = None;
        let until = self.alarm.fired(self.now);
        let due = self.deadlines.due(until);
        let fresh = self.model.order;
        let mut popped = 0;
        while popped < most {
            let Some((key, id)) = self.deadlines.pop_due(due) else {
                if let Some((when, order, _)) = self.model.earliest() {
                    assert!(when > until || when == f64::INFINITY || order >= fresh, "a due deadline was left behind");
                }
                break;
            };
            let (when, order, expected) = self.model.earliest().expect("the model has a deadline too");
            assert_eq!(id, expected, "order of time, then of arrival");
            assert!(when <= until && order < fresh);
            assert_eq!(self.keys[id as usize], key);
            self.model.remove(id);
            popped += 1;
            if insert_in_the_past && popped == 1 {
                self.insert(-0.5);
            }
        }
        let arm = self.deadlines.earliest().and_then(|when| self.alarm.cover(when, self.now));
        self.set(arm);
    }

    fn timer_is_due(&self) -> bool {
        match self.timer {
            Some(Arm::Soon) => true,
            Some(Arm::At(when)) => when <= self.now,
            None => false,
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Insert(when) => self.insert(when),
            Op::Remove(index) if !self.keys.is_empty() => {
                let id = index.index(self.keys.len());
                let calls = self.calls;
                let expected = self.model.remove(u32::try_from(id).unwrap()).map(|(_, _, id)| id);
                assert_eq!(self.deadlines.remove(self.keys[id]), expected);
                assert_eq!(self.deadlines.get(self.keys[id]), None);
                assert_eq!(self.calls, calls, "leaving makes no call");
            }
            Op::Reschedule(index, relative) if !self.keys.is_empty() => {
                let id = index.index(self.keys.len());
                let when = self.now + relative;
                let live = self.model.remove(u32::try_from(id).unwrap());
                assert_eq!(self.deadlines.reschedule(self.keys[id], when), live.is_some());
                assert_eq!(self.deadlines.when(self.keys[id]), live.map(|_| when));
                if let Some((_, _, id)) = live {
                    self.model.insert(when, id);
                    let arm = self.alarm.cover(when, self.now);
                    self.set(arm);
                }
            }
            Op::Turn(passed) => {
                self.now += passed;
                if self.timer_is_due() {
                    self.fire(usize::MAX, false);
                }
            }
            Op::Interrupted(passed, most) => {
                self.now += passed;
                if self.timer_is_due() {
                    self.fire(most, false);
                }
            }
            Op::InsertWhileFiring(passed) => {
                self.now += passed;
                if self.timer_is_due() {
                    self.fire(usize::MAX, true);
                }
            }
            Op::Early => {
                if let Some(Arm::At(when)) = self.timer {
                    self.now = self.now.max(when - 0.25);
                    let before = self.deadlines.len();
                    let due = self.model.live.iter().filter(|&&(at, ..)| at <= when.max(self.now)).count();
                    self.fire(usize::MAX, false);
                    assert_eq!(self.deadlines.len(), before - due, "an early call counts as being in time");
                }
            }
            Op::Remove(_) | Op::Reschedule(..) => {}
        }
        self.check();
    }

    fn check(&self) {
        assert_eq!(self.deadlines.len(), self.model.live.len());
        assert_eq!(self.deadlines.is_empty(), self.model.live.is_empty());
        assert_eq!(self.deadlines.earliest(), self.model.earliest().map(|(when, ..)| when));
        let mut wakers: Vec<u32> = self.deadlines.wakers().copied().collect();
        let mut expected: Vec<u32> = self.model.live.iter().map(|&(_, _, id)| id).collect();
        wakers.sort_unstable();
        expected.sort_unstable();
        assert_eq!(wakers, expected);
        assert_eq!(self.timer.is_some(), self.alarm.armed().is_some() || self.timer == Some(Arm::Soon));
        if let Some(earliest) = self.deadlines.earliest().filter(|&when| when != f64::INFINITY) {
            match self.timer {
                Some(Arm::At(when)) => assert!(when <= earliest, "never late: {when} > {earliest}"),
                Some(Arm::Soon) => {}
                None => panic!("a deadline at {earliest} and no timer"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_list_and_is_never_late(ops in prop::collection::vec(op(), 1..80)) {
        let mut harness = Harness::default();
        for op in ops {
            harness.apply(op);
        }
        // Left alone, the loop serves everything that ever comes due, in as many turns as there are distinct times.
        for _ in 0..500 {
            let Some(timer) = harness.timer else { break };
            if let Arm::At(when) = timer {
                harness.now = harness.now.max(when);
            }
            harness.fire(usize::MAX, false);
            harness.check();
        }
        prop_assert!(harness.model.live.iter().all(|&(when, ..)| when == f64::INFINITY));
    }

    #[test]
    fn a_crowd_gives_memory_back_and_its_keys_stay_stale(
        crowd in 1_500usize..6_000,
        survivors in prop::collection::btree_set(0usize..1_500, 0..8),
        seed in any::<u64>(),
    ) {
        let mut deadlines = Deadlines::default();
        let mut random = seed;
        let mut next = || { random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407); random >> 33 };
        let mut keys = Vec::new();
        for id in 0..crowd {
            #[allow(clippy::cast_precision_loss, reason = "31 bits")]
            keys.push(deadlines.insert(next() as f64, id));
        }
        let mut leaving: Vec<usize> = (0..crowd).filter(|id| !survivors.contains(id)).collect();
        while !leaving.is_empty() {
            let place = usize::try_from(next()).unwrap() % leaving.len();
            let id = leaving.swap_remove(place);
            prop_assert_eq!(deadlines.remove(keys[id]), Some(id));
        }
        prop_assert_eq!(deadlines.len(), survivors.len());
        if survivors.is_empty() {
            prop_assert!(deadlines.capacity() <= 1_024, "room for {} is kept", deadlines.capacity());
        }
        for (id, &key) in keys.iter().enumerate() {
            let live = survivors.contains(&id);
            prop_assert_eq!(deadlines.get(key).copied(), live.then_some(id));
            prop_assert_eq!(deadlines.reschedule(key, 1.0), live);
        }
        // Slots cut off and used again do not revive the old keys.
        let again: Vec<Key> = (0..crowd).map(|id| deadlines.insert(2.0, id)).collect();
        for (id, &key) in keys.iter().enumerate().filter(|(id, _)| !survivors.contains(id)) {
            prop_assert_eq!(deadlines.remove(key), None, "key of {} is stale", id);
        }
        prop_assert!(again.iter().all(|&key| deadlines.when(key) == Some(2.0)));
    }
}

#[test]
fn ties_go_in_the_order_of_arrival() {
    let mut deadlines = Deadlines::default();
    let keys: Vec<Key> = (0..50).map(|id| deadlines.insert(1.0, id)).collect();
    assert!(deadlines.reschedule(keys[7], 1.0), "moved: now the last to arrive");
    let due = deadlines.due(1.0);
    let order: Vec<u32> = std::iter::from_fn(|| deadlines.pop_due(due)).map(|(_, id)| id).collect();
    let expected: Vec<u32> = (0..50).filter(|&id| id != 7).chain([7]).collect();
    assert_eq!(order, expected);
}

#[test]
fn coming_and_going_behind_an_armed_timer_makes_no_call() {
    let mut deadlines = Deadlines::default();
    let mut alarm = Alarm::default();
    deadlines.insert(10.0, 0);
    assert_eq!(alarm.cover(10.0, 0.0), Some(Arm::At(10.0)));
    for id in 1..1_000 {
        let key = deadlines.insert(10.0 + f64::from(id), id);
        assert_eq!(alarm.cover(10.0 + f64::from(id), f64::from(id) / 1_000.0), None);
        assert_eq!(deadlines.remove(key), Some(id));
    }
    assert_eq!(alarm.armed(), Some(10.0));
}

#[test]
fn a_deadline_in_the_past_fires_in_the_next_turn_even_behind_an_overdue_timer() {
    let mut alarm = Alarm::default();
    assert_eq!(alarm.cover(1.0, 0.0), Some(Arm::At(1.0)));
    // The loop was busy until 5; its timer comes behind what is ready already, a passed deadline must not.
    assert_eq!(alarm.cover(2.0, 5.0), Some(Arm::Soon));
    assert_eq!(alarm.cover(3.0, 5.0), None, "once is enough");
    assert_eq!(alarm.cover(9.0, 5.0), None, "soon covers everything");
    assert!(alarm.fired(5.0) >= 5.0);
    assert_eq!(alarm.cover(9.0, 5.0), Some(Arm::At(9.0)));
}

#[test]
fn a_timer_that_could_not_be_set_is_asked_for_again() {
    let mut alarm = Alarm::default();
    assert_eq!(alarm.cover(1.0, 0.0), Some(Arm::At(1.0)));
    alarm.disarmed();
    assert_eq!(alarm.cover(1.0, 0.0), Some(Arm::At(1.0)));
}

#[test]
fn a_fire_with_nothing_due_moves_on_or_disarms() {
    let mut deadlines = Deadlines::default();
    let mut alarm = Alarm::default();
    let first = deadlines.insert(1.0, "first");
    assert_eq!(alarm.cover(1.0, 0.0), Some(Arm::At(1.0)));
    let second = deadlines.insert(2.0, "second");
    assert_eq!(alarm.cover(2.0, 0.0), None);
    deadlines.remove(first);
    let due = deadlines.due(alarm.fired(1.0));
    assert_eq!(deadlines.pop_due(due), None);
    assert_eq!(deadlines.earliest().and_then(|when| alarm.cover(when, 1.0)), Some(Arm::At(2.0)));
    deadlines.remove(second);
    let due = deadlines.due(alarm.fired(2.0));
    assert_eq!(deadlines.pop_due(due), None);
    assert_eq!(deadlines.earliest(), None);
    assert_eq!(alarm.armed(), None);
}

#[test]
fn infinity_is_never_due_and_never_armed() {
    let mut deadlines = Deadlines::default();
    let mut alarm = Alarm::default();
    deadlines.insert(f64::INFINITY, ());
    assert_eq!(alarm.cover(f64::INFINITY, 0.0), None);
    let due = deadlines.due(f64::INFINITY);
    assert_eq!(deadlines.pop_due(due), None);
}

#[test]
#[should_panic(expected = "NaN")]
fn nan_has_no_place_in_the_order() {
    Deadlines::default().insert(f64::NAN, ());
}

#[test]
fn clear_gives_every_waker_back() {
    let mut deadlines = Deadlines::default();
    let keys: Vec<Key> = (0..10).map(|id| deadlines.insert(f64::from(id), id)).collect();
    deadlines.remove(keys[3]);
    let mut wakers = deadlines.clear();
    wakers.sort_unstable();
    assert_eq!(wakers, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    assert!(deadlines.is_empty());
    assert_eq!(deadlines.remove(keys[0]), None);
}
