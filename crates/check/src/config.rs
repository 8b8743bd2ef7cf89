//! `[tool.loopwright.check]` of the nearest `pyproject.toml`, or `[check]` of a `loopwright.toml` beside or above.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::cli::python_version;
use crate::effects::Table as Effects;
use crate::paths::absolute;
use crate::per_file::PerFileIgnores;
use crate::rule::RuleMeta;
use crate::selection::Selector;

/// The effect table's kinds of entries: a user may add to each.
const TABLES: &[&str] = &["blocks", "calls", "decorators", "guards", "harmless", "offloads", "schedules"];

const KEYS: &[&str] = &[
    "all",
    "baseline",
    "blocks",
    "cache-dir",
    "calls",
    "decorators",
    "exclude",
    "extend-select",
    "guards",
    "harmless",
    "ignore",
    "offloads",
    "pedantic",
    "per-file-ignores",
    "python",
    "python-version",
    "roots",
    "schedules",
    "select",
    "site-packages",
    "src",
];

/// What a project says about itself. Paths are absolute.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The file it is from.
    pub file: Option<PathBuf>,
    /// The folder of that file; without one, of the nearest `pyproject.toml` or repository.
    pub project: PathBuf,
    /// `select`
    pub select: Option<Vec<Selector>>,
    /// `extend-select`
    pub extend_select: Vec<Selector>,
    /// `ignore`
    pub ignore: Vec<Selector>,
    /// `per-file-ignores`
    pub per_file_ignores: PerFileIgnores,
    /// `pedantic`
    pub pedantic: bool,
    /// `all`
    pub all: bool,
    /// `exclude`
    pub exclude: Vec<String>,
    /// `roots`, or `src`
    pub roots: Vec<PathBuf>,
    /// `python`
    pub python: Option<PathBuf>,
    /// `python-version`
    pub python_version: Option<(u8, u8)>,
    /// `site-packages`
    pub site_packages: Vec<PathBuf>,
    /// `baseline`
    pub baseline: Option<PathBuf>,
    /// `cache-dir`
    pub cache_dir: Option<PathBuf>,
    /// `blocks`, `offloads`... as they are written.
    pub table: Table,
}

/// What is wrong with a configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The key, if it is about one.
    pub key: Option<String>,
    /// What is wrong.
    pub problem: ConfigProblem,
}

