//! LW107 eager-offload. Its page: lw107.md.

use ruff_python_ast as ast;
use ruff_python_ast::Expr;
use ruff_text_size::{Ranged, TextRange};

use super::support::{Node, fix, replace, scopes, shortened, walk};
use crate::context::FileContext;
use crate::finding::{Finding, Fix, Level, Safety};
use crate::rule::{Rule, RuleMeta};

static META: RuleMeta = RuleMeta {
    code: "LW107",
    name: "eager-offload",
    summary: "`to_thread(f())` calls f on the loop, and then its result in the thread",
    pedantic: false,
    fix: Some(Safety::Safe),
    page: include_str!("lw107.md"),
};

/// What was to run elsewhere runs here.
pub struct EagerOffload;

/// What takes a function and runs it elsewhere: name, position and keyword of the function, whether keyword arguments
/// are handed on to it.
const OFFLOADS: &[(&str, usize, &str, bool)] = &[
    ("asyncio.to_thread", 0, "func", true),
    ("asyncio.AbstractEventLoop.run_in_executor", 1, "func", false),
    ("asyncio.BaseEventLoop.run_in_executor", 1, "func", false),
    ("concurrent.futures.Executor.submit", 0, "fn", true),
    ("concurrent.futures.ThreadPoolExecutor.submit", 0, "fn", true),
    ("concurrent.futures.ProcessPoolExecutor.submit", 0, "fn", true),
    ("anyio.to_thread.run_sync", 0, "func", false),
    ("anyio.to_process.run_sync", 0, "func", false),
    ("starlette.concurrency.run_in_threadpool", 0, "func", true),
    ("fastapi.concurrency.run_in_threadpool", 0, "func", true),
    ("asgiref.sync.sync_to_async", 0, "func", false),
    ("trio.to_thread.run_sync", 0, "sync_fn", false),
    ("loopwright.offload", 0, "fn", true),
    ("loopwright.offloading.offload", 0, "fn", true),
];

impl Rule for EagerOffload {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        for scope in scopes(file) {
            walk(scope.body, &mut |node, _| {
                let Node::Expr(Expr::Call(call)) = node else { return };
                let Some((position, keyword, keywords)) = offload(file, call) else { return };
                let Some(Expr::Call(inner)) = call.arguments.find_argument_value(keyword, position) else { return };
                let Some((level, what)) = result(file, inner) else { return };
                let coroutine = file.makes_coroutine(inner);
                let outer = shortened(file.text(call.func.range()));
                let code = shortened(file.text(inner.range()));
                let message = if coroutine {
                    format!("`{outer}` is sent the coroutine of `{code}`, which nobody awaits there")
                } else {
                    format!("`{code}` runs here, before `{outer}` sees it: only its result is sent away")
                };
                let mut finding = file.finding(META.code, level, inner.range(), &scope.name, message);
                finding.why = Some(format!("what is sent to be called is {what}"));
                if coroutine {
                    finding.help = Some("await it: a coroutine needs no thread".to_owned());
                } else {
                    finding.help = Some("hand over the function and its arguments, without calling it".to_owned());
                    finding.fix = hand_over(file, call, inner, keywords);
                }
                found.push(finding);
            });
        }
    }
}

/// Where a call takes the function that it runs elsewhere.
fn offload(file: &FileContext<'_>, call: &ast::ExprCall) -> Option<(usize, &'static str, bool)> {
    let mut names: Vec<String> = file.qualified(&call.func).into_iter().collect();
    names.extend(file.targets(call).into_iter().map(|target| target.qual));
    OFFLOADS.iter().find_map(|(name, position, keyword, keywords)| {
        let defined = |one: &String| one == name || is_defined_as(one, name);
        names.iter().any(defined).then_some((*position, *keyword, *keywords))
    })
}

/// `asyncio.threads.to_thread` is `asyncio.to_thread`: a module in between.
fn is_defined_as(defined: &str, documented: &str) -> bool {
    let Some((package, name)) = documented.split_once('.') else { return false };
    defined
        .strip_prefix(package)
        .and_then(|rest| rest.strip_suffix(name))
        .is_some_and(|between| between.len() > 1 && between.matches('.').count() == 2)
}

/// What the eager call gives, if that can certainly not be called.
fn result(file: &FileContext<'_>, inner: &ast::ExprCall) -> Option<(Level, String)> {
    if file.makes_coroutine(inner) {
        return Some((Level::Certain, "a coroutine".to_owned()));
    }
    let targets = file.targets(inner);
    // An instance, a partial, a method caller: made to be called.
    if targets.is_empty() || targets.iter().any(|target| is_made_to_be_called(&target.qual)) {
        return None;
    }
    let value = Expr::Call(inner.clone());
    let classes = file.classes(&value);
    if classes.is_empty() || classes.iter().any(|class| can_be_called(class)) {
        return None;
    }
    let call = ast::ExprCall {
        node_index: ast::AtomicNodeIndex::NONE,
        range_start: inner.range_start,
        func: Box::new(value),
        arguments: ast::Arguments {
            range: TextRange::empty(inner.range().end()),
            node_index: ast::AtomicNodeIndex::NONE,
            args: Box::new([]),
            keywords: [].into_iter().collect(),
        },
    };
    if !file.targets(&call).is_empty() {
        return None;
    }
    let builtin = classes.iter().all(|class| class.starts_with("builtins.") || class == "types.NoneType");
    let level = if builtin { Level::Certain } else { Level::Likely };
    let names: Vec<&str> = classes
        .iter()
        .map(|class| if class == "types.NoneType" { "None" } else { class.strip_prefix("builtins.").unwrap_or(class) })
        .collect();
    Some((level, format!("no function but `{}`", names.join("` or `"))))
}

fn is_made_to_be_called(name: &str) -> bool {
    name.starts_with("functools.") || name.starts_with("operator.") || name == "contextvars.copy_context"
}

fn can_be_called(class: &str) -> bool {
    let last = class.rsplit('.').next().unwrap_or(class);
    last.contains("Callable")
        || last.contains("Function")
        || last.contains("Method")
        || last.contains("partial")
        || matches!(last, "type" | "object" | "Any" | "Mock" | "MagicMock" | "AsyncMock")
}

/// `to_thread(f(a))` becomes `to_thread(f, a)`.
fn hand_over(file: &FileContext<'_>, call: &ast::ExprCall, inner: &ast::ExprCall, keywords: bool) -> Option<Fix> {
    let arguments = &inner.arguments;
    let last = call.arguments.args.last().is_some_and(|argument| argument.range() == inner.range());
    let bare_generator = matches!(&arguments.args[..], [Expr::Generator(node)] if !node.parenthesized);
    if !last || !call.arguments.keywords.is_empty() || bare_generator {
        return None;
    }
    let function = file.text(inner.func.range());
    let inside = &file.source[arguments.range.start().to_usize() + 1..arguments.range.end().to_usize() - 1];
    let inside = inside.trim().trim_end_matches(',');
    if inside.contains('#') {
        return None;
    }
    let (text, imports) = match (inside.is_empty(), arguments.keywords.is_empty() || keywords) {
        (true, _) => (function.to_owned(), vec![]),
        (false, true) => (format!("{function}, {inside}"), vec![]),
        (false, false) => (format!("functools.partial({function}, {inside})"), vec!["functools".to_owned()]),
    };
    let mut fix = fix("hand over the function", Safety::Safe, vec![replace(inner.range(), text)])?;
    fix.imports = imports;
    Some(fix)
}
