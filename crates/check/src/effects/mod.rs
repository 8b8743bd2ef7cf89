//! What blocks, what offloads, what guards: a table, not code.
//!
//! The data are the TOML files beside this one, in the form that users write in `[tool.loopwright.check]` too. `entries`
//! is what they say, `read` how they are read. A name is looked up as it is defined (`_socket.socket.recv`, not
//! `socket.socket.recv`) and, where its package is not installed, as it is imported (`requests.get`); so the files give
//! both. Whether a call is reported is not decided here.

mod entries;
mod read;

use std::sync::LazyLock;

use rustc_hash::FxHashMap;

pub use entries::{
    Blocks, Calls, Condition, Decorator, DecoratorKind, Elsewhere, Guard, Harmless, Kind, Offloads, Place, Schedules,
    Test,
};
pub use read::TableError;

/// The files of the table, by name.
pub const FILES: [(&str, &str); 8] = [
    ("stdlib.toml", include_str!("stdlib.toml")),
    ("third_party.toml", include_str!("third_party.toml")),
    ("harmless.toml", include_str!("harmless.toml")),
    ("offloads.toml", include_str!("offloads.toml")),
    ("calls.toml", include_str!("calls.toml")),
    ("schedules.toml", include_str!("schedules.toml")),
    ("decorators.toml", include_str!("decorators.toml")),
    ("guards.toml", include_str!("guards.toml")),
];

static BUILTIN: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table::default();
    for (file, text) in FILES {
        let sections = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        read::add(&mut table, &sections).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    table
});

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    blocks: Names<Blocks>,
    harmless: Names<Harmless>,
    offloads: Names<Offloads>,
    calls: Names<Calls>,
    schedules: Names<Schedules>,
    decorators: Names<Decorator>,
    guards: Names<Guard>,
}

impl Table {
    /// The table that comes with the analyser.
    pub fn builtin() -> Self {
        BUILTIN.clone()
    }

    /// This table with the sections of `[tool.loopwright.check]` that belong to it; other keys of `user` are left alone.
    /// A name that is in both has the user's entry.
    pub fn extended(&self, user: &toml::Table) -> Result<Self, TableError> {
        let mut table = self.clone();
        read::add(&mut table, user)?;
        Ok(table)
    }

    /// What is said of calling it: it blocks.
    pub fn blocks(&self, qual: &str) -> Option<&Blocks> {
        self.blocks.get(qual)
    }

    /// What is said of calling it: it does not block, whatever its source looks like. What blocks by its own name does.
    pub fn harmless(&self, qual: &str) -> Option<&Harmless> {
        self.harmless.get(qual).filter(|_| self.blocks.get(qual).is_none())
    }

    /// What is said of calling it: it runs a function elsewhere.
    pub fn offloads(&self, qual: &str) -> Option<&Offloads> {
        self.offloads.get(qual)
    }

    /// What is said of calling it: it calls a function.
    pub fn calls(&self, qual: &str) -> Option<&Calls> {
        self.calls.get(qual)
    }

    /// What is said of calling it: the loop calls a function later.
    pub fn schedules(&self, qual: &str) -> Option<&Schedules> {
        self.schedules.get(qual)
    }

    /// What is said of it as a decorator.
    pub fn decorator(&self, qual: &str) -> Option<&Decorator> {
        self.decorators.get(qual)
    }

    /// What is said of its truth.
    pub fn guard(&self, qual: &str) -> Option<&Guard> {
        self.guards.get(qual)
    }

    /// Every name of `[[blocks]]`, as it is written, braces expanded.
    pub fn blocking_names(&self) -> impl Iterator<Item = (&str, &Blocks)> {
        self.blocks.iter()
    }
}

/// Entries by name. `a.b.*` stands for everything below `a.b`; the longest name that fits wins.
#[derive(Clone, Debug)]
struct Names<T> {
    entries: Vec<T>,
    exact: FxHashMap<String, usize>,
    below: FxHashMap<String, usize>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { entries: vec![], exact: FxHashMap::default(), below: FxHashMap::default() }
    }
}

