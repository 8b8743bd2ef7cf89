//! Keyed: one value for each key, made when it is first asked for, and which of them are given up when. The keys and
//! the values are the caller's (`V` is both); here are their hashes, their order of use and the times of it.
//!
//! **Only what rests is given up.** Whether a value is in use is the caller's to say: this machine hands out the next
//! candidate ([`Keyed::next`]), and is told what the caller found ([`Keyed::settle`]). Between the two the caller runs
//! whatever code it has to; a value that was asked for meanwhile, or is gone, is left alone. One that is in use counts
//! as used at that moment and goes to the end of the line, so that a look never meets it twice.
//!
//! The line is that of the last use, oldest first, and there are three looks at it:
//!
//! - each newcomer asks after a few that nobody has used for `idle` seconds: what nobody asks for any more goes, a
//!   little at a time, whatever else is going on;
//! - a newcomer above `max_keys` asks one after the other until it finds room. When all are in use, the number of keys
//!   grows, and the next such look waits until there are an eighth more of them: O(1) for each newcomer even then;
//! - a sweep asks after all that are idle, and makes room if it can.
//!
//! Time is whatever the caller says it is. Only its progress counts: a clock that is replaced by another one neither ages
//! nor rejuvenates anything.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::hash::{BuildHasherDefault, Hasher};

use crate::slab::Slab;

const NONE: u32 = u32::MAX;

/// How many idle values one newcomer asks after, at most.
const IDLE_A_LOOK: usize = 8;

/// How many values one newcomer gives up to make room, at most: after a time above `max_keys` there can be many.
const ROOM_A_LOOK: usize = 64;

/// A clock that shows this much less than before is another clock; less than that is one read by two threads, or
/// coarsely.
const ANOTHER_CLOCK: f64 = 1.0;

/// One value, as it was when it was handed out: a later use of it, or its end, makes this stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    index: u32,
    used: u64,
}

/// What [`Keyed::settle`] did.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled<V> {
    /// It was given up: here it is, to be dropped.
    Gone(V),
    /// It was in use, and counts as used now.
    Kept,
    /// It was used, or went, while the caller looked at it: nothing was done.
    Stale,
}

/// How far one look at the line has come. See the module's documentation.
#[derive(Debug)]
pub struct Look {
    /// How many have not been looked at yet.
    unseen: usize,
    /// How many more idle ones may be asked after.
    idle: usize,
    /// How many more may be given up for room.
    room: usize,
    /// Whether nothing was given up so far.
    in_vain: bool,
}

/// Totals since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Values that were put in.
    pub made: u64,
    /// Values that were given up to make room.
    pub evicted: u64,
    /// Values that were given up because nobody had used them for `idle` seconds.
    pub expired: u64,
    /// Times that a newcomer above `max_keys` found all others in use.
    pub full: u64,
    /// The most values there ever were at the end of a look.
    pub peak: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    hash: u64,
    /// The next entry with the same hash.
    same: u32,
    older: u32,
    newer: u32,
    /// The number of the last use: tells uses, and entries in one place, apart.
    used: u64,
    at: f64,
}

/// The caller's hashes are good enough, or else it suffers anyway; this moves the entropy to where the table looks.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = (self.0 << 8) | u64::from(byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Keyed<V> {
    entries: Slab<Entry<V>>,
    /// The first entry of each hash.
    by_hash: HashMap<u64, u32, BuildHasherDefault<Spread>>,
    oldest: u32,
    newest: u32,
    max_keys: usize,
    idle: f64,
    /// What the caller's clock showed last, and how far it has come in all.
    shown: f64,
    clock: f64,
    uses: u64,
    /// While the number of values is below this, a newcomer does not look for room.
    look_at: usize,
    totals: Totals,
}

