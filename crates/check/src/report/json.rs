//! One JSON document. Its fields are a promise (docs/check.md): `version` goes up when one changes its meaning or goes.

use std::io::{self, Write};
use std::sync::Arc;

use serde::Serialize;

use super::{Report, level_name, tag_name};
use crate::facts::Span;
use crate::finding::{Finding, Safety};

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    findings: Vec<Entry<'a>>,
    summary: Summary,
    notes: Vec<NoteEntry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    rule: &'a str,
    name: &'a str,
    level: &'static str,
    message: &'a str,
    path: String,
    line: u32,
    column: u32,
    end_line: u32,
    end_column: u32,
    function: &'a str,
    frames: Vec<Step<'a>>,
    why: Option<&'a str>,
    help: Option<&'a str>,
    tags: Vec<&'static str>,
    callers: Vec<CallerEntry<'a>>,
    callers_total: u32,
    fix: Option<FixEntry<'a>>,
    quiet: bool,
    fingerprint: &'a str,
}

#[derive(Serialize)]
struct Step<'a> {
    path: String,
    line: u32,
    column: u32,
    end_line: u32,
    end_column: u32,
    function: &'a str,
    note: &'a str,
    source: Option<String>,
}

#[derive(Serialize)]
struct CallerEntry<'a> {
    function: &'a str,
    path: String,
    line: u32,
}

#[derive(Serialize)]
struct FixEntry<'a> {
    title: &'a str,
    safe: bool,
    imports: &'a [String],
    edits: Vec<EditEntry<'a>>,
}

#[derive(Serialize)]
struct EditEntry<'a> {
    line: u32,
    column: u32,
    end_line: u32,
    end_column: u32,
    text: &'a str,
}

#[derive(Serialize)]
struct Summary {
    files: usize,
    dependency_files: usize,
    findings: usize,
    fixable: usize,
    fixable_unsafe: usize,
    quiet: usize,
    suppressed: usize,
    baselined: usize,
    unchanged: usize,
    skipped: Vec<SkippedEntry>,
}

#[derive(Serialize)]
struct SkippedEntry {
    path: String,
    line: u32,
    function: String,
    reason: String,
}

#[derive(Serialize)]
struct NoteEntry<'a> {
    path: Option<String>,
    line: Option<u32>,
    text: &'a str,
}

pub(super) fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (fixable, fixable_unsafe) = report.fixable();
    let counts = report.counts;
    let document = Document {
        version: 1,
        findings: report.findings.iter().zip(report.fingerprints).map(|(f, print)| entry(report, f, print)).collect(),
        summary: Summary {
            files: counts.files,
            dependency_files: counts.dependency_files,
            findings: report.findings.len(),
            fixable,
            fixable_unsafe,
            quiet: counts.quiet,
            suppressed: counts.suppressed,
            baselined: counts.baselined,
            unchanged: counts.unchanged,
            skipped: report
                .skipped
                .iter()
                .map(|(path, skipped)| SkippedEntry {
                    path: report.path(path),
                    line: skipped.line,
                    function: skipped.name.clone(),
                    reason: skipped.reason.clone(),
                })
                .collect(),
        },
        notes: report
            .notes
            .iter()
            .map(|note| NoteEntry {
                path: note.path.as_ref().map(|path| report.path(path)),
                line: note.line,
                text: &note.text,
            })
            .collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

fn entry<'a>(report: &Report<'a>, finding: &'a Finding, fingerprint: &'a str) -> Entry<'a> {
    let end = report.end(&finding.path, finding.span);
    Entry {
        rule: &finding.rule,
        name: report.rule_name(&finding.rule),
        level: level_name(finding.level),
        message: &finding.message,
        path: report.path(&finding.path),
        line: finding.span.line,
        column: finding.span.column,
        end_line: end.line,
        end_column: end.column,
        function: &finding.function,
        frames: finding.frames.iter().map(|frame| step(report, frame)).collect(),
        why: finding.why.as_deref(),
        help: finding.help.as_deref(),
        tags: finding.tags.iter().map(tag_name).collect(),
        callers: finding
            .callers
            .iter()
            .map(|caller| CallerEntry {
                function: &caller.function,
                path: report.path(&caller.path),
                line: caller.line,
            })
            .collect(),
        callers_total: finding.callers_total,
        fix: finding.fix.as_ref().map(|fix| FixEntry {
            title: &fix.title,
            safe: fix.safety == Safety::Safe,
            imports: &fix.imports,
            edits: fix.edits.iter().map(|edit| edit_entry(report, &finding.path, edit)).collect(),
        }),
        quiet: finding.quiet,
        fingerprint,
    }
}

fn step<'a>(report: &Report<'_>, frame: &'a crate::finding::Frame) -> Step<'a> {
    let end = report.end(&frame.path, frame.span);
    Step {
        path: report.path(&frame.path),
        line: frame.span.line,
        column: frame.span.column,
        end_line: end.line,
        end_column: end.column,
        function: &frame.function,
        note: &frame.note,
        source: report.sources.line(&frame.path, frame.span.line).map(|line| line.trim().to_owned()),
    }
}

fn edit_entry<'a>(report: &Report<'_>, path: &Arc<str>, edit: &'a crate::finding::Edit) -> EditEntry<'a> {
    let at = |offset| report.end(path, Span { start: offset, end: offset, line: 0, column: 0 });
    let (from, to) = (at(edit.start), at(edit.end));
    EditEntry { line: from.line, column: from.column, end_line: to.line, end_column: to.column, text: &edit.text }
}
