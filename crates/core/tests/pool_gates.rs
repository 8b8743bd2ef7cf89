//! The gate matrix: connect, check, reset and close, each ok, raising, slow or hanging (256 combinations), pools of one
//! to three connections, one to six users; and in each of these runs, at every step, everybody who takes part is
//! cancelled once: each user (before, in line, between grant and resume, in the middle of the use), each hook that runs,
//! and the pool itself (it drains, is forced to close, expires everything).
//!
//! After each run: nobody is asleep, nothing is open but what is idle, nothing leaked
//! (`opened - closed - abandoned = idle`), the capacity is whole, and an end of the pool leaves nothing. In between:
//! never more than `max_size` at once, seen from outside; never two users of one connection; nothing handed on that was
//! used and not reset, or was idle and not checked.
//!
//! A hook behaves as its gate says in its first call and in every second one from there on, and well in between, so
//! that what comes behind a failure is seen too. `LOOPWRIGHT_STRESS=1` adds gates that never change their mind, and
//! recounts the books after every step.

use std::collections::VecDeque;

use loopwright_core::pool::{Action, Actions, Condition, Config, Conn, Ledger, Refusal, Resumed, State, Ticket};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Ok,
    Raises,
    Slow,
    Hangs,
}

const GATES: [Gate; 4] = [Gate::Ok, Gate::Raises, Gate::Slow, Gate::Hangs];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Connect,
    Check,
    Reset,
    Close,
}

/// What a run is about.
#[derive(Clone, Copy, Debug)]
struct Setting {
    gates: [Gate; 4],
    /// The gates never change their mind.
    stubborn: bool,
    size: usize,
    users: usize,
}

