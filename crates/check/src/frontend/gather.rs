//! The facts of all files: project files side by side on all processors, then what they reach, round by round.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;
use ruff_db::files::{File, system_path_to_file};
use ruff_db::parsed::{ParsedModuleRef, parsed_module};
use ruff_db::source::source_text;
use ruff_db::system::{SystemPath, SystemPathBuf};
use rustc_hash::{FxHashMap, FxHashSet};

use super::db::Db;
use super::discover::Environment;
use super::functions::{self, Entry, Index, Node};
use super::resolve::Resolver;
use super::{extract, methods};
use crate::context::FileContext;
use crate::effects::Table;
use crate::facts::{FileFacts, FnKey, Function, Skipped, Target};
use crate::options::{Note, Options};
use crate::progress::Progress;
use crate::rules;

/// Deeply nested expressions are inferred recursively.
const STACK: usize = 64 << 20;
/// A chain of calls longer than this is not followed.
const ROUNDS: usize = 40;

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
    roots: &[PathBuf],
    environment: &Environment,
    table: &Table,
    options: &Options,
    progress: &dyn Progress,
) -> anyhow::Result<Gathered> {
    let roots = roots.iter().filter_map(|root| SystemPathBuf::from_path_buf(root.clone()).ok()).collect();
    let db = Db::new(roots, environment.site_packages.clone(), environment.version)?;
    let mut notes = vec![];
    let mut files = vec![];
    for path in paths {
        match SystemPathBuf::from_path_buf(path.clone()) {
            Ok(path) => match system_path_to_file(&db, &path) {
                Ok(file) => files.push(file),
                Err(error) => notes.push(note(Some(path.as_str()), None, format!("cannot be read: {error}"))),
            },
            Err(path) => notes.push(note(None, None, format!("{}: the path is not UTF-8", path.display()))),
        }
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads.unwrap_or(0)).stack_size(STACK).build()?;
    progress.begin("reading", files.len());
    let handle = db.clone();
    let read: Vec<FileFacts> = pool.install(|| {
        let read = |db: &mut Db, file: &File| {
            let facts = project_file(db, *file);
            progress.step();
            facts
        };
        files.par_iter().with_max_len(1).map_with(handle, read).collect()
    });
    for file in &read {
        for error in &file.syntax_errors {
            notes.push(note(Some(&file.path), None, error.clone()));
        }
    }

    let mut work = Worklist::new(table, read);
    for _ in 0..ROUNDS {
        let wanted = work.wanted();
        if wanted.is_empty() {
            break;
        }
        progress.begin("following calls", wanted.len());
        let handle = db.clone();
        let found: Vec<FileFacts> = pool.install(|| {
            let read = |db: &mut Db, (path, offsets): &(Arc<str>, FxHashSet<u32>)| {
                let facts = some_functions(db, path, offsets);
                progress.step();
                facts
            };
            wanted.par_iter().with_max_len(1).map_with(handle, read).collect()
        });
        work.take(found);
    }
    Ok(Gathered { files: work.done(), notes })
}

fn note(path: Option<&str>, line: Option<u32>, text: String) -> Note {
    Note { path: path.map(Into::into), line, text }
}

/// What was read, and what it leads to.
struct Worklist<'t> {
    table: &'t Table,
    files: FxHashMap<Arc<str>, FileFacts>,
    /// Keys that were asked for, whether they were found or not.
    asked: FxHashSet<FnKey>,
    /// Functions whose targets have not been looked at: file, and index in it.
    fresh: Vec<(Arc<str>, usize)>,
    methods: methods::Methods,
}

impl<'t> Worklist<'t> {
    fn new(table: &'t Table, files: Vec<FileFacts>) -> Self {
        let methods = methods::Methods::new(&files);
        let mut work = Self { table, files: FxHashMap::default(), asked: FxHashSet::default(), fresh: vec![], methods };
        work.take(files);
        work
    }

