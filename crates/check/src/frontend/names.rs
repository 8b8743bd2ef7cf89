//! Qualified names: as defined, and as documented.
//!
//! The table of effects and the graph speak of names as defined (`asyncio.tasks.create_task`); rules and people of
//! documented ones (`asyncio.create_task`).

use ruff_db::files::{File, FilePath};
use ruff_db::parsed::parsed_module;
use ruff_python_ast::Expr;
use ty_module_resolver::file_to_module;
use ty_python_core::definition::Definition;
use ty_python_core::scope::NodeWithScopeKind;

use super::db::AnalyserDb;

/// The name of a module: of the innermost folder that imports begin in, so that it is the name it is imported by.
pub(super) fn module(db: &dyn AnalyserDb, file: File) -> Option<String> {
    let by_resolver = || {
        let file = db.program_file(file).resolver_file(db);
        file_to_module(db, file).map(|module| module.name(db).to_string())
    };
    let FilePath::System(path) = file.path(db) else { return by_resolver() };
    let inner =
        db.import_roots().iter().filter_map(|root| path.strip_prefix(root).ok()).min_by_key(|path| path.as_str().len());
    let name = inner.and_then(|path| {
        let path = path.as_str().strip_suffix(".pyi").or_else(|| path.as_str().strip_suffix(".py"))?;
        let path = path.strip_suffix("/__init__").unwrap_or(path);
        let is_name = |part: &str| {
            part.chars().all(|letter| letter == '_' || letter.is_alphanumeric())
                && part.starts_with(|first: char| !first.is_ascii_digit())
        };
        path.split('/').all(is_name).then(|| path.replace('/', "."))
    });
    name.or_else(by_resolver)
}

/// The name of a definition: `pkg.mod.Class.method`, `pkg.mod.outer.<locals>.inner`.
#[salsa::tracked(returns(deref))]
pub(super) fn qualified<'db>(db: &'db dyn AnalyserDb, definition: Definition<'db>) -> Box<str> {
    let parsed = parsed_module(db, definition.python_file(db)).load(db);
    let index = ty_python_core::semantic_index(db, definition.program_file(db));
    let mut parts = vec![definition.name(db).unwrap_or_default()];
    let mut scope_id = Some(definition.file_scope(db));
    while let Some(id) = scope_id {
        let scope = index.scope(id);
        match scope.node() {
            NodeWithScopeKind::Class(class) => parts.push(class.node(&parsed).name.to_string()),
            NodeWithScopeKind::Function(function) => {
                parts.push("<locals>".to_owned());
                parts.push(function.node(&parsed).name.to_string());
            }
            _ => {}
        }
        scope_id = scope.parent();
    }
    parts.extend(module(db, definition.file(db)));
    parts.reverse();
    parts.join(".").into_boxed_str()
}

/// A dotted expression as written: `self.client.refresh`, `make().run`, `table[...]`.
pub(super) fn written(expression: &Expr) -> String {
    let mut text = String::new();
    write(expression, &mut text);
    text
}

fn write(expression: &Expr, text: &mut String) {
    match expression {
        Expr::Name(name) => text.push_str(&name.id),
        Expr::Attribute(attribute) => {
            write(&attribute.value, text);
            text.push('.');
            text.push_str(&attribute.attr);
        }
        Expr::Call(call) => {
            write(&call.func, text);
            text.push_str("()");
        }
        Expr::Subscript(subscript) => {
            write(&subscript.value, text);
            text.push_str("[...]");
        }
        Expr::Await(awaited) => {
            text.push_str("(await ");
            write(&awaited.value, text);
            text.push(')');
        }
        Expr::Lambda(_) => text.push_str("lambda"),
        Expr::StringLiteral(_) => text.push_str("\"...\""),
        Expr::FString(_) => text.push_str("f\"...\""),
        _ => text.push_str("(...)"),
    }
}

