//! The searches against exhaustive search on small programs: what they claim to have covered, they have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use loopwright_core::schedule::delays::Delays;
use loopwright_core::schedule::dpor::Dpor;
use loopwright_core::schedule::pct::Pct;
use loopwright_core::schedule::random::Random;
use loopwright_core::schedule::shrink::Shrink;
use loopwright_core::schedule::trace::{Replay, Trace};
use loopwright_core::schedule::{
    Access, Candidate, Coverage, Fifo, Kind, Level, Question, Run, Scheduler, Strategy as Search,
};
use proptest::prelude::*;

/// What a task does. A task runs on until it yields, sleeps or has to wait.
#[derive(Clone, Debug)]
enum Op {
    Read(u32),
    Write(u32),
    /// Touches all flags at once, and changes none.
    WriteFlags,
    Yield,
    /// A lock's critical section begins, ends. Ownership is handed to the first in line.
    Lock(u32),
    Unlock(u32),
    /// Waits until the flag is set.
    Wait(u32),
    Set(u32),
    /// Schedules a plain callback.
    CallSoon(Vec<Op>),
    Sleep(u32),
}

type Program = Vec<Vec<Op>>;

/// Where an operation stands in the program: task, place, place within a callback.
type Id = (u32, usize, usize);

/// Per location: each write with the reads that saw it. Equal for all schedules of one kind.
type Course = BTreeMap<u32, Vec<(Option<Id>, BTreeSet<Id>)>>;

#[derive(Debug)]
enum Entry {
    Task(u32),
    Callback(Id, Vec<Op>),
}

struct Machine<'a> {
    program: &'a Program,
    scheduler: Scheduler<Entry>,
    places: Vec<usize>,
    locked: BTreeMap<u32, bool>,
    waiting: BTreeMap<u32, VecDeque<u32>>,
    flags: BTreeSet<u32>,
    timers: BTreeMap<u32, Vec<u32>>,
    now: u32,
    course: Course,
}

impl Machine<'_> {
    fn access(&mut self, id: Id, location: u32, write: bool) {
        let whole = location;
        // Each flag is a part of one whole.
        let location = if location >= 200 { 200 << 16 | (location - 199) } else { location << 16 };
        self.scheduler.accessed(Access { location, write });
        self.course_of(id, whole, write);
    }

    fn course_of(&mut self, id: Id, location: u32, write: bool) {
        let course = self.course.entry(location).or_insert_with(|| vec![(None, BTreeSet::new())]);
        if write {
            course.push((Some(id), BTreeSet::new()));
        } else {
            course.last_mut().unwrap().1.insert(id);
        }
    }

    /// Does one operation of a task or of a callback; whether the task goes on at once.
    fn act(&mut self, task: Option<u32>, id: Id, op: &Op) -> bool {
        match op {
            Op::Read(location) => self.access(id, *location, false),
            Op::Write(location) => self.access(id, *location, true),
            Op::WriteFlags => {
                for flag in 0..2 {
                    self.course_of(id, 200 + flag, true);
                }
                self.scheduler.accessed(Access { location: 200 << 16, write: true });
            }
            Op::Yield => {
                if let Some(task) = task {
                    self.scheduler.push(task + 1, Kind::Step, Entry::Task(task));
                }
                return false;
            }
            Op::Lock(lock) => {
                let Some(task) = task else { return true };
                self.access(id, 100 + lock, true);
                if std::mem::replace(self.locked.entry(*lock).or_default(), true) {
                    self.waiting.entry(100 + lock).or_default().push_back(task);
                    return false;
                }
            }
            Op::Unlock(lock) => {
                if task.is_none() {
                    return true;
                }
                self.access(id, 100 + lock, true);
                match self.waiting.entry(100 + lock).or_default().pop_front() {
                    Some(next) => drop(self.scheduler.push(next + 1, Kind::Step, Entry::Task(next))),
                    None => drop(self.locked.insert(*lock, false)),
                }
            }
            Op::Wait(flag) => {
                let Some(task) = task else { return true };
                let is_set = self.flags.contains(flag);
                self.access(id, 200 + flag, !is_set);
                if !is_set {
                    self.waiting.entry(200 + flag).or_default().push_back(task);
                    return false;
                }
            }
            Op::Set(flag) => {
                self.access(id, 200 + flag, true);
                self.flags.insert(*flag);
                for task in self.waiting.remove(&(200 + flag)).into_iter().flatten() {
                    self.scheduler.push(task + 1, Kind::Step, Entry::Task(task));
                }
            }
            Op::CallSoon(ops) => {
                let lane = task.map_or(0, |task| task + 1);
                self.scheduler.push(lane, Kind::Callback, Entry::Callback(id, ops.clone()));
            }
            Op::Sleep(time) => {
                let Some(task) = task else { return true };
                self.timers.entry(self.now + time).or_default().push(task);
                return false;
            }
        }
        true
    }

    fn run(&mut self) {
        for task in 0..self.program.len() as u32 {
            self.scheduler.push(task + 1, Kind::Step, Entry::Task(task));
        }
        loop {
            let Some((_, entry)) = self.scheduler.pick() else {
                let Some((time, tasks)) = self.timers.pop_first() else { return };
                self.now = time;
                for index in self.scheduler.order(Question::Timers, &vec![0; tasks.len()]) {
                    let task = tasks[index];
                    // As asyncio.sleep: the timer's callback resolves a future that wakes the task.
                    let wake = vec![Op::Set(1_000 + task), if task == 1 { Op::Read(0) } else { Op::Write(task / 2) }];
                    let place = self.places[task as usize];
                    self.waiting.entry(1_200 + task).or_default().push_back(task);
                    self.flags.remove(&(1_000 + task));
                    self.scheduler.push(0, Kind::Callback, Entry::Callback((task, place, 50), wake));
                }
                continue;
            };
            match entry {
                Entry::Task(task) => {
                    while let Some(op) = self.program[task as usize].get(self.places[task as usize]) {
                        let place = self.places[task as usize];
                        self.places[task as usize] += 1;
                        if !self.act(Some(task), (task, place, 0), op) {
                            break;
                        }
                    }
                }
                Entry::Callback(id, ops) => {
                    for (place, op) in ops.iter().enumerate() {
                        self.act(None, (id.0, id.1, id.2 * 10 + place + 1), op);
                    }
                }
            }
            self.scheduler.stepped();
        }
    }
}

