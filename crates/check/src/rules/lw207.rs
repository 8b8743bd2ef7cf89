//! LW207 cancelled-counted-as-success. Its page: lw207.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::{Node, Scope, ends, fix, name_of, replace, scopes, simple_assignment, walk, walk_nested};
use crate::context::FileContext;
use crate::finding::{Finding, Level, Safety};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW207",
    name: "cancelled-counted-as-success",
    summary: "`isinstance(result, Exception)` over gather's results takes a cancelled call for a result",
    pedantic: false,
    fix: Some(Safety::Safe),
    page: include_str!("lw207.md"),
};

/// CancelledError is no Exception.
pub struct CancelledCountedAsSuccess;

impl Rule for CancelledCountedAsSuccess {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in scopes(file) {
            let gathered = gathered(file, &scope);
            let elements = elements(file, &scope, &gathered);
            if elements.is_empty() {
                continue;
            }
            let mut tests = vec![];
            let mut told_apart = false;
            let mut goes_on = false;
            walk_nested(scope.body, &mut |node, around| {
                let Node::Expr(Expr::Call(call)) = node else { return };
                if name_of(&call.func) != Some("isinstance") {
                    return;
                }
                let [value, class] = &call.arguments.args[..] else { return };
                if !name_of(value).is_some_and(|name| elements.contains(&name)) && !is_item(value, &gathered) {
                    return;
                }
                match class_name(file, class).as_deref() {
                    Some("Exception") => {
                        goes_on |= takes_the_rest(around);
                        tests.push((call, class));
                    }
                    Some(_) => told_apart = true,
                    None => {
                        told_apart |= file.text(class.range()).contains("Cancel")
                            || file.text(class.range()).contains("BaseException")
                    }
                }
            });
            // With a test for BaseException or CancelledError beside it, the case is thought of; other classes are not it.
            if told_apart {
                continue;
            }
            found.extend(report(file, &scope, &tests, goes_on));
        }
    }
}

/// One finding for all tests of a function: they are mended together.
fn report(
    file: &FileContext<'_>,
    scope: &Scope<'_>,
    tests: &[(&ast::ExprCall, &Expr)],
    goes_on: bool,
) -> Option<Finding> {
    let (call, _) = tests.first()?;
    let message =
        "a call of gather that was cancelled counts as a success here: CancelledError is no Exception".to_owned();
    let mut finding = file.finding(
        META.code,
        if goes_on { Level::Likely } else { Level::Pedantic },
        call.range(),
        &scope.name,
        message,
    );
    finding.why =
        Some("with `return_exceptions=True` a cancelled call gives its CancelledError as its result".to_owned());
    finding.help = Some("ask for BaseException".to_owned());
    let edits = tests.iter().map(|(_, class)| replace(class.range(), "BaseException")).collect();
    finding.fix = fix("ask for BaseException", Safety::Safe, edits);
    Some(finding)
}

/// Whether what is no Exception is then taken for a result: a negated test, an `else`, code behind a branch that leaves.
fn takes_the_rest(around: &[Node<'_>]) -> bool {
    around.iter().rev().any(|node| match node {
        Node::Expr(Expr::UnaryOp(node)) => node.op == ast::UnaryOp::Not,
        Node::Expr(Expr::If(_)) => true,
        Node::Stmt(Stmt::If(node)) => !node.elif_else_clauses.is_empty() || !ends(&node.body).falls,
        _ => false,
    })
}

/// `BaseException` and `CancelledError` tell a cancel apart; so that they are recognised they are named as they are.
fn class_name(file: &FileContext<'_>, class: &Expr) -> Option<String> {
    let name = file.qualified(class)?;
    let name = name.strip_prefix("builtins.").unwrap_or(&name);
    matches!(name, "Exception" | "BaseException" | "asyncio.CancelledError" | "asyncio.exceptions.CancelledError")
        .then(|| name.to_owned())
}

/// `gather(..., return_exceptions=True)`
fn gives_exceptions(file: &FileContext<'_>, value: &Expr) -> bool {
    let Expr::Call(call) = value else { return false };
    file.qualified(&call.func).as_deref() == Some("asyncio.gather")
        && call
            .arguments
            .find_keyword("return_exceptions")
            .is_some_and(|keyword| matches!(&keyword.value, Expr::BooleanLiteral(literal) if literal.value))
}

/// Names that hold the results of a `gather(..., return_exceptions=True)`.
fn gathered<'a>(file: &FileContext<'_>, scope: &Scope<'a>) -> Vec<&'a str> {
    let mut found = vec![];
    walk(scope.body, &mut |node, _| {
        if let Node::Stmt(statement) = node
            && let Some((target, Expr::Await(value))) = simple_assignment(statement)
            && let Expr::Call(call) = &*value.value
            && file.qualified(&call.func).as_deref() == Some("asyncio.gather")
            && call
                .arguments
                .find_keyword("return_exceptions")
                .is_some_and(|keyword| matches!(&keyword.value, Expr::BooleanLiteral(literal) if literal.value))
        {
            match target {
                Expr::Name(name) => found.push(name.id.as_str()),
                // `a, b = await gather(...)`: each is one result.
                Expr::Tuple(tuple) => found.extend(tuple.elts.iter().filter_map(name_of)),
                _ => {}
            }
        }
    });
    found
}

/// Names that run over them: `for r in results`, `for x, r in zip(xs, results)`, comprehensions; and single results.
fn elements<'a>(file: &FileContext<'_>, scope: &Scope<'a>, gathered: &[&'a str]) -> Vec<&'a str> {
    let mut found = gathered.to_vec();
    let mut take = |target: &'a Expr, over: &'a Expr| match over {
        Expr::Name(name) if gathered.contains(&name.id.as_str()) => found.extend(name_of(target)),
        Expr::Await(value) if gives_exceptions(file, &value.value) => found.extend(name_of(target)),
        Expr::Call(call) => {
            let Expr::Tuple(targets) = target else { return };
            let shift = match name_of(&call.func) {
                Some("zip") => 0,
                Some("enumerate") => 1,
                _ => return,
            };
            for (place, argument) in call.arguments.args.iter().enumerate() {
                if name_of(argument).is_some_and(|name| gathered.contains(&name)) {
                    found.extend(targets.elts.get(place + shift).and_then(name_of));
                }
            }
        }
        _ => {}
    };
    walk(scope.body, &mut |node, _| match node {
        Node::Stmt(Stmt::For(node)) => take(&node.target, &node.iter),
        Node::Comprehension(node) => take(&node.target, &node.iter),
        _ => {}
    });
    found
}

/// `results[0]`
fn is_item(value: &Expr, gathered: &[&str]) -> bool {
    matches!(value, Expr::Subscript(node) if name_of(&node.value).is_some_and(|name| gathered.contains(&name)))
}
