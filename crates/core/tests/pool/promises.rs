//! What the ledger promises in particular, one test each.

use loopwright_core::pool::{
    Action, Actions, Condition, Config, Conn, KeyId, Ledger, Order, Phase, Refusal, Resumed, State, TRANSITIONS,
    Ticket, Transition, mermaid,
};

/// A ledger, and what it asked for since it was last looked at.
struct Desk {
    ledger: Ledger<usize, &'static str>,
    out: Actions<usize>,
    now: f64,
    tickets: Vec<Ticket>,
}

impl Desk {
    fn new(config: Config) -> Self {
        Self { ledger: Ledger::new(config), out: Actions::default(), now: 0.0, tickets: vec![] }
    }

    fn wait_until(&mut self, key: KeyId, deadline: f64) -> usize {
        let number = self.tickets.len();
        let ticket = self.ledger.wait(key, deadline, self.now, number, &mut self.out);
        self.tickets.push(ticket.expect("it is let in"));
        number
    }

    fn wait_for(&mut self, key: KeyId) -> usize {
        self.wait_until(key, f64::INFINITY)
    }

    fn wait(&mut self) -> usize {
        self.wait_for(self.ledger.pinned())
    }

    fn asked(&mut self) -> Vec<Action<usize>> {
        self.ledger.audit(self.now);
        self.out.drain().collect()
    }

    /// The connects that it asked for; nothing else may be among it.
    fn connects(&mut self) -> Vec<Conn> {
        let connect = |action| match action {
            Action::Connect(conn, _) => conn,
            other => panic!("{other:?}"),
        };
        self.asked().into_iter().map(connect).collect()
    }

    fn woken(&mut self) -> Vec<usize> {
        let wake = |action| if let Action::Wake(number) = action { Some(number) } else { None };
        self.asked().into_iter().filter_map(wake).collect()
    }

    fn connected(&mut self, conn: Conn) {
        assert!(self.ledger.connected(conn, self.now, &mut self.out));
    }

    fn failed(&mut self, conn: Conn) {
        self.ledger.connect_failed(conn, "refused", self.now, &mut self.out);
    }

    fn got(&mut self, number: usize) -> Conn {
        match self.ledger.resume(self.tickets[number]) {
            Resumed::Got(conn) => conn,
            other => panic!("{number}: {other:?}"),
        }
    }

    fn refusal(&mut self, number: usize) -> Refusal<&'static str> {
        match self.ledger.resume(self.tickets[number]) {
            Resumed::Refused(refusal) => refusal,
            other => panic!("{number}: {other:?}"),
        }
    }

    fn leave(&mut self, number: usize) {
        self.ledger.leave(self.tickets[number], self.now, &mut self.out);
    }

    fn give_back(&mut self, conn: Conn, condition: Condition) {
        assert!(self.ledger.release(conn, condition, self.now, &mut self.out));
    }

    fn closed(&mut self, conn: Conn) {
        self.ledger.closed(conn, true, self.now, &mut self.out);
    }

    fn pass(&mut self, seconds: f64) {
        self.now += seconds;
        self.ledger.tick(self.now, &mut self.out);
    }

    /// So many open connections, all of them in use.
    fn used(&mut self, count: usize) -> Vec<Conn> {
        let waiters: Vec<usize> = (0..count).map(|_| self.wait()).collect();
        for conn in self.connects() {
            self.connected(conn);
        }
        assert_eq!(self.woken(), waiters);
        waiters.into_iter().map(|number| self.got(number)).collect()
    }

    /// So many idle ones; the last came back last.
    fn idle(&mut self, count: usize) -> Vec<Conn> {
        let conns = self.used(count);
        for &conn in &conns {
            assert!(self.ledger.try_release(conn, self.now));
        }
        conns
    }

    fn take(&mut self) -> Option<Conn> {
        let pinned = self.ledger.pinned();
        self.ledger.try_acquire(pinned, self.now)
    }
}

#[test]
fn a_connect_belongs_to_the_pool_whoever_is_first_gets_it() {
    let mut desk = Desk::new(Config { max_size: 1, ..Config::default() });
    let (first, second) = (desk.wait(), desk.wait());
    let connects = desk.connects();
    desk.leave(first);
    assert_eq!(desk.connects(), []);
    desk.connected(connects[0]);
    assert_eq!(desk.woken(), [second]);
    assert_eq!(desk.got(second), connects[0]);
}

#[test]
fn a_connect_whose_every_asker_has_left_is_kept_for_the_next() {
    let mut desk = Desk::new(Config::default());
    let first = desk.wait();
    let connects = desk.connects();
    desk.leave(first);
    desk.wait();
    assert_eq!(desk.connects(), [], "one is on its way already");
    desk.connected(connects[0]);
    assert_eq!(desk.woken(), [1]);
}

#[test]
fn what_is_left_behind_between_grant_and_resume_goes_to_the_next_without_a_reset() {
    let mut desk = Desk::new(Config { max_size: 1, resets: true, ..Config::default() });
    let (first, second) = (desk.wait(), desk.wait());
    let connects = desk.connects();
    desk.connected(connects[0]);
    assert_eq!(desk.woken(), [first]);
    desk.leave(first);
    assert_eq!(desk.asked(), [Action::Wake(second)]);
    assert_eq!(desk.got(second), connects[0]);
}

#[test]
fn a_release_hands_over_in_the_same_event() {
    let mut desk = Desk::new(Config { max_size: 1, ..Config::default() });
    let conn = desk.used(1)[0];
    let next = desk.wait();
    assert!(!desk.ledger.try_release(conn, desk.now), "somebody waits");
    desk.give_back(conn, Condition::Clean);
    assert_eq!(desk.asked(), [Action::Wake(next)]);
}

