//! `Queue`, with a deque as its store, against a naive queue: items got + items left = items put, in order, whoever is
//! cancelled when; nobody sleeps beside an item or a free place; `join` is exact; a shutdown ends every wait.

use std::collections::VecDeque;

use loopwright_core::queue::{Denied, DoneTooOften, Queue, Turn};
use loopwright_core::waiters::{Ticket, Wakes};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    Put,
    /// The store refuses the item (a comparison in a heap raises).
    PutBadItem,
    Get,
    /// The store raises instead of giving an item.
    GetBadly,
    Join,
    /// A woken waiter runs, in any order.
    Resume(usize),
    /// The same, and its store operation fails.
    ResumeBadly(usize),
    /// Any waiter, woken or not, is cancelled.
    Cancel(usize),
    TaskDone,
    Shutdown(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        120 => Just(Event::Put),
        10 => Just(Event::PutBadItem),
        100 => Just(Event::Get),
        10 => Just(Event::GetBadly),
        20 => Just(Event::Join),
        100 => any::<usize>().prop_map(Event::Resume),
        15 => any::<usize>().prop_map(Event::ResumeBadly),
        80 => any::<usize>().prop_map(Event::Cancel),
        60 => Just(Event::TaskDone),
        2 => any::<bool>().prop_map(Event::Shutdown),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Put,
    Get,
    Join,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InLine,
    Granted,
    Refused,
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    role: Role,
    state: State,
    item: u32,
    ticket: Ticket,
}

struct Pair {
    real: Queue<usize>,
    /// What the binding keeps.
    store: VecDeque<u32>,
    // The reference: one list of everybody who ever waited, searched from the front.
    maxsize: usize,
    everybody: Vec<Waiter>,
    unfinished: usize,
    shut_down: bool,
    // History.
    put: Vec<u32>,
    got: Vec<u32>,
    drained: Vec<u32>,
    next_item: u32,
}

impl Pair {
    fn new(maxsize: usize) -> Self {
        Self {
            real: Queue::new((maxsize > 0).then_some(maxsize)),
            store: VecDeque::new(),
            maxsize,
            everybody: vec![],
            unfinished: 0,
            shut_down: false,
            put: vec![],
            got: vec![],
            drained: vec![],
            next_item: 0,
        }
    }

    // --- the reference -------------------------------------------------------------------------------------------

    fn who(&self, role: Role, state: State) -> Vec<usize> {
        (0..self.everybody.len())
            .filter(|&w| (self.everybody[w].role, self.everybody[w].state) == (role, state))
            .collect()
    }

    fn size(&self) -> usize {
        self.store.len() + self.who(Role::Put, State::Granted).len()
    }

    fn full(&self) -> bool {
        self.maxsize > 0 && self.size() >= self.maxsize
    }

    fn available(&self) -> usize {
        self.store.len() - self.who(Role::Get, State::Granted).len()
    }

    fn wake(&mut self, role: Role, state: State, woken: &mut Vec<usize>) -> bool {
        let first = self.who(role, State::InLine).first().copied();
        if let Some(who) = first {
            self.everybody[who].state = state;
            woken.push(who);
        }
        first.is_some()
    }

    fn serve(&mut self) -> Vec<usize> {
        let mut woken = Vec::new();
        while self.available() > 0 && self.wake(Role::Get, State::Granted, &mut woken) {}
        while self.shut_down && self.store.is_empty() && self.wake(Role::Get, State::Refused, &mut woken) {}
        while !self.shut_down && !self.full() && self.wake(Role::Put, State::Granted, &mut woken) {}
        woken
    }

    // --- both --------------------------------------------------------------------------------------------------------

    fn woken(&self, wakes: Wakes<usize>, expected: &[usize]) -> Result<(), TestCaseError> {
        prop_assert_eq!(wakes.into_iter().collect::<Vec<_>>(), expected);
        self.check()
    }

