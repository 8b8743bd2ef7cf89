//! Which bodies a method call may run beside the one that its receiver's class names: implementations of abstract
//! methods, overrides in subclasses, classes that fit a protocol. The frontend asks the same to know what to read.

use rustc_hash::{FxHashMap, FxHashSet};

use super::How;
use crate::facts::{Certainty, Class, FnKey, Function};

/// More implementations than these say nothing of a single call any more.
const MANY: usize = 8;
/// A class with more ancestors than these is not looked at to its end.
const DEEP: usize = 64;

/// The classes of the project and who derives from whom.
pub(crate) struct Classes<'a> {
    by_name: &'a FxHashMap<String, Class>,
    below: FxHashMap<&'a str, Vec<&'a Class>>,
    by_method: FxHashMap<&'a str, Vec<&'a Class>>,
}

/// A body that a call may run, and why.
pub(crate) struct Body {
    pub(crate) key: FnKey,
    pub(super) certainty: Certainty,
    pub(super) how: How,
}

impl<'a> Classes<'a> {
    pub(crate) fn new(by_name: &'a FxHashMap<String, Class>) -> Self {
        let mut below: FxHashMap<&str, Vec<&Class>> = FxHashMap::default();
        let mut by_method: FxHashMap<&str, Vec<&Class>> = FxHashMap::default();
        for class in by_name.values() {
            for base in &class.bases {
                below.entry(plain(base)).or_default().push(class);
            }
            for method in &class.methods {
                by_method.entry(method.name.as_str()).or_default().push(class);
            }
        }
        for classes in below.values_mut().chain(by_method.values_mut()) {
            classes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        }
        Self { by_name, below, by_method }
    }

    /// Whether the method of this class has no body worth following.
    pub(super) fn is_abstract(&self, class: &str, method: &str) -> bool {
        let Some(class) = self.by_name.get(class) else { return false };
        class.methods.iter().find(|own| own.name == method).is_some_and(|own| own.is_abstract || class.protocol)
    }

    /// Other bodies that a call of `class.method` may run. Constructors are never dispatched.
    pub(crate) fn others(&self, class: &str, method: &str, ours: impl Fn(&FnKey) -> bool) -> Vec<Body> {
        if matches!(method, "__init__" | "__new__" | "__post_init__" | "__init_subclass__") {
            return vec![];
        }
        let is_abstract = self.is_abstract(class, method);
        let mut found = self.overrides(class, method);
        if is_abstract && self.by_name.get(class).is_some_and(|class| class.protocol) {
            found.extend(self.fitting(class));
        }
        let mut bodies: Vec<FnKey> = found
            .into_iter()
            .filter_map(|class| class.methods.iter().find(|own| own.name == method && !own.is_abstract))
            .map(|own| own.key.clone())
            .filter(ours)
            .collect();
        bodies.sort_unstable();
        bodies.dedup();
        let (certainty, how) = match (is_abstract, bodies.len()) {
            (true, 1) => (Certainty::Certain, How::OnlyImplementation),
            (true, 0..=MANY) => (Certainty::Likely, How::Implementation),
            (true, _) => (Certainty::Guess, How::Implementation),
            (false, 0..=MANY) => (Certainty::Likely, How::Override),
            (false, _) => (Certainty::Guess, How::Override),
        };
        bodies.into_iter().map(|key| Body { key, certainty, how }).collect()
    }

    /// Classes below this one, at any depth, that have the method themselves.
    fn overrides(&self, class: &str, method: &str) -> Vec<&'a Class> {
        let mut found = self.all_below(class);
        found.retain(|below| below.methods.iter().any(|own| own.name == method));
        found
    }

    /// Classes below this one, at any depth.
    fn all_below(&self, class: &str) -> Vec<&'a Class> {
        let mut found = vec![];
        let mut seen = FxHashSet::default();
        let mut open = vec![class];
        while let Some(name) = open.pop() {
            for below in self.below.get(name).into_iter().flatten() {
                if seen.insert(below.qual.as_str()) {
                    open.push(&below.qual);
                    found.push(*below);
                }
            }
        }
        found
    }

    /// What `super().method()` in a class may run when the object is of a subclass with several bases: the next class
    /// in that one's order of resolution that has the method.
    pub(super) fn after(&self, class: &str, method: &str) -> Vec<FnKey> {
        let mut found = vec![];
        for below in self.all_below(class) {
            let order = self.order(&below.qual);
            let Some(at) = order.iter().position(|name| *name == class) else { continue };
            let next = order[at + 1..].iter().filter_map(|name| self.by_name.get(*name));
            let own = |class: &'a Class| class.methods.iter().find(|own| own.name == method && !own.is_abstract);
            found.extend(next.filter_map(own).next().map(|own| own.key.clone()));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The order of resolution: from left to right and upwards, each class after all that derive from it.
    fn order(&self, class: &'a str) -> Vec<&'a str> {
        let mut walked = vec![];
        let mut open = vec![class];
        while let Some(name) = open.pop().filter(|_| walked.len() < DEEP) {
            walked.push(name);
            let bases = self.by_name.get(name).into_iter().flat_map(|class| class.bases.iter().rev());
            open.extend(bases.map(|base| plain(base)));
        }
        let last = |(index, name): &(usize, &&str)| !walked[index + 1..].contains(name);
        walked.iter().enumerate().filter(last).map(|(_, name)| *name).collect()
    }

    /// Classes that have every method of a protocol without naming it.
    fn fitting(&self, protocol: &str) -> Vec<&'a Class> {
        let Some(protocol) = self.by_name.get(protocol) else { return vec![] };
        let Some(first) = protocol.methods.first() else { return vec![] };
        let candidates = self.by_method.get(first.name.as_str()).into_iter().flatten();
        candidates
            .filter(|class| !class.protocol)
            .filter(|class| protocol.methods.iter().all(|wanted| self.has(class, wanted.name.as_str(), 0)))
            .copied()
            .collect()
    }

    fn has(&self, class: &Class, method: &str, depth: usize) -> bool {
        class.methods.iter().any(|own| own.name == method)
            || depth < 16
                && class
                    .bases
                    .iter()
                    .filter_map(|base| self.by_name.get(plain(base)))
                    .any(|base| self.has(base, method, depth + 1))
    }

    /// The names of everything that a class derives from, itself first, dependencies' as far as they are named.
    pub(super) fn ancestors(&self, class: &str) -> Vec<&'a str> {
        let mut found = vec![];
        let mut open = self.by_name.get(class).into_iter().map(|class| class.qual.as_str()).collect::<Vec<_>>();
        while let Some(name) = open.pop() {
            if found.contains(&name) {
                continue;
            }
            found.push(name);
            if let Some(class) = self.by_name.get(name) {
                open.extend(class.bases.iter().map(|base| plain(base)));
            }
        }
        found
    }
}

/// A base without its type arguments.
fn plain(base: &str) -> &str {
    base.split('[').next().unwrap_or(base)
}

/// The class and the name of a method, as its definition says or else its qualified name.
pub(super) fn method_of<'a>(function: Option<&'a Function>, qual: &'a str) -> Option<(&'a str, &'a str)> {
    match function {
        Some(function) => Some((function.class.as_deref()?, function.name.as_str())),
        None => qual.rsplit_once('.'),
    }
}
