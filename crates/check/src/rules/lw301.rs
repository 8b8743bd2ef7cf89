//! LW301: an HTTP client for each call.

use crate::facts::SiteKind;
use crate::finding::{Finding, Frame, Level, Tag};
use crate::program::Program;
use crate::rule::{Rule, RuleMeta};

/// The rule.
pub struct ClientPerCall;

static META: RuleMeta = RuleMeta {
    code: "LW301",
    name: "client-per-call",
    summary: "a new HTTP client for each request: no connection is ever used twice",
    pedantic: false,
    fix: None,
    page: include_str!("lw301.md"),
};

/// Classes that own a pool of connections, as their constructors are named.
const CLIENTS: &[&str] =
    &["aiohttp.client.ClientSession", "aiohttp.ClientSession", "httpx._client.AsyncClient", "httpx.AsyncClient"];

impl Rule for ClientPerCall {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_program(&self, program: &Program, found: &mut Vec<Finding>) {
        for key in &program.project {
            let Some(function) = program.function(key).filter(|_| program.on_loop(key)) else { continue };
            let tags = program.tags(key);
            if tags.contains(&Tag::StartUp) || tags.contains(&Tag::Test) {
                continue;
            }
            for site in function.sites.iter().filter(|site| site.kind == SiteKind::Call) {
                let client = site.targets.iter().find_map(|target| {
                    let class = target.qual.strip_suffix(".__init__").unwrap_or(&target.qual);
                    CLIENTS.contains(&class).then(|| class.rsplit('.').next().unwrap_or(class).to_owned())
                });
                let Some(client) = client else { continue };
                let (level, when) = if tags.contains(&Tag::Handler) {
                    (Level::Certain, "each request that is handled")
                } else if site.in_loop {
                    (Level::Likely, "each turn of this loop")
                } else {
                    continue;
                };
                found.push(Finding {
                    rule: META.code.into(),
                    level,
                    path: key.path.clone(),
                    span: site.span,
                    function: function.qual.clone(),
                    message: format!("a new `{client}` for {when}: each call connects anew"),
                    frames: vec![Frame { path: key.path.clone(), span: site.span, function: function.qual.clone(), note: format!("`{client}` is made") }],
                    why: Some("a client owns the pool of connections; it is closed with the client".into()),
                    help: Some("make one client when the service starts and close it when it stops; `loopwright.integrations.http.Service` is one".into()),
                    tags: tags.clone(),
                    callers: vec![],
                    callers_total: 0,
                    fix: None,
                    quiet: false,
                });
            }
        }
    }
}
