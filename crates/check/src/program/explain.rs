//! `loopwright check graph FUNC`: why a function is blocking, or why not. Every path, every resolution, what is unknown.

use std::fmt;

use rustc_hash::FxHashSet;
use serde::Serialize;

use super::{How, Program, guards};
use crate::effects::Elsewhere;
use crate::facts::{Certainty, FnKey, Function, Guard, Site, SiteKind};
use crate::finding::Tag;

/// Chains are shown down to this depth.
const DEPTH: usize = 12;

/// Why a function is blocking, or why not.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Qualified name.
    pub function: String,
    /// Absolute path.
    pub path: String,
    /// Line of its name.
    pub line: u32,
    /// `async def`.
    pub is_async: bool,
    /// Its body runs on the loop's thread.
    pub on_loop: bool,
    /// The functions from the loop down to this one, itself included.
    pub reached: Vec<String>,
    /// In what circumstances it runs.
    pub tags: Vec<Tag>,
    /// It blocks, in words; or that it does not, as far as is known.
    pub verdict: String,
    /// Names of what blocks, each once.
    pub blocks: Vec<String>,
    /// How many calls below it nothing is known of.
    pub unknown: usize,
    /// What it does, in the order of the source.
    pub sites: Vec<Line>,
}

/// One site.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its line in the file.
    pub line: u32,
    /// As written, with how it runs something where that is not a plain call.
    pub text: String,
    /// What it may run.
    pub runs: Vec<Run>,
}

/// One thing that a site may run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Qualified name; empty where nothing is known.
    pub name: String,
    /// What that means for the loop, and how it is known.
    pub note: String,
    /// The thread is held up.
    pub blocks: bool,
    /// What that does in turn.
    pub below: Vec<Line>,
}

/// Explains the function with this qualified name, or with one that ends so. An error names what it could be.
pub fn explain(program: &Program, name: &str) -> Result<Explanation, String> {
    let key = look_up(program, name)?;
    let function = &program.functions[&key];
    let mut walk = Walk { program, seen: FxHashSet::default(), blocks: vec![], unknown: 0 };
    let sites = walk.function(function, 0);
    let on_loop = program.on_loop(&key);
    let reached = match program.id(&key) {
        Some(id) if on_loop => {
            let chain = program.reach.chain(program, id);
            let names = chain.iter().map(|edge| program.functions[&edge.from].qual.clone());
            names.chain([function.qual.clone()]).collect()
        }
        _ => vec![],
    };
    let verdict = verdict(&walk, on_loop, function);
    Ok(Explanation {
        function: function.qual.clone(),
        path: key.path.to_string(),
        line: function.span.line,
        is_async: function.is_async,
        on_loop,
        reached,
        tags: program.tags(&key),
        verdict,
        blocks: walk.blocks,
        unknown: walk.unknown,
        sites,
    })
}

fn verdict(walk: &Walk<'_>, on_loop: bool, function: &Function) -> String {
    let unknown = match walk.unknown {
        0 => String::new(),
        1 => "; of one call nothing is known".to_owned(),
        many => format!("; of {many} calls nothing is known"),
    };
    match (walk.blocks.as_slice(), on_loop) {
        ([], _) => format!("does not block, as far as is known{unknown}"),
        ([first, rest @ ..], true) => {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            format!("blocks the event loop: `{first}`{more}{unknown}")
        }
        ([first, ..], false) => {
            let who = if function.is_generator { "whoever iterates it" } else { "its thread" };
            format!("blocks {who} (`{first}`), but nothing that is known runs it on the event loop{unknown}")
        }
    }
}

