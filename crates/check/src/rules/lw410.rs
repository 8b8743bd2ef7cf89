//! LW410 deaf-sleep. Its page: lw410.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::waiting::{is_call_of, number};
use super::support::{Node, shortened, simple_assignment, walk, walk_expr};
use crate::context::{FileContext, FunctionAt, functions};
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW410",
    name: "deaf-sleep",
    summary: "a loop that is stopped by a flag, and sleeps long before it looks at it",
    pedantic: false,
    fix: None,
    page: include_str!("lw410.md"),
};

/// Shorter naps are not worth a word.
const SECONDS: f64 = 5.0;

/// A sleep that does not hear that it is over.
pub struct DeafSleep;

impl Rule for DeafSleep {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        let all = functions(file.body());
        for one in all.iter().filter(|one| one.node.is_async) {
            let Some(class) = one.class else { continue };
            walk(&one.node.body, &mut |node, _| {
                let Node::Stmt(Stmt::While(node)) = node else { return };
                let Some(flag) = flag(&node.test) else { return };
                let Some((sleep, seconds)) = sleep(file, &node.body) else { return };
                let Some(stopper) = stopper(&all, class, one, flag) else { return };
                if !cancels(class) {
                    let code = shortened(file.text(sleep.range()));
                    let message = format!("`{code}` does not hear that `{}` ends the loop", stopper.node.name);
                    let mut finding = file.finding(META.code, Level::Certain, sleep.range(), &one.name, message);
                    finding.why = Some(format!(
                        "`self.{flag}` is looked at once in {seconds} s; a shutdown waits that long, or is killed"
                    ));
                    finding.help = Some(
                        "make the flag an `asyncio.Event` and wait for it: `wait_for(event.wait(), seconds)`"
                            .to_owned(),
                    );
                    found.push(finding);
                }
            });
        }
    }
}

/// `while self.running`, `while not self.stopped`.
fn flag(test: &Expr) -> Option<&str> {
    match test {
        Expr::UnaryOp(node) if node.op == ast::UnaryOp::Not => flag(&node.operand),
        Expr::Attribute(attribute) => {
            matches!(&*attribute.value, Expr::Name(name) if name.id == "self").then_some(attribute.attr.as_str())
        }
        _ => None,
    }
}

/// The long sleep of a loop, as one of its own statements.
fn sleep<'a>(file: &FileContext<'_>, body: &'a [Stmt]) -> Option<(&'a ast::ExprCall, f64)> {
    body.iter().find_map(|statement| {
        let Stmt::Expr(node) = statement else { return None };
        let Expr::Await(node) = &*node.value else { return None };
        let Expr::Call(call) = &*node.value else { return None };
        let seconds = number(call.arguments.find_positional(0)?)?;
        (seconds >= SECONDS && is_call_of(file, call, &["asyncio.sleep", "anyio.sleep"])).then_some((call, seconds))
    })
}

/// Another method of the class that turns the flag over.
fn stopper<'a>(
    all: &'a [FunctionAt<'a>],
    class: &ast::StmtClassDef,
    own: &FunctionAt<'_>,
    flag: &str,
) -> Option<&'a FunctionAt<'a>> {
    all.iter().find(|one| {
        let other = one.class.is_some_and(|one| std::ptr::eq(one, class)) && !std::ptr::eq(one.node, own.node);
        let mut turns = false;
        walk(&one.node.body, &mut |node, _| {
            if let Node::Stmt(statement) = node
                && let Some((Expr::Attribute(target), Expr::BooleanLiteral(_))) = simple_assignment(statement)
            {
                turns |= target.attr.as_str() == flag;
            }
        });
        other && turns && one.node.name.as_str() != "__init__" && !starts(one.node.name.as_str())
    })
}

/// Methods that set the flag before the loop begins.
fn starts(name: &str) -> bool {
    let name = name.trim_start_matches('_');
    ["start", "run", "begin", "open", "connect", "async_start"].iter().any(|word| name.starts_with(word))
}

/// A cancel is heard in a sleep: somebody in the class cancels something.
fn cancels(class: &ast::StmtClassDef) -> bool {
    let mut found = false;
    for function in functions(&class.body) {
        walk(&function.node.body, &mut |node, _| {
            if let Node::Expr(expression) = node {
                walk_expr(expression, &mut |node, _| {
                    if let Node::Expr(Expr::Attribute(attribute)) = node {
                        found |= attribute.attr.as_str() == "cancel";
                    }
                });
            }
        });
    }
    found
}
