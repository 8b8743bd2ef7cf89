//! What a call gives its caller: a coroutine, or a task, and whether anything else keeps that task. Follows helpers,
//! unannotated ones included, wherever they stand.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::{Node, ends, reads, simple_assignment, walk};
use crate::context::FileContext;
use crate::finding::Frame;

/// Helpers behind helpers that are followed.
const DEPTH: usize = 4;

/// What a call gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// A coroutine: nothing runs until it is awaited.
    Coroutine,
    /// A task that only the caller holds: the loop's own reference is weak.
    Task,
}

/// What is known about a call's value.
#[derive(Clone, Debug)]
pub struct Given {
    /// What it is.
    pub what: Gives,
    /// On every path through the helpers.
    pub always: bool,
    /// From the helper's `return` down to where it is made; empty where the call itself makes it.
    pub frames: Vec<Frame>,
}

/// What a call gives, if that is a coroutine or a task that nobody else holds.
pub fn given(file: &FileContext<'_>, call: &ast::ExprCall) -> Option<Given> {
    of_call(file, call, DEPTH)
}

/// Whether a call makes a task by itself: `asyncio.create_task`, `loop.create_task`, `asyncio.ensure_future`; not
/// `TaskGroup.create_task`, whose group holds the task.
pub fn makes_task(file: &FileContext<'_>, call: &ast::ExprCall) -> bool {
    let mut names: Vec<String> = file.targets(call).into_iter().map(|target| target.qual).collect();
    names.extend(file.qualified(&call.func));
    names.iter().any(|name| {
        matches!(
            name.as_str(),
            "asyncio.create_task"
                | "asyncio.tasks.create_task"
                | "asyncio.ensure_future"
                | "asyncio.tasks.ensure_future"
                | "asyncio.AbstractEventLoop.create_task"
                | "asyncio.events.AbstractEventLoop.create_task"
                | "asyncio.BaseEventLoop.create_task"
                | "asyncio.base_events.BaseEventLoop.create_task"
        )
    })
}

/// Whether one of the classes of a value is a task or a future of asyncio.
pub fn is_future(file: &FileContext<'_>, value: &Expr) -> bool {
    file.classes(value).iter().any(|class| matches!(class.as_str(), "asyncio.Task" | "asyncio.Future"))
}

/// Whether a class is what a call of an `async def` gives.
fn is_coroutine(class: &str) -> bool {
    matches!(
        class,
        "types.CoroutineType" | "typing.Coroutine" | "collections.abc.Coroutine" | "_typeshed.CoroutineType"
    )
}

fn of_call(file: &FileContext<'_>, call: &ast::ExprCall, depth: usize) -> Option<Given> {
    // `app.get("/")(handler)` hands a coroutine function to a decorator: what that gives, its parts do not tell.
    if matches!(&*call.func, Expr::Call(_)) {
        return None;
    }
    if file.makes_coroutine(call) {
        return Some(Given { what: Gives::Coroutine, always: true, frames: vec![] });
    }
    if is_wrapped_coroutine(file, call) {
        return Some(Given { what: Gives::Coroutine, always: true, frames: vec![] });
    }
    if makes_task(file, call) {
        return Some(Given { what: Gives::Task, always: true, frames: vec![] });
    }
    let classes = file.classes(&Expr::Call(call.clone()));
    // What is known to be something else needs no look into the helper.
    let other = |class: &String| {
        !is_coroutine(class) && !class.contains("Task") && !class.contains("Future") && !class.contains("Awaitable")
    };
    if !classes.is_empty() && classes.iter().all(other) {
        return None;
    }
    let targets = file.targets(call);
    if depth > 0 && !targets.is_empty() && targets.iter().all(|target| target.body && !target.is_async) {
        let mut all: Option<Given> = None;
        for target in &targets {
            let key = target.key.as_ref()?;
            let mut one = None;
            file.resolver
                .with_function(key, &mut |file, function| one = of_helper(file, function, &target.qual, depth));
            match (&mut all, one?) {
                (None, one) => all = Some(one),
                (Some(all), one) if all.what == one.what => all.always &= one.always,
                _ => return None,
            }
        }
        if all.is_some() {
            return all;
        }
    }
    let coroutines = classes.iter().filter(|class| is_coroutine(class)).count();
    (coroutines > 0).then(|| Given { what: Gives::Coroutine, always: coroutines == classes.len(), frames: vec![] })
}

/// A decorated `async def` whose decorators hand on what it returns: `def inner(*args): return function(*args)`.
fn is_wrapped_coroutine(file: &FileContext<'_>, call: &ast::ExprCall) -> bool {
    let targets = file.targets(call);
    let [target] = &targets[..] else { return false };
    let (true, Some(key)) = (target.is_async, &target.key) else { return false };
    let mut found = false;
    file.resolver.with_function(key, &mut |file, function| {
        found = function.is_async
            && !function.decorator_list.is_empty()
            && function.decorator_list.iter().all(|decorator| hands_on(file, &decorator.expression))
            && !yields(&function.body);
    });
    found
}

