//! LW106: the end of `with ThreadPoolExecutor()` waits for all of its jobs, on the loop.

use super::chains;
use crate::facts::SiteKind;
use crate::finding::Finding;
use crate::program::{Channel, Program, Root};
use crate::rule::{Rule, RuleMeta};

/// See `lw106.md`.
pub struct ExecutorExitBlocks;

static META: RuleMeta = RuleMeta {
    code: "LW106",
    name: "executor-exit-blocks",
    summary: "The end of a `with` over an executor waits for its jobs on the event loop",
    pedantic: false,
    fix: None,
    page: include_str!("lw106.md"),
};

impl Rule for ExecutorExitBlocks {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_program(&self, program: &Program, found: &mut Vec<Finding>) {
        for root in program.roots().iter().filter(|root| is_executor_exit(program, root)) {
            let text = program.site(&root.function, root.site).map_or("", |site| site.text.as_str());
            let message = format!(
                "the end of `with {text}` waits for every job on the event loop: {}",
                chains::reached(program, root)
            );
            let mut finding = chains::finding(program, root, META.code, message);
            finding.help = Some(
                "keep the executor for the life of the program, and await its jobs with \
                 `await loop.run_in_executor(executor, ...)`; or leave the `with` in a thread"
                    .to_owned(),
            );
            found.push(finding);
        }
    }
}

/// Whether a root is the end of a `with` over an executor.
pub fn is_executor_exit(program: &Program, root: &Root) -> bool {
    let exit = program.site(&root.function, root.site).is_some_and(|site| site.kind == SiteKind::Exit);
    root.channel == Channel::Blocking && exit && root.dependency.is_none() && root.primitive.contains("Executor")
}
