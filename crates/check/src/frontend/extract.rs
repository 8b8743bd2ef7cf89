//! One function becomes facts: a walk over what its own body runs, in the order of the source.
//!
//! What an expression denotes is `values`' business, calls that nobody wrote are `implicit`'s, conditions `guards`'.

use ruff_python_ast as ast;
use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::functions::{self, Entry, Node};
use super::names;
use super::resolve::Resolver;
use super::{guards, implicit};
use crate::facts::{Argument, Decorator, FnKey, Function, Guard, Held, Literal, Site, SiteKind, Target};

/// Longer texts are cut.
const TEXT: usize = 80;

/// The facts of a function.
pub(super) fn function(resolver: &Resolver<'_>, entry: &Entry<'_>) -> Function {
    let key = |offset| FnKey { path: resolver.path().clone(), offset };
    let mut walk = Body::new(resolver);
    let mut function = Function {
        key: key(entry.offset),
        qual: resolver.in_module(&entry.name),
        name: entry.name.rsplit('.').next().unwrap_or_default().to_owned(),
        span: resolver.span(match entry.node {
            Node::Function(node) => node.name.range(),
            Node::Lambda(node) => node.range(),
            Node::Module(_) => TextRange::default(),
        }),
        kind: entry.kind,
        is_async: false,
        is_generator: false,
        class: entry.class.as_deref().map(|class| resolver.in_module(class)),
        parent: entry.parent.map(key),
        params: vec![],
        decorators: vec![],
        sites: vec![],
        returns: vec![],
        awaits: 0,
    };
    match entry.node {
        Node::Function(node) => {
            function.is_async = node.is_async;
            function.is_generator = functions::yields(&node.body);
            function.params = parameters(&node.parameters);
            function.decorators = node.decorator_list.iter().map(|decorator| decorated(resolver, decorator)).collect();
            walk.visit_body(&node.body);
            for returned in super::values::given_expressions(&node.body, false) {
                add_returned(resolver, returned, &mut function.returns);
            }
        }
        Node::Lambda(node) => {
            function.params = node.parameters.as_deref().map(parameters).unwrap_or_default();
            walk.visit_expr(&node.body);
            add_returned(resolver, &node.body, &mut function.returns);
        }
        Node::Module(body) => walk.visit_body(body),
    }
    function.sites = walk.sites;
    function.awaits = walk.awaits;
    function
}

fn add_returned(resolver: &Resolver<'_>, returned: &Expr, returns: &mut Vec<Target>) {
    if matches!(returned, Expr::Name(_) | Expr::Attribute(_) | Expr::Lambda(_) | Expr::Call(_) | Expr::If(_)) {
        for target in resolver.reference_targets(returned) {
            if (target.key.is_some() || target.param.is_some()) && !returns.contains(&target) {
                returns.push(target);
            }
        }
    }
}

/// Names of the parameters, positional first.
fn parameters(parameters: &ast::Parameters) -> Vec<String> {
    parameters.iter_non_variadic_params().map(|parameter| parameter.parameter.name.to_string()).collect()
}

fn decorated(resolver: &Resolver<'_>, decorator: &ast::Decorator) -> Decorator {
    let (callee, called) = match &decorator.expression {
        Expr::Call(call) => (&*call.func, true),
        other => (other, false),
    };
    Decorator {
        text: names::written(callee),
        called,
        targets: resolver.callable_targets(callee),
        span: resolver.span(decorator.expression.range()),
    }
}

/// What is around the expression that is being visited.
pub(super) struct Body<'e, 'a> {
    pub(super) resolver: &'e Resolver<'a>,
    pub(super) sites: Vec<Site>,
    awaits: u32,
    loops: u32,
    held: Vec<Held>,
    guards: Vec<Guard>,
    /// Variables that are false when no loop runs.
    loop_variables: Vec<String>,
    /// The next expression is directly under `await`.
    awaited: bool,
}

impl<'e, 'a> Body<'e, 'a> {
    fn new(resolver: &'e Resolver<'a>) -> Self {
        Self {
            resolver,
            sites: vec![],
            awaits: 0,
            loops: 0,
            held: vec![],
            guards: vec![],
            loop_variables: vec![],
            awaited: false,
        }
    }

    /// Adds a site with what is around it.
    pub(super) fn site(&mut self, kind: SiteKind, range: TextRange, text: String, targets: Vec<Target>) -> &mut Site {
        self.sites.push(Site {
            span: self.resolver.span(range),
            text: shortened(text),
            kind,
            awaited: false,
            in_loop: self.loops > 0,
            held: self.held.clone(),
            guards: self.guards.clone(),
            targets,
            arguments: vec![],
        });
        self.sites.last_mut().expect("a site was just added")
    }

