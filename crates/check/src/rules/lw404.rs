//! LW404 unbounded-fan-out. Its page: lw404.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::support::waiting::{is_call_of, is_limit, parameters, speaks_of_limit};
use super::support::{
    Node, Scope, bindings, coroutines, last_name, name_of, shortened, simple_assignment, walk, walk_expr,
};
use crate::context::FileContext;
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW404",
    name: "unbounded-fan-out",
    summary: "as many tasks at once as somebody else sends items",
    pedantic: false,
    fix: None,
    page: include_str!("lw404.md"),
};

/// A crowd whose size is the sender's choice.
pub struct UnboundedFanOut;

impl Rule for UnboundedFanOut {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            walk(scope.body, &mut |node, around| match node {
                Node::Expr(Expr::Call(call)) if is_call_of(file, call, &["asyncio.gather"]) => {
                    for argument in &call.arguments.args {
                        let Expr::Starred(starred) = argument else { continue };
                        let Some((element, items)) = comprehension(&scope, &starred.value) else { continue };
                        if let Some(size) = size(&scope, items)
                            && !limits_itself(file, element)
                        {
                            found.push(report(file, &scope, call.range(), items, size));
                        }
                    }
                }
                Node::Expr(Expr::Call(call)) => {
                    let Some(Expr::Call(element)) = call.arguments.find_positional(0) else { return };
                    let Some(items) = loop_of_group(file, call, around) else { return };
                    if let Some(size) = size(&scope, items)
                        && !limits_itself(file, &Expr::Call(element.clone()))
                    {
                        found.push(report(file, &scope, call.range(), items, size));
                    }
                }
                _ => {}
            });
        }
    }
}

/// What is known of how many there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    /// As many as came from outside in one piece.
    Received,
    /// As many as the caller gives.
    Given,
}

/// `f(x) for x in items`, also under a name that is bound to it once.
fn comprehension<'a>(scope: &Scope<'a>, value: &'a Expr) -> Option<(&'a Expr, &'a Expr)> {
    let (element, generators) = match value {
        Expr::ListComp(node) => (&node.elt, &node.generators),
        Expr::SetComp(node) => (&node.elt, &node.generators),
        Expr::Generator(node) => (&node.elt, &node.generators),
        Expr::Name(name) => return comprehension_value(scope, value_of(scope, &name.id)?),
        _ => return None,
    };
    match &generators[..] {
        [generator] if !generator.is_async => Some((element, &generator.iter)),
        _ => None,
    }
}

fn comprehension_value<'a>(scope: &Scope<'a>, value: &'a Expr) -> Option<(&'a Expr, &'a Expr)> {
    if value.is_name_expr() { None } else { comprehension(scope, value) }
}

/// What a name is bound to in the function, if that happens once.
fn value_of<'a>(scope: &Scope<'a>, name: &str) -> Option<&'a Expr> {
    if bindings(scope.body, name).len() != 1 {
        return None;
    }
    let mut found = None;
    walk(scope.body, &mut |node, _| {
        if let Node::Stmt(statement) = node
            && let Some((target, value)) = simple_assignment(statement)
            && name_of(target) == Some(name)
        {
            found = Some(value);
        }
    });
    found
}

/// The items of the innermost loop around `group.create_task(...)`, when the group is older than the loop.
fn loop_of_group<'a>(file: &FileContext<'_>, call: &ast::ExprCall, around: &[Node<'a>]) -> Option<&'a Expr> {
    let Expr::Attribute(method) = &*call.func else { return None };
    if !matches!(method.attr.as_str(), "create_task" | "start_soon") {
        return None;
    }
    let groups = ["asyncio.TaskGroup", "anyio.abc.TaskGroup"];
    let mut items = None;
    for node in around.iter().rev() {
        match node {
            Node::Stmt(Stmt::For(node)) if !node.is_async => {
                items = Some(&*node.iter);
                break;
            }
            Node::Stmt(Stmt::With(_) | Stmt::While(_) | Stmt::For(_)) => return None,
            _ => {}
        }
    }
    let classes = file.classes(&method.value);
    (classes.iter().any(|class| groups.contains(&class.as_str()))).then_some(items?)
}

/// How many items there may be, when that is for somebody else to say. A constant, a slice, a batch is not reported, nor
/// what the object has itself.
fn size(scope: &Scope<'_>, items: &Expr) -> Option<Size> {
    match items {
        Expr::Call(call) => match last_name(&call.func)? {
            "enumerate" | "sorted" | "reversed" | "list" | "set" | "tuple" | "zip" => {
                size(scope, call.arguments.find_positional(0)?)
            }
            "items" | "keys" | "values" | "splitlines" => match &*call.func {
                Expr::Attribute(method) => size(scope, &method.value),
                _ => None,
            },
            _ => None,
        },
        Expr::Subscript(node) if !node.slice.is_slice_expr() => size(scope, &node.value),
        Expr::Await(node) => received(&node.value).then_some(Size::Received),
        Expr::Name(name) => {
            if let Some(value) = value_of(scope, &name.id) {
                return if value.is_name_expr() { None } else { size(scope, value) };
            }
            let own = scope.function.map(parameters).unwrap_or_default();
            (own.contains(&name.id.as_str()) && bindings(scope.body, &name.id).is_empty()).then_some(Size::Given)
        }
        _ => None,
    }
}

/// `await request.json()` and its like: what came is as long as whoever sent it wanted.
fn received(value: &Expr) -> bool {
    let Expr::Call(call) = value else { return false };
    matches!(
        last_name(&call.func),
        Some("json" | "get_json" | "form" | "receive_json" | "fetchall" | "fetch_all" | "readlines")
    )
}

/// The coroutine takes a permit itself, or is wrapped in something that does.
fn limits_itself(file: &FileContext<'_>, element: &Expr) -> bool {
    let mut limited = false;
    walk_expr(element, &mut |node, _| {
        let Node::Expr(Expr::Call(call)) = node else { return };
        limited |= last_name(&call.func).is_some_and(speaks_of_limit);
        for argument in call.arguments.args.iter().chain(call.arguments.keywords.iter().map(|one| &one.value)) {
            limited |= last_name(argument).is_some_and(speaks_of_limit);
        }
        for target in file.targets(call) {
            let Some(key) = &target.key else { continue };
            file.resolver.with_function(key, &mut |file, function| {
                walk(&function.body, &mut |node, _| {
                    if let Node::Stmt(Stmt::With(node)) = node {
                        limited |= node.is_async && node.items.iter().any(|item| is_limit(file, &item.context_expr));
                    }
                });
            });
        }
    });
    limited
}

fn report(file: &FileContext<'_>, scope: &Scope<'_>, range: TextRange, items: &Expr, size: Size) -> Finding {
    let code = shortened(file.text(items.range()));
    let level = if size == Size::Received { Level::Likely } else { Level::Pedantic };
    let message = format!("one task at once for each of `{code}`, however many they are");
    let mut finding = file.finding(META.code, level, range, &scope.name, message);
    finding.why = Some(match size {
        Size::Received => {
            "whoever sends them chooses how many run: sockets, memory and the peer end before they do".to_owned()
        }
        Size::Given => "nothing here bounds what the caller may give".to_owned(),
    });
    finding.help =
        Some("let so many run at once as the other side bears: a semaphore in the coroutine, or batches".to_owned());
    finding
}
