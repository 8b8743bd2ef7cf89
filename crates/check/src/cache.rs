//! What earlier runs have found out: the facts of each file, as long as nothing they rest on has changed.
//!
//! An entry holds for the text of its file, for the texts of all project files that it imports, directly or not, and for
//! the stamp: the program, the table, the installed distributions, which files there are. Anything else in the folder,
//! and anything broken, is as good as not there.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet, FxHasher};
use serde::{Deserialize, Serialize};

use crate::facts::FileFacts;

/// Changes with the form of the entries.
const FORMAT: u32 = 1;

/// 128 bits of a text. Nobody attacks a cache that is theirs.
type Digest = (u64, u64);

/// The facts of one file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    format: u32,
    stamp: u64,
    content: Digest,
    /// Files that it imports and that are checked, too.
    pub(crate) imports: Vec<Arc<str>>,
    /// Files of the project that it imports and that are not checked, with their texts.
    outside: Vec<(Arc<str>, Option<Digest>)>,
    /// Offsets of the functions that are read without being asked for.
    pub(crate) first: Vec<u32>,
    /// Offsets that were asked for, whether there is a function or not.
    pub(crate) asked: BTreeSet<u32>,
    pub(crate) facts: FileFacts,
}

/// A folder of entries; or none, and then every look is in vain.
pub(crate) struct Cache {
    folder: Option<PathBuf>,
    stamp: u64,
    /// Files that are checked.
    checked: FxHashSet<Arc<str>>,
}

impl Cache {
    pub(crate) fn new(folder: Option<&Path>, stamp: u64, checked: &[Arc<str>]) -> Self {
        let folder = folder.filter(|folder| std::fs::create_dir_all(folder).is_ok());
        if let Some(folder) = folder {
            // Nobody wants it in a repository, and a folder that cannot be written to is none.
            let _ = std::fs::write(folder.join(".gitignore"), "*\n");
        }
        Self { folder: folder.map(Path::to_owned), stamp, checked: checked.iter().cloned().collect() }
    }

    /// The entry of a file as it is now.
    pub(crate) fn load(&self, path: &str) -> Option<Entry> {
        let text = std::fs::read(self.place(path)?).ok()?;
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        let fits = entry.format == FORMAT && entry.stamp == self.stamp && &*entry.facts.path == path;
        (fits && entry.content == digest(&std::fs::read(path).ok()?)).then_some(entry)
    }

    /// Of project files: those whose imports are as they were, too.
    pub(crate) fn load_project(&self) -> FxHashMap<Arc<str>, Entry> {
        use rayon::prelude::*;

        if self.folder.is_none() {
            return FxHashMap::default();
        }
        let mut entries: FxHashMap<Arc<str>, Entry> =
            self.checked.par_iter().filter_map(|path| Some((path.clone(), self.load(path)?))).collect();
        let mut users: FxHashMap<Arc<str>, Vec<Arc<str>>> = FxHashMap::default();
        for (path, entry) in &entries {
            for import in &entry.imports {
                users.entry(import.clone()).or_default().push(path.clone());
            }
        }
        let mut outside: FxHashMap<Arc<str>, Option<Digest>> = FxHashMap::default();
        let mut open: Vec<Arc<str>> =
            self.checked.iter().filter(|path| !entries.contains_key(*path)).cloned().collect();
        for (path, entry) in &entries {
            let mut same = |(import, digest): &(Arc<str>, Option<Digest>)| {
                *outside.entry(import.clone()).or_insert_with(|| digest_of(import)) == *digest
            };
            if !entry.outside.iter().all(&mut same) {
                open.push(path.clone());
            }
        }
        let mut seen: FxHashSet<Arc<str>> = open.iter().cloned().collect();
        while let Some(path) = open.pop() {
            entries.remove(&path);
            for user in users.get(&path).into_iter().flatten() {
                if seen.insert(user.clone()) {
                    open.push(user.clone());
                }
            }
        }
        entries
    }

    /// Keeps what is known of a file. A run that cannot write is only slower next time.
    pub(crate) fn store(&self, facts: FileFacts, imports: Vec<Arc<str>>, first: Vec<u32>, asked: BTreeSet<u32>) {
        let Some(place) = self.place(&facts.path) else { return };
        let Ok(content) = std::fs::read(&*facts.path) else { return };
        let (imports, outside): (Vec<_>, Vec<_>) =
            imports.into_iter().partition(|import| self.checked.contains(import));
        let outside = outside.into_iter().map(|import| (import.clone(), digest_of(&import))).collect();
        let (format, stamp, content) = (FORMAT, self.stamp, digest(&content));
        let entry = Entry { format, stamp, content, imports, outside, first, asked, facts };
        let temporary = place.with_extension(format!("{}.tmp", std::process::id()));
        if let Ok(text) = serde_json::to_vec(&entry)
            && std::fs::write(&temporary, text).is_ok()
            && std::fs::rename(&temporary, &place).is_err()
        {
            let _ = std::fs::remove_file(&temporary);
        }
    }

    fn place(&self, path: &str) -> Option<PathBuf> {
        let (high, low) = digest(path.as_bytes());
        Some(self.folder.as_ref()?.join(format!("{high:016x}{low:016x}.json")))
    }
}

fn digest_of(path: &str) -> Option<Digest> {
    std::fs::read(path).ok().map(|text| digest(&text))
}

fn digest(text: &[u8]) -> Digest {
    let half = |seed: u64| {
        let mut hasher = FxHasher::default();
        seed.hash(&mut hasher);
        text.hash(&mut hasher);
        hasher.finish()
    };
    (half(0x9e37_79b9_7f4a_7c15), half(0xc2b2_ae3d_27d4_eb4f))
}

/// What every entry rests on: this program, the files and roots of the project, the installed distributions, the table.
pub(crate) fn stamp(parts: &[&dyn std::fmt::Debug], site_packages: &[&Path]) -> u64 {
    let mut hasher = FxHasher::default();
    FORMAT.hash(&mut hasher);
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    if let Ok(program) = std::env::current_exe().and_then(std::fs::metadata) {
        program.len().hash(&mut hasher);
        program.modified().ok().hash(&mut hasher);
    }
    for part in parts {
        format!("{part:?}").hash(&mut hasher);
    }
    for folder in site_packages {
        folder.hash(&mut hasher);
        let names: BTreeSet<_> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        names.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_holds_until_its_file_or_an_import_changes() {
        let folder = std::env::temp_dir().join(format!("loopwright-cache-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| -> Arc<str> {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().into()
        };
        let (used, user, other) = (file("used.py", "1"), file("user.py", "2"), file("other.py", "3"));
        let paths = [used.clone(), user.clone(), other.clone()];
        let cache = Cache::new(Some(&folder.join("cache")), 7, &paths);
        for path in &paths {
            let imports = if *path == user { vec![used.clone()] } else { vec![] };
            let facts = FileFacts { path: path.clone(), ..FileFacts::default() };
            cache.store(facts, imports, vec![], BTreeSet::new());
        }
        assert_eq!(cache.load_project().len(), 3);
        assert!(Cache::new(Some(&folder.join("cache")), 8, &paths).load_project().is_empty());
        file("used.py", "changed");
        let left: Vec<_> = cache.load_project().into_keys().collect();
        assert_eq!(left, std::slice::from_ref(&other));
        std::fs::write(cache.place(&other).unwrap(), "{ broken").unwrap();
        assert!(cache.load_project().is_empty());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
