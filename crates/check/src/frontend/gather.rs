//! The facts of all files: project files side by side on all processors, then what they reach, round by round.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use ruff_db::files::{File, system_path_to_file};
use ruff_db::parsed::{ParsedModuleRef, parsed_module};
use ruff_db::source::source_text;
use ruff_db::system::{SystemPath, SystemPathBuf};
use ruff_python_ast::visitor::{Visitor, walk_stmt};
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;
use rustc_hash::FxHashMap;
use ty_python_core::scope::{FileScopeId, NodeWithScopeKind};

use super::budget::{self, Failure};
use super::db::Db;
use super::discover::{Environment, Roots};
use super::functions::{self, Index, Node};
use super::resolve::Resolver;
use super::{extract, methods};
use crate::cache::{self, Cache, Entry};
use crate::context::FileContext;
use crate::effects::Table;
use crate::facts::{Class, FileFacts, FnKey, Function, Skipped, Target};
use crate::options::{Note, Options};
use crate::program::dispatch::Classes;
use crate::progress::Progress;
use crate::rules;

/// Deeply nested expressions are inferred recursively.
const STACK: usize = 64 << 20;
/// A chain of calls longer than this is not followed.
const ROUNDS: usize = 40;
/// How many calls deep dependencies are followed, and their coroutines: these seldom block, and each leads to many.
const DEPTH: u8 = 4;
const ASYNC_DEPTH: u8 = 1;
/// A larger file is data.
const LARGEST: usize = 4 << 20;

/// All facts of a run.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Of every file that was reached.
    pub(crate) files: Vec<FileFacts>,
    /// What could not be read.
    pub(crate) notes: Vec<Note>,
}

/// Reads all files.
pub(crate) fn gather(
    paths: &[PathBuf],
    roots: &Roots,
    environment: &Environment,
    table: &Table,
    options: &Options,
    progress: &dyn Progress,
) -> anyhow::Result<Gathered> {
    let mut notes = vec![];
    let mut names: Vec<Arc<str>> = vec![];
    for path in paths {
        match path.to_str() {
            Some(path) => names.push(path.into()),
            None => notes.push(note(None, None, format!("{}: the path is not UTF-8", path.display()))),
        }
    }
    let site_packages: Vec<&Path> = environment.site_packages.iter().map(|path| path.as_std_path()).collect();
    let stamp = cache::stamp(&[&names, &roots, &environment.version, &options.table], &site_packages);
    let cache = Cache::new(options.cache.as_deref(), stamp, &names);
    let system = |roots: &[PathBuf]| -> Vec<SystemPathBuf> {
        roots.iter().filter_map(|root| SystemPathBuf::from_path_buf(root.clone()).ok()).collect()
    };
    let (imports, naming) = (system(&roots.imports), system(&roots.names));
    let db = Db::new(imports, naming, environment.site_packages.clone(), environment.version)?;
    budget::watch();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads.unwrap_or(0)).stack_size(STACK).build()?;

    let known = pool.install(|| cache.load_project());
    progress.begin("reading", names.len());
    let handle = db.clone();
    let read: Vec<Read> = pool.install(|| {
        let read = |db: &mut Db, path: &Arc<str>| {
            let read = match known.get(path) {
                Some(entry) => Read::known(entry),
                None => budget::file(db, || project_file(db, path)),
            };
            progress.step();
            read
        };
        names.par_iter().with_max_len(1).map_with(handle, read).collect()
    });

    let classes: FxHashMap<String, Class> =
        read.iter().flat_map(|read| &read.facts.classes).map(|class| (class.qual.clone(), class.clone())).collect();
    let dispatch = Classes::new(&classes);
    let mut work = Worklist::new(table, &cache, known, &dispatch, read);
    for _ in 0..ROUNDS {
        let wanted = work.wanted();
        if wanted.is_empty() {
            break;
        }
        progress.begin("following calls", wanted.len());
        let handle = db.clone();
        let found: Vec<FileFacts> = pool.install(|| {
            let read = |db: &mut Db, (path, offsets): &(Arc<str>, BTreeSet<u32>)| {
                let facts = budget::file(db, || some_functions(db, path, offsets));
                progress.step();
                facts
            };
            wanted.par_iter().with_max_len(1).map_with(handle, read).collect()
        });
        work.take(found);
    }
    work.skip(&db);
    pool.install(|| work.store());
    let files = work.done();
    for file in &files {
        for error in &file.syntax_errors {
            notes.push(note(Some(&file.path), None, error.clone()));
        }
    }
    Ok(Gathered { files, notes })
}

