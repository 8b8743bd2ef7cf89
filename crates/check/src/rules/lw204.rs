//! LW204 cancel-swallowed. Its page: lw204.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange, TextSize};

use super::support::cancellation::{Catches, asks_whose_cancel, cancel_handler, cancelled, class_catches};
use super::support::tasks::is_future;
use super::support::{
    Ends, Node, Scope, awaits, coroutines, dotted, ends, fix, indentation, insert, last_name, reads, replace,
    suspensions, walk, walk_expr, walk_nested,
};
use crate::context::FileContext;
use crate::finding::{Finding, Fix, Level, Safety};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW204",
    name: "cancel-swallowed",
    summary: "a handler catches CancelledError where the task waits, and does not raise it again",
    pedantic: false,
    fix: Some(Safety::Safe),
    page: include_str!("lw204.md"),
};

/// A handler that ends a cancel.
pub struct CancelSwallowed;

impl Rule for CancelSwallowed {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            walk(scope.body, &mut |node, around| match node {
                Node::Stmt(Stmt::Try(node)) => found.extend(swallowing_handler(file, &scope, node, around)),
                Node::Stmt(Stmt::With(node)) => found.extend(suppressing(file, &scope, node, around)),
                _ => {}
            });
        }
    }
}

/// `try: await ... except CancelledError: pass`
fn swallowing_handler(
    file: &FileContext<'_>,
    scope: &Scope<'_>,
    node: &ast::StmtTry,
    around: &[Node<'_>],
) -> Option<Finding> {
    if !awaits(&node.body) {
        return None;
    }
    let (handler, how) = cancel_handler(file, node)?;
    let out = ends(&handler.body);
    if out.only_raises() || !ends(&node.finalbody).falls {
        // What leaves a `finally` by `return` is ruff's B012.
        return None;
    }
    if awaits_what_it_cancelled(file, scope, &node.body) || asks_whose_cancel(scope.body) {
        return None;
    }
    if cleans_up(around) || decides_by_kind(file, handler, how) {
        return None;
    }
    let place = Swallowing { body: &node.body, around, how, out, handler: &handler.body, end: node.range.end() };
    if hands_it_on(handler, goes_round(&place)) {
        return None;
    }
    let named = match (&handler.type_, how) {
        (None, _) => "`except:`".to_owned(),
        (Some(class), _) => format!("`except {}`", file.text(class.range())),
    };
    let range = TextRange::new(handler.range.start(), first_line_end(handler));
    let message = format!("{named} swallows the cancel: {}", after(&place));
    let mut finding = file.finding(META.code, level(file, scope, &place), range, &scope.name, message);
    finding.why = Some(why(file, &node.body));
    finding.help = Some(match how {
        Catches::Cancelled if !matches!(handler.type_.as_deref(), Some(Expr::Tuple(_))) => {
            "raise it again after the clean-up".to_owned()
        }
        _ => "let it through: `except asyncio.CancelledError: raise` before this handler".to_owned(),
    });
    finding.fix = raise_again(file, handler, how, out);
    if finding.level != Level::Certain {
        // The end of the function may be what was meant.
        finding.fix.iter_mut().for_each(|fix| fix.safety = Safety::Unsafe);
    }
    Some(finding)
}

/// `with suppress(CancelledError): await ...`
fn suppressing(
    file: &FileContext<'_>,
    scope: &Scope<'_>,
    node: &ast::StmtWith,
    around: &[Node<'_>],
) -> Option<Finding> {
    if node.is_async || !awaits(&node.body) {
        return None;
    }
    let (call, how) = node.items.iter().find_map(|item| {
        let Expr::Call(call) = &item.context_expr else { return None };
        if file.qualified(&call.func).as_deref() != Some("contextlib.suppress") {
            return None;
        }
        call.arguments.args.iter().find_map(|class| Some((call, class_catches(file, class)?)))
    })?;
    if cleans_up(around) || awaits_what_it_cancelled(file, scope, &node.body) || asks_whose_cancel(scope.body) {
        return None;
    }
    let out = Ends { falls: true, ..Ends::default() };
    let place = Swallowing { body: &node.body, around, how, out, handler: &[], end: node.range.end() };
    let message = format!("`{}` swallows the cancel: {}", file.text(call.range()), after(&place));
    let mut finding = file.finding(META.code, level(file, scope, &place), call.range(), &scope.name, message);
    finding.why = Some(why(file, &node.body));
    finding.help = Some("let it through, or await a task of your own that you have cancelled here".to_owned());
    Some(finding)
}

/// What becomes of the task that was cancelled.
fn after(place: &Swallowing<'_, '_>) -> &'static str {
    if goes_round(place) {
        "its loop goes on, and nothing stops the task"
    } else {
        "whoever cancelled the task takes it for finished"
    }
}

fn why(file: &FileContext<'_>, body: &[Stmt]) -> String {
    let first = suspensions(body)[0];
    let line = file.span(first.range()).line;
    format!(
        "a cancel, a timeout around it or the end of a TaskGroup arrives at the await in line {line} as CancelledError"
    )
}

/// Certain where the task goes on with other work. Where the function then ends, a background task's own end is often
/// meant so: that is only worth a look.
fn level(file: &FileContext<'_>, scope: &Scope<'_>, place: &Swallowing<'_, '_>) -> Level {
    if goes_round(place) {
        return Level::Certain;
    }
    let leaves_endless_loop = matches!(innermost_loop(place.around), Some(Stmt::While(_)));
    if place.how == Catches::Cancelled && (leaves_endless_loop || runs_until_cancelled(place.body)) {
        return Level::Pedantic;
    }
    if only_awaits_tasks(file, place.body) {
        return Level::Pedantic;
    }
    if place.out.falls && suspensions(scope.body).iter().any(|node| node.range().start() >= place.end) {
        return Level::Certain;
    }
    // What nobody asks for a value is a task of its own, more often than not.
    if place.how == Catches::Cancelled && !gives_value(scope.body) { Level::Pedantic } else { Level::Likely }
}

/// What swallows, and where.
struct Swallowing<'s, 'a> {
    /// What the cancel interrupts.
    body: &'a [Stmt],
    /// What is around it.
    around: &'s [Node<'a>],
    /// How it catches.
    how: Catches,
    /// The ways out of the handler.
    out: Ends,
    /// The handler; none for `suppress`.
    handler: &'a [Stmt],
    /// The end of the `try` or `with`.
    end: TextSize,
}

