//! `Scope` against a naive one: the limit holds, spawners are served in order, nobody sleeps beside a free slot, the
//! exit ends exactly when everybody has, and the parent is un-cancelled as often as it was cancelled.

use loopwright_core::scope::{Actions, Ended, Outcome, Policy, Refusal, Scope, Slot};
use loopwright_core::waiters::{Ticket, Wakes};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    /// `create_task`
    Create,
    /// `spawn`: take a slot, or join the line.
    Spawn,
    /// A woken spawner runs, in any order.
    Resume(usize),
    /// Any spawner, woken or not, is cancelled.
    CancelSpawner(usize),
    /// A child that was admitted could not be started.
    NotStarted,
    ChildWell,
    ChildCancelled,
    ChildFailed,
    ChildFatal,
    /// `cancel()`
    Cancel,
    /// A CancelledError arrives at the waiting exit (from outside).
    Interrupt,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Create),
        6 => Just(Event::Spawn),
        5 => any::<usize>().prop_map(Event::Resume),
        3 => any::<usize>().prop_map(Event::CancelSpawner),
        1 => Just(Event::NotStarted),
        5 => Just(Event::ChildWell),
        2 => Just(Event::ChildCancelled),
        1 => Just(Event::ChildFailed),
        1 => Just(Event::ChildFatal),
        1 => Just(Event::Cancel),
        1 => Just(Event::Interrupt),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Spawner(usize),
    Exit,
}

/// The same rules, told as lists.
struct Pair {
    real: Scope<Who, u32>,
    policy: Policy,
    limit: usize,
    alive: usize,
    line: Vec<usize>,
    woken: Vec<usize>,
    refused: Vec<usize>,
    tickets: Vec<Ticket>,
    stopping: bool,
    exiting: bool,
    exit: Option<Ticket>,
    exit_woken: bool,
    /// Cancels that the parent got from us, and from others.
    own_cancels: usize,
    outer_cancels: usize,
    won: bool,
    errors: Vec<u32>,
    fatal: Option<u32>,
    next_error: u32,
}

impl Pair {
    fn new(policy: Policy, limit: usize) -> Self {
        let mut real = Scope::new(policy, limit);
        assert_eq!(real.admit(), Err(Refusal::NotEntered));
        let entered = real.enter().expect("it is fresh");
        assert!(!entered.stop_children && !entered.cancel_parent && entered.wakes.is_empty());
        assert!(real.enter().is_none(), "entered twice");
        Self {
            real,
            policy,
            limit,
            alive: 0,
            line: vec![],
            woken: vec![],
            refused: vec![],
            tickets: vec![],
            stopping: false,
            exiting: false,
            exit: None,
            exit_woken: false,
            own_cancels: 0,
            outer_cancels: 0,
            won: false,
            errors: vec![],
            fatal: None,
            next_error: 0,
        }
    }

    fn refusal(&self) -> Option<Refusal> {
        if self.exiting && self.alive + self.woken.len() == 0 {
            Some(Refusal::Over)
        } else if self.stopping {
            Some(Refusal::Stopping)
        } else if self.alive + self.woken.len() >= self.limit {
            Some(Refusal::Full(self.alive))
        } else {
            None
        }
    }

    /// Who has to be woken now, in order.
    fn serve(&mut self) -> Vec<Who> {
        let mut wakes = Vec::new();
        while !self.line.is_empty() && self.alive + self.woken.len() < self.limit {
            let who = self.line.remove(0);
            self.woken.push(who);
            wakes.push(Who::Spawner(who));
        }
        if self.alive + self.woken.len() == 0 && self.exit.is_some() && !self.exit_woken {
            self.exit_woken = true;
            wakes.push(Who::Exit);
        }
        wakes
    }

    fn stop(&mut self) -> Vec<Who> {
        self.stopping = true;
        let mut wakes: Vec<Who> = self
            .line
            .drain(..)
            .map(|who| {
                self.refused.push(who);
                Who::Spawner(who)
            })
            .collect();
        wakes.extend(self.serve());
        wakes
    }

    fn check_wakes(&mut self, wakes: Wakes<Who>, expected: Vec<Who>) -> Result<(), TestCaseError> {
        prop_assert_eq!(wakes.into_iter().collect::<Vec<_>>(), expected);
        self.check_state()
    }

    /// `stop`: whether the event stops the scope; `cancel`: whether by way of the parent.
    fn check(&mut self, actions: Actions<Who>, stop: bool, cancel: bool) -> Result<(), TestCaseError> {
        let stop = stop && !self.stopping;
        prop_assert_eq!(actions.stop_children, stop);
        prop_assert_eq!(actions.cancel_parent, stop && cancel);
        self.own_cancels += usize::from(stop && cancel);
        let expected = if stop { self.stop() } else { self.serve() };
        self.check_wakes(actions.wakes, expected)
    }

