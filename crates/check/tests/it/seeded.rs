//! The seeded set: how many of its bugs are found, and which look-alikes are reported. See tests/seeded/README.md.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use loopwright_check::analyse;
use loopwright_check::finding::{Finding, Level};
use loopwright_check::options::Options;
use loopwright_check::progress::Silent;

const SET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seeded");

/// How much of the set has to be found, in percent.
const FOUND: usize = 80;
/// How many look-alikes may be reported, in percent.
const REPORTED: usize = 6;

/// One folder of the set.
struct Case {
    /// `construct/case`
    name: String,
    /// The lines of which one has to be reported, in files relative to the folder; none for a look-alike.
    bugs: Vec<Bug>,
    /// Its files without the comments that tell the answer.
    files: Vec<(PathBuf, String)>,
}

struct Bug {
    rule: String,
    file: PathBuf,
    line: u32,
}

fn cases() -> Vec<Case> {
    let mut found = vec![];
    for construct in folders(Path::new(SET)) {
        for folder in folders(&construct) {
            found.push(read(&folder));
        }
    }
    found
}

fn folders(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

fn files(of: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(of).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

fn read(folder: &Path) -> Case {
    let name = folder.strip_prefix(SET).unwrap().to_string_lossy().into_owned();
    let mut paths = vec![];
    files(folder, &mut paths);
    paths.sort();
    let (mut bugs, mut answers, mut stripped) = (vec![], 0, vec![]);
    for path in paths {
        let file = path.strip_prefix(folder).unwrap().to_path_buf();
        let mut text = String::new();
        for (line, number) in fs::read_to_string(&path).unwrap().lines().zip(1..) {
            if let Some((_, rule)) = line.split_once("# BUG: ") {
                bugs.push(Bug { rule: rule.to_owned(), file: file.clone(), line: number });
            }
            answers += usize::from(line.contains("# OK"));
            let code = ["# BUG: ", "# OK"].iter().fold(line, |rest, mark| rest.split(mark).next().unwrap());
            text += code.trim_end();
            text += "\n";
        }
        stripped.push((file, text));
    }
    if folder.file_name().unwrap().to_string_lossy().starts_with("ok_") {
        assert!(bugs.is_empty() && answers > 0, "{name} is a look-alike: no `# BUG`, and an `# OK: why`");
    } else {
        let one = bugs
            .first()
            .is_some_and(|first| bugs.iter().all(|bug| (&bug.rule, &bug.file) == (&first.rule, &first.file)));
        assert!(one && answers == 0, "{name} is a bug: `# BUG: LWnnn` in one file, no `# OK`");
    }
    Case { name, bugs, files: stripped }
}

/// A folder that is gone afterwards.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Case {
    /// What is found in a copy of the case, with paths relative to it.
    fn findings(&self, scratch: &Scratch) -> Vec<Finding> {
        let root = scratch.0.join(&self.name);
        for (file, text) in &self.files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let site = root.join("site");
        let options = Options {
            paths: vec![root.clone()],
            project: root.clone(),
            exclude: vec!["site".to_owned()],
            site_packages: if site.is_dir() { vec![site] } else { vec![] },
            threads: Some(1),
            ..Options::default()
        };
        let mut found = analyse(&options, &Silent).unwrap().findings;
        let relative = |path: &mut std::sync::Arc<str>| {
            *path = Path::new(&**path).strip_prefix(&root).map_or(path.clone(), |path| path.to_string_lossy().into());
        };
        for finding in &mut found {
            relative(&mut finding.path);
            finding.frames.iter_mut().for_each(|frame| relative(&mut frame.path));
        }
        found
    }
}

impl Bug {
    fn is_found_by(&self, finding: &Finding) -> bool {
        let here = |path: &str, line: u32| Path::new(path) == self.file && line == self.line;
        finding.rule == self.rule
            && (here(&finding.path, finding.span.line)
                || finding.frames.iter().any(|frame| here(&frame.path, frame.span.line)))
    }
}

/// What is found in each case. Threads of our own: a worker of rayon that waits for an analysis would begin another one
/// on the same stack.
fn answers(cases: &[Case], scratch: &Scratch) -> Vec<Vec<Finding>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((at, case)) = cases.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
                    let findings = case.findings(scratch);
                    answers.lock().unwrap().insert(at, findings);
                }
            });
        }
    });
    answers.into_inner().unwrap().into_values().collect()
}

fn told(findings: &[Finding]) -> String {
    let each = findings.iter().map(|one| format!("{} {}:{}", one.rule, one.path, one.span.line));
    each.collect::<Vec<_>>().join(", ")
}

#[test]
fn bugs_are_found_and_look_alikes_are_not() {
    let scratch = Scratch(std::env::temp_dir().join(format!("loopwright-seeded-{}", std::process::id())));
    let cases = cases();
    let answers = answers(&cases, &scratch);
    let (mut missed, mut reported) = (vec![], vec![]);
    let (mut bugs, mut pedantic) = (0, 0);
    let mut by_rule: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (case, findings) in cases.iter().zip(&answers) {
        if let Some(bug) = case.bugs.first() {
            bugs += 1;
            let hits = findings.iter().filter(|finding| case.bugs.iter().any(|bug| bug.is_found_by(finding)));
            let mut hits = hits.peekable();
            let found = hits.peek().is_some();
            pedantic += usize::from(found && hits.all(|finding| finding.level == Level::Pedantic));
            let count = by_rule.entry(&bug.rule).or_default();
            *count = (count.0 + usize::from(found), count.1 + 1);
            if !found {
                let place = format!("{} {}:{}", bug.rule, bug.file.display(), bug.line);
                missed.push(format!("{} ({place}); found: {}", case.name, told(findings)));
            }
        } else {
            let loud: Vec<_> = findings.iter().filter(|finding| finding.level != Level::Pedantic).cloned().collect();
            if !loud.is_empty() {
                reported.push(format!("{}: {}", case.name, told(&loud)));
            }
        }
    }
    let look_alikes = cases.len() - bugs;
    println!("found {} of {bugs} bugs, {pedantic} of them by pedantic rules only", bugs - missed.len());
    println!("reported {} of {look_alikes} look-alikes", reported.len());
    by_rule.iter().for_each(|(rule, (found, all))| println!("  {rule} {found}/{all}"));
    println!("missed:\n  {}\nreported:\n  {}", missed.join("\n  "), reported.join("\n  "));
    assert!((bugs - missed.len()) * 100 >= bugs * FOUND);
    assert!(reported.len() * 100 <= look_alikes * REPORTED);
}