/// A decorator of the project that returns a function which returns what the decorated one gives, and nothing else.
fn hands_on(file: &FileContext<'_>, decorator: &Expr) -> bool {
    let targets = file.resolver.reference_targets(decorator);
    let [target] = &targets[..] else { return false };
    let Some(key) = &target.key else { return false };
    let mut found = false;
    file.resolver.with_function(key, &mut |_, function| {
        let Some(given) = function.parameters.iter().next() else { return };
        let [.., Stmt::Return(last)] = &function.body[..] else { return };
        let returned = last.value.as_deref().and_then(super::name_of);
        found = function.body.iter().any(|statement| match statement {
            Stmt::FunctionDef(inner) if Some(inner.name.as_str()) == returned => {
                let mut calls = vec![];
                walk(&inner.body, &mut |node, _| {
                    if let Node::Stmt(Stmt::Return(node)) = node {
                        calls.push(node.value.as_deref());
                    }
                });
                let own = |value: &Option<&Expr>| {
                    matches!(value, Some(Expr::Call(call)) if super::name_of(&call.func) == Some(given.name().as_str()))
                };
                let plain = !ends(&inner.body).falls && !calls.is_empty() && calls.iter().all(own);
                (inner.is_async || plain) && !yields(&inner.body)
            }
            _ => false,
        });
    });
    found
}

fn yields(body: &[Stmt]) -> bool {
    let mut found = false;
    walk(body, &mut |node, _| found |= matches!(node, Node::Expr(Expr::Yield(_) | Expr::YieldFrom(_))));
    found
}

/// What a helper returns.
fn of_helper(file: &FileContext<'_>, function: &ast::StmtFunctionDef, qual: &str, depth: usize) -> Option<Given> {
    let plain = function.decorator_list.iter().all(|decorator| {
        matches!(super::last_name(&decorator.expression), Some("staticmethod" | "classmethod" | "override"))
    });
    if function.is_async || !plain {
        return None;
    }
    let mut returned = vec![];
    walk(&function.body, &mut |node, _| {
        if let Node::Stmt(Stmt::Return(node)) = node {
            returned.push(node);
        }
    });
    if yields(&function.body) {
        return None;
    }
    let mut always = !ends(&function.body).falls;
    let mut all: Option<Given> = None;
    for node in returned {
        let value = node.value.as_deref();
        let one = value.and_then(|value| of_value(file, function, value, depth));
        let Some(mut one) = one else {
            // A value that is neither: what the caller drops may be that.
            always = false;
            continue;
        };
        if all.as_ref().is_some_and(|all| all.what != one.what) {
            return None;
        }
        if all.is_none() {
            let value = value.expect("it gives something");
            one.frames.insert(
                0,
                Frame {
                    path: file.path.clone(),
                    span: file.span(value.range()),
                    function: qual.to_owned(),
                    note: format!("returns `{}`", super::shortened(file.text(value.range()))),
                },
            );
            all = Some(one);
        } else {
            always &= one.always;
        }
    }
    let mut all = all?;
    all.always &= always;
    Some(all)
}

/// What a returned expression is. A task that the helper also keeps elsewhere is nobody's loss.
fn of_value(file: &FileContext<'_>, function: &ast::StmtFunctionDef, value: &Expr, depth: usize) -> Option<Given> {
    match value {
        Expr::Call(call) => of_call(file, call, depth - 1),
        Expr::Name(name) => {
            let mut bound = vec![];
            walk(&function.body, &mut |node, _| {
                if let Node::Stmt(statement) = node
                    && let Some((Expr::Name(target), value)) = simple_assignment(statement)
                    && target.id == name.id
                {
                    bound.push(value);
                }
            });
            let [Expr::Call(call)] = bound[..] else { return None };
            let given = of_call(file, call, depth - 1)?;
            (!is_kept(&function.body, &name.id)).then_some(given)
        }
        _ => None,
    }
}

/// Whether a function does anything with a task, beside returning it, that keeps it: stores it, awaits it, hands it on.
pub fn is_kept(body: &[Stmt], name: &str) -> bool {
    super::outlives(body, name)
        || reads(body, name).iter().any(|one| {
            let returned = matches!(one.around.last(), Some(Node::Stmt(Stmt::Return(_))));
            let own = matches!(
                one.attribute(),
                Some("add_done_callback" | "set_name" | "get_name" | "done" | "cancelled" | "cancel")
            );
            !returned && !own
        })
}
