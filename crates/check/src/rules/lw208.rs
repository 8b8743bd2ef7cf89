//! LW208 unguarded-task-exception. Its page: lw208.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextSize};

use super::support::cancellation::class_catches;
use super::support::tasks::is_future;
use super::support::{Node, Scope, fix, last_name, name_of, replace, same, scopes, walk, walk_nested};
use crate::context::FileContext;
use crate::finding::{Finding, Level, Safety};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW208",
    name: "unguarded-task-exception",
    summary: "`task.exception()` raises where the task is not done, or was cancelled",
    pedantic: false,
    fix: Some(Safety::Safe),
    page: include_str!("lw208.md"),
};

/// A question that raises.
pub struct UnguardedTaskException;

impl Rule for UnguardedTaskException {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        let callbacks = done_callbacks(file);
        for scope in scopes(file) {
            walk(scope.body, &mut |node, around| {
                let Node::Expr(Expr::Call(call)) = node else { return };
                let Expr::Attribute(method) = &*call.func else { return };
                if method.attr.as_str() != "exception" || !call.arguments.is_empty() {
                    return;
                }
                let task = &*method.value;
                let role = role(&scope, task, &callbacks);
                if role != Role::Callback && !is_future(file, task) {
                    return;
                }
                if asks(scope.body, Some(task), "cancelled") || is_caught(file, around) {
                    return;
                }
                found.push(report(file, &scope, call, task, role));
            });
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A done callback: the task is done.
    Callback,
    /// A function that is given a task and waits for nothing: a callback, as likely as not.
    Helper,
    /// Anybody else.
    Other,
}

fn role(scope: &Scope<'_>, task: &Expr, callbacks: &[&str]) -> Role {
    let Some(function) = scope.function else { return Role::Other };
    let given = name_of(task).is_some_and(|name| function.parameters.iter().any(|one| one.name().as_str() == name));
    match given {
        true if callbacks.contains(&function.name.as_str()) => Role::Callback,
        true if !function.is_async => Role::Helper,
        _ => Role::Other,
    }
}

fn report(file: &FileContext<'_>, scope: &Scope<'_>, call: &ast::ExprCall, task: &Expr, role: Role) -> Finding {
    let name = file.text(task.range());
    let cancelled = format!("`{name}.exception()` raises CancelledError when the task was cancelled");
    let is_done = asks(scope.body, None, "done") || is_awaited_before(scope, call.range().start());
    let (level, message, why) = match role {
        Role::Callback => (Level::Certain, cancelled, "this is a done callback: a cancelled task comes here too"),
        _ if is_done => (Level::Pedantic, cancelled, "the task is done here, but perhaps by a cancel"),
        Role::Helper => (Level::Likely, cancelled, "nothing here asks how the task has ended"),
        Role::Other => (
            Level::Certain,
            format!("`{name}.exception()` raises InvalidStateError while the task runs"),
            "nothing here waits for the task or asks whether it is done",
        ),
    };
    let mut finding = file.finding(META.code, level, call.range(), &scope.name, message);
    finding.why = Some(why.to_owned());
    finding.help = Some(match role {
        Role::Callback => format!("ask `{name}.cancelled()` before"),
        _ => format!("ask `{name}.done()` and `{name}.cancelled()` before"),
    });
    if role == Role::Callback {
        let text = format!("(None if {name}.cancelled() else {name}.exception())");
        finding.fix = fix("ask whether it was cancelled", Safety::Safe, vec![replace(call.range(), text)]);
    }
    finding
}

/// Functions of this file that are given to `add_done_callback`, by their last name.
fn done_callbacks<'a>(file: &FileContext<'a>) -> Vec<&'a str> {
    let mut found = vec![];
    walk_nested(file.body(), &mut |node, _| {
        if let Node::Expr(Expr::Call(call)) = node
            && let Expr::Attribute(method) = &*call.func
            && method.attr.as_str() == "add_done_callback"
            && is_future(file, &method.value)
            && let Some(callback) = call.arguments.args.first()
        {
            let callback = match callback {
                // `partial(callback, name)`
                Expr::Call(call) if last_name(&call.func) == Some("partial") => call.arguments.args.first(),
                _ => Some(callback),
            };
            found.extend(callback.and_then(last_name));
        }
    });
    found
}

/// The block asks `task.question()`, of any task if none is given.
fn asks(body: &[Stmt], task: Option<&Expr>, question: &str) -> bool {
    let mut found = false;
    walk(body, &mut |node, _| {
        if let Node::Expr(Expr::Call(call)) = node
            && let Expr::Attribute(method) = &*call.func
        {
            found |= method.attr.as_str() == question && task.is_none_or(|task| same(&method.value, task));
        }
    });
    found
}

/// A `try` or a `suppress` around it catches what it raises.
fn is_caught(file: &FileContext<'_>, around: &[Node<'_>]) -> bool {
    let catches =
        |class: &Expr| class_catches(file, class).is_some() || file.text(class.range()).contains("InvalidStateError");
    around.iter().any(|node| match node {
        Node::Stmt(Stmt::Try(node)) => node.handlers.iter().any(|handler| {
            let ast::ExceptHandler::ExceptHandler(handler) = handler;
            handler.type_.as_deref().is_none_or(catches)
        }),
        Node::Stmt(Stmt::With(node)) => node.items.iter().any(|item| match &item.context_expr {
            Expr::Call(call) => last_name(&call.func) == Some("suppress") && call.arguments.args.iter().any(catches),
            _ => false,
        }),
        _ => false,
    })
}

/// Something was awaited before: perhaps this very task.
fn is_awaited_before(scope: &Scope<'_>, at: TextSize) -> bool {
    super::support::suspensions(scope.body).iter().any(|node| node.range().start() < at)
}