impl<T> Names<T> {
    /// Adds an entry under its names, and returns the first that had one before.
    fn add(&mut self, names: &[String], entry: T) -> Option<String> {
        let index = self.entries.len();
        self.entries.push(entry);
        let mut known = None;
        for name in names {
            let before = match name.strip_suffix(".*") {
                Some(parent) => self.below.insert(parent.to_owned(), index),
                None => self.exact.insert(name.clone(), index),
            };
            if before.is_some() && known.is_none() {
                known = Some(name.clone());
            }
        }
        known
    }

    /// Takes over another's entries; where both have a name, the other's counts.
    fn take(&mut self, other: Self) {
        let first = self.entries.len();
        self.entries.extend(other.entries);
        self.exact.extend(other.exact.into_iter().map(|(name, index)| (name, first + index)));
        self.below.extend(other.below.into_iter().map(|(name, index)| (name, first + index)));
    }

    /// A class and its `__init__` or `__new__` are one name: calling the class.
    fn get(&self, qual: &str) -> Option<&T> {
        let class = qual.strip_suffix(".__init__").or_else(|| qual.strip_suffix(".__new__"));
        let index = self.exact.get(qual).or_else(|| self.exact.get(class?)).or_else(|| {
            let mut rest = class.unwrap_or(qual);
            loop {
                rest = &rest[..rest.rfind('.')?];
                if let Some(index) = self.below.get(rest) {
                    return Some(index);
                }
            }
        })?;
        Some(&self.entries[*index])
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        let exact = self.exact.iter().map(|(name, index)| (name.as_str(), &self.entries[*index]));
        let below = self.below.iter().map(|(name, index)| (name.as_str(), &self.entries[*index]));
        exact.chain(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Argument, Literal};
    use crate::finding::{Level, Tag};

    fn given(position: Option<u32>, keyword: Option<&str>, literal: Option<Literal>) -> Argument {
        Argument { position, keyword: keyword.map(str::to_owned), literal, targets: vec![], called: None }
    }

    fn extended(text: &str) -> Result<Table, String> {
        Table::builtin().extended(&text.parse().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_file_can_be_read_and_says_where_it_knows_from() {
        let mut table = Table::default();
        for (file, text) in FILES {
            read::add(&mut table, &text.parse().unwrap()).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
        assert!(table.blocks.exact.len() > 1500, "{}", table.blocks.exact.len());
        let sources = [
            table.blocks.entries.iter().map(|entry| &entry.source).collect::<Vec<_>>(),
            table.harmless.entries.iter().map(|entry| &entry.source).collect(),
            table.offloads.entries.iter().map(|entry| &entry.source).collect(),
            table.calls.entries.iter().map(|entry| &entry.source).collect(),
            table.schedules.entries.iter().map(|entry| &entry.source).collect(),
            table.decorators.entries.iter().map(|entry| &entry.source).collect(),
            table.guards.entries.iter().map(|entry| &entry.source).collect(),
        ];
        assert_eq!(sources.iter().flatten().filter(|source| !source.contains(char::is_numeric)).count(), 0);
        assert_eq!(table.blocks.entries.iter().filter(|entry| entry.instead.is_none()).count(), 0);
    }

    #[test]
    fn no_name_is_in_two_files() {
        let mut blocks = Names::<()>::default();
        for (file, text) in FILES {
            let mut table = Table::default();
            read::add(&mut table, &text.parse().unwrap()).unwrap();
            let names: Vec<String> = table.blocks.exact.into_keys().collect();
            assert_eq!(blocks.add(&names, ()), None, "{file}");
        }
    }

    #[test]
    fn names_are_found_as_they_are_defined_and_as_they_are_imported() {
        let table = Table::builtin();
        assert_eq!(table.blocks("time.sleep").unwrap().kind, Kind::Sleep);
        assert_eq!(table.blocks("_socket.socket.recv").unwrap().level, Level::Likely);
        assert_eq!(table.blocks("requests.get").unwrap(), table.blocks("requests.sessions.Session.get").unwrap());
        assert_eq!(table.offloads("asyncio.threads.to_thread").unwrap().to, Elsewhere::Thread);
        assert_eq!(table.decorator("functools.lru_cache").unwrap().kind, DecoratorKind::Cached);
        assert!(table.guard("_asyncio.get_running_loop").unwrap().raises);
        assert!(table.blocks("time.time").is_none());
        assert!(table.blocks("time").is_none());
    }

    #[test]
    fn a_class_and_its_constructor_are_one_name() {
        let table = Table::builtin();
        assert_eq!(table.blocks("subprocess.Popen.__init__"), table.blocks("subprocess.Popen"));
        assert_eq!(table.blocks("sqlite3.Connection.__new__"), table.blocks("sqlite3.Connection"));
    }

    #[test]
    fn a_star_stands_for_everything_below_and_the_longest_name_wins() {
        let table = extended(
            r#"
            [[blocks]]
            names = ["vendor.*"]
            kind = "network"
            [[blocks]]
            names = ["vendor.local.*", "vendor.Client.close"]
            kind = "file"
            "#,
        )
        .unwrap();
        let kind = |name| table.blocks(name).map(|blocks| blocks.kind);
        assert_eq!(kind("vendor.Client.get"), Some(Kind::Network));
        assert_eq!(kind("vendor.Client.close"), Some(Kind::File));
        assert_eq!(kind("vendor.local.read"), Some(Kind::File));
        assert_eq!(kind("vendor"), None);
        assert_eq!(kind("vendors.get"), None);
    }

    #[test]
    fn what_is_harmless_is_so_but_for_what_blocks_by_its_own_name() {
        let table = Table::builtin();
        assert!(table.harmless("pandas.core.series.Series.__init__").is_some());
        assert!(table.harmless("pandas.read_csv").is_none());
        assert!(table.harmless("requests.get").is_none());
        let own = extended("[[harmless]]\nnames = [\"corp.ready_made.*\"]").unwrap();
        assert!(own.harmless("corp.ready_made.call").is_some());
    }

    #[test]
    fn arguments_decide_whether_it_blocks() {
        let table = Table::builtin();
        let get = table.blocks("queue.Queue.get").unwrap();
        assert!(get.applies(&[]));
        assert!(!get.applies(&[given(Some(0), None, Some(Literal::Bool(false)))]));
        assert!(!get.applies(&[given(None, Some("block"), Some(Literal::Bool(false)))]));
        assert!(!get.applies(&[given(None, Some("timeout"), Some(Literal::Number(0.0)))]));
        assert!(get.applies(&[given(None, Some("timeout"), None)]));
        let waitpid = table.blocks("os.waitpid").unwrap();
        assert!(waitpid.applies(&[given(Some(0), None, None), given(Some(1), None, Some(Literal::Number(0.0)))]));
        assert!(!waitpid.applies(&[given(Some(0), None, None), given(Some(1), None, None)]));
        let hash = table.blocks("_hashlib.pbkdf2_hmac").unwrap();
        assert!(!hash.applies(&[given(Some(3), None, Some(Literal::Number(1.0)))]));
        assert!(hash.applies(&[given(Some(3), None, Some(Literal::Number(600_000.0)))]));
        let smtp = table.blocks("smtplib.SMTP").unwrap();
        assert!(!smtp.applies(&[]));
        assert!(smtp.applies(&[given(Some(0), None, None)]));
    }

    #[test]
    fn the_function_is_found_among_the_arguments() {
        let table = Table::builtin();
        let (function, pool) = (given(Some(1), None, None), given(Some(0), None, None));
        let offloads = table.offloads("asyncio.base_events.BaseEventLoop.run_in_executor").unwrap();
        assert_eq!(offloads.function.of(&[pool.clone(), function]).unwrap().position, Some(1));
        assert!(offloads.function.of(&[pool]).is_none());
        let thread = table.offloads("threading.Thread.__init__").unwrap();
        let target = [given(None, Some("target"), None)];
        assert_eq!(thread.function.of(&target).unwrap().keyword.as_deref(), Some("target"));
    }

    #[test]
    fn users_add_entries_of_every_section_and_their_word_counts() {
        let table = extended(
            r#"
            line-length = 100
            [[blocks]]
            names = ["corp.legacy.{Client,Session}.call", "time.sleep"]
            kind = "network"
            level = "likely"
            gil = true
            [[offloads]]
            names = ["corp.aio.in_pool"]
            argument = 1
            to = "process"
            [[calls]]
            names = ["corp.retry"]
            name = "function"
            [[schedules]]
            names = ["corp.bus.subscribe"]
            argument = 1
            tag = "handler"
            [[decorators]]
            names = ["corp.background"]
            kind = "offloads"
            [[guards]]
            names = ["corp.on_worker"]
            running = false
            "#,
        )
        .unwrap();
        let call = table.blocks("corp.legacy.Session.call").unwrap();
        assert_eq!((call.kind, call.level, call.gil), (Kind::Network, Level::Likely, true));
        assert_eq!(table.blocks("time.sleep").unwrap().kind, Kind::Network);
        assert_eq!(table.offloads("corp.aio.in_pool").unwrap().to, Elsewhere::Process);
        assert_eq!(table.calls("corp.retry").unwrap().function.name.as_deref(), Some("function"));
        assert_eq!(table.schedules("corp.bus.subscribe").unwrap().tag, Tag::Handler);
        assert_eq!(table.decorator("corp.background").unwrap().kind, DecoratorKind::Offloads(Elsewhere::Thread));
        assert!(!table.guard("corp.on_worker").unwrap().running);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_what_to_write() {
        let wrong = |text: &str| extended(text).unwrap_err();
        assert_eq!(
            wrong("blocks = 3"),
            "`blocks` is not a list of tables: write each entry under `[[tool.loopwright.check.blocks]]`"
        );
        assert_eq!(wrong("[[blocks]]\nnmaes = [\"a.b\"]"), "blocks[0]: there is no key `nmaes`: did you mean `names`?");
        assert_eq!(
            wrong("[[guards]]\nnames = [\"a.b\"]\nwhen = true"),
            "guards[0]: there is no key `when`: it takes `names`, `running`, `raises`, `source`"
        );
        assert_eq!(wrong("[[blocks]]\nnames = [\"a.b\"]"), "blocks[0]: `kind` is missing: write `kind = \"network\"`");
        assert_eq!(
            wrong("[[blocks]]\nnames = [\"a.b\"]\nkind = \"disk\""),
            "blocks[0]: `kind` is \"disk\": it takes `sleep`, `network`, `subprocess`, `database`, `wait`, `file`, \
             `stdin`, `loop`, `cpu`"
        );
        assert_eq!(
            wrong("[[offloads]]\nnames = [\"a.b\"]"),
            "offloads[0]: `argument` is missing: write `argument = 0`"
        );
        assert_eq!(
            wrong("[[offloads]]\nnames = [\"a b\"]\nargument = 0"),
            "offloads[0]: `a b` is not a dotted name: write `package.module.function`, \
             `package.module.Class.method`, `package.make().method` of what a call returns, or `package.*` for everything below"
        );
        assert_eq!(
            wrong("[[guards]]\nnames = [\"a.b\"]\n[[guards]]\nnames = [\"a.{b,c}\"]"),
            "guards[1]: `a.b` has an entry already: remove one of the two"
        );
        assert_eq!(
            wrong("[[blocks]]\nnames = [\"a.b\"]\nkind = \"file\"\nunless = [{ argument = 0 }]"),
            "blocks[0]: `unless` is [{ argument = 0 }]: it takes a list like `[{ argument = 0, name = \"block\", is \
             = false }]`, with `is`, `at_most` or `given`"
        );
    }
}