/// The kinds of wrong.
#[derive(Debug, PartialEq, Eq)]
pub enum ConfigProblem {
    /// The file cannot be read.
    Unreadable(String),
    /// It is not TOML.
    Syntax(String),
    /// Nobody knows the key; a known one that looks like it.
    UnknownKey(Option<&'static str>),
    /// The value is of another type than this.
    Expected(&'static str, &'static str),
    /// Not a rule.
    UnknownRule(String),
    /// Not a glob.
    Glob(String),
    /// Not an entry of the effect table.
    Effect(String),
    /// The same thing twice under two names.
    Twice(&'static str),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if let Some(key) = &self.key {
            write!(f, "`{key}`: ")?;
        }
        match &self.problem {
            ConfigProblem::Unreadable(why) => write!(f, "cannot be read: {why}"),
            ConfigProblem::Syntax(why) => write!(f, "not TOML: {}", why.trim_end()),
            ConfigProblem::UnknownKey(Some(near)) => write!(f, "no such key; did you mean `{near}`?"),
            ConfigProblem::UnknownKey(None) => write!(f, "no such key; there are {}", KEYS.join(", ")),
            ConfigProblem::Expected(wanted, found) => write!(f, "write {wanted} here, not {found}"),
            ConfigProblem::UnknownRule(rule) => {
                write!(f, "`{rule}` is neither a rule nor the beginning of one; `loopwright-check rules` lists them")
            }
            ConfigProblem::Glob(why) => write!(f, "not a glob: {why}"),
            ConfigProblem::Effect(why) => f.write_str(why),
            ConfigProblem::Twice(other) => write!(f, "the same as `{other}`, which is there too; keep one"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// The configuration of what is at a path: of the nearest file above it that has one.
    pub fn find(start: &Path, rules: &[&'static RuleMeta]) -> Result<Self, ConfigError> {
        let mut nearest = None;
        for folder in start.ancestors() {
            let own = folder.join("loopwright.toml");
            if own.is_file() {
                return Self::read(&own, rules);
            }
            let project = folder.join("pyproject.toml");
            if project.is_file() && section(&project)?.is_some() {
                return Self::read(&project, rules);
            }
            if project.is_file() || folder.join(".git").exists() {
                nearest.get_or_insert(folder);
            }
        }
        let here = if start.is_dir() { start } else { start.parent().unwrap_or(start) };
        Ok(Self { project: nearest.unwrap_or(here).to_owned(), ..Self::default() })
    }

    /// The configuration in a file.
    pub fn read(file: &Path, rules: &[&'static RuleMeta]) -> Result<Self, ConfigError> {
        let project = file.parent().unwrap_or(file).to_owned();
        let mut config = Self { file: Some(file.to_owned()), project, ..Self::default() };
        for (key, value) in section(file)?.unwrap_or_default() {
            config.set(&key, value, rules).map_err(|problem| ConfigError {
                file: file.to_owned(),
                key: Some(key),
                problem,
            })?;
        }
        // An entry that is wrong is told with the file it is in, not by the analysis.
        Effects::builtin().extended(&config.table).map_err(|error| ConfigError {
            file: file.to_owned(),
            key: None,
            problem: ConfigProblem::Effect(error.to_string()),
        })?;
        Ok(config)
    }

    fn set(&mut self, key: &str, value: Value, rules: &[&'static RuleMeta]) -> Result<(), ConfigProblem> {
        match key {
            "select" => self.select = Some(selectors(value, rules)?),
            "extend-select" => self.extend_select = selectors(value, rules)?,
            "ignore" => self.ignore = selectors(value, rules)?,
            "per-file-ignores" => {
                let Value::Table(table) = value else {
                    return Err(expected("a table of globs, each with a list of rules", &value));
                };
                for (glob, codes) in table {
                    let codes = selectors(codes, rules)?;
                    self.per_file_ignores.add(&glob, codes).map_err(|e| ConfigProblem::Glob(e.to_string()))?;
                }
            }
            "pedantic" => self.pedantic = boolean(value)?,
            "all" => self.all = boolean(value)?,
            "exclude" => {
                self.exclude = strings(value)?;
                for glob in &self.exclude {
                    globset::Glob::new(glob).map_err(|e| ConfigProblem::Glob(e.to_string()))?;
                }
            }
            "roots" | "src" => {
                if !self.roots.is_empty() {
                    return Err(ConfigProblem::Twice(if key == "src" { "roots" } else { "src" }));
                }
                self.roots = self.paths(value)?;
            }
            "python" => self.python = Some(self.path(value)?),
            "python-version" => {
                let version = value.as_str().and_then(|text| python_version(text).ok());
                self.python_version = Some(version.ok_or_else(|| expected("a version such as \"3.12\"", &value))?);
            }
            "site-packages" => self.site_packages = self.paths(value)?,
            "baseline" => self.baseline = Some(self.path(value)?),
            "cache-dir" => self.cache_dir = Some(self.path(value)?),
            table if TABLES.contains(&table) => {
                if !value.is_array() {
                    return Err(expected("a list of tables (`[[...]]`)", &value));
                }
                self.table.insert(key.to_owned(), value);
            }
            unknown => return Err(ConfigProblem::UnknownKey(near(unknown))),
        }
        Ok(())
    }

    fn path(&self, value: Value) -> Result<PathBuf, ConfigProblem> {
        match value {
            Value::String(text) => Ok(absolute(Path::new(&text), &self.project)),
            other => Err(expected("a path", &other)),
        }
    }

    fn paths(&self, value: Value) -> Result<Vec<PathBuf>, ConfigProblem> {
        Ok(strings(value)?.iter().map(|text| absolute(Path::new(text), &self.project)).collect())
    }
}

/// The part of a file that is ours.
fn section(file: &Path) -> Result<Option<Table>, ConfigError> {
    let error =
        |key: Option<&str>, problem| ConfigError { file: file.to_owned(), key: key.map(str::to_owned), problem };
    let text = std::fs::read_to_string(file).map_err(|e| error(None, ConfigProblem::Unreadable(e.to_string())))?;
    let mut table: Table =
        text.parse().map_err(|e: toml::de::Error| error(None, ConfigProblem::Syntax(e.to_string())))?;
    let own = file.file_name().is_some_and(|name| name != "pyproject.toml");
    let path: &[&str] = if own { &["check"] } else { &["tool", "loopwright", "check"] };
    for (depth, key) in path.iter().enumerate() {
        match table.remove(*key) {
            Some(Value::Table(inner)) => table = inner,
            Some(other) => return Err(error(Some(&path[..=depth].join(".")), expected("a table", &other))),
            None => return Ok(None),
        }
    }
    Ok(Some(table))
}

fn expected(wanted: &'static str, found: &Value) -> ConfigProblem {
    let found = match found {
        Value::String(_) => "a string",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    };
    ConfigProblem::Expected(wanted, found)
}

fn boolean(value: Value) -> Result<bool, ConfigProblem> {
    value.as_bool().ok_or_else(|| expected("true or false", &value))
}

fn strings(value: Value) -> Result<Vec<String>, ConfigProblem> {
    let Value::Array(items) = value else { return Err(expected("a list of strings", &value)) };
    items
        .into_iter()
        .map(|item| match item {
            Value::String(text) => Ok(text),
            other => Err(expected("a list of strings", &other)),
        })
        .collect()
}

fn selectors(value: Value, rules: &[&'static RuleMeta]) -> Result<Vec<Selector>, ConfigProblem> {
    let texts = strings(value)?;
    Selector::parse_all(texts.iter().map(String::as_str), rules).map_err(|e| ConfigProblem::UnknownRule(e.0))
}

/// The known key that takes the fewest changes, if they are few.
fn near(key: &str) -> Option<&'static str> {
    let key = key.replace('_', "-").to_ascii_lowercase();
    KEYS.iter().map(|known| (distance(&key, known), *known)).filter(|(far, _)| *far <= 2).min().map(|(_, known)| known)
}

fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let change = corner + usize::from(a != b);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}
