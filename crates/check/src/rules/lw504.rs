//! LW504 check-then-act. Its page: lw504.md.

use ruff_python_ast as ast;
use ruff_python_ast::{CmpOp, Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::waiting::{is_limited, is_shared, never_waits, parameters, written};
use super::support::{Node, Scope, bindings, coroutines, outlives, same, shortened, suspensions, walk, walk_expr};
use crate::context::FileContext;
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW504",
    name: "check-then-act",
    summary: "what was found missing is made across an await: two callers make it twice",
    pedantic: false,
    fix: None,
    page: include_str!("lw504.md"),
};

/// A look, a wait, and an answer to an old question.
pub struct CheckThenAct;

impl Rule for CheckThenAct {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            if scope.function.is_some_and(|function| runs_once(function.name.as_str())) {
                continue;
            }
            let local = |name: &str| is_local(&scope, name);
            walk(scope.body, &mut |node, around| {
                let Node::Stmt(Stmt::If(node)) = node else { return };
                if is_limited(file, around) {
                    return;
                }
                let Some(missing) = missing(&node.test) else { return };
                let shared = match missing {
                    Missing::Key(map, _) => is_shared(map, &local),
                    Missing::Value(place) => place.is_attribute_expr() && is_shared(place, &local),
                };
                if shared && let Some(made) = made(file, &missing, &node.body) {
                    found.push(report(file, &scope, &missing, &made));
                }
            });
        }
    }
}

/// What was looked for and not found.
enum Missing<'a> {
    /// `key not in map`
    Key(&'a Expr, &'a Expr),
    /// `place is None`, `not place`
    Value(&'a Expr),
}

fn missing(test: &Expr) -> Option<Missing<'_>> {
    match test {
        Expr::Compare(node) => match (&node.ops[..], &node.comparators[..]) {
            ([CmpOp::NotIn], [map]) => Some(Missing::Key(map, &node.left)),
            ([CmpOp::Is], [Expr::NoneLiteral(_)]) => Some(Missing::Value(&node.left)),
            _ => None,
        },
        Expr::UnaryOp(node) if node.op == ast::UnaryOp::Not => Some(Missing::Value(&node.operand)),
        _ => None,
    }
}

/// The assignment that answers the question, and the call that was awaited for it.
struct Made<'a> {
    statement: &'a Stmt,
    call: &'a ast::ExprCall,
}

/// `map[key] = await make()`, also with the await in a statement before.
fn made<'a>(file: &FileContext<'_>, missing: &Missing<'_>, body: &'a [Stmt]) -> Option<Made<'a>> {
    let mut awaited: Option<&ast::ExprCall> = None;
    for statement in body {
        // Asked again, or under a lock: whoever wrote this knows.
        if matches!(statement, Stmt::If(_) | Stmt::With(_) | Stmt::While(_) | Stmt::Try(_) | Stmt::For(_)) {
            return None;
        }
        let before = awaited;
        for node in suspensions(std::slice::from_ref(statement)) {
            if let Node::Expr(Expr::Await(node)) = node
                && let Expr::Call(call) = &*node.value
                && never_waits(file, call).is_none()
            {
                awaited = Some(call);
            }
        }
        let Stmt::Assign(node) = statement else { continue };
        let answers = node.targets.iter().any(|target| match (missing, target) {
            (Missing::Key(map, key), Expr::Subscript(target)) => same(map, &target.value) && same(key, &target.slice),
            (Missing::Value(place), _) => same(place, target),
            _ => false,
        });
        if answers {
            let own = suspensions(std::slice::from_ref(statement)).is_empty();
            let call = if own { before } else { awaited }?;
            // Claimed before the wait, or only marked: `self.done = True` makes nothing twice.
            let marks = matches!(&*node.value, Expr::BooleanLiteral(_) | Expr::NoneLiteral(_) | Expr::NumberLiteral(_));
            return (!marks).then_some(Made { statement, call });
        }
    }
    None
}

/// Functions that somebody calls once: nobody else is there yet.
fn runs_once(name: &str) -> bool {
    let bare = name.trim_start_matches('_');
    let once =
        ["start", "setup", "init", "open", "on_", "async_setup", "async_added", "aenter", "anext", "main", "run"];
    name == "__aenter__"
        || once.iter().any(|word| bare.starts_with(word))
        || bare.contains("startup")
        || bare == "connect"
}

fn is_local(scope: &Scope<'_>, name: &str) -> bool {
    let parameter = scope.function.is_some_and(|function| parameters(function).contains(&name));
    parameter || (!bindings(scope.body, name).is_empty() && !outlives(scope.body, name))
}

/// Whether what is made is something to be closed, so that a second one is more than work done twice.
fn is_resource(file: &FileContext<'_>, missing: &Missing<'_>, call: &ast::ExprCall) -> bool {
    let place = match missing {
        Missing::Key(map, _) => written(map),
        Missing::Value(place) => written(place),
    };
    let text = format!("{place} {}", file.text(call.func.range())).to_lowercase();
    let words = [
        "pool", "connect", "client", "session", "engine", "browser", "channel", "socket", "process", "server",
        "driver", "make", "create", "open", "start", "launch", "spawn", "task", "worker", "subscri",
    ];
    words.iter().any(|word| text.contains(word))
}

fn report(file: &FileContext<'_>, scope: &Scope<'_>, missing: &Missing<'_>, made: &Made<'_>) -> Finding {
    let mut cached = false;
    walk_expr(&Expr::Call(made.call.clone()), &mut |node, _| cached |= matches!(node, Node::Expr(Expr::Await(_))));
    let level = if is_resource(file, missing, made.call) && !cached { Level::Likely } else { Level::Pedantic };
    let call = shortened(file.text(made.call.range()));
    let message = match missing {
        Missing::Key(map, key) => format!(
            "two callers that miss `{}` in `{}` both run `{call}`",
            shortened(file.text(key.range())),
            shortened(file.text(map.range()))
        ),
        Missing::Value(place) => {
            format!("two callers that find no `{}` both run `{call}`", shortened(file.text(place.range())))
        }
    };
    let mut finding = file.finding(META.code, level, made.statement.range(), &scope.name, message);
    finding.why = Some(
        "the second one looks while the first one waits; the last to come back replaces what the other made".to_owned(),
    );
    finding.help = Some(
        "store the task instead of its result, before anything is awaited; or look under an `asyncio.Lock`".to_owned(),
    );
    finding
}
