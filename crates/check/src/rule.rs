//! What a rule is, and what it may ask.
//!
//! A rule is one file in `rules/` with its page beside it. Rules about one file see its syntax tree and types
//! (`FileContext`); rules about chains see the whole program's facts (`Program`). A rule may be both.

use crate::context::FileContext;
use crate::finding::Finding;
use crate::program::Program;

/// What is said of a rule without running it.
#[derive(Debug)]
pub struct RuleMeta {
    /// `LW101`; never given to another rule.
    pub code: &'static str,
    /// `blocking-call`
    pub name: &'static str,
    /// One line: what it finds.
    pub summary: &'static str,
    /// Off unless `--pedantic` or selected by its code.
    pub pedantic: bool,
    /// It has a fix: none, or how safe at its best.
    pub fix: Option<crate::finding::Safety>,
    /// Its page, `rules/lw101.md`.
    pub page: &'static str,
}

/// A rule.
pub trait Rule: Sync + Send {
    /// What it is.
    fn meta(&self) -> &'static RuleMeta;

    /// Looks at one file of the project.
    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        let _ = (file, found);
    }

    /// Looks at the whole program.
    fn check_program(&self, program: &Program, found: &mut Vec<Finding>) {
        let _ = (program, found);
    }
}
