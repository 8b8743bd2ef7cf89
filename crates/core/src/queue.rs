//! Queue: who may store an item, who may take one, who waits, and when `join` is over. The counts only: the items
//! themselves, and the order in which they come out, are the caller's (a deque, a heap, a stack, a user's own class).
//!
//! **A grant reserves, the resume transfers.** A putter that is woken owns a free place, a getter that is woken owns
//! one of the stored items, but nothing has moved: a cancelled put has not enqueued and a cancelled get has not
//! removed. What it had reserved goes to the next in line in the same event. An item is taken from the store only when
//! its getter runs, so items leave in the store's own order whoever is cancelled in between.
//!
//! A transfer has two halves, because storing an item can run the user's code (a comparison in a heap, a subclass's
//! `_put`), and that code can fail or come back here:
//!
//! ```text
//! try_put | resume_put ──> Slot ──(the caller stores the item)──> put_done(slot) | put_failed(slot)
//! try_get | resume_get ──> Claim ──(the caller takes an item)───> get_done(claim) | get_failed(claim)
//! ```
//!
//! A failed half gives its place, or its item, to the next in line.
//!
//! Invariants, whatever is cancelled when, as long as the store does what it is told:
//!
//! - `stored + slots + putters granted <= maxsize`, where *slots* are the puts between their two halves;
//! - `claims + getters granted <= stored`, where *claims* are the gets between their two halves;
//! - nobody stands in a line while there is something for them: newcomers never overtake a waiter;
//! - `unfinished` = puts done − tasks done − items drained by an immediate shutdown.

use crate::waiters::{Left, Resumed, Ticket, Waiters, Wakes};

/// A place for one item, between the two halves of a put.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a slot that is neither `put_done` nor `put_failed` is lost capacity"]
pub struct Slot(());

/// A claim on one stored item, between the two halves of a get.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a claim that is neither `get_done` nor `get_failed` is a lost item"]
pub struct Claim(());

/// Why there was nothing for a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Full (put), or every stored item is spoken for (get). Waiting can help.
    NotNow,
    /// The queue was shut down: no put, and no get once drained, will ever succeed.
    ShutDown,
}

/// What a waiter that runs again finds. `T` is [`Slot`], [`Claim`] or, for a joiner, `()`.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<T> {
    /// What it waited for.
    Yours(T),
    /// The wait is over and there is nothing to have: the queue was shut down.
    ShutDown,
    /// It was not woken (or, for a getter, the store holds less than it said: [`Queue::get_again`]).
    NotYet,
}

/// `task_done` was called more often than items were put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoneTooOften;

/// What a shutdown asks of the caller.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the drained items are still in the store, and the waiters still asleep"]
pub struct Shutdown<W> {
    /// How many items to take from the store and drop.
    pub drain: usize,
    /// Whom to wake.
    pub wakes: Wakes<W>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Queue<W> {
    /// `None`: unbounded.
    maxsize: Option<usize>,
    /// Items in the store, those reserved and those claimed included.
    stored: usize,
    /// Puts between their two halves.
    slots: usize,
    /// Gets between their two halves.
    claims: usize,
    unfinished: usize,
    shut_down: bool,
    getters: Waiters<W>,
    putters: Waiters<W>,
    joiners: Waiters<W>,
}

impl<W> Queue<W> {
    /// An empty queue for at most `maxsize` items; `None` is unbounded.
    pub fn new(maxsize: Option<usize>) -> Self {
        Self {
            maxsize,
            stored: 0,
            slots: 0,
            claims: 0,
            unfinished: 0,
            shut_down: false,
            getters: Waiters::default(),
            putters: Waiters::default(),
            joiners: Waiters::default(),
        }
    }

    // --- state ---------------------------------------------------------------------------------------------------

    /// The most items there can be; `None` is unbounded.
    pub fn maxsize(&self) -> Option<usize> {
        self.maxsize
    }

    /// Items stored plus places reserved for woken putters: what counts against `maxsize`.
    #[inline]
    pub fn size(&self) -> usize {
        self.stored + self.slots + self.putters.granted()
    }

    /// Items that nobody has been promised: what a newcomer can get.
    #[inline]
    pub fn available(&self) -> usize {
        // Saturating: a store that counts for itself can turn out to hold less than was promised.
        self.stored.saturating_sub(self.claims + self.getters.granted())
    }

    /// Whether a newcomer's put would have to wait for room.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.maxsize.is_some_and(|maxsize| self.size() >= maxsize)
    }

    /// Items in the store, those promised to woken getters included.
    pub fn stored(&self) -> usize {
        self.stored
    }

    /// Items put and not yet reported done.
    pub fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Whether [`shutdown`](Self::shutdown) was called.
    pub fn is_shut_down(&self) -> bool {
        self.shut_down
    }

    /// Getters in line; those woken, which own an item already, are not counted.
    pub fn getters(&self) -> usize {
        self.getters.waiting()
    }

