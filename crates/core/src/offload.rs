//! Work outside the loop: who may begin, who still holds a permit, and which thread is woken for it.
//!
//! [`Ledger`]: one limit over every kind of work, a cap of its own for each kind, and a line for each. Freed room goes to
//! whoever came first among those whose kind has room, so that a line of processes does not hold up a thread. A permit
//! belongs to the *work*, not to its caller: work that cannot be stopped (a thread) and whose caller has gone is
//! *abandoned*, and keeps its permit until it ends. Invariant: `running + abandoned + reserved <= limit`, and the same
//! for each kind and its cap, at every moment at which neither was lowered below it.
//!
//! [`Work`]: the life of one call, and what its caller's leaving means at each stage of it.
//!
//! [`Crew`]: when a sleeping thread is woken, or a new one started, for a call that is offered. At most one thread at a
//! time is *roused*: on its way to its first call. It rouses the next when it takes one and sees more. A hundred calls
//! that take no time are then done by a thread or two, instead of forty that fight for the interpreter, while calls that
//! block get their threads as fast as they can be woken. (The rule of Go's and tokio's schedulers: one searcher.)

use crate::waiters::{Left, Resumed, Ticket, Waiters, Wakes};

/// How many kinds of work there are; a kind is a number below it.
pub const KINDS: usize = 4;

/// See the module's documentation.
#[derive(Debug)]
pub struct Ledger<W> {
    limit: u64,
    caps: [Option<u64>; KINDS],
    /// The weight of a ticket is its number in the order of arrival.
    lines: [Waiters<W>; KINDS],
    arrivals: u64,
    running: [u64; KINDS],
    abandoned: [u64; KINDS],
}

impl<W> Ledger<W> {
    /// Room for `limit` calls in all, and for as many of each kind as its cap says.
    pub fn new(limit: u64, caps: [Option<u64>; KINDS]) -> Self {
        Self {
            limit,
            caps,
            lines: std::array::from_fn(|_| Waiters::default()),
            arrivals: 0,
            running: [0; KINDS],
            abandoned: [0; KINDS],
        }
    }

    /// The most permits out at a time.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The most permits of this kind out at a time.
    pub fn cap(&self, kind: usize) -> Option<u64> {
        self.caps[kind]
    }

    /// Calls of this kind that somebody waits for.
    pub fn running(&self, kind: usize) -> u64 {
        self.running[kind]
    }

    /// Calls of this kind that nobody waits for any more and that still run.
    pub fn abandoned(&self, kind: usize) -> u64 {
        self.abandoned[kind]
    }

    /// Callers in the line of this kind, those woken included that have not run yet.
    pub fn waiting(&self, kind: usize) -> usize {
        self.lines[kind].waiting() + self.lines[kind].granted()
    }

    /// Permits of this kind that are out, those reserved included.
    pub fn used(&self, kind: usize) -> u64 {
        let reserved = u64::try_from(self.lines[kind].granted()).unwrap_or(u64::MAX);
        self.running[kind] + self.abandoned[kind] + reserved
    }

    /// The wakers in line.
    pub fn wakers(&self) -> impl Iterator<Item = &W> {
        self.lines.iter().flat_map(Waiters::wakers)
    }

    fn has_room(&self, kind: usize) -> bool {
        let all: u64 = (0..KINDS).map(|kind| self.used(kind)).sum();
        all < self.limit && self.caps[kind].is_none_or(|cap| self.used(kind) < cap)
    }

    /// Begins a call if there is room. Nobody is overtaken: whoever stands in line while there is room in all is of a
    /// kind that has none.
    pub fn try_begin(&mut self, kind: usize) -> bool {
        let free = self.has_room(kind);
        if free {
            self.running[kind] += 1;
        }
        free
    }

    /// Joins the line, after [`try_begin`](Self::try_begin) said no.
    pub fn wait(&mut self, kind: usize, waker: W) -> Ticket {
        self.arrivals += 1;
        self.lines[kind].join(self.arrivals, waker)
    }

    /// A woken caller runs: its permit is its call's. False when it was not woken.
    pub fn begin(&mut self, kind: usize, ticket: Ticket) -> bool {
        let granted = matches!(self.lines[kind].resume(ticket), Resumed::Granted(_));
        if granted {
            self.running[kind] += 1;
        }
        granted
    }

    /// A caller in line was cancelled, before or after it was woken.
    pub fn leave(&mut self, kind: usize, ticket: Ticket) -> Wakes<W> {
        match self.lines[kind].leave(ticket) {
            Left::Reservation(_) => self.serve(),
            Left::Place(_) | Left::Nothing => Wakes::default(),
        }
    }

