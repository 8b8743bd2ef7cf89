//! Applies the changes that findings bring with them. What no longer parses is never handed out.

use std::fmt;

use ruff_python_ast::PySourceType;

use crate::finding::{Edit, Finding, Fix, Safety};
use crate::imports;

/// What became of a file.
#[derive(Debug)]
pub struct Fixed {
    /// Its new text.
    pub text: String,
    /// What was changed: indices of the findings that were given.
    pub applied: Vec<usize>,
    /// What could not be, and why.
    pub refused: Vec<(usize, Refusal)>,
}

/// Why a fix was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The file has syntax errors already: nobody knows what a change does to it.
    BrokenBefore,
    /// The file would no longer parse.
    BrokenAfter,
    /// It names bytes that the file does not have: it has changed meanwhile.
    OutOfPlace,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BrokenBefore => "the file has syntax errors",
            Self::BrokenAfter => "the file would no longer parse",
            Self::OutOfPlace => "the file has changed meanwhile",
        })
    }
}

/// Whether a fix is applied: safe ones always, others when they are wanted.
pub fn wanted(fix: &Fix, also_unsafe: bool) -> bool {
    also_unsafe || fix.safety == Safety::Safe
}

/// Applies the fixes of the findings of one file, as far as they do not touch each other; the next pass takes the rest.
pub fn apply(text: &str, kind: PySourceType, findings: &[&Finding]) -> Fixed {
    let mut fixed = Fixed { text: text.to_owned(), applied: vec![], refused: vec![] };
    let fixes: Vec<(usize, &Fix)> =
        findings.iter().enumerate().filter_map(|(index, finding)| Some((index, finding.fix.as_ref()?))).collect();
    if !parses(text, kind) {
        fixed.refused = fixes.iter().map(|(index, _)| (*index, Refusal::BrokenBefore)).collect();
        return fixed;
    }
    let mut taken: Vec<(usize, &Fix)> = vec![];
    for (index, fix) in fixes {
        if !fix.edits.iter().all(|edit| text.get(edit.start as usize..edit.end as usize).is_some()) {
            fixed.refused.push((index, Refusal::OutOfPlace));
        } else if !taken.iter().any(|(_, other)| touch(&other.edits, &fix.edits)) {
            taken.push((index, fix));
        }
    }
    let all: Vec<&Fix> = taken.iter().map(|(_, fix)| *fix).collect();
    if let Some(changed) = changed(text, kind, &all) {
        fixed.text = changed;
        fixed.applied = taken.iter().map(|(index, _)| *index).collect();
        return fixed;
    }
    // One of them breaks the file. Each is tried on top of those before it.
    let mut good: Vec<&Fix> = vec![];
    for (index, fix) in taken {
        good.push(fix);
        match changed(text, kind, &good) {
            Some(changed) => {
                fixed.text = changed;
                fixed.applied.push(index);
            }
            None => {
                good.pop();
                fixed.refused.push((index, Refusal::BrokenAfter));
            }
        }
    }
    fixed
}

/// The text with some fixes and the imports they need; none when it does not parse.
fn changed(text: &str, kind: PySourceType, fixes: &[&Fix]) -> Option<String> {
    let windows = text.find('\n').is_some_and(|at| text[..at].ends_with('\r'));
    let mut edits: Vec<&Edit> = fixes.iter().flat_map(|fix| &fix.edits).collect();
    edits.sort_by_key(|edit| (edit.start, edit.end));
    edits.dedup();
    let mut changed = String::with_capacity(text.len());
    let mut copied = 0;
    for edit in edits {
        changed.push_str(text.get(copied..edit.start as usize)?);
        if windows {
            changed.push_str(&edit.text.replace("\r\n", "\n").replace('\n', "\r\n"));
        } else {
            changed.push_str(&edit.text);
        }
        copied = edit.end as usize;
    }
    changed.push_str(&text[copied..]);
    for module in fixes.iter().flat_map(|fix| &fix.imports) {
        changed = imports::with_import(changed, kind, module, if windows { "\r\n" } else { "\n" });
    }
    parses(&changed, kind).then_some(changed)
}