    fn call(&mut self, call: &ast::ExprCall, awaited: bool) {
        match &*call.func {
            Expr::Attribute(attribute) => self.visit_expr(&attribute.value),
            Expr::Name(_) => {}
            other => self.visit_expr(other),
        }
        self.visit_arguments(&call.arguments);
        let targets = self.resolver.call_targets(call);
        let arguments = self.arguments(&call.arguments);
        implicit::called(self, call, &targets);
        let site = self.site(SiteKind::Call, call.range(), names::written(&call.func), targets);
        site.awaited = awaited;
        site.arguments = arguments;
    }

    fn arguments(&self, arguments: &ast::Arguments) -> Vec<Argument> {
        let positional =
            arguments.args.iter().enumerate().map(|(position, value)| (Some(position as u32), None, value));
        let named = arguments
            .keywords
            .iter()
            .filter_map(|keyword| Some((None, Some(keyword.arg.as_ref()?.to_string()), &keyword.value)));
        positional
            .chain(named)
            .map(|(position, keyword, value)| Argument {
                position,
                keyword,
                literal: literal(value),
                targets: self.resolver.argument_targets(value),
                called: match value {
                    Expr::Call(call) => Some(shortened(names::written(&call.func))),
                    _ => None,
                },
            })
            .collect()
    }

    /// A block under more conditions.
    fn guarded(&mut self, guards: Vec<Guard>, body: &[Stmt]) {
        let before = self.guards.len();
        self.guards.extend(guards);
        self.visit_body(body);
        self.guards.truncate(before);
    }

    fn conditions(&self, test: &Expr, truth: bool) -> Vec<Guard> {
        guards::conditions(self.resolver, &self.loop_variables, test, truth)
    }

    fn test(&mut self, test: &Expr) {
        self.visit_expr(test);
        implicit::truth(self, test);
    }

    fn choice(&mut self, choice: &ast::StmtIf) {
        if is_type_checking(&choice.test) {
            for clause in &choice.elif_else_clauses {
                self.visit_body(&clause.body);
            }
            return;
        }
        self.test(&choice.test);
        self.guarded(self.conditions(&choice.test, true), &choice.body);
        let before = self.guards.len();
        let mut not = self.conditions(&choice.test, false);
        for clause in &choice.elif_else_clauses {
            self.guards.append(&mut not);
            if let Some(test) = &clause.test {
                self.test(test);
                self.guarded(self.conditions(test, true), &clause.body);
                not = self.conditions(test, false);
            } else {
                self.visit_body(&clause.body);
            }
        }
        self.guards.truncate(before);
    }

    /// What is known behind an `if` or `try` that control does not always leave by its end.
    fn known_after(&self, statement: &Stmt) -> Vec<Guard> {
        match statement {
            Stmt::If(choice) if choice.elif_else_clauses.is_empty() && guards::ends(&choice.body) => {
                self.conditions(&choice.test, false)
            }
            Stmt::Try(question) if guards::asks_for_loop(&question.body) => {
                let succeeds = if question.orelse.is_empty() { &question.body } else { &question.orelse };
                if guards::ends(succeeds) { vec![Guard::NoRunningLoop] } else { vec![] }
            }
            _ => vec![],
        }
    }

    fn attempt(&mut self, attempt: &ast::StmtTry) {
        let asks = guards::asks_for_loop(&attempt.body);
        if asks {
            self.loop_variables.extend(guards::loop_variables(attempt));
        }
        self.visit_body(&attempt.body);
        for handler in &attempt.handlers {
            let ast::ExceptHandler::ExceptHandler(handler) = handler;
            let guards = match asks && guards::catches_no_loop(handler) {
                true => vec![Guard::NoRunningLoop],
                false => vec![],
            };
            self.guarded(guards, &handler.body);
        }
        self.visit_body(&attempt.orelse);
        self.visit_body(&attempt.finalbody);
    }

    fn with(&mut self, with: &ast::StmtWith) {
        let before = self.held.len();
        for item in &with.items {
            self.visit_expr(&item.context_expr);
            implicit::entered(self, &item.context_expr, with.is_async);
            if let Some(target) = &item.optional_vars {
                self.visit_expr(target);
            }
            self.held.push(self.resolver.held(&item.context_expr, with.is_async));
        }
        self.awaits += u32::from(with.is_async);
        self.visit_body(&with.body);
        for item in with.items.iter().rev() {
            implicit::left(self, &item.context_expr, with.is_async);
            self.held.pop();
        }
        self.held.truncate(before);
    }

    fn comprehension(&mut self, generators: &[ast::Comprehension], elements: &[&Expr]) {
        let before = self.loops;
        for generator in generators {
            self.visit_expr(&generator.iter);
            implicit::iterated(self, &generator.iter, generator.is_async);
            self.awaits += u32::from(generator.is_async);
            self.loops += 1;
            for test in &generator.ifs {
                self.test(test);
            }
        }
        elements.iter().for_each(|element| self.visit_expr(element));
        self.loops = before;
    }
}

impl<'s> Visitor<'s> for Body<'_, '_> {
    fn visit_body(&mut self, body: &'s [Stmt]) {
        let before = self.guards.len();
        for statement in body {
            self.visit_stmt(statement);
            let known = self.known_after(statement);
            self.guards.extend(known);
        }
        self.guards.truncate(before);
    }

