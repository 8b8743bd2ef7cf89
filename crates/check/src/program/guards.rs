//! Conditions under which a site runs: whether it can run where a loop runs, and whether what it waits for is there.

use rustc_hash::FxHashSet;

use super::Program;
use crate::facts::{FnKind, Function, Guard, Site};

/// Whether a site runs only where no event loop runs in this thread.
pub(super) fn off_loop(site: &Site, program: &Program) -> bool {
    site.guards.iter().any(|guard| match guard {
        Guard::NoRunningLoop => true,
        // What is asked says "a loop runs": its false branch has none; and the other way round. A function of the
        // project that asks for the loop and returns a truth is asked for one reason only, in both branches.
        Guard::When { qual, truth } => match program.table.guard(qual) {
            Some(guard) => guard.running != *truth,
            None => program.loop_tests.contains(qual),
        },
    })
}

/// Functions that do nothing but find out whether a loop runs.
pub(super) fn loop_tests(program: &Program) -> FxHashSet<String> {
    let asks = |function: &Function| {
        let plain = !function.is_async && !function.is_generator && function.kind != FnKind::Module;
        let about_loops = |site: &Site| {
            let known = |qual: &str| program.table.guard(qual).is_some();
            !site.targets.is_empty() && site.targets.iter().any(|target| known(&target.qual))
        };
        plain && function.sites.len() <= 2 && !function.sites.is_empty() && function.sites.iter().all(about_loops)
    };
    program.functions.values().filter(|function| asks(function)).map(|function| function.qual.clone()).collect()
}

/// What waits, by the end of its name; what says beforehand that there is nothing to wait for; and whether by its truth.
const ALREADY: [(&str, &str, bool); 8] = [
    ("Future.result", "Future.done", true),
    ("Future.exception", "Future.done", true),
    // Nobody asks this of a future that is not over.
    ("Future.result", "Future.cancelled", false),
    ("Future.exception", "Future.cancelled", false),
    ("Queue.get", "Queue.empty", false),
    ("Queue.put", "Queue.full", false),
    ("Thread.join", "Thread.is_alive", false),
    ("Process.join", "Process.is_alive", false),
];

/// Whether a site runs only when what it would wait for is there already.
pub(super) fn already(site: &Site, qual: &str) -> bool {
    // Code for futures of both kinds: those of asyncio raise where they are not over, so it asks when they are.
    let is_asyncio = |other: &str| other.starts_with("asyncio.") || other.starts_with("_asyncio.");
    let for_both = site.targets.iter().any(|target| is_asyncio(&target.qual) && target.qual.contains(".Future."));
    if for_both && qual.starts_with("concurrent.futures.") {
        return true;
    }
    site.guards.iter().any(|guard| match guard {
        Guard::When { qual: asked, truth } => {
            ALREADY.iter().any(|(waits, asks, when)| qual.ends_with(waits) && asked.ends_with(asks) && truth == when)
        }
        Guard::NoRunningLoop => false,
    })
}
