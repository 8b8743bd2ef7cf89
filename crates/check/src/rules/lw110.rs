//! LW110: a long computation in a coroutine.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Number, Operator, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::support::{self, Node};
use crate::context::{FileContext, functions};
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

/// The rule.
pub struct CpuLoop;

static META: RuleMeta = RuleMeta {
    code: "LW110",
    name: "cpu-loop",
    summary: "a loop of a million turns and more in a coroutine that does not await in it",
    pedantic: false,
    fix: None,
    page: include_str!("lw110.md"),
};

/// So many turns of the shortest body take tens of milliseconds.
const MANY: u64 = 1_000_000;

impl Rule for CpuLoop {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        if !file.source.contains("range(") {
            return;
        }
        for function in functions(file.body()).into_iter().filter(|function| function.node.is_async) {
            support::walk(&function.node.body, &mut |node, around| {
                let Some((turns, range)) = turns_here(node) else { return };
                let outer: u64 = around.iter().filter_map(|node| turns_here(*node)).map(|(turns, _)| turns).product();
                let total = turns.saturating_mul(outer.max(1));
                // The outermost loop that is too long is told, once.
                if total < MANY
                    || outer >= MANY
                    || awaits(node)
                    || around.iter().any(|node| turns_here(*node).is_some() && awaits(*node))
                {
                    return;
                }
                let message =
                    format!("{total} turns without an `await`: the event loop stands still until they are over");
                let mut finding = file.finding(META.code, Level::Certain, range, &function.name, message);
                finding.why =
                    Some("the number of turns stands in the source; a thread would hold the GIL all the same".into());
                finding.help = Some(
                    "move it into a function and run that in a process: `await offload(compute, on=\"process\")`"
                        .into(),
                );
                found.push(finding);
            });
        }
    }
}

/// The turns of a loop over `range(...)` of numbers that stand in the source.
fn turns_here(node: Node<'_>) -> Option<(u64, TextRange)> {
    match node {
        Node::Stmt(Stmt::For(node)) if !node.is_async => {
            Some((turns(&node.iter)?, TextRange::new(node.start(), node.iter.end())))
        }
        Node::Expr(Expr::ListComp(one)) => Some((all(&one.generators)?, one.range())),
        Node::Expr(Expr::SetComp(one)) => Some((all(&one.generators)?, one.range())),
        Node::Expr(Expr::DictComp(one)) => Some((all(&one.generators)?, one.range())),
        Node::Expr(Expr::Generator(one)) => Some((all(&one.generators)?, one.range())),
        _ => None,
    }
}

fn all(generators: &[ast::Comprehension]) -> Option<u64> {
    generators
        .iter()
        .map(|one| turns(&one.iter))
        .try_fold(1, |product: u64, turns| Some(product.saturating_mul(turns?)))
}

fn turns(iterable: &Expr) -> Option<u64> {
    let Expr::Call(call) = iterable else { return None };
    if support::name_of(&call.func) != Some("range") {
        return None;
    }
    match &*call.arguments.args {
        [stop] => constant(stop),
        [start, stop] => Some(constant(stop)?.saturating_sub(constant(start)?)),
        [start, stop, step] => Some(constant(stop)?.saturating_sub(constant(start)?) / constant(step)?.max(1)),
        _ => None,
    }
}

/// The value of a number, a product or a power of numbers.
fn constant(value: &Expr) -> Option<u64> {
    match value {
        Expr::NumberLiteral(ast::ExprNumberLiteral { value: Number::Int(number), .. }) => number.as_u64(),
        Expr::BinOp(operation) => {
            let (left, right) = (constant(&operation.left)?, constant(&operation.right)?);
            match operation.op {
                Operator::Add => left.checked_add(right),
                Operator::Sub => left.checked_sub(right),
                Operator::Mult => left.checked_mul(right),
                Operator::Pow => left.checked_pow(u32::try_from(right).ok()?),
                _ => None,
            }
        }
        _ => None,
    }
}

fn awaits(node: Node<'_>) -> bool {
    let mut found = false;
    let mut look = |inner: Node<'_>, _: &[Node<'_>]| found |= support::suspends(inner);
    match node {
        Node::Stmt(statement) => support::walk(std::slice::from_ref(statement), &mut look),
        Node::Expr(expression) => support::walk_expr(expression, &mut look),
        _ => {}
    }
    found
}