fn note(path: Option<&str>, line: Option<u32>, text: String) -> Note {
    Note { path: path.map(Into::into), line, text }
}

/// A project file that was read.
struct Read {
    facts: FileFacts,
    imports: Vec<Arc<str>>,
    /// It is as it was in an earlier run.
    cached: bool,
}

impl Read {
    /// What the first look at the file gave in an earlier run; what else was asked of it then is asked again.
    fn known(entry: &Entry) -> Self {
        let functions = entry.facts.functions.iter().filter(|function| entry.first.contains(&function.key.offset));
        let facts = FileFacts { functions: functions.cloned().collect(), ..without_functions(&entry.facts) };
        Self { facts, imports: entry.imports.clone(), cached: true }
    }
}

fn without_functions(facts: &FileFacts) -> FileFacts {
    FileFacts {
        path: facts.path.clone(),
        module: facts.module.clone(),
        project: facts.project,
        functions: vec![],
        classes: facts.classes.clone(),
        findings: facts.findings.clone(),
        skipped: facts.skipped.clone(),
        syntax_errors: facts.syntax_errors.clone(),
    }
}

/// What is known of a file in this run.
#[derive(Default)]
struct Known {
    facts: FileFacts,
    imports: Vec<Arc<str>>,
    first: Vec<u32>,
    asked: BTreeSet<u32>,
    /// Something of it is not in the cache.
    is_new: bool,
}

/// What was read, and what it leads to.
struct Worklist<'t> {
    table: &'t Table,
    cache: &'t Cache,
    /// Entries of earlier runs; `None`: there is none.
    entries: FxHashMap<Arc<str>, Option<Entry>>,
    files: FxHashMap<Arc<str>, Known>,
    /// Functions whose targets have not been looked at: file, and index in it.
    fresh: Vec<(Arc<str>, usize)>,
    /// How many calls inside dependencies lead to a function of one.
    depths: FxHashMap<FnKey, u8>,
    dispatch: &'t Classes<'t>,
}

impl<'t> Worklist<'t> {
    fn new(
        table: &'t Table,
        cache: &'t Cache,
        entries: FxHashMap<Arc<str>, Entry>,
        dispatch: &'t Classes<'t>,
        read: Vec<Read>,
    ) -> Self {
        let mut work = Self {
            table,
            cache,
            entries: entries.into_iter().map(|(path, entry)| (path, Some(entry))).collect(),
            files: FxHashMap::default(),
            fresh: vec![],
            depths: FxHashMap::default(),
            dispatch,
        };
        for read in read {
            let path = read.facts.path.clone();
            let first: Vec<u32> = read.facts.functions.iter().map(|function| function.key.offset).collect();
            work.fresh.extend((0..first.len()).map(|index| (path.clone(), index)));
            if !read.cached {
                // An entry that does not hold any more is not asked later, either.
                work.entries.insert(path.clone(), None);
            }
            let asked = first.iter().copied().collect();
            let known = Known { facts: read.facts, imports: read.imports, first, asked, is_new: !read.cached };
            work.files.insert(path, known);
        }
        work
    }

    fn take(&mut self, found: Vec<FileFacts>) {
        for mut facts in found {
            let known = self.files.entry(facts.path.clone()).or_default();
            let path = facts.path.clone();
            if known.facts.path.is_empty() {
                known.facts = without_functions(&facts);
            } else {
                known.facts.skipped.append(&mut facts.skipped);
            }
            let before = known.facts.functions.len();
            known.facts.functions.append(&mut facts.functions);
            self.fresh.extend((before..known.facts.functions.len()).map(|index| (path.clone(), index)));
        }
    }

