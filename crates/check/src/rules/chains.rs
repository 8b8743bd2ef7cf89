//! From a root to a finding: its frames, why it is sure, what helps. What the rules about chains share.

use crate::effects::{Blocks, Kind};
use crate::facts::{Certainty, FnKey, SiteKind};
use crate::finding::{Caller, Finding, Frame, Level, Tag};
use crate::program::{How, Program, Root, Step};

/// Callers that are named; the rest is counted.
const CALLERS: usize = 20;

/// A finding about a root, complete but for its fix.
pub fn finding(program: &Program, root: &Root, rule: &str, message: String) -> Finding {
    let span = program.site(&root.function, root.site).map(|site| site.span).unwrap_or_default();
    Finding {
        rule: rule.to_owned(),
        level: root.level,
        path: root.function.path.clone(),
        span,
        function: name(program, &root.function),
        message,
        frames: root.steps.iter().map(|step| frame(program, step)).collect(),
        why: Some(why(program, root)),
        help: Some(help(program, root)),
        tags: root.tags.clone(),
        callers: root.callers.iter().take(CALLERS).filter_map(|key| caller(program, key)).collect(),
        callers_total: root.callers.len() as u32,
        fix: None,
        quiet: root.quiet,
    }
}

/// From where the chain comes, for the end of a message.
pub fn reached(program: &Program, root: &Root) -> String {
    let entry = short(program, &root.entry);
    match (root.depth, root.steps.len()) {
        (0, 1) if root.callback => format!("`{entry}` runs on the loop's thread"),
        (0, 1) => format!("called in the coroutine `{entry}`"),
        (0, calls) => format!("called in `{entry}`, {calls} calls deep"),
        (_, calls) => format!("reached from `{entry}` through {calls} calls"),
    }
}

/// What the table says of the end of a chain.
pub fn blocks<'a>(program: &'a Program, root: &Root) -> Option<&'a Blocks> {
    program.table.blocks(&root.primitive)
}

/// Qualified name of a function.
pub fn name(program: &Program, key: &FnKey) -> String {
    program.function(key).map_or(String::new(), |function| function.qual.clone())
}

/// Its name as people say it: with its class, without its module.
pub fn short(program: &Program, key: &FnKey) -> String {
    let Some(function) = program.function(key) else { return String::new() };
    match function.class.as_deref().and_then(|class| class.rsplit('.').next()) {
        Some(class) => format!("{class}.{}", function.name),
        None => function.name.clone(),
    }
}

fn caller(program: &Program, key: &FnKey) -> Option<Caller> {
    let function = program.function(key)?;
    Some(Caller { function: function.qual.clone(), path: key.path.clone(), line: function.span.line })
}

fn frame(program: &Program, step: &Step) -> Frame {
    let site = program.site(&step.function, step.site);
    let text = site.map_or("", |site| site.text.as_str());
    let calls = &step.calls;
    let note = match site.map_or(SiteKind::Call, |site| site.kind) {
        SiteKind::Call => format!("calls `{calls}`"),
        SiteKind::Enter => format!("enters `{text}`: `{calls}`"),
        SiteKind::Exit => format!("end of the `with {text}`: `{calls}`"),
        SiteKind::Iterate => format!("iterates `{text}`: `{calls}`"),
        SiteKind::Property => format!("property `{text}`: `{calls}`"),
        SiteKind::Operator => format!("operator of `{text}`: `{calls}`"),
        SiteKind::Delete => format!("deletes `{text}`: `{calls}`"),
        SiteKind::Import => format!("imports `{text}`"),
    };
    Frame {
        path: step.function.path.clone(),
        span: site.map(|site| site.span).unwrap_or_default(),
        function: name(program, &step.function),
        note,
    }
}

/// Why the chain is what it is, one reason for each step that needs one, and what makes it less than certain.
fn why(program: &Program, root: &Root) -> String {
    let mut reasons: Vec<String> = vec![];
    for step in &root.steps {
        let reason = doubt(program, step).or_else(|| receiver(program, step));
        reasons.extend(reason.filter(|reason| !reasons.contains(reason)));
    }
    if let Some(blocks) = blocks(program, root) {
        let does = blocks.kind.does();
        reasons.push(match blocks.level {
            Level::Certain => format!("`{}` {does}", root.primitive),
            _ if blocks.kind == Kind::Cpu => format!("`{}` {does}: how long depends on its input", root.primitive),
            _ => format!("`{}` {does}, unless it was set up not to", root.primitive),
        });
    }
    reasons.join("; ")
}

