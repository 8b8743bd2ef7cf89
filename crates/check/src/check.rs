//! What the commands do: analyse, sift, report.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::baseline::{self, Baseline};
use crate::cli::{CLEAN, Check, FOUND, Input, known_rules};
use crate::config::Config;
use crate::diff::{self, Change};
use crate::fingerprint::fingerprints;
use crate::options::{Analysis, Note, Options};
use crate::paths::relative;
use crate::progress::{Bar, Progress, Silent};
use crate::report::ansi::Style;
use crate::report::{Format, Many, Report};
use crate::rule::RuleMeta;
use crate::selection::Selection;
use crate::sift::{Sieve, Sifted};
use crate::sources::Sources;
use crate::statistics;

/// Everything that was decided before the analysis.
struct Session<'a> {
    arguments: &'a Check,
    rules: Vec<&'static RuleMeta>,
    config: Config,
    selection: Selection,
    options: Options,
    directory: PathBuf,
    /// Paths that were named and are not there.
    missing: Vec<PathBuf>,
}

/// `loopwright-check PATHS`
pub(crate) fn run(arguments: &Check) -> anyhow::Result<u8> {
    let session = Session::new(arguments)?;
    let (analysis, sources) = session.analyse()?;
    let prints = fingerprints(&analysis.findings, &session.options.project, &sources);
    if arguments.write_baseline {
        return session.write_baseline(&analysis, &prints, &sources);
    }
    let sifted = session.sift(&analysis, &prints, &sources)?;
    session.print(&analysis, &sifted, &sources)?;
    Ok(if sifted.findings.is_empty() || arguments.exit_zero { CLEAN } else { FOUND })
}

/// `loopwright-check clean`
pub(crate) fn clean(input: &Input) -> anyhow::Result<u8> {
    let directory = std::env::current_dir()?;
    let config = input.configuration(&directory, &known_rules())?;
    let cache = input.cache(&config, &directory);
    let shown = relative(&cache.to_string_lossy(), &directory);
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

    fn analyse(&self) -> anyhow::Result<(Analysis, Sources)> {
        let mut analysis = analyse(&self.options)?;
        for path in &self.missing {
            let text = format!("{} does not exist", relative(&path.to_string_lossy(), &self.directory));
            analysis.notes.insert(0, Note { path: None, line: None, text });
        }
        Ok((analysis, Sources::default()))
    }

    fn sift(&self, analysis: &Analysis, prints: &[String], sources: &Sources) -> anyhow::Result<Sifted> {
        let baseline = match self.arguments.baseline(&self.config, &self.directory) {
            Some(file) => Some(Baseline::read(&file)?),
            None => None,
        };
        let change = match &self.arguments.diff {
            Some(reference) => Some(self.change(reference)?),
            None => None,
        };
        Ok(self.sieve(sources, change.as_ref(), baseline.as_ref(), self.shows_all()).sift(analysis, prints))
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

    fn write_baseline(&self, analysis: &Analysis, prints: &[String], sources: &Sources) -> anyhow::Result<u8> {
        let Some(file) = self.arguments.baseline(&self.config, &self.directory) else {
            anyhow::bail!("--write-baseline needs --baseline FILE, or `baseline` in the configuration");
        };
        // Quiet ones too: `--all` finds nothing new tomorrow.
        let sifted = self.sieve(sources, None, None, true).sift(analysis, prints);
        let pairs = sifted.findings.iter().zip(&sifted.fingerprints);
        let written = baseline::write(&file, &self.options.project, pairs)?;
        let shown = relative(&file.to_string_lossy(), &self.directory);
        writeln!(io::stdout(), "Wrote {} to {shown}.", Many(written, "finding"))?;
        Ok(CLEAN)
    }

    fn print(&self, analysis: &Analysis, sifted: &Sifted, sources: &Sources) -> anyhow::Result<()> {
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

/// A folder that goes away with its owner.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("loopwright-check-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left over in the system's temporary folder is the system's to remove.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
