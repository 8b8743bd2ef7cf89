//! `Breaker` against a naive one that keeps every call, and against the table of states in resilience4j's documentation.

use loopwright_core::breaker::{Breaker, Call, Change, Config, PARTS, Refused, State, Verdict, Why, Window};
use proptest::prelude::*;

const CONFIG: Config = Config {
    failure_rate: 0.5,
    window: Window::Calls(4),
    min_calls: 2,
    slow_call: None,
    slow_rate: 1.0,
    open_for: 10.0,
    half_open: 2,
};

#[derive(Clone, Debug)]
enum Event {
    Begin,
    End(usize, bool),
    /// A success, the way of one that needs no clock.
    EndPlainly(usize),
    Cancel(usize),
    Pass(u32),
    Open,
    Close,
    Isolate,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => Just(Event::Begin),
        10 => (any::<usize>(), any::<bool>()).prop_map(|(who, failed)| Event::End(who, failed)),
        6 => any::<usize>().prop_map(Event::EndPlainly),
        3 => any::<usize>().prop_map(Event::Cancel),
        5 => (0_u32..400).prop_map(Event::Pass),
        1 => Just(Event::Open),
        1 => Just(Event::Close),
        1 => Just(Event::Isolate),
    ]
}

fn config() -> impl Strategy<Value = Config> {
    let window = prop_oneof![
        (1_usize..8).prop_map(Window::Calls),
        // A width of a quarter of a second: f64 makes no error.
        (1_u32..4).prop_map(|n| Window::Seconds(f64::from(n) * PARTS as f64 / 4.0)),
    ];
    let rate = prop_oneof![Just(0.25), Just(0.5), Just(1.0), Just(0.3)];
    let slow = prop::option::of((1_u32..8).prop_map(|n| f64::from(n) / 2.0));
    (rate.clone(), window, 1_u64..6, slow, rate, 1_u32..20, 1_u64..4).prop_map(
        |(failure_rate, window, min_calls, slow_call, slow_rate, open_for, half_open)| Config {
            failure_rate,
            window,
            min_calls,
            slow_call,
            slow_rate,
            open_for: f64::from(open_for),
            half_open,
        },
    )
}

/// From which state to which other.
type Moved = Option<(State, State)>;

/// Every call is kept, and everything recomputed from the list.
struct Reference {
    config: Config,
    state: State,
    since: f64,
    now: f64,
    /// Of this state: when they ended, failed, slow.
    ended: Vec<(f64, bool, bool)>,
    /// When and in which state (counted) each call under way began.
    under_way: Vec<(usize, f64, Call)>,
    states: usize,
}

impl Reference {
    fn go(&mut self, to: State) -> Moved {
        let from = std::mem::replace(&mut self.state, to);
        self.since = self.now;
        self.ended.clear();
        self.states += 1;
        (from != to).then_some((from, to))
    }

    fn probing(&self) -> usize {
        self.under_way.iter().filter(|call| call.0 == self.states).count()
    }

    fn begin(&mut self) -> (Result<(), Option<f64>>, Moved) {
        let mut change = None;
        if self.state == State::Open && self.now - self.since >= self.config.open_for {
            change = self.go(State::HalfOpen);
        }
        let passes = match self.state {
            State::Closed => Ok(()),
            State::Open => Err(Some(self.since + self.config.open_for - self.now)),
            State::HalfOpen if (self.ended.len() + self.probing()) < self.config.half_open as usize => Ok(()),
            State::HalfOpen | State::Isolated => Err(None),
        };
        (passes, change)
    }

    fn in_window(&self) -> Vec<(bool, bool)> {
        let outcomes: Vec<_> = match (self.state, self.config.window) {
            (State::HalfOpen, _) => self.ended.iter().collect(),
            (_, Window::Calls(size)) => self.ended.iter().rev().take(size).collect(),
            (_, Window::Seconds(seconds)) => {
                let part = |time: f64| (time / (seconds / PARTS as f64)) as u64;
                self.ended.iter().filter(|call| part(call.0) + PARTS as u64 > part(self.now)).collect()
            }
        };
        outcomes.into_iter().map(|&(_, failed, slow)| (failed, slow)).collect()
    }

