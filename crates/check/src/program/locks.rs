//! Locks of threads: taking one that nobody holds for long is a few instructions, so it blocks only where something
//! blocks while it is held.

use rustc_hash::FxHashSet;

use super::Program;
use crate::facts::{Function, Held, SiteKind};

/// Whether a name of the table takes a lock of threads.
pub(super) fn is_lock(qual: &str) -> bool {
    let Some((class, method)) = qual.rsplit_once('.') else { return false };
    let class = class.rsplit('.').next().unwrap_or_default().trim_start_matches('_').to_ascii_lowercase();
    matches!(method, "__enter__" | "acquire")
        && matches!(class.as_str(), "lock" | "rlock" | "condition" | "semaphore" | "boundedsemaphore")
}

/// What tells one lock from another: its place, or else its text.
fn identity(held: &Held) -> &str {
    held.identity.as_deref().unwrap_or(&held.text)
}

/// Whether a site that takes a lock has to expect that it is held for long. `acquire` outside of a `with` may be.
pub(super) fn waits(function: &Function, site: usize, contended: &FxHashSet<String>) -> bool {
    let taking = &function.sites[site];
    if taking.kind == SiteKind::Call {
        return true;
    }
    let held = function.sites.iter().flat_map(|site| &site.held).find(|held| held.text == taking.text);
    held.is_some_and(|held| contended.contains(identity(held)))
}

/// Locks under which something blocks.
pub(super) fn contended(program: &Program) -> FxHashSet<String> {
    let mut blocking = vec![false; program.keys.len()];
    let mut open = vec![];
    let long = |qual: &str| program.table.blocks(qual).is_some_and(|blocks| !blocks.short) && !is_lock(qual);
    for (id, node) in program.nodes.iter().enumerate() {
        if node.primitives.iter().any(|primitive| long(&primitive.qual)) {
            blocking[id] = true;
            open.push(id);
        }
    }
    while let Some(id) = open.pop() {
        for (from, _) in &program.callers[id] {
            if !std::mem::replace(&mut blocking[*from as usize], true) {
                open.push(*from as usize);
            }
        }
    }
    let mut found = FxHashSet::default();
    for (id, node) in program.nodes.iter().enumerate() {
        let function = program.by_id(id as u32);
        let own = node.primitives.iter().filter(|primitive| long(&primitive.qual)).map(|primitive| primitive.site);
        let below = node.edges.iter().filter(|edge| blocking[edge.to_id as usize]).map(|edge| edge.site);
        for site in own.chain(below) {
            let held = function.sites[site].held.iter().filter(|held| !held.is_async);
            found.extend(held.map(|held| identity(held).to_owned()));
        }
    }
    found
}
