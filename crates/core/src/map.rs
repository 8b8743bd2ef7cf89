//! Map: a bounded window of calls that slides over a source of items.
//!
//! The machine decides three things and nothing else: whether the next item may be pulled *now*, which result is
//! delivered next, and when the map is over. It never sees an item; results pass through it only where they have to
//! wait for whoever takes them.
//!
//! ```text
//!  pull ──> pulled ──> (call runs) ──finished──> waits in the window ──take──> gone
//!    └──> exhausted         └───────ended──────> gone, without a result
//! ```
//!
//! Lives here: the bound, one pull at a time, order, the end. Does not live here: the items, the calls, who is
//! cancelled how. Guarantees, whatever order the events come in:
//!
//! * calls that run plus the pull under way never exceed the limit; with [`Delivery::InOrder`] and
//!   [`Delivery::AsFinished`] results nobody has taken count too, so a slow consumer stops the source;
//! * with an outside limiter ([`Map::unlimited`]) the results that wait never exceed the most calls that ever ran at
//!   once, plus those running when the consumer stopped;
//! * after [`Map::stop`] nothing is pulled and nothing is delivered any more.

use std::collections::VecDeque;

/// When a result leaves the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// At once: the caller keeps all of them anyway.
    AtOnce,
    /// When it is taken, in the order of the items.
    InOrder,
    /// When it is taken, in the order in which the calls finished.
    AsFinished,
}

/// What [`Map::take`] finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// The next result, and the index of its item.
    Result(usize, T),
    /// Not finished yet.
    Pending,
    /// There is nothing more to come.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Exhausted,
    Stopped,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Map<T> {
    limit: Option<usize>,
    delivery: Delivery,
    phase: Phase,
    /// A pull is under way. It holds a place in the window.
    pulling: bool,
    /// Items pulled so far: the index of the next one.
    pulled: usize,
    running: usize,
    /// The most calls that ever ran at once.
    peak: usize,
    /// Calls that ended, with or without a result.
    done: usize,
    /// Results that wait in the window.
    waiting: usize,
    /// `InOrder`: the places from index `taken` on. `AsFinished`: the finished ones, all `Some`.
    places: VecDeque<(usize, Option<T>)>,
}

impl<T> Map<T> {
    /// A window of `limit` places.
    ///
    /// # Panics
    /// When `limit` is 0: nothing could ever run.
    pub fn new(limit: usize, delivery: Delivery) -> Self {
        assert!(limit > 0, "a window needs a place");
        Self::with(Some(limit), delivery)
    }

    /// A window bounded by somebody else, who is asked between [`pull`](Self::pull) and the call.
    pub fn unlimited(delivery: Delivery) -> Self {
        Self::with(None, delivery)
    }

    fn with(limit: Option<usize>, delivery: Delivery) -> Self {
        Self {
            limit,
            delivery,
            phase: Phase::Open,
            pulling: false,
            pulled: 0,
            running: 0,
            peak: 0,
            done: 0,
            waiting: 0,
            places: VecDeque::new(),
        }
    }

    /// Whether the next item may be pulled now. If so the pull is under way: report [`pulled`](Self::pulled),
    /// [`exhausted`](Self::exhausted) or [`stop`](Self::stop).
    #[inline]
    pub fn pull(&mut self) -> bool {
        let room = self.has_room();
        self.pulling |= room;
        room
    }

    /// Whether [`pull`](Self::pull) would say yes.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.phase == Phase::Open
            && !self.pulling
            && match self.limit {
                Some(limit) => self.running + self.waiting < limit,
                None => self.waiting < self.peak.max(1),
            }
    }

    /// The pull gave an item, whose call runs from now on. Gives the item's index; `None` when the map was stopped
    /// meanwhile: the item is nobody's then.
    #[inline]
    pub fn pulled(&mut self) -> Option<usize> {
        if !std::mem::take(&mut self.pulling) || self.phase == Phase::Stopped {
            return None;
        }
        let index = self.pulled;
        self.pulled += 1;
        self.running += 1;
        self.peak = self.peak.max(self.running);
        if self.delivery == Delivery::InOrder {
            self.places.push_back((index, None));
        }
        Some(index)
    }

    /// The pull found the end of the source.
    pub fn exhausted(&mut self) {
        self.pulling = false;
        if self.phase == Phase::Open {
            self.phase = Phase::Exhausted;
        }
    }

    /// A call ended with a result. `AtOnce` gives it straight back, to be kept by the caller.
    #[inline]
    pub fn finished(&mut self, index: usize, result: T) -> Option<T> {
        self.ended();
        match self.delivery {
            Delivery::AtOnce => return Some(result),
            Delivery::InOrder => {
                let first = self.places.front().map_or(index, |place| place.0);
                self.places[index - first].1 = Some(result);
            }
            Delivery::AsFinished => self.places.push_back((index, Some(result))),
        }
        self.waiting += 1;
        None
    }

    /// A call ended without a result.
    #[inline]
    pub fn ended(&mut self) {
        debug_assert!(self.running > 0, "a call ended that did not run");
        self.running -= 1;
        self.done += 1;
    }

    /// The first failure, a cancel, or a consumer that leaves. True the first time: cancel what runs.
    pub fn stop(&mut self) -> bool {
        self.pulling = false;
        std::mem::replace(&mut self.phase, Phase::Stopped) != Phase::Stopped
    }

    /// Takes the next result that is due.
    pub fn take(&mut self) -> Taken<T> {
        if self.phase == Phase::Stopped {
            return Taken::Over;
        }
        match self.places.front_mut().map(|(index, result)| (*index, result.take())) {
            Some((index, Some(result))) => {
                self.places.pop_front();
                self.waiting -= 1;
                Taken::Result(index, result)
            }
            None if self.phase == Phase::Exhausted && self.running == 0 => Taken::Over,
            _ => Taken::Pending,
        }
    }

    /// Whether [`take`](Self::take) would find a result.
    pub fn has_result(&self) -> bool {
        self.phase != Phase::Stopped && self.places.front().is_some_and(|place| place.1.is_some())
    }

    /// The results nobody took, by index, once the map is stopped.
    pub fn leftovers(&mut self) -> impl Iterator<Item = (usize, T)> + use<T> {
        self.waiting = 0;
        std::mem::take(&mut self.places).into_iter().filter_map(|(index, result)| Some((index, result?)))
    }

    /// The results that wait in the window.
    pub fn results(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|place| place.1.as_ref())
    }

    /// Nothing will be pulled any more: the source ended, or the map was stopped.
    pub fn is_closed(&self) -> bool {
        self.phase != Phase::Open
    }

    /// Stopped before its end: by a failure, a cancel, or a consumer that left.
    pub fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// Calls that run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Items pulled from the source.
    pub fn started(&self) -> usize {
        self.pulled
    }

    /// Calls that ended, with or without a result.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Results in the window that nobody has taken yet.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The most calls that ever ran at once.
    pub fn peak(&self) -> usize {
        self.peak
    }
}
