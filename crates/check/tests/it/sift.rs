//! From what was found to what is shown: rules, comments, files, the baseline, quiet ones. The findings are made by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use loopwright_check::baseline::{self, Baseline};
use loopwright_check::effects::Table;
use loopwright_check::facts::Span;
use loopwright_check::finding::{Finding, Frame, Level};
use loopwright_check::fingerprint::fingerprints;
use loopwright_check::options::Analysis;
use loopwright_check::per_file::PerFileIgnores;
use loopwright_check::program::Program;
use loopwright_check::rule::RuleMeta;
use loopwright_check::selection::{Selection, Selector};
use loopwright_check::sift::{Sieve, Sifted};
use loopwright_check::sources::Sources;

const fn rule(code: &'static str, name: &'static str, pedantic: bool) -> RuleMeta {
    RuleMeta { code, name, summary: "", pedantic, fix: None, page: "" }
}

static RULES: &[&RuleMeta] = &[
    &rule("LW101", "blocking-call", false),
    &rule("LW102", "blocking-dependency", false),
    &rule("LW204", "cancel-swallowed", false),
    &rule("LW403", "awaits-in-series", true),
];

/// A file of the project; findings name the lines of it.
const PATH: &str = "/work/app/a.py";

fn finding(rule: &str, line: u32) -> Finding {
    Finding {
        rule: rule.to_owned(),
        level: Level::Certain,
        path: Arc::from(PATH),
        span: Span { line, column: 1, start: 0, end: 0 },
        function: "app.a.f".to_owned(),
        message: "wrong".to_owned(),
        frames: vec![],
        why: None,
        help: None,
        tags: vec![],
        callers: vec![],
        callers_total: 0,
        fix: None,
        quiet: false,
    }
}

fn selectors(codes: &[&str]) -> Vec<Selector> {
    Selector::parse_all(codes.iter().copied(), RULES).expect("rules that exist")
}

/// What a test changes of the sieve.
#[derive(Default)]
struct Setting<'a> {
    selection: Selection,
    per_file: PerFileIgnores,
    baseline: Option<&'a Baseline>,
    all: bool,
}

fn sift(source: &str, findings: Vec<Finding>, setting: &Setting<'_>) -> Sifted {
    let sources = Sources::default();
    sources.insert(&Arc::from(PATH), source.to_owned());
    let project = PathBuf::from("/work");
    let prints = fingerprints(&findings, &project, &sources);
    let analysis = Analysis {
        findings,
        files: vec![Arc::from(PATH)],
        dependency_files: 0,
        skipped: vec![],
        notes: vec![],
        program: Program::new(vec![], Table::builtin()),
    };
    let sieve = Sieve {
        rules: RULES,
        selection: &setting.selection,
        per_file: &setting.per_file,
        project: &project,
        sources: &sources,
        change: None,
        baseline: setting.baseline,
        all: setting.all,
    };
    sieve.sift(&analysis, &prints)
}

/// The codes and lines that are shown.
fn shown(sifted: &Sifted) -> Vec<(&str, u32)> {
    sifted.findings.iter().map(|finding| (finding.rule.as_str(), finding.span.line)).collect()
}

fn selected(select: Option<&[&str]>, extend: &[&str], ignore: &[&str], pedantic: bool) -> Vec<String> {
    let findings = RULES.iter().map(|rule| finding(rule.code, 1)).collect();
    let selection =
        Selection { select: select.map(selectors), extend: selectors(extend), ignore: selectors(ignore), pedantic };
    let sifted = sift("x\n", findings, &Setting { selection, ..Setting::default() });
    sifted.findings.into_iter().map(|finding| finding.rule).collect()
}

#[test]
fn rules_by_code_prefix_and_name() {
    assert_eq!(selected(None, &[], &[], false), ["LW101", "LW102", "LW204"]);
    assert_eq!(selected(Some(&["LW1"]), &[], &[], false), ["LW101", "LW102"]);
    assert_eq!(selected(Some(&["LW1"]), &[], &["LW101"], false), ["LW102"]);
    assert_eq!(selected(Some(&["LW101"]), &[], &["LW1"], false), ["LW101"]);
    assert_eq!(selected(Some(&["LW101"]), &["LW204"], &[], false), ["LW101", "LW204"]);
    assert_eq!(selected(Some(&["cancel-swallowed"]), &[], &[], false), ["LW204"]);
    assert_eq!(selected(None, &[], &["ALL"], false), [] as [&str; 0]);
    assert!(Selector::parse("LW9", RULES).is_err());
    assert!(Selector::parse("W", RULES).is_err());
}

#[test]
fn pedantic_rules_need_a_word() {
    assert_eq!(selected(None, &[], &[], true), ["LW101", "LW102", "LW204", "LW403"]);
    assert_eq!(selected(Some(&["LW4"]), &[], &[], false), [] as [&str; 0]);
    assert_eq!(selected(Some(&["LW403"]), &[], &[], false), ["LW403"]);
    assert_eq!(selected(None, &["LW403"], &[], false), ["LW101", "LW102", "LW204", "LW403"]);
    let guess = Finding { level: Level::Pedantic, ..finding("LW101", 1) };
    let only = Selection { select: Some(selectors(&["LW101"])), ..Selection::default() };
    let sifted = sift("x\n", vec![guess], &Setting { selection: only, ..Setting::default() });
    assert_eq!(shown(&sifted), [], "a guess of a rule that is none is not shown by the rule's code");
}

