//! `per-file-ignores`: rules that are off in some files.

use globset::{GlobBuilder, GlobMatcher};

use crate::selection::Selector;

/// Globs of files with the rules that are off in them.
#[derive(Clone, Debug, Default)]
pub struct PerFileIgnores(Vec<(Vec<GlobMatcher>, Vec<Selector>)>);

impl PerFileIgnores {
    /// Adds a glob: of a path relative to the project, of a file's name, or of a folder with all that is in it.
    pub fn add(&mut self, glob: &str, rules: Vec<Selector>) -> Result<(), globset::Error> {
        let build = |text: &str| Ok(GlobBuilder::new(text).build()?.compile_matcher());
        let folder = glob.trim_end_matches('/');
        let matchers = vec![build(glob)?, build(&format!("{folder}/**"))?, build(&format!("**/{folder}"))?];
        self.0.push((matchers, rules));
        Ok(())
    }

    /// Whether a rule is off in a file, whose path is relative to the project.
    pub fn ignores(&self, path: &str, code: &str) -> bool {
        self.0.iter().any(|(globs, rules)| {
            rules.iter().any(|rule| rule.matches(code)) && globs.iter().any(|glob| glob.is_match(path))
        })
    }
}
