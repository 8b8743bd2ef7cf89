//! A family of tokens against a naive list of parents.

use std::sync::Arc;

use loopwright_core::token::{Family, Token};
use loopwright_core::waiters::Ticket;
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Clone, Debug)]
enum Op {
    Root,
    Child(Index),
    Cancel(Index),
    Release(Index),
    Wait(Index),
    Leave(Index),
    Resume(Index),
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<Index>;
    prop_oneof![
        1 => Just(Op::Root),
        5 => index().prop_map(Op::Child),
        1 => index().prop_map(Op::Cancel),
        3 => index().prop_map(Op::Release),
        4 => index().prop_map(Op::Wait),
        2 => index().prop_map(Op::Leave),
        2 => index().prop_map(Op::Resume),
    ]
}

#[derive(Default)]
struct Naive {
    parent: Option<usize>,
    held: bool,
    reason: Option<String>,
}

struct Waiter {
    token: usize,
    ticket: Ticket,
    woken: bool,
}

#[derive(Default)]
struct Harness {
    family: Family<usize>,
    tokens: Vec<Option<Token>>,
    model: Vec<Naive>,
    waiters: Vec<Option<Waiter>>,
}

impl Harness {
    fn add(&mut self, token: Token, parent: Option<usize>) {
        let reason = parent.and_then(|parent| self.model[parent].reason.clone());
        self.tokens.push(Some(token));
        self.model.push(Naive { parent, held: true, reason });
    }

    fn is_below(&self, mut token: usize, above: usize) -> bool {
        loop {
            if token == above {
                return true;
            }
            match self.model[token].parent {
                Some(parent) => token = parent,
                None => return false,
            }
        }
    }

    fn held(&self, index: Index) -> Option<usize> {
        let held: Vec<usize> = (0..self.model.len()).filter(|&i| self.model[i].held).collect();
        (!held.is_empty()).then(|| *index.get(&held))
    }