    fn verdict(&self) -> Option<State> {
        let calls = self.in_window();
        let size = calls.len() as f64;
        let share = |part: usize| part as f64 / size;
        let failed = share(calls.iter().filter(|call| call.0).count());
        let slow = share(calls.iter().filter(|call| call.1).count());
        let bad =
            failed >= self.config.failure_rate || self.config.slow_call.is_some() && slow >= self.config.slow_rate;
        match self.state {
            State::HalfOpen if calls.len() as u64 == self.config.half_open => {
                Some(if bad { State::Open } else { State::Closed })
            }
            State::Closed => {
                let least = match self.config.window {
                    Window::Calls(size) => self.config.min_calls.min(size as u64),
                    Window::Seconds(_) => self.config.min_calls,
                };
                (calls.len() as u64 >= least && bad).then_some(State::Open)
            }
            _ => None,
        }
    }

    fn end(&mut self, at: usize, failed: bool) -> Moved {
        let (state, began, _) = self.under_way.remove(at);
        if state != self.states {
            return None;
        }
        let slow = self.config.slow_call.is_some_and(|slow| self.now - began > slow);
        self.ended.push((self.now, failed, slow));
        let to = self.verdict()?;
        self.go(to)
    }
}

struct Pair {
    real: Breaker,
    reference: Reference,
}

impl Pair {
    fn check(&mut self, change: Option<Change>, expected: Moved) -> Result<(), TestCaseError> {
        prop_assert_eq!(change.map(|change| (change.from, change.to)), expected);
        self.check_state()
    }

