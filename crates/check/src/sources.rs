//! The texts of files, for everything that shows or reads lines of them after the analysis.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::facts::Span;

/// One file's text, and where its lines begin.
pub struct Source {
    /// The text; what is not UTF-8 in it is replaced.
    pub text: String,
    starts: Vec<usize>,
}

/// A line and a column in characters, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl Source {
    /// Splits a text into lines.
    pub fn new(text: String) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// A line by its number from 1, without its end.
    pub fn line(&self, number: u32) -> Option<&str> {
        let index = (number as usize).checked_sub(1)?;
        let start = *self.starts.get(index)?;
        let end = self.starts.get(index + 1).copied().unwrap_or(self.text.len());
        Some(self.text[start..end].trim_end_matches(['\n', '\r']))
    }

    /// How many lines there are.
    pub fn lines(&self) -> u32 {
        self.starts.len() as u32
    }

    /// The number of the line that a byte is on.
    pub fn line_at(&self, offset: u32) -> u32 {
        self.starts.partition_point(|&start| start <= offset as usize) as u32
    }

    /// Where a byte is, for people.
    pub fn place(&self, offset: u32) -> Place {
        let line = self.line_at(offset);
        let start = self.starts[line as usize - 1];
        let before = self.text.get(start..(offset as usize).min(self.text.len())).unwrap_or_default();
        Place { line, column: before.chars().count() as u32 + 1 }
    }
}

/// Files that have been read once. A notebook has no lines here: its spans are about the cells put together.
#[derive(Default)]
pub struct Sources {
    read: RefCell<FxHashMap<Arc<str>, Option<Arc<Source>>>>,
}

impl Sources {
    /// A file's text, if it can be read.
    pub fn get(&self, path: &Arc<str>) -> Option<Arc<Source>> {
        if let Some(known) = self.read.borrow().get(path) {
            return known.clone();
        }
        let source = read(Path::new(&**path)).map(Arc::new);
        self.read.borrow_mut().insert(path.clone(), source.clone());
        source
    }

    /// Gives a file a text, as if it had been read.
    pub fn insert(&self, path: &Arc<str>, text: String) {
        self.read.borrow_mut().insert(path.clone(), Some(Arc::new(Source::new(text))));
    }

    /// A line of a file.
    pub fn line(&self, path: &Arc<str>, number: u32) -> Option<String> {
        self.get(path)?.line(number).map(str::to_owned)
    }

    /// Where a span ends; where it begins when the file cannot be read.
    pub fn end(&self, path: &Arc<str>, span: Span) -> Place {
        match self.get(path) {
            Some(source) if span.end as usize <= source.text.len() && span.end >= span.start => source.place(span.end),
            _ => Place { line: span.line, column: span.column },
        }
    }
}

fn read(path: &Path) -> Option<Source> {
    if path.extension().is_some_and(|extension| extension == "ipynb") {
        return None;
    }
    let bytes = std::fs::read(path).ok()?;
    let text = String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    Some(Source::new(text))
}
