//! Classes as facts: their bases and methods. Which methods a call may run is the program's business.

use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

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
