//! Dynamic partial-order reduction: one schedule of each kind, instead of all.
//!
//! Flanagan, Godefroid 2005, "Dynamic partial-order reduction for model checking software", with the sleep sets of
//! Godefroid 1996 and the notion of a race of Abdulla, Aronis, Jonsson, Sagonas 2014 ("Optimal dynamic partial order
//! reduction"). Two schedules are of one kind when all steps that depend on each other run in the same order in both:
//! then they end in the same state. After each run every race in it (two steps that touch the same state, one of them
//! writing, with nothing between them that orders them) asks for a schedule in which it goes the other way.
//!
//! What comes before what: steps of one task in their order; what scheduled a step, before it; conflicting accesses in
//! the order of the run; and everything of one epoch before the next (the loop's time moves only when nothing is
//! ready).
//!
//! asyncio adds one thing that the papers do not have: a plain callback holds up every entry that was scheduled after
//! it (at level `task`). So a race in which the later step was held up by the earlier callback cannot be reversed at
//! that callback; it takes another order of the two steps that *scheduled* them. That order is asked for only then:
//! counting every two `call_soon` as dependent would be right as well, and end nowhere.
//!
//! Entries that were scheduled from outside (timers of one moment) are in an order that is a decision, too. Its
//! alternatives are run, all of them, as soon as one of the entries takes part in a race that only they could reverse.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Access, Candidate, Coverage, Kind, Level, Question, Run, StepRecord, Strategy};

/// Runs of more steps than this are not analysed: the order of steps is kept as one bit for every two of them.
const LONGEST: usize = 20_000;

/// What an explored answer did when it ran from its decision.
#[derive(Clone, Debug)]
struct Sleeper {
    id: u64,
    accesses: Vec<Access>,
    pushed_callback: bool,
    /// What it scheduled held up something with which it was in a race.
    in_the_way: bool,
}

impl Sleeper {
    /// Whether it does not matter which of the two runs first.
    ///
    /// A callback that it scheduled holds up what the other one schedules, which matters when that was found to hide a
    /// race. That the other one scheduled a callback does not: this one first is the order that allows more, and it
    /// was run.
    fn commutes(&self, step: &StepRecord) -> bool {
        let conflicts = |one: &Access| step.accesses.iter().any(|two| one.conflicts(*two));
        let orders_entries = self.in_the_way && self.pushed_callback && step.pushed;
        !(orders_entries || self.accesses.iter().any(conflicts))
    }
}

/// One decision on the path of the current run.
#[derive(Debug)]
struct Node {
    question: Question,
    candidates: Vec<Candidate>,
    chosen: usize,
    /// By candidate: to be run, or run.
    wanted: Vec<bool>,
    /// By candidate: was run. For entries of the ready queue, what it did.
    explored: Vec<bool>,
    did: Vec<Option<Sleeper>>,
    /// By candidate: schedules that go on with it were run elsewhere, where it did this.
    asleep: Vec<Option<Sleeper>>,
}

