//! What names and values of one file are, in the language of facts.

use std::sync::Arc;

use ruff_db::files::File;
use ruff_db::parsed::parsed_module;
use ruff_db::source::{SourceText, line_index, source_text};
use ruff_python_ast as ast;
use ruff_python_ast::Expr;
use ruff_source_file::LineIndex;
use ruff_text_size::{Ranged, TextRange};
use ty_module_resolver::file_to_module;
use ty_python_core::definition::{Definition, DefinitionKind};
use ty_python_semantic::{ResolvedDefinition, SemanticModel, map_stub_definition};

use super::classes;
use super::db::Db;
use super::names;
use super::values::{Engine, Possible, Value};
use crate::facts::{Certainty, FnKey, Span, Target};

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
        let module = file_to_module(db, program_file.resolver_file(db)).map(|module| module.name(db).to_string());
        Self {
            engine: Engine::new(db),
            model: SemanticModel::new(db, program_file),
            path: path_of(db, file),
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

    /// See `FileContext::targets`.
    pub fn call_targets(&self, call: &ast::ExprCall) -> Vec<Target> {
        self.called(self.engine.of(&self.model, &call.func).0)
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
        for definition in classes::member(self.engine.db, class, name) {
            for found in self.engine.bound_to(definition, 3).0 {
                if let Value::Function(_) | Value::Lambda(..) = found.value {
                    self.add(&Possible { certainty: certainty.min(found.certainty), ..found }, targets);
                }
            }
        }
        targets.retain(|target| !target.qual.starts_with("builtins.object.__"));
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
                Value::Instance(class) => names::qualified(self.engine.db, class),
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
        let values = self.engine.of(&self.model, &call.func).0;
        let [Possible { value: Value::Function(definition), certainty: Certainty::Certain, .. }] = &values[..] else {
            return false;
        };
        let db = self.engine.db;
        let DefinitionKind::Function(node) = definition.kind(db) else { return false };
        let parsed = parsed_module(db, definition.python_file(db)).load(db);
        let function = node.node(&parsed);
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
                            qual: names::qualified(db, definition),
                            key: source.then(|| FnKey {
                                path: path_of(db, file),
                                offset: function.name.range().start().to_u32(),
                            }),
                            is_async: function.is_async,
                            body: source && !classes::is_stub_body(&function.body),
                            ..target.clone()
                        },
                    );
                }
                return;
            }
            Value::Class(class) | Value::Instance(class) => target.qual = names::qualified(db, *class),
            Value::Lambda(file, offset) => {
                target.qual = self.in_module("<lambda>");
                target.key = Some(FnKey { path: path_of(db, *file), offset: *offset });
                target.body = true;
            }
            Value::Parameter(file, function, position) => {
                target.param = Some((FnKey { path: path_of(db, *file), offset: *function }, *position));
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

/// The path of a file as the facts have it.
pub(super) fn path_of(db: &Db, file: File) -> Arc<str> {
    Arc::from(file.path(db).as_str())
}
