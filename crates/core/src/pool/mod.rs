//! The ledger of a pool: which connections there are, what each is doing, who waits, and what happens next.
//!
//! One machine for a pool of equal connections (one key, the pinned one) and for a pool over many keys. What happens
//! outside is an event (a method of [`Ledger`]); what has to happen is an [`Action`]. Nothing is opened, checked, reset
//! or closed here, and no time passes but by [`Ledger::tick`].
//!
//! ```text
//! try_acquire ──> a connection, or: wait ──(Wake)──> resume ──> Got | Refused          leave: at any time between
//! Connect ──> connected | connect_failed    Check ──> checked    Reset ──> reset    Close ──> closed
//! try_release, or: release ──> (Reset | Close | Wake of the next)
//! ```
//!
//! **Room.** No more than `max_size + burst` connections exist, no more than `max_per_key` of a key, and one that is
//! being closed still counts. After a `resize` to less the pool shrinks as they come back; it never grows above.
//!
//! **Supply.** Connects, checks and resets belong to the pool and to no waiter: whoever is first in line when one
//! succeeds gets it, and a waiter that leaves stops none. While more wait than are on their way, the next comes from
//! what is idle (checked first when it was idle for longer than `check_after`, and fresh ones first), else from a
//! connect if there is room, else the connection of another key that is idle for longest is closed to make room. Nobody
//! waits for a connect alone while an idle connection could be checked.
//!
//! **The line.** First in, first out for each key. What a waiter was granted and leaves behind goes to the next in the
//! same event, without a reset: nobody used it. A deadline ends a wait that was not granted, never one that was.
//!
//! **Between keys.** Keys that need room stand in a line of their own and are given it in turn. A connection that comes
//! back to a key whose own line waits is closed for another key if that one has two fewer, or has none and has waited
//! longer. Shares of an open connection take no room, so they are never held back for other keys.
//!
//! **Failed connects.** One failure leaves the line waiting as long as the key has something else to hope for: an open
//! connection, or another connect on its way. The second in a row, or the first without such hope, is everybody's
//! answer. Then there is no connect before a time drawn from `0..min(retry_max, retry_base * 2^n)`, and only one at a
//! time until one succeeds: a thousand waiters are not a thousand connects. Connects that were on their way together
//! count once in *n*. A connect that takes too long is a failed one.
//!
//! **Hooks that hang.** A hook over its time is aborted, its connection is written off in the same event, its room is
//! free at once, and what the hook answers later is not heard.
//!
//! **Lists, not searches.** Handing an idle connection out and taking it back moves it between two lists and touches
//! no heap and no allocator. Every other event is O(log n) for its timers and O(1) for the rest.

use clockwork::Timer;
use conns::{AGE, Entry, Tally};
use keys::{BLOCKED, Key, PINNED};
use line::{Outcome, Wait};
use list::List;

use crate::deadlines::Deadlines;
use crate::rng::Rng;
use crate::slab::Slab;

pub use action::{Action, Actions, Condition, Phase, Refusal, Resumed};
pub use config::{Config, Order};
pub use counts::Counts;
pub use states::{Cause, State, TRANSITIONS, Transition, mermaid};

mod action;
mod audit;
mod clockwork;
mod config;
mod conns;
mod counts;
mod ids;
mod keys;
mod line;
mod list;
mod states;
mod supply;

/// A connection. Stale ones are recognised: no event about one has any effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conn {
    index: u32,
    serial: u32,
}

/// A key. Stale ones are recognised: see [`Ledger::knows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId {
    index: u32,
    serial: u32,
}

/// A waiter's place. Stale ones are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    index: u32,
    serial: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Ledger<W, E> {
    config: Config,
    conns: Slab<Entry>,
    keys: Slab<Key>,
    waits: Slab<Wait<W, E>>,
    timers: Deadlines<Timer>,
    /// Connections by state.
    tally: Tally,
    /// Waiters in all lines.
    waiting: usize,
    idle_by_age: List<AGE>,
    /// Those that were not reported as leaks yet. Empty without `leak_after`.
    used_by_age: List<AGE>,
    /// Keys that need room, in line.
    blocked: List<BLOCKED>,
    /// How many connects they need.
    wanted: usize,
    draining: bool,
    drained: bool,
    /// Of the newest connection or key.
    serial: u32,
    /// Of the newest waiter.
    arrivals: u64,
    /// What the caller's timer is set for.
    armed: f64,
    totals: Counts,
    rng: Rng,
}

