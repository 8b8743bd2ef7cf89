//! LW502: `join` of a queue on which nobody calls `task_done`.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support;
use crate::context::{FileContext, FunctionAt, functions};
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

/// The rule.
pub struct JoinWithoutTaskDone;

static META: RuleMeta = RuleMeta {
    code: "LW502",
    name: "join-without-task-done",
    summary: "`join` of a queue whose items nobody marks as done: it never returns",
    pedantic: false,
    fix: None,
    page: include_str!("lw502.md"),
};

const QUEUES: &[&str] = &["asyncio.Queue", "asyncio.PriorityQueue", "asyncio.LifoQueue"];

impl Rule for JoinWithoutTaskDone {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        // Whoever marks any item as done, anywhere in the file, may mark those of this queue.
        if !file.source.contains(".join(") || file.source.contains("task_done") {
            return;
        }
        for function in functions(file.body()).into_iter().filter(|function| function.node.is_async) {
            support::walk(&function.node.body, &mut |node, _| {
                let support::Node::Expr(Expr::Await(awaited)) = node else { return };
                let Expr::Call(call) = &*awaited.value else { return };
                let Expr::Attribute(join) = &*call.func else { return };
                if join.attr.as_str() != "join" || !call.arguments.is_empty() {
                    return;
                }
                let queue = &*join.value;
                if !file.classes(queue).iter().any(|class| QUEUES.contains(&class.as_str()))
                    || !made_here(file, &function, queue)
                    || leaves(file, &function, queue)
                {
                    return;
                }
                let name = file.text(queue.range());
                let message = format!("`{name}.join()` waits for `task_done`, which nobody calls");
                let mut finding = file.finding(META.code, Level::Certain, awaited.range(), &function.name, message);
                finding.why =
                    Some("the queue is made in this file, stays in it, and the file has no `task_done`".into());
                finding.help = Some("call `task_done()` once for each item, in a `finally` after the `get`".into());
                found.push(finding);
            });
        }
    }
}

/// Made by a call in this function, or assigned to the same attribute of `self` somewhere in the file.
fn made_here<'a>(file: &FileContext<'a>, function: &FunctionAt<'a>, queue: &Expr) -> bool {
    let mut found = false;
    support::walk_nested(reach(file, function, queue), &mut |node, _| {
        if let support::Node::Stmt(statement) = node
            && let Some((target, value)) = support::simple_assignment(statement)
        {
            found |= support::same(target, queue) && value.is_call_expr();
        }
    });
    found
}

/// Handed to code of another file, which may mark its items: as an argument, returned, yielded or put elsewhere.
fn leaves<'a>(file: &FileContext<'a>, function: &FunctionAt<'a>, queue: &Expr) -> bool {
    let mut left = false;
    support::walk_nested(reach(file, function, queue), &mut |node, around| {
        let support::Node::Expr(expression) = node else { return };
        if !support::same(expression, queue) || is_stored(expression) {
            return;
        }
        left |= match around.last() {
            Some(support::Node::Expr(Expr::Attribute(_))) => false,
            Some(support::Node::Expr(Expr::Call(call))) => !stays(file, call),
            _ => true,
        };
    });
    // A public attribute is anybody's.
    left || matches!(queue, Expr::Attribute(attribute) if !attribute.attr.starts_with('_'))
}

/// The code that sees a queue under this name: the function for a local one, the file for an attribute.
fn reach<'a>(file: &FileContext<'a>, function: &FunctionAt<'a>, queue: &Expr) -> &'a [Stmt] {
    if queue.is_name_expr() { &function.node.body } else { file.body() }
}

fn is_stored(expression: &Expr) -> bool {
    match expression {
        Expr::Name(name) => name.ctx.is_store(),
        Expr::Attribute(attribute) => attribute.ctx.is_store(),
        _ => false,
    }
}

/// A call of functions of this file only.
fn stays(file: &FileContext<'_>, call: &ast::ExprCall) -> bool {
    let targets = file.targets(call);
    !targets.is_empty() && targets.iter().all(|target| target.key.as_ref().is_some_and(|key| key.path == file.path))
}
