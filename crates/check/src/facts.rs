//! What one file says, free of the type checker: owned, serialisable, the unit of the cache.
//!
//! The frontend writes facts, the program reads them. Nothing here decides what is a problem: which names block is the
//! effect table's business, who runs on the loop is the graph's. So a changed table or configuration needs no new facts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where a function is defined: its file and the offset of its name there. A lambda has the offset of its start, the
/// body of a module `MODULE`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FnKey {
    /// Absolute path of the file.
    pub path: Arc<str>,
    /// Byte offset of the name.
    pub offset: u32,
}

impl FnKey {
    /// The offset that stands for the body of the module.
    pub const MODULE: u32 = u32::MAX;
}

/// A piece of a file, in bytes, and where it begins for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// The byte after the last one.
    pub end: u32,
    /// Line of the first byte, from 1.
    pub line: u32,
    /// Column of the first byte in characters, from 1.
    pub column: u32,
}

/// What is known of one file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FileFacts {
    /// Absolute path.
    pub path: Arc<str>,
    /// Dotted name of the module, where it has one.
    pub module: Option<String>,
    /// Belongs to what is checked; not to an installed dependency.
    pub project: bool,
    /// The functions that were asked for; see `complete`.
    pub functions: Vec<Function>,
    /// All classes of the file (project files only).
    pub classes: Vec<Class>,
    /// What the rules that need one file only have found.
    pub findings: Vec<crate::finding::Finding>,
    /// Functions that were given up, and why.
    pub skipped: Vec<Skipped>,
    /// The syntax errors of the file, if any: it was checked as far as it could be read.
    pub syntax_errors: Vec<String>,
}

/// A function that was not analysed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Skipped {
    /// Its qualified name, or the file's for a whole file.
    pub name: String,
    /// Its line.
    pub line: u32,
    /// In words: over its budget of CPU seconds, or the panic's message.
    pub reason: String,
}

/// A class, as far as dispatch needs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Class {
    /// Where its name is.
    pub key: FnKey,
    /// Qualified name: `pkg.mod.Outer.Inner`.
    pub qual: String,
    /// Qualified names of the bases, as far as they resolve; as written where they do not.
    pub bases: Vec<String>,
    /// A `typing.Protocol`.
    pub protocol: bool,
    /// Its own methods by name; `abstract_` ones have no body worth following.
    pub methods: Vec<Method>,
}

/// A method of a class.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub key: FnKey,
    /// Declared abstract, or its body is empty (`...`, `pass`, a docstring, `raise NotImplementedError`).
    pub is_abstract: bool,
    /// `async def`.
    pub is_async: bool,
}

/// What a definition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FnKind {
    /// A function of a module or of another function.
    Function,
    /// A function in a class body.
    Method,
    /// A lambda.
    Lambda,
    /// The body of a module.
    Module,
}

/// One function and everything it does that may matter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Function {
    /// Identity.
    pub key: FnKey,
    /// Qualified name: `pkg.mod.Class.method`, `pkg.mod.outer.<locals>.inner`.
    pub qual: String,
    /// Own name.
    pub name: String,
    /// The name in the source.
    pub span: Span,
    /// What it is.
    pub kind: FnKind,
    /// `async def`.
    pub is_async: bool,
    /// Has `yield`: a plain call runs nothing of the body.
    pub is_generator: bool,
    /// Qualified name of the class of a method.
    pub class: Option<String>,
    /// The function around a nested one.
    pub parent: Option<FnKey>,
    /// Names of its parameters, positional first, `self` included.
    pub params: Vec<String>,
    /// Its decorators, outermost first.
    pub decorators: Vec<Decorator>,
    /// What it does, in the order of the source.
    pub sites: Vec<Site>,
    /// Functions that it returns: what a decorator or a factory makes. Targets with `param` are its own parameters.
    pub returns: Vec<Target>,
    /// Number of `await`, `async for` and `async with` of its own body.
    pub awaits: u32,
}

/// A decorator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Decorator {
    /// As written, without arguments: `app.get`, `lru_cache`.
    pub text: String,
    /// Written with a call: `@retry(3)`.
    pub called: bool,
    /// What the expression (the callee of `@retry(3)`) denotes.
    pub targets: Vec<Target>,
    /// Where.
    pub span: Span,
}

