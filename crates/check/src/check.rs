//! What the commands do: analyse, sift, report.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ruff_python_ast::PySourceType;

use crate::baseline::{self, Baseline};
use crate::cli::{CLEAN, Check, FOUND, Fixing, Input, ListFormat, known_rules};
use crate::config::Config;
use crate::diff::{self, Change};
use crate::finding::Finding;
use crate::fingerprint::fingerprints;
use crate::fix;
use crate::options::{Analysis, Note, Options};
use crate::paths::relative;
use crate::program::explain::explain;
use crate::progress::{Bar, Progress, Silent};
use crate::report::ansi::Style;
use crate::report::{Format, Many, Report};
use crate::rule::RuleMeta;
use crate::selection::Selection;
use crate::sift::{Sieve, Sifted};
use crate::sources::Sources;
use crate::statistics;
use crate::unified::unified;
use crate::watch;

/// How often `--fix` goes over a project at most.
const PASSES: usize = 8;

/// Everything that was decided before the analysis.
pub(crate) struct Session<'a> {
    pub arguments: &'a Check,
    rules: Vec<&'static RuleMeta>,
    config: Config,
    selection: Selection,
    pub options: Options,
    pub directory: PathBuf,
    /// Paths that were named and are not there.
    missing: Vec<PathBuf>,
}

/// `loopwright-check PATHS`
pub(crate) fn run(arguments: &Check) -> anyhow::Result<u8> {
    let session = Session::new(arguments)?;
    if arguments.watch {
        match watch::run(&session)? {}
    }
    let mut round = session.round()?;
    if arguments.write_baseline {
        return session.write_baseline(&round);
    }
    match arguments.fixing() {
        Fixing::Offer => {}
        Fixing::Print => return session.print_fixes(&round),
        Fixing::Apply => session.fix(&mut round)?,
    }
    session.print(&round)?;
    Ok(if round.sifted.findings.is_empty() || arguments.exit_zero { CLEAN } else { FOUND })
}

/// `loopwright-check graph FUNC`
pub(crate) fn graph(function: &str, format: ListFormat, input: &Input) -> anyhow::Result<u8> {
    let directory = std::env::current_dir()?;
    let config = input.configuration(&directory, &known_rules())?;
    let (paths, missing) = input.existing(&directory);
    if let (true, Some(path)) = (paths.is_empty(), missing.first()) {
        anyhow::bail!("nothing to look at: {} does not exist", path.display());
    }
    let analysis = analyse(&input.options(paths, &config, &directory))?;
    let explanation = explain(&analysis.program, function).map_err(anyhow::Error::msg)?;
    let mut out = io::stdout().lock();
    match format {
        ListFormat::Full => {
            // Places are shown as everywhere else: relative to the working directory.
            let here = format!("{}/", directory.display());
            write!(out, "{}", explanation.to_string().replace(&here, ""))?;
        }
        ListFormat::Json => {
            serde_json::to_writer_pretty(&mut out, &explanation)?;
            writeln!(out)?;
        }
    }
    Ok(CLEAN)
}

/// `loopwright-check clean`
pub(crate) fn clean(input: &Input) -> anyhow::Result<u8> {
    let directory = std::env::current_dir()?;
    let config = input.configuration(&directory, &known_rules())?;
    let cache = input.cache(&config, &directory);
    let shown = relative(&cache.to_string_lossy(), &directory);
    // A folder that was named by mistake is not removed: what the cache writes into its own tells it.
    let ours = cache.ends_with(".loopwright_cache")
        || std::fs::read_to_string(cache.join(".gitignore")).is_ok_and(|ignored| ignored == "*\n");
    if cache.exists() && !ours {
        anyhow::bail!("{shown} does not look like a cache of this program; nothing was removed");
    }
    match std::fs::remove_dir_all(&cache) {
        Ok(()) => writeln!(io::stdout(), "Removed {shown}.")?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => writeln!(io::stdout(), "There is no {shown}.")?,
        Err(error) => anyhow::bail!("{shown}: {error}"),
    }
    Ok(CLEAN)
}

