//! LW501: fewer sentinels than consumers.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Number, Stmt};
use ruff_text_size::Ranged;

use super::support::{self, Node};
use crate::context::{FileContext, FunctionAt, functions};
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

/// The rule.
pub struct SentinelCount;

static META: RuleMeta = RuleMeta {
    code: "LW501",
    name: "sentinel-count",
    summary: "one sentinel for several consumers: the first one that takes it ends, the others wait for ever",
    pedantic: false,
    fix: None,
    page: include_str!("lw501.md"),
};

const QUEUES: &[&str] = &["asyncio.Queue", "asyncio.PriorityQueue", "asyncio.LifoQueue"];

/// A function that takes from a queue until it takes a sentinel.
struct Consumer<'a> {
    name: &'a str,
    /// The queue: the parameter's position.
    parameter: usize,
    sentinel: &'a Expr,
}

impl Rule for SentinelCount {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        if !file.source.contains(".get(") || !file.source.contains(".put") {
            return;
        }
        let all = functions(file.body());
        let consumers: Vec<Consumer<'_>> = all.iter().filter_map(consumer).collect();
        if consumers.is_empty() {
            return;
        }
        for function in &all {
            for consumer in &consumers {
                check(file, &all, function, consumer, found);
            }
        }
    }
}

/// A coroutine function whose endless loop takes from a parameter and stops at a sentinel, without putting it back.
fn consumer<'a>(function: &FunctionAt<'a>) -> Option<Consumer<'a>> {
    if !function.node.is_async || function.class.is_some() {
        return None;
    }
    let parameters = &function.node.parameters;
    let mut stop = None;
    support::walk(&function.node.body, &mut |node, around| {
        let Node::Stmt(Stmt::If(branch)) = node else { return };
        let in_endless = around.iter().any(|outer| matches!(outer, Node::Stmt(Stmt::While(_))));
        let ends = support::ends(&branch.body);
        if !in_endless || !(ends.breaks || ends.returns) {
            return;
        }
        let Expr::Compare(test) = &*branch.test else { return };
        let ([ast::CmpOp::Is | ast::CmpOp::Eq], [sentinel]) = (&*test.ops, &*test.comparators) else { return };
        if !(sentinel.is_none_literal_expr() || sentinel.is_name_expr()) || puts(&branch.body).next().is_some() {
            return;
        }
        if let Some(item) = support::name_of(&test.left) {
            stop = Some((item, sentinel));
        }
    });
    let mut queue = None;
    support::walk(&function.node.body, &mut |node, _| {
        // while (item := await queue.get()) is not SENTINEL:
        if let Node::Stmt(Stmt::While(endless)) = node
            && let Expr::Compare(test) = &*endless.test
            && let ([ast::CmpOp::IsNot | ast::CmpOp::NotEq], [sentinel]) = (&*test.ops, &*test.comparators)
            && let Expr::Named(named) = &*test.left
            && let Expr::Await(value) = &*named.value
        {
            queue = got_from(&value.value);
            stop = support::name_of(&named.target).map(|item| (item, sentinel));
        }
    });
    let (item, sentinel) = stop?;
    support::walk(&function.node.body, &mut |node, _| {
        if let Node::Stmt(statement) = node
            && let Some((target, Expr::Await(value))) = support::simple_assignment(statement)
            && support::name_of(target) == Some(item)
            && let Some(name) = got_from(&value.value)
        {
            queue = Some(name);
        }
    });
    let queue = queue?;
    let parameter =
        parameters.posonlyargs.iter().chain(&parameters.args).position(|one| one.parameter.name.as_str() == queue)?;
    Some(Consumer { name: function.node.name.as_str(), parameter, sentinel })
}

/// The queue of `queue.get()`.
fn got_from(value: &Expr) -> Option<&str> {
    let Expr::Call(call) = value else { return None };
    let Expr::Attribute(get) = &*call.func else { return None };
    if get.attr.as_str() == "get" { support::name_of(&get.value) } else { None }
}

/// What a block puts, as (call, value, queue).
fn puts(body: &[Stmt]) -> impl Iterator<Item = (&ast::ExprCall, &Expr, &Expr)> {
    support::calls(body).into_iter().filter_map(|call| {
        let Expr::Attribute(put) = &*call.func else { return None };
        let [value] = &*call.arguments.args else { return None };
        matches!(put.attr.as_str(), "put" | "put_nowait").then_some((call, value, &*put.value))
    })
}

