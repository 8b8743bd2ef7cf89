//! LW205 shared-future-awaited. Its page: lw205.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::tasks::{Gives, given, is_future};
use super::support::{Node, Scope, coroutines, dotted, fix, insert, same, shortened, simple_assignment, walk};
use crate::context::FileContext;
use crate::finding::{Finding, Level, Safety};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW205",
    name: "shared-future-awaited",
    summary: "a future that several callers find and await: a cancel of one of them ends it for all",
    pedantic: false,
    fix: Some(Safety::Unsafe),
    page: include_str!("lw205.md"),
};

/// One future for many callers, awaited without a shield.
pub struct SharedFutureAwaited;

impl Rule for SharedFutureAwaited {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            let places = shared_places(file, &scope);
            if places.is_empty() {
                continue;
            }
            let names = names_of(&scope, &places);
            // One for all awaits of the function: they are mended together.
            let mut root: Option<Finding> = None;
            walk(scope.body, &mut |node, _| {
                let Node::Expr(Expr::Await(node)) = node else { return };
                let value = &*node.value;
                let place = places.iter().copied().find(|place| place.is(value)).or_else(|| {
                    let Expr::Name(name) = value else { return None };
                    names.iter().find(|(one, _)| *one == name.id.as_str()).map(|(_, place)| *place)
                });
                let Some(place) = place else { return };
                if cancels(scope.body, value) {
                    return;
                }
                let edits = [insert(value.range().start(), "asyncio.shield("), insert(value.range().end(), ")")];
                if let Some(finding) = root.as_mut() {
                    finding.fix.iter_mut().for_each(|fix| fix.edits.extend(edits.clone()));
                    return;
                }
                let code = shortened(file.text(value.range()));
                let held = shortened(file.text(place.range()));
                let message = format!("a cancel of one caller ends `{code}` for everybody who awaits it");
                let mut finding = file.finding(META.code, Level::Certain, node.range, &scope.name, message);
                finding.why = Some(format!(
                    "`{held}` gives each caller the same future, and a cancelled await cancels what it awaits"
                ));
                finding.help = Some("await it behind `asyncio.shield`".to_owned());
                finding.fix = fix("shield it", Safety::Unsafe, edits.to_vec()).map(|mut fix| {
                    fix.imports.push("asyncio".to_owned());
                    fix
                });
                root = Some(finding);
            });
            found.extend(root);
        }
    }
}

