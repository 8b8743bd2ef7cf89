//! What several rules need: walks over a function's own body, the ways out of a block, uses of a name, pieces of fixes.
//!
//! Nothing here decides what is a problem: that is each rule's own business. What asks for types is in the files beside.

use ruff_python_ast as ast;
use ruff_python_ast::comparable::ComparableExpr;
use ruff_python_ast::visitor::{self, Visitor};
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange, TextSize};

use crate::context::{FileContext, functions};
use crate::finding::{Edit, Fix, Safety};

pub mod cancellation;
pub mod tasks;
pub mod waiting;

/// A body of statements that runs by itself.
pub struct Scope<'a> {
    /// Dotted name inside the module; `<module>` for the module's own.
    pub name: String,
    /// Its statements.
    pub body: &'a [Stmt],
    /// The function; none for the module.
    pub function: Option<&'a ast::StmtFunctionDef>,
}

impl Scope<'_> {
    /// The body of an `async def`.
    pub fn is_async(&self) -> bool {
        self.function.is_some_and(|function| function.is_async)
    }
}

/// The module and all functions of a file.
pub fn scopes<'a>(file: &FileContext<'a>) -> Vec<Scope<'a>> {
    let module = Scope { name: "<module>".to_owned(), body: file.body(), function: None };
    let functions = functions(file.body());
    std::iter::once(module)
        .chain(functions.into_iter().map(|one| Scope {
            name: one.name,
            body: &one.node.body,
            function: Some(one.node),
        }))
        .collect()
}

/// The coroutine functions of a file.
pub fn coroutines<'a>(file: &FileContext<'a>) -> Vec<Scope<'a>> {
    scopes(file).into_iter().filter(Scope::is_async).collect()
}

/// Code as a message quotes it: one line, at most 60 characters.
pub fn shortened(code: &str) -> String {
    let line = code.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= 60 {
        return line;
    }
    line.chars().take(57).chain("...".chars()).collect()
}

/// A node that a walk comes to.
#[derive(Clone, Copy, Debug)]
pub enum Node<'a> {
    /// A statement.
    Stmt(&'a Stmt),
    /// An expression.
    Expr(&'a Expr),
    /// `except ...:`
    Handler(&'a ast::ExceptHandlerExceptHandler),
    /// `for x in y if z` of a comprehension.
    Comprehension(&'a ast::Comprehension),
}

impl Ranged for Node<'_> {
    fn range(&self) -> TextRange {
        match self {
            Self::Stmt(node) => node.range(),
            Self::Expr(node) => node.range(),
            Self::Handler(node) => node.range,
            Self::Comprehension(node) => node.range,
        }
    }
}

/// Called for each node, with the nodes around it, outermost first.
pub type Visit<'v, 'a> = &'v mut dyn FnMut(Node<'a>, &[Node<'a>]);

/// Goes through what a block itself runs: not the bodies of functions, lambdas and classes in it, though it comes to
/// their definitions, decorators and defaults.
pub fn walk<'a>(body: &'a [Stmt], visit: Visit<'_, 'a>) {
    Walk { around: vec![], nested: false, visit }.visit_body(body);
}

/// The same of one expression.
pub fn walk_expr<'a>(expression: &'a Expr, visit: Visit<'_, 'a>) {
    Walk { around: vec![], nested: false, visit }.visit_expr(expression);
}

/// Goes through a block with all that is nested in it.
pub fn walk_nested<'a>(body: &'a [Stmt], visit: Visit<'_, 'a>) {
    Walk { around: vec![], nested: true, visit }.visit_body(body);
}

struct Walk<'v, 'a> {
    around: Vec<Node<'a>>,
    nested: bool,
    visit: Visit<'v, 'a>,
}

impl<'a> Walk<'_, 'a> {
    fn inside(&mut self, node: Node<'a>, go: impl FnOnce(&mut Self)) {
        (self.visit)(node, &self.around);
        self.around.push(node);
        go(self);
        self.around.pop();
    }
}

