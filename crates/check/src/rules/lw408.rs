//! LW408 unbounded-queue. Its page: lw408.md.

use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::waiting::number;
use super::support::{Node, dotted, last_name, scopes, shortened, simple_assignment, walk};
use crate::context::FileContext;
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW408",
    name: "unbounded-queue",
    summary: "a queue without a limit, filled by somebody who never waits",
    pedantic: true,
    fix: None,
    page: include_str!("lw408.md"),
};

/// Memory in the place of back pressure.
pub struct UnboundedQueue;

impl Rule for UnboundedQueue {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        let mut filled: Option<Vec<String>> = None;
        for scope in scopes(file) {
            walk(scope.body, &mut |node, _| {
                let Node::Stmt(statement) = node else { return };
                let Some((target, value)) = simple_assignment(statement) else { return };
                if !matches!(statement, Stmt::Assign(_) | Stmt::AnnAssign(_)) || !is_unbounded(file, value) {
                    return;
                }
                let Some(place) = dotted(target) else { return };
                let filled = filled.get_or_insert_with(|| filled_without_waiting(file));
                if filled.contains(&place) {
                    let code = shortened(&place);
                    let message = format!("`{code}` has no limit, and `{code}.put_nowait` never waits");
                    let mut finding = file.finding(META.code, Level::Pedantic, statement.range(), &scope.name, message);
                    finding.why =
                        Some("when the consumer is slower, what waits grows until the memory is gone".to_owned());
                    finding.help =
                        Some("give it a `maxsize` and say what happens when it is full: wait, drop, refuse".to_owned());
                    found.push(finding);
                }
            });
        }
    }
}

/// `asyncio.Queue()`, `asyncio.Queue(0)`.
fn is_unbounded(file: &FileContext<'_>, value: &Expr) -> bool {
    let Expr::Call(call) = value else { return false };
    let named = last_name(&call.func).is_some_and(|name| name.ends_with("Queue"));
    let class = named.then(|| file.qualified(&call.func)).flatten();
    let queues = ["asyncio.Queue", "asyncio.LifoQueue", "asyncio.PriorityQueue", "loopwright.Queue"];
    class.is_some_and(|class| queues.contains(&class.as_str()))
        && call.arguments.find_argument_value("maxsize", 0).is_none_or(|size| number(size) == Some(0.0))
}

/// What `put_nowait` is called on, or handed to the loop with, anywhere in the file.
fn filled_without_waiting(file: &FileContext<'_>) -> Vec<String> {
    let mut found = vec![];
    for scope in scopes(file) {
        walk(scope.body, &mut |node, _| {
            if let Node::Expr(Expr::Attribute(attribute)) = node
                && attribute.attr.as_str() == "put_nowait"
            {
                found.extend(dotted(&attribute.value));
            }
        });
    }
    found
}
