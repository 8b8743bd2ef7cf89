//! What each format prints of the same findings, made by hand.

use std::path::PathBuf;
use std::sync::Arc;

use expect_test::expect_file;
use loopwright_check::facts::{Skipped, Span};
use loopwright_check::finding::{Caller, Edit, Finding, Fix, Frame, Level, Safety, Tag};
use loopwright_check::fingerprint::fingerprints;
use loopwright_check::options::Note;
use loopwright_check::report::ansi::{Color, Style};
use loopwright_check::report::{Counts, Format, Report};
use loopwright_check::rule::RuleMeta;
use loopwright_check::sources::{Source, Sources};
use serde_json::Value;

const HANDLERS: &str = "\
import service


async def get_user(request):
    user = await service.load(request.id)
    return user
";

const SERVICE: &str = "\
from client import Client


class Service:
    async def load(self, id):
\t\tname = \"日本\"; self.client.refresh(
            id,
        )
        return id
";

const CLIENT: &str = "\
import requests


class Client:
    def refresh(self):
        return requests.get(self.url)
";

static RULES: &[&RuleMeta] = &[
    &RuleMeta {
        code: "LW101",
        name: "blocking-call",
        summary: "a call that blocks, behind other calls",
        pedantic: false,
        fix: Some(Safety::Safe),
        page: "# LW101 blocking-call\n",
    },
    &RuleMeta {
        code: "LW401",
        name: "timeout-without-await",
        summary: "a timeout that cannot fire",
        pedantic: false,
        fix: None,
        page: "# LW401 timeout-without-await\n",
    },
];

/// The files, findings and notes that every format prints.
struct Scene {
    sources: Sources,
    findings: Vec<Finding>,
    notes: Vec<Note>,
    skipped: Vec<(Arc<str>, Skipped)>,
}

fn span(text: &str, piece: &str) -> Span {
    let start = text.find(piece).expect("the piece is in the text") as u32;
    let place = Source::new(text.to_owned()).place(start);
    Span { start, end: start + piece.len() as u32, line: place.line, column: place.column }
}

fn scene() -> Scene {
    let paths: [Arc<str>; 3] =
        ["/work/app/handlers.py".into(), "/work/app/service.py".into(), "/work/app/client.py".into()];
    let sources = Sources::default();
    for (path, text) in paths.iter().zip([HANDLERS, SERVICE, CLIENT]) {
        sources.insert(path, text.to_owned());
    }
    let [handlers, service, client] = paths;
    let root = span(CLIENT, "requests.get(self.url)");
    let frame = |path: &Arc<str>, text, piece, function: &str, note: &str| Frame {
        path: path.clone(),
        span: span(text, piece),
        function: function.to_owned(),
        note: note.to_owned(),
    };
    let refresh = "self.client.refresh(\n            id,\n        )";
    let chain = Finding {
        rule: "LW101".to_owned(),
        level: Level::Certain,
        path: client.clone(),
        span: root,
        function: "client.Client.refresh".to_owned(),
        message: "`requests.get` blocks the event loop, <up to> \"1 s\" & more".to_owned(),
        frames: vec![
            frame(&handlers, HANDLERS, "service.load(request.id)", "handlers.get_user", "calls `Service.load`"),
            frame(&service, SERVICE, refresh, "service.Service.load", "calls `Client.refresh`"),
            frame(&client, CLIENT, "requests.get(self.url)", "client.Client.refresh", "waits for the network"),
        ],
        why: Some("every receiver's type is known".to_owned()),
        help: Some("`await asyncio.to_thread(self.client.refresh, id)`".to_owned()),
        tags: vec![Tag::Handler, Tag::InLoop],
        callers: (1..=5)
            .map(|n| Caller { function: format!("handlers.other_{n}"), path: handlers.clone(), line: n })
            .collect(),
        callers_total: 15,
        fix: Some(Fix {
            title: "wrap in `asyncio.to_thread`".to_owned(),
            safety: Safety::Safe,
            edits: vec![Edit { start: root.start, end: root.end, text: "...".to_owned() }],
            imports: vec!["asyncio".to_owned()],
        }),
        quiet: false,
    };
    let place = Finding {
        rule: "LW401".to_owned(),
        level: Level::Likely,
        path: handlers.clone(),
        span: span(HANDLERS, "return user"),
        function: "handlers.get_user".to_owned(),
        message: "100% sure: nothing here awaits".to_owned(),
        frames: vec![],
        why: None,
        help: None,
        tags: vec![],
        callers: vec![],
        callers_total: 0,
        fix: None,
        quiet: false,
    };
    let note = |path, line, text: &str| Note { path, line, text: text.to_owned() };
    Scene {
        sources,
        findings: vec![chain, place],
        notes: vec![
            note(None, None, "no virtual environment was found: calls into dependencies are not followed"),
            note(Some(service.clone()), Some(9), "syntax error: unexpected indentation"),
        ],
        skipped: vec![(
            client,
            Skipped { name: "client.huge".to_owned(), line: 40, reason: "over its budget of 2 CPU seconds".to_owned() },
        )],
    }
}

