//! Who is reached from the loop, and by the best chain: from what hurts before what does not, the most certain, the
//! shortest.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashSet;

use super::{Edge, Program};
use crate::facts::Certainty;

/// How bad a chain is, the least important last: quiet circumstances, the weakest step, calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    pub quiet: bool,
    pub doubt: u8,
    pub length: u32,
}

/// How a function is reached: the cost, the first function of the chain, and the last edge (caller and place).
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub cost: Cost,
    pub entry: u32,
    pub callback: bool,
    pub edge: Option<(u32, u32)>,
}

#[derive(Default)]
pub(super) struct Reach {
    arrivals: Vec<Option<Arrival>>,
}

impl Reach {
    pub(super) fn on_loop(&self, id: u32) -> bool {
        self.arrival(id).is_some()
    }

    pub(super) fn arrival(&self, id: u32) -> Option<&Arrival> {
        self.arrivals.get(id as usize)?.as_ref()
    }

    /// The edges from the loop to a function, in the order of the calls.
    pub(super) fn chain<'a>(&self, program: &'a Program, id: u32) -> Vec<&'a Edge> {
        let mut chain = vec![];
        let mut at = id;
        while let Some((from, place)) = self.arrival(at).and_then(|arrival| arrival.edge) {
            chain.push(&program.nodes[from as usize].edges[place as usize]);
            at = from;
        }
        chain.reverse();
        chain
    }
}

/// 0 for certain, 2 for a guess.
pub(super) fn doubt(certainty: Certainty) -> u8 {
    match certainty {
        Certainty::Certain => 0,
        Certainty::Likely => 1,
        Certainty::Guess => 2,
    }
}

/// Follows the edges from everything that the loop runs. Coroutines come before callbacks where all else is equal.
pub(super) fn find(program: &Program) -> Reach {
    let entries = || program.entries.iter().map(|entry| (entry.id, entry.callback, entry.certainty));
    let first = from(program, entries(), &FxHashSet::default());
    from(program, entries(), &warmed(program, &first))
}

/// Functions without arguments whose result is kept, and that something calls outside of the loop too: before it runs.
fn warmed(program: &Program, reach: &Reach) -> FxHashSet<u32> {
    let edges = program.nodes.iter().flat_map(|node| &node.edges);
    let kept = edges.filter(|edge| edge.once && program.by_id(edge.to_id).params.is_empty()).map(|edge| edge.to_id);
    let outside = |(from, _): &(u32, u32)| !reach.on_loop(*from) && !program.tests[*from as usize];
    kept.filter(|id| program.callers[*id as usize].iter().any(outside)).collect()
}

/// Follows the edges from these functions, but not to those that have run before.
pub(super) fn from(
    program: &Program,
    entries: impl Iterator<Item = (u32, bool, Certainty)>,
    before: &FxHashSet<u32>,
) -> Reach {
    let mut arrivals: Vec<Option<Arrival>> = vec![None; program.keys.len()];
    let mut heap = BinaryHeap::new();
    for (id, callback, certainty) in entries {
        let quiet = program.tags[id as usize].quiet();
        let cost = Cost { quiet, doubt: doubt(certainty), length: 0 };
        heap.push(Reverse((cost, callback, id, id, None)));
    }
    while let Some(Reverse((cost, callback, id, entry, edge))) = heap.pop() {
        if arrivals[id as usize].is_some() {
            continue;
        }
        arrivals[id as usize] = Some(Arrival { cost, entry, callback, edge });
        for (place, next) in program.nodes[id as usize].edges.iter().enumerate() {
            if arrivals[next.to_id as usize].is_none() && !(next.once && before.contains(&next.to_id)) {
                let cost = Cost {
                    quiet: cost.quiet || next.once,
                    doubt: cost.doubt.max(doubt(next.certainty)),
                    length: cost.length + 1 + next.through.len() as u32,
                };
                heap.push(Reverse((cost, callback, next.to_id, entry, Some((id, place as u32)))));
            }
        }
    }
    Reach { arrivals }
}
