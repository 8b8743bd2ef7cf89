//! LW401 timeout-without-await. Its page: lw401.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::support::waiting::{is_call_of, is_timeout, never_waits};
use super::support::{Node, Scope, coroutines, shortened, suspensions, walk};
use crate::context::FileContext;
use crate::facts::Target;
use crate::finding::{Finding, Frame, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW401",
    name: "timeout-without-await",
    summary: "a timeout over code that never waits: it cannot fire",
    pedantic: false,
    fix: None,
    page: include_str!("lw401.md"),
};

/// A timer that the loop never comes to look at.
pub struct TimeoutWithoutAwait;

impl Rule for TimeoutWithoutAwait {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            walk(scope.body, &mut |node, _| match node {
                Node::Stmt(Stmt::With(node)) => {
                    let Some(item) = node.items.iter().find(|item| is_timeout(file, &item.context_expr)) else {
                        return;
                    };
                    if let Some(targets) = all_idle(file, &node.body) {
                        found.push(report(file, &scope, item.context_expr.range(), &targets));
                    }
                }
                Node::Expr(Expr::Call(call)) if is_call_of(file, call, &["asyncio.wait_for"]) => {
                    let Some(Expr::Call(inner)) = call.arguments.find_positional(0) else { return };
                    if let Some(target) = never_waits(file, inner) {
                        found.push(report(file, &scope, call.range(), &[target]));
                    }
                }
                _ => {}
            });
        }
    }
}

/// What a block awaits, if there is something and none of it ever waits. A block without any `await` is left to ruff.
fn all_idle(file: &FileContext<'_>, body: &[Stmt]) -> Option<Vec<Target>> {
    let places = suspensions(body);
    if places.is_empty() {
        return None;
    }
    places.into_iter().map(|place| never_waits(file, awaited_call(place)?)).collect()
}

fn awaited_call(node: Node<'_>) -> Option<&ast::ExprCall> {
    let Node::Expr(Expr::Await(node)) = node else { return None };
    match &*node.value {
        Expr::Call(call) => Some(call),
        _ => None,
    }
}

fn report(file: &FileContext<'_>, scope: &Scope<'_>, range: TextRange, targets: &[Target]) -> Finding {
    let code = shortened(file.text(range));
    let message = format!("`{code}` cannot fire: nothing under it ever waits");
    let mut finding = file.finding(META.code, Level::Certain, range, &scope.name, message);
    let name = |target: &Target| target.qual.rsplit('.').next().unwrap_or_default().to_owned();
    let names: Vec<_> = targets.iter().map(|target| format!("`{}`", name(target))).collect();
    finding.why = Some(format!(
        "{} is an `async def` that never gives control back, so the loop does not come to look at its timers",
        names.join(", ")
    ));
    finding.help =
        Some("run the work in a process that can be ended, or `await asyncio.sleep(0)` in its loop".to_owned());
    finding.frames = targets.iter().filter_map(|target| frame(file, target)).collect();
    finding
}

/// Where the coroutine is that never waits.
fn frame(file: &FileContext<'_>, target: &Target) -> Option<Frame> {
    let mut found = None;
    file.resolver.with_function(target.key.as_ref()?, &mut |file, function| {
        found = Some(Frame {
            path: file.path.clone(),
            span: file.span(function.name.range()),
            function: target.qual.clone(),
            note: "never waits".to_owned(),
        });
    });
    found
}
