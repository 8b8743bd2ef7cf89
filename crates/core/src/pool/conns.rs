//! One connection's entry, and how it moves from state to state: the only place that counts.

use super::list::{Link, Linked};
use super::states::allowed;
use super::{Action, Actions, Cause, Conn, Ledger, State};
use crate::deadlines::Key;

/// Lists of connections of one key from which one can be had: idle, or shared with a place left.
pub(super) const PLACE: usize = 0;
/// Lists of connections in the order in which they came into their state: idle, or in use.
pub(super) const AGE: usize = 1;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) serial: u32,
    pub(super) key: u32,
    pub(super) state: State,
    /// It takes no new users, and is closed for this reason when it comes back.
    pub(super) doomed: Option<Cause>,
    /// The key's wave of connects to which this one belongs.
    pub(super) wave: u32,
    pub(super) users: u32,
    /// When it came into its state.
    pub(super) since: f64,
    /// From when on its time to be idle is counted.
    pub(super) idle_from: f64,
    /// The same, kept while it is checked in a sweep.
    pub(super) swept: Option<f64>,
    pub(super) expires: f64,
    pub(super) hook: Option<Key>,
    pub(super) life: Option<Key>,
    pub(super) place: Link,
    pub(super) age: Link,
}

impl Linked<PLACE> for Entry {
    fn link(&self) -> Link {
        self.place
    }
    fn link_mut(&mut self) -> &mut Link {
        &mut self.place
    }
}

impl Linked<AGE> for Entry {
    fn link(&self) -> Link {
        self.age
    }
    fn link_mut(&mut self) -> &mut Link {
        &mut self.age
    }
}

/// How many there are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally([usize; State::ALL.len()]);

impl Tally {
    #[inline]
    pub(super) fn of(self, state: State) -> usize {
        self.0[state as usize]
    }

    /// All that take room.
    #[inline]
    pub(super) fn held(self) -> usize {
        self.0.iter().sum()
    }

    /// All but those that are on their way out.
    #[inline]
    pub(super) fn staying(self) -> usize {
        self.held() - self.of(State::Closing)
    }

    /// Open, and not on their way out.
    #[inline]
    pub(super) fn live(self) -> usize {
        self.staying() - self.of(State::Opening)
    }

    /// On their way to somebody who waits.
    #[inline]
    pub(super) fn in_flight(self) -> usize {
        self.of(State::Opening) + self.of(State::Checking) + self.of(State::Resetting)
    }

    #[inline]
    pub(super) fn add(&mut self, state: State) {
        self.0[state as usize] += 1;
    }

    #[inline]
    pub(super) fn sub(&mut self, state: State) {
        self.0[state as usize] -= 1;
    }
}

impl<W, E: Clone> Ledger<W, E> {
    /// The entry of a connection that is in this state.
    #[inline]
    pub(super) fn find(&self, conn: Conn, state: State) -> Option<u32> {
        let entry = self.conns.get(conn.index)?;
        (entry.serial == conn.serial && entry.state == state).then_some(conn.index)
    }

    #[inline]
    pub(super) fn conn(&self, index: u32) -> Conn {
        Conn { index, serial: self.conns[index].serial }
    }

    /// A new connection, on its way.
    pub(super) fn open(&mut self, key: u32, now: f64, out: &mut Actions<W>) {
        debug_assert!(allowed(None, Cause::Wanted, Some(State::Opening)));
        self.serial = self.serial.wrapping_add(1);
        let index = self.conns.insert(Entry {
            serial: self.serial,
            key,
            state: State::Opening,
            doomed: None,
            wave: self.keys[key].wave,
            users: 0,
            since: now,
            idle_from: now,
            swept: None,
            expires: f64::INFINITY,
            hook: None,
            life: None,
            place: Link::default(),
            age: Link::default(),
        });
        self.tally.add(State::Opening);
        self.keys[key].tally.add(State::Opening);
        debug_assert!(self.tally.held() <= self.config.cap(), "above max_size + burst");
        debug_assert!(self.keys[key].tally.held() <= self.config.max_per_key, "above max_per_key");
        self.limit_hook(index, self.config.connect_timeout, now);
        out.push(Action::Connect(self.conn(index), self.key_id(key)));
    }

    pub(super) fn check(&mut self, index: u32, cause: Cause, now: f64, out: &mut Actions<W>) {
        self.shift(index, cause, State::Checking, now);
        self.limit_hook(index, self.config.hook_timeout, now);
        out.push(Action::Check(self.conn(index)));
    }

