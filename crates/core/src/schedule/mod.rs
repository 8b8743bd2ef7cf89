//! Schedules: in which order the steps of a simulated event loop run, and when its clock moves.
//!
//! [`Scheduler`] is what a simulated loop asks: it holds what is ready ([`ready`]), the time ([`clock`]) and what was
//! decided ([`trace`]), and puts each decision to a [`Strategy`]. A strategy outlives the run: it is told how each
//! schedule went and answers the next one differently, until its search is over.
//!
//! ```text
//! loop: push(lane, kind, callback) ─┐
//! loop: pick() ──> candidates ──────┴──> Strategy::choose ──> the entry to run, one decision more in the trace
//! loop: accessed(location, write)  ──>  the record of the running step   (only for a strategy that wants records)
//! loop: the run is over            ──>  Strategy::end(record)  ──>  Strategy::begin() ──> the next run, or none
//! ```
//!
//! Lives here: which entries may go next at each [`Level`], fairness, the record. Does not live here: what a step does,
//! what is waited for, threads, sockets: the binding's `sim.rs` and `loopwright.testing`.

pub mod clock;
pub mod delays;
pub mod dpor;
pub mod pct;
pub mod random;
pub mod ready;
pub mod shrink;
pub mod trace;

use ready::Ready;
use trace::{Deviation, Trace};

/// One task, numbered in the order of creation within a run. Lane 0 is whatever runs outside of tasks.
pub type Lane = u32;

/// What an entry of the ready queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A step of its lane's task.
    Step,
    /// A plain callback. Its lane is that of the task that scheduled it.
    Callback,
}

/// How much of the order is open. Each level allows what the one before it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Ties between timers and the order of I/O events; the ready queue stays first in, first out.
    Timing,
    /// Also, the step of a task may be delayed. Nothing else moves: no entry overtakes a plain callback that was
    /// scheduled before it. What fails at this level can fail on asyncio, given other timing.
    Task,
    /// Any entry may go next, against what asyncio documents.
    Chaos,
}

/// What a decision is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// Which entry of the ready queue runs next.
    Ready,
    /// Which of the timers that are due at the same time goes off first.
    Timers,
    /// Which of the I/O events of one poll is handled first.
    Events,
}

/// One possible answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Number of the entry in this run, in the order of scheduling.
    pub id: u64,
    /// Whose it is.
    pub lane: Lane,
    /// What it does.
    pub kind: Kind,
    /// The step that scheduled it (counted from 1); 0: something outside of all steps did.
    pub enabled_by: u32,
    /// How often the loop had run out of work before: all steps of an epoch come before all steps of the next one.
    pub epoch: u32,
    /// The step before it on its own lane scheduled it: the task only let others go first.
    pub yielded: bool,
}

/// One step that was run, for strategies that want records.
#[derive(Clone, Debug)]
pub struct StepRecord {
    /// The entry that ran.
    pub ran: Candidate,
    /// Index into the run's decisions, when there was more than one candidate.
    pub decision: Option<u32>,
    /// Decisions made before this step's own.
    pub decided_before: u32,
    /// What could have run instead, `ran` included, in queue order.
    pub candidates: Vec<Candidate>,
    /// Index of `ran` in `candidates`.
    pub chosen: usize,
    /// The step was forced by fairness: the other candidates were not open to choice.
    pub forced: bool,
    /// The shared state that the step touched.
    pub accesses: Vec<Access>,
    /// Meetings that it came to: whoever comes later comes after it, though the order makes no difference. Unless it
    /// wrote to the location of that number.
    pub meetings: Vec<u32>,
    /// It scheduled something.
    pub pushed: bool,
    /// It scheduled a plain callback.
    pub pushed_callback: bool,
}

/// One access to shared state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Access {
    /// Which state: a number that stands for a name. Its lower half is a part of the upper half's whole, 0 all of it:
    /// what touches the whole touches each part.
    pub location: u32,
    /// Whether it may have been changed.
    pub write: bool,
}

