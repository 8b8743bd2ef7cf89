//! `offload`: permits against naive books, calls and threads against a naive queue.

use loopwright_core::offload::{Crew, KINDS, Ledger, Parting, Rouse, Work};
use loopwright_core::waiters::{Ticket, Wakes};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    /// `offload(on=kind)`: begin, or join the line.
    Ask(usize),
    /// A woken caller runs.
    Resume(usize),
    /// A caller in line, woken or not, is cancelled.
    Leave(usize),
    /// The caller of a running call is cancelled.
    Abandon(usize),
    /// A call ends, abandoned or not.
    End(usize),
    Limit(u64),
    Cap(usize, Option<u64>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..KINDS).prop_map(Event::Ask),
        5 => any::<usize>().prop_map(Event::Resume),
        3 => any::<usize>().prop_map(Event::Leave),
        3 => any::<usize>().prop_map(Event::Abandon),
        6 => any::<usize>().prop_map(Event::End),
        1 => (1_u64..6).prop_map(Event::Limit),
        1 => ((0..KINDS), proptest::option::of(1_u64..4)).prop_map(|(kind, cap)| Event::Cap(kind, cap)),
    ]
}

/// Lists, and everything recomputed at every event.
struct Pair {
    real: Ledger<usize>,
    limit: u64,
    caps: [Option<u64>; KINDS],
    /// (who, kind), in order of arrival.
    line: Vec<(usize, usize)>,
    woken: Vec<(usize, usize)>,
    /// (kind, abandoned)
    running: Vec<(usize, bool)>,
    tickets: Vec<Ticket>,
}

impl Pair {
    fn new(limit: u64, caps: [Option<u64>; KINDS]) -> Self {
        let real = Ledger::new(limit, caps);
        Self { real, limit, caps, line: vec![], woken: vec![], running: vec![], tickets: vec![] }
    }

    fn used(&self, kind: usize) -> u64 {
        let woken = self.woken.iter().filter(|woken| woken.1 == kind).count();
        (woken + self.running.iter().filter(|running| running.0 == kind).count()) as u64
    }

    fn has_room(&self, kind: usize) -> bool {
        let all = (self.woken.len() + self.running.len()) as u64;
        all < self.limit && self.caps[kind].is_none_or(|cap| self.used(kind) < cap)
    }

    fn check(&mut self, wakes: Wakes<usize>) -> Result<(), TestCaseError> {
        let mut expected = vec![];
        while let Some(at) = self.line.iter().position(|&(_, kind)| self.has_room(kind)) {
            let first = self.line.remove(at);
            self.woken.push(first);
            expected.push(first.0);
        }
        prop_assert_eq!(wakes.into_iter().collect::<Vec<_>>(), expected);
        for kind in 0..KINDS {
            prop_assert_eq!(self.real.used(kind), self.used(kind));
            let waiting = self.line.iter().chain(&self.woken).filter(|(_, other)| *other == kind).count();
            prop_assert_eq!(self.real.waiting(kind), waiting);
            let abandoned = self.running.iter().filter(|running| **running == (kind, true)).count() as u64;
            prop_assert_eq!(self.real.abandoned(kind), abandoned);
        }
        Ok(())
    }

    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let mut wakes = Wakes::default();
        match *event {
            Event::Ask(kind) => {
                let free = self.has_room(kind);
                prop_assert_eq!(self.real.try_begin(kind), free);
                if free {
                    self.running.push((kind, false));
                } else {
                    let who = self.tickets.len();
                    self.tickets.push(self.real.wait(kind, who));
                    self.line.push((who, kind));
                }
            }
            Event::Resume(at) if !self.woken.is_empty() => {
                let (who, kind) = self.woken.remove(at % self.woken.len());
                prop_assert!(self.real.begin(kind, self.tickets[who]));
                prop_assert!(!self.real.begin(kind, self.tickets[who]), "a permit was handed out twice");
                self.running.push((kind, false));
            }
            Event::Leave(at) if !self.line.is_empty() || !self.woken.is_empty() => {
                let at = at % (self.line.len() + self.woken.len());
                let (who, kind) =
                    if at < self.line.len() { self.line.remove(at) } else { self.woken.remove(at - self.line.len()) };
                wakes = self.real.leave(kind, self.tickets[who]);
            }
            Event::Abandon(at) if self.running.iter().any(|running| !running.1) => {
                let running: Vec<usize> = (0..self.running.len()).filter(|&at| !self.running[at].1).collect();
                let at = running[at % running.len()];
                self.real.abandon(self.running[at].0);
                self.running[at].1 = true;
            }
            Event::End(at) if !self.running.is_empty() => {
                let (kind, abandoned) = self.running.remove(at % self.running.len());
                wakes = self.real.end(kind, abandoned);
            }
            Event::Limit(limit) => {
                self.limit = limit;
                wakes = self.real.set_limit(limit);
            }
            Event::Cap(kind, cap) => {
                self.caps[kind] = cap;
                wakes = self.real.set_cap(kind, cap);
            }
            _ => {}
        }
        self.check(wakes)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn a_permit_belongs_to_the_work_and_goes_to_whoever_came_first(
        limit in 1_u64..5,
        caps in proptest::array::uniform4(proptest::option::of(1_u64..4)),
        events in proptest::collection::vec(event(), 0..120),
    ) {
        let mut pair = Pair::new(limit, caps);
        for event in &events {
            pair.apply(event)?;
        }
        while !pair.woken.is_empty() || !pair.running.is_empty() {
            pair.apply(&Event::Resume(0))?;
            pair.apply(&Event::End(0))?;
        }
        prop_assert!(pair.line.is_empty(), "callers sleep beside free permits");
    }

