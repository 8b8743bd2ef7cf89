//! For people: the place, the chain as code with carets, why, what to do; then what was left out, in numbers.

use std::io::{self, Write};
use std::sync::Arc;

use super::{Many, Report, level_name, short, tag_name};
use crate::facts::Span;
use crate::finding::{Finding, Level, Safety};

/// Callers that are named under a finding; the others are counted.
const CALLERS: usize = 3;
/// Functions that were given up and are named; the others are counted.
const SKIPPED: usize = 5;

pub(super) fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    for finding in report.findings {
        write_finding(report, finding, out)?;
        writeln!(out)?;
    }
    if report.quiet {
        return Ok(());
    }
    write_notes(report, out)?;
    write_summary(report, out)
}

fn write_finding(report: &Report<'_>, finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
    let style = report.style;
    let at = style.bold(report.at(&finding.path, finding.span));
    let fixable = if finding.fix.is_some() { format!(" [{}]", style.cyan("*")) } else { String::new() };
    let doubt = match finding.level {
        Level::Certain => String::new(),
        level => format!(" {}", style.yellow(format_args!("({})", level_name(level)))),
    };
    writeln!(out, "{at} {}{fixable} {}{doubt}", style.red(&finding.rule), finding.message)?;

    let last = finding.frames.iter().map(|frame| frame.span.line).max().unwrap_or(0).max(finding.span.line);
    let gutter = Gutter { report, width: last.to_string().len().max(2) };
    if finding.frames.is_empty() {
        gutter.bar(out)?;
        gutter.code(&finding.path, finding.span, "", out)?;
    }
    let mut file: Option<&Arc<str>> = None;
    for frame in &finding.frames {
        // A file is named once for the frames that follow each other in it.
        if file != Some(&frame.path) {
            let function = style.dim(format!("in {}", short(&frame.function)));
            gutter.file(&format!("{} {function}", report.at(&frame.path, frame.span)), out)?;
            file = Some(&frame.path);
        } else {
            gutter.gap(out)?;
        }
        gutter.code(&frame.path, frame.span, &label(finding, frame), out)?;
    }
    gutter.bar(out)?;
    if let Some(why) = &finding.why {
        gutter.remark("why", why, out)?;
    }
    if let Some(help) = &finding.help {
        gutter.remark("help", help, out)?;
    }
    if let Some(fix) = &finding.fix {
        let how = if fix.safety == Safety::Safe { "--fix" } else { "--unsafe-fixes" };
        gutter.remark("fix", &format!("{} (`{how}`)", fix.title), out)?;
    }
    if !finding.tags.is_empty() {
        let tags: Vec<_> = finding.tags.iter().map(tag_name).collect();
        gutter.remark("tags", &tags.join(", "), out)?;
    }
    if let Some(callers) = callers(report, finding) {
        gutter.remark("also", &callers, out)?;
    }
    Ok(())
}

/// What is said beside the carets.
fn label(finding: &Finding, frame: &crate::finding::Frame) -> String {
    let root = frame.path == finding.path && frame.span == finding.span;
    match (root, frame.note.is_empty()) {
        (_, false) => frame.note.clone(),
        (true, true) => finding.message.clone(),
        (false, true) => String::new(),
    }
}

fn callers(report: &Report<'_>, finding: &Finding) -> Option<String> {
    let total = (finding.callers_total as usize).max(finding.callers.len());
    if total == 0 {
        return None;
    }
    let mut named: Vec<_> = finding
        .callers
        .iter()
        .take(CALLERS)
        .map(|caller| format!("`{}` ({}:{})", caller.function, report.path(&caller.path), caller.line))
        .collect();
    match total - named.len() {
        0 => {}
        1 => named.push("1 other function on the loop".to_owned()),
        others => named.push(format!("{others} other functions on the loop")),
    }
    let last = named.pop()?;
    let reached = if named.is_empty() { last } else { format!("{} and {last}", named.join(", ")) };
    Some(format!("reached from {reached}"))
}

/// The column of line numbers beside the code.
struct Gutter<'r, 'a> {
    report: &'r Report<'a>,
    width: usize,
}

impl Gutter<'_, '_> {
    fn bar(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{:width$} {}", "", self.report.style.blue("|"), width = self.width)
    }

