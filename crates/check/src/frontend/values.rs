//! What an expression may be: functions, classes, instances, names of modules that are not installed.
//!
//! ty's inference is asked first. What it leaves open (unannotated returns, attributes assigned in a method, decorated
//! functions, functions in containers) is followed through definitions, a few steps deep.

use ruff_db::parsed::parsed_module;
use ruff_python_ast as ast;
use ruff_python_ast::Expr;
use ruff_text_size::Ranged;
use ty_python_core::definition::{Definition, DefinitionKind, ParameterDefinitionNodeKind};
use ty_python_core::scope::NodeWithScopeKind;
use ty_python_core::semantic_index;
use ty_python_semantic::types::ide_support::{definitions_for_attribute, definitions_for_name};
use ty_python_semantic::types::{Type, TypeDefinition};
use ty_python_semantic::{HasType, ImportAliasResolution, SemanticModel};

use super::classes;
use super::db::Db;
use super::names;
use crate::facts::Certainty;

/// How many definitions are followed in a row.
pub(super) const DEPTH: u8 = 7;
/// More possibilities than this tell nothing.
const WIDTH: usize = 12;

/// One thing an expression may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value<'db> {
    /// A function: its definition.
    Function(Definition<'db>),
    /// A lambda: its file's definition scope is not needed, only where it is.
    Lambda(ruff_db::files::File, u32),
    /// A class itself.
    Class(Definition<'db>),
    /// An instance of a class.
    Instance(Definition<'db>),
    /// A parameter of a function: where that is, and the parameter's position.
    Parameter(ruff_db::files::File, u32, u32),
    /// The dotted name of something that is not installed, as imported.
    External(String),
}

/// A value with how sure it is and how many arguments are bound already.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Possible<'db> {
    /// What.
    pub(super) value: Value<'db>,
    /// Arguments that `functools.partial` has bound.
    pub(super) bound: u32,
    /// How sure.
    pub(super) certainty: Certainty,
}

/// Values, without repetition.
#[derive(Clone, Debug, Default)]
pub(super) struct Values<'db>(pub(super) Vec<Possible<'db>>);

impl<'db> Values<'db> {
    fn push(&mut self, value: Value<'db>, bound: u32) {
        if !self.0.iter().any(|known| known.value == value) && self.0.len() < WIDTH {
            self.0.push(Possible { value, bound, certainty: Certainty::Certain });
        }
    }

    fn one(value: Value<'db>) -> Self {
        let mut values = Self::default();
        values.push(value, 0);
        values
    }

    fn extend(&mut self, other: Self) {
        for possible in other.0 {
            if !self.0.iter().any(|known| known.value == possible.value) && self.0.len() < WIDTH {
                self.0.push(possible);
            }
        }
    }

