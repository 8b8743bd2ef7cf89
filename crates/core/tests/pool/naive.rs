//! The policy of `pool/mod.rs`, naively: one list of every connection, waiter and key there ever was, searched from the
//! front for each question. No list is kept in an order, nothing is counted, and timers are a bag.

use std::collections::BTreeSet;

use loopwright_core::pool::{Condition, Config, Order, Phase, Refusal, State};
use loopwright_core::rng::Rng;

/// An action, with numbers in the order of appearance instead of handles.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    Connect(usize, usize),
    Check(usize),
    Reset(usize),
    Close(usize),
    Abort(usize, Phase),
    Wake(usize),
    Forget(usize),
    Leak(usize, f64),
    Drained,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    InLine,
    Granted(usize),
    Refused(Refusal<u32>),
    Gone,
}

#[derive(Debug)]
pub struct Waiter {
    pub key: usize,
    pub since: f64,
    pub fate: Fate,
}

#[derive(Debug)]
pub struct Connection {
    pub key: usize,
    /// None: it is gone.
    pub state: Option<State>,
    pub users: u32,
    pub since: f64,
    pub idle_from: f64,
    pub doomed: bool,
    swept: Option<f64>,
    expires: f64,
    wave: u32,
    /// When it came into its state, in the order of all such moments.
    entered: u64,
    /// Since when it has had a place for a newcomer.
    open_since: Option<u64>,
    told: bool,
}

#[derive(Debug, Default)]
pub struct Key {
    pub forgotten: bool,
    failures: u32,
    setbacks: u32,
    wave: u32,
    not_before: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Timer {
    Wait(usize),
    Hook(usize),
    Life(usize),
    Retry(usize),
}

#[derive(Debug)]
pub struct Naive {
    pub config: Config,
    pub conns: Vec<Connection>,
    pub waiters: Vec<Waiter>,
    pub keys: Vec<Key>,
    /// Keys that wait for room, in line.
    room: Vec<usize>,
    timers: Vec<(f64, u64, Timer)>,
    order: u64,
    pub draining: bool,
    drained: bool,
    rng: Rng,
    pub acts: Vec<Act>,
    pub opened: u64,
    pub closed: u64,
    pub abandoned: u64,
    pub acquired: u64,
    pub timeouts: u64,
    /// Every step from state to state that was taken.
    pub steps: BTreeSet<(&'static str, &'static str)>,
}

/// A step from state to state by name; none is before the beginning and after the end.
pub fn step(from: Option<State>, to: Option<State>) -> (&'static str, &'static str) {
    (from.map_or("", State::name), to.map_or("", State::name))
}

impl Naive {
    pub fn new(config: Config) -> Self {
        Self {
            rng: Rng::new(config.seed),
            config,
            conns: vec![],
            waiters: vec![],
            keys: vec![Key::default()],
            room: vec![],
            timers: vec![],
            order: 0,
            draining: false,
            drained: false,
            acts: vec![],
            opened: 0,
            closed: 0,
            abandoned: 0,
            acquired: 0,
            timeouts: 0,
            steps: BTreeSet::new(),
        }
    }

    // --- questions ----------------------------------------------------------------------------------------------------

    fn shared(&self) -> bool {
        self.config.max_shares > 1
    }

    fn cap(&self) -> usize {
        self.config.max_size + self.config.burst
    }

    /// How many connections are in one of these states, of one key or of all.
    pub fn count(&self, key: Option<usize>, states: &[State]) -> usize {
        let matches = |c: &&Connection| {
            key.is_none_or(|key| c.key == key) && c.state.is_some_and(|state| states.contains(&state))
        };
        self.conns.iter().filter(matches).count()
    }

    fn held(&self, key: Option<usize>) -> usize {
        self.count(key, &State::ALL)
    }

    fn staying(&self, key: Option<usize>) -> usize {
        self.held(key) - self.count(key, &[State::Closing])
    }

    fn live(&self) -> usize {
        self.staying(None) - self.count(None, &[State::Opening])
    }

    fn in_flight(&self, key: usize) -> usize {
        self.count(Some(key), &[State::Opening, State::Checking, State::Resetting])
    }

