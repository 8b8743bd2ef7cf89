//! What the ledger asks for and answers: the words between it and whoever carries its decisions out.

use super::{Conn, KeyId};

/// Where a time limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// In line: all connections were in use, and none came back.
    Wait,
    /// For a connect, or for the next attempt after failed ones.
    Connect,
    /// For the check of an idle connection.
    Check,
    /// For the reset after a use.
    Reset,
    /// In the hands of a user, when the time to close was over.
    Use,
    /// For the close.
    Close,
}

/// To be done outside. No action is a question: whatever comes of it is reported by an event.
#[derive(Debug, PartialEq)]
pub enum Action<W> {
    /// Open a connection of this key; then `connected` or `connect_failed`.
    Connect(Conn, KeyId),
    /// Find out whether it still works; then `checked`.
    Check(Conn),
    /// Make it as good as new; then `reset`.
    Reset(Conn),
    /// Close it; then `closed`, also when that failed.
    Close(Conn),
    /// Cancel what runs for it in this phase and cut the connection, without waiting. It is written off already: its
    /// room may be in use again, and no event about it is heard any more.
    Abort(Conn, Phase),
    /// Let this waiter run; it calls [`Ledger::resume`](super::Ledger::resume).
    Wake(W),
    /// Nothing refers to this key any more.
    Forget(KeyId),
    /// It is in use for this long. Told once for each use.
    Leak(Conn, f64),
    /// The ledger was told to drain, and nobody waits and nothing is open any more.
    Drained,
}

/// The actions of one event, in the order in which they have to be carried out. Made to be reused: once it has grown,
/// an event does not allocate.
#[derive(Debug)]
#[must_use = "an action that is not carried out is a connection that hangs in its state for ever"]
pub struct Actions<W>(Vec<Action<W>>);

impl<W> Default for Actions<W> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<W> Actions<W> {
    pub(super) fn push(&mut self, action: Action<W>) {
        self.0.push(action);
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes them all out and keeps the buffer.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Action<W>> {
        self.0.drain(..)
    }
}

/// Why a waiter gets nothing. `E` is what a connect failed with.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal<E> {
    /// Its deadline came, or (then the phase is `Connect`) the connect that everybody waited for took too long.
    Timeout {
        /// What would have served it.
        phase: Phase,
        /// For how long it stood in line.
        waited: f64,
    },
    /// The connect failed with this.
    Failed(E),
    /// The pool is closing or closed.
    Closed,
    /// There are `max_waiting` others.
    TooManyWaiting {
        /// How many wait.
        waiting: usize,
    },
}

/// What a woken waiter finds.
#[derive(Clone, Debug, PartialEq)]
pub enum Resumed<E> {
    /// The connection is its own now.
    Got(Conn),
    /// There is nothing to have.
    Refused(Refusal<E>),
    /// It was not woken: it still stands in line.
    Waiting,
}

/// How a user gives a connection back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Fit for the next user (after the reset, if there is one).
    Clean,
    /// Something was interrupted in it: reset it, or close it when there is no reset. A shared one stays as it is.
    Dirty,
    /// Close it.
    Broken,
}
