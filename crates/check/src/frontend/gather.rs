//! The facts of all files: project files side by side on all processors, then what they reach, round by round.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;

use rayon::prelude::*;
use ruff_db::files::{File, system_path_to_file};
use ruff_db::parsed::parsed_module;
use ruff_db::source::source_text;
use ruff_db::system::SystemPathBuf;

use super::db::Db;
use super::discover::Environment;
use super::resolve::{Resolver, path_of};
use crate::context::FileContext;
use crate::facts::{FileFacts, Skipped};
use crate::options::{Note, Options};
use crate::progress::Progress;
use crate::rules;

/// Deeply nested expressions are inferred recursively.
const STACK: usize = 64 << 20;

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
    options: &Options,
    progress: &dyn Progress,
) -> anyhow::Result<Gathered> {
    let roots = roots.iter().filter_map(|root| SystemPathBuf::from_path_buf(root.clone()).ok()).collect();
    let db = Db::new(roots, environment.site_packages.clone(), environment.version)?;
    let mut gathered = Gathered::default();
    let mut files = vec![];
    for path in paths {
        match SystemPathBuf::from_path_buf(path.clone()) {
            Ok(path) => match system_path_to_file(&db, &path) {
                Ok(file) => files.push(file),
                Err(error) => gathered.notes.push(note(Some(path.as_str()), None, format!("cannot be read: {error}"))),
            },
            Err(path) => gathered.notes.push(note(None, None, format!("{}: the path is not UTF-8", path.display()))),
        }
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads.unwrap_or(0)).stack_size(STACK).build()?;
    let handle = db.clone();
    progress.begin("reading", files.len());
    gathered.files = pool.install(|| {
        let read = |db: &mut Db, file: &File| {
            let facts = project_file(db, *file);
            progress.step();
            facts
        };
        files.par_iter().with_max_len(1).map_with(handle, read).collect()
    });
    for file in &gathered.files {
        for error in &file.syntax_errors {
            gathered.notes.push(note(Some(&file.path), None, error.clone()));
        }
    }
    Ok(gathered)
}

fn note(path: Option<&str>, line: Option<u32>, text: String) -> Note {
    Note { path: path.map(Into::into), line, text }
}

/// One file of the project: the findings of the rules that need one file only.
fn project_file(db: &Db, file: File) -> FileFacts {
    let mut facts = FileFacts { path: path_of(db, file), project: true, ..FileFacts::default() };
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

/// What a panic said.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("no message"))
}
