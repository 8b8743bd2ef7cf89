//! LW306: a filter or handler added to a process-wide logger for each request.

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
/// Whoever does one of these looks first, or takes away what it added.
const UNDOES: &[&str] = &["removeFilter", "removeHandler", "hasHandlers", ".handlers", ".filters"];

impl Rule for FilterPerCall {
    fn meta(&self) -> &'static RuleMeta {
        &META
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
            let what = if site.text.ends_with("addHandler") { "handler" } else { "filter" };
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