/// Where futures lie that later callers find.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// `self.pending[key]`: the container and the key.
    Item(&'a ast::ExprSubscript),
    /// `self.task`
    Attribute(&'a Expr),
}

impl<'a> Place<'a> {
    fn range(self) -> ruff_text_size::TextRange {
        match self {
            Self::Item(node) => node.range,
            Self::Attribute(node) => node.range(),
        }
    }

    /// Whether an expression reads it.
    fn is(self, value: &Expr) -> bool {
        match (self, value) {
            (Self::Item(node), Expr::Subscript(value)) => same(&node.value, &value.value),
            (Self::Item(node), Expr::Call(call)) => match &*call.func {
                Expr::Attribute(attribute) => {
                    matches!(attribute.attr.as_str(), "get" | "setdefault") && same(&node.value, &attribute.value)
                }
                _ => false,
            },
            (Self::Attribute(node), value) => same(node, value),
            _ => false,
        }
    }
}

/// Places that a coroutine both looks into and fills: who comes first makes the future, who comes later finds it.
fn shared_places<'a>(file: &FileContext<'_>, scope: &Scope<'a>) -> Vec<Place<'a>> {
    let mut filled = vec![];
    walk(scope.body, &mut |node, around| {
        let Node::Stmt(statement @ (Stmt::Assign(_) | Stmt::AnnAssign(_))) = node else { return };
        let targets: Vec<&Expr> = match statement {
            Stmt::Assign(node) => node.targets.iter().collect(),
            Stmt::AnnAssign(node) => vec![&node.target],
            _ => vec![],
        };
        let value = match statement {
            Stmt::Assign(node) => Some(&*node.value),
            Stmt::AnnAssign(node) => node.value.as_deref(),
            _ => None,
        };
        if !value.is_some_and(|value| holds_future(file, value)) {
            return;
        }
        for target in targets {
            let place = match target {
                Expr::Subscript(node) if is_outside(scope, &node.value) => Place::Item(node),
                Expr::Attribute(node) if dotted(&node.value).is_some() => Place::Attribute(target),
                _ => continue,
            };
            if under_test(scope, around, place) {
                filled.push(place);
            }
        }
    });
    filled
}

fn holds_future(file: &FileContext<'_>, value: &Expr) -> bool {
    let made = match value {
        Expr::Call(call) => given(file, call).is_some_and(|given| given.what == Gives::Task),
        _ => false,
    };
    made || is_future(file, value)
}

/// Not a local of the function: an attribute, or a name from around it.
fn is_outside(scope: &Scope<'_>, container: &Expr) -> bool {
    match container {
        Expr::Attribute(_) => true,
        Expr::Name(name) => super::support::bindings(scope.body, &name.id).is_empty(),
        _ => false,
    }
}

/// The future is only made when none is there: under a test that reads the place or a name that came from it, or behind
/// such a test that leaves the function.
fn under_test<'a>(scope: &Scope<'a>, around: &[Node<'a>], place: Place<'a>) -> bool {
    let names = names_of(scope, &[place]);
    let asks = |test: &Expr| {
        let mut found = false;
        super::support::walk_expr(test, &mut |node, _| {
            if let Node::Expr(one) = node {
                found |= place.is(one)
                    || matches!(one, Expr::Name(name) if names.iter().any(|(known, _)| *known == name.id.as_str()))
                    || matches!((place, one), (Place::Item(node), one) if same(&node.value, one));
            }
        });
        found
    };
    let inside = around.iter().any(|node| matches!(node, Node::Stmt(Stmt::If(node)) if asks(&node.test)));
    let after_look_up = |node: &Node<'_>| matches!(node, Node::Stmt(Stmt::Try(_)));
    inside
        || scope.body.iter().any(|statement| {
            matches!(statement, Stmt::If(node) if node.range.end() <= place.range().start()
                && asks(&node.test) && hands_out(&node.body))
        })
        || around.iter().any(after_look_up)
            && around.iter().any(|node| matches!(node, Node::Handler(_)))
            && !names.is_empty()
}

/// Local names that hold what lies there: `task = self.pending.get(key)`, `self.pending[key] = task = ...`.
fn names_of<'a>(scope: &Scope<'a>, places: &[Place<'a>]) -> Vec<(&'a str, Place<'a>)> {
    let mut found = vec![];
    walk(scope.body, &mut |node, _| match node {
        Node::Stmt(statement @ (Stmt::Assign(_) | Stmt::AnnAssign(_))) => {
            if let Stmt::Assign(node) = statement {
                for place in places {
                    if node.targets.len() > 1 && node.targets.iter().any(|target| place.is(target)) {
                        found
                            .extend(node.targets.iter().filter_map(super::support::name_of).map(|name| (name, *place)));
                    }
                }
            }
            let Some((target, value)) = simple_assignment(statement) else { return };
            for place in places {
                match (target, value) {
                    (Expr::Name(name), value) if place.is(value) => found.push((name.id.as_str(), *place)),
                    (target, Expr::Name(name)) if place.is(target) => found.push((name.id.as_str(), *place)),
                    _ => {}
                }
            }
        }
        Node::Expr(Expr::Named(node)) => {
            for place in places {
                if let (Expr::Name(name), true) = (&*node.target, place.is(&node.value)) {
                    found.push((name.id.as_str(), *place));
                }
            }
        }
        _ => {}
    });
    found
}

/// The function itself cancels it: its owner waits for the end.
fn cancels(body: &[Stmt], value: &Expr) -> bool {
    let mut found = false;
    walk(body, &mut |node, _| {
        if let Node::Expr(Expr::Call(call)) = node
            && let Expr::Attribute(attribute) = &*call.func
        {
            found |= attribute.attr.as_str() == "cancel" && same(&attribute.value, value);
        }
    });
    found
}

/// Leaves the function with what was found, not with an error: who comes second is not turned away.
fn hands_out(body: &[Stmt]) -> bool {
    let out = super::support::ends(body);
    !out.falls && !out.only_raises()
}
