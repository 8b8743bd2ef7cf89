//! What a finding is called from one version of a file to the next: lines may move, the number stays.

use std::path::Path;

use rustc_hash::FxHashMap;

use crate::finding::Finding;
use crate::paths::relative;
use crate::sources::Sources;

/// A fingerprint for each finding: of its rule, file, function and line of code, and of how many like it come before.
pub fn fingerprints(findings: &[Finding], project: &Path, sources: &Sources) -> Vec<String> {
    let mut seen: FxHashMap<u64, u32> = FxHashMap::default();
    findings
        .iter()
        .map(|finding| {
            let line = sources.line(&finding.path, finding.span.line).unwrap_or_default();
            let mut hash = Fnv::default();
            hash.add(&finding.rule);
            hash.add(&relative(&finding.path, project));
            hash.add(&finding.function);
            hash.add(&line.split_whitespace().collect::<Vec<_>>().join(" "));
            let ordinal = seen.entry(hash.0).or_default();
            hash.add(&ordinal.to_string());
            *ordinal += 1;
            format!("{:016x}", hash.0)
        })
        .collect()
}

/// FNV-1a: the same in every version of every compiler, which is what a file in a repository needs.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, part: &str) {
        for byte in part.bytes().chain([0]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
