//! The whole program: every function that was analysed, what calls what, and what follows from that.
//!
//! Built from facts and the effect table alone; nothing here sees a syntax tree or a type. `graph` turns sites into
//! edges (with `dispatch`, `decorators`, `higher_order` and `guards`), `entries` says what the loop itself runs, `reach`
//! who gets there from it, `tags` in what circumstances, `roots` what blocks and through which chain, `explain` why.

mod decorators;
pub(crate) mod dispatch;
mod entries;
pub mod explain;
mod graph;
mod guards;
mod higher_order;
mod locks;
mod queries;
mod reach;
mod roots;
mod tags;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::effects::{Elsewhere, Table};
use crate::facts::{Certainty, Class, FileFacts, FnKey, Function, Site, Target};
use crate::finding::Tag;

pub use queries::Below;
pub use roots::{Channel, Root, Step};

/// One function may run another.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Who calls.
    pub from: FnKey,
    /// Index into `from`'s sites.
    pub site: usize,
    /// Who is called. Its body runs on the caller's thread, before the call (or its `await`) is over.
    pub to: FnKey,
    /// How sure.
    pub certainty: Certainty,
    /// Why this function is the one that is called.
    pub how: How,
    /// Calls in between, in other functions: the parameter that is called, the wrapper of a decorator.
    pub through: Arc<[(FnKey, usize)]>,
    /// It runs the first time only: its result is cached, or it is the body of a module.
    pub once: bool,
    to_id: u32,
}

/// Why a function is the one that is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It is what the expression denotes.
    Resolved,
    /// The expression denotes one of several functions.
    OneOfSeveral,
    /// The only implementation of an abstract method.
    OnlyImplementation,
    /// One of several implementations of an abstract method.
    Implementation,
    /// An override in a subclass of the receiver's class.
    Override,
    /// It was handed over as an argument.
    Argument,
    /// It is under a decorator that nobody knows.
    UnknownDecorator,
}

/// A call that blocks by what the table says of its name.
#[derive(Clone, Debug)]
pub struct Primitive {
    /// Index into the function's sites.
    pub site: usize,
    /// The name, as the table has it.
    pub qual: String,
    /// How sure it is that this is what is called.
    pub certainty: Certainty,
    /// Why it is the one.
    pub how: How,
    /// Calls in between; see `Edge`.
    pub through: Arc<[(FnKey, usize)]>,
}

/// A function that a site sends elsewhere.
#[derive(Clone, Debug)]
pub struct Offloaded {
    /// Index into the function's sites.
    pub site: usize,
    /// What is sent.
    pub target: Target,
    /// Where to.
    pub to: Elsewhere,
}

/// A function or coroutine that a site gives to the loop, to be run later.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// Index into the function's sites.
    pub site: usize,
    /// What is given.
    pub target: Target,
    /// What it is then: a callback, a task, a handler.
    pub tag: Tag,
}

/// What one function does, its sites resolved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    /// What it runs on its own thread.
    edges: Vec<Edge>,
    /// Coroutines that it makes: they run on the loop, in frames of their own.
    awaits: Vec<Edge>,
    primitives: Vec<Primitive>,
    offloaded: Vec<Offloaded>,
    scheduled: Vec<Scheduled>,
    /// Sites that run only where no loop runs.
    guarded: Vec<usize>,
}

/// All facts, linked.
pub struct Program {
    /// By identity.
    pub functions: FxHashMap<FnKey, Function>,
    /// By qualified name.
    pub classes: FxHashMap<String, Class>,
    /// What blocks, offloads, guards.
    pub table: Table,
    /// Functions of the project, in the order of path and offset.
    pub project: Vec<FnKey>,
    /// Every function, in the order of path and offset; what is private below counts in these numbers.
    keys: Vec<FnKey>,
    ids: FxHashMap<FnKey, u32>,
    owned: Vec<bool>,
    tests: Vec<bool>,
    test_paths: FxHashSet<Arc<str>>,
    owned_paths: FxHashSet<Arc<str>>,
    /// Names of functions that tell whether a loop runs.
    loop_tests: FxHashSet<String>,
    nodes: Vec<Node>,
    /// Indices of edges (caller, place) by callee.
    callers: Vec<Vec<(u32, u32)>>,
    awaiters: Vec<Vec<(u32, u32)>>,
    entries: Vec<entries::Entry>,
    reach: reach::Reach,
    tags: Vec<tags::TagSet>,
    roots: OnceLock<Vec<Root>>,
}

