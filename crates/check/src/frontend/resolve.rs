//! What names and values of one file are, in the language of facts.

use std::sync::Arc;

use ruff_db::files::File;
use ruff_db::parsed::parsed_module;
use ruff_db::source::{SourceText, line_index, source_text};
use ruff_python_ast as ast;
use ruff_python_ast::Expr;
use ruff_source_file::LineIndex;
use ruff_text_size::{Ranged, TextRange};
use ty_python_core::definition::{Definition, DefinitionKind};
use ty_python_semantic::{ResolvedDefinition, SemanticModel, map_stub_definition};

use super::classes;
use super::db::Db;
use super::names;
use super::values::{Engine, Possible, Value};
use crate::facts::{Certainty, FnKey, Held, Span, Target};

/// What names and values of one file are.
pub struct Resolver<'a> {
    pub(super) engine: Engine<'a>,
    pub(super) model: SemanticModel<'a>,
    path: Arc<str>,
    module: Option<String>,
    lines: LineIndex,
    text: SourceText,
}

impl<'a> Resolver<'a> {
    /// The resolver of a file.
    pub fn new(db: &'a Db, file: File) -> Self {
        let program_file = db.program().program_file(db, file);
        let module = names::module(db, file);
        Self {
            engine: Engine::new(db),
            model: SemanticModel::new(db, program_file),
            path: db.path(file),
            module,
            lines: line_index(db, file),
            text: source_text(db, file),
        }
    }

    /// Absolute path of the file.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Dotted name of the module, where it has one.
    pub fn module(&self) -> Option<&str> {
        self.module.as_deref()
    }

    /// See `FileContext::span`.
    pub fn span(&self, range: TextRange) -> Span {
        let place = self.lines.line_column(range.start(), &self.text);
        Span {
            start: range.start().to_u32(),
            end: range.end().to_u32(),
            line: place.line.get() as u32,
            column: place.column.get() as u32,
        }
    }

    /// The line of an offset; the first one of the module's own.
    pub(super) fn line(&self, offset: u32) -> u32 {
        if offset == FnKey::MODULE {
            return 1;
        }
        self.span(TextRange::empty(offset.into())).line
    }

    /// See `FileContext::targets`.
    pub fn call_targets(&self, call: &ast::ExprCall) -> Vec<Target> {
        self.called(self.engine.called(&self.model, &call.func).0)
    }

    /// What calling these values runs.
    pub(super) fn called(&self, values: Vec<Possible<'a>>) -> Vec<Target> {
        let mut targets = vec![];
        for possible in values {
            match &possible.value {
                Value::Class(class) => {
                    self.add(&possible, &mut targets);
                    for name in ["__new__", "__init__", "__post_init__"] {
                        self.add_methods(*class, name, possible.certainty, &mut targets);
                    }
                }
                Value::Instance(class) => self.add_methods(*class, "__call__", possible.certainty, &mut targets),
                _ => self.add(&possible, &mut targets),
            }
        }
        targets
    }

    /// The functions that a method's name stands for on an instance; those of `object` run nothing.
    pub(super) fn add_methods(
        &self,
        class: Definition<'a>,
        name: &str,
        certainty: Certainty,
        targets: &mut Vec<Target>,
    ) {
        let db = self.engine.db;
        for definition in classes::member(db, class, name) {
            for found in self.engine.bound_to(*definition, 3).0 {
                match found.value {
                    Value::Function(function) if names::qualified(db, function).starts_with("builtins.object.") => {}
                    Value::Function(_) | Value::Lambda(..) => {
                        self.add(&Possible { certainty: certainty.min(found.certainty), ..found }, targets);
                    }
                    _ => {}
                }
            }
        }
    }

    /// What a callee denotes, itself and not what calling it runs: of a decorator.
    pub(super) fn callable_targets(&self, expression: &Expr) -> Vec<Target> {
        let mut targets = vec![];
        for possible in self.engine.called(&self.model, expression).0 {
            self.add(&possible, &mut targets);
        }
        targets
    }

