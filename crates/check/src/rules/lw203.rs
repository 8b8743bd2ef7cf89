//! LW203 shield-orphan. Its page: lw203.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::tasks::{Gives, given, makes_task};
use super::support::{Node, Scope, coroutines, fix, indentation, reads, replace, shortened, simple_assignment, walk};
use crate::context::FileContext;
use crate::finding::{Finding, Fix, Level, Safety};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW203",
    name: "shield-orphan",
    summary: "after a cancel nobody awaits the task inside of a shield",
    pedantic: false,
    fix: Some(Safety::Unsafe),
    page: include_str!("lw203.md"),
};

/// A shielded task that outlives everybody who knows of it.
pub struct ShieldOrphan;

impl Rule for ShieldOrphan {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            walk(scope.body, &mut |node, around| {
                let Node::Expr(Expr::Call(call)) = node else { return };
                if file.qualified(&call.func).as_deref() != Some("asyncio.shield") {
                    return;
                }
                let Some(inner) = call.arguments.find_argument_value("arg", 0) else { return };
                if !is_awaited(around) || !is_orphan(file, &scope, inner) {
                    return;
                }
                let code = shortened(file.text(inner.range()));
                let message =
                    format!("after a cancel nobody waits for `{code}`: it runs on alone, and its error is lost");
                let mut finding = file.finding(META.code, Level::Likely, call.range(), &scope.name, message);
                finding.why = Some(
                    "a cancel ends the wait for the shield, not what is inside; only the shield knew that task"
                        .to_owned(),
                );
                finding.help = Some("keep the task, and await it when the wait for its shield is cancelled".to_owned());
                finding.fix = wait_for_it(file, call, inner, around);
                found.push(finding);
            });
        }
    }
}

/// Under `await`, at once or inside of `wait_for(...)`; a shield that is stored is another matter.
fn is_awaited(around: &[Node<'_>]) -> bool {
    matches!(around, [.., Node::Expr(Expr::Await(_))] | [.., Node::Expr(Expr::Await(_)), Node::Expr(Expr::Call(_))])
}

/// Made inside of the shield, or held by a name that nothing else looks at.
fn is_orphan(file: &FileContext<'_>, scope: &Scope<'_>, inner: &Expr) -> bool {
    match inner {
        Expr::Call(call) => {
            makes_task(file, call)
                || given(file, call).is_some_and(|given| given.what == Gives::Coroutine || given.always)
        }
        Expr::Name(name) => {
            let mut made = false;
            walk(scope.body, &mut |node, _| {
                if let Node::Stmt(statement) = node
                    && let Some((Expr::Name(target), Expr::Call(call))) = simple_assignment(statement)
                    && target.id == name.id
                {
                    made = given(file, call).is_some();
                }
            });
            made && reads(scope.body, &name.id).len() == 1
        }
        _ => false,
    }
}

/// `await shield(f())` as a statement of its own.
fn wait_for_it(file: &FileContext<'_>, call: &ast::ExprCall, inner: &Expr, around: &[Node<'_>]) -> Option<Fix> {
    let [.., Node::Stmt(statement @ Stmt::Expr(_)), Node::Expr(Expr::Await(_))] = around else { return None };
    let Expr::Call(made) = inner else { return None };
    let margin = indentation(file, statement.range().start());
    let name = file.text(call.func.range());
    let text = file.text(inner.range());
    let task = if makes_task(file, made) { text.to_owned() } else { format!("asyncio.ensure_future({text})") };
    let lines = [
        format!("shielded = {task}"),
        "try:".to_owned(),
        format!("    await {name}(shielded)"),
        "except asyncio.CancelledError:".to_owned(),
        "    await shielded".to_owned(),
        "    raise".to_owned(),
    ];
    let mut fix = fix(
        "wait for the task before the cancel goes on",
        Safety::Unsafe,
        vec![replace(statement.range(), lines.join(&format!("\n{margin}")))],
    )?;
    fix.imports.push("asyncio".to_owned());
    Some(fix)
}
