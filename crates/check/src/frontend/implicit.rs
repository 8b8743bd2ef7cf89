//! Calls that nobody wrote: `with`, iteration, properties, operators, built-ins that ask an object, `del`, imports.
//!
//! Methods of the standard library count where entering, leaving or iterating may block (a lock, a file); its other
//! dunder methods never do.

use ruff_db::files::File;
use ruff_python_ast as ast;
use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::{Ranged, TextRange};
use ty_module_resolver::ModuleName;
use ty_python_core::definition::{Definition, DefinitionKind};

use super::extract::Body;
use super::values::{Possible, Value};
use super::{classes, names};
use crate::facts::{Certainty, FnKey, SiteKind, Target};

/// Built-ins that run a dunder method of their first argument, and which: the first that the object has.
const ASKING: &[(&str, &[&str])] = &[
    ("abs", &["__abs__"]),
    ("bool", &["__bool__", "__len__"]),
    ("bytes", &["__bytes__"]),
    ("complex", &["__complex__"]),
    ("copy", &["__copy__"]),
    ("deepcopy", &["__deepcopy__"]),
    ("dir", &["__dir__"]),
    ("float", &["__float__"]),
    ("format", &["__format__", "__str__"]),
    ("fspath", &["__fspath__"]),
    ("hash", &["__hash__"]),
    ("int", &["__int__", "__index__"]),
    ("iter", &["__iter__"]),
    ("len", &["__len__"]),
    ("next", &["__next__"]),
    ("print", &["__str__", "__repr__"]),
    ("repr", &["__repr__"]),
    ("reversed", &["__reversed__"]),
    ("round", &["__round__"]),
    ("str", &["__str__", "__repr__"]),
];

/// Built-ins and methods that exhaust what they are given.
const CONSUMING: &[&str] = &[
    "all",
    "any",
    "deque",
    "dict",
    "enumerate",
    "extend",
    "filter",
    "frozenset",
    "join",
    "list",
    "map",
    "max",
    "min",
    "next",
    "reduce",
    "set",
    "sorted",
    "sum",
    "tuple",
    "update",
    "zip",
];

/// A class of the standard library as typeshed has it.
fn is_vendored(body: &Body<'_, '_>, class: Definition<'_>) -> bool {
    let db = body.resolver.engine.db;
    class.file(db).path(db).is_vendored_path()
}

/// The classes of a value, of which some are worth asking for methods.
fn instances<'a>(body: &Body<'_, 'a>, value: &Expr) -> Vec<(Definition<'a>, Certainty)> {
    body.resolver
        .engine
        .of(&body.resolver.model, value)
        .0
        .into_iter()
        .filter_map(|possible| match possible.value {
            Value::Instance(class) => Some((class, possible.certainty)),
            _ => None,
        })
        .collect()
}

/// Those whose source can be followed.
fn own<'a>(body: &Body<'_, 'a>, value: &Expr) -> Vec<(Definition<'a>, Certainty)> {
    if is_plain(value) {
        return vec![];
    }
    let mut found = instances(body, value);
    found.retain(|(class, _)| !is_vendored(body, *class));
    found
}

/// Literals and displays have no methods of anybody's.
fn is_plain(value: &Expr) -> bool {
    value.is_literal_expr()
        || matches!(
            value,
            Expr::FString(_) | Expr::List(_) | Expr::Tuple(_) | Expr::Dict(_) | Expr::Set(_) | Expr::ListComp(_)
        )
}

/// The targets of the first of these methods that a class has.
fn methods<'a>(body: &Body<'_, 'a>, found: &[(Definition<'a>, Certainty)], names: &[&str]) -> Vec<Target> {
    let mut targets = vec![];
    for (class, certainty) in found {
        for name in names {
            let before = targets.len();
            body.resolver.add_methods(*class, name, *certainty, &mut targets);
            if targets.len() > before {
                break;
            }
        }
    }
    targets
}

fn operator(body: &mut Body<'_, '_>, value: &Expr, range: TextRange, names: &[&str]) {
    let found = own(body, value);
    let targets = methods(body, &found, names);
    // What typeshed's `object` has is nobody's code.
    if targets.iter().any(|target| target.key.is_some()) {
        let text = names::written(value);
        body.site(SiteKind::Operator, range, text, targets);
    }
}

