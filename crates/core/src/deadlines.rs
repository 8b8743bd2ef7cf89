//! Deadlines: every timeout, sleep and idle limit of one event loop in one heap, behind one timer of that loop.
//!
//! [`Deadlines`] is the heap: indexed, so that a deadline leaves from anywhere in it in O(log n) and at once (no
//! tombstone is left to be popped later), ordered by time and, at equal times, by arrival. [`Alarm`] decides when the
//! *one* timer of the loop (`call_at`) has to be set, which is far less often than deadlines come and go:
//!
//! ```text
//! insert / reschedule ──> Alarm::cover ──> nothing to do: the timer already goes off in time    (the usual case)
//!                                     └──> Arm::At(when) / Arm::Soon: set the timer, replacing the one that is set
//! remove              ──> nothing, ever: a timer that goes off too early is cheaper than one that is moved back
//! the timer goes off  ──> Alarm::fired ──> pop_due until None ──> Alarm::cover(earliest)
//! ```
//!
//! Guarantee: as long as every `insert` and `reschedule` is followed by [`Alarm::cover`], and every firing ends with
//! one for [`Deadlines::earliest`], the timer is set for the earliest live deadline or before. It is never late.
//!
//! Times are seconds on the loop's own clock. `+inf` is legal and never due; NaN has no place in an order and panics.

use crate::slab::Slab;

/// A deadline's place in one [`Deadlines`]. Stale keys are recognised for ever: no call with one has any effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    index: u32,
    serial: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    when: f64,
    /// Order of arrival: decides between equal times.
    order: u64,
    slot: u32,
}

impl Entry {
    fn before(&self, other: &Self) -> bool {
        self.when < other.when || (self.when == other.when && self.order < other.order)
    }
}

#[derive(Debug)]
struct Slot<W> {
    serial: u64,
    /// Position in the heap.
    place: u32,
    waker: W,
}

/// What a firing may take: deadlines up to a time, and only those that were there when it began.
///
/// A waker that sets a new deadline in the past is thus served by the next turn of the loop, not by the same one.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    until: f64,
    before: u64,
}

/// The heap. See the module's documentation.
#[derive(Debug)]
pub struct Deadlines<W> {
    heap: Vec<Entry>,
    slots: Slab<Slot<W>>,
    /// How many serials were handed out: keys and arrivals are numbered from the same source.
    serial: u64,
}

impl<W> Default for Deadlines<W> {
    fn default() -> Self {
        Self { heap: Vec::new(), slots: Slab::default(), serial: 0 }
    }
}

impl<W> Deadlines<W> {
    /// How many deadlines are live.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no deadline is live.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// For how many deadlines there is room without allocating.
    pub fn capacity(&self) -> usize {
        self.slots.capacity().min(self.heap.capacity())
    }

    /// The earliest live deadline: a simulated clock may jump there and miss nothing.
    pub fn earliest(&self) -> Option<f64> {
        self.heap.first().map(|entry| entry.when)
    }

    /// The time of a live deadline.
    pub fn when(&self, key: Key) -> Option<f64> {
        self.place(key).map(|place| self.heap[place].when)
    }

    /// The waker of a live deadline.
    pub fn get(&self, key: Key) -> Option<&W> {
        self.slot(key).map(|slot| &slot.waker)
    }

    /// The wakers of all live deadlines, in no particular order.
    pub fn wakers(&self) -> impl Iterator<Item = &W> {
        self.slots.iter().map(|slot| &slot.waker)
    }

    /// Adds a deadline. Follow with [`Alarm::cover`].
    ///
    /// # Panics
    /// If `when` is NaN.
    pub fn insert(&mut self, when: f64, waker: W) -> Key {
        assert!(!when.is_nan(), "a deadline at NaN");
        let serial = self.next_serial();
        let index = self.slots.insert(Slot { serial, place: 0, waker });
        self.heap.push(Entry { when, order: serial, slot: index });
        self.sift_up(self.heap.len() - 1);
        Key { index, serial }
    }

    /// Takes a deadline out, wherever it stands; `None` when it was popped or removed before.
    pub fn remove(&mut self, key: Key) -> Option<W> {
        let place = self.place(key)?;
        Some(self.take(place).1)
    }

    /// Moves a live deadline to `when`; among equal times it then counts as the last to arrive. Follow with
    /// [`Alarm::cover`]. Returns whether the key was live.
    ///
    /// # Panics
    /// If `when` is NaN.
    pub fn reschedule(&mut self, key: Key, when: f64) -> bool {
        assert!(!when.is_nan(), "a deadline at NaN");
        let Some(place) = self.place(key) else { return false };
        self.heap[place].when = when;
        self.heap[place].order = self.next_serial();
        self.sift(place);
        true
    }