#[test]
fn nobody_overtakes_the_line() {
    let mut desk = Desk::new(Config { max_size: 1, ..Config::default() });
    let conn = desk.used(1)[0];
    let waiters: Vec<usize> = (0..5).map(|_| desk.wait()).collect();
    let mut order = vec![];
    desk.give_back(conn, Condition::Clean);
    for _ in &waiters {
        assert_eq!(desk.take(), None, "a newcomer");
        let woken = desk.woken();
        let conn = desk.got(woken[0]);
        order.extend(woken);
        desk.give_back(conn, Condition::Clean);
    }
    assert_eq!(order, waiters);
}

#[test]
fn lifo_keeps_few_warm_fifo_wears_evenly() {
    for (order, expected) in [(Order::Lifo, [2, 2, 2]), (Order::Fifo, [0, 1, 2])] {
        let mut desk = Desk::new(Config { order, ..Config::default() });
        let conns = desk.idle(3);
        for which in expected {
            let conn = desk.take().expect("three are idle");
            assert_eq!(conn, conns[which], "{order:?}");
            assert!(desk.ledger.try_release(conn, desk.now));
        }
    }
}

#[test]
fn a_check_comes_before_the_use_of_what_was_idle_for_long_and_only_then() {
    let mut desk = Desk::new(Config { checks: true, check_after: 1.0, ..Config::default() });
    let conn = desk.idle(1)[0];
    desk.now = 1.0;
    assert_eq!(desk.take(), Some(conn));
    assert!(desk.ledger.try_release(conn, desk.now));
    desk.now = 2.5;
    assert_eq!(desk.take(), None);
    let waiter = desk.wait();
    assert_eq!(desk.asked(), [Action::Check(conn)]);
    desk.ledger.checked(conn, true, desk.now, &mut desk.out);
    assert_eq!(desk.asked(), [Action::Wake(waiter)]);
}

#[test]
fn a_failed_check_is_no_failed_wait() {
    let mut desk = Desk::new(Config { checks: true, check_after: 1.0, max_size: 2, ..Config::default() });
    let conns = desk.idle(2);
    desk.now = 5.0;
    let waiter = desk.wait();
    assert_eq!(desk.asked(), [Action::Check(conns[1])]);
    desk.ledger.checked(conns[1], false, desk.now, &mut desk.out);
    assert_eq!(desk.asked(), [Action::Close(conns[1]), Action::Check(conns[0])]);
    desk.ledger.checked(conns[0], false, desk.now, &mut desk.out);
    assert_eq!(desk.asked(), [Action::Close(conns[0])], "there is no room before one is closed");
    desk.closed(conns[1]);
    let fresh = desk.connects()[0];
    desk.connected(fresh);
    assert_eq!(desk.woken(), [waiter]);
    assert_eq!(desk.ledger.counts().check_failures, 2);
}

#[test]
fn nobody_waits_for_a_check_beside_a_fresh_one() {
    for order in [Order::Lifo, Order::Fifo] {
        let mut desk = Desk::new(Config { checks: true, check_after: 1.0, order, ..Config::default() });
        let conns = desk.used(2);
        assert!(desk.ledger.try_release(conns[0], desk.now));
        desk.now = 2.0;
        assert!(desk.ledger.try_release(conns[1], desk.now));
        assert_eq!(desk.take(), Some(conns[1]), "{order:?}");
    }
}

#[test]
fn nobody_waits_for_a_connect_beside_an_idle_one_that_could_be_checked() {
    let mut desk = Desk::new(Config { checks: true, check_after: 1.0, ..Config::default() });
    let conn = desk.used(1)[0];
    let asker = desk.wait();
    assert_eq!(desk.connects().len(), 1, "it hangs");
    desk.leave(asker);
    assert!(desk.ledger.try_release(conn, desk.now));
    desk.now = 2.0;
    desk.wait();
    assert_eq!(desk.asked(), [Action::Check(conn)]);
}

#[test]
fn a_reset_runs_off_the_path_of_who_gives_back() {
    let mut desk = Desk::new(Config { resets: true, max_size: 1, ..Config::default() });
    let conn = desk.used(1)[0];
    desk.give_back(conn, Condition::Dirty);
    assert_eq!(desk.asked(), [Action::Reset(conn)]);
    let next = desk.wait();
    assert_eq!(desk.asked(), [], "it is on its way");
    desk.ledger.reset(conn, true, desk.now, &mut desk.out);
    assert_eq!(desk.asked(), [Action::Wake(next)]);
}

#[test]
fn a_dirty_connection_is_never_handed_on() {
    let mut desk = Desk::new(Config { max_size: 1, ..Config::default() });
    let conn = desk.used(1)[0];
    desk.wait();
    desk.give_back(conn, Condition::Dirty);
    assert_eq!(desk.asked(), [Action::Close(conn)]);
    desk.closed(conn);
    assert_ne!(desk.connects(), [conn]);

    let mut desk = Desk::new(Config { max_size: 1, resets: true, ..Config::default() });
    let conn = desk.used(1)[0];
    desk.wait();
    desk.give_back(conn, Condition::Dirty);
    assert_eq!(desk.asked(), [Action::Reset(conn)]);
    desk.ledger.reset(conn, false, desk.now, &mut desk.out);
    assert_eq!(desk.asked(), [Action::Close(conn)]);
}