impl Node {
    fn next(&self) -> Option<usize> {
        (0..self.candidates.len())
            .find(|&index| self.wanted[index] && !self.explored[index] && self.asleep[index].is_none())
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Dpor {
    max: Option<u64>,
    runs: u64,
    path: Vec<Node>,
    /// Decisions of this run whose answer is given.
    prefix: usize,
    decision: usize,
    /// Entries whose schedules from here on were run elsewhere.
    sleep: Vec<Sleeper>,
    /// Steps of this run; the first one from which on the run repeats another.
    steps: usize,
    repeats_from: Option<usize>,
    redundant: u64,
    finished: bool,
    /// Why the search is not complete, whatever else it does.
    gaps: BTreeSet<&'static str>,
    diverged: bool,
}

const DIVERGED: &str = "the program did not do the same when it was run the same way";
const FORCED: &str = "a task that was passed over for too long was forced to run where another order mattered";
const OUTSIDE: &str = "sockets, threads, real time or timers that were due at once had a say in the order";
const CUT: &str = "tasks were ready to run when the test ended";
const LONG: &str = "a run was too long to be analysed";

impl Dpor {
    /// Runs until every kind of schedule was run, or `max` schedules.
    #[must_use]
    pub fn new(max: Option<u64>) -> Self {
        Self {
            max,
            runs: 0,
            path: Vec::new(),
            prefix: 0,
            decision: 0,
            sleep: Vec::new(),
            steps: 0,
            repeats_from: None,
            redundant: 0,
            finished: false,
            gaps: BTreeSet::new(),
            diverged: false,
        }
    }

    /// Runs that turned out to repeat another one on their way.
    #[must_use]
    pub fn redundant(&self) -> u64 {
        self.redundant
    }

    fn sleeper(&self, id: u64) -> Option<&Sleeper> {
        self.sleep.iter().find(|sleeper| sleeper.id == id)
    }

    fn go_on(&mut self) -> bool {
        while let Some(node) = self.path.last_mut() {
            if let Some(next) = node.next() {
                node.chosen = next;
                return true;
            }
            self.path.pop();
        }
        false
    }
}

impl Strategy for Dpor {
    fn begin(&mut self) -> bool {
        if self.finished || self.diverged {
            return false;
        }
        if self.runs > 0 && !self.go_on() {
            self.finished = true;
            return false;
        }
        if self.max.is_some_and(|max| self.runs >= max) {
            return false;
        }
        self.runs += 1;
        self.prefix = self.path.len();
        self.decision = 0;
        self.steps = 0;
        self.sleep.clear();
        self.repeats_from = None;
        true
    }

    fn choose(&mut self, question: Question, candidates: &[Candidate]) -> usize {
        let decision = self.decision;
        self.decision += 1;
        if self.diverged {
            return 0;
        }
        if decision < self.prefix {
            let node = &self.path[decision];
            if node.question != question || node.candidates != candidates {
                self.diverged = true;
                self.gaps.insert(DIVERGED);
                return 0;
            }
            for (index, did) in node.did.iter().enumerate() {
                if index != node.chosen
                    && let Some(did) = did
                    && self.sleep.iter().all(|sleeper| sleeper.id != did.id)
                {
                    self.sleep.push(did.clone());
                }
            }
            return node.chosen;
        }
        let is_ready = question == Question::Ready;
        let asleep: Vec<_> = candidates.iter().map(|one| self.sleeper(one.id).filter(|_| is_ready).cloned()).collect();
        let chosen = asleep.iter().position(Option::is_none).unwrap_or(0);
        let mut wanted = vec![false; candidates.len()];
        wanted[chosen] = true;
        self.path.push(Node {
            question,
            candidates: candidates.to_vec(),
            chosen,
            wanted,
            explored: vec![false; candidates.len()],
            did: vec![None; candidates.len()],
            asleep,
        });
        chosen
    }

    fn stepped(&mut self, step: &StepRecord) {
        if self.diverged {
            return;
        }
        if self.sleeper(step.ran.id).is_some() && self.repeats_from.is_none() {
            self.repeats_from = Some(self.steps);
        }
        self.steps += 1;
        if let Some(decision) = step.decision
            && let Some(node) = self.path.get_mut(decision as usize)
            && node.did[step.chosen].is_none()
        {
            node.did[step.chosen] = Some(Sleeper {
                id: step.ran.id,
                accesses: step.accesses.clone(),
                pushed_callback: step.pushed_callback,
                in_the_way: false,
            });
        }
        self.sleep.retain(|sleeper| sleeper.id != step.ran.id && sleeper.commutes(step));
    }

    fn end(&mut self, run: &Run<'_>) {
        if self.diverged {
            return;
        }
        if self.decision < self.prefix {
            self.diverged = true;
            self.gaps.insert(DIVERGED);
            return;
        }
        for node in &mut self.path {
            node.explored[node.chosen] = true;
        }
        if run.outside || self.path.iter().any(|node| node.question == Question::Events) {
            self.gaps.insert(OUTSIDE);
        }
        if run.cut {
            self.gaps.insert(CUT);
        }
        let analysed = self.repeats_from.unwrap_or(run.steps.len());
        self.redundant += u64::from(self.repeats_from.is_some());
        if analysed > LONGEST {
            self.gaps.insert(LONG);
            return;
        }
        let mut analysis = Analysis::new(&run.steps[..analysed], run.level);
        analysis.find_races();
        while let Some(want) = analysis.wants.pop() {
            match want {
                Want::Instead { step, entries } => {
                    if let Some(sleeper) = self.want(&run.steps[step], &entries) {
                        analysis.find_races_with(step, &sleeper);
                    }
                }
                Want::Watch { step } => {
                    let step = &run.steps[step];
                    if let Some(node) = step.decision.and_then(|decision| self.path.get_mut(decision as usize))
                        && let Some(did) = &mut node.did[step.chosen]
                    {
                        did.in_the_way = true;
                    }
                }
                Want::Ties { after, until } => {
                    for node in self.path.get_mut(after..until).unwrap_or_default() {
                        if node.question != Question::Ready {
                            node.wanted.fill(true);
                        }
                    }
                }
            }
        }
    }

    fn wants_records(&self) -> bool {
        true
    }

    fn wants_accesses(&self) -> bool {
        true
    }

    fn coverage(&self) -> Coverage {
        if let Some(gap) = self.gaps.first() {
            return Coverage::Partial((*gap).into());
        }
        if self.finished {
            return Coverage::Complete;
        }
        Coverage::Partial(format!("the search stopped after {} schedules", self.runs))
    }
}

impl Dpor {
    /// One of these entries is to run where `step` did. Returns the one that sleeps there, if that is why none is
    /// going to.
    fn want(&mut self, step: &StepRecord, entries: &[u64]) -> Option<Sleeper> {
        let Some(decision) = step.decision else {
            if step.forced {
                self.gaps.insert(FORCED);
            }
            return None;
        };
        let node = self.path.get_mut(decision as usize)?;
        let indexes: Vec<usize> =
            (0..node.candidates.len()).filter(|&index| entries.contains(&node.candidates[index].id)).collect();
        if indexes.iter().any(|&index| node.wanted[index]) {
            return None;
        }
        if let Some(sleeper) = indexes.iter().find_map(|&index| node.asleep[index].clone()) {
            return Some(sleeper);
        }
        match indexes.first() {
            Some(&index) => node.wanted[index] = true,
            // What is needed cannot run there: anything that can, may make it possible.
            None => node.wanted.fill(true),
        }
        None
    }
}

/// What a run asks for.
#[derive(Debug)]
enum Want {
    /// One of these entries in place of this step.
    Instead { step: usize, entries: Vec<u64> },
    /// What this step scheduled was in the way of a race.
    Watch { step: usize },
    /// Other orders of what came from outside: the decisions from `after` to `until`.
    Ties { after: usize, until: usize },
}

/// A set of steps.
#[derive(Clone, Debug)]
struct Set(Vec<u64>);

impl Set {
    fn new(steps: usize) -> Self {
        Self(vec![0; steps.div_ceil(64)])
    }

    fn has(&self, step: usize) -> bool {
        self.0[step / 64] >> (step % 64) & 1 == 1
    }

    fn add(&mut self, step: usize) {
        self.0[step / 64] |= 1 << (step % 64);
    }

    fn add_all(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine |= theirs;
        }
    }
}

/// The order of one run's steps.
struct Analysis<'a> {
    steps: &'a [StepRecord],
    /// By step: the steps that come before it in every schedule of this kind.
    before: Vec<Set>,
    /// Steps whose entries held up what was scheduled after them, until they ran.
    holders: Vec<usize>,
    wants: Vec<Want>,
    /// Pairs that were asked to change places.
    asked: HashSet<(usize, usize)>,
}

