//! Doubly linked lists threaded through a slab: anything leaves from anywhere in O(1), and nothing is allocated.
//!
//! A value stands in at most one list of each kind `L`; which one, its owner knows.

use crate::slab::Slab;

const NONE: u32 = u32::MAX;

/// The neighbours in one list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    prev: u32,
    next: u32,
    linked: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self { prev: NONE, next: NONE, linked: false }
    }
}

impl Link {
    /// Whether the value stands in a list of this kind.
    #[inline]
    pub(super) fn is_linked(self) -> bool {
        self.linked
    }
}

/// What can stand in lists of the kind `L`.
pub(super) trait Linked<const L: usize> {
    fn link(&self) -> Link;
    fn link_mut(&mut self) -> &mut Link;
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct List<const L: usize> {
    head: u32,
    tail: u32,
    len: usize,
}

impl<const L: usize> Default for List<L> {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, len: 0 }
    }
}

impl<const L: usize> List<L> {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.head == NONE
    }

    #[inline]
    pub(super) fn front(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    #[inline]
    pub(super) fn push_back<T: Linked<L>>(&mut self, slab: &mut Slab<T>, index: u32) {
        let tail = self.tail;
        let link = slab[index].link_mut();
        debug_assert!(!link.linked, "it stands in a list already");
        *link = Link { prev: tail, next: NONE, linked: true };
        if tail == NONE {
            self.head = index;
        } else {
            slab[tail].link_mut().next = index;
        }
        self.tail = index;
        self.len += 1;
    }

    #[inline]
    pub(super) fn remove<T: Linked<L>>(&mut self, slab: &mut Slab<T>, index: u32) {
        let Link { prev, next, linked } = std::mem::take(slab[index].link_mut());
        debug_assert!(linked, "it stands in no list");
        if prev == NONE {
            self.head = next;
        } else {
            slab[prev].link_mut().next = next;
        }
        if next == NONE {
            self.tail = prev;
        } else {
            slab[next].link_mut().prev = prev;
        }
        self.len -= 1;
    }

    /// From the first to the last, or backwards.
    pub(super) fn walk<'a, T: Linked<L>>(&self, slab: &'a Slab<T>, backwards: bool) -> impl Iterator<Item = u32> + 'a {
        let start = if backwards { self.tail } else { self.head };
        std::iter::successors((start != NONE).then_some(start), move |&index| {
            let link = slab[index].link();
            let next = if backwards { link.prev } else { link.next };
            (next != NONE).then_some(next)
        })
    }
}