/// One run; what it did, and the search again.
fn run(program: &Program, level: Level, search: Box<dyn Search>) -> (Course, Box<dyn Search>, Trace) {
    let mut machine = Machine {
        program,
        scheduler: Scheduler::new(level, search),
        places: vec![0; program.len()],
        locked: BTreeMap::new(),
        waiting: BTreeMap::new(),
        flags: BTreeSet::new(),
        timers: BTreeMap::new(),
        now: 0,
        course: BTreeMap::new(),
    };
    machine.run();
    let Machine { scheduler, course, .. } = machine;
    let (search, trace) = scheduler.finish(false);
    (course, search, trace)
}

struct Found {
    courses: BTreeSet<Course>,
    traces: BTreeSet<Vec<u8>>,
    runs: usize,
    coverage: Coverage,
}

/// Runs until the search is over; None when that takes more than `limit` runs.
fn search(program: &Program, level: Level, mut search: Box<dyn Search>, limit: usize) -> Option<Found> {
    let mut found = Found { courses: BTreeSet::new(), traces: BTreeSet::new(), runs: 0, coverage: Coverage::Complete };
    while search.begin() {
        if found.runs == limit {
            return None;
        }
        found.runs += 1;
        let (course, again, trace) = run(program, level, search);
        search = again;
        found.courses.insert(course);
        found.traces.insert(trace.encode());
    }
    found.coverage = search.coverage();
    Some(found)
}

/// Every schedule, one after the other.
#[derive(Debug, Default)]
struct Exhaustive {
    path: Vec<(usize, usize)>,
    decision: usize,
    begun: bool,
}

impl Search for Exhaustive {
    fn begin(&mut self) -> bool {
        self.decision = 0;
        if !std::mem::replace(&mut self.begun, true) {
            return true;
        }
        while let Some((answer, count)) = self.path.pop() {
            if answer + 1 < count {
                self.path.push((answer + 1, count));
                return true;
            }
        }
        false
    }

    fn choose(&mut self, _: Question, candidates: &[Candidate]) -> usize {
        if self.decision == self.path.len() {
            self.path.push((0, candidates.len()));
        }
        self.decision += 1;
        self.path[self.decision - 1].0
    }

    fn end(&mut self, _: &Run<'_>) {}
}

fn plain_op() -> impl Strategy<Value = Op> {
    prop_oneof![3 => (0..3_u32).prop_map(Op::Read), 3 => (0..3_u32).prop_map(Op::Write), 1 => (0..2_u32).prop_map(Op::Set), 1 => Just(Op::WriteFlags)]
}

/// Operations that belong together.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop_oneof![
        5 => plain_op().prop_map(|op| vec![op]),
        4 => Just(vec![Op::Yield]),
        1 => (0..2_u32).prop_map(|flag| vec![Op::Wait(flag)]),
        1 => (1..3_u32).prop_map(|time| vec![Op::Sleep(time)]),
        2 => callback(),
        2 => (0..2_u32, prop::collection::vec(prop_oneof![plain_op(), Just(Op::Yield)], 0..3)).prop_map(|(lock, inner)| {
            let mut ops = vec![Op::Lock(lock)];
            ops.extend(inner);
            ops.push(Op::Unlock(lock));
            ops
        }),
    ]
}

