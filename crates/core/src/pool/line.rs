//! Those who wait. Order, reservation and departure are `waiters.rs`'s; here is what each waits for, until when, and
//! what it was given.

use super::{Action, Actions, Conn, Ledger, Phase, Refusal, State, Ticket};
use crate::deadlines;
use crate::waiters;

#[derive(Debug)]
pub(super) struct Wait<W, E> {
    /// The order of arrival in the whole pool; also what tells a stale ticket.
    pub(super) arrival: u64,
    pub(super) key: u32,
    pub(super) since: f64,
    pub(super) place: Option<waiters::Ticket>,
    pub(super) timer: Option<deadlines::Key>,
    pub(super) outcome: Outcome<W, E>,
}

#[derive(Debug)]
pub(super) enum Outcome<W, E> {
    InLine(W),
    Granted(Conn),
    Refused(Refusal<E>),
}

impl<W, E: Clone> Ledger<W, E> {
    pub(super) fn find_wait(&self, ticket: Ticket) -> Option<u32> {
        let wait = self.waits.get(ticket.index)?;
        (wait.arrival == ticket.serial).then_some(ticket.index)
    }

    /// Whoever stands first in a key's line.
    pub(super) fn first_in_line(&self, key: u32) -> Option<u32> {
        self.keys[key].line.wakers().next().copied()
    }

    /// Reserves a place in this connection for the first in line of its key.
    pub(super) fn grant(&mut self, index: u32, now: f64, out: &mut Actions<W>) {
        let key = self.conns[index].key;
        let id = self.keys[key].line.grant_front().expect("somebody waits");
        self.waiting -= 1;
        self.hand_out(index, now);
        let conn = self.conn(index);
        self.decide(id, Outcome::Granted(conn), out);
    }

    /// Takes a waiter out of the line with nothing.
    pub(super) fn refuse(&mut self, id: u32, refusal: Refusal<E>, out: &mut Actions<W>) {
        let (key, place) = (self.waits[id].key, self.waits[id].place.expect("it stands in line"));
        let left = self.keys[key].line.leave(place);
        debug_assert!(matches!(left, waiters::Left::Place(_)));
        self.waiting -= 1;
        match refusal {
            Refusal::Timeout { .. } => self.totals.timeouts += 1,
            _ => self.totals.refused += 1,
        }
        self.decide(id, Outcome::Refused(refusal), out);
    }

    fn decide(&mut self, id: u32, outcome: Outcome<W, E>, out: &mut Actions<W>) {
        let wait = &mut self.waits[id];
        if let Some(timer) = wait.timer.take() {
            self.timers.remove(timer);
        }
        if let Outcome::InLine(waker) = std::mem::replace(&mut wait.outcome, outcome) {
            out.push(Action::Wake(waker));
        }
    }

    /// What would have served this waiter.
    pub(super) fn phase_of(&self, id: u32) -> Phase {
        let key = &self.keys[self.waits[id].key];
        let (resetting, checking) = (key.tally.of(State::Resetting), key.tally.of(State::Checking));
        let in_flight = key.tally.in_flight();
        // A shared connection serves many, and there is one on its way at most.
        let place =
            if self.config.shared() { Some(0) } else { key.line.wakers().take(in_flight).position(|&w| w == id) };
        match place {
            Some(place) if place < resetting => Phase::Reset,
            Some(place) if place < resetting + checking => Phase::Check,
            Some(place) if place < in_flight => Phase::Connect,
            _ if key.failures > 0 && key.tally.staying() == 0 => Phase::Connect,
            _ => Phase::Wait,
        }
    }
}