    /// The functions that an argument is; nothing for what no function can be.
    pub(super) fn argument_targets(&self, argument: &Expr) -> Vec<Target> {
        match argument {
            Expr::Name(_) | Expr::Attribute(_) | Expr::Lambda(_) | Expr::Call(_) | Expr::Subscript(_) | Expr::If(_) => {
                let mut targets = vec![];
                for possible in self.engine.called(&self.model, argument).0 {
                    match possible.value {
                        Value::Instance(class) => {
                            self.add_callable_instance(class, possible.certainty, &mut targets);
                        }
                        _ => self.add(&possible, &mut targets),
                    }
                }
                targets
            }
            _ => vec![],
        }
    }

    /// An object with `__call__` whose source is known is a function, too.
    fn add_callable_instance(&self, class: Definition<'a>, certainty: Certainty, targets: &mut Vec<Target>) {
        let db = self.engine.db;
        if !class.file(db).path(db).is_vendored_path() {
            self.add_methods(class, "__call__", certainty, targets);
        }
    }

    /// The qualified name of the one thing that an expression denotes, as defined.
    pub(super) fn defined(&self, expression: &Expr) -> Option<String> {
        let mut targets = self.callable_targets(expression);
        targets.retain(|target| target.param.is_none());
        match &mut targets[..] {
            [target] => Some(std::mem::take(&mut target.qual)),
            _ => None,
        }
    }

    /// The generator functions whose bodies `with value` runs: those under `@contextmanager`.
    pub(super) fn context_functions(&self, value: &Expr) -> Vec<Target> {
        self.made_by(value, &["_GeneratorContextManager", "_AsyncGeneratorContextManager"])
    }

    /// The generator functions whose bodies `for _ in value` runs.
    pub(super) fn generator_functions(&self, value: &Expr) -> Vec<Target> {
        self.made_by(value, &["Generator", "GeneratorType", "Iterator", "Iterable", "AsyncGenerator", "AsyncIterator"])
    }