/// Who touched what last: by whole, by part.
#[derive(Default)]
struct Touched(HashMap<u32, HashMap<u32, Last>>);

#[derive(Default)]
struct Last {
    write: Option<usize>,
    reads: Vec<usize>,
}

impl Touched {
    /// Adds the last steps that this access depends on.
    fn dependent(&self, access: Access, into: &mut Vec<usize>) {
        let Some(parts) = self.0.get(&access.whole()) else { return };
        let mut add = |last: &Last| {
            into.extend(last.write);
            if access.write {
                into.extend(&last.reads);
            }
        };
        if access.part() == 0 {
            parts.values().for_each(add);
        } else {
            [0, access.part()].iter().filter_map(|part| parts.get(part)).for_each(&mut add);
        }
    }

    fn note(&mut self, access: Access, step: usize) {
        let parts = self.0.entry(access.whole()).or_default();
        if access.write && access.part() == 0 {
            parts.clear();
        }
        let last = parts.entry(access.part()).or_default();
        if access.write {
            *last = Last { write: Some(step), reads: Vec::new() };
        } else if last.write != Some(step) {
            last.reads.push(step);
        }
    }
}

impl<'a> Analysis<'a> {
    fn new(steps: &'a [StepRecord], level: Level) -> Self {
        let holds_up = |&step: &usize| match level {
            Level::Timing => true,
            Level::Task => steps[step].ran.kind == Kind::Callback,
            Level::Chaos => false,
        };
        let holders = (0..steps.len()).filter(holds_up).collect();
        Self { steps, holders, before: Vec::new(), wants: Vec::new(), asked: HashSet::new() }
    }