impl Access {
    /// The whole that this is a part of.
    #[must_use]
    pub fn whole(self) -> u32 {
        self.location >> 16
    }

    /// Which part; 0: all of it.
    #[must_use]
    pub fn part(self) -> u32 {
        self.location & 0xFFFF
    }

    /// Whether the order of the two can make a difference.
    #[must_use]
    pub fn conflicts(self, other: Self) -> bool {
        (self.write || other.write)
            && self.whole() == other.whole()
            && (self.part() == other.part() || self.part() == 0 || other.part() == 0)
    }
}

/// What a strategy is told about a run that is over.
#[derive(Debug)]
pub struct Run<'a> {
    /// The decisions.
    pub trace: &'a Trace,
    /// Every step in order; empty unless [`Strategy::wants_records`].
    pub steps: &'a [StepRecord],
    /// What was open to choice.
    pub level: Level,
    /// Something came from outside while the loop was at work: sockets, threads, timers that were due at once.
    pub outside: bool,
    /// The run ended while entries were left that could have run.
    pub cut: bool,
    /// Whether the run broke a promise.
    pub failed: bool,
}

/// What a search that is over can claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Every interleaving that could make a difference was run.
    Complete,
    /// Not, or not known; why, in words for a person.
    Partial(String),
}

/// Decides schedules, one after the other. Deterministic: all randomness comes from a seed.
pub trait Strategy: Send + Sync + std::fmt::Debug {
    /// Begins the next schedule; `false` when the search is over.
    fn begin(&mut self) -> bool;

    /// Which candidate is next; 0 is what asyncio's loop would take. Asked only when there are two or more.
    ///
    /// An answer out of range counts as 0.
    fn choose(&mut self, question: Question, candidates: &[Candidate]) -> usize;

    /// A step is over. Only for a strategy that [wants records](Strategy::wants_records).
    fn stepped(&mut self, _step: &StepRecord) {}

    /// The schedule is over.
    fn end(&mut self, run: &Run<'_>);

    /// Whether steps are to be recorded for [`Strategy::end`].
    fn wants_records(&self) -> bool {
        false
    }

    /// Whether the binding is to report accesses to shared state.
    fn wants_accesses(&self) -> bool {
        false
    }

    /// For a schedule that is run again: where the program first did not do what it had done.
    fn diverged(&self) -> Option<Deviation> {
        None
    }

    /// What the search covered so far.
    fn coverage(&self) -> Coverage {
        Coverage::Partial("a sample of the schedules was run".into())
    }
}

/// First in, first out: what asyncio's own loop does. One schedule.
#[derive(Debug, Default)]
pub struct Fifo {
    begun: bool,
}

impl Strategy for Fifo {
    fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.begun, true)
    }

    fn choose(&mut self, _question: Question, _candidates: &[Candidate]) -> usize {
        0
    }

    fn end(&mut self, _run: &Run<'_>) {}

    fn coverage(&self) -> Coverage {
        Coverage::Partial("one schedule was run".into())
    }
}

/// How often the front of the queue is passed over before it has its turn: this many times, and ...
const PATIENCE: u32 = 64;
/// ... this many times per candidate beside it.
const PATIENCE_EACH: u32 = 8;

/// The machine of one run. See the module's documentation. `E` is the callback.
#[derive(Debug)]
pub struct Scheduler<E> {
    ready: Ready<E>,
    trace: Trace,
    strategy: Box<dyn Strategy>,
    level: Level,
    records: Option<Vec<StepRecord>>,
    /// Scratch: the candidates of one decision.
    candidates: Vec<Candidate>,
    steps: u32,
    /// Whose step runs now: what it schedules was enabled by it.
    running: Option<Lane>,
    /// Whose step ran last.
    last: Option<Lane>,
    epoch: u32,
    /// Nothing was ready, and what is scheduled now is scheduled before the next step.
    idle: bool,
    outside: bool,
    /// The run was stopped while entries were left: what follows is not recorded.
    cut: bool,
    passed_over: u32,
}