fn print(scene: &Scene, format: Format, style: Style, quiet: bool) -> String {
    let directory = PathBuf::from("/work");
    let report = Report {
        findings: &scene.findings,
        fingerprints: &fingerprints(&scene.findings, &directory, &scene.sources),
        notes: &scene.notes,
        skipped: &scene.skipped,
        counts: Counts { files: 3, dependency_files: 12, quiet: 2, suppressed: 1, baselined: 4, unchanged: 0 },
        rules: RULES,
        sources: &scene.sources,
        directory,
        style,
        quiet,
    };
    let mut out = vec![];
    report.write(format, &mut out).expect("memory can be written");
    String::from_utf8(out).expect("reports are UTF-8")
}

fn plain(format: Format) -> String {
    print(&scene(), format, Style::plain(), false)
}

fn nothing(format: Format) -> String {
    let scene = Scene { findings: vec![], notes: vec![], skipped: vec![], ..scene() };
    print(&scene, format, Style::plain(), false)
}

#[test]
fn full() {
    expect_file!["../snapshots/report/full.txt"].assert_eq(&plain(Format::Full));
    expect_file!["../snapshots/report/full-nothing.txt"].assert_eq(&nothing(Format::Full));
}

#[test]
fn full_in_colours_has_the_same_text() {
    let coloured = print(&scene(), Format::Full, Style::choose(Color::Always, &std::io::stdout()), false);
    assert!(coloured.contains("\x1b[1;31m"));
    let mut text = String::new();
    for (index, part) in coloured.split("\x1b[").enumerate() {
        text.push_str(if index == 0 { part } else { part.split_once('m').expect("a whole escape").1 });
    }
    assert_eq!(text, plain(Format::Full));
}

#[test]
fn quiet_reports_are_findings_alone() {
    for format in [Format::Full, Format::Concise] {
        let text = print(&scene(), format, Style::plain(), true);
        assert!(!text.contains("Found") && !text.contains("note:") && !text.contains("skipped"), "{text}");
    }
}

#[test]
fn concise() {
    expect_file!["../snapshots/report/concise.txt"].assert_eq(&plain(Format::Concise));
}

#[test]
fn json() {
    expect_file!["../snapshots/report/json.txt"].assert_eq(&plain(Format::Json));
}

#[test]
fn sarif() {
    let text = plain(Format::Sarif);
    expect_file!["../snapshots/report/sarif.txt"].assert_eq(&text);
    for text in [text, nothing(Format::Sarif)] {
        let document: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(document["version"], "2.1.0");
        let run = &document["runs"][0];
        assert!(run["tool"]["driver"]["name"].is_string());
        for result in run["results"].as_array().expect("results are required") {
            let index = result["ruleIndex"].as_u64().expect("an index") as usize;
            assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
            assert!(["error", "warning", "note"].contains(&result["level"].as_str().expect("a level")));
            assert!(result["message"]["text"].is_string());
            let region = &result["locations"][0]["physicalLocation"]["region"];
            for key in ["startLine", "startColumn", "endLine", "endColumn"] {
                assert!(region[key].as_u64().is_some_and(|n| n >= 1), "{key}");
            }
            for step in result["codeFlows"][0]["threadFlows"][0]["locations"].as_array().into_iter().flatten() {
                assert!(step["location"]["physicalLocation"]["artifactLocation"]["uri"].is_string());
            }
        }
    }
}

#[test]
fn github() {
    expect_file!["../snapshots/report/github.txt"].assert_eq(&plain(Format::Github));
    assert_eq!(nothing(Format::Github), "");
}

#[test]
fn gitlab() {
    let text = plain(Format::Gitlab);
    expect_file!["../snapshots/report/gitlab.txt"].assert_eq(&text);
    for issue in serde_json::from_str::<Vec<Value>>(&text).expect("an array") {
        for key in ["description", "check_name", "fingerprint", "severity"] {
            assert!(issue[key].is_string(), "{key}");
        }
        let severity = issue["severity"].as_str().expect("text");
        assert!(["info", "minor", "major", "critical", "blocker"].contains(&severity));
        assert!(issue["location"]["path"].is_string());
        assert!(issue["location"]["positions"]["begin"]["line"].is_u64());
    }
    assert_eq!(nothing(Format::Gitlab).trim(), "[]");
}

#[test]
fn junit() {
    expect_file!["../snapshots/report/junit.txt"].assert_eq(&plain(Format::Junit));
    expect_file!["../snapshots/report/junit-nothing.txt"].assert_eq(&nothing(Format::Junit));
}

#[test]
fn fingerprints_survive_moved_lines() {
    let scene = scene();
    let project = PathBuf::from("/work");
    let before = fingerprints(&scene.findings, &project, &scene.sources);
    let moved = Sources::default();
    let mut findings = scene.findings.clone();
    for (finding, text) in findings.iter_mut().zip([CLIENT, HANDLERS]) {
        let text = format!("# one\n# two\n{}", text.replace("        return requests", "            return  requests"));
        moved.insert(&finding.path, text);
        finding.span.line += 2;
    }
    assert_eq!(before, fingerprints(&findings, &project, &moved));
    // The same line twice in one function is two findings.
    findings.push(findings[0].clone());
    let prints = fingerprints(&findings, &project, &moved);
    assert_ne!(prints[0], prints[2]);
}