impl<V> Keyed<V> {
    /// An empty one: more than `max_keys` values only while all are in use, and none that rests and that nobody has
    /// used for `idle` seconds (which may be infinite).
    pub fn new(max_keys: usize, idle: f64) -> Self {
        Self {
            entries: Slab::default(),
            by_hash: HashMap::default(),
            oldest: NONE,
            newest: NONE,
            max_keys,
            idle,
            shown: f64::NEG_INFINITY,
            clock: 0.0,
            uses: 0,
            look_at: 0,
            totals: Totals::default(),
        }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many values there may be when some of them rest.
    pub fn max_keys(&self) -> usize {
        self.max_keys
    }

    /// After how many seconds without use a value that rests is given up.
    pub fn idle(&self) -> f64 {
        self.idle
    }

    /// Totals since it was made.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|entry| &entry.value)
    }

    /// All values, the one that was not used for the longest time first.
    pub fn by_use(&self) -> impl Iterator<Item = &V> {
        let mut at = self.oldest;
        std::iter::from_fn(move || {
            let entry = self.entries.get(at)?;
            at = entry.newer;
            Some(&entry.value)
        })
    }

    /// The values whose key has this hash, the first of them `None`'s and each next one its predecessor's.
    #[inline]
    pub fn candidate(&self, hash: u64, after: Option<Seen>) -> Option<(Seen, &V)> {
        let index = match after {
            None => *self.by_hash.get(&hash)?,
            Some(seen) => self.seen(seen)?.same,
        };
        self.entries.get(index).map(|entry| (Seen { index, used: entry.used }, &entry.value))
    }

    #[inline]
    fn seen(&self, seen: Seen) -> Option<&Entry<V>> {
        self.entries.get(seen.index).filter(|entry| entry.used == seen.used)
    }

    /// A value as it was seen, if it has neither been used nor gone since.
    #[inline]
    pub fn get(&self, seen: Seen) -> Option<&V> {
        self.seen(seen).map(|entry| &entry.value)
    }

    /// A value is used. `None` when it was used or went since it was seen: look for it again.
    #[inline]
    pub fn touch(&mut self, seen: Seen, now: f64) -> Option<&V> {
        self.seen(seen)?;
        self.advance(now);
        self.use_now(seen.index);
        Some(&self.entries[seen.index].value)
    }

    /// Puts a value in, under the hash of its key, of which there is none yet. Begin a [`look`](Self::look) then.
    pub fn insert(&mut self, hash: u64, value: V, now: f64) {
        self.advance(now);
        let first = self.by_hash.get(&hash).copied().unwrap_or(NONE);
        let entry = Entry { value, hash, same: first, older: NONE, newer: NONE, used: 0, at: self.clock };
        let index = self.entries.insert(entry);
        self.by_hash.insert(hash, index);
        self.link(index);
        self.stamp(index);
        self.totals.made += 1;
    }

    /// A newcomer's look: at a few idle ones, and for room.
    pub fn look(&self) -> Look {
        let full = self.len() > self.max_keys && self.len() >= self.look_at;
        // The newest is who asks.
        let unseen = self.len().saturating_sub(1);
        Look { unseen, idle: IDLE_A_LOOK, room: if full { ROOM_A_LOOK } else { 0 }, in_vain: full }
    }

    /// A sweep's look: at everything idle, and for all the room there should be.
    pub fn sweep(&mut self, now: f64) -> Look {
        self.advance(now);
        Look { unseen: self.len(), idle: usize::MAX, room: usize::MAX, in_vain: false }
    }

    /// The next value to ask after, or `None` when the look is over.
    pub fn next(&mut self, look: &mut Look) -> Option<(Seen, &V)> {
        let found = self.find_next(look);
        if found.is_none() {
            self.totals.peak = self.totals.peak.max(self.len());
        }
        let seen = found?;
        Some((seen, &self.entries[seen.index].value))
    }