    fn visit_stmt(&mut self, statement: &'s Stmt) {
        match statement {
            Stmt::FunctionDef(node) => {
                node.decorator_list.iter().for_each(|decorator| self.visit_decorator(decorator));
                for parameter in node.parameters.iter_non_variadic_params() {
                    parameter.default.iter().for_each(|default| self.visit_expr(default));
                }
            }
            Stmt::ClassDef(node) => self.visit_body(&node.body),
            Stmt::For(node) => {
                self.visit_expr(&node.iter);
                implicit::iterated(self, &node.iter, node.is_async);
                self.awaits += u32::from(node.is_async);
                self.loops += 1;
                self.visit_expr(&node.target);
                self.visit_body(&node.body);
                self.loops -= 1;
                self.visit_body(&node.orelse);
            }
            Stmt::While(node) => {
                self.loops += 1;
                self.test(&node.test);
                self.guarded(self.conditions(&node.test, true), &node.body);
                self.loops -= 1;
                self.visit_body(&node.orelse);
            }
            Stmt::If(node) => self.choice(node),
            Stmt::Try(node) => self.attempt(node),
            Stmt::With(node) => self.with(node),
            Stmt::Assert(node) => {
                self.test(&node.test);
                node.msg.iter().for_each(|message| self.visit_expr(message));
            }
            Stmt::Assign(node) => {
                self.visit_expr(&node.value);
                for target in &node.targets {
                    implicit::unpacked(self, target, &node.value);
                    self.visit_expr(target);
                }
            }
            Stmt::AugAssign(node) => {
                self.visit_expr(&node.value);
                implicit::augmented(self, node);
                self.visit_expr(&node.target);
            }
            Stmt::Delete(node) => {
                for target in &node.targets {
                    implicit::deleted(self, target);
                    self.visit_expr(target);
                }
            }
            Stmt::Import(_) | Stmt::ImportFrom(_) => implicit::imported(self, statement),
            _ => walk_stmt(self, statement),
        }
    }

    fn visit_annotation(&mut self, _: &'s Expr) {}

    fn visit_expr(&mut self, expression: &'s Expr) {
        let awaited = std::mem::take(&mut self.awaited);
        match expression {
            Expr::Lambda(node) => {
                for parameter in node.parameters.iter().flat_map(|parameters| parameters.iter_non_variadic_params()) {
                    parameter.default.iter().for_each(|default| self.visit_expr(default));
                }
            }
            Expr::Await(node) => {
                self.awaits += 1;
                self.awaited = true;
                self.visit_expr(&node.value);
                self.awaited = false;
                implicit::awaited(self, &node.value);
            }
            Expr::Call(node) => self.call(node, awaited),
            Expr::ListComp(node) => self.comprehension(&node.generators, &[&node.elt]),
            Expr::SetComp(node) => self.comprehension(&node.generators, &[&node.elt]),
            Expr::Generator(node) => self.comprehension(&node.generators, &[&node.elt]),
            Expr::DictComp(node) => {
                let key = node.key.as_deref();
                self.comprehension(&node.generators, &key.into_iter().chain([&*node.value]).collect::<Vec<_>>());
            }
            Expr::If(node) => {
                self.test(&node.test);
                let before = self.guards.len();
                self.guards.extend(self.conditions(&node.test, true));
                self.visit_expr(&node.body);
                self.guards.truncate(before);
                self.guards.extend(self.conditions(&node.test, false));
                self.visit_expr(&node.orelse);
                self.guards.truncate(before);
            }
            _ => {
                walk_expr(self, expression);
                implicit::evaluated(self, expression);
            }
        }
    }
}

/// `TYPE_CHECKING`, with or without its module: never true when the code runs.
fn is_type_checking(test: &Expr) -> bool {
    matches!(names::written(test).as_str(), "TYPE_CHECKING" | "typing.TYPE_CHECKING" | "t.TYPE_CHECKING")
}

fn literal(value: &Expr) -> Option<Literal> {
    match value {
        Expr::NoneLiteral(_) => Some(Literal::None),
        Expr::BooleanLiteral(literal) => Some(Literal::Bool(literal.value)),
        Expr::NumberLiteral(literal) => match &literal.value {
            ast::Number::Int(number) => number.as_i64().map(|number| Literal::Number(number as f64)),
            ast::Number::Float(number) => Some(Literal::Number(*number)),
            ast::Number::Complex { .. } => None,
        },
        Expr::UnaryOp(operation) if operation.op == ast::UnaryOp::USub => match literal(&operation.operand)? {
            Literal::Number(number) => Some(Literal::Number(-number)),
            _ => None,
        },
        Expr::StringLiteral(literal) => Some(Literal::String(literal.value.to_str().chars().take(200).collect())),
        _ => None,
    }
}

fn shortened(mut text: String) -> String {
    if let Some((cut, _)) = text.char_indices().nth(TEXT) {
        text.truncate(cut);
        text.push_str("...");
    }
    text
}
