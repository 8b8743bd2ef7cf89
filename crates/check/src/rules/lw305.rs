//! LW305: a response that outlives its session, or is never given back.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::support::{self, Node};
use crate::context::{FileContext, FunctionAt, functions};
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

/// The rule.
pub struct ResponseEscapes;

static META: RuleMeta = RuleMeta {
    code: "LW305",
    name: "response-escapes",
    summary: "an aiohttp response leaves the block that owns its connection, or is never read or released",
    pedantic: false,
    fix: None,
    page: include_str!("lw305.md"),
};

const SESSION: &str = "aiohttp.ClientSession";
const REQUESTS: &[&str] = &["get", "post", "put", "patch", "delete", "head", "options", "request"];
const READ_INSIDE: &str = "read what is needed inside of `async with`, and return that: `return await response.json()`";
/// What gives the connection back: the body read to its end, or the response released.
const GIVES_BACK: &[&str] = &["read", "json", "text", "release", "close", "wait_for_close", "content"];

impl Rule for ResponseEscapes {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        if !file.source.contains("aiohttp") && !file.source.contains("session") {
            return;
        }
        for function in functions(file.body()).into_iter().filter(|function| function.node.is_async) {
            support::walk(&function.node.body, &mut |node, around| {
                let Node::Stmt(statement) = node else { return };
                match statement {
                    Stmt::Return(returned) => {
                        let Some(value) = returned.value.as_deref() else { return };
                        if let Some(session) = request(file, value) {
                            escaped(file, &function, value, session, around, found);
                        } else if let Some(name) = support::name_of(value)
                            && around.iter().any(|outer| enters(file, *outer, name))
                        {
                            let message = format!(
                                "`{name}` is returned out of the block that releases it: its body cannot be read any more"
                            );
                            let mut finding =
                                file.finding(META.code, Level::Certain, value.range(), &function.name, message);
                            finding.why = Some("the end of `async with` gives the connection back, read or not".into());
                            finding.help = Some(READ_INSIDE.into());
                            found.push(finding);
                        }
                    }
                    _ => {
                        if let Some((target, value)) = support::simple_assignment(statement)
                            && let Some(name) = support::name_of(target)
                            && request(file, value).is_some()
                            && forgotten(&function.node.body, name)
                        {
                            let message = format!("`{name}` is neither read nor released: its connection stays taken");
                            let mut finding =
                                file.finding(META.code, Level::Certain, value.range(), &function.name, message);
                            finding.help = Some(format!(
                                "use `async with {} as {name}:`",
                                file.text(value.range()).trim_start_matches("await").trim()
                            ));
                            found.push(finding);
                        }
                    }
                }
            });
        }
    }
}

/// `async with session.get(...) as name`
fn enters(file: &FileContext<'_>, node: Node<'_>, name: &str) -> bool {
    let Node::Stmt(Stmt::With(block)) = node else { return false };
    block.items.iter().any(|item| {
        item.optional_vars.as_deref().and_then(support::name_of) == Some(name)
            && requests(file, &item.context_expr).is_some()
    })
}

/// The session of `await session.get(...)`.
fn request<'a>(file: &FileContext<'_>, value: &'a Expr) -> Option<&'a Expr> {
    let Expr::Await(awaited) = value else { return None };
    requests(file, &awaited.value)
}

/// The session of `session.get(...)`.
fn requests<'a>(file: &FileContext<'_>, value: &'a Expr) -> Option<&'a Expr> {
    let Expr::Call(call) = value else { return None };
    let Expr::Attribute(method) = &*call.func else { return None };
    let is_session = REQUESTS.contains(&method.attr.as_str()) && is_session(file, &method.value);
    is_session.then_some(&*method.value)
}

fn is_session(file: &FileContext<'_>, value: &Expr) -> bool {
    file.classes(value).iter().any(|class| class == SESSION || class == "aiohttp.client.ClientSession")
}

/// A response is returned: dead if the session ends with the block, somebody else's duty if not.
fn escaped(
    file: &FileContext<'_>,
    function: &FunctionAt<'_>,
    value: &Expr,
    session: &Expr,
    around: &[Node<'_>],
    found: &mut Vec<Finding>,
) {
    let name = file.text(session.range());
    let ends = around.iter().any(|outer| match outer {
        Node::Stmt(Stmt::With(block)) => block.items.iter().any(|item| owns(item, session)),
        _ => false,
    });
    let (level, message, why) = if ends {
        (
            Level::Certain,
            format!("the response is returned out of the block that closes `{name}`: its body cannot be read any more"),
            "the end of the block closes the connection",
        )
    } else {
        (
            Level::Pedantic,
            format!("the response of `{name}` is returned open: whoever calls this has to release it"),
            "a caller that forgets keeps a connection of the session's limit for ever",
        )
    };
    let mut finding = file.finding(META.code, level, value.range(), &function.name, message);
    finding.why = Some(why.into());
    finding.help = Some(READ_INSIDE.into());
    found.push(finding);
}

/// `async with ClientSession() as session`
fn owns(item: &ast::WithItem, session: &Expr) -> bool {
    item.optional_vars.as_deref().is_some_and(|name| match (name, session) {
        (Expr::Name(one), Expr::Name(other)) => one.id == other.id,
        _ => false,
    })
}

/// Nothing that is done with the response gives its connection back, and it goes nowhere else.
fn forgotten(body: &[Stmt], name: &str) -> bool {
    support::reads(body, name).iter().all(|one| match one.attribute() {
        Some(attribute) => !GIVES_BACK.contains(&attribute),
        None => false,
    })
}