/// Counts, in one function, the consumers that are started on a local queue, and the sentinels that reach it.
fn check(
    file: &FileContext<'_>,
    all: &[FunctionAt<'_>],
    function: &FunctionAt<'_>,
    consumer: &Consumer<'_>,
    found: &mut Vec<Finding>,
) {
    let body = &function.node.body;
    let mut started = 0;
    let mut queue = None;
    support::walk(body, &mut |node, around| {
        let Node::Expr(Expr::Call(call)) = node else { return };
        if support::name_of(&call.func) != Some(consumer.name) {
            return;
        }
        let Some(given) = call.arguments.find_positional(consumer.parameter) else { return };
        if queue.is_some_and(|known| !support::same(known, given)) {
            return;
        }
        queue = Some(given);
        started += times(around);
    });
    let Some(queue) = queue.filter(|queue| started > 1 && queue.is_name_expr()) else { return };
    if !file.classes(queue).iter().any(|class| QUEUES.contains(&class.as_str())) {
        return;
    }
    // Sentinels are put here, and by functions of this file that are given the queue.
    let mut first = None;
    let mut sentinels = 0;
    let mut count = |body: &[Stmt], queue: &str, name: &str, runs: usize| {
        support::walk(body, &mut |node, around| {
            let Node::Expr(Expr::Call(call)) = node else { return };
            let Expr::Attribute(put) = &*call.func else { return };
            let [value] = &*call.arguments.args else { return };
            if !matches!(put.attr.as_str(), "put" | "put_nowait")
                || support::name_of(&put.value) != Some(queue)
                || !support::same(value, consumer.sentinel)
            {
                return;
            }
            // A loop whose length is not known may put enough of them.
            sentinels += if in_loop(around) { usize::MAX / 2 } else { runs };
            first.get_or_insert_with(|| (call.range(), name.to_owned()));
        });
    };
    let Some(queue_name) = support::name_of(queue) else { return };
    count(body, queue_name, &function.name, 1);
    let mut escapes = false;
    support::walk(body, &mut |node, around| {
        let Node::Expr(Expr::Call(call)) = node else { return };
        let Some(position) = call.arguments.args.iter().position(|argument| support::same(argument, queue)) else {
            return;
        };
        let name = support::name_of(&call.func);
        if name == Some(consumer.name) {
            return;
        }
        match all.iter().find(|other| Some(other.node.name.as_str()) == name && other.class.is_none()) {
            Some(other) => {
                let parameters = &other.node.parameters;
                match parameters.posonlyargs.iter().chain(&parameters.args).nth(position) {
                    Some(parameter) => {
                        count(&other.node.body, parameter.parameter.name.as_str(), &other.name, times(around))
                    }
                    None => escapes = true,
                }
            }
            None => escapes = true,
        }
    });
    let Some((range, name)) = first else { return };
    if escapes || sentinels >= started {
        return;
    }
    let message = format!(
        "{sentinels} sentinel{} for {started} consumers of `{queue_name}`: {}",
        if sentinels == 1 { "" } else { "s" },
        if started - sentinels == 1 {
            "one never ends".to_owned()
        } else {
            format!("{} never end", started - sentinels)
        },
    );
    let mut finding = file.finding(META.code, Level::Certain, range, &name, message);
    finding.why = Some(format!("`{}` leaves its loop at a sentinel and does not put it back", consumer.name));
    finding.help = Some("put one sentinel for each consumer, or let the consumer put it back before it ends; `Queue.shutdown()` needs none".into());
    found.push(finding);
}

/// How often something runs: the product of the literal `range(n)` around it; once where that is not known.
fn times(around: &[Node<'_>]) -> usize {
    around
        .iter()
        .map(|node| match node {
            Node::Stmt(Stmt::For(node)) => length(&node.iter),
            Node::Expr(Expr::ListComp(node)) => node.generators.iter().map(|one| length(&one.iter)).product(),
            Node::Expr(Expr::SetComp(node)) => node.generators.iter().map(|one| length(&one.iter)).product(),
            Node::Expr(Expr::Generator(node)) => node.generators.iter().map(|one| length(&one.iter)).product(),
            _ => 1,
        })
        .product()
}

fn length(iterable: &Expr) -> usize {
    match iterable {
        Expr::Call(call) if support::name_of(&call.func) == Some("range") => match &*call.arguments.args {
            [Expr::NumberLiteral(ast::ExprNumberLiteral { value: Number::Int(count), .. })] => {
                count.as_usize().unwrap_or(1)
            }
            _ => 1,
        },
        Expr::List(list) => list.elts.len(),
        Expr::Tuple(tuple) => tuple.elts.len(),
        _ => 1,
    }
}

fn in_loop(around: &[Node<'_>]) -> bool {
    around.iter().any(|node| {
        matches!(node, Node::Stmt(Stmt::For(_) | Stmt::While(_)) | Node::Comprehension(_))
            || matches!(node, Node::Expr(Expr::ListComp(_) | Expr::SetComp(_) | Expr::Generator(_)))
    })
}
