//! What waits and what never does, what is under a lock or a limit: for the rules about time and limits.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};

use super::{Node, dotted, last_name, suspensions, walk};
use crate::context::FileContext;
use crate::facts::{Certainty, Target};

/// How many helpers are followed in a row.
const DEPTH: u8 = 4;

/// The coroutine function that a call certainly starts, if it never gives control back to the loop: it has no `await`
/// that could wait, nor has what it awaits.
pub fn never_waits(file: &FileContext<'_>, call: &ast::ExprCall) -> Option<Target> {
    follow(file, call, DEPTH)
}

fn follow(file: &FileContext<'_>, call: &ast::ExprCall, depth: u8) -> Option<Target> {
    let mut targets = file.targets(call);
    let (1, Some(target)) = (targets.len(), targets.pop()) else { return None };
    if depth == 0 || target.certainty != Certainty::Certain || !target.is_async || !target.body {
        return None;
    }
    let mut never = false;
    file.resolver.with_function(target.key.as_ref()?, &mut |file, function| {
        never = function.decorator_list.is_empty()
            && (has_loop(&function.body) || !is_method(function))
            && suspensions(&function.body).into_iter().all(|node| match node {
                Node::Expr(Expr::Await(node)) => match &*node.value {
                    Expr::Call(call) => follow(file, call, depth - 1).is_some(),
                    _ => false,
                },
                _ => false,
            })
            && !yields(&function.body);
    });
    never.then_some(target)
}

/// A method may be overridden by one that waits; one that only returns something is made for that.
fn is_method(function: &ast::StmtFunctionDef) -> bool {
    let first = function.parameters.iter_non_variadic_params().next();
    first.is_some_and(|first| matches!(first.parameter.name.as_str(), "self" | "cls"))
}

fn has_loop(body: &[Stmt]) -> bool {
    let mut found = false;
    walk(body, &mut |node, _| {
        found |= matches!(node, Node::Stmt(Stmt::For(_) | Stmt::While(_)) | Node::Comprehension(_));
    });
    found
}

fn yields(body: &[Stmt]) -> bool {
    let mut found = false;
    walk(body, &mut |node, _| found |= matches!(node, Node::Expr(Expr::Yield(_) | Expr::YieldFrom(_))));
    found
}

/// Whether an expression makes the limit of time of a block: `asyncio.timeout(5)` and its like.
pub fn is_timeout(file: &FileContext<'_>, context: &Expr) -> bool {
    let Expr::Call(call) = context else { return false };
    matches!(
        file.qualified(&call.func).as_deref(),
        Some(
            "asyncio.timeout"
                | "asyncio.timeout_at"
                | "async_timeout.timeout"
                | "async_timeout.timeout_at"
                | "anyio.fail_after"
                | "anyio.move_on_after"
                | "loopwright.timeout"
                | "loopwright.timeout_at"
        )
    )
}

/// Whether an `async with` over this lets only so many in: a lock, a semaphore, a limiter; by its class, or by its name
/// where that is not known.
pub fn is_limit(file: &FileContext<'_>, context: &Expr) -> bool {
    let classes = file.classes(context);
    if !classes.is_empty() {
        return classes.iter().any(|class| speaks_of_limit(class));
    }
    last_name(context).is_some_and(speaks_of_limit)
}

/// Whether a name is one that people give to locks and limits.
pub fn speaks_of_limit(name: &str) -> bool {
    let name = name.to_lowercase();
    ["lock", "mutex", "sem", "limit", "throttle", "slot", "permit", "condition", "capacity", "bounded"]
        .iter()
        .any(|word| name.contains(word))
}

/// Whether one of the blocks around a place is an `async with` over a lock or a limit.
pub fn is_limited(file: &FileContext<'_>, around: &[Node<'_>]) -> bool {
    around.iter().any(|node| {
        let Node::Stmt(Stmt::With(node)) = node else { return false };
        node.is_async && node.items.iter().any(|item| is_limit(file, &item.context_expr))
    })
}

/// Whether a name or an attribute outlives the call: `self.x`, `cls.x`, an attribute of something that does, a global.
/// `local` says whether the function itself binds a name.
pub fn is_shared(place: &Expr, local: &dyn Fn(&str) -> bool) -> bool {
    match place {
        Expr::Name(name) => !local(name.id.as_str()),
        Expr::Attribute(attribute) => match &*attribute.value {
            Expr::Name(name) => matches!(name.id.as_str(), "self" | "cls") || !local(name.id.as_str()),
            value => is_shared(value, local),
        },
        _ => false,
    }
}

/// The names of the parameters of a function.
pub fn parameters(function: &ast::StmtFunctionDef) -> Vec<&str> {
    function.parameters.iter().map(|parameter| parameter.name().as_str()).collect()
}

/// A number that is written out.
pub fn number(value: &Expr) -> Option<f64> {
    match value {
        Expr::NumberLiteral(literal) => match &literal.value {
            ast::Number::Int(number) => number.as_i64().map(|number| number as f64),
            ast::Number::Float(number) => Some(*number),
            ast::Number::Complex { .. } => None,
        },
        Expr::BinOp(node) if node.op == ast::Operator::Mult => Some(number(&node.left)? * number(&node.right)?),
        _ => None,
    }
}

/// `call` is `asyncio.name(...)`.
pub fn is_call_of(file: &FileContext<'_>, call: &ast::ExprCall, names: &[&str]) -> bool {
    // Most calls are told apart by their last name, without asking for types.
    let last = last_name(&call.func).unwrap_or_default();
    let aliased = matches!(&*call.func, Expr::Name(_));
    (aliased || names.iter().any(|name| name.rsplit('.').next() == Some(last)))
        && file.qualified(&call.func).is_some_and(|qualified| names.contains(&qualified.as_str()))
}

/// The parts of `self.a.b` as written, for messages and comparison.
pub fn written(place: &Expr) -> String {
    dotted(place).unwrap_or_else(|| "it".to_owned())
}
