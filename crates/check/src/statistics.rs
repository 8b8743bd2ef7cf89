//! `--statistics`: how often each rule has found something.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::json;

use crate::finding::Finding;
use crate::report::ansi::Style;
use crate::rule::RuleMeta;

/// One rule's numbers.
struct Row<'a> {
    code: &'a str,
    name: &'a str,
    count: usize,
    fixable: usize,
}

fn rows<'a>(findings: &'a [Finding], rules: &[&'static RuleMeta]) -> Vec<Row<'a>> {
    let mut counted: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for finding in findings {
        let (count, fixable) = counted.entry(&finding.rule).or_default();
        *count += 1;
        *fixable += usize::from(finding.fix.is_some());
    }
    let mut rows: Vec<_> = counted
        .into_iter()
        .map(|(code, (count, fixable))| {
            let name = rules.iter().find(|rule| rule.code == code).map_or("", |rule| rule.name);
            Row { code, name, count, fixable }
        })
        .collect();
    // The most frequent first; equal ones by code.
    rows.sort_by_key(|row| std::cmp::Reverse(row.count));
    rows
}

/// A table for people.
pub fn write(findings: &[Finding], rules: &[&'static RuleMeta], style: Style, out: &mut dyn Write) -> io::Result<()> {
    let rows = rows(findings, rules);
    let width = rows.first().map_or(1, |row| row.count.to_string().len());
    for row in rows {
        let sign = if row.fixable > 0 { "[*]" } else { "[ ]" };
        writeln!(out, "{:>width$}  {}  {sign}  {}", row.count, style.red(row.code), row.name)?;
    }
    Ok(())
}

/// The same as JSON.
pub fn write_json(findings: &[Finding], rules: &[&'static RuleMeta], out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<_> = rows(findings, rules)
        .iter()
        .map(|row| json!({"rule": row.code, "name": row.name, "count": row.count, "fixable": row.fixable}))
        .collect();
    serde_json::to_writer_pretty(&mut *out, &rows)?;
    writeln!(out)
}
