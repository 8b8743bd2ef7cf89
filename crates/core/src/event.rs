//! Event: a flag that lets everybody pass once it is set.
//!
//! `set` wakes all who stand in line, and a waiter that was woken passes even when the flag is cleared before it runs.

use crate::waiters::{Left, Resumed, Ticket, Waiters, Wakes};

/// See the module's documentation.
#[derive(Debug)]
pub struct Event<W> {
    set: bool,
    waiters: Waiters<W>,
}

impl<W> Default for Event<W> {
    fn default() -> Self {
        Self { set: false, waiters: Waiters::default() }
    }
}

impl<W> Event<W> {
    /// Whether the flag is set.
    pub fn is_set(&self) -> bool {
        self.set
    }

    /// Waiters that stand in line or were woken and have not run yet.
    pub fn waiting(&self) -> usize {
        self.waiters.waiting() + self.waiters.granted()
    }

    /// The wakers in line, first to last.
    pub fn wakers(&self) -> impl Iterator<Item = &W> {
        self.waiters.wakers()
    }

    /// Sets the flag.
    pub fn set(&mut self) -> Wakes<W> {
        self.set = true;
        self.waiters.grant_while(|_| true)
    }

    /// Clears the flag.
    pub fn clear(&mut self) {
        self.set = false;
    }

    /// Joins the line, after [`is_set`](Self::is_set) said no.
    pub fn wait(&mut self, waker: W) -> Ticket {
        self.waiters.join(1, waker)
    }

    /// A waiter runs; tells whether it may pass.
    pub fn resume(&mut self, ticket: Ticket) -> bool {
        matches!(self.waiters.resume(ticket), Resumed::Granted(_))
    }

    /// The waiter was cancelled, closed or dropped. Nobody else is affected.
    pub fn leave(&mut self, ticket: Ticket) {
        match self.waiters.leave(ticket) {
            Left::Place(_) | Left::Reservation(_) | Left::Nothing => {}
        }
    }
}
