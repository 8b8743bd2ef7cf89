//! LW209 except-inside-group. Its page: lw209.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::support::cancellation::catches;
use super::support::{Node, Scope, coroutines, name_of, shortened, simple_assignment, walk};
use crate::context::FileContext;
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW209",
    name: "except-inside-group",
    summary: "a handler inside of a TaskGroup waits for the error of the group's own task: the cancel comes first",
    pedantic: false,
    fix: None,
    page: include_str!("lw209.md"),
};

/// A handler that never runs.
pub struct ExceptInsideGroup;

impl Rule for ExceptInsideGroup {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            walk(scope.body, &mut |node, _| {
                let Node::Stmt(Stmt::With(node)) = node else { return };
                for item in node.items.iter().filter(|_| node.is_async) {
                    if let Some(group) = item.optional_vars.as_deref().and_then(name_of)
                        && file.classes(&item.context_expr).iter().any(|class| class == "asyncio.TaskGroup")
                    {
                        found.extend(handlers(file, &scope, group, &node.body));
                    }
                }
            });
        }
    }
}

fn handlers(file: &FileContext<'_>, scope: &Scope<'_>, group: &str, body: &[Stmt]) -> Vec<Finding> {
    let tasks = tasks_of(group, body);
    let mut found = vec![];
    walk(body, &mut |node, _| {
        let Node::Stmt(Stmt::Try(node)) = node else { return };
        let Some(awaited) = awaits_only(&node.body, group, &tasks) else { return };
        let Some(ast::ExceptHandler::ExceptHandler(handler)) = node.handlers.first() else { return };
        let Some(class) = handler.type_.as_deref().filter(|_| catches(file, handler).is_none()) else { return };
        let range = TextRange::new(handler.range.start(), class.range().end());
        let message = format!(
            "this handler never sees the error of `{}`: the group is cancelled first",
            shortened(file.text(awaited.range()))
        );
        let mut finding = file.finding(META.code, Level::Certain, range, &scope.name, message);
        finding.why = Some(format!(
            "when a task of `{group}` fails, the group cancels its own body: the await raises CancelledError, and the error leaves the `async with` in an ExceptionGroup"
        ));
        finding.help = Some("catch it inside of the task, or with `except*` around the `async with`".to_owned());
        found.push(finding);
    });
    found
}

/// Names of tasks that the group makes.
fn tasks_of<'a>(group: &str, body: &'a [Stmt]) -> Vec<&'a str> {
    let mut found = vec![];
    walk(body, &mut |node, _| {
        if let Node::Stmt(statement) = node
            && let Some((Expr::Name(name), value)) = simple_assignment(statement)
            && is_made_by(group, value)
        {
            found.push(name.id.as_str());
        }
    });
    walk(body, &mut |node, _| {
        if let Node::Stmt(Stmt::For(node)) = node
            && let (Some(one), Some(all)) = (name_of(&node.target), name_of(&node.iter))
            && found.contains(&all)
        {
            found.push(one);
        }
    });
    found
}

/// `group.create_task(...)`, or a list of such.
fn is_made_by(group: &str, value: &Expr) -> bool {
    match value {
        Expr::Call(call) => match &*call.func {
            Expr::Attribute(method) => method.attr.as_str() == "create_task" && name_of(&method.value) == Some(group),
            _ => false,
        },
        Expr::List(node) => !node.elts.is_empty() && node.elts.iter().all(|one| is_made_by(group, one)),
        Expr::ListComp(node) => is_made_by(group, &node.elt),
        _ => false,
    }
}

/// The awaited task, where a block awaits nothing but tasks of the group: other errors have other ways here.
fn awaits_only<'a>(body: &'a [Stmt], group: &str, tasks: &[&str]) -> Option<&'a Expr> {
    let mut first = None;
    let mut others = false;
    let is_task = |value: &Expr| name_of(value).is_some_and(|name| tasks.contains(&name)) || is_made_by(group, value);
    walk(body, &mut |node, _| match node {
        Node::Expr(Expr::Await(node)) => {
            let value = &*node.value;
            let gathered = match value {
                Expr::Call(call) => {
                    super::support::last_name(&call.func) == Some("gather")
                        && call.arguments.keywords.is_empty()
                        && call.arguments.args.iter().all(|argument| match argument {
                            Expr::Starred(node) => is_task(&node.value),
                            _ => is_task(argument),
                        })
                }
                _ => false,
            };
            if gathered || is_task(value) {
                first.get_or_insert(value);
            } else {
                others = true;
            }
        }
        node => others |= super::support::suspends(node),
    });
    let work = body.iter().any(|statement| has_other_calls(statement, group));
    first.filter(|_| !others && !work)
}

/// Calls that may raise by themselves what the handler is for.
fn has_other_calls(statement: &Stmt, group: &str) -> bool {
    let mut found = false;
    walk(std::slice::from_ref(statement), &mut |node, around| {
        if let Node::Expr(value @ Expr::Call(call)) = node {
            let awaited = around.iter().any(|node| matches!(node, Node::Expr(Expr::Await(_))));
            let harmless = super::support::dotted(&call.func).is_some_and(|name| {
                name == "print" || name.contains("log") || name.ends_with(".append") || name.ends_with(".add")
            });
            let sent = around.iter().any(|node| matches!(node, Node::Expr(one) if is_made_by(group, one)));
            found |= !awaited && !harmless && !sent && !is_made_by(group, value);
        }
    });
    found
}