fn look_up(program: &Program, name: &str) -> Result<FnKey, String> {
    let of = |wanted: &dyn Fn(&Function) -> bool| -> Vec<&FnKey> {
        program.keys.iter().filter(|key| wanted(&program.functions[*key])).collect()
    };
    let exact = of(&|function| function.qual == name);
    let ending = format!(".{name}");
    let found = if exact.is_empty() { of(&|function| function.qual.ends_with(&ending)) } else { exact };
    let ours: Vec<&FnKey> = found.iter().copied().filter(|key| program.is_project(key)).collect();
    let found = if ours.is_empty() { found } else { ours };
    match found.as_slice() {
        [] => Err(format!(
            "no function `{name}` was analysed; give its qualified name, such as `package.module.Class.method`"
        )),
        [one] => Ok((*one).clone()),
        many => {
            let names: Vec<String> = many
                .iter()
                .take(10)
                .map(|key| {
                    format!("`{}` ({}:{})", program.functions[*key].qual, key.path, program.functions[*key].span.line)
                })
                .collect();
            let more = if many.len() > 10 { format!(" and {} more", many.len() - 10) } else { String::new() };
            Err(format!("`{name}` is one of {}: {}{more}", many.len(), names.join(", ")))
        }
    }
}

struct Walk<'a> {
    program: &'a Program,
    seen: FxHashSet<FnKey>,
    blocks: Vec<String>,
    unknown: usize,
}

impl Walk<'_> {
    fn function(&mut self, function: &Function, depth: usize) -> Vec<Line> {
        self.seen.insert(function.key.clone());
        let lines = (0..function.sites.len()).map(|index| self.site(function, index, depth));
        lines.collect()
    }

    fn site(&mut self, function: &Function, index: usize, depth: usize) -> Line {
        let program = self.program;
        let site = &function.sites[index];
        let mut runs = vec![];
        if guards::off_loop(site, program) {
            let name = site.targets.first().map_or(String::new(), |target| target.qual.clone());
            runs.push(Run { name, note: guarded(site), blocks: false, below: vec![] });
            return Line { line: site.span.line, text: written(site), runs };
        }
        for primitive in program.primitives(&function.key).iter().filter(|primitive| primitive.site == index) {
            let does = program.table.blocks(&primitive.qual).map_or("blocks", |blocks| blocks.kind.does());
            let note = format!("blocks: it {does}{}", because(primitive.how, primitive.certainty, &site.text));
            if !self.blocks.contains(&primitive.qual) {
                self.blocks.push(primitive.qual.clone());
            }
            runs.push(Run { name: primitive.qual.clone(), note, blocks: true, below: vec![] });
        }
        for edge in program.callees(&function.key).iter().filter(|edge| edge.site == index) {
            let to = &program.functions[&edge.to];
            let mut note = format!("runs here{}", because(edge.how, edge.certainty, &site.text));
            if edge.once {
                note.push_str(", the first time only");
            }
            let below = if self.seen.contains(&edge.to) {
                note.push_str("; shown above");
                vec![]
            } else if depth >= DEPTH {
                note.push_str("; not followed further here");
                vec![]
            } else {
                self.function(to, depth + 1)
            };
            let blocks = !program.primitives(&edge.to).is_empty()
                || below.iter().any(|line| line.runs.iter().any(|run| run.blocks));
            runs.push(Run { name: to.qual.clone(), note, blocks, below });
        }
        for edge in program.awaits(&function.key).iter().filter(|edge| edge.site == index) {
            let note = "a coroutine: it is a root of its own".to_owned();
            runs.push(Run { name: program.functions[&edge.to].qual.clone(), note, blocks: false, below: vec![] });
        }
        for sent in program.offloaded(&function.key).iter().filter(|sent| sent.site == index) {
            let to = match sent.to {
                Elsewhere::Thread => "in another thread",
                Elsewhere::Process => "in another process",
                Elsewhere::Interpreter => "in another interpreter",
            };
            runs.push(Run { name: sent.target.qual.clone(), note: format!("runs {to}"), blocks: false, below: vec![] });
        }
        for given in program.scheduled(&function.key).iter().filter(|given| given.site == index) {
            let note = "runs on the loop later: it is a root of its own".to_owned();
            runs.push(Run { name: given.target.qual.clone(), note, blocks: false, below: vec![] });
        }
        if runs.is_empty() {
            runs = self.rest(site);
        }
        Line { line: site.span.line, text: written(site), runs }
    }

    /// What is said of a site that makes no edge.
    fn rest(&mut self, site: &Site) -> Vec<Run> {
        if site.targets.is_empty() {
            self.unknown += 1;
            let note = "unknown: nothing tells what this is".to_owned();
            return vec![Run { name: String::new(), note, blocks: false, below: vec![] }];
        }
        let program = self.program;
        let runs = site.targets.iter().map(|target| {
            let function = target.key.as_ref().and_then(|key| program.function(key));
            let note = if target.param.is_some() {
                "a parameter: it is followed where it is handed over"
            } else if program.table.blocks(&target.qual).is_some() {
                "does not block with these arguments"
            } else if function.is_some_and(|function| function.is_generator) && site.kind == SiteKind::Call {
                "makes a generator: runs where it is iterated"
            } else if function.is_some() {
                "its decorators run it elsewhere, or not at all"
            } else if target.is_async {
                "makes a coroutine"
            } else {
                "not in the table, and without source here: taken as harmless"
            };
            Run { name: target.qual.clone(), note: note.to_owned(), blocks: false, below: vec![] }
        });
        runs.collect()
    }
}