    fn made_by(&self, value: &Expr, classes: &[&str]) -> Vec<Target> {
        let values = self.engine.of(&self.model, value);
        let fits = |possible: &Possible<'a>| match &possible.value {
            Value::Instance(class) => class.name(self.engine.db).is_some_and(|name| classes.contains(&name.as_str())),
            _ => false,
        };
        let mut targets = vec![];
        if values.is_empty() || values.0.iter().any(fits) {
            for possible in self.engine.generators(&self.model, value, 5).0 {
                self.add(&possible, &mut targets);
            }
        }
        targets
    }

    /// What `with` holds.
    pub(super) fn held(&self, value: &Expr, is_async: bool) -> Held {
        let definitions = self.engine.definitions(&self.model, value);
        let identity = match &definitions[..] {
            [definition] if !matches!(definition.kind(self.engine.db), DefinitionKind::Function(_)) => {
                self.engine.identity(*definition)
            }
            _ => None,
        };
        Held { text: names::written(value), classes: self.classes(value), identity, is_async }
    }

    /// What a reference (not a call) denotes.
    pub fn reference_targets(&self, expression: &Expr) -> Vec<Target> {
        let mut targets = vec![];
        for possible in self.engine.of(&self.model, expression).0 {
            if !matches!(possible.value, Value::Instance(_)) {
                self.add(&possible, &mut targets);
            }
        }
        targets
    }

    /// See `FileContext::qualified`.
    pub fn qualified(&self, expression: &Expr) -> Option<String> {
        let values = self.engine.of(&self.model, expression).0;
        let mut targets = vec![];
        for possible in &values {
            if !matches!(possible.value, Value::Instance(_) | Value::Parameter(..)) {
                self.add(possible, &mut targets);
            }
        }
        match &targets[..] {
            [target] => Some(names::documented(&target.qual).unwrap_or_else(|| target.qual.clone())),
            _ => None,
        }
    }

    /// See `FileContext::classes`.
    pub fn classes(&self, value: &Expr) -> Vec<String> {
        let mut found = vec![];
        for possible in self.engine.of(&self.model, value).0 {
            let name = match possible.value {
                Value::Instance(class) => names::qualified(self.engine.db, class).to_owned(),
                Value::External(name) => name,
                _ => continue,
            };
            let name = names::documented(&name).unwrap_or(name);
            if !found.contains(&name) {
                found.push(name);
            }
        }
        found
    }

    /// See `FileContext::makes_coroutine`.
    pub fn makes_coroutine(&self, call: &ast::ExprCall) -> bool {
        let values = self.engine.called(&self.model, &call.func).0;
        let [Possible { value: Value::Function(definition), certainty: Certainty::Certain, .. }] = &values[..] else {
            return false;
        };
        let db = self.engine.db;
        let DefinitionKind::Function(node) = definition.kind(db) else { return false };
        let parsed = parsed_module(db, definition.python_file(db)).load(db);
        let function = node.node(&parsed);
        // What another decorator makes of it, only types can tell.
        let keeps = |decorator: &ast::Decorator| {
            matches!(
                names::written(&decorator.expression).rsplit('.').next(),
                Some("staticmethod" | "classmethod" | "override" | "abstractmethod")
            )
        };
        if !function.decorator_list.iter().all(keeps) {
            let classes = self.classes(&Expr::Call(call.clone()));
            return matches!(&classes[..], [class] if class == "types.CoroutineType");
        }
        function.is_async && super::values::given_expressions(&function.body, true).is_empty()
    }

    /// A dotted name of this module with the module's own name before it.
    pub fn in_module(&self, name: &str) -> String {
        match &self.module {
            Some(module) => format!("{module}.{name}"),
            None => name.to_owned(),
        }
    }

    /// A value in the language of facts.
    pub(super) fn add(&self, possible: &Possible<'a>, targets: &mut Vec<Target>) {
        let db = self.engine.db;
        let mut target = Target {
            qual: String::new(),
            key: None,
            param: None,
            is_async: false,
            body: false,
            bound: possible.bound,
            certainty: possible.certainty,
        };
        match &possible.value {
            Value::Function(definition) => {
                for definition in sources(db, *definition) {
                    let DefinitionKind::Function(node) = definition.kind(db) else { continue };
                    let parsed = parsed_module(db, definition.python_file(db)).load(db);
                    let function = node.node(&parsed);
                    let file = definition.file(db);
                    let source = !file.is_stub(db);
                    push(
                        targets,
                        Target {
                            qual: names::qualified(db, definition).to_owned(),
                            key: source
                                .then(|| FnKey { path: db.path(file), offset: function.name.range().start().to_u32() }),
                            is_async: function.is_async,
                            body: source && !classes::is_stub_body(&function.body),
                            ..target.clone()
                        },
                    );
                }
                return;
            }
            Value::Class(class) | Value::Instance(class) => target.qual = names::qualified(db, *class).to_owned(),
            Value::Lambda(file, offset) => {
                target.qual = self.in_module("<lambda>");
                target.key = Some(FnKey { path: db.path(*file), offset: *offset });
                target.body = true;
            }
            Value::Parameter(file, function, position) => {
                target.param = Some((FnKey { path: db.path(*file), offset: *function }, *position));
            }
            Value::External(name) => target.qual = self.absolute(name),
        }
        push(targets, target);
    }

    /// The dotted name of an import, relative ones made absolute.
    fn absolute(&self, name: &str) -> String {
        let dots = name.bytes().take_while(|byte| *byte == b'.').count();
        let ((0, _) | (_, None)) = (dots, &self.module) else {
            let module = self.module.as_deref().unwrap_or_default();
            let mut parts: Vec<&str> = module.split('.').collect();
            let package = self.path.ends_with("/__init__.py");
            parts.truncate(parts.len().saturating_sub(dots - usize::from(package)));
            parts.push(name.trim_start_matches('.'));
            return parts.join(".");
        };
        name.to_owned()
    }
}

fn push(targets: &mut Vec<Target>, target: Target) {
    if !targets.contains(&target) {
        targets.push(target);
    }
}

/// Where the source of a definition is, if it is in the stub of an installed package.
pub(super) fn sources<'db>(db: &'db Db, definition: Definition<'db>) -> Vec<Definition<'db>> {
    let file = definition.file(db);
    if file.is_stub(db) && !file.path(db).is_vendored_path() {
        let mapped: Vec<_> = map_stub_definition(db, &ResolvedDefinition::Definition(definition), None)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|resolved| resolved.definition())
            .collect();
        if !mapped.is_empty() {
            return mapped;
        }
    }
    vec![definition]
}
