//! Where the next connection comes from: what is idle, a check, a connect, another key's idle one; and what is closed
//! because it is too many, too old or in the way.

use super::keys::{Key, PINNED};
use super::{Action, Actions, Cause, Ledger, Order, Phase, Refusal, State};

/// What one key has at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    /// To be handed out as it is.
    Fresh(u32),
    /// To be checked first.
    Stale(u32),
    /// Past its lifetime.
    Old(u32),
    Nothing,
}

impl<W, E: Clone> Ledger<W, E> {
    /// What to hand out next. A fresh one comes first, so that nobody waits for a check beside it.
    #[inline]
    pub(super) fn pick(&self, key: u32, now: f64) -> Pick {
        let lifo = self.config.order == Order::Lifo;
        let mut stale = Pick::Nothing;
        for index in self.keys[key].available.walk(&self.conns, lifo) {
            let entry = &self.conns[index];
            if entry.expires <= now {
                return Pick::Old(index);
            }
            let unused = entry.state == State::Idle;
            if !(unused && self.config.checks && now - entry.since > self.config.check_after) {
                return Pick::Fresh(index);
            }
            if stale == Pick::Nothing {
                stale = Pick::Stale(index);
            }
            if lifo && !self.config.shared() {
                // The others are idle for longer still.
                break;
            }
        }
        stale
    }

    /// Whether more of this key's waiters wait than something is on its way for.
    fn is_short(&self, key: &Key, waiting: usize) -> bool {
        let in_flight = key.tally.in_flight();
        if self.config.shared() { waiting > 0 && in_flight == 0 } else { waiting > in_flight }
    }

    /// Whether more wait than will be served by what is open already. A connect on its way is no reason to leave an
    /// idle connection unchecked: it can take far longer than a check, or hang.
    fn wants_check(&self, key: &Key) -> bool {
        let in_flight = key.tally.of(State::Checking) + key.tally.of(State::Resetting);
        if self.config.shared() { in_flight == 0 } else { key.line.waiting() > in_flight }
    }

    /// How many connects this key needs, room aside.
    pub(super) fn connects_for(&self, key: u32, waiting: usize, now: f64) -> usize {
        let key = &self.keys[key];
        if !self.is_short(key, waiting) || key.holds_back(now) {
            return 0;
        }
        let one = self.config.shared() || key.failures > 0;
        let need = if one { 1 } else { waiting - key.tally.in_flight() };
        need.min(self.config.max_per_key.saturating_sub(key.tally.held()))
    }

    fn set_need(&mut self, key: u32, now: f64) {
        let need = self.connects_for(key, self.keys[key].line.waiting(), now);
        let entry = &mut self.keys[key];
        self.wanted = self.wanted - entry.need + need;
        entry.need = need;
        match (need > 0, entry.blocked.is_linked()) {
            (true, false) => self.blocked.push_back(&mut self.keys, key),
            (false, true) => self.blocked.remove(&mut self.keys, key),
            _ => {}
        }
    }

    /// Room that there is, or will be when what is closing is closed.
    pub(super) fn coming(&self) -> usize {
        self.config.cap().saturating_sub(self.tally.staying())
    }

    /// Whether a newcomer of this key would be served, or something could be started for it, at once.
    pub(super) fn has_supply_for_one_more(&self, key: u32, now: f64) -> bool {
        let entry = &self.keys[key];
        let waiting = entry.line.waiting();
        let shares = usize::try_from(self.config.max_shares).unwrap_or(usize::MAX);
        waiting < entry.tally.in_flight().saturating_mul(shares)
            || self.pick(key, now) != Pick::Nothing
            || (self.connects_for(key, waiting + 1, now) > entry.need
                && self.coming() + self.idle_by_age.len() > self.wanted)
    }

    /// A connection is open, clean and nobody's: it goes to the first in line, or is idle, or is closed.
    pub(super) fn arrive(&mut self, index: u32, now: f64, out: &mut Actions<W>) {
        if let Some(cause) = self.doom_of(index, now) {
            self.close(index, cause, now, out);
        } else if !self.config.shared() && self.keys[self.conns[index].key].line.waiting() > 0 {
            self.grant(index, now, out);
        } else {
            self.shift(index, Cause::Ready, State::Idle, now);
        }
    }

    /// Why a connection that comes back now has to be closed.
    pub(super) fn doom_of(&self, index: u32, now: f64) -> Option<Cause> {
        let entry = &self.conns[index];
        let fresh = entry.state == State::Opening;
        let wanted_here = self.keys[entry.key].line.waiting() > 0;
        if entry.doomed.is_some() {
            entry.doomed
        } else if entry.expires <= now {
            Some(Cause::Expired)
        } else if self.tally.staying() > self.config.cap() {
            Some(Cause::Surplus)
        } else if wanted_here {
            (!fresh && self.must_yield(entry.key)).then_some(Cause::Evicted)
        } else if self.draining {
            Some(Cause::Drained)
        } else if self.live_after(fresh) > self.config.max_size && self.config.burst_linger <= 0.0 {
            Some(Cause::Surplus)
        } else {
            (!fresh && self.wanted > self.coming()).then_some(Cause::Evicted)
        }
    }

