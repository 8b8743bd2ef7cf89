//! What rules ask of the graph beside roots: what happens somewhere below a function.

use rustc_hash::{FxHashMap, FxHashSet};

use super::Program;
use crate::facts::{FnKey, Function, Held, Site};
use crate::finding::{Finding, Tag};

/// Whether coroutines that a function awaits belong to what is below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// Only what runs in the same frame of the loop.
    Calls,
    /// Also the coroutines that it awaits at once.
    Awaits,
}

impl Program {
    /// Gives findings about one place the circumstances of the function they are in, and makes them quiet as chains
    /// are. What has tags already knows better.
    pub fn settle(&self, findings: &mut [Finding]) {
        let by_name: FxHashMap<(&str, &str), u32> = self
            .keys
            .iter()
            .enumerate()
            .filter(|(id, _)| self.owned[*id])
            .map(|(id, key)| ((&*key.path, self.functions[key].qual.as_str()), id as u32))
            .collect();
        for finding in findings.iter_mut().filter(|finding| finding.tags.is_empty()) {
            if let Some(id) = by_name.get(&(&*finding.path, finding.function.as_str())) {
                let tags = self.tags[*id as usize];
                finding.tags = tags.to_vec();
                finding.quiet |= tags.quiet();
            } else if self.test_paths.contains(&finding.path) {
                finding.tags = vec![Tag::Test];
                finding.quiet = true;
            }
        }
    }

    /// The shortest chain of sites from a function down to one for which `wanted` holds; none if nothing below it does.
    pub fn reaches(
        &self,
        key: &FnKey,
        below: Below,
        mut wanted: impl FnMut(&Function, &Site) -> bool,
    ) -> Option<Vec<(FnKey, usize)>> {
        let mut chains = vec![(key.clone(), vec![])];
        let mut seen = FxHashSet::from_iter([key.clone()]);
        let mut next = 0;
        while let Some((at, chain)) = chains.get(next).cloned() {
            next += 1;
            let Some(function) = self.function(&at) else { continue };
            let with =
                |site: usize| -> Vec<(FnKey, usize)> { chain.iter().cloned().chain([(at.clone(), site)]).collect() };
            if let Some(site) = function.sites.iter().position(|site| wanted(function, site)) {
                return Some(with(site));
            }
            let awaits = self.awaits(&at).iter().filter(|edge| function.sites[edge.site].awaited);
            let awaits = awaits.filter(|_| below == Below::Awaits);
            for edge in self.callees(&at).iter().chain(awaits) {
                if seen.insert(edge.to.clone()) {
                    chains.push((edge.to.clone(), with(edge.site)));
                }
            }
        }
        None
    }

    /// Whether awaiting a coroutine can hand control back to the loop. A coroutine that awaits only coroutines that do
    /// not is like a plain function; what is unknown can.
    pub fn suspends(&self, key: &FnKey) -> bool {
        let mut seen = FxHashSet::from_iter([key.clone()]);
        let mut open = vec![key.clone()];
        while let Some(at) = open.pop() {
            let Some(function) = self.function(&at) else { return true };
            let awaited: Vec<usize> =
                function.sites.iter().enumerate().filter(|(_, site)| site.awaited).map(|(index, _)| index).collect();
            // `async for`, `async with` and awaits of anything but calls are not followed.
            if (awaited.len() as u32) < function.awaits {
                return true;
            }
            for index in awaited {
                let mut edges = self.awaits(&at).iter().filter(|edge| edge.site == index).peekable();
                if edges.peek().is_none() {
                    return true;
                }
                open.extend(edges.map(|edge| edge.to.clone()).filter(|to| seen.insert(to.clone())));
            }
        }
        false
    }

    /// The locks that are entered below a function, itself included, each once: what is held and where it is taken.
    pub fn locks_below(&self, key: &FnKey, below: Below) -> Vec<(Held, FnKey, usize)> {
        let mut found: Vec<(Held, FnKey, usize)> = vec![];
        self.reaches(key, below, |function, site| {
            let index = function.sites.iter().position(|own| std::ptr::eq(own, site)).unwrap_or_default();
            for held in &site.held {
                if !found.iter().any(|(known, ..)| known.text == held.text && known.identity == held.identity) {
                    found.push((held.clone(), function.key.clone(), index));
                }
            }
            false
        });
        found
    }
}