#[test]
fn room_is_held_until_closed() {
    let mut desk = Desk::new(Config { max_size: 1, ..Config::default() });
    let conn = desk.used(1)[0];
    desk.wait();
    desk.give_back(conn, Condition::Broken);
    assert_eq!(desk.asked(), [Action::Close(conn)], "and no connect beside it");
    desk.closed(conn);
    assert_eq!(desk.connects().len(), 1);
}

#[test]
fn a_surplus_is_opened_for_waiters_and_goes_when_it_comes_back() {
    let mut desk = Desk::new(Config { max_size: 2, burst: 1, min_size: 2, ..Config::default() });
    desk.pass(0.0);
    for conn in desk.connects() {
        desk.connected(conn);
    }
    let held = [desk.take().unwrap(), desk.take().unwrap()];
    assert_eq!(desk.asked(), []);
    let (third, fourth) = (desk.wait(), desk.wait());
    let surplus = desk.connects();
    assert_eq!(surplus.len(), 1, "never above max_size + burst");
    desk.connected(surplus[0]);
    assert_eq!(desk.woken(), [third]);
    desk.give_back(held[0], Condition::Clean);
    assert_eq!(desk.woken(), [fourth], "somebody waits: it is handed over");
    desk.give_back(held[1], Condition::Clean);
    assert_eq!(desk.asked(), [Action::Close(held[1])]);
    let back = desk.got(third);
    desk.give_back(back, Condition::Clean);
    assert_eq!(desk.asked(), []);
}

#[test]
fn a_surplus_lingers() {
    let mut desk = Desk::new(Config { max_size: 1, burst: 1, burst_linger: 2.0, ..Config::default() });
    let conns = desk.idle_by_release(2);
    assert_eq!(desk.ledger.wake_at(), Some(2.0));
    desk.pass(1.0);
    assert_eq!(desk.take(), Some(conns[1]));
    desk.give_back(conns[1], Condition::Clean);
    desk.pass(1.0);
    assert_eq!(desk.asked(), [Action::Close(conns[0])], "the one unused for two seconds");
    desk.pass(100.0);
    assert_eq!(desk.asked(), [], "the other one is no surplus");
}

impl Desk {
    fn idle_by_release(&mut self, count: usize) -> Vec<Conn> {
        let conns = self.used(count);
        for &conn in &conns {
            self.give_back(conn, Condition::Clean);
        }
        assert_eq!(self.asked(), []);
        conns
    }
}

#[test]
fn min_size_is_kept_in_the_background() {
    let mut desk = Desk::new(Config { min_size: 2, max_size: 3, max_idle: 10.0, ..Config::default() });
    desk.pass(0.0);
    let connects = desk.connects();
    assert_eq!(connects.len(), 2);
    desk.connected(connects[0]);
    desk.failed(connects[1]);
    assert_eq!(desk.asked(), [], "not before the next attempt");
    desk.pass(0.1);
    let again = desk.connects();
    desk.connected(again[0]);
    assert_eq!(desk.ledger.counts().idle, 2);
    desk.pass(100.0);
    assert_eq!(desk.asked(), [], "idle for long, but wanted");
    let broken = desk.take().unwrap();
    desk.give_back(broken, Condition::Broken);
    assert!(matches!(desk.asked()[..], [Action::Close(conn), Action::Connect(..)] if conn == broken), "it is replaced");
}

#[test]
fn idle_connections_and_old_ones_go() {
    let mut desk = Desk::new(Config { max_idle: 10.0, max_lifetime: 25.0, jitter: 0.0, ..Config::default() });
    let conns = desk.idle(2);
    desk.pass(6.0);
    assert_eq!(desk.take(), Some(conns[1]));
    assert!(desk.ledger.try_release(conns[1], desk.now));
    desk.pass(4.0);
    assert_eq!(desk.asked(), [Action::Close(conns[0])]);
    desk.closed(conns[0]);
    desk.pass(5.0);
    assert_eq!(desk.take(), Some(conns[1]));
    desk.pass(10.0);
    assert_eq!(desk.asked(), [], "old, but in use");
    assert!(!desk.ledger.try_release(conns[1], desk.now));
    desk.give_back(conns[1], Condition::Clean);
    assert_eq!(desk.asked(), [Action::Close(conns[1])]);
    assert_eq!(desk.ledger.counts().expired, 2);
}

#[test]
fn an_old_one_is_not_handed_out_when_the_timer_is_late() {
    let mut desk = Desk::new(Config { max_lifetime: 5.0, jitter: 0.0, ..Config::default() });
    let conn = desk.idle(1)[0];
    desk.now = 5.0;
    assert_eq!(desk.take(), None);
    desk.wait();
    assert!(matches!(desk.asked()[..], [Action::Close(old), Action::Connect(..)] if old == conn));
}

#[test]
fn lifetimes_of_a_fleet_are_spread() {
    let mut desk = Desk::new(Config { max_size: 100, max_lifetime: 100.0, jitter: 0.05, ..Config::default() });
    desk.idle(100);
    desk.pass(94.99);
    assert_eq!(desk.asked(), [], "never shorter by more than the jitter");
    let mut most = 0;
    for _ in 0..50 {
        desk.pass(0.1002);
        most = most.max(desk.asked().len());
    }
    assert_eq!(desk.ledger.counts().closing, 100);
    assert!(most < 15, "{most} of 100 go in one fiftieth of the time");
}

