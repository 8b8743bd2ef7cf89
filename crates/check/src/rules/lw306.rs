//! LW306: a filter or handler added to a process-wide logger for each request.

use ruff_python_ast as ast;
use ruff_python_ast::Expr;
use ruff_text_size::Ranged;

use super::support::{self, Node};
use crate::context::{FileContext, FunctionAt, functions};
use crate::facts::{Function, SiteKind};
use crate::finding::{Finding, Frame, Level, Tag};
use crate::program::Program;
use crate::rule::{Rule, RuleMeta};

/// The rule.
pub struct FilterPerCall;

static META: RuleMeta = RuleMeta {
    code: "LW306",
    name: "filter-per-call",
    summary: "a logging filter or handler is added for each request, and stays",
    pedantic: false,
    fix: None,
    page: include_str!("lw306.md"),
};

const ADDS: &[&str] = &["logging.Filterer.addFilter", "logging.Logger.addFilter", "logging.Logger.addHandler"];
const STAYS: &str = "loggers live as long as the process: every line goes through all that were added so far";
/// Whoever does one of these looks first, or takes away what it added.
const UNDOES: &[&str] = &["removeFilter", "removeHandler", "hasHandlers", ".handlers", ".filters"];

impl Rule for FilterPerCall {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    /// What is added is made from the arguments of the call: another one for each of them.
    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        if !file.source.contains("addFilter") && !file.source.contains("addHandler") {
            return;
        }
        for function in functions(file.body()).into_iter().filter(|function| function.node.is_async) {
            let body = file.text(function.node.range());
            if UNDOES.iter().any(|word| body.contains(word)) {
                continue;
            }
            for call in support::calls(&function.node.body) {
                let adds = file.targets(call).iter().any(|target| ADDS.contains(&target.qual.as_str()));
                if adds && call.arguments.args.first().is_some_and(|added| depends(&function, added)) {
                    let text = file.text(call.func.range());
                    let kind = kind(text);
                    let message = format!(
                        "`{text}` adds a {kind} to a logger of the whole process for each call of `{}`",
                        function.node.name
                    );
                    let mut finding = file.finding(META.code, Level::Likely, call.range(), &function.name, message);
                    finding.why = Some(format!("the {kind} is made from the arguments of the call; {STAYS}"));
                    finding.help = Some(remedy(kind));
                    found.push(finding);
                }
            }
        }
    }

    fn check_program(&self, program: &Program, found: &mut Vec<Finding>) {
        for key in &program.project {
            let Some(function) = program.function(key) else { continue };
            let adds = |function: &Function| {
                function
                    .sites
                    .iter()
                    .find(|site| {
                        site.kind == SiteKind::Call
                            && site.targets.iter().any(|target| ADDS.contains(&target.qual.as_str()))
                    })
                    .cloned()
            };
            let Some(site) = adds(function) else { continue };
            let tags = program.tags(key);
            let often = [Tag::Handler, Tag::InLoop].into_iter().find(|tag| tags.contains(tag));
            let Some(often) = often.filter(|_| !tags.contains(&Tag::StartUp) && !undoes(function)) else { continue };
            if found.iter().any(|one| one.rule == META.code && one.path == key.path && one.span == site.span) {
                continue;
            }
            let what = kind(&site.text);
            let when = if often == Tag::Handler { "each request" } else { "each turn of a loop" };
            found.push(Finding {
                rule: META.code.into(),
                level: Level::Likely,
                path: key.path.clone(),
                span: site.span,
                function: function.qual.clone(),
                message: format!("`{}` adds a {what} to a logger of the whole process for {when}", site.text),
                frames: vec![Frame {
                    path: key.path.clone(),
                    span: site.span,
                    function: function.qual.clone(),
                    note: format!("`{}`", site.text),
                }],
                why: Some(format!(
                    "loggers live as long as the process: every line goes through all {what}s added so far"
                )),
                help: Some(format!(
                    "add one {what} when the program starts; let it read a context variable (`loopwright.bind`)"
                )),
                tags,
                callers: vec![],
                callers_total: 0,
                fix: None,
                quiet: false,
            });
        }
    }
}

fn kind(call: &str) -> &'static str {
    if call.ends_with("addHandler") { "handler" } else { "filter" }
}

fn remedy(kind: &str) -> String {
    format!("add one {kind} when the program starts; let it read a context variable (`loopwright.bind`)")
}

/// A call whose arguments read a parameter of the function, `self` apart.
fn depends(function: &FunctionAt<'_>, added: &Expr) -> bool {
    let Expr::Call(call) = added else { return false };
    let own = usize::from(function.class.is_some());
    let parameters: Vec<&str> =
        function.node.parameters.iter().skip(own).map(ast::AnyParameterRef::name).map(|name| name.as_str()).collect();
    let mut found = false;
    for argument in call.arguments.iter_source_order() {
        support::walk_expr(argument.value(), &mut |node, _| {
            if let Node::Expr(Expr::Name(name)) = node {
                found |= parameters.contains(&name.id.as_str());
            }
        });
    }
    found
}

/// The function's file says that it looks at what is there, or takes it away again.
fn undoes(function: &Function) -> bool {
    std::fs::read_to_string(&*function.key.path).is_ok_and(|source| {
        let start = (function.span.end as usize).min(source.len());
        let body = source.get(start..).unwrap_or("");
        let end = body.find("\ndef ").into_iter().chain(body.find("\nasync def ")).chain(body.find("\nclass ")).min();
        let body = &body[..end.unwrap_or(body.len())];
        UNDOES.iter().any(|word| body.contains(word))
    })
}