    /// The caller of a running call has gone, and the call cannot be stopped.
    pub fn abandon(&mut self, kind: usize) {
        self.running[kind] -= 1;
        self.abandoned[kind] += 1;
    }

    /// A call has ended: its permit is free.
    pub fn end(&mut self, kind: usize, abandoned: bool) -> Wakes<W> {
        let held = if abandoned { &mut self.abandoned } else { &mut self.running };
        held[kind] -= 1;
        self.serve()
    }

    /// Another limit; what is out stays out.
    pub fn set_limit(&mut self, limit: u64) -> Wakes<W> {
        self.limit = limit;
        self.serve()
    }

    /// Another cap; what is out stays out.
    pub fn set_cap(&mut self, kind: usize, cap: Option<u64>) -> Wakes<W> {
        self.caps[kind] = cap;
        self.serve()
    }

    fn serve(&mut self) -> Wakes<W> {
        let mut wakes = Wakes::default();
        loop {
            let served = (0..KINDS).filter(|&kind| self.has_room(kind));
            let first = served.filter_map(|kind| Some((self.lines[kind].front()?, kind))).min();
            let Some(waker) = first.and_then(|(_, kind)| self.lines[kind].grant_front()) else { return wakes };
            wakes.push(waker);
        }
    }
}

/// Where a call is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// In its caller's hands: it has no permit yet.
    #[default]
    New,
    /// It has a permit, and waits for a thread.
    Queued,
    /// It runs.
    Running,
    /// It runs, and nobody waits for it any more.
    Abandoned,
    /// It has ended, or will never begin.
    Ended,
}

/// What the leaving of a caller means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The call had not begun and never will; its permit is free.
    Withdrawn,
    /// The call goes on without its caller: stop it if that can be done.
    Abandoned,
    /// It has ended.
    TooLate,
}

impl Work {
    /// It has a permit now.
    pub fn admitted(&mut self) {
        debug_assert_eq!(*self, Self::New);
        *self = Self::Queued;
    }

    /// A thread has taken it; false when it was withdrawn meanwhile.
    pub fn taken(&mut self) -> bool {
        let taken = *self == Self::Queued;
        if taken {
            *self = Self::Running;
        }
        taken
    }

    /// Its caller has gone.
    pub fn left(&mut self) -> Parting {
        match *self {
            Self::Running => {
                *self = Self::Abandoned;
                Parting::Abandoned
            }
            Self::New | Self::Queued => {
                *self = Self::Ended;
                Parting::Withdrawn
            }
            Self::Abandoned | Self::Ended => Parting::TooLate,
        }
    }

    /// It has ended. Returns whether it had been abandoned; None when it had ended before.
    pub fn ended(&mut self) -> Option<bool> {
        let abandoned = match *self {
            Self::Running | Self::Queued => Some(false),
            Self::Abandoned => Some(true),
            Self::New | Self::Ended => None,
        };
        *self = Self::Ended;
        abandoned
    }
}

/// Whom to rouse for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a thread that is not woken leaves calls in the queue"]
pub enum Rouse {
    /// Nobody: a thread is on its way.
    Nobody,
    /// A sleeping thread.
    Wake,
    /// A new thread.
    Start,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Crew {
    alive: usize,
    asleep: usize,
    roused: bool,
}

impl Crew {
    /// Threads that have not ended, those being started included.
    pub fn alive(&self) -> usize {
        self.alive
    }

    /// Threads that sleep.
    pub fn asleep(&self) -> usize {
        self.asleep
    }

    /// A call was put into the queue.
    pub fn offered(&mut self) -> Rouse {
        if self.roused {
            return Rouse::Nobody;
        }
        self.roused = true;
        if self.asleep > 0 {
            self.asleep -= 1;
            Rouse::Wake
        } else {
            self.alive += 1;
            Rouse::Start
        }
    }

    /// A thread has taken a call; `roused` says whether it had been roused for one, `more` whether there are others.
    pub fn took(&mut self, roused: bool, more: bool) -> Rouse {
        if roused {
            self.roused = false;
        }
        if more { self.offered() } else { Rouse::Nobody }
    }

    /// A thread found no call and goes to sleep.
    pub fn sleeps(&mut self, roused: bool) {
        if roused {
            self.roused = false;
        }
        self.asleep += 1;
    }

    /// A thread that slept for long enough ends.
    pub fn retires(&mut self) {
        self.asleep -= 1;
        self.alive -= 1;
    }

    /// All that sleep were woken to end.
    pub fn dismissed(&mut self) {
        self.asleep = 0;
    }

    /// A thread that is awake ends, or could not be started.
    pub fn ends(&mut self, roused: bool) {
        if roused {
            self.roused = false;
        }
        self.alive -= 1;
    }
}
