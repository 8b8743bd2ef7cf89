//! `--diff REF`: only what a change introduced.
//!
//! A finding is of the change when its own line or a call on its chain is on a changed or new line, or when it is not
//! found in the project as it was at REF.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::facts::Span;
use crate::finding::Finding;
use crate::paths::absolute;

/// What has changed since REF.
#[derive(Debug, Default)]
pub struct Change {
    /// First and last changed lines, by absolute path. Whole files have all lines.
    lines: FxHashMap<String, Vec<(u32, u32)>>,
    /// Fingerprints of what was found at REF.
    before: FxHashSet<String>,
}

/// Why a change cannot be told.
#[derive(Debug)]
pub enum DiffError {
    /// There is no git.
    NoGit(std::io::Error),
    /// Git has refused.
    Git(String),
    /// The files as they were cannot be put anywhere.
    Io(PathBuf, std::io::Error),
}

impl std::fmt::Display for DiffError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoGit(error) => write!(f, "--diff needs git: {error}"),
            Self::Git(message) => write!(f, "--diff: {message}"),
            Self::Io(path, error) => write!(f, "--diff: {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for DiffError {}

impl Change {
    /// The lines that differ from REF, in the repository around a folder; files that git does not know are new.
    pub fn since(reference: &str, project: &Path) -> Result<Self, DiffError> {
        let top = top(project)?;
        // A name that begins with a dash would be an option.
        let commit =
            git(&top, &["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{reference}^{{commit}}")])
                .map_err(|_| DiffError::Git(format!("`{reference}` is no commit of {}", top.display())))?;
        let mut change = Self::default();
        let text = git(
            &top,
            &[
                "-c",
                "core.quotePath=false",
                "diff",
                "-U0",
                "--no-color",
                "--no-ext-diff",
                "--no-prefix",
                commit.trim(),
                "--",
            ],
        )?;
        change.read(&text, &top);
        for name in git(&top, &["ls-files", "--others", "--exclude-standard", "-z"])?.split('\0') {
            change.lines.insert(top.join(name).to_string_lossy().into_owned(), vec![(1, u32::MAX)]);
        }
        Ok(change)
    }

    /// Takes the hunks of `git diff -U0`.
    fn read(&mut self, text: &str, top: &Path) {
        let mut file = None;
        // Lines of the hunk that are still to come: what is in them is text, whatever it looks like.
        let mut inside = 0;
        for line in text.lines() {
            if inside > 0 && line.starts_with(['+', '-']) {
                inside -= 1;
            } else if let Some(name) = line.strip_prefix("+++ ") {
                // A name with blanks is followed by a tab.
                let name = name.trim_end_matches('\t').trim_matches('"');
                file = (name != "/dev/null").then(|| top.join(name).to_string_lossy().into_owned());
            } else if let Some((removed, added)) = line.strip_prefix("@@ ").and_then(hunk) {
                inside = removed.count + added.count;
                if let (Some(file), 1..) = (&file, added.count) {
                    let lines = (added.first, added.first + added.count - 1);
                    self.lines.entry(file.clone()).or_default().push(lines);
                }
            }
        }
    }

    /// Says what was found at REF.
    pub fn found_before(&mut self, fingerprints: impl IntoIterator<Item = String>) {
        self.before.extend(fingerprints);
    }

    /// Whether a finding is of this change.
    pub fn introduced(&self, finding: &Finding, fingerprint: &str) -> bool {
        self.touches(&finding.path, finding.span)
            || finding.frames.iter().any(|frame| self.touches(&frame.path, frame.span))
            || !self.before.contains(fingerprint)
    }

    fn touches(&self, path: &str, span: Span) -> bool {
        let lines = self.lines.get(path);
        lines.is_some_and(|lines| lines.iter().any(|(first, last)| (*first..=*last).contains(&span.line)))
    }
}

/// Some lines of a file.
#[derive(Debug, PartialEq, Eq)]
struct Lines {
    first: u32,
    count: u32,
}

/// `-12,3 +14,2 @@ def f():` takes 3 lines away from 12 on and brings lines 14 and 15.
fn hunk(header: &str) -> Option<(Lines, Lines)> {
    let mut parts = header.split(' ');
    let mut lines = |sign| {
        let part = parts.next()?.strip_prefix(sign)?;
        let (first, count) = part.split_once(',').unwrap_or((part, "1"));
        Some(Lines { first: first.parse().ok()?, count: count.parse().ok()? })
    };
    Some((lines('-')?, lines('+')?))
}

/// The repository around a folder, through the links by which the folder is named.
pub fn top(project: &Path) -> Result<PathBuf, DiffError> {
    let up = git(project, &["rev-parse", "--show-cdup"])?;
    Ok(absolute(Path::new(up.trim_end_matches(['\r', '\n'])), project))
}

/// Puts the files of REF into an empty folder. The repository's own index stays as it is.
pub fn check_out(reference: &str, top: &Path, folder: &Path) -> Result<(), DiffError> {
    let index = folder.with_extension("index");
    let run = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(top).args(arguments).env("GIT_INDEX_FILE", &index);
        output(command)
    };
    let prefix = format!("--prefix={}/", folder.display());
    let done = run(&["read-tree", &format!("{reference}^{{tree}}")])
        .and_then(|_| run(&["checkout-index", "--all", "--force", "--quiet", &prefix]));
    // It was for these two commands alone; one that is left over harms nobody.
    let _ = std::fs::remove_file(&index);
    done.map(|_| ())
}

fn git(folder: &Path, arguments: &[&str]) -> Result<String, DiffError> {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(arguments);
    output(command)
}

fn output(mut command: Command) -> Result<String, DiffError> {
    let output = command.output().map_err(DiffError::NoGit)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(DiffError::Git(message.trim().lines().next().unwrap_or("git has failed").to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Change, Lines, hunk};
    use crate::facts::Span;

    #[test]
    fn hunks() {
        let lines = |first, count| Lines { first, count };
        assert_eq!(hunk("-12,3 +14,2 @@ def f():"), Some((lines(12, 3), lines(14, 2))));
        assert_eq!(hunk("-12 +14 @@"), Some((lines(12, 1), lines(14, 1))));
        assert_eq!(hunk("nothing"), None);
    }

    #[test]
    fn files() {
        let mut change = Change::default();
        let text =
            "--- a.py\n+++ a.py\n@@ -1 +2,2 @@\n-x\n+++ fake.py\n+y\n--- b.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-z\n";
        change.read(text, Path::new("/r"));
        let at = |line| Span { line, ..Span::default() };
        assert!(!change.touches("/r/a.py", at(1)));
        assert!(change.touches("/r/a.py", at(3)));
        assert!(!change.touches("/r/b.py", at(1)));
        assert_eq!(change.lines.len(), 1);
    }
}
