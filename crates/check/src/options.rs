//! What the pipeline is told, and what it answers: the language between the command line and `analyse`.
//!
//! Nothing here decides what is shown. Selection, suppressions, baselines and `--all` come after the analysis, so that
//! its cache needs no word of them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::facts::Skipped;
use crate::finding::Finding;
use crate::program::Program;

/// What is analysed, and with what. All paths are absolute.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Files and folders that are checked.
    pub paths: Vec<PathBuf>,
    /// Folder of the project: what `exclude` is relative to, and where the cache belongs.
    pub project: PathBuf,
    /// Folders that modules are imported from; empty: found by looking (`src/`, the folder of the outermost package).
    pub roots: Vec<PathBuf>,
    /// Globs of files and folders that are left out, relative to `project`; beside what git ignores.
    pub exclude: Vec<String>,
    /// An interpreter or a virtual environment; none: `VIRTUAL_ENV`, then `.venv` beside the project.
    pub python: Option<PathBuf>,
    /// More folders of installed packages, looked at before those of `python`.
    pub site_packages: Vec<PathBuf>,
    /// The version the code runs on, such as (3, 12); none: the environment's.
    pub python_version: Option<(u8, u8)>,
    /// The user's own entries of the effect table.
    pub table: toml::Table,
    /// Folder of the cache; none: nothing is kept.
    pub cache: Option<PathBuf>,
    /// How many threads; none: one per core.
    pub threads: Option<usize>,
}

/// What an analysis has found out.
pub struct Analysis {
    /// Everything that any rule has found, pedantic and quiet ones included, by path and place.
    pub findings: Vec<Finding>,
    /// The files of the project that were checked.
    pub files: Vec<Arc<str>>,
    /// How many files of dependencies were read for it.
    pub dependency_files: usize,
    /// Functions that were given up, with their file.
    pub skipped: Vec<(Arc<str>, Skipped)>,
    /// What the user has to know about the input: no virtual environment, a file that is no UTF-8, syntax errors.
    pub notes: Vec<Note>,
    /// The facts, linked.
    pub program: Program,
}

/// Something about the input that makes the answer less than complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Absolute path of the file it is about.
    pub path: Option<Arc<str>>,
    /// Its line there.
    pub line: Option<u32>,
    /// One line, without a full stop.
    pub text: String,
}
