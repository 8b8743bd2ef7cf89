//! LW202 task-dropped. Its page: lw202.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextSize};

use super::support::tasks::{Gives, given, makes_task};
use super::support::{
    Node, Scope, bindings, fix, indentation, insert, is_expected_to_fail, next_line, reads, scopes, shortened,
    simple_assignment, walk,
};
use crate::context::FileContext;
use crate::finding::{Finding, Fix, Level, Safety};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW202",
    name: "task-dropped",
    summary: "a helper returns a task that it does not keep, and its caller drops it",
    pedantic: false,
    fix: Some(Safety::Safe),
    page: include_str!("lw202.md"),
};

/// A task that nothing holds.
pub struct TaskDropped;

impl Rule for TaskDropped {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in scopes(file) {
            walk(scope.body, &mut |node, around| {
                let Node::Stmt(statement) = node else { return };
                let Some(call) = dropped(&scope, statement) else { return };
                if is_expected_to_fail(around) || ruff_sees(file, call) {
                    return;
                }
                let Some(given) = given(file, call) else { return };
                if given.what != Gives::Task {
                    return;
                }
                let code = shortened(file.text(call.range()));
                let level = if given.always { Level::Certain } else { Level::Likely };
                let message = format!("the task of `{code}` is dropped: it may vanish before it is done");
                let mut finding = file.finding(META.code, level, call.range(), &scope.name, message);
                finding.why = Some(match given.frames.first() {
                    Some(frame) => {
                        format!("`{}` {} and keeps no reference; the loop's own is weak", frame.function, frame.note)
                    }
                    None => "the loop keeps only a weak reference to a task".to_owned(),
                });
                finding.frames = given.frames;
                finding.help = Some("keep it until it is done, or start it in a TaskGroup".to_owned());
                if given.always && matches!(statement, Stmt::Expr(_)) && scope.function.is_some() {
                    finding.fix = keep(file, &scope, call);
                }
                found.push(finding);
            });
        }
    }
}

/// A call whose value is not used.
fn dropped<'a>(scope: &Scope<'a>, statement: &'a Stmt) -> Option<&'a ast::ExprCall> {
    match statement {
        Stmt::Expr(node) => match &*node.value {
            Expr::Call(call) => Some(call),
            _ => None,
        },
        _ => {
            let (target, value) = simple_assignment(statement)?;
            let (Expr::Name(name), Expr::Call(call)) = (target, value) else { return None };
            let local = scope.function.is_some() && !super::support::outlives(scope.body, &name.id);
            (local && reads(scope.body, &name.id).is_empty()).then_some(call)
        }
    }
}

/// `asyncio.create_task(...)` and `loop.create_task(...)` themselves are RUF006.
fn ruff_sees(file: &FileContext<'_>, call: &ast::ExprCall) -> bool {
    makes_task(file, call)
        && match &*call.func {
            Expr::Name(_) => true,
            Expr::Attribute(attribute) => matches!(&*attribute.value, Expr::Name(_)),
            _ => false,
        }
}

/// A set of the module that holds the task until it is done.
fn keep(file: &FileContext<'_>, scope: &Scope<'_>, call: &ast::ExprCall) -> Option<Fix> {
    const SET: &str = "_background_tasks";
    let free = |name: &&str| {
        let given =
            scope.function.is_some_and(|function| function.parameters.iter().any(|one| one.name().as_str() == *name));
        !given && reads(scope.body, name).is_empty() && bindings(scope.body, name).is_empty()
    };
    let name = ["task", "background_task", "started_task"].into_iter().find(free)?;
    let margin = indentation(file, call.range().start());
    let mut edits = vec![
        insert(call.range().start(), format!("{name} = ")),
        insert(
            call.range().end(),
            format!("\n{margin}{SET}.add({name})\n{margin}{name}.add_done_callback({SET}.discard)"),
        ),
    ];
    if !file.source.contains(SET) {
        edits.insert(0, insert(after_imports(file)?, format!("\n{SET} = set()\n")));
    }
    fix(format!("keep it in `{SET}` until it is done"), Safety::Safe, edits)
}

/// Behind the last import at the top of the module.
fn after_imports(file: &FileContext<'_>) -> Option<TextSize> {
    let last = file.body().iter().rev().find(|statement| matches!(statement, Stmt::Import(_) | Stmt::ImportFrom(_)))?;
    u32::try_from(next_line(file, last.range().end())).ok().map(TextSize::from)
}