#[test]
fn a_server_that_is_down_answers_everybody_at_once_and_is_asked_rarely() {
    let mut desk = Desk::new(Config { max_size: 10, ..Config::default() });
    let mut connects = 0;
    let mut answered = 0;
    for _ in 0..1_000 {
        desk.wait_until(desk.ledger.pinned(), desk.now + 30.0);
    }
    while desk.now < 60.0 {
        for action in desk.asked() {
            match action {
                Action::Connect(conn, _) => {
                    connects += 1;
                    desk.failed(conn);
                }
                Action::Wake(number) => {
                    assert_eq!(desk.refusal(number), Refusal::Failed("refused"), "its own error, no timeout");
                    answered += 1;
                    // It tries again at once.
                    desk.wait_until(desk.ledger.pinned(), desk.now + 30.0);
                }
                other => panic!("{other:?}"),
            }
        }
        if desk.out.is_empty() {
            let at = desk.ledger.wake_at().expect("there is a next attempt");
            assert!(at - desk.now <= 5.0, "an answer is never further away than retry_max");
            desk.pass(at - desk.now);
        }
    }
    assert!(answered > 10_000, "{answered}");
    assert!(connects < 80, "{connects} connects in a minute");
}

#[test]
fn connects_that_were_on_their_way_together_are_one_setback() {
    let mut desk = Desk::new(Config { max_size: 10, ..Config::default() });
    for _ in 0..10 {
        desk.wait();
    }
    for conn in desk.connects() {
        desk.failed(conn);
    }
    assert_eq!(desk.woken().len(), 10);
    desk.wait();
    assert_eq!(desk.asked(), []);
    assert!(desk.ledger.wake_at().unwrap() <= 0.1, "not ten times doubled");
}

#[test]
fn one_failure_beside_open_connections_refuses_nobody_two_do() {
    let mut desk = Desk::new(Config { max_size: 2, ..Config::default() });
    let held = desk.used(1)[0];
    let (first, second) = (desk.wait(), desk.wait());
    let connects = desk.connects();
    desk.failed(connects[0]);
    assert_eq!(desk.asked(), [], "something may come back");
    desk.pass(0.1);
    let probe = desk.connects();
    assert_eq!(probe.len(), 1, "one at a time");
    desk.failed(probe[0]);
    assert_eq!(desk.woken(), [first, second]);
    assert_eq!(desk.refusal(first), Refusal::Failed("refused"));
    let third = desk.wait();
    desk.give_back(held, Condition::Clean);
    assert_eq!(desk.woken(), [third]);
}

#[test]
fn after_a_success_everything_is_forgiven() {
    let mut desk = Desk::new(Config { max_size: 3, ..Config::default() });
    desk.wait();
    let connects = desk.connects();
    desk.failed(connects[0]);
    assert_eq!(desk.woken(), [0]);
    for _ in 0..3 {
        desk.wait();
    }
    desk.pass(0.1);
    let probe = desk.connects();
    assert_eq!(probe.len(), 1);
    desk.connected(probe[0]);
    let rest = desk.asked();
    assert!(matches!(rest[..], [Action::Wake(1), Action::Connect(..), Action::Connect(..)]), "{rest:?}");
}

#[test]
fn a_timeout_says_what_would_have_served() {
    let limits = Config { max_size: 1, resets: true, checks: true, check_after: 1.0, ..Config::default() };
    let timeout = |phase| Refusal::Timeout { phase, waited: 5.0 };

    let mut desk = Desk::new(limits.clone());
    let (first, second) = (desk.wait_until(desk.ledger.pinned(), 5.0), desk.wait_until(desk.ledger.pinned(), 5.0));
    let connects = desk.connects();
    desk.pass(5.0);
    assert_eq!(desk.refusal(first), timeout(Phase::Connect));
    assert_eq!(desk.refusal(second), timeout(Phase::Connect), "then it is the first in line");
    desk.connected(connects[0]);
    desk.pass(5.0);
    desk.wait_until(desk.ledger.pinned(), 15.0);
    desk.pass(5.0);
    assert_eq!(desk.refusal(2), timeout(Phase::Check));
    desk.ledger.checked(connects[0], true, desk.now, &mut desk.out);
    let conn = desk.take().unwrap();
    desk.wait_until(desk.ledger.pinned(), 20.0);
    desk.pass(5.0);
    assert_eq!(desk.refusal(3), timeout(Phase::Wait));
    desk.give_back(conn, Condition::Clean);
    desk.wait_until(desk.ledger.pinned(), 25.0);
    desk.pass(5.0);
    assert_eq!(desk.refusal(4), timeout(Phase::Reset));
    assert_eq!(desk.ledger.counts().timeouts, 5);
}

#[test]
fn a_deadline_does_not_take_back_what_was_granted() {
    let mut desk = Desk::new(Config::default());
    desk.wait_until(desk.ledger.pinned(), 5.0);
    let connects = desk.connects();
    desk.connected(connects[0]);
    desk.pass(6.0);
    assert_eq!(desk.got(0), connects[0]);
}

