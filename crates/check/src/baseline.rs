//! The findings that a project has decided to live with for now: a file of fingerprints.

use std::fs;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::paths::relative;

/// A baseline file. Fingerprints are what counts; the rest is for people who read its changes.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    findings: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    rule: String,
    path: String,
    function: String,
    fingerprint: String,
}

/// Why a baseline is of no use.
#[derive(Debug)]
pub enum BaselineError {
    /// It is not there.
    Missing(PathBuf),
    /// It cannot be read or written.
    Io(PathBuf, std::io::Error),
    /// It is something else.
    Malformed(PathBuf, String),
}

impl std::fmt::Display for BaselineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(path) => {
                write!(f, "the baseline {} does not exist; `--write-baseline` makes it", path.display())
            }
            Self::Io(path, error) => write!(f, "the baseline {}: {error}", path.display()),
            Self::Malformed(path, what) => {
                write!(f, "the baseline {} is not one: {what}; `--write-baseline` makes it anew", path.display())
            }
        }
    }
}

impl std::error::Error for BaselineError {}

/// What is known already.
#[derive(Debug, Default)]
pub struct Baseline(FxHashSet<String>);

impl Baseline {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, BaselineError> {
        let text = fs::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => BaselineError::Missing(path.to_owned()),
            _ => BaselineError::Io(path.to_owned(), error),
        })?;
        let malformed = |what: String| BaselineError::Malformed(path.to_owned(), what);
        let document: Document = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        if document.version != 1 {
            return Err(malformed(format!("version {} is not known here", document.version)));
        }
        Ok(Self(document.findings.into_iter().map(|entry| entry.fingerprint).collect()))
    }

    /// Whether a finding is in it.
    pub fn contains(&self, fingerprint: &str) -> bool {
        self.0.contains(fingerprint)
    }

    /// How many entries are not among these fingerprints: what has been mended since.
    pub fn stale<'f>(&self, fingerprints: impl Iterator<Item = &'f String>) -> usize {
        let found: FxHashSet<&String> = fingerprints.collect();
        self.0.iter().filter(|entry| !found.contains(entry)).count()
    }
}

/// Writes a baseline of these findings. Its paths are relative to the project, so that it can be committed.
pub fn write<'f>(
    path: &Path,
    project: &Path,
    findings: impl Iterator<Item = (&'f Finding, &'f String)>,
) -> Result<usize, BaselineError> {
    let findings: Vec<Entry> = findings
        .map(|(finding, fingerprint)| Entry {
            rule: finding.rule.clone(),
            path: relative(&finding.path, project),
            function: finding.function.clone(),
            fingerprint: fingerprint.clone(),
        })
        .collect();
    let written = findings.len();
    let text = serde_json::to_string_pretty(&Document { version: 1, findings })
        .map_err(|error| BaselineError::Malformed(path.to_owned(), error.to_string()))?;
    fs::write(path, text + "\n").map_err(|error| BaselineError::Io(path.to_owned(), error))?;
    Ok(written)
}