    /// Putters in line; those woken, which own a place already, are not counted.
    pub fn putters(&self) -> usize {
        self.putters.waiting()
    }

    /// Callers of `join` that still wait.
    pub fn joiners(&self) -> usize {
        self.joiners.waiting()
    }

    /// Whether anybody stands in line for an item or a place: an event can wake somebody only then.
    #[inline]
    pub fn is_contended(&self) -> bool {
        self.getters.waiting() + self.putters.waiting() > 0
    }

    /// Whether anybody waits or was woken and has not run yet.
    pub fn is_awaited(&self) -> bool {
        [&self.getters, &self.putters, &self.joiners].iter().any(|line| line.waiting() + line.granted() > 0)
    }

    /// Every waker in line: getters, putters, joiners, each first to last.
    pub fn wakers(&self) -> impl Iterator<Item = &W> {
        self.getters.wakers().chain(self.putters.wakers()).chain(self.joiners.wakers())
    }

    // --- put -----------------------------------------------------------------------------------------------------

    /// A place for a newcomer's item, if that overtakes nobody.
    ///
    /// # Errors
    /// Says whether waiting can help.
    #[inline]
    pub fn try_put(&mut self) -> Result<Slot, Denied> {
        if self.shut_down {
            return Err(Denied::ShutDown);
        }
        if self.is_full() {
            return Err(Denied::NotNow);
        }
        self.slots += 1;
        Ok(Slot(()))
    }

    /// The item is in the store.
    #[inline]
    pub fn put_done(&mut self, slot: Slot) -> Wakes<W> {
        let Slot(()) = slot;
        self.slots -= 1;
        self.stored += 1;
        self.unfinished += 1;
        self.settle()
    }

    /// The item could not be stored: its place goes to the next in line.
    pub fn put_failed(&mut self, slot: Slot) -> Wakes<W> {
        let Slot(()) = slot;
        self.slots -= 1;
        self.settle()
    }

    /// Joins the line of putters, after [`try_put`](Self::try_put) said [`Denied::NotNow`].
    pub fn wait_put(&mut self, waker: W) -> Ticket {
        self.putters.join(1, waker)
    }

    /// A putter runs again.
    pub fn resume_put(&mut self, ticket: Ticket) -> Turn<Slot> {
        match self.putters.resume(ticket) {
            Resumed::Granted(_) => {
                self.slots += 1;
                Turn::Yours(Slot(()))
            }
            Resumed::Refused => Turn::ShutDown,
            Resumed::Waiting => Turn::NotYet,
        }
    }

    /// A putter was cancelled, closed or dropped, before or after it was woken: it has not enqueued.
    pub fn leave_put(&mut self, ticket: Ticket) -> Wakes<W> {
        match self.putters.leave(ticket) {
            Left::Reservation(_) => self.settle(),
            Left::Place(_) | Left::Nothing => Wakes::default(),
        }
    }

    // --- get -----------------------------------------------------------------------------------------------------

    /// A claim on one item for a newcomer, if that overtakes nobody.
    ///
    /// # Errors
    /// Says whether waiting can help. After a shutdown it can as long as items are stored that others were promised:
    /// those others may be cancelled.
    #[inline]
    pub fn try_get(&mut self) -> Result<Claim, Denied> {
        if self.available() > 0 {
            self.claims += 1;
            Ok(Claim(()))
        } else if self.is_drained() {
            Err(Denied::ShutDown)
        } else {
            Err(Denied::NotNow)
        }
    }

    /// The item is out of the store.
    #[inline]
    pub fn get_done(&mut self, claim: Claim) -> Wakes<W> {
        let Claim(()) = claim;
        self.claims -= 1;
        self.stored = self.stored.saturating_sub(1);
        self.settle()
    }

    /// The item could not be taken and is still in the store: it goes to the next in line.
    pub fn get_failed(&mut self, claim: Claim) -> Wakes<W> {
        let Claim(()) = claim;
        self.claims -= 1;
        self.settle()
    }

    /// Joins the line of getters, after [`try_get`](Self::try_get) said [`Denied::NotNow`].
    pub fn wait_get(&mut self, waker: W) -> Ticket {
        self.getters.join(1, waker)
    }

    /// A getter runs again.
    pub fn resume_get(&mut self, ticket: Ticket) -> Turn<Claim> {
        if self.getters.granted_weight(ticket).is_some() && self.stored <= self.claims {
            return Turn::NotYet;
        }
        match self.getters.resume(ticket) {
            Resumed::Granted(_) => {
                self.claims += 1;
                Turn::Yours(Claim(()))
            }
            Resumed::Refused => Turn::ShutDown,
            Resumed::Waiting => Turn::NotYet,
        }
    }