    fn find_races(&mut self) {
        let count = self.steps.len();
        let mut touched = Touched::default();
        let mut meetings = HashMap::new();
        let mut last_of_lane = HashMap::new();
        let mut epoch = (0, 0);
        for (index, step) in self.steps.iter().enumerate() {
            let ran = step.ran;
            if ran.epoch != epoch.0 {
                epoch = (ran.epoch, index);
            }
            let mut before = Set::new(count);
            // All steps of the epochs before. What the loop's own code scheduled has no other predecessor.
            for earlier in 0..epoch.1 {
                before.add(earlier);
            }
            if ran.enabled_by > 0 {
                self.add_before(&mut before, ran.enabled_by as usize - 1);
            }
            if ran.kind == Kind::Step
                && let Some(last) = last_of_lane.insert(ran.lane, index)
            {
                self.add_before(&mut before, last);
            }
            for &meeting in &step.meetings {
                // Who changes what the meeting is about does not just come to it.
                if step.accesses.contains(&Access { location: meeting, write: true }) {
                    continue;
                }
                if let Some(last) = meetings.insert(meeting, index)
                    && last != index
                {
                    self.add_before(&mut before, last);
                }
            }
            let mut dependent = Vec::new();
            for &access in &step.accesses {
                touched.dependent(access, &mut dependent);
            }
            dependent.sort_unstable();
            dependent.dedup();
            for &earlier in dependent.iter().rev() {
                if before.has(earlier) {
                    continue;
                }
                // What else comes before this step, were the race to go the other way.
                let mut others = before.clone();
                for &other in dependent.iter().filter(|&&other| other != earlier && !self.before[other].has(earlier)) {
                    self.add_before(&mut others, other);
                }
                self.reverse(earlier, index, &others);
                self.add_before(&mut before, earlier);
            }
            for &access in &step.accesses {
                touched.note(access, index);
            }
            self.before.push(before);
        }
    }

    /// A step is not to run in place of `early`, as schedules that go on with it there were run elsewhere. But it may
    /// do something else there than it did in this run, and what conflicts with *that* has to come before it once.
    fn find_races_with(&mut self, early: usize, sleeper: &Sleeper) {
        for step in (early + 1)..self.steps.len() {
            let is_other = self.steps[step].ran.id != sleeper.id && !sleeper.commutes(&self.steps[step]);
            if is_other {
                let before = self.before[step].clone();
                self.reverse(early, step, &before);
            }
        }
    }