/// How something runs code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SiteKind {
    /// `f()`; also a class: then the targets are `__init__`, `__new__`, `__post_init__`.
    Call,
    /// `with x:`; `__enter__`.
    Enter,
    /// The end of a `with`; `__exit__`.
    Exit,
    /// `for _ in x`, comprehensions, unpacking; `__iter__` and `__next__`, and the body of a generator function.
    Iterate,
    /// `x.attribute` that runs a property, a descriptor or `__getattr__`.
    Property,
    /// `x + y`, `x[y]`, `x == y`, `len(x)`, `str(x)`...: a dunder method.
    Operator,
    /// `del x`, or the end of the only reference; `__del__`.
    Delete,
    /// An import that runs a module of the project.
    Import,
}

/// A place where a function runs other code.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Site {
    /// Where.
    pub span: Span,
    /// What is called, as written and shortened: `self.client.refresh`.
    pub text: String,
    /// How.
    pub kind: SiteKind,
    /// Directly under `await`.
    pub awaited: bool,
    /// Inside a `for` or `while` of this function, or a comprehension.
    pub in_loop: bool,
    /// Locks held around it: text of the context expressions of `with`/`async with`, outermost first.
    pub held: Vec<Held>,
    /// It only runs when no event loop runs in this thread (`try: get_running_loop() except RuntimeError:`), or under a
    /// condition that is one of the table's guards.
    pub guards: Vec<Guard>,
    /// What it may run. Empty: unknown.
    pub targets: Vec<Target>,
    /// Arguments, as far as they matter.
    pub arguments: Vec<Argument>,
}

/// Something entered with `with` or `async with`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// As written.
    pub text: String,
    /// Qualified names of the classes of its value.
    pub classes: Vec<String>,
    /// What identifies it across functions, where that can be told: `pkg.mod.LOCK`, `pkg.mod.Class.attribute`.
    pub identity: Option<String>,
    /// `async with`.
    pub is_async: bool,
}

/// A condition on which a site runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guard {
    /// In the `except RuntimeError:` of a `try` that asks for the running loop.
    NoRunningLoop,
    /// In a branch that is taken when the call or name with this qualified name is true (or false).
    When {
        /// Qualified name of what is asked.
        qual: String,
        /// Taken when it is true.
        truth: bool,
    },
}

/// How sure a resolution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Certainty {
    /// By name only; nothing is reported of it except with `--pedantic`.
    Guess,
    /// One of several: an arm of a union, an override in a subclass, one value of a dict of functions.
    Likely,
    /// The type of the receiver is known and the target resolved.
    Certain,
}

/// What a site may run, or what an expression denotes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Qualified name as defined: `requests.sessions.Session.get`, `_socket.socket.recv`; as imported where the module
    /// is not installed: `requests.get`.
    pub qual: String,
    /// Where it is defined, if there is source.
    pub key: Option<FnKey>,
    /// It is a parameter of a function around the site: that function and the parameter's position.
    pub param: Option<(FnKey, u32)>,
    /// The definition is an `async def`.
    pub is_async: bool,
    /// Has a body worth following: not a stub, not abstract.
    pub body: bool,
    /// Arguments that are already bound, by `functools.partial` or a bound method (not `self`).
    pub bound: u32,
    /// How sure.
    pub certainty: Certainty,
}

/// An argument of a call: a function, or a literal that changes what the call does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Argument {
    /// Position, from 0, for a positional one.
    pub position: Option<u32>,
    /// Its keyword.
    pub keyword: Option<String>,
    /// The literal, if it is one.
    pub literal: Option<Literal>,
    /// The functions it denotes (also lambdas and `partial(...)`).
    pub targets: Vec<Target>,
    /// It is itself a call; its callee as written: `to_thread(f())`.
    pub called: Option<String>,
}

/// A literal argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Literal {
    /// `None`
    None,
    /// `True`, `False`
    Bool(bool),
    /// A number.
    Number(f64),
    /// A string, shortened to 200 characters.
    String(String),
}
