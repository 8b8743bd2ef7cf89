//! Scope: children that end before their parent goes on. TaskGroup and race are this machine.
//!
//! ```text
//! Fresh ──enter──> Open ──close_body──> Exiting ──(nobody left)──finish──> Over
//! ```
//!
//! The machine counts children, keeps the limit and the line of those who wait to spawn, and answers the questions in
//! which groups go wrong: who is told to stop and when, whether the parent has to be cancelled (once) and un-cancelled
//! (as often), when the exit may end, and which of several reasons to leave wins. A child is *alive* from the moment it
//! is admitted, before its task exists: an eager task runs user code while it is being made, and that may spawn,
//! cancel, or fail.
//!
//! Invariants: `alive + reserved <= limit`; nobody stands in line while a slot is free; the exit sleeps only while
//! somebody is alive or holds a reserved slot.

use crate::waiters::{Left, Resumed, Ticket, Waiters, Wakes};

/// What ends a scope early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The first failure (a group).
    FirstFailure,
    /// The first success (a race).
    FirstSuccess,
}

/// Why no child can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The block has not been entered.
    NotEntered,
    /// The block is over.
    Over,
    /// The children have been told to stop.
    Stopping,
    /// So many are alive (or promised a slot) already.
    Full(usize),
}

/// How a child ended.
#[derive(Debug)]
pub enum Ended<E> {
    /// With a result.
    Well,
    /// Cancelled.
    Cancelled,
    /// With an error.
    Failed(E),
    /// With an error that outranks all others (`KeyboardInterrupt`, `SystemExit`).
    Fatal(E),
}

/// What has to be carried out after an event.
#[derive(Debug)]
#[must_use = "actions that are dropped leave somebody asleep or running"]
pub struct Actions<W> {
    /// Cancel every child that has not ended.
    pub stop_children: bool,
    /// Cancel the parent: it is in the body, or waits at the end of the block.
    pub cancel_parent: bool,
    /// This child made the race.
    pub won: bool,
    /// Whom to wake: spawners, and the exit.
    pub wakes: Wakes<W>,
}

impl<W> Actions<W> {
    fn none() -> Self {
        Self { stop_children: false, cancel_parent: false, won: false, wakes: Wakes::default() }
    }
}

/// What a woken spawner finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The slot is its own: the child counts as alive from here.
    Yours,
    /// No slot, and why.
    Refused(Refusal),
    /// It was not woken.
    Waiting,
}

/// How the block is left, when everybody has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<E> {
    /// Raise this one error, whatever else there is.
    Fatal(E),
    /// Raise the CancelledError that belongs to somebody else.
    Cancelled,
    /// Raise these, together.
    Errors(Vec<E>),
    /// Nothing to raise.
    Quiet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Fresh,
    Open,
    Exiting,
    Over,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Scope<W, E> {
    policy: Policy,
    limit: usize,
    phase: Phase,
    alive: usize,
    spawners: Waiters<W>,
    /// The end of the block: one waiter at most.
    exit: Waiters<W>,
    stopping: bool,
    stop_on_entry: bool,
    won: bool,
    /// We cancelled the parent, and owe it an `uncancel`.
    cancelled_parent: bool,
    /// A CancelledError has come out at the parent since, or a turn has passed in which it would have.
    delivered: bool,
    /// A CancelledError has come out at the parent, in the body's end or at the exit.
    seen: bool,
    errors: Vec<E>,
    fatal: Option<E>,
}

impl<W, E> Scope<W, E> {
    /// A scope that has not been entered; no limit is `usize::MAX`.
    pub fn new(policy: Policy, limit: usize) -> Self {
        Self {
            policy,
            limit,
            phase: Phase::Fresh,
            alive: 0,
            spawners: Waiters::default(),
            exit: Waiters::default(),
            stopping: false,
            stop_on_entry: false,
            won: false,
            cancelled_parent: false,
            delivered: false,
            seen: false,
            errors: Vec::new(),
            fatal: None,
        }
    }

    /// Children that have not ended.
    pub fn alive(&self) -> usize {
        self.alive
    }

    /// The most children at a time.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Spawners that stand in line or were woken and have not run yet.
    pub fn waiting(&self) -> usize {
        self.spawners.waiting() + self.spawners.granted()
    }

    /// Whether the block was entered, ever.
    pub fn is_entered(&self) -> bool {
        self.phase != Phase::Fresh
    }

    /// Whether the body has ended.
    pub fn is_exiting(&self) -> bool {
        matches!(self.phase, Phase::Exiting | Phase::Over)
    }