#[test]
fn a_hook_that_hangs_is_written_off_and_its_room_is_free() {
    let limits = Config { max_size: 1, resets: true, checks: true, check_after: 0.0, ..Config::default() };
    let limits = Config { connect_timeout: 3.0, hook_timeout: 3.0, ..limits };

    let mut desk = Desk::new(limits.clone());
    desk.wait();
    let hung = desk.connects()[0];
    desk.pass(3.0);
    assert_eq!(desk.asked(), [Action::Abort(hung, Phase::Connect), Action::Wake(0)]);
    assert_eq!(desk.refusal(0), Refusal::Timeout { phase: Phase::Connect, waited: 3.0 });
    assert!(!desk.ledger.connected(hung, desk.now, &mut desk.out), "too late: it is nobody's");
    desk.wait();
    desk.pass(0.1);
    let conn = desk.connects()[0];
    desk.connected(conn);
    desk.asked();
    desk.got(1);

    desk.give_back(conn, Condition::Clean);
    desk.wait();
    assert_eq!(desk.asked(), [Action::Reset(conn)]);
    desk.pass(3.0);
    assert!(matches!(desk.asked()[..], [Action::Abort(c, Phase::Reset), Action::Connect(..)] if c == conn));
    desk.ledger.reset(conn, true, desk.now, &mut desk.out);
    assert_eq!(desk.asked(), [], "too late");
    let counts = desk.ledger.counts();
    assert_eq!((counts.opened, counts.abandoned, counts.abandoned_connects), (1, 1, 1));

    let mut desk = Desk::new(limits);
    let conn = desk.used(1)[0];
    desk.give_back(conn, Condition::Broken);
    desk.wait();
    desk.asked();
    desk.pass(3.0);
    assert!(matches!(desk.asked()[..], [Action::Abort(c, Phase::Close), Action::Connect(..)] if c == conn));
    desk.closed(conn);
    assert_eq!(desk.ledger.counts().closed, 0, "it counts as abandoned, once");
}

#[test]
fn max_waiting_fails_fast_but_not_beside_room() {
    let mut desk = Desk::new(Config { max_size: 2, max_waiting: Some(1), ..Config::default() });
    desk.wait();
    desk.wait();
    assert_eq!(desk.connects().len(), 2, "a thing could be started for both");
    let pinned = desk.ledger.pinned();
    let refused = desk.ledger.wait(pinned, f64::INFINITY, 0.0, 99, &mut desk.out);
    assert_eq!(refused, Err(Refusal::TooManyWaiting { waiting: 2 }));
    assert_eq!(desk.asked(), []);
}

#[test]
fn a_leak_is_told_once_for_each_use() {
    let mut desk = Desk::new(Config { leak_after: Some(10.0), ..Config::default() });
    let conn = desk.used(1)[0];
    assert_eq!(desk.ledger.wake_at(), Some(10.0));
    desk.pass(10.0);
    assert_eq!(desk.asked(), [Action::Leak(conn, 10.0)]);
    desk.pass(100.0);
    assert_eq!(desk.asked(), []);
    assert!(desk.ledger.try_release(conn, desk.now));
    assert_eq!(desk.take(), Some(conn));
    desk.pass(11.0);
    assert_eq!(desk.asked(), [Action::Leak(conn, 11.0)]);
}

#[test]
fn the_timer_is_not_moved_by_uses() {
    let mut desk = Desk::new(Config { max_idle: 10.0, leak_after: Some(100.0), ..Config::default() });
    desk.idle(1);
    assert_eq!(desk.ledger.alarm(), Some(10.0));
    for turn in 0..1_000 {
        desk.now = f64::from(turn) / 1_000.0;
        let conn = desk.take().unwrap();
        assert_eq!(desk.ledger.alarm(), None);
        assert!(desk.ledger.try_release(conn, desk.now));
        assert_eq!(desk.ledger.alarm(), None);
    }
    desk.pass(10.0 - desk.now);
    assert_eq!(desk.asked(), [], "it was used since");
    assert!(desk.ledger.alarm().is_some_and(|at| at > 10.9));
}

#[test]
fn a_pool_that_was_made_smaller_shrinks_under_load() {
    let mut desk = Desk::new(Config { max_size: 3, ..Config::default() });
    let conns = desk.used(3);
    let waiters: Vec<usize> = (0..4).map(|_| desk.wait()).collect();
    desk.ledger.resize(1, 0, 0, desk.now, &mut desk.out);
    for &conn in &conns[..2] {
        desk.give_back(conn, Condition::Clean);
        assert_eq!(desk.asked(), [Action::Close(conn)], "although others wait");
        desk.closed(conn);
    }
    desk.give_back(conns[2], Condition::Clean);
    assert_eq!(desk.woken(), [waiters[0]]);
    desk.ledger.resize(3, 0, 0, desk.now, &mut desk.out);
    assert_eq!(desk.connects().len(), 2, "more room is used at once");
}

#[test]
fn expire_all_spares_who_is_in_use_until_it_comes_back() {
    let mut desk = Desk::new(Config { max_size: 3, ..Config::default() });
    let conns = desk.idle(2);
    let held = desk.take().unwrap();
    desk.wait();
    let fresh = desk.take();
    assert_eq!(fresh, None);
    desk.ledger.expire_all(desk.now, &mut desk.out);
    desk.give_back(held, Condition::Clean);
    let closes = desk.asked().into_iter().filter(|action| matches!(action, Action::Close(_))).count();
    assert_eq!(closes, 1, "the other one was granted");
    assert_eq!(conns.len(), 2);
    let granted = desk.got(2);
    desk.give_back(granted, Condition::Clean);
    assert!(desk.asked().contains(&Action::Close(granted)));
}

#[test]
fn a_sweep_checks_what_is_idle_and_keeps_nothing_alive() {
    let mut desk = Desk::new(Config { max_idle: 10.0, checks: true, check_after: 100.0, ..Config::default() });
    let conns = desk.idle(2);
    for _ in 0..3 {
        desk.pass(3.0);
        desk.ledger.check_idle(desk.now, &mut desk.out);
        assert_eq!(desk.asked(), [Action::Check(conns[0]), Action::Check(conns[1])]);
        for &conn in &conns {
            desk.ledger.checked(conn, true, desk.now, &mut desk.out);
        }
        assert_eq!(desk.asked(), []);
    }
    assert_eq!(desk.ledger.wake_at(), Some(10.0));
    assert_eq!(desk.take(), Some(conns[1]));
    desk.pass(1.0);
    assert_eq!(desk.asked(), [Action::Close(conns[0])]);
    assert!(desk.ledger.try_release(conns[1], desk.now));
    desk.pass(9.0);
    assert_eq!(desk.asked(), [], "a use counts");
}

