//! Each rule alone on its fixture: `tests/fixtures/LWnnn` is a small project (`site/` in it stands for the installed
//! packages), `tests/snapshots/LWnnn.txt` what is found in it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use loopwright_check::analyse;
use loopwright_check::options::{Analysis, Options};
use loopwright_check::progress::Silent;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// The findings in plain text, paths relative to the fixture.
fn shown(analysis: &Analysis, root: &Path) -> String {
    let short =
        |path: &str| Path::new(path).strip_prefix(root).map_or(path.to_owned(), |path| path.display().to_string());
    let mut text = String::new();
    for finding in &analysis.findings {
        let span = finding.span;
        let place = format!("{}:{}:{}", short(&finding.path), span.line, span.column);
        let level = format!("{:?}", finding.level).to_lowercase();
        writeln!(text, "{place} {} {level} in {}", finding.rule, finding.function).unwrap();
        writeln!(text, "  {}", finding.message).unwrap();
        for frame in &finding.frames {
            writeln!(text, "  | {}:{} {}: {}", short(&frame.path), frame.span.line, frame.function, frame.note)
                .unwrap();
        }
        for caller in &finding.callers {
            writeln!(text, "  < {}:{} {}", short(&caller.path), caller.line, caller.function).unwrap();
        }
        if !finding.tags.is_empty() {
            writeln!(text, "  tags: {:?}{}", finding.tags, if finding.quiet { ", quiet" } else { "" }).unwrap();
        }
        if let Some(why) = &finding.why {
            writeln!(text, "  why: {why}").unwrap();
        }
        if let Some(help) = &finding.help {
            writeln!(text, "  help: {help}").unwrap();
        }
        if let Some(fix) = &finding.fix {
            writeln!(text, "  fix ({:?}): {}", fix.safety, fix.title).unwrap();
            for edit in &fix.edits {
                writeln!(text, "    {}..{} -> {:?}", edit.start, edit.end, edit.text).unwrap();
            }
        }
    }
    for (path, skipped) in &analysis.skipped {
        writeln!(text, "skipped {}: {}: {}", short(path), skipped.name, skipped.reason).unwrap();
    }
    text
}

fn fixture(code: &str) {
    let root = folder("fixtures").join(code);
    // As the analysis names files.
    let root = std::fs::canonicalize(root).unwrap();
    let site = root.join("site");
    let options = Options {
        paths: vec![root.clone()],
        project: root.clone(),
        roots: vec![root.clone()],
        // A folder without packages, so that no environment of this machine is looked at.
        site_packages: vec![if site.exists() { site } else { folder("snapshots") }],
        exclude: vec!["site".to_owned()],
        python_version: Some((3, 13)),
        threads: Some(1),
        ..Options::default()
    };
    let mut analysis = analyse(&options, &Silent).unwrap();
    analysis.findings.retain(|finding| finding.rule == code);
    expect_file![folder("snapshots").join(format!("{code}.txt"))].assert_eq(&shown(&analysis, &root));
}

/// All fixtures; `LOOPWRIGHT_RULE=LW204` runs that one only.
#[test]
fn fixtures() {
    let only = std::env::var("LOOPWRIGHT_RULE").ok();
    let mut failed = vec![];
    for entry in std::fs::read_dir(folder("fixtures")).into_iter().flatten() {
        let code = entry.unwrap().file_name().into_string().unwrap();
        if only.as_ref().is_none_or(|only| *only == code) && std::panic::catch_unwind(|| fixture(&code)).is_err() {
            failed.push(code);
        }
    }
    assert!(failed.is_empty(), "{failed:?} differ; UPDATE_EXPECT=1 writes the snapshots anew");
}