impl<'a> Session<'a> {
    fn new(arguments: &'a Check) -> anyhow::Result<Self> {
        let rules = known_rules();
        let directory = std::env::current_dir()?;
        let (paths, missing) = arguments.input.existing(&directory);
        let config = arguments.input.configuration(&directory, &rules)?;
        let selection = arguments.selection(&config, &rules)?;
        if paths.is_empty() {
            let names: Vec<_> = missing.iter().map(|path| relative(&path.to_string_lossy(), &directory)).collect();
            anyhow::bail!("nothing to check: {} does not exist", names.join(", "));
        }
        let options = arguments.input.options(paths, &config, &directory);
        Ok(Self { arguments, rules, config, selection, options, directory, missing })
    }

    /// Analyses and sifts.
    pub(crate) fn round(&self) -> anyhow::Result<Round> {
        let mut analysis = analyse(&self.options)?;
        for path in &self.missing {
            let text = format!("{} does not exist", self.shown(path));
            analysis.notes.insert(0, Note { path: None, line: None, text });
        }
        let sources = Sources::default();
        let fingerprints = fingerprints(&analysis.findings, &self.options.project, &sources);
        let file = self.arguments.baseline(&self.config, &self.directory);
        let baseline = match &file {
            Some(file) if !self.arguments.write_baseline => Some(Baseline::read(file)?),
            _ => None,
        };
        let change = match &self.arguments.diff {
            Some(reference) => Some(self.change(reference)?),
            None => None,
        };
        let sifted =
            self.sieve(&sources, change.as_ref(), baseline.as_ref(), self.shows_all()).sift(&analysis, &fingerprints);
        if let (Some(baseline), Some(file)) = (&baseline, &file) {
            analysis.notes.extend(self.stale(baseline, &fingerprints, file));
        }
        Ok(Round { analysis, fingerprints, sifted, sources })
    }

    /// What is in the baseline and no longer found. Told only when everything was looked at.
    fn stale(&self, baseline: &Baseline, fingerprints: &[String], file: &Path) -> Option<Note> {
        let whole = self.options.paths.contains(&self.options.project);
        let stale = if whole { baseline.stale(fingerprints.iter()) } else { 0 };
        let text = format!(
            "{} of {} no longer found; `--write-baseline` makes it smaller",
            Many(stale, "finding"),
            self.shown(file)
        );
        (stale > 0).then_some(Note { path: None, line: None, text })
    }

    fn shown(&self, path: &Path) -> String {
        relative(&path.to_string_lossy(), &self.directory)
    }

    fn shows_all(&self) -> bool {
        self.arguments.all || self.config.all
    }