/// `if value`, `while value`, `not value`.
pub(super) fn truth(body: &mut Body<'_, '_>, value: &Expr) {
    match value {
        Expr::BoolOp(operation) => operation.values.iter().for_each(|value| truth(body, value)),
        Expr::UnaryOp(operation) if operation.op == ast::UnaryOp::Not => truth(body, &operation.operand),
        Expr::Name(_) | Expr::Attribute(_) | Expr::Call(_) => {
            operator(body, value, value.range(), &["__bool__", "__len__"]);
        }
        _ => {}
    }
}

/// What the evaluation of an expression runs besides its parts.
pub(super) fn evaluated(body: &mut Body<'_, '_>, expression: &Expr) {
    match expression {
        Expr::Attribute(node) => attribute(body, node),
        Expr::Subscript(node) => {
            let name = match node.ctx {
                ast::ExprContext::Store => "__setitem__",
                ast::ExprContext::Del => "__delitem__",
                _ => "__getitem__",
            };
            operator(body, &node.value, node.range(), &[name]);
        }
        Expr::BinOp(node) => {
            let name = dunder(node.op);
            operator(body, &node.left, node.range(), &[&format!("__{name}__")]);
            operator(body, &node.right, node.range(), &[&format!("__r{name}__")]);
        }
        Expr::UnaryOp(node) => match node.op {
            ast::UnaryOp::Not => truth(body, &node.operand),
            ast::UnaryOp::Invert => operator(body, &node.operand, node.range(), &["__invert__"]),
            ast::UnaryOp::UAdd => operator(body, &node.operand, node.range(), &["__pos__"]),
            ast::UnaryOp::USub => operator(body, &node.operand, node.range(), &["__neg__"]),
        },
        Expr::Compare(node) => {
            let mut left = &*node.left;
            for (operation, right) in node.ops.iter().zip(&node.comparators) {
                let (value, names): (&Expr, &[&str]) = match operation {
                    ast::CmpOp::Eq => (left, &["__eq__"]),
                    ast::CmpOp::NotEq => (left, &["__ne__", "__eq__"]),
                    ast::CmpOp::Lt => (left, &["__lt__"]),
                    ast::CmpOp::LtE => (left, &["__le__"]),
                    ast::CmpOp::Gt => (left, &["__gt__"]),
                    ast::CmpOp::GtE => (left, &["__ge__"]),
                    ast::CmpOp::In | ast::CmpOp::NotIn => (right, &["__contains__", "__iter__", "__getitem__"]),
                    ast::CmpOp::Is | ast::CmpOp::IsNot => (left, &[]),
                };
                operator(body, value, node.range(), names);
                left = right;
            }
        }
        Expr::BoolOp(node) => {
            for value in &node.values[..node.values.len() - 1] {
                truth(body, value);
            }
        }
        Expr::FString(node) => {
            for part in node.value.elements() {
                if let ast::InterpolatedStringElement::Interpolation(part) = part {
                    let names: &[&str] = match part.conversion {
                        ast::ConversionFlag::Repr | ast::ConversionFlag::Ascii => &["__repr__"],
                        ast::ConversionFlag::Str => &["__str__", "__repr__"],
                        ast::ConversionFlag::None => &["__format__", "__str__", "__repr__"],
                    };
                    operator(body, &part.expression, part.expression.range(), names);
                }
            }
        }
        Expr::YieldFrom(node) => iterated(body, &node.value, false),
        Expr::Starred(node) if node.ctx.is_load() => iterated(body, &node.value, false),
        _ => {}
    }
}

fn dunder(operator: ast::Operator) -> &'static str {
    match operator {
        ast::Operator::Add => "add",
        ast::Operator::Sub => "sub",
        ast::Operator::Mult => "mul",
        ast::Operator::MatMult => "matmul",
        ast::Operator::Div => "truediv",
        ast::Operator::Mod => "mod",
        ast::Operator::Pow => "pow",
        ast::Operator::LShift => "lshift",
        ast::Operator::RShift => "rshift",
        ast::Operator::BitOr => "or",
        ast::Operator::BitXor => "xor",
        ast::Operator::BitAnd => "and",
        ast::Operator::FloorDiv => "floordiv",
    }
}

/// `value += other`
pub(super) fn augmented(body: &mut Body<'_, '_>, node: &ast::StmtAugAssign) {
    let name = dunder(node.op);
    operator(body, &node.target, node.range(), &[&format!("__i{name}__"), &format!("__{name}__")]);
}