/// Whether some edits overlap others, or begin where others end: their order would matter. The same edit twice is one:
/// two fixes may need the same line at the top of the file.
fn touch(some: &[Edit], others: &[Edit]) -> bool {
    some.iter().any(|one| others.iter().any(|other| one != other && one.start <= other.end && other.start <= one.end))
}

fn parses(text: &str, kind: PySourceType) -> bool {
    ruff_python_parser::parse_unchecked_source(text, kind).has_valid_syntax()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ruff_python_ast::PySourceType;

    use super::{Refusal, apply};
    use crate::facts::Span;
    use crate::finding::{Edit, Finding, Fix, Level, Safety};

    fn finding(text: &str, piece: &str, becomes: &str, import: &str) -> Finding {
        let start = text.find(piece).expect("the piece is there") as u32;
        let edit = Edit { start, end: start + piece.len() as u32, text: becomes.to_owned() };
        Finding {
            rule: "LW101".to_owned(),
            level: Level::Certain,
            path: Arc::from("/a.py"),
            span: Span::default(),
            function: "a.f".to_owned(),
            message: String::new(),
            frames: vec![],
            why: None,
            help: None,
            tags: vec![],
            callers: vec![],
            callers_total: 0,
            fix: Some(Fix {
                title: "change".to_owned(),
                safety: Safety::Safe,
                edits: vec![edit],
                imports: if import.is_empty() { vec![] } else { vec![import.to_owned()] },
            }),
            quiet: false,
        }
    }

    #[test]
    fn what_touches_waits_for_the_next_pass() {
        let text = "f(g(1))\nh(2)\n";
        let (outer, inner, other) = (
            finding(text, "f(g(1))", "a(g(1))", ""),
            finding(text, "g(1)", "b(1)", ""),
            finding(text, "h(2)", "c(2)", ""),
        );
        let fixed = apply(text, PySourceType::Python, &[&outer, &inner, &other]);
        assert_eq!(fixed.text, "a(g(1))\nc(2)\n");
        assert_eq!((fixed.applied, fixed.refused), (vec![0, 2], vec![]));
    }

    #[test]
    fn what_two_fixes_share_is_written_once() {
        let text = "# top\nf(1)\ng(2)\n";
        let mut fixes = [finding(text, "f(1)", "f(kept)", ""), finding(text, "g(2)", "g(kept)", "")];
        for finding in &mut fixes {
            let shared = Edit { start: 0, end: 0, text: "kept = set()\n".to_owned() };
            finding.fix.as_mut().expect("it has one").edits.insert(0, shared);
        }
        let fixed = apply(text, PySourceType::Python, &[&fixes[0], &fixes[1]]);
        assert_eq!(fixed.text, "kept = set()\n# top\nf(kept)\ng(kept)\n");
        assert_eq!(fixed.applied, [0, 1]);
    }

    #[test]
    fn what_breaks_the_file_is_refused_alone() {
        let text = "f(1)\r\ng(2)\r\n";
        let (bad, good) = (finding(text, "f(1)", "f(1", ""), finding(text, "g(2)", "g(2)\ng(3)", "asyncio"));
        let fixed = apply(text, PySourceType::Python, &[&bad, &good]);
        assert_eq!(fixed.text, "import asyncio\r\n\r\nf(1)\r\ng(2)\r\ng(3)\r\n");
        assert_eq!((fixed.applied, fixed.refused), (vec![1], vec![(0, Refusal::BrokenAfter)]));
    }

    #[test]
    fn a_broken_file_and_one_that_has_changed_are_left_alone() {
        let text = "f(1)\ndef\n";
        let one = finding(text, "f(1)", "g(1)", "");
        let fixed = apply(text, PySourceType::Python, &[&one]);
        assert_eq!((fixed.text.as_str(), fixed.refused), (text, vec![(0, Refusal::BrokenBefore)]));
        let fixed = apply("f", PySourceType::Python, &[&one]);
        assert_eq!((fixed.text.as_str(), fixed.refused), ("f", vec![(0, Refusal::OutOfPlace)]));
    }
}