    /// The functions to read next, by file. What an earlier run knows of is taken over on the way.
    fn wanted(&mut self) -> Vec<(Arc<str>, BTreeSet<u32>)> {
        loop {
            let mut wanted: FxHashMap<Arc<str>, BTreeSet<u32>> = FxHashMap::default();
            for (path, index) in std::mem::take(&mut self.fresh) {
                for key in self.leads_to(&path, index) {
                    wanted.entry(key.path).or_default().insert(key.offset);
                }
            }
            let mut unknown = vec![];
            let mut known = vec![];
            for (path, mut offsets) in wanted {
                let cache = self.cache;
                let entry = self.entries.entry(path.clone()).or_insert_with(|| cache.load(&path));
                if let Some(entry) = entry {
                    let of_entry: BTreeSet<u32> = offsets.intersection(&entry.asked).copied().collect();
                    let functions = entry.facts.functions.iter();
                    let functions = functions.filter(|function| of_entry.contains(&function.key.offset));
                    let facts =
                        FileFacts { functions: functions.cloned().collect(), ..without_functions(&entry.facts) };
                    known.push(facts);
                    offsets.retain(|offset| !of_entry.contains(offset));
                }
                if !offsets.is_empty() {
                    unknown.push((path, offsets));
                }
            }
            let again = !known.is_empty();
            self.take(known);
            for (path, _) in &unknown {
                self.files.entry(path.clone()).or_default().is_new = true;
            }
            if !unknown.is_empty() || !again {
                unknown.sort();
                return unknown;
            }
        }
    }

    /// The functions that one leads to and that nobody has asked for.
    fn leads_to(&mut self, path: &Arc<str>, index: usize) -> Vec<FnKey> {
        let function = &self.files[path].facts.functions[index];
        let depth = self.depths.get(&function.key).copied().unwrap_or_default();
        let mut found: Vec<(FnKey, bool)> = vec![];
        for target in targets(function) {
            if let Some((class, method)) = target.qual.rsplit_once('.') {
                let others = self.dispatch.others(class, method, |_| true);
                found.extend(others.into_iter().map(|other| (other.key, target.is_async)));
            }
            let Some(key) = &target.key else { continue };
            // What the table tells needs no look at the source.
            if self.table.blocks(&target.qual).is_some() || self.table.offloads(&target.qual).is_some() {
                continue;
            }
            let ours = self.files.get(&key.path).is_some_and(|file| file.facts.project);
            if !ours && self.table.harmless(&target.qual).is_some() {
                continue;
            }
            if target.body {
                found.push((key.clone(), target.is_async));
            }
        }
        found.retain(|(key, is_async)| {
            let ours = self.files.get(&key.path).is_some_and(|file| file.facts.project);
            let deepest = if *is_async { ASYNC_DEPTH } else { DEPTH };
            if !ours && depth >= deepest {
                return false;
            }
            let fresh = self.files.entry(key.path.clone()).or_default().asked.insert(key.offset);
            if fresh && !ours {
                self.depths.insert(key.clone(), depth + 1);
            }
            fresh
        });
        found.into_iter().map(|(key, _)| key).collect()
    }

    /// Names what was given up.
    fn skip(&mut self, db: &Db) {
        for (file, scope, why) in db.all_given_up() {
            if let Some(known) = self.files.get_mut(&db.path(file)) {
                known.facts.skipped.push(skipped(db, file, scope, &why));
            }
        }
    }

    /// Keeps what is new for the next run.
    fn store(&self) {
        let new: Vec<&Known> = self.files.values().filter(|known| known.is_new).collect();
        new.into_par_iter().for_each(|known| {
            let mut facts = known.facts.clone();
            let mut asked = known.asked.clone();
            // Functions that this run did not come to stay known.
            if let Some(Some(entry)) = self.entries.get(&facts.path) {
                let old = entry.facts.functions.iter().filter(|function| !asked.contains(&function.key.offset));
                facts.functions.extend(old.cloned().collect::<Vec<_>>());
                asked.extend(&entry.asked);
            }
            self.cache.store(facts, known.imports.clone(), known.first.clone(), asked);
        });
    }