    fn serve_both(&mut self, wakes: Wakes<usize>) -> Result<(), TestCaseError> {
        let expected = self.serve();
        self.woken(wakes, &expected)
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let Self { real, .. } = self;
        prop_assert_eq!(real.stored(), self.store.len());
        prop_assert_eq!(real.size(), self.size());
        prop_assert_eq!(real.available(), self.available());
        prop_assert_eq!(real.is_full(), self.full());
        prop_assert_eq!(real.unfinished(), self.unfinished);
        let line = |role| self.who(role, State::InLine);
        prop_assert_eq!(real.getters(), line(Role::Get).len());
        prop_assert_eq!(real.putters(), line(Role::Put).len());
        prop_assert_eq!(real.joiners(), line(Role::Join).len());
        let wakers = [line(Role::Get), line(Role::Put), line(Role::Join)].concat();
        prop_assert_eq!(real.wakers().copied().collect::<Vec<_>>(), wakers);

        if self.maxsize > 0 {
            prop_assert!(real.size() <= self.maxsize, "above maxsize");
        }
        prop_assert!(real.getters() == 0 || real.available() == 0, "a getter sleeps beside an item");
        prop_assert!(real.putters() == 0 || real.is_full(), "a putter sleeps beside a free place");
        prop_assert!(real.joiners() == 0 || real.unfinished() > 0, "a joiner sleeps though all is done");
        prop_assert!(!self.shut_down || real.putters() == 0, "a putter sleeps through a shutdown");
        prop_assert!(!self.shut_down || !self.store.is_empty() || real.getters() == 0, "a getter sleeps on nothing");

        let out = [self.got.clone(), self.drained.clone(), self.store.iter().copied().collect()].concat();
        prop_assert_eq!(&out, &self.put, "got + drained + left, in order, is what was put");
        Ok(())
    }

    fn join_line(&mut self, role: Role, item: u32, wait: impl FnOnce(&mut Queue<usize>, usize) -> Ticket) {
        let who = self.everybody.len();
        let ticket = wait(&mut self.real, who);
        self.everybody.push(Waiter { role, state: State::InLine, item, ticket });
    }

    fn store(&mut self, slot: loopwright_core::queue::Slot, item: u32, fails: bool) -> Result<(), TestCaseError> {
        let wakes = if fails {
            self.real.put_failed(slot)
        } else {
            self.store.push_back(item);
            self.put.push(item);
            self.unfinished += 1;
            self.real.put_done(slot)
        };
        self.serve_both(wakes)
    }

    fn take(&mut self, claim: loopwright_core::queue::Claim, fails: bool) -> Result<(), TestCaseError> {
        let wakes = if fails {
            self.real.get_failed(claim)
        } else {
            self.got.push(self.store.pop_front().expect("a claim is for an item"));
            self.real.get_done(claim)
        };
        self.serve_both(wakes)
    }

    fn new_put(&mut self, fails: bool) -> Result<(), TestCaseError> {
        let item = self.next_item;
        self.next_item += 1;
        match self.real.try_put() {
            Ok(slot) => {
                prop_assert!(!self.shut_down && !self.full());
                self.store(slot, item, fails)
            }
            Err(Denied::ShutDown) => {
                prop_assert!(self.shut_down);
                self.check()
            }
            Err(Denied::NotNow) => {
                prop_assert!(!self.shut_down && self.full());
                self.join_line(Role::Put, item, |real, who| real.wait_put(who));
                self.check()
            }
        }
    }

    fn new_get(&mut self, fails: bool) -> Result<(), TestCaseError> {
        match self.real.try_get() {
            Ok(claim) => {
                prop_assert!(self.available() > 0);
                self.take(claim, fails)
            }
            Err(Denied::ShutDown) => {
                prop_assert!(self.shut_down && self.store.is_empty());
                self.check()
            }
            Err(Denied::NotNow) => {
                prop_assert!(self.available() == 0 && !(self.shut_down && self.store.is_empty()));
                self.join_line(Role::Get, 0, |real, who| real.wait_get(who));
                self.check()
            }
        }
    }

    fn awake(&self) -> Vec<usize> {
        (0..self.everybody.len())
            .filter(|&who| matches!(self.everybody[who].state, State::Granted | State::Refused))
            .collect()
    }