    /// Threads as they are: each step of one is an event of its own, in any order.
    #[test]
    fn a_call_in_the_queue_always_has_a_thread_on_its_way(
        events in proptest::collection::vec((0..4_u8, any::<usize>()), 0..150),
    ) {
        let mut crew = Crew::default();
        let (mut queue, mut asleep, mut roused, mut working) = (0_usize, 0_usize, 0_usize, 0_usize);
        let rouse = |rouse: Rouse, asleep: &mut usize, roused: &mut usize| match rouse {
            Rouse::Nobody => {}
            Rouse::Wake => {
                *asleep -= 1;
                *roused += 1;
            }
            Rouse::Start => *roused += 1,
        };
        for (event, _) in events {
            match event {
                0 => {
                    queue += 1;
                    rouse(crew.offered(), &mut asleep, &mut roused);
                }
                1 if roused > 0 => {
                    roused -= 1;
                    if queue > 0 {
                        queue -= 1;
                        working += 1;
                        rouse(crew.took(true, queue > 0), &mut asleep, &mut roused);
                    } else {
                        asleep += 1;
                        crew.sleeps(true);
                    }
                }
                2 if working > 0 => {
                    if queue > 0 {
                        queue -= 1;
                        rouse(crew.took(false, queue > 0), &mut asleep, &mut roused);
                    } else {
                        working -= 1;
                        asleep += 1;
                        crew.sleeps(false);
                    }
                }
                3 if asleep > 0 => {
                    asleep -= 1;
                    crew.retires();
                }
                _ => {}
            }
            prop_assert!(roused <= 1, "threads fight for the queue");
            prop_assert!(queue == 0 || roused == 1, "calls wait, and nobody is on the way");
            prop_assert_eq!((crew.asleep(), crew.alive()), (asleep, asleep + roused + working));
        }
    }
}

#[test]
fn what_leaving_means_depends_on_how_far_the_work_has_come() {
    let mut new = Work::New;
    assert_eq!((new.left(), new), (Parting::Withdrawn, Work::Ended));

    let mut queued = Work::New;
    queued.admitted();
    assert_eq!(queued.left(), Parting::Withdrawn);
    assert!(!queued.taken(), "withdrawn work began");

    let mut running = Work::New;
    running.admitted();
    assert!(running.taken());
    assert_eq!(running.left(), Parting::Abandoned);
    assert_eq!(running.left(), Parting::TooLate);
    assert_eq!((running.ended(), running.ended()), (Some(true), None));

    let mut whole = Work::New;
    whole.admitted();
    assert!(whole.taken());
    assert_eq!(whole.ended(), Some(false));
    assert_eq!(whole.left(), Parting::TooLate);
}
