//! LW211 commit-on-cancel. Its page: lw211.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::support::cancellation::{Catches, cancel_handler};
use super::support::{Node, Scope, awaits, coroutines, last_name, shortened, walk};
use crate::context::FileContext;
use crate::finding::{Finding, Frame, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW211",
    name: "commit-on-cancel",
    summary: "work that a cancel interrupted is committed half done",
    pedantic: false,
    fix: None,
    page: include_str!("lw211.md"),
};

/// Helpers between the handler and the commit that are followed.
const DEPTH: usize = 3;

/// A commit in the handler of a cancel.
pub struct CommitOnCancel;

impl Rule for CommitOnCancel {
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
                match cancel_handler(file, node) {
                    Some((handler, Catches::Cancelled)) => {
                        found.extend(commits(file, &scope, &handler.body, "handler of the cancel"))
                    }
                    Some((handler, Catches::Everything)) => {
                        found.extend(commits(file, &scope, &handler.body, "handler, which a cancel comes to"))
                    }
                    None => {
                        let rolls_back = node.handlers.iter().any(|handler| {
                            let ast::ExceptHandler::ExceptHandler(handler) = handler;
                            mentions(&handler.body, "rollback")
                        });
                        if !rolls_back {
                            found.extend(commits(file, &scope, &node.finalbody, "`finally`, which a cancel comes to"));
                        }
                    }
                }
            });
        }
    }
}

fn commits(file: &FileContext<'_>, scope: &Scope<'_>, body: &[Stmt], place: &str) -> Option<Finding> {
    if mentions(body, "rollback") {
        return None;
    }
    let mut found = None;
    walk(body, &mut |node, _| {
        if let Node::Expr(Expr::Call(call)) = node
            && found.is_none()
            && let Some(frames) = commit(file, call, DEPTH)
        {
            found = Some((call, frames));
        }
    });
    let (call, frames) = found?;
    let message = format!("`{}` in the {place} commits what was half done", shortened(file.text(call.range())));
    let mut finding = file.finding(META.code, Level::Certain, call.range(), &scope.name, message);
    finding.why = Some(
        "a cancel arrives between any two awaits of the `try`: what came before it is kept, the rest is missing"
            .to_owned(),
    );
    finding.help = Some("roll back here, and commit as the last step of the `try`".to_owned());
    finding.frames = frames;
    if finding.frames.is_empty() && file.targets(call).is_empty() {
        finding.level = Level::Pedantic;
    }
    Some(finding)
}

/// The way to a commit of a transaction: something named so on an object that can also roll back, or a function of the
/// project named so.
fn commit(file: &FileContext<'_>, call: &ast::ExprCall, depth: usize) -> Option<Vec<Frame>> {
    let targets = file.targets(call);
    if last_name(&call.func) == Some("commit") {
        let known = match &*call.func {
            // Of what class it is nobody says: that may be a consumer's offsets.
            Expr::Attribute(_) if targets.is_empty() => depth == DEPTH,
            Expr::Attribute(method) => can_roll_back(file, method),
            _ => !targets.is_empty(),
        };
        return known.then(Vec::new);
    }
    let [target] = &targets[..] else { return None };
    if depth == 0 || !target.body {
        return None;
    }
    let mut found = None;
    file.resolver.with_function(target.key.as_ref()?, &mut |file, function| {
        if mentions(&function.body, "rollback") {
            return;
        }
        walk(&function.body, &mut |node, _| {
            if let Node::Expr(Expr::Call(call)) = node
                && found.is_none()
                && let Some(mut frames) = commit(file, call, depth - 1)
            {
                frames.insert(
                    0,
                    Frame {
                        path: file.path.clone(),
                        span: file.span(call.range()),
                        function: target.qual.clone(),
                        note: format!("`{}`", shortened(file.text(call.range()))),
                    },
                );
                found = Some(frames);
            }
        });
    });
    found
}

/// The object has `rollback` beside `commit`: a transaction, not a consumer's offsets.
fn can_roll_back(file: &FileContext<'_>, method: &ast::ExprAttribute) -> bool {
    let twin = Expr::Attribute(ast::ExprAttribute {
        node_index: ast::AtomicNodeIndex::NONE,
        // A place of its own: what is known of a place is looked up once.
        range: TextRange::empty(method.range.end()),
        value: method.value.clone(),
        attr: ast::Identifier::new("rollback", method.attr.range()),
        ctx: ast::ExprContext::Load,
    });
    !file.resolver.reference_targets(&twin).is_empty()
}

/// Anything of this name is called in a block.
fn mentions(body: &[Stmt], name: &str) -> bool {
    super::support::calls(body).iter().any(|call| last_name(&call.func) == Some(name))
}
