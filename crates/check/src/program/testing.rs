//! Facts made by hand, for the tests of this room.

use std::sync::Arc;

use super::Program;
use crate::effects::Table;
use crate::facts::{
    Argument, Certainty, Class, Decorator, FileFacts, FnKey, FnKind, Function, Guard, Held, Method, Site, SiteKind,
    Span, Target,
};

/// Functions of one project file and of one dependency.
#[derive(Default)]
pub(super) struct World {
    files: Vec<FileFacts>,
}

const PROJECT: &str = "/project/app.py";
const DEPENDENCY: &str = "/site/dep.py";

/// The key of a function by its qualified name: `dep.` stands for the dependency.
pub(super) fn key(qual: &str) -> FnKey {
    let path = if qual.starts_with("dep.") { DEPENDENCY } else { PROJECT };
    FnKey { path: Arc::from(path), offset: offset(qual) }
}

/// The same for the same name, and different for those of the tests.
fn offset(qual: &str) -> u32 {
    qual.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte))) >> 1
}

impl World {
    pub(super) fn new() -> Self {
        let file = |path: &str, project| FileFacts { path: Arc::from(path), project, ..FileFacts::default() };
        Self { files: vec![file(PROJECT, true), file(DEPENDENCY, false)] }
    }

    pub(super) fn with(mut self, function: Function) -> Self {
        let file = self.files.iter_mut().find(|file| file.path == function.key.path).unwrap();
        file.functions.push(function);
        self
    }

    /// A class with methods; those whose names begin with `~` are abstract.
    pub(super) fn class(mut self, qual: &str, bases: &[&str], protocol: bool, methods: &[&str]) -> Self {
        let methods = methods.iter().map(|name| {
            let plain = name.trim_start_matches('~');
            Method {
                name: plain.to_owned(),
                key: key(&format!("{qual}.{plain}")),
                is_abstract: plain != *name,
                is_async: false,
            }
        });
        let class = Class {
            key: key(qual),
            qual: qual.to_owned(),
            bases: bases.iter().map(|base| (*base).to_owned()).collect(),
            protocol,
            methods: methods.collect(),
        };
        self.files[0].classes.push(class);
        self
    }

    pub(super) fn program(self) -> Program {
        Program::new(self.files, Table::builtin())
    }
}

/// `def`, a method where its name has a class (an upper-case part) before it.
pub(super) fn def(qual: &str) -> Function {
    let (before, name) = qual.rsplit_once('.').unwrap();
    let is_method = before.rsplit('.').next().unwrap().starts_with(char::is_uppercase);
    Function {
        key: key(qual),
        qual: qual.to_owned(),
        name: name.to_owned(),
        span: Span { line: 1, ..Span::default() },
        kind: if is_method { FnKind::Method } else { FnKind::Function },
        is_async: false,
        is_generator: false,
        class: is_method.then(|| before.to_owned()),
        parent: None,
        params: if is_method { vec!["self".to_owned()] } else { vec![] },
        decorators: vec![],
        sites: vec![],
        returns: vec![],
        awaits: 0,
    }
}

/// `async def`
pub(super) fn coroutine(qual: &str) -> Function {
    Function { is_async: true, ..def(qual) }
}

/// What builds up a function.
pub(super) trait Build: Sized {
    fn calls(self, site: Site) -> Self;
    fn params(self, names: &[&str]) -> Self;
    fn under(self, text: &str, targets: Vec<Target>) -> Self;
    fn inside(self, parent: &str) -> Self;
    fn gives(self, target: Target) -> Self;
    fn generator(self) -> Self;
}

impl Build for Function {
    fn calls(mut self, mut site: Site) -> Self {
        let line = 10 + self.sites.len() as u32;
        site.span = Span { start: line * 100, end: line * 100 + 50, line, column: 1 };
        self.awaits += u32::from(site.awaited);
        self.sites.push(site);
        self
    }

    fn params(mut self, names: &[&str]) -> Self {
        self.params = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    fn under(mut self, text: &str, targets: Vec<Target>) -> Self {
        self.decorators.push(Decorator { text: text.to_owned(), called: false, targets, span: Span::default() });
        self
    }

    fn inside(mut self, parent: &str) -> Self {
        self.parent = Some(key(parent));
        self
    }

    fn gives(mut self, target: Target) -> Self {
        self.returns.push(target);
        self
    }

    fn generator(mut self) -> Self {
        self.is_generator = true;
        self
    }
}

/// A call of these targets.
pub(super) fn call(text: &str, targets: Vec<Target>) -> Site {
    Site {
        span: Span::default(),
        text: text.to_owned(),
        kind: SiteKind::Call,
        awaited: false,
        in_loop: false,
        held: vec![],
        guards: vec![],
        targets,
        arguments: vec![],
    }
}

/// What builds up a site.
pub(super) trait BuildSite: Sized {
    fn awaited(self) -> Self;
    fn kind(self, kind: SiteKind) -> Self;
    fn given(self, position: u32, targets: Vec<Target>) -> Self;
    fn guard(self, guard: Guard) -> Self;
    fn holding(self, lock: &str) -> Self;
}

impl BuildSite for Site {
    fn awaited(mut self) -> Self {
        self.awaited = true;
        self
    }

    fn kind(mut self, kind: SiteKind) -> Self {
        self.kind = kind;
        self
    }

    fn given(mut self, position: u32, targets: Vec<Target>) -> Self {
        let position = Some(position);
        self.arguments.push(Argument { position, keyword: None, literal: None, targets, called: None });
        self
    }

    fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    fn holding(mut self, lock: &str) -> Self {
        self.held.push(Held { text: lock.to_owned(), classes: vec![], identity: None, is_async: true });
        self
    }
}

/// A function with source; `async ` before its name makes it a coroutine function.
pub(super) fn to(qual: &str) -> Target {
    let plain = qual.trim_start_matches("async ");
    Target { key: Some(key(plain)), body: true, is_async: plain != qual, ..named(plain) }
}

/// A name without source.
pub(super) fn named(qual: &str) -> Target {
    Target {
        qual: qual.to_owned(),
        key: None,
        param: None,
        is_async: false,
        body: false,
        bound: 0,
        certainty: Certainty::Certain,
    }
}

/// A parameter of a function.
pub(super) fn param(owner: &str, position: u32) -> Target {
    Target { param: Some((key(owner), position)), ..named("") }
}
