//! Semaphore: weighted permits over a line of waiters. Lock and BoundedSemaphore are this machine too.
//!
//! Fair (the default): permits set free are reserved, in line order, for as long as the head of the line can be
//! served; newcomers take permits only when nobody stands in line or was woken and has yet to run, so a big request is
//! not starved by small ones and those who were first run first.
//!
//! Unfair: a freed permit is nobody's. The head of the line is *woken to try*; a newcomer may be faster, and then the
//! woken waiter goes back to the front. More throughput (the releaser may take the permit again without a turn of the
//! loop), no promise of order.
//!
//! Invariant, in both: `available + reserved (fair only) + held == permits`, whatever is cancelled when.

use crate::waiters::{Left, Resumed, Ticket, Waiters, Wakes};

/// What a woken waiter finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// The permits are its own.
    Yes,
    /// It was not woken, or (unfair) a newcomer was faster: [`Semaphore::wait_again`].
    No,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Semaphore<W> {
    /// Permits neither held nor reserved. Negative after a limit was lowered below what is held.
    available: i64,
    fair: bool,
    waiters: Waiters<W>,
}

impl<W> Semaphore<W> {
    /// A semaphore with `permits` to give.
    pub fn new(permits: i64, fair: bool) -> Self {
        Self { available: permits, fair, waiters: Waiters::default() }
    }

    /// Permits neither held nor reserved for a woken waiter; negative after a lowered limit.
    pub fn available(&self) -> i64 {
        self.available
    }

    /// Permits set aside for woken waiters that have not run yet: neither free nor anybody's to give back.
    pub fn reserved(&self) -> i64 {
        if self.fair { signed(self.waiters.reserved()) } else { 0 }
    }

    /// Waiters that stand in line or were woken and have not run yet.
    pub fn waiting(&self) -> usize {
        self.waiters.waiting() + self.waiters.granted()
    }

    /// Whether freed permits are reserved for waiters in the order of their arrival.
    pub fn is_fair(&self) -> bool {
        self.fair
    }

    /// The wakers in line, first to last.
    pub fn wakers(&self) -> impl Iterator<Item = &W> {
        self.waiters.wakers()
    }

    /// Whether `n` permits could be had without waiting, right now.
    pub fn would_block(&self, n: u64) -> bool {
        self.available < signed(n) || (self.fair && self.waiting() > 0)
    }

    /// Takes `n` permits if that needs no waiting and overtakes nobody (fair).
    pub fn try_acquire(&mut self, n: u64) -> bool {
        let free = !self.would_block(n);
        if free {
            self.available -= signed(n);
        }
        free
    }

    /// Joins the line, after [`try_acquire`](Self::try_acquire) said no. Whoever comes while permits are free and
    /// others, woken before, have yet to run is woken behind them: the wakes can hold the newcomer's own.
    pub fn wait(&mut self, n: u64, waker: W) -> (Ticket, Wakes<W>) {
        let ticket = self.waiters.join(n, waker);
        (ticket, if self.waiters.granted() > 0 { self.serve() } else { Wakes::default() })
    }

    /// A woken waiter runs: this is the transfer.
    pub fn resume(&mut self, ticket: Ticket) -> Acquired {
        if self.fair {
            return match self.waiters.resume(ticket) {
                Resumed::Granted(_) => Acquired::Yes,
                Resumed::Refused | Resumed::Waiting => Acquired::No,
            };
        }
        match self.waiters.granted_weight(ticket) {
            Some(n) if self.available >= signed(n) => {
                self.waiters.resume(ticket);
                self.available -= signed(n);
                Acquired::Yes
            }
            _ => Acquired::No,
        }
    }

    /// (Unfair) the woken waiter found nothing left and goes back to the front of the line.
    ///
    /// # Errors
    /// Gives the waker back when the ticket was not woken.
    pub fn wait_again(&mut self, ticket: Ticket, waker: W) -> Result<Wakes<W>, W> {
        self.waiters.rejoin_front(ticket, waker)?;
        Ok(self.serve())
    }

    /// The waiter was cancelled, closed or dropped, before or after it was woken.
    pub fn leave(&mut self, ticket: Ticket) -> Wakes<W> {
        if let Left::Reservation(n) = self.waiters.leave(ticket)
            && self.fair
        {
            self.available += signed(n);
        }
        self.serve()
    }

    /// `n` permits come back (or, above the initial number, into being).
    pub fn release(&mut self, n: u64) -> Wakes<W> {
        self.available += signed(n);
        self.serve()
    }

    /// The number of permits changes by `delta`; those held stay held.
    pub fn resize(&mut self, delta: i64) -> Wakes<W> {
        self.available += delta;
        self.serve()
    }

    fn serve(&mut self) -> Wakes<W> {
        let Self { available, fair, waiters } = self;
        if *fair {
            waiters.grant_while(|n| {
                let enough = *available >= signed(n);
                if enough {
                    *available -= signed(n);
                }
                enough
            })
        } else {
            let mut promised = signed(waiters.reserved());
            waiters.grant_while(|n| {
                promised = promised.saturating_add(signed(n));
                *available >= promised
            })
        }
    }
}

/// Weights come from the binding, which refuses anything that is not a sane number of permits.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