impl<'a> Visitor<'a> for Walk<'_, 'a> {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        self.inside(Node::Stmt(statement), |walk| match statement {
            Stmt::FunctionDef(node) if !walk.nested => {
                node.decorator_list.iter().for_each(|decorator| walk.visit_decorator(decorator));
                walk.visit_parameters(&node.parameters);
            }
            Stmt::ClassDef(node) if !walk.nested => {
                node.decorator_list.iter().for_each(|decorator| walk.visit_decorator(decorator));
                node.arguments.iter().for_each(|arguments| walk.visit_arguments(arguments));
            }
            _ => visitor::walk_stmt(walk, statement),
        });
    }

    fn visit_expr(&mut self, expression: &'a Expr) {
        self.inside(Node::Expr(expression), |walk| match expression {
            Expr::Lambda(node) if !walk.nested => {
                node.parameters.iter().for_each(|parameters| walk.visit_parameters(parameters));
            }
            _ => visitor::walk_expr(walk, expression),
        });
    }

    fn visit_except_handler(&mut self, handler: &'a ast::ExceptHandler) {
        let ast::ExceptHandler::ExceptHandler(node) = handler;
        self.inside(Node::Handler(node), |walk| visitor::walk_except_handler(walk, handler));
    }

    fn visit_comprehension(&mut self, comprehension: &'a ast::Comprehension) {
        self.inside(Node::Comprehension(comprehension), |walk| visitor::walk_comprehension(walk, comprehension));
    }

    fn visit_annotation(&mut self, _: &'a Expr) {}
}

/// The calls that a block itself makes, in the order of the walk.
pub fn calls(body: &[Stmt]) -> Vec<&ast::ExprCall> {
    let mut found = vec![];
    walk(body, &mut |node, _| {
        if let Node::Expr(Expr::Call(call)) = node {
            found.push(call);
        }
    });
    found
}

/// Whether control may go back to the loop at this node: `await`, `async for`, `async with`.
pub fn suspends(node: Node<'_>) -> bool {
    match node {
        Node::Expr(Expr::Await(_)) => true,
        Node::Stmt(Stmt::For(node)) => node.is_async,
        Node::Stmt(Stmt::With(node)) => node.is_async,
        Node::Comprehension(node) => node.is_async,
        _ => false,
    }
}

/// The places of a block where control may go back to the loop.
pub fn suspensions(body: &[Stmt]) -> Vec<Node<'_>> {
    let mut found = vec![];
    walk(body, &mut |node, _| {
        if suspends(node) {
            found.push(node);
        }
    });
    found
}

/// Whether a block awaits.
pub fn awaits(body: &[Stmt]) -> bool {
    !suspensions(body).is_empty()
}

/// The ways in which control leaves a block by its own statements. Exceptions that its calls let through are not
/// counted, so `falls` means "nothing stops it from going on".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// It comes to its end.
    pub falls: bool,
    /// `return`
    pub returns: bool,
    /// `raise`
    pub raises: bool,
    /// `break` of a loop around it.
    pub breaks: bool,
    /// `continue` of a loop around it.
    pub continues: bool,
}

impl Ends {
    const FALLS: Self = Self { falls: true, returns: false, raises: false, breaks: false, continues: false };

    fn or(self, other: Self) -> Self {
        Self {
            falls: self.falls || other.falls,
            returns: self.returns || other.returns,
            raises: self.raises || other.raises,
            breaks: self.breaks || other.breaks,
            continues: self.continues || other.continues,
        }
    }

    /// All paths end in a `raise`.
    pub fn only_raises(self) -> bool {
        self == Self { raises: true, ..Self::default() }
    }
}

/// The ways out of a block.
pub fn ends(body: &[Stmt]) -> Ends {
    let mut so_far = Ends::FALLS;
    for statement in body {
        if !so_far.falls {
            break;
        }
        let next = ends_of(statement);
        so_far = Ends { falls: false, ..so_far }.or(next);
    }
    so_far
}

