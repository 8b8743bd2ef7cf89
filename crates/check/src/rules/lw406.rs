//! LW406 lock-over-io. Its page: lw406.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::support::{Node, Scope, coroutines, last_name, shortened, suspensions, walk};
use crate::context::FileContext;
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW406",
    name: "lock-over-io",
    summary: "a lock is held while the network is awaited: everybody waits for the slowest",
    pedantic: true,
    fix: None,
    page: include_str!("lw406.md"),
};

/// One lock, one connection at a time.
pub struct LockOverIo;

impl Rule for LockOverIo {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            walk(scope.body, &mut |node, _| {
                let Node::Stmt(Stmt::With(node)) = node else { return };
                let lock = node.items.iter().find(|item| node.is_async && is_lock(file, &item.context_expr));
                let Some(lock) = lock else { return };
                let calls = suspensions(&node.body).into_iter().filter_map(awaited);
                if let Some(call) = calls.into_iter().find(|call| reaches_out(call)) {
                    found.push(report(file, &scope, lock.context_expr.range(), call.range()));
                }
            });
        }
    }
}

fn is_lock(file: &FileContext<'_>, context: &Expr) -> bool {
    let classes = file.classes(context);
    classes.iter().any(|class| matches!(class.as_str(), "asyncio.Lock" | "anyio.Lock" | "loopwright.Lock"))
}

fn awaited(node: Node<'_>) -> Option<&ast::ExprCall> {
    let Node::Expr(Expr::Await(node)) = node else { return None };
    match &*node.value {
        Expr::Call(call) => Some(call),
        _ => None,
    }
}

/// Calls that speak to somebody else, by their name.
fn reaches_out(call: &ast::ExprCall) -> bool {
    let name = last_name(&call.func).unwrap_or_default().trim_start_matches('_');
    let whole = ["connect", "request", "fetch", "get", "post", "put", "query", "execute", "send", "recv", "login"];
    whole.contains(&name)
        || [
            "open_connection",
            "create_connection",
            "connect_",
            "fetch_",
            "request_",
            "download",
            "upload",
            "create_pool",
        ]
        .iter()
        .any(|start| name.starts_with(start))
}

fn report(file: &FileContext<'_>, scope: &Scope<'_>, lock: TextRange, call: TextRange) -> Finding {
    let (held, code) = (shortened(file.text(lock)), shortened(file.text(call)));
    let message = format!("`{held}` is held while `{code}` waits for somebody else");
    let mut finding = file.finding(META.code, Level::Pedantic, call, &scope.name, message);
    finding.why =
        Some("everybody who wants the lock, for whatever else, waits as long as the slowest answer".to_owned());
    finding.help =
        Some("keep the lock for the books; share the task that does the work, or take a lock per key".to_owned());
    finding
}
