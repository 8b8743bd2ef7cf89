//! What blocks the loop: one root for each first function of the project whose own call does it, with the chain from
//! the nearest coroutine down to what blocks, through dependencies.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::{FxHashMap, FxHashSet};

use super::reach::{self, Reach, doubt};
use super::tags::{self, TagSet};
use super::{How, Primitive, Program, locks};
use crate::effects::{Blocks, Elsewhere, Kind};
use crate::facts::{Certainty, FnKey};
use crate::finding::{Level, Tag};

/// Ways through a dependency with more calls than these are shown with `--all` only.
const FAR: usize = 6;
/// The same of ways that end at a file.
const FILES: usize = 2;

/// What kind of harm a root does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// It holds up the loop.
    Blocking,
    /// It runs a second loop in the loop's thread, which raises.
    NestedLoop,
    /// It was sent to a thread, and holds the GIL there.
    Gil,
}

/// One call of a chain.
#[derive(Clone, Debug)]
pub struct Step {
    /// The function the call is in.
    pub function: FnKey,
    /// Index into its sites.
    pub site: usize,
    /// Qualified name of what is called.
    pub calls: String,
    /// How sure.
    pub certainty: Certainty,
    /// Why it is the one that is called.
    pub how: How,
}

/// A root.
#[derive(Clone, Debug)]
pub struct Root {
    /// What harm it does.
    pub channel: Channel,
    /// The function of the project that is to blame.
    pub function: FnKey,
    /// The call there: an index into its sites.
    pub site: usize,
    /// Other calls of the same kind in the same function.
    pub also: Vec<usize>,
    /// What blocks in the end, by its name in the table.
    pub primitive: String,
    /// In what way.
    pub kind: Kind,
    /// The dependency's function that is called, where it is its code that blocks.
    pub dependency: Option<String>,
    /// What the loop runs and so comes here: the start of the chain.
    pub entry: FnKey,
    /// That is no coroutine.
    pub callback: bool,
    /// The calls from there down to what blocks.
    pub steps: Vec<Step>,
    /// How many of the steps are above the root.
    pub depth: usize,
    /// How sure, by the weakest step.
    pub level: Level,
    /// In what circumstances it runs.
    pub tags: Vec<Tag>,
    /// It hurts nobody, as far as is known: a start-up, a command line, a test; or it is short.
    pub quiet: bool,
    /// Other functions that the loop runs and that come here.
    pub callers: Vec<FnKey>,
}

/// The best way from a function down to what blocks.
#[derive(Clone, Copy, Debug)]
struct Down {
    cost: (bool, u8, u32),
    next: Next,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Next {
    /// Index of a primitive of the function.
    Primitive(usize),
    /// Index of an edge of the function.
    Edge(usize),
    /// Index of a coroutine of a dependency that it awaits.
    Await(usize),
}

/// A call of a project's function that blocks.
struct Candidate {
    site: usize,
    cost: (bool, u8, u32),
    next: Next,
    kind: Kind,
    /// It only makes what is then waited for: a connection, a process.
    opens: bool,
}

impl Candidate {
    /// Which of several calls of one kind stands for all.
    fn rank(&self) -> (bool, u8, bool) {
        (self.cost.0, self.cost.1, self.opens)
    }
}

/// Whether the call of this name only begins what later calls wait for: databases and processes answer afterwards.
fn opens(kind: Kind, qual: &str) -> bool {
    let last = qual.rsplit('.').next().unwrap_or_default();
    matches!(kind, Kind::Database | Kind::Subprocess)
        && matches!(last, "connect" | "cursor" | "Popen" | "__init__" | "__new__" | "__enter__")
}

/// All roots, by path and place.
pub(super) fn find(program: &Program) -> Vec<Root> {
    let mut roots = vec![];
    for channel in [Channel::Blocking, Channel::NestedLoop] {
        Finder::new(program, channel, &program.reach).find(&mut roots);
    }
    let sent = reach::from(program, sent_to_threads(program).into_iter(), &FxHashSet::default());
    Finder::new(program, Channel::Gil, &sent).find(&mut roots);
    roots.sort_by(|a, b| (&a.function, a.site, a.channel).cmp(&(&b.function, b.site, b.channel)));
    roots
}

/// The functions that the project sends to threads.
fn sent_to_threads(program: &Program) -> Vec<(u32, bool, Certainty)> {
    let nodes = program.nodes.iter().zip(&program.owned).filter(|(_, owned)| **owned);
    let sent = nodes.flat_map(|(node, _)| &node.offloaded).filter(|sent| sent.to == Elsewhere::Thread);
    sent.filter_map(|sent| Some((program.id(sent.target.key.as_ref()?)?, false, sent.target.certainty))).collect()
}

struct Finder<'a> {
    program: &'a Program,
    channel: Channel,
    reach: &'a Reach,
    down: Vec<Option<Down>>,
    contended: FxHashSet<String>,
}