    fn resume(&mut self, who: usize, fails: bool) -> Result<(), TestCaseError> {
        let Waiter { role, state, item, ticket } = self.everybody[who];
        let granted = state == State::Granted;
        self.everybody[who].state = State::Gone;
        match role {
            Role::Put => match self.real.resume_put(ticket) {
                Turn::Yours(slot) if granted => self.store(slot, item, fails),
                turn => {
                    prop_assert_eq!((turn, granted), (Turn::ShutDown, false));
                    self.check()
                }
            },
            Role::Get => match self.real.resume_get(ticket) {
                Turn::Yours(claim) if granted => self.take(claim, fails),
                turn => {
                    prop_assert_eq!((turn, granted), (Turn::ShutDown, false));
                    self.check()
                }
            },
            Role::Join => {
                prop_assert_eq!(self.real.resume_join(ticket), Turn::Yours(()));
                self.check()
            }
        }
    }

    fn finish(&mut self) -> Vec<usize> {
        let mut woken = Vec::new();
        while self.unfinished == 0 && self.wake(Role::Join, State::Granted, &mut woken) {}
        woken
    }

    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match *event {
            Event::Put => self.new_put(false),
            Event::PutBadItem => self.new_put(true),
            Event::Get => self.new_get(false),
            Event::GetBadly => self.new_get(true),
            Event::Join => {
                let who = self.everybody.len();
                match self.real.wait_join(who) {
                    Err(back) => prop_assert_eq!((back, self.unfinished), (who, 0)),
                    Ok(ticket) => {
                        self.everybody.push(Waiter { role: Role::Join, state: State::InLine, item: 0, ticket });
                    }
                }
                self.check()
            }
            Event::Resume(at) | Event::ResumeBadly(at) => {
                let awake = self.awake();
                if awake.is_empty() {
                    return Ok(());
                }
                self.resume(awake[at % awake.len()], matches!(event, Event::ResumeBadly(_)))
            }
            Event::Cancel(at) if !self.everybody.is_empty() => {
                // In line, woken, refused, or long gone (then nothing may happen).
                let who = at % self.everybody.len();
                let Waiter { role, ticket, .. } = self.everybody[who];
                self.everybody[who].state = State::Gone;
                match role {
                    Role::Put => {
                        let wakes = self.real.leave_put(ticket);
                        self.serve_both(wakes)
                    }
                    Role::Get => {
                        let wakes = self.real.leave_get(ticket);
                        self.serve_both(wakes)
                    }
                    Role::Join => {
                        self.real.leave_join(ticket);
                        self.check()
                    }
                }
            }
            Event::Cancel(_) => Ok(()),
            Event::TaskDone => match self.real.task_done() {
                Err(DoneTooOften) => {
                    prop_assert_eq!(self.unfinished, 0);
                    self.check()
                }
                Ok(wakes) => {
                    self.unfinished -= 1;
                    let expected = self.finish();
                    self.woken(wakes, &expected)
                }
            },
            Event::Shutdown(immediate) => {
                let shutdown = self.real.shutdown(immediate);
                self.shut_down = true;
                let mut expected = Vec::new();
                for waiter in &mut self.everybody {
                    if waiter.state == State::Granted
                        && (waiter.role == Role::Put || (waiter.role == Role::Get && immediate))
                    {
                        waiter.state = State::Refused;
                    }
                }
                if immediate {
                    prop_assert_eq!(shutdown.drain, self.store.len());
                    self.unfinished = self.unfinished.saturating_sub(self.store.len());
                    self.drained.extend(self.store.drain(..));
                    expected = self.finish();
                } else {
                    prop_assert_eq!(shutdown.drain, 0);
                }
                expected.extend(self.serve());
                while self.wake(Role::Put, State::Refused, &mut expected) {}
                self.woken(shutdown.wakes, &expected)
            }
        }
    }

    /// Consumers come until everything is through: everybody who waits is served or refused.
    fn run_out(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..10_000 {
            if let Some(&who) = self.awake().first() {
                self.resume(who, false)?;
            } else if self.real.available() > 0 {
                self.new_get(false)?;
            } else if self.unfinished > 0 {
                self.apply(&Event::TaskDone)?;
            } else if !self.shut_down {
                self.apply(&Event::Shutdown(false))?;
            } else {
                break;
            }
        }
        prop_assert!(!self.real.is_awaited(), "somebody waits for ever");
        prop_assert_eq!(self.got.len() + self.drained.len(), self.put.len());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn agrees_with_the_naive_one(maxsize in 0_usize..4, events in prop::collection::vec(event(), 1..100)) {
        let mut pair = Pair::new(maxsize);
        for event in &events {
            pair.apply(event)?;
        }
        pair.run_out()?;
    }

    /// The store merges equal items (a set), so it holds less than was put: nobody gets an item that is not there,
    /// nobody sleeps beside one that is.
    #[test]
    fn a_store_that_merges_items(events in prop::collection::vec((0_u32..3, 0_usize..4, any::<usize>()), 1..80)) {
        let mut queue = Queue::<usize>::new(Some(2));
        let mut store = std::collections::BTreeSet::new();
        let mut tickets: Vec<Option<Ticket>> = vec![];
        let mut awake: Vec<usize> = vec![];
        for (item, event, at) in events {
            match event {
                0 | 1 => {
                    if let Ok(slot) = queue.try_put() {
                        store.insert(item);
                        awake.extend(queue.put_counted(slot, true, store.len()));
                    }
                }
                2 => match queue.try_get() {
                    Ok(claim) => {
                        prop_assert!(store.pop_first().is_some());
                        awake.extend(queue.get_counted(claim, store.len()));
                    }
                    Err(denied) => {
                        prop_assert_eq!(denied, Denied::NotNow);
                        tickets.push(Some(queue.wait_get(tickets.len())));
                    }
                },
                _ if !awake.is_empty() => {
                    let who = awake.remove(at % awake.len());
                    let ticket = tickets[who].expect("a waiter is woken once");
                    match queue.resume_get(ticket) {
                        Turn::Yours(claim) => {
                            prop_assert!(store.pop_first().is_some(), "a claim is for an item");
                            awake.extend(queue.get_counted(claim, store.len()));
                            tickets[who] = None;
                        }
                        Turn::NotYet => awake.extend(queue.get_again(ticket, who).expect("it was woken")),
                        Turn::ShutDown => prop_assert!(false, "nobody shut it down"),
                    }
                }
                _ => {}
            }
            prop_assert_eq!(queue.stored(), store.len());
            prop_assert!(queue.getters() == 0 || queue.available() == 0, "a getter sleeps beside an item");
        }
    }
}

