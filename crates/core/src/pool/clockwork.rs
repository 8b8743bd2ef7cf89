//! Everything that happens because time has passed.
//!
//! Deadlines of waiters, of running hooks, lifetimes and the times of the next attempts stand in one heap. Idleness and
//! leaks do not: there the limit is the same for all, so the list by age is in the order of the deadlines already, and
//! handing a connection out and taking it back touches no heap.

use super::keys::PINNED;
use super::{Action, Actions, Cause, Ledger, Phase, Refusal, State};

/// What a deadline of the heap is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// A waiter's.
    Wait(u32),
    /// A running hook's; or the end of the idleness of a connection that was idle before a sweep already.
    Hook(u32),
    /// A connection's lifetime.
    Life(u32),
    /// A key's next attempt, then the end of its memory of failures.
    Retry(u32),
}

/// What is due and may stay all the same (an idle connection that `min_size` wants, the failures of a key that somebody
/// waits for) is looked at again after this time at least.
const LOOK_AGAIN: f64 = 1.0;

impl<W, E: Clone> Ledger<W, E> {
    pub(super) fn limit_hook(&mut self, index: u32, limit: f64, now: f64) {
        if limit.is_finite() {
            self.conns[index].hook = Some(self.timers.insert(now + limit, Timer::Hook(index)));
        }
    }

    /// A connection is idle again after a sweep. Its time counts from before the sweep, so it stands in the list by age
    /// out of turn, and gets a deadline of its own.
    pub(super) fn idle_since(&mut self, index: u32, idle_from: f64) {
        self.conns[index].idle_from = idle_from;
        if self.config.max_idle.is_finite() {
            self.conns[index].hook = Some(self.timers.insert(idle_from + self.config.max_idle, Timer::Hook(index)));
        }
    }

    pub(super) fn limit_life(&mut self, index: u32, now: f64) {
        let limit = self.config.max_lifetime * (1.0 - self.config.jitter * self.rng.unit());
        if limit.is_finite() {
            self.conns[index].expires = now + limit;
            self.conns[index].life = Some(self.timers.insert(now + limit, Timer::Life(index)));
        }
    }

    pub(super) fn set_retry(&mut self, key: u32, when: f64) {
        match self.keys[key].retry {
            Some(retry) => {
                self.timers.reschedule(retry, when);
            }
            None => self.keys[key].retry = Some(self.timers.insert(when, Timer::Retry(key))),
        }
    }

    /// When the connection that is idle for longest has to go, unless it is used before.
    fn idle_until(&self) -> Option<f64> {
        let first = self.idle_by_age.front()?;
        let surplus = self.tally.live() > self.config.max_size;
        let limit = if surplus { self.config.burst_linger.min(self.config.max_idle) } else { self.config.max_idle };
        Some(self.conns[first].idle_from + limit)
    }

    /// When the connection that is in use for longest is reported.
    fn used_until(&self) -> Option<f64> {
        let first = self.used_by_age.front()?;
        Some(self.conns[first].since + self.config.leak_after?)
    }

    pub(super) fn earliest(&self) -> f64 {
        let times = [self.timers.earliest(), self.idle_until(), self.used_until()];
        times.into_iter().flatten().fold(f64::INFINITY, f64::min)
    }

    pub(super) fn run_timers(&mut self, now: f64, out: &mut Actions<W>) {
        let due = self.timers.due(now);
        while let Some((_, timer)) = self.timers.pop_due(due) {
            let key = match timer {
                Timer::Wait(id) => self.wait_is_over(id, now, out),
                Timer::Hook(index) => self.hook_is_over(index, now, out),
                Timer::Life(index) => self.life_is_over(index, now, out),
                Timer::Retry(key) => self.retry(key, now),
            };
            self.settle(key, now, out);
            self.forget_unused(key, out);
        }
        for _ in 0..self.idle_by_age.len() {
            if self.idle_until().is_none_or(|until| until > now) {
                break;
            }
            let first = self.idle_by_age.front().expect("it has a deadline");
            self.idleness_is_over(first, now, out);
        }
        while self.used_until().is_some_and(|until| until <= now) {
            let index = self.used_by_age.front().expect("it has a deadline");
            self.used_by_age.remove(&mut self.conns, index);
            self.totals.leaks += 1;
            out.push(Action::Leak(self.conn(index), now - self.conns[index].since));
        }
    }

    fn wait_is_over(&mut self, id: u32, now: f64, out: &mut Actions<W>) -> u32 {
        let (key, phase) = (self.waits[id].key, self.phase_of(id));
        self.waits[id].timer = None;
        self.refuse(id, Refusal::Timeout { phase, waited: now - self.waits[id].since }, out);
        key
    }

    fn hook_is_over(&mut self, index: u32, now: f64, out: &mut Actions<W>) -> u32 {
        let (conn, entry) = (self.conn(index), &mut self.conns[index]);
        let (key, wave, state) = (entry.key, entry.wave, entry.state);
        entry.hook = None;
        if state == State::Idle {
            self.idleness_is_over(index, now, out);
            return key;
        }
        self.remove(index, Cause::Abandoned);
        let phase = match state {
            State::Opening => Phase::Connect,
            State::Checking => Phase::Check,
            State::Resetting => Phase::Reset,
            State::Closing => Phase::Close,
            State::Idle | State::InUse => unreachable!("no hook runs"),
        };
        out.push(Action::Abort(conn, phase));
        if state == State::Opening {
            self.totals.abandoned_connects += 1;
            self.connect_lost(key, wave, None, now, out);
        } else {
            self.totals.abandoned += 1;
        }
        key
    }

    fn life_is_over(&mut self, index: u32, now: f64, out: &mut Actions<W>) -> u32 {
        self.conns[index].life = None;
        if self.conns[index].state == State::Idle {
            self.close(index, Cause::Expired, now, out);
        }
        self.conns[index].key
    }

    fn retry(&mut self, key: u32, now: f64) -> u32 {
        let entry = &mut self.keys[key];
        entry.retry = None;
        let remembered_until = entry.not_before + self.config.retry_max;
        let quiet = entry.tally.of(State::Opening) == 0 && entry.line.waiting() == 0;
        if quiet && now >= remembered_until {
            self.forgive(key);
        } else {
            let when = if now < remembered_until { remembered_until } else { now + LOOK_AGAIN };
            self.set_retry(key, when);
        }
        key
    }

    fn idleness_is_over(&mut self, index: u32, now: f64, out: &mut Actions<W>) {
        let surplus = self.tally.live() > self.config.max_size;
        let key = self.conns[index].key;
        let kept = key == PINNED && self.keys[key].tally.staying() <= self.config.min_size;
        if surplus {
            self.close(index, Cause::Surplus, now, out);
        } else if kept {
            if let Some(own) = self.conns[index].hook.take() {
                self.timers.remove(own);
            }
            self.idle_by_age.remove(&mut self.conns, index);
            self.conns[index].idle_from = now + (LOOK_AGAIN - self.config.max_idle).max(0.0);
            self.idle_by_age.push_back(&mut self.conns, index);
        } else {
            self.close(index, Cause::Expired, now, out);
        }
    }
}