impl<'a> Finder<'a> {
    fn new(program: &'a Program, channel: Channel, reach: &'a Reach) -> Self {
        let contended = locks::contended(program);
        let mut this = Self { program, channel, reach, down: vec![None; program.keys.len()], contended };
        this.descend();
        this
    }

    /// What the table says of a primitive, if it is of this channel.
    fn blocks(&self, primitive: &Primitive) -> Option<&'a Blocks> {
        let blocks = self.program.table.blocks(&primitive.qual)?;
        let ours = match self.channel {
            Channel::Blocking => blocks.kind != Kind::Loop,
            Channel::NestedLoop => blocks.kind == Kind::Loop,
            Channel::Gil => blocks.gil,
        };
        ours.then_some(blocks)
    }

    fn cost(&self, id: u32, primitive: &Primitive, blocks: &Blocks) -> (bool, u8, u32) {
        let level = match blocks.level {
            Level::Certain => 0,
            Level::Likely => 1,
            Level::Pedantic => 2,
        };
        let function = self.program.by_id(id);
        let idle = locks::is_lock(&primitive.qual) && !locks::waits(function, primitive.site, &self.contended);
        (blocks.short || idle, level.max(doubt(primitive.certainty)), 1 + primitive.through.len() as u32)
    }

    /// Finds the best way down from every function of a dependency.
    fn descend(&mut self) {
        let program = self.program;
        let mut heap = BinaryHeap::new();
        for (id, node) in program.nodes.iter().enumerate().filter(|(id, _)| !program.owned[*id]) {
            for (index, primitive) in node.primitives.iter().enumerate() {
                // How long a dependency holds its own locks is its own business.
                if let Some(blocks) = self.blocks(primitive).filter(|_| !locks::is_lock(&primitive.qual)) {
                    heap.push(Reverse((self.cost(id as u32, primitive, blocks), id as u32, Next::Primitive(index))));
                }
            }
        }
        while let Some(Reverse((cost, id, next))) = heap.pop() {
            if self.down[id as usize].is_some() {
                continue;
            }
            self.down[id as usize] = Some(Down { cost, next });
            for (from, place) in &program.callers[id as usize] {
                if !program.owned[*from as usize] && self.down[*from as usize].is_none() {
                    let edge = &program.nodes[*from as usize].edges[*place as usize];
                    heap.push(Reverse((further(cost, edge), *from, Next::Edge(*place as usize))));
                }
            }
            for (from, place) in &program.awaiters[id as usize] {
                let edge = &program.nodes[*from as usize].awaits[*place as usize];
                let awaited = program.by_id(*from).sites[edge.site].awaited;
                if awaited && !program.owned[*from as usize] && self.down[*from as usize].is_none() {
                    heap.push(Reverse((further(cost, edge), *from, Next::Await(*place as usize))));
                }
            }
        }
    }

    fn find(&self, roots: &mut Vec<Root>) {
        let mut awaited: FxHashSet<(u32, Next)> = FxHashSet::default();
        for id in 0..self.program.keys.len() as u32 {
            if !self.program.owned[id as usize] || self.reach.arrival(id).is_none() {
                continue;
            }
            let mut folded: FxHashMap<(Kind, usize), (Candidate, Vec<usize>)> = FxHashMap::default();
            let folds = !self.program.by_id(id).is_async;
            for candidate in self.candidates(id) {
                // What blocks in a coroutine of a dependency is one root, however many await it.
                if let Next::Await(place) = candidate.next {
                    let to = self.program.nodes[id as usize].awaits[place].to_id;
                    if !awaited.insert(self.bottom(to)) {
                        continue;
                    }
                }
                let together = folds || matches!(candidate.kind, Kind::File | Kind::Database);
                let group = (candidate.kind, if together { usize::MAX } else { candidate.site });
                match folded.get_mut(&group) {
                    None => {
                        folded.insert(group, (candidate, vec![]));
                    }
                    Some((best, also)) if candidate.rank() < best.rank() => {
                        also.push(std::mem::replace(best, candidate).site);
                    }
                    Some((_, also)) => also.push(candidate.site),
                }
            }
            roots.extend(folded.into_values().map(|(candidate, also)| self.root(id, &candidate, also)));
        }
    }

    /// The calls of a function that block, the best way for each, in the order of the source.
    fn candidates(&self, id: u32) -> Vec<Candidate> {
        let node = &self.program.nodes[id as usize];
        let mut found = vec![];
        for (index, primitive) in node.primitives.iter().enumerate() {
            if let Some(blocks) = self.blocks(primitive) {
                let cost = self.cost(id, primitive, blocks);
                let (kind, opens) = (blocks.kind, opens(blocks.kind, &primitive.qual));
                found.push(Candidate { site: primitive.site, cost, next: Next::Primitive(index), kind, opens });
            }
        }
        let edges = node.edges.iter().enumerate().map(|(place, edge)| (Next::Edge(place), edge));
        let awaits = node.awaits.iter().enumerate().map(|(place, edge)| (Next::Await(place), edge));
        let function = self.program.by_id(id);
        for (next, edge) in edges.chain(awaits) {
            if matches!(next, Next::Await(_)) && !function.sites[edge.site].awaited {
                continue;
            }
            if let Some(down) = self.down[edge.to_id as usize] {
                let kind = self.kind(self.bottom(edge.to_id));
                found.push(Candidate { site: edge.site, cost: further(down.cost, edge), next, kind, opens: false });
            }
        }
        found.sort_by_key(|candidate| (candidate.site, candidate.cost, candidate.next));
        found.dedup_by_key(|candidate| candidate.site);
        found
    }

    /// Where the way down from a function of a dependency ends.
    fn bottom(&self, id: u32) -> (u32, Next) {
        let mut at = id;
        loop {
            let node = &self.program.nodes[at as usize];
            match self.down[at as usize].expect("every step of a way down has one").next {
                Next::Primitive(index) => return (at, Next::Primitive(index)),
                Next::Edge(place) => at = node.edges[place].to_id,
                Next::Await(place) => at = node.awaits[place].to_id,
            }
        }
    }

    fn kind(&self, (id, next): (u32, Next)) -> Kind {
        let Next::Primitive(index) = next else { unreachable!("a way down ends at a primitive") };
        let qual = &self.program.nodes[id as usize].primitives[index].qual;
        self.program.table.blocks(qual).expect("primitives are in the table").kind
    }

    fn root(&self, id: u32, candidate: &Candidate, also: Vec<usize>) -> Root {
        let program = self.program;
        let arrival = self.reach.arrival(id).expect("roots are reached");
        let mut steps = vec![];
        let chain = self.reach.chain(program, id);
        let mut set = program.tags[id as usize];
        for edge in &chain {
            let to = program.by_id(edge.to_id).qual.clone();
            self.step(&mut steps, &edge.from, edge.site, &edge.through, to, edge.certainty, edge.how);
            set = set.union(self.modifiers(&edge.from, edge.site));
        }
        let depth = steps.len();
        let (mut at, mut next) = (id, candidate.next);
        set = set.union(self.modifiers(&program.keys[id as usize], candidate.site));
        let dependency = match next {
            Next::Primitive(_) => None,
            Next::Edge(place) => Some(program.by_id(program.nodes[id as usize].edges[place].to_id).qual.clone()),
            Next::Await(place) => Some(program.by_id(program.nodes[id as usize].awaits[place].to_id).qual.clone()),
        };
        let primitive = loop {
            let node = &program.nodes[at as usize];
            let edge = match next {
                Next::Primitive(index) => {
                    let last = &node.primitives[index];
                    let from = &program.keys[at as usize];
                    let calls = last.qual.clone();
                    self.step(&mut steps, from, last.site, &last.through, calls, last.certainty, last.how);
                    break last;
                }
                Next::Edge(place) => &node.edges[place],
                Next::Await(place) => &node.awaits[place],
            };
            let to = program.by_id(edge.to_id).qual.clone();
            self.step(&mut steps, &edge.from, edge.site, &edge.through, to, edge.certainty, edge.how);
            at = edge.to_id;
            next = self.down[at as usize].expect("every step of a way down has one").next;
        };
        // The way through a dependency: many calls down it is no longer known that this call takes that way, and files
        // are mostly read once.
        let inside = steps.len() - depth;
        let far = dependency.is_some() && inside > if candidate.kind == Kind::File { FILES } else { FAR };
        // The author of a coroutine knows about loops: what only may block in it is left to them.
        let theirs = matches!(candidate.next, Next::Await(_)) && candidate.cost.1 > 0;
        // A loop inside a loop raises wherever it is reached.
        let quiet = match self.channel {
            Channel::NestedLoop => program.tests[arrival.entry as usize],
            _ => arrival.cost.quiet || candidate.cost.0 || far || theirs,
        };
        let level = match arrival.cost.doubt.max(candidate.cost.1) {
            0 => Level::Certain,
            1 => Level::Likely,
            _ => Level::Pedantic,
        };
        Root {
            channel: self.channel,
            function: program.keys[id as usize].clone(),
            site: candidate.site,
            also,
            primitive: primitive.qual.clone(),
            kind: candidate.kind,
            dependency,
            entry: program.keys[arrival.entry as usize].clone(),
            callback: arrival.callback,
            steps,
            depth,
            level,
            tags: set.to_vec(),
            quiet,
            callers: self.callers(id, arrival.entry),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn step(
        &self,
        steps: &mut Vec<Step>,
        function: &FnKey,
        site: usize,
        through: &[(FnKey, usize)],
        calls: String,
        certainty: Certainty,
        how: How,
    ) {
        let name = |key: &FnKey| self.program.function(key).map_or(String::new(), |function| function.qual.clone());
        let places: Vec<(&FnKey, usize)> =
            std::iter::once((function, site)).chain(through.iter().map(|(key, site)| (key, *site))).collect();
        for (index, (key, site)) in places.iter().enumerate() {
            let next = places.get(index + 1);
            let calls = next.map_or_else(|| calls.clone(), |(key, _)| name(key));
            let how = if next.is_some() { How::Resolved } else { how };
            steps.push(Step { function: (*key).clone(), site: *site, calls, certainty, how });
        }
    }

    fn modifiers(&self, key: &FnKey, site: usize) -> TagSet {
        self.program.site(key, site).map_or(TagSet::default(), tags::modifiers)
    }

    /// Everything else that the loop runs and that comes to this function, through calls and awaits.
    fn callers(&self, id: u32, entry: u32) -> Vec<FnKey> {
        let program = self.program;
        let mut seen = FxHashSet::from_iter([id]);
        let mut open = vec![id];
        let mut found = vec![];
        while let Some(at) = open.pop() {
            let froms = program.callers[at as usize].iter().chain(&program.awaiters[at as usize]);
            for (from, _) in froms {
                if seen.insert(*from) {
                    open.push(*from);
                    let ours = program.owned[*from as usize] && program.by_id(*from).is_async;
                    if ours && *from != entry && !program.tests[*from as usize] {
                        found.push(*from);
                    }
                }
            }
        }
        found.sort_unstable();
        found.into_iter().map(|id| program.keys[id as usize].clone()).collect()
    }
}

fn further(cost: (bool, u8, u32), edge: &super::Edge) -> (bool, u8, u32) {
    (cost.0 || edge.once, cost.1.max(doubt(edge.certainty)), cost.2 + 1 + edge.through.len() as u32)
}