    pub(super) fn clean(&mut self, index: u32, now: f64, out: &mut Actions<W>) {
        self.shift(index, Cause::Used, State::Resetting, now);
        self.limit_hook(index, self.config.hook_timeout, now);
        out.push(Action::Reset(self.conn(index)));
    }

    pub(super) fn close(&mut self, index: u32, cause: Cause, now: f64, out: &mut Actions<W>) {
        match cause {
            Cause::Expired => self.totals.expired += 1,
            Cause::Evicted => self.totals.evicted += 1,
            _ => {}
        }
        self.shift(index, cause, State::Closing, now);
        if let Some(life) = self.conns[index].life.take() {
            self.timers.remove(life);
        }
        self.limit_hook(index, self.config.hook_timeout, now);
        out.push(Action::Close(self.conn(index)));
    }

    /// It takes no new users from here on.
    pub(super) fn doom(&mut self, index: u32, cause: Cause) {
        let entry = &mut self.conns[index];
        entry.doomed.get_or_insert(cause);
        if entry.state == State::InUse && entry.place.is_linked() {
            self.keys[entry.key].available.remove(&mut self.conns, index);
        }
    }

    /// One more user for it.
    #[inline]
    pub(super) fn hand_out(&mut self, index: u32, now: f64) {
        let shared = self.config.shared();
        if !shared || self.conns[index].state != State::InUse {
            self.shift(index, Cause::Acquired, State::InUse, now);
            self.conns[index].users = 1;
            return;
        }
        let entry = &mut self.conns[index];
        entry.users += 1;
        if entry.users == self.config.max_shares {
            self.keys[entry.key].available.remove(&mut self.conns, index);
        }
    }

    /// One user less. Returns whether it was the last.
    #[inline]
    pub(super) fn take_back(&mut self, index: u32) -> bool {
        let entry = &mut self.conns[index];
        entry.users -= 1;
        if entry.users > 0 && entry.doomed.is_none() && !entry.place.is_linked() {
            self.keys[entry.key].available.push_back(&mut self.conns, index);
        }
        self.conns[index].users == 0
    }

    /// From one state to another, or to the same anew.
    #[inline]
    pub(super) fn shift(&mut self, index: u32, cause: Cause, to: State, now: f64) {
        let Entry { state: from, key, hook, .. } = self.conns[index];
        debug_assert!(allowed(Some(from), cause, Some(to)), "{from:?} -{cause:?}-> {to:?} is not in the table");
        if let Some(hook) = hook {
            self.timers.remove(hook);
            self.conns[index].hook = None;
        }
        let shared = self.config.shared();
        self.unlink(index, shared && matches!(to, State::Idle | State::InUse));
        self.tally.sub(from);
        self.tally.add(to);
        let tally = &mut self.keys[key].tally;
        tally.sub(from);
        tally.add(to);
        let entry = &mut self.conns[index];
        entry.state = to;
        entry.since = now;
        match to {
            State::Idle => {
                entry.idle_from = now;
                self.idle_by_age.push_back(&mut self.conns, index);
            }
            State::InUse if !shared && self.config.leak_after.is_some() => {
                self.used_by_age.push_back(&mut self.conns, index);
            }
            _ => {}
        }
        let available = to == State::Idle || (shared && to == State::InUse);
        if available && !self.conns[index].place.is_linked() {
            self.keys[key].available.push_back(&mut self.conns, index);
        }
    }

    /// It is no more.
    pub(super) fn remove(&mut self, index: u32, cause: Cause) {
        self.unlink(index, false);
        let (entry, _) = self.conns.remove(index);
        debug_assert!(allowed(Some(entry.state), cause, None), "{:?} -{cause:?}-> nothing", entry.state);
        self.tally.sub(entry.state);
        self.keys[entry.key].tally.sub(entry.state);
        for timer in [entry.hook, entry.life].into_iter().flatten() {
            self.timers.remove(timer);
        }
    }

    #[inline]
    fn unlink(&mut self, index: u32, stays_available: bool) {
        let Entry { state, key, place, age, .. } = self.conns[index];
        if place.is_linked() && !stays_available {
            self.keys[key].available.remove(&mut self.conns, index);
        }
        if age.is_linked() {
            let list = if state == State::Idle { &mut self.idle_by_age } else { &mut self.used_by_age };
            list.remove(&mut self.conns, index);
        }
    }
}