    fn check_state(&self) -> Result<(), TestCaseError> {
        let real = &self.real;
        prop_assert_eq!(real.alive(), self.alive);
        prop_assert_eq!(real.waiting(), self.line.len() + self.woken.len());
        prop_assert_eq!(real.is_stopping(), self.stopping);
        prop_assert!(self.alive + self.woken.len() <= self.limit, "over the limit");
        prop_assert!(self.line.is_empty() || self.alive + self.woken.len() == self.limit, "a slot lies idle");
        prop_assert!(self.own_cancels <= 1, "the parent was cancelled twice");
        prop_assert_eq!(real.owes_uncancel(), self.own_cancels == 1);
        prop_assert_eq!(real.is_empty(), self.alive + self.woken.len() == 0);
        if self.exit.is_some() && !self.exit_woken {
            prop_assert!(!real.is_empty(), "the exit sleeps beside an empty scope");
        }
        Ok(())
    }

    fn error(&mut self) -> u32 {
        self.next_error += 1;
        self.next_error
    }

    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match *event {
            Event::Create => {
                let expected = self.refusal().map_or(Ok(()), Err);
                prop_assert_eq!(self.real.admit(), expected);
                self.alive += usize::from(expected.is_ok());
                self.check_state()
            }
            Event::Spawn => {
                let expected = self.refusal();
                match self.real.admit() {
                    Ok(()) => {
                        prop_assert_eq!(expected, None);
                        self.alive += 1;
                    }
                    Err(Refusal::Full(alive)) => {
                        prop_assert_eq!(expected, Some(Refusal::Full(alive)));
                        let who = self.tickets.len();
                        self.tickets.push(self.real.wait(Who::Spawner(who)));
                        self.line.push(who);
                    }
                    Err(refusal) => prop_assert_eq!(expected, Some(refusal)),
                }
                self.check_state()
            }
            Event::Resume(at) if !self.woken.is_empty() || !self.refused.is_empty() => {
                let at = at % (self.woken.len() + self.refused.len());
                if at >= self.woken.len() {
                    let who = self.refused.remove(at - self.woken.len());
                    let (slot, wakes) = self.real.resume(self.tickets[who]);
                    prop_assert_eq!(slot, Slot::Refused(Refusal::Stopping));
                    return self.check_wakes(wakes, vec![]);
                }
                let who = self.woken.remove(at);
                let (slot, wakes) = self.real.resume(self.tickets[who]);
                if self.stopping {
                    prop_assert_eq!(slot, Slot::Refused(Refusal::Stopping));
                } else {
                    prop_assert_eq!(slot, Slot::Yours);
                    self.alive += 1;
                }
                let expected = self.serve();
                self.check_wakes(wakes, expected)
            }
            Event::CancelSpawner(who) if !self.tickets.is_empty() => {
                let who = who % self.tickets.len();
                self.line.retain(|&other| other != who);
                self.refused.retain(|&other| other != who);
                self.woken.retain(|&other| other != who);
                let wakes = self.real.leave(self.tickets[who]);
                let expected = self.serve();
                self.check_wakes(wakes, expected)
            }
            Event::NotStarted if self.alive > 0 => {
                self.alive -= 1;
                let wakes = self.real.not_started();
                let expected = self.serve();
                self.check_wakes(wakes, expected)
            }
            Event::ChildWell if self.alive > 0 => {
                self.alive -= 1;
                let actions = self.real.ended(Ended::Well);
                let wins = self.policy == Policy::FirstSuccess && !self.stopping;
                prop_assert_eq!(actions.won, wins);
                self.won |= wins;
                self.check(actions, wins, false)
            }
            Event::ChildCancelled if self.alive > 0 => {
                self.alive -= 1;
                let actions = self.real.ended(Ended::Cancelled);
                self.check(actions, false, false)
            }
            Event::ChildFailed if self.alive > 0 => {
                self.alive -= 1;
                let error = self.error();
                self.errors.push(error);
                let actions = self.real.ended(Ended::Failed(error));
                self.check(actions, self.policy == Policy::FirstFailure, true)
            }
            Event::ChildFatal if self.alive > 0 => {
                self.alive -= 1;
                let error = self.error();
                if self.fatal.is_none() {
                    self.fatal = Some(error);
                } else {
                    self.errors.push(error);
                }
                let actions = self.real.ended(Ended::Fatal(error));
                self.check(actions, true, true)
            }
            Event::Cancel => {
                let late = self.exiting && self.alive + self.woken.len() == 0;
                let actions = self.real.cancel();
                self.check(actions, !late, true)
            }
            Event::Interrupt if self.exit.is_some() && !self.exit_woken => {
                self.outer_cancels += 1;
                let actions = self.real.interrupt();
                self.check(actions, true, false)
            }
            _ => Ok(()),
        }
    }

    /// The body ends and the exit waits.
    fn leave_body(&mut self, how: u8) -> Result<Option<u32>, TestCaseError> {
        self.exiting = true;
        // A body that we cancelled ends cancelled too.
        let cancelled = how == 1 || (how == 0 && self.own_cancels > 0);
        let body = (how == 2).then(|| self.error());
        self.outer_cancels += usize::from(how == 1);
        let actions = self.real.close_body(cancelled, body.is_some(), None);
        self.check(actions, cancelled || body.is_some(), false)?;
        let (ticket, wakes) = self.real.wait_for_all(Who::Exit);
        self.exit = Some(ticket);
        let expected = self.serve();
        self.check_wakes(wakes, expected)?;
        Ok(body)
    }

    /// Everybody ends, the block is left.
    fn run_out(&mut self, body: Option<u32>) -> Result<(), TestCaseError> {
        for _ in 0..10_000 {
            if !self.woken.is_empty() || !self.refused.is_empty() {
                self.apply(&Event::Resume(0))?;
            } else if self.alive > 0 {
                self.apply(&Event::ChildCancelled)?;
            } else {
                break;
            }
        }
        prop_assert!(self.exit_woken, "the exit sleeps for ever");
        prop_assert!(self.real.resume_exit(self.exit.expect("it waits")));
        prop_assert_eq!(self.real.waiting(), 0);
        let remaining = self.real.owes_uncancel().then_some(self.outer_cancels);
        let (outcome, rest) = self.real.finish(remaining, body);
        let raised = if let Outcome::Errors(errors) = &outcome { errors.len() } else { 0 };
        let fatal = usize::from(matches!(outcome, Outcome::Fatal(_)));
        prop_assert_eq!((raised + rest.len() + fatal) as u32, self.next_error, "an error is gone");
        let cancelled = self.outer_cancels > 0;
        let errors: Vec<u32> = self.errors.iter().copied().chain(body).collect();
        if let Some(fatal) = self.fatal {
            prop_assert_eq!(outcome, Outcome::Fatal(fatal));
        } else if self.policy == Policy::FirstSuccess && cancelled {
            prop_assert_eq!(outcome, Outcome::Cancelled, "the race swallowed a cancel");
        } else if self.policy == Policy::FirstSuccess && body.is_none() && self.won {
            prop_assert_eq!(outcome, Outcome::Quiet);
        } else if !errors.is_empty() {
            prop_assert!(matches!(outcome, Outcome::Errors(_)), "errors were lost: {outcome:?}");
            if self.policy == Policy::FirstFailure {
                prop_assert_eq!(outcome, Outcome::Errors(errors));
            }
        } else if cancelled {
            prop_assert_eq!(outcome, Outcome::Cancelled, "the group swallowed a cancel");
        } else {
            prop_assert_eq!(outcome, Outcome::Quiet);
        }
        prop_assert!(self.real.is_over());
        prop_assert_eq!(self.real.admit(), Err(Refusal::Over));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn agrees_with_the_naive_one(
        race: bool,
        limit in prop_oneof![1_usize..4, Just(usize::MAX)],
        before in prop::collection::vec(event(), 0..50),
        how in 0_u8..3,
        after in prop::collection::vec(event(), 0..50),
    ) {
        let policy = if race { Policy::FirstSuccess } else { Policy::FirstFailure };
        let mut pair = Pair::new(policy, limit);
        for event in &before {
            pair.apply(event)?;
        }
        let body = pair.leave_body(how)?;
        for event in &after {
            pair.apply(event)?;
        }
        pair.run_out(body)?;
    }
}