/// `value.name`, read, set or deleted: a property, a descriptor, `__getattr__`.
fn attribute(body: &mut Body<'_, '_>, node: &ast::ExprAttribute) {
    let found = own(body, &node.value);
    if found.is_empty() {
        return;
    }
    let mut targets = vec![];
    for (class, certainty) in found {
        read(body, class, node, certainty, &mut targets);
    }
    if targets.iter().any(|target: &Target| target.key.is_some()) {
        let text = format!("{}.{}", names::written(&node.value), node.attr);
        body.site(SiteKind::Property, node.range(), text, targets);
    }
}

fn read<'a>(
    body: &Body<'_, 'a>,
    class: Definition<'a>,
    node: &ast::ExprAttribute,
    certainty: Certainty,
    targets: &mut Vec<Target>,
) {
    let resolver = body.resolver;
    let engine = &resolver.engine;
    let (protocol, fallback) = match node.ctx {
        ast::ExprContext::Store => ("__set__", "__setattr__"),
        ast::ExprContext::Del => ("__delete__", "__delattr__"),
        _ => ("__get__", "__getattr__"),
    };
    let members = classes::member(engine.db, class, node.attr.as_str());
    if members.is_empty() || !node.ctx.is_load() {
        resolver.add_methods(class, fallback, certainty, targets);
    }
    for definition in members {
        if let DefinitionKind::Function(_) = definition.kind(engine.db) {
            // Getter, setter and deleter have one name; the decorator says which is which.
            if engine.accessor(*definition) == Some(protocol) {
                let value = Value::Function(*definition);
                resolver.add(&Possible { value, bound: 0, certainty }, targets);
            }
        } else if engine.is_class_level(*definition) {
            for possible in engine.bound_to(*definition, 4).0 {
                if let Value::Instance(descriptor) = possible.value
                    && !is_vendored(body, descriptor)
                {
                    resolver.add_methods(descriptor, protocol, certainty, targets);
                }
            }
        }
    }
    if node.ctx.is_load() {
        resolver.add_methods(class, "__getattribute__", certainty, targets);
    }
}

/// `with value`: what entering runs. Of a function under `@contextmanager` the function itself.
pub(super) fn entered(body: &mut Body<'_, '_>, value: &Expr, is_async: bool) {
    let mut targets = body.resolver.context_functions(value);
    if targets.is_empty() {
        let found = instances(body, value);
        targets = methods(body, &found, &[if is_async { "__aenter__" } else { "__enter__" }]);
    }
    if !targets.is_empty() {
        let site = body.site(SiteKind::Enter, value.range(), names::written(value), targets);
        site.awaited = is_async;
    }
}

/// The end of `with value`.
pub(super) fn left(body: &mut Body<'_, '_>, value: &Expr, is_async: bool) {
    if !body.resolver.context_functions(value).is_empty() {
        return;
    }
    let found = instances(body, value);
    let targets = methods(body, &found, &[if is_async { "__aexit__" } else { "__exit__" }]);
    if !targets.is_empty() {
        let site = body.site(SiteKind::Exit, value.range(), names::written(value), targets);
        site.awaited = is_async;
    }
}

/// `for _ in value`
pub(super) fn iterated(body: &mut Body<'_, '_>, value: &Expr, is_async: bool) {
    if is_plain(value) {
        return;
    }
    let mut targets = body.resolver.generator_functions(value);
    if targets.is_empty() {
        let found = instances(body, value);
        let engine = &body.resolver.engine;
        let (iter, next) = if is_async { ("__aiter__", "__anext__") } else { ("__iter__", "__next__") };
        targets = methods(body, &found, &[iter, "__getitem__"]);
        for (class, certainty) in found {
            if is_vendored(body, class) && names::qualified(engine.db, class).starts_with("builtins.") {
                continue;
            }
            // The iterator that `__iter__` makes, or the object itself.
            let mut iterators = vec![(class, certainty)];
            for method in classes::member(engine.db, class, iter) {
                for possible in engine.returned(*method, 4).0 {
                    if let Value::Instance(iterator) = possible.value
                        && iterator != class
                    {
                        iterators.push((iterator, certainty));
                    }
                }
            }
            for target in methods(body, &iterators, &[next]) {
                if !targets.contains(&target) {
                    targets.push(target);
                }
            }
        }
        targets.retain(|target| !target.qual.starts_with("builtins.") && !target.qual.starts_with("typing."));
    }
    if !targets.is_empty() {
        let site = body.site(SiteKind::Iterate, value.range(), names::written(value), targets);
        site.awaited = is_async;
    }
}