fn callback() -> impl Strategy<Value = Vec<Op>> {
    let inner = prop_oneof![4 => plain_op(), 1 => plain_op().prop_map(|op| Op::CallSoon(vec![op]))];
    prop::collection::vec(inner, 1..3).prop_map(|ops| vec![Op::CallSoon(ops)])
}

fn program() -> impl Strategy<Value = Program> {
    let task = prop::collection::vec(ops(), 1..4).prop_map(|groups| groups.concat());
    prop::collection::vec(task, 2..4)
}

fn level() -> impl Strategy<Value = Level> {
    prop_oneof![1 => Just(Level::Timing), 6 => Just(Level::Task), 2 => Just(Level::Chaos)]
}

/// Schedules that exhaustive search may take.
const EXHAUSTIVE: usize = 3_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1_000), ..ProptestConfig::default() })]

    #[test]
    fn dpor_meets_every_kind_of_schedule(program in program(), level in level()) {
        let Some(all) = search(&program, level, Box::new(Exhaustive::default()), EXHAUSTIVE) else { return Ok(()) };
        let found = search(&program, level, Box::new(Dpor::new(None)), 2 * EXHAUSTIVE);
        prop_assert!(found.is_some(), "more runs than there are schedules");
        let found = found.unwrap();
        prop_assert_eq!(&found.coverage, &Coverage::Complete);
        prop_assert_eq!(found.runs, found.traces.len(), "a schedule was run twice");
        prop_assert_eq!(found.courses, all.courses);
    }

    #[test]
    fn delays_runs_every_schedule_with_few_delays_once(program in program(), level in level(), bound in 0..4_u32) {
        let Some(all) = search(&program, level, Box::new(Exhaustive::default()), EXHAUSTIVE) else { return Ok(()) };
        let few = |trace: &&Vec<u8>| Trace::decode(trace).unwrap().len() <= bound as usize;
        let found = search(&program, level, Box::new(Delays::new(bound)), EXHAUSTIVE).unwrap();
        prop_assert_eq!(found.runs, found.traces.len());
        prop_assert_eq!(found.traces, all.traces.iter().filter(few).cloned().collect::<BTreeSet<_>>());
        let Coverage::Partial(what) = found.coverage else { panic!("not a proof") };
        prop_assert_eq!(what, format!("every schedule with at most {bound} delays was run"));
    }

    #[test]
    fn pct_is_one_schedule_per_seed(program in program(), level in level(), seed in any::<u64>(), depth in 0..4_u32) {
        let one = search(&program, level, Box::new(Pct::new(seed, 5, depth)), 5).unwrap();
        let two = search(&program, level, Box::new(Pct::new(seed, 5, depth)), 5).unwrap();
        prop_assert_eq!(one.runs, 5);
        prop_assert_eq!(one.traces, two.traces);
    }

    #[test]
    fn shrink_ends_at_a_failing_schedule_that_is_no_worse(program in program(), level in level(), seed in any::<u64>()) {
        let mut random: Box<dyn Search> = Box::new(Random::new(seed, None));
        random.begin();
        let (failing, _, mut trace) = run(&program, level, random);
        let first = trace.clone();
        let mut shrink = Shrink::new(&trace, 500);
        let mut runs = 0;
        while let Some(deviations) = shrink.next() {
            let mut replay: Box<dyn Search> = Box::new(Replay::new(deviations));
            replay.begin();
            let (course, _, ran) = run(&program, level, replay);
            shrink.answer(course == failing, &ran);
            runs += 1;
        }
        prop_assert!(runs <= 500);
        let mut replay: Box<dyn Search> = Box::new(Replay::new(shrink.best().to_vec()));
        replay.begin();
        let (course, replay, ran) = run(&program, level, replay);
        trace = ran;
        prop_assert_eq!(course, failing.clone());
        prop_assert_eq!(replay.diverged(), None);
        prop_assert_eq!(trace.deviations(), shrink.best());
        prop_assert!(trace.deviations().len() <= first.deviations().len());
        let mut fifo: Box<dyn Search> = Box::new(Fifo::default());
        fifo.begin();
        if run(&program, level, fifo).0 == failing {
            prop_assert!(trace.deviations().is_empty());
        }
    }
}

fn kinds_of(program: &Program, max: Option<u64>) -> Found {
    search(program, Level::Task, Box::new(Dpor::new(max)), 10_000).unwrap()
}