    /// What is due at `until`, to be taken one by one with [`pop_due`](Self::pop_due).
    pub fn due(&self, until: f64) -> Due {
        Due { until, before: self.serial }
    }

    /// Takes the earliest deadline if it is due. Ties go in the order of arrival.
    pub fn pop_due(&mut self, due: Due) -> Option<(Key, W)> {
        let first = self.heap.first()?;
        (first.when <= due.until && first.when != f64::INFINITY && first.order < due.before).then(|| self.take(0))
    }

    /// Takes everything out and gives the wakers back, in no particular order.
    pub fn clear(&mut self) -> Vec<W> {
        self.heap = Vec::new();
        std::mem::take(&mut self.slots).into_values().map(|slot| slot.waker).collect()
    }

    fn next_serial(&mut self) -> u64 {
        let serial = self.serial;
        self.serial += 1;
        serial
    }

    fn slot(&self, key: Key) -> Option<&Slot<W>> {
        self.slots.get(key.index).filter(|slot| slot.serial == key.serial)
    }

    fn place(&self, key: Key) -> Option<usize> {
        self.slot(key).map(|slot| slot.place as usize)
    }

    fn take(&mut self, place: usize) -> (Key, W) {
        let entry = self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.sift(place);
        }
        let (slot, trimmed) = self.slots.remove(entry.slot);
        if trimmed {
            self.heap.shrink_to(self.slots.capacity());
        }
        (Key { index: entry.slot, serial: slot.serial }, slot.waker)
    }

    fn sift(&mut self, place: usize) {
        if place > 0 && self.heap[place].before(&self.heap[(place - 1) / 2]) {
            self.sift_up(place);
        } else {
            self.sift_down(place);
        }
    }

    fn sift_up(&mut self, mut place: usize) {
        let entry = self.heap[place];
        while place > 0 {
            let parent = (place - 1) / 2;
            if !entry.before(&self.heap[parent]) {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, entry);
    }

    fn sift_down(&mut self, mut place: usize) {
        let entry = self.heap[place];
        loop {
            let mut child = 2 * place + 1;
            if child >= self.heap.len() {
                break;
            }
            if child + 1 < self.heap.len() && self.heap[child + 1].before(&self.heap[child]) {
                child += 1;
            }
            if !self.heap[child].before(&entry) {
                break;
            }
            self.put(place, self.heap[child]);
            place = child;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: Entry) {
        self.slots[entry.slot].place = u32::try_from(place).expect("the heap is no longer than the slots");
        self.heap[place] = entry;
    }
}

/// How the loop's timer has to be set.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "a timer that is not set is a deadline that never comes"]
pub enum Arm {
    /// At this time (`call_at`).
    At(f64),
    /// In the next turn of the loop (`call_soon`): the deadline has passed. Never synchronously.
    Soon,
}

/// Decides when the loop's one timer has to be set. It never asks for a timer to be moved back or taken down.
#[derive(Debug)]
pub struct Alarm {
    /// When the timer goes off; `+inf`: none is set.
    at: f64,
    /// The timer goes off in the next turn of the loop.
    soon: bool,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { at: f64::INFINITY, soon: false }
    }
}

impl Alarm {
    /// When the timer goes off, as far as is known here.
    pub fn armed(&self) -> Option<f64> {
        (self.at != f64::INFINITY).then_some(self.at)
    }

    /// Makes sure that the timer goes off at `when` or before. If there is something to do, the timer counts as set
    /// from here on; [`disarmed`](Self::disarmed) takes that back.
    #[inline]
    pub fn cover(&mut self, when: f64, now: f64) -> Option<Arm> {
        if when <= now {
            if self.soon {
                return None;
            }
            *self = Self { at: when.min(self.at), soon: true };
            return Some(Arm::Soon);
        }
        if self.at <= when || self.soon {
            return None;
        }
        self.at = when;
        Some(Arm::At(when))
    }

    /// The timer went off. Returns the time up to which deadlines are due: the later of `now` and what the timer was
    /// set for, because loops call a little early (clock resolution, rounded milliseconds) and mean it.
    pub fn fired(&mut self, now: f64) -> f64 {
        let at = self.armed();
        self.disarmed();
        at.map_or(now, |at| now.max(at))
    }

    /// There is no timer: setting it failed, it was lost with its loop, or it was taken down from outside.
    pub fn disarmed(&mut self) {
        *self = Self::default();
    }
}