#[test]
fn a_waiter_is_served_by_a_sweep() {
    let mut desk = Desk::new(Config { checks: true, max_size: 1, ..Config::default() });
    let conn = desk.idle(1)[0];
    desk.ledger.check_idle(desk.now, &mut desk.out);
    let waiter = desk.wait();
    assert_eq!(desk.asked(), [Action::Check(conn)]);
    desk.ledger.checked(conn, true, desk.now, &mut desk.out);
    assert_eq!(desk.woken(), [waiter]);
}

#[test]
fn what_has_ended_by_itself_is_not_handed_out_again() {
    let mut desk = Desk::new(Config { max_size: 2, ..Config::default() });
    let conns = desk.idle(2);
    assert!(desk.ledger.lost(conns[1], desk.now, &mut desk.out));
    assert_eq!(desk.asked(), [Action::Close(conns[1])]);
    assert!(!desk.ledger.lost(conns[1], desk.now, &mut desk.out), "it is known");
    assert_eq!(desk.take(), Some(conns[0]));
    assert!(desk.ledger.lost(conns[0], desk.now, &mut desk.out));
    assert!(!desk.ledger.try_release(conns[0], desk.now));
    desk.give_back(conns[0], Condition::Clean);
    assert_eq!(desk.asked(), [Action::Close(conns[0])]);
}

#[test]
fn a_drain_serves_the_line_and_lets_nobody_in() {
    let mut desk = Desk::new(Config { max_size: 1, ..Config::default() });
    let conn = desk.used(1)[0];
    let waiter = desk.wait();
    desk.ledger.drain(desk.now, &mut desk.out);
    assert_eq!(desk.take(), None);
    let pinned = desk.ledger.pinned();
    assert_eq!(desk.ledger.wait(pinned, 9.0, desk.now, 9, &mut desk.out), Err(Refusal::Closed));
    desk.give_back(conn, Condition::Clean);
    assert_eq!(desk.woken(), [waiter]);
    let conn = desk.got(waiter);
    desk.give_back(conn, Condition::Clean);
    assert_eq!(desk.asked(), [Action::Close(conn)]);
    desk.closed(conn);
    assert_eq!(desk.asked(), [Action::Drained]);
    desk.ledger.drain(desk.now, &mut desk.out);
    assert_eq!(desk.asked(), [Action::Drained], "whoever asks again is told");
}

#[test]
fn force_refuses_the_line_aborts_users_and_waits_for_hooks() {
    let mut desk = Desk::new(Config { max_size: 4, resets: true, ..Config::default() });
    let conns = desk.used(3);
    desk.give_back(conns[0], Condition::Clean);
    assert_eq!(desk.asked(), [Action::Reset(conns[0])]);
    desk.wait();
    desk.wait();
    let opening = desk.connects()[0];
    desk.give_back(conns[1], Condition::Broken);
    desk.asked();
    desk.ledger.drain(desk.now, &mut desk.out);
    desk.ledger.force(desk.now, &mut desk.out);
    assert_eq!(
        desk.asked(),
        [Action::Wake(3), Action::Wake(4), Action::Abort(conns[2], Phase::Use), Action::Abort(opening, Phase::Connect),]
    );
    assert_eq!(desk.refusal(3), Refusal::Closed);
    assert!(!desk.ledger.release(conns[2], Condition::Clean, desk.now, &mut desk.out), "it is its user's no more");
    desk.ledger.reset(conns[0], true, desk.now, &mut desk.out);
    assert_eq!(desk.asked(), [Action::Close(conns[0])]);
    desk.closed(conns[0]);
    desk.closed(conns[1]);
    assert_eq!(desk.asked(), [Action::Drained]);
}

#[test]
fn force_takes_back_what_was_granted_and_not_taken() {
    let mut desk = Desk::new(Config::default());
    desk.wait();
    let conn = desk.connects()[0];
    desk.connected(conn);
    assert_eq!(desk.woken(), [0]);
    desk.ledger.force(desk.now, &mut desk.out);
    assert_eq!(desk.asked(), [Action::Close(conn)], "nobody has it: it is closed, not aborted");
    assert_eq!(desk.refusal(0), Refusal::Closed);
}

#[test]
fn after_a_fork_nothing_is_remembered_and_the_pool_works() {
    let mut desk = Desk::new(Config { max_size: 2, ..Config::default() });
    let conns = desk.used(1);
    desk.wait();
    let opening = desk.connects()[0];
    assert_eq!(desk.ledger.abandon_all(), [conns[0], opening]);
    assert_eq!(desk.asked(), [], "nothing is done to what is the parent's");
    assert!(!desk.ledger.release(conns[0], Condition::Clean, desk.now, &mut desk.out));
    assert_eq!(desk.refusal(1), Refusal::Closed);
    let fresh = desk.used(2);
    assert!(!fresh.contains(&conns[0]) && !fresh.contains(&opening), "old handles stay stale");
}

// --- many keys -------------------------------------------------------------------------------------------------------

