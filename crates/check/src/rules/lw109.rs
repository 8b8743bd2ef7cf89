//! LW109: waiting for a process whose output nobody reads.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::{self, Node};
use crate::context::{FileContext, FunctionAt, functions};
use crate::finding::{Finding, Frame, Level};
use crate::rule::{Rule, RuleMeta};

/// The rule.
pub struct PipeWaitDeadlock;

static META: RuleMeta = RuleMeta {
    code: "LW109",
    name: "pipe-wait-deadlock",
    summary: "`wait` for a process whose pipe nobody reads: both wait for each other once it is full",
    pedantic: false,
    fix: None,
    page: include_str!("lw109.md"),
};

const STARTS: &[&str] = &["asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "subprocess.Popen"];

impl Rule for PipeWaitDeadlock {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        if !file.source.contains(".wait(") {
            return;
        }
        let all = functions(file.body());
        for function in &all {
            support::walk(&function.node.body, &mut |node, _| {
                let Node::Stmt(statement) = node else { return };
                let Some((target, value)) = support::simple_assignment(statement) else { return };
                let Some(name) = support::name_of(target) else { return };
                let Some(pipes) = started(file, value, 3) else { return };
                if support::bindings(&function.node.body, name).len() != 1
                    || support::outlives(&function.node.body, name)
                {
                    return;
                }
                if let Some(wait) = waits(file, &all, function, name, &pipes, 4) {
                    found.push(problem(file, function, name, &pipes, value, &wait));
                }
            });
        }
    }
}

/// The pipes of a process that is started, as the attributes by which they are read; none if it is not one. Also by a
/// helper that returns what it starts.
fn started(file: &FileContext<'_>, value: &Expr, depth: u8) -> Option<Vec<&'static str>> {
    let value = match value {
        Expr::Await(awaited) => &*awaited.value,
        value => value,
    };
    let Expr::Call(call) = value else { return None };
    if file.qualified(&call.func).is_some_and(|name| STARTS.contains(&name.as_str())) {
        let pipe = |pipe: &&str| {
            call.arguments.find_keyword(pipe).is_some_and(|keyword| support::last_name(&keyword.value) == Some("PIPE"))
        };
        let pipes: Vec<_> = ["stdout", "stderr"].into_iter().filter(pipe).collect();
        return (!pipes.is_empty()).then_some(pipes);
    }
    let targets = file.targets(call);
    let [target] = &targets[..] else { return None };
    let key = target.key.as_ref().filter(|_| depth > 0)?;
    let mut pipes = None;
    file.resolver.with_function(key, &mut |file, helper| {
        if let [Stmt::Return(returned)] = &helper.body[..] {
            pipes = returned.value.as_deref().and_then(|value| started(file, value, depth - 1));
        }
    });
    pipes
}

/// A call on the way to `wait`.
struct Step<'a> {
    function: String,
    call: &'a ast::ExprCall,
}

/// Where a function, or a function of this file that is given the process, waits for it; none if anything reads a pipe, or
/// it goes where that cannot be told.
fn waits<'a>(
    file: &FileContext<'_>,
    all: &[FunctionAt<'a>],
    function: &FunctionAt<'a>,
    name: &str,
    pipes: &[&str],
    depth: u8,
) -> Option<Vec<Step<'a>>> {
    let reads = support::reads(&function.node.body, name);
    let mut wait = None;
    // What is read after the wait is read too late.
    let waited =
        reads.iter().filter(|one| one.attribute() == Some("wait") && !one.is_nested()).map(|one| one.node.end()).min();
    for one in reads.iter().filter(|one| one.is_nested() || waited.is_none_or(|end| one.node.start() < end)) {
        match one.attribute() {
            Some("wait") => {
                let call = one.method_call()?;
                if call.arguments.is_empty() {
                    wait.get_or_insert(vec![Step { function: function.name.clone(), call }]);
                }
            }
            Some("communicate") => return None,
            Some(attribute) if pipes.contains(&attribute) => return None,
            Some(_) => {}
            None => {
                let Some(Expr::Call(call)) = one.parent() else { return None };
                let position =
                    call.arguments.args.iter().position(|argument| support::name_of(argument) == Some(name))?;
                let helper = helper(file, all, call)?;
                let own = usize::from(helper.class.is_some() && call.func.is_attribute_expr());
                let parameters = &helper.node.parameters;
                let parameter = parameters.posonlyargs.iter().chain(&parameters.args).nth(position + own)?;
                if depth == 0 {
                    return None;
                }
                let mut reads = false;
                support::walk_nested(&helper.node.body, &mut |node, _| {
                    if let Node::Expr(Expr::Attribute(attribute)) = node {
                        reads |= attribute.attr.as_str() == "communicate" || pipes.contains(&attribute.attr.as_str());
                    }
                });
                if reads {
                    return None;
                }
                if let Some(below) = waits(file, all, helper, parameter.parameter.name.as_str(), pipes, depth - 1) {
                    wait.get_or_insert_with(|| {
                        std::iter::once(Step { function: function.name.clone(), call }).chain(below).collect()
                    });
                }
            }
        }
    }
    wait
}

/// The one function of this file that a call runs.
fn helper<'f, 'a>(
    file: &FileContext<'_>,
    all: &'f [FunctionAt<'a>],
    call: &ast::ExprCall,
) -> Option<&'f FunctionAt<'a>> {
    let targets = file.targets(call);
    let [target] = &targets[..] else { return None };
    let key = target.key.as_ref().filter(|key| key.path == file.path)?;
    all.iter().find(|one| one.node.name.start().to_u32() == key.offset)
}

fn problem(
    file: &FileContext<'_>,
    function: &FunctionAt<'_>,
    name: &str,
    pipes: &[&str],
    start: &Expr,
    wait: &[Step<'_>],
) -> Finding {
    let pipe = pipes.join("` and `");
    let at = wait[0].call;
    let message = format!("`{name}` is waited for while nobody reads its `{pipe}`: both hang once a pipe is full");
    let mut finding = file.finding(META.code, Level::Certain, at.range(), &function.name, message);
    let frame = |range, function: &str, note| Frame {
        path: file.path.clone(),
        span: file.span(range),
        function: file.resolver.in_module(function),
        note,
    };
    let started = frame(start.range(), &function.name, format!("starts it, with a pipe for `{pipe}`"));
    let steps =
        wait.iter().map(|step| frame(step.call.range(), &step.function, format!("`{}`", file.text(step.call.range()))));
    finding.frames = std::iter::once(started).chain(steps).collect();
    finding.why = Some("a pipe holds 64 KiB; then the process waits for a reader, and this for the process".into());
    finding.help = Some(
        "use `communicate()`, or read the pipes while you wait; `loopwright.run_process` does, and bounds the output"
            .into(),
    );
    finding
}