    /// Whether the block has been left.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether the children have been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// The errors so far.
    pub fn errors(&self) -> impl Iterator<Item = &E> {
        self.errors.iter().chain(&self.fatal)
    }

    /// The wakers in both lines.
    pub fn wakers(&self) -> impl Iterator<Item = &W> {
        self.spawners.wakers().chain(self.exit.wakers())
    }

    // ------------------------------------------------------------------------------------------ children

    /// The block is entered. `None` when it was entered before.
    pub fn enter(&mut self) -> Option<Actions<W>> {
        if self.phase != Phase::Fresh {
            return None;
        }
        self.phase = Phase::Open;
        Some(if self.stop_on_entry { self.cancel() } else { Actions::none() })
    }

    /// A child is about to start, and is alive from here.
    ///
    /// # Errors
    /// Why it may not.
    pub fn admit(&mut self) -> Result<(), Refusal> {
        self.check()?;
        if self.is_full() {
            return Err(Refusal::Full(self.alive));
        }
        self.alive += 1;
        Ok(())
    }

    /// A spawner joins the line, after [`admit`](Self::admit) said [`Refusal::Full`].
    pub fn wait(&mut self, waker: W) -> Ticket {
        self.spawners.join(1, waker)
    }

    /// A woken spawner runs: this is the transfer.
    pub fn resume(&mut self, ticket: Ticket) -> (Slot, Wakes<W>) {
        match self.spawners.resume(ticket) {
            Resumed::Granted(_) if self.stopping => (Slot::Refused(Refusal::Stopping), self.serve()),
            Resumed::Granted(_) => {
                self.alive += 1;
                (Slot::Yours, Wakes::default())
            }
            Resumed::Refused => (Slot::Refused(Refusal::Stopping), Wakes::default()),
            Resumed::Waiting => (Slot::Waiting, Wakes::default()),
        }
    }

    /// A spawner was cancelled, closed or dropped, woken or not; its slot goes to the next.
    pub fn leave(&mut self, ticket: Ticket) -> Wakes<W> {
        match self.spawners.leave(ticket) {
            Left::Reservation(_) => self.serve(),
            Left::Place(_) | Left::Nothing => Wakes::default(),
        }
    }

    /// An admitted child could not be started after all.
    pub fn not_started(&mut self) -> Wakes<W> {
        self.alive -= 1;
        self.serve()
    }

    /// A child ended.
    pub fn ended(&mut self, how: Ended<E>) -> Actions<W> {
        debug_assert!(self.alive > 0, "more children ended than were admitted");
        self.alive -= 1;
        let reason = match how {
            Ended::Well if self.policy == Policy::FirstSuccess && !self.stopping => {
                self.won = true;
                return self.win();
            }
            Ended::Well | Ended::Cancelled => false,
            Ended::Failed(error) => {
                self.errors.push(error);
                self.policy == Policy::FirstFailure
            }
            Ended::Fatal(error) => {
                if self.fatal.is_none() {
                    self.fatal = Some(error);
                } else {
                    self.errors.push(error);
                }
                true
            }
        };
        if reason && !self.stopping {
            return self.stop(true);
        }
        Actions { wakes: self.serve(), ..Actions::none() }
    }

    /// `cancel()`: the block ends early and without an error.
    pub fn cancel(&mut self) -> Actions<W> {
        match self.phase {
            Phase::Fresh => {
                self.stop_on_entry = true;
                Actions::none()
            }
            Phase::Exiting if self.is_empty() => Actions::none(),
            Phase::Over => Actions::none(),
            Phase::Open | Phase::Exiting if self.stopping => Actions::none(),
            Phase::Open | Phase::Exiting => self.stop(true),
        }
    }

    // ------------------------------------------------------------------------------------------ the exit

    /// The body has ended; `error` is the fatal error it raised. `cancelled`: with a CancelledError. `failed`: with any
    /// other error.
    pub fn close_body(&mut self, cancelled: bool, failed: bool, fatal: Option<E>) -> Actions<W> {
        self.phase = Phase::Exiting;
        if self.fatal.is_none() {
            self.fatal = fatal;
        }
        if cancelled {
            self.note_cancelled();
        }
        if (cancelled || failed) && !self.stopping { self.stop(false) } else { Actions::none() }
    }

    /// A CancelledError arrived at the waiting exit; it goes on waiting.
    pub fn interrupt(&mut self) -> Actions<W> {
        self.note_cancelled();
        if self.stopping { Actions::none() } else { self.stop(false) }
    }

