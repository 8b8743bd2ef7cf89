//! LW108 thread-lock-across-await. Its page: lw108.md.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::support::{Node, Scope, bindings, coroutines, name_of, same, shortened, suspensions, walk};
use crate::context::FileContext;
use crate::finding::{Finding, Frame, Level};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW108",
    name: "thread-lock-across-await",
    summary: "a lock of threads is held while the coroutine waits",
    pedantic: false,
    fix: None,
    page: include_str!("lw108.md"),
};

/// A lock that stops the loop which would release it.
pub struct ThreadLockAcrossAwait;

impl Rule for ThreadLockAcrossAwait {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in coroutines(file) {
            walk(scope.body, &mut |node, _| match node {
                Node::Stmt(Stmt::With(node)) if !node.is_async => {
                    for item in &node.items {
                        found.extend(held_by_with(file, &scope, item, &node.body));
                    }
                }
                _ => {}
            });
            found.extend(held_by_calls(file, &scope));
        }
    }
}

/// Locks of threads and of processes; what they are called where the type checker says so.
fn lock_class(file: &FileContext<'_>, value: &Expr) -> Option<String> {
    let classes = file.classes(value);
    let is_lock = |class: &String| {
        matches!(
            class.as_str(),
            "threading.Lock"
                | "threading.RLock"
                | "threading.Condition"
                | "threading.Semaphore"
                | "threading.BoundedSemaphore"
                | "multiprocessing.Lock"
                | "multiprocessing.RLock"
                | "multiprocessing.Condition"
                | "multiprocessing.Semaphore"
                | "multiprocessing.BoundedSemaphore"
        )
    };
    (!classes.is_empty() && classes.iter().all(is_lock)).then(|| classes[0].clone())
}

/// `with lock: await ...`, also where a helper's context manager takes the lock.
fn held_by_with(file: &FileContext<'_>, scope: &Scope<'_>, item: &ast::WithItem, body: &[Stmt]) -> Option<Finding> {
    let first = *suspensions(body).first()?;
    let value = &item.context_expr;
    // A lock of this one call excludes nobody.
    if name_of(value).is_some_and(|name| !bindings(scope.body, name).is_empty()) {
        return None;
    }
    if let Some(class) = lock_class(file, value) {
        return Some(report(file, scope, value.range(), &class, file.text(value.range()), first, vec![]));
    }
    let Expr::Call(call) = value else { return None };
    let (class, lock, frame) = locked_by_helper(file, call)?;
    Some(report(file, scope, value.range(), &class, &lock, first, vec![frame]))
}

/// The lock that a `@contextmanager` holds while it yields.
fn locked_by_helper(file: &FileContext<'_>, call: &ast::ExprCall) -> Option<(String, String, Frame)> {
    let targets = file.targets(call);
    let [target] = &targets[..] else { return None };
    let mut found = None;
    file.resolver.with_function(target.key.as_ref()?, &mut |file, function| {
        let manager = function
            .decorator_list
            .iter()
            .any(|decorator| file.qualified(&decorator.expression).as_deref() == Some("contextlib.contextmanager"));
        if !manager {
            return;
        }
        walk(&function.body, &mut |node, around| {
            if !matches!(node, Node::Expr(Expr::Yield(_))) {
                return;
            }
            for outer in around {
                let Node::Stmt(Stmt::With(node)) = outer else { continue };
                for item in &node.items {
                    if let Some(class) = lock_class(file, &item.context_expr) {
                        let lock = file.text(item.context_expr.range());
                        found = Some((
                            class,
                            lock.to_owned(),
                            Frame {
                                path: file.path.clone(),
                                span: file.span(item.context_expr.range()),
                                function: target.qual.clone(),
                                note: format!("holds `{lock}` while it yields"),
                            },
                        ));
                    }
                }
            }
        });
    });
    found
}

/// `lock.acquire()`, then awaits, then `lock.release()`.
fn held_by_calls(file: &FileContext<'_>, scope: &Scope<'_>) -> Vec<Finding> {
    let method = |call: &'_ ast::ExprCall, name: &str| matches!(&*call.func, Expr::Attribute(node) if node.attr.as_str() == name);
    let calls = super::support::calls(scope.body);
    let mut found = vec![];
    for acquire in calls.iter().filter(|call| method(call, "acquire")) {
        let Expr::Attribute(taken) = &*acquire.func else { continue };
        if name_of(&taken.value).is_some_and(|name| !bindings(scope.body, name).is_empty()) {
            continue;
        }
        let Some(class) = lock_class(file, &taken.value) else { continue };
        let release = calls.iter().find(|call| {
            method(call, "release")
                && call.range().start() > acquire.range().end()
                && matches!(&*call.func, Expr::Attribute(node) if same(&node.value, &taken.value))
        });
        let Some(release) = release else { continue };
        let between = TextRange::new(acquire.range().end(), release.range().start());
        if let Some(first) = suspensions(scope.body).into_iter().find(|node| between.contains(node.range().start())) {
            found.push(report(file, scope, acquire.range(), &class, file.text(taken.value.range()), first, vec![]));
        }
    }
    found
}

fn report(
    file: &FileContext<'_>,
    scope: &Scope<'_>,
    range: TextRange,
    class: &str,
    lock: &str,
    first: Node<'_>,
    frames: Vec<Frame>,
) -> Finding {
    let line = file.span(first.range()).line;
    let lock = shortened(lock);
    let message = format!("`{lock}`, a {class}, is held across the await in line {line}");
    let mut finding = file.finding(META.code, Level::Certain, range, &scope.name, message);
    let again = matches!(class.rsplit('.').next(), Some("RLock"));
    finding.why = Some(if again {
        "every task of the loop is the same thread: an RLock lets them all in meanwhile".to_owned()
    } else {
        "a task that wants it meanwhile stops the loop, and with it the task that would release it".to_owned()
    });
    let own = match class.rsplit('.').next() {
        Some("RLock") | None => "Lock",
        Some(name) => name,
    };
    finding.help = Some(format!(
        "use asyncio.{own} where only coroutines take it; where threads do too, release it before the await"
    ));
    finding.frames = frames;
    finding
}
