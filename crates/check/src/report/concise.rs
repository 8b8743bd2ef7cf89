//! One line for each finding: `path:line:column: LW101 message`.

use std::io::{self, Write};

use super::{Many, Report};

pub(super) fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    for finding in report.findings {
        let at = report.style.bold(report.at(&finding.path, finding.span));
        write!(out, "{at}: {} {}", report.style.red(&finding.rule), finding.message)?;
        if let Some(chain) = report.chain(finding) {
            write!(out, " ({chain})")?;
        }
        writeln!(out, "{}", if finding.fix.is_some() { " [*]" } else { "" })?;
    }
    match report.findings.len() {
        _ if report.quiet => Ok(()),
        0 => writeln!(out, "Nothing found in {}.", Many(report.counts.files, "file")),
        found => writeln!(out, "Found {}.", Many(found, "root")),
    }
}
