//! What a rule about one file may ask: its syntax tree, its text, and what names and values in it are.

use ruff_db::parsed::ParsedModuleRef;
use ruff_python_ast as ast;
use ruff_python_ast::Expr;
use ruff_text_size::{Ranged, TextRange};

use crate::facts::{FnKey, Span, Target};
use crate::finding::{Finding, Level};
use crate::frontend::Resolver;

/// One file of the project, parsed, with its types.
pub struct FileContext<'a> {
    /// Absolute path.
    pub path: std::sync::Arc<str>,
    /// Its text.
    pub source: &'a str,
    /// Its syntax tree.
    pub module: &'a ParsedModuleRef,
    /// What names and values are.
    pub resolver: &'a Resolver<'a>,
}

impl<'a> FileContext<'a> {
    /// The statements of the module.
    pub fn body(&self) -> &'a [ast::Stmt] {
        self.module.suite()
    }

    /// The text of a range.
    pub fn text(&self, range: TextRange) -> &'a str {
        &self.source[range]
    }

    /// A range with its line and column.
    pub fn span(&self, range: TextRange) -> Span {
        self.resolver.span(range)
    }

    /// What a call may run: functions, and classes by their qualified name.
    pub fn targets(&self, call: &ast::ExprCall) -> Vec<Target> {
        self.resolver.call_targets(call)
    }

    /// The qualified name of the one thing that a name or an attribute denotes: `asyncio.tasks.create_task` and
    /// `asyncio.create_task` alike are given as the documented name (`asyncio.create_task`).
    pub fn qualified(&self, expression: &Expr) -> Option<String> {
        self.resolver.qualified(expression)
    }

    /// Qualified names of the classes of a value, documented names where there are some (`asyncio.Queue`,
    /// `threading.Lock`); empty when nothing is known.
    pub fn classes(&self, value: &Expr) -> Vec<String> {
        self.resolver.classes(value)
    }

    /// Whether a call makes a coroutine: its target is an `async def` (not a generator), certainly.
    pub fn makes_coroutine(&self, call: &ast::ExprCall) -> bool {
        self.resolver.makes_coroutine(call)
    }

    /// The key of a function of this file.
    pub fn key(&self, function: &ast::StmtFunctionDef) -> FnKey {
        FnKey { path: self.path.clone(), offset: function.name.range().start().to_u32() }
    }

    /// A finding about a range, with nothing but its message. `function` is the dotted name inside the module.
    pub fn finding(&self, rule: &str, level: Level, range: TextRange, function: &str, message: String) -> Finding {
        Finding {
            rule: rule.to_owned(),
            level,
            path: self.path.clone(),
            span: self.span(range),
            function: self.resolver.in_module(function),
            message,
            frames: vec![],
            why: None,
            help: None,
            tags: vec![],
            callers: vec![],
            callers_total: 0,
            fix: None,
            quiet: false,
        }
    }
}

/// A function of a file with the names around it.
#[derive(Clone)]
pub struct FunctionAt<'a> {
    /// Dotted name inside the module: `Class.method`, `outer.inner`.
    pub name: String,
    /// The definition.
    pub node: &'a ast::StmtFunctionDef,
    /// The class it is a method of.
    pub class: Option<&'a ast::StmtClassDef>,
}

/// All functions of a file, nested ones included, in the order of the source.
pub fn functions<'a>(body: &'a [ast::Stmt]) -> Vec<FunctionAt<'a>> {
    use ruff_python_ast::visitor::{Visitor, walk_stmt};

    struct Walk<'a> {
        names: Vec<String>,
        class: Option<&'a ast::StmtClassDef>,
        found: Vec<FunctionAt<'a>>,
    }
    impl<'a> Visitor<'a> for Walk<'a> {
        fn visit_stmt(&mut self, statement: &'a ast::Stmt) {
            match statement {
                ast::Stmt::FunctionDef(node) => {
                    self.names.push(node.name.to_string());
                    self.found.push(FunctionAt { name: self.names.join("."), node, class: self.class });
                    let class = self.class.take();
                    self.visit_body(&node.body);
                    self.class = class;
                    self.names.pop();
                }
                ast::Stmt::ClassDef(node) => {
                    self.names.push(node.name.to_string());
                    let class = self.class.replace(node);
                    self.visit_body(&node.body);
                    self.class = class;
                    self.names.pop();
                }
                _ => walk_stmt(self, statement),
            }
        }
        fn visit_expr(&mut self, _: &'a Expr) {}
    }
    let mut walk = Walk { names: vec![], class: None, found: vec![] };
    walk.visit_body(body);
    walk.found
}
