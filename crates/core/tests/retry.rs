//! `Failures` and `Budget` against what they promise: the jitter survives the cap, no delay outlasts the time that is
//! left, and retries are a share of the calls, plus a floor, over any window.

use loopwright_core::retry::{Budget, Failures, Jitter, Policy, Verdict};
use proptest::prelude::*;

const EPSILON: f64 = 1e-6;

fn jitter() -> impl Strategy<Value = Jitter> {
    prop_oneof![Just(Jitter::Full), Just(Jitter::Equal), Just(Jitter::Decorrelated), Just(Jitter::None)]
}

fn delays(policy: &Policy, seed: u64, n: usize) -> Vec<f64> {
    let mut failures = Failures::new(seed);
    (0..n)
        .map(|_| match failures.failed(policy, None, 0.0, None, None) {
            Verdict::Again(delay) => delay,
            other => panic!("{other:?}"),
        })
        .collect()
}

proptest! {
    #[test]
    fn each_delay_is_drawn_below_its_cap(
        jitter in jitter(), base in 0.0..2.0_f64, above in 0.0..50.0_f64, seed: u64,
    ) {
        let policy = Policy { attempts: None, base, max_delay: base + above, jitter };
        let mut last = base;
        for (index, delay) in delays(&policy, seed, 200).into_iter().enumerate() {
            let cap = (base * 2_f64.powi(i32::try_from(index).unwrap())).min(policy.max_delay);
            let (low, high) = match jitter {
                Jitter::None => (cap, cap),
                Jitter::Full => (0.0, cap),
                Jitter::Equal => (cap / 2.0, cap),
                Jitter::Decorrelated => (base, (last * 3.0).min(policy.max_delay).max(base)),
            };
            prop_assert!(low <= delay && delay <= high, "delay {index}: {delay}, not from {low} to {high}");
            last = delay;
        }
    }

    #[test]
    fn promise_9_jitter_survives_the_cap(jitter in jitter(), seed: u64) {
        prop_assume!(jitter != Jitter::None);
        let policy = Policy { attempts: None, base: 0.1, max_delay: 5.0, jitter };
        // Far beyond the cap, also where 2^n is infinite.
        let mut late = delays(&policy, seed, 1200).split_off(1100);
        late.sort_by(f64::total_cmp);
        late.dedup();
        prop_assert!(late.len() > 95, "{} different delays of 100", late.len());
        prop_assert!(late.last().unwrap() - late.first().unwrap() > 1.0, "they are spread");
    }

    #[test]
    fn the_delays_are_those_of_the_seed(jitter in jitter(), seed: u64) {
        let policy = Policy { attempts: None, base: 0.1, max_delay: 5.0, jitter };
        prop_assert_eq!(delays(&policy, seed, 9), delays(&policy, seed, 9));
    }

    #[test]
    fn promise_9_no_delay_outlasts_the_time_that_is_left(
        jitter in jitter(), seed: u64, left in 0.0..8.0_f64, wish in proptest::option::of(-1.0..8.0_f64),
    ) {
        let policy = Policy { attempts: None, base: 0.5, max_delay: 6.0, jitter };
        let mut budget = Budget::new(0.0, 1.0, 100.0, 0.0);
        let mut failures = Failures::new(seed);
        for _ in 0..6 {
            let before = budget.retries();
            match failures.failed(&policy, Some(&mut budget), 0.0, Some(left), wish) {
                Verdict::Again(delay) => {
                    prop_assert!(delay < left);
                    prop_assert!(delay >= wish.unwrap_or(0.0), "the wish is waited out");
                    prop_assert!(delay <= 6.0 + wish.unwrap_or(0.0).max(0.0));
                    prop_assert_eq!(budget.retries(), before + 1);
                }
                Verdict::OutOfTime(delay) => {
                    prop_assert!(delay >= left);
                    prop_assert_eq!(budget.retries(), before, "what is not done takes nothing from the budget");
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn there_are_so_many_attempts(attempts in 1_u64..9, seed: u64) {
        let policy = Policy { attempts: Some(attempts), base: 0.1, max_delay: 1.0, jitter: Jitter::Full };
        let mut budget = Budget::new(0.0, 1.0, 100.0, 0.0);
        let mut failures = Failures::new(seed);
        for _ in 1..attempts {
            let again = matches!(failures.failed(&policy, Some(&mut budget), 0.0, None, None), Verdict::Again(_));
            prop_assert!(again);
        }
        prop_assert_eq!(failures.failed(&policy, Some(&mut budget), 0.0, None, None), Verdict::OutOfAttempts);
        prop_assert_eq!((failures.count(), budget.retries()), (attempts, attempts - 1));
    }
}

#[test]
fn a_wish_without_end_is_not_waited_for() {
    let policy = Policy { attempts: None, base: 0.0, max_delay: 0.0, jitter: Jitter::Full };
    let verdict = Failures::new(1).failed(&policy, None, 0.0, None, Some(f64::INFINITY));
    assert_eq!(verdict, Verdict::OutOfTime(f64::INFINITY));
    assert_eq!(Failures::new(1).failed(&policy, None, 0.0, None, Some(f64::NAN)), Verdict::Again(0.0));
    assert_eq!(Failures::new(1).failed(&policy, None, 0.0, Some(1.0), None), Verdict::Again(0.0));
}

#[derive(Clone, Debug)]
enum Event {
    /// So many calls were made in so many hundredths of a second, evenly, and told at the end.
    Calls(u64, u32),
    Wait(u32),
    Retry,
    /// Another clock takes the place of this one.
    AnotherClock,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..60_u64, 0..700_u32).prop_map(|(calls, time)| Event::Calls(calls, time)),
        2 => (0..300_u32).prop_map(Event::Wait),
        8 => Just(Event::Retry),
        1 => Just(Event::AnotherClock),
    ]
}

proptest! {
    #[test]
    fn promise_9_retries_are_a_share_of_the_calls_and_a_floor(
        share in 0.0..1.5_f64, floor in 0.0..3.0_f64, window in 0.5..20.0_f64,
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut now = 1000.0;
        let mut clock = 0.0;
        let mut real = Budget::new(share, floor, window, now);
        // The reference: every stretch of calls as (from, to, how many), every retry as its time.
        let mut calls: Vec<(f64, f64, f64)> = vec![];
        let mut retries: Vec<f64> = vec![];
        let mut told = 0.0;
        let (mut allowed, mut denied) = (0, 0);
        for event in events {
            match event {
                Event::Wait(hundredths) => {
                    let time = f64::from(hundredths) / 100.0;
                    now += time;
                    clock += time;
                }
                Event::Calls(count, hundredths) => {
                    let time = f64::from(hundredths) / 100.0;
                    now += time;
                    clock += time;
                    real.tell(count, now);
                    #[allow(clippy::cast_precision_loss, reason = "a small number")]
                    calls.push((told, clock, count as f64));
                    told = clock;
                }
                Event::AnotherClock => {
                    // What passed so far is known; the new clock's first reading tells of no time.
                    let _ = real.left(now);
                    now = if now > 500.0 { 0.0 } else { now - 2.0 };
                    let _ = real.left(now);
                }
                Event::Retry => {
                    let slot = window / 10.0;
                    let start = ((clock / slot).floor() - 9.0).max(0.0) * slot;
                    let earned: f64 = calls.iter().map(|&(from, to, count)| {
                        if to <= from {
                            return if to >= start - EPSILON { count } else { 0.0 };
                        }
                        count * (to - from.max(start)).max(0.0) / (to - from)
                    }).sum();
                    #[allow(clippy::cast_precision_loss, reason = "a small number")]
                    let spent = retries.iter().filter(|&&at| at >= start - EPSILON).count() as f64;
                    let most = share * earned + floor * window - spent;
                    let got = real.withdraw(now);
                    // A time on the border of a slot may be counted on either side of it.
                    let border = calls.iter().map(|call| call.1).chain(retries.iter().copied()).chain([clock])
                        .any(|at| { let place = at / slot; (place - place.round()).abs() < 1e-6 });
                    if got {
                        prop_assert!(most >= 1.0 - EPSILON || border, "allowed with {most} left");
                        retries.push(clock);
                        allowed += 1;
                    } else {
                        prop_assert!(most < 1.0 + EPSILON || border, "refused with {most} left");
                        denied += 1;
                    }
                }
            }
            prop_assert_eq!((real.retries(), real.denied()), (allowed, denied));
        }
    }

    #[test]
    fn promise_9_an_outage_costs_a_share_more_and_not_four_times_as_much(
        share in 0.0..0.5_f64, rate in 1_u32..50, seconds in 20_u32..60,
    ) {
        let policy = Policy { attempts: Some(4), base: 0.0, max_delay: 0.0, jitter: Jitter::None };
        let mut budget = Budget::new(share, 0.0, 10.0, 0.0);
        let (mut calls, mut retries) = (0.0, 0.0);
        for second in 0..seconds {
            for _ in 0..rate {
                budget.tell(1, f64::from(second));
                calls += 1.0;
                let mut failures = Failures::new(u64::from(second));
                while let Verdict::Again(_) = failures.failed(&policy, Some(&mut budget), f64::from(second), None, None) {
                    retries += 1.0;
                }
            }
        }
        prop_assert!(retries <= share * calls + EPSILON, "{retries} retries of {calls} calls");
        // What is left of a retry, less than one, goes with each window.
        let lost = 1.0 + f64::from(seconds) / 5.0;
        prop_assert!(retries + lost >= share * calls, "{retries} retries of {calls} calls: as many as there may be");
    }

    #[test]
    fn calls_that_are_told_late_count_as_if_told_when_they_were_made(rate in 1_u32..20, minutes in 1_u32..9) {
        let seconds = minutes * 60;
        let mut early = Budget::new(0.2, 0.0, 10.0, 0.0);
        let mut late = Budget::new(0.2, 0.0, 10.0, 0.0);
        for second in 1..=seconds {
            early.tell(u64::from(rate), f64::from(second));
        }
        late.tell(u64::from(rate) * u64::from(seconds), f64::from(seconds));
        let (early, late) = (early.left(f64::from(seconds)), late.left(f64::from(seconds)));
        prop_assert!((early - late).abs() < EPSILON * 100.0, "{early} and {late}");
        prop_assert!(late <= 0.2 * 10.0 * f64::from(rate) + EPSILON, "minutes of calls are no hoard");
    }
}