const EXCUSED: &str = "\
one()  # noqa
two()  # noqa: LW101
three(  # noqa: LW1
    4,
)
with six(
    7,  # noqa: LW101
):
    nine()
'''
# noqa
'''; twelve()
thirteen()  # noqa: E501
";

#[test]
fn comments_excuse_the_statement_they_are_in() {
    let findings = [1, 2, 3, 4, 5, 6, 9, 12, 13].map(|line| finding("LW101", line)).to_vec();
    let sifted = sift(EXCUSED, findings, &Setting::default());
    assert_eq!(shown(&sifted), [("LW101", 9), ("LW101", 12), ("LW101", 13)]);
    assert_eq!(sifted.counts.suppressed, 6);
    let others = [1, 2, 3].map(|line| finding("LW204", line)).to_vec();
    assert_eq!(shown(&sift(EXCUSED, others, &Setting::default())), [("LW204", 2), ("LW204", 3)]);
}

#[test]
fn a_comment_on_a_call_of_the_project_excuses_the_chain() {
    let frame = |path: &str, line| Frame {
        path: Arc::from(path),
        span: Span { line, ..Span::default() },
        function: String::new(),
        note: String::new(),
    };
    let source = "f()  # noqa: LW101\ng()\n";
    let through = |path, line| Finding { frames: vec![frame(path, line), frame(PATH, 2)], ..finding("LW101", 2) };
    assert_eq!(shown(&sift(source, vec![through(PATH, 1)], &Setting::default())), []);
    assert_eq!(shown(&sift(source, vec![through(PATH, 2)], &Setting::default())), [("LW101", 2)]);
    assert_eq!(shown(&sift(source, vec![through("/site/x.py", 1)], &Setting::default())), [("LW101", 2)]);
}

#[test]
fn a_comment_excuses_a_file() {
    for (comment, left) in [
        ("# loopwright: noqa", vec![]),
        ("# loopwright: noqa: LW1", vec![("LW204", 2)]),
        ("# ruff: noqa", vec![("LW101", 2), ("LW204", 2)]),
    ] {
        let source = format!("{comment}\nf()\n");
        let findings = vec![finding("LW101", 2), finding("LW204", 2)];
        assert_eq!(shown(&sift(&source, findings, &Setting::default())), left, "{comment}");
    }
}

#[test]
fn a_file_that_does_not_parse_has_its_comments_all_the_same() {
    let sifted =
        sift("f()  # noqa\ndef (:\ng()\n", vec![finding("LW101", 1), finding("LW101", 3)], &Setting::default());
    assert_eq!(shown(&sifted), [("LW101", 3)]);
}

#[test]
fn rules_can_be_off_in_some_files() {
    for (glob, off) in
        [("app/*.py", true), ("a.py", true), ("app", true), ("app/", true), ("**/a.py", true), ("b.py", false)]
    {
        let mut per_file = PerFileIgnores::default();
        per_file.add(glob, selectors(&["LW1"])).expect("a glob");
        let findings = vec![finding("LW101", 1), finding("LW204", 1)];
        let sifted = sift("x\n", findings, &Setting { per_file, ..Setting::default() });
        let left = if off { vec![("LW204", 1)] } else { vec![("LW101", 1), ("LW204", 1)] };
        assert_eq!(shown(&sifted), left, "{glob}");
    }
}

#[test]
fn quiet_ones_are_counted() {
    let findings = || vec![finding("LW101", 1), Finding { quiet: true, ..finding("LW102", 1) }];
    let sifted = sift("x\n", findings(), &Setting::default());
    assert_eq!((shown(&sifted), sifted.counts.quiet), (vec![("LW101", 1)], 1));
    let sifted = sift("x\n", findings(), &Setting { all: true, ..Setting::default() });
    assert_eq!((sifted.findings.len(), sifted.counts.quiet), (2, 0));
}

#[test]
fn a_baseline_knows_its_findings_when_lines_have_moved() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("baseline.json");
    let sifted = sift("f()\nf()\n", vec![finding("LW101", 1), finding("LW101", 2)], &Setting::default());
    let pairs = sifted.findings.iter().zip(&sifted.fingerprints);
    assert_eq!(baseline::write(&file, Path::new("/work"), pairs).expect("it is written"), 2);
    let text = std::fs::read_to_string(&file).expect("it is there");
    assert!(text.contains("\"path\": \"app/a.py\""), "{text}");

    let baseline = Baseline::read(&file).expect("it is read");
    let setting = Setting { baseline: Some(&baseline), ..Setting::default() };
    // The same two further down, a third beside them, and one in a new line.
    let findings = [3, 4, 5, 6].map(|line| finding("LW101", line)).to_vec();
    let moved = sift("#\n#\n  f()\n  f()\nf()\ng()\n", findings, &setting);
    assert_eq!(shown(&moved), [("LW101", 5), ("LW101", 6)]);
    assert_eq!(moved.counts.baselined, 2);
    assert_eq!(baseline.stale(sifted.fingerprints.iter().take(1)), 1);
}

#[test]
fn a_baseline_that_is_none_is_told() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (name, text, said) in [
        ("no.json", None, "does not exist; `--write-baseline` makes it"),
        ("bad.json", Some("{}"), "is not one"),
        ("new.json", Some("{\"version\": 2, \"findings\": []}"), "version 2 is not known here"),
    ] {
        let file = folder.join(name);
        if let Some(text) = text {
            std::fs::write(&file, text).expect("it is written");
        }
        let error = Baseline::read(&file).expect_err("it is no baseline").to_string();
        assert!(error.contains(said), "{error}");
    }
}
