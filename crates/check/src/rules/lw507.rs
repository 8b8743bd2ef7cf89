//! LW507: `task_done` in a `finally` that a cancelled `get` runs too.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::support;
use crate::context::{FileContext, functions};
use crate::finding::{Edit, Finding, Fix, Frame, Level, Safety};
use crate::rule::{Rule, RuleMeta};

/// The rule.
pub struct TaskDoneWithoutGet;

static META: RuleMeta = RuleMeta {
    code: "LW507",
    name: "task-done-without-get",
    summary: "`get` inside of the `try` whose `finally` calls `task_done`: a cancel becomes a ValueError",
    pedantic: false,
    fix: Some(Safety::Safe),
    page: include_str!("lw507.md"),
};

/// Queues whose `task_done` raises when it is called too often.
const QUEUES: &[&str] = &[
    "asyncio.Queue",
    "asyncio.PriorityQueue",
    "asyncio.LifoQueue",
    "loopwright.Queue",
    "loopwright.PriorityQueue",
    "loopwright.LifoQueue",
    "loopwright.queues.Queue",
    "loopwright.queues.PriorityQueue",
    "loopwright.queues.LifoQueue",
];

impl Rule for TaskDoneWithoutGet {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        if !file.source.contains("task_done") {
            return;
        }
        for function in functions(file.body()).into_iter().filter(|function| function.node.is_async) {
            support::walk(&function.node.body, &mut |node, _| {
                let support::Node::Stmt(Stmt::Try(attempt)) = node else { return };
                let Some((queue, done)) = always_done(&attempt.finalbody) else { return };
                let Some((index, get)) = taken(&attempt.body, queue) else { return };
                if !file.classes(queue).iter().any(|class| QUEUES.contains(&class.as_str())) {
                    return;
                }
                let name = file.text(queue.range());
                let message =
                    format!("`{name}.get` is cancelled: `finally` calls `task_done` for an item that was never taken");
                let mut finding = file.finding(META.code, Level::Certain, get.range(), &function.name, message);
                finding.why = Some("a cancel while it waits leaves through the `finally`; `task_done` raises ValueError, or counts off another worker's item".into());
                let frame = |range, note: &str| Frame {
                    path: file.path.clone(),
                    span: file.span(range),
                    function: file.resolver.in_module(&function.name),
                    note: note.to_owned(),
                };
                finding.frames = vec![
                    frame(get.range(), "is cancelled here, and takes nothing"),
                    frame(done.range(), "counts an item off all the same"),
                ];
                finding.help = Some("take the item before the `try`".into());
                if index == 0 && attempt.handlers.is_empty() && attempt.body.len() > 1 {
                    finding.fix = before(file, attempt);
                }
                found.push(finding);
            });
        }
    }
}

/// The queue whose `task_done` a `finally` calls unconditionally, and the statement that does.
fn always_done(body: &[Stmt]) -> Option<(&Expr, &Stmt)> {
    body.iter().find_map(|statement| {
        let Stmt::Expr(expression) = statement else { return None };
        let Expr::Call(call) = &*expression.value else { return None };
        let Expr::Attribute(attribute) = &*call.func else { return None };
        (attribute.attr.as_str() == "task_done").then_some((&*attribute.value, statement))
    })
}

/// The statement directly in the block that awaits `get` of the queue, and the awaited call.
fn taken<'a>(body: &'a [Stmt], queue: &Expr) -> Option<(usize, &'a Expr)> {
    body.iter().enumerate().find_map(|(index, statement)| {
        let value = match statement {
            Stmt::Expr(statement) => &statement.value,
            _ => support::simple_assignment(statement)?.1,
        };
        let Expr::Await(awaited) = value else { return None };
        let mut found = false;
        support::walk_expr(&awaited.value, &mut |node, _| {
            if let support::Node::Expr(Expr::Call(call)) = node
                && let Expr::Attribute(attribute) = &*call.func
            {
                found |= attribute.attr.as_str() == "get" && support::same(&attribute.value, queue);
            }
        });
        found.then_some((index, value))
    })
}

/// The first statement of the block goes before the `try`. With handlers that would change what they catch.
fn before(file: &FileContext<'_>, attempt: &ast::StmtTry) -> Option<Fix> {
    let (first, second) = (attempt.body.first()?, attempt.body.get(1)?);
    let own_lines = |one: TextRange| support::line_start(file, one.start()) == support::line_start(file, one.end());
    if !own_lines(first.range())
        || support::line_start(file, second.start()) == support::line_start(file, first.start())
    {
        return None;
    }
    let (from, to) = (support::line_start(file, first.start()), support::next_line(file, first.end()));
    let start = support::line_start(file, attempt.start());
    let (offset, end) = (u32::try_from(from).ok()?, u32::try_from(to).ok()?);
    let indentation = support::indentation(file, attempt.start());
    let moved = format!("{indentation}{}", file.source[from..to].trim_start());
    let start = u32::try_from(start).ok()?;
    let edits = vec![Edit { start, end: start, text: moved }, Edit { start: offset, end, text: String::new() }];
    Some(Fix { title: "take the item before the `try`".into(), safety: Safety::Safe, edits, imports: vec![] })
}
