//! Conditions: which sites run only where no event loop runs, or under what the table knows as a guard.

use ruff_python_ast as ast;
use ruff_python_ast::visitor::{Visitor, walk_expr};
use ruff_python_ast::{Expr, Stmt};
use ty_python_core::definition::DefinitionKind;

use super::names;
use super::resolve::Resolver;
use crate::facts::Guard;

/// Calls that raise where no loop runs.
const ASKS: &[&str] = &["get_running_loop", "current_async_library", "get_current_task", "current_task"];

/// Whether a block asks for the running loop.
pub(super) fn asks_for_loop(body: &[Stmt]) -> bool {
    #[derive(Default)]
    struct Asks(bool);
    impl<'a> Visitor<'a> for Asks {
        fn visit_expr(&mut self, expression: &'a Expr) {
            if let Expr::Call(call) = expression {
                let text = names::written(&call.func);
                self.0 |= ASKS.contains(&text.rsplit('.').next().unwrap_or_default());
            }
            walk_expr(self, expression);
        }
    }
    let mut asks = Asks::default();
    asks.visit_body(body);
    asks.0
}

/// Whether a handler is the one for "no running loop".
pub(super) fn catches_no_loop(handler: &ast::ExceptHandlerExceptHandler) -> bool {
    let Some(kind) = handler.type_.as_deref() else { return true };
    let text = names::written(kind);
    matches!(
        text.rsplit('.').next(),
        Some("RuntimeError" | "Exception" | "AsyncLibraryNotFoundError" | "NoEventLoopError")
    )
}

/// Variables that are false when no loop runs: those that the handler of a question for the loop sets to `None` or
/// `False`, or that only its success sets.
pub(super) fn loop_variables(question: &ast::StmtTry) -> Vec<String> {
    let mut found = vec![];
    for handler in &question.handlers {
        let ast::ExceptHandler::ExceptHandler(handler) = handler;
        let only_pass = handler.body.iter().all(|statement| matches!(statement, Stmt::Pass(_)));
        for (name, value) in assigned(&handler.body) {
            if is_false(value) {
                found.push(name);
            }
        }
        if only_pass {
            found.extend(assigned(&question.body).chain(assigned(&question.orelse)).map(|(name, _)| name));
        }
    }
    found
}

fn assigned(body: &[Stmt]) -> impl Iterator<Item = (String, &Expr)> {
    body.iter().filter_map(|statement| match statement {
        Stmt::Assign(assignment) => match &assignment.targets[..] {
            [Expr::Name(name)] => Some((name.id.to_string(), &*assignment.value)),
            _ => None,
        },
        _ => None,
    })
}

fn is_false(value: &Expr) -> bool {
    matches!(value, Expr::NoneLiteral(_)) || matches!(value, Expr::BooleanLiteral(literal) if !literal.value)
}

/// Whether control leaves a block by its end: not after `return`, `raise`, `continue`, `break`.
pub(super) fn ends(body: &[Stmt]) -> bool {
    match body.last() {
        Some(Stmt::Return(_) | Stmt::Raise(_) | Stmt::Continue(_) | Stmt::Break(_)) => true,
        Some(Stmt::If(choice)) => {
            ends(&choice.body)
                && choice.elif_else_clauses.iter().any(|clause| clause.test.is_none())
                && choice.elif_else_clauses.iter().all(|clause| ends(&clause.body))
        }
        Some(Stmt::With(with)) => ends(&with.body),
        Some(Stmt::Try(attempt)) => {
            ends(&attempt.finalbody)
                || (ends(if attempt.orelse.is_empty() { &attempt.body } else { &attempt.orelse })
                    && attempt.handlers.iter().all(|handler| {
                        let ast::ExceptHandler::ExceptHandler(handler) = handler;
                        ends(&handler.body)
                    }))
        }
        _ => false,
    }
}

/// What is known in the branch where a test is true (or false).
pub(super) fn conditions(resolver: &Resolver<'_>, loops: &[String], test: &Expr, truth: bool) -> Vec<Guard> {
    let mut guards = vec![];
    collect(resolver, loops, test, truth, &mut guards);
    guards
}

fn collect(resolver: &Resolver<'_>, loops: &[String], test: &Expr, truth: bool, guards: &mut Vec<Guard>) {
    match test {
        Expr::UnaryOp(operation) if operation.op == ast::UnaryOp::Not => {
            collect(resolver, loops, &operation.operand, !truth, guards);
        }
        Expr::BoolOp(operation) => {
            let all = (operation.op == ast::BoolOp::And) == truth;
            if all {
                operation.values.iter().for_each(|value| collect(resolver, loops, value, truth, guards));
            } else if operation.values.iter().all(|value| is_about_loop(loops, value)) {
                // `not (loop and loop.is_running())`: whichever it is, no loop runs.
                collect(resolver, loops, &operation.values[0], truth, guards);
            }
        }
        Expr::Compare(comparison) => {
            if let ([operator @ (ast::CmpOp::Is | ast::CmpOp::IsNot)], [Expr::NoneLiteral(_)]) =
                (&*comparison.ops, &*comparison.comparators)
            {
                let is_none = (*operator == ast::CmpOp::Is) == truth;
                collect(resolver, loops, &comparison.left, !is_none, guards);
            }
        }
        Expr::Named(named) => collect(resolver, loops, &named.value, truth, guards),
        Expr::Call(call) => {
            if let Some(qual) = resolver.defined(&call.func) {
                guards.push(Guard::When { qual, truth });
            }
        }
        Expr::Name(name) if !truth && loops.iter().any(|known| known == name.id.as_str()) => {
            guards.push(Guard::NoRunningLoop);
        }
        Expr::Name(_) | Expr::Attribute(_) => {
            if let Some(qual) = asked(resolver, test) {
                guards.push(Guard::When { qual, truth });
            }
        }
        _ => {}
    }
}

fn is_about_loop(loops: &[String], value: &Expr) -> bool {
    let text = names::written(value);
    let first = text.split(['.', '(']).next().unwrap_or_default();
    loops.iter().any(|known| known == first)
}

/// What a variable or an attribute asks: the call that it is assigned, the property that it is, or its own name.
fn asked(resolver: &Resolver<'_>, test: &Expr) -> Option<String> {
    let engine = &resolver.engine;
    let definitions = engine.definitions(&resolver.model, test);
    let [definition] = &definitions[..] else { return None };
    match definition.kind(engine.db) {
        DefinitionKind::Assignment(assignment) => {
            let parsed = ruff_db::parsed::parsed_module(engine.db, definition.python_file(engine.db)).load(engine.db);
            match assignment.value(&parsed) {
                Expr::Call(call) if definition.file(engine.db) == resolver.model.file() => resolver.defined(&call.func),
                _ => Some(names::qualified(engine.db, *definition).to_owned()),
            }
        }
        DefinitionKind::Function(_) | DefinitionKind::AnnotatedAssignment(_) => {
            Some(names::qualified(engine.db, *definition).to_owned())
        }
        _ => None,
    }
}
