//! The ready queue: entries in the order in which they were scheduled, and which of them may go next.

use std::collections::VecDeque;

use super::{Candidate, Kind, Lane, Level};

#[derive(Debug)]
struct Slot<E> {
    candidate: Candidate,
    entry: E,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Ready<E> {
    queue: VecDeque<Slot<E>>,
    next_id: u64,
    /// Places in `queue` of the last candidates.
    places: Vec<usize>,
    /// Per lane, the last question in which a step of it was met.
    met: Vec<u64>,
    questions: u64,
}

impl<E> Default for Ready<E> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), next_id: 0, places: Vec::new(), met: Vec::new(), questions: 0 }
    }
}

impl<E> Ready<E> {
    /// Appends an entry and numbers it.
    pub fn push(&mut self, candidate: Candidate, entry: E) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.queue.push_back(Slot { candidate: Candidate { id, ..candidate }, entry });
        id
    }

    /// Writes into `into` what may go next at this level, in queue order, and returns how many these are.
    ///
    /// Two steps of one lane keep their order at any level.
    pub fn candidates(&mut self, level: Level, into: &mut Vec<Candidate>) -> usize {
        into.clear();
        self.places.clear();
        self.questions += 1;
        for place in 0..self.queue.len() {
            let candidate = self.queue[place].candidate;
            let is_step = candidate.kind == Kind::Step;
            // A task has one step in the queue, but for tasks that are not asyncio's own.
            if is_step && self.is_met(candidate.lane) {
                continue;
            }
            into.push(candidate);
            self.places.push(place);
            let last = match level {
                Level::Timing => true,
                Level::Task => !is_step,
                Level::Chaos => false,
            };
            if last {
                break;
            }
        }
        into.len()
    }

    fn is_met(&mut self, lane: Lane) -> bool {
        let lane = lane as usize;
        if lane >= self.met.len() {
            self.met.resize(lane + 1, 0);
        }
        std::mem::replace(&mut self.met[lane], self.questions) == self.questions
    }

    /// Where in the queue the candidate with this index stands.
    #[must_use]
    pub fn place(&self, index: usize) -> usize {
        self.places[index]
    }

    /// Takes out the entry at this place.
    pub fn take(&mut self, place: usize) -> Option<(Candidate, E)> {
        self.queue.remove(place).map(|slot| (slot.candidate, slot.entry))
    }

    /// Entries in the queue.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether the queue is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The number that the next entry gets.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// The number of the oldest entry.
    #[must_use]
    pub fn first_id(&self) -> Option<u64> {
        self.queue.front().map(|slot| slot.candidate.id)
    }

    /// Every entry, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &E> {
        self.queue.iter().map(|slot| &slot.entry)
    }

    /// Takes every entry out.
    pub fn clear(&mut self) -> impl Sized + use<E> {
        std::mem::take(&mut self.queue)
    }
}
