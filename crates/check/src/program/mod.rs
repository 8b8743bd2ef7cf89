//! The whole program: every function that was analysed, what calls what, and what follows from that.
//!
//! Built from facts and the effect table alone; nothing here sees a syntax tree or a type.

use rustc_hash::FxHashMap;

use crate::effects::Table;
use crate::facts::{Certainty, Class, FileFacts, FnKey, Function};
use crate::finding::Tag;

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
}

impl Program {
    /// Links the facts of all files.
    pub fn new(files: Vec<FileFacts>, table: Table) -> Self {
        let _ = &files;
        Self { functions: FxHashMap::default(), classes: FxHashMap::default(), table, project: vec![] }
    }

    /// A function that was analysed.
    pub fn function(&self, key: &FnKey) -> Option<&Function> {
        self.functions.get(key)
    }

    /// What a function runs on its own thread, and before it goes on.
    pub fn callees(&self, _key: &FnKey) -> &[Edge] {
        &[]
    }

    /// What runs a function so.
    pub fn callers(&self, _key: &FnKey) -> &[Edge] {
        &[]
    }

    /// Whether its body runs on the event loop's thread: a coroutine, a callback of the loop, or called from one of
    /// these without being offloaded.
    pub fn on_loop(&self, _key: &FnKey) -> bool {
        false
    }

    /// In what circumstances it runs: its own decorators', and those of everything that reaches it.
    pub fn tags(&self, _key: &FnKey) -> Vec<Tag> {
        vec![]
    }
}
