//! Every fix of every rule, applied to the rule's fixture: the finding is gone, the file parses, a second time changes
//! nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ruff_python_ast::PySourceType;
use serde_json::Value;

/// Copies a fixture to where it may be changed.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a fixture") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &target) } else { drop(fs::copy(entry.path(), target)) }
    }
}

/// Runs the program over a fixture's copy with one rule on.
fn check(folder: &Path, code: &str, more: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loopwright-check"));
    command.current_dir(folder).env_remove("VIRTUAL_ENV").args(["--all", "--no-cache", "--format", "json"]);
    command.args(["--root", ".", "--site-packages", "site", "--python-version", "3.13", "--select", code]);
    let output = command.args(more).output().expect("the program runs");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{code}: {error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn findings(document: &Value) -> &[Value] {
    document["findings"].as_array().expect("a list")
}

/// The texts of all Python files below a folder.
fn texts(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(texts(&path));
        } else if path.extension().is_some_and(|suffix| suffix == "py") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            found.push((path, text));
        }
    }
    found.sort();
    found
}

#[test]
fn every_fix_of_every_fixture() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixes");
    if temporary.exists() {
        fs::remove_dir_all(&temporary).expect("the last run's copies can go");
    }
    let only = std::env::var("LOOPWRIGHT_RULE").ok();
    let mut failed = vec![];
    for rule in loopwright_check::rules::all() {
        let (code, safety) = (rule.meta().code, rule.meta().fix);
        let fixture = fixtures.join(code);
        if safety.is_none() || !fixture.exists() || only.as_ref().is_some_and(|only| only != code) {
            continue;
        }
        // Each rule is tried, so that one run tells all.
        if std::panic::catch_unwind(|| fixes_of(code, &fixture, &temporary.join(code))).is_err() {
            failed.push(code);
        }
    }
    assert_eq!(failed, [] as [&str; 0]);
}

fn fixes_of(code: &str, fixture: &Path, folder: &Path) {
    copy(fixture, folder);
    fs::write(folder.join("pyproject.toml"), "[tool.loopwright.check]\nexclude = [\"site\"]\n").expect("a file");
    fs::create_dir_all(folder.join("site")).expect("a folder");

    let before = check(folder, code, &[]);
    if findings(&before).is_empty() {
        return;
    }
    let fixable = findings(&before).iter().filter(|finding| !finding["fix"].is_null()).count();
    assert_ne!(fixable, 0, "{code} says that it has a fix, and its fixture shows none");

    let untouched = texts(folder);
    let dry = Command::new(env!("CARGO_BIN_EXE_loopwright-check"))
        .current_dir(folder)
        .args(["--diff-fixes", "--unsafe-fixes", "--all", "--no-cache", "--root", ".", "--site-packages", "site"])
        .args(["--select", code])
        .output()
        .expect("the program runs");
    assert!(String::from_utf8_lossy(&dry.stdout).contains("+++ "), "{code}: a diff is printed");
    assert_eq!(texts(folder), untouched, "{code}: --diff-fixes changes nothing");

    let after = check(folder, code, &["--fix", "--unsafe-fixes"]);
    let left: Vec<_> = findings(&after).iter().filter(|finding| !finding["fix"].is_null()).collect();
    assert!(left.is_empty(), "{code}: still there after --fix: {left:#?}");
    let gone = findings(&before).len() - findings(&after).len();
    assert!(gone >= fixable, "{code}: {fixable} could be fixed, {gone} are gone: {:#?}", findings(&after));

    let fixed = texts(folder);
    assert_ne!(fixed, untouched, "{code}: --fix changes something");
    for (path, text) in &fixed {
        let parsed = ruff_python_parser::parse_unchecked_source(text, PySourceType::Python);
        assert!(parsed.has_valid_syntax(), "{code}: {} no longer parses:\n{text}", path.display());
    }
    check(folder, code, &["--fix", "--unsafe-fixes"]);
    assert_eq!(texts(folder), fixed, "{code}: a second time changes nothing");
}
