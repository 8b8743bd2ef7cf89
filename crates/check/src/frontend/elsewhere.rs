//! Functions of other files, shown to rules that follow helpers.

use std::cell::Cell;

use ruff_db::files::system_path_to_file;
use ruff_db::parsed::parsed_module;
use ruff_db::source::source_text;
use ruff_db::system::SystemPath;
use ruff_python_ast as ast;
use ruff_python_ast::Stmt;
use ruff_text_size::{Ranged, TextSize};

use super::resolve::Resolver;
use crate::context::FileContext;
use crate::facts::FnKey;

/// Helpers of helpers are shown so deep: functions that call each other would never end.
const DEPTH: u8 = 12;

thread_local! {
    static SHOWN: Cell<u8> = const { Cell::new(0) };
}

/// One level deeper, as long as it lives.
struct Shown;

impl Shown {
    fn deeper() -> Option<Self> {
        let depth = SHOWN.get();
        (depth < DEPTH).then(|| {
            SHOWN.set(depth + 1);
            Self
        })
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        SHOWN.set(SHOWN.get() - 1);
    }
}

impl Resolver<'_> {
    /// Shows the function of a key to `look`, with the file that it stands in; does nothing where there is no source.
    pub fn with_function(&self, key: &FnKey, look: &mut dyn FnMut(&FileContext<'_>, &ast::StmtFunctionDef)) {
        let Some(_shown) = Shown::deeper() else { return };
        let db = self.engine.db;
        let Ok(file) = system_path_to_file(db, SystemPath::new(&*key.path)) else { return };
        let parsed = parsed_module(db, db.program().program_file(db, file).python_file(db)).load(db);
        let Some(function) = function_at(parsed.suite(), key.offset.into()) else { return };
        let resolver = Resolver::new(db, file);
        let text = source_text(db, file);
        look(&FileContext { path: key.path.clone(), source: &text, module: &parsed, resolver: &resolver }, function);
    }
}

/// The function whose name begins at an offset.
fn function_at(body: &[Stmt], offset: TextSize) -> Option<&ast::StmtFunctionDef> {
    let around = body.iter().find(|statement| statement.range().contains(offset))?;
    match around {
        Stmt::FunctionDef(node) if node.name.start() == offset => Some(node),
        Stmt::FunctionDef(node) => function_at(&node.body, offset),
        Stmt::ClassDef(node) => function_at(&node.body, offset),
        Stmt::If(node) => function_at(&node.body, offset)
            .or_else(|| node.elif_else_clauses.iter().find_map(|clause| function_at(&clause.body, offset))),
        Stmt::With(node) => function_at(&node.body, offset),
        Stmt::For(node) => function_at(&node.body, offset).or_else(|| function_at(&node.orelse, offset)),
        Stmt::While(node) => function_at(&node.body, offset).or_else(|| function_at(&node.orelse, offset)),
        Stmt::Match(node) => node.cases.iter().find_map(|case| function_at(&case.body, offset)),
        Stmt::Try(node) => function_at(&node.body, offset)
            .or_else(|| {
                node.handlers.iter().find_map(|handler| {
                    let ast::ExceptHandler::ExceptHandler(handler) = handler;
                    function_at(&handler.body, offset)
                })
            })
            .or_else(|| function_at(&node.orelse, offset))
            .or_else(|| function_at(&node.finalbody, offset)),
        _ => None,
    }
}