fn ends_of(statement: &Stmt) -> Ends {
    let none = Ends::default();
    match statement {
        Stmt::Return(_) => Ends { returns: true, ..none },
        Stmt::Raise(_) => Ends { raises: true, ..none },
        Stmt::Break(_) => Ends { breaks: true, ..none },
        Stmt::Continue(_) => Ends { continues: true, ..none },
        Stmt::Expr(node) if never_returns(&node.value) => Ends { raises: true, ..none },
        Stmt::If(node) => {
            let mut all = ends(&node.body);
            let mut has_else = false;
            for clause in &node.elif_else_clauses {
                has_else |= clause.test.is_none();
                all = all.or(ends(&clause.body));
            }
            if has_else { all } else { all.or(Ends::FALLS) }
        }
        Stmt::Match(node) => {
            let all = node.cases.iter().fold(none, |all, case| all.or(ends(&case.body)));
            let exhaustive = node.cases.iter().any(|case| case.guard.is_none() && case.pattern.is_irrefutable());
            if exhaustive { all } else { all.or(Ends::FALLS) }
        }
        Stmt::For(node) => {
            let inner = ends(&node.body);
            Ends { breaks: false, continues: false, falls: inner.breaks, ..inner }.or(ends(&node.orelse))
        }
        Stmt::While(node) => {
            let inner = ends(&node.body);
            let looped = Ends { breaks: false, continues: false, falls: inner.breaks, ..inner };
            let endless = matches!(&*node.test, Expr::BooleanLiteral(literal) if literal.value)
                || matches!(&*node.test, Expr::NumberLiteral(_));
            if endless { looped } else { looped.or(ends(&node.orelse)) }
        }
        Stmt::With(node) => {
            let inner = ends(&node.body);
            let suppresses = node.items.iter().any(|item| last_name(&item.context_expr) == Some("suppress"));
            if inner.raises && suppresses { inner.or(Ends::FALLS) } else { inner }
        }
        Stmt::Try(node) => {
            let mut all = ends(&node.body);
            if all.falls {
                all = Ends { falls: false, ..all }.or(ends(&node.orelse));
            }
            let caught = node.handlers.iter().any(|handler| {
                let ast::ExceptHandler::ExceptHandler(handler) = handler;
                handler.type_.as_deref().is_none_or(|class| last_name(class) == Some("BaseException"))
            });
            all.raises &= !caught;
            for handler in &node.handlers {
                let ast::ExceptHandler::ExceptHandler(handler) = handler;
                all = all.or(ends(&handler.body));
            }
            let last = ends(&node.finalbody);
            if last.falls { Ends { falls: all.falls, ..last }.or(all) } else { last }
        }
        _ => Ends::FALLS,
    }
}

/// Calls after which nothing runs: `sys.exit()`, `os._exit()`, `os.abort()`, `pytest.fail()`...
fn never_returns(value: &Expr) -> bool {
    let Expr::Call(call) = value else { return false };
    matches!(
        dotted(&call.func).as_deref(),
        Some("sys.exit" | "exit" | "quit" | "os._exit" | "os.abort" | "pytest.fail" | "pytest.skip" | "pytest.exit")
    )
}

/// `a.b.c` of names and attributes, as written.
pub fn dotted(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Name(name) => Some(name.id.to_string()),
        Expr::Attribute(attribute) => Some(format!("{}.{}", dotted(&attribute.value)?, attribute.attr)),
        _ => None,
    }
}

/// The last name of `a.b.c` or `a.b.c(...)`: `c`.
pub fn last_name(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Name(name) => Some(name.id.as_str()),
        Expr::Attribute(attribute) => Some(attribute.attr.as_str()),
        Expr::Call(call) => last_name(&call.func),
        _ => None,
    }
}

/// Whether two expressions are written alike, spaces and quotes apart.
pub fn same(one: &Expr, other: &Expr) -> bool {
    ComparableExpr::from(one) == ComparableExpr::from(other)
}

/// The name that an expression is, if it is one.
pub fn name_of(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Name(name) => Some(name.id.as_str()),
        _ => None,
    }
}

/// A place where a name is read, with what is around it.
#[derive(Debug)]
pub struct Use<'a> {
    /// The name.
    pub node: &'a ast::ExprName,
    /// What is around it, outermost first; its parent is the last.
    pub around: Vec<Node<'a>>,
}

impl<'a> Use<'a> {
    /// The expression directly around it, if that is one.
    pub fn parent(&self) -> Option<&'a Expr> {
        match self.around.last() {
            Some(Node::Expr(expression)) => Some(expression),
            _ => None,
        }
    }

    /// The `n` of `name.n`, if it is used so.
    pub fn attribute(&self) -> Option<&'a str> {
        match self.parent() {
            Some(Expr::Attribute(attribute)) => Some(attribute.attr.as_str()),
            _ => None,
        }
    }

    /// The call `name.n(...)`, if it is used so.
    pub fn method_call(&self) -> Option<&'a ast::ExprCall> {
        let attribute = self.parent()?;
        match self.around.get(self.around.len().checked_sub(2)?) {
            Some(Node::Expr(Expr::Call(call))) if std::ptr::eq(&*call.func, attribute) => Some(call),
            _ => None,
        }
    }

    /// In a function or lambda inside of the block.
    pub fn is_nested(&self) -> bool {
        self.around.iter().any(|node| matches!(node, Node::Stmt(Stmt::FunctionDef(_)) | Node::Expr(Expr::Lambda(_))))
    }
}