    pub fn line(&self, key: usize) -> Vec<usize> {
        (0..self.waiters.len())
            .filter(|&w| self.waiters[w].key == key && self.waiters[w].fate == Fate::InLine)
            .collect()
    }

    pub fn waiting(&self) -> usize {
        self.waiters.iter().filter(|w| w.fate == Fate::InLine).count()
    }

    fn waits_for(&self, key: usize) -> bool {
        self.waiters.iter().any(|w| w.key == key && w.fate == Fate::InLine)
    }

    fn coming(&self) -> usize {
        self.cap().saturating_sub(self.staying(None))
    }

    fn holds_back(&self, key: usize, now: f64) -> bool {
        let Key { failures, not_before, .. } = self.keys[key];
        failures > 0 && (now < not_before || self.count(Some(key), &[State::Opening]) > 0)
    }

    fn short(&self, key: usize, waiting: usize) -> bool {
        let in_flight = self.in_flight(key);
        if self.shared() { waiting > 0 && in_flight == 0 } else { waiting > in_flight }
    }

    fn wants_check(&self, key: usize) -> bool {
        let checks = self.count(Some(key), &[State::Checking, State::Resetting]);
        if self.shared() { checks == 0 } else { self.line(key).len() > checks }
    }

    fn need_of(&self, key: usize, waiting: usize, now: f64) -> usize {
        if !self.short(key, waiting) || self.holds_back(key, now) {
            return 0;
        }
        let room = self.config.max_per_key.saturating_sub(self.held(Some(key)));
        let need = if self.shared() || self.keys[key].failures > 0 { 1 } else { waiting - self.in_flight(key) };
        need.min(room)
    }

    fn need(&self, key: usize, now: f64) -> usize {
        if self.room.contains(&key) { self.need_of(key, self.line(key).len(), now) } else { 0 }
    }

    fn wanted(&self, now: f64) -> usize {
        self.room.iter().map(|&key| self.need(key, now)).sum()
    }

    /// Idle connections, the longest idle first.
    fn idle(&self) -> Vec<usize> {
        let mut idle: Vec<usize> =
            (0..self.conns.len()).filter(|&c| self.conns[c].state == Some(State::Idle)).collect();
        idle.sort_by_key(|&c| self.conns[c].entered);
        idle
    }

    /// What a newcomer could be given, in the order in which it is looked at.
    fn open_places(&self, key: usize) -> Vec<usize> {
        let mut places: Vec<usize> =
            (0..self.conns.len()).filter(|&c| self.conns[c].key == key && self.conns[c].open_since.is_some()).collect();
        places.sort_by_key(|&c| self.conns[c].open_since);
        if self.config.order == Order::Lifo {
            places.reverse();
        }
        places
    }

    fn is_old(&self, c: usize, now: f64) -> bool {
        self.conns[c].expires <= now
    }

    fn is_stale(&self, c: usize, now: f64) -> bool {
        let idle = self.conns[c].state == Some(State::Idle);
        idle && self.config.checks && now - self.conns[c].since > self.config.check_after
    }

    /// Old ones that are met on the way to a fresh one, then the fresh one or else a stale one.
    fn pick(&self, key: usize, now: f64) -> Option<usize> {
        let places = self.open_places(key);
        let stop = places.iter().position(|&c| {
            self.is_old(c, now) || !self.is_stale(c, now) || (self.config.order == Order::Lifo && !self.shared())
        });
        stop.map(|at| places[at]).or(places.first().copied())
    }

    fn must_yield(&self, key: usize) -> bool {
        let others: Vec<usize> = self.room.iter().copied().filter(|&other| other != key).collect();
        let Some(&other) = others.get(self.coming()) else { return false };
        let (mine, theirs) = (self.staying(Some(key)), self.staying(Some(other)));
        mine > theirs + 1 || (theirs == 0 && self.line(other)[0] < self.line(key)[0])
    }

