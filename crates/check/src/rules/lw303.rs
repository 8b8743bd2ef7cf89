//! LW303: a permit that is given back before what it limits is over.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::{self, Node};
use crate::context::{FileContext, functions};
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

/// The rule.
pub struct PermitEndsBeforeUse;

static META: RuleMeta = RuleMeta {
    code: "LW303",
    name: "permit-ends-before-use",
    summary: "a semaphore limits the opening of a connection, not the connections that are open",
    pedantic: false,
    fix: None,
    page: include_str!("lw303.md"),
};

const LIMITS: &[&str] = &[
    "asyncio.Semaphore",
    "asyncio.BoundedSemaphore",
    "anyio.Semaphore",
    "anyio.CapacityLimiter",
    "loopwright.Semaphore",
    "loopwright.BoundedSemaphore",
    "loopwright.limits.Semaphore",
    "loopwright.limits.BoundedSemaphore",
    "loopwright._loopwright.Semaphore",
    "loopwright._loopwright.BoundedSemaphore",
];

/// Last names of calls whose result stays open until it is closed.
const OPENS: &[&str] = &[
    "connect",
    "_connect",
    "open_connection",
    "open_unix_connection",
    "create_connection",
    "connect_async",
    "ws_connect",
];

impl Rule for PermitEndsBeforeUse {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        if !OPENS.iter().any(|name| file.source.contains(name)) {
            return;
        }
        for function in functions(file.body()).into_iter().filter(|function| function.node.is_async) {
            support::walk(&function.node.body, &mut |node, _| {
                let Node::Stmt(Stmt::With(block)) = node else { return };
                let Some(limit) = block.items.iter().map(|item| &item.context_expr).find(|one| is_limit(file, one))
                else {
                    return;
                };
                if !block.is_async {
                    return;
                }
                for escape in escapes(&function.node.body, block) {
                    let (limit, opened) = (file.text(limit.range()), file.text(escape.opened.func.range()));
                    let message = format!("the permit of `{limit}` ends here, the connection of `{opened}` does not");
                    let mut finding =
                        file.finding(META.code, Level::Likely, escape.at.range(), &function.name, message);
                    finding.why =
                        Some(format!("`{limit}` bounds how many connect at once, not how many are connected"));
                    finding.help = Some("hold the permit as long as the connection: make this an async context manager that yields it, or use `loopwright.Pool`".into());
                    found.push(finding);
                }
            });
        }
    }
}

fn is_limit(file: &FileContext<'_>, context: &Expr) -> bool {
    file.classes(context).iter().any(|class| LIMITS.contains(&class.as_str()))
}

/// What is opened under the permit and used after it.
struct Escape<'a> {
    at: &'a Expr,
    opened: &'a ast::ExprCall,
}

fn escapes<'a>(body: &'a [Stmt], block: &'a ast::StmtWith) -> Vec<Escape<'a>> {
    let mut found = vec![];
    let mut yields = false;
    support::walk(&block.body, &mut |node, around| match node {
        Node::Expr(Expr::Yield(_)) => yields = true,
        Node::Stmt(Stmt::Return(node)) => {
            // Under a `with` of its own it is closed before the permit ends.
            let held = around.iter().any(|outer| matches!(outer, Node::Stmt(Stmt::With(_))));
            if let Some(value) = node.value.as_deref()
                && let Some(opened) = opening(value)
                && !held
            {
                found.push(Escape { at: value, opened });
            }
        }
        Node::Stmt(statement) => {
            let Some((target, value)) = support::simple_assignment(statement) else { return };
            let Some(opened) = opening(value) else { return };
            let Some(name) = support::name_of(target) else { return };
            let after = |at: ruff_text_size::TextRange| at.start() >= block.end();
            let used = support::reads(body, name);
            let returned = support::reads(&block.body, name)
                .iter()
                .any(|one| matches!(one.around.last(), Some(Node::Stmt(Stmt::Return(_)))));
            let closed = used.iter().any(|one| {
                !after(one.node.range()) && matches!(one.attribute(), Some("close" | "aclose" | "wait_closed"))
            });
            if !closed && (returned || used.iter().any(|one| after(one.node.range()))) {
                found.push(Escape { at: value, opened });
            }
        }
        _ => {}
    });
    if yields { vec![] } else { found }
}

/// `await connect(...)`, also under `wait_for`.
fn opening(value: &Expr) -> Option<&ast::ExprCall> {
    let Expr::Await(awaited) = value else { return None };
    let Expr::Call(call) = &*awaited.value else { return None };
    let call = match (support::last_name(&call.func), call.arguments.args.first()) {
        (Some("wait_for"), Some(Expr::Call(inner))) => inner,
        _ => call,
    };
    OPENS.contains(&support::last_name(&call.func)?).then_some(call)
}
