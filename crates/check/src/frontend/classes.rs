//! Classes as definitions: their bases, the order of look-up, and what a name in them is bound to.
//!
//! ty keeps member look-up on a type private, and leaves out what our own inference of receivers finds; both need this.

use ruff_db::parsed::parsed_module;
use ruff_python_ast as ast;
use ruff_python_ast::Expr;
use ruff_python_ast::name::Name;
use ty_python_core::definition::{Definition, DefinitionKind};
use ty_python_core::scope::NodeWithScopeRef;
use ty_python_core::{attribute_scopes, semantic_index};
use ty_python_semantic::types::{Type, TypeDefinition};
use ty_python_semantic::{HasType, SemanticModel};

use super::db::AnalyserDb;

/// A class of which more bases than this are followed does not exist.
const DEPTH: usize = 24;

/// The bases of a class that resolve to class statements.
pub(super) fn bases<'db>(db: &'db dyn AnalyserDb, class: Definition<'db>) -> Vec<Definition<'db>> {
    let DefinitionKind::Class(node) = class.kind(db) else { return vec![] };
    let parsed = parsed_module(db, class.python_file(db)).load(db);
    let model = SemanticModel::new(db, class.program_file(db));
    let env = model.program_environment();
    let mut found = vec![];
    for base in node.node(&parsed).bases() {
        let base = unsubscripted(base);
        if let Some(kind) = base.inferred_type(&model)
            && matches!(kind, Type::ClassLiteral(_) | Type::GenericAlias(_) | Type::SubclassOf(_))
            && let Some(TypeDefinition::StaticClass(definition)) = kind.definition(db, &env)
        {
            found.push(definition);
        }
    }
    found
}

/// `Base[int]` is `Base`.
pub(super) fn unsubscripted(base: &Expr) -> &Expr {
    match base {
        Expr::Subscript(subscript) => unsubscripted(&subscript.value),
        _ => base,
    }
}

/// The class and its ancestors, in the order of look-up. Close to Python's own: of a class that is reached twice the
/// last place counts.
#[salsa::tracked(returns(deref))]
pub(super) fn ancestry<'db>(db: &'db dyn AnalyserDb, class: Definition<'db>) -> Box<[Definition<'db>]> {
    fn walk<'db>(db: &'db dyn AnalyserDb, class: Definition<'db>, depth: usize, order: &mut Vec<Definition<'db>>) {
        if depth > DEPTH || order.len() > 512 {
            return;
        }
        order.push(class);
        for base in bases(db, class) {
            walk(db, base, depth + 1, order);
        }
    }
    let mut order = vec![];
    walk(db, class, 0, &mut order);
    let mut seen = rustc_hash::FxHashSet::default();
    order.reverse();
    order.retain(|class| seen.insert(*class));
    order.reverse();
    order.into_boxed_slice()
}

/// What `name` is bound to in the body of this class, ancestors left out.
pub(super) fn own_member<'db>(db: &'db dyn AnalyserDb, class: Definition<'db>, name: &str) -> Vec<Definition<'db>> {
    let DefinitionKind::Class(node) = class.kind(db) else { return vec![] };
    let parsed = parsed_module(db, class.python_file(db)).load(db);
    let index = semantic_index(db, class.program_file(db));
    let Some(scope) = index.try_node_scope(NodeWithScopeRef::Class(node.node(&parsed))) else { return vec![] };
    let mut found = vec![];
    if let Some(symbol) = index.place_table(scope).symbol_id(name) {
        for binding in index.use_def_map(scope).reachable_symbol_bindings(symbol) {
            if let Some(definition) = binding.binding.definition()
                && !found.contains(&definition)
            {
                found.push(definition);
            }
        }
    }
    found
}

/// What `self.name` is assigned in the methods of this class.
pub(super) fn own_attribute<'db>(db: &'db dyn AnalyserDb, class: Definition<'db>, name: &str) -> Vec<Definition<'db>> {
    let DefinitionKind::Class(node) = class.kind(db) else { return vec![] };
    let parsed = parsed_module(db, class.python_file(db)).load(db);
    let file = class.program_file(db);
    let index = semantic_index(db, file);
    let Some(scope) = index.try_node_scope(NodeWithScopeRef::Class(node.node(&parsed))) else { return vec![] };
    let mut found = vec![];
    for method in attribute_scopes(db, scope.to_scope_id(db, file)) {
        if let Some(member) = index.place_table(method).member_id_by_instance_attribute_name(name) {
            for binding in index.use_def_map(method).reachable_member_bindings(member) {
                if let Some(definition) = binding.binding.definition()
                    && !found.contains(&definition)
                {
                    found.push(definition);
                }
            }
        }
    }
    found
}

/// What `name` is on an instance of the class: of the first ancestor that has it.
pub(super) fn member<'db>(db: &'db dyn AnalyserDb, class: Definition<'db>, name: &str) -> &'db [Definition<'db>] {
    known_member(db, class, Name::new(name))
}

#[salsa::tracked(returns(deref))]
fn known_member<'db>(db: &'db dyn AnalyserDb, class: Definition<'db>, name: Name) -> Box<[Definition<'db>]> {
    member_after(db, class, None, &name).into_boxed_slice()
}

/// The same, beginning behind an ancestor: what `super()` sees.
pub(super) fn member_after<'db>(
    db: &'db dyn AnalyserDb,
    class: Definition<'db>,
    after: Option<Definition<'db>>,
    name: &str,
) -> Vec<Definition<'db>> {
    let order = ancestry(db, class);
    let first = match after {
        Some(after) => order.iter().position(|class| *class == after).map_or(order.len(), |place| place + 1),
        None => 0,
    };
    for ancestor in &order[first..] {
        let found = own_member(db, *ancestor, name);
        if !found.is_empty() {
            return found;
        }
        let found = own_attribute(db, *ancestor, name);
        if !found.is_empty() {
            return found;
        }
    }
    vec![]
}

/// A body that says nothing: `...`, `pass`, a docstring, `raise NotImplementedError`.
pub(super) fn is_stub_body(body: &[ast::Stmt]) -> bool {
    body.iter().all(|statement| match statement {
        ast::Stmt::Pass(_) => true,
        ast::Stmt::Expr(expression) => {
            matches!(&*expression.value, Expr::StringLiteral(_) | Expr::EllipsisLiteral(_))
        }
        ast::Stmt::Raise(raise) => raise.exc.as_deref().is_some_and(|error| {
            let error = if let Expr::Call(call) = error { &*call.func } else { error };
            matches!(error, Expr::Name(name) if name.id.as_str() == "NotImplementedError")
        }),
        _ => false,
    })
}
