//! Annotations of GitHub Actions: workflow commands, one line each.

use std::io::{self, Write};

use super::Report;
use crate::finding::Level;

pub(super) fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    for finding in report.findings {
        let end = report.end(&finding.path, finding.span);
        let kind = if finding.level == Level::Certain { "error" } else { "warning" };
        write!(out, "::{kind} title=Loopwright ({})", property(&finding.rule))?;
        write!(out, ",file={},line={}", property(&report.path(&finding.path)), finding.span.line)?;
        write!(out, ",col={},endLine={}", finding.span.column, end.line)?;
        // Columns are ignored by GitHub when the end is on another line.
        if end.line == finding.span.line {
            write!(out, ",endColumn={}", end.column)?;
        }
        let mut text = format!("{} {}", finding.rule, finding.message);
        for part in [report.chain(finding), finding.help.clone()].into_iter().flatten() {
            text.push('\n');
            text.push_str(&part);
        }
        writeln!(out, "::{}", data(&text))?;
    }
    Ok(())
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
