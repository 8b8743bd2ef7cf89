//! In what circumstances a function runs: its own decorators', and those of everything that reaches it on the loop.

use std::collections::VecDeque;

use super::Program;
use crate::effects::Kind;
use crate::facts::{FnKind, Function, Site, SiteKind, Target};
use crate::finding::Tag;

const ALL: [Tag; 9] = [
    Tag::Handler,
    Tag::Task,
    Tag::Callback,
    Tag::InLoop,
    Tag::UnderLock,
    Tag::StartUp,
    Tag::Cli,
    Tag::Test,
    Tag::Library,
];

/// A set of tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TagSet(u16);

impl TagSet {
    const UNKNOWN: u16 = 1 << 15;

    pub(super) fn insert(&mut self, tag: Tag) {
        self.0 |= Self::bit(tag);
    }

    pub(super) fn contains(self, tag: Tag) -> bool {
        self.0 & Self::bit(tag) != 0
    }

    pub(super) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn of(tags: &[Tag]) -> Self {
        tags.iter().fold(Self::default(), |mut set, tag| {
            set.insert(*tag);
            set
        })
    }

    pub(super) fn to_vec(self) -> Vec<Tag> {
        ALL.into_iter().filter(|tag| self.contains(*tag)).collect()
    }

    /// It runs in circumstances that nobody knows: they may hurt.
    fn insert_unknown(&mut self) {
        self.0 |= Self::UNKNOWN;
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Everything that is known of it says that it hurts nobody: it runs once, by itself, or in a test.
    pub(super) fn quiet(self) -> bool {
        let modifiers = Self::of(&[Tag::InLoop, Tag::UnderLock]);
        let harmless = Self::of(&[Tag::StartUp, Tag::Cli, Tag::Test]);
        let circumstances = self.without(modifiers);
        circumstances != Self::default() && circumstances.without(harmless) == Self::default()
    }

    fn bit(tag: Tag) -> u16 {
        1 << ALL.iter().position(|known| *known == tag).unwrap_or_default()
    }
}

/// Whether a file belongs to tests, by its module's name or, where it has none, its own.
pub(super) fn is_test(path: &str, module: Option<&str>) -> bool {
    let named = |part: &str| {
        matches!(part, "tests" | "test" | "conftest" | "testing")
            || part.starts_with("test_")
            || part.ends_with("_test")
    };
    let file = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".py");
    named(file) || module.is_some_and(|module| module.split('.').any(named))
}

/// Whether a qualified name is one of a command line's modules: what nobody else calls there, its commands run.
fn is_cli_module(qual: &str) -> bool {
    qual.split('.').any(|part| matches!(part, "cli" | "_cli" | "__main__" | "scripts"))
}

/// The tags of every function.
pub(super) fn find(program: &Program) -> Vec<TagSet> {
    let count = program.keys.len();
    let mut tags = vec![TagSet::default(); count];
    for entry in &program.entries {
        tags[entry.id as usize] = TagSet::of(&entry.tags);
    }
    for (id, set) in tags.iter_mut().enumerate() {
        if program.tests[id] {
            set.insert(Tag::Test);
        }
    }
    let mut referred = vec![false; count];
    for id in 0..count as u32 {
        hints(program, id, &mut tags, &mut referred);
    }
    for entry in &program.entries {
        let at = entry.id as usize;
        let called = |places: &[(u32, u32)]| places.iter().any(|(from, _)| !program.tests[*from as usize]);
        if tags[at] == TagSet::default() && !called(&program.callers[at]) && !called(&program.awaiters[at]) {
            if is_cli_module(&program.by_id(entry.id).qual) {
                tags[at].insert(Tag::Cli);
                continue;
            }
            tags[at].insert_unknown();
            if !referred[at] {
                tags[at].insert(Tag::Library);
            }
        }
    }
    spread(program, &mut tags);
    tags
}

/// Hands tags on to whatever a function runs or awaits.
fn spread(program: &Program, tags: &mut [TagSet]) {
    let mut on_loop = vec![false; tags.len()];
    let mut queue: VecDeque<u32> = program.entries.iter().map(|entry| entry.id).collect();
    for id in &queue {
        on_loop[*id as usize] = true;
    }
    while let Some(id) = queue.pop_front() {
        let node = &program.nodes[id as usize];
        let function = program.by_id(id);
        let own = tags[id as usize];
        for (edge, awaited) in node.edges.iter().map(|e| (e, false)).chain(node.awaits.iter().map(|e| (e, true))) {
            let to = edge.to_id as usize;
            // What only tests call is a library's business all the same, and what is made for a task is the task's.
            if program.tests[id as usize] && !program.tests[to] || awaited && is_given_away(program, id, edge.site) {
                continue;
            }
            let site = &function.sites[edge.site];
            let mut set = if edge.once { TagSet::of(&[Tag::StartUp]) } else { own };
            if !edge.once {
                set = set.union(modifiers(site));
            }
            let grown = tags[to].union(set);
            if grown != tags[to] || !on_loop[to] {
                tags[to] = grown;
                on_loop[to] = true;
                queue.push_back(edge.to_id);
            }
        }
    }
}