    /// A getter that was woken for an item the store turned out not to hold goes back to the front of the line.
    ///
    /// # Errors
    /// Gives the waker back when the ticket was not woken: it still stands where it stood.
    pub fn get_again(&mut self, ticket: Ticket, waker: W) -> Result<Wakes<W>, W> {
        self.getters.rejoin_front(ticket, waker)?;
        Ok(self.settle())
    }

    /// A getter was cancelled, closed or dropped, before or after it was woken: it has not removed anything.
    pub fn leave_get(&mut self, ticket: Ticket) -> Wakes<W> {
        match self.getters.leave(ticket) {
            Left::Reservation(_) => self.settle(),
            Left::Place(_) | Left::Nothing => Wakes::default(),
        }
    }

    // --- stores that keep their own count --------------------------------------------------------------------------

    /// Ends a put into a store that may drop, merge or invent items: it holds `stored` items now. `done` is whether the
    /// store took the put (then there is work to do for it, merged or not).
    pub fn put_counted(&mut self, slot: Slot, done: bool, stored: usize) -> Wakes<W> {
        let Slot(()) = slot;
        self.slots -= 1;
        self.stored = stored;
        self.unfinished += usize::from(done);
        self.settle()
    }

    /// Ends a get, whatever came of it, from a store that keeps its own count: it holds `stored` items now.
    pub fn get_counted(&mut self, claim: Claim, stored: usize) -> Wakes<W> {
        let Claim(()) = claim;
        self.claims -= 1;
        self.stored = stored;
        self.settle()
    }

    // --- join ----------------------------------------------------------------------------------------------------

    /// The work on one item is done.
    ///
    /// # Errors
    /// When nothing is unfinished.
    pub fn task_done(&mut self) -> Result<Wakes<W>, DoneTooOften> {
        self.unfinished = self.unfinished.checked_sub(1).ok_or(DoneTooOften)?;
        Ok(self.finish())
    }

    /// Joins the line of joiners, if anything is unfinished.
    ///
    /// # Errors
    /// Gives the waker back when there is nothing to wait for.
    pub fn wait_join(&mut self, waker: W) -> Result<Ticket, W> {
        if self.unfinished == 0 { Err(waker) } else { Ok(self.joiners.join(1, waker)) }
    }

    /// A joiner runs again. It was woken at the moment at which nothing was unfinished; later puts are not its.
    pub fn resume_join(&mut self, ticket: Ticket) -> Turn<()> {
        match self.joiners.resume(ticket) {
            Resumed::Granted(_) => Turn::Yours(()),
            Resumed::Refused => Turn::ShutDown,
            Resumed::Waiting => Turn::NotYet,
        }
    }

    /// A joiner was cancelled, closed or dropped.
    pub fn leave_join(&mut self, ticket: Ticket) {
        self.joiners.leave(ticket);
    }

    // --- shutdown ------------------------------------------------------------------------------------------------

    /// No put succeeds any more, waiting and woken putters included; gets do until the store is drained, which
    /// `immediate` does at once: what was promised to woken getters is gone then, and each drained item counts as done.
    ///
    /// A getter in line is refused as soon as nothing can come any more: at once, unless items are stored that are
    /// promised to woken getters, which may yet be cancelled.
    pub fn shutdown(&mut self, immediate: bool) -> Shutdown<W> {
        self.shut_down = true;
        let mut drain = 0;
        let mut wakes = Wakes::default();
        if immediate {
            drain = self.stored - self.claims.min(self.stored);
            self.stored -= drain;
            self.unfinished = self.unfinished.saturating_sub(drain);
            self.getters.revoke_all();
            if drain > 0 {
                wakes = self.finish();
            }
        }
        self.putters.revoke_all();
        wakes.extend(self.settle());
        wakes.extend(self.putters.refuse_all());
        Shutdown { drain, wakes }
    }

    /// Shut down, and nothing stored or about to be.
    #[inline]
    fn is_drained(&self) -> bool {
        self.shut_down && self.stored == 0 && self.slots == 0
    }

    /// Serves both lines from what is there. Every event that frees or adds something ends here.
    #[inline]
    fn settle(&mut self) -> Wakes<W> {
        if self.is_contended() { self.serve() } else { Wakes::default() }
    }

    fn serve(&mut self) -> Wakes<W> {
        let mut wakes = Wakes::default();
        if self.getters.waiting() > 0 {
            while self.available() > 0
                && let Some(waker) = self.getters.grant_front()
            {
                wakes.push(waker);
            }
            if self.is_drained() {
                wakes.extend(self.getters.refuse_all());
            }
        }
        if self.putters.waiting() > 0 && !self.shut_down {
            while !self.is_full()
                && let Some(waker) = self.putters.grant_front()
            {
                wakes.push(waker);
            }
        }
        wakes
    }

    /// Wakes the joiners once nothing is unfinished.
    fn finish(&mut self) -> Wakes<W> {
        if self.unfinished == 0 { self.joiners.grant_while(|_| true) } else { Wakes::default() }
    }
}