#[test]
fn cancel_before_the_entry_takes_effect_at_the_entry() {
    let mut scope: Scope<(), ()> = Scope::new(Policy::FirstFailure, usize::MAX);
    assert!(!scope.cancel().cancel_parent);
    let actions = scope.enter().expect("fresh");
    assert!(actions.cancel_parent && actions.stop_children);
    assert_eq!(scope.admit(), Err(Refusal::Stopping));
}

#[test]
fn a_cancel_that_has_not_come_out_yet_owes_a_turn() {
    let mut scope: Scope<&str, ()> = Scope::new(Policy::FirstFailure, usize::MAX);
    let _ = scope.enter();
    assert!(!scope.owes_turn());
    assert!(scope.cancel().cancel_parent);
    let _ = scope.close_body(false, false, None);
    assert!(scope.owes_turn());
    let (ticket, wakes) = scope.wait_for_all("exit");
    assert_eq!(wakes.into_iter().collect::<Vec<_>>(), ["exit"], "an empty scope lets its exit go at once");
    assert!(scope.resume_exit(ticket));
    scope.turn_passed();
    assert!(!scope.owes_turn());
    assert_eq!(scope.finish(Some(0), None).0, Outcome::Quiet);
}

#[test]
fn a_child_that_could_not_start_gives_its_slot_to_the_next_in_line() {
    let mut scope: Scope<&str, ()> = Scope::new(Policy::FirstFailure, 1);
    let _ = scope.enter();
    assert_eq!(scope.admit(), Ok(()));
    assert_eq!(scope.admit(), Err(Refusal::Full(1)));
    let ticket = scope.wait("spawner");
    assert_eq!(scope.not_started().into_iter().collect::<Vec<_>>(), ["spawner"]);
    assert_eq!(scope.resume(ticket).0, Slot::Yours);
}
