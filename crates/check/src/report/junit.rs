//! JUnit's XML: a suite for each file with findings, a failed test for each finding.

use std::io::{self, Write};

use super::Report;
use crate::finding::Finding;

pub(super) fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    let total = report.findings.len();
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    if total == 0 {
        writeln!(out, r#"<testsuites name="loopwright-check" tests="1" failures="0" errors="0">"#)?;
        writeln!(out, r#"  <testsuite name="loopwright-check" tests="1" failures="0" errors="0" skipped="0">"#)?;
        writeln!(out, r#"    <testcase name="nothing found" classname="loopwright-check"/>"#)?;
        writeln!(out, "  </testsuite>")?;
        return writeln!(out, "</testsuites>");
    }
    writeln!(out, r#"<testsuites name="loopwright-check" tests="{total}" failures="{total}" errors="0">"#)?;
    for file in report.findings.chunk_by(|one, next| one.path == next.path) {
        let path = xml(&report.path(&file[0].path));
        let found = file.len();
        writeln!(
            out,
            r#"  <testsuite name="{path}" tests="{found}" failures="{found}" errors="0" skipped="0" package="loopwright-check">"#
        )?;
        for finding in file {
            write_case(report, &path, finding, out)?;
        }
        writeln!(out, "  </testsuite>")?;
    }
    writeln!(out, "</testsuites>")
}

fn write_case(report: &Report<'_>, path: &str, finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
    let (line, column) = (finding.span.line, finding.span.column);
    let class = path.trim_end_matches(".py");
    writeln!(
        out,
        r#"    <testcase name="{} at {line}:{column}" classname="{class}" file="{path}" line="{line}">"#,
        xml(&finding.rule)
    )?;
    write!(out, r#"      <failure message="{}" type="{}">"#, xml(&finding.message), xml(&finding.rule))?;
    write!(out, "{path}:{line}:{column}: {}", xml(&finding.message))?;
    for frame in &finding.frames {
        write!(out, "\n  {} in {}", xml(&report.at(&frame.path, frame.span)), xml(&frame.function))?;
        if !frame.note.is_empty() {
            write!(out, ": {}", xml(&frame.note))?;
        }
    }
    for (name, text) in [("why", &finding.why), ("help", &finding.help)] {
        if let Some(text) = text {
            write!(out, "\n  {name}: {}", xml(text))?;
        }
    }
    writeln!(out, "</failure>")?;
    writeln!(out, "    </testcase>")
}

/// Text for an attribute or an element; characters that XML cannot hold are replaced.
fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push(' '),
            control if (control as u32) < 0x20 || matches!(control as u32, 0xFFFE | 0xFFFF) => escaped.push('\u{FFFD}'),
            other => escaped.push(other),
        }
    }
    escaped
}