#[test]
fn dpor_runs_far_fewer_schedules_than_there_are() {
    let noise = vec![Op::Yield, Op::Yield, Op::Yield];
    let worker = vec![Op::Lock(0), Op::Read(0), Op::Yield, Op::Write(0), Op::Unlock(0)];
    let program = vec![worker.clone(), worker.clone(), noise.clone()];
    let all = search(&program, Level::Task, Box::new(Exhaustive::default()), 10_000).unwrap();
    let found = kinds_of(&program, None);
    assert_eq!(found.coverage, Coverage::Complete);
    assert_eq!(found.courses, all.courses);
    assert!(found.runs * 20 <= all.runs, "{} runs, {} schedules", found.runs, all.runs);

    let many = vec![worker.clone(), worker.clone(), worker, noise.clone(), noise.clone(), noise];
    assert!(kinds_of(&many, None).runs <= 100);
}

#[test]
fn dpor_that_reached_its_maximum_does_not_claim_to_be_complete() {
    let worker = vec![Op::Read(0), Op::Yield, Op::Write(0)];
    let found = kinds_of(&vec![worker; 3], Some(5));
    assert_eq!(found.runs, 5);
    assert_eq!(found.coverage, Coverage::Partial("the search stopped after 5 schedules".into()));
}

#[test]
fn dpor_that_needs_every_run_of_its_maximum_is_complete() {
    let worker = vec![Op::Read(0), Op::Yield, Op::Write(0)];
    let program = vec![worker; 2];
    let runs = kinds_of(&program, None).runs as u64;
    assert_eq!(kinds_of(&program, Some(runs)).coverage, Coverage::Complete);
}

#[test]
fn dpor_says_so_when_the_program_does_not_do_the_same_again() {
    let mut dpor: Box<dyn Search> = Box::new(Dpor::new(None));
    let mut tasks = 2;
    while dpor.begin() {
        dpor = run(&vec![vec![Op::Write(0), Op::Yield, Op::Write(0)]; tasks], Level::Task, dpor).1;
        tasks += 1;
    }
    let Coverage::Partial(why) = dpor.coverage() else { panic!("complete") };
    assert!(why.contains("did not do the same"), "{why}");
}

#[test]
fn dpor_is_not_complete_when_the_outside_has_a_say() {
    let mut dpor: Box<dyn Search> = Box::new(Dpor::new(None));
    assert!(dpor.begin());
    let mut scheduler = Scheduler::new(Level::Task, dpor);
    scheduler.push(1, Kind::Step, ());
    scheduler.pick().unwrap();
    scheduler.outside();
    scheduler.stepped();
    let (mut dpor, _) = scheduler.finish(false);
    assert!(!dpor.begin());
    assert!(matches!(dpor.coverage(), Coverage::Partial(_)));
}

#[test]
fn dpor_is_not_complete_when_ready_tasks_are_cut_off() {
    let mut dpor: Box<dyn Search> = Box::new(Dpor::new(None));
    assert!(dpor.begin());
    let mut scheduler = Scheduler::new(Level::Task, dpor);
    scheduler.push(1, Kind::Step, ());
    scheduler.push(2, Kind::Step, ());
    scheduler.pick().unwrap();
    scheduler.stepped();
    assert!(matches!(scheduler.finish(false).0.coverage(), Coverage::Partial(_)));
}

#[test]
fn pct_lets_others_run_beside_a_task_that_only_yields() {
    for seed in 0..50 {
        let mut pct = Box::new(Pct::new(seed, 1, 3));
        pct.begin();
        let mut scheduler = Scheduler::new(Level::Task, pct);
        scheduler.push(1, Kind::Step, ());
        scheduler.push(2, Kind::Step, ());
        let mut steps = 0;
        while let Some((ran, ())) = scheduler.pick() {
            steps += 1;
            assert!(steps < 1_000);
            if ran.lane == 2 && steps > 1 && ran.enabled_by > 0 {
                break;
            }
            scheduler.push(ran.lane, Kind::Step, ());
            scheduler.stepped();
        }
    }
}

#[test]
fn shrink_finds_the_one_deviation_that_matters() {
    // The third task's write comes first only if both others are delayed; noise makes a random schedule long.
    let noise = vec![Op::Yield; 10];
    let program = vec![vec![Op::Write(0)], vec![Op::Read(0)], noise.clone(), noise];
    let fails = |course: &Course| course[&0][0].1.len() == 1;
    let mut random: Box<dyn Search> = Box::new(Random::new(0, None));
    let mut shrink = loop {
        random.begin();
        let (course, again, trace) = run(&program, Level::Task, random);
        if fails(&course) {
            assert!(trace.deviations().len() > 5);
            break Shrink::new(&trace, 200);
        }
        random = again;
    };
    while let Some(deviations) = shrink.next() {
        let mut replay: Box<dyn Search> = Box::new(Replay::new(deviations));
        replay.begin();
        let (course, _, trace) = run(&program, Level::Task, replay);
        shrink.answer(fails(&course), &trace);
    }
    assert_eq!(shrink.best().len(), 1);
    assert_eq!((shrink.best()[0].decision, shrink.best()[0].chosen), (0, 1));
}