#[test]
fn an_idle_connection_of_a_quiet_key_makes_room_the_one_idle_for_longest_first() {
    let mut desk = Desk::new(Config { max_size: 2, ..Config::default() });
    let (a, b, c) = (desk.ledger.key(), desk.ledger.key(), desk.ledger.key());
    let mut conns = vec![];
    for key in [a, b] {
        let waiter = desk.wait_for(key);
        let conn = desk.connects()[0];
        desk.connected(conn);
        desk.asked();
        desk.got(waiter);
        conns.push(conn);
    }
    assert!(desk.ledger.try_release(conns[1], 1.0));
    assert!(desk.ledger.try_release(conns[0], 2.0));
    desk.now = 3.0;
    desk.wait_for(c);
    assert_eq!(desk.asked(), [Action::Close(conns[1])]);
    desk.closed(conns[1]);
    let actions = desk.asked();
    assert!(matches!(actions[..], [Action::Connect(_, key), Action::Forget(gone)] if key == c && gone == b));
    assert!(!desk.ledger.knows(b));
}

#[test]
fn a_key_has_no_more_than_its_share_of_room() {
    let mut desk = Desk::new(Config { max_size: 10, max_per_key: 2, ..Config::default() });
    let (a, b) = (desk.ledger.key(), desk.ledger.key());
    for _ in 0..5 {
        desk.wait_for(a);
    }
    assert_eq!(desk.connects().len(), 2);
    desk.wait_for(b);
    assert_eq!(desk.connects().len(), 1, "and it stands in nobody's way");
}