    fn done(self) -> Vec<FileFacts> {
        let mut files: Vec<_> =
            self.files.into_values().map(|known| known.facts).filter(|facts| !facts.path.is_empty()).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        for file in &mut files {
            file.functions.sort_by_key(|function| function.key.offset);
        }
        files
    }
}

/// A scope whose types could not be had.
fn skipped(db: &Db, file: File, scope: FileScopeId, why: &Failure) -> Skipped {
    let resolver = Resolver::new(db, file);
    let program_file = db.program().program_file(db, file);
    let parsed = parsed_module(db, program_file.python_file(db)).load(db);
    let index = ty_python_core::semantic_index(db, program_file);
    let (name, offset) = match index.scope(scope).node() {
        NodeWithScopeKind::Function(node) => {
            let node = node.node(&parsed);
            (resolver.in_module(&node.name), node.name.range().start().to_u32())
        }
        NodeWithScopeKind::Class(node) => {
            let node = node.node(&parsed);
            (resolver.in_module(&node.name), node.name.range().start().to_u32())
        }
        _ => (resolver.module().unwrap_or("the module").to_owned(), FnKey::MODULE),
    };
    Skipped { name, line: resolver.line(offset), reason: why.to_string() }
}

/// Everything that a function may run or hand on.
fn targets(function: &Function) -> impl Iterator<Item = &Target> {
    let sites = function
        .sites
        .iter()
        .flat_map(|site| site.targets.iter().chain(site.arguments.iter().flat_map(|argument| &argument.targets)));
    let decorators = function.decorators.iter().flat_map(|decorator| &decorator.targets);
    sites.chain(decorators).chain(&function.returns)
}

/// One file of the project: the findings of the rules that need one file only, its classes, and its functions that run
/// on a loop or hand something to one.
fn project_file(db: &Db, path: &Arc<str>) -> Read {
    let mut facts = FileFacts { path: path.clone(), project: true, ..FileFacts::default() };
    let file = match readable(db, path) {
        Ok(file) => file,
        Err(why) => {
            facts.syntax_errors.push(why);
            return Read { facts, imports: vec![], cached: false };
        }
    };
    let parsed = parsed_module(db, db.program().program_file(db, file).python_file(db)).load(db);
    let text = source_text(db, file);
    let resolver = Resolver::new(db, file);
    facts.module = resolver.module().map(str::to_owned);
    facts.syntax_errors.extend(parsed.errors().first().map(|error| {
        let python2 = if is_python2(&text) { "; it looks like Python 2" } else { "" };
        format!("line {}: {}{python2}", resolver.span(error.location).line, error.error)
    }));
    let index = Index::new(parsed.suite());
    facts.classes = index.classes.iter().map(|(name, class)| methods::class(&resolver, name, class)).collect();
    let wanted = |entry: &functions::Entry<'_>| match entry.node {
        Node::Function(node) => {
            node.is_async || functions::hands_over(&node.body) || functions::is_called_by_others(node)
        }
        Node::Module(body) => functions::hands_over(body),
        Node::Lambda(_) => false,
    };
    add_functions(&resolver, &index, wanted, &mut facts);
    let context = FileContext { path: facts.path.clone(), source: &text, module: &parsed, resolver: &resolver };
    for rule in rules::all() {
        let mut found = vec![];
        match budget::caught(|| rule.check_file(&context, &mut found)) {
            Ok(()) => facts.findings.append(&mut found),
            Err(panic) => facts.skipped.push(Skipped {
                name: format!("{} in {}", rule.meta().code, facts.path),
                line: 1,
                reason: budget::message(&*panic),
            }),
        }
    }
    let imports = imports(&resolver, parsed.suite());
    Read { facts, imports, cached: false }
}

