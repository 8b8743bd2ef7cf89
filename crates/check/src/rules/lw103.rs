//! LW103: what the loop calls back blocks it: callbacks, protocols, signal handlers, plain functions as handlers.

use super::chains;
use crate::finding::Finding;
use crate::program::{Channel, Program};
use crate::rule::{Rule, RuleMeta};

/// See `lw103.md`.
pub struct BlockingCallback;

static META: RuleMeta = RuleMeta {
    code: "LW103",
    name: "blocking-callback",
    summary: "A callback of the loop blocks it",
    pedantic: false,
    fix: None,
    page: include_str!("lw103.md"),
};

impl Rule for BlockingCallback {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_program(&self, program: &Program, found: &mut Vec<Finding>) {
        for root in program.roots() {
            if root.channel != Channel::Blocking || !root.callback || super::lw106::is_executor_exit(program, root) {
                continue;
            }
            let entry = chains::short(program, &root.entry);
            let message = match (root.steps.len(), &root.dependency) {
                (1, _) => format!("`{}` blocks the event loop, which calls `{entry}` itself", root.primitive),
                (calls, _) => format!(
                    "`{}` blocks the event loop, which calls `{entry}` itself: {calls} calls down",
                    root.primitive
                ),
            };
            found.push(chains::finding(program, root, META.code, message));
        }
    }
}
