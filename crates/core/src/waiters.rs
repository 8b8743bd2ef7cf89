//! Waiters: a FIFO line of weighted tickets, each of which can leave at any time.
//!
//! This is the one place in Loopwright where something is reserved for a waiter, and so the one place where
//! "granted, then cancelled in the same turn" is decided. The rule, the same for permits, items, slots and
//! connections: **a grant is a reservation, the transfer happens when the waiter resumes.** A ticket lives through
//!
//! ```text
//! join ──> Waiting ──grant_front──> Granted ──resume──> gone, the transfer is the caller's to make
//!             │  └────refuse_front──> Refused ──resume──> gone, the wait ended without anything
//!             └─────────leave──────────┴──leave──> gone, and `Left` says what has to be handed on
//! ```
//!
//! Lives here: order, reservation, O(1) departure from anywhere in the line (a doubly linked list threaded through a
//! slab, so that a cancelled waiter leaves no tombstone behind). Does not live here: what is being waited for, and how
//! a waiter is woken (`W`, the waker, is stored and handed back untouched).

const NONE: u32 = u32::MAX;

/// A waiter's place in one [`Waiters`]. Stale tickets are recognised: no call with one has any effect. The default is one.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    index: u32,
    serial: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Vacant,
    Waiting,
    Granted,
    Refused,
}

#[derive(Debug)]
struct Slot<W> {
    waker: Option<W>,
    weight: u64,
    /// Neighbours in the line while `Waiting`; `next` is the free list's link while `Vacant`.
    prev: u32,
    next: u32,
    serial: u32,
    state: State,
}

/// What a resuming waiter finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// Its reservation, of this weight, is now the caller's to transfer.
    Granted(u64),
    /// The wait is over and there is nothing to have (the queue was shut down, say).
    Refused,
    /// It was not woken: it still stands in line (or the ticket is stale).
    Waiting,
}

/// What a waiter that leaves had at that moment.
#[derive(Debug, PartialEq, Eq)]
pub enum Left<W> {
    /// Its place in line only.
    Place(W),
    /// A reservation of this weight, which now belongs to nobody: hand it on.
    Reservation(u64),
    /// Nothing: it was refused, had resumed, or the ticket is stale.
    Nothing,
}

/// The wakers that an event set free, in the order in which they must run. Holds one without allocating.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a waker that is dropped is a waiter that sleeps for ever"]
pub struct Wakes<W> {
    first: Option<W>,
    rest: Vec<W>,
}

impl<W> Default for Wakes<W> {
    fn default() -> Self {
        Self { first: None, rest: Vec::new() }
    }
}

impl<W> Wakes<W> {
    /// Adds a waker behind the others.
    pub fn push(&mut self, waker: W) {
        if self.first.is_none() {
            self.first = Some(waker);
        } else {
            self.rest.push(waker);
        }
    }

    /// Whether nobody has to be woken.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl<W> IntoIterator for Wakes<W> {
    type Item = W;
    type IntoIter = std::iter::Chain<std::option::IntoIter<W>, std::vec::IntoIter<W>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.rest)
    }
}

impl<W> Extend<W> for Wakes<W> {
    fn extend<I: IntoIterator<Item = W>>(&mut self, wakers: I) {
        for waker in wakers {
            self.push(waker);
        }
    }
}

impl<W> FromIterator<W> for Wakes<W> {
    fn from_iter<I: IntoIterator<Item = W>>(wakers: I) -> Self {
        let mut wakers = wakers.into_iter();
        Self { first: wakers.next(), rest: wakers.collect() }
    }
}

/// The line. See the module's documentation for a ticket's life.
#[derive(Debug)]
pub struct Waiters<W> {
    slots: Vec<Slot<W>>,
    head: u32,
    tail: u32,
    free: u32,
    /// Tickets alive: waiting, granted or refused.
    live: usize,
    waiting: usize,
    granted: usize,
    reserved: u64,
    serial: u32,
}

/// A crowd larger than this gives its memory back once the last of it has gone.
const KEPT_SLOTS: usize = 1024;

impl<W> Default for Waiters<W> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            head: NONE,
            tail: NONE,
            free: NONE,
            live: 0,
            waiting: 0,
            granted: 0,
            reserved: 0,
            serial: 0,
        }
    }
}

impl<W> Waiters<W> {
    /// Waiters that stand in line, not counting those already granted something.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Waiters that were granted something and have not resumed yet.
    pub fn granted(&self) -> usize {
        self.granted
    }

    /// Total weight of the grants that have not been transferred yet.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// The weight of the first in line.
    pub fn front(&self) -> Option<u64> {
        (self.head != NONE).then(|| self.slots[self.head as usize].weight)
    }

    /// Joins the end of the line.
    pub fn join(&mut self, weight: u64, waker: W) -> Ticket {
        let index = if self.free == NONE {
            let index = u32::try_from(self.slots.len()).ok().filter(|&i| i != NONE).expect("over 4 billion waiters");
            self.slots.push(Slot { waker: None, weight: 0, prev: NONE, next: NONE, serial: 0, state: State::Vacant });
            index
        } else {
            let index = self.free;
            self.free = self.slots[index as usize].next;
            index
        };
        let tail = self.tail;
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        self.slots[index as usize] =
            Slot { waker: Some(waker), weight, prev: tail, next: NONE, serial, state: State::Waiting };
        if tail == NONE {
            self.head = index;
        } else {
            self.slots[tail as usize].next = index;
        }
        self.tail = index;
        self.waiting += 1;
        self.live += 1;
        Ticket { index, serial }
    }