/// Where the documented module of a name is not the one that defines it: prefix as defined, prefix as documented.
const DOCUMENTED: &[(&str, &str)] = &[
    ("_asyncio.", "asyncio."),
    ("_bisect.", "bisect."),
    ("_codecs.", "codecs."),
    ("_collections_abc.", "collections.abc."),
    ("_contextvars.", "contextvars."),
    ("_csv.", "csv."),
    ("_ctypes.", "ctypes."),
    ("_curses.", "curses."),
    ("_decimal.", "decimal."),
    ("_hashlib.", "hashlib."),
    ("_heapq.", "heapq."),
    ("_io.", "io."),
    ("_json.", "json."),
    ("_locale.", "locale."),
    ("_multibytecodec.", "codecs."),
    ("_operator.", "operator."),
    ("_pickle.", "pickle."),
    ("_queue.", "queue."),
    ("_random.", "random."),
    ("_socket.", "socket."),
    ("_sqlite3.", "sqlite3."),
    ("_ssl.", "ssl."),
    ("_struct.", "struct."),
    ("_thread.LockType", "threading.Lock"),
    ("_thread.RLock", "threading.RLock"),
    ("_thread.allocate_lock", "threading.Lock"),
    ("_thread.lock", "threading.Lock"),
    ("_thread.start_new_thread", "_thread.start_new_thread"),
    ("_tracemalloc.", "tracemalloc."),
    ("_weakref.", "weakref."),
    ("asyncio.base_events.", "asyncio."),
    ("asyncio.base_futures.", "asyncio."),
    ("asyncio.base_subprocess.", "asyncio."),
    ("asyncio.coroutines.", "asyncio."),
    ("asyncio.events.", "asyncio."),
    ("asyncio.exceptions.", "asyncio."),
    ("asyncio.futures.", "asyncio."),
    ("asyncio.graph.", "asyncio."),
    ("asyncio.locks.", "asyncio."),
    ("asyncio.protocols.", "asyncio."),
    ("asyncio.queues.", "asyncio."),
    ("asyncio.runners.", "asyncio."),
    ("asyncio.selector_events.", "asyncio."),
    ("asyncio.streams.", "asyncio."),
    ("asyncio.subprocess.create_subprocess_", "asyncio.create_subprocess_"),
    ("asyncio.taskgroups.", "asyncio."),
    ("asyncio.tasks.", "asyncio."),
    ("asyncio.threads.", "asyncio."),
    ("asyncio.timeouts.", "asyncio."),
    ("asyncio.transports.", "asyncio."),
    ("asyncio.unix_events.", "asyncio."),
    ("concurrent.futures._base.", "concurrent.futures."),
    ("concurrent.futures.interpreter.", "concurrent.futures."),
    ("concurrent.futures.process.", "concurrent.futures."),
    ("concurrent.futures.thread.", "concurrent.futures."),
    ("importlib._bootstrap.", "importlib."),
    ("json.decoder.", "json."),
    ("json.encoder.", "json."),
    ("multiprocessing.context.BaseContext.", "multiprocessing."),
    ("multiprocessing.process.BaseProcess", "multiprocessing.Process"),
    ("multiprocessing.synchronize.", "multiprocessing."),
    ("pathlib._local.", "pathlib."),
    ("posix.", "os."),
    ("posixpath.", "os.path."),
    ("threading._RLock", "threading.RLock"),
    ("typing.AsyncContextManager", "contextlib.AbstractAsyncContextManager"),
    ("unittest.async_case.", "unittest."),
    ("unittest.case.", "unittest."),
    ("xml.etree.cElementTree.", "xml.etree.ElementTree."),
];

/// The documented name of what the standard library defines elsewhere.
pub(super) fn documented(qualified: &str) -> Option<String> {
    DOCUMENTED.iter().find_map(|(defined, documented)| {
        let rest = qualified.strip_prefix(defined)?;
        // A whole name as prefix ends where the name ends.
        (defined.ends_with(['.', '_']) || rest.is_empty() || rest.starts_with('.'))
            .then(|| format!("{documented}{rest}"))
    })
}

#[cfg(test)]
mod tests {
    use super::documented;

    #[test]
    fn names_are_documented_ones() {
        for (defined, expected) in [
            ("asyncio.tasks.create_task", "asyncio.create_task"),
            ("_asyncio.Task", "asyncio.Task"),
            ("_thread.lock.acquire", "threading.Lock.acquire"),
            ("_thread.LockType", "threading.Lock"),
            ("asyncio.subprocess.create_subprocess_exec", "asyncio.create_subprocess_exec"),
            ("concurrent.futures._base.Future.result", "concurrent.futures.Future.result"),
        ] {
            assert_eq!(documented(defined).as_deref(), Some(expected));
        }
        assert_eq!(documented("asyncio.subprocess.Process"), None);
        assert_eq!(documented("posixish.thing"), None);
    }
}