    fn live_after(&self, fresh: bool) -> usize {
        self.tally.live() + usize::from(fresh)
    }

    /// Whether a connection of this key that comes back, and that somebody of its own waits for, is closed to make
    /// room for another key: for the first one in the line of keys for which no room is coming yet, if that key has
    /// two fewer, or has none and has waited longer.
    fn must_yield(&self, key: u32) -> bool {
        let mut others = self.blocked.walk(&self.keys, false).filter(|&other| other != key);
        let Some(other) = others.nth(self.coming()) else { return false };
        let (mine, theirs) = (self.keys[key].tally.staying(), self.keys[other].tally.staying());
        mine > theirs + 1 || (theirs == 0 && self.first_arrival(other) < self.first_arrival(key))
    }

    fn first_arrival(&self, key: u32) -> Option<u64> {
        self.first_in_line(key).map(|id| self.waits[id].arrival)
    }

    /// After any change to this key: serves its line from what is idle, starts checks, says how many connects it needs.
    pub(super) fn settle(&mut self, key: u32, now: f64, out: &mut Actions<W>) {
        while self.keys[key].line.waiting() > 0 {
            match self.pick(key, now) {
                Pick::Fresh(index) => self.grant(index, now, out),
                Pick::Old(index) if self.conns[index].state == State::Idle => {
                    self.close(index, Cause::Expired, now, out);
                }
                Pick::Old(index) => self.doom(index, Cause::Expired),
                Pick::Stale(index) if self.wants_check(&self.keys[key]) => {
                    self.check(index, Cause::Stale, now, out);
                }
                Pick::Stale(_) | Pick::Nothing => break,
            }
        }
        if self.draining && self.keys[key].line.waiting() == 0 {
            let idle = |&index: &u32| self.conns[index].state == State::Idle;
            let idle: Vec<u32> = self.keys[key].available.walk(&self.conns, false).filter(idle).collect();
            for index in idle {
                self.close(index, Cause::Drained, now, out);
            }
        }
        self.set_need(key, now);
    }

    /// After any change at all: gives room to the keys that wait for it, in turn; fills up to `min_size`; closes what
    /// is too many or in another key's way.
    pub(super) fn balance(&mut self, now: f64, out: &mut Actions<W>) {
        while self.tally.held() < self.config.cap()
            && let Some(key) = self.blocked.front()
        {
            self.open(key, now, out);
            self.blocked.remove(&mut self.keys, key);
            self.set_need(key, now);
        }
        while self.wants_refill(now) {
            self.open(PINNED, now, out);
        }
        while let Some(index) = self.idle_by_age.front()
            && self.is_surplus(index, now)
        {
            self.close(index, Cause::Surplus, now, out);
        }
        while self.wanted > self.coming()
            && let Some(index) = self.idle_by_age.front()
        {
            self.close(index, Cause::Evicted, now, out);
        }
        if self.draining && !self.drained && self.tally.held() == 0 && self.waiting == 0 {
            self.drained = true;
            // Nothing is left to wait for: no timer is, either.
            self.forgive(PINNED);
            out.push(Action::Drained);
        }
        self.debug_check();
    }

    fn wants_refill(&self, now: f64) -> bool {
        let key = &self.keys[PINNED];
        !self.draining
            && self.blocked.is_empty()
            && key.tally.staying() < self.config.min_size
            && self.tally.held() < self.config.max_size
            && key.tally.held() < self.config.max_per_key
            && !key.holds_back(now)
    }

    fn is_surplus(&self, index: u32, now: f64) -> bool {
        self.tally.staying() > self.config.cap()
            || (self.tally.live() > self.config.max_size
                && self.conns[index].idle_from + self.config.burst_linger <= now)
    }

    /// A connect failed (with an error), or took too long (without one).
    pub(super) fn connect_lost(&mut self, key: u32, wave: u32, error: Option<&E>, now: f64, out: &mut Actions<W>) {
        let entry = &mut self.keys[key];
        entry.failures = entry.failures.saturating_add(1);
        if wave == entry.wave || entry.setbacks == 0 {
            entry.wave = entry.wave.wrapping_add(1);
            let longest = self.config.retry_base * 2_f64.powi(entry.setbacks.min(64).cast_signed());
            entry.setbacks = entry.setbacks.saturating_add(1);
            entry.not_before = now + self.rng.unit() * longest.min(self.config.retry_max);
            self.set_retry(key, self.keys[key].not_before);
        }
        let entry = &self.keys[key];
        if entry.failures > 1 || entry.tally.staying() == 0 {
            while let Some(id) = self.first_in_line(key) {
                let refusal = match error {
                    Some(error) => Refusal::Failed(error.clone()),
                    None => Refusal::Timeout { phase: Phase::Connect, waited: now - self.waits[id].since },
                };
                self.refuse(id, refusal, out);
            }
        }
    }

    /// A connect succeeded: what failed before is forgiven.
    pub(super) fn forgive(&mut self, key: u32) {
        let entry = &mut self.keys[key];
        (entry.failures, entry.setbacks, entry.not_before) = (0, 0, f64::NEG_INFINITY);
        if let Some(retry) = entry.retry.take() {
            self.timers.remove(retry);
        }
    }
}