impl<E> Scheduler<E> {
    /// A run under a strategy that has begun a schedule.
    #[must_use]
    pub fn new(level: Level, strategy: Box<dyn Strategy>) -> Self {
        let records = strategy.wants_records().then(Vec::new);
        Self {
            ready: Ready::default(),
            trace: Trace::default(),
            strategy,
            level,
            records,
            candidates: Vec::new(),
            steps: 0,
            running: None,
            last: None,
            epoch: 0,
            idle: false,
            outside: false,
            cut: false,
            passed_over: 0,
        }
    }

    /// Schedules an entry behind all others.
    pub fn push(&mut self, lane: Lane, kind: Kind, entry: E) -> u64 {
        let enabled_by = if self.running.is_some() { self.steps } else { 0 };
        if self.running.is_none() && !self.idle {
            if self.ready.is_empty() {
                self.idle = true;
                self.epoch += 1;
            } else {
                self.outside = true;
            }
        }
        if let Some(step) = self.recorded() {
            step.pushed = true;
            step.pushed_callback |= kind == Kind::Callback;
        }
        let yielded = kind == Kind::Step && self.running == Some(lane);
        self.ready.push(Candidate { id: 0, lane, kind, enabled_by, epoch: self.epoch, yielded }, entry)
    }

    /// Something from outside of the program has a say in the order: a socket, another thread, real time.
    pub fn outside(&mut self) {
        self.outside = true;
    }

    /// Takes the entry that is to run next; its step begins.
    pub fn pick(&mut self) -> Option<(Candidate, E)> {
        let chosen = self.decide()?;
        let (ran, entry) = self.ready.take(chosen)?;
        self.begins(ran);
        Some((ran, entry))
    }

    /// Takes the oldest entry, whatever the strategy would say.
    pub fn pick_oldest(&mut self) -> Option<(Candidate, E)> {
        let (ran, entry) = self.ready.take(0)?;
        self.cut = true;
        self.begins(ran);
        Some((ran, entry))
    }

    fn begins(&mut self, ran: Candidate) {
        self.steps += 1;
        self.running = Some(ran.lane);
        self.last = Some(ran.lane).filter(|_| ran.kind == Kind::Step);
        self.idle = false;
        self.trace.stepped(ran.lane);
    }

    fn decide(&mut self) -> Option<usize> {
        let count = self.ready.candidates(self.level, &mut self.candidates);
        if count == 0 {
            return None;
        }
        let decided_before = self.trace.len();
        let mut forced = false;
        let mut decision = None;
        let mut chosen = 0;
        if count > 1 {
            #[allow(clippy::cast_possible_truncation, reason = "more than u32::MAX candidates do not fit in memory")]
            let patience = PATIENCE.saturating_add(PATIENCE_EACH.saturating_mul(count as u32));
            if self.passed_over >= patience {
                forced = true;
            } else {
                chosen = self.answer(Question::Ready);
                decision = Some(self.trace.len() - 1);
            }
        }
        let goes_on = |candidate: &Candidate| candidate.kind == Kind::Step && Some(candidate.lane) == self.last;
        if !goes_on(&self.candidates[chosen]) && self.candidates.iter().any(goes_on) {
            self.trace.preempted();
        }
        self.passed_over = if chosen == 0 { 0 } else { self.passed_over + 1 };
        if let Some(records) = self.records.as_mut().filter(|_| !self.cut) {
            records.push(StepRecord {
                ran: self.candidates[chosen],
                decision,
                decided_before,
                candidates: self.candidates.clone(),
                chosen,
                forced,
                accesses: Vec::new(),
                meetings: Vec::new(),
                pushed: false,
                pushed_callback: false,
            });
        }
        // A candidate's place in the queue is not its index among the candidates: a lane stands there once.
        Some(self.ready.place(chosen))
    }