/// Where a name is read in a block, nested functions included: they may run with it.
pub fn reads<'a>(body: &'a [Stmt], name: &str) -> Vec<Use<'a>> {
    let mut found = vec![];
    walk_nested(body, &mut |node, around| {
        if let Node::Expr(Expr::Name(node)) = node
            && node.ctx.is_load()
            && node.id == name
        {
            found.push(Use { node, around: around.to_vec() });
        }
    });
    found
}

/// Where a name is bound by the block itself: assignments, `for`, `with`, `:=`; not imports and parameters.
pub fn bindings<'a>(body: &'a [Stmt], name: &str) -> Vec<&'a ast::ExprName> {
    let mut found = vec![];
    walk(body, &mut |node, _| {
        if let Node::Expr(Expr::Name(node)) = node
            && node.ctx.is_store()
            && node.id == name
        {
            found.push(node);
        }
    });
    found
}

/// Declared `global` or `nonlocal` in the block: what it is outlives the function.
pub fn outlives(body: &[Stmt], name: &str) -> bool {
    let mut found = false;
    walk(body, &mut |node, _| match node {
        Node::Stmt(Stmt::Global(node)) => found |= node.names.iter().any(|one| one == name),
        Node::Stmt(Stmt::Nonlocal(node)) => found |= node.names.iter().any(|one| one == name),
        _ => {}
    });
    found
}

/// The one name that an assignment binds, and the value: `x = value`, `x: T = value`.
pub fn simple_assignment(statement: &Stmt) -> Option<(&Expr, &Expr)> {
    match statement {
        Stmt::Assign(node) => match &node.targets[..] {
            [target] => Some((target, &node.value)),
            _ => None,
        },
        Stmt::AnnAssign(node) => Some((&node.target, node.value.as_deref()?)),
        _ => None,
    }
}

/// Inside of `with pytest.raises(...)` and like: the call is there to fail.
pub fn is_expected_to_fail(around: &[Node<'_>]) -> bool {
    around.iter().any(|node| match node {
        Node::Stmt(Stmt::With(node)) => node.items.iter().any(|item| {
            last_name(&item.context_expr).is_some_and(|name| {
                matches!(name, "raises" | "warns" | "deprecated_call") || name.starts_with("assertRaises")
            })
        }),
        _ => false,
    })
}

/// The spaces at the start of the line of a place.
pub fn indentation<'a>(file: &FileContext<'a>, at: TextSize) -> &'a str {
    let start = line_start(file, at);
    let line = &file.source[start..];
    let width = line.len() - line.trim_start_matches([' ', '\t']).len();
    &line[..width]
}

/// The offset of the first byte of the line of a place.
pub fn line_start(file: &FileContext<'_>, at: TextSize) -> usize {
    file.source[..at.to_usize()].rfind('\n').map_or(0, |newline| newline + 1)
}

/// The offset after the newline that ends the line of a place.
pub fn next_line(file: &FileContext<'_>, at: TextSize) -> usize {
    file.source[at.to_usize()..].find('\n').map_or(file.source.len(), |newline| at.to_usize() + newline + 1)
}

/// Text before a place.
pub fn insert(at: TextSize, text: impl Into<String>) -> Edit {
    Edit { start: at.to_u32(), end: at.to_u32(), text: text.into() }
}

/// Other text in the place of a range.
pub fn replace(range: TextRange, text: impl Into<String>) -> Edit {
    Edit { start: range.start().to_u32(), end: range.end().to_u32(), text: text.into() }
}

/// A fix that needs no import.
pub fn fix(title: impl Into<String>, safety: Safety, edits: Vec<Edit>) -> Option<Fix> {
    Some(Fix { title: title.into(), safety, edits, imports: vec![] })
}
