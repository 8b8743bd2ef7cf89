//! LW402 acquire-without-deadline. Its page: lw402.md.

use crate::facts::{FnKey, Function, Held, Site};
use crate::finding::{Finding, Level, Tag};
use crate::program::Program;
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW402",
    name: "acquire-without-deadline",
    summary: "a handler waits for a permit or a connection without a limit of time",
    pedantic: true,
    fix: None,
    page: include_str!("lw402.md"),
};

/// A wait in a handler that nothing ends.
pub struct AcquireWithoutDeadline;

impl Rule for AcquireWithoutDeadline {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_program(&self, program: &Program, found: &mut Vec<Finding>) {
        for key in &program.project {
            let Some(function) = program.function(key) else { continue };
            if !function.is_async || !function.sites.iter().any(acquires) || !program.tags(key).contains(&Tag::Handler)
            {
                continue;
            }
            if called_with_deadline(program, key) {
                continue;
            }
            let sites = function.sites.iter().filter(|site| acquires(site) && !site.held.iter().any(is_deadline));
            found.extend(sites.map(|site| report(key, function, site)));
        }
    }
}

/// `await x.acquire()`. Inside of `wait_for(...)` the call itself is not awaited.
fn acquires(site: &Site) -> bool {
    site.awaited
        && site.text.ends_with(".acquire")
        && !site.arguments.iter().any(|argument| argument.keyword.as_deref() == Some("timeout"))
        && !site.targets.is_empty()
}

fn is_deadline(held: &Held) -> bool {
    let text = held.text.to_lowercase();
    ["timeout", "deadline", "fail_after", "move_on_after"].iter().any(|word| text.contains(word))
}

/// Somebody who calls it has a limit of time around the call.
fn called_with_deadline(program: &Program, key: &FnKey) -> bool {
    program.awaiters(key).any(|edge| {
        let site = program.function(&edge.from).and_then(|caller| caller.sites.get(edge.site));
        site.is_some_and(|site| site.held.iter().any(is_deadline))
    })
}

fn report(key: &FnKey, function: &Function, site: &Site) -> Finding {
    Finding {
        rule: META.code.to_owned(),
        level: Level::Pedantic,
        path: key.path.clone(),
        span: site.span,
        function: function.qual.clone(),
        message: format!("`{}` waits in a handler for as long as it takes", site.text),
        frames: vec![],
        why: Some("when whoever holds it hangs, so does every request that comes after".to_owned()),
        help: Some("put it under `asyncio.timeout(...)`, and answer that the service is busy".to_owned()),
        tags: vec![Tag::Handler],
        callers: vec![],
        callers_total: 0,
        fix: None,
        quiet: false,
    }
}
