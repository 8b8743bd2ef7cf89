//! `Waiters` against a list that is searched from the front: same answers, same order, every waker back exactly once.

use loopwright_core::waiters::{Left, Resumed, Ticket, Waiters, Wakes};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    Join(u64),
    GrantFront,
    GrantWhile(u64),
    RefuseFront,
    RefuseAll,
    RevokeAll,
    Resume(usize),
    RejoinFront(usize),
    Leave(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0_u64..5).prop_map(Event::Join),
        4 => Just(Event::GrantFront),
        2 => (0_u64..12).prop_map(Event::GrantWhile),
        1 => Just(Event::RefuseFront),
        1 => Just(Event::RefuseAll),
        1 => Just(Event::RevokeAll),
        4 => any::<usize>().prop_map(Event::Resume),
        3 => any::<usize>().prop_map(Event::RejoinFront),
        4 => any::<usize>().prop_map(Event::Leave),
    ]
}

/// Where a ticket is, in the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Granted,
    Refused,
    Gone,
}

#[derive(Default)]
struct Reference {
    /// Index into `tickets`, first to last.
    line: Vec<usize>,
    /// Of those not in line.
    place: Vec<Place>,
    weight: Vec<u64>,
    tickets: Vec<Ticket>,
}

impl Reference {
    fn in_line(&self, who: usize) -> bool {
        self.line.contains(&who)
    }

    fn at(&self, who: usize, place: Place) -> bool {
        !self.in_line(who) && self.place[who] == place
    }

    fn pop(&mut self, to: Place) -> Option<usize> {
        if self.line.is_empty() {
            return None;
        }
        let who = self.line.remove(0);
        self.place[who] = to;
        Some(who)
    }

    fn count(&self, place: Place) -> usize {
        (0..self.tickets.len()).filter(|&who| self.at(who, place)).count()
    }
}

fn ids(wakes: Wakes<usize>) -> Vec<usize> {
    wakes.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn agrees_with_a_list(events in prop::collection::vec(event(), 1..80)) {
        let mut line = Waiters::<usize>::default();
        let mut reference = Reference::default();
        for event in events {
            let known = reference.tickets.len();
            match event {
                Event::Join(weight) => {
                    reference.tickets.push(line.join(weight, known));
                    reference.place.push(Place::Gone);
                    reference.weight.push(weight);
                    reference.line.push(known);
                }
                Event::GrantFront => prop_assert_eq!(line.grant_front(), reference.pop(Place::Granted)),
                Event::GrantWhile(budget) => {
                    let mut left = budget;
                    let woken = ids(line.grant_while(|weight| {
                        let enough = weight <= left;
                        left -= if enough { weight } else { 0 };
                        enough
                    }));
                    let mut left = budget;
                    let mut expected = Vec::new();
                    while let Some(&who) = reference.line.first() && reference.weight[who] <= left {
                        left -= reference.weight[who];
                        expected.extend(reference.pop(Place::Granted));
                    }
                    prop_assert_eq!(woken, expected);
                }
                Event::RefuseFront => prop_assert_eq!(line.refuse_front(), reference.pop(Place::Refused)),
                Event::RefuseAll => {
                    let expected: Vec<_> = std::iter::from_fn(|| reference.pop(Place::Refused)).collect();
                    prop_assert_eq!(ids(line.refuse_all()), expected);
                }
                Event::RevokeAll => {
                    line.revoke_all();
                    for place in &mut reference.place {
                        if *place == Place::Granted {
                            *place = Place::Refused;
                        }
                    }
                }
                Event::Resume(who) if known > 0 => {
                    let who = who % known;
                    let expected = match reference.place[who] {
                        _ if reference.in_line(who) => Resumed::Waiting,
                        Place::Granted => Resumed::Granted(reference.weight[who]),
                        Place::Refused => Resumed::Refused,
                        Place::Gone => Resumed::Waiting,
                    };
                    prop_assert_eq!(line.resume(reference.tickets[who]), expected);
                    reference.place[who] = Place::Gone;
                }
                Event::RejoinFront(who) if known > 0 => {
                    let who = who % known;
                    let granted = reference.at(who, Place::Granted);
                    prop_assert_eq!(line.rejoin_front(reference.tickets[who], who), if granted { Ok(()) } else { Err(who) });
                    if granted {
                        reference.place[who] = Place::Gone;
                        reference.line.insert(0, who);
                    }
                }
                Event::Leave(who) if known > 0 => {
                    let who = who % known;
                    let expected = match reference.place[who] {
                        _ if reference.in_line(who) => Left::Place(who),
                        Place::Granted => Left::Reservation(reference.weight[who]),
                        Place::Refused | Place::Gone => Left::Nothing,
                    };
                    prop_assert_eq!(line.leave(reference.tickets[who]), expected);
                    reference.line.retain(|&other| other != who);
                    reference.place[who] = Place::Gone;
                }
                Event::Resume(_) | Event::RejoinFront(_) | Event::Leave(_) => {}
            }
            prop_assert_eq!(line.waiting(), reference.line.len());
            prop_assert_eq!(line.granted(), reference.count(Place::Granted));
            let reserved: u64 =
                (0..reference.tickets.len()).filter(|&w| reference.at(w, Place::Granted)).map(|w| reference.weight[w]).sum();
            prop_assert_eq!(line.reserved(), reserved);
            prop_assert_eq!(line.front(), reference.line.first().map(|&who| reference.weight[who]));
            prop_assert_eq!(line.wakers().copied().collect::<Vec<_>>(), reference.line.clone());
        }
    }
}

#[test]
fn a_crowd_gives_its_memory_back_and_its_old_tickets_stay_stale() {
    let mut line = Waiters::default();
    let crowd: Vec<_> = (0..5000).map(|id| line.join(1, id)).collect();
    for &ticket in &crowd {
        assert!(matches!(line.leave(ticket), Left::Place(_)));
    }
    let next = line.join(7, 5000);
    for ticket in crowd {
        assert_eq!(line.leave(ticket), Left::Nothing);
        assert_eq!(line.resume(ticket), Resumed::Waiting);
    }
    assert_eq!(line.grant_front(), Some(5000));
    assert_eq!(line.resume(next), Resumed::Granted(7));
}