    fn check_state(&mut self) -> Result<(), TestCaseError> {
        let Self { real, reference } = self;
        prop_assert_eq!(real.state(), reference.state);
        prop_assert_eq!(real.in_flight(), reference.under_way.len() as u64);
        let tally = real.tally(reference.now);
        let calls =
            if matches!(reference.state, State::Open | State::Isolated) { vec![] } else { reference.in_window() };
        prop_assert_eq!(tally.calls, calls.len() as u64);
        prop_assert_eq!(tally.failures, calls.iter().filter(|call| call.0).count() as u64);
        prop_assert_eq!(tally.slow, calls.iter().filter(|call| call.1).count() as u64);
        if reference.state == State::HalfOpen {
            prop_assert!(reference.probing() + calls.len() <= reference.config.half_open as usize);
        }
        Ok(())
    }

    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let now = self.reference.now;
        let some = |who: usize, of: usize| who % of.max(1);
        let under_way = self.reference.under_way.len();
        match *event {
            Event::Begin => {
                let (expected, changes) = self.reference.begin();
                let plainly = expected.is_ok() && self.reference.state == State::Closed && under_way.is_multiple_of(2);
                let plain = if plainly { self.real.begin_plainly() } else { None };
                if let Some(call) = plain {
                    prop_assert!(self.reference.config.slow_call.is_none());
                    self.reference.under_way.push((self.reference.states, now, call));
                    return self.check_state();
                }
                let (begun, change) = self.real.begin(now);
                match (begun, expected) {
                    (Ok(call), Ok(())) => self.reference.under_way.push((self.reference.states, now, call)),
                    (Err(Refused { retry_after }), Err(expected)) => prop_assert_eq!(retry_after, expected),
                    (begun, expected) => prop_assert!(false, "{begun:?} instead of {expected:?}"),
                }
                self.check(change, changes)
            }
            Event::End(who, failed) if under_way > 0 => {
                let at = some(who, under_way);
                let call = self.reference.under_way[at].2;
                let expected = self.reference.end(at, failed);
                let verdict = if failed { Verdict::Failure } else { Verdict::Success };
                let change = self.real.end(call, verdict, now);
                self.check(change, expected)
            }
            Event::EndPlainly(who) if under_way > 0 => {
                let at = some(who, under_way);
                let call = self.reference.under_way[at].2;
                let was = self.reference.states;
                let expected = self.reference.end(at, false);
                if self.real.end_plainly(call, Some(now)) {
                    prop_assert_eq!(expected, None);
                    prop_assert_eq!(self.reference.states, was);
                    return self.check_state();
                }
                let change = self.real.end(call, Verdict::Success, now);
                self.check(change, expected)
            }
            Event::Cancel(who) if under_way > 0 => {
                let call = self.reference.under_way.remove(some(who, under_way)).2;
                let change = self.real.end(call, Verdict::Nothing, now);
                self.check(change, None)
            }
            Event::Pass(eighths) => {
                self.reference.now += f64::from(eighths) / 16.0;
                Ok(())
            }
            Event::Open => {
                let expected = self.reference.go(State::Open);
                let change = self.real.open(now);
                self.check(change, expected)
            }
            Event::Close => {
                let expected = self.reference.go(State::Closed);
                let change = self.real.close(now);
                self.check(change, expected)
            }
            Event::Isolate => {
                let expected = self.reference.go(State::Isolated);
                let change = self.real.isolate(now);
                self.check(change, expected)
            }
            Event::End(..) | Event::EndPlainly(_) | Event::Cancel(_) => Ok(()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn agrees_with_the_naive_one(config in config(), events in prop::collection::vec(event(), 1..120)) {
        let real = Breaker::new(config);
        let reference = Reference {
            config, state: State::Closed, since: 0.0, now: 0.0, ended: vec![], under_way: vec![], states: 0,
        };
        let mut pair = Pair { real, reference };
        pair.real.tally(0.0); // both begin at the same moment
        for event in &events {
            pair.apply(event)?;
        }
        while !pair.reference.under_way.is_empty() {
            pair.apply(&Event::Cancel(0))?;
        }
        pair.apply(&Event::Close)?;
        prop_assert!(pair.real.is_at_rest(pair.reference.now));
    }
}

/// One line of resilience4j's documentation: from a state, what happens, and the state after it.
fn drive(breaker: &mut Breaker, outcomes: &str, now: f64) -> Vec<Change> {
    let mut changes = Vec::new();
    for outcome in outcomes.chars() {
        let (begun, change) = breaker.begin(now);
        changes.extend(change);
        let Ok(call) = begun else {
            assert_eq!(outcome, 'x', "refused");
            continue;
        };
        let verdict = match outcome {
            '+' => Verdict::Success,
            '-' => Verdict::Failure,
            'c' => Verdict::Nothing,
            other => panic!("{other}: passed"),
        };
        changes.extend(breaker.end(call, verdict, now));
    }
    changes
}

/// The table of resilience4j's "CircuitBreaker" page: `+` succeeds, `-` fails, `c` is cancelled, `x` is not permitted.
#[test]
fn the_states_are_those_that_resilience4j_documents() {
    let size_10 = Config { window: Window::Calls(10), min_calls: 5, half_open: 3, ..CONFIG };
    let rows: &[(&str, &str, State)] = &[
        // "If only 9 calls have been evaluated the circuit breaker will not trip open even if all 9 have failed."
        ("fewer than the minimum number of calls", "----", State::Closed),
        ("the minimum, all failed", "-----", State::Open),
        // "When the failure rate is equal or greater than the threshold".
        ("equal to the threshold", "+++++-----", State::Open),
        ("below the threshold", "++++++----", State::Closed),
        ("a success can be the call that makes the minimum", "---++", State::Open),
        // "the count-based sliding window aggregates the outcome of the last N calls".
        ("what was N calls ago is forgotten", "+----", State::Open),
        ("only the last N count", "++++++++++----", State::Closed),
        ("the fifth failure of the last ten", "++++++++++-----", State::Open),
        // "If a call is ignored it is neither a success nor a failure".
        ("ignored calls are no calls", "cccccccc----", State::Closed),
        // "rejects calls with a CallNotPermittedException when it is OPEN".
        ("open refuses", "-----xxxx", State::Open),
    ];
    for (what, outcomes, expected) in rows {
        let mut breaker = Breaker::new(size_10);
        drive(&mut breaker, outcomes, 0.0);
        assert_eq!(breaker.state(), *expected, "{what}");
    }
    // From open, after the wait: "changes its state from OPEN to HALF_OPEN and permits a configurable number of calls".
    let rows: &[(&str, f64, &str, State)] = &[
        ("before the wait is over", 9.99, "xx", State::Open),
        ("nobody calls: it stays open", 10.0, "", State::Open),
        ("some of the probes have ended", 10.0, "++", State::HalfOpen),
        // "If the failure rate or slow call rate is then equal or greater than the configured threshold, the state
        // changes back to OPEN. If [...] below the threshold, the state changes back to CLOSED."
        ("all probes succeeded", 10.0, "+++", State::Closed),
        ("one of three failed: a third is below", 10.0, "-++", State::Closed),
        ("two of three failed, one more call decides", 10.0, "--+", State::Open),
        ("two failed: the last one is waited for", 10.0, "--", State::HalfOpen),
        ("a cancelled probe gives its place to another", 10.0, "cc+c++", State::Closed),
        ("open again: the wait begins anew", 10.0, "---xx", State::Open),
        ("closed again: nothing is left of what was before", 10.0, "+++----", State::Closed),
    ];
    for (what, after, outcomes, expected) in rows {
        let mut breaker = Breaker::new(size_10);
        drive(&mut breaker, "-----", 0.0);
        drive(&mut breaker, outcomes, *after);
        assert_eq!(breaker.state(), *expected, "{what}");
    }
}

#[test]
fn only_so_many_probes_are_under_way_and_all_others_are_refused() {
    let mut breaker = Breaker::new(CONFIG);
    assert_eq!(breaker.open(0.0), Some(Change { from: State::Closed, to: State::Open, why: Why::Asked }));
    let (first, change) = breaker.begin(10.0);
    assert_eq!(change, Some(Change { from: State::Open, to: State::HalfOpen, why: Why::Waited }));
    let (second, _) = breaker.begin(10.0);
    for _ in 0..3 {
        assert_eq!(breaker.begin(10.0).0, Err(Refused { retry_after: None }));
    }
    assert_eq!(breaker.end(first.unwrap(), Verdict::Nothing, 11.0), None);
    let (third, _) = breaker.begin(11.0);
    assert!(breaker.begin(11.0).0.is_err());
    assert_eq!(breaker.end(second.unwrap(), Verdict::Success, 11.0), None);
    assert!(breaker.begin(11.0).0.is_err(), "one has ended, one is under way: that is all of them");
    let change = breaker.end(third.unwrap(), Verdict::Success, 11.0);
    assert_eq!(change, Some(Change { from: State::HalfOpen, to: State::Closed, why: Why::Recovered }));
}

#[test]
fn what_comes_in_late_decides_nothing_about_the_probes() {
    let mut breaker = Breaker::new(CONFIG);
    let late: Vec<Call> = (0..4).map(|_| breaker.begin(0.0).0.unwrap()).collect();
    breaker.open(0.0);
    let (probe, _) = breaker.begin(10.0);
    for call in late {
        assert_eq!(breaker.end(call, Verdict::Failure, 10.0), None);
    }
    assert_eq!((breaker.state(), breaker.tally(10.0).calls), (State::HalfOpen, 0));
    assert_eq!(breaker.end(probe.unwrap(), Verdict::Success, 10.0), None);
    assert_eq!(drive(&mut breaker, "+", 10.0).len(), 1);
    assert_eq!((breaker.state(), breaker.totals().failures), (State::Closed, 4));
}

#[test]
fn slow_calls_open_though_they_succeed() {
    let config = Config { slow_call: Some(1.0), slow_rate: 0.5, ..CONFIG };
    let mut breaker = Breaker::new(config);
    let calls: Vec<Call> = (0..3).map(|_| breaker.begin(0.0).0.unwrap()).collect();
    assert_eq!(breaker.end(calls[0], Verdict::Success, 1.0), None, "a second is not more than a second");
    let change = breaker.end(calls[1], Verdict::Success, 1.1);
    assert_eq!(change, Some(Change { from: State::Closed, to: State::Open, why: Why::Slow(0.5) }));
    assert_eq!(breaker.totals().slow, 1);
}

#[test]
fn a_window_by_time_forgets_what_is_older() {
    let config = Config { window: Window::Seconds(32.0), min_calls: 4, ..CONFIG };
    let mut breaker = Breaker::new(config);
    drive(&mut breaker, "--", 0.0);
    drive(&mut breaker, "-", 31.0);
    assert_eq!(breaker.tally(31.0).calls, 3);
    assert_eq!(drive(&mut breaker, "-", 32.0), [], "the first two are out");
    assert_eq!(breaker.tally(32.0).failures, 2);
    assert_eq!(breaker.tally(1e6).calls, 0);
    assert_eq!(drive(&mut breaker, "----", 1e6).len(), 1);
}

#[test]
fn isolated_is_for_others_to_end() {
    let mut breaker = Breaker::new(CONFIG);
    breaker.isolate(0.0);
    assert_eq!(breaker.begin(1e9).0, Err(Refused { retry_after: None }));
    assert_eq!(breaker.isolate(1e9), None);
    assert!(!breaker.is_at_rest(1e9));
    breaker.open(1e9);
    assert_eq!(breaker.begin(1e9 + 1.0).0, Err(Refused { retry_after: Some(9.0) }));
    breaker.close(1e9 + 2.0);
    assert!(breaker.begin(1e9 + 2.0).0.is_ok());
}

#[test]
fn trouble_of_long_ago_keeps_nobody_from_resting() {
    let mut breaker = Breaker::new(CONFIG);
    assert!(breaker.is_at_rest(0.0));
    drive(&mut breaker, "+-", 0.0);
    assert!(!breaker.is_at_rest(0.0) && !breaker.is_at_rest(19.9));
    assert_eq!(breaker.state(), State::Open);
    assert!(breaker.is_at_rest(20.0));
    let (call, _) = breaker.begin(20.0);
    assert!(!breaker.is_at_rest(50.0), "a call is under way");
    breaker.end(call.unwrap(), Verdict::Success, 50.0);
    assert!(breaker.is_at_rest(50.0));
}