    fn take(&mut self, found: Vec<FileFacts>) {
        for mut facts in found {
            let path = facts.path.clone();
            self.asked.extend(facts.functions.iter().map(|function| function.key.clone()));
            let known = self.files.entry(path.clone()).or_insert_with(|| FileFacts {
                functions: vec![],
                skipped: vec![],
                ..facts.clone()
            });
            self.fresh.extend((0..facts.functions.len()).map(|index| (path.clone(), known.functions.len() + index)));
            known.functions.append(&mut facts.functions);
            known.skipped.append(&mut facts.skipped);
        }
    }

    /// The functions to read next, by file.
    fn wanted(&mut self) -> Vec<(Arc<str>, FxHashSet<u32>)> {
        let mut wanted: FxHashMap<Arc<str>, FxHashSet<u32>> = FxHashMap::default();
        for (path, index) in std::mem::take(&mut self.fresh) {
            let function = &self.files[&path].functions[index];
            let (asked, table, methods) = (&mut self.asked, self.table, &self.methods);
            let mut want = |key: &FnKey| {
                if !asked.contains(key) {
                    asked.insert(key.clone());
                    wanted.entry(key.path.clone()).or_default().insert(key.offset);
                }
            };
            for target in targets(function) {
                let Some(key) = &target.key else { continue };
                // What the table tells needs no look at the source.
                if table.blocks(&target.qual).is_some() || table.offloads(&target.qual).is_some() {
                    continue;
                }
                let ours = self.files.get(&key.path).is_some_and(|file| file.project);
                if !ours && table.harmless(&target.qual).is_some() {
                    continue;
                }
                if target.body {
                    want(key);
                }
                for other in methods.others(&target.qual) {
                    want(&other);
                }
            }
        }
        let mut wanted: Vec<_> = wanted.into_iter().collect();
        wanted.sort_by(|a, b| a.0.cmp(&b.0));
        wanted
    }

    fn done(self) -> Vec<FileFacts> {
        let mut files: Vec<_> = self.files.into_values().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        for file in &mut files {
            file.functions.sort_by_key(|function| function.key.offset);
        }
        files
    }
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
fn project_file(db: &Db, file: File) -> FileFacts {
    let mut facts = FileFacts { path: db.path(file), project: true, ..FileFacts::default() };
    let parsed = parsed_module(db, db.program().program_file(db, file).python_file(db)).load(db);
    let text = source_text(db, file);
    let resolver = Resolver::new(db, file);
    facts.module = resolver.module().map(str::to_owned);
    facts.syntax_errors = parsed
        .errors()
        .iter()
        .take(1)
        .map(|error| format!("line {}: {}", resolver.span(error.location).line, error.error))
        .collect();
    let index = Index::new(parsed.suite());
    facts.classes = index.classes.iter().map(|(name, class)| methods::class(&resolver, name, class)).collect();
    let wanted = |entry: &Entry<'_>| match entry.node {
        Node::Function(node) => node.is_async || functions::hands_over(&node.body),
        Node::Module(body) => functions::hands_over(body),
        Node::Lambda(_) => false,
    };
    add_functions(&resolver, &index, wanted, &mut facts);
    let context = FileContext { path: facts.path.clone(), source: &text, module: &parsed, resolver: &resolver };
    for rule in rules::all() {
        let mut found = vec![];
        match std::panic::catch_unwind(AssertUnwindSafe(|| rule.check_file(&context, &mut found))) {
            Ok(()) => facts.findings.append(&mut found),
            Err(panic) => facts.skipped.push(Skipped {
                name: format!("{} in {}", rule.meta().code, facts.path),
                line: 1,
                reason: message(&*panic),
            }),
        }
    }
    facts
}

/// The functions of a file that somebody calls.
fn some_functions(db: &Db, path: &Arc<str>, offsets: &FxHashSet<u32>) -> FileFacts {
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
    wanted: impl Fn(&Entry<'_>) -> bool,
    facts: &mut FileFacts,
) {
    for entry in index.functions.iter().filter(|entry| wanted(entry)) {
        match std::panic::catch_unwind(AssertUnwindSafe(|| extract::function(resolver, entry))) {
            Ok(function) => facts.functions.push(function),
            Err(panic) => facts.skipped.push(Skipped {
                name: resolver.in_module(&entry.name),
                line: resolver.line(entry.offset),
                reason: message(&*panic),
            }),
        }
    }
}

/// What a panic said.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("no message"))
}
