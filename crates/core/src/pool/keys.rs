//! One key's entry: its connections, its line, and how its connects have gone lately. A key that nothing refers to is
//! forgotten.

use super::conns::{PLACE, Tally};
use super::list::{Link, Linked, List};
use super::{Action, Actions, KeyId, Ledger, State};
use crate::deadlines;
use crate::waiters::Waiters;

/// The line of keys that wait for room.
pub(super) const BLOCKED: usize = 2;

/// The index and the serial of the key that is never forgotten.
pub(super) const PINNED: u32 = 0;

#[derive(Debug)]
pub(super) struct Key {
    pub(super) serial: u32,
    pub(super) tally: Tally,
    /// Idle connections, the one used last at the end; and shared ones with a place left.
    pub(super) available: List<PLACE>,
    /// The numbers of those who wait.
    pub(super) line: Waiters<u32>,
    /// How many connects it would start if there was room.
    pub(super) need: usize,
    pub(super) blocked: Link,
    /// Failed connects in a row.
    pub(super) failures: u32,
    /// Of those, how many made the time to the next attempt longer. Connects that were on their way together count
    /// once.
    pub(super) setbacks: u32,
    pub(super) wave: u32,
    /// No connect before this time.
    pub(super) not_before: f64,
    pub(super) retry: Option<deadlines::Key>,
}

impl Linked<BLOCKED> for Key {
    fn link(&self) -> Link {
        self.blocked
    }
    fn link_mut(&mut self) -> &mut Link {
        &mut self.blocked
    }
}

impl Key {
    pub(super) fn new(serial: u32) -> Self {
        Self {
            serial,
            tally: Tally::default(),
            available: List::default(),
            line: Waiters::default(),
            need: 0,
            blocked: Link::default(),
            failures: 0,
            setbacks: 0,
            wave: 0,
            not_before: f64::NEG_INFINITY,
            retry: None,
        }
    }

    /// Whether its connects have to wait: for the time of the next attempt, or for how the last one goes.
    pub(super) fn holds_back(&self, now: f64) -> bool {
        self.failures > 0 && (now < self.not_before || self.tally.of(State::Opening) > 0)
    }
}

impl<W, E: Clone> Ledger<W, E> {
    pub(super) fn key_id(&self, index: u32) -> KeyId {
        KeyId { index, serial: self.keys[index].serial }
    }

    /// Removes a key that has no connection, no waiter and no failures to remember.
    pub(super) fn forget_unused(&mut self, index: u32, out: &mut Actions<W>) {
        let key = &self.keys[index];
        let remembers = key.failures > 0 && !self.draining;
        if index == PINNED || remembers || key.tally.held() > 0 || key.line.waiting() > 0 {
            return;
        }
        debug_assert!(key.line.granted() == 0 && key.available.is_empty() && !key.blocked.is_linked());
        out.push(Action::Forget(self.key_id(index)));
        let (key, _) = self.keys.remove(index);
        if let Some(retry) = key.retry {
            self.timers.remove(retry);
        }
    }
}