    /// Reserves for the first in line what it asked for, and gives the waker to run.
    pub fn grant_front(&mut self) -> Option<W> {
        let index = self.head;
        let waker = self.take_front(State::Granted)?;
        self.granted += 1;
        self.reserved += self.slots[index as usize].weight;
        Some(waker)
    }

    /// Ends the wait of the first in line with nothing, and gives the waker to run.
    pub fn refuse_front(&mut self) -> Option<W> {
        self.take_front(State::Refused)
    }

    /// Grants the first in line as long as `wants` says so of its weight.
    pub fn grant_while(&mut self, mut wants: impl FnMut(u64) -> bool) -> Wakes<W> {
        let mut wakes = Wakes::default();
        while self.front().is_some_and(&mut wants) {
            wakes.push(self.grant_front().expect("the line has a front"));
        }
        wakes
    }

    /// Refuses everybody in line. Reservations already made stand.
    pub fn refuse_all(&mut self) -> Wakes<W> {
        std::iter::from_fn(|| self.refuse_front()).collect()
    }

    /// Turns every grant that has not been transferred into a refusal (what was reserved has been destroyed).
    pub fn revoke_all(&mut self) {
        for slot in &mut self.slots {
            if slot.state == State::Granted {
                slot.state = State::Refused;
            }
        }
        self.granted = 0;
        self.reserved = 0;
    }

    /// What a waiter asked for, whether it was granted or still stands in line; 0 once it has gone.
    pub fn weight(&self, ticket: Ticket) -> u64 {
        if self.state(ticket) == State::Vacant { 0 } else { self.slots[ticket.index as usize].weight }
    }

    /// The weight reserved for a granted ticket.
    pub fn granted_weight(&self, ticket: Ticket) -> Option<u64> {
        (self.state(ticket) == State::Granted).then(|| self.slots[ticket.index as usize].weight)
    }

    /// The waiter runs again. Unless it is still [`Resumed::Waiting`], its ticket is used up.
    pub fn resume(&mut self, ticket: Ticket) -> Resumed {
        match self.state(ticket) {
            State::Granted => Resumed::Granted(self.vacate_granted(ticket.index)),
            State::Refused => {
                self.vacate(ticket.index);
                Resumed::Refused
            }
            State::Waiting | State::Vacant => Resumed::Waiting,
        }
    }

    /// The waiter runs again, finds that its turn was no promise (an unfair line), and goes back to the *front*.
    ///
    /// # Errors
    /// Gives the waker back when the ticket holds no grant.
    pub fn rejoin_front(&mut self, ticket: Ticket, waker: W) -> Result<(), W> {
        if self.state(ticket) != State::Granted {
            return Err(waker);
        }
        let index = ticket.index;
        let head = self.head;
        let slot = &mut self.slots[index as usize];
        slot.state = State::Waiting;
        slot.waker = Some(waker);
        slot.prev = NONE;
        slot.next = head;
        self.granted -= 1;
        self.reserved -= slot.weight;
        if head == NONE {
            self.tail = index;
        } else {
            self.slots[head as usize].prev = index;
        }
        self.head = index;
        self.waiting += 1;
        Ok(())
    }

    /// The waiter was cancelled, closed or dropped. Its ticket is used up.
    pub fn leave(&mut self, ticket: Ticket) -> Left<W> {
        match self.state(ticket) {
            State::Waiting => {
                self.unlink(ticket.index);
                let waker = self.slots[ticket.index as usize].waker.take().expect("a waiting slot has a waker");
                self.vacate(ticket.index);
                Left::Place(waker)
            }
            State::Granted => Left::Reservation(self.vacate_granted(ticket.index)),
            State::Refused => {
                self.vacate(ticket.index);
                Left::Nothing
            }
            State::Vacant => Left::Nothing,
        }
    }

    /// The wakers in line, first to last.
    pub fn wakers(&self) -> impl Iterator<Item = &W> {
        std::iter::successors((self.head != NONE).then_some(self.head), |&index| {
            let next = self.slots[index as usize].next;
            (next != NONE).then_some(next)
        })
        .filter_map(|index| self.slots[index as usize].waker.as_ref())
    }

    fn state(&self, ticket: Ticket) -> State {
        match self.slots.get(ticket.index as usize) {
            Some(slot) if slot.serial == ticket.serial => slot.state,
            _ => State::Vacant,
        }
    }

    fn take_front(&mut self, state: State) -> Option<W> {
        let index = self.head;
        if index == NONE {
            return None;
        }
        self.unlink(index);
        let slot = &mut self.slots[index as usize];
        slot.state = state;
        slot.waker.take()
    }

    fn unlink(&mut self, index: u32) {
        let Slot { prev, next, .. } = self.slots[index as usize];
        if prev == NONE {
            self.head = next;
        } else {
            self.slots[prev as usize].next = next;
        }
        if next == NONE {
            self.tail = prev;
        } else {
            self.slots[next as usize].prev = prev;
        }
        self.waiting -= 1;
    }

    fn vacate_granted(&mut self, index: u32) -> u64 {
        let weight = self.slots[index as usize].weight;
        self.granted -= 1;
        self.reserved -= weight;
        self.vacate(index);
        weight
    }

    fn vacate(&mut self, index: u32) {
        let free = self.free;
        let slot = &mut self.slots[index as usize];
        slot.state = State::Vacant;
        slot.next = free;
        self.free = index;
        self.live -= 1;
        if self.live == 0 && self.slots.len() > KEPT_SLOTS {
            self.slots = Vec::new();
            self.free = NONE;
        }
    }
}
