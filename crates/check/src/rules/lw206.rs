//! LW206 local-task-set. Its page: lw206.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::tasks::{Gives, given, is_future};
use super::support::{Node, Scope, Use, bindings, ends, outlives, reads, scopes, simple_assignment, walk};
use crate::context::FileContext;
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW206",
    name: "local-task-set",
    summary: "a set that is to keep tasks alive is a local of a function that returns before they are done",
    pedantic: false,
    fix: None,
    page: include_str!("lw206.md"),
};

/// A keeper that is gone before what it keeps.
pub struct LocalTaskSet;

impl Rule for LocalTaskSet {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in scopes(file) {
            let out = ends(scope.body);
            if scope.function.is_none() || !(out.falls || out.returns) {
                continue;
            }
            walk(scope.body, &mut |node, _| {
                if let Node::Stmt(statement) = node {
                    found.extend(local_set(file, &scope, statement));
                }
            });
        }
    }
}

fn local_set(file: &FileContext<'_>, scope: &Scope<'_>, statement: &Stmt) -> Option<Finding> {
    let (target, value) = simple_assignment(statement)?;
    let Expr::Name(name) = target else { return None };
    if !is_empty_container(file, value) || bindings(scope.body, &name.id).len() != 1 || outlives(scope.body, &name.id) {
        return None;
    }
    let uses = reads(scope.body, &name.id);
    if !uses.iter().all(|one| is_upkeep(one)) {
        return None;
    }
    let added = uses.iter().find_map(|one| added_task(file, scope, one))?;
    let message = format!("`{}` keeps its tasks only until this function returns: then they may vanish", name.id);
    let mut finding = file.finding(META.code, Level::Certain, added.range(), &scope.name, message);
    let line = file.span(statement.range()).line;
    finding.why = Some(format!(
        "nobody awaits it, the loop keeps only a weak reference to it, and the collection of line {line} is a local"
    ));
    finding.help = Some(
        "make it an attribute or a global that lives as long as the tasks, or wait for them before the function returns"
            .to_owned(),
    );
    Some(finding)
}

/// `set()`, `[]`, `{}`, `list()`, `dict()`, `deque()`.
fn is_empty_container(file: &FileContext<'_>, value: &Expr) -> bool {
    match value {
        Expr::List(node) => node.elts.is_empty(),
        Expr::Dict(node) => node.items.is_empty(),
        Expr::Call(call) => {
            call.arguments.is_empty()
                && file.qualified(&call.func).is_some_and(|name| {
                    matches!(
                        name.strip_prefix("builtins.").unwrap_or(&name),
                        "set" | "list" | "dict" | "collections.deque" | "weakref.WeakSet"
                    )
                })
        }
        _ => false,
    }
}

/// Puts something in or takes it out, and nothing else.
fn is_upkeep(one: &Use<'_>) -> bool {
    if matches!(one.parent(), Some(Expr::Call(call)) if super::support::name_of(&call.func) == Some("len")) {
        return true;
    }
    matches!(one.attribute(), Some("add" | "append" | "discard" | "remove" | "pop" | "clear")) && {
        // `x = tasks.pop()` reads it.
        let read = one.method_call().is_some() && one.attribute() == Some("pop");
        !read
    }
}

/// The task that a use puts in: the call that makes it.
fn added_task<'a>(file: &FileContext<'_>, scope: &Scope<'a>, one: &Use<'a>) -> Option<&'a ast::ExprCall> {
    let call = one.method_call()?;
    if !matches!(one.attribute(), Some("add" | "append")) {
        return None;
    }
    match call.arguments.args.first()? {
        Expr::Call(made) => given(file, made).is_some_and(|given| given.what == Gives::Task).then_some(made),
        value @ Expr::Name(name) => {
            // Whoever else has the task may keep it.
            let elsewhere = reads(scope.body, &name.id).iter().any(|other| {
                let own = matches!(other.attribute(), Some("add_done_callback" | "set_name"));
                let here = call.arguments.args.iter().any(|argument| argument.range() == other.node.range);
                !own && !here
            });
            if elsewhere || !is_future(file, value) { None } else { made_here(file, scope, &name.id) }
        }
        _ => None,
    }
}

/// The call that makes the task, where that is the name's only value.
fn made_here<'a>(file: &FileContext<'_>, scope: &Scope<'a>, name: &str) -> Option<&'a ast::ExprCall> {
    let mut values = vec![];
    walk(scope.body, &mut |node, _| {
        if let Node::Stmt(statement) = node
            && let Some((Expr::Name(target), value)) = simple_assignment(statement)
            && target.id == name
        {
            values.push(value);
        }
    });
    let [Expr::Call(call)] = values[..] else { return None };
    let made = given(file, call).is_some_and(|given| given.what == Gives::Task);
    (made && bindings(scope.body, name).len() == 1).then_some(call)
}
