//! `--watch`: checks again whenever a file has changed, and says what came and what went.
//!
//! Files are asked for their times twice a second: that works on every file system and needs nothing else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use crate::check::{Round, Session};
use crate::finding::Finding;
use crate::paths::relative;
use crate::report::ansi::Style;

/// How often files are looked at.
const EVERY: Duration = Duration::from_millis(500);

/// How far a file system's clock may be behind.
const TICK: Duration = Duration::from_millis(20);

/// Time and size of each file. A folder's time tells of files that came and went.
type Seen = BTreeMap<PathBuf, Option<(SystemTime, u64)>>;

/// Runs until it is interrupted.
pub(crate) fn run(session: &Session<'_>) -> anyhow::Result<Infallible> {
    let mut before: Option<Round> = None;
    loop {
        // What changes while it is being checked is checked again.
        let mut seen = look(session, before.as_ref());
        let begun = SystemTime::now() - TICK;
        clear()?;
        match session.round() {
            Ok(round) => {
                session.print(&round)?;
                if let Some(before) = &before {
                    tell(session, before, &round)?;
                }
                for (path, stamp) in look(session, Some(&round)) {
                    // What was not known before the check may have changed since: then it counts as never seen.
                    seen.entry(path).or_insert(stamp.filter(|(modified, _)| *modified < begun));
                }
                before = Some(round);
            }
            // A configuration or a tree that is wrong for a moment ends nothing.
            Err(error) => writeln!(io::stderr(), "error: {error:#}")?,
        }
        writeln!(io::stderr(), "Watching {} files and folders.", seen.len())?;
        while seen.iter().all(|(path, known)| stamp(path) == *known) {
            sleep(EVERY);
        }
    }
}

/// The files that were checked, with their folders, and what was named on the command line.
fn look(session: &Session<'_>, round: Option<&Round>) -> Seen {
    let mut paths: Vec<PathBuf> = session.options.paths.clone();
    for file in round.iter().flat_map(|round| &round.analysis.files) {
        let path = PathBuf::from(&**file);
        paths.extend(path.parent().map(PathBuf::from));
        paths.push(path);
    }
    paths.into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

fn stamp(path: &PathBuf) -> Option<(SystemTime, u64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

fn clear() -> io::Result<()> {
    if io::stdout().is_terminal() {
        write!(io::stdout(), "\x1b[2J\x1b[3J\x1b[H")?;
    }
    Ok(())
}

/// What was found that was not there before, and the other way round.
fn tell(session: &Session<'_>, before: &Round, now: &Round) -> io::Result<()> {
    let style = Style::choose(session.arguments.color, &io::stdout());
    let mut out = io::stdout().lock();
    let line = |finding: &Finding| {
        let path = relative(&finding.path, &session.directory);
        format!("{path}:{} {} {}", finding.span.line, finding.rule, finding.message)
    };
    for (finding, print) in now.sifted.findings.iter().zip(&now.sifted.fingerprints) {
        if !before.sifted.fingerprints.contains(print) {
            writeln!(out, "{} {}", style.red("came"), line(finding))?;
        }
    }
    for (finding, print) in before.sifted.findings.iter().zip(&before.sifted.fingerprints) {
        if !now.sifted.fingerprints.contains(print) {
            writeln!(out, "{} {}", style.green("went"), line(finding))?;
        }
    }
    Ok(())
}
