//! From TOML to entries; what is wrong is said with its place and with what to write.

use std::fmt;

use toml::{Table as Sections, Value};

use super::Table;
use super::entries::{
    Blocks, Calls, Condition, Decorator, DecoratorKind, Elsewhere, Guard, Harmless, Kind, Offloads, Place, Schedules,
    Test,
};
use crate::facts::Literal;
use crate::finding::{Level, Tag};

const LEVELS: [(&str, Level); 3] =
    [("certain", Level::Certain), ("likely", Level::Likely), ("pedantic", Level::Pedantic)];

const TAGS: [(&str, Tag); 6] = [
    ("handler", Tag::Handler),
    ("task", Tag::Task),
    ("callback", Tag::Callback),
    ("start-up", Tag::StartUp),
    ("cli", Tag::Cli),
    ("test", Tag::Test),
];

/// What is wrong with an entry, where, and what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableError {
    /// A section that is no list of tables.
    NoList {
        /// `blocks`
        section: &'static str,
    },
    /// A key that its section does not know.
    UnknownKey {
        /// `blocks[2]`
        place: String,
        /// The key.
        key: String,
        /// Those that there are.
        known: &'static [&'static str],
    },
    /// A key that has to be there.
    MissingKey {
        /// `blocks[2]`
        place: String,
        /// The key.
        key: &'static str,
        /// What to write.
        write: String,
    },
    /// A value that is not what its key takes.
    WrongValue {
        /// `blocks[2]`
        place: String,
        /// The key.
        key: &'static str,
        /// The value, as TOML.
        value: String,
        /// What it takes.
        takes: String,
    },
    /// A name that is no dotted name.
    BadName {
        /// `blocks[2]`
        place: String,
        /// The name.
        name: String,
    },
    /// The same name twice in one table.
    Twice {
        /// `blocks[2]`
        place: String,
        /// The name.
        name: String,
    },
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoList { section } => {
                write!(
                    f,
                    "`{section}` is not a list of tables: write each entry under `[[tool.loopwright.check.{section}]]`"
                )
            }
            Self::UnknownKey { place, key, known } => {
                let closest = known.iter().find(|name| similar(name, key));
                match closest {
                    Some(name) => write!(f, "{place}: there is no key `{key}`: did you mean `{name}`?"),
                    None => write!(f, "{place}: there is no key `{key}`: it takes {}", listed(known)),
                }
            }
            Self::MissingKey { place, key, write } => write!(f, "{place}: `{key}` is missing: write `{write}`"),
            Self::WrongValue { place, key, value, takes } => write!(f, "{place}: `{key}` is {value}: it takes {takes}"),
            Self::BadName { place, name } => write!(
                f,
                "{place}: `{name}` is not a dotted name: write `package.module.function`, `package.module.Class.method`, `package.make().method` of what a call returns, or `package.*` for everything below"
            ),
            Self::Twice { place, name } => write!(f, "{place}: `{name}` has an entry already: remove one of the two"),
        }
    }
}

impl std::error::Error for TableError {}

/// Adds the sections of one file, or of a user's configuration, to a table.
pub(super) fn add(table: &mut Table, sections: &Sections) -> Result<(), TableError> {
    let mut added = Table::default();
    for entry in entries(sections, "blocks")? {
        let known = &["names", "kind", "gil", "when", "unless", "level", "pedantic", "tags", "instead", "source"];
        entry.only(known)?;
        let blocks = Blocks {
            kind: entry.one_of("kind", &Kind::NAMES)?.ok_or_else(|| entry.missing("kind", "kind = \"network\""))?,
            gil: entry.flag("gil")?.unwrap_or(false),
            when: entry.conditions("when")?,
            unless: entry.conditions("unless")?,
            level: match entry.flag("pedantic")? {
                Some(true) => Level::Pedantic,
                _ => entry.one_of("level", &LEVELS)?.unwrap_or(Level::Certain),
            },
            short: entry.tags()?,
            instead: entry.text("instead")?,
            source: entry.source()?,
        };
        entry.under_names(&mut added.blocks, blocks)?;
    }
    for entry in entries(sections, "harmless")? {
        entry.only(&["names", "source"])?;
        entry.under_names(&mut added.harmless, Harmless { source: entry.source()? })?;
    }
    for entry in entries(sections, "offloads")? {
        entry.only(&["names", "argument", "name", "to", "source"])?;
        let offloads = Offloads {
            function: entry.place()?,
            to: entry.one_of("to", &Elsewhere::NAMES)?.unwrap_or(Elsewhere::Thread),
            source: entry.source()?,
        };
        entry.under_names(&mut added.offloads, offloads)?;
    }
    for entry in entries(sections, "calls")? {
        entry.only(&["names", "argument", "name", "source"])?;
        let calls = Calls { function: entry.place()?, source: entry.source()? };
        entry.under_names(&mut added.calls, calls)?;
    }
    for entry in entries(sections, "schedules")? {
        entry.only(&["names", "argument", "name", "tag", "threaded", "source"])?;
        let schedules = Schedules {
            function: entry.place()?,
            tag: entry.one_of("tag", &TAGS)?.unwrap_or(Tag::Callback),
            threaded: entry.flag("threaded")?.unwrap_or(false),
            source: entry.source()?,
        };
        entry.under_names(&mut added.schedules, schedules)?;
    }
    for entry in entries(sections, "decorators")? {
        entry.only(&["names", "kind", "to", "tag", "threaded", "source"])?;
        let kind = entry.decorator()?;
        let decorator = Decorator { kind, source: entry.source()? };
        entry.under_names(&mut added.decorators, decorator)?;
    }
    for entry in entries(sections, "guards")? {
        entry.only(&["names", "running", "raises", "source"])?;
        let guard = Guard {
            running: entry.flag("running")?.unwrap_or(true),
            raises: entry.flag("raises")?.unwrap_or(false),
            source: entry.source()?,
        };
        entry.under_names(&mut added.guards, guard)?;
    }
    table.blocks.take(added.blocks);
    table.harmless.take(added.harmless);
    table.offloads.take(added.offloads);
    table.calls.take(added.calls);
    table.schedules.take(added.schedules);
    table.decorators.take(added.decorators);
    table.guards.take(added.guards);
    Ok(())
}