/// One hot key whose users come back at once, and quiet ones that come now and then.
#[test]
fn a_hot_key_starves_nobody() {
    for max_size in [1, 2, 5] {
        let mut desk = Desk::new(Config { max_size, ..Config::default() });
        let keys: Vec<KeyId> = (0..8).map(|_| desk.ledger.key()).collect();
        let mut user_of = vec![0; 50];
        for _ in &user_of {
            desk.wait_for(keys[0]);
        }
        let (mut served, mut waiting_since) = (vec![0; keys.len()], vec![None; keys.len()]);
        let mut in_use = std::collections::VecDeque::new();
        let mut longest = 0;
        for turn in 0..4_000 {
            for action in desk.asked() {
                match action {
                    Action::Connect(conn, _) => desk.connected(conn),
                    Action::Close(conn) => desk.closed(conn),
                    Action::Wake(number) => {
                        let key: usize = user_of[number];
                        in_use.push_back((desk.got(number), key));
                        served[key] += 1;
                        if let Some(since) = waiting_since[key].take() {
                            longest = longest.max(turn - since);
                        }
                    }
                    Action::Forget(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            if turn % 10 == 0 {
                let quiet = 1 + turn / 10 % 7;
                if waiting_since[quiet].is_none() && desk.ledger.knows(keys[quiet]) {
                    waiting_since[quiet] = Some(turn);
                    user_of.push(quiet);
                    desk.wait_for(keys[quiet]);
                }
            } else if let Some((conn, key)) = in_use.pop_front() {
                if key == 0 {
                    user_of.push(0);
                    desk.wait_for(keys[0]);
                }
                desk.give_back(conn, Condition::Clean);
            }
        }
        // At most all who came before, hot or quiet, and a close and a connect.
        assert!(longest <= 80, "max_size {max_size}: a quiet key waited for {longest} turns");
        assert!(served[0] > 1_000, "max_size {max_size}: the hot one is served too: {served:?}");
    }
}

#[test]
fn a_million_keys_leave_nothing_behind() {
    let keys = if std::env::var_os("LOOPWRIGHT_STRESS").is_some() { 1_000_000 } else { 200_000 };
    let mut desk = Desk::new(Config { max_size: 10, max_idle: 5.0, ..Config::default() });
    let before = resident();
    for turn in 0..keys {
        let key = desk.ledger.key();
        let waiter = desk.tickets.len();
        let ticket = desk.ledger.wait(key, f64::INFINITY, desk.now, waiter, &mut desk.out).expect("it is let in");
        let mut got = None;
        while !desk.out.is_empty() {
            for action in desk.out.drain().collect::<Vec<_>>() {
                match action {
                    Action::Connect(conn, _) if turn % 16 == 0 => desk.failed(conn),
                    Action::Connect(conn, _) => desk.connected(conn),
                    Action::Close(conn) => desk.closed(conn),
                    Action::Wake(_) => {
                        if let Resumed::Got(conn) = desk.ledger.resume(ticket) {
                            got = Some(conn);
                        }
                    }
                    _ => {}
                }
            }
        }
        if let Some(conn) = got {
            desk.give_back(conn, Condition::Clean);
        }
        desk.now += 0.001;
        if turn % 1_000 == 0 {
            desk.pass(0.0);
        }
    }
    assert!(desk.ledger.counts().keys < 2_000, "the failures of the last seconds are remembered");
    desk.pass(100.0);
    desk.pass(100.0);
    for action in desk.asked() {
        if let Action::Close(conn) = action {
            desk.closed(conn);
        }
    }
    assert_eq!(desk.ledger.counts().keys, 1);
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
}

/// How much memory this process has.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).map_or(0, |pages| pages.parse::<usize>().expect("pages") * 4096)
}

#[test]
fn a_hundred_thousand_waiters_are_no_slower_each_than_a_few() {
    let count = 100_000;
    let mut desk = Desk::new(Config { max_size: 10, ..Config::default() });
    let mut held = desk.used(10);
    for number in 0..count {
        desk.wait_until(desk.ledger.pinned(), 1_000.0 + f64::from(number % 1_000));
    }
    let mut served = 0;
    for number in (10..10 + count as usize).step_by(3) {
        desk.leave(number);
        served += 1;
    }
    while served < count {
        let conn = held.pop().expect("one is granted for one given back");
        desk.give_back(conn, Condition::Clean);
        for action in desk.out.drain() {
            let Action::Wake(number) = action else { panic!("{action:?}") };
            let Resumed::Got(conn) = desk.ledger.resume(desk.tickets[number]) else { panic!("{number}") };
            held.push(conn);
            served += 1;
        }
    }
    assert_eq!(desk.ledger.counts().waiting, 0);
    desk.ledger.audit(desk.now);
}

// --- shared connections ----------------------------------------------------------------------------------------------

#[test]
fn askers_share_one_connect_and_cancelling_one_fails_no_other() {
    let mut desk = Desk::new(Config { max_shares: u32::MAX, ..Config::default() });
    let waiters: Vec<usize> = (0..5).map(|_| desk.wait()).collect();
    let connects = desk.connects();
    assert_eq!(connects.len(), 1);
    desk.leave(waiters[0]);
    desk.connected(connects[0]);
    assert_eq!(desk.woken(), waiters[1..]);
    desk.leave(waiters[1]);
    for &waiter in &waiters[2..] {
        assert_eq!(desk.got(waiter), connects[0]);
    }
    assert_eq!(desk.ledger.users(connects[0]), 3);
    assert_eq!(desk.take(), Some(connects[0]));
}

#[test]
fn a_shared_connection_has_no_more_users_than_max_shares() {
    let mut desk = Desk::new(Config { max_shares: 2, max_size: 2, ..Config::default() });
    for _ in 0..5 {
        desk.wait();
    }
    let first = desk.connects()[0];
    desk.connected(first);
    let actions = desk.asked();
    assert!(
        matches!(actions[..], [Action::Wake(0), Action::Wake(1), Action::Connect(..)]),
        "one at a time: {actions:?}"
    );
    let Action::Connect(second, _) = actions[2] else { unreachable!() };
    desk.connected(second);
    assert_eq!(desk.woken(), [2, 3]);
    desk.got(0);
    desk.give_back(first, Condition::Dirty);
    assert_eq!(desk.woken(), [4], "another user works in it: dirty means nothing");
}

#[test]
fn a_shared_connection_is_never_closed_under_a_user() {
    let mut desk = Desk::new(Config { max_shares: 8, max_lifetime: 10.0, jitter: 0.0, ..Config::default() });
    desk.wait();
    let conn = desk.connects()[0];
    desk.connected(conn);
    desk.asked();
    desk.got(0);
    assert_eq!(desk.take(), Some(conn));
    assert_eq!(desk.take(), Some(conn));
    desk.give_back(conn, Condition::Broken);
    assert_eq!(desk.asked(), []);
    assert_eq!(desk.take(), None, "but it gets no new users");
    desk.wait();
    let other = desk.connects()[0];
    assert!(desk.ledger.release(conn, Condition::Clean, 0.0, &mut desk.out));
    assert_eq!(desk.asked(), []);
    desk.give_back(conn, Condition::Clean);
    assert_eq!(desk.asked(), [Action::Close(conn)], "when the last has left");

    desk.connected(other);
    desk.asked();
    desk.got(1);
    desk.pass(10.0);
    assert_eq!(desk.asked(), [], "old, and in use");
    assert_eq!(desk.take(), None, "no new users for an old one");
}

#[test]
fn the_last_release_starts_the_idle_clock_of_a_shared_one() {
    let mut desk = Desk::new(Config { max_shares: 8, max_idle: 10.0, ..Config::default() });
    desk.wait();
    let conn = desk.connects()[0];
    desk.connected(conn);
    desk.asked();
    desk.got(0);
    desk.take();
    assert!(desk.ledger.try_release(conn, 0.0));
    assert_eq!(desk.ledger.state(conn), Some(State::InUse));
    desk.pass(50.0);
    assert_eq!(desk.asked(), []);
    assert!(desk.ledger.try_release(conn, desk.now));
    desk.pass(9.0);
    assert_eq!(desk.asked(), []);
    desk.pass(1.0);
    assert_eq!(desk.asked(), [Action::Close(conn)]);
}

// --- the table of states ---------------------------------------------------------------------------------------------

#[test]
fn every_state_is_left_and_nothing_is_twice_in_the_table() {
    for state in State::ALL {
        assert!(TRANSITIONS.iter().any(|row| row.0 == Some(state)), "nothing leaves {state:?}");
        assert!(TRANSITIONS.iter().any(|row| row.2 == Some(state)), "nothing leads to {state:?}");
        let given_up = |row: &&Transition| row.0 == Some(state) && row.2.is_none();
        assert!(state == State::Idle || TRANSITIONS.iter().any(|row| given_up(&row)), "{state:?} cannot be given up");
    }
    for (at, row) in TRANSITIONS.iter().enumerate() {
        assert!(!TRANSITIONS[..at].contains(row), "{row:?}");
    }
}

/// `LOOPWRIGHT_WRITE=1` writes it anew.
#[test]
fn the_picture_in_the_documentation_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/pool-states.md");
    let page = format!("```mermaid\n{}```\n", mermaid());
    if std::env::var_os("LOOPWRIGHT_WRITE").is_some() {
        std::fs::write(path, &page).expect("it can be written");
    }
    assert_eq!(std::fs::read_to_string(path).expect("it is there"), page, "LOOPWRIGHT_WRITE=1 writes it anew");
}
