//! LW104: a second event loop is run in the thread of the first.

use super::chains;
use crate::finding::Finding;
use crate::program::{Channel, Program};
use crate::rule::{Rule, RuleMeta};

/// See `lw104.md`.
pub struct NestedLoop;

static META: RuleMeta = RuleMeta {
    code: "LW104",
    name: "nested-loop",
    summary: "`asyncio.run` or `run_until_complete` is reached from a coroutine, where it raises",
    pedantic: false,
    fix: None,
    page: include_str!("lw104.md"),
};

impl Rule for NestedLoop {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_program(&self, program: &Program, found: &mut Vec<Finding>) {
        for root in program.roots().iter().filter(|root| root.channel == Channel::NestedLoop) {
            let what = root.dependency.as_ref().unwrap_or(&root.primitive);
            let message = format!("`{what}` runs a loop inside a running one: {}", chains::reached(program, root));
            found.push(chains::finding(program, root, META.code, message));
        }
    }
}
