//! LW201 coroutine-never-awaited. Its page: lw201.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::tasks::{Given, Gives, given};
use super::support::{
    Node, Scope, fix, insert, is_expected_to_fail, reads, scopes, shortened, simple_assignment, walk,
};
use crate::context::FileContext;
use crate::finding::{Finding, Level, Safety};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW201",
    name: "coroutine-never-awaited",
    summary: "a call gives a coroutine, perhaps through helpers that return one, and nobody awaits it",
    pedantic: false,
    fix: Some(Safety::Safe),
    page: include_str!("lw201.md"),
};

/// A coroutine that never runs.
pub struct CoroutineNeverAwaited;

impl Rule for CoroutineNeverAwaited {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in scopes(file) {
            walk(scope.body, &mut |node, around| {
                let Some((call, what)) = misused(&scope, node) else { return };
                if is_expected_to_fail(around) {
                    return;
                }
                let Some(given) = given(file, call) else { return };
                if given.what == Gives::Coroutine {
                    found.push(report(file, &scope, call, what, given, around));
                }
            });
        }
    }
}

/// How a coroutine is lost.
#[derive(Clone, Copy)]
enum Loss {
    /// `f()` as a statement.
    Dropped,
    /// `x = f()`, and `x` is never read.
    Unread,
    /// `if f():`
    Truth,
    /// `f"{f()}"`
    Text,
}

/// A call whose value is used as no coroutine can be.
fn misused<'a>(scope: &Scope<'a>, node: Node<'a>) -> Option<(&'a ast::ExprCall, Loss)> {
    let call = |value: &'a Expr| match value {
        Expr::Call(call) => Some(call),
        _ => None,
    };
    let truth = |value| Some((call(value)?, Loss::Truth));
    match node {
        Node::Stmt(Stmt::Expr(node)) => Some((call(&node.value)?, Loss::Dropped)),
        Node::Stmt(statement @ (Stmt::Assign(_) | Stmt::AnnAssign(_))) => {
            let (target, value) = simple_assignment(statement)?;
            let Expr::Name(name) = target else { return None };
            let local = scope.function.is_some() && !super::support::outlives(scope.body, &name.id);
            (local && reads(scope.body, &name.id).is_empty()).then_some((call(value)?, Loss::Unread))
        }
        Node::Stmt(Stmt::If(node)) => truth(&node.test),
        Node::Stmt(Stmt::While(node)) => truth(&node.test),
        Node::Stmt(Stmt::Assert(node)) => truth(&node.test),
        Node::Expr(Expr::UnaryOp(node)) if node.op == ast::UnaryOp::Not => truth(&node.operand),
        Node::Expr(Expr::If(node)) => truth(&node.test),
        Node::Expr(Expr::BoolOp(node)) => truth(&node.values[0]),
        Node::Expr(Expr::FString(node)) => node
            .value
            .elements()
            .filter_map(|part| part.as_interpolation())
            .find_map(|part| call(&part.expression))
            .map(|call| (call, Loss::Text)),
        _ => None,
    }
}

fn report(
    file: &FileContext<'_>,
    scope: &Scope<'_>,
    call: &ast::ExprCall,
    loss: Loss,
    given: Given,
    around: &[Node<'_>],
) -> Finding {
    let code = shortened(file.text(call.range()));
    let message = match loss {
        Loss::Dropped => format!("`{code}` makes a coroutine that is never awaited: its body does not run"),
        Loss::Unread => format!("the coroutine of `{code}` is never used: its body does not run"),
        Loss::Truth => format!("`{code}` is a coroutine, which is always true: its body does not run"),
        Loss::Text => format!("`{code}` is a coroutine: the text shows the object, its body does not run"),
    };
    let level = if given.always { Level::Certain } else { Level::Likely };
    let mut finding = file.finding(META.code, level, call.range(), &scope.name, message);
    finding.why = match given.frames.last() {
        Some(frame) if given.always => Some(format!("`{}` is no `async def`, but {}", frame.function, frame.note)),
        Some(frame) => Some(format!("`{}` {} on one of its paths", frame.function, frame.note)),
        None => None,
    };
    finding.frames = given.frames;
    let comprehension = around.iter().any(|node| matches!(node, Node::Comprehension(_)));
    if scope.is_async() && !comprehension {
        finding.help = Some("await it".to_owned());
        if given.always {
            finding.fix = fix("add the missing `await`", Safety::Safe, vec![insert(call.range().start(), "await ")]);
        }
    } else {
        let name = &scope.name;
        finding.help =
            Some(format!("`{name}` is no coroutine: make it one, or hand the coroutine to a task that is kept"));
    }
    finding
}
