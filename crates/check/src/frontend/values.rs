//! What an expression may be: functions, classes, instances, names of modules that are not installed.
//!
//! ty's inference is asked first. What it leaves open (unannotated returns, attributes assigned in a method, decorated
//! functions, functions in containers) is followed through definitions, a few steps deep.

use std::cell::RefCell;

use ruff_db::files::File;
use ruff_db::parsed::parsed_module;
use ruff_python_ast as ast;
use ruff_python_ast::Expr;
use ruff_text_size::{Ranged, TextRange};
use rustc_hash::FxHashMap;
use ty_python_core::definition::{Definition, DefinitionKind, ParameterDefinitionNodeKind, TargetKind};
use ty_python_core::scope::NodeWithScopeKind;
use ty_python_core::semantic_index;
use ty_python_semantic::types::ide_support::{definitions_for_attribute, definitions_for_name};
use ty_python_semantic::types::{Type, TypeDefinition};
use ty_python_semantic::{HasType, ImportAliasResolution, SemanticModel};

use super::db::Db;
use super::names;
use super::{budget, classes};
use crate::facts::Certainty;

/// How many definitions are followed in a row.
pub(super) const DEPTH: u8 = 12;
/// More possibilities than this tell nothing.
const WIDTH: usize = 12;

/// One thing an expression may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value<'db> {
    /// A function: its definition.
    Function(Definition<'db>),
    /// A lambda: its file's definition scope is not needed, only where it is.
    Lambda(File, u32),
    /// A class itself.
    Class(Definition<'db>),
    /// An instance of a class.
    Instance(Definition<'db>),
    /// A parameter of a function: where that is, and the parameter's position.
    Parameter(File, u32, u32),
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

/// Looks values up, each once.
pub(super) struct Engine<'db> {
    pub(super) db: &'db Db,
    known: RefCell<FxHashMap<(File, TextRange), Values<'db>>>,
}

impl<'db> Engine<'db> {
    pub(super) fn new(db: &'db Db) -> Self {
        Self { db, known: RefCell::default() }
    }

    fn model(&self, definition: Definition<'db>) -> SemanticModel<'db> {
        SemanticModel::new(self.db, definition.program_file(self.db))
    }

    /// What an expression denotes.
    pub(super) fn of(&self, model: &SemanticModel<'db>, expression: &Expr) -> Values<'db> {
        let place = (model.file(), expression.range());
        if let Some(values) = self.known.borrow().get(&place) {
            return values.clone();
        }
        let values = self.evaluate(model, expression, DEPTH).weighed();
        self.known.borrow_mut().insert(place, values.clone());
        values
    }

    /// What an expression runs when it is called. A decorated function is the function, whatever ty says that its
    /// decorator makes of it: what that runs is told apart.
    pub(super) fn called(&self, model: &SemanticModel<'db>, expression: &Expr) -> Values<'db> {
        let values = self.of(model, expression);
        if values.0.iter().any(|possible| !matches!(possible.value, Value::Instance(_))) {
            return values;
        }
        let mut functions = Values::default();
        for definition in self.definitions(model, expression) {
            if matches!(definition.kind(self.db), DefinitionKind::Function(_)) && !self.is_property(definition) {
                functions.push(Value::Function(definition), 0);
            }
        }
        if functions.is_empty() { values } else { functions.weighed() }
    }

    /// Where a name or an attribute is bound, as far as ty can tell.
    pub(super) fn definitions(&self, model: &SemanticModel<'db>, expression: &Expr) -> Vec<Definition<'db>> {
        let resolved = match expression {
            Expr::Name(name) => self.ask(model, expression, || {
                definitions_for_name(model, name.id.as_str(), name.into(), ImportAliasResolution::ResolveAliases)
            }),
            Expr::Attribute(attribute) => self.ask(model, expression, || definitions_for_attribute(model, attribute)),
            _ => None,
        };
        resolved.into_iter().flatten().filter_map(|resolved| resolved.definition()).collect()
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
            Expr::Subscript(subscript) => {
                // A literal key says more than the type of all values.
                let values = self.element(model, &subscript.value, Some(&subscript.slice), depth - 1);
                if values.0.iter().any(|possible| !matches!(possible.value, Value::Instance(_))) {
                    return values;
                }
            }
            _ => {}
        }
        let (typed, open) = self.typed(model, expression);
        let settled = !typed.is_empty() && !self.is_wrapper(&typed);
        if settled && !open {
            return typed;
        }
        let own = match expression {
            Expr::Name(_) => self.name(model, expression, depth),
            Expr::Attribute(attribute) => self.attribute(model, expression, attribute, depth),
            Expr::Call(call) => self.result(model, call, depth),
            Expr::Await(awaited) => self.awaited(model, &awaited.value, depth),
            Expr::BoolOp(operation) => {
                let mut values = Values::default();
                for value in &operation.values {
                    values.extend(self.evaluate(model, value, depth - 1));
                }
                values
            }
            _ => Values::default(),
        };
        if settled {
            let mut values = typed;
            values.extend(own);
            values
        } else if own.is_empty() {
            typed
        } else {
            own
        }
    }

    /// Asks ty about an expression. What it has no answer for in time is given up, with all of its scope.
    fn ask<T>(&self, model: &SemanticModel<'db>, expression: &Expr, question: impl Fn() -> T) -> Option<T> {
        let scope = || model.scope(ast::AnyNodeRef::from(expression));
        if self.db.is_given_up(model.file(), scope) {
            return None;
        }
        match budget::ask(question) {
            Ok(answer) => Some(answer),
            Err(why) => {
                if let Some(scope) = scope() {
                    self.db.give_up(model.file(), scope, why);
                }
                None
            }
        }
    }

    /// ty's own answer, and whether it leaves room for more.
    fn typed(&self, model: &SemanticModel<'db>, expression: &Expr) -> (Values<'db>, bool) {
        let mut values = Values::default();
        let Some(Some(kind)) = self.ask(model, expression, || expression.inferred_type(model)) else {
            return (values, true);
        };
        self.decompose(model, kind, &mut values);
        let open = matches!(kind, Type::Union(union) if union.elements(self.db).iter().any(|element| {
            matches!(element, Type::Dynamic(_))
        }));
        (values, open)
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

    fn name(&self, model: &SemanticModel<'db>, expression: &Expr, depth: u8) -> Values<'db> {
        let mut values = Values::default();
        for definition in self.definitions(model, expression) {
            values.extend(self.bound_to(definition, depth - 1));
        }
        values
    }

    fn attribute(
        &self,
        model: &SemanticModel<'db>,
        expression: &Expr,
        attribute: &ast::ExprAttribute,
        depth: u8,
    ) -> Values<'db> {
        let mut values = Values::default();
        for definition in self.definitions(model, expression) {
            values.extend(self.attribute_value(definition, depth - 1));
        }
        if !values.is_empty() || depth <= 1 {
            return values;
        }
        for receiver in self.evaluate(model, &attribute.value, depth - 1).0 {
            match receiver.value {
                Value::Instance(class) | Value::Class(class) => {
                    for definition in classes::member(self.db, class, attribute.attr.as_str()) {
                        values.extend(self.attribute_value(*definition, depth - 1));
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

    /// Which half of the descriptor protocol a function of a class stands for, if any.
    pub(super) fn accessor(&self, definition: Definition<'db>) -> Option<&'static str> {
        let DefinitionKind::Function(node) = definition.kind(self.db) else { return None };
        let parsed = parsed_module(self.db, definition.python_file(self.db)).load(self.db);
        let function = node.node(&parsed);
        if is_property(function) {
            return Some("__get__");
        }
        function.decorator_list.iter().find_map(|decorator| match &decorator.expression {
            Expr::Attribute(attribute) => match attribute.attr.as_str() {
                "setter" => Some("__set__"),
                "deleter" => Some("__delete__"),
                "getter" => Some("__get__"),
                _ => None,
            },
            _ => None,
        })
    }

    /// Whether a name is bound in the body of a class: what descriptors need.
    pub(super) fn is_class_level(&self, definition: Definition<'db>) -> bool {
        let index = semantic_index(self.db, definition.program_file(self.db));
        matches!(index.scope(definition.file_scope(self.db)).node(), NodeWithScopeKind::Class(_))
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
            DefinitionKind::Assignment(assignment) => match assignment.unpack() {
                None => self.evaluate(&model, assignment.value(&parsed), depth),
                Some(unpack) => {
                    let place = place_in(unpack.target(db, &parsed), assignment.target(&parsed));
                    place.map_or_else(Values::default, |place| {
                        self.part(&model, assignment.value(&parsed), place, depth - 1)
                    })
                }
            },
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
            DefinitionKind::For(target) => {
                let unpacked = matches!(target.target_kind(), TargetKind::Sequence(..));
                self.iterated(&model, target.iterable(&parsed), unpacked, depth - 1)
            }
            DefinitionKind::Comprehension(target) => {
                let unpacked = matches!(target.target_kind(), TargetKind::Sequence(..));
                self.iterated(&model, target.iterable(&parsed), unpacked, depth - 1)
            }
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
                        returned.extend(self.returned(*method, depth - 1));
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
        if let Expr::Attribute(attribute) = &*call.func
            && matches!(attribute.attr.as_str(), "get" | "pop" | "setdefault")
            && let Some(key) = call.arguments.args.first()
        {
            values.extend(self.element(model, &attribute.value, Some(key), depth - 1));
            if let Some(default) = call.arguments.args.get(1)
                && !values.is_empty()
            {
                values.extend(self.evaluate(model, default, depth - 1));
            }
            values.0.retain(|possible| !matches!(possible.value, Value::Instance(_)));
            if !values.is_empty() {
                return values;
            }
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

    /// What `await` gives of an expression whose type ty does not know.
    fn awaited(&self, model: &SemanticModel<'db>, value: &Expr, depth: u8) -> Values<'db> {
        let mut values = Values::default();
        let (Expr::Call(call), true) = (value, depth > 1) else { return values };
        for possible in self.callees(model, call, depth - 1).0 {
            match possible.value {
                Value::Function(definition) => values.extend(self.returned(definition, depth - 1)),
                Value::External(name) => values.push(Value::External(format!("{name}()")), 0),
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

    /// What an element of a tuple is that a call returns, or that stands there.
    fn part(&self, model: &SemanticModel<'db>, value: &Expr, place: usize, depth: u8) -> Values<'db> {
        let mut values = Values::default();
        if depth == 0 {
            return values;
        }
        match value {
            Expr::Tuple(ast::ExprTuple { elts, .. }) | Expr::List(ast::ExprList { elts, .. }) => {
                let plain = !elts.iter().take(place + 1).any(Expr::is_starred_expr);
                if let Some(element) = elts.get(place).filter(|_| plain) {
                    values = self.evaluate(model, element, depth);
                }
            }
            Expr::Await(awaited) => return self.part(model, &awaited.value, place, depth),
            Expr::Call(call) => {
                for possible in self.callees(model, call, depth - 1).0 {
                    let Value::Function(function) = possible.value else { continue };
                    let DefinitionKind::Function(node) = function.kind(self.db) else { continue };
                    let parsed = parsed_module(self.db, function.python_file(self.db)).load(self.db);
                    let model = self.model(function);
                    for returned in given_expressions(&node.node(&parsed).body, false).into_iter().take(WIDTH) {
                        values.extend(self.part(&model, returned, place, depth - 1));
                    }
                }
            }
            _ => {}
        }
        values
    }

    /// What the variable of a loop may be. Of one that is unpacked only functions are told: which element of the tuple
    /// it is does not matter then.
    fn iterated(&self, model: &SemanticModel<'db>, iterable: &Expr, unpacked: bool, depth: u8) -> Values<'db> {
        if !unpacked {
            return self.element(model, iterable, None, depth);
        }
        let mut values = match iterable {
            Expr::Call(call) => match &*call.func {
                Expr::Attribute(attribute) if attribute.attr.as_str() == "items" => {
                    self.element(model, &attribute.value, None, depth)
                }
                _ => Values::default(),
            },
            Expr::List(ast::ExprList { elts, .. }) | Expr::Tuple(ast::ExprTuple { elts, .. }) => {
                let mut values = Values::default();
                for element in elts {
                    values.extend(self.element(model, element, None, depth));
                }
                values
            }
            _ => self.nested_elements(model, iterable, depth),
        };
        values.0.retain(|possible| matches!(possible.value, Value::Function(_) | Value::Lambda(..)));
        values
    }

    /// The elements of the tuples in a list that has a name.
    fn nested_elements(&self, model: &SemanticModel<'db>, iterable: &Expr, depth: u8) -> Values<'db> {
        let mut values = Values::default();
        if depth <= 1 {
            return values;
        }
        for definition in self.definitions(model, iterable) {
            let parsed = parsed_module(self.db, definition.python_file(self.db)).load(self.db);
            let value = match definition.kind(self.db) {
                DefinitionKind::Assignment(assignment) if assignment.unpack().is_none() => {
                    Some(assignment.value(&parsed))
                }
                DefinitionKind::AnnotatedAssignment(assignment) => assignment.value(&parsed),
                _ => None,
            };
            if let Some(value) = value {
                values.extend(self.iterated(&self.model(definition), value, true, depth - 1));
            }
        }
        values
    }

    /// The generator functions that made a generator or a context manager.
    pub(super) fn generators(&self, model: &SemanticModel<'db>, value: &Expr, depth: u8) -> Values<'db> {
        let mut values = Values::default();
        if depth == 0 {
            return values;
        }
        match value {
            Expr::Call(call) => {
                for possible in self.called(model, &call.func).0 {
                    let Value::Function(definition) = possible.value else { continue };
                    for definition in super::resolve::sources(self.db, definition) {
                        let DefinitionKind::Function(node) = definition.kind(self.db) else { continue };
                        let parsed = parsed_module(self.db, definition.python_file(self.db)).load(self.db);
                        let body = &node.node(&parsed).body;
                        if super::functions::yields(body) {
                            values.push(Value::Function(definition), 0);
                        } else if !definition.file(self.db).is_stub(self.db) {
                            let model = self.model(definition);
                            for returned in given_expressions(body, false).into_iter().take(WIDTH) {
                                values.extend(self.generators(&model, returned, depth - 1));
                            }
                        }
                    }
                }
            }
            Expr::Name(_) | Expr::Attribute(_) => {
                for definition in self.definitions(model, value) {
                    let parsed = parsed_module(self.db, definition.python_file(self.db)).load(self.db);
                    if let DefinitionKind::Assignment(assignment) = definition.kind(self.db)
                        && assignment.unpack().is_none()
                    {
                        values.extend(self.generators(&self.model(definition), assignment.value(&parsed), depth - 1));
                    }
                }
            }
            _ => {}
        }
        values.weighed()
    }

    /// What identifies a variable across functions: a name of a module or of a class, an attribute of `self`.
    pub(super) fn identity(&self, definition: Definition<'db>) -> Option<String> {
        let index = semantic_index(self.db, definition.program_file(self.db));
        let scope = definition.file_scope(self.db);
        match index.scope(scope).node() {
            NodeWithScopeKind::Module | NodeWithScopeKind::Class(_) => {
                Some(names::qualified(self.db, definition).to_owned())
            }
            NodeWithScopeKind::Function(_) => {
                let class = index.class_definition_of_method(scope)?;
                let parsed = parsed_module(self.db, definition.python_file(self.db)).load(self.db);
                let target = match definition.kind(self.db) {
                    DefinitionKind::Assignment(assignment) => assignment.target(&parsed),
                    DefinitionKind::AnnotatedAssignment(assignment) => assignment.target(&parsed),
                    _ => return None,
                };
                let Expr::Attribute(attribute) = target else { return None };
                Some(format!("{}.{}", names::qualified(self.db, class), attribute.attr))
            }
            _ => None,
        }
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
            Expr::Name(_) | Expr::Attribute(_) => {
                for definition in self.definitions(model, container) {
                    values.extend(self.element_of(definition, key, depth - 1));
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

/// Which element of `a, b = ...` a target is; none behind a star.
fn place_in(targets: &Expr, target: &Expr) -> Option<usize> {
    let (Expr::Tuple(ast::ExprTuple { elts, .. }) | Expr::List(ast::ExprList { elts, .. })) = targets else {
        return None;
    };
    let place = elts.iter().position(|element| element.range() == target.range())?;
    elts[..=place].iter().all(|element| !element.is_starred_expr()).then_some(place)
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