    fn add_before(&self, before: &mut Set, step: usize) {
        before.add_all(&self.before[step]);
        before.add(step);
    }

    /// The step that scheduled this one.
    fn scheduler_of(&self, step: usize) -> Option<usize> {
        (self.steps[step].ran.enabled_by as usize).checked_sub(1)
    }

    /// Asks for a schedule in which `late` runs before `early`. `before`: what has to run before `late`, then.
    fn reverse(&mut self, early: usize, late: usize, before: &Set) {
        if before.has(early) || !self.asked.insert((early, late)) {
            return;
        }
        let comes_after_early = |analysis: &Self, step: usize| {
            step == early || analysis.before.get(step).is_some_and(|before| before.has(early))
        };
        // What is to run in place of `early`, up to and including `late`.
        let mut needed = before.clone();
        needed.add(late);
        let mut overtaking = Vec::new();
        loop {
            let mut added = false;
            let mut held_up = Vec::new();
            for step in (early + 1)..=late {
                if !needed.has(step) {
                    continue;
                }
                let id = self.steps[step].ran.id;
                let from = self.holders.partition_point(|&holder| holder < early);
                for &holder in self.holders[from..].iter().take_while(|&&holder| holder < step) {
                    if self.steps[holder].ran.id > id || needed.has(holder) {
                        continue;
                    }
                    let is_there = self.scheduler_of(holder).is_none_or(|by| by < early || needed.has(by));
                    if !is_there {
                        continue;
                    }
                    if comes_after_early(self, holder) {
                        held_up.push((holder, step));
                    } else {
                        needed.add_all(&self.before[holder]);
                        needed.add(holder);
                        added = true;
                        if self.overtakes(holder, early, &needed) {
                            overtaking.push((holder, step));
                        }
                    }
                }
            }
            if !held_up.is_empty() {
                for (holder, step) in held_up {
                    self.reschedule(holder, step);
                }
                return;
            }
            if !added {
                break;
            }
        }
        for (holder, step) in overtaking {
            self.reschedule(holder, step);
        }
        let is_first = |step: usize| {
            ((early + 1)..step).all(|other| !needed.has(other) || !self.before.get(step).unwrap_or(before).has(other))
        };
        let entries: Vec<u64> = ((early + 1)..=late)
            .filter(|&step| needed.has(step) && is_first(step))
            .map(|step| self.steps[step].ran.id)
            .collect();
        self.wants.push(Want::Instead { step: early, entries });
    }

    /// Whether a callback that runs before `early`, to be out of the way, would schedule something before a step does
    /// that it came after. Then the way in which it need not is to be tried as well.
    fn overtakes(&self, holder: usize, early: usize, needed: &Set) -> bool {
        let by = &self.steps[holder];
        let is_overtaken = |step: usize| {
            let other = &self.steps[step];
            !needed.has(step) && other.pushed && (other.pushed_callback || by.pushed_callback)
        };
        by.pushed && (early..holder).any(is_overtaken)
    }

    /// Asks for a schedule in which `step` is scheduled before `holder`, which holds it up.
    fn reschedule(&mut self, holder: usize, step: usize) {
        match (self.scheduler_of(holder), self.scheduler_of(step)) {
            (Some(early), Some(late)) if early < late => {
                self.wants.push(Want::Watch { step: early });
                let before = self.before[late].clone();
                self.reverse(early, late, &before);
            }
            (Some(_), _) => {}
            // Timers of one moment; or the run's first entries, whose order is the program's.
            (None, _) => {
                let epoch = self.steps[holder].ran.epoch;
                let first = self.steps.iter().position(|step| step.ran.epoch == epoch).unwrap_or(0);
                let until = self.steps[first].decided_before as usize;
                let after = match first.checked_sub(1).map(|last| &self.steps[last]) {
                    Some(last) => last.decided_before as usize + usize::from(last.decision.is_some()),
                    None => 0,
                };
                self.wants.push(Want::Ties { after, until });
            }
        }
    }
}
