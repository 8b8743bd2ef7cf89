//! Findings that the source itself excuses: `# noqa` on a statement, `# loopwright: noqa` for a file.

use std::sync::Arc;

use ruff_python_ast::token::TokenKind;
use ruff_python_ast::visitor::{Visitor, walk_stmt};
use ruff_python_ast::{self as ast, PySourceType, Stmt};
use ruff_text_size::Ranged;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::facts::FnKey;
use crate::finding::Finding;
use crate::program::Program;
use crate::sources::{Source, Sources};

/// What a comment excuses.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Excuse {
    /// `# noqa`
    All,
    /// `# noqa: LW101, LW2`
    Codes(Vec<String>),
}

impl Excuse {
    fn covers(&self, code: &str) -> bool {
        match self {
            Self::All => true,
            Self::Codes(codes) => codes.iter().any(|prefix| code.starts_with(prefix.as_str())),
        }
    }
}

/// The comments of one file that excuse something, and the lines that its statements take.
struct File {
    whole: Vec<Excuse>,
    lines: FxHashMap<u32, Excuse>,
    statements: Vec<(u32, u32)>,
}

/// All files that were asked about so far.
pub struct Suppressions<'a> {
    sources: &'a Sources,
    files: FxHashMap<Arc<str>, Option<File>>,
}

impl<'a> Suppressions<'a> {
    /// Nothing read yet.
    pub fn new(sources: &'a Sources) -> Self {
        Self { sources, files: FxHashMap::default() }
    }

    /// Whether a comment excuses a finding: in its own statement, in its file, or in the statement of a call of the
    /// project on its chain, if no other chain is left that no comment excuses.
    pub fn covers(&mut self, finding: &Finding, program: &Program, in_project: impl Fn(&Arc<str>) -> bool) -> bool {
        let code = finding.rule.as_str();
        if self.at(&finding.path, finding.span.line, code) || self.file(&finding.path, code) {
            return true;
        }
        let excused =
            finding.frames.iter().any(|frame| in_project(&frame.path) && self.at(&frame.path, frame.span.line, code));
        excused && (finding.callers_total == 0 || !self.otherwise(finding, program))
    }

    /// Whether the loop reaches the function of a finding by calls that no comment excuses.
    fn otherwise(&mut self, finding: &Finding, program: &Program) -> bool {
        let root = program.functions.values().find(|f| f.key.path == finding.path && f.qual == finding.function);
        let mut open: Vec<&FnKey> = root.iter().map(|function| &function.key).collect();
        let mut seen: FxHashSet<&FnKey> = open.iter().copied().collect();
        while let Some(key) = open.pop() {
            let mut callers = program.callers(key).peekable();
            let begins = callers.peek().is_none() || program.function(key).is_some_and(|function| function.is_async);
            if begins && program.on_loop(key) {
                return true;
            }
            for edge in callers {
                let line = program.site(&edge.from, edge.site).map_or(0, |site| site.span.line);
                if !self.at(&edge.from.path, line, &finding.rule) && seen.insert(&edge.from) {
                    open.push(&edge.from);
                }
            }
        }
        false
    }

    fn at(&mut self, path: &Arc<str>, line: u32, code: &str) -> bool {
        let Some(file) = self.load(path) else { return false };
        let (first, last) = file.statement(line);
        (first..=last).any(|line| file.lines.get(&line).is_some_and(|excuse| excuse.covers(code)))
    }

    fn file(&mut self, path: &Arc<str>, code: &str) -> bool {
        self.load(path).is_some_and(|file| file.whole.iter().any(|excuse| excuse.covers(code)))
    }

    fn load(&mut self, path: &Arc<str>) -> Option<&File> {
        if !self.files.contains_key(path) {
            let file = self.sources.get(path).and_then(|source| File::read(path, &source));
            self.files.insert(path.clone(), file);
        }
        self.files[path].as_ref()
    }
}

impl File {
    /// `None` for a file without such comments, which nearly all are: it is not even parsed.
    fn read(path: &str, source: &Source) -> Option<Self> {
        if !contains_noqa(&source.text) {
            return None;
        }
        let kind = PySourceType::from(std::path::Path::new(path));
        let parsed = ruff_python_parser::parse_unchecked_source(&source.text, kind);
        let mut file = Self { whole: vec![], lines: FxHashMap::default(), statements: vec![] };
        for token in parsed.tokens() {
            if token.kind() != TokenKind::Comment {
                continue;
            }
            let comment = &source.text[token.range()];
            if let Some(excuse) = file_excuse(comment) {
                file.whole.push(excuse);
            } else if let Some(excuse) = line_excuse(comment) {
                file.lines.insert(source.line_at(token.start().to_u32()), excuse);
            }
        }
        let mut walk = Statements { source, found: &mut file.statements };
        walk.visit_body(parsed.suite());
        Some(file)
    }

