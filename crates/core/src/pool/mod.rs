//! The ledger of a pool: which connections there are, what each is doing, who waits, and what happens next.

#![allow(dead_code, unused_variables, clippy::needless_pass_by_value, reason = "the bodies follow")]

use std::marker::PhantomData;

pub use action::{Action, Actions, Condition, Phase, Refusal, Resumed};
pub use config::{Config, Order};
pub use counts::Counts;
pub use states::{Cause, State, TRANSITIONS, Transition, mermaid};

mod action;
mod config;
mod counts;
mod list;
mod states;

/// A connection. Stale ones are recognised: no event about one has any effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conn {
    index: u32,
    serial: u32,
}

/// A key. Stale ones are recognised: see [`Ledger::knows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId {
    index: u32,
    serial: u32,
}

/// A waiter's place. Stale ones are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    index: u32,
    serial: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Ledger<W, E> {
    config: Config,
    waker: PhantomData<(W, E)>,
}

impl<W, E: Clone> Ledger<W, E> {
    /// An empty ledger. The first [`tick`](Self::tick) opens `min_size` connections of the pinned key.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, waker: PhantomData }
    }
    /// The key that is never forgotten.
    #[must_use]
    pub fn pinned(&self) -> KeyId {
        unimplemented!()
    }
    /// A new key. It is forgotten once nothing refers to it any more after a [`wait`](Self::wait) for it.
    pub fn key(&mut self) -> KeyId {
        unimplemented!()
    }
    /// Whether this key has not been forgotten.
    #[must_use]
    pub fn knows(&self, key: KeyId) -> bool {
        unimplemented!()
    }
    /// An idle connection that needs no check (or a share of one), if nobody waits.
    pub fn try_acquire(&mut self, key: KeyId, now: f64) -> Option<Conn> {
        unimplemented!()
    }
    /// Joins the line of the key.
    ///
    /// # Errors
    /// `Closed`, `TooManyWaiting`.
    pub fn wait(
        &mut self,
        key: KeyId,
        deadline: f64,
        now: f64,
        waker: W,
        out: &mut Actions<W>,
    ) -> Result<Ticket, Refusal<E>> {
        unimplemented!()
    }
    /// A woken waiter runs.
    pub fn resume(&mut self, ticket: Ticket, now: f64) -> Resumed<E> {
        unimplemented!()
    }
    /// A waiter was cancelled, closed or dropped, in line or woken.
    pub fn leave(&mut self, ticket: Ticket, now: f64, out: &mut Actions<W>) {
        unimplemented!()
    }
    /// The connect succeeded.
    /// Returns false for a stale one: the caller closes it itself.
    pub fn connected(&mut self, conn: Conn, now: f64, out: &mut Actions<W>) -> bool {
        unimplemented!()
    }
    /// The connect failed.
    pub fn connect_failed(&mut self, conn: Conn, error: E, now: f64, out: &mut Actions<W>) {
        unimplemented!()
    }
    /// The check passed or failed.
    pub fn checked(&mut self, conn: Conn, ok: bool, now: f64, out: &mut Actions<W>) {
        unimplemented!()
    }
    /// The reset is done or failed.
    pub fn reset(&mut self, conn: Conn, ok: bool, now: f64, out: &mut Actions<W>) {
        unimplemented!()
    }
    /// The close has come to an end, well or not.
    pub fn closed(&mut self, conn: Conn, ok: bool, now: f64, out: &mut Actions<W>) {
        unimplemented!()
    }
    /// A user gives it back. Returns false for one that is stale or not in use.
    pub fn release(&mut self, conn: Conn, condition: Condition, now: f64, out: &mut Actions<W>) -> bool {
        unimplemented!()
    }
    /// A user gives a clean one back, if that needs no action.
    pub fn try_release(&mut self, conn: Conn, now: f64) -> bool {
        unimplemented!()
    }
    /// Time has come. Also the very first event of a ledger with a `min_size`.
    pub fn tick(&mut self, now: f64, out: &mut Actions<W>) {
        unimplemented!()
    }
    /// The earliest time at which a tick can have something to do.
    #[must_use]
    pub fn wake_at(&self) -> Option<f64> {
        unimplemented!()
    }
    /// When the timer has to be set anew: some time is due earlier than what this told before. It then counts as set,
    /// until the next tick.
    pub fn alarm(&mut self) -> Option<f64> {
        unimplemented!()
    }
    /// Other limits.
    pub fn resize(&mut self, max_size: usize, burst: usize, min_size: usize, now: f64, out: &mut Actions<W>) {
        unimplemented!()
    }
    /// Every connection that there is now is closed, those in use when they come back.
    pub fn expire_all(&mut self, now: f64, out: &mut Actions<W>) {
        unimplemented!()
    }
    /// No newcomer is let in any more; the line is still served.
    pub fn drain(&mut self, now: f64, out: &mut Actions<W>) {
        unimplemented!()
    }
    /// Drains; refuses the line, aborts what is in use or being opened, closes the rest.
    pub fn force(&mut self, now: f64, out: &mut Actions<W>) {
        unimplemented!()
    }
    /// Forgets every connection, waiter and key at once. Returns the connections.
    pub fn abandon_all(&mut self) -> Vec<Conn> {
        unimplemented!()
    }
    /// The books.
    #[must_use]
    pub fn counts(&self) -> Counts {
        unimplemented!()
    }
    /// What a connection is doing; none: it is stale.
    #[must_use]
    pub fn state(&self, conn: Conn) -> Option<State> {
        unimplemented!()
    }
    /// Whose connection it is.
    #[must_use]
    pub fn key_of(&self, conn: Conn) -> Option<KeyId> {
        unimplemented!()
    }
    /// Whether newcomers are refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        unimplemented!()
    }
}
