//! The command line: its arguments, and which of the commands it is.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::check;
use crate::config::Config;
use crate::finding::Safety;
use crate::options::Options;
use crate::paths::absolute;
use crate::report::Format;
use crate::report::ansi::{Color, Style};
use crate::rule::RuleMeta;
use crate::rules;

/// Nothing was found.
pub const CLEAN: u8 = 0;
/// Something was.
pub const FOUND: u8 = 1;
/// Nothing could be checked.
pub const FAILED: u8 = 2;

/// Finds what blocks an asyncio event loop, across files and into dependencies.
#[derive(Debug, Parser)]
#[command(name = "loopwright-check", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "Exit codes: 0 nothing found, 1 something found, 2 nothing could be checked.\n\
    A folder that is named like a command is written ./graph.")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    check: Check,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print why a function is blocking, or why not: every path, every resolution, what is unknown.
    Graph {
        /// Its qualified name, or the end of it: `pkg.mod.Class.method`, `Class.method`.
        function: String,
        /// `full` or `json`.
        #[arg(long, value_enum, default_value = "full")]
        format: ListFormat,
        #[command(flatten)]
        input: Input,
    },
    /// Print a rule's page.
    Rule {
        /// `LW101`, or its name.
        code: String,
    },
    /// List the rules.
    Rules {
        /// `full` or `json`.
        #[arg(long, value_enum, default_value = "full")]
        format: ListFormat,
    },
    /// Remove the cache.
    Clean {
        #[command(flatten)]
        input: Input,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ListFormat {
    /// For people.
    Full,
    /// As JSON.
    Json,
}

/// What is looked at, and with what.
#[derive(Clone, Debug, Args)]
pub(crate) struct Input {
    /// Files and folders to check; the working directory when none is given.
    pub paths: Vec<PathBuf>,
    /// The configuration file, instead of the nearest pyproject.toml or loopwright.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The interpreter or virtual environment that has the dependencies.
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// A folder of installed packages; can be repeated.
    #[arg(long, value_name = "DIR")]
    site_packages: Vec<PathBuf>,
    /// A folder that modules are imported from; can be repeated.
    #[arg(long, value_name = "DIR")]
    root: Vec<PathBuf>,
    /// The version of Python that the code runs on, such as 3.12 [the environment's].
    #[arg(long, value_name = "VERSION", value_parser = python_version)]
    python_version: Option<(u8, u8)>,
    /// How many threads to use.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Read and write no cache.
    #[arg(long)]
    no_cache: bool,
    /// The folder of the cache [.loopwright_cache in the project].
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

/// What is shown, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub input: Input,
    /// How findings are printed.
    #[arg(long, value_enum, default_value = "full")]
    pub format: Format,
    /// Write the report to a file.
    #[arg(long, value_name = "FILE")]
    pub output_file: Option<PathBuf>,
    /// Apply safe fixes.
    #[arg(long)]
    fix: bool,
    /// Apply also fixes that may change what a correct program does.
    #[arg(long)]
    pub unsafe_fixes: bool,
    /// Print what --fix would change, as a diff, and change nothing.
    #[arg(long)]
    diff_fixes: bool,
    /// The same as --diff-fixes.
    #[arg(long)]
    dry_run: bool,
    /// Rules to show, by code or the beginning of it [all but pedantic ones].
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    select: Option<Vec<String>>,
    /// Rules to leave out.
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    ignore: Option<Vec<String>>,
    /// Rules to show besides.
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    extend_select: Vec<String>,
    /// Show quieter ones too: at start-up, on command lines, in tests.
    #[arg(long)]
    pub all: bool,
    /// Show what cannot be told with precision too.
    #[arg(long)]
    pedantic: bool,
    /// Count findings by rule instead of printing them.
    #[arg(long)]
    pub statistics: bool,
    /// Leave out what is in this file.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Write what is found to the baseline.
    #[arg(long)]
    pub write_baseline: bool,
    /// Show only what changed since this git commit has brought.
    #[arg(long, value_name = "REF", conflicts_with = "write_baseline")]
    pub diff: Option<String>,
    /// Check again whenever a file changes.
    #[arg(long, conflicts_with_all = ["fix", "unsafe_fixes", "diff_fixes", "dry_run", "write_baseline", "output_file"])]
    pub watch: bool,
    /// Exit with 0 although something was found.
    #[arg(long)]
    pub exit_zero: bool,
    /// Print findings and nothing else.
    #[arg(long, short)]
    pub quiet: bool,
    /// When output is coloured.
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    pub color: Color,
    /// Print a rule's page.
    #[arg(long, value_name = "CODE")]
    explain: Option<String>,
}

/// Runs the command with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and the version are no errors; a closed pipe is nobody's concern.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILED } else { CLEAN });
        }
    };
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        // Whoever read the report has stopped: not our error.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            ExitCode::from(FOUND)
        }
        Err(error) => {
            let style = Style::choose(Color::Auto, &io::stderr());
            // The error itself is all that could be said.
            let _ = writeln!(io::stderr(), "{}: {error:#}", style.red("error"));
            ExitCode::from(FAILED)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    match cli.command {
        None if cli.check.explain.is_some() => explain(&cli.check.explain.unwrap_or_default()),
        None => check::run(&cli.check),
        Some(Command::Graph { function, format, input }) => check::graph(&function, format, &input),
        Some(Command::Rule { code }) => explain(&code),
        Some(Command::Rules { format }) => list(format),
        Some(Command::Clean { input }) => check::clean(&input),
    }
}

/// `3.12`
pub(crate) fn python_version(text: &str) -> Result<(u8, u8), String> {
    let parsed = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    parsed.filter(|(major, _)| *major == 3).ok_or_else(|| "a version is written like 3.12".to_owned())
}

