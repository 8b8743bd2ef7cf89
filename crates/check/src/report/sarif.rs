//! SARIF 2.1.0: results with their chains as code flows, and fingerprints that survive moved lines.

use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Value, json};

use super::Report;
use crate::facts::Span;
use crate::finding::{Finding, Level};

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

pub(super) fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    let rules: Vec<Value> = report
        .rules
        .iter()
        .map(|rule| {
            json!({
                "id": rule.code,
                "name": rule.name,
                "shortDescription": {"text": rule.summary},
                "help": {"text": rule.summary, "markdown": rule.page},
                "defaultConfiguration": {"enabled": !rule.pedantic, "level": "warning"},
            })
        })
        .collect();
    let results: Vec<Value> = report
        .findings
        .iter()
        .zip(report.fingerprints)
        .map(|(finding, print)| result(report, finding, print))
        .collect();
    let notifications: Vec<Value> = report
        .notes
        .iter()
        .map(|note| {
            let mut value = json!({"level": "note", "message": {"text": note.text}});
            if let Some(path) = &note.path {
                value["locations"] = json!([{"physicalLocation": {"artifactLocation": artifact(report, path)}}]);
            }
            value
        })
        .collect();
    let document = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "loopwright-check",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "invocations": [{"executionSuccessful": true, "toolExecutionNotifications": notifications}],
            "results": results,
        }],
    });
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

fn result(report: &Report<'_>, finding: &Finding, fingerprint: &str) -> Value {
    let text = match &finding.help {
        Some(help) => format!("{}. {help}", finding.message),
        None => finding.message.clone(),
    };
    let level = if finding.quiet || finding.level == Level::Pedantic { "note" } else { "warning" };
    let mut value = json!({
        "ruleId": finding.rule,
        "level": level,
        "message": {"text": text},
        "locations": [location(report, &finding.path, finding.span, Some(&finding.function))],
        "partialFingerprints": {"loopwright/v1": fingerprint},
    });
    if let Some(index) = report.rules.iter().position(|rule| rule.code == finding.rule) {
        value["ruleIndex"] = json!(index);
    }
    if !finding.frames.is_empty() {
        let steps: Vec<Value> = finding
            .frames
            .iter()
            .map(|frame| {
                let mut place = location(report, &frame.path, frame.span, Some(&frame.function));
                place["message"] = json!({"text": if frame.note.is_empty() { &frame.function } else { &frame.note }});
                json!({"location": place})
            })
            .collect();
        value["codeFlows"] = json!([{"threadFlows": [{"locations": steps}]}]);
    }
    value
}

fn location(report: &Report<'_>, path: &Arc<str>, span: Span, function: Option<&str>) -> Value {
    let end = report.end(path, span);
    let mut value = json!({"physicalLocation": {
        "artifactLocation": artifact(report, path),
        "region": {
            "startLine": span.line.max(1),
            "startColumn": span.column.max(1),
            "endLine": end.line.max(1),
            "endColumn": end.column.max(1),
        },
    }});
    if let Some(function) = function {
        value["logicalLocations"] = json!([{"fullyQualifiedName": function, "kind": "function"}]);
    }
    value
}

fn artifact(report: &Report<'_>, path: &str) -> Value {
    let shown = report.path(path);
    let encoded = percent(&shown);
    if shown.starts_with('/') { json!({"uri": format!("file://{encoded}")}) } else { json!({"uri": encoded}) }
}

/// A path as part of a URI.
fn percent(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => text.push(byte as char),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}