    /// Whether the exit can go on: nobody is alive, and nobody has been promised to become so.
    pub fn is_empty(&self) -> bool {
        self.alive == 0 && self.spawners.granted() == 0
    }

    /// The exit waits for [`is_empty`](Self::is_empty). When it is that already, it is woken at once (a way to let one
    /// turn of the loop pass, see [`owes_turn`](Self::owes_turn)).
    pub fn wait_for_all(&mut self, waker: W) -> (Ticket, Wakes<W>) {
        let ticket = self.exit.join(1, waker);
        (ticket, self.serve())
    }

    /// The exit runs again; tells whether it was woken.
    pub fn resume_exit(&mut self, ticket: Ticket) -> bool {
        matches!(self.exit.resume(ticket), Resumed::Granted(_))
    }

    /// The exit's wait was cut off. Nobody else is affected.
    pub fn leave_exit(&mut self, ticket: Ticket) {
        match self.exit.leave(ticket) {
            Left::Place(_) | Left::Reservation(_) | Left::Nothing => {}
        }
    }

    /// Whether the cancel that we sent to the parent may still be on its way. CPython's `uncancel` takes it back from
    /// 3.13 on; before, it has to come out at an await of ours, and be dropped there.
    pub fn owes_turn(&self) -> bool {
        self.cancelled_parent && !self.delivered
    }

    /// The turn of [`owes_turn`](Self::owes_turn) has passed.
    pub fn turn_passed(&mut self) {
        self.delivered = true;
    }

    /// Whether the parent has to be un-cancelled once before [`finish`](Self::finish).
    pub fn owes_uncancel(&self) -> bool {
        self.cancelled_parent
    }

    /// Everybody has ended: how to leave. `remaining` is what `uncancel` answered, if it was owed; `body` the error
    /// with which the body ended, other than a cancel. The errors that are not raised come along: dropping one may run
    /// anything, so that is the caller's to do.
    pub fn finish(&mut self, remaining: Option<usize>, body: Option<E>) -> (Outcome<E>, Vec<E>) {
        debug_assert!(self.is_empty(), "the exit ended before its children");
        self.phase = Phase::Over;
        let mut errors = std::mem::take(&mut self.errors);
        // A CancelledError that came is somebody else's, unless the only cancel was ours.
        let cancelled = self.seen && remaining != Some(0);
        let race_decided = self.policy == Policy::FirstSuccess && (cancelled || (self.won && body.is_none()));
        errors.extend(body);
        if let Some(fatal) = self.fatal.take() {
            (Outcome::Fatal(fatal), errors)
        } else if !errors.is_empty() && !race_decided {
            (Outcome::Errors(errors), Vec::new())
        } else if cancelled {
            (Outcome::Cancelled, errors)
        } else {
            (Outcome::Quiet, errors)
        }
    }

    // ------------------------------------------------------------------------------------------ inside

    fn check(&self) -> Result<(), Refusal> {
        match self.phase {
            Phase::Fresh => Err(Refusal::NotEntered),
            Phase::Over => Err(Refusal::Over),
            Phase::Exiting if self.is_empty() => Err(Refusal::Over),
            _ if self.stopping => Err(Refusal::Stopping),
            Phase::Open | Phase::Exiting => Ok(()),
        }
    }

    fn is_full(&self) -> bool {
        self.alive + self.spawners.granted() >= self.limit
    }

    fn note_cancelled(&mut self) {
        self.seen = true;
        self.delivered |= self.cancelled_parent;
    }

    fn win(&mut self) -> Actions<W> {
        // The parent of a race only waits: it needs no cancel to learn that the race is over.
        Actions { won: true, ..self.stop(false) }
    }

    fn stop(&mut self, cancel_parent: bool) -> Actions<W> {
        self.stopping = true;
        self.cancelled_parent |= cancel_parent;
        let mut wakes = self.spawners.refuse_all();
        for waker in self.serve() {
            wakes.push(waker);
        }
        Actions { stop_children: true, cancel_parent, won: false, wakes }
    }

    /// Gives free slots to those in line, and lets the exit go when nobody is left.
    fn serve(&mut self) -> Wakes<W> {
        let Self { alive, limit, spawners, .. } = self;
        let mut taken = *alive + spawners.granted();
        let mut wakes = spawners.grant_while(|_| {
            let free = taken < *limit;
            taken += usize::from(free);
            free
        });
        if self.is_empty()
            && let Some(waker) = self.exit.grant_front()
        {
            wakes.push(waker);
        }
        wakes
    }
}