/// The handler leads to the next round of a loop.
fn goes_round(place: &Swallowing<'_, '_>) -> bool {
    if !place.out.falls && !place.out.continues {
        return false;
    }
    match innermost_loop(place.around) {
        Some(Stmt::While(node)) => !ends_loop(&node.test, place.handler),
        Some(_) => true,
        None => false,
    }
}

/// The handler sets what the loop asks for: `while self.running` and `self.running = False`.
fn ends_loop(test: &Expr, handler: &[Stmt]) -> bool {
    let mut found = false;
    walk(handler, &mut |node, _| {
        if let Node::Stmt(Stmt::Assign(node)) = node {
            for target in &node.targets {
                walk_expr(test, &mut |node, _| {
                    found |= matches!(node, Node::Expr(one) if dotted(one).is_some() && dotted(one) == dotted(target));
                });
            }
        }
    });
    found
}

/// Some `return` of the function has a value: its caller goes on with it.
fn gives_value(body: &[Stmt]) -> bool {
    let mut found = false;
    walk(body, &mut |node, _| {
        if let Node::Stmt(Stmt::Return(node)) = node {
            found |= node.value.as_deref().is_some_and(|value| !matches!(value, Expr::NoneLiteral(_)));
        }
    });
    found
}

/// In a handler that raises at its end whatever happens here.
fn cleans_up(around: &[Node<'_>]) -> bool {
    around.iter().any(|node| matches!(node, Node::Handler(handler) if ends(&handler.body).only_raises()))
}

/// The loop that a statement is in.
fn innermost_loop<'a>(around: &[Node<'a>]) -> Option<&'a Stmt> {
    around.iter().rev().find_map(|node| match node {
        Node::Stmt(statement @ (Stmt::While(_) | Stmt::For(_))) => Some(*statement),
        _ => None,
    })
}

/// `await task` and nothing else: the handler may be about the task's own end.
fn only_awaits_tasks(file: &FileContext<'_>, body: &[Stmt]) -> bool {
    suspensions(body).iter().all(|node| match node {
        Node::Expr(Expr::Await(node)) => !matches!(&*node.value, Expr::Call(_)) && is_future(file, &node.value),
        _ => false,
    })
}

/// A loop without end, or something that is awaited for as long as the task lives.
fn runs_until_cancelled(body: &[Stmt]) -> bool {
    let mut found = false;
    walk(body, &mut |node, _| match node {
        Node::Stmt(Stmt::While(_)) => found = true,
        Node::Stmt(Stmt::For(node)) => found |= node.is_async,
        Node::Expr(Expr::Await(node)) => {
            found |= match &*node.value {
                Expr::Call(call) => last_name(&call.func).is_some_and(|name| {
                    name.contains("forever") || matches!(name, "Future" | "wait" | "serve" | "run" | "start" | "join")
                }),
                _ => false,
            };
        }
        _ => {}
    });
    found
}