/// `a, b = value`
pub(super) fn unpacked(body: &mut Body<'_, '_>, target: &Expr, value: &Expr) {
    if matches!(target, Expr::Tuple(_) | Expr::List(_)) {
        iterated(body, value, false);
    }
}

/// `await value`, where that is no call.
pub(super) fn awaited(body: &mut Body<'_, '_>, value: &Expr) {
    operator(body, value, value.range(), &["__await__"]);
}

/// `del value`
pub(super) fn deleted(body: &mut Body<'_, '_>, target: &Expr) {
    if matches!(target, Expr::Name(_) | Expr::Attribute(_)) {
        let found = own(body, target);
        let targets = methods(body, &found, &["__del__"]);
        if !targets.is_empty() {
            body.site(SiteKind::Delete, target.range(), names::written(target), targets);
        }
    }
}

/// What a call of a built-in runs of its arguments.
pub(super) fn called(body: &mut Body<'_, '_>, call: &ast::ExprCall, targets: &[Target]) {
    let name = match &*call.func {
        Expr::Name(name) => name.id.as_str(),
        Expr::Attribute(attribute) => attribute.attr.as_str(),
        _ => return,
    };
    // Only where it is known to be the standard library's.
    let known = |target: &Target| target.key.is_none() && target.param.is_none();
    if targets.is_empty() || !targets.iter().all(known) {
        return;
    }
    let Some(first) = call.arguments.args.first() else { return };
    if CONSUMING.contains(&name) {
        for argument in &call.arguments.args {
            iterated(body, argument, false);
        }
    }
    if matches!(name, "enter_context" | "enter_async_context" | "push" | "push_async_exit") {
        let is_async = name.contains("async");
        entered(body, first, is_async);
        left(body, first, is_async);
    }
    if let Some((_, methods)) = ASKING.iter().find(|(asking, _)| *asking == name) {
        let arguments = if name == "print" { &call.arguments.args[..] } else { std::slice::from_ref(first) };
        for argument in arguments {
            operator(body, argument, call.range(), methods);
        }
    }
    if matches!(name, "getattr" | "hasattr" | "setattr" | "delattr")
        && let Some(Expr::StringLiteral(attribute)) = call.arguments.args.get(1)
    {
        let ctx = match name {
            "setattr" => ast::ExprContext::Store,
            "delattr" => ast::ExprContext::Del,
            _ => ast::ExprContext::Load,
        };
        let found = own(body, first);
        let node = ast::ExprAttribute {
            node_index: ast::AtomicNodeIndex::NONE,
            range: call.range(),
            value: Box::new(first.clone()),
            attr: ast::Identifier::new(attribute.value.to_str(), attribute.range()),
            ctx,
        };
        let mut targets = vec![];
        for (class, certainty) in found {
            read(body, class, &node, certainty, &mut targets);
        }
        if targets.iter().any(|target| target.key.is_some()) {
            body.site(SiteKind::Property, call.range(), format!("{}.{}", names::written(first), node.attr), targets);
        }
    }
}

/// `import x` inside a function: the body of a module of the project, which runs the first time.
pub(super) fn imported(body: &mut Body<'_, '_>, statement: &Stmt) {
    let resolver = body.resolver;
    let mut modules: Vec<(String, File, TextRange)> = vec![];
    let mut add = |name: String, level: u32, range: TextRange| {
        let name_alone = (!name.is_empty()).then_some(name.as_str());
        if let Some(module) = resolver.model.resolve_module(name_alone, level)
            && let Some(file) = module.file(resolver.engine.db)
            && module.search_path(resolver.engine.db).is_some_and(|path| path.is_first_party())
            && ModuleName::new(&name).is_some()
        {
            modules.push((name, file, range));
        }
    };
    match statement {
        Stmt::Import(node) => node.names.iter().for_each(|alias| add(alias.name.to_string(), 0, alias.range())),
        Stmt::ImportFrom(node) => {
            let module = node.module.as_ref().map(|module| module.to_string()).unwrap_or_default();
            add(module, node.level, node.range());
        }
        _ => {}
    }
    for (name, file, range) in modules {
        let target = Target {
            qual: name.clone(),
            key: Some(FnKey { path: resolver.engine.db.path(file), offset: FnKey::MODULE }),
            param: None,
            is_async: false,
            body: true,
            bound: 0,
            certainty: Certainty::Likely,
        };
        body.site(SiteKind::Import, range, format!("import {name}"), vec![target]);
    }
}