impl Program {
    /// Links the facts of all files.
    pub fn new(files: Vec<FileFacts>, table: Table) -> Self {
        let mut functions = FxHashMap::default();
        let mut classes = FxHashMap::default();
        let mut owned_paths = FxHashSet::default();
        let mut test_paths = FxHashSet::default();
        for file in files {
            if file.project {
                owned_paths.insert(file.path.clone());
                if tags::is_test(&file.path, file.module.as_deref()) {
                    test_paths.insert(file.path.clone());
                }
            }
            functions.extend(file.functions.into_iter().map(|function| (function.key.clone(), function)));
            classes.extend(file.classes.into_iter().map(|class| (class.qual.clone(), class)));
        }
        let mut keys: Vec<FnKey> = functions.keys().cloned().collect();
        keys.sort_unstable();
        let ids = keys.iter().enumerate().map(|(id, key)| (key.clone(), id as u32)).collect();
        let owned: Vec<bool> = keys.iter().map(|key| owned_paths.contains(&key.path)).collect();
        let tests = keys.iter().map(|key| test_paths.contains(&key.path)).collect();
        let project = keys.iter().zip(&owned).filter(|(_, owned)| **owned).map(|(key, _)| key.clone()).collect();
        let mut program = Self {
            functions,
            classes,
            table,
            project,
            keys,
            ids,
            owned,
            tests,
            test_paths,
            owned_paths,
            loop_tests: FxHashSet::default(),
            nodes: vec![],
            callers: vec![],
            awaiters: vec![],
            entries: vec![],
            reach: reach::Reach::default(),
            tags: vec![],
            roots: OnceLock::new(),
        };
        program.loop_tests = guards::loop_tests(&program);
        graph::link(&mut program);
        program.entries = entries::find(&program);
        program.tags = tags::find(&program);
        program.reach = reach::find(&program);
        program
    }

    /// A function that was analysed.
    pub fn function(&self, key: &FnKey) -> Option<&Function> {
        self.functions.get(key)
    }

    /// The site of a function.
    pub fn site(&self, key: &FnKey, site: usize) -> Option<&Site> {
        self.functions.get(key)?.sites.get(site)
    }

    /// Whether it belongs to what is checked; not to an installed dependency.
    pub fn is_project(&self, key: &FnKey) -> bool {
        self.id(key).is_some_and(|id| self.owned[id as usize])
    }

    /// What a function runs on its own thread, and before it goes on.
    pub fn callees(&self, key: &FnKey) -> &[Edge] {
        self.node(key).map_or(&[], |node| &node.edges)
    }

    /// The coroutines that a function makes. Whether it awaits them is said by their site.
    pub fn awaits(&self, key: &FnKey) -> &[Edge] {
        self.node(key).map_or(&[], |node| &node.awaits)
    }

    /// What runs a function on its own thread.
    pub fn callers(&self, key: &FnKey) -> impl Iterator<Item = &Edge> {
        let places = self.id(key).map_or(&[][..], |id| &self.callers[id as usize]);
        places.iter().map(|(from, place)| &self.nodes[*from as usize].edges[*place as usize])
    }

    /// What makes the coroutine of a function.
    pub fn awaiters(&self, key: &FnKey) -> impl Iterator<Item = &Edge> {
        let places = self.id(key).map_or(&[][..], |id| &self.awaiters[id as usize]);
        places.iter().map(|(from, place)| &self.nodes[*from as usize].awaits[*place as usize])
    }

    /// What a function calls that blocks by its name.
    pub fn primitives(&self, key: &FnKey) -> &[Primitive] {
        self.node(key).map_or(&[], |node| &node.primitives)
    }

    /// What a function sends to threads, processes and interpreters.
    pub fn offloaded(&self, key: &FnKey) -> &[Offloaded] {
        self.node(key).map_or(&[], |node| &node.offloaded)
    }

    /// What a function gives to the loop, to be run later.
    pub fn scheduled(&self, key: &FnKey) -> &[Scheduled] {
        self.node(key).map_or(&[], |node| &node.scheduled)
    }

    /// Whether its body runs on the event loop's thread: a coroutine, a callback of the loop, or called from one of
    /// these without being offloaded.
    pub fn on_loop(&self, key: &FnKey) -> bool {
        self.id(key).is_some_and(|id| self.reach.on_loop(id))
    }

    /// In what circumstances it runs: its own decorators', and those of everything that reaches it.
    pub fn tags(&self, key: &FnKey) -> Vec<Tag> {
        self.id(key).map_or(vec![], |id| self.tags[id as usize].to_vec())
    }

    /// Whether everything that is known of its circumstances says that it hurts nobody: a start-up, a command, a test.
    pub fn is_quiet(&self, key: &FnKey) -> bool {
        self.id(key).is_some_and(|id| self.tags[id as usize].quiet())
    }

    /// What blocks the loop, by path and place.
    pub fn roots(&self) -> &[Root] {
        self.roots.get_or_init(|| roots::find(self))
    }

    fn id(&self, key: &FnKey) -> Option<u32> {
        self.ids.get(key).copied()
    }

    fn node(&self, key: &FnKey) -> Option<&Node> {
        self.nodes.get(self.id(key)? as usize)
    }

    fn by_id(&self, id: u32) -> &Function {
        &self.functions[&self.keys[id as usize]]
    }
}
