//! LW302: a generator that yields inside of a scope that belongs to a task.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::{self, Node};
use crate::context::{FileContext, FunctionAt, functions};
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

/// The rule.
pub struct YieldInScope;

static META: RuleMeta = RuleMeta {
    code: "LW302",
    name: "yield-in-scope",
    summary: "an async generator yields inside of a timeout or a task group: its cancel hits whoever iterates",
    pedantic: false,
    fix: None,
    page: include_str!("lw302.md"),
};

/// Scopes that cancel the task that entered them.
const SCOPES: &[&str] = &[
    "asyncio.timeout",
    "asyncio.timeout_at",
    "asyncio.TaskGroup",
    "anyio.create_task_group",
    "anyio.fail_after",
    "anyio.move_on_after",
    "anyio.CancelScope",
    "loopwright.timeout",
    "loopwright.timeout_at",
    "loopwright.TaskGroup",
];

/// Decorators under which a generator is not iterated by others: the two halves run in one task.
const CONTEXT_MANAGERS: &[&str] = &["asynccontextmanager", "fixture", "contextmanager"];

impl Rule for YieldInScope {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        if !file.source.contains("yield") {
            return;
        }
        let all = functions(file.body());
        for function in all.iter().filter(|function| function.node.is_async && !is_context_manager(function)) {
            let mut told: Option<&ast::StmtWith> = None;
            support::walk(&function.node.body, &mut |node, around| {
                let Node::Expr(Expr::Yield(_)) = node else { return };
                let inside = around.iter().rev().find_map(|outer| match outer {
                    Node::Stmt(Stmt::With(block)) => block
                        .items
                        .iter()
                        .find_map(|item| scope(file, &all, &item.context_expr, 4))
                        .map(|scope| (block, scope)),
                    _ => None,
                });
                let Some((block, scope)) = inside else { return };
                // Each scope is told once, at its first yield.
                if told.is_some_and(|last| std::ptr::eq(last, block)) {
                    return;
                }
                told = Some(block);
                let message = format!(
                    "`{}` yields inside of `{}`, which cancels whatever task iterates it",
                    function.node.name, scope.name
                );
                let mut finding = file.finding(META.code, Level::Certain, node.range(), &function.name, message);
                finding.why = Some(match scope.through {
                    Some(helper) => format!(
                        "`{helper}` opens `{}` around its own `yield`; while this generator is suspended the scope stays open in the caller's task",
                        scope.name
                    ),
                    None => "while the generator is suspended the scope stays open in the caller's task (PEP 789)"
                        .to_owned(),
                });
                finding.help = Some("let the caller open the scope, put the limit around one step (`anext`), or hand the items over by a queue; `loopwright.prefetch` does".into());
                found.push(finding);
            });
        }
    }
}

/// A scope that a `with` opens, and the helper in which it does.
struct Scope {
    name: String,
    through: Option<String>,
}

/// What a context expression opens: a scope itself, or a context manager of this file that yields inside of one.
fn scope(file: &FileContext<'_>, all: &[FunctionAt<'_>], context: &Expr, depth: u8) -> Option<Scope> {
    let Expr::Call(call) = context else { return None };
    if let Some(name) = file.qualified(&call.func).filter(|name| SCOPES.contains(&name.as_str())) {
        return Some(Scope { name, through: None });
    }
    if depth == 0 {
        return None;
    }
    let targets = file.resolver.reference_targets(&call.func);
    let [target] = &targets[..] else { return None };
    let key = target.key.as_ref().filter(|key| key.path == file.path)?;
    let helper =
        all.iter().find(|one| one.node.name.start().to_u32() == key.offset).filter(|one| is_context_manager(one))?;
    let mut inner = None;
    support::walk(&helper.node.body, &mut |node, around| {
        if let Node::Expr(Expr::Yield(_)) = node {
            inner = inner.take().or_else(|| {
                around.iter().find_map(|outer| match outer {
                    Node::Stmt(Stmt::With(block)) => {
                        block.items.iter().find_map(|item| scope(file, all, &item.context_expr, depth - 1))
                    }
                    _ => None,
                })
            });
        }
    });
    inner.map(|scope| Scope { name: scope.name, through: Some(helper.name.clone()) })
}

fn is_context_manager(function: &FunctionAt<'_>) -> bool {
    function
        .node
        .decorator_list
        .iter()
        .any(|decorator| support::last_name(&decorator.expression).is_some_and(|name| CONTEXT_MANAGERS.contains(&name)))
}