    /// First and last line of the innermost statement that has a line; of a compound one only its header counts.
    fn statement(&self, line: u32) -> (u32, u32) {
        let around = self.statements.iter().filter(|(first, last)| (*first..=*last).contains(&line));
        around.min_by_key(|(first, last)| last - first).copied().unwrap_or((line, line))
    }
}

struct Statements<'a> {
    source: &'a Source,
    found: &'a mut Vec<(u32, u32)>,
}

impl<'a> Visitor<'a> for Statements<'_> {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        let first = self.source.line_at(statement.start().to_u32());
        let end = match body(statement) {
            // The header ends where the body begins, or on the line before.
            Some(inner) => {
                let begins = self.source.line_at(inner.start().to_u32());
                if begins > first { begins - 1 } else { first }
            }
            None => self.source.line_at(statement.end().to_u32()),
        };
        self.found.push((first, end));
        walk_stmt(self, statement);
    }

    fn visit_expr(&mut self, _: &'a ast::Expr) {}
}

fn body(statement: &Stmt) -> Option<&Stmt> {
    match statement {
        Stmt::FunctionDef(node) => node.body.first(),
        Stmt::ClassDef(node) => node.body.first(),
        Stmt::For(node) => node.body.first(),
        Stmt::While(node) => node.body.first(),
        Stmt::If(node) => node.body.first(),
        Stmt::With(node) => node.body.first(),
        Stmt::Try(node) => node.body.first(),
        Stmt::Match(node) => node.cases.first().and_then(|case| case.body.first()),
        _ => None,
    }
}

fn contains_noqa(text: &str) -> bool {
    text.as_bytes().windows(4).any(|four| four.eq_ignore_ascii_case(b"noqa"))
}

/// `# loopwright: noqa`, `# loopwright: noqa: LW101`; `# ruff: noqa: LW101` and `# flake8: noqa: LW101` with a code.
fn file_excuse(comment: &str) -> Option<Excuse> {
    let text = comment.trim_start_matches('#').trim_start().to_ascii_lowercase();
    let (tool, rest) = text.split_once(':')?;
    let excuse = noqa(rest.trim_start())?;
    match (tool.trim(), &excuse) {
        ("loopwright", _) | ("ruff" | "flake8", Excuse::Codes(_)) => Some(excuse),
        _ => None,
    }
}

/// `# noqa` anywhere in a comment, after a `#` of its own.
fn line_excuse(comment: &str) -> Option<Excuse> {
    comment.split('#').skip(1).find_map(|part| noqa(&part.trim_start().to_ascii_lowercase()))
}

/// Reads `noqa` or `noqa: CODE, CODE`, in small letters. Codes of other tools count as codes: they excuse nothing here.
fn noqa(text: &str) -> Option<Excuse> {
    let rest = text.strip_prefix("noqa")?;
    if let Some(codes) = rest.trim_start().strip_prefix(':') {
        let codes = codes
            .split([',', ' ', '\t'])
            .filter(|word| !word.is_empty())
            .take_while(|word| is_code(word))
            .map(str::to_ascii_uppercase)
            .collect();
        return Some(Excuse::Codes(codes));
    }
    (!rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')).then_some(Excuse::All)
}

fn is_code(word: &str) -> bool {
    let letters = word.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    letters.len() < word.len() && !letters.is_empty() && letters.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::{Excuse, file_excuse, line_excuse};

    fn codes(codes: &[&str]) -> Option<Excuse> {
        Some(Excuse::Codes(codes.iter().map(|&code| code.to_owned()).collect()))
    }

    #[test]
    fn comments_that_excuse() {
        assert_eq!(line_excuse("# noqa"), Some(Excuse::All));
        assert_eq!(line_excuse("#NOQA"), Some(Excuse::All));
        assert_eq!(line_excuse("# type: ignore # noqa: LW101"), codes(&["LW101"]));
        assert_eq!(line_excuse("# noqa: F401,LW101 because it is short"), codes(&["F401", "LW101"]));
        assert_eq!(line_excuse("# noqa : LW1"), codes(&["LW1"]));
        assert_eq!(line_excuse("# noqa: E501"), codes(&["E501"]));
        assert_eq!(line_excuse("# noqanything"), None);
        assert_eq!(line_excuse("# about noqa"), None);
        assert_eq!(file_excuse("# loopwright: noqa"), Some(Excuse::All));
        assert_eq!(file_excuse("# loopwright: noqa: LW2"), codes(&["LW2"]));
        assert_eq!(file_excuse("# ruff: noqa"), None);
        assert_eq!(file_excuse("# ruff: noqa: LW101"), codes(&["LW101"]));
    }
}
