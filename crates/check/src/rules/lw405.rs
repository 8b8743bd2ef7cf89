//! LW405 limiter-per-call. Its page: lw405.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::support::{Node, Scope, bindings, coroutines, name_of, outlives, reads, shortened, simple_assignment, walk};
use crate::context::FileContext;
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW405",
    name: "limiter-per-call",
    summary: "a semaphore, lock or limiter that each call makes for itself limits nothing",
    pedantic: false,
    fix: None,
    page: include_str!("lw405.md"),
};

/// A limit that nobody shares.
pub struct LimiterPerCall;

impl Rule for LimiterPerCall {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            walk(scope.body, &mut |node, _| {
                let Node::Stmt(statement) = node else { return };
                if let Stmt::With(node) = statement
                    && node.is_async
                {
                    for item in &node.items {
                        if let Some(limiter) = limiter(file, &item.context_expr) {
                            found.push(report(file, &scope, item.context_expr.range(), limiter));
                        }
                    }
                }
                if let Some((Expr::Name(name), value)) = simple_assignment(statement)
                    && let Some(limiter) = limiter(file, value)
                    && bindings(scope.body, &name.id).len() == 1
                    && !outlives(scope.body, &name.id)
                    && only_entered_here(&scope, &name.id)
                {
                    found.push(report(file, &scope, statement.range(), limiter));
                }
            });
        }
    }
}

/// What a call makes, if that limits those who share it.
fn limiter(file: &FileContext<'_>, value: &Expr) -> Option<&'static str> {
    let Expr::Call(call) = value else { return None };
    match file.qualified(&call.func)?.as_str() {
        "asyncio.Semaphore" | "asyncio.BoundedSemaphore" | "anyio.Semaphore" | "loopwright.Semaphore" => {
            Some("semaphore")
        }
        "asyncio.Lock" | "anyio.Lock" | "loopwright.Lock" => Some("lock"),
        "aiolimiter.AsyncLimiter" | "anyio.CapacityLimiter" | "loopwright.RateLimiter" => Some("limiter"),
        _ => None,
    }
}

/// Every use of the name is `async with name` or a method of it, in the function's own body: no helper, no nested
/// function, no other object ever gets it.
fn only_entered_here(scope: &Scope<'_>, name: &str) -> bool {
    let uses = reads(scope.body, name);
    !uses.is_empty()
        && uses.iter().all(|one| {
            !one.is_nested()
                && !one
                    .around
                    .iter()
                    .any(|node| matches!(node, Node::Expr(Expr::Yield(_)) | Node::Stmt(Stmt::ClassDef(_))))
                && (is_entered(one.around.last().copied(), one.node) || one.method_call().is_some())
        })
}

fn is_entered(parent: Option<Node<'_>>, name: &ast::ExprName) -> bool {
    let Some(Node::Stmt(Stmt::With(node))) = parent else { return false };
    node.is_async && node.items.iter().any(|item| name_of(&item.context_expr).is_some_and(|one| *one == name.id))
}

fn report(file: &FileContext<'_>, scope: &Scope<'_>, range: TextRange, limiter: &str) -> Finding {
    let code = shortened(file.text(range));
    let message = format!("`{code}` limits nothing: each call of `{}` makes its own {limiter}", scope.name);
    let mut finding = file.finding(META.code, Level::Certain, range, &scope.name, message);
    finding.why = Some(format!("the {limiter} never leaves this call, so nobody else ever waits for it"));
    finding.help = Some("make it once: in the module, in `__init__`, or where the calls are started".to_owned());
    finding
}
