//! LW102: the project calls a dependency on the loop, and the dependency's own code blocks.

use super::{chains, to_thread};
use crate::finding::{Finding, Safety};
use crate::program::{Channel, Program};
use crate::rule::{Rule, RuleMeta};

/// See `lw102.md`.
pub struct BlockingDependency;

static META: RuleMeta = RuleMeta {
    code: "LW102",
    name: "blocking-dependency",
    summary: "A function of a dependency blocks inside, and is reached from a coroutine",
    pedantic: false,
    fix: Some(Safety::Unsafe),
    page: include_str!("lw102.md"),
};

impl Rule for BlockingDependency {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_program(&self, program: &Program, found: &mut Vec<Finding>) {
        for root in program.roots() {
            if root.channel != Channel::Blocking || root.callback {
                continue;
            }
            let Some(dependency) = &root.dependency else { continue };
            let reached = chains::reached(program, root);
            let message = format!("`{dependency}` blocks the event loop inside, in `{}`: {reached}", root.primitive);
            let mut finding = chains::finding(program, root, META.code, message);
            finding.fix = to_thread::fix(program, root);
            found.push(finding);
        }
    }
}