    /// Several possibilities are likely each.
    fn weighed(mut self) -> Self {
        if self.0.len() > 1 {
            for possible in &mut self.0 {
                possible.certainty = possible.certainty.min(Certainty::Likely);
            }
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Looks values up.
pub(super) struct Engine<'db> {
    pub(super) db: &'db Db,
}

impl<'db> Engine<'db> {
    pub(super) fn new(db: &'db Db) -> Self {
        Self { db }
    }

    fn model(&self, definition: Definition<'db>) -> SemanticModel<'db> {
        SemanticModel::new(self.db, definition.program_file(self.db))
    }

    /// What an expression denotes.
    pub(super) fn of(&self, model: &SemanticModel<'db>, expression: &Expr) -> Values<'db> {
        self.evaluate(model, expression, DEPTH).weighed()
    }

    pub(super) fn evaluate(&self, model: &SemanticModel<'db>, expression: &Expr, depth: u8) -> Values<'db> {
        if depth == 0 {
            return Values::default();
        }
        match expression {
            Expr::Lambda(lambda) => {
                return Values::one(Value::Lambda(model.file(), lambda.range().start().to_u32()));
            }
            Expr::If(choice) => {
                let mut values = self.evaluate(model, &choice.body, depth - 1);
                values.extend(self.evaluate(model, &choice.orelse, depth - 1));
                return values;
            }
            Expr::Named(named) => return self.evaluate(model, &named.value, depth),
            _ => {}
        }
        let typed = self.typed(model, expression);
        if !typed.is_empty() && !self.is_wrapper(&typed) {
            return typed;
        }
        let own = match expression {
            Expr::Name(name) => self.name(model, name, depth),
            Expr::Attribute(attribute) => self.attribute(model, attribute, depth),
            Expr::Call(call) => self.result(model, call, depth),
            Expr::Await(awaited) => self.evaluate(model, &awaited.value, depth - 1),
            Expr::BoolOp(operation) => {
                let mut values = Values::default();
                for value in &operation.values {
                    values.extend(self.evaluate(model, value, depth - 1));
                }
                values
            }
            Expr::Subscript(subscript) => self.element(model, &subscript.value, Some(&subscript.slice), depth - 1),
            _ => Values::default(),
        };
        if own.is_empty() { typed } else { own }
    }

    /// ty's own answer.
    fn typed(&self, model: &SemanticModel<'db>, expression: &Expr) -> Values<'db> {
        let mut values = Values::default();
        let Some(kind) = expression.inferred_type(model) else { return values };
        self.decompose(model, kind, &mut values);
        values
    }

    pub(super) fn decompose(&self, model: &SemanticModel<'db>, kind: Type<'db>, values: &mut Values<'db>) {
        let env = model.program_environment();
        let db = self.db;
        match kind {
            Type::Union(union) => {
                for element in union.elements(db) {
                    if !element.is_none(db) {
                        self.decompose(model, *element, values);
                    }
                }
            }
            Type::Intersection(intersection) => {
                for element in intersection.iter_positive(db) {
                    self.decompose(model, element, values);
                }
            }
            Type::FunctionLiteral(_) | Type::BoundMethod(_) => {
                if let Some(TypeDefinition::Function(definition)) = kind.definition(db, &env) {
                    values.push(Value::Function(definition), 0);
                }
            }
            Type::ClassLiteral(_) | Type::GenericAlias(_) | Type::SubclassOf(_) => match kind.definition(db, &env) {
                Some(TypeDefinition::StaticClass(definition)) => values.push(Value::Class(definition), 0),
                Some(TypeDefinition::TypeVar(definition)) => {
                    for class in self.bound_of(definition) {
                        values.push(Value::Class(class), 0);
                    }
                }
                _ => {}
            },
            Type::NominalInstance(_) | Type::ProtocolInstance(_) | Type::TypedDict(_) => {
                if let Some(TypeDefinition::StaticClass(definition)) = kind.definition(db, &env) {
                    values.push(Value::Instance(definition), 0);
                }
            }
            Type::LiteralValue(_) => {
                if let Some(TypeDefinition::StaticClass(definition)) = kind.definition(db, &env) {
                    values.push(Value::Instance(definition), 0);
                }
            }
            Type::TypeVar(_) => {
                if let Some(TypeDefinition::TypeVar(definition)) = kind.definition(db, &env) {
                    for class in self.bound_of(definition) {
                        values.push(Value::Instance(class), 0);
                    }
                }
            }
            Type::NewTypeInstance(newtype) => self.decompose(model, newtype.concrete_base_type(db), values),
            _ => {}
        }
    }

    /// The classes that a type variable is bounded by.
    fn bound_of(&self, variable: Definition<'db>) -> Vec<Definition<'db>> {
        let parsed = parsed_module(self.db, variable.python_file(self.db)).load(self.db);
        let model = self.model(variable);
        let bound = match variable.kind(self.db) {
            DefinitionKind::TypeVar(node) => node.node(&parsed).bound.as_deref(),
            DefinitionKind::Assignment(assignment) => match assignment.value(&parsed) {
                Expr::Call(call) => call.arguments.find_keyword("bound").map(|keyword| &keyword.value),
                _ => None,
            },
            // The type variable that ty gives to `self`: its definition is the class.
            DefinitionKind::Class(_) => return vec![variable],
            _ => None,
        };
        let Some(bound) = bound else { return vec![] };
        self.annotated(&model, bound, 3)
            .0
            .into_iter()
            .filter_map(|possible| match possible.value {
                Value::Instance(class) => Some(class),
                _ => None,
            })
            .collect()
    }

    /// A callable object of the standard library that stands for a function: its definition says more.
    fn is_wrapper(&self, values: &Values<'db>) -> bool {
        values.0.iter().all(|possible| {
            let Value::Instance(class) = &possible.value else { return false };
            let name = class.name(self.db).unwrap_or_default();
            matches!(
                name.as_str(),
                "_lru_cache_wrapper" | "_Wrapped" | "partial" | "_Wrapper" | "FunctionType" | "MethodType"
            )
        })
    }

    fn name(&self, model: &SemanticModel<'db>, name: &ast::ExprName, depth: u8) -> Values<'db> {
        let mut values = Values::default();
        for resolved in
            definitions_for_name(model, name.id.as_str(), name.into(), ImportAliasResolution::ResolveAliases)
        {
            if let Some(definition) = resolved.definition() {
                values.extend(self.bound_to(definition, depth - 1));
            }
        }
        values
    }

    fn attribute(&self, model: &SemanticModel<'db>, attribute: &ast::ExprAttribute, depth: u8) -> Values<'db> {
        let mut values = Values::default();
        for resolved in definitions_for_attribute(model, attribute) {
            if let Some(definition) = resolved.definition() {
                values.extend(self.attribute_value(definition, depth - 1));
            }
        }
        if !values.is_empty() {
            return values;
        }
        for receiver in self.evaluate(model, &attribute.value, depth - 1).0 {
            match receiver.value {
                Value::Instance(class) | Value::Class(class) => {
                    for definition in classes::member(self.db, class, attribute.attr.as_str()) {
                        values.extend(self.attribute_value(definition, depth - 1));
                    }
                }
                Value::External(name) => values.push(Value::External(format!("{name}.{}", attribute.attr)), 0),
                _ => {}
            }
        }
        if values.is_empty() && matches!(&*attribute.value, Expr::Call(call) if is_super(call)) {
            for definition in self.super_member(model, attribute) {
                values.extend(self.bound_to(definition, depth - 1));
            }
        }
        values
    }

    /// What `super().name` finds. ty resolves it, except where a base is unknown.
    fn super_member(&self, model: &SemanticModel<'db>, attribute: &ast::ExprAttribute) -> Vec<Definition<'db>> {
        let index = semantic_index(self.db, model.program_file());
        let Some(mut scope) = model.scope(ast::AnyNodeRef::from(attribute)) else { return vec![] };
        let parsed = parsed_module(self.db, model.python_file()).load(self.db);
        loop {
            if let NodeWithScopeKind::Class(class) = index.scope(scope).node() {
                let definition = ty_python_semantic::HasDefinition::definition(class.node(&parsed), model);
                return classes::member_after(self.db, definition, Some(definition), attribute.attr.as_str());
            }
            let Some(parent) = index.scope(scope).parent() else { return vec![] };
            scope = parent;
        }
    }

    /// What an attribute bound to a definition is when it is read: of a property its result.
    fn attribute_value(&self, definition: Definition<'db>, depth: u8) -> Values<'db> {
        if depth > 0 && self.is_property(definition) {
            return self.returned(definition, depth - 1);
        }
        self.bound_to(definition, depth)
    }

    /// Whether reading the attribute runs the function.
    pub(super) fn is_property(&self, definition: Definition<'db>) -> bool {
        let DefinitionKind::Function(node) = definition.kind(self.db) else { return false };
        let parsed = parsed_module(self.db, definition.python_file(self.db)).load(self.db);
        is_property(node.node(&parsed))
    }

    /// What a definition binds its name to.
    pub(super) fn bound_to(&self, definition: Definition<'db>, depth: u8) -> Values<'db> {
        if depth == 0 {
            return Values::default();
        }
        let db = self.db;
        let parsed = parsed_module(db, definition.python_file(db)).load(db);
        let model = self.model(definition);
        match definition.kind(db) {
            DefinitionKind::Function(_) => Values::one(Value::Function(definition)),
            DefinitionKind::Class(_) => Values::one(Value::Class(definition)),
            DefinitionKind::Import(import) => {
                let alias = import.alias(&parsed);
                let name = match &alias.asname {
                    Some(_) => alias.name.as_str(),
                    None => alias.name.split('.').next().unwrap_or_default(),
                };
                Values::one(Value::External(name.to_owned()))
            }
            DefinitionKind::ImportFrom(import) => {
                let statement = import.import(&parsed);
                let module = statement.module.as_ref().map_or("", |module| module.as_str());
                let dots = ".".repeat(statement.level as usize);
                Values::one(Value::External(format!("{dots}{module}.{}", import.alias(&parsed).name)))
            }
            DefinitionKind::Assignment(assignment) if assignment.unpack().is_none() => {
                self.evaluate(&model, assignment.value(&parsed), depth)
            }
            DefinitionKind::AnnotatedAssignment(assignment) => {
                let value = assignment.value(&parsed).map(|value| self.evaluate(&model, value, depth));
                match value {
                    Some(values) if !values.is_empty() => values,
                    _ => self.annotated(&model, assignment.annotation(&parsed), depth - 1),
                }
            }
            DefinitionKind::NamedExpression(named) => self.evaluate(&model, &named.node(&parsed).value, depth),
            DefinitionKind::Parameter(parameter) => self.parameter(&model, definition, parameter, depth),
            DefinitionKind::WithItem(item) => {
                self.entered(&model, item.context_expr(&parsed), item.is_async(), depth - 1)
            }
            DefinitionKind::For(target) => self.element(&model, target.iterable(&parsed), None, depth - 1),
            DefinitionKind::Comprehension(target) => self.element(&model, target.iterable(&parsed), None, depth - 1),
            _ => Values::default(),
        }
    }

    fn parameter(
        &self,
        model: &SemanticModel<'db>,
        definition: Definition<'db>,
        parameter: &ParameterDefinitionNodeKind,
        depth: u8,
    ) -> Values<'db> {
        let ParameterDefinitionNodeKind::Parameter(node) = parameter else { return Values::default() };
        let parsed = parsed_module(self.db, definition.python_file(self.db)).load(self.db);
        let parameter = node.node(&parsed);
        let index = semantic_index(self.db, definition.program_file(self.db));
        let NodeWithScopeKind::Function(function) = index.scope(definition.file_scope(self.db)).node() else {
            return Values::default();
        };
        let function = function.node(&parsed);
        let position = function
            .parameters
            .iter_non_variadic_params()
            .position(|other| other.parameter.name.range() == parameter.parameter.name.range());
        if position == Some(0)
            && let Some(class) = self.enclosing_class(definition)
        {
            return match function.decorator_list.iter().find_map(|decorator| match &decorator.expression {
                Expr::Name(name) => Some(name.id.as_str()),
                _ => None,
            }) {
                Some("staticmethod") => Values::default(),
                Some("classmethod") => Values::one(Value::Class(class)),
                _ => Values::one(Value::Instance(class)),
            };
        }
        if let Some(annotation) = &parameter.parameter.annotation {
            let values = self.annotated(model, annotation, depth - 1);
            if !values.is_empty() {
                return values;
            }
        }
        let Some(position) = position else { return Values::default() };
        Values::one(Value::Parameter(model.file(), function.name.range().start().to_u32(), position as u32))
    }

    /// The class around the function that a parameter belongs to.
    fn enclosing_class(&self, parameter: Definition<'db>) -> Option<Definition<'db>> {
        let index = semantic_index(self.db, parameter.program_file(self.db));
        index.class_definition_of_method(parameter.file_scope(self.db))
    }

    /// The instances that an annotation allows.
    pub(super) fn annotated(&self, model: &SemanticModel<'db>, annotation: &Expr, depth: u8) -> Values<'db> {
        let mut values = Values::default();
        if depth == 0 {
            return values;
        }
        match annotation {
            Expr::BinOp(operation) if operation.op == ast::Operator::BitOr => {
                values.extend(self.annotated(model, &operation.left, depth));
                values.extend(self.annotated(model, &operation.right, depth));
            }
            Expr::Subscript(subscript) => match names::written(&subscript.value).rsplit('.').next() {
                Some("Optional" | "Annotated" | "Final" | "ClassVar") => {
                    let inner = match &*subscript.slice {
                        Expr::Tuple(tuple) => tuple.elts.first(),
                        inner => Some(inner),
                    };
                    if let Some(inner) = inner {
                        values.extend(self.annotated(model, inner, depth));
                    }
                }
                Some("Union") => {
                    if let Expr::Tuple(tuple) = &*subscript.slice {
                        for element in &tuple.elts {
                            values.extend(self.annotated(model, element, depth));
                        }
                    }
                }
                _ => values.extend(self.annotated(model, &subscript.value, depth)),
            },
            Expr::Name(_) | Expr::Attribute(_) => {
                for possible in self.evaluate(model, annotation, depth).0 {
                    match possible.value {
                        Value::Class(class) => values.push(Value::Instance(class), 0),
                        Value::External(name) => values.push(Value::External(name), 0),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        values
    }

    /// What `with expression as x` gives to `x`.
    fn entered(&self, model: &SemanticModel<'db>, expression: &Expr, is_async: bool, depth: u8) -> Values<'db> {
        let mut values = Values::default();
        if depth == 0 {
            return values;
        }
        let enter = if is_async { "__aenter__" } else { "__enter__" };
        for possible in self.evaluate(model, expression, depth).0 {
            match possible.value {
                Value::Instance(class) => {
                    if let Expr::Call(call) = expression
                        && matches!(
                            class.name(self.db).as_deref(),
                            Some("_GeneratorContextManager" | "_AsyncGeneratorContextManager")
                        )
                    {
                        for function in self.callees(model, call, depth - 1).0 {
                            if let Value::Function(definition) = function.value {
                                values.extend(self.yielded(definition, depth - 1));
                            }
                        }
                        continue;
                    }
                    let methods = classes::member(self.db, class, enter);
                    let mut returned = Values::default();
                    for method in methods {
                        returned.extend(self.returned(method, depth - 1));
                    }
                    if returned.is_empty() {
                        returned.push(Value::Instance(class), 0);
                    }
                    values.extend(returned);
                }
                Value::External(name) => values.push(Value::External(name), 0),
                _ => {}
            }
        }
        values
    }

    /// What a call's callee may be.
    pub(super) fn callees(&self, model: &SemanticModel<'db>, call: &ast::ExprCall, depth: u8) -> Values<'db> {
        self.evaluate(model, &call.func, depth)
    }

    /// What a call gives back, where ty does not know.
    fn result(&self, model: &SemanticModel<'db>, call: &ast::ExprCall, depth: u8) -> Values<'db> {
        let mut values = Values::default();
        if depth <= 1 {
            return values;
        }
        for possible in self.callees(model, call, depth - 1).0 {
            match possible.value {
                Value::Function(definition) => {
                    if names::qualified(self.db, definition) == "functools.partial" {
                        continue;
                    }
                    values.extend(self.returned(definition, depth - 1));
                }
                Value::Class(class) if self.is_partial(class) => {
                    if let Some(first) = call.arguments.args.first() {
                        let bound = call.arguments.args.len() as u32 - 1;
                        for inner in self.evaluate(model, first, depth - 1).0 {
                            values.push(inner.value, inner.bound + bound);
                        }
                    }
                }
                Value::Class(class) => values.push(Value::Instance(class), 0),
                Value::External(name) => {
                    let last = name.rsplit('.').next().unwrap_or_default();
                    let class = last.starts_with(|first: char| first.is_ascii_uppercase());
                    values.push(Value::External(if class { name } else { format!("{name}()") }), 0);
                }
                _ => {}
            }
        }
        values
    }

    fn is_partial(&self, class: Definition<'db>) -> bool {
        class.name(self.db).as_deref() == Some("partial") && names::qualified(self.db, class) == "functools.partial"
    }

    /// What a function returns: its annotation, or what its `return` statements give.
    pub(super) fn returned(&self, function: Definition<'db>, depth: u8) -> Values<'db> {
        self.given(function, depth, false)
    }

    /// What a generator function yields.
    fn yielded(&self, function: Definition<'db>, depth: u8) -> Values<'db> {
        self.given(function, depth, true)
    }

    fn given(&self, function: Definition<'db>, depth: u8, yields: bool) -> Values<'db> {
        let mut values = Values::default();
        if depth == 0 {
            return values;
        }
        let db = self.db;
        let DefinitionKind::Function(node) = function.kind(db) else { return values };
        let parsed = parsed_module(db, function.python_file(db)).load(db);
        let node = node.node(&parsed);
        let model = self.model(function);
        if let Some(annotation) = &node.returns
            && !yields
        {
            values.extend(self.annotated(&model, annotation, depth));
            if !values.is_empty() {
                return values;
            }
        }
        for expression in given_expressions(&node.body, yields).into_iter().take(WIDTH) {
            values.extend(self.evaluate(&model, expression, depth - 1));
        }
        values
    }

    /// What an element of a container may be: of a display with its literal key, or any.
    fn element(&self, model: &SemanticModel<'db>, container: &Expr, key: Option<&Expr>, depth: u8) -> Values<'db> {
        let mut values = Values::default();
        if depth == 0 {
            return values;
        }
        match container {
            Expr::Dict(dict) => {
                let wanted = key.and_then(literal_text);
                for item in &dict.items {
                    let at = item.key.as_ref().and_then(literal_text);
                    if wanted.is_some() && at.is_some() && wanted != at {
                        continue;
                    }
                    values.extend(self.evaluate(model, &item.value, depth - 1));
                }
            }
            Expr::List(ast::ExprList { elts, .. })
            | Expr::Tuple(ast::ExprTuple { elts, .. })
            | Expr::Set(ast::ExprSet { elts, .. }) => {
                for element in elts {
                    values.extend(self.evaluate(model, element, depth - 1));
                }
            }
            Expr::Name(name) => {
                for resolved in
                    definitions_for_name(model, name.id.as_str(), name.into(), ImportAliasResolution::ResolveAliases)
                {
                    if let Some(definition) = resolved.definition() {
                        values.extend(self.element_of(definition, key, depth - 1));
                    }
                }
            }
            Expr::Attribute(attribute) => {
                for resolved in definitions_for_attribute(model, attribute) {
                    if let Some(definition) = resolved.definition() {
                        values.extend(self.element_of(definition, key, depth - 1));
                    }
                }
            }
            Expr::Call(call) => {
                // `handlers.values()`, `handlers.items()`, `list(handlers)`
                if let Expr::Attribute(attribute) = &*call.func
                    && matches!(attribute.attr.as_str(), "values" | "copy")
                {
                    values.extend(self.element(model, &attribute.value, None, depth - 1));
                } else if let Expr::Name(name) = &*call.func
                    && matches!(name.id.as_str(), "list" | "tuple" | "sorted" | "reversed" | "set")
                    && let Some(first) = call.arguments.args.first()
                {
                    values.extend(self.element(model, first, None, depth - 1));
                }
            }
            _ => {}
        }
        values
    }

    fn element_of(&self, definition: Definition<'db>, key: Option<&Expr>, depth: u8) -> Values<'db> {
        if depth == 0 {
            return Values::default();
        }
        let parsed = parsed_module(self.db, definition.python_file(self.db)).load(self.db);
        let model = self.model(definition);
        match definition.kind(self.db) {
            DefinitionKind::Assignment(assignment) if assignment.unpack().is_none() => {
                self.element(&model, assignment.value(&parsed), key, depth)
            }
            DefinitionKind::AnnotatedAssignment(assignment) => match assignment.value(&parsed) {
                Some(value) => self.element(&model, value, key, depth),
                None => Values::default(),
            },
            _ => Values::default(),
        }
    }
}

/// The expressions of `return` (or `yield`) in a body, nested functions left out.
pub(super) fn given_expressions(body: &[ast::Stmt], yields: bool) -> Vec<&Expr> {
    use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};

    struct Given<'a> {
        yields: bool,
        found: Vec<&'a Expr>,
    }
    impl<'a> Visitor<'a> for Given<'a> {
        fn visit_stmt(&mut self, statement: &'a ast::Stmt) {
            match statement {
                ast::Stmt::FunctionDef(_) | ast::Stmt::ClassDef(_) => {}
                ast::Stmt::Return(returned) if !self.yields => self.found.extend(returned.value.as_deref()),
                _ => walk_stmt(self, statement),
            }
        }
        fn visit_expr(&mut self, expression: &'a Expr) {
            match expression {
                Expr::Lambda(_) => {}
                Expr::Yield(yielded) if self.yields => self.found.extend(yielded.value.as_deref()),
                _ if self.yields => walk_expr(self, expression),
                _ => {}
            }
        }
    }
    let mut given = Given { yields, found: vec![] };
    given.visit_body(body);
    given.found
}

/// `super()` and `super(C, self)`.
fn is_super(call: &ast::ExprCall) -> bool {
    matches!(&*call.func, Expr::Name(name) if name.id.as_str() == "super")
}

/// The text or number that a literal key is.
fn literal_text(expression: &Expr) -> Option<String> {
    match expression {
        Expr::StringLiteral(text) => Some(text.value.to_str().to_owned()),
        Expr::NumberLiteral(number) => Some(format!("{:?}", number.value)),
        _ => None,
    }
}

/// Whether a function is read like an attribute.
pub(super) fn is_property(function: &ast::StmtFunctionDef) -> bool {
    function.decorator_list.iter().any(|decorator| {
        let text = names::written(&decorator.expression);
        let last = text.rsplit('.').next().unwrap_or_default();
        last == "property" || last.ends_with("cached_property") || last == "abstractproperty"
    })
}
