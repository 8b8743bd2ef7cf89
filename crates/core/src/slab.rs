//! A slab: values at small, stable numbers, reused, and the memory of a crowd given back when it has gone.

const NONE: u32 = u32::MAX;

/// Room for this many values is never given back.
const KEPT: usize = 1024;

#[derive(Debug)]
enum Slot<T> {
    /// With the next vacant slot.
    Vacant(u32),
    Taken(T),
}

/// See the module's documentation. A number that is not taken is a bug of the caller and panics.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    vacant: u32,
    taken: usize,
    /// Once no more than this many are taken, memory is given back.
    trim_at: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), vacant: NONE, taken: 0, trim_at: 0 }
    }
}

impl<T> Slab<T> {
    pub(crate) fn len(&self) -> usize {
        self.taken
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    #[inline]
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.taken += 1;
        let index = self.vacant;
        if index == NONE {
            return self.grow(value);
        }
        let Slot::Vacant(next) = std::mem::replace(&mut self.slots[index as usize], Slot::Taken(value)) else {
            unreachable!("the vacant list leads to vacant slots");
        };
        self.vacant = next;
        index
    }

    fn grow(&mut self, value: T) -> u32 {
        let index = u32::try_from(self.slots.len()).ok().filter(|&i| i != NONE).expect("over 4 billion values");
        self.slots.push(Slot::Taken(value));
        self.trim_at = self.slots.len() / 4;
        index
    }

    /// Takes a value out; tells whether memory was given back, so that the owner can do the same.
    #[inline]
    pub(crate) fn remove(&mut self, index: u32) -> (T, bool) {
        let Slot::Taken(value) = std::mem::replace(&mut self.slots[index as usize], Slot::Vacant(self.vacant)) else {
            panic!("nothing is at {index}");
        };
        self.vacant = index;
        self.taken -= 1;
        let trim = self.taken <= self.trim_at && self.slots.len() > KEPT;
        if trim {
            self.trim();
        }
        (value, trim)
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        match self.slots.get(index as usize) {
            Some(Slot::Taken(value)) => Some(value),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        match self.slots.get_mut(index as usize) {
            Some(Slot::Taken(value)) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Taken(value) => Some(value),
            Slot::Vacant(_) => None,
        })
    }

    /// The numbers that are taken.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.slots).filter(|(_, slot)| matches!(slot, Slot::Taken(_))).map(|(index, _)| index)
    }

    pub(crate) fn into_values(self) -> impl Iterator<Item = T> {
        self.slots.into_iter().filter_map(|slot| match slot {
            Slot::Taken(value) => Some(value),
            Slot::Vacant(_) => None,
        })
    }

    /// Gives back the slots behind the last taken one. Costs O(slots), and runs only after a crowd has shrunk to a
    /// quarter, then to an eighth, and so on: O(1) for each value that left.
    #[cold]
    fn trim(&mut self) {
        let end = self.slots.iter().rposition(|slot| matches!(slot, Slot::Taken(_))).map_or(0, |last| last + 1);
        self.slots.truncate(end);
        self.vacant = NONE;
        for (index, slot) in self.slots.iter_mut().enumerate().rev() {
            if let Slot::Vacant(next) = slot {
                // Low slots are used first from here on, so that the next trim finds more to cut.
                *next = self.vacant;
                self.vacant = u32::try_from(index).expect("indices were handed out as u32");
            }
        }
        self.slots.shrink_to(KEPT);
        self.trim_at = self.taken / 2;
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: u32) -> &T {
        self.get(index).expect("something is there")
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.get_mut(index).expect("something is there")
    }
}