    /// Between two calls in one file.
    fn gap(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.report.style.blue(format_args!("{:.<width$} |", "", width = self.width)))
    }

    fn file(&self, at: &str, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{:width$}{} {at}", "", self.report.style.blue("-->"), width = self.width)?;
        self.bar(out)
    }

    /// A line of a file with carets under a span; of one that goes on below, under its first line.
    fn code(&self, path: &Arc<str>, span: Span, label: &str, out: &mut dyn Write) -> io::Result<()> {
        let style = self.report.style;
        let Some(line) = self.report.sources.line(path, span.line) else {
            let number = style.blue(format!("{:>width$} |", span.line, width = self.width));
            return writeln!(out, "{number} {}", style.dim(format_args!("(not readable) {label}")));
        };
        let end = self.report.end(path, span);
        let first = (span.column.max(1) - 1) as usize;
        let to = if end.line == span.line { end.column as usize - 1 } else { line.chars().count() };
        let (shown, from, wide) = lay_out(&line, first, to);
        let number = style.blue(format!("{:>width$} |", span.line, width = self.width));
        writeln!(out, "{number} {shown}")?;
        let carets = style.red("^".repeat(wide.max(1)));
        let bar = style.blue("|");
        let space = if label.is_empty() { "" } else { " " };
        writeln!(out, "{:width$} {bar} {:from$}{carets}{space}{}", "", "", style.red(label), width = self.width)
    }

    fn remark(&self, name: &str, text: &str, out: &mut dyn Write) -> io::Result<()> {
        let style = self.report.style;
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        writeln!(out, "{:width$} {} {}: {first}", "", style.blue("="), style.bold(name), width = self.width)?;
        for line in lines {
            writeln!(out, "{:width$}   {:indent$}  {line}", "", "", width = self.width, indent = name.len())?;
        }
        Ok(())
    }
}

/// A line without its indentation beyond four columns and with tabs as spaces, and where in it the characters
/// `first..to` are, in columns of a terminal.
fn lay_out(line: &str, first: usize, to: usize) -> (String, usize, usize) {
    let mut shown = String::new();
    let (mut column, mut from, mut until) = (0, None, None);
    for (index, character) in line.chars().enumerate() {
        if index == first {
            from = Some(column);
        }
        if index == to {
            until = Some(column);
        }
        if character == '\t' {
            let spaces = 4 - column % 4;
            shown.extend(std::iter::repeat_n(' ', spaces));
            column += spaces;
        } else {
            shown.push(character);
            column += width(character);
        }
    }
    let indent = shown.len() - shown.trim_start_matches(' ').len();
    let cut = indent.saturating_sub(4);
    let from = from.unwrap_or(column);
    let until = until.unwrap_or(column).max(from);
    (shown[cut..].to_owned(), from.saturating_sub(cut), until - from)
}

/// Columns of a character: two for East Asian wide ones and emoji, none for what combines.
fn width(character: char) -> usize {
    match character as u32 {
        0x0300..=0x036F | 0x200B..=0x200F | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F | 0x2E80..=0xA4CF | 0xAC00..=0xD7A3 | 0xF900..=0xFAFF | 0xFE30..=0xFE6F | 0xFF00..=0xFF60 => 2,
        0x1F300..=0x1FAFF | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

fn write_notes(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    let style = report.style;
    for note in report.notes {
        write!(out, "{}: ", style.yellow("note"))?;
        if let Some(path) = &note.path {
            write!(out, "{}", report.path(path))?;
            if let Some(line) = note.line {
                write!(out, ":{line}")?;
            }
            write!(out, ": ")?;
        }
        writeln!(out, "{}", note.text)?;
    }
    for (path, skipped) in report.skipped.iter().take(SKIPPED) {
        let at = format!("{}:{}", report.path(path), skipped.line);
        writeln!(out, "{}: {at}: `{}` was given up: {}", style.yellow("skipped"), skipped.name, skipped.reason)?;
    }
    if report.skipped.len() > SKIPPED {
        writeln!(
            out,
            "{}: {} more (`--format json` names all)",
            style.yellow("skipped"),
            report.skipped.len() - SKIPPED
        )?;
    }
    Ok(())
}

fn write_summary(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (style, counts) = (report.style, report.counts);
    let looked = match counts.dependency_files {
        0 => Many(counts.files, "file").to_string(),
        others => format!("{} and {} of dependencies", Many(counts.files, "file"), others),
    };
    if report.findings.is_empty() {
        writeln!(out, "{} in {looked}.", style.green("Nothing found"))?;
    } else {
        let likely = report.findings.iter().filter(|finding| finding.level != Level::Certain).count();
        let sure = if likely == 0 { String::new() } else { format!(" ({likely} only likely)") };
        writeln!(out, "Found {}{sure} in {looked}.", style.bold(Many(report.findings.len(), "root")))?;
    }
    match report.fixable() {
        (0, 0) => {}
        (safe, 0) => writeln!(out, "[{}] {} fixable with `--fix`.", style.cyan("*"), safe)?,
        (0, others) => writeln!(out, "[{}] {others} fixable with `--unsafe-fixes`.", style.cyan("*"))?,
        (safe, others) => {
            writeln!(out, "[{}] {safe} fixable with `--fix`, {others} more with `--unsafe-fixes`.", style.cyan("*"))?
        }
    }
    if counts.quiet > 0 {
        let quiet = Many(counts.quiet, "quieter one");
        writeln!(out, "{} at start-up, on command lines or in tests not shown (`--all`).", style.dim(quiet))?;
    }
    let left = [
        (counts.suppressed, "excused by comments or per-file-ignores"),
        (counts.baselined, "in the baseline"),
        (counts.unchanged, "not of this change"),
    ];
    let left: Vec<_> = left.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if !left.is_empty() {
        writeln!(out, "{}", style.dim(format_args!("Left out: {}.", left.join(", "))))?;
    }
    Ok(())
}
