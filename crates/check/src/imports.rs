//! Adds `import module` to a file that a fix needs it in: once, where imports are.

use ruff_python_ast::{PySourceType, Stmt};
use ruff_text_size::{Ranged, TextRange};

/// The text with the module imported at its top; the same text where it is already.
pub fn with_import(text: String, kind: PySourceType, module: &str, newline: &str) -> String {
    let parsed = ruff_python_parser::parse_unchecked_source(&text, kind);
    let body: &[Stmt] = parsed.suite();
    if body.iter().any(|statement| imports(statement, module)) {
        return text;
    }
    let start = code_start(&text, body);
    let first = body.iter().position(|statement| !is_header(statement)).unwrap_or(body.len());
    let block = body[first..].iter().take_while(|statement| is_import(statement));
    let place = match sorted(block, module) {
        Some(Place::After(range)) => (line_end(&text, range), format!("import {module}{newline}")),
        Some(Place::Before(range)) => (line_begin(&text, range), format!("import {module}{newline}")),
        None if first > 0 => (line_end(&text, body[first - 1].range()), format!("{newline}import {module}{newline}")),
        None => (start, format!("import {module}{newline}{newline}")),
    };
    let (at, mut line) = place;
    let (before, after) = text.split_at(at);
    if !before.trim_start_matches('\u{feff}').is_empty() && !before.ends_with('\n') {
        line = format!("{newline}{line}");
    }
    // After a docstring the code is kept apart from the new import, too.
    if line.starts_with(newline) && !after.is_empty() && !after.starts_with(newline) {
        line.push_str(newline);
    }
    format!("{before}{line}{after}")
}

enum Place {
    Before(TextRange),
    After(TextRange),
}

/// Where it stands in alphabetical order among the plain imports; before the others when there are no plain ones.
fn sorted<'a>(block: impl Iterator<Item = &'a Stmt>, module: &str) -> Option<Place> {
    let mut place = None;
    for statement in block {
        let smaller =
            matches!(statement, Stmt::Import(node) if node.names.first().is_some_and(|a| a.name.as_str() < module));
        if smaller {
            place = Some(Place::After(statement.range()));
        } else if place.is_none() {
            place = Some(Place::Before(statement.range()));
        }
        // Only the first run of plain imports is of the standard library.
        if !smaller {
            break;
        }
    }
    place
}

fn imports(statement: &Stmt, module: &str) -> bool {
    let Stmt::Import(node) = statement else { return false };
    node.names.iter().any(|alias| match &alias.asname {
        Some(name) => name.as_str() == module && alias.name.as_str() == module,
        // `import asyncio.subprocess` binds `asyncio`.
        None => alias.name.split('.').next() == Some(module) || alias.name.as_str() == module,
    })
}

fn is_import(statement: &Stmt) -> bool {
    matches!(statement, Stmt::Import(_) | Stmt::ImportFrom(_))
}

/// A docstring, or an import from `__future__`: nothing may come before it.
fn is_header(statement: &Stmt) -> bool {
    match statement {
        Stmt::Expr(node) => node.value.is_string_literal_expr(),
        Stmt::ImportFrom(node) => node.module.as_ref().is_some_and(|module| module.as_str() == "__future__"),
        _ => false,
    }
}

/// Where code may begin: after the first comments, if a blank line parts them from what follows, and after the lines
/// that have to be first (`#!`, the encoding).
fn code_start(text: &str, body: &[Stmt]) -> usize {
    let limit = body.first().map_or(text.len(), |statement| line_begin(text, statement.range()));
    let mut start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut at = 0;
    for line in text[..limit].split_inclusive('\n') {
        at += line.len();
        let bare = line.trim_start_matches('\u{feff}').trim();
        if bare.is_empty() || bare.starts_with("#!") || (bare.starts_with('#') && bare.contains("coding")) {
            start = at;
        } else if !bare.starts_with('#') {
            break;
        }
    }
    start
}

fn line_begin(text: &str, range: TextRange) -> usize {
    text[..range.start().to_usize()].rfind('\n').map_or(0, |at| at + 1)
}

fn line_end(text: &str, range: TextRange) -> usize {
    let end = range.end().to_usize();
    text[end..].find('\n').map_or(text.len(), |at| end + at + 1)
}

#[cfg(test)]
mod tests {
    use ruff_python_ast::PySourceType;

    use super::with_import;

    fn added(text: &str) -> String {
        let once = with_import(text.to_owned(), PySourceType::Python, "asyncio", "\n");
        assert_eq!(
            with_import(once.clone(), PySourceType::Python, "asyncio", "\n"),
            once,
            "a second time changes nothing"
        );
        once
    }

    #[test]
    fn what_is_imported_stays() {
        for text in ["import asyncio\n", "import os, asyncio\n", "import asyncio.subprocess\n"] {
            assert_eq!(added(text), text);
        }
    }

    #[test]
    fn among_imports() {
        assert_eq!(added("import abc\nimport os\nx = 1\n"), "import abc\nimport asyncio\nimport os\nx = 1\n");
        assert_eq!(added("import os\n"), "import asyncio\nimport os\n");
        assert_eq!(added("import abc  # why\n"), "import abc  # why\nimport asyncio\n");
        assert_eq!(added("import abc"), "import abc\nimport asyncio\n");
        assert_eq!(added("from a import b\n"), "import asyncio\nfrom a import b\n");
        assert_eq!(added("import asyncio as aio\n"), "import asyncio\nimport asyncio as aio\n");
        assert_eq!(added("from asyncio import sleep\n"), "import asyncio\nfrom asyncio import sleep\n");
    }

    #[test]
    fn after_what_has_to_be_first() {
        assert_eq!(
            added("#!/usr/bin/python\n\"\"\"Doc.\"\"\"\nfrom __future__ import annotations\n\nimport os\n"),
            "#!/usr/bin/python\n\"\"\"Doc.\"\"\"\nfrom __future__ import annotations\n\nimport asyncio\nimport os\n"
        );
        assert_eq!(added("\"\"\"Doc.\"\"\"\n\nx = 1\n"), "\"\"\"Doc.\"\"\"\n\nimport asyncio\n\nx = 1\n");
        assert_eq!(added("\"\"\"Doc.\"\"\"\nx = 1\n"), "\"\"\"Doc.\"\"\"\n\nimport asyncio\n\nx = 1\n");
        assert_eq!(
            added("#!/bin/sh\n# coding: utf-8\nx = 1\n"),
            "#!/bin/sh\n# coding: utf-8\nimport asyncio\n\nx = 1\n"
        );
        assert_eq!(added("# Licence.\n\nx = 1\n"), "# Licence.\n\nimport asyncio\n\nx = 1\n");
        assert_eq!(added("# about x\nx = 1\n"), "import asyncio\n\n# about x\nx = 1\n");
        assert_eq!(added("\u{feff}x = 1\n"), "\u{feff}import asyncio\n\nx = 1\n");
    }
}