/// The idiom that ends a task of one's own: cancel it, then wait for its end. Also tasks that were cancelled in a loop
/// and are then gathered.
fn awaits_what_it_cancelled(file: &FileContext<'_>, scope: &Scope<'_>, body: &[Stmt]) -> bool {
    let cancelled = cancelled(file, scope.body);
    if cancelled.is_empty() {
        return false;
    }
    let mut own = true;
    walk(body, &mut |node, _| {
        if let Node::Expr(Expr::Await(node)) = node {
            own &= match &*node.value {
                Expr::Name(_) | Expr::Attribute(_) | Expr::Subscript(_) => true,
                Expr::Call(call) => {
                    matches!(last_name(&call.func), Some("gather" | "wait" | "wait_for" | "shield"))
                        || matches!(&*call.func, Expr::Attribute(attribute) if cancelled.contains(&file.text(attribute.value.range())))
                }
                _ => false,
            };
        } else if super::support::suspends(node) {
            own = false;
        }
    });
    own
}

/// The exception is given to somebody: `future.set_exception(error)`, `self.error = error`, `queue.put_nowait(error)`.
fn hands_it_on(handler: &ast::ExceptHandlerExceptHandler, goes_round: bool) -> bool {
    let cancels = {
        let mut found = false;
        walk_nested(&handler.body, &mut |node, _| {
            if let Node::Expr(Expr::Call(call)) = node {
                found |=
                    matches!(&*call.func, Expr::Attribute(attribute) if attribute.attr.as_str() == "set_exception");
            }
        });
        found
    };
    let Some(name) = &handler.name else { return cancels };
    cancels
        || reads(&handler.body, name).iter().any(|one| match one.around.last() {
            Some(Node::Stmt(Stmt::Assign(_) | Stmt::AnnAssign(_) | Stmt::Return(_) | Stmt::Raise(_))) => true,
            Some(Node::Expr(Expr::Tuple(_) | Expr::List(_) | Expr::Dict(_) | Expr::Await(_) | Expr::Yield(_))) => true,
            Some(Node::Expr(Expr::Call(call))) => {
                if goes_round {
                    // A loop that goes on has only told somebody.
                    return matches!(last_name(&call.func), Some("append" | "add" | "put" | "put_nowait"));
                }
                let told = dotted(&call.func).unwrap_or_default().to_lowercase();
                !(told.contains("log")
                    || matches!(told.as_str(), "print" | "str" | "repr" | "type" | "isinstance" | "format"))
            }
            _ => false,
        })
}

/// The handler raises on a condition that is about what was caught, or, having named the cancel, on any.
fn decides_by_kind(file: &FileContext<'_>, handler: &ast::ExceptHandlerExceptHandler, how: Catches) -> bool {
    if !ends(&handler.body).raises {
        return false;
    }
    how == Catches::Cancelled || {
        let mut found = false;
        walk(&handler.body, &mut |node, _| {
            if let Node::Stmt(Stmt::If(node)) = node {
                let test = file.text(node.test.range());
                found |= ["isinstance", "Cancel", "cancel", "type("].iter().any(|word| test.contains(word));
            }
        });
        found
    }
}

fn first_line_end(handler: &ast::ExceptHandlerExceptHandler) -> ruff_text_size::TextSize {
    handler
        .type_
        .as_ref()
        .map_or(handler.range.start() + ruff_text_size::TextSize::from(6), |class| class.range().end())
}

fn raise_again(
    file: &FileContext<'_>,
    handler: &ast::ExceptHandlerExceptHandler,
    how: Catches,
    out: Ends,
) -> Option<Fix> {
    // What else the handler is for stays its business.
    let others = matches!(handler.type_.as_deref(), Some(Expr::Tuple(_)));
    if how == Catches::Everything || others {
        let margin = indentation(file, handler.range.start());
        let unit = indentation(file, handler.body[0].range().start()).strip_prefix(margin)?;
        if unit.is_empty() {
            return None;
        }
        let text = format!("except asyncio.CancelledError:\n{margin}{unit}raise\n{margin}");
        return fix("let the cancel through", Safety::Safe, vec![insert(handler.range.start(), text)]).map(
            |mut fix| {
                fix.imports.push("asyncio".to_owned());
                fix
            },
        );
    }
    let last = handler.body.last()?;
    let edit = match last {
        Stmt::Pass(_) | Stmt::Continue(_) | Stmt::Break(_) => replace(last.range(), "raise"),
        Stmt::Return(node) if node.value.is_none() => replace(last.range(), "raise"),
        _ if out == (Ends { falls: true, ..Ends::default() }) => {
            let margin = indentation(file, last.range().start());
            if file.span(handler.range).line == file.span(last.range()).line {
                return None;
            }
            insert(last.range().end(), format!("\n{margin}raise"))
        }
        _ => return None,
    };
    fix("raise it again", Safety::Safe, vec![edit])
}