    /// Asks the strategy about `self.candidates` and notes the answer.
    fn answer(&mut self, question: Question) -> usize {
        let answer = self.strategy.choose(question, &self.candidates);
        let chosen = if answer < self.candidates.len() { answer } else { 0 };
        self.trace.decided(question, self.candidates.len(), chosen, self.candidates[chosen].lane);
        chosen
    }

    /// Decides between ties: the order in which `count` things happen that happen at the same time.
    pub fn order(&mut self, question: Question, lanes: &[Lane]) -> Vec<usize> {
        let mut left: Vec<usize> = (0..lanes.len()).collect();
        let mut order = Vec::with_capacity(lanes.len());
        while left.len() > 1 {
            self.candidates.clear();
            self.candidates.extend(left.iter().map(|&index| Candidate {
                id: index as u64,
                lane: lanes[index],
                kind: Kind::Callback,
                enabled_by: 0,
                epoch: self.epoch,
                yielded: false,
            }));
            let chosen = self.answer(question);
            order.push(left.remove(chosen));
        }
        order.append(&mut left);
        order
    }

    /// The step that runs is over.
    pub fn stepped(&mut self) {
        if self.running.take().is_some()
            && !self.cut
            && let Some(step) = self.records.as_ref().and_then(|records| records.last())
        {
            self.strategy.stepped(step);
        }
    }

    /// The running step touched shared state.
    pub fn accessed(&mut self, access: Access) {
        if let Some(step) = self.recorded()
            && !step.accesses.contains(&access)
        {
            step.accesses.push(access);
        }
    }

    /// The running step comes to a meeting: those who come later come after it, and the order is not to be searched.
    pub fn met(&mut self, meeting: u32) {
        if let Some(step) = self.recorded()
            && !step.meetings.contains(&meeting)
        {
            step.meetings.push(meeting);
        }
    }

    /// The record of the step that runs.
    fn recorded(&mut self) -> Option<&mut StepRecord> {
        if self.running.is_none() || self.cut {
            return None;
        }
        self.records.as_mut().and_then(|records| records.last_mut())
    }

    /// Entries that wait for their turn.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ready.len()
    }

    /// Whether nothing waits for its turn.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ready.len() == 0
    }

    /// The number that the next entry gets.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.ready.next_id()
    }

    /// Whether an entry with a smaller number waits.
    #[must_use]
    pub fn waits_before(&self, id: u64) -> bool {
        self.ready.first_id().is_some_and(|first| first < id)
    }

    /// Steps begun so far.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// What was decided so far.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// A scheduler that goes on with what waits here, under another strategy.
    #[must_use]
    pub fn succeed(&mut self, level: Level, strategy: Box<dyn Strategy>) -> Self {
        let mut next = Self::new(level, strategy);
        self.cut |= !self.ready.is_empty();
        next.ready = std::mem::take(&mut self.ready);
        next.steps = self.steps;
        next.running = self.running;
        next
    }

    /// The strategy is told how the run went and handed back, for the next run. What is left in the queue is dropped.
    #[must_use]
    pub fn finish(self, failed: bool) -> (Box<dyn Strategy>, Trace) {
        let Self { ready, trace, mut strategy, level, records, outside, cut, .. } = self;
        let steps = records.as_deref().unwrap_or_default();
        strategy.end(&Run { trace: &trace, steps, level, outside, cut: cut || !ready.is_empty(), failed });
        (strategy, trace)
    }

    /// For a garbage collector: every entry that waits.
    pub fn entries(&self) -> impl Iterator<Item = &E> {
        self.ready.entries()
    }

    /// Takes every entry out.
    pub fn clear(&mut self) -> impl Sized + use<E> {
        self.ready.clear()
    }
}
