//! How findings are printed: one file for each format. What is printed is decided before, in `sift`.

pub mod ansi;
mod concise;
mod full;
mod github;
mod gitlab;
mod json;
mod junit;
mod sarif;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use crate::facts::{Skipped, Span};
use crate::finding::{Finding, Safety};
use crate::options::Note;
use crate::paths::relative;
use crate::rule::RuleMeta;
use crate::sources::{Place, Sources};

use ansi::Style;

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Chains as code frames, for people.
    Full,
    /// One line for each finding.
    Concise,
    /// One JSON document; its fields stay.
    Json,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// Annotations of GitHub Actions.
    Github,
    /// GitLab's code quality report.
    Gitlab,
    /// JUnit's XML.
    Junit,
}

/// Everything that a report says.
pub struct Report<'a> {
    /// What is shown, by path and place.
    pub findings: &'a [Finding],
    /// The fingerprint of each.
    pub fingerprints: &'a [String],
    /// What is told of the input.
    pub notes: &'a [Note],
    /// Functions that were given up.
    pub skipped: &'a [(Arc<str>, Skipped)],
    /// The numbers.
    pub counts: Counts,
    /// Every rule there is.
    pub rules: &'a [&'static RuleMeta],
    /// The lines that are shown.
    pub sources: &'a Sources,
    /// What paths are relative to.
    pub directory: PathBuf,
    /// Colours, for people.
    pub style: Style,
    /// Findings and nothing else.
    pub quiet: bool,
}

/// What happened to findings that are not shown, and how much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Files of the project.
    pub files: usize,
    /// Files of dependencies.
    pub dependency_files: usize,
    /// Found, but told in a number unless `--all`: a start-up, a command line, a test.
    pub quiet: usize,
    /// Excused by a comment or by `per-file-ignores`.
    pub suppressed: usize,
    /// In the baseline.
    pub baselined: usize,
    /// Not of the change that `--diff` names.
    pub unchanged: usize,
}

impl Report<'_> {
    /// Prints it.
    pub fn write(&self, format: Format, out: &mut dyn Write) -> io::Result<()> {
        match format {
            Format::Full => full::write(self, out),
            Format::Concise => concise::write(self, out),
            Format::Json => json::write(self, out),
            Format::Sarif => sarif::write(self, out),
            Format::Github => github::write(self, out),
            Format::Gitlab => gitlab::write(self, out),
            Format::Junit => junit::write(self, out),
        }
    }

    /// A path as it is shown.
    fn path(&self, path: &str) -> String {
        relative(path, &self.directory)
    }

    /// `path:line:column`.
    fn at(&self, path: &str, span: Span) -> String {
        format!("{}:{}:{}", self.path(path), span.line, span.column)
    }

    /// Where a span ends.
    fn end(&self, path: &Arc<str>, span: Span) -> Place {
        self.sources.end(path, span)
    }

    fn rule(&self, code: &str) -> Option<&'static RuleMeta> {
        self.rules.iter().copied().find(|rule| rule.code == code)
    }

    /// A rule's name, or its code where nobody knows it.
    fn rule_name<'c>(&self, code: &'c str) -> &'c str {
        self.rule(code).map_or(code, |rule| rule.name)
    }

    /// How many findings have a fix: safe ones, and others.
    fn fixable(&self) -> (usize, usize) {
        let with = |safety| {
            self.findings.iter().filter(|found| found.fix.as_ref().is_some_and(|fix| fix.safety == safety)).count()
        };
        (with(Safety::Safe), with(Safety::Unsafe))
    }

    /// The chain in one line, from the coroutine to the call: `get_user -> load -> refresh`.
    fn chain(&self, finding: &Finding) -> Option<String> {
        if finding.frames.len() < 2 {
            return None;
        }
        let names: Vec<_> = finding.frames.iter().map(|frame| short(&frame.function)).collect();
        Some(names.join(" -> "))
    }
}

/// A qualified name without its module, as far as that can be told: `pkg.mod.Class.method` is `Class.method`.
fn short(function: &str) -> &str {
    let function = function.strip_suffix(".<locals>").unwrap_or(function);
    let mut dots = function.rmatch_indices('.').map(|(at, _)| at);
    let Some(last) = dots.next() else { return function };
    let before = dots.next().map_or(0, |at| at + 1);
    if function[before..last].starts_with(|c: char| c.is_uppercase()) {
        &function[before..]
    } else {
        &function[last + 1..]
    }
}

/// A tag as it is written in reports: `in-loop`.
fn tag_name(tag: &crate::finding::Tag) -> &'static str {
    use crate::finding::Tag;
    match tag {
        Tag::Handler => "handler",
        Tag::Task => "task",
        Tag::Callback => "callback",
        Tag::InLoop => "in-loop",
        Tag::UnderLock => "under-lock",
        Tag::StartUp => "start-up",
        Tag::Cli => "cli",
        Tag::Test => "test",
        Tag::Library => "library",
    }
}

/// A level as it is written in reports.
fn level_name(level: crate::finding::Level) -> &'static str {
    use crate::finding::Level;
    match level {
        Level::Certain => "certain",
        Level::Likely => "likely",
        Level::Pedantic => "pedantic",
    }
}

/// A number with its noun: `1 file`, `3 files`.
pub(crate) struct Many(pub usize, pub &'static str);

impl fmt::Display for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}