/// A file that can be read, or in words why it cannot.
fn readable(db: &Db, path: &str) -> Result<File, String> {
    let file = system_path_to_file(db, SystemPath::new(path)).map_err(|error| format!("cannot be read: {error}"))?;
    let text = source_text(db, file);
    if let Some(error) = text.read_error() {
        return Err(format!("cannot be read: {error}"));
    }
    if text.len() > LARGEST {
        return Err(format!("left out: it is larger than {} MB", LARGEST >> 20));
    }
    Ok(file)
}

/// Whether the text has what only Python 2 allows: a `print` statement, or `except Error, name`.
fn is_python2(text: &str) -> bool {
    text.lines().map(str::trim_start).any(|line| {
        let printed = line.strip_prefix("print ").is_some_and(|rest| rest.starts_with(['"', '\'', '%']));
        let handler = line.strip_prefix("except ").is_some_and(|rest| rest.contains(", ") && !rest.starts_with('('));
        printed || handler
    })
}

/// The files of the project that a file imports, at any depth of its blocks.
fn imports(resolver: &Resolver<'_>, body: &[Stmt]) -> Vec<Arc<str>> {
    struct Imports<'r, 'a> {
        resolver: &'r Resolver<'a>,
        found: BTreeSet<Arc<str>>,
    }
    impl Imports<'_, '_> {
        fn add(&mut self, name: &str, level: u32) {
            let (model, db) = (&self.resolver.model, self.resolver.engine.db);
            let module = model.resolve_module((!name.is_empty()).then_some(name), level);
            if let Some(module) = module
                && module.search_path(db).is_some_and(|path| path.is_first_party())
                && let Some(file) = module.file(db)
            {
                self.found.insert(db.path(file));
            }
        }
    }
    impl<'s> Visitor<'s> for Imports<'_, '_> {
        fn visit_stmt(&mut self, statement: &'s Stmt) {
            match statement {
                Stmt::Import(node) => {
                    for alias in &node.names {
                        // A package's own file runs before what is in it.
                        let name = alias.name.as_str();
                        self.add(name, 0);
                        name.match_indices('.').for_each(|(end, _)| self.add(&name[..end], 0));
                    }
                }
                Stmt::ImportFrom(node) => {
                    let module = node.module.as_ref().map_or("", |module| module.as_str());
                    self.add(module, node.level);
                    for alias in &node.names {
                        let dot = if module.is_empty() { "" } else { "." };
                        self.add(&format!("{module}{dot}{}", alias.name), node.level);
                    }
                }
                _ => walk_stmt(self, statement),
            }
        }
        fn visit_expr(&mut self, _: &'s Expr) {}
    }
    let mut imports = Imports { resolver, found: BTreeSet::new() };
    imports.visit_body(body);
    imports.found.into_iter().collect()
}

/// The functions of a file that somebody calls.
fn some_functions(db: &Db, path: &Arc<str>, offsets: &BTreeSet<u32>) -> FileFacts {
    let mut facts = FileFacts { path: path.clone(), ..FileFacts::default() };
    let Ok(file) = system_path_to_file(db, SystemPath::new(path.as_ref() as &str)) else { return facts };
    let parsed: ParsedModuleRef = parsed_module(db, db.program().program_file(db, file).python_file(db)).load(db);
    let resolver = Resolver::new(db, file);
    facts.module = resolver.module().map(str::to_owned);
    let index = Index::new(parsed.suite());
    add_functions(&resolver, &index, |entry| offsets.contains(&entry.offset), &mut facts);
    facts
}

fn add_functions(
    resolver: &Resolver<'_>,
    index: &Index<'_>,
    wanted: impl Fn(&functions::Entry<'_>) -> bool,
    facts: &mut FileFacts,
) {
    for entry in index.functions.iter().filter(|entry| wanted(entry)) {
        match budget::caught(|| extract::function(resolver, entry)) {
            Ok(function) => facts.functions.push(function),
            Err(panic) => facts.skipped.push(Skipped {
                name: resolver.in_module(&entry.name),
                line: resolver.line(entry.offset),
                reason: budget::message(&*panic),
            }),
        }
    }
}
