//! GitLab's code quality report: a JSON array.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::Report;
use crate::finding::Level;

pub(super) fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    let issues: Vec<Value> = report
        .findings
        .iter()
        .zip(report.fingerprints)
        .map(|(finding, fingerprint)| {
            let end = report.end(&finding.path, finding.span);
            let severity = match finding.level {
                _ if finding.quiet => "info",
                Level::Certain => "major",
                Level::Likely => "minor",
                Level::Pedantic => "info",
            };
            json!({
                "check_name": finding.rule,
                "description": format!("{}: {}", finding.rule, finding.message),
                "severity": severity,
                "fingerprint": fingerprint,
                "location": {
                    "path": report.path(&finding.path),
                    "positions": {
                        "begin": {"line": finding.span.line, "column": finding.span.column},
                        "end": {"line": end.line, "column": end.column},
                    },
                },
            })
        })
        .collect();
    serde_json::to_writer_pretty(&mut *out, &issues)?;
    writeln!(out)
}