    fn find_next(&mut self, look: &mut Look) -> Option<Seen> {
        let index = self.oldest;
        let entry = self.entries.get(index)?;
        let is_idle = self.is_idle(entry) && look.idle > 0;
        let too_many = self.len() > self.max_keys && look.room > 0;
        if look.unseen == 0 || !(is_idle || too_many) {
            if look.unseen == 0 && too_many && look.in_vain {
                look.in_vain = false;
                self.totals.full += 1;
                self.look_at = self.len() + self.len() / 8 + 1;
            }
            return None;
        }
        look.unseen -= 1;
        if !too_many {
            look.idle -= 1;
        }
        Some(Seen { index, used: self.entries[index].used })
    }

    /// The caller has asked after a value that [`next`](Self::next) gave: it `rests`, or is in use.
    pub fn settle(&mut self, look: &mut Look, seen: Seen, rests: bool) -> Settled<V> {
        let Some(entry) = self.seen(seen) else { return Settled::Stale };
        if !rests {
            self.use_now(seen.index);
            return Settled::Kept;
        }
        if self.is_idle(entry) {
            self.totals.expired += 1;
        } else {
            self.totals.evicted += 1;
        }
        if self.len() > self.max_keys {
            look.room = look.room.saturating_sub(1);
        }
        look.in_vain = false;
        self.look_at = 0;
        Settled::Gone(self.take_out(seen.index))
    }

    /// Takes a value out as it was seen, if it has neither been used nor gone since.
    pub fn remove(&mut self, seen: Seen) -> Option<V> {
        self.seen(seen)?;
        self.look_at = 0;
        Some(self.take_out(seen.index))
    }

    /// Takes everything out.
    pub fn clear(&mut self) -> impl Iterator<Item = V> + use<V> {
        self.by_hash = HashMap::default();
        (self.oldest, self.newest, self.look_at) = (NONE, NONE, 0);
        std::mem::take(&mut self.entries).into_values().map(|entry| entry.value)
    }

    fn is_idle(&self, entry: &Entry<V>) -> bool {
        entry.at + self.idle <= self.clock
    }

    /// The caller reads another clock from here on, which shows `now`.
    pub fn change_clock(&mut self, now: f64) {
        self.shown = now;
    }

    /// The caller's clock shows `now`.
    #[inline]
    fn advance(&mut self, now: f64) {
        if now > self.shown {
            if self.shown.is_finite() {
                self.clock += now - self.shown;
            }
            self.shown = now;
        } else if now < self.shown - ANOTHER_CLOCK {
            self.shown = now;
        }
    }

    #[inline]
    fn use_now(&mut self, index: u32) {
        if self.newest != index {
            self.unlink(index);
            self.link(index);
        }
        self.stamp(index);
    }

    #[inline]
    fn stamp(&mut self, index: u32) {
        self.uses += 1;
        let entry = &mut self.entries[index];
        entry.used = self.uses;
        entry.at = self.clock;
    }

    fn link(&mut self, index: u32) {
        let older = std::mem::replace(&mut self.newest, index);
        let entry = &mut self.entries[index];
        (entry.older, entry.newer) = (older, NONE);
        match self.entries.get_mut(older) {
            Some(older) => older.newer = index,
            None => self.oldest = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let Entry { older, newer, .. } = self.entries[index];
        match self.entries.get_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }

    fn take_out(&mut self, index: u32) -> V {
        self.unlink(index);
        let (entry, trimmed) = self.entries.remove(index);
        self.forget_hash(entry.hash, index, entry.same);
        if trimmed {
            self.by_hash.shrink_to(self.entries.capacity());
        }
        debug_assert!(self.entries.len() >= self.by_hash.len());
        entry.value
    }

    /// Takes an entry, which is gone already, out of the chain of its hash.
    fn forget_hash(&mut self, hash: u64, index: u32, same: u32) {
        let Place::Occupied(mut first) = self.by_hash.entry(hash) else { unreachable!("every entry has its hash") };
        if *first.get() == index {
            if same == NONE {
                first.remove();
            } else {
                first.insert(same);
            }
            return;
        }
        let mut at = *first.get();
        while self.entries[at].same != index {
            at = self.entries[at].same;
        }
        self.entries[at].same = same;
    }
}
