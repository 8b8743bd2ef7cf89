//! Classes as facts, and which methods a call may run beside the one it names.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;
use rustc_hash::FxHashMap;

use super::resolve::Resolver;
use super::{classes, names};
use crate::facts::{Class, FnKey, Method};

/// The facts of a class.
pub(super) fn class(resolver: &Resolver<'_>, name: &str, node: &ast::StmtClassDef) -> Class {
    let key = |offset| FnKey { path: resolver.path().clone(), offset };
    let bases: Vec<String> = node
        .bases()
        .iter()
        .map(classes::unsubscripted)
        .map(|base| resolver.defined(base).unwrap_or_else(|| names::written(base)))
        .collect();
    let mut methods = vec![];
    add_methods(&node.body, &key, &mut methods);
    Class {
        key: key(node.name.range().start().to_u32()),
        qual: resolver.in_module(name),
        protocol: node.bases().iter().zip(&bases).any(|(written, base)| is_protocol(written, base)),
        bases,
        methods,
    }
}

/// `typing.Protocol`, whose own definition is a special form of another name; not asyncio's class.
fn is_protocol(written: &Expr, base: &str) -> bool {
    let written = names::written(classes::unsubscripted(written));
    let named =
        matches!(written.as_str(), "Protocol" | "typing.Protocol" | "typing_extensions.Protocol" | "t.Protocol");
    named && !base.starts_with("asyncio.")
}

fn add_methods(body: &[Stmt], key: &dyn Fn(u32) -> FnKey, methods: &mut Vec<Method>) {
    for statement in body {
        match statement {
            Stmt::FunctionDef(node) => methods.push(Method {
                name: node.name.to_string(),
                key: key(node.name.range().start().to_u32()),
                is_abstract: classes::is_stub_body(&node.body) || node.decorator_list.iter().any(is_abstract),
                is_async: node.is_async,
            }),
            Stmt::If(node) => {
                add_methods(&node.body, key, methods);
                node.elif_else_clauses.iter().for_each(|clause| add_methods(&clause.body, key, methods));
            }
            _ => {}
        }
    }
}

fn is_abstract(decorator: &ast::Decorator) -> bool {
    let name = match &decorator.expression {
        Expr::Name(name) => name.id.as_str(),
        Expr::Attribute(attribute) => attribute.attr.as_str(),
        _ => "",
    };
    matches!(name, "abstractmethod" | "abstractproperty" | "abstractclassmethod" | "abstractstaticmethod")
}

/// The methods of the project by name, to find what else a call may run.
pub(super) struct Methods {
    by_name: FxHashMap<String, Vec<(String, FnKey)>>,
    /// Class to its bases.
    bases: FxHashMap<String, Vec<String>>,
    protocols: FxHashMap<String, Vec<String>>,
}

impl Methods {
    pub(super) fn new<'c>(classes: impl Iterator<Item = &'c Class>) -> Self {
        let mut this =
            Self { by_name: FxHashMap::default(), bases: FxHashMap::default(), protocols: FxHashMap::default() };
        for class in classes {
            this.bases.insert(class.qual.clone(), class.bases.clone());
            if class.protocol {
                let names = class.methods.iter().map(|method| method.name.clone()).collect();
                this.protocols.insert(class.qual.clone(), names);
            }
            for method in class.methods.iter().filter(|method| !method.is_abstract) {
                this.by_name.entry(method.name.clone()).or_default().push((class.qual.clone(), method.key.clone()));
            }
        }
        this
    }

    /// Methods of subclasses, and of classes that fit a protocol, that a call of this method may run.
    pub(super) fn others(&self, qual: &str) -> Vec<FnKey> {
        let Some((class, name)) = qual.rsplit_once('.') else { return vec![] };
        if matches!(name, "__init__" | "__new__" | "__post_init__") || !self.bases.contains_key(class) {
            return vec![];
        }
        let candidates = self.by_name.get(name).into_iter().flatten();
        candidates
            .filter(|(owner, _)| owner != class && (self.derives(owner, class, 0) || self.fits(owner, class)))
            .map(|(_, key)| key.clone())
            .collect()
    }

    fn derives(&self, class: &str, from: &str, depth: usize) -> bool {
        depth < 16
            && self
                .bases
                .get(class)
                .is_some_and(|bases| bases.iter().any(|base| base == from || self.derives(base, from, depth + 1)))
    }

    fn fits(&self, class: &str, protocol: &str) -> bool {
        self.protocols.get(protocol).is_some_and(|names| {
            names.iter().all(|name| {
                self.by_name.get(name).is_some_and(|owners| {
                    owners.iter().any(|(owner, _)| owner == class || self.derives(class, owner, 0))
                })
            })
        })
    }
}
