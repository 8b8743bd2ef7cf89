//! Conditions under which a site runs: whether it can run where a loop runs.

use crate::effects::Table;
use crate::facts::{Guard, Site};

/// Whether a site runs only where no event loop runs in this thread.
pub(super) fn off_loop(site: &Site, table: &Table) -> bool {
    site.guards.iter().any(|guard| match guard {
        Guard::NoRunningLoop => true,
        // What is asked says "a loop runs": its false branch has none; and the other way round.
        Guard::When { qual, truth } => table.guard(qual).is_some_and(|guard| guard.running != *truth),
    })
}
