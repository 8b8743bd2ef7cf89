//! LW505 await-before-delete. Its page: lw505.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::support::waiting::{is_limited, is_shared, parameters};
use super::support::{
    Node, Scope, bindings, coroutines, indentation, insert, line_start, name_of, next_line, outlives, replace, same,
    shortened, simple_assignment, walk,
};
use crate::context::FileContext;
use crate::finding::{Finding, Fix, Level, Safety};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW505",
    name: "await-before-delete",
    summary: "something is closed across an await while others still find it",
    pedantic: false,
    fix: Some(Safety::Unsafe),
    page: include_str!("lw505.md"),
};

/// A closing connection that is handed out.
pub struct AwaitBeforeDelete;

impl Rule for AwaitBeforeDelete {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            let local = |name: &str| is_local(&scope, name);
            for (block, around) in blocks(scope.body) {
                if is_limited(file, &around) {
                    continue;
                }
                for (at, statement) in block.iter().enumerate() {
                    let Some(closed) = closed(statement) else { continue };
                    let Some(entry) = entry(&scope, closed) else { continue };
                    if !is_shared(&entry.value, &local) {
                        continue;
                    }
                    let deleted = block[at + 1..].iter().take(3).find(|later| deletes(later, entry));
                    if let Some(deleted) = deleted {
                        found.push(report(file, &scope, statement, closed, entry, deleted));
                    }
                }
            }
        }
    }
}

/// The lists of statements of a function, each with what is around it.
fn blocks<'a>(body: &'a [Stmt]) -> Vec<(&'a [Stmt], Vec<Node<'a>>)> {
    let mut found = vec![(body, vec![])];
    walk(body, &mut |node, around| {
        let Node::Stmt(statement) = node else { return };
        let inside: Vec<Node<'a>> = around.iter().copied().chain([node]).collect();
        let mut add = |block: &'a [Stmt]| found.push((block, inside.clone()));
        match statement {
            Stmt::If(node) => {
                add(&node.body);
                node.elif_else_clauses.iter().for_each(|clause| add(&clause.body));
            }
            Stmt::For(node) => add(&node.body),
            Stmt::While(node) => add(&node.body),
            Stmt::With(node) => add(&node.body),
            Stmt::Try(node) => {
                add(&node.body);
                for handler in &node.handlers {
                    let ast::ExceptHandler::ExceptHandler(handler) = handler;
                    add(&handler.body);
                }
                add(&node.finalbody);
            }
            _ => {}
        }
    });
    found
}

/// What `await x.close()` closes.
fn closed(statement: &Stmt) -> Option<&Expr> {
    let Stmt::Expr(node) = statement else { return None };
    let Expr::Await(node) = &*node.value else { return None };
    let Expr::Call(call) = &*node.value else { return None };
    let Expr::Attribute(method) = &*call.func else { return None };
    let name = method.attr.as_str();
    let closes =
        ["close", "aclose", "disconnect", "shutdown", "terminate", "stop", "async_stop", "async_close", "quit"];
    closes.contains(&name).then_some(&*method.value)
}

/// The entry `map[key]` that is closed, directly or under a name bound to it once.
fn entry<'a>(scope: &Scope<'a>, closed: &'a Expr) -> Option<&'a ast::ExprSubscript> {
    match closed {
        Expr::Subscript(node) => Some(node),
        Expr::Name(name) if bindings(scope.body, &name.id).len() == 1 => {
            let mut found = None;
            walk(scope.body, &mut |node, _| {
                if let Node::Stmt(statement) = node
                    && let Some((target, Expr::Subscript(value))) = simple_assignment(statement)
                    && name_of(target) == Some(name.id.as_str())
                {
                    found = Some(value);
                }
            });
            found
        }
        _ => None,
    }
}

/// `del map[key]`, `map.pop(key)`.
fn deletes(statement: &Stmt, entry: &ast::ExprSubscript) -> bool {
    match statement {
        Stmt::Delete(node) => match &node.targets[..] {
            [Expr::Subscript(target)] => same(&target.value, &entry.value) && same(&target.slice, &entry.slice),
            _ => false,
        },
        Stmt::Expr(node) => {
            let Expr::Call(call) = &*node.value else { return false };
            let Expr::Attribute(method) = &*call.func else { return false };
            method.attr.as_str() == "pop"
                && same(&method.value, &entry.value)
                && call.arguments.find_positional(0).is_some_and(|key| same(key, &entry.slice))
        }
        _ => false,
    }
}

fn is_local(scope: &Scope<'_>, name: &str) -> bool {
    let parameter = scope.function.is_some_and(|function| parameters(function).contains(&name));
    parameter || (!bindings(scope.body, name).is_empty() && !outlives(scope.body, name))
}

fn report(
    file: &FileContext<'_>,
    scope: &Scope<'_>,
    close: &Stmt,
    closed: &Expr,
    entry: &ast::ExprSubscript,
    deleted: &Stmt,
) -> Finding {
    let place = shortened(file.text(entry.range()));
    let message = format!("`{place}` is still found while it is closed");
    let mut finding = file.finding(META.code, Level::Certain, deleted.range(), &scope.name, message);
    finding.why =
        Some(format!("`{}` gives control away before the entry is gone", shortened(file.text(close.range()))));
    finding.help = Some("take it out first, then close it".to_owned());
    finding.fix = fix(file, close, closed, deleted);
    finding
}

/// The removal moves before the close. A close that fails then leaves no entry behind, which is a change.
fn fix(file: &FileContext<'_>, close: &Stmt, closed: &Expr, deleted: &Stmt) -> Option<Fix> {
    let whole = |statement: &Stmt| {
        let (start, end) = (line_start(file, statement.start()), next_line(file, statement.end()));
        let range = TextRange::new(u32::try_from(start).ok()?.into(), u32::try_from(end).ok()?.into());
        (file.text(range).trim() == file.text(statement.range())).then_some(range)
    };
    let line = whole(deleted)?;
    // Taken out first, `map[key]` could not be closed under that name.
    name_of(closed)?;
    let indent = indentation(file, close.start());
    let text = format!("{}\n{indent}", file.text(deleted.range()));
    super::support::fix(
        "take the entry out before it is closed",
        Safety::Unsafe,
        vec![insert(close.start(), text), replace(line, "")],
    )
}
