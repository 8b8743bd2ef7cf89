//! LW409 timeout-per-step. Its page: lw409.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::waiting::{is_call_of, number};
use super::support::{Node, calls, coroutines, shortened, suspensions};
use crate::context::FileContext;
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW409",
    name: "timeout-per-step",
    summary: "each step has its own timeout: the whole may take the sum of them",
    pedantic: true,
    fix: None,
    page: include_str!("lw409.md"),
};

/// Limits that add up.
pub struct TimeoutPerStep;

impl Rule for TimeoutPerStep {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            for block in blocks(scope.body) {
                let steps: Vec<_> = block.iter().map(|statement| step(file, statement)).collect();
                let mut at = 0;
                while at < steps.len() {
                    let row = steps[at..].iter().take_while(|step| step.is_some()).count();
                    if let (true, Some((call, _))) = (row >= 2, steps[at + row.saturating_sub(1)].as_ref()) {
                        let total: f64 = steps[at..at + row].iter().flatten().map(|(_, seconds)| seconds).sum();
                        let code = shortened(file.text(call.range()));
                        let message =
                            format!("`{code}` is step {row} of {row}, each with its own limit: {total} s in all");
                        let mut finding = file.finding(META.code, Level::Pedantic, call.range(), &scope.name, message);
                        finding.why = Some(
                            "a caller waits for the whole, which may take as long as all limits together".to_owned(),
                        );
                        finding.help = Some("one `async with asyncio.timeout(...)` around the steps".to_owned());
                        found.push(finding);
                    }
                    at += row.max(1);
                }
            }
        }
    }
}

/// The lists of statements of a function: its body, and those of what is in it.
fn blocks(body: &[Stmt]) -> Vec<&[Stmt]> {
    let mut found = vec![body];
    for statement in body {
        match statement {
            Stmt::If(node) => {
                found.extend(blocks(&node.body));
                node.elif_else_clauses.iter().for_each(|clause| found.extend(blocks(&clause.body)));
            }
            Stmt::For(node) => found.extend(blocks(&node.body)),
            Stmt::While(node) => found.extend(blocks(&node.body)),
            Stmt::With(node) => found.extend(blocks(&node.body)),
            Stmt::Try(node) => found.extend(blocks(&node.body)),
            _ => {}
        }
    }
    found
}

/// A statement whose only wait is `await asyncio.wait_for(..., seconds)`.
fn step<'a>(file: &FileContext<'_>, statement: &'a Stmt) -> Option<(&'a ast::ExprCall, f64)> {
    if !matches!(statement, Stmt::Assign(_) | Stmt::AnnAssign(_) | Stmt::Expr(_) | Stmt::Return(_)) {
        return None;
    }
    let body = std::slice::from_ref(statement);
    let [Node::Expr(Expr::Await(_))] = suspensions(body)[..] else { return None };
    let call = calls(body).into_iter().find(|call| is_call_of(file, call, &["asyncio.wait_for"]))?;
    Some((call, number(call.arguments.find_argument_value("timeout", 1)?)?))
}