impl<W, E: Clone> Ledger<W, E> {
    /// An empty ledger. Its first event of any kind opens `min_size` connections of the pinned key.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut keys = Slab::default();
        let pinned = keys.insert(Key::new(0));
        debug_assert_eq!(pinned, PINNED);
        Self {
            rng: Rng::new(config.seed),
            config,
            conns: Slab::default(),
            keys,
            waits: Slab::default(),
            timers: Deadlines::default(),
            tally: Tally::default(),
            waiting: 0,
            idle_by_age: List::default(),
            used_by_age: List::default(),
            blocked: List::default(),
            wanted: 0,
            draining: false,
            drained: false,
            serial: 0,
            arrivals: 0,
            armed: f64::INFINITY,
            totals: Counts::default(),
        }
    }

    // --- keys ---------------------------------------------------------------------------------------------------------

    /// The key that is never forgotten.
    #[must_use]
    pub fn pinned(&self) -> KeyId {
        KeyId { index: PINNED, serial: 0 }
    }

    /// A new key. It is forgotten when nothing refers to it any more, which is looked at after each event about it; so
    /// make one only to [`wait`](Self::wait) for it.
    pub fn key(&mut self) -> KeyId {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        KeyId { index: self.keys.insert(Key::new(serial)), serial }
    }

    /// Whether this key has not been forgotten.
    #[must_use]
    #[inline]
    pub fn knows(&self, key: KeyId) -> bool {
        self.keys.get(key.index).is_some_and(|entry| entry.serial == key.serial)
    }

    // --- users --------------------------------------------------------------------------------------------------------

    /// The fast way in: an idle connection that needs no check, or a share of one, if nobody waits for this key.
    #[inline]
    pub fn try_acquire(&mut self, key: KeyId, now: f64) -> Option<Conn> {
        if self.draining || !self.knows(key) || self.keys[key.index].line.waiting() > 0 {
            return None;
        }
        let supply::Pick::Fresh(index) = self.pick(key.index, now) else { return None };
        self.hand_out(index, now);
        self.totals.acquired += 1;
        Some(self.conn(index))
    }

    /// Joins the line of the key, which can mean to be woken at once: the actions then hold the newcomer's own waker.
    ///
    /// # Errors
    /// [`Refusal::Closed`] while draining, [`Refusal::TooManyWaiting`].
    ///
    /// # Panics
    /// If the key was forgotten, or the deadline is NaN.
    pub fn wait(
        &mut self,
        key: KeyId,
        deadline: f64,
        now: f64,
        waker: W,
        out: &mut Actions<W>,
    ) -> Result<Ticket, Refusal<E>> {
        assert!(self.knows(key), "this key was forgotten");
        assert!(!deadline.is_nan(), "a deadline at NaN");
        let key = key.index;
        if let Some(refusal) = self.turns_away(key, now) {
            self.totals.refused += 1;
            self.forget_unused(key, out);
            return Err(refusal);
        }
        self.arrivals += 1;
        let arrival = self.arrivals;
        let outcome = Outcome::InLine(waker);
        let id = self.waits.insert(Wait { arrival, key, since: now, place: None, timer: None, outcome });
        let place = self.keys[key].line.join(1, id);
        let timer = (deadline != f64::INFINITY).then(|| self.timers.insert(deadline, Timer::Wait(id)));
        (self.waits[id].place, self.waits[id].timer) = (Some(place), timer);
        self.waiting += 1;
        self.totals.waited += 1;
        self.after(key, now, out);
        Ok(Ticket { index: id, serial: arrival })
    }

    fn turns_away(&self, key: u32, now: f64) -> Option<Refusal<E>> {
        if self.draining {
            return Some(Refusal::Closed);
        }
        let full = self.config.max_waiting.is_some_and(|most| self.waiting >= most);
        (full && !self.has_supply_for_one_more(key, now)).then_some(Refusal::TooManyWaiting { waiting: self.waiting })
    }

    /// A woken waiter runs: this is the transfer. Unless it is still [`Resumed::Waiting`], its ticket is used up.
    pub fn resume(&mut self, ticket: Ticket) -> Resumed<E> {
        let Some(id) = self.find_wait(ticket) else { return Resumed::Refused(Refusal::Closed) };
        if matches!(self.waits[id].outcome, Outcome::InLine(_)) {
            return Resumed::Waiting;
        }
        let (wait, _) = self.waits.remove(id);
        match wait.outcome {
            Outcome::Granted(conn) => {
                self.keys[wait.key].line.resume(wait.place.expect("it stood in line"));
                self.totals.acquired += 1;
                Resumed::Got(conn)
            }
            Outcome::Refused(refusal) => Resumed::Refused(refusal),
            Outcome::InLine(_) => unreachable!("looked at above"),
        }
    }

    /// A waiter was cancelled, closed or dropped, in line or woken. What it had been granted goes to the next.
    pub fn leave(&mut self, ticket: Ticket, now: f64, out: &mut Actions<W>) {
        let Some(id) = self.find_wait(ticket) else { return };
        let (wait, _) = self.waits.remove(id);
        let place = wait.place.expect("it stood in line");
        match wait.outcome {
            Outcome::InLine(_) => {
                self.keys[wait.key].line.leave(place);
                self.waiting -= 1;
                if let Some(timer) = wait.timer {
                    self.timers.remove(timer);
                }
            }
            Outcome::Granted(conn) => {
                self.keys[wait.key].line.leave(place);
                if self.take_back(conn.index) {
                    self.arrive(conn.index, now, out);
                }
            }
            Outcome::Refused(_) => return,
        }
        self.after(wait.key, now, out);
    }

    /// The fast way out: a clean connection comes back, and that needs nothing to be done. Otherwise false, and nothing
    /// has happened: [`release`](Self::release).
    #[inline]
    pub fn try_release(&mut self, conn: Conn, now: f64) -> bool {
        let Some(index) = self.find(conn, State::InUse) else { return false };
        let entry = &self.conns[index];
        let plain = entry.doomed.is_none()
            && entry.expires > now
            && (!self.config.resets || self.config.shared())
            && !self.draining
            && self.wanted == 0
            && self.tally.held() <= self.config.max_size
            && self.keys[entry.key].line.waiting() == 0;
        if plain && self.take_back(index) {
            self.shift(index, Cause::Ready, State::Idle, now);
        }
        plain
    }

    /// A user gives a connection back. Returns false when it is not in use, or is none of this ledger any more.
    pub fn release(&mut self, conn: Conn, condition: Condition, now: f64, out: &mut Actions<W>) -> bool {
        let Some(index) = self.find(conn, State::InUse) else { return false };
        let key = self.conns[index].key;
        if condition == Condition::Broken {
            self.doom(index, Cause::Failed);
        }
        if self.take_back(index) {
            let exclusive = !self.config.shared();
            if self.config.resets && exclusive && self.doom_of(index, now).is_none() {
                self.clean(index, now, out);
            } else {
                if condition == Condition::Dirty && exclusive {
                    self.doom(index, Cause::Failed);
                }
                self.arrive(index, now, out);
            }
        }
        self.after(key, now, out);
        true
    }

    // --- answers to actions -------------------------------------------------------------------------------------------

    /// The connect succeeded. False: it was given up meanwhile, and whoever has the connection closes it.
    #[must_use]
    pub fn connected(&mut self, conn: Conn, now: f64, out: &mut Actions<W>) -> bool {
        let Some(index) = self.find(conn, State::Opening) else { return false };
        let key = self.conns[index].key;
        self.totals.opened += 1;
        self.forgive(key);
        self.limit_life(index, now);
        self.arrive(index, now, out);
        self.after(key, now, out);
        true
    }

    /// The connect failed with this.
    #[allow(clippy::needless_pass_by_value, reason = "whoever reports an error has no more use for it")]
    pub fn connect_failed(&mut self, conn: Conn, error: E, now: f64, out: &mut Actions<W>) {
        let Some(index) = self.find(conn, State::Opening) else { return };
        let (key, wave) = (self.conns[index].key, self.conns[index].wave);
        self.remove(index, Cause::Failed);
        self.totals.connect_failures += 1;
        self.connect_lost(key, wave, Some(&error), now, out);
        self.after(key, now, out);
    }

    /// The check passed, or failed.
    pub fn checked(&mut self, conn: Conn, ok: bool, now: f64, out: &mut Actions<W>) {
        let Some(index) = self.find(conn, State::Checking) else { return };
        self.totals.check_failures += u64::from(!ok);
        self.hook_ended(index, ok, now, out);
    }

    /// The reset is done, or failed.
    pub fn reset(&mut self, conn: Conn, ok: bool, now: f64, out: &mut Actions<W>) {
        let Some(index) = self.find(conn, State::Resetting) else { return };
        self.totals.reset_failures += u64::from(!ok);
        self.hook_ended(index, ok, now, out);
    }

    fn hook_ended(&mut self, index: u32, ok: bool, now: f64, out: &mut Actions<W>) {
        let key = self.conns[index].key;
        let swept = self.conns[index].swept.take();
        if ok {
            self.arrive(index, now, out);
            if let Some(idle_from) = swept
                && self.conns[index].state == State::Idle
            {
                self.idle_since(index, idle_from);
            }
        } else {
            self.close(index, Cause::Failed, now, out);
        }
        self.after(key, now, out);
    }

    /// The close has come to an end, well or not.
    pub fn closed(&mut self, conn: Conn, ok: bool, now: f64, out: &mut Actions<W>) {
        let Some(index) = self.find(conn, State::Closing) else { return };
        let key = self.conns[index].key;
        self.remove(index, Cause::Closed);
        self.totals.closed += 1;
        self.totals.close_failures += u64::from(!ok);
        self.after(key, now, out);
    }

    // --- time ---------------------------------------------------------------------------------------------------------

    /// Time has passed.
    pub fn tick(&mut self, now: f64, out: &mut Actions<W>) {
        self.armed = f64::INFINITY;
        self.run_timers(now, out);
        self.after(PINNED, now, out);
    }

    /// The earliest time at which a tick can have something to do.
    #[must_use]
    pub fn wake_at(&self) -> Option<f64> {
        let at = self.earliest();
        (at != f64::INFINITY).then_some(at)
    }

    /// Asked after each event: when the caller's timer has to go off, if that is earlier than what this told before (it
    /// counts as set, until the next [`tick`](Self::tick)). It never asks for a timer to be moved back: one that goes
    /// off too early costs less than one that is moved with each use.
    #[inline]
    pub fn alarm(&mut self) -> Option<f64> {
        let at = self.earliest();
        (at < self.armed).then(|| {
            self.armed = at;
            at
        })
    }

    /// Whether a [`try_release`](Self::try_release) at this time asks for no [`alarm`](Self::alarm).
    #[inline]
    #[must_use]
    pub fn is_quiet(&self, now: f64) -> bool {
        self.armed <= now + self.config.max_idle
    }

    // --- the whole pool -----------------------------------------------------------------------------------------------

    /// Other limits. What is too many goes when it is idle, or comes back.
    pub fn resize(&mut self, max_size: usize, burst: usize, min_size: usize, now: f64, out: &mut Actions<W>) {
        (self.config.max_size, self.config.burst, self.config.min_size) = (max_size, burst, min_size);
        self.after(PINNED, now, out);
    }

    /// Every connection that there is now has to go: at once when it is idle, else when it comes back.
    pub fn expire_all(&mut self, now: f64, out: &mut Actions<W>) {
        for index in self.conns.indices().collect::<Vec<_>>() {
            match self.conns[index].state {
                State::Idle => self.close(index, Cause::Expired, now, out),
                State::Closing => {}
                _ => self.doom(index, Cause::Expired),
            }
        }
        self.after_all(now, out);
    }

    /// Every idle connection is checked, however short its time to be idle was. One that passes while nobody waits is
    /// idle again for as long as it was: a sweep now and then keeps no connection alive.
    pub fn check_idle(&mut self, now: f64, out: &mut Actions<W>) {
        if !self.config.checks {
            return;
        }
        for index in self.idle_by_age.walk(&self.conns, false).collect::<Vec<_>>() {
            self.conns[index].swept = Some(self.conns[index].idle_from);
            self.check(index, Cause::Swept, now, out);
        }
        self.balance(now, out);
    }

    /// A connection has ended by itself: it is closed, at once when it is idle, else when it comes back. Returns false
    /// when it was not open.
    pub fn lost(&mut self, conn: Conn, now: f64, out: &mut Actions<W>) -> bool {
        match self.state(conn) {
            None | Some(State::Opening | State::Closing) => return false,
            Some(State::Idle) => self.close(conn.index, Cause::Failed, now, out),
            Some(State::Checking | State::InUse | State::Resetting) => self.doom(conn.index, Cause::Failed),
        }
        self.after(self.conns[conn.index].key, now, out);
        true
    }

    /// No newcomer is let in any more; the line is still served. [`Action::Drained`] comes when nobody waits and
    /// nothing is open, and again when this is called after that.
    pub fn drain(&mut self, now: f64, out: &mut Actions<W>) {
        self.draining = true;
        self.drained = false;
        self.after_all(now, out);
    }

    /// The time to close is over: drains, refuses the line, aborts what is in use or being opened. What is being
    /// checked or reset is closed when that has come to its end, which its limit bounds.
    pub fn force(&mut self, now: f64, out: &mut Actions<W>) {
        self.draining = true;
        self.drained = false;
        for key in self.keys.indices().collect::<Vec<_>>() {
            while let Some(id) = self.first_in_line(key) {
                self.refuse(id, Refusal::Closed, out);
            }
        }
        for id in self.waits.indices().collect::<Vec<_>>() {
            self.revoke(id, now, out);
        }
        for index in self.conns.indices().collect::<Vec<_>>() {
            let phase = match self.conns[index].state {
                State::Idle => {
                    self.close(index, Cause::Drained, now, out);
                    continue;
                }
                State::Opening => Phase::Connect,
                State::InUse => Phase::Use,
                State::Checking | State::Resetting | State::Closing => continue,
            };
            match phase {
                Phase::Connect => self.totals.abandoned_connects += 1,
                _ => self.totals.abandoned += 1,
            }
            out.push(Action::Abort(self.conn(index), phase));
            self.remove(index, Cause::Abandoned);
        }
        self.after_all(now, out);
    }

    /// What was granted and not taken yet is taken back.
    fn revoke(&mut self, id: u32, now: f64, out: &mut Actions<W>) {
        let wait = &mut self.waits[id];
        let Outcome::Granted(conn) = wait.outcome else { return };
        wait.outcome = Outcome::Refused(Refusal::Closed);
        self.keys[wait.key].line.leave(wait.place.expect("it stood in line"));
        self.totals.refused += 1;
        if self.take_back(conn.index) {
            self.arrive(conn.index, now, out);
        }
    }

    /// Forgets every connection, every waiter and every key but the pinned one, at once and without an action: this
    /// process, or this loop, is not theirs any more. Returns the connections, those on their way included.
    pub fn abandon_all(&mut self) -> Vec<Conn> {
        let conns: Vec<Conn> = self.conns.indices().map(|index| self.conn(index)).collect();
        let opening = self.tally.of(State::Opening) as u64;
        self.totals.abandoned_connects += opening;
        self.totals.abandoned += conns.len() as u64 - opening;
        let old = std::mem::replace(self, Self::new(self.config.clone()));
        self.serial = old.serial;
        self.arrivals = old.arrivals;
        self.totals = old.totals;
        self.rng = old.rng;
        (self.draining, self.drained) = (old.draining, old.drained);
        conns
    }

    // --- the books ----------------------------------------------------------------------------------------------------

    /// A picture of now, and totals.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            idle: self.tally.of(State::Idle),
            opening: self.tally.of(State::Opening),
            checking: self.tally.of(State::Checking),
            in_use: self.tally.of(State::InUse),
            resetting: self.tally.of(State::Resetting),
            closing: self.tally.of(State::Closing),
            waiting: self.waiting,
            keys: self.keys.len(),
            ..self.totals
        }
    }

    /// What a connection is doing; none: it is gone.
    #[must_use]
    pub fn state(&self, conn: Conn) -> Option<State> {
        let entry = self.conns.get(conn.index)?;
        (entry.serial == conn.serial).then_some(entry.state)
    }

    /// The wakers of those in line, in no particular order.
    pub fn wakers(&self) -> impl Iterator<Item = &W> {
        self.waits.indices().filter_map(|index| match &self.waits[index].outcome {
            Outcome::InLine(waker) => Some(waker),
            Outcome::Granted(_) | Outcome::Refused(_) => None,
        })
    }

    /// Whose connection it is.
    #[must_use]
    pub fn key_of(&self, conn: Conn) -> Option<KeyId> {
        self.state(conn).map(|_| self.key_id(self.conns[conn.index].key))
    }

    /// How many use a connection.
    #[must_use]
    pub fn users(&self, conn: Conn) -> u32 {
        self.state(conn).map_or(0, |_| self.conns[conn.index].users)
    }

    /// The limits, as they are now.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether newcomers are refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    fn after(&mut self, key: u32, now: f64, out: &mut Actions<W>) {
        self.settle(key, now, out);
        self.balance(now, out);
        self.forget_unused(key, out);
    }

    fn after_all(&mut self, now: f64, out: &mut Actions<W>) {
        for key in self.keys.indices().collect::<Vec<_>>() {
            self.settle(key, now, out);
            self.forget_unused(key, out);
        }
        self.balance(now, out);
    }
}
