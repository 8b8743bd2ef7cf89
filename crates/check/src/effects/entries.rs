//! What the table says of a name: plain data, one struct for each section of the files.

use serde::{Deserialize, Serialize};

use crate::facts::{Argument, Literal};
use crate::finding::{Level, Tag};

/// In what way a call holds up its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// For a time that was asked for.
    Sleep,
    /// Until a peer answers.
    Network,
    /// Until a child process starts, answers or ends.
    Subprocess,
    /// Until a database answers.
    Database,
    /// Until another thread or process does something.
    Wait,
    /// Until a disk answers.
    File,
    /// Until somebody types.
    Stdin,
    /// It runs a loop of its own.
    Loop,
    /// It computes.
    Cpu,
}

impl Kind {
    /// All of them, as the files write them.
    pub const NAMES: [(&'static str, Self); 9] = [
        ("sleep", Self::Sleep),
        ("network", Self::Network),
        ("subprocess", Self::Subprocess),
        ("database", Self::Database),
        ("wait", Self::Wait),
        ("file", Self::File),
        ("stdin", Self::Stdin),
        ("loop", Self::Loop),
        ("cpu", Self::Cpu),
    ];

    /// What it does to the loop, after "it": "sleeps", "waits for the network".
    pub fn does(self) -> &'static str {
        match self {
            Self::Sleep => "sleeps",
            Self::Network => "waits for the network",
            Self::Subprocess => "waits for a process",
            Self::Database => "waits for a database",
            Self::Wait => "waits for another thread",
            Self::File => "waits for the disk",
            Self::Stdin => "waits for somebody to type",
            Self::Loop => "runs a loop of its own",
            Self::Cpu => "computes",
        }
    }
}

/// `[[blocks]]`: calling it stops the thread it is called in.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// In what way.
    pub kind: Kind,
    /// It holds the GIL meanwhile: in another thread it stops the loop all the same.
    pub gil: bool,
    /// If any is given, it blocks only where one of these is met.
    pub when: Vec<Condition>,
    /// It does not block where one of these is met.
    pub unless: Vec<Condition>,
    /// How sure it is that the call blocks, once it is sure what is called.
    pub level: Level,
    /// It takes well under a millisecond on a local disk, or only the first time: shown with `--all`.
    pub short: bool,
    /// What to do in its place, as a sentence without its end: "use `asyncio.sleep(...)`".
    pub instead: Option<String>,
    /// Where this is known from.
    pub source: String,
}

impl Blocks {
    /// Whether a call with these arguments blocks.
    pub fn applies(&self, arguments: &[Argument]) -> bool {
        (self.when.is_empty() || self.when.iter().any(|condition| condition.met(arguments)))
            && !self.unless.iter().any(|condition| condition.met(arguments))
    }
}

/// Something that an argument may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Its position, without `self`.
    pub argument: Option<u32>,
    /// Its keyword.
    pub name: Option<String>,
    /// What it has to be.
    pub test: Test,
}

/// What a condition asks of its argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// `is = ...`: this literal.
    Is(Literal),
    /// `at_most = ...`: a number that is not greater.
    AtMost(f64),
    /// `given = ...`: whether it is there at all.
    Given(bool),
}

impl Condition {
    /// Whether the arguments of a call meet it. A value that is only known at run time meets `given` alone.
    pub fn met(&self, arguments: &[Argument]) -> bool {
        let argument = arguments.iter().find(|argument| {
            (self.argument.is_some() && argument.position == self.argument)
                || (self.name.is_some() && argument.keyword == self.name)
        });
        match (&self.test, argument) {
            (Test::Given(wanted), argument) => *wanted == argument.is_some(),
            (_, None) => false,
            (Test::Is(literal), Some(argument)) => argument.literal.as_ref() == Some(literal),
            (Test::AtMost(most), Some(argument)) => {
                matches!(&argument.literal, Some(Literal::Number(number)) if number <= most)
            }
        }
    }
}

/// Where an offloaded function runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Elsewhere {
    /// In a thread: what holds the GIL still stops the loop.
    Thread,
    /// In another process.
    Process,
    /// In an interpreter of its own, with a GIL of its own.
    Interpreter,
}

impl Elsewhere {
    /// All of them, as the files write them.
    pub const NAMES: [(&'static str, Self); 3] =
        [("thread", Self::Thread), ("process", Self::Process), ("interpreter", Self::Interpreter)];
}

/// `[[harmless]]`: nothing of it is looked into, unless the project itself defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Harmless {
    /// Where this is known from.
    pub source: String,
}

/// `[[offloads]]`: the function it is given runs elsewhere, and so do its effects.
#[derive(Clone, Debug, PartialEq)]
pub struct Offloads {
    /// The function among the arguments.
    pub function: Place,
    /// Where it runs.
    pub to: Elsewhere,
    /// Where this is known from.
    pub source: String,
}

/// `[[calls]]`: it calls the function it is given, here and before it returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Calls {
    /// The function among the arguments.
    pub function: Place,
    /// Where this is known from.
    pub source: String,
}

/// `[[schedules]]`: what it is given runs on the loop, later.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedules {
    /// The function or coroutine among the arguments.
    pub function: Place,
    /// What runs then: a callback of the loop, or a task.
    pub tag: Tag,
    /// A plain function runs in a thread; an `async def` on the loop.
    pub threaded: bool,
    /// Where this is known from.
    pub source: String,
}

/// One argument of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its position, without `self`.
    pub argument: Option<u32>,
    /// Its keyword.
    pub name: Option<String>,
}

impl Place {
    /// The argument of a call that is meant.
    pub fn of<'a>(&self, arguments: &'a [Argument]) -> Option<&'a Argument> {
        arguments
            .iter()
            .find(|argument| self.name.is_some() && argument.keyword == self.name)
            .or_else(|| arguments.iter().find(|argument| self.argument.is_some() && argument.position == self.argument))
    }
}

/// `[[decorators]]`: what becomes of a function under it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decorator {
    /// What.
    pub kind: DecoratorKind,
    /// Where this is known from.
    pub source: String,
}

/// See [`Decorator`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoratorKind {
    /// Calling the result runs the function, here.
    Transparent,
    /// Calling the result runs it elsewhere.
    Offloads(Elsewhere),
    /// Calling the result runs it the first time only.
    Cached,
    /// A framework calls it, in these circumstances. Where `threaded`, one that is no `async def` runs in a thread.
    Handler {
        /// The circumstances.
        tag: Tag,
        /// A plain function does not run on the loop.
        threaded: bool,
    },
}

/// `[[guards]]`: what its truth says about this thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// True: true means that a loop runs here. False: true means that none does.
    pub running: bool,
    /// It raises where no loop runs: the `except` branch runs without one.
    pub raises: bool,
    /// Where this is known from.
    pub source: String,
}