#[test]
fn a_getter_waits_out_a_shutdown_while_its_item_may_still_come() {
    let mut queue = Queue::new(None);
    let first = queue.wait_get("first");
    let second = queue.wait_get("second");
    let slot = queue.try_put().unwrap();
    assert_eq!(queue.put_done(slot).into_iter().collect::<Vec<_>>(), ["first"]);
    let shutdown = queue.shutdown(false);
    assert!(shutdown.wakes.is_empty(), "the item is promised to the first, who may be cancelled");
    assert_eq!(queue.leave_get(first).into_iter().collect::<Vec<_>>(), ["second"]);
    let Turn::Yours(claim) = queue.resume_get(second) else { panic!("the item is lost") };
    assert!(queue.get_done(claim).is_empty());
    assert_eq!(queue.try_get(), Err(Denied::ShutDown));
}

#[test]
fn a_cancelled_get_leaves_the_order_alone() {
    let mut queue = Queue::new(None);
    let mut store = VecDeque::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| queue.wait_get(name));
    for item in [1, 2] {
        let slot = queue.try_put().unwrap();
        store.push_back(item);
        assert_eq!(queue.put_done(slot).into_iter().count(), 1);
    }
    assert_eq!(queue.leave_get(a).into_iter().collect::<Vec<_>>(), ["c"]);
    for (ticket, item) in [(b, 1), (c, 2)] {
        let Turn::Yours(claim) = queue.resume_get(ticket) else { panic!("woken for nothing") };
        assert_eq!(store.pop_front(), Some(item));
        assert!(queue.get_done(claim).is_empty());
    }
}
