//! Who catches a cancel, and what asks for one: handlers and guards, told by their types.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::{Node, last_name, walk};
use crate::context::FileContext;

/// How a handler catches a `CancelledError`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Catches {
    /// It names it.
    Cancelled,
    /// It catches everything: `except:`, `except BaseException:`.
    Everything,
}

/// Whether a handler catches a `CancelledError`, and how. `except Exception` does not.
pub fn catches(file: &FileContext<'_>, handler: &ast::ExceptHandlerExceptHandler) -> Option<Catches> {
    match handler.type_.as_deref() {
        None => Some(Catches::Everything),
        Some(class) => class_catches(file, class),
    }
}

/// The same of what stands behind `except`, or is given to `suppress`.
pub fn class_catches(file: &FileContext<'_>, class: &Expr) -> Option<Catches> {
    match class {
        Expr::Tuple(tuple) => {
            let all: Vec<_> = tuple.elts.iter().filter_map(|one| class_catches(file, one)).collect();
            all.iter().copied().max_by_key(|one| *one == Catches::Everything)
        }
        Expr::Call(call) => {
            (file.qualified(&call.func)?.ends_with("get_cancelled_exc_class")).then_some(Catches::Cancelled)
        }
        // A variable that is annotated as a class of errors is resolved to that class; it is none.
        _ if !matches!(last_name(class), Some("BaseException")) && !file.text(class.range()).contains("Cancel") => None,
        _ => match file.qualified(class)?.as_str() {
            "asyncio.CancelledError" | "asyncio.exceptions.CancelledError" => Some(Catches::Cancelled),
            "BaseException" | "builtins.BaseException" => Some(Catches::Everything),
            _ => None,
        },
    }
}

/// The handler of a `try` that a `CancelledError` comes to.
pub fn cancel_handler<'a>(
    file: &FileContext<'_>,
    node: &'a ast::StmtTry,
) -> Option<(&'a ast::ExceptHandlerExceptHandler, Catches)> {
    node.handlers.iter().find_map(|handler| {
        let ast::ExceptHandler::ExceptHandler(handler) = handler;
        Some((handler, catches(file, handler)?))
    })
}

/// The receivers of `x.cancel()` in a block and what is nested in it, as written.
pub fn cancelled<'a>(file: &FileContext<'a>, body: &[Stmt]) -> Vec<&'a str> {
    let mut found = vec![];
    super::walk_nested(body, &mut |node, _| {
        if let Node::Expr(Expr::Call(call)) = node
            && let Expr::Attribute(attribute) = &*call.func
            && attribute.attr.as_str() == "cancel"
        {
            found.push(file.text(attribute.value.range()));
        }
    });
    found
}

/// Whether a block asks whose cancel it was: `task.cancelled()`, `current_task().cancelling()`, `uncancel()`.
pub fn asks_whose_cancel(body: &[Stmt]) -> bool {
    let mut found = false;
    walk(body, &mut |node, _| {
        if let Node::Expr(Expr::Call(call)) = node
            && let Expr::Attribute(attribute) = &*call.func
        {
            found |= matches!(attribute.attr.as_str(), "cancelled" | "cancelling" | "uncancel");
        }
    });
    found
}
