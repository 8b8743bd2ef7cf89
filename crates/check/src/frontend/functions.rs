//! The functions, lambdas and classes of a file as its syntax tree has them.

use ruff_python_ast as ast;
use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use crate::facts::{FnKey, FnKind};

/// What has a body.
#[derive(Clone, Copy)]
pub(super) enum Node<'a> {
    /// `def`, `async def`
    Function(&'a ast::StmtFunctionDef),
    /// `lambda`
    Lambda(&'a ast::ExprLambda),
    /// The statements of the module.
    Module(&'a [Stmt]),
}

/// A function and where it stands.
pub(super) struct Entry<'a> {
    /// The offset of its key.
    pub(super) offset: u32,
    /// Dotted name inside the module.
    pub(super) name: String,
    pub(super) kind: FnKind,
    pub(super) node: Node<'a>,
    /// Dotted name inside the module of the class it is a method of.
    pub(super) class: Option<String>,
    /// The offset of the function around it.
    pub(super) parent: Option<u32>,
}

/// What is defined in a file.
#[derive(Default)]
pub(super) struct Index<'a> {
    /// In the order of the source; the module itself first.
    pub(super) functions: Vec<Entry<'a>>,
    /// Classes with their dotted names inside the module.
    pub(super) classes: Vec<(String, &'a ast::StmtClassDef)>,
}

impl<'a> Index<'a> {
    /// Of a module.
    pub(super) fn new(body: &'a [Stmt]) -> Self {
        let mut walk = Walk::default();
        walk.found.functions.push(Entry {
            offset: FnKey::MODULE,
            name: "<module>".to_owned(),
            kind: FnKind::Module,
            node: Node::Module(body),
            class: None,
            parent: None,
        });
        walk.visit_body(body);
        walk.found
    }
}

#[derive(Default)]
struct Walk<'a> {
    names: Vec<String>,
    /// Directly in the body of this class.
    class: Option<String>,
    parent: Option<u32>,
    found: Index<'a>,
}

impl Walk<'_> {
    fn named(&self, name: &str) -> String {
        let mut text = self.names.join(".");
        if !text.is_empty() {
            text.push('.');
        }
        text + name
    }
}

impl<'a> Visitor<'a> for Walk<'a> {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        match statement {
            Stmt::FunctionDef(node) => {
                node.decorator_list.iter().for_each(|decorator| self.visit_decorator(decorator));
                self.visit_parameters(&node.parameters);
                let offset = node.name.range().start().to_u32();
                let kind = if self.class.is_some() { FnKind::Method } else { FnKind::Function };
                let name = self.named(&node.name);
                let class = self.class.take();
                self.found.functions.push(Entry {
                    offset,
                    name,
                    kind,
                    node: Node::Function(node),
                    class: class.clone(),
                    parent: self.parent,
                });
                let parent = self.parent.replace(offset);
                self.names.push(node.name.to_string());
                self.names.push("<locals>".to_owned());
                self.visit_body(&node.body);
                self.names.truncate(self.names.len() - 2);
                self.parent = parent;
                self.class = class;
            }
            Stmt::ClassDef(node) => {
                node.decorator_list.iter().for_each(|decorator| self.visit_decorator(decorator));
                let name = self.named(&node.name);
                self.found.classes.push((name.clone(), node));
                let class = self.class.replace(name);
                self.names.push(node.name.to_string());
                self.visit_body(&node.body);
                self.names.pop();
                self.class = class;
            }
            _ => walk_stmt(self, statement),
        }
    }

    fn visit_annotation(&mut self, _: &'a Expr) {}

    fn visit_expr(&mut self, expression: &'a Expr) {
        if let Expr::Lambda(node) = expression {
            let offset = node.range().start().to_u32();
            let name = self.named("<lambda>");
            self.found.functions.push(Entry {
                offset,
                name,
                kind: FnKind::Lambda,
                node: Node::Lambda(node),
                class: None,
                parent: self.parent,
            });
            let parent = self.parent.replace(offset);
            walk_expr(self, expression);
            self.parent = parent;
        } else {
            walk_expr(self, expression);
        }
    }
}

/// Whether a body has a `yield` of its own.
pub(super) fn yields(body: &[Stmt]) -> bool {
    #[derive(Default)]
    struct Yields(bool);
    impl<'a> Visitor<'a> for Yields {
        fn visit_stmt(&mut self, statement: &'a Stmt) {
            if !self.0 && !matches!(statement, Stmt::FunctionDef(_) | Stmt::ClassDef(_)) {
                walk_stmt(self, statement);
            }
        }
        fn visit_expr(&mut self, expression: &'a Expr) {
            match expression {
                Expr::Yield(_) | Expr::YieldFrom(_) => self.0 = true,
                Expr::Lambda(_) => {}
                _ if self.0 => {}
                _ => walk_expr(self, expression),
            }
        }
    }
    let mut found = Yields::default();
    found.visit_body(body);
    found.0
}

/// Names of the calls by which a function hands others to the loop.
const HANDS_OVER: &[&str] = &[
    "add_done_callback",
    "add_reader",
    "add_signal_handler",
    "add_writer",
    "call_at",
    "call_later",
    "call_soon",
    "call_soon_threadsafe",
    "create_task",
    "ensure_future",
    "run",
    "run_coroutine_threadsafe",
    "run_until_complete",
    "signal",
    "start_soon",
];

/// Methods that the loop calls on a protocol.
const PROTOCOL: &[&str] = &[
    "buffer_updated",
    "connection_lost",
    "connection_made",
    "data_received",
    "datagram_received",
    "eof_received",
    "error_received",
    "pipe_connection_lost",
    "pipe_data_received",
    "process_exited",
];

/// Decorators that register nothing.
const PLAIN: &[&str] = &[
    "abstractmethod",
    "cached_property",
    "classmethod",
    "contextmanager",
    "deleter",
    "overload",
    "override",
    "property",
    "setter",
    "staticmethod",
];

/// Whether a plain function may be called without being named: by the loop, or by whoever its decorators give it to.
pub(super) fn is_called_by_others(node: &ast::StmtFunctionDef) -> bool {
    let registers = |decorator: &ast::Decorator| {
        let name = match &decorator.expression {
            Expr::Name(name) => name.id.as_str(),
            Expr::Attribute(attribute) => attribute.attr.as_str(),
            _ => "",
        };
        !PLAIN.contains(&name)
    };
    PROTOCOL.contains(&node.name.as_str()) || node.decorator_list.iter().any(registers)
}

/// Whether the source of a function has a call that may hand something to the loop, by name alone.
pub(super) fn hands_over(body: &[Stmt]) -> bool {
    struct Hands(bool);
    impl<'a> Visitor<'a> for Hands {
        fn visit_stmt(&mut self, statement: &'a Stmt) {
            if !self.0 && !matches!(statement, Stmt::FunctionDef(_) | Stmt::ClassDef(_)) {
                walk_stmt(self, statement);
            }
        }
        fn visit_expr(&mut self, expression: &'a Expr) {
            if let Expr::Call(call) = expression {
                let name = match &*call.func {
                    Expr::Attribute(attribute) => attribute.attr.as_str(),
                    Expr::Name(name) => name.id.as_str(),
                    _ => "",
                };
                self.0 |= HANDS_OVER.contains(&name);
            }
            if !self.0 {
                walk_expr(self, expression);
            }
        }
    }
    let mut hands = Hands(false);
    hands.visit_body(body);
    hands.0
}
