//! LW210 unshielded-cleanup. Its page: lw210.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::{Node, awaits, coroutines, last_name, shortened, walk};
use crate::context::FileContext;
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW210",
    name: "unshielded-cleanup",
    summary: "a `finally` awaits its clean-up without a shield: a second cancel leaves it half done",
    pedantic: true,
    fix: None,
    page: include_str!("lw210.md"),
};

/// Clean-up that can itself be interrupted.
pub struct UnshieldedCleanup;

impl Rule for UnshieldedCleanup {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            walk(scope.body, &mut |node, _| {
                let Node::Stmt(Stmt::Try(node)) = node else { return };
                if !awaits(&node.body) {
                    return;
                }
                walk(&node.finalbody, &mut |node, around| {
                    let Node::Expr(Expr::Await(node)) = node else { return };
                    let Expr::Call(call) = &*node.value else { return };
                    if is_shielded(file, call) || around.iter().any(|node| shields(*node)) {
                        return;
                    }
                    let code = shortened(file.text(call.range()));
                    let message = format!("a second cancel interrupts `{code}`: the clean-up stays half done");
                    let mut finding = file.finding(META.code, Level::Pedantic, node.range, &scope.name, message);
                    finding.why = Some(
                        "shutdowns cancel again what does not end in time, and under anyio every await after a cancel raises"
                            .to_owned(),
                    );
                    finding.help = Some("shield it, with a time limit of its own".to_owned());
                    found.push(finding);
                });
            });
        }
    }
}

/// `shield(...)`, `wait_for(shield(...), 5)`; `aclose_forcefully` does not wait.
fn is_shielded(file: &FileContext<'_>, call: &ast::ExprCall) -> bool {
    let name = file.qualified(&call.func);
    match name.as_deref() {
        Some("asyncio.shield" | "loopwright.finish" | "loopwright.cancellation.finish") => true,
        _ if last_name(&call.func) == Some("aclose_forcefully") => true,
        _ => call.arguments.args.iter().any(|argument| match argument {
            Expr::Call(inner) => is_shielded(file, inner),
            _ => false,
        }),
    }
}

/// `with CancelScope(shield=True):`, `with move_on_after(5, shield=True):`
fn shields(node: Node<'_>) -> bool {
    let Node::Stmt(Stmt::With(node)) = node else { return false };
    node.items.iter().any(|item| match &item.context_expr {
        Expr::Call(call) => call.arguments.find_keyword("shield").is_some(),
        _ => false,
    })
}
