//! `Stopwatch` against a list of calls that is searched from its beginning: each call is counted once, each overdue one
//! told once and while it runs, and no time is judged by a clock that it is not of.

use loopwright_core::stopwatch::{Clock, Counts, Outcome, Pace, Run, Stopwatch};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    /// A call begins on this clock.
    Begin(usize),
    /// One of those that ever began ends (again, perhaps), read off this clock.
    End(usize, usize, Outcome),
    /// This clock goes on by so many halves of a second.
    Wait(usize, u32),
    /// Somebody looks for overdue calls of this clock.
    Look(usize),
    Threshold(Option<u32>),
}

fn event() -> impl Strategy<Value = Event> {
    let outcome = prop_oneof![Just(Outcome::Returned), Just(Outcome::Failed), Just(Outcome::Cancelled)];
    prop_oneof![
        6 => (0_usize..2).prop_map(Event::Begin),
        5 => (any::<usize>(), 0_usize..2, outcome).prop_map(|(n, clock, how)| Event::End(n, clock, how)),
        4 => (0_usize..2, 1_u32..6).prop_map(|(clock, halves)| Event::Wait(clock, halves)),
        4 => (0_usize..2).prop_map(Event::Look),
        1 => proptest::option::of(0_u32..8).prop_map(Event::Threshold),
    ]
}

struct Call {
    run: Run,
    since: f64,
    clock: usize,
    told: bool,
    ended: bool,
}

proptest! {
    #[test]
    fn each_call_is_counted_once_and_told_while_it_runs(events in proptest::collection::vec(event(), 0..80)) {
        let mut real = Stopwatch::default();
        let mut calls: Vec<Call> = Vec::new();
        let mut now = [0.0, 1000.0];
        let mut threshold = f64::INFINITY;
        let mut counts = Counts::default();
        for event in events {
            match event {
                Event::Begin(clock) => {
                    let run = real.begin(now[clock], Clock(clock as u64), calls.len());
                    prop_assert_eq!(Run::unpack(run.pack()), run);
                    calls.push(Call { run, since: now[clock], clock, told: false, ended: false });
                }
                Event::End(n, clock, outcome) if !calls.is_empty() => {
                    let number = n % calls.len();
                    let call = &mut calls[number];
                    let ended = real.end(call.run, now[clock], Clock(clock as u64), outcome);
                    prop_assert_eq!(ended.is_none(), call.ended);
                    if let Some(ended) = ended {
                        let elapsed = (call.clock == clock).then(|| now[clock] - call.since);
                        let slow = call.told || elapsed.is_some_and(|elapsed| elapsed >= threshold);
                        prop_assert_eq!((ended.what, ended.elapsed, ended.told), (number, elapsed, call.told));
                        prop_assert_eq!(ended.slow, slow);
                        call.ended = true;
                        counts.ended += 1;
                        counts.failed += u64::from(outcome == Outcome::Failed);
                        counts.cancelled += u64::from(outcome == Outcome::Cancelled);
                        counts.slow += u64::from(slow && !call.told);
                    }
                }
                Event::End(..) => {}
                Event::Wait(clock, halves) => now[clock] += f64::from(halves) / 2.0,
                Event::Look(clock) => {
                    let found: Vec<(f64, usize)> =
                        real.overdue(now[clock], Clock(clock as u64)).into_iter().map(|(age, &n)| (age, n)).collect();
                    let mut expected = Vec::new();
                    for (number, call) in calls.iter_mut().enumerate() {
                        let age = now[clock] - call.since;
                        if call.clock == clock && !call.ended && !call.told && age >= threshold {
                            call.told = true;
                            counts.slow += 1;
                            expected.push((age, number));
                        }
                    }
                    prop_assert_eq!(found, expected);
                }
                Event::Threshold(halves) => {
                    threshold = halves.map_or(f64::INFINITY, |halves| f64::from(halves) / 2.0);
                    real.set_threshold(threshold);
                }
            }
            prop_assert_eq!(real.counts(), counts);
            prop_assert_eq!(real.running(), calls.iter().filter(|call| !call.ended).count());
        }
    }

    #[test]
    fn nothing_that_is_left_out_is_forgotten(waits in proptest::collection::vec(0_u32..4, 0..40)) {
        let (mut pace, mut now, mut said, mut asked, mut last) = (Pace::new(1.0), 5.0, 0, 0_u64, None);
        for wait in waits {
            now += f64::from(wait) / 2.0;
            asked += 1;
            let due = last.is_none_or(|last| now - last >= 1.0);
            let answer = pace.ask(now);
            prop_assert_eq!(answer.is_some(), due);
            if let Some(left_out) = answer {
                said += 1 + left_out;
                prop_assert_eq!(said, asked);
                last = Some(now);
            }
        }
    }
}

#[test]
fn a_clock_that_went_back_is_another_one() {
    let mut pace = Pace::new(10.0);
    assert_eq!(pace.ask(1_000_000.0), Some(0));
    assert_eq!(pace.ask(0.0), Some(0));
    assert_eq!(pace.ask(9.0), None);
}