    fn sieve<'s>(
        &'s self,
        sources: &'s Sources,
        change: Option<&'s Change>,
        baseline: Option<&'s Baseline>,
        all: bool,
    ) -> Sieve<'s> {
        Sieve {
            rules: &self.rules,
            selection: &self.selection,
            per_file: &self.config.per_file_ignores,
            project: &self.options.project,
            sources,
            change,
            baseline,
            all,
        }
    }

    /// What has changed since a commit, and what was found then.
    fn change(&self, reference: &str) -> anyhow::Result<Change> {
        let project = &self.options.project;
        let mut change = Change::since(reference, project)?;
        let top = diff::top(project)?;
        let folder = Temporary::new()?;
        diff::check_out(reference, &top, &folder.0)?;
        let moved = |path: &Path| match path.strip_prefix(&top) {
            Ok(inside) => folder.0.join(inside),
            Err(_) => path.to_owned(),
        };
        let mut options = self.options.clone();
        options.project = moved(&options.project);
        options.paths = options.paths.iter().map(|path| moved(path)).filter(|path| path.exists()).collect();
        options.roots = options.roots.iter().map(|path| moved(path)).filter(|path| path.exists()).collect();
        // The folder is another one each time: nothing that is kept of it would ever be used.
        options.cache = None;
        // The environment is not in the repository: it is the same one.
        let environment = project.join(".venv");
        if options.python.is_none() && environment.is_dir() {
            options.python = Some(environment);
        }
        if !options.paths.is_empty()
            && let Ok(before) = crate::analyse(&options, &Silent)
        {
            change.found_before(fingerprints(&before.findings, &options.project, &Sources::default()));
        }
        Ok(change)
    }

    fn write_baseline(&self, round: &Round) -> anyhow::Result<u8> {
        let Some(file) = self.arguments.baseline(&self.config, &self.directory) else {
            anyhow::bail!("--write-baseline needs --baseline FILE, or `baseline` in the configuration");
        };
        // Quiet ones too: `--all` finds nothing new tomorrow.
        let sifted = self.sieve(&round.sources, None, None, true).sift(&round.analysis, &round.fingerprints);
        let pairs = sifted.findings.iter().zip(&sifted.fingerprints);
        let written = baseline::write(&file, &self.options.project, pairs)?;
        writeln!(io::stdout(), "Wrote {} to {}.", Many(written, "finding"), self.shown(&file))?;
        Ok(CLEAN)
    }

    /// The texts of files with their fixes applied once, and what was applied and refused.
    fn fixed_files(&self, round: &Round) -> Vec<FixedFile> {
        let also_unsafe = self.arguments.unsafe_fixes;
        let mut files = vec![];
        for group in round.sifted.findings.chunk_by(|one, next| one.path == next.path) {
            let fixable: Vec<&Finding> = group
                .iter()
                .filter(|finding| finding.fix.as_ref().is_some_and(|fix| fix::wanted(fix, also_unsafe)))
                .collect();
            let path = group[0].path.clone();
            // A file that is no UTF-8 is not written: what it says is not known.
            let Ok(before) = std::fs::read_to_string(&*path) else { continue };
            if fixable.is_empty() || path.ends_with(".ipynb") {
                continue;
            }
            let fixed = fix::apply(&before, PySourceType::from(Path::new(&*path)), &fixable);
            let told = |index: usize| {
                let finding = fixable[index];
                let title = finding.fix.as_ref().map_or("", |fix| fix.title.as_str());
                format!("{}: {} {title}", finding.span.line, finding.rule)
            };
            files.push(FixedFile {
                applied: fixed.applied.iter().map(|index| told(*index)).collect(),
                refused: fixed.refused.iter().map(|(index, why)| format!("{}: {why}", told(*index))).collect(),
                path,
                before,
                after: fixed.text,
            });
        }
        files
    }

    /// `--diff-fixes`: what the first pass of `--fix` changes.
    fn print_fixes(&self, round: &Round) -> anyhow::Result<u8> {
        let files = self.fixed_files(round);
        let style = Style::choose(self.arguments.color, &io::stdout());
        let mut out = io::stdout().lock();
        for file in &files {
            let diff = unified(&relative(&file.path, &self.directory), &file.before, &file.after);
            for (number, line) in diff.lines().enumerate() {
                match line.as_bytes().first() {
                    _ if number < 2 => writeln!(out, "{}", style.bold(line))?,
                    Some(b'+') => writeln!(out, "{}", style.green(line))?,
                    Some(b'-') => writeln!(out, "{}", style.red(line))?,
                    Some(b'@') => writeln!(out, "{}", style.cyan(line))?,
                    _ => writeln!(out, "{line}")?,
                }
            }
        }
        let changes = files.iter().map(|file| file.applied.len()).sum();
        if !self.arguments.quiet {
            writeln!(io::stderr(), "Would fix {}.", Many(changes, "finding"))?;
        }
        Ok(if changes == 0 || self.arguments.exit_zero { CLEAN } else { FOUND })
    }

    /// `--fix`: applies, analyses again, and so on until nothing can be applied.
    fn fix(&self, round: &mut Round) -> anyhow::Result<()> {
        let mut applied: Vec<(Arc<str>, Vec<String>)> = vec![];
        for pass in 1..=PASSES {
            let mut changed = false;
            for file in self.fixed_files(round) {
                let notes = file.refused.into_iter().map(|refused| Note {
                    path: Some(file.path.clone()),
                    line: None,
                    text: format!("not fixed: {refused}"),
                });
                round.analysis.notes.extend(notes);
                if file.after == file.before {
                    continue;
                }
                std::fs::write(&*file.path, &file.after)
                    .map_err(|error| anyhow::anyhow!("{}: {error}", relative(&file.path, &self.directory)))?;
                changed = true;
                applied.push((file.path, file.applied));
            }
            if !changed {
                break;
            }
            let notes = std::mem::take(&mut round.analysis.notes);
            *round = self.round()?;
            round.analysis.notes.extend(notes.into_iter().filter(|note| note.text.starts_with("not fixed")));
            if pass == PASSES {
                let text = format!("fixes were still found after {PASSES} passes; run `--fix` again");
                round.analysis.notes.push(Note { path: None, line: None, text });
            }
        }
        self.tell_fixed(&applied)?;
        Ok(())
    }

    /// What `--fix` has changed: before a report for people, beside one for programs.
    fn tell_fixed(&self, applied: &[(Arc<str>, Vec<String>)]) -> io::Result<()> {
        if applied.is_empty() || self.arguments.quiet {
            return Ok(());
        }
        let for_people = matches!(self.arguments.format, Format::Full | Format::Concise);
        let mut out: Box<dyn Write> = if for_people { Box::new(io::stdout()) } else { Box::new(io::stderr()) };
        let total = applied.iter().map(|(_, fixes)| fixes.len()).sum();
        writeln!(out, "Fixed {}:", Many(total, "finding"))?;
        for (path, fixes) in applied {
            writeln!(out, "  {}", relative(path, &self.directory))?;
            for fix in fixes {
                writeln!(out, "    {fix}")?;
            }
        }
        writeln!(out)
    }

    pub(crate) fn print(&self, round: &Round) -> anyhow::Result<()> {
        let Round { analysis, sifted, sources, .. } = round;
        let arguments = self.arguments;
        let mut file;
        let mut stdout;
        let (out, style): (&mut dyn Write, Style) = match &arguments.output_file {
            Some(path) => {
                let created = File::create(path).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
                file = BufWriter::new(created);
                (&mut file, Style::plain())
            }
            None => {
                let style = Style::choose(arguments.color, &io::stdout());
                stdout = BufWriter::new(io::stdout().lock());
                (&mut stdout, style)
            }
        };
        if arguments.statistics {
            match arguments.format {
                Format::Json => statistics::write_json(&sifted.findings, &self.rules, out)?,
                _ => statistics::write(&sifted.findings, &self.rules, style, out)?,
            }
        } else {
            let report = Report {
                findings: &sifted.findings,
                fingerprints: &sifted.fingerprints,
                notes: &analysis.notes,
                skipped: &analysis.skipped,
                counts: sifted.counts,
                rules: &self.rules,
                sources,
                directory: self.directory.clone(),
                style,
                quiet: arguments.quiet,
            };
            report.write(arguments.format, out)?;
        }
        out.flush()?;
        Ok(())
    }
}

/// Runs the pipeline, with a bar where somebody waits at a terminal.
fn analyse(options: &Options) -> anyhow::Result<Analysis> {
    let bar = Bar::for_terminal();
    let progress: &dyn Progress = match &bar {
        Some(bar) => bar,
        None => &Silent,
    };
    let analysis = crate::analyse(options, progress)?;
    if analysis.files.is_empty() {
        let names: Vec<_> = options.paths.iter().map(|path| path.display().to_string()).collect();
        anyhow::bail!("nothing to check: no Python files in {}", names.join(", "));
    }
    Ok(analysis)
}

/// One analysis, and what is shown of it.
pub(crate) struct Round {
    pub analysis: Analysis,
    fingerprints: Vec<String>,
    pub sifted: Sifted,
    sources: Sources,
}

/// A file before and after its fixes.
struct FixedFile {
    path: Arc<str>,
    before: String,
    after: String,
    /// What was done, a line each.
    applied: Vec<String>,
    /// What could not be done.
    refused: Vec<String>,
}

/// A folder that goes away with its owner.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("loopwright-check-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(std::fs::canonicalize(folder)?))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left over in the system's temporary folder is the system's to remove.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
