//! LW101: a call of the project that blocks the event loop, however many calls below the coroutine.

use super::{chains, to_thread};
use crate::facts::SiteKind;
use crate::finding::{Finding, Safety};
use crate::program::{Channel, How, Program, Root};
use crate::rule::{Rule, RuleMeta};

/// See `lw101.md`.
pub struct BlockingCall;

static META: RuleMeta = RuleMeta {
    code: "LW101",
    name: "blocking-call",
    summary: "A call that blocks is reached from a coroutine",
    pedantic: false,
    fix: Some(Safety::Safe),
    page: include_str!("lw101.md"),
};

impl Rule for BlockingCall {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_program(&self, program: &Program, found: &mut Vec<Finding>) {
        for root in program.roots() {
            let ours = root.channel == Channel::Blocking && !root.callback && root.dependency.is_none();
            if !ours || super::lw106::is_executor_exit(program, root) {
                continue;
            }
            let message = format!("`{}` blocks the event loop: {}", root.primitive, chains::reached(program, root));
            let mut finding = chains::finding(program, root, META.code, message);
            if let Some(code) = named_by_ruff(program, root) {
                finding.quiet = true;
                let help = finding.help.take().unwrap_or_default();
                finding.help = Some(format!("{help}; ruff reports it as {code}"));
            }
            finding.fix = to_thread::fix(program, root);
            found.push(finding);
        }
    }
}

/// The code under which ruff reports a call that stands in the coroutine itself: it is left to ruff.
fn named_by_ruff(program: &Program, root: &Root) -> Option<&'static str> {
    let [step] = root.steps.as_slice() else { return None };
    let site = program.site(&step.function, step.site)?;
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let direct = site.kind == SiteKind::Call && step.how == How::Resolved && last(&site.text) == last(&root.primitive);
    // ruff follows an object to where it was made only inside the function.
    if !direct || site.text.starts_with("self.") {
        return None;
    }
    let (module, name) = root.primitive.rsplit_once('.')?;
    match (module, name) {
        ("requests" | "requests.api" | "httpx" | "httpx._api" | "urllib3", _) => Some("ASYNC210"),
        ("urllib.request", "urlopen") => Some("ASYNC210"),
        ("httpx.Client" | "httpx._client.Client", _) => Some("ASYNC212"),
        ("subprocess", "Popen") | ("os", "popen") => Some("ASYNC220"),
        ("subprocess", _) | ("os", "system" | "posix_spawn" | "posix_spawnp") => Some("ASYNC221"),
        ("os", name) if name.starts_with("spawn") => Some("ASYNC221"),
        ("os", name) if name.starts_with("wait") => Some("ASYNC222"),
        ("builtins" | "io" | "_io", "open" | "open_code") => Some("ASYNC230"),
        ("pathlib.Path" | "pathlib._local.Path", "open") => Some("ASYNC230"),
        ("os.path" | "posixpath" | "genericpath" | "pathlib.Path" | "pathlib._local.Path", _) => Some("ASYNC240"),
        ("builtins", "input") => Some("ASYNC250"),
        ("time", "sleep") => Some("ASYNC251"),
        _ => None,
    }
}