/// Whether the coroutine that this site makes is given to the loop as a task.
fn is_given_away(program: &Program, id: u32, site: usize) -> bool {
    let function = program.by_id(id);
    let made = &function.sites[site];
    program.nodes[id as usize].scheduled.iter().any(|given| {
        let outer = &function.sites[given.site];
        outer.span.start < made.span.start && made.span.end <= outer.span.end
    })
}

/// What a site says of the circumstances of what it calls.
pub(super) fn modifiers(site: &Site) -> TagSet {
    let mut set = TagSet::default();
    if site.in_loop {
        set.insert(Tag::InLoop);
    }
    let is_lock =
        |name: &str| ["Lock", "lock", "Semaphore", "Condition", "mutex"].iter().any(|part| name.contains(part));
    if site.held.iter().any(|held| held.classes.iter().any(|class| is_lock(class)) || is_lock(&held.text)) {
        set.insert(Tag::UnderLock);
    }
    set
}

/// Tags that a function gives to others by naming them: what `asyncio.run` runs, what is registered as a route or for
/// the start. Whatever is named so is not a library's unused function either.
fn hints(program: &Program, id: u32, tags: &mut [TagSet], referred: &mut [bool]) {
    let function = program.by_id(id);
    for site in &function.sites {
        let tag = registered(site);
        for argument in &site.arguments {
            let by_keyword = argument.keyword.as_deref().and_then(started);
            for target in &argument.targets {
                let Some(to) = target.key.as_ref().and_then(|key| program.id(key)) else { continue };
                referred[to as usize] |= !program.tests[id as usize];
                if let Some(tag) = tag.or(by_keyword) {
                    tags[to as usize].insert(tag);
                }
            }
        }
        if runs_loop(program, site) && is_command(program, function) {
            for made in inside(function, site) {
                if let Some(to) = made.key.as_ref().and_then(|key| program.id(key)) {
                    tags[to as usize].insert(Tag::Cli);
                }
            }
        }
    }
}

/// The circumstances that a keyword names.
fn started(keyword: &str) -> Option<Tag> {
    matches!(keyword, "lifespan" | "on_startup" | "on_shutdown" | "startup" | "shutdown").then_some(Tag::StartUp)
}

/// The circumstances of a function that is registered by a call of this name.
fn registered(site: &Site) -> Option<Tag> {
    let (receiver, method) = site.text.rsplit_once('.')?;
    match method {
        "add_get"
        | "add_post"
        | "add_put"
        | "add_patch"
        | "add_delete"
        | "add_route"
        | "add_api_route"
        | "add_websocket_route"
        | "add_url_rule" => Some(Tag::Handler),
        "add_event_handler" => Some(Tag::StartUp),
        "append" => {
            let list = receiver.rsplit('.').next()?;
            matches!(list, "on_startup" | "on_shutdown" | "on_cleanup" | "cleanup_ctx").then_some(Tag::StartUp)
        }
        _ => None,
    }
}

fn runs_loop(program: &Program, site: &Site) -> bool {
    let is_loop = |target: &Target| program.table.blocks(&target.qual).is_some_and(|blocks| blocks.kind == Kind::Loop);
    site.kind == SiteKind::Call && site.targets.iter().any(is_loop)
}

/// Coroutines that are made among the arguments of a call.
fn inside<'a>(function: &'a Function, outer: &'a Site) -> impl Iterator<Item = &'a Target> {
    let (start, end) = (outer.span.start, outer.span.end);
    let sites = function.sites.iter().filter(move |site| site.span.start > start && site.span.end <= end);
    sites.flat_map(|site| &site.targets).filter(|target| target.is_async)
}

/// A program's own start: the body of a module, what it calls, a command of a command line.
fn is_command(program: &Program, function: &Function) -> bool {
    let is_cli = |function: &Function| {
        function.decorators.iter().any(|decorator| {
            matches!(
                super::decorators::known(program, decorator),
                Some(crate::effects::DecoratorKind::Handler { tag: Tag::Cli, .. })
            )
        })
    };
    function.kind == FnKind::Module
        || function.name == "main"
        || is_cli_module(&function.qual)
        || is_cli(function)
        || program
            .callers(&function.key)
            .any(|edge| program.function(&edge.from).is_some_and(|caller| caller.kind == FnKind::Module))
}
