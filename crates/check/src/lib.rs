//! Finds what blocks an asyncio event loop although every file looks innocent.
//!
//! The pipeline: `frontend` reads files into facts (the only room that knows ty), `program` links the facts and follows
//! effects along calls, `rules` find, `report` prints. `effects` is the table of what blocks, `finding` and `facts` are
//! the two languages that the rooms speak to each other.

pub mod baseline;
mod cache;
mod check;
pub mod cli;
pub mod config;
pub mod context;
pub mod diff;
pub mod effects;
pub mod facts;
pub mod finding;
pub mod fingerprint;
pub mod fix;
pub mod frontend;
mod imports;
pub mod options;
pub mod paths;
pub mod per_file;
pub mod program;
pub mod progress;
pub mod report;
pub mod rule;
pub mod rules;
pub mod selection;
pub mod sift;
pub mod sources;
pub mod statistics;
pub mod suppress;
pub mod unified;
mod watch;

use crate::effects::Table;
use crate::frontend::discover;
use crate::options::{Analysis, Note, Options};
use crate::program::Program;
use crate::progress::Progress;

/// Analyses what the options name. An error means that nothing could be checked; its text says why.
pub fn analyse(options: &Options, progress: &dyn Progress) -> anyhow::Result<Analysis> {
    let table = Table::builtin().extended(&options.table)?;
    let mut discovered = discover::files(options)?;
    if discovered.paths.is_empty() {
        let why = discovered.notes.first().map_or("there are no Python files", |note| note.text.as_str());
        anyhow::bail!("nothing to check: {why}");
    }
    let roots = discover::roots(options, &discovered.paths);
    let environment = discover::environment(options, &roots.imports);
    let mut notes = std::mem::take(&mut discovered.notes);
    let said = environment.note.iter().cloned().chain(discover::half_installed(&environment));
    notes.extend(said.map(|text| Note { path: None, line: None, text }));

    let gathered = frontend::gather(&discovered.paths, &roots, &environment, &table, options, progress)?;
    notes.extend(gathered.notes);
    let mut findings = vec![];
    let mut skipped = vec![];
    let mut files = vec![];
    let mut dependency_files = 0;
    for file in &gathered.files {
        skipped.extend(file.skipped.iter().map(|skipped| (file.path.clone(), skipped.clone())));
        if file.project {
            files.push(file.path.clone());
            findings.extend(file.findings.iter().cloned());
        } else {
            dependency_files += 1;
        }
    }
    let program = Program::new(gathered.files, table);
    program.settle(&mut findings);
    for rule in rules::all() {
        rule.check_program(&program, &mut findings);
    }
    // `to_thread(load())` is one mistake: LW107 says which.
    let eager: Vec<_> =
        findings.iter().filter(|found| found.rule == "LW107").map(|f| (f.path.clone(), f.span.start)).collect();
    findings.retain(|found| {
        !matches!(found.rule.as_str(), "LW101" | "LW102")
            || !eager.iter().any(|(path, start)| *path == found.path && *start == found.span.start)
    });
    findings.sort_by(|a, b| (&a.path, a.span.start, &a.rule).cmp(&(&b.path, b.span.start, &b.rule)));
    Ok(Analysis { findings, files, dependency_files, skipped, notes, program })
}
