//! What every rule makes and every report prints.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::facts::Span;

/// How sure a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every step is resolved by types.
    Certain,
    /// One step is one of several possibilities.
    Likely,
    /// Shown with `--pedantic` only.
    Pedantic,
}

/// In what circumstances a root runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tag {
    /// Handles a request, a message, a tool call.
    Handler,
    /// A background task.
    Task,
    /// A callback of the loop.
    Callback,
    /// In a loop, for each item.
    InLoop,
    /// While a lock is held.
    UnderLock,
    /// Once, when the service starts or stops.
    StartUp,
    /// A command line's one-shot coroutine.
    Cli,
    /// A test.
    Test,
    /// Nothing in the project calls it: a library's public function.
    Library,
}

/// One problem: a root cause, with the callers that reach it folded under it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// `LW101`
    pub rule: String,
    /// How sure.
    pub level: Level,
    /// Absolute path of the file.
    pub path: Arc<str>,
    /// Where in it: the line that is to be changed.
    pub span: Span,
    /// Qualified name of the function it is in.
    pub function: String,
    /// One line, without a full stop: what is wrong.
    pub message: String,
    /// The chain, from the coroutine on the loop down to what happens; empty for a rule about one place.
    pub frames: Vec<Frame>,
    /// Why it is certain, or what makes it only likely.
    pub why: Option<String>,
    /// What to do.
    pub help: Option<String>,
    /// Circumstances.
    pub tags: Vec<Tag>,
    /// Other functions on the loop that reach the same root: qualified name and place. At most 20.
    pub callers: Vec<Caller>,
    /// How many there are.
    pub callers_total: u32,
    /// A change that mends it.
    pub fix: Option<Fix>,
    /// Told in the one-line count unless `--all`: a start-up, a command line, a test.
    pub quiet: bool,
}

/// One step of a chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Frame {
    /// Absolute path.
    pub path: Arc<str>,
    /// The call.
    pub span: Span,
    /// Qualified name of the function the call is in.
    pub function: String,
    /// What is called there, with how where it is not a plain call: "property `size`", "end of the `with`".
    pub note: String,
}

/// A function that reaches a root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Caller {
    /// Qualified name.
    pub function: String,
    /// Absolute path.
    pub path: Arc<str>,
    /// Line of the function.
    pub line: u32,
}

/// Whether a fix can change what a correct program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Safety {
    /// `--fix`
    Safe,
    /// `--unsafe-fixes`
    Unsafe,
}

/// A change of one file. Edits do not overlap.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fix {
    /// In words: "wrap in `asyncio.to_thread`".
    pub title: String,
    /// Whether `--fix` applies it.
    pub safety: Safety,
    /// What is replaced, in the file of the finding.
    pub edits: Vec<Edit>,
    /// Modules that have to be imported: `asyncio`. The import is added once per file, where imports are.
    pub imports: Vec<String>,
}

/// The bytes `start..end` become `text`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// First byte.
    pub start: u32,
    /// The byte after the last one.
    pub end: u32,
    /// What comes in its place.
    pub text: String,
}
