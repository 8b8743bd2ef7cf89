//! LW403 awaits-in-series. Its page: lw403.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::support::{Node, Scope, coroutines, last_name, name_of, shortened, suspensions, walk, walk_expr};
use crate::context::FileContext;
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW403",
    name: "awaits-in-series",
    summary: "calls that do not need each other are awaited one after another",
    pedantic: true,
    fix: None,
    page: include_str!("lw403.md"),
};

/// A sum of waits where the longest of them would do.
pub struct AwaitsInSeries;

impl Rule for AwaitsInSeries {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            walk(scope.body, &mut |node, _| match node {
                Node::Stmt(Stmt::For(node)) if !node.is_async => {
                    if let Some(awaited) = collected(&node.body)
                        && uses(awaited, &node.target)
                    {
                        found.push(report(file, &scope, awaited.range()));
                    }
                }
                Node::Expr(Expr::ListComp(node)) => {
                    if let ([generator], Expr::Await(awaited)) = (&node.generators[..], &*node.elt)
                        && !generator.is_async
                        && uses(awaited, &generator.target)
                    {
                        found.push(report(file, &scope, awaited.range()));
                    }
                }
                _ => {}
            });
        }
    }
}

/// The one `await` of a loop that does nothing but collect: `out.append(await get(x))`, `out[x] = await get(x)`.
fn collected(body: &[Stmt]) -> Option<&ast::ExprAwait> {
    let [statement] = body else { return None };
    let value = match statement {
        Stmt::Expr(node) => match &*node.value {
            Expr::Call(call) if matches!(last_name(&call.func), Some("append" | "add" | "extend")) => {
                call.arguments.find_positional(0)?
            }
            _ => return None,
        },
        Stmt::Assign(node) => match &node.targets[..] {
            [Expr::Subscript(_)] => &*node.value,
            _ => return None,
        },
        _ => return None,
    };
    match value {
        Expr::Await(node) if suspensions(body).len() == 1 => Some(node),
        _ => None,
    }
}

/// Whether the awaited call is given what the loop goes over.
fn uses(awaited: &ast::ExprAwait, target: &Expr) -> bool {
    let Expr::Call(call) = &*awaited.value else { return false };
    let mut names = vec![];
    walk_expr(target, &mut |node, _| {
        if let Node::Expr(expression) = node {
            names.extend(name_of(expression));
        }
    });
    let mut used = false;
    for argument in call.arguments.args.iter().chain(call.arguments.keywords.iter().map(|keyword| &keyword.value)) {
        walk_expr(argument, &mut |node, _| {
            if let Node::Expr(expression) = node {
                used |= name_of(expression).is_some_and(|name| names.contains(&name));
            }
        });
    }
    used
}

fn report(file: &FileContext<'_>, scope: &Scope<'_>, range: TextRange) -> Finding {
    let code = shortened(file.text(range));
    let message = format!("`{code}` is awaited once per item, each after the one before");
    let mut finding = file.finding(META.code, Level::Pedantic, range, &scope.name, message);
    finding.why =
        Some("the time it takes is the sum of all waits, though no call uses the result of another".to_owned());
    finding.help = Some("let some of them run at once, with a limit: `asyncio.TaskGroup` and a semaphore".to_owned());
    finding
}