    fn why_close(&self, c: usize, now: f64) -> bool {
        let conn = &self.conns[c];
        let fresh = conn.state == Some(State::Opening);
        if conn.doomed || self.is_old(c, now) || self.staying(None) > self.cap() {
            return true;
        }
        if self.waits_for(conn.key) {
            return !fresh && self.must_yield(conn.key);
        }
        self.draining
            || (self.live() + usize::from(fresh) > self.config.max_size && self.config.burst_linger <= 0.0)
            || (!fresh && self.wanted(now) > self.coming())
    }

    fn phase(&self, w: usize) -> Phase {
        let key = self.waiters[w].key;
        let place = if self.shared() { 0 } else { self.line(key).iter().position(|&other| other == w).unwrap() };
        let resetting = self.count(Some(key), &[State::Resetting]);
        let checking = self.count(Some(key), &[State::Checking]);
        if place < resetting {
            Phase::Reset
        } else if place < resetting + checking {
            Phase::Check
        } else if place < self.in_flight(key) || (self.keys[key].failures > 0 && self.staying(Some(key)) == 0) {
            Phase::Connect
        } else {
            Phase::Wait
        }
    }

    fn idle_until(&self, c: usize) -> f64 {
        let Config { max_size, max_idle, burst_linger, .. } = self.config;
        self.conns[c].idle_from + if self.live() > max_size { burst_linger.min(max_idle) } else { max_idle }
    }

    fn in_use(&self) -> Vec<usize> {
        let mut used: Vec<usize> = (0..self.conns.len())
            .filter(|&c| self.conns[c].state == Some(State::InUse) && !self.conns[c].told && !self.shared())
            .collect();
        used.sort_by_key(|&c| self.conns[c].entered);
        used
    }

    pub fn earliest(&self) -> f64 {
        let mut at = self.timers.iter().map(|timer| timer.0).fold(f64::INFINITY, f64::min);
        if let Some(&first) = self.idle().first() {
            at = at.min(self.idle_until(first));
        }
        if let (Some(limit), Some(&first)) = (self.config.leak_after, self.in_use().first()) {
            at = at.min(self.conns[first].since + limit);
        }
        at
    }

    // --- changes ------------------------------------------------------------------------------------------------------