/// A site as it is written, with how it runs something where that is not a plain call.
fn written(site: &Site) -> String {
    let text = &site.text;
    match site.kind {
        SiteKind::Call if site.awaited => format!("await {text}(...)"),
        SiteKind::Call => format!("{text}(...)"),
        SiteKind::Enter => format!("with {text}"),
        SiteKind::Exit => format!("end of `with {text}`"),
        SiteKind::Iterate => format!("iterating {text}"),
        SiteKind::Property => format!("property {text}"),
        SiteKind::Operator => format!("operator {text}"),
        SiteKind::Delete => format!("del {text}"),
        SiteKind::Import => format!("import {text}"),
    }
}

fn guarded(site: &Site) -> String {
    let guards = site.guards.iter().map(|guard| match guard {
        Guard::NoRunningLoop => "where no event loop runs".to_owned(),
        Guard::When { qual, truth } => format!("when `{qual}` is {}", if *truth { "true" } else { "false" }),
    });
    format!("runs only {}: not on the loop", guards.collect::<Vec<_>>().join(" and "))
}

/// How a target is known, for the end of a note.
fn because(how: How, certainty: Certainty, text: &str) -> String {
    let why = match how {
        How::Resolved => String::new(),
        How::OneOfSeveral => format!("`{text}` is one of several"),
        How::OnlyImplementation => "the only implementation".to_owned(),
        How::Implementation => "one of several implementations".to_owned(),
        How::Override => "an override in a subclass".to_owned(),
        How::Argument => "handed over as an argument".to_owned(),
        How::UnknownDecorator => "under a decorator that nobody knows".to_owned(),
    };
    let sure = match certainty {
        Certainty::Certain => "",
        Certainty::Likely => "likely",
        Certainty::Guess => "a guess",
    };
    match (why.as_str(), sure) {
        ("", "") => String::new(),
        ("", sure) => format!(" ({sure})"),
        (why, "") => format!(" ({why})"),
        (why, sure) => format!(" ({why}; {sure})"),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_async { "async def" } else { "def" };
        writeln!(f, "{kind} {} ({}:{})", self.function, self.path, self.line)?;
        writeln!(f, "  {}", self.verdict)?;
        if self.reached.len() > 1 {
            let names: Vec<String> = self.reached.iter().map(|name| format!("`{name}`")).collect();
            writeln!(f, "  on the loop: {}", names.join(" -> "))?;
        } else if self.on_loop {
            writeln!(f, "  on the loop: {}", if self.is_async { "a coroutine" } else { "the loop calls it" })?;
        }
        if !self.tags.is_empty() {
            let tags: Vec<String> = self.tags.iter().map(|tag| format!("{tag:?}").to_lowercase()).collect();
            writeln!(f, "  circumstances: {}", tags.join(", "))?;
        }
        lines(f, &self.sites, 1)
    }
}

fn lines(f: &mut fmt::Formatter<'_>, sites: &[Line], depth: usize) -> fmt::Result {
    for site in sites {
        let indent = "  ".repeat(depth);
        writeln!(f, "{indent}{:>4}  {}", site.line, site.text)?;
        for run in &site.runs {
            let mark = if run.blocks { '!' } else { '-' };
            let name = if run.name.is_empty() { String::new() } else { format!("`{}` ", run.name) };
            writeln!(f, "{indent}      {mark} {name}{}", run.note)?;
            lines(f, &run.below, depth + 4)?;
        }
    }
    Ok(())
}