/// A step that is not what the types alone say.
fn doubt(program: &Program, step: &Step) -> Option<String> {
    let text = program.site(&step.function, step.site).map_or("", |site| site.text.as_str());
    let calls = &step.calls;
    match step.how {
        How::Resolved if step.certainty == Certainty::Certain => None,
        How::Resolved => Some(format!("`{text}` may be `{calls}`")),
        How::OneOfSeveral => Some(format!("`{text}` is `{calls}` or another one")),
        How::OnlyImplementation => Some(format!("`{calls}` is the only implementation of `{text}`")),
        How::Implementation => Some(format!("`{calls}` is one of the implementations of `{text}`")),
        How::Override => Some(format!("`{calls}` overrides `{text}`")),
        How::Argument => Some(format!("`{calls}` is handed over to `{text}`")),
        How::UnknownDecorator => Some(format!("what the decorators of `{calls}` do is not known")),
    }
}

/// The type of the object whose method is called, where the text does not say it.
fn receiver(program: &Program, step: &Step) -> Option<String> {
    let text = &program.site(&step.function, step.site)?.text;
    let (object, method) = text.rsplit_once('.')?;
    let (class, name) = step.calls.rsplit_once('.')?;
    let class_name = class.rsplit('.').next()?;
    let is_class = class_name.trim_start_matches('_').starts_with(char::is_uppercase) || class == "sqlite3.Connection";
    let plain = matches!(object, "self" | "cls") || object.starts_with("super()") || object.ends_with(class_name);
    (method == name && is_class && !plain).then(|| format!("`{object}` is `{class_name}`"))
}

/// What to do about it.
fn help(program: &Program, root: &Root) -> String {
    let mut parts = vec![];
    let table = blocks(program, root);
    let leaves = root.steps.first().filter(|_| root.depth > 0 || root.dependency.is_some());
    let whole = leaves
        .and_then(|first| program.site(&first.function, first.site))
        .filter(|site| site.kind == SiteKind::Call)
        .map(|site| site.text.as_str());
    if let Some(instead) = table.and_then(|blocks| blocks.instead.as_deref()).filter(|_| root.dependency.is_none()) {
        parts.push(instead.to_owned());
    }
    let away = if table.is_some_and(|blocks| blocks.gil) {
        "it holds the GIL, so a thread does not help: send it to a process".to_owned()
    } else if root.kind == Kind::Loop {
        "make the functions in between `async def` and await".to_owned()
    } else {
        match whole {
            Some(text) if !root.callback => {
                format!(
                    "run `{text}` in a thread: `await asyncio.to_thread({text}, ...)` in `{}`",
                    short(program, &root.entry)
                )
            }
            _ if root.callback => "do it in a task, in a thread: `await asyncio.to_thread(...)`".to_owned(),
            _ => "run it in a thread: `await asyncio.to_thread(...)`".to_owned(),
        }
    };
    if parts.is_empty() || root.depth > 0 {
        parts.push(away);
    }
    let mut help = parts.join(", or ");
    if !root.also.is_empty() {
        let mut lines: Vec<u32> = root
            .also
            .iter()
            .filter_map(|site| program.site(&root.function, *site))
            .map(|site| site.span.line)
            .collect();
        lines.sort_unstable();
        lines.dedup();
        let own = program.site(&root.function, root.site).map(|site| site.span.line);
        lines.retain(|line| Some(*line) != own);
        let lines: Vec<String> = lines.iter().map(u32::to_string).collect();
        if !lines.is_empty() {
            let plural = if lines.len() == 1 { "" } else { "s" };
            help.push_str(&format!("; the same in line{plural} {}", lines.join(", ")));
        }
    }
    if root.tags.contains(&Tag::Library) {
        let entry = short(program, &root.entry);
        help.push_str(&format!("; nothing in the project calls `{entry}`: it blocks the loops of those who do"));
    }
    help
}