    fn next(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    fn set_timer(&mut self, when: f64, timer: Timer) {
        self.timers.retain(|old| old.2 != timer);
        if when.is_finite() {
            let order = self.next();
            self.timers.push((when, order, timer));
        }
    }

    fn stop_timer(&mut self, timer: Timer) {
        self.timers.retain(|old| old.2 != timer);
    }

    fn enter(&mut self, c: usize, state: State, now: f64) {
        self.stop_timer(Timer::Hook(c));
        let entered = self.next();
        let conn = &mut self.conns[c];
        self.steps.insert(step(conn.state, Some(state)));
        (conn.state, conn.since, conn.entered, conn.told) = (Some(state), now, entered, false);
        let limit = match state {
            State::Opening => self.config.connect_timeout,
            State::Idle => {
                conn.idle_from = now;
                f64::INFINITY
            }
            State::InUse => f64::INFINITY,
            State::Checking | State::Resetting | State::Closing => self.config.hook_timeout,
        };
        if state == State::Closing {
            self.stop_timer(Timer::Life(c));
        }
        self.set_timer(now + limit, Timer::Hook(c));
        self.reopen(c);
    }

    /// Whether it has a place for a newcomer may have changed.
    fn reopen(&mut self, c: usize) {
        let conn = &self.conns[c];
        let place = match conn.state {
            Some(State::Idle) => true,
            Some(State::InUse) => self.shared() && conn.users < self.config.max_shares && !conn.doomed,
            _ => false,
        };
        if !place {
            self.conns[c].open_since = None;
        } else if self.conns[c].open_since.is_none() {
            self.conns[c].open_since = Some(self.next());
        }
    }

    fn open(&mut self, key: usize, now: f64) {
        let c = self.conns.len();
        self.conns.push(Connection {
            key,
            state: None,
            users: 0,
            since: now,
            idle_from: now,
            doomed: false,
            swept: None,
            expires: f64::INFINITY,
            wave: self.keys[key].wave,
            entered: 0,
            open_since: None,
            told: false,
        });
        self.enter(c, State::Opening, now);
        self.acts.push(Act::Connect(c, key));
    }

    fn close(&mut self, c: usize, now: f64) {
        self.enter(c, State::Closing, now);
        self.acts.push(Act::Close(c));
    }

    fn gone(&mut self, c: usize) {
        self.stop_timer(Timer::Hook(c));
        self.stop_timer(Timer::Life(c));
        self.steps.insert(step(self.conns[c].state, None));
        self.conns[c].state = None;
        self.conns[c].users = 0;
        self.reopen(c);
    }

    fn doom(&mut self, c: usize) {
        self.conns[c].doomed = true;
        self.reopen(c);
    }

    fn hand_out(&mut self, c: usize, now: f64) {
        if self.shared() && self.conns[c].state == Some(State::InUse) {
            self.conns[c].users += 1;
            self.reopen(c);
        } else {
            self.conns[c].users = 1;
            self.enter(c, State::InUse, now);
        }
    }

    fn decide(&mut self, w: usize, fate: Fate) {
        self.stop_timer(Timer::Wait(w));
        self.waiters[w].fate = fate;
        self.acts.push(Act::Wake(w));
    }

    fn grant(&mut self, c: usize, now: f64) {
        let first = self.line(self.conns[c].key)[0];
        self.hand_out(c, now);
        self.decide(first, Fate::Granted(c));
    }

    fn arrive(&mut self, c: usize, now: f64) {
        if self.why_close(c, now) {
            self.close(c, now);
        } else if !self.shared() && self.waits_for(self.conns[c].key) {
            self.grant(c, now);
        } else {
            self.enter(c, State::Idle, now);
        }
    }

    fn settle(&mut self, key: usize, now: f64) {
        while self.waits_for(key) {
            let Some(c) = self.pick(key, now) else { break };
            if self.is_old(c, now) {
                if self.conns[c].state == Some(State::Idle) { self.close(c, now) } else { self.doom(c) }
            } else if !self.is_stale(c, now) {
                self.grant(c, now);
            } else if self.wants_check(key) {
                self.enter(c, State::Checking, now);
                self.acts.push(Act::Check(c));
            } else {
                break;
            }
        }
        if self.draining && !self.waits_for(key) {
            let mut idle = self.open_places(key);
            idle.retain(|&c| self.conns[c].state == Some(State::Idle));
            idle.sort_by_key(|&c| self.conns[c].open_since);
            for c in idle {
                self.close(c, now);
            }
        }
        self.line_up(key, now);
    }

    fn line_up(&mut self, key: usize, now: f64) {
        let needs = self.need_of(key, self.line(key).len(), now) > 0;
        if !needs {
            self.room.retain(|&other| other != key);
        } else if !self.room.contains(&key) {
            self.room.push(key);
        }
    }

    fn balance(&mut self, now: f64) {
        while self.held(None) < self.cap() && !self.room.is_empty() {
            let key = self.room.remove(0);
            self.open(key, now);
            self.line_up(key, now);
        }
        while !self.draining
            && self.room.is_empty()
            && self.staying(Some(0)) < self.config.min_size
            && self.held(None) < self.config.max_size
            && self.held(Some(0)) < self.config.max_per_key
            && !self.holds_back(0, now)
        {
            self.open(0, now);
        }
        while let Some(&c) = self.idle().first() {
            let lingers = self.conns[c].idle_from + self.config.burst_linger > now;
            if self.staying(None) > self.cap() || (self.live() > self.config.max_size && !lingers) {
                self.close(c, now);
            } else {
                break;
            }
        }
        while self.wanted(now) > self.coming() {
            let Some(&c) = self.idle().first() else { break };
            self.close(c, now);
        }
        if self.draining && !self.drained && self.held(None) == 0 && self.waiting() == 0 {
            self.drained = true;
            self.forgive(0);
            self.acts.push(Act::Drained);
        }
    }

    fn forget(&mut self, key: usize) {
        let remembers = self.keys[key].failures > 0 && !self.draining;
        if key > 0 && !self.keys[key].forgotten && !remembers && self.held(Some(key)) == 0 && !self.waits_for(key) {
            self.keys[key].forgotten = true;
            self.stop_timer(Timer::Retry(key));
            self.acts.push(Act::Forget(key));
        }
    }

    fn after(&mut self, key: usize, now: f64) {
        self.settle(key, now);
        self.balance(now);
        self.forget(key);
    }

    /// In the order in which the ledger numbers its keys.
    fn after_all(&mut self, order: &[usize], now: f64) {
        for &key in order {
            self.settle(key, now);
            self.forget(key);
        }
        self.balance(now);
    }

    fn connect_lost(&mut self, key: usize, wave: u32, error: Option<u32>, now: f64) {
        self.keys[key].failures += 1;
        if wave == self.keys[key].wave || self.keys[key].setbacks == 0 {
            let ceiling = self.config.retry_base * 2_f64.powi(self.keys[key].setbacks.cast_signed());
            let not_before = now + self.rng.unit() * ceiling.min(self.config.retry_max);
            let entry = &mut self.keys[key];
            (entry.wave, entry.setbacks, entry.not_before) = (entry.wave + 1, entry.setbacks + 1, not_before);
            self.set_timer(not_before, Timer::Retry(key));
        }
        if self.keys[key].failures > 1 || self.staying(Some(key)) == 0 {
            for w in self.line(key) {
                let waited = now - self.waiters[w].since;
                let late = Refusal::Timeout { phase: Phase::Connect, waited };
                self.timeouts += u64::from(error.is_none());
                self.decide(w, Fate::Refused(error.map_or(late, Refusal::Failed)));
            }
        }
    }

    fn forgive(&mut self, key: usize) {
        (self.keys[key].failures, self.keys[key].setbacks) = (0, 0);
        self.stop_timer(Timer::Retry(key));
    }

    // --- events -------------------------------------------------------------------------------------------------------

    pub fn try_acquire(&mut self, key: usize, now: f64) -> Option<usize> {
        let c = self.pick(key, now)?;
        let ready = !self.draining && !self.waits_for(key) && !self.is_old(c, now) && !self.is_stale(c, now);
        ready.then(|| {
            self.hand_out(c, now);
            self.acquired += 1;
            c
        })
    }

    pub fn wait(&mut self, key: usize, deadline: f64, now: f64) -> Result<usize, Refusal<u32>> {
        let full = self.config.max_waiting.is_some_and(|most| self.waiting() >= most);
        let refusal = if self.draining {
            Some(Refusal::Closed)
        } else if full && !self.has_supply_for_one_more(key, now) {
            Some(Refusal::TooManyWaiting { waiting: self.waiting() })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.forget(key);
            return Err(refusal);
        }
        self.waiters.push(Waiter { key, since: now, fate: Fate::InLine });
        self.set_timer(deadline, Timer::Wait(self.waiters.len() - 1));
        self.after(key, now);
        Ok(self.waiters.len() - 1)
    }

    fn has_supply_for_one_more(&self, key: usize, now: f64) -> bool {
        let waiting = self.line(key).len();
        let connect = self.need_of(key, waiting + 1, now) > self.need(key, now);
        waiting < self.in_flight(key) * self.config.max_shares as usize
            || self.pick(key, now).is_some()
            || (connect && self.coming() + self.idle().len() > self.wanted(now))
    }

    pub fn resume(&mut self, w: usize) -> Fate {
        let fate = self.waiters[w].fate.clone();
        if fate != Fate::InLine {
            self.waiters[w].fate = Fate::Gone;
        }
        self.acquired += u64::from(matches!(fate, Fate::Granted(_)));
        fate
    }

    pub fn leave(&mut self, w: usize, now: f64) {
        let fate = std::mem::replace(&mut self.waiters[w].fate, Fate::Gone);
        match fate {
            Fate::InLine => self.stop_timer(Timer::Wait(w)),
            Fate::Granted(c) => {
                if self.take_back(c) {
                    self.arrive(c, now);
                }
            }
            Fate::Refused(_) | Fate::Gone => return,
        }
        self.after(self.waiters[w].key, now);
    }

    fn take_back(&mut self, c: usize) -> bool {
        self.conns[c].users -= 1;
        if self.conns[c].users > 0 {
            self.reopen(c);
        }
        self.conns[c].users == 0
    }

    pub fn release(&mut self, c: usize, condition: Condition, now: f64) {
        let shared = self.shared();
        if condition == Condition::Broken {
            self.doom(c);
        }
        if self.take_back(c) {
            if self.config.resets && !shared && !self.why_close(c, now) {
                self.enter(c, State::Resetting, now);
                self.acts.push(Act::Reset(c));
            } else {
                if condition == Condition::Dirty && !shared {
                    self.doom(c);
                }
                self.arrive(c, now);
            }
        }
        self.after(self.conns[c].key, now);
    }

    pub fn connected(&mut self, c: usize, now: f64) {
        self.opened += 1;
        let key = self.conns[c].key;
        self.forgive(key);
        let limit = self.config.max_lifetime * (1.0 - self.config.jitter * self.rng.unit());
        if limit.is_finite() {
            self.conns[c].expires = now + limit;
            self.set_timer(now + limit, Timer::Life(c));
        }
        self.arrive(c, now);
        self.after(key, now);
    }

    pub fn connect_failed(&mut self, c: usize, error: u32, now: f64) {
        let Connection { key, wave, .. } = self.conns[c];
        self.gone(c);
        self.connect_lost(key, wave, Some(error), now);
        self.after(key, now);
    }

    /// A check or a reset has ended.
    pub fn hook_ended(&mut self, c: usize, ok: bool, now: f64) {
        let swept = self.conns[c].swept.take();
        if ok {
            self.arrive(c, now);
        } else {
            self.close(c, now);
        }
        if let (Some(State::Idle), Some(idle_from)) = (self.conns[c].state, swept) {
            self.conns[c].idle_from = idle_from;
            self.set_timer(idle_from + self.config.max_idle, Timer::Hook(c));
        }
        self.after(self.conns[c].key, now);
    }

    pub fn closed(&mut self, c: usize, now: f64) {
        self.gone(c);
        self.closed += 1;
        self.after(self.conns[c].key, now);
    }

    pub fn tick(&mut self, now: f64) {
        let before = self.order;
        loop {
            let due = self.timers.iter().filter(|timer| timer.0 <= now && timer.1 <= before);
            let first = due.min_by(|a, b| (a.0, a.1).partial_cmp(&(b.0, b.1)).unwrap()).copied();
            let Some((_, _, timer)) = first else { break };
            self.stop_timer(timer);
            let key = self.fire(timer, now);
            self.settle(key, now);
            self.forget(key);
        }
        for _ in 0..self.idle().len() {
            let Some(&c) = self.idle().first() else { break };
            if self.idle_until(c) > now {
                break;
            }
            self.idle_is_over(c, now);
        }
        if let Some(limit) = self.config.leak_after {
            for c in self.in_use() {
                if self.conns[c].since + limit <= now {
                    self.conns[c].told = true;
                    self.acts.push(Act::Leak(c, now - self.conns[c].since));
                }
            }
        }
        self.after(0, now);
    }

    fn idle_is_over(&mut self, c: usize, now: f64) {
        let surplus = self.live() > self.config.max_size;
        if !surplus && self.conns[c].key == 0 && self.staying(Some(0)) <= self.config.min_size {
            self.stop_timer(Timer::Hook(c));
            self.conns[c].idle_from = now + (1.0 - self.config.max_idle).max(0.0);
            self.conns[c].entered = self.next();
        } else {
            self.close(c, now);
        }
    }

    fn fire(&mut self, timer: Timer, now: f64) -> usize {
        match timer {
            Timer::Wait(w) => {
                let Waiter { key, since, .. } = self.waiters[w];
                let refusal = Refusal::Timeout { phase: self.phase(w), waited: now - since };
                self.timeouts += 1;
                self.decide(w, Fate::Refused(refusal));
                key
            }
            Timer::Hook(c) => {
                let Connection { key, wave, state, .. } = self.conns[c];
                if state == Some(State::Idle) {
                    self.idle_is_over(c, now);
                    return key;
                }
                self.gone(c);
                let phase = match state {
                    Some(State::Opening) => Phase::Connect,
                    Some(State::Checking) => Phase::Check,
                    Some(State::Resetting) => Phase::Reset,
                    _ => Phase::Close,
                };
                self.acts.push(Act::Abort(c, phase));
                if phase == Phase::Connect {
                    self.connect_lost(key, wave, None, now);
                } else {
                    self.abandoned += 1;
                }
                key
            }
            Timer::Life(c) => {
                if self.conns[c].state == Some(State::Idle) {
                    self.close(c, now);
                }
                self.conns[c].key
            }
            Timer::Retry(key) => {
                let forget_at = self.keys[key].not_before + self.config.retry_max;
                let quiet = self.count(Some(key), &[State::Opening]) == 0 && !self.waits_for(key);
                if quiet && now >= forget_at {
                    self.forgive(key);
                } else {
                    self.set_timer(if now < forget_at { forget_at } else { now + 1.0 }, Timer::Retry(key));
                }
                key
            }
        }
    }

    pub fn resize(&mut self, max_size: usize, burst: usize, min_size: usize, now: f64) {
        (self.config.max_size, self.config.burst, self.config.min_size) = (max_size, burst, min_size);
        self.after(0, now);
    }

    pub fn expire_all(&mut self, conns: &[usize], keys: &[usize], now: f64) {
        for &c in conns {
            match self.conns[c].state {
                Some(State::Idle) => self.close(c, now),
                Some(State::Closing) | None => {}
                Some(_) => self.doom(c),
            }
        }
        self.after_all(keys, now);
    }

    pub fn check_idle(&mut self, now: f64) {
        if self.config.checks {
            for c in self.idle() {
                self.conns[c].swept = Some(self.conns[c].idle_from);
                self.enter(c, State::Checking, now);
                self.acts.push(Act::Check(c));
            }
            self.balance(now);
        }
    }

    pub fn lost(&mut self, c: usize, now: f64) -> bool {
        match self.conns[c].state {
            None | Some(State::Opening | State::Closing) => return false,
            Some(State::Idle) => self.close(c, now),
            Some(_) => self.doom(c),
        }
        self.after(self.conns[c].key, now);
        true
    }

    pub fn drain(&mut self, keys: &[usize], now: f64) {
        (self.draining, self.drained) = (true, false);
        self.after_all(keys, now);
    }

    pub fn force(&mut self, conns: &[usize], waiters: &[usize], keys: &[usize], now: f64) {
        (self.draining, self.drained) = (true, false);
        for &key in keys {
            for w in self.line(key) {
                self.decide(w, Fate::Refused(Refusal::Closed));
            }
        }
        for &w in waiters {
            if let Fate::Granted(c) = self.waiters[w].fate {
                self.waiters[w].fate = Fate::Refused(Refusal::Closed);
                if self.take_back(c) {
                    self.arrive(c, now);
                }
            }
        }
        for &c in conns {
            let phase = match self.conns[c].state {
                Some(State::Idle) => {
                    self.close(c, now);
                    continue;
                }
                Some(State::Opening) => Phase::Connect,
                Some(State::InUse) => Phase::Use,
                _ => continue,
            };
            self.abandoned += u64::from(phase == Phase::Use);
            self.acts.push(Act::Abort(c, phase));
            self.gone(c);
        }
        self.after_all(keys, now);
    }

    pub fn abandon_all(&mut self) {
        let steps = self.steps.clone();
        for c in 0..self.conns.len() {
            let open = self.conns[c].state.is_some_and(|state| state != State::Opening);
            self.abandoned += u64::from(open);
            self.gone(c);
        }
        // These are no steps of a life.
        self.steps = steps;
        for waiter in &mut self.waiters {
            waiter.fate = Fate::Gone;
        }
        for key in &mut self.keys[1..] {
            key.forgotten = true;
        }
        self.keys[0] = Key::default();
        self.room.clear();
        self.timers.clear();
    }
}