    fn waiter(&self, index: Index) -> Option<usize> {
        let live: Vec<usize> = (0..self.waiters.len()).filter(|&i| self.waiters[i].is_some()).collect();
        (!live.is_empty()).then(|| *index.get(&live))
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Root => {
                let token = self.family.root();
                self.add(token, None);
            }
            Op::Child(index) => {
                let Some(parent) = self.held(index) else { return };
                let token = self.family.child(self.tokens[parent].as_ref().unwrap());
                self.add(token, Some(parent));
            }
            Op::Cancel(index) => {
                let Some(target) = self.held(index) else { return };
                let reason = format!("cancel of {target}");
                let wakes = self.family.cancel(self.tokens[target].as_ref().unwrap(), Some(Arc::from(&*reason)));
                assert_eq!(wakes.is_none(), self.model[target].reason.is_some(), "the first cancel only");
                let fresh: Vec<usize> = (0..self.model.len())
                    .filter(|&token| self.is_below(token, target) && self.model[token].reason.is_none())
                    .collect();
                let mut woken: Vec<usize> = wakes.into_iter().flatten().collect();
                woken.sort_unstable();
                let mut expected = Vec::new();
                for (id, waiter) in self.waiters.iter_mut().enumerate() {
                    if let Some(waiter) = waiter.as_mut().filter(|waiter| fresh.contains(&waiter.token)) {
                        waiter.woken = true;
                        expected.push(id);
                    }
                }
                assert_eq!(woken, expected, "everybody below is woken, once, and nobody else");
                for token in fresh {
                    self.model[token].reason = Some(reason.clone());
                }
            }
            Op::Release(index) => {
                let Some(target) = self.held(index) else { return };
                if self.waiters.iter().flatten().any(|waiter| waiter.token == target) {
                    return; // a waiter holds its token
                }
                self.model[target].held = false;
                assert!(self.family.release(self.tokens[target].take().unwrap()).is_empty());
            }
            Op::Wait(index) => {
                let Some(token) = self.held(index) else { return };
                let handle = self.tokens[token].as_ref().unwrap();
                if !self.family.is_cancelled(handle) {
                    let ticket = self.family.wait(handle, self.waiters.len());
                    self.waiters.push(Some(Waiter { token, ticket, woken: false }));
                }
            }
            Op::Leave(index) => {
                let Some(id) = self.waiter(index) else { return };
                let waiter = self.waiters[id].take().unwrap();
                let left = self.family.leave(self.tokens[waiter.token].as_ref().unwrap(), waiter.ticket);
                assert_eq!(left, (!waiter.woken).then_some(id));
            }
            Op::Resume(index) => {
                let Some(id) = self.waiter(index) else { return };
                let Waiter { token, ticket, woken } = *self.waiters[id].as_ref().unwrap();
                assert_eq!(self.family.resume(self.tokens[token].as_ref().unwrap(), ticket), woken);
                if woken {
                    self.waiters[id] = None;
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        let needed = (0..self.model.len())
            .filter(|&token| (0..self.model.len()).any(|other| self.model[other].held && self.is_below(other, token)))
            .count();
        assert_eq!(self.family.len(), needed, "what nobody can reach is gone");
        for (token, model) in self.model.iter().enumerate().filter(|(_, model)| model.held) {
            let handle = self.tokens[token].as_ref().unwrap();
            assert_eq!(self.family.is_cancelled(handle), model.reason.is_some());
            assert_eq!(self.family.reason(handle).as_deref(), model.reason.as_deref());
            let waiting = self.waiters.iter().flatten().filter(|waiter| waiter.token == token).count();
            assert_eq!(self.family.waiting(handle), waiting);
            let in_line = self.waiters.iter().enumerate();
            let in_line: Vec<usize> = in_line
                .filter(|(_, waiter)| waiter.as_ref().is_some_and(|waiter| waiter.token == token && !waiter.woken))
                .map(|(id, _)| id)
                .collect();
            assert_eq!(self.family.wakers(handle).copied().collect::<Vec<_>>(), in_line);
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_a_list_of_parents(ops in prop::collection::vec(op(), 1..60)) {
        let mut harness = Harness::default();
        harness.apply(Op::Root);
        for op in ops {
            harness.apply(op);
        }
    }
}

#[test]
fn never_the_other_way() {
    let mut family = Family::<()>::default();
    let parent = family.root();
    let (child, sibling) = (family.child(&parent), family.child(&parent));
    assert!(family.cancel(&child, None).is_some());
    assert!(!family.is_cancelled(&parent) && !family.is_cancelled(&sibling));
}

#[test]
fn a_child_of_a_cancelled_token_is_cancelled_for_its_parents_reason() {
    let mut family = Family::<()>::default();
    let parent = family.root();
    assert!(family.cancel(&parent, Some(Arc::from("why"))).is_some());
    let child = family.child(&parent);
    assert_eq!(family.reason(&child).as_deref(), Some("why"));
    assert!(family.cancel(&child, Some(Arc::from("late"))).is_none());
    assert_eq!(family.reason(&child).as_deref(), Some("why"));
}

#[test]
fn a_cancel_gets_through_a_middle_that_nobody_holds() {
    let mut family = Family::default();
    let top = family.root();
    let middle = family.child(&top);
    let bottom = family.child(&middle);
    let _ticket = family.wait(&bottom, "bottom");
    assert!(family.release(middle).is_empty());
    let wakes = family.cancel(&top, None).expect("the first cancel");
    assert_eq!(wakes.into_iter().collect::<Vec<_>>(), ["bottom"]);
    assert_eq!(family.release(bottom), Vec::<&str>::new());
    assert_eq!(family.len(), 1, "and the middle goes with its last child");
}

#[test]
fn children_do_not_pile_up_and_no_depth_overflows_the_stack() {
    let mut family = Family::<()>::default();
    let parent = family.root();
    for _ in 0..100_000 {
        let child = family.child(&parent);
        family.release(child);
    }
    assert_eq!(family.len(), 1);
    let mut deepest = family.child(&parent);
    for _ in 0..200_000 {
        let next = family.child(&deepest);
        family.release(deepest);
        deepest = next;
    }
    assert_eq!(family.len(), 200_002);
    assert!(family.cancel(&parent, None).is_some());
    assert!(family.is_cancelled(&deepest));
    family.release(deepest);
    assert_eq!(family.len(), 1);
}
