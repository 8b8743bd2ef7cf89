//! The window against a naive model that keeps every item's state in a list and counts by looking.
//!
//! Any order of events: the bound holds at every step, each item's result is delivered exactly once and in the order
//! promised, nothing is pulled or delivered after a stop, and a map that is left alone comes to its end.

use loopwright_core::map::{Delivery, Map, Taken};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Running,
    Waiting,
    Gone,
}

#[derive(Clone, Debug)]
enum Event {
    Pull,
    Finish(prop::sample::Index),
    End(prop::sample::Index),
    Take,
    Exhaust,
    Stop,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => Just(Event::Pull),
        6 => any::<prop::sample::Index>().prop_map(Event::Finish),
        1 => any::<prop::sample::Index>().prop_map(Event::End),
        6 => Just(Event::Take),
        1 => Just(Event::Exhaust),
        1 => Just(Event::Stop),
    ];
    prop::collection::vec(event, 0..200)
}

fn deliveries() -> impl Strategy<Value = Delivery> {
    prop_oneof![Just(Delivery::AtOnce), Just(Delivery::InOrder), Just(Delivery::AsFinished)]
}

/// Items in the order pulled; `finished` in the order of the finish.
#[derive(Default)]
struct Model {
    items: Vec<State>,
    finished: Vec<usize>,
    closed: bool,
    stopped: bool,
    peak: usize,
}

impl Model {
    fn count(&self, state: State) -> usize {
        self.items.iter().filter(|&&item| item == state).count()
    }

    fn nth_running(&self, which: prop::sample::Index) -> Option<usize> {
        let running: Vec<usize> = (0..self.items.len()).filter(|&i| self.items[i] == State::Running).collect();
        (!running.is_empty()).then(|| running[which.index(running.len())])
    }

    fn due(&self, delivery: Delivery) -> Option<usize> {
        match delivery {
            Delivery::AtOnce => None,
            Delivery::InOrder => (0..self.items.len())
                .find(|&i| self.items[i] != State::Gone)
                .filter(|&i| self.items[i] == State::Waiting),
            Delivery::AsFinished => self.finished.iter().copied().find(|&i| self.items[i] == State::Waiting),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn agrees_with_the_model(events in events(), limit in prop::option::of(1_usize..6), delivery in deliveries()) {
        let mut map = limit.map_or_else(|| Map::unlimited(delivery), |limit| Map::new(limit, delivery));
        let mut model = Model::default();
        for event in events {
            match event {
                Event::Pull => {
                    let (running, waiting) = (model.count(State::Running), model.count(State::Waiting));
                    let room = limit.map_or(waiting < model.peak.max(1), |limit| running + waiting < limit);
                    prop_assert_eq!(map.pull(), room && !model.closed);
                    if room && !model.closed {
                        prop_assert!(!map.pull(), "one pull at a time");
                        prop_assert_eq!(map.pulled(), Some(model.items.len()));
                        model.items.push(State::Running);
                        model.peak = model.peak.max(running + 1);
                    }
                }
                Event::Finish(which) => {
                    let Some(index) = model.nth_running(which) else { continue };
                    let kept = map.finished(index, index * 7);
                    prop_assert_eq!(kept, (delivery == Delivery::AtOnce).then_some(index * 7));
                    model.items[index] = if delivery == Delivery::AtOnce { State::Gone } else { State::Waiting };
                    model.finished.push(index);
                }
                // A call ends without a result only in a map that is stopping: the binding stops it first.
                Event::End(which) => {
                    let Some(index) = model.nth_running(which) else { continue };
                    map.stop();
                    (model.closed, model.stopped) = (true, true);
                    map.ended();
                    model.items[index] = State::Gone;
                }
                Event::Take => {
                    let expected = match model.due(delivery) {
                        _ if model.stopped => Taken::Over,
                        Some(index) => Taken::Result(index, index * 7),
                        None if model.closed && model.count(State::Running) == 0 => Taken::Over,
                        None => Taken::Pending,
                    };
                    prop_assert_eq!(map.has_result(), matches!(expected, Taken::Result(..)));
                    if let Taken::Result(index, _) = expected {
                        model.items[index] = State::Gone;
                    }
                    prop_assert_eq!(map.take(), expected);
                }
                Event::Exhaust => {
                    if map.pull() {
                        map.exhausted();
                        model.closed = true;
                    }
                }
                Event::Stop => {
                    prop_assert_eq!(map.stop(), !model.stopped);
                    (model.closed, model.stopped) = (true, true);
                }
            }
            prop_assert_eq!(map.running(), model.count(State::Running));
            prop_assert_eq!(map.waiting(), model.count(State::Waiting));
            prop_assert_eq!(map.is_closed(), model.closed);
            prop_assert_eq!(map.is_stopped(), model.stopped);
            prop_assert_eq!((map.started(), map.peak()), (model.items.len(), model.peak));
            if let Some(limit) = limit {
                prop_assert!(map.running() + map.waiting() <= limit);
            } else {
                prop_assert!(map.waiting() <= 2 * map.peak());
            }
        }
        // Nothing finished is lost: what was not delivered is there to be reported.
        map.stop();
        let mut left: Vec<usize> = map.leftovers().map(|(index, result)| { assert_eq!(result, index * 7); index }).collect();
        left.sort_unstable();
        let waiting: Vec<usize> = (0..model.items.len()).filter(|&i| model.items[i] == State::Waiting).collect();
        prop_assert_eq!(left, waiting);
    }

    /// Whoever pulls, finishes and takes whenever that is possible gets every result, once, and then the end.
    #[test]
    fn comes_to_its_end(n in 0_usize..40, limit in 1_usize..6, ordered: bool, picks in prop::collection::vec(any::<prop::sample::Index>(), 40)) {
        let delivery = if ordered { Delivery::InOrder } else { Delivery::AsFinished };
        let mut map = Map::new(limit, delivery);
        let (mut running, mut got, mut picks) = (Vec::new(), Vec::new(), picks.into_iter());
        loop {
            while map.pull() {
                if map.started() == n { map.exhausted() } else { running.extend(map.pulled()) }
            }
            match map.take() {
                Taken::Result(index, ()) => got.push(index),
                Taken::Over => break,
                Taken::Pending => {
                    let index = running.swap_remove(picks.next().expect("one finish per item").index(running.len()));
                    map.finished(index, ());
                }
            }
        }
        if !ordered { got.sort_unstable(); }
        prop_assert_eq!(got, (0..n).collect::<Vec<_>>());
    }
}

#[test]
fn an_item_pulled_while_the_map_was_stopped_is_nobodys() {
    let mut map: Map<()> = Map::new(1, Delivery::AtOnce);
    assert!(map.pull());
    assert!(map.stop());
    assert_eq!(map.pulled(), None);
    assert_eq!((map.running(), map.started()), (0, 0));
}
