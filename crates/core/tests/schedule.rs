//! The scheduler against its promises: every entry runs once, callbacks keep their order, a replay is the same run.

use std::collections::HashMap;

use loopwright_core::schedule::random::Random;
use loopwright_core::schedule::trace::{Replay, Trace};
use loopwright_core::schedule::{Fifo, Kind, Level, Question, Scheduler, Strategy as _};
use proptest::prelude::*;

/// What a step does: schedules these entries.
type Program = HashMap<u64, Vec<(u32, Kind)>>;

fn program() -> impl Strategy<Value = Program> {
    let kind = prop_oneof![3 => Just(Kind::Step), 1 => Just(Kind::Callback)];
    let entries = prop::collection::vec((1..6_u32, kind), 0..4);
    prop::collection::vec(entries, 1..24).prop_map(|steps| (0..).zip(steps).collect())
}

fn level() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::Timing), Just(Level::Task), Just(Level::Chaos)]
}

/// Runs a program; the entries in the order in which they ran, as (id, lane, kind).
fn run(
    program: &Program,
    level: Level,
    mut strategy: Box<dyn loopwright_core::schedule::Strategy>,
) -> (Vec<(u64, u32, Kind)>, Trace) {
    assert!(strategy.begin());
    let mut scheduler = Scheduler::new(level, strategy);
    for lane in 1..6 {
        scheduler.push(lane, Kind::Step, ());
    }
    let mut ran = Vec::new();
    while let Some((entry, ())) = scheduler.pick() {
        for &(lane, kind) in program.get(&entry.id).into_iter().flatten() {
            scheduler.push(lane, kind, ());
        }
        scheduler.stepped();
        ran.push((entry.id, entry.lane, entry.kind));
    }
    let trace = scheduler.finish(false).1;
    (ran, trace)
}

proptest! {
    #[test]
    fn every_entry_runs_once(program in program(), level in level(), seed in any::<u64>()) {
        let (ran, _) = run(&program, level, Box::new(Random::new(seed, None)));
        let mut ids: Vec<_> = ran.iter().map(|entry| entry.0).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..ran.len() as u64).collect::<Vec<_>>());
    }

    #[test]
    fn no_entry_overtakes_a_callback_at_task_level(program in program(), seed in any::<u64>()) {
        let (ran, _) = run(&program, Level::Task, Box::new(Random::new(seed, None)));
        for (place, &(id, _, kind)) in ran.iter().enumerate() {
            if kind == Kind::Callback {
                prop_assert!(ran[..place].iter().all(|&(earlier, ..)| earlier < id));
            }
        }
    }

    #[test]
    fn the_steps_of_a_lane_keep_their_order(program in program(), level in level(), seed in any::<u64>()) {
        let (ran, _) = run(&program, level, Box::new(Random::new(seed, None)));
        let mut last = HashMap::new();
        for &(id, lane, kind) in &ran {
            if kind == Kind::Step {
                prop_assert!(last.insert(lane, id).is_none_or(|before| before < id));
            }
        }
    }

    #[test]
    fn timing_level_is_first_in_first_out(program in program(), seed in any::<u64>()) {
        let (ran, trace) = run(&program, Level::Timing, Box::new(Random::new(seed, None)));
        prop_assert!(ran.is_sorted_by_key(|entry| entry.0));
        prop_assert!(trace.is_empty());
        prop_assert_eq!(ran, run(&program, Level::Chaos, Box::new(Fifo::default())).0);
    }

    #[test]
    fn a_seed_is_one_schedule(program in program(), level in level(), seed in any::<u64>()) {
        let one = run(&program, level, Box::new(Random::new(seed, None)));
        let two = run(&program, level, Box::new(Random::new(seed, None)));
        prop_assert_eq!(one, two);
    }

    #[test]
    fn a_replay_from_bytes_is_the_same_run(program in program(), level in level(), seed in any::<u64>()) {
        let (ran, trace) = run(&program, level, Box::new(Random::new(seed, None)));
        let deviations = Trace::decode(&trace.encode()).unwrap();
        let (again, retraced) = run(&program, level, Box::new(Replay::new(deviations)));
        prop_assert_eq!(ran, again);
        prop_assert_eq!(trace, retraced);
    }

    #[test]
    fn bytes_that_are_no_schedule_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(deviations) = Trace::decode(&bytes) {
            prop_assert!(deviations.is_sorted_by(|one, two| one.decision < two.decision));
        }
    }
}

#[test]
fn an_entry_that_is_passed_over_has_its_turn_in_the_end() {
    /// Never the first.
    #[derive(Debug)]
    struct Last;
    impl loopwright_core::schedule::Strategy for Last {
        fn begin(&mut self) -> bool {
            true
        }
        fn choose(&mut self, _: Question, candidates: &[loopwright_core::schedule::Candidate]) -> usize {
            candidates.len() - 1
        }
        fn end(&mut self, _: &loopwright_core::schedule::Run<'_>) {}
    }
    let mut scheduler = Scheduler::new(Level::Task, Box::new(Last));
    scheduler.push(1, Kind::Step, ());
    scheduler.push(2, Kind::Step, ());
    for _ in 0..1_000 {
        let (ran, ()) = scheduler.pick().unwrap();
        if ran.lane == 1 {
            return;
        }
        scheduler.push(2, Kind::Step, ());
        scheduler.stepped();
    }
    panic!("lane 1 never ran");
}

#[test]
fn ties_are_decided_by_the_strategy_and_all_of_them_happen() {
    let mut strategy = Box::new(Random::new(7, None));
    strategy.begin();
    let mut scheduler: Scheduler<()> = Scheduler::new(Level::Timing, strategy);
    let mut order = scheduler.order(Question::Timers, &[0; 20]);
    assert_ne!(order, (0..20).collect::<Vec<_>>());
    order.sort_unstable();
    assert_eq!(order, (0..20).collect::<Vec<_>>());
    assert_eq!(scheduler.order(Question::Events, &[]), Vec::<usize>::new());
}
