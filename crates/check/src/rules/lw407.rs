//! LW407 unbounded-recursion-retry. Its page: lw407.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::waiting::parameters;
use super::support::{Node, Scope, bindings, coroutines, name_of, shortened, walk};
use crate::context::{FileContext, functions};
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW407",
    name: "unbounded-recursion-retry",
    summary: "a coroutine that calls itself again when it failed, without counting",
    pedantic: false,
    fix: None,
    page: include_str!("lw407.md"),
};

/// A retry that only the stack ends.
pub struct UnboundedRecursionRetry;

impl Rule for UnboundedRecursionRetry {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        let methods: Vec<_> =
            functions(file.body()).into_iter().filter(|one| one.class.is_some()).map(|one| one.node).collect();
        for scope in coroutines(file) {
            let Some(function) = scope.function else { continue };
            let is_method = methods.iter().any(|method| std::ptr::eq(*method, function));
            walk(scope.body, &mut |node, around| {
                let Node::Expr(Expr::Await(awaited)) = node else { return };
                let Expr::Call(call) = &*awaited.value else { return };
                let handler = around.iter().rposition(|node| matches!(node, Node::Handler(_)));
                let Some(Node::Handler(handler)) = handler.map(|at| around[at]) else { return };
                if calls_itself(function, call, is_method)
                    && same_arguments(&scope, function, call, is_method)
                    && !may_end(handler, call)
                {
                    found.push(report(file, &scope, handler, awaited));
                }
            });
        }
    }
}

fn calls_itself(function: &ast::StmtFunctionDef, call: &ast::ExprCall, is_method: bool) -> bool {
    match &*call.func {
        Expr::Name(name) => !is_method && name.id == function.name.id,
        Expr::Attribute(attribute) => {
            is_method && attribute.attr.id == function.name.id && name_of(&attribute.value) == Some("self")
        }
        _ => false,
    }
}

/// The second call is told what the first one was: nothing counts, nothing changes.
fn same_arguments(scope: &Scope<'_>, function: &ast::StmtFunctionDef, call: &ast::ExprCall, is_method: bool) -> bool {
    let own = parameters(function);
    let own = if is_method { own.get(1..).unwrap_or_default() } else { &own[..] };
    let unchanged =
        |value: &Expr| name_of(value).is_some_and(|name| own.contains(&name) && bindings(scope.body, name).is_empty());
    let positional = call.arguments.args.iter().enumerate().all(|(at, value)| match value {
        Expr::Starred(starred) => unchanged(&starred.value),
        _ => unchanged(value) && name_of(value) == own.get(at).copied(),
    });
    let keywords = call.arguments.keywords.iter().all(|keyword| {
        unchanged(&keyword.value)
            && keyword.arg.as_ref().is_none_or(|name| Some(name.as_str()) == name_of(&keyword.value))
    });
    positional && keywords
}

/// The handler may give up: it has a condition, raises in some case, or counts.
fn may_end(handler: &ast::ExceptHandlerExceptHandler, call: &ast::ExprCall) -> bool {
    let mut ends = false;
    walk(&handler.body, &mut |node, _| {
        ends |= match node {
            Node::Stmt(Stmt::If(node)) => node.range.contains_range(call.range()) || returns_or_raises(&node.body),
            Node::Stmt(Stmt::Raise(_) | Stmt::AugAssign(_) | Stmt::While(_) | Stmt::For(_) | Stmt::Match(_)) => true,
            _ => false,
        };
    });
    ends
}

fn returns_or_raises(body: &[Stmt]) -> bool {
    body.iter().any(|statement| matches!(statement, Stmt::Return(_) | Stmt::Raise(_)))
}

fn report(
    file: &FileContext<'_>,
    scope: &Scope<'_>,
    handler: &ast::ExceptHandlerExceptHandler,
    awaited: &ast::ExprAwait,
) -> Finding {
    let name = scope.name.rsplit('.').next().unwrap_or_default();
    let caught = handler
        .type_
        .as_ref()
        .map_or_else(|| "every error".to_owned(), |class| format!("`{}`", shortened(file.text(class.range()))));
    let message = format!("`{name}` calls itself again on {caught}, for as long as it comes");
    let changed = handler.body.iter().any(|statement| matches!(statement, Stmt::Expr(_) | Stmt::Assign(_)));
    let level = if changed { Level::Likely } else { Level::Certain };
    let mut finding = file.finding(META.code, level, awaited.range(), &scope.name, message);
    finding.why = Some(
        "the second call has the same arguments and nothing counts: it ends in a RecursionError, or never".to_owned(),
    );
    finding.help = Some("make it a loop with a number of attempts and a pause between them".to_owned());
    finding
}