impl Setting {
    /// Whether every connect works, sooner or later.
    fn is_healthy(&self) -> bool {
        matches!(self.gates[Hook::Connect as usize], Gate::Ok | Gate::Slow)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    User(usize),
    /// The one that has run for longest, the next, and so on.
    Hook(usize),
    Drain,
    Force,
    Expire,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A user comes, or comes again.
    Acquire(usize),
    Resume(usize),
    /// A user has done its work.
    Done(usize),
    Answer(Hook, Conn, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    /// So many rounds are left.
    Between(u32),
    Waiting(Ticket, u32),
    Using(Conn, u32),
    Gone,
}

/// A connection, seen from outside.
#[derive(Clone, Copy, Debug)]
struct Seen {
    conn: Conn,
    exists: bool,
    running: Option<Hook>,
    owner: Option<usize>,
    used: bool,
    checked: bool,
}

struct World {
    setting: Setting,
    ledger: Ledger<usize, ()>,
    out: Actions<usize>,
    now: f64,
    ready: VecDeque<Event>,
    later: Vec<(f64, Event)>,
    users: Vec<User>,
    seen: Vec<Seen>,
    calls: [u32; 4],
    errors: u32,
    closing: bool,
    drained: bool,
    steps: usize,
    recount: bool,
}

const HOOK_TIMEOUT: f64 = 3.0;

impl World {
    fn new(setting: Setting, recount: bool) -> Self {
        let config = Config {
            max_size: setting.size,
            checks: true,
            // Every idle one is checked.
            check_after: -1.0,
            resets: true,
            connect_timeout: HOOK_TIMEOUT,
            hook_timeout: HOOK_TIMEOUT,
            ..Config::default()
        };
        Self {
            setting,
            ledger: Ledger::new(config),
            out: Actions::default(),
            now: 0.0,
            ready: (0..setting.users).map(Event::Acquire).collect(),
            later: vec![],
            users: vec![User::Between(2); setting.users],
            seen: Vec::with_capacity(16),
            calls: [0; 4],
            errors: 0,
            closing: false,
            drained: false,
            steps: 0,
            recount,
        }
    }

    fn find(&mut self, conn: Conn) -> &mut Seen {
        self.seen.iter_mut().rev().find(|seen| seen.conn == conn).expect("it was opened here")
    }

    // --- what the ledger asks for ---------------------------------------------------------------------------------------

    fn start(&mut self, hook: Hook, conn: Conn) {
        self.find(conn).running = Some(hook);
        let calls = &mut self.calls[hook as usize];
        *calls += 1;
        let gate = if self.setting.stubborn || *calls % 2 == 1 { self.setting.gates[hook as usize] } else { Gate::Ok };
        match gate {
            Gate::Ok => self.ready.push_back(Event::Answer(hook, conn, true)),
            Gate::Raises => self.ready.push_back(Event::Answer(hook, conn, false)),
            Gate::Slow => self.later.push((self.now + 1.0, Event::Answer(hook, conn, true))),
            Gate::Hangs => {}
        }
    }

    fn carry_out(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        for action in out.drain() {
            match action {
                Action::Connect(conn, _) => {
                    self.seen.push(Seen { conn, exists: true, running: None, owner: None, used: false, checked: true });
                    let exist = self.seen.iter().filter(|seen| seen.exists).count();
                    assert!(exist <= self.setting.size, "{exist} connections");
                    self.start(Hook::Connect, conn);
                }
                Action::Check(conn) => self.start(Hook::Check, conn),
                Action::Reset(conn) => self.start(Hook::Reset, conn),
                Action::Close(conn) => {
                    assert_eq!(self.find(conn).owner, None, "closed under its user");
                    self.start(Hook::Close, conn);
                }
                Action::Abort(conn, _) => {
                    let seen = self.find(conn);
                    seen.exists = false;
                    let (running, owner) = (seen.running.take(), seen.owner.take());
                    if let Some(hook) = running {
                        // It answers at last, and nobody listens any more.
                        self.later.push((self.now + 1.0, Event::Answer(hook, conn, true)));
                    }
                    if let Some(user) = owner {
                        assert!(self.closing, "only the end of the pool takes a connection away");
                        self.users[user] = User::Gone;
                    }
                }
                Action::Wake(user) => self.ready.push_back(Event::Resume(user)),
                Action::Drained => self.drained = true,
                Action::Forget(_) | Action::Leak(..) => unreachable!("one key, no leaks"),
            }
        }
        self.out = out;
        for seen in &mut self.seen {
            seen.checked &= self.ledger.state(seen.conn) != Some(State::Idle);
        }
        if self.recount {
            self.ledger.audit(self.now);
        }
    }

    fn answer(&mut self, hook: Hook, conn: Conn, ok: bool) {
        let now = self.now;
        let seen = self.find(conn);
        let heard = seen.running == Some(hook);
        if heard {
            seen.running = None;
            match hook {
                Hook::Connect => seen.exists = ok,
                Hook::Check => seen.checked = ok,
                Hook::Reset => seen.used = seen.used && !ok,
                Hook::Close => seen.exists = false,
            }
        }
        let Self { ledger, out, .. } = self;
        match hook {
            Hook::Connect if ok => assert_eq!(ledger.connected(conn, now, out), heard),
            Hook::Connect => ledger.connect_failed(conn, (), now, out),
            Hook::Check => ledger.checked(conn, ok, now, out),
            Hook::Reset => ledger.reset(conn, ok, now, out),
            Hook::Close => ledger.closed(conn, ok, now, out),
        }
        assert!(heard || out.is_empty(), "a late answer is not heard");
    }

    // --- users ----------------------------------------------------------------------------------------------------------

    fn use_it(&mut self, user: usize, conn: Conn, rounds: u32) {
        let seen = self.find(conn);
        assert_eq!(seen.owner.replace(user), None, "two users of one connection");
        assert!(seen.exists && seen.running.is_none(), "in use while a hook runs");
        assert!(!seen.used, "handed on without a reset");
        assert!(seen.checked, "handed out without a check");
        seen.used = true;
        self.users[user] = User::Using(conn, rounds);
        self.ready.push_back(Event::Done(user));
    }

    /// A round has ended without a connection.
    fn go_without(&mut self, user: usize, rounds: u32) {
        self.errors += 1;
        self.next_round(user, rounds);
    }

    fn next_round(&mut self, user: usize, rounds: u32) {
        self.users[user] = if rounds > 1 { User::Between(rounds - 1) } else { User::Gone };
        if rounds > 1 {
            self.ready.push_back(Event::Acquire(user));
        }
    }

    fn acquire(&mut self, user: usize, rounds: u32) {
        let key = self.ledger.pinned();
        if let Some(conn) = self.ledger.try_acquire(key, self.now) {
            return self.use_it(user, conn, rounds);
        }
        match self.ledger.wait(key, self.now + 100.0, self.now, user, &mut self.out) {
            Ok(ticket) => self.users[user] = User::Waiting(ticket, rounds),
            Err(refusal) => {
                assert!(refusal == Refusal::Closed && self.closing);
                self.go_without(user, rounds);
            }
        }
    }

    fn give_back(&mut self, conn: Conn, condition: Condition) {
        self.find(conn).owner = None;
        assert!(self.ledger.release(conn, condition, self.now, &mut self.out));
    }

    fn cancel_user(&mut self, user: usize) {
        match std::mem::replace(&mut self.users[user], User::Gone) {
            User::Waiting(ticket, _) => self.ledger.leave(ticket, self.now, &mut self.out),
            User::Using(conn, _) => self.give_back(conn, Condition::Dirty),
            User::Between(_) | User::Gone => {}
        }
    }

    // --- steps ----------------------------------------------------------------------------------------------------------

    fn run_event(&mut self, event: Event) {
        match event {
            Event::Acquire(user) => {
                if let User::Between(rounds) = self.users[user] {
                    self.acquire(user, rounds);
                }
            }
            Event::Resume(user) => {
                if let User::Waiting(ticket, rounds) = self.users[user] {
                    match self.ledger.resume(ticket) {
                        Resumed::Got(conn) => self.use_it(user, conn, rounds),
                        Resumed::Refused(_) => self.go_without(user, rounds),
                        Resumed::Waiting => {}
                    }
                }
            }
            Event::Done(user) => {
                if let User::Using(conn, rounds) = self.users[user] {
                    self.give_back(conn, Condition::Clean);
                    self.next_round(user, rounds);
                }
            }
            Event::Answer(hook, conn, ok) => self.answer(hook, conn, ok),
        }
    }

    /// One step; false when nothing will ever happen any more.
    fn step(&mut self) -> bool {
        self.steps += 1;
        assert!(self.steps < 5_000, "it never ends");
        if let Some(event) = self.ready.pop_front() {
            self.run_event(event);
            self.carry_out();
            return true;
        }
        let alarm = self.ledger.wake_at().unwrap_or(f64::INFINITY);
        let at = self.later.iter().map(|later| later.0).fold(alarm, f64::min);
        if at == f64::INFINITY {
            return false;
        }
        self.now = self.now.max(at);
        if alarm <= self.now {
            self.ledger.tick(self.now, &mut self.out);
        } else {
            let which = self.later.iter().position(|later| later.0 <= self.now).expect("it is due");
            let (_, event) = self.later.remove(which);
            self.run_event(event);
        }
        self.carry_out();
        true
    }

    /// Whether that was possible now.
    fn cancel(&mut self, victim: Victim) -> bool {
        match victim {
            Victim::User(user) if self.users[user] == User::Gone => return false,
            Victim::User(user) => self.cancel_user(user),
            Victim::Hook(which) => {
                let running = self.seen.iter().filter_map(|seen| seen.running.map(|hook| (hook, seen.conn)));
                let Some((hook, conn)) = running.clone().nth(which) else { return false };
                self.answer(hook, conn, false);
            }
            Victim::Drain => {
                self.closing = true;
                self.ledger.drain(self.now, &mut self.out);
            }
            Victim::Force => {
                self.closing = true;
                self.ledger.force(self.now, &mut self.out);
            }
            Victim::Expire => self.ledger.expire_all(self.now, &mut self.out),
        }
        self.carry_out();
        true
    }

    fn exist(&self) -> usize {
        self.seen.iter().filter(|seen| seen.exists).count()
    }

    fn at_the_end(&mut self) {
        while self.step() {}
        self.ledger.audit(self.now);
        assert!(self.users.iter().all(|&user| user == User::Gone), "somebody is asleep: {:?}", self.users);
        let counts = self.ledger.counts();
        assert_eq!(counts.opening + counts.checking + counts.resetting + counts.closing, 0, "a hook runs for ever");
        assert_eq!((counts.in_use, counts.waiting), (0, 0));
        assert_eq!(counts.opened - counts.closed - counts.abandoned, counts.idle as u64, "a connection leaked");
        assert_eq!(self.exist(), counts.idle, "the books are what is seen from outside");
        if !self.closing {
            self.whole_capacity();
        }
        self.drained = false;
        self.cancel(Victim::Drain);
        while self.step() {}
        assert!(self.drained, "it never says that it is empty");
        let counts = self.ledger.counts();
        assert_eq!(counts.opened, counts.closed + counts.abandoned);
        assert_eq!(self.exist(), 0);
        assert_eq!(self.ledger.wake_at(), None, "a timer outlives the pool");
    }

    /// As many users as there are places all have one at the same time.
    fn whole_capacity(&mut self) {
        self.setting.gates = [Gate::Ok; 4];
        let first = self.users.len();
        for user in first..first + self.setting.size {
            self.users.push(User::Gone);
            self.acquire(user, 1);
            self.carry_out();
        }
        while self.ledger.counts().in_use < self.setting.size || !self.ready.is_empty() {
            // They keep what they get.
            self.ready.retain(|event| !matches!(event, Event::Done(_)));
            if self.ledger.counts().in_use < self.setting.size || !self.ready.is_empty() {
                assert!(self.step(), "capacity was lost");
            }
        }
        for user in first..first + self.setting.size {
            let User::Using(conn, _) = self.users[user] else { panic!("{:?}", self.users[user]) };
            assert_eq!(self.ledger.state(conn), Some(State::InUse));
            self.give_back(conn, Condition::Clean);
            self.users[user] = User::Gone;
            self.carry_out();
        }
        while self.step() {}
    }
}

/// The run without a cancel: how many steps it has.
fn undisturbed(setting: Setting, recount: bool) -> usize {
    let mut world = World::new(setting, recount);
    while world.step() {}
    let steps = world.steps;
    world.at_the_end();
    assert!(world.errors == 0 || !setting.is_healthy(), "nobody is refused when all is well");
    steps
}

/// Runs once with a cancel before this step; false if nobody is there to be cancelled.
fn disturbed(setting: Setting, victim: Victim, at: usize, recount: bool) -> bool {
    let mut world = World::new(setting, recount);
    while world.steps < at && world.step() {}
    if !world.cancel(victim) {
        return false;
    }
    world.at_the_end();
    if matches!(victim, Victim::User(_) | Victim::Expire) {
        assert!(world.errors == 0 || !setting.is_healthy(), "cancelling one fails no other");
    }
    true
}

fn every_cancel(setting: Setting, recount: bool) -> u64 {
    let steps = undisturbed(setting, recount);
    let users = (0..setting.users).map(Victim::User);
    let hooks = (0..setting.size).map(Victim::Hook);
    let victims: Vec<Victim> = users.chain(hooks).chain([Victim::Drain, Victim::Force, Victim::Expire]).collect();
    let mut runs = 1;
    for at in 0..steps {
        for &victim in &victims {
            runs += u64::from(disturbed(setting, victim, at, recount));
        }
    }
    runs
}

fn matrix(size: usize) {
    let stress = std::env::var_os("LOOPWRIGHT_STRESS").is_some();
    let mut runs = 0;
    for stubborn in if stress { &[false, true][..] } else { &[false] } {
        for combination in 0..256_usize {
            let gates = std::array::from_fn(|hook| GATES[combination >> (2 * hook) & 3]);
            for users in 1..=6 {
                runs += every_cancel(Setting { gates, stubborn: *stubborn, size, users }, stress);
            }
        }
    }
    println!("{runs} runs");
}

#[test]
fn every_gate_and_every_cancel_in_a_pool_of_one() {
    matrix(1);
}

#[test]
fn every_gate_and_every_cancel_in_a_pool_of_two() {
    matrix(2);
}

#[test]
fn every_gate_and_every_cancel_in_a_pool_of_three() {
    matrix(3);
}