/// What is said of every rule.
pub(crate) fn known_rules() -> Vec<&'static RuleMeta> {
    rules::all().iter().map(|rule| rule.meta()).collect()
}

fn explain(code: &str) -> anyhow::Result<u8> {
    let known = known_rules();
    let rule = known.iter().find(|rule| rule.code.eq_ignore_ascii_case(code) || rule.name.eq_ignore_ascii_case(code));
    let Some(rule) = rule else {
        anyhow::bail!("there is no rule `{code}`; `loopwright-check rules` lists them");
    };
    write!(io::stdout().lock(), "{}", rule.page)?;
    Ok(CLEAN)
}

fn list(format: ListFormat) -> anyhow::Result<u8> {
    let known = known_rules();
    let mut out = io::stdout().lock();
    if format == ListFormat::Json {
        let fix = |rule: &RuleMeta| rule.fix.map(|safety| if safety == Safety::Safe { "safe" } else { "unsafe" });
        let rules: Vec<_> = known
            .iter()
            .map(|rule| {
                json!({
                    "code": rule.code,
                    "name": rule.name,
                    "summary": rule.summary,
                    "pedantic": rule.pedantic,
                    "fix": fix(rule),
                })
            })
            .collect();
        serde_json::to_writer_pretty(&mut out, &rules)?;
        writeln!(out)?;
        return Ok(CLEAN);
    }
    let style = Style::choose(Color::Auto, &io::stdout());
    let width = known.iter().map(|rule| rule.name.len()).max().unwrap_or(0);
    for rule in known {
        let sign = if rule.fix.is_some() { "[*]" } else { "   " };
        let pedantic = if rule.pedantic { " (pedantic)" } else { "" };
        writeln!(out, "{} {sign} {:width$}  {}{pedantic}", style.red(rule.code), rule.name, rule.summary)?;
    }
    Ok(CLEAN)
}

impl Input {
    /// The paths that are there, and those that are not, absolute.
    pub(crate) fn existing(&self, directory: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let here = [PathBuf::from(".")];
        let paths = if self.paths.is_empty() { &here[..] } else { &self.paths };
        let (existing, missing): (Vec<_>, Vec<_>) =
            paths.iter().map(|path| absolute(path, directory)).partition(|path| path.exists());
        // The analysis names files as they are without links.
        (existing.iter().map(|path| std::fs::canonicalize(path).unwrap_or(path.clone())).collect(), missing)
    }

    /// The configuration that holds for these paths: of the first one.
    pub(crate) fn configuration(&self, directory: &Path, rules: &[&'static RuleMeta]) -> anyhow::Result<Config> {
        if let Some(file) = &self.config {
            let file = absolute(file, directory);
            return Ok(Config::read(&std::fs::canonicalize(&file).unwrap_or(file), rules)?);
        }
        let (existing, _) = self.existing(directory);
        Ok(Config::find(existing.first().map_or(directory, PathBuf::as_path), rules)?)
    }

    /// What the pipeline is told.
    pub(crate) fn options(&self, paths: Vec<PathBuf>, config: &Config, directory: &Path) -> Options {
        let here = |path: &PathBuf| absolute(path, directory);
        let or = |own: &[PathBuf], configured: &[PathBuf]| {
            if own.is_empty() { configured.to_vec() } else { own.iter().map(here).collect() }
        };
        Options {
            paths,
            project: config.project.clone(),
            roots: or(&self.root, &config.roots),
            exclude: config.exclude.clone(),
            python: self.python.as_ref().map(here).or_else(|| config.python.clone()),
            site_packages: or(&self.site_packages, &config.site_packages),
            python_version: self.python_version.or(config.python_version),
            table: config.table.clone(),
            cache: (!self.no_cache).then(|| self.cache(config, directory)),
            threads: self.threads,
        }
    }

    /// The folder of the cache.
    pub(crate) fn cache(&self, config: &Config, directory: &Path) -> PathBuf {
        match (&self.cache_dir, &config.cache_dir) {
            (Some(folder), _) => absolute(folder, directory),
            (None, Some(folder)) => folder.clone(),
            (None, None) => config.project.join(".loopwright_cache"),
        }
    }
}

/// What is done with fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fixing {
    /// They are offered.
    Offer,
    /// They are printed as a diff.
    Print,
    /// They are applied.
    Apply,
}

impl Check {
    /// What is done with fixes.
    pub(crate) fn fixing(&self) -> Fixing {
        match (self.fix || self.unsafe_fixes, self.diff_fixes || self.dry_run) {
            (_, true) => Fixing::Print,
            (true, false) => Fixing::Apply,
            (false, false) => Fixing::Offer,
        }
    }

    /// Which rules are on: what the command line says instead of what the configuration says.
    pub(crate) fn selection(
        &self,
        config: &Config,
        rules: &[&'static RuleMeta],
    ) -> anyhow::Result<crate::selection::Selection> {
        use crate::selection::{Selection, Selector};
        let parse = |codes: &[String]| Selector::parse_all(codes.iter().map(String::as_str), rules);
        let mut extend = config.extend_select.clone();
        extend.extend(parse(&self.extend_select)?);
        Ok(Selection {
            select: match &self.select {
                Some(codes) => Some(parse(codes)?),
                None => config.select.clone(),
            },
            extend,
            ignore: match &self.ignore {
                Some(codes) => parse(codes)?,
                None => config.ignore.clone(),
            },
            pedantic: self.pedantic || config.pedantic,
        })
    }

    /// The baseline file.
    pub(crate) fn baseline(&self, config: &Config, directory: &Path) -> Option<PathBuf> {
        self.baseline.as_ref().map(|file| absolute(file, directory)).or_else(|| config.baseline.clone())
    }
}