/// The entries of one section.
fn entries<'a>(sections: &'a Sections, section: &'static str) -> Result<Vec<Entry<'a>>, TableError> {
    let Some(value) = sections.get(section) else { return Ok(vec![]) };
    let list = value.as_array().ok_or(TableError::NoList { section })?;
    list.iter()
        .enumerate()
        .map(|(index, value)| {
            let keys = value.as_table().ok_or(TableError::NoList { section })?;
            Ok(Entry { place: format!("{section}[{index}]"), keys })
        })
        .collect()
}

/// One table of a section, being read.
struct Entry<'a> {
    place: String,
    keys: &'a Sections,
}

impl Entry<'_> {
    fn only(&self, known: &'static [&'static str]) -> Result<(), TableError> {
        match self.keys.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(TableError::UnknownKey { place: self.place.clone(), key: key.clone(), known }),
            None => Ok(()),
        }
    }

    fn missing(&self, key: &'static str, write: &str) -> TableError {
        TableError::MissingKey { place: self.place.clone(), key, write: write.to_owned() }
    }

    fn wrong(&self, key: &'static str, value: &Value, takes: impl Into<String>) -> TableError {
        TableError::WrongValue { place: self.place.clone(), key, value: value.to_string(), takes: takes.into() }
    }

    fn flag(&self, key: &'static str) -> Result<Option<bool>, TableError> {
        let Some(value) = self.keys.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, value, "`true` or `false`"))
    }

    fn text(&self, key: &'static str) -> Result<Option<String>, TableError> {
        let Some(value) = self.keys.get(key) else { return Ok(None) };
        value.as_str().map(|text| Some(text.to_owned())).ok_or_else(|| self.wrong(key, value, "a string"))
    }

    /// Users need not say where they know it from.
    fn source(&self) -> Result<String, TableError> {
        Ok(self.text("source")?.unwrap_or_default())
    }

    fn one_of<T: Copy>(&self, key: &'static str, choices: &[(&'static str, T)]) -> Result<Option<T>, TableError> {
        let Some(value) = self.keys.get(key) else { return Ok(None) };
        let chosen = value.as_str().and_then(|text| choices.iter().find(|(name, _)| *name == text));
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        chosen.map(|(_, choice)| Some(*choice)).ok_or_else(|| self.wrong(key, value, listed(&names)))
    }

    /// The one tag of an entry that blocks.
    fn tags(&self) -> Result<bool, TableError> {
        let Some(value) = self.keys.get("tags") else { return Ok(false) };
        let takes = "`[\"short\"]` or `[]`";
        let list = value.as_array().ok_or_else(|| self.wrong("tags", value, takes))?;
        match list.iter().all(|tag| tag.as_str() == Some("short")) {
            true => Ok(!list.is_empty()),
            false => Err(self.wrong("tags", value, takes)),
        }
    }

    fn position(&self, keys: &Sections) -> Result<Option<u32>, TableError> {
        let Some(value) = keys.get("argument") else { return Ok(None) };
        let position = value.as_integer().and_then(|position| u32::try_from(position).ok());
        position.map(Some).ok_or_else(|| self.wrong("argument", value, "a position from 0, `self` not counted"))
    }

    fn keyword(&self, keys: &Sections) -> Result<Option<String>, TableError> {
        let Some(value) = keys.get("name") else { return Ok(None) };
        value.as_str().map(|name| Some(name.to_owned())).ok_or_else(|| self.wrong("name", value, "a keyword"))
    }

    fn place(&self) -> Result<Place, TableError> {
        let place = Place { argument: self.position(self.keys)?, name: self.keyword(self.keys)? };
        if place.argument.is_none() && place.name.is_none() {
            return Err(self.missing("argument", "argument = 0"));
        }
        Ok(place)
    }

    fn conditions(&self, key: &'static str) -> Result<Vec<Condition>, TableError> {
        let takes = "a list like `[{ argument = 0, name = \"block\", is = false }]`, with `is`, `at_most` or `given`";
        let Some(value) = self.keys.get(key) else { return Ok(vec![]) };
        let list = value.as_array().ok_or_else(|| self.wrong(key, value, takes))?;
        list.iter()
            .map(|item| {
                let wrong = || self.wrong(key, value, takes);
                let keys = item.as_table().ok_or_else(wrong)?;
                let (argument, name) = (self.position(keys)?, self.keyword(keys)?);
                let mut tests = vec![];
                for (name, value) in keys {
                    tests.push(match (name.as_str(), value) {
                        ("argument" | "name", _) => continue,
                        ("is", Value::Boolean(is)) => Test::Is(Literal::Bool(*is)),
                        ("is", Value::Integer(is)) => Test::Is(Literal::Number(*is as f64)),
                        ("is", Value::Float(is)) => Test::Is(Literal::Number(*is)),
                        ("is", Value::String(is)) => Test::Is(Literal::String(is.clone())),
                        ("at_most", Value::Integer(most)) => Test::AtMost(*most as f64),
                        ("at_most", Value::Float(most)) => Test::AtMost(*most),
                        ("given", Value::Boolean(given)) => Test::Given(*given),
                        _ => return Err(wrong()),
                    });
                }
                match (tests.pop(), tests.is_empty() && (argument.is_some() || name.is_some())) {
                    (Some(test), true) => Ok(Condition { argument, name, test }),
                    _ => Err(wrong()),
                }
            })
            .collect()
    }

    fn decorator(&self) -> Result<DecoratorKind, TableError> {
        let kind = self.text("kind")?.ok_or_else(|| self.missing("kind", "kind = \"transparent\""))?;
        match kind.as_str() {
            "transparent" => Ok(DecoratorKind::Transparent),
            "cached" => Ok(DecoratorKind::Cached),
            "offloads" => {
                let to = self.one_of("to", &Elsewhere::NAMES)?.unwrap_or(Elsewhere::Thread);
                Ok(DecoratorKind::Offloads(to))
            }
            "handler" => Ok(DecoratorKind::Handler {
                tag: self.one_of("tag", &TAGS)?.unwrap_or(Tag::Handler),
                threaded: self.flag("threaded")?.unwrap_or(false),
            }),
            _ => {
                let takes = listed(&["transparent", "offloads", "cached", "handler"]);
                Err(self.wrong("kind", &self.keys["kind"], takes))
            }
        }
    }

    /// Files it under each of its names.
    fn under_names<T>(&self, names: &mut super::Names<T>, entry: T) -> Result<(), TableError> {
        let value = self.keys.get("names").ok_or_else(|| self.missing("names", "names = [\"package.function\"]"))?;
        let takes = "a list of qualified names";
        let list = value.as_array().ok_or_else(|| self.wrong("names", value, takes))?;
        let mut expanded = vec![];
        for name in list {
            let name = name.as_str().ok_or_else(|| self.wrong("names", value, takes))?;
            let place = self.place.clone();
            expand(name, &mut expanded).ok_or(TableError::BadName { place, name: name.to_owned() })?;
        }
        match names.add(&expanded, entry) {
            Some(name) => Err(TableError::Twice { place: self.place.clone(), name }),
            None => Ok(()),
        }
    }
}

/// `a.{b,c}.d` stands for `a.b.d` and `a.c.d`. Returns nothing where one of these is no dotted name.
fn expand(name: &str, into: &mut Vec<String>) -> Option<()> {
    if let Some(open) = name.find('{') {
        let close = open + name[open..].find('}')?;
        for choice in name[open + 1..close].split(',') {
            expand(&format!("{}{}{}", &name[..open], choice.trim(), &name[close + 1..]), into)?;
        }
        return Some(());
    }
    let dotted = name.strip_suffix(".*").unwrap_or(name);
    let word = |part: &str| {
        // `psycopg2.connect().commit`: a value is known by the call that made it.
        let part = part.strip_suffix("()").unwrap_or(part);
        part.starts_with(|first: char| first.is_alphabetic() || first == '_')
            && part.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
    };
    if !dotted.split('.').all(word) {
        return None;
    }
    into.push(name.to_owned());
    Some(())
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Whether one is the other with a letter added, lost, changed or two exchanged.
fn similar(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let start = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[start..], &b[start..]);
    let end = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[..a.len() - end], &b[..b.len() - end]);
    a.len().max(b.len()) <= 1 || (a.len() == 2 && b.len() == 2 && a[0] == b[1] && a[1] == b[0])
}
