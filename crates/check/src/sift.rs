//! From everything that was found to what is shown, and the number of what is not.

use std::path::Path;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::baseline::Baseline;
use crate::diff::Change;
use crate::finding::Finding;
use crate::options::Analysis;
use crate::paths::relative;
use crate::per_file::PerFileIgnores;
use crate::report::Counts;
use crate::rule::RuleMeta;
use crate::selection::Selection;
use crate::sources::Sources;
use crate::suppress::Suppressions;

/// What decides. In this order: rules, excuses, the change, the baseline, quietness.
pub struct Sieve<'a> {
    /// Every rule there is.
    pub rules: &'a [&'static RuleMeta],
    /// Which of them are on.
    pub selection: &'a Selection,
    /// Rules that are off in some files.
    pub per_file: &'a PerFileIgnores,
    /// What paths in the configuration are relative to.
    pub project: &'a Path,
    /// Where comments are read.
    pub sources: &'a Sources,
    /// Only what this change introduced.
    pub change: Option<&'a Change>,
    /// What is known already.
    pub baseline: Option<&'a Baseline>,
    /// Quiet findings are shown too.
    pub all: bool,
}

/// What is left.
#[derive(Debug, Default)]
pub struct Sifted {
    /// What is shown.
    pub findings: Vec<Finding>,
    /// The fingerprint of each.
    pub fingerprints: Vec<String>,
    /// Found and not shown because it is quiet.
    pub quiet: Vec<(Finding, String)>,
    /// The numbers.
    pub counts: Counts,
}

impl Sieve<'_> {
    /// Sifts what an analysis has found; `fingerprints` has one for each finding.
    pub fn sift(&self, analysis: &Analysis, fingerprints: &[String]) -> Sifted {
        let project_files: FxHashSet<&Arc<str>> = analysis.files.iter().collect();
        let mut suppressions = Suppressions::new(self.sources);
        let mut sifted = Sifted {
            counts: Counts {
                files: analysis.files.len(),
                dependency_files: analysis.dependency_files,
                ..Counts::default()
            },
            ..Sifted::default()
        };
        for (finding, fingerprint) in analysis.findings.iter().zip(fingerprints) {
            let rule = self.rules.iter().find(|rule| rule.code == finding.rule);
            if !rule.is_some_and(|rule| self.selection.shows(rule, finding)) {
                continue;
            }
            let counts = &mut sifted.counts;
            if self.per_file.ignores(&relative(&finding.path, self.project), &finding.rule)
                || suppressions.covers(finding, &analysis.program, |path| project_files.contains(path))
            {
                counts.suppressed += 1;
            } else if self.change.is_some_and(|change| !change.introduced(finding, fingerprint)) {
                counts.unchanged += 1;
            } else if self.baseline.is_some_and(|baseline| baseline.contains(fingerprint)) {
                counts.baselined += 1;
            } else if finding.quiet && !self.all {
                counts.quiet += 1;
                sifted.quiet.push((finding.clone(), fingerprint.clone()));
            } else {
                sifted.findings.push(finding.clone());
                sifted.fingerprints.push(fingerprint.clone());
            }
        }
        sifted
    }
}
